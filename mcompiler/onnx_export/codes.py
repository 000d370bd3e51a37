"""What both models share, because it stays digital: input quantisers, and scale and bias behind an accumulator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from mcompiler.ir import ANALOG_DOMAIN, ANALOG_OP, ConvShape, MatrixOp, Quantiser
from mcompiler.onnx_export.emitter import Emitter, insert_before


def code_names(skeleton: ir.Model, ops: Mapping[str, MatrixOp]) -> dict[str, str]:
    """Name of the value that carries each layer's input codes: ``<layer>/codes`` of the first layer that needs them."""
    first: dict[tuple[str, float, int, int], str] = {}
    names = {}
    for node in skeleton.graph:
        if node.domain == ANALOG_DOMAIN and node.op_type == ANALOG_OP:
            op, source = ops[node.name or ""], node.inputs[0]
            key = (source.name or "" if source is not None else "", op.input.scale, op.input.zero_point, op.input.bits)
            names[op.name] = first.setdefault(key, f"{op.name}/codes")
    return names


class CodeTable:
    """Input codes of a graph: consumers of one tensor with the same quantiser share them.

    Codes of up to 8 bits are uint8 tensors, wider ones int32.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._known: dict[tuple[int, float, int, int], ir.Value] = {}

    def of(self, place: ir.Node, op: MatrixOp) -> ir.Value:
        """Codes of the input of a placeholder node, emitted before it unless they exist.

        The value is named ``<layer>/codes`` after the first layer that needs it.
        """
        source = place.inputs[0]
        assert source is not None  # a placeholder has its input
        quantiser = op.input
        key = (id(source), quantiser.scale, quantiser.zero_point, quantiser.bits)
        if key not in self._known:
            emitter = Emitter(f"{op.name}/quantise")
            self._known[key] = quantise(emitter, source, quantiser, op.element, f"{op.name}/codes")
            insert_before(self._graph, place, emitter)
        return self._known[key]


def quantise(emitter: Emitter, x: ir.Value, quantiser: Quantiser, element: ir.DataType, name: str) -> ir.Value:
    """clip(round_half_even(x / scale) + zero_point, 0, 2^bits - 1)."""
    if element != ir.DataType.FLOAT:
        x = emitter.cast(x, ir.DataType.FLOAT)
    scale = emitter.constant(quantiser.scale, np.float32)
    if quantiser.bits <= 8:
        zero = emitter.constant(quantiser.zero_point, np.uint8)
        if quantiser.bits == 8:
            return emitter("QuantizeLinear", x, scale, zero, name=name)
        codes = emitter("QuantizeLinear", x, scale, zero)
        return emitter("Clip", codes, None, emitter.constant(quantiser.largest, np.uint8), name=name)
    steps = emitter("Round", emitter("Div", x, scale))
    shifted = emitter("Add", steps, emitter.constant(quantiser.zero_point, np.float32))
    low, high = emitter.constant(0, np.float32), emitter.constant(quantiser.largest, np.float32)
    return emitter.cast(emitter("Clip", shifted, low, high), ir.DataType.INT32, name=name)


def channel_shape(op: MatrixOp) -> tuple[int, ...]:
    """Shape that broadcasts one number per output channel over the accumulator."""
    groups, _, cols = op.codes.shape
    if isinstance(op.shape, ConvShape):
        return (1, groups * cols, *(1 for _ in op.shape.kernel))
    return (*op.shape.batch, 1, cols) if op.shape.batch else (cols,)


def scale_and_bias(emitter: Emitter, accumulator: ir.Value, op: MatrixOp) -> ir.Value:
    """Accumulator (float32, behind the barrier) * s_x * s_w + bias, in the element type of the operation."""
    with np.errstate(over="ignore"):  # weights of 1e30 and inputs of 1e30: the float model overflows too
        factors = (np.float32(op.input.scale) * op.scale).reshape(channel_shape(op))
    y = emitter("Mul", accumulator, emitter.constant(factors, np.float32))
    if op.bias is not None:
        y = emitter("Add", y, emitter.constant(op.bias.reshape(channel_shape(op)), np.float32))
    if op.element != ir.DataType.FLOAT:
        y = emitter.cast(y, op.element)
    return y


def conv_attributes(shape: ConvShape, *, padded: bool, groups: int | None = None) -> dict[str, Any]:
    """Attributes of a Conv node; ``padded``: the input has been padded already."""
    return {
        "kernel_shape": list(shape.kernel),
        "strides": list(shape.strides),
        "dilations": list(shape.dilations),
        "pads": [0] * len(shape.pads) if padded else list(shape.pads),
        "group": shape.groups if groups is None else groups,
    }


def conv_kernel(
    op: MatrixOp, codes: np.ndarray[tuple[int, ...], np.dtype[np.signedinteger]]
) -> np.ndarray[tuple[int, ...], np.dtype[np.signedinteger]]:
    """Codes [G, K, N] as a Conv kernel [G * N, K / prod(kernel), *kernel]."""
    assert isinstance(op.shape, ConvShape)
    groups, rows, cols = codes.shape
    channels = rows // int(np.prod(op.shape.kernel))
    return codes.transpose(0, 2, 1).reshape(groups * cols, channels, *op.shape.kernel)
