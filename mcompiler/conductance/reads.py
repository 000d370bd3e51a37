"""Reads of a matrix: the values that converters see, from its cells as they were mapped, or as one chip has them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.conductance.cells import Cells, unpack_levels
from mcompiler.conductance.codes import steps_of
from mcompiler.conductance.converters import AdcTransfer, make_adc
from mcompiler.conductance.lines import restored, restored_state
from mcompiler.conductance.mapped import MappedMatrix
from mcompiler.conductance.read_block import ReadBlock, joined_columns
from mcompiler.conductance.states import (
    ArrayState,
    Fluctuations,
    LineStates,
    Realise,
    SharedLines,
    Values,
    extra_columns_of,
)
from mcompiler.encodings import Decoding, Levels, WeightEncoding
from mcompiler.geometry import Block, TileTable, tile_blocks
from mcompiler.ir import IntArray, Remapping
from mcompiler.target import Pedestal


@dataclass(frozen=True)
class _TileArrays:
    """The arrays of one array position, and where their bit lines belong.

    Attributes:
        mapped: the matrix.
        numbers: of the arrays within the tile table.
    """

    mapped: MappedMatrix
    numbers: slice

    @property
    def table(self) -> TileTable:
        """Their entries in the tile table."""
        return self.mapped.table[self.numbers]

    @property
    def groups(self) -> tuple[int, int]:
        """First group, and how many."""
        head = self.table[0]
        return int(head["group"]), int(head["groups"])

    @property
    def conversions(self) -> int:
        """Converted bit lines per weight, before any are subtracted: polarity-major."""
        return self.mapped.shape.slices * self.mapped.shape.polarities

    @property
    def width(self) -> int:
        """Output channels of the groups."""
        return int(self.groups[1] * self.mapped.matrix.codes.shape[2])

    @cached_property
    def rows(self) -> IntArray:
        """Index in groups x K of each word line, counted from the first group."""
        group, depth = self.groups[0], self.mapped.matrix.codes.shape[1]
        return np.concatenate([(block.group - group) * depth + block.rows for block in self._blocks()])

    @cached_property
    def channels(self) -> IntArray:
        """Output channel of each column of weights, counted over the groups."""
        group, cols = self.groups[0], self.mapped.matrix.codes.shape[2]
        return np.concatenate([(block.group - group) * cols + block.cols for block in self._blocks()])

    def _blocks(self) -> list[Block]:
        return tile_blocks(self.table[0], self.mapped.matrix.rows, self.mapped.matrix.cols)

    def places(self, array: np.void) -> list[tuple[int, int, int]]:
        """(slice, sign, conversion) of the adjacent cells of one weight in one of the arrays."""
        shape = self.mapped.shape
        slices = range(shape.slices) if int(array["slice"]) < 0 else (int(array["slice"]),)
        polarities = shape.encoding.polarities_of(int(array["polarity"]))
        return [(s, shape.encoding.polarity_signs[p], p * shape.slices + s) for p in polarities for s in slices]

    def by_weight(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """[..., columns] of an array by weight: [..., tile_columns, columns_per_weight]."""
        shape = self.mapped.shape
        used = shape.tile_columns * shape.columns_per_weight
        return values[..., :used].reshape(*values.shape[:-1], shape.tile_columns, shape.columns_per_weight)

    def spread(self, values: npt.NDArray[Any], kind: npt.DTypeLike) -> npt.NDArray[Any]:
        """Values of bit lines [arrays, ..., columns] by conversion: [..., conversions, channels], 0 where none is."""
        channels = self.channels
        spread = np.zeros((*values.shape[1:-1], self.conversions, self.width), dtype=kind)
        for array, held in zip(self.table, values, strict=True):
            parts = self.by_weight(held)
            for place, (_, _, conversion) in enumerate(self.places(array)):
                spread[..., conversion, channels] = parts[..., : len(channels), place]
        return spread


def read_blocks(
    cells: Iterator[Cells], mapped: MappedMatrix, realise: Realise | None = None, remap: Remapping | None = None
) -> list[ReadBlock]:
    """Every read of a matrix, from its cells.

    Args:
        cells: packed level codes, in table order.
        mapped: where the cells belong and how they are read; the codes of its matrix are not read.
        realise: the array state that level codes have on one chip; None: ideal cells.
        remap: physical lines of the cells, which are then in the order of the chip; None: in the order of the mapping.
    """
    shape, encoded = mapped.shape, mapped.encoded
    lines = shape.columns + shape.extra if remap is None else remap.lines[1]
    copies, adc = shape.arrays_per_tile, replace(make_adc(mapped.target), gain=encoded.gain)
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
            tile = _TileArrays(mapped, slice(first + position, first + position + copies))
            block = _ideal_block(levels[inside, :, : shape.columns], tile)
            if state is not None:
                block = _with_device_errors(block, state.of(inside), tile, adc)
                block = replace(block, adc=_converters(block, tile))
            head = mapped.table[first + position]
            # Signs belong to one read of a tile, so that they are applied after its rows have been cut into reads and
            # before column blocks are joined: these have arrays and signs of their own.
            for read, part in enumerate(_split_rows(block, shape.rows_active)):
                part = _signed(part, encoded.signs[tile.numbers, read], tile) if encoded.signs is not None else part
                # Tiles of the same groups and row block have the same word lines: one read drives all of them.
                key = (int(head["group"]), int(head["groups"]), int(head["row"]), read)
                merged.setdefault(key, []).append(part)
        first += len(chunk)
    joined = [joined_columns(blocks) for blocks in merged.values()]
    # The two lines of a pair may be in different arrays, of which each block until here has both; only now that errors
    # of devices and converters are in them may they be subtracted.
    return [_as_converted(block, shape.encoding) for block in joined] if shape.encoding.signed else joined


def _ideal_block(levels: Levels, tile: _TileArrays) -> ReadBlock:
    """One tile as it was mapped: its columns spread over the output channels of its groups."""
    shape, encoded = tile.mapped.shape, tile.mapped.encoded
    rows, channels = tile.rows, tile.channels
    place_value = np.zeros((tile.conversions, tile.width), dtype=np.int32)
    inputs = np.zeros(tile.width, dtype=np.int64)
    full = (1 << shape.cell_bits) - 1
    spread = tile.spread(steps_of(levels[:, : len(rows)], shape), np.int16)
    for array, flip in zip(tile.table, encoded.flips[tile.numbers], strict=True):
        flipped = tile.by_weight(flip)[: len(channels)]  # [width, cells]
        for place, (which_slice, sign, conversion) in enumerate(tile.places(array)):
            unit = sign * (1 << (shape.cell_bits * which_slice))
            # A flipped column holds full - l for each level l: sum x (full - l) = full sum x - sum x l. So its code
            # counts negative, and full times the sum of the inputs is added.
            place_value[conversion, channels] = np.where(flipped[:, place], -unit, unit)
            inputs[channels] += np.where(flipped[:, place], full * unit, 0)
    # Cells hold code + shift: the shift times the sum of the inputs comes off every channel that has cells in the tile,
    # once per tile and not per array, because the slices of a weight have one shift together.
    inputs -= encoded.shift * (place_value != 0).any(axis=0)
    zoom = None if encoded.zoom is None else tile.spread(encoded.zoom[tile.numbers], np.int8)
    return ReadBlock(*tile.groups, rows=rows, levels=spread, place_value=place_value, inputs=inputs, zoom=zoom)


def _with_device_errors(block: ReadBlock, state: ArrayState, tile: _TileArrays, adc: AdcTransfer) -> ReadBlock:
    """A tile with the conductances, gains and offsets of one chip."""
    shape, target = tile.mapped.shape, tile.mapped.target
    rows = slice(0, len(block.rows))
    bare = replace(
        state,
        currents=state.currents[:, rows],
        fluctuations=state.fluctuations.map(lambda values: values[:, rows]),
    )
    subtracted = bare.fluctuations.map(lambda values: values[:, :, -1].T)  # [rows, arrays]
    if target.encoding.pedestal is Pedestal.REFERENCE_COLUMN:
        bare = bare.less_reference()

    def spread(values: Values) -> Values:
        return tile.spread(values, np.result_type(values, np.float64))

    gain, trim, present = spread(bare.gain), spread(bare.trim), block.place_value != 0
    # Lines that are subtracted have one converter: its gain acts on both, and its own offset (trim) is added once.
    # Conversions are polarity-major, so that those of a polarity are a run of ``slices``.
    for polarity, converter in enumerate(shape.encoding.converters):
        if polarity != converter:
            line, owner = (slice(each * shape.slices, (each + 1) * shape.slices) for each in (polarity, converter))
            gain[line] = gain[owner]
            trim[line] = 0
    # A line's offset is a current and is converted with the line's gain (and zoom); trim is in codes already.
    offset = spread(bare.offset) * gain * adc.gain * block.zoomed + trim
    # The digital factor is one number an array, and so is the array whose unit column a conversion uses: both are
    # repeated for all bit lines, to be spread like every other value of a line.
    array = np.zeros((len(tile.table), shape.columns), np.int64) + np.arange(len(tile.table))[:, None]
    factor = spread(np.broadcast_to(bare.scale[:, None], array.shape))
    # The exporter adds the nominal pedestal to all cells, as it does to ideal ones; conductances contain their own.
    pedestal = adc.pedestal if adc.decoding is not Decoding.CLEAN else 0.0
    reference = None
    if target.encoding.pedestal is Pedestal.REFERENCE_COLUMN and not subtracted.steady:
        each = np.arange(len(tile.table))[:, None, None]
        own = (tile.spread(array, np.int64) == each) & present  # [references, conversions, channels]
        share = np.where(own, -gain, 0)
        reference = SharedLines(subtracted.to_single_precision(), share.astype(np.float32))
    return replace(
        block,
        levels=np.where(present, spread(bare.currents) * gain - pedestal, 0).astype(np.float32),
        scale=None if (factor[present] == 1).all() else np.where(present, factor, 1.0),
        fluctuations=bare.fluctuations.map(spread).scaled(gain).to_single_precision(),
        reference=reference,
        offset=offset.astype(np.float32) if bare.offset.any() or bare.trim.any() else None,
        bow=spread(bare.bow).astype(np.float32) if bare.bow.any() else None,
        extra_columns=extra_columns_of(bare, adc, pedestal, shape, owner=tile.spread(array, np.int64)),
    )


def _converters(block: ReadBlock, tile: _TileArrays) -> IntArray:
    """Number of the converter of each conversion, as ``ReadBlock.adc``."""
    shared = tile.mapped.target.converters.adc.columns
    columns = tile.mapped.shape.columns
    # A converter serves adjacent bit lines of one array, so that the last one of an array may have fewer of them.
    first = np.arange(tile.numbers.start, tile.numbers.stop)[:, None] * -(-columns // shared)
    return np.where(block.place_value != 0, tile.spread(first + np.arange(columns) // shared, np.int64), -1)


def _signed(block: ReadBlock, negative: npt.NDArray[np.bool_], tile: _TileArrays) -> ReadBlock:
    """One read of one tile with the signs of its columns [arrays, tile_columns] in its place values.

    ``inputs`` stays: encodings with signs of fragments neither shift nor flip.
    """
    place_value, channels = block.place_value.copy(), tile.channels
    for array, signs in zip(tile.table, negative, strict=True):
        for _, _, conversion in tile.places(array):
            place_value[conversion, channels] *= np.where(signs[: len(channels)], -1, 1)
    return replace(block, place_value=place_value)


def _as_converted(block: ReadBlock, encoding: WeightEncoding) -> ReadBlock:
    """Bit lines that are subtracted before their one conversion, as the values of that conversion.

    Levels and offsets are currents of lines and are subtracted; variances of independent cells add up, and cells with
    two states remain separate ones. Place value, scale, zoom and nonlinearity belong to the converter, which is that of
    one of the lines.
    """
    slices = len(block.place_value) // encoding.polarities

    def split(values: Values) -> Values:  # [..., polarities, slices, channels]
        return values.reshape(*values.shape[:-2], encoding.polarities, slices, values.shape[-1])

    def flat(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return values.reshape(*values.shape[:-3], encoding.conversions * slices, values.shape[-1])

    def owned(values: npt.NDArray[Any]) -> npt.NDArray[Any]:  # properties of the converter
        return flat(encoding.at_converters(split(values), -3))

    def seen(values: Values) -> Values:
        return flat(encoding.seen(split(values), -3))

    def of_polarity(states: LineStates, polarity: int) -> LineStates:
        lines = np.arange(encoding.polarities)[:, None, None] == polarity
        return replace(states, loss=seen(np.where(lines, split(states.loss), 0).reshape(states.loss.shape)))

    variance = block.fluctuations.variance.map(lambda values: flat(encoding.seen_variance(split(values), -3)))
    polarities, reference = range(encoding.polarities), block.reference
    states = (of_polarity(each, polarity) for each in block.fluctuations.states for polarity in polarities)
    return replace(
        block,
        levels=seen(block.levels),
        place_value=owned(block.place_value),
        fluctuations=Fluctuations(variance, tuple(states)),
        reference=None if reference is None else replace(reference, share=seen(reference.share)),
        offset=None if block.offset is None else seen(block.offset),
        bow=None if block.bow is None else owned(block.bow),
        scale=None if block.scale is None else owned(block.scale),
        zoom=None if block.zoom is None else owned(block.zoom),
        adc=None if block.adc is None else owned(block.adc),
    )


def _rows(part: slice, values: Values) -> Values:
    return values[part]


def _split_rows(block: ReadBlock, active: int) -> list[ReadBlock]:
    """The reads of a tile, which drive ``active`` word lines each; its columns and converters serve them all."""
    parts = [slice(start, start + active) for start in range(0, len(block.rows), active)]
    return [
        replace(
            block,
            rows=block.rows[part],
            levels=block.levels[part],
            fluctuations=block.fluctuations.map(partial(_rows, part)),
            reference=None if block.reference is None else block.reference.of(part),
            extra_columns=None if block.extra_columns is None else block.extra_columns.of(part),
        )
        for part in parts
    ]
