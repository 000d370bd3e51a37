"""The mapped path through converters that lose something: every phase, slice and read has its own ADC code.

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

from mcompiler.conductance import Adc, Decoding, ReadBlock
from mcompiler.errors import CompileError
from mcompiler.ir import ConvShape, MatrixOp
from mcompiler.onnx_export.codes import channel_shape, conv_attributes
from mcompiler.onnx_export.converter import Converter, Lines, Physics, analog, narrow, zero_code
from mcompiler.onnx_export.emitter import Emitter
from mcompiler.onnx_export.folded import FLOAT32_EXACT, barrier
from mcompiler.onnx_export.layer import MappedLayer
from mcompiler.target import Rounding, Target


@dataclass(frozen=True)
class _Layer:
    """What every step needs to know.

    ``integer``: onnxruntime's 8-bit kernels are the converter. ``bytes``: codes are uint8 (around 128 where signed).
    ``sizes``: spatial sizes of the (padded) input, where they are static. ``physics``: what a chip does between reads.
    """

    op: MatrixOp
    adc: Adc
    target: Target
    phases: int
    integer: bool
    bytes: bool
    sizes: tuple[int, ...] | None
    physics: Physics | None = None
    drawn: ir.Value | None = None

    @property
    def step(self) -> int:
        """Bits of a phase."""
        return self.target.converters.dac.bits

    @property
    def pads_itself(self) -> bool:
        """Whether the codes are padded with z_x before the convolution (which pads with 0)."""
        return self.conv is not None and any(self.conv.pads) and self.op.input.zero_point != 0

    @property
    def source_sizes(self) -> tuple[int, ...] | None:
        """Static spatial sizes after that padding."""
        if self.sizes is None or self.conv is None or not self.pads_itself:
            return self.sizes
        rank = len(self.sizes)
        return tuple(n + self.conv.pads[i] + self.conv.pads[i + rank] for i, n in enumerate(self.sizes))

    @property
    def conv(self) -> ConvShape | None:
        """Geometry of a convolution, None for a product."""
        return self.op.shape if isinstance(self.op.shape, ConvShape) else None


def converted_layer(
    emitter: Emitter,
    codes: ir.Value,
    mapped: MappedLayer,
    adc: Adc,
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
    if not isinstance(op.shape, ConvShape) and op.shape.batch:
        raise CompileError(
            "a product with one constant matrix per batch element needs lossless converters; raise converters.adc.bits",
            op.name,
        )
    phases = -(-op.input.bits // target.converters.dac.bits)
    in_bytes = adc.largest - adc.smallest <= 255 and adc.rounding is Rounding.HALF_EVEN
    integer = in_bytes and _fits_integer_kernels(op, blocks, adc, target)
    layer = _Layer(op, adc, target, phases, integer, in_bytes, sizes, mapped.physics, drawn)
    segments = _segments(op, blocks)
    padded = _padded(emitter, codes, layer)
    if _is_direct(layer, segments):
        return _digital(emitter, _convert_conv(emitter, padded, layer, blocks[0]), layer, mapped.weights)
    source = _channels_last(emitter, padded, layer)
    sums = [_segment(emitter, source, layer, first, last, members) for first, last, members in segments]
    joined = sums[0] if len(sums) == 1 else emitter("Concat", *sums, axis=-1)
    if layer.conv is not None:
        return _digital(emitter, _restore_shape(emitter, joined, source, layer), layer, mapped.weights)
    leading = emitter("Slice", emitter("Shape", codes), emitter.ints(0), emitter.ints(-1))
    shape = emitter("Concat", leading, emitter.ints(op.codes.shape[2]), axis=0)
    return _digital(emitter, emitter("Reshape", joined, shape), layer, mapped.weights)


def _is_direct(layer: _Layer, segments: Sequence[tuple[int, int, list[ReadBlock]]]) -> bool:
    """A convolution of one read, one phase and one conversion per channel: its codes are its sums."""
    if layer.conv is None or layer.phases > 1 or len(segments) > 1 or layer.adc.decoding is not Decoding.CLEAN:
        return False
    blocks = segments[0][2]
    return (
        len(blocks) == 1
        and blocks[0].groups == layer.op.codes.shape[0]
        and bool(not blocks[0].inputs.any() and blocks[0].worth.shape[0] == 1 and (_full_worth(blocks[0]) == 1).all())
    )


def _fits_integer_kernels(op: MatrixOp, blocks: Sequence[ReadBlock], adc: Adc, target: Target) -> bool:
    """Whether QLinearConv and QLinearMatMul compute this conversion exactly, 16-bit saturation included."""
    largest = max((float(np.abs(block.levels).max(initial=0)) for block in blocks), default=0.0)
    inputs = (1 << min(target.converters.dac.bits, op.input.bits)) - 1
    on_levels = all(np.issubdtype(block.levels.dtype, np.integer) for block in blocks)
    return on_levels and adc.decoding is Decoding.CLEAN and largest <= 127 and 2 * largest * inputs <= 32767


def _segments(op: MatrixOp, blocks: Sequence[ReadBlock]) -> list[tuple[int, int, list[ReadBlock]]]:
    """(first group, end, reads) of runs of groups that share reads; together they cover all groups."""
    by_groups: dict[tuple[int, int], list[ReadBlock]] = {}
    for block in blocks:
        by_groups.setdefault((block.group, block.groups), []).append(block)
    keys = sorted(by_groups)
    starts = [0, *(group for group, _ in keys[1:])]
    ends = [*starts[1:], op.codes.shape[0]]
    return [(start, end, by_groups[key]) for start, end, key in zip(starts, ends, keys, strict=True)]


# --- inputs ----------------------------------------------------------------------------------------------------------


def _padded(emitter: Emitter, codes: ir.Value, layer: _Layer) -> ir.Value:
    """Convolutions: pad with z_x, where that is not what Conv pads with. Products: [vectors, K]."""
    conv = layer.conv
    if conv is None:
        return emitter("Reshape", codes, emitter.ints(-1, layer.op.codes.shape[1]))
    if not layer.pads_itself:
        return codes
    rank = len(conv.kernel)
    pads = emitter.ints(0, 0, *conv.pads[:rank], 0, 0, *conv.pads[rank:])
    kind = np.uint8 if layer.op.input.bits <= 8 else np.int32
    return emitter("Pad", codes, pads, emitter.constant(layer.op.input.zero_point, kind))


def _channels_last(emitter: Emitter, codes: ir.Value, layer: _Layer) -> ir.Value:
    if layer.conv is None:
        return codes
    rank = len(layer.conv.kernel)
    return emitter("Transpose", codes, perm=[0, *range(2, rank + 2), 1])


def _planes(emitter: Emitter, values: ir.Value, layer: _Layer, width: int) -> ir.Value:
    """Input codes of each phase, stacked on the first axis: uint8 [phases * n, ..., width]."""
    step, phases = layer.step, layer.phases
    if phases == 1:
        return values if layer.op.input.bits <= 8 else emitter.cast(values, ir.DataType.UINT8)
    rank = 2 if layer.conv is None else len(layer.conv.kernel) + 2
    each = (phases, *(1 for _ in range(rank)))
    stacked = emitter("Unsqueeze", values, emitter.ints(0))
    places = step * np.arange(phases)
    if layer.op.input.bits > 8:
        shifted = emitter("Div", stacked, emitter.constant((1 << places).reshape(each), np.int32))
        plane = emitter.cast(emitter("Mod", shifted, emitter.constant(1 << step, np.int32)), ir.DataType.UINT8)
    else:
        left = np.maximum(0, 8 - step - places)
        moved = emitter("BitShift", stacked, emitter.constant(left.reshape(each), np.uint8), direction="LEFT")
        if step == 1:
            plane = emitter.cast(emitter("GreaterOrEqual", moved, emitter.constant(128, np.uint8)), ir.DataType.UINT8)
        else:
            right = (left + places).reshape(each)
            plane = emitter("BitShift", moved, emitter.constant(right, np.uint8), direction="RIGHT")
    if layer.conv is not None and layer.source_sizes is not None:
        return emitter("Reshape", plane, emitter.ints(-1, *layer.source_sizes, width))
    return emitter("Reshape", plane, emitter("Concat", emitter.ints(-1), _sizes(emitter, values, 1, rank), axis=0))


def _sizes(emitter: Emitter, value: ir.Value, start: int, end: int) -> ir.Value:
    """Sizes ``start`` to ``end`` of a value's shape."""
    return emitter("Slice", emitter("Shape", value), emitter.ints(start), emitter.ints(end))


