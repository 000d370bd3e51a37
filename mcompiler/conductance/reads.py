"""What the converters see: the reads of an operation, from its cells, as mapped or as one chip has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.conductance.cells import Cells, unpack_levels
from mcompiler.conductance.codes import Levels, steps_of
from mcompiler.conductance.converters import Adc, Decoding, is_signed, make_adc
from mcompiler.conductance.lines import restored, restored_state
from mcompiler.conductance.states import ArrayState, Beside, Realise, Values, beside_of, single
from mcompiler.geometry import ArrayShape, TileTable, tile_blocks
from mcompiler.ir import IntArray, Remapping, WeightMatrix
from mcompiler.target import Pedestal, Target, WeightEncoding


@dataclass(frozen=True)
class ReadBlock:
    """Word lines that are driven at once, and every column that they cross: one read of one phase.

    Attributes:
        group, groups: input groups that the word lines belong to; their output channels are the columns.
        rows: int64 [rows], index of each word line in groups x K, counted from ``group``.
        levels: int16 [rows, conversions, channels]: level (or level difference of a pair) on each converted bit line,
            for the ``groups * N`` output channels of those groups, in the units of the level table where there is one;
            float32 where conductances are off their levels: as a chip has them, gains of converters included, and less
            the nominal pedestal where it is not taken off before the conversion.
        worth: int32 [conversions, channels]: what one decoded code adds to its channel's sum, the sign of the read
            included; 0 where no cell stands.
        inputs: int64 [channels]: what the sum of the inputs over the word lines adds (flips undone, shift subtracted).
        variance: float32 [rows, conversions, channels]: of ``levels`` between reads, complex64 with that between
            inferences as the imaginary part, or None.
        offset, bow: float32 [conversions, channels]: of each converter, in codes, or None.
        scale: float64 [conversions, channels]: digital factor on decoded codes, or None.
        constant: float64 [channels]: what the digital side adds to each read of one phase, in ``worth`` of a code of
            the layer's range, or None.
        beside: unit and reference columns where they are those of a chip; None: as a mapping asks for them.
        adc: int64 [conversions, channels]: number of the converter of each, over all arrays of the layer; -1 where no
            cell stands; of a chip only, else None.
        zoom: int8 [conversions, channels]: binary steps by which the range of a conversion is finer than the layer's;
            None: not at all. Levels and their variance are what they are before that, offsets what they are behind it.
    """

    group: int
    groups: int
    rows: IntArray
    levels: npt.NDArray[Any]
    worth: npt.NDArray[np.int32]
    inputs: IntArray
    variance: Values | None = None
    offset: Values | None = None
    bow: Values | None = None
    scale: Values | None = None
    constant: Values | None = None
    beside: Beside | None = None
    zoom: npt.NDArray[np.int8] | None = None
    adc: IntArray | None = None

    @property
    def zoomed(self) -> npt.NDArray[np.int64]:
        """Codes of each conversion over those of the layer's range, a power of two: [conversions, channels]."""
        return np.ones(self.worth.shape, np.int64) if self.zoom is None else 1 << self.zoom.astype(np.int64)


