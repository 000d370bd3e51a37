"""Models as users bring them: whatever onnxruntime runs is compiled and proved, or refused in words that help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import mcompiler
from mcompiler.driver import Build
from mcompiler.errors import CompileError, ModelError, UserError
from tests.support.builds import run_plain

Array = npt.NDArray[Any]

RNG = np.random.default_rng(5)
W: Array = RNG.standard_normal((6, 4)).astype(np.float32)
KERNEL: Array = RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)
X = {"x": np.ones((2, 6), np.float32)}


def info(name: str, shape: Sequence[int | str | None] | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def proto(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Mapping[str, Any] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    tensors = [
        value if isinstance(value, onnx.TensorProto) else numpy_helper.from_array(np.asarray(value), name)
        for name, value in (constants or {}).items()
    ]
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), tensors)
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def node(op: str, inputs: str, outputs: str, name: str | None = None, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(
        op, inputs.split(), outputs.split(), name=op.lower() if name is None else name, **attributes
    )


def product(**changes: Any) -> onnx.ModelProto:
    """y = x @ w."""
    given = {"nodes": [node("MatMul", "x w", "y")], "inputs": [info("x", ["N", 6])], "outputs": [info("y", None)]}
    return proto(**{**given, "constants": {"w": W}, **changes})


def compiled(model: onnx.ModelProto, folder: Path, calibration: Any = "random", said: list[str] | None = None) -> Build:
    """Compile a file as the command line does."""
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return mcompiler.compile(
        path, "generic_128", calibration=calibration, say=(said if said is not None else []).append
    )


def proved(model: onnx.ModelProto, folder: Path, layers: int, feeds: Mapping[str, Array] | None = None) -> Build:
    """Compile, save, load and verify a model; its emitted models agree in plain onnxruntime."""
    build = compiled(model, folder)
    assert len(build.layers) == layers
    loaded = mcompiler.load(build.save(folder / "build"))
    result = loaded.verify(limit=4)
    assert result.exact
    assert result.same_as_shipped
    if feeds is not None:
        mapped, reference = run_plain(loaded.mapped, feeds), run_plain(loaded.reference, feeds)
        for name, value in run_plain(model, feeds).items():
            np.testing.assert_array_equal(mapped[name], reference[name])
            if isinstance(value, np.ndarray):
                assert (mapped[name].dtype, mapped[name].shape) == (value.dtype, value.shape)
    return loaded


def refusal(model: onnx.ModelProto, folder: Path, kind: type[UserError], calibration: Any = "random") -> str:
    with pytest.raises(kind) as caught:
        compiled(model, folder, calibration)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- graphs -----------------------------------------------------------------------------------------------------------


def test_nodes_may_stand_in_any_order(tmp_path: Path) -> None:
    nodes = [node("Relu", "a", "y"), node("MatMul", "x w", "a")]
    proved(product(nodes=nodes), tmp_path, 1, X)


def test_a_cycle_is_refused(tmp_path: Path) -> None:
    nodes = [node("Add", "x b", "a"), node("Relu", "a", "b")]
    assert "its nodes form a cycle" in refusal(
        proto(nodes, [info("x", [1, 4])], [info("b", None)]), tmp_path, ModelError
    )


def test_a_graph_without_nodes(tmp_path: Path) -> None:
    proved(proto([], [info("x", ["N", 6])], [info("x", ["N", 6])]), tmp_path, 0)


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    data = product(nodes=[node("Reluuu", "x", "y")]).SerializeToString().replace(b"Reluuu", b"Rel\xff\xfe\xfd")
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(ModelError, match="a name in it is no UTF-8 text"):
        mcompiler.compile(tmp_path / "m.onnx", "generic_128")


def test_a_sequence_as_output(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x w", "a"), node("SequenceConstruct", "a x", "y")]
    outputs = [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)]
    proved(product(nodes=nodes, outputs=outputs), tmp_path, 1)


def test_an_output_without_elements(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x w", "a"), node("Slice", "a from to axes", "y")]
    constants = {"w": W, "from": np.array([0]), "to": np.array([0]), "axes": np.array([0])}
    proved(product(nodes=nodes, constants=constants), tmp_path, 1, X)


@pytest.mark.parametrize("shape", [[0, 6], ["N", 0, 6]])
def test_inputs_without_elements(shape: list[int | str], tmp_path: Path) -> None:
    proved(product(inputs=[info("x", shape)]), tmp_path, 1)


# --- tensors ----------------------------------------------------------------------------------------------------------


def sparse(name: str, *, flat: bool) -> onnx.SparseTensorProto:
    places = [1, 7, 20] if flat else [0, 1, 1, 3, 5, 0]
    indices = helper.make_tensor("", TensorProto.INT64, [3] if flat else [3, 2], places)
    return helper.make_sparse_tensor(helper.make_tensor(name, TensorProto.FLOAT, [3], [1.0, 2.0, 3.0]), indices, [6, 4])


@pytest.mark.parametrize("flat", [True, False])
def test_sparse_weights(flat: bool, tmp_path: Path) -> None:
    expected = np.zeros((6, 4))
    expected[[0, 1, 5], [1, 3, 0]] = [1, 2, 3]
    model = product(constants={})
    model.graph.sparse_initializer.append(sparse("w", flat=flat))
    build = compiled(model, tmp_path)
    layer = build.layer_data[0].op
    np.testing.assert_allclose(layer.matrix.codes[0] * layer.matrix.scale[0], expected, atol=1e-6)
    constant = node("Constant", "", "w", sparse_value=sparse("", flat=flat))
    proved(product(nodes=[constant, node("MatMul", "x w", "y")], constants={}), tmp_path, 1, X)


def test_a_damaged_sparse_tensor_is_refused(tmp_path: Path) -> None:
    broken = sparse("w", flat=True)
    broken.dims[0] = 1
    model = product(constants={})
    model.graph.sparse_initializer.append(broken)
    assert "a sparse tensor" in refusal(model, tmp_path, ModelError)


@pytest.mark.parametrize(("codes", "kind"), [([-8, 7], TensorProto.INT4), ([-300, 300], TensorProto.INT16)])
def test_onnxruntime_s_own_quantise_operators(codes: list[int], kind: int, tmp_path: Path) -> None:
    """Before operator set 21, 4 and 16 bits exist in the domain com.microsoft only."""
    foreign = {"domain": "com.microsoft"}
    nodes = [
        node("QuantizeLinear", "x sx zx", "qx", **foreign),
        node("DequantizeLinear", "qx sx zx", "dx", "dqx", **foreign),
        node("DequantizeLinear", "qw sw", "dw", "dqw", **foreign),
        node("MatMul", "dx dw", "y"),
    ]
    values = np.random.default_rng(0).integers(codes[0], codes[1] + 1, 24)
    values[0] = codes[0]
    weights = helper.make_tensor("qw", kind, [6, 4], values.tolist())
    constants = {"qw": weights, "sw": np.float32(0.1), "sx": np.float32(0.01), "zx": np.int16(0)}
    model = product(nodes=nodes, constants=constants)
    if kind == TensorProto.INT16:
        with pytest.raises(CompileError, match="raise encoding"):
            compiled(model, tmp_path, None)
        return
    layer = compiled(model, tmp_path, None).layer_data[0].op
    np.testing.assert_array_equal(layer.matrix.codes[0], values.reshape(6, 4))
    assert layer.site.input.bits == 16
    proved(model, tmp_path, 1, X)


def test_values_in_bfloat16_between_casts(tmp_path: Path) -> None:
    nodes = [
        node("Cast", "x", "b", "narrow", to=TensorProto.BFLOAT16),
        node("Cast", "b", "c", "wide", to=TensorProto.FLOAT),
        node("MatMul", "c w", "y"),
    ]
    proved(product(nodes=nodes), tmp_path, 1, X)


# --- numbers ----------------------------------------------------------------------------------------------------------


def rooted() -> onnx.ModelProto:
    """NaN wherever x is negative."""
    return product(nodes=[node("Sqrt", "x", "r"), node("MatMul", "r w", "y")])


def test_nan_on_random_data_is_left_out_of_the_range(tmp_path: Path) -> None:
    build = proved(rooted(), tmp_path, 1, X)
    assert 0 < build.layer_data[0].op.site.input.scale < 0.02


def test_nan_on_the_user_s_data_is_refused(tmp_path: Path) -> None:
    x = np.ones((3, 6), np.float32)
    x[1, 2] = -1.0  # its root is none
    message = refusal(rooted(), tmp_path, CompileError, {"x": x})
    assert "node 'matmul': its input 'r' is not finite on the calibration data" in message
    assert "check the data's preprocessing" in message


def test_numbers_beyond_float32_are_refused(tmp_path: Path) -> None:
    double = {"inputs": [info("x", ["N", 6], TensorProto.DOUBLE)], "outputs": [info("y", None, TensorProto.DOUBLE)]}
    message = refusal(product(constants={"w": W.astype(np.float64) * 1e100}, **double), tmp_path, CompileError)
    assert "its weights reach from" in message
    assert "beyond the range of float32" in message
    nodes = [node("Mul", "x s", "xs"), node("MatMul", "xs w", "y")]
    constants = {"w": W.astype(np.float64), "s": np.float64(1e200)}
    message = refusal(product(nodes=nodes, constants=constants, **double), tmp_path, CompileError)
    assert "its input 'xs' reaches from" in message
    assert "scale the model's inputs or weights down" in message


@pytest.mark.parametrize("scale", [1e-42, 1e-37, 1e-30, 1e30, 1e37])
def test_weights_and_inputs_at_the_ends_of_float32(scale: float, tmp_path: Path) -> None:
    nodes = [node("Mul", "x s", "xs"), node("MatMul", "xs w", "y")]
    proved(product(nodes=nodes, constants={"w": (W * np.float32(scale)), "s": np.float32(scale)}), tmp_path, 1, X)


@pytest.mark.parametrize(
    ("op", "attributes"), [("HardSwish", {}), ("LeakyRelu", {"alpha": 0.2}), ("Elu", {}), ("Softplus", {})]
)
def test_half_precision_beside_operators_defined_by_others(op: str, attributes: dict[str, Any], tmp_path: Path) -> None:
    """onnxruntime writes them out and drops roundings as the rest of the graph allows."""
    nodes = [node("MatMul", "x w", "a"), node(op, "a", "b", **attributes), node("ConvTranspose", "c k", "d")]
    nodes.insert(2, node("Reshape", "b shape", "c"))
    nodes.append(node(op, "d", "y", "last", **attributes))
    half = {"inputs": [info("x", ["N", 6], TensorProto.FLOAT16)], "outputs": [info("y", None, TensorProto.FLOAT16)]}
    constants = {"w": W.astype(np.float16), "k": KERNEL.astype(np.float16), "shape": np.array([-1, 4, 1, 1])}
    feeds = {"x": np.random.default_rng(0).standard_normal((64, 6)).astype(np.float16)}
    proved(product(nodes=nodes, constants=constants, **half), tmp_path, 1, feeds)


# --- dimensions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [True, False])
def test_open_channels_follow_from_the_weights(named: bool, tmp_path: Path) -> None:
    shape = ["n", "c", "h", "w"] if named else [None, "", None, None]
    nodes = [node("Sub", "x mean", "s"), node("Conv", "s k", "y")]
    said: list[str] = []
    mean = np.zeros((1, 3, 1, 1), np.float32)
    model = product(nodes=nodes, inputs=[info("x", shape)], constants={"k": KERNEL, "mean": mean})
    build = compiled(model, tmp_path, said=said)
    names = ["c", "h", "w"] if named else ["x.1", "x.2", "x.3"]
    assert build.options.dims == dict(zip(names, [3, 16, 16], strict=True))
    assert said == [f"guessed {names[0]}=3, {names[1]}=16, {names[2]}=16; give --dim {names[2]}=N for another size"]


@pytest.mark.parametrize(
    ("nodes", "shape", "size"),
    [
        ([node("MatMul", "x w", "y")], ["a", "b", "c", "d"], 6),
        ([node("Relu", "x", "r"), node("Gemm", "r w", "y")], ["n", "d"], 6),
        ([node("MatMul", "w x", "y")], ["n", "d", "e"], 4),
        ([node("Transpose", "x", "t", perm=[0, 2, 1]), node("MatMul", "t w", "y")], ["n", "d", "e"], 6),
    ],
)
def test_open_features_follow_from_the_weights(
    nodes: list[onnx.NodeProto], shape: list[str], size: int, tmp_path: Path
) -> None:
    build = proved(product(nodes=nodes, inputs=[info("x", shape)]), tmp_path, 1)
    assert build.options.dims["d"] == size


def test_a_dimension_named_as_an_expression(tmp_path: Path) -> None:
    """A decoder with past: the mask is as long as past and present together."""
    inputs = [info("x", ["n", "now", 6]), info("past", ["n", "before", 6]), info("mask", ["n", "before + now", 1])]
    nodes = [node("Concat", "past x", "all", axis=1), node("Mul", "all mask", "m"), node("MatMul", "m w", "y")]
    build = proved(product(nodes=nodes, inputs=inputs), tmp_path, 1)
    assert build.options.dims == {"now": 1, "before": 1, "before + now": 2}


def test_a_dimension_named_total(tmp_path: Path) -> None:
    inputs = [info("x", ["n", "now", 6]), info("past", ["n", "before", 6]), info("mask", ["n", "total_length", 2])]
    nodes = [node("Concat", "past x", "all", axis=1), node("Concat", "all mask", "m", "join", axis=2)]
    nodes.append(node("MatMul", "m v", "y"))
    constants = {"v": RNG.standard_normal((8, 4)).astype(np.float32)}
    build = compiled(proto(nodes, inputs, [info("y", None)], constants), tmp_path)
    assert build.options.dims == {"now": 1, "before": 1, "total_length": 2}


def test_a_size_that_no_guess_meets(tmp_path: Path) -> None:
    nodes = [node("Reshape", "x shape", "r"), node("MatMul", "r w", "y")]
    model = product(
        nodes=nodes, inputs=[info("x", ["n", "s", 2])], constants={"w": W, "shape": np.array([-1, 3, 5, 6])}
    )
    message = refusal(model, tmp_path, CompileError)
    assert "no size is known for dimension(s) s" in message
    assert "give --dim s=N" in message


def test_an_input_without_any_shape_is_refused(tmp_path: Path) -> None:
    message = refusal(product(inputs=[info("x", None)]), tmp_path, ModelError)
    assert message.startswith("input 'x' states no shape")


def test_inputs_of_strings_are_drawn(tmp_path: Path) -> None:
    nodes = [node("Cast", "s", "f", to=TensorProto.FLOAT), node("MatMul", "f w", "y")]
    proved(product(nodes=nodes, inputs=[info("s", ["N", 6], TensorProto.STRING)]), tmp_path, 1)


# --- names ------------------------------------------------------------------------------------------------------------


def test_names_that_the_emitted_models_use_are_given_way(tmp_path: Path) -> None:
    nodes = [
        node("MatMul", "x w", "mm/accumulator", "mm"),
        node("Mul", "mm/accumulator mm/c1", "mm/codes", "scale"),
        node("Add", "mm/codes mm/reference/c1", "y", "shift"),
    ]
    constants = {"w": W, "mm/c1": np.float32(2), "mm/reference/c1": np.float32(3)}
    proved(product(nodes=nodes, constants=constants), tmp_path, 1, X)


def test_an_output_of_such_a_name_is_refused(tmp_path: Path) -> None:
    model = product(nodes=[node("MatMul", "x w", "mm/codes", "mm")], outputs=[info("mm/codes", None)])
    assert "'mm/codes' bears a name that the emitted models use" in refusal(model, tmp_path, CompileError)


def test_our_own_models_are_models(tmp_path: Path) -> None:
    build = compiled(product(nodes=[node("MatMul", "x w", "a", "mm"), node("Relu", "a", "y")]), tmp_path)
    for index, emitted in enumerate((build.reference, build.mapped)):
        again = mcompiler.compile(emitted, "generic_128", calibration="random")
        loaded = mcompiler.load(again.save(tmp_path / str(index)))
        assert loaded.verify(limit=4).exact


# --- what onnxruntime makes of models ---------------------------------------------------------------------------------


def test_weights_laid_out_for_a_processor_are_refused(tmp_path: Path) -> None:
    nodes = [node("Conv", "x k", "y", domain="com.microsoft.nchwc")]
    model = product(nodes=nodes, constants={"k": KERNEL}, inputs=[info("x", ["N", 3, 8, 8])])
    assert "ORT_ENABLE_EXTENDED" in refusal(model, tmp_path, ModelError)


def test_a_normalisation_that_onnxruntime_keeps_in_the_domain_of_onnx(tmp_path: Path) -> None:
    nodes = [node("SimplifiedLayerNormalization", "x g", "n", axis=-1), node("MatMul", "n w", "y")]
    proved(product(nodes=nodes, constants={"w": W, "g": np.ones(6, np.float32)}), tmp_path, 1, X)


def test_shapes_behind_onnxruntime_s_own_operators(tmp_path: Path) -> None:
    nodes = [node("FusedMatMul", "x x", "a", transA=1, domain="com.microsoft"), node("MatMul", "a w", "y")]
    proved(product(nodes=nodes), tmp_path, 1, X)


@pytest.mark.parametrize("activation", ["Elu", "Softplus", "Relu"])
def test_fused_activations(activation: str, tmp_path: Path) -> None:
    attributes: dict[str, Any] = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
    attributes |= {"activation_alpha": 1.0} if activation == "Elu" else {}
    nodes = [node("FusedGemm", "x w", "y", domain="com.microsoft", activation=activation, **attributes)]
    proved(product(nodes=nodes), tmp_path, 1, X)


def test_constants_that_the_evaluator_resizes_otherwise_stay(tmp_path: Path) -> None:
    """The reference evaluator and onnxruntime differ here by 0.86."""
    image = np.arange(1, 9, dtype=np.float32).reshape(1, 1, 2, 4)
    attributes = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
    nodes = [node("Resize", "i roi scales", "r", **attributes), node("Mul", "x r", "y")]
    constants = {"i": image, "roi": np.zeros(0, np.float32), "scales": np.array([1, 1, 0.6, 0.6], np.float32)}
    model = product(nodes=nodes, constants=constants, inputs=[info("x", ["N", 1, 1, 1])])
    feeds = {"x": np.ones((1, 1, 1, 1), np.float32)}
    build = proved(model, tmp_path, 0, feeds)
    np.testing.assert_array_equal(run_plain(build.mapped, feeds)["y"], run_plain(model, feeds)["y"])