# --- reads -----------------------------------------------------------------------------------------------------------


def _segment(
    emitter: Emitter, source: ir.Value, layer: _Layer, first: int, end: int, blocks: list[ReadBlock]
) -> ir.Value:
    """Sum of all reads of a run of groups, in ADC codes: int32 (or float64 with a pedestal) [vectors, channels]."""
    cols = layer.op.codes.shape[2]
    channels = (end - first) * cols
    kept = blocks[0].group - first  # vanished groups before these: their channels are zero
    if _same_worth(blocks, layer) and layer.adc.decoding is Decoding.CLEAN:
        total: ir.Value | None = None
        for block in blocks:
            codes = _read(emitter, source, layer, block)
            total = codes if total is None else emitter("Add", total, codes)
        assert total is not None  # a segment has reads
        return _combine(emitter, total, layer, blocks[0], channels, kept * cols)
    parts = []
    for block in blocks:
        part = _combine(emitter, _read(emitter, source, layer, block), layer, block, channels, kept * cols)
        if layer.adc.decoding is Decoding.COUNT or _digital_sum(layer):
            part = emitter.cast(part, ir.DataType.DOUBLE)
            part = emitter("Add", part, _count_terms(emitter, source, layer, block, channels, kept * cols))
        parts.append(part)
    total = parts[0]
    for part in parts[1:]:
        total = emitter("Add", total, part)
    return total


