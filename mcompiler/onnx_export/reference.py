"""reference.onnx: the quantised model with integer operators and nothing of the crossbar."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.bodies import nodes_with_branches
from mcompiler.conductance import largest_sum
from mcompiler.graph import site_of
from mcompiler.ir import ANALOG_DOMAIN, AnalogLayer, ConvShape, MatrixProgram
from mcompiler.onnx_export.codes import CodeTable, conv_attributes, conv_kernel, scale_and_bias
from mcompiler.onnx_export.emitter import Emitter, insert_before


def build_reference(program: MatrixProgram) -> ir.Model:
    """The quantised reference: for every layer QuantizeLinear, ConvInteger or MatMulInteger, then scale and bias.

    Values ``<layer>/codes`` and ``<layer>/accumulator`` carry what ``verify`` compares; accumulators are int32, or
    int64 where 32 bits could overflow.
    """
    model = program.lowered.skeleton.clone()
    layers = program.layers
    table = CodeTable()
    for node in list(nodes_with_branches(model.graph)):
        site = site_of(node)
        if site is None:
            continue
        layer = layers[site]
        codes = table.of(node, layer.site)
        emitter = Emitter(f"{layer.site.name}/reference")
        accumulator = reference_accumulator(emitter, codes, layer)
        accumulator.type = ir.TensorType(_accumulator_type(layer))
        y = scale_and_bias(emitter, emitter.cast(accumulator, ir.DataType.FLOAT), layer)
        assert isinstance(node.graph, ir.Graph)
        insert_before(node.graph, node, emitter)
        replace_node(node, y)
    model.opset_imports.pop(ANALOG_DOMAIN, None)
    return model


def replace_node(node: ir.Node, value: ir.Value) -> None:
    """Let ``value`` take the place of a node's output, under that output's name."""
    old = node.outputs[0]
    value.type, value.shape = old.type, old.shape
    name, old.name = old.name, f"{old.name}/replaced"
    value.name = name
    ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
    assert node.graph is not None
    node.graph.remove(node, safe=True)


def reference_accumulator(emitter: Emitter, codes: ir.Value, layer: AnalogLayer) -> ir.Value:
    """Sum over k of (q_x - z_x) q_w as int32 or int64, named ``<layer>/accumulator``.

    Codes of more than 8 bits are cut into bytes (weights into a signed high and a 7-bit low part), multiplied piece by
    piece and added in int64.
    """
    name = f"{layer.site.name}/accumulator"
    if _accumulator_type(layer) == ir.DataType.INT32:
        return _product(emitter, codes, layer.site.input.zero_point, layer.matrix.codes, layer=layer, name=name)
    inputs = _input_pieces(emitter, codes, layer)
    total: ir.Value | None = None
    for weight, weight_shift in _weight_pieces(layer.matrix.codes):
        for piece, zero, input_shift in inputs:
            part = emitter.cast(_product(emitter, piece, zero, weight, layer=layer), ir.DataType.INT64)
            part = emitter("Mul", part, emitter.constant(1 << (weight_shift + input_shift), np.int64))
            total = part if total is None else emitter("Add", total, part)
    assert total is not None  # both have pieces
    return emitter("Identity", total, name=name)


def _accumulator_type(layer: AnalogLayer) -> ir.DataType:
    """INT32 where one integer product holds every sum, else INT64."""
    codes = layer.matrix.codes
    low, high = (int(codes.min()), int(codes.max())) if codes.size else (0, 0)
    in_bytes = layer.site.input.bits <= 8 and low >= -128 and high <= 127
    return ir.DataType.INT32 if in_bytes and _bound(layer) < 1 << 31 else ir.DataType.INT64


def _bound(layer: AnalogLayer) -> int:
    """No sum of the operation exceeds this in magnitude."""
    largest = max(layer.site.input.zero_point, layer.site.input.largest - layer.site.input.zero_point)
    return largest * largest_sum(layer.matrix.codes)


def _input_pieces(emitter: Emitter, codes: ir.Value, layer: AnalogLayer) -> list[tuple[ir.Value, int, int]]:
    """(bytes of the codes, their zero point, shift)."""
    zero = layer.site.input.zero_point
    if layer.site.input.bits <= 8:
        return [(codes, zero, 0)]
    base = emitter.constant(256, np.int32)
    low, high = emitter("Mod", codes, base), emitter("Div", codes, base)
    return [
        (emitter.cast(low, ir.DataType.UINT8), zero % 256, 0),
        (emitter.cast(high, ir.DataType.UINT8), zero // 256, 8),
    ]


def _weight_pieces(codes: npt.NDArray[np.int16]) -> list[tuple[npt.NDArray[np.int16], int]]:
    """Signed bytes and shifts that add up to the codes."""
    if codes.size == 0 or (codes.min() >= -128 and codes.max() <= 127):
        return [(codes, 0)]
    low = codes & 0x7F
    high = (codes - low) >> 7
    return [(low, 0), *((piece, shift + 7) for piece, shift in _weight_pieces(high))]


def _product(
    emitter: Emitter,
    codes: ir.Value,
    zero: int,
    weights: npt.NDArray[np.int16],
    *,
    layer: AnalogLayer,
    name: str | None = None,
) -> ir.Value:
    """Integer product of uint8 codes with weights in -128..127, stored as uint8 around 128 (see docs/arithmetic.md)."""
    zero_x, zero_w = emitter.constant(zero, np.uint8), emitter.constant(128, np.uint8)
    if isinstance(layer.site.shape, ConvShape):
        kernel = emitter.constant(_around_128(conv_kernel(layer, weights)))
        return emitter(
            "ConvInteger", codes, kernel, zero_x, zero_w, name=name, **conv_attributes(layer.site.shape, padded=False)
        )
    matrix = weights.reshape(*layer.site.shape.batch, *weights.shape[1:]) if layer.site.shape.batch else weights[0]
    return emitter("MatMulInteger", codes, emitter.constant(_around_128(matrix)), zero_x, zero_w, name=name)


def _around_128(weights: npt.NDArray[np.signedinteger[Any]]) -> npt.NDArray[np.uint8]:
    """Weights in -128..127 as uint8 with zero point 128."""
    stored: npt.NDArray[np.uint8] = np.add(weights, 128, dtype=np.uint8, casting="unsafe")
    return stored
