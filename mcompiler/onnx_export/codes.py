"""Digital parts that both models share: input quantisers, and scale and bias after an accumulator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from mcompiler.bodies import nodes_with_branches
from mcompiler.graph import site_of
from mcompiler.ir import AnalogLayer, ConvShape, Quantiser, Site
from mcompiler.onnx_export.emitter import Emitter, insert_before


def code_names(skeleton: ir.Model, sites: Sequence[Site]) -> list[str]:
    """Name of the value that carries the input codes of each site: ``<layer>/codes`` of the first that needs them."""
    first: dict[tuple[ir.Graph | ir.Function | None, ir.Value | None, float, int, int], str] = {}
    names = [""] * len(sites)
    for node in nodes_with_branches(skeleton.graph):
        number = site_of(node)
        if number is not None:
            site, source = sites[number], node.inputs[0]
            key = (node.graph, source, site.input.scale, site.input.zero_point, site.input.bits)
            names[number] = first.setdefault(key, f"{site.name}/codes")
    return names


class CodeTable:
    """Input codes of a model: consumers of one tensor with the same quantiser share them, within one graph.

    Codes of up to 8 bits are uint8 tensors, wider ones int32.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[ir.Graph, ir.Value, float, int, int], ir.Value] = {}

    def of(self, place: ir.Node, site: Site) -> ir.Value:
        """Codes of the input of a placeholder node, emitted before it unless they exist.

        The value is named ``<layer>/codes`` after the first layer that needs it.
        """
        source = place.inputs[0]
        assert source is not None  # a placeholder has its input
        quantiser, graph = site.input, place.graph
        assert isinstance(graph, ir.Graph)
        # By graph too: codes that are computed in one branch of an If do not exist in the other.
        key = (graph, source, quantiser.scale, quantiser.zero_point, quantiser.bits)
        if key not in self._known:
            emitter = Emitter(f"{site.name}/quantise")
            codes = quantise(emitter, source, quantiser, site.element, f"{site.name}/codes")
            codes.type = ir.TensorType(ir.DataType.UINT8 if quantiser.bits <= 8 else ir.DataType.INT32)
            self._known[key] = codes
            insert_before(graph, place, emitter)
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
    # QuantizeLinear has wider types in new operator sets only: the same arithmetic in float32, which holds the limits
    # 0 and 2^bits - 1 exactly. Round is half to even, as in QuantizeLinear.
    steps = emitter("Round", emitter("Div", x, scale))
    shifted = emitter("Add", steps, emitter.constant(quantiser.zero_point, np.float32))
    low, high = emitter.constant(0, np.float32), emitter.constant(quantiser.largest, np.float32)
    return emitter.cast(emitter("Clip", shifted, low, high), ir.DataType.INT32, name=name)


def channel_shape(layer: AnalogLayer) -> tuple[int, ...]:
    """Shape that broadcasts one number per output channel over the accumulator."""
    groups, _, cols = layer.matrix.codes.shape
    if isinstance(layer.site.shape, ConvShape):
        return (1, groups * cols, *(1 for _ in layer.site.shape.kernel))
    return (*layer.site.shape.batch, 1, cols) if layer.site.shape.batch else (cols,)


def scale_and_bias(emitter: Emitter, accumulator: ir.Value, layer: AnalogLayer) -> ir.Value:
    """Accumulator (float32, after the barrier) * s_x * s_w + bias, in the element type of the operation."""
    with np.errstate(over="ignore"):  # weights of 1e30 and inputs of 1e30: the float model overflows too
        factors = (np.float32(layer.site.input.scale) * layer.matrix.scale).reshape(channel_shape(layer))
    y = emitter("Mul", accumulator, emitter.constant(factors, np.float32))
    if layer.site.bias is not None:
        y = emitter("Add", y, emitter.constant(layer.site.bias.reshape(channel_shape(layer)), np.float32))
    if layer.site.element != ir.DataType.FLOAT:
        y = emitter.cast(y, layer.site.element)
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
    layer: AnalogLayer, codes: np.ndarray[tuple[int, ...], np.dtype[np.signedinteger]]
) -> np.ndarray[tuple[int, ...], np.dtype[np.signedinteger]]:
    """Codes [G, K, N] as a Conv kernel [G * N, K / prod(kernel), *kernel]."""
    assert isinstance(layer.site.shape, ConvShape)
    groups, rows, cols = codes.shape
    channels = rows // int(np.prod(layer.site.shape.kernel))
    return codes.transpose(0, 2, 1).reshape(groups * cols, channels, *layer.site.shape.kernel)