def read_blocks(
    cells: Iterator[Cells],
    matrix: WeightMatrix,
    table: TileTable,
    target: Target,
    shape: ArrayShape,
    shift: int,
    flips: npt.NDArray[np.bool_],
    signs: npt.NDArray[np.bool_] | None = None,
    realise: Realise | None = None,
    gain: float = 1.0,
    remap: Remapping | None = None,
    zoom: npt.NDArray[np.int8] | None = None,
) -> list[ReadBlock]:
    """Every read of an operation, from the cells.

    Args:
        cells: packed level codes, in table order.
        matrix: operation whose shape and kept indices say where the cells belong; its codes are not read.
        table, shape, shift, flips: as in encode_cells.
        signs: as in decode_cells.
        target: where pairs are subtracted, how many word lines are active.
        realise: what one chip makes of level codes; None: cells as the mapping asks for them.
        gain: of the layer's converter, in codes per level step; read for a chip only.
        remap: where the lines stand, of cells as they lie on a chip; None: as the mapping numbers them.
        zoom: int8 [arrays, columns]: of the converters' ranges, as in ``EncodedMatrix``.
    """
    lines = shape.columns + shape.extra if remap is None else remap.lines[1]
    copies, adc = shape.arrays_per_tile, replace(make_adc(target), gain=gain)
    merged: dict[tuple[int, int, int, int], list[ReadBlock]] = {}
    first = 0
    for chunk in cells:
        levels = unpack_levels(chunk, shape.storage_bits, lines)
        state = None if realise is None else realise(first, levels)
        if remap is not None:
            levels = restored(levels, first, remap, shape)
            state = None if state is None else restored_state(state, first, remap, shape)
        for position in range(0, len(chunk), copies):
            inside = slice(position, position + copies)
            arrays = slice(first + position, first + position + copies)
            block = _tile_block(levels[inside, :, : shape.columns], matrix, table[arrays], shape, flips[arrays])
            block = _apply_shift(block, shift, shape, target.encoding.weights)
            if zoom is not None:
                block = replace(block, zoom=_spread(zoom[arrays], table[arrays], matrix, shape, np.int8))
            if state is not None:
                block = _realised(block, state.of(inside), table[arrays], matrix, shape, target, adc)
                block = replace(block, adc=_converters(block, arrays, table[arrays], matrix, shape, target))
            tile = table[first + position]
            for read, part in enumerate(_split_rows(block, shape.rows_active)):
                part = part if signs is None else _signed(part, signs[arrays, read], table[arrays], matrix, shape)
                key = (int(tile["group"]), int(tile["groups"]), int(tile["row"]), read)
                merged.setdefault(key, []).append(part)
        first += len(chunk)
    joined = [_join(blocks) for blocks in merged.values()]
    return [_subtract_pairs(block) if is_signed(target) else block for block in joined]


def _tile_block(
    levels: Levels, matrix: WeightMatrix, arrays: TileTable, shape: ArrayShape, flips: npt.NDArray[np.bool_]
) -> ReadBlock:
    """One tile: its columns spread over the output channels of its groups. Conversions: slices x polarities."""
    tile = arrays[0]
    group, groups, cols = int(tile["group"]), int(tile["groups"]), matrix.codes.shape[2]
    depth = matrix.codes.shape[1]
    blocks = tile_blocks(tile, matrix.rows, matrix.cols)
    rows = (
        np.concatenate([(block.group - group) * depth + block.rows for block in blocks])
        if int(tile["groups"]) > 1
        else blocks[0].rows
    )
    channels = _channels(tile, matrix)
    worth = np.zeros((shape.slices * shape.polarities, groups * cols), dtype=np.int32)
    inputs = np.zeros(groups * cols, dtype=np.int64)
    full = (1 << shape.cell_bits) - 1
    spread = _spread(steps_of(levels[:, : len(rows)], shape), arrays, matrix, shape, np.int16)
    for array, flip in zip(arrays, flips, strict=True):
        flipped = _by_weight(flip, shape)[: len(channels)]  # [width, cells]
        for place, (which_slice, sign, index) in enumerate(_places(array, shape)):
            unit = sign << (shape.cell_bits * which_slice) if sign > 0 else -(1 << (shape.cell_bits * which_slice))
            worth[index, channels] = np.where(flipped[:, place], -unit, unit)
            inputs[channels] += np.where(flipped[:, place], full * unit, 0)
    return ReadBlock(group, groups, rows, spread, worth, inputs)


def _by_weight(values: npt.NDArray[Any], shape: ArrayShape) -> npt.NDArray[Any]:
    """[..., columns] of an array by weight: [..., tile_columns, columns_per_weight]."""
    used = shape.tile_columns * shape.columns_per_weight
    return values[..., :used].reshape(*values.shape[:-1], shape.tile_columns, shape.columns_per_weight)


def _spread(
    values: npt.NDArray[Any], arrays: TileTable, matrix: WeightMatrix, shape: ArrayShape, kind: npt.DTypeLike
) -> npt.NDArray[Any]:
    """Values of bit lines [arrays, ..., columns] of a tile by conversion: [..., conversions, channels], else 0."""
    channels = _channels(arrays[0], matrix)
    width = int(arrays[0]["groups"]) * matrix.codes.shape[2]
    spread = np.zeros((*values.shape[1:-1], shape.slices * shape.polarities, width), dtype=kind)
    for array, held in zip(arrays, values, strict=True):
        parts = _by_weight(held, shape)
        for place, (_, _, index) in enumerate(_places(array, shape)):
            spread[..., index, channels] = parts[..., : len(channels), place]
    return spread


