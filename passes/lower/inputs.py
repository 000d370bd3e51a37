"""The quantiser of an activation tensor, where the model brings one (QDQ)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mcompiler.graph import constant, dequantizes, input_at, scalar, standard, string_attr
from mcompiler.passes.lower.multiples import multiples

_KEEPS_GRID = frozenset(
    [
        "Reshape",
        "Transpose",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Identity",
        "MaxPool",
        "GlobalMaxPool",
        "Relu",
        "Slice",
        "Split",
        "Gather",
        "Pad",
        "Expand",
        "Tile",
        "DepthToSpace",
        "SpaceToDepth",
    ]
)
"""Operators whose results are among their first input's values, or zero (which every quantiser represents)."""

_UNSIGNED = {
    ir.DataType.UINT2: (2, 0),
    ir.DataType.UINT4: (4, 0),
    ir.DataType.UINT8: (8, 0),
    ir.DataType.UINT16: (16, 0),
    ir.DataType.INT2: (2, 2),
    ir.DataType.INT4: (4, 8),
    ir.DataType.INT8: (8, 128),
    ir.DataType.INT16: (16, 32768),
}
"""Bits, and the offset that makes a code unsigned."""


@dataclass(frozen=True)
class TensorGrid:
    """x = scale * (q - zero_point), q unsigned of ``bits`` bits.

    Attributes:
        stated: the model has these codes (QDQ); else they follow from operators on floats.
    """

    scale: float
    zero_point: int
    bits: int
    stated: bool = True


def tensor_grid(value: ir.Value) -> TensorGrid | None:
    """The per-tensor quantiser whose values a tensor holds, or None.

    Found at the DequantizeLinear that produces it, also through operators that only move, select or rectify values;
    else at operators that give integers, or integers times a constant, in a range that the graph states.
    """
    current: ir.Value | None = value
    while current is not None:
        node = current.producer()
        if node is None:
            break
        if dequantizes(node):
            return _parameters(node)
        if not (standard(node, *_KEEPS_GRID) and _keeps_grid(node, current)):
            break
        current = node.inputs[0]
    found = multiples(value).quantiser(value.name or "")
    return None if found is None else TensorGrid(found.scale, found.zero_point, found.bits, stated=False)


def _keeps_grid(node: ir.Node, output: ir.Value) -> bool:
    if node.op_type == "MaxPool":
        return output is node.outputs[0]
    if node.op_type == "Pad":
        fill = input_at(node, 2)
        return string_attr(node, "mode", "constant") != "constant" or fill is None or scalar(fill) == 0
    return True


def _parameters(node: ir.Node) -> TensorGrid | None:
    codes, scale, zero = node.inputs[0], scalar(input_at(node, 1)), input_at(node, 2)
    if codes is None or codes.dtype not in _UNSIGNED or scale is None or not (np.isfinite(scale) and scale > 0):
        return None
    bits, shift = _UNSIGNED[codes.dtype]
    if zero is None:
        return TensorGrid(scale, shift, bits)
    array = constant(zero)
    if array is None or array.size != 1:
        return None
    return TensorGrid(scale, int(array.reshape(-1)[0]) + shift, bits)
