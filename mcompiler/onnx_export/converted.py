"""The mapped path through lossy converters: every phase, slice and read has its own ADC code.

Phases are stacked on the batch axis, conversions (slices, polarities) on the channel axis. Where one conversion sees a
clean sum of small integers, QLinearConv and QLinearMatMul are that converter to the bit: their requantisation rounds
float32(sum) * gain half to even and saturates. Everything else takes a float product, Mul, Round and Clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.conductance import AdcTransfer, ReadBlock
from mcompiler.encodings import Decoding
from mcompiler.errors import CompileError
from mcompiler.geometry import span
from mcompiler.ir import AnalogLayer, ConvShape
from mcompiler.onnx_export.codes import conv_attributes
from mcompiler.onnx_export.converter import ConvertedLines, Converter, convert_read, narrow, zero_code
from mcompiler.onnx_export.emitter import Emitter
from mcompiler.onnx_export.fluctuations import ArrayProduct
from mcompiler.onnx_export.folded import FLOAT32_EXACT, barrier
from mcompiler.onnx_export.layer import MappedLayer
from mcompiler.onnx_export.lossy import (
    LossyLayer,
    ReadSegment,
    digital_sum,
    lines_of,
    present_place_values,
    same_place_values,
    word_lines,
)
from mcompiler.onnx_export.phases import channels_last, padded_codes, phase_planes
from mcompiler.onnx_export.shift_add import combined, count_terms, restored_shape, scaled_output
from mcompiler.target import Rounding, Target


def converted_layer(
    emitter: Emitter,
    codes: ir.Value,
    mapped: MappedLayer,
    adc: AdcTransfer,
    target: Target,
    sizes: tuple[int, ...] | None,
    drawn: ir.Value | None = None,
) -> tuple[ir.Value, ir.Value]:
    """Output of a layer whose conversions are not lossless, and its accumulator for probes.

    Args:
        emitter: of the layer's function.
        codes: input codes.
        mapped: shapes and scales; the reads, and the weights for the digital zero-point correction.
        adc: the layer's converter.
        target: phases.
        sizes: spatial sizes of a convolution's input where they are static: onnxruntime then drops transposes.
        drawn: the normal numbers of a run, where conversions fluctuate.

    Raises:
        CompileError: a product with a batched constant (one matrix per batch element).
    """
    op, blocks = mapped.op, mapped.blocks
    if not isinstance(op.site.shape, ConvShape) and op.site.shape.batch:
        raise CompileError(
            "a product with one constant matrix per batch element needs lossless converters; raise converters.adc.bits",
            op.site.name,
        )
    phases = -(-op.site.input.bits // target.converters.dac.bits)
    # Up to 256 codes are bytes in the graph (code 0 is byte 128 where codes are signed); kernels round half to even.
    in_bytes = adc.largest - adc.smallest <= 255 and adc.rounding is Rounding.HALF_EVEN
    integer = in_bytes and _fits_integer_kernels(op, blocks, adc, target)
    zoom = max((int(block.zoom.max(initial=0)) for block in blocks if block.zoom is not None), default=0)
    layer = LossyLayer(
        op=op,
        adc=adc,
        target=target,
        phases=phases,
        integer=integer,
        bytes=in_bytes,
        sizes=sizes,
        physics=mapped.physics,
        drawn=drawn,
        zoom=zoom,
    )
    segments = _segments(op, blocks)
    padded = padded_codes(emitter, codes, layer)
    if _is_direct(layer, segments):
        return scaled_output(emitter, _convert_conv(emitter, padded, layer, blocks[0]), layer, mapped.weights)
    source = channels_last(emitter, padded, layer)
    sums = [_segment(emitter, source, layer, segment) for segment in segments]
    joined = sums[0] if len(sums) == 1 else emitter("Concat", *sums, axis=-1)
    if layer.conv is not None:
        return scaled_output(emitter, restored_shape(emitter, joined, source, layer), layer, mapped.weights)
    leading = emitter("Slice", emitter("Shape", codes), emitter.ints(0), emitter.ints(-1))
    shape = emitter("Concat", leading, emitter.ints(op.matrix.codes.shape[2]), axis=0)
    return scaled_output(emitter, emitter("Reshape", joined, shape), layer, mapped.weights)


def _is_direct(layer: LossyLayer, segments: Sequence[ReadSegment]) -> bool:
    """A convolution of one read, one phase and one conversion per channel: its codes are its sums."""
    one = layer.phases == 1 and len(segments) == 1 and not layer.zoom
    if layer.conv is None or not one or layer.adc.decoding is not Decoding.CLEAN:
        return False
    blocks = segments[0].blocks
    return (
        len(blocks) == 1
        and blocks[0].groups == layer.op.matrix.codes.shape[0]
        and bool(
            not blocks[0].inputs.any()
            and blocks[0].place_value.shape[0] == 1
            and (present_place_values(blocks[0]) == 1).all()
        )
    )


def _fits_integer_kernels(layer: AnalogLayer, blocks: Sequence[ReadBlock], adc: AdcTransfer, target: Target) -> bool:
    """Whether QLinearConv and QLinearMatMul compute this conversion exactly, 16-bit saturation included."""
    largest = max((_largest(block) for block in blocks), default=0.0)
    inputs = (1 << min(target.converters.dac.bits, layer.site.input.bits)) - 1
    on_levels = all(np.issubdtype(block.levels.dtype, np.integer) for block in blocks)
    # Levels are int8. On processors without VNNI the kernels add pairs of products in 16 bits, hence the last bound.
    # A pedestal is no integer in general, and levels with a pedestal are none either.
    return on_levels and adc.decoding is Decoding.CLEAN and largest <= 127 and 2 * largest * inputs <= 32767


def _largest(block: ReadBlock) -> float:
    """The largest level of any cell, in steps of the range of its converter."""
    levels = block.levels if block.zoom is None else block.levels * block.zoomed
    return float(np.abs(levels).max(initial=0))


def _segments(layer: AnalogLayer, blocks: Sequence[ReadBlock]) -> list[ReadSegment]:
    """Runs of groups that share reads; together they cover all groups."""
    # Groups without cells have no read. They join the run before them (the first ones the first run), where their
    # channels are 0, so that the runs have the channels of all groups in their order.
    by_groups: dict[tuple[int, int], list[ReadBlock]] = {}
    for block in blocks:
        by_groups.setdefault((block.group, block.groups), []).append(block)
    keys = sorted(by_groups)
    starts = [0, *(group for group, _ in keys[1:])]
    groups, _, cols = layer.matrix.codes.shape
    ends = [*starts[1:], groups]
    return [
        ReadSegment(start, end, tuple(by_groups[key]), cols) for start, end, key in zip(starts, ends, keys, strict=True)
    ]


# --- reads -----------------------------------------------------------------------------------------------------------


def _segment(emitter: Emitter, source: ir.Value, layer: LossyLayer, segment: ReadSegment) -> ir.Value:
    """Sum of all reads of a run of groups, in ADC codes: int32 (or float64 with a pedestal) [vectors, channels]."""
    blocks = segment.blocks
    # Where all reads have the same place values, codes are added over the reads first: place values then apply once.
    if same_place_values(blocks, layer) and layer.adc.decoding is Decoding.CLEAN:
        total: ir.Value | None = None
        for block in blocks:
            codes = _read(emitter, source, layer, block)
            total = codes if total is None else emitter("Add", total, codes)
        assert total is not None  # a segment has reads
        return combined(emitter, total, layer, blocks[0], segment)
    parts = []
    for block in blocks:
        part = combined(emitter, _read(emitter, source, layer, block), layer, block, segment)
        if layer.adc.decoding is Decoding.COUNT or digital_sum(layer):
            part = emitter.cast(part, ir.DataType.DOUBLE)
            part = emitter("Add", part, count_terms(emitter, source, layer, block, segment))
        parts.append(part)
    total = parts[0]
    for part in parts[1:]:
        total = emitter("Add", total, part)
    return total


def _read(emitter: Emitter, source: ir.Value, layer: LossyLayer, block: ReadBlock) -> ir.Value:
    """Codes of one read, phases shifted and added: int32 [vectors, conversions * channels + extra]."""
    lines = lines_of(layer, block)
    codes = (
        _convolved(emitter, source, layer, block, lines)
        if layer.conv
        else _multiplied(emitter, source, layer, block, lines)
    )
    width = lines.levels.shape[1]
    if layer.phases == 1:
        flat = emitter("Reshape", codes, emitter.ints(-1, width))
        return _to_int32(emitter, flat, layer)
    stacked = emitter("Reshape", codes, emitter.ints(layer.phases, -1))
    # Phases are combined by a matrix product with one row, their place values. On bytes it is an integer product: both
    # operands are uint8, which no processor saturates (unlike uint8 x int8, see docs/arithmetic.md), and the place
    # values of 8-bit codes are at most 128.
    place_value = 1 << (layer.step * np.arange(layer.phases))
    if layer.bytes and layer.op.site.input.bits <= 8:
        total = emitter(
            "MatMulInteger",
            emitter.constant(place_value[None], np.uint8),
            stacked,
            emitter.constant(0, np.uint8),
            _zero(emitter, layer),
        )
    else:
        # Codes times place values add up to less than (largest + 1) x 2^bits, which float32 holds exactly up to 2^24.
        wide = np.float64 if (layer.adc.largest + 1) << layer.op.site.input.bits > FLOAT32_EXACT else np.float32
        kind = ir.DataType.DOUBLE if wide is np.float64 else ir.DataType.FLOAT
        if layer.bytes:
            stacked = emitter("Sub", emitter.cast(stacked, kind), emitter.constant(zero_code(layer.adc), wide))
        elif kind is ir.DataType.DOUBLE:
            stacked = emitter.cast(stacked, kind)
        total = emitter.cast(emitter("MatMul", emitter.constant(place_value[None], wide), stacked), ir.DataType.INT32)
    return emitter("Reshape", total, emitter.ints(-1, width))


def _zero(emitter: Emitter, layer: LossyLayer) -> ir.Value:
    return emitter.constant(zero_code(layer.adc), np.uint8)


def _to_int32(emitter: Emitter, codes: ir.Value, layer: LossyLayer) -> ir.Value:
    values = emitter.cast(codes, ir.DataType.INT32)
    if layer.bytes and zero_code(layer.adc):
        return emitter("Sub", values, emitter.constant(zero_code(layer.adc), np.int32))
    return values


def _multiplied(
    emitter: Emitter, source: ir.Value, layer: LossyLayer, block: ReadBlock, lines: ConvertedLines
) -> ir.Value:
    """One read of a product: codes [phases * vectors, columns]."""
    rows = block.rows
    run = span(rows)
    if run is not None:
        part = emitter("Slice", source, emitter.ints(run.start), emitter.ints(run.stop), emitter.ints(1))
    else:
        part = emitter("Gather", source, emitter.constant(rows), axis=1)
    planes = phase_planes(emitter, part, layer, len(rows))
    if layer.integer:
        one, zero = emitter.constant(1, np.float32), emitter.constant(0, np.uint8)
        cells, level_zero = emitter.constant(lines.levels.astype(np.int8)), emitter.constant(0, np.int8)
        gain = emitter.constant(layer.adc.gain, np.float32)
        operands = (planes, one, zero, cells, gain, level_zero, one, _zero(emitter, layer))
        return narrow(emitter, emitter("QLinearMatMul", *operands), layer.adc)

    def product(inputs: ir.Value, matrix: ir.Value) -> ir.Value:
        return emitter("MatMul", inputs, matrix)

    def same(value: ir.Value) -> ir.Value:
        return value

    def mixed(values: ir.Value, matrix: npt.NDArray[Any]) -> ir.Value:
        return emitter("MatMul", values, emitter.constant(matrix, np.float32))

    operation = ArrayProduct(
        product,
        operand=lambda matrix: matrix,
        shape=(-1,),
        mixed=mixed,
        inputs=same,
        restored=same,
        reads=layer.reads,
    )
    return convert_read(emitter, planes, _converter(layer), lines, operation)


def _convolved(
    emitter: Emitter, source: ir.Value, layer: LossyLayer, block: ReadBlock, lines: ConvertedLines
) -> ir.Value:
    """One read of a convolution: codes, channels last [phases * batch, *spatial, columns].

    The kernel holds the block's cells and zeros elsewhere; its channel window is widened where that is faster.
    """
    assert layer.conv is not None
    rank = len(layer.conv.kernel)
    channels, channel, position = word_lines(layer, block)
    low, high = _window(int(channel.min()), int(channel.max()) + 1, channels, layer.integer)
    part = source
    if (low, high) != (0, channels):
        part = emitter("Slice", source, emitter.ints(low), emitter.ints(high), emitter.ints(rank + 1))
    planes = phase_planes(emitter, part, layer, high - low)
    planes = emitter("Transpose", planes, perm=[0, rank + 1, *range(1, rank + 1)])
    codes = _convert_window(emitter, planes, layer, lines, _Window(high - low, channel - low, position))
    return emitter("Transpose", codes, perm=[0, *range(2, rank + 2), 1])


def _convert_conv(emitter: Emitter, padded: ir.Value, layer: LossyLayer, block: ReadBlock) -> ir.Value:
    """The whole convolution as one read: codes, channels first."""
    channels, channel, position = word_lines(layer, block)
    codes = _convert_window(emitter, padded, layer, lines_of(layer, block), _Window(channels, channel, position))
    return _to_int32(emitter, codes, layer) if layer.bytes else codes


@dataclass(frozen=True)
class _Window:
    """Input channels that a read's convolution takes, and where its word lines are in them.

    Attributes:
        width: channels.
        channel, position: of each word line, within the window and within the kernel.
    """

    width: int
    channel: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]


def _convert_window(
    emitter: Emitter, planes: ir.Value, layer: LossyLayer, lines: ConvertedLines, window: _Window
) -> ir.Value:
    """Convolve planes of a window with a block's cells and convert: codes, channels first."""
    conv = layer.conv
    assert conv is not None
    positions = int(np.prod(conv.kernel))
    attributes = conv_attributes(conv, padded=layer.pads_itself, groups=1)

    def kernel(matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
        spread = np.zeros((matrix.shape[1], window.width, positions), dtype=np.float32)
        spread[:, window.channel, window.position] = matrix.T
        return spread.reshape(matrix.shape[1], window.width, *conv.kernel)

    if layer.integer:
        one, zero = emitter.constant(1, np.float32), emitter.constant(0, np.uint8)
        cells, level_zero = emitter.constant(kernel(lines.levels).astype(np.int8)), emitter.constant(0, np.int8)
        gain = emitter.constant(layer.adc.gain, np.float32)
        operands = (planes, one, zero, cells, gain, level_zero, one, _zero(emitter, layer))
        return narrow(emitter, emitter("QLinearConv", *operands, **attributes), layer.adc)

    def product(inputs: ir.Value, matrix: ir.Value) -> ir.Value:
        sums = emitter("Conv", inputs, matrix, **attributes)
        # onnxruntime would fold the gain that follows into the kernel and sum rounded weights. Off the grid nothing is
        # exact anyway.
        return barrier(emitter, sums) if lines.levels.dtype.kind in "iu" else sums

    rank = len(conv.kernel)

    def mixed(values: ir.Value, matrix: npt.NDArray[Any]) -> ir.Value:
        pointwise = matrix.T.reshape(*matrix.T.shape, *[1] * rank)
        return emitter("Conv", values, emitter.constant(pointwise, np.float32))

    def patches(values: ir.Value) -> ir.Value:
        each = emitter.constant(kernel(np.eye(len(window.channel), dtype=np.float32)))
        return emitter("Transpose", emitter("Conv", values, each, **attributes), perm=[0, *range(2, rank + 2), 1])

    def restored(values: ir.Value) -> ir.Value:
        return emitter("Transpose", values, perm=[0, rank + 1, *range(1, rank + 1)])

    operation = ArrayProduct(
        product,
        operand=kernel,
        shape=(1, -1, *[1] * rank),
        mixed=mixed,
        inputs=patches,
        restored=restored,
        reads=layer.reads,
    )
    return convert_read(emitter, planes, _converter(layer), lines, operation)


def _window(low: int, high: int, channels: int, widen: bool) -> tuple[int, int]:
    """Channel window, widened for the integer kernels: they are several times faster on multiples of 4 and 16."""
    # The kernel is 0 in the channels that widening adds, so that sums stay as they are.
    if not widen or channels < 4:
        return low, high
    width = high - low
    wanted = min(channels, -(-width // 4) * 4 if width <= 12 else -(-width // 16) * 16)
    start = max(0, min(low, channels - wanted))
    return start, max(high, start + wanted)


def _converter(layer: LossyLayer) -> Converter:
    return Converter(layer.adc, layer.bytes, layer.step, layer.physics, layer.drawn)
