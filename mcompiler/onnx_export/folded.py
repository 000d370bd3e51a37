"""The mapped path where every conversion is lossless: slices and phases folded into one exact product."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.conductance import largest_sum
from mcompiler.ir import AnalogLayer, ConvShape, MatMulShape
from mcompiler.onnx_export.codes import conv_attributes
from mcompiler.onnx_export.emitter import Emitter

Codes = npt.NDArray[np.signedinteger[Any]]

FLOAT32_EXACT = 1 << 24
"""float32 holds every integer up to this."""

INT32_LIMIT = 1 << 31


def folded_accumulator(
    emitter: Emitter, codes: ir.Value, layer: AnalogLayer, weights: Codes
) -> tuple[ir.Value, ir.Value]:
    """Exact accumulator of an operation from the codes that its cells hold.

    Args:
        emitter: of the layer's function.
        codes: input codes.
        layer: shapes and input quantiser.
        weights: decoded from the cells, int32 [G, K, N].

    Returns:
        The accumulator as float32 after a barrier that no fusion crosses, and the accumulator for probes.
    """
    # No partial sum exceeds ``bound``, in whatever order a kernel adds: below 2^24 float32 holds every one exactly.
    # Above that the product is cut into exact ones, or taken as an integer product, or in float64.
    largest = max(layer.site.input.zero_point, layer.site.input.largest - layer.site.input.zero_point)
    bound = largest * largest_sum(weights)
    if bound < FLOAT32_EXACT:
        product = _product(emitter, centred(emitter, codes, layer), layer, weights)
        return (_plain_layout if _keeps_blocks(layer) else barrier)(emitter, product), product
    parts = _channel_parts(layer, weights, largest) if bound < INT32_LIMIT else None
    if parts is not None:
        total = _sum_of_parts(emitter, codes, layer, weights, parts)
    elif _fits_bytes(layer, weights) and bound < INT32_LIMIT:
        total = _integer_product(emitter, codes, layer, weights)
    elif isinstance(layer.site.shape, ConvShape):
        total = _sum_of_pieces(emitter, codes, layer, weights)
    else:
        product = _product(emitter, emitter.cast(centred(emitter, codes, layer), ir.DataType.DOUBLE), layer, weights)
        total = emitter.cast(product, ir.DataType.INT64)
    return emitter.cast(total, ir.DataType.FLOAT), total


def centred(emitter: Emitter, codes: ir.Value, layer: AnalogLayer) -> ir.Value:
    """q_x - z_x as float32: padding with zero is then padding with z_x.

    Cast and Sub, because onnxruntime requantises the weights of a Conv that follows a DequantizeLinear.
    """
    values = emitter.cast(codes, ir.DataType.FLOAT)
    if layer.site.input.zero_point == 0:
        return values
    return emitter("Sub", values, emitter.constant(layer.site.input.zero_point, np.float32))


def barrier(emitter: Emitter, value: ir.Value) -> ir.Value:
    """A Clip that changes nothing and keeps onnxruntime from folding scales into integer weights.

    Its fusions at the level basic (Conv + Mul, Conv + Add) multiply the weights by the scale that follows, which rounds
    them: their sums are not exact any more. No fusion crosses a Clip, and its limits hold every sum.
    """
    low, high = emitter.constant(-FLOAT32_EXACT, np.float32), emitter.constant(FLOAT32_EXACT, np.float32)
    return emitter("Clip", value, low, high)


def _keeps_blocks(layer: AnalogLayer) -> bool:
    """Whether nodes that read a convolution would get its result in onnxruntime's blocked layout (NCHWc).

    In that layout normalisations and averages have other kernels, which add in another order and round differently than
    those after the integer convolution of the reference. The addition of a bias ends the layout.
    """
    return isinstance(layer.site.shape, ConvShape) and layer.site.bias is None


def _plain_layout(emitter: Emitter, value: ir.Value) -> ir.Value:
    """A barrier that the blocked layout does not cross either: there are no blocked kernels for Cast."""
    return emitter.cast(emitter.cast(value, ir.DataType.INT32), ir.DataType.FLOAT)


def _weight(emitter: Emitter, weights: Codes, like: ir.DataType) -> ir.Value:
    """Weights in the smallest integer type that holds them, cast in the graph (onnxruntime folds the cast)."""
    low, high = int(weights.min(initial=0)), int(weights.max(initial=0))
    kind = np.int8 if low >= -128 and high <= 127 else np.int16 if low >= -32768 and high <= 32767 else np.int32
    return emitter.cast(emitter.constant(weights.astype(kind)), like)


def _product(emitter: Emitter, values: ir.Value, layer: AnalogLayer, weights: Codes) -> ir.Value:
    """Product of centred codes with the weights, in float32 (Conv) or in the type of the values (MatMul)."""
    groups, rows, cols = weights.shape
    if isinstance(layer.site.shape, ConvShape):
        channels = rows // int(np.prod(layer.site.shape.kernel))
        kernel = weights.transpose(0, 2, 1).reshape(groups * cols, channels, *layer.site.shape.kernel)
        return emitter(
            "Conv",
            values,
            _weight(emitter, kernel, ir.DataType.FLOAT),
            **conv_attributes(layer.site.shape, padded=False),
        )
    kind = ir.DataType.DOUBLE if _is_double(values) else ir.DataType.FLOAT
    matrix = weights.reshape(*layer.site.shape.batch, rows, cols) if layer.site.shape.batch else weights[0]
    return emitter("MatMul", values, _weight(emitter, matrix, kind))


def _is_double(value: ir.Value) -> bool:
    producer = value.producer()
    return (
        producer is not None and producer.op_type == "Cast" and producer.attributes["to"].as_int() == ir.DataType.DOUBLE
    )


def _fits_bytes(layer: AnalogLayer, weights: Codes) -> bool:
    """Whether onnxruntime's 8-bit products apply: MatMulInteger on uint8 codes and uint8 weights around 128."""
    if isinstance(layer.site.shape, ConvShape) or layer.site.input.bits > 8:
        return False
    return bool(weights.min(initial=0) >= -128 and weights.max(initial=0) <= 127)


