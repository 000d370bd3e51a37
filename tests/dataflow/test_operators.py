"""What operators need of their inputs, against perturbation: a token that is not needed does not change the result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort
import pytest

from mcompiler.dataflow.grids import Channels, Grid
from mcompiler.dataflow.operators import digital_grid, grid_of, sample_shape

FIRST, LAST = Channels.FIRST, Channels.LAST


def made(
    op: str, shapes: Sequence[Sequence[int]], attributes: dict[str, Any], constants: Sequence[Any], out: Sequence[int]
) -> tuple[ir.Model, ir.Node]:
    """A model of one node whose inputs have these shapes, then these constants."""
    inputs = [
        ir.Value(name=f"x{i}", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
        for i, shape in enumerate(shapes)
    ]
    initializers = []
    for index, constant in enumerate(constants):
        array = np.asarray(constant)
        value = ir.Value(name=f"c{index}", const_value=ir.Tensor(array, name=f"c{index}"))
        value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
        initializers.append(value)
    node = ir.node(op, [*inputs, *initializers], attributes)
    node.outputs[0].name, node.outputs[0].shape = "y", ir.Shape(out)
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(inputs, node.outputs, nodes=[node], initializers=initializers, opset_imports={"": 20})
    return ir.Model(graph, ir_version=9), node


def tokens(array: npt.NDArray[Any], grid: Grid) -> npt.NDArray[Any]:
    """[tokens, elements of one]."""
    if grid.channels is FIRST:
        array = np.moveaxis(array[0], 0, -1)
    return np.asarray(array.reshape(grid.tokens, -1))


CASES: list[tuple[str, list[list[int]], Channels, dict[str, Any], list[Any], list[int]]] = [
    ("Relu", [[1, 3, 4, 5]], FIRST, {}, [], [1, 3, 4, 5]),
    ("LRN", [[1, 5, 3, 4]], FIRST, {"size": 3}, [], [1, 5, 3, 4]),
    ("Add", [[1, 3, 4, 5], [1, 3, 4, 5]], FIRST, {}, [], [1, 3, 4, 5]),
    ("Mul", [[1, 3, 4, 5], [1, 3, 1, 1]], FIRST, {}, [], [1, 3, 4, 5]),
    ("Softmax", [[1, 6, 4]], LAST, {"axis": -1}, [], [1, 6, 4]),
    ("Softmax", [[1, 6, 4]], LAST, {"axis": 1}, [], [1, 6, 4]),
    ("Concat", [[1, 3, 4, 5], [1, 2, 4, 5]], FIRST, {"axis": 1}, [], [1, 5, 4, 5]),
    ("Concat", [[1, 3, 4, 5], [1, 3, 4, 5]], FIRST, {"axis": 2}, [], [1, 3, 8, 5]),
    ("MaxPool", [[1, 2, 7, 6]], FIRST, {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}, [],
     [1, 2, 4, 6]),
    ("MaxPool", [[1, 2, 7, 7]], FIRST, {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, [], [1, 2, 3, 3]),
    ("MaxPool", [[1, 2, 9]], FIRST, {"kernel_shape": [2], "dilations": [3]}, [], [1, 2, 6]),
    ("AveragePool", [[1, 2, 6, 6]], FIRST, {"kernel_shape": [2, 2], "strides": [2, 2]}, [], [1, 2, 3, 3]),
    ("GlobalAveragePool", [[1, 2, 3, 3]], FIRST, {}, [], [1, 2, 1, 1]),
    ("Reshape", [[1, 2, 3, 4]], FIRST, {}, [np.array([1, 2, 12])], [1, 2, 12]),
    ("Flatten", [[1, 2, 3, 4]], FIRST, {}, [], [1, 24]),
    ("Transpose", [[1, 2, 3, 4]], FIRST, {"perm": [0, 2, 3, 1]}, [], [1, 3, 4, 2]),
    ("Transpose", [[1, 3, 4, 2]], LAST, {"perm": [0, 3, 1, 2]}, [], [1, 2, 3, 4]),
    ("Transpose", [[1, 3, 4, 2]], LAST, {"perm": [0, 2, 1, 3]}, [], [1, 4, 3, 2]),
    ("Slice", [[1, 2, 5, 6]], FIRST, {}, [np.array([0, 1]), np.array([5, 6]), np.array([2, 3]), np.array([2, 2])],
     [1, 2, 3, 3]),
    ("Slice", [[1, 4, 5, 6]], FIRST, {}, [np.array([-2]), np.array([4]), np.array([1]), np.array([1])], [1, 2, 5, 6]),
    ("Pad", [[1, 2, 3, 3]], FIRST, {}, [np.array([0, 1, 0, 0, 0, 1, 0, 0])], [1, 4, 3, 3]),
    ("Pad", [[1, 2, 3, 3]], FIRST, {}, [np.array([0, 0, 1, 2, 0, 0, 0, 1])], [1, 2, 4, 6]),
    ("LayerNormalization", [[1, 5, 4]], LAST, {"axis": -1}, [np.ones(4, np.float32)], [1, 5, 4]),
    ("ReduceMean", [[1, 5, 4]], LAST, {}, [np.array([1])], [1, 1, 4]),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[f"{case[0]}-{index}" for index, case in enumerate(CASES)])
def test_a_token_hangs_on_nothing_that_comes_later(
    case: tuple[str, list[list[int]], Channels, dict[str, Any], list[Any], list[int]],
) -> None:
    """Change one token of an input after another: results before those that are said to need it stay as they are."""
    op, shapes, channels, attributes, constants, out = case
    model, node = made(op, shapes, attributes, constants, out)
    inputs = [(value, grid_of(sample_shape(value), channels)) for value in model.graph.inputs]
    grid, needs = digital_grid(node, inputs)
    assert int(np.prod(out)) == grid.tokens * grid.width
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    feeds = {value.name or "": rng.standard_normal(shapes[i]).astype(np.float32) for i, (value, _) in enumerate(inputs)}
    before = tokens(session.run(None, feeds)[0], grid)
    for (value, given), need in zip(inputs, needs, strict=True):
        assert need.last.shape == (grid.tokens,)
        assert need.last_use.shape == (given.tokens,)
        for token in range(given.tokens):
            changed = dict(feeds)
            array = feeds[value.name or ""].copy()
            tokens_of(array, given)[token] += 100.0
            changed[value.name or ""] = array
            touched = np.flatnonzero((tokens(session.run(None, changed)[0], grid) != before).any(axis=1))
            # every result that it changes waits for it, and none of them comes after its last use
            assert (need.last[touched] >= token).all()
            assert touched.max(initial=-1) <= need.last_use[token]


class tokens_of:  # noqa: N801 -- reads like the function above, and writes through
    """Tokens of an array in place."""

    def __init__(self, array: npt.NDArray[Any], grid: Grid) -> None:
        self.array, self.grid = array, grid

    def __getitem__(self, token: int) -> npt.NDArray[Any]:
        place = np.unravel_index(token, self.grid.sizes) if self.grid.sizes else ()
        index: Any = (0, slice(None), *place) if self.grid.channels is FIRST else (0, *place)
        return self.array[index] if self.grid.sizes else self.array

    def __setitem__(self, token: int, value: npt.NDArray[Any]) -> None:
        self[token][...] = value


@pytest.mark.parametrize(
    ("op", "index"), [("Relu", 0), ("LRN", 0), ("Softmax", 0), ("Concat", 0), ("Pad", 0), ("Slice", 1), ("Reshape", 0)]
)
def test_operators_that_go_on_token_by_token_do(op: str, index: int) -> None:
    case = [each for each in CASES if each[0] == op][index]
    model, node = made(op, case[1], case[3], case[4], case[5])
    inputs = [(value, grid_of(sample_shape(value), case[2])) for value in model.graph.inputs]
    grid, needs = digital_grid(node, inputs)
    assert grid.tokens > 1
    assert all(need.last[0] == 0 for need in needs)
