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


def folded_accumulator(emitter: Emitter, codes: ir.Value, op: AnalogLayer, weights: Codes) -> tuple[ir.Value, ir.Value]:
    """Exact accumulator of an operation from the codes that its cells hold.

    Args:
        emitter: of the layer's function.
        codes: input codes.
        op: shapes and input quantiser.
        weights: decoded from the cells, int32 [G, K, N].

    Returns:
        The accumulator as float32 behind a barrier that no fusion crosses, and the accumulator for probes.
    """
    largest = max(op.site.input.zero_point, op.site.input.largest - op.site.input.zero_point)
    bound = largest * largest_sum(weights)
    if bound < FLOAT32_EXACT:
        product = _product(emitter, centred(emitter, codes, op), op, weights)
        return (_plain_layout if _keeps_blocks(op) else barrier)(emitter, product), product
    parts = _channel_parts(op, weights, largest) if bound < INT32_LIMIT else None
    if parts is not None:
        total = _sum_of_parts(emitter, codes, op, weights, parts)
    elif _fits_bytes(op, weights) and bound < INT32_LIMIT:
        total = _integer_product(emitter, codes, op, weights)
    elif isinstance(op.site.shape, ConvShape):
        total = _sum_of_pieces(emitter, codes, op, weights)
    else:
        product = _product(emitter, emitter.cast(centred(emitter, codes, op), ir.DataType.DOUBLE), op, weights)
        total = emitter.cast(product, ir.DataType.INT64)
    return emitter.cast(total, ir.DataType.FLOAT), total


def centred(emitter: Emitter, codes: ir.Value, op: AnalogLayer) -> ir.Value:
    """q_x - z_x as float32: padding with zero is then padding with z_x.

    Cast and Sub, because onnxruntime takes a DequantizeLinear before a Conv as leave to requantise the weights.
    """
    values = emitter.cast(codes, ir.DataType.FLOAT)
    if op.site.input.zero_point == 0:
        return values
    return emitter("Sub", values, emitter.constant(op.site.input.zero_point, np.float32))


def barrier(emitter: Emitter, value: ir.Value) -> ir.Value:
    """A Clip that changes nothing and keeps onnxruntime from folding scales into integer weights."""
    low, high = emitter.constant(-FLOAT32_EXACT, np.float32), emitter.constant(FLOAT32_EXACT, np.float32)
    return emitter("Clip", value, low, high)


def _keeps_blocks(op: AnalogLayer) -> bool:
    """Whether onnxruntime would hand its blocked layout on to what reads the convolution: adding a bias ends it.

    Normalisations and averages take other, differently rounding kernels there than behind the reference.
    """
    return isinstance(op.site.shape, ConvShape) and op.site.bias is None


def _plain_layout(emitter: Emitter, value: ir.Value) -> ir.Value:
    """A barrier that the blocked layout does not cross either."""
    return emitter.cast(emitter.cast(value, ir.DataType.INT32), ir.DataType.FLOAT)


def _weight(emitter: Emitter, weights: Codes, like: ir.DataType) -> ir.Value:
    """Weights in the smallest integer type that holds them, cast in the graph (onnxruntime folds the cast)."""
    low, high = int(weights.min(initial=0)), int(weights.max(initial=0))
    kind = np.int8 if low >= -128 and high <= 127 else np.int16 if low >= -32768 and high <= 32767 else np.int32
    return emitter.cast(emitter.constant(weights.astype(kind)), like)


def _product(emitter: Emitter, values: ir.Value, op: AnalogLayer, weights: Codes) -> ir.Value:
    """Product of centred codes with the weights, in float32 (Conv) or in the type of the values (MatMul)."""
    groups, rows, cols = weights.shape
    if isinstance(op.site.shape, ConvShape):
        channels = rows // int(np.prod(op.site.shape.kernel))
        kernel = weights.transpose(0, 2, 1).reshape(groups * cols, channels, *op.site.shape.kernel)
        return emitter(
            "Conv", values, _weight(emitter, kernel, ir.DataType.FLOAT), **conv_attributes(op.site.shape, padded=False)
        )
    kind = ir.DataType.DOUBLE if _is_double(values) else ir.DataType.FLOAT
    matrix = weights.reshape(*op.site.shape.batch, rows, cols) if op.site.shape.batch else weights[0]
    return emitter("MatMul", values, _weight(emitter, matrix, kind))