def _same_worth(blocks: Sequence[ReadBlock], layer: _Layer) -> bool:
    """Whether codes may be added over the reads before slices are combined."""
    scaled = any(block.scale is not None or block.constant is not None or block.beside is not None for block in blocks)
    return (
        not scaled
        and not any(block.inputs.any() for block in blocks)
        and all(np.array_equal(_clean_worth(block, layer), _clean_worth(blocks[0], layer)) for block in blocks)
    )


def _clean_worth(block: ReadBlock, layer: _Layer) -> npt.NDArray[np.int32]:
    """Worth where nothing is added to the sums: a column that is absent has code 0, unless converters make noise."""
    return block.worth if layer.physics is not None else _full_worth(block)


def _full_worth(block: ReadBlock) -> npt.NDArray[np.int32]:
    """Worth of each conversion, taken for absent columns as for present ones."""
    worth: npt.NDArray[np.int32] = np.where((block.worth != 0), block.worth, block.worth.max(axis=1, keepdims=True))
    return worth


def _extra_columns(layer: _Layer) -> tuple[bool, bool]:
    """Whether a unit column and a digitised reference column are converted too."""
    encoding = layer.target.encoding
    unit = encoding.weights.value == "offset" and encoding.input_sum == "unit_column"
    reference = encoding.weights.value != "differential" and layer.adc.decoding is Decoding.TWO
    return unit, reference


def _digital_sum(layer: _Layer) -> bool:
    encoding = layer.target.encoding
    return encoding.weights.value == "offset" and encoding.input_sum == "digital"