def _realised(
    block: ReadBlock,
    state: ArrayState,
    arrays: TileTable,
    matrix: WeightMatrix,
    shape: ArrayShape,
    target: Target,
    adc: Adc,
) -> ReadBlock:
    """A tile as one chip has it."""
    rows = slice(0, len(block.rows))
    bare = replace(
        state, currents=state.currents[:, rows], variance=None if state.variance is None else state.variance[:, rows]
    )
    if target.encoding.pedestal is Pedestal.REFERENCE_COLUMN:
        bare = bare.less_reference()

    def spread(values: Values) -> Values:
        return _spread(values, arrays, matrix, shape, np.result_type(values, np.float64))

    gain, trim, present = spread(bare.gain), spread(bare.trim), block.worth != 0
    if is_signed(target):  # one converter for both lines of a pair
        gain[shape.slices :] = gain[: shape.slices]
        trim[shape.slices :] = 0
    added = spread(bare.offset) * gain * adc.gain * block.zoomed + trim
    own = np.zeros((len(arrays), shape.columns), np.int64) + np.arange(len(arrays))[:, None]
    factor = spread(np.broadcast_to(bare.scale[:, None], own.shape))
    pedestal = adc.pedestal if adc.decoding is not Decoding.CLEAN else 0.0
    return replace(
        block,
        levels=np.where(present, spread(bare.currents) * gain - pedestal, 0).astype(np.float32),
        scale=None if (factor[present] == 1).all() else np.where(present, factor, 1.0),
        variance=None if bare.variance is None else single(spread(bare.variance) * gain**2),
        offset=added.astype(np.float32) if bare.offset.any() or bare.trim.any() else None,
        bow=spread(bare.bow).astype(np.float32) if bare.bow.any() else None,
        beside=beside_of(bare, adc, pedestal, shape, target, _spread(own, arrays, matrix, shape, np.int64)),
    )


