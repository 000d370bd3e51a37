"""After the converters: codes of slices, polarities and reads to one sum per channel, and that to the output."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.conductance import ReadBlock
from mcompiler.encodings import Decoding
from mcompiler.onnx_export.codes import channel_shape, conv_attributes
from mcompiler.onnx_export.emitter import Emitter, sizes_of
from mcompiler.onnx_export.folded import FLOAT32_EXACT
from mcompiler.onnx_export.lossy import (
    LossyLayer,
    ReadSegment,
    converts_extra,
    digital_sum,
    in_finest,
    lines_of,
    place_values_of,
    word_lines,
)


def combined(emitter: Emitter, codes: ir.Value, layer: LossyLayer, block: ReadBlock, segment: ReadSegment) -> ir.Value:
    """Slices, polarities, unit and reference columns to one sum per channel: [vectors, channels].

    int32, or float32 of a chip, whose digital corrections are no integers.
    """
    lines, (conversions, held) = lines_of(layer, block), block.place_value.shape
    clean = not block.inputs.any() and layer.adc.decoding is Decoding.CLEAN
    place_values = place_values_of(block, layer) if clean else block.place_value
    code_values, finest = in_finest(place_values, block, layer), 1 << layer.zoom
    units = conversions * held  # first row of the unit columns; those of the reference columns follow
    references = units + lines.units
    matrix = np.zeros((references + lines.references, segment.channels), dtype=np.float64)
    columns, each = segment.held.start + np.arange(held), np.arange(held)
    for conversion in range(conversions):
        matrix[conversion * held + each, columns] = code_values[conversion]
        if lines.references:  # the pedestal comes off each code, with the reference of its own array
            matrix[references + lines.owner[conversion], columns] -= finest * place_values[conversion]
    if lines.units:
        # Shift and flips are undone by the sum of the inputs, which is the code of the unit column of any array of the
        # read. That has the pedestal in it like all codes, so that a reference comes off it too.
        matrix[units + lines.owner[0], columns] += finest * block.inputs
        if lines.references:
            matrix[references + lines.owner[0], columns] -= finest * block.inputs
    if layer.physics is not None:
        return _combine_chip(emitter, codes, layer, block, matrix=matrix, held=segment.held)
    if (
        conversions == 1
        and held == segment.channels
        and not lines.units
        and not lines.references
        and (code_values == 1).all()
    ):
        return codes
    product, _ = _weighted(emitter, codes, layer, matrix)
    return emitter.cast(product, ir.DataType.INT32)


def _weighted(
    emitter: Emitter, codes: ir.Value, layer: LossyLayer, matrix: npt.NDArray[np.float64]
) -> tuple[ir.Value, type[np.floating[Any]]]:
    """Codes times a matrix, in a type that holds every sum; and that type."""
    # A column's sum is at most the sum of its factors times the largest code of all phases together; below 2^24 float32
    # adds whole numbers without error in any order.
    bound = np.abs(matrix).sum(axis=0).max() * (layer.adc.largest + 1) * (1 << layer.op.site.input.bits)
    wide = bound >= FLOAT32_EXACT
    kind, dtype = (ir.DataType.DOUBLE, np.float64) if wide else (ir.DataType.FLOAT, np.float32)
    return emitter("MatMul", emitter.cast(codes, kind), emitter.constant(matrix, dtype)), dtype


def _combine_chip(
    emitter: Emitter,
    codes: ir.Value,
    layer: LossyLayer,
    block: ReadBlock,
    *,
    matrix: npt.NDArray[np.float64],
    held: slice,
) -> ir.Value:
    """As ``combined``, with a chip's digital corrections, which are no integers: float32 [vectors, channels]."""
    extra = block.extra_columns
    scale = np.ones(len(matrix))
    added = np.zeros((1, matrix.shape[1]))
    if block.constant is not None:
        added[0, held] += block.constant * (1 << layer.zoom)
    if extra is not None:
        scale[block.place_value.size :] = extra.scale
        added[0] += extra.constant @ matrix[block.place_value.size :]
    rows = scale[:, None] * matrix
    if block.scale is not None:
        rows[: block.place_value.size] *= block.scale.reshape(-1)[:, None]  # each of these rows is of one conversion
    product, dtype = _weighted(emitter, codes, layer, rows)
    if added.any():
        phases = float((1 << (layer.step * np.arange(layer.phases))).sum())
        product = emitter("Add", product, emitter.constant(added * phases, dtype))
    return emitter.cast(product, ir.DataType.FLOAT) if dtype is np.float64 else product


