"""Layers in bodies: branches of If nodes and functions; kind: a site lies somewhere below the main graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import mcompiler
from mcompiler.ir import Fate
from mcompiler.runtime import open_model

FLOAT = TensorProto.FLOAT
SIZE = 8


def weights(seed: int, rows: int = SIZE, columns: int = SIZE) -> npt.NDArray[np.float32]:
    """Random weights."""
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


def branch(
    name: str, nodes: list[onnx.NodeProto], output: str, **constants: npt.NDArray[np.float32]
) -> onnx.GraphProto:
    """A branch with one output and its own initializers."""
    given = [numpy_helper.from_array(array, key) for key, array in constants.items()]
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(output, FLOAT, None)], given)


def choice(condition: str, output: str, then: onnx.GraphProto, other: onnx.GraphProto, name: str) -> onnx.NodeProto:
    """An If."""
    return helper.make_node("If", [condition], [output], then_branch=then, else_branch=other, name=name)


def write(path: Path, nodes: list[onnx.NodeProto], **constants: npt.NDArray[np.float32]) -> Path:
    """A model of one sample x [1, SIZE]; ``positive`` tells whether its elements sum to more than 0."""
    constants["zero"] = np.zeros((), np.float32)
    head = [
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("Greater", ["total", "zero"], ["positive"]),
    ]
    given = [numpy_helper.from_array(array, key) for key, array in constants.items()]
    ends = [helper.make_tensor_value_info(name, FLOAT, [1, SIZE]) for name in ("x", "y")]
    graph = helper.make_graph([*head, *nodes], "g", ends[:1], ends[1:], given)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def data(path: Path, share: float) -> npt.NDArray[np.float32]:
    """Samples, that share of which sum to more than 0; written as calibration data."""
    x = np.abs(np.random.default_rng(1).standard_normal((40, SIZE))).astype(np.float32)
    x[round(share * len(x)) :] *= -1
    np.savez(path, x=x)
    return x


def product(weight: str, output: str, source: str = "x") -> onnx.NodeProto:
    """A MatMul; all of them have one name, as nodes of different graphs may."""
    return helper.make_node("MatMul", [source, weight], [output], name="product")


@pytest.mark.parametrize("chip", ["generic_128", "isaac", "yuan2019"])
def test_layers_in_both_branches_are_exact(chip: str, tmp_path: Path) -> None:
    then, other = branch("t", [product("w", "a")], "a"), branch("e", [product("v", "b")], "b", v=weights(2))
    path = write(tmp_path / "m.onnx", [choice("positive", "z", then, other, "choice"), product("u", "y", "z")],
                 w=weights(1), u=weights(3))  # fmt: skip
    x = data(tmp_path / "x.npz", 0.5)
    build = mcompiler.compile(path, chip, calibration=tmp_path / "x.npz")
    fates = {fate.name: fate for fate in build.fates}
    assert fates["choice"].fate is Fate.ANALOG
    assert fates["choice"].reason.number == 2
    assert [str(layer.op.site.origin) for layer in build.layer_data] == ["2/then_branch/0", "2/else_branch/0", "3"]
    assert len(set(build.layers)) == 3, "layers have names of their own although the nodes share one"
    found = build.verify(x, ideal=True)
    assert found.exact
    assert all(layer.exact for layer in found.layers)
    half = build.verify(x[:20], ideal=True)
    assert half.exact, "samples that take one branch only"


def test_what_the_layers_compute_is_what_the_model_computes(tmp_path: Path) -> None:
    """The oracle is numpy: quantisation to 8 bits is within a few percent of the largest output."""
    then, other = branch("t", [product("w", "a")], "a"), branch("e", [product("v", "b")], "b", v=weights(2))
    path = write(tmp_path / "m.onnx", [choice("positive", "y", then, other, "choice")], w=weights(1))
    x = data(tmp_path / "x.npz", 0.5)
    mapped = open_model(mcompiler.compile(path, "generic_128", calibration=tmp_path / "x.npz").mapped)
    found = np.concatenate([mapped.run({"x": sample[None]})["y"] for sample in x])
    expected = np.where(x.sum(axis=1, keepdims=True) > 0, x @ weights(1), x @ weights(2))
    assert np.abs(found - expected).max() < 0.03 * np.abs(expected).max()


def test_a_branch_that_no_sample_takes_stays_digital(tmp_path: Path) -> None:
    then, other = branch("t", [product("w", "a")], "a"), branch("e", [product("v", "b")], "b", v=weights(2))
    path = write(tmp_path / "m.onnx", [choice("positive", "y", then, other, "choice")], w=weights(1))
    x = data(tmp_path / "x.npz", 1.0)
    build = mcompiler.compile(path, "generic_128", calibration=tmp_path / "x.npz")
    assert [str(layer.op.site.origin) for layer in build.layer_data] == ["2/then_branch/0"]
    assert build.verify(-x).exact, "data that take the other branch"


def test_branches_that_use_one_weight_share_its_matrix(tmp_path: Path) -> None:
    then = branch("t", [product("w", "a")], "a")
    other = branch("e", [product("w", "b"), helper.make_node("Relu", ["b"], ["c"])], "c")
    path = write(tmp_path / "m.onnx", [choice("positive", "y", then, other, "choice")], w=weights(1))
    x = data(tmp_path / "x.npz", 0.5)
    build = mcompiler.compile(path, "generic_128", calibration=tmp_path / "x.npz")
    assert [layer.op.site.matrix for layer in build.layer_data] == [0, 0]
    assert build.cost.crossbars == len(build.layer_data[0].table)
    assert build.verify(x).exact


def test_a_branch_in_a_branch(tmp_path: Path) -> None:
    inner = choice(
        "large", "c", branch("ti", [product("w", "a")], "a"), branch("ei", [product("v", "b")], "b"), "inner"
    )
    compare = helper.make_node("Greater", ["total", "limit"], ["large"])
    then = branch("t", [compare, inner], "c")
    other = branch("e", [helper.make_node("Neg", ["x"], ["d"])], "d")
    path = write(tmp_path / "m.onnx", [choice("positive", "y", then, other, "outer")],
                 w=weights(1), v=weights(2), limit=np.full((), 6.0, np.float32))  # fmt: skip
    x = data(tmp_path / "x.npz", 0.7)
    build = mcompiler.compile(path, "generic_128", calibration=tmp_path / "x.npz")
    origins = [str(layer.op.site.origin) for layer in build.layer_data]
    assert origins == ["2/then_branch/1/then_branch/0", "2/then_branch/1/else_branch/0"]
    assert build.verify(x).exact


def test_calls_of_a_function_share_the_constant_of_its_body(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weights(1)))
    body = [constant, helper.make_node("MatMul", ["i", "w"], ["o"], name="product")]
    function = helper.make_function("local", "Layer", ["i"], ["o"], body, [helper.make_opsetid("", 17)])
    calls = [helper.make_node("Layer", [a], [b], name=a, domain="local") for a, b in (("x", "h"), ("h", "y"))]
    ends = [helper.make_tensor_value_info(name, FLOAT, [1, SIZE]) for name in ("x", "y")]
    graph = helper.make_graph(calls, "g", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=9), tmp_path / "m.onnx")
    x = data(tmp_path / "x.npz", 0.5)
    build = mcompiler.compile(tmp_path / "m.onnx", "generic_128", calibration=tmp_path / "x.npz")
    assert [layer.op.site.matrix for layer in build.layer_data] == [0, 0]
    assert [fate.fate for fate in build.fates] == [Fate.ANALOG, Fate.ANALOG]
    assert build.verify(x).exact


def test_a_build_with_layers_in_branches_comes_back(tmp_path: Path) -> None:
    then, other = branch("t", [product("w", "a")], "a"), branch("e", [product("w", "b")], "b")
    path = write(tmp_path / "m.onnx", [choice("positive", "z", then, other, "choice"), product("u", "y", "z")],
                 w=weights(1), u=weights(3))  # fmt: skip
    x = data(tmp_path / "x.npz", 0.5)
    build = mcompiler.compile(path, "generic_128", calibration=tmp_path / "x.npz")
    loaded = mcompiler.load(build.save(tmp_path / "b"))
    assert [layer.op.site for layer in loaded.layer_data] == [layer.op.site for layer in build.layer_data]
    assert loaded.verify(x).exact
    assert loaded.cost == build.cost
    assert loaded.cost.energy_j > 0
    events = {
        (name, event): number
        for name, layer in build.cost.counts.layers.items()
        for event, number in layer.events.items()
    }
    assert all(number > 0 for (name, event), number in events.items() if name in build.layers and event == "array_read")
