"""Digital operations of a node: against loops that do one operation at a time and count them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from mcompiler.dataflow import digital_operations
from mcompiler.dataflow.node_operations import node_operations
from tests.support.programs import node, skeleton

Shape = tuple[int, ...]


class Counting:
    """A number that counts what is done with it, in a counter that all numbers share."""

    done = 0

    def __init__(self, value: float) -> None:
        self.value = value

    def __add__(self, other: Counting) -> Counting:
        return self._made(self.value + other.value)

    def __sub__(self, other: Counting) -> Counting:
        return self._made(self.value - other.value)

    def __mul__(self, other: Counting) -> Counting:
        return self._made(self.value * other.value)

    def __truediv__(self, other: Counting) -> Counting:
        return self._made(self.value / other.value)

    def largest(self, other: Counting) -> Counting:
        """The larger one: a comparison."""
        return self._made(max(self.value, other.value))

    def function(self) -> Counting:
        """Any function of one element."""
        return self._made(float(np.tanh(self.value)))

    def plus_product(self, one: Counting, other: Counting) -> Counting:
        """A multiplication and the addition of its result, in one pass."""
        return self._made(self.value + one.value * other.value)

    @staticmethod
    def _made(value: float) -> Counting:
        Counting.done += 1
        return Counting(value)


def numbers(count: int) -> list[Counting]:
    return [Counting(0.1 * (each + 1)) for each in range(count)]


def maximum(values: Sequence[Counting]) -> Counting:
    best = values[0]
    for value in values[1:]:
        best = best.largest(value)
    return best


def total(values: Sequence[Counting]) -> Counting:
    found = values[0]
    for value in values[1:]:
        found = found + value
    return found


def mean(values: Sequence[Counting]) -> Counting:
    return total(values) * Counting(1 / len(values))


def squares(values: Sequence[Counting]) -> Counting:
    found = Counting(0.0)
    for value in values:
        found = found.plus_product(value, value)
    return found


def dot(one: Iterable[Counting], other: Iterable[Counting], bias: Counting | None = None) -> Counting:
    found = bias or Counting(0.0)
    for left, right in zip(one, other, strict=True):
        found = found.plus_product(left, right)
    return found


def lstm(steps: int, inputs: int, hidden: int) -> None:
    """One direction of an LSTM."""
    state, cell = numbers(hidden), numbers(hidden)
    for _ in range(steps):
        given = numbers(inputs) + state
        gates = [[dot(given, numbers(len(given))).function() for _ in range(hidden)] for _ in range(4)]
        cell = [(f * c).plus_product(i, g) for i, f, g, c in zip(gates[0], gates[1], gates[2], cell, strict=True)]
        state = [o * c.function() for o, c in zip(gates[3], cell, strict=True)]


def gru(steps: int, inputs: int, hidden: int) -> None:
    """One direction of a GRU whose reset is applied to the state before the product."""
    state = numbers(hidden)
    for _ in range(steps):
        given = numbers(inputs)
        update, reset = (
            [dot(given + state, numbers(inputs + hidden)).function() for _ in range(hidden)] for _ in range(2)
        )
        kept = [r * s for r, s in zip(reset, state, strict=True)]
        new = [dot(given + kept, numbers(inputs + hidden)).function() for _ in range(hidden)]
        state = [n.plus_product(z, s - n) for z, n, s in zip(update, new, state, strict=True)]


def rnn(steps: int, inputs: int, hidden: int) -> None:
    """One direction of a plain recurrent layer."""
    state = numbers(hidden)
    for _ in range(steps):
        given = numbers(inputs) + state
        state = [dot(given, numbers(len(given))).function() for _ in range(hidden)]


def softmax(values: Sequence[Counting]) -> list[Counting]:
    largest = maximum(values)
    powers = [(value - largest).function() for value in values]
    below = total(powers)
    return [power / below for power in powers]


def counted(op: str, shapes: Sequence[Shape | None], outputs: Sequence[Shape], **attributes: Any) -> int:
    """Operations of one node whose inputs and outputs have these shapes (None: left out)."""
    inputs = [None if shape is None else ir.Value(name=f"x{i}") for i, shape in enumerate(shapes)]
    domain, _, name = op.rpartition("::")
    found = ir.node(name, inputs, attributes, domain=domain, num_outputs=len(outputs))
    for index, value in enumerate(found.outputs):
        value.name = f"y{index}"
    known: dict[str, Shape] = {f"x{i}": shape for i, shape in enumerate(shapes) if shape is not None}
    return node_operations(found, known | {f"y{index}": shape for index, shape in enumerate(outputs)})


def times(count: int, work: Any, *arguments: Any) -> int:
    """Operations of doing something so many times."""
    Counting.done = 0
    for _ in range(count):
        work(*arguments)
    return Counting.done


LINES = 6
"""Rows in the cases below that are worked on one after the other."""


@pytest.mark.parametrize(
    ("op", "inputs", "output", "attributes", "expected"),
    [
        ("Relu", [(2, 3, 4)], (2, 3, 4), {}, 24),
        ("Add", [(2, 3, 4), (4,)], (2, 3, 4), {}, 24),
        ("Sum", [(2, 3), (2, 3), (2, 3)], (2, 3), {}, times(6, lambda: total(numbers(3)))),
        ("Max", [(2, 3), (2, 3), (2, 3)], (2, 3), {}, times(6, lambda: maximum(numbers(3)))),
        ("Mean", [(2, 3), (2, 3), (2, 3)], (2, 3), {}, times(6, lambda: mean(numbers(3)))),
        ("MaxPool", [(1, 8, 6, 6)], (1, 8, 4, 5), {"kernel_shape": [3, 2]},
         times(8 * 4 * 5, lambda: maximum(numbers(6)))),
        ("AveragePool", [(1, 8, 6, 6)], (1, 8, 4, 5), {"kernel_shape": [3, 2]},
         times(8 * 4 * 5, lambda: mean(numbers(6)))),
        ("LpPool", [(1, 2, 4, 4)], (1, 2, 2, 2), {"kernel_shape": [2, 2]},
         times(2 * 2 * 2, lambda: squares(numbers(4)).function())),
        ("GlobalAveragePool", [(1, 32, 16, 16)], (1, 32, 1, 1), {}, times(32, lambda: mean(numbers(256)))),
        ("GlobalAveragePool", [(1, 32, 16, 16)], (1, 32, 1, 1), {}, 8_192),
        ("GlobalMaxPool", [(1, 32, 5, 5)], (1, 32, 1, 1), {}, times(32, lambda: maximum(numbers(25)))),
        ("ReduceMean", [(1, 7, 4), (1,)], (1, 1, 4), {}, times(4, lambda: mean(numbers(7)))),
        ("ReduceSum", [(1, 7, 4), (1,)], (1, 1, 4), {}, times(4, lambda: total(numbers(7)))),
        ("ReduceMax", [(1, 7, 4), (1,)], (1, 1, 4), {}, times(4, lambda: maximum(numbers(7)))),
        ("ReduceSumSquare", [(1, 7, 4), (1,)], (1, 1, 4), {}, times(4, lambda: squares(numbers(7)))),
        ("ReduceL2", [(1, 7, 4), (1,)], (1, 1, 4), {}, times(4, lambda: squares(numbers(7)).function())),
        ("ArgMax", [(1, 10)], (1, 1), {}, times(1, lambda: maximum(numbers(10)))),
        ("TopK", [(1, 10), (1,)], (1, 3), {}, 10),
        ("BatchNormalization", [(1, 3, 4, 4), (3,), (3,), (3,), (3,)], (1, 3, 4, 4), {}, 48),
        ("LRN", [(1, 5, 3, 3)], (1, 5, 3, 3), {"size": 3}, 45 * (3 + 3)),
        ("Resize", [(1, 2, 3, 3)], (1, 2, 6, 6), {"mode": "nearest"}, 0),
        ("Resize", [(1, 2, 3, 3)], (1, 2, 6, 6), {"mode": "linear"}, 72 * 4),
        ("Resize", [(1, 2, 3, 3)], (1, 2, 3, 6), {"mode": "linear"}, 36 * 2),
        ("Resize", [(1, 2, 3, 3)], (1, 2, 6, 6), {"mode": "cubic"}, 72 * 16),
        ("MatMul", [(1, 4, 9), (9, 5)], (1, 4, 5), {}, times(20, lambda: dot(numbers(9), numbers(9)))),
        ("MatMul", [(1, 2, 7, 3), (1, 2, 3, 7)], (1, 2, 7, 7), {}, 2 * 7 * 7 * 3),
        ("Gemm", [(4, 9), (9, 5), (5,)], (4, 5), {}, 20 * 9),
        ("Gemm", [(9, 4), (5, 9)], (4, 5), {"transA": 1, "transB": 1}, 20 * 9),
        ("QLinearMatMul", [(4, 9), (), (), (9, 5), (), (), (), ()], (4, 5), {}, 20 * (9 + 1)),
        ("com.microsoft::QGemm", [(4, 9), (), (), (9, 5), (), ()], (4, 5), {}, 20 * (9 + 1)),
        ("Conv", [(1, 4, 8, 8), (6, 4, 3, 3), (6,)], (1, 6, 6, 6), {}, 6 * 36 * 36),
        ("Conv", [(1, 4, 8, 8), (4, 1, 3, 3)], (1, 4, 6, 6), {"group": 4}, 4 * 36 * 9),
        ("com.microsoft::FusedConv", [(1, 4, 8, 8), (6, 4, 3, 3)], (1, 6, 6, 6), {}, 6 * 36 * 37),
        ("QLinearConv", [(1, 4, 8, 8), (), (), (6, 4, 3, 3), (), (), (), ()], (1, 6, 6, 6), {}, 6 * 36 * 37),
        ("com.microsoft::QLinearAdd", [(1, 8), (), (), (1, 8), (), (), (), ()], (1, 8), {}, 8 * 4),
        ("com.microsoft::QLinearGlobalAveragePool", [(1, 4, 3, 3), (), (), (), ()], (1, 4, 1, 1), {}, 4 * (9 + 1)),
        ("ConvTranspose", [(1, 4, 3, 3), (4, 2, 2, 2)], (1, 2, 6, 6), {"strides": [2, 2]}, 4 * 9 * 2 * 4),
        ("Einsum", [(1, 5, 4), (1, 4, 3)], (1, 5, 3), {"equation": "bij, bjk -> bik"}, 5 * 4 * 3),
        ("Einsum", [(2, 3, 5, 4), (2, 3, 7, 4)], (2, 3, 5, 7), {"equation": "...id,...jd->...ij"}, 6 * 5 * 7 * 4),
        ("Einsum", [(2, 3)], (3,), {"equation": "ij->j"}, 3),
        ("Attention", [(1, 5, 8), (1, 7, 8), (1, 7, 8)], (1, 5, 8), {"q_num_heads": 2, "kv_num_heads": 2},
         2 * 5 * 7 * (4 + 4 + 1 + 5)),
        ("Attention", [(1, 2, 5, 4), (1, 2, 7, 4), (1, 2, 7, 6), (5, 7)], (1, 2, 5, 6), {},
         2 * 5 * 7 * (4 + 6 + 2 + 5)),
        ("com.microsoft::Attention", [(1, 5, 8), (8, 24), (24,)], (1, 5, 8), {"num_heads": 2},
         5 * 8 * 24 + 2 * 5 * 5 * (4 + 4 + 1 + 5)),
        ("LSTM", [(14, 1, 5), (1, 12, 5), (1, 12, 3)], (14, 1, 1, 3), {"hidden_size": 3}, times(1, lstm, 14, 5, 3)),
        ("LSTM", [(14, 1, 5), (2, 12, 5), (2, 12, 3)], (14, 2, 1, 3), {"direction": "bidirectional"},
         times(2, lstm, 14, 5, 3)),
        ("LSTM", [(1, 14, 5), (1, 12, 5), (1, 12, 3)], (1, 14, 1, 3), {"layout": 1}, times(1, lstm, 14, 5, 3)),
        ("GRU", [(6, 1, 5), (1, 9, 5), (1, 9, 3)], (6, 1, 1, 3), {"hidden_size": 3}, times(1, gru, 6, 5, 3)),
        ("RNN", [(6, 1, 5), (1, 3, 5), (1, 3, 3)], (6, 1, 1, 3), {"hidden_size": 3}, times(1, rnn, 6, 5, 3)),
        ("Transpose", [(1, 2, 3)], (1, 3, 2), {}, 0),
        ("Concat", [(1, 2), (1, 3)], (1, 5), {"axis": 1}, 0),
        ("Reshape", [(1, 6), (2,)], (1, 2, 3), {}, 0),
        ("Unheard", [(1, 9)], (1, 4), {}, 4),
    ],
)  # fmt: skip
def test_operations_of_a_node(
    op: str, inputs: list[Shape | None], output: Shape, attributes: Mapping[str, Any], expected: int
) -> None:
    assert counted(op, inputs, [output], **attributes) == expected


def test_softmax_goes_over_its_elements_five_times() -> None:
    done = times(LINES, softmax, numbers(10))
    found = counted("Softmax", [(1, LINES, 10)], [(1, LINES, 10)])
    assert found - done == 2 * LINES, "the first element of a maximum and of a sum is counted too"
    assert counted("LogSoftmax", [(1, LINES, 10)], [(1, LINES, 10)]) == found


@pytest.mark.parametrize("op", ["LayerNormalization", "InstanceNormalization", "GroupNormalization"])
def test_a_normalisation_goes_over_its_elements_five_times(op: str) -> None:
    def normalise(values: Sequence[Counting]) -> None:
        middle = mean(values)
        less = [value - middle for value in values]
        deviation = squares(less)
        [Counting(0.0).plus_product(value * deviation, value) for value in less]

    assert counted(op, [(1, LINES, 10), (10,), (10,)], [(1, LINES, 10)]) == times(LINES, normalise, numbers(10))


def test_final_states_and_indices_are_no_more_work() -> None:
    shapes: list[Shape | None] = [(14, 1, 14), (2, 128, 14), (2, 128, 32)]
    states = [(14, 2, 1, 32), (2, 1, 32), (2, 1, 32)]
    found = counted("LSTM", shapes, states, direction="bidirectional", hidden_size=32)
    assert found == 14 * 2 * 128 * (14 + 32) + 14 * 2 * 32 * 8, "products of 28 steps, and 8 more on each state"
    assert found == counted("LSTM", shapes, states[:1], direction="bidirectional", hidden_size=32)
    pool = {"kernel_shape": [2, 2]}
    assert counted("MaxPool", [(1, 1, 2, 2)], [(1, 1, 1, 1)] * 2, **pool) == 3


def looped(trips: int | None) -> onnx.GraphProto:
    """A Loop or Scan body: two additions on four elements."""
    first = [helper.make_tensor_value_info("turn", TensorProto.INT64, []),
             helper.make_tensor_value_info("more", TensorProto.BOOL, [])] if trips is not None else []  # fmt: skip
    kept = [helper.make_node("Identity", ["more"], ["again"])] if trips is not None else []
    state = helper.make_tensor_value_info("s", TensorProto.FLOAT, [4])
    seen = [helper.make_tensor_value_info("row", TensorProto.FLOAT, [4])] if trips is None else []
    added = [
        helper.make_node("Add", ["s", "s" if trips is not None else "row"], ["t"]),
        helper.make_node("Add", ["t", "t"], ["u"]),
    ]
    after = [helper.make_tensor_value_info("again", TensorProto.BOOL, [])] if trips is not None else []
    return helper.make_graph(
        [*kept, *added],
        "body",
        [*first, state, *seen],
        [*after, helper.make_tensor_value_info("u", TensorProto.FLOAT, [4])],
        value_info=[helper.make_tensor_value_info("t", TensorProto.FLOAT, [4])],
    )


def only_node(made: onnx.NodeProto, initializers: Sequence[onnx.TensorProto] = ()) -> ir.Node:
    graph = helper.make_graph([made], "g", [], [], list(initializers))
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])).graph[0]


def test_a_body_counts_as_often_as_it_runs() -> None:
    count = numpy_helper.from_array(np.array(6, np.int64), "m")
    loop = only_node(helper.make_node("Loop", ["m", "", "a"], ["y"], body=looped(6)), [count])
    assert node_operations(loop, {}) == 6 * 2 * 4
    unknown = only_node(helper.make_node("Loop", ["m", "", "a"], ["y"], body=looped(6)))
    assert node_operations(unknown, {}) == 2 * 4, "once, where nothing says how often"
    scan = only_node(helper.make_node("Scan", ["a", "rows"], ["y"], body=looped(None), num_scan_inputs=1))
    assert node_operations(scan, {"rows": (9, 4)}) == 9 * 2 * 4


def test_of_two_branches_the_longer_counts() -> None:
    def branch(op: str, name: str) -> onnx.GraphProto:
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, [4])
        return helper.make_graph([helper.make_node(op, ["x"], [name])], name, [], [value])

    made = only_node(
        helper.make_node("If", ["c"], ["y"], then_branch=branch("Softmax", "a"), else_branch=branch("Relu", "b"))
    )
    assert node_operations(made, {"x": (4,)}) == 5 * 4


def test_a_run_of_several_samples_is_divided_among_them() -> None:
    def build(source: ir.Value) -> list[ir.Node]:
        return [node("Relu", [source], "n")]

    assert digital_operations(skeleton(build), {"n.out": (3, 7)}, 3) == {0: 7}


def test_pooling_reads_every_element_of_its_windows() -> None:
    """The count of a pool is that of its windows, taken one by one."""
    windows = list(itertools.product(range(4), range(4)))
    assert counted("MaxPool", [(1, 1, 8, 8)], [(1, 1, 4, 4)], kernel_shape=[5, 5], strides=[1, 1]) == 24 * len(windows)