def _is_double(value: ir.Value) -> bool:
    producer = value.producer()
    return (
        producer is not None and producer.op_type == "Cast" and producer.attributes["to"].as_int() == ir.DataType.DOUBLE
    )


def _fits_bytes(op: AnalogLayer, weights: Codes) -> bool:
    """Whether onnxruntime's 8-bit products apply: MatMulInteger on uint8 codes and uint8 weights around 128."""
    if isinstance(op.site.shape, ConvShape) or op.site.input.bits > 8:
        return False
    return bool(weights.min(initial=0) >= -128 and weights.max(initial=0) <= 127)


def _integer_product(emitter: Emitter, codes: ir.Value, op: AnalogLayer, weights: Codes) -> ir.Value:
    """Exact product in int32. Weights are uint8 around 128: with int8 ones some processors saturate at 16 bits."""
    _, rows, cols = weights.shape
    batch = op.site.shape.batch if isinstance(op.site.shape, MatMulShape) else ()
    stored = (weights + weights.dtype.type(128)).astype(np.uint8).reshape(*batch, rows, cols)
    zero_x, zero_w = emitter.constant(op.site.input.zero_point, np.uint8), emitter.constant(128, np.uint8)
    return emitter("MatMulInteger", codes, emitter.constant(stored), zero_x, zero_w)


def _channel_parts(op: AnalogLayer, weights: Codes, largest: int) -> list[tuple[int, int]] | None:
    """Convolutions: runs of input channels whose own sums stay below 2^24; None where one channel alone does not."""
    groups, rows, _ = weights.shape
    if groups > 1 or not isinstance(op.site.shape, ConvShape):
        return None
    step = int(np.prod(op.site.shape.kernel))
    sums = np.abs(weights[0]).reshape(rows // step, step, -1).sum(axis=1, dtype=np.int64) * largest  # [channels, N]
    parts: list[tuple[int, int]] = []
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
    emitter: Emitter, codes: ir.Value, op: AnalogLayer, weights: Codes, parts: list[tuple[int, int]]
) -> ir.Value:
    """Add exact float32 products over runs of input channels, as integers."""
    values = centred(emitter, codes, op)
    step = weights.shape[1] // parts[-1][1]
    axis = emitter.ints(1)
    total: ir.Value | None = None
    for start, end in parts:
        piece = emitter("Slice", values, emitter.ints(start), emitter.ints(end), axis)
        product = _product(emitter, piece, op, weights[:, start * step : end * step])
        part = emitter.cast(barrier(emitter, product), ir.DataType.INT32)
        total = part if total is None else emitter("Add", total, part)
    assert total is not None  # there is at least one part
    return total


def _sum_of_pieces(emitter: Emitter, codes: ir.Value, op: AnalogLayer, weights: Codes) -> ir.Value:
    """Wide convolutions: weights and inputs in pieces so small that each product is exact in float32, added in int64.

    Weights are cut into signed pieces of ``bits`` bits, inputs into bytes of as many; the widest that fits is taken.
    """
    rows = weights.shape[1]
    zero = op.site.input.zero_point
    integers = emitter.cast(codes, ir.DataType.INT32)
    centred = emitter("Sub", integers, emitter.constant(zero, np.int32))
    bits = max(b for b in range(1, 12) if (1 << b) * (1 << b) * rows <= FLOAT32_EXACT)
    base = 1 << bits
    pieces: list[ir.Value] = []
    for _ in range(-(-(op.site.input.bits + 1) // bits)):
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
            product = barrier(emitter, _product(emitter, piece, op, digit.astype(np.int32)))
            part = emitter.cast(product, ir.DataType.INT64)
            part = emitter("Mul", part, emitter.constant(1 << (shift + place * bits), np.int64))
            total = part if total is None else emitter("Add", total, part)
        shift += bits
    return total