def _lines(layer: _Layer, block: ReadBlock) -> Lines:
    """Every converted bit line of a read: conversions x channels, then unit and reference columns."""
    rows, beside = len(block.rows), block.beside
    levels = block.levels.reshape(rows, -1)
    if beside is not None:
        return Lines(
            np.concatenate([levels, beside.currents], axis=1),
            beside.units,
            beside.references,
            beside.owner,
            _flat(block.variance, beside.variance, (rows, -1)),
            _flat(block.offset, beside.offset, (-1,)),
            _flat(block.bow, beside.bow, (-1,)),
        )
    unit, reference = _extra_columns(layer)
    kind = block.levels.dtype
    parts = [levels, *[np.ones((rows, 1), kind)] * unit, *[np.zeros((rows, 1), kind)] * reference]
    return Lines(
        np.concatenate(parts, axis=1),
        int(unit),
        int(reference),
        np.zeros(block.worth.shape, np.int64),
        _flat(block.variance, None, (rows, -1)),
        _flat(block.offset, None, (-1,)),
        _flat(block.bow, None, (-1,)),
    )


def _flat(
    values: npt.NDArray[Any] | None, more: npt.NDArray[Any] | None, shape: tuple[int, ...]
) -> npt.NDArray[Any] | None:
    """Values [..., conversions, channels] flat, those of the columns beside them behind; None where all is 0."""
    if values is None:
        return None
    flat = values.reshape(shape)
    return flat if more is None else np.concatenate([flat, more], axis=-1)


def _read(emitter: Emitter, source: ir.Value, layer: _Layer, block: ReadBlock) -> ir.Value:
    """Codes of one read, phases shifted and added: int32 [vectors, conversions * channels + extra]."""
    lines = _lines(layer, block)
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
    worth = 1 << (layer.step * np.arange(layer.phases))
    if layer.bytes and layer.op.input.bits <= 8:
        total = emitter(
            "MatMulInteger",
            emitter.constant(worth[None], np.uint8),
            stacked,
            emitter.constant(0, np.uint8),
            _zero(emitter, layer),
        )
    else:
        wide = np.float64 if (layer.adc.largest + 1) << layer.op.input.bits > FLOAT32_EXACT else np.float32
        kind = ir.DataType.DOUBLE if wide is np.float64 else ir.DataType.FLOAT
        if layer.bytes:
            stacked = emitter("Sub", emitter.cast(stacked, kind), emitter.constant(zero_code(layer.adc), wide))
        elif kind is ir.DataType.DOUBLE:
            stacked = emitter.cast(stacked, kind)
        total = emitter.cast(emitter("MatMul", emitter.constant(worth[None], wide), stacked), ir.DataType.INT32)
    return emitter("Reshape", total, emitter.ints(-1, width))


def _zero(emitter: Emitter, layer: _Layer) -> ir.Value:
    return emitter.constant(zero_code(layer.adc), np.uint8)


def _to_int32(emitter: Emitter, codes: ir.Value, layer: _Layer) -> ir.Value:
    values = emitter.cast(codes, ir.DataType.INT32)
    if layer.bytes and zero_code(layer.adc):
        return emitter("Sub", values, emitter.constant(zero_code(layer.adc), np.int32))
    return values


def _multiplied(emitter: Emitter, source: ir.Value, layer: _Layer, block: ReadBlock, lines: Lines) -> ir.Value:
    """One read of a product: codes [phases * vectors, columns]."""
    rows = block.rows
    if rows[-1] - rows[0] + 1 == len(rows):
        part = emitter("Slice", source, emitter.ints(int(rows[0])), emitter.ints(int(rows[-1]) + 1), emitter.ints(1))
    else:
        part = emitter("Gather", source, emitter.constant(rows), axis=1)
    planes = _planes(emitter, part, layer, len(rows))
    if layer.integer:
        one, zero = emitter.constant(1, np.float32), emitter.constant(0, np.uint8)
        cells, level_zero = emitter.constant(lines.levels.astype(np.int8)), emitter.constant(0, np.int8)
        gain = emitter.constant(layer.adc.gain, np.float32)
        codes = emitter("QLinearMatMul", planes, one, zero, cells, gain, level_zero, one, _zero(emitter, layer))
        return narrow(emitter, codes, layer.adc)

    def product(inputs: ir.Value, matrix: ir.Value) -> ir.Value:
        return emitter("MatMul", inputs, matrix)

    return analog(emitter, planes, _converter(layer), lines, product, lambda matrix: matrix, (-1,))