def _integer_product(emitter: Emitter, codes: ir.Value, layer: AnalogLayer, weights: Codes) -> ir.Value:
    """Exact product in int32. Weights are uint8 around 128: with int8 ones some processors saturate at 16 bits."""
    _, rows, cols = weights.shape
    batch = layer.site.shape.batch if isinstance(layer.site.shape, MatMulShape) else ()
    # MatMulInteger subtracts both zero points inside: the sum of (codes - z_x) x (stored - 128) is the accumulator.
    stored = (weights + weights.dtype.type(128)).astype(np.uint8).reshape(*batch, rows, cols)
    zero_x, zero_w = emitter.constant(layer.site.input.zero_point, np.uint8), emitter.constant(128, np.uint8)
    return emitter("MatMulInteger", codes, emitter.constant(stored), zero_x, zero_w)


def _channel_parts(layer: AnalogLayer, weights: Codes, largest: int) -> list[tuple[int, int]] | None:
    """Convolutions: runs of input channels whose own sums stay below 2^24; None where one channel alone does not."""
    groups, rows, _ = weights.shape
    if groups > 1 or not isinstance(layer.site.shape, ConvShape):
        return None
    step = int(np.prod(layer.site.shape.kernel))
    sums = np.abs(weights[0]).reshape(rows // step, step, -1).sum(axis=1, dtype=np.int64) * largest  # [channels, N]
    parts: list[tuple[int, int]] = []
    # Runs as long as possible: a channel that would take a sum to 2^24 begins the next run.
    start, running = 0, np.zeros(sums.shape[1], dtype=np.int64)
    for channel, own in enumerate(sums):
        if own.max(initial=0) >= FLOAT32_EXACT:
            return None
        running = running + own
        if running.max(initial=0) >= FLOAT32_EXACT:
            parts.append((start, channel))
            start, running = channel, own
    return [*parts, (start, len(sums))]


def _sum_of_parts(
    emitter: Emitter, codes: ir.Value, layer: AnalogLayer, weights: Codes, parts: list[tuple[int, int]]
) -> ir.Value:
    """Add exact float32 products over runs of input channels, as integers."""
    values = centred(emitter, codes, layer)
    step = weights.shape[1] // parts[-1][1]
    axis = emitter.ints(1)
    total: ir.Value | None = None
    for start, end in parts:
        piece = emitter("Slice", values, emitter.ints(start), emitter.ints(end), axis)
        product = _product(emitter, piece, layer, weights[:, start * step : end * step])
        part = emitter.cast(barrier(emitter, product), ir.DataType.INT32)
        total = part if total is None else emitter("Add", total, part)
    assert total is not None  # there is at least one part
    return total


def _sum_of_pieces(emitter: Emitter, codes: ir.Value, layer: AnalogLayer, weights: Codes) -> ir.Value:
    """Wide convolutions: weights and inputs in pieces so small that each product is exact in float32, added in int64.

    Weights are cut into signed pieces of ``bits`` bits, inputs into digits of as many; the widest that fits is taken.
    """
    rows = weights.shape[1]
    zero = layer.site.input.zero_point
    integers = emitter.cast(codes, ir.DataType.INT32)
    centred = emitter("Sub", integers, emitter.constant(zero, np.int32))
    bits = max(b for b in range(1, 12) if (1 << b) * (1 << b) * rows <= FLOAT32_EXACT)
    base = 1 << bits
    pieces: list[ir.Value] = []
    # Centred codes have one bit more than codes, for the sign: after these digits -1 or 0 is left, the sign itself.
    for _ in range(-(-(layer.site.input.bits + 1) // bits)):
        low = emitter("Mod", centred, emitter.constant(base, np.int32))  # non-negative: Mod takes the divisor's sign
        pieces.append(emitter.cast(low, ir.DataType.FLOAT))
        centred = emitter("Div", emitter("Sub", centred, low), emitter.constant(base, np.int32))
    pieces.append(emitter.cast(centred, ir.DataType.FLOAT))
    total: ir.Value | None = None
    rest = weights.astype(np.int64)
    shift = 0
    while rest.any() or total is None:
        digit = np.sign(rest) * (np.abs(rest) % base)
        rest = (rest - digit) // base
        for place, piece in enumerate(pieces):
            product = barrier(emitter, _product(emitter, piece, layer, digit.astype(np.int32)))
            part = emitter.cast(product, ir.DataType.INT64)
            part = emitter("Mul", part, emitter.constant(1 << (shift + place * bits), np.int64))
            total = part if total is None else emitter("Add", total, part)
        shift += bits
    return total
