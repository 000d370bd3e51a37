"""How many element operations the nodes that stay digital take."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from mcompiler.graph import int_attr
from mcompiler.ir import ANALOG_OP

FREE = frozenset(
    {
        "Constant",
        "Identity",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Transpose",
        "Shape",
        "Size",
        "Slice",
        "Split",
        "Concat",
        "Gather",
        "Expand",
        "Cast",
        "Dropout",
        ANALOG_OP,
    }
)
"""Operators that move or rename data: they cost buffer traffic, not operations."""


def digital_operations(skeleton: ir.Model, elements: Mapping[str, int]) -> dict[str, int]:
    """Element operations per inference of every digital node: multiply-accumulates where it has weights or contracts.

    Args:
        skeleton: the graph with placeholders.
        elements: elements per inference of every value of the float graph.
    """
    counts = {}
    for node in skeleton.graph:
        outputs = sum(elements.get(value.name or "", 0) for value in node.outputs)
        if node.op_type in FREE:
            counts[node.name or ""] = 0
        else:
            counts[node.name or ""] = outputs * _per_element(node)
    return counts


def _per_element(node: ir.Node) -> int:
    """Operations for one output element: the contraction length where there is one, else 1."""
    position = 3 if node.op_type.startswith("QLinear") else 1
    weights = node.inputs[position] if len(node.inputs) > position else None
    if weights is None or weights.shape is None:
        return 1
    shape = [size if isinstance(size, int) else 1 for size in weights.shape]
    if node.op_type in {"MatMul", "MatMulInteger", "QLinearMatMul"} and len(shape) >= 2:
        return max(1, shape[-2])
    if node.op_type == "Gemm" and len(shape) == 2:
        return max(1, shape[int_attr(node, "transB", 0)])
    if node.op_type in {"Conv", "ConvInteger", "QLinearConv"}:
        return max(1, int(np.prod(shape[1:], dtype=np.int64)))
    if (
        node.op_type in _GATES and len(shape) == 3
    ):  # input weights [directions, gates * hidden, inputs], and recurrent ones
        gates = _GATES[node.op_type]
        return max(1, gates * (shape[2] + shape[1] // gates))
    return 1


_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