def _convolved(emitter: Emitter, source: ir.Value, layer: _Layer, block: ReadBlock, lines: Lines) -> ir.Value:
    """One read of a convolution: codes, channels last [phases * batch, *spatial, columns].

    The kernel holds the block's cells and zeros elsewhere; its channel window is widened where that is faster.
    """
    assert layer.conv is not None
    rank = len(layer.conv.kernel)
    channels, channel, position = _channels(layer, block)
    low, high = _window(int(channel.min()), int(channel.max()) + 1, channels, layer.integer)
    part = source
    if (low, high) != (0, channels):
        part = emitter("Slice", source, emitter.ints(low), emitter.ints(high), emitter.ints(rank + 1))
    planes = emitter("Transpose", _planes(emitter, part, layer, high - low), perm=[0, rank + 1, *range(1, rank + 1)])
    codes = _convert_window(emitter, planes, layer, lines, channel - low, position, high - low)
    return emitter("Transpose", codes, perm=[0, *range(2, rank + 2), 1])


def _convert_conv(emitter: Emitter, padded: ir.Value, layer: _Layer, block: ReadBlock) -> ir.Value:
    """The whole convolution as one read: codes, channels first."""
    channels, channel, position = _channels(layer, block)
    codes = _convert_window(emitter, padded, layer, _lines(layer, block), channel, position, channels)
    return _to_int32(emitter, codes, layer) if layer.bytes else codes


