"""onnxruntime: what a model wants is read off it, large weights are shared, faults are one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from mcompiler.data import InputSpec
from mcompiler.errors import ModelError
from mcompiler.runtime import EXTERNAL_BYTES, RunError, input_specs, open_file, open_model
from tests.support.models import parsed

SMALL = """
<ir_version: 10, opset_import: ["": 20]>
small (float[N, 3] x, int64[N] i, bool flag, float[2, T] t) => (float[N, 3] y, int64[N] j) {
    h = Relu(x)
    y = Sigmoid(h)
    j = Abs(i)
    unused = Not(flag)
    also = Neg(t)
}
"""


def small() -> ir.Model:
    """A model of a few element-wise operations."""
    return ir.from_proto(parsed(SMALL))


FEEDS = {
    "x": np.array([[-1, 0, 2]], np.float32),
    "i": np.array([-3]),
    "flag": np.array(True),
    "t": np.ones((2, 5), np.float32),
}


def product(size: int, dtype: Any = np.float32) -> tuple[onnx.ModelProto, Any]:
    """x @ w with size x size weights."""
    weights = np.random.default_rng(0).standard_normal((size, size)).astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(weights.dtype)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", kind, [1, size])],
        [helper.make_tensor_value_info("y", kind, [1, size])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), weights


# --- inputs and outputs ----------------------------------------------------------------------------------------------


def test_what_a_model_wants(tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    onnx.save(parsed(SMALL), path)
    wanted = (
        InputSpec("x", np.dtype(np.float32), ("N", 3)),
        InputSpec("i", np.dtype(np.int64), ("N",)),
        InputSpec("flag", np.dtype(np.bool_), ()),
        InputSpec("t", np.dtype(np.float32), (2, "T")),
    )
    for session in (open_model(small()), open_file(path), open_file(path, optimise=False, prepack=False)):
        assert session.inputs == wanted
        assert session.outputs == ("y", "j")


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("float16", np.float16),
        ("double", np.float64),
        ("int8", np.int8),
        ("uint8", np.uint8),
        ("int16", np.int16),
        ("uint16", np.uint16),
        ("int32", np.int32),
        ("uint32", np.uint32),
        ("uint64", np.uint64),
        ("string", object),
    ],
)
def test_types_of_inputs(kind: str, dtype: Any) -> None:
    text = f"""<ir_version: 10, opset_import: ["": 20]> g ({kind}[2] x) => ({kind}[2] y) {{ y = Identity(x) }}"""
    session = open_model(ir.from_proto(parsed(text)))
    assert session.inputs == (InputSpec("x", np.dtype(dtype), (2,)),)
    x = np.array(["a", "b"], object) if dtype is object else np.array([0, 1], dtype)
    assert session.run({"x": x})["y"].tolist() == x.tolist()


def test_inputs_that_are_no_tensors() -> None:
    text = """<ir_version: 10, opset_import: ["": 20]> g (seq(float[2]) s) => (int64 n) { n = SequenceLength(s) }"""
    with pytest.raises(ModelError, match=r"^input 's' is a seq\(tensor\(float\)\); only tensor inputs are supported$"):
        open_model(ir.from_proto(parsed(text)))


def test_dimensions_without_a_name_are_called_by_their_place() -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3, None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    assert open_model(ir.from_proto(proto)).inputs[0].shape == ("x.0", 3, "x.2")


def test_integers_are_bounded_by_what_they_index() -> None:
    text = """
    <ir_version: 10, opset_import: ["": 20]>
    g (int64[N] word, int64[N] kind, int64[N] other) => (float[N, 2] y, int64[N, D] o, int64[N] s)
    <float[3, 2] table = {1, 2, 3, 4, 5, 6}, int64 depth = {7}, int64[2] values = {0, 1}> {
        y = Gather(table, word)
        o = OneHot(kind, depth, values)
        s = Abs(other)
    }"""
    model = ir.from_proto(parsed(text))
    assert [spec.bound for spec in input_specs(open_model(model), model)] == [3, 7, 2]


# --- running ---------------------------------------------------------------------------------------------------------


def test_run() -> None:
    session = open_model(small())
    values = session.run(FEEDS)
    assert list(values) == ["y", "j"]
    assert values["y"] == pytest.approx(1 / (1 + np.exp(-np.array([[0, 0, 2]]))), rel=1e-6)
    assert values["j"].tolist() == [3]
    assert list(session.run(FEEDS, ["j"])) == ["j"]
    assert session.run(FEEDS, []) == {}
    scalar: Any = np.array([True])[0]  # as one sample of a scalar input is
    assert session.run({**FEEDS, "flag": scalar}, ["j"])["j"].tolist() == [3]


@pytest.mark.parametrize("optimise", [True, False])
def test_further_outputs(optimise: bool) -> None:
    model = small()
    session = open_model(model, outputs=["h", "y", "h"], optimise=optimise)
    assert session.outputs == ("y", "j", "h")
    assert session.run(FEEDS, ["h"])["h"].tolist() == [[0, 0, 2]]
    assert [value.name for value in model.graph.outputs] == ["y", "j"], "the model is left as it is"


@pytest.mark.parametrize(("dtype", "error"), [(np.float16, 0.1), (np.float32, 1e-4), (np.float64, 1e-10)])
@pytest.mark.parametrize("size", [4, 100])
def test_large_weights_are_shared(size: int, dtype: Any, error: float) -> None:
    proto, weights = product(size, dtype)
    model = ir.from_proto(proto)
    shared = weights.nbytes >= EXTERNAL_BYTES
    assert shared == (size == 100)
    x = np.random.default_rng(1).standard_normal((1, size)).astype(dtype)
    for prepack in (True, False):
        session = open_model(model, prepack=prepack)
        assert len(session._keep) == shared
        assert session.run({"x": x})["y"] == pytest.approx(x.astype(float) @ weights.astype(float), abs=error)
    assert not isinstance(model.graph.initializers["w"].const_value, ir.ExternalTensor), "the model is left as it is"


def test_types_that_are_not_shared_are_copied() -> None:
    mask = np.arange(5000) % 3 == 0
    graph = helper.make_graph(
        [helper.make_node("And", ["x", "mask"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.BOOL, [5000])],
        [helper.make_tensor_value_info("y", TensorProto.BOOL, [5000])],
        [numpy_helper.from_array(mask, "mask")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = open_model(ir.from_proto(proto))
    assert session._keep == ()
    assert np.array_equal(session.run({"x": np.ones(5000, bool)})["y"], mask)


@pytest.mark.parametrize("size", [4, 100])
def test_weights_in_files_of_their_own(tmp_path: Path, size: int) -> None:
    proto, weights = product(size)
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    x = np.ones((1, size), np.float32)
    for session in (open_file(tmp_path / "m.onnx"), open_model(ir.load(tmp_path / "m.onnx"))):
        assert session.run({"x": x})["y"] == pytest.approx(x @ weights, rel=1e-4, abs=1e-4)


# --- faults ----------------------------------------------------------------------------------------------------------


def test_a_run_that_fails() -> None:
    session = open_model(small())
    with pytest.raises(RunError) as caught:
        session.run({**FEEDS, "x": np.ones((1, 4), np.float32)})
    text = str(caught.value)
    assert "x" in text
    assert "\n" not in text
    assert len(text) <= 300
    with pytest.raises(RunError):
        session.run({"x": FEEDS["x"]})
    with pytest.raises(RunError):
        session.run(FEEDS, ["nothing"])


def test_files_that_onnxruntime_does_not_open(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with pytest.raises(ModelError, match=rf"^{path}: onnxruntime does not run this model: .*"):
        open_file(path)
    path.write_bytes(b"no model")
    with pytest.raises(ModelError, match=rf"^{path}: onnxruntime does not run this model: .*") as caught:
        open_file(path)
    assert "\n" not in str(caught.value)


def test_names_of_nodes_may_repeat(tmp_path: Path) -> None:
    """onnxruntime refuses a graph in which two nodes have one name; names mean nothing in ONNX."""
    model = parsed(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { [a] h = Neg(x) \n [a] y = Abs(h) }'
    )
    onnx.save(model, tmp_path / "m.onnx")
    x = np.array([1, -2], np.float32)
    for session in (open_file(tmp_path / "m.onnx"), open_model(ir.from_proto(model))):
        np.testing.assert_array_equal(session.run({"x": x})["y"], np.abs(x))


def test_models_that_onnxruntime_does_not_run() -> None:
    text = """<ir_version: 10, opset_import: ["": 20, "odd": 1]> g (float[2] x) => (float[2] y) { y = odd.Fly(x) }"""
    with pytest.raises(ModelError, match=r"^kite: onnxruntime does not run this model: .*Fly"):
        open_model(ir.from_proto(parsed(text)), origin="kite")


def test_small_external_tensors_are_copied_and_their_file_stays_open(tmp_path: Path) -> None:
    weight = np.arange(3, dtype=np.float32)
    constants = [numpy_helper.from_array(weight, "w")]
    inputs, outputs = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, [3])] for name in ("x", "y"))
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", inputs, outputs, constants)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "m.onnx",
        save_as_external_data=True, location="w.bin", size_threshold=0,
    )  # fmt: skip
    model = ir.load(tmp_path / "m.onnx")
    tensor = model.graph.initializers["w"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    assert tensor.nbytes < EXTERNAL_BYTES
    view = tensor.numpy()
    np.testing.assert_array_equal(open_model(model).run({"x": np.ones(3, np.float32)})["y"], weight + 1)
    np.testing.assert_array_equal(view, weight)
    assert model.graph.initializers["w"].const_value is tensor, "the model is left as it is"