def count_terms(
    emitter: Emitter, source: ir.Value, layer: LossyLayer, block: ReadBlock, segment: ReadSegment
) -> ir.Value:
    """Terms of the digital sum of the inputs, in codes: float64 [vectors, channels], exact.

    It takes the pedestal off (COUNT), and replaces the unit column where the target sums inputs digitally.
    """
    unit, _ = converts_extra(layer)
    # Each code, unit column included, contains pedestal x (sum of the inputs); it counts with its place value.
    total = block.place_value.sum(axis=0) + (block.inputs if unit else 0)
    coefficients = np.zeros((1, segment.channels))
    if layer.adc.decoding is Decoding.COUNT:
        coefficients[0, segment.held] -= layer.gain * layer.adc.pedestal * total
    if digital_sum(layer):
        coefficients[0, segment.held] += layer.gain * block.inputs
    counted = _input_sum(emitter, source, layer, block)
    return emitter("Mul", emitter.cast(counted, ir.DataType.DOUBLE), emitter.constant(coefficients, np.float64))


def _input_sum(emitter: Emitter, source: ir.Value, layer: LossyLayer, block: ReadBlock) -> ir.Value:
    """Sum of the input codes over the block's word lines: float32 [vectors, 1]."""
    conv = layer.conv
    values = emitter.cast(source, ir.DataType.FLOAT)
    if conv is None:
        mask = np.zeros((layer.op.matrix.codes.shape[1], 1), dtype=np.float32)
        mask[block.rows] = 1
        return emitter("MatMul", values, emitter.constant(mask))
    rank = len(conv.kernel)
    channels, channel, position = word_lines(layer, block)
    kernel = np.zeros((1, channels, int(np.prod(conv.kernel))), dtype=np.float32)
    kernel[0, channel, position] = 1
    first = emitter("Transpose", values, perm=[0, rank + 1, *range(1, rank + 1)])
    kernel = kernel.reshape(1, -1, *conv.kernel)
    summed = emitter(
        "Conv", first, emitter.constant(kernel), **conv_attributes(conv, padded=layer.pads_itself, groups=1)
    )
    return emitter("Reshape", summed, emitter.ints(-1, 1))


def restored_shape(emitter: Emitter, total: ir.Value, source: ir.Value, layer: LossyLayer) -> ir.Value:
    """[vectors, channels] of a convolution back to [batch, channels, *spatial]."""
    conv = layer.conv
    assert conv is not None
    sizes = [_output_size(emitter, source, layer, axis) for axis in range(len(conv.kernel))]
    groups, _, cols = layer.op.matrix.codes.shape
    shaped = emitter("Reshape", total, emitter("Concat", emitter.ints(-1), *sizes, emitter.ints(groups * cols), axis=0))
    rank = len(conv.kernel)
    return emitter("Transpose", shaped, perm=[0, rank + 1, *range(1, rank + 1)])


def _output_size(emitter: Emitter, source: ir.Value, layer: LossyLayer, axis: int) -> ir.Value:
    """Output size along a spatial axis, int64 [1]."""
    conv = layer.conv
    assert conv is not None
    span = conv.dilations[axis] * (conv.kernel[axis] - 1) + 1
    if not layer.pads_itself:
        span -= conv.pads[axis] + conv.pads[axis + len(conv.kernel)]
    if layer.source_sizes is not None:
        return emitter.ints((layer.source_sizes[axis] - span) // conv.strides[axis] + 1)
    size = emitter("Sub", sizes_of(emitter, source, axis + 1, axis + 2), emitter.ints(span))
    return emitter("Add", emitter("Div", size, emitter.ints(conv.strides[axis])), emitter.ints(1))


def scaled_output(
    emitter: Emitter, total: ir.Value, layer: LossyLayer, weights: npt.NDArray[np.signedinteger[Any]]
) -> tuple[ir.Value, ir.Value]:
    """Zero point, scale and bias after the codes: the output, and the accumulator for probes (float32)."""
    site, shape = layer.op.site, channel_shape(layer.op)
    values = emitter.cast(total, ir.DataType.FLOAT)
    gain = np.float64(layer.gain)
    correction = -site.input.zero_point * weights.sum(axis=1, dtype=np.int64).astype(np.float64)  # [G, N]
    scale = np.float32(site.input.scale) * layer.op.matrix.scale
    offset = correction * scale + (0.0 if site.bias is None else site.bias)
    y = emitter("Mul", values, emitter.constant((scale / gain).reshape(shape), np.float32))
    y = emitter("Add", y, emitter.constant(offset.reshape(shape), np.float32))
    probe = emitter("Mul", values, emitter.constant(1 / gain, np.float32))
    probe = emitter("Add", probe, emitter.constant(correction.reshape(shape), np.float32))
    if site.element != ir.DataType.FLOAT:
        y = emitter.cast(y, site.element)
    return y, probe