def _converters(
    block: ReadBlock, numbers: slice, arrays: TileTable, matrix: WeightMatrix, shape: ArrayShape, target: Target
) -> IntArray:
    """Number of the converter of each conversion of a tile whose arrays have these numbers, as ``ReadBlock.adc``."""
    per_array = -(-shape.columns // target.converters.adc.columns)
    columns = np.arange(shape.columns) // target.converters.adc.columns
    own = np.arange(numbers.start, numbers.stop)[:, None] * per_array + columns
    return np.where(block.worth != 0, _spread(own, arrays, matrix, shape, np.int64), -1)


def _channels(tile: np.void, matrix: WeightMatrix) -> IntArray:
    """Output channel of each column of weights of a tile, counted over its groups."""
    group, cols = int(tile["group"]), matrix.codes.shape[2]
    blocks = tile_blocks(tile, matrix.rows, matrix.cols)
    return np.concatenate([(block.group - group) * cols + block.cols for block in blocks])


def _signed(
    block: ReadBlock, negative: npt.NDArray[np.bool_], arrays: TileTable, matrix: WeightMatrix, shape: ArrayShape
) -> ReadBlock:
    """One read of one tile with the signs of its columns [arrays, tile_columns] in what their codes are worth."""
    worth, channels = block.worth.copy(), _channels(arrays[0], matrix)
    for array, signs in zip(arrays, negative, strict=True):
        for _, _, index in _places(array, shape):
            worth[index, channels] *= np.where(signs[: len(channels)], -1, 1)
    return replace(block, worth=worth)


def _places(array: np.void, shape: ArrayShape) -> list[tuple[int, int, int]]:
    """(slice, sign, conversion index) of the adjacent cells of one weight; conversions are polarity-major."""
    slices = range(shape.slices) if int(array["slice"]) < 0 else (int(array["slice"]),)
    if shape.polarities == 1:
        return [(s, 1, s) for s in slices]
    signs = (1, -1) if int(array["polarity"]) == 0 else (int(array["polarity"]),)
    return [(s, sign, (0 if sign > 0 else shape.slices) + s) for sign in signs for s in slices]


def _apply_shift(block: ReadBlock, shift: int, shape: ArrayShape, encoding: WeightEncoding) -> ReadBlock:
    """Offset encoding: the shift times the sum of the inputs comes off every channel that has cells."""
    if encoding is not WeightEncoding.OFFSET:
        return block
    present = (block.worth != 0).any(axis=0)
    return replace(block, inputs=block.inputs - shift * present)


def _join(blocks: list[ReadBlock]) -> ReadBlock:
    """Column blocks over the same word lines are one read: their channels are disjoint."""
    first = blocks[0]
    if len(blocks) == 1:
        return first
    return replace(
        first,
        levels=np.asarray(np.sum([block.levels for block in blocks], axis=0, dtype=first.levels.dtype)),
        worth=np.sum([block.worth for block in blocks], axis=0, dtype=np.int32),
        inputs=np.sum([block.inputs for block in blocks], axis=0, dtype=np.int64),
        variance=_sum_of([block.variance for block in blocks]),
        offset=_sum_of([block.offset for block in blocks]),
        bow=_sum_of([block.bow for block in blocks]),
        scale=_join_scale(blocks),
        zoom=None if first.zoom is None else np.asarray(sum(block.zoom for block in blocks if block.zoom is not None)),
        adc=None if first.adc is None else np.max([block.adc for block in blocks if block.adc is not None], axis=0),
        beside=_join_beside(blocks),
    )


def _sum_of(parts: Sequence[Values | None]) -> Values | None:
    known = [part for part in parts if part is not None]
    return np.asarray(sum(known[1:], known[0])) if known else None


def _join_scale(blocks: list[ReadBlock]) -> Values | None:
    if all(block.scale is None for block in blocks):
        return None
    joined = np.ones(blocks[0].worth.shape)
    for block in blocks:
        if block.scale is not None:
            joined = np.where(block.worth != 0, block.scale, joined)
    return joined


def _join_beside(blocks: list[ReadBlock]) -> Beside | None:
    """The columns of all arrays, units first; who owns a conversion is counted on."""
    parts = [(block, block.beside) for block in blocks if block.beside is not None]
    if not parts:
        return None
    owner, before = np.zeros_like(parts[0][1].owner), 0
    for block, part in parts:
        owner += np.where(block.worth != 0, part.owner + before, 0)
        before += part.units or part.references

    def joined(values: Sequence[Values]) -> Values:
        units = [value[..., : part.units] for value, (_, part) in zip(values, parts, strict=True)]
        references = [value[..., part.units :] for value, (_, part) in zip(values, parts, strict=True)]
        return np.concatenate([*units, *references], axis=-1)

    variances = [part.variance for _, part in parts if part.variance is not None]
    return Beside(
        joined([part.currents for _, part in parts]),
        joined(variances) if variances else None,
        joined([part.offset for _, part in parts]),
        joined([part.bow for _, part in parts]),
        joined([part.scale for _, part in parts]),
        joined([part.constant for _, part in parts]),
        sum(part.units for _, part in parts),
        sum(part.references for _, part in parts),
        owner,
    )


def _subtract_pairs(block: ReadBlock) -> ReadBlock:
    """The pair's difference is what one conversion sees."""
    slices = len(block.worth) // 2
    variance = block.variance
    return replace(
        block,
        levels=np.subtract(block.levels[:, :slices], block.levels[:, slices:]),
        worth=block.worth[:slices],
        variance=None if variance is None else variance[:, :slices] + variance[:, slices:],
        offset=None if block.offset is None else block.offset[:slices] - block.offset[slices:],
        bow=None if block.bow is None else block.bow[:slices],
        scale=None if block.scale is None else block.scale[:slices],
        zoom=None if block.zoom is None else block.zoom[:slices],
        adc=None if block.adc is None else block.adc[:slices],
    )


def _split_rows(block: ReadBlock, active: int) -> list[ReadBlock]:
    parts = [slice(start, start + active) for start in range(0, len(block.rows), active)]
    return [
        replace(
            block,
            rows=block.rows[part],
            levels=block.levels[part],
            variance=None if block.variance is None else block.variance[part],
            beside=None if block.beside is None else block.beside.of(part),
        )
        for part in parts
    ]