def _channels(layer: _Layer, block: ReadBlock) -> tuple[int, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Input channels of the layer; channel and kernel position of each word line."""
    assert layer.conv is not None
    positions = int(np.prod(layer.conv.kernel))
    per_group = layer.op.codes.shape[1] // positions
    channel, position = np.divmod(block.rows, positions)
    return layer.op.codes.shape[0] * per_group, channel + block.group * per_group, position


def _convert_window(
    emitter: Emitter,
    planes: ir.Value,
    layer: _Layer,
    lines: Lines,
    channel: npt.NDArray[np.int64],
    position: npt.NDArray[np.int64],
    width: int,
) -> ir.Value:
    """Convolve planes of ``width`` channels with a block's cells and convert: codes, channels first."""
    conv = layer.conv
    assert conv is not None
    positions = int(np.prod(conv.kernel))
    attributes = conv_attributes(conv, padded=layer.pads_itself, groups=1)

    def kernel(matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
        spread = np.zeros((matrix.shape[1], width, positions), dtype=np.float32)
        spread[:, channel, position] = matrix.T
        return spread.reshape(matrix.shape[1], width, *conv.kernel)

    if layer.integer:
        one, zero = emitter.constant(1, np.float32), emitter.constant(0, np.uint8)
        cells, level_zero = emitter.constant(kernel(lines.levels).astype(np.int8)), emitter.constant(0, np.int8)
        gain = emitter.constant(layer.adc.gain, np.float32)
        codes = emitter(
            "QLinearConv", planes, one, zero, cells, gain, level_zero, one, _zero(emitter, layer), **attributes
        )
        return narrow(emitter, codes, layer.adc)

    def product(inputs: ir.Value, matrix: ir.Value) -> ir.Value:
        found = emitter("Conv", inputs, matrix, **attributes)
        return barrier(emitter, found) if lines.levels.dtype.kind in "iu" else found  # off the grid nothing is exact

    return analog(emitter, planes, _converter(layer), lines, product, kernel, (1, -1, *[1] * len(conv.kernel)))


def _window(low: int, high: int, channels: int, widen: bool) -> tuple[int, int]:
    """Channel window, widened for the integer kernels: they are several times faster on multiples of 4 and 16."""
    if not widen or channels < 4:
        return low, high
    width = high - low
    wanted = min(channels, -(-width // 4) * 4 if width <= 12 else -(-width // 16) * 16)
    start = max(0, min(low, channels - wanted))
    return start, max(high, start + wanted)


def _converter(layer: _Layer) -> Converter:
    return Converter(layer.adc, layer.bytes, layer.step, layer.physics, layer.drawn)


# --- shift and add ---------------------------------------------------------------------------------------------------


def _combine(emitter: Emitter, codes: ir.Value, layer: _Layer, block: ReadBlock, channels: int, first: int) -> ir.Value:
    """Slices, polarities, unit and reference columns to one sum per channel: [vectors, channels].

    int32, or float32 of a chip, whose digital corrections are no integers.
    """
    lines, (conversions, held) = _lines(layer, block), block.worth.shape
    clean = not block.inputs.any() and layer.adc.decoding is Decoding.CLEAN
    worth = _clean_worth(block, layer) if clean else block.worth
    beside = conversions * held  # unit columns, then reference columns
    matrix = np.zeros((beside + lines.units + lines.references, channels), dtype=np.float64)
    columns, each = first + np.arange(held), np.arange(held)
    for conversion in range(conversions):
        matrix[conversion * held + each, columns] = worth[conversion]
        if lines.references:
            matrix[beside + lines.units + lines.owner[conversion], columns] -= worth[conversion]
    if lines.units:
        matrix[beside + lines.owner[0], columns] += block.inputs
        if lines.references:
            matrix[beside + lines.units + lines.owner[0], columns] -= block.inputs
    if layer.physics is not None:
        return _combine_chip(emitter, codes, layer, block, matrix, first)
    if conversions == 1 and held == channels and not lines.units and not lines.references and (worth == 1).all():
        return codes
    product, _ = _weighted(emitter, codes, layer, matrix)
    return emitter.cast(product, ir.DataType.INT32)


def _weighted(
    emitter: Emitter, codes: ir.Value, layer: _Layer, matrix: npt.NDArray[np.float64]
) -> tuple[ir.Value, type[np.floating[Any]]]:
    """Codes times a matrix, in a type that holds every sum; and that type."""
    bound = np.abs(matrix).sum(axis=0).max() * (layer.adc.largest + 1) * (1 << layer.op.input.bits)
    wide = bound >= FLOAT32_EXACT
    kind, dtype = (ir.DataType.DOUBLE, np.float64) if wide else (ir.DataType.FLOAT, np.float32)
    return emitter("MatMul", emitter.cast(codes, kind), emitter.constant(matrix, dtype)), dtype


def _combine_chip(
    emitter: Emitter, codes: ir.Value, layer: _Layer, block: ReadBlock, matrix: npt.NDArray[np.float64], first: int
) -> ir.Value:
    """The same with a chip's digital corrections, which are no integers: float32 [vectors, channels]."""
    held, beside = block.worth.shape[1], block.beside
    scale = np.ones(len(matrix))
    added = np.zeros((1, matrix.shape[1]))
    if block.constant is not None:
        added[0, first : first + held] += block.constant
    if beside is not None:
        scale[block.worth.size :] = beside.scale
        added[0] += beside.constant @ matrix[block.worth.size :]
    rows = scale[:, None] * matrix
    if block.scale is not None:
        rows[: block.worth.size] *= block.scale.reshape(-1)[:, None]  # each of these rows is of one conversion
    product, dtype = _weighted(emitter, codes, layer, rows)
    if added.any():
        phases = float((1 << (layer.step * np.arange(layer.phases))).sum())
        product = emitter("Add", product, emitter.constant(added * phases, dtype))
    return emitter.cast(product, ir.DataType.FLOAT) if dtype is np.float64 else product


def _count_terms(
    emitter: Emitter, source: ir.Value, layer: _Layer, block: ReadBlock, channels: int, first: int
) -> ir.Value:
    """What the digital sum of the inputs adds, in codes: float64 [vectors, channels], exact.

    It takes the pedestal off (COUNT), and stands in for the unit column where the target sums inputs digitally.
    """
    unit, _ = _extra_columns(layer)
    held = block.worth.shape[1]
    total = block.worth.sum(axis=0) + (block.inputs if unit else 0)
    coefficients = np.zeros((1, channels))
    if layer.adc.decoding is Decoding.COUNT:
        coefficients[0, first : first + held] -= layer.adc.gain * layer.adc.pedestal * total
    if _digital_sum(layer):
        coefficients[0, first : first + held] += layer.adc.gain * block.inputs
    counted = _input_sum(emitter, source, layer, block)
    return emitter("Mul", emitter.cast(counted, ir.DataType.DOUBLE), emitter.constant(coefficients, np.float64))


def _input_sum(emitter: Emitter, source: ir.Value, layer: _Layer, block: ReadBlock) -> ir.Value:
    """Sum of the input codes over the block's word lines: float32 [vectors, 1]."""
    conv = layer.conv
    values = emitter.cast(source, ir.DataType.FLOAT)
    if conv is None:
        mask = np.zeros((layer.op.codes.shape[1], 1), dtype=np.float32)
        mask[block.rows] = 1
        return emitter("MatMul", values, emitter.constant(mask))
    rank = len(conv.kernel)
    channels, channel, position = _channels(layer, block)
    kernel = np.zeros((1, channels, int(np.prod(conv.kernel))), dtype=np.float32)
    kernel[0, channel, position] = 1
    first = emitter("Transpose", values, perm=[0, rank + 1, *range(1, rank + 1)])
    kernel = kernel.reshape(1, -1, *conv.kernel)
    summed = emitter(
        "Conv", first, emitter.constant(kernel), **conv_attributes(conv, padded=layer.pads_itself, groups=1)
    )
    return emitter("Reshape", summed, emitter.ints(-1, 1))


def _restore_shape(emitter: Emitter, total: ir.Value, source: ir.Value, layer: _Layer) -> ir.Value:
    """[vectors, channels] of a convolution back to [batch, channels, *spatial]."""
    conv = layer.conv
    assert conv is not None
    sizes = [_output_size(emitter, source, layer, axis) for axis in range(len(conv.kernel))]
    groups, _, cols = layer.op.codes.shape
    shaped = emitter("Reshape", total, emitter("Concat", emitter.ints(-1), *sizes, emitter.ints(groups * cols), axis=0))
    rank = len(conv.kernel)
    return emitter("Transpose", shaped, perm=[0, rank + 1, *range(1, rank + 1)])


def _output_size(emitter: Emitter, source: ir.Value, layer: _Layer, axis: int) -> ir.Value:
    """Output size along a spatial axis, int64 [1]."""
    conv = layer.conv
    assert conv is not None
    span = conv.dilations[axis] * (conv.kernel[axis] - 1) + 1
    if not layer.pads_itself:
        span -= conv.pads[axis] + conv.pads[axis + len(conv.kernel)]
    if layer.source_sizes is not None:
        return emitter.ints((layer.source_sizes[axis] - span) // conv.strides[axis] + 1)
    size = emitter("Sub", _sizes(emitter, source, axis + 1, axis + 2), emitter.ints(span))
    return emitter("Add", emitter("Div", size, emitter.ints(conv.strides[axis])), emitter.ints(1))


def _digital(
    emitter: Emitter, total: ir.Value, layer: _Layer, weights: npt.NDArray[np.signedinteger[Any]]
) -> tuple[ir.Value, ir.Value]:
    """Zero point, scale and bias behind the codes: the output, and the accumulator for probes (float32)."""
    op, shape = layer.op, channel_shape(layer.op)
    values = emitter.cast(total, ir.DataType.FLOAT)
    gain = np.float64(layer.adc.gain)
    correction = -op.input.zero_point * weights.sum(axis=1, dtype=np.int64).astype(np.float64)  # [G, N]
    scale = np.float32(op.input.scale) * op.scale
    offset = correction * scale + (0.0 if op.bias is None else op.bias)
    y = emitter("Mul", values, emitter.constant((scale / gain).reshape(shape), np.float32))
    y = emitter("Add", y, emitter.constant(offset.reshape(shape), np.float32))
    probe = emitter("Mul", values, emitter.constant(1 / gain, np.float32))
    probe = emitter("Add", probe, emitter.constant(correction.reshape(shape), np.float32))
    if op.element != ir.DataType.FLOAT:
        y = emitter.cast(y, op.element)
    return y, probe
