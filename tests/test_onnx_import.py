"""Reading ONNX files: what comes out, and the wording of what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from mcompiler.errors import ModelError
from mcompiler.onnx_import import EXTERNAL_KEY, TYPE_KEY, convert_opset, load_model
from tests.support.models import SHARED_MODELS, imported, largest_error, parsed, proto, run

RELU = '<ir_version: 8, opset_import: ["" : 13]> g (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }'


def saved(tmp_path: Path, model: onnx.ModelProto, name: str = "model.onnx") -> Path:
    path = tmp_path / name
    onnx.save(model, path)
    return path


def message(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(path)
    text = str(caught.value)
    assert "\n" not in text
    return text


def big_model(columns: int = 2048) -> onnx.ModelProto:
    """One MatMul with a weight that is large enough to be mapped."""
    weights = np.random.default_rng(0).standard_normal((4, columns)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", columns])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def test_missing_or_double_names_become_operator_and_index() -> None:
    model = parsed(
        '<ir_version: 8, opset_import: ["" : 13]> g (float[N, 4] x) => (float[N, 4] y)'
        "{ [a] p = Relu(x) \n [a] q = Sigmoid(p) \n r = Tanh(q) \n [Neg_4] s = Abs(r) \n y = Neg(s) }"
    )
    program = imported(model)
    assert [(node.name, node.op) for node in program.nodes] == [
        ("a", "Relu"),
        ("Sigmoid_1", "Sigmoid"),
        ("Tanh_2", "Tanh"),
        ("Neg_4", "Abs"),
        ("Neg_4_", "Neg"),
    ]
    assert [node.name for node in program.model.graph] == [node.name for node in program.nodes]


def test_initializers_are_no_inputs() -> None:
    model = big_model()
    model.ir_version = 3
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 2048]))
    program = imported(model)
    assert [value.name for value in program.model.graph.inputs] == ["x"]
    x = np.ones((2, 4), np.float32)
    assert largest_error(run(model, {"x": x}), run(proto(program), {"x": x})) == 0


def test_large_tensors_are_mapped_and_equal(tmp_path: Path) -> None:
    model = big_model()
    program = load_model(saved(tmp_path, model))
    tensor = program.model.graph.initializers["w"].const_value
    assert tensor is not None
    array = tensor.numpy()
    assert not array.flags.writeable
    np.testing.assert_array_equal(array, numpy_helper.to_array(model.graph.initializer[0]))
    assert proto(program).graph.initializer[0].raw_data == model.graph.initializer[0].raw_data


@pytest.mark.parametrize("dtype", [TensorProto.INT4, TensorProto.UINT4, TensorProto.BFLOAT16, TensorProto.FLOAT16])
def test_mapped_tensors_of_every_width(tmp_path: Path, dtype: int) -> None:
    values = np.random.default_rng(0).integers(0, 7, (64, 257))
    tensor = helper.make_tensor("w", dtype, values.shape, values.reshape(-1).tolist())
    raw = numpy_helper.from_array(numpy_helper.to_array(tensor), "w")
    model = parsed(RELU)
    model.graph.initializer.append(raw)
    model.graph.initializer[0].data_type = dtype
    found = load_model(saved(tmp_path, model)).model.graph.initializers["w"].const_value
    assert found is not None
    assert found.dtype == ir.DataType(dtype)
    np.testing.assert_array_equal(found.numpy().astype(np.int64), values)


def test_external_data_may_be_hard_linked(tmp_path: Path) -> None:
    weights = numpy_helper.to_array(big_model().graph.initializer[0])
    path = tmp_path / "model.onnx"
    onnx.save(big_model(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    os.link(tmp_path / "weights.bin", tmp_path / "copy.bin")
    tensor = load_model(path).model.graph.initializers["w"].const_value
    assert tensor is not None
    np.testing.assert_array_equal(tensor.numpy(), weights)


def test_external_files_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(big_model(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert load_model(path).model.meta[EXTERNAL_KEY] == ("weights.bin",)
    assert load_model(saved(tmp_path, big_model(), "whole.onnx")).model.meta[EXTERNAL_KEY] == ()


def test_missing_external_data_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(big_model(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").unlink()
    assert message(path) == (
        f"'{path}': the external data file 'weights.bin' (tensor 'w' and maybe others) is missing; "
        "put it beside the model"
    )


def test_short_external_data_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(big_model(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    os.truncate(tmp_path / "weights.bin", 100)
    assert "external data file 'weights.bin' is truncated or damaged: tensor 'w' needs 32768 bytes" in message(path)


def test_external_data_elsewhere_are_refused(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    path = tmp_path / "inner" / "model.onnx"
    onnx.save(big_model(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].external_data[0].value = "../weights.bin"
    path.write_bytes(model.SerializeToString())
    assert "outside the model's folder" in message(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    assert message(tmp_path / "no.onnx") == (f"'{tmp_path / 'no.onnx'}' does not exist; give the path of a .onnx file")
    assert message(tmp_path) == f"'{tmp_path}' is a directory; give a .onnx file"


@pytest.mark.parametrize("content", [b"", b"hello, this is text", b"\x00" * 64, b"\x08\x07", bytes(range(256)) * 40])
def test_what_is_no_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.onnx"
    path.write_bytes(content)
    assert message(path).startswith(f"'{path}' is ")


def test_truncated_model(tmp_path: Path) -> None:
    path = saved(tmp_path, big_model())
    path.write_bytes(path.read_bytes()[:-20000])
    assert message(path).startswith(f"'{path}' is not an ONNX model (or a damaged one)")


def test_a_value_that_nothing_produces(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = parsed(RELU)
    model.graph.node[0].input[0] = "lost"
    path = saved(tmp_path, model)
    assert message(path) == (
        f"'{path}' is a damaged ONNX model: node 'Relu_0' reads 'lost', which nothing produces; export it again"
    )
    assert capfd.readouterr() == ("", "")


def test_no_operator_set(tmp_path: Path) -> None:
    model = parsed(RELU)
    del model.opset_import[:]
    assert "imports no operator set (opset_import is empty)" in message(saved(tmp_path, model))


def test_foreign_and_unknown_operators_are_listed_together(tmp_path: Path) -> None:
    model = parsed(
        '<ir_version: 8, opset_import: ["" : 13, "onnx.brevitas" : 1]> g (float[N, 4] x) => (float[N, 4] y)'
        "{ [q] a = onnx.brevitas.Quant(x) \n [f] b = Frobnicate(a) \n y = Relu(b) }"
    )
    text = message(saved(tmp_path, model))
    assert "2 of its nodes are refused: q (Quant): operator of the foreign domain 'onnx.brevitas'" in text
    assert "f (Frobnicate): no operator of ONNX" in text


@pytest.mark.parametrize(
    ("opset", "body", "reason"),
    [
        (14, "y, m, v = BatchNormalization <training_mode: int = 1> (x, s, s, s, s)", "training mode"),
        (9, "y, m, v, a, b = BatchNormalization (x, s, s, s, s)", "training mode"),
        (13, "y = Dropout (x, r, t)", "training mode"),
        (13, "z = RandomNormalLike (x) \n y = Add (x, z)", "random generator, its output is not a function of the"),
        (15, "y = Bernoulli (x)", "random generator"),
    ],
)
def test_training_and_random_nodes_are_refused(tmp_path: Path, opset: int, body: str, reason: str) -> None:
    model = parsed(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[N, 4] x) => (float[N, 4] y)'
        f"<float[4] s = {{1, 1, 1, 1}}, float r = {{0.5}}, bool t = {{1}}> {{ {body} }}"
    )
    assert reason in message(saved(tmp_path, model))


def test_refused_nodes_inside_control_flow(tmp_path: Path) -> None:
    model = parsed(
        '<ir_version: 8, opset_import: ["" : 13]> g (bool c, float[N, 4] x) => (float[N, 4] y)'
        "{ y = If (c) <then_branch = t () => (float[N, 4] p) { p = RandomNormalLike (x) },"
        " else_branch = e () => (float[N, 4] q) { q = Identity (x) }> }"
    )
    assert "RandomNormalLike" in message(saved(tmp_path, model))


def test_map_outputs_survive(tmp_path: Path) -> None:
    model = parsed(
        '<ir_version: 8, opset_import: ["" : 13, "ai.onnx.ml" : 1]> g (float[N, 2] x) => (float[N, 2] y)'
        "{ y = ai.onnx.ml.ZipMap <classlabels_int64s = [0, 1]> (x) }"
    )
    kind = helper.make_sequence_type_proto(
        helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    )
    model.graph.output[0].type.CopyFrom(kind)
    program = load_model(saved(tmp_path, model))
    output = program.model.graph.outputs[0]
    assert output.meta[TYPE_KEY] == kind.SerializeToString(deterministic=True)
    assert run(proto(program), {"x": np.ones((1, 2), np.float32)}) == [[{0: 1.0, 1: 1.0}]]


OLD_BODIES = {
    "softmax": (7, "y = Softmax <axis = 1> (x)"),
    "clip": (7, "y = Clip <min = -0.5, max = 0.5> (x)"),
    "slice": (7, "y = Slice <axes = [1], starts = [1], ends = [3]> (x)"),
    "pad": (8, 'y = Pad <mode = "constant", pads = [0, 0, 1, 1, 0, 0, 2, 2]> (x)'),
    "dropout": (7, "y = Dropout <ratio = 0.5> (x)"),
    "reduce": (9, "y = ReduceSum <axes = [2, 3], keepdims = 0> (x)"),
    "unsqueeze": (11, "h = Unsqueeze <axes = [0]> (x) \n y = Squeeze <axes = [0]> (h)"),
    "split": (11, "h, q = Split <axis = 1, split = [1, 3]> (x) \n y = Concat <axis = 1> (q, h)"),
    "pool": (8, "y = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)"),
    "average": (7, "y = AveragePool <kernel_shape = [2, 2], pads = [1, 1, 0, 0]> (x)"),
    "flatten": (8, "h = Flatten (x) \n y = LogSoftmax (h)"),
    "upsample": (9, "y = Upsample (x, s)"),
    "upsample attribute": (7, "y = Upsample <scales = [1.0, 1.0, 2.0, 2.0]> (x)"),
    "resize": (10, "y = Resize (x, s)"),
    "batchnorm": (8, "y = BatchNormalization (x, v, v, v, v)"),
    "prelu": (7, "y = PRelu (x, p)"),
    "topk": (9, "y, j = TopK <axis = 1, k = 2> (x)"),
    "gather": (10, "y = Gather <axis = 1> (x, i)"),
    "mean": (7, "y = Mean (x, x)"),
    "transposed": (7, "y = ConvTranspose <strides = [2, 2]> (x, w)"),
}


@pytest.mark.parametrize("case", OLD_BODIES)
def test_conversion_keeps_results_and_names(case: str) -> None:
    opset, body = OLD_BODIES[case]
    lines = "\n".join(f"[node_{i}] {line.strip()}" for i, line in enumerate(body.split("\n")))
    model = parsed(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[2, 4, 4, 6] x) => (float[a, b, c, d] y)'
        "<float[4] s = {1, 1, 2, 2}, float[4] v = {1, 2, 3, 4}, float[4, 1, 1] p = {0.1, 0.2, 0.3, 0.4},"
        " int64[3] i = {2, 0, 1}, float[4, 1, 2, 2] w = {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7}>"
        f"{{ {lines} }}"
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    program = imported(model)
    converted = convert_opset(program.model, 13)
    assert converted is not None
    assert converted.opset_imports[""] == 13
    names = [node.name for node in converted.graph]
    assert len(set(names)) == len(names)
    assert all(names)
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 4, 4, 6)).astype(np.float32)}
    assert largest_error(run(model, feeds), run(ir.to_proto(converted), feeds)) < 1e-6


def test_conversion_leaves_large_tensors_alone() -> None:
    model = big_model()
    model.opset_import[0].version = 9
    program = imported(model)
    converted = convert_opset(program.model, 13)
    assert converted is not None
    assert converted.graph.initializers["w"].const_value is program.model.graph.initializers["w"].const_value


def test_conversion_of_control_flow_is_declined() -> None:
    model = parsed(
        '<ir_version: 8, opset_import: ["" : 11]> g (bool c, float[N, 4] x) => (float[N, 4] y)'
        "{ y = If (c) <then_branch = t () => (float[N, 4] p) { p = Softmax (x) },"
        " else_branch = e () => (float[N, 4] q) { q = Identity (x) }> }"
    )
    assert convert_opset(imported(model).model, 13) is None


BROKEN = {
    "winml__Assets_mnist.hc97567.onnx": "imports no operator set",
    "silero-vad__silero_vad_op18_ifless.h21c3be.onnx": "external data file 'temp_16.onnx.data'",
    "qonnx_zoo__TFC_1W1A.onnx": "foreign domain 'onnx.brevitas'",
    "qonnx__subpixel_quant_model.onnx": "foreign domain 'onnx.brevitas'",
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_models_of_the_wild(name: str) -> None:
    if not SHARED_MODELS.is_dir():
        pytest.skip("the collection of models is not beside this checkout")
    assert BROKEN[name] in message(SHARED_MODELS / name)
