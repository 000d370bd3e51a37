"""What the converters see: the reads of an operation, from its cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.conductance.cells import Cells, unpack_levels
from mcompiler.conductance.codes import Levels, steps_of
from mcompiler.conductance.converters import is_signed
from mcompiler.geometry import ArrayShape, TileTable, tile_blocks
from mcompiler.ir import IntArray, MatrixOp
from mcompiler.target import Target, WeightEncoding


@dataclass(frozen=True)
class ReadBlock:
    """Word lines that are driven at once, and every column that they cross: one read of one phase.

    Attributes:
        group, groups: input groups that the word lines belong to; their output channels are the columns.
        rows: int64 [rows], index of each word line in groups x K, counted from ``group``.
        levels: int16 [rows, conversions, channels]: level (or level difference of a pair) on each converted bit line,
            for the ``groups * N`` output channels of those groups, in the units of the level table where there is one;
            float32 where conductances are off their levels.
        worth: int32 [conversions, channels]: what one decoded code adds to its channel's sum, the sign of the read
            included; 0 where no cell stands.
        inputs: int64 [channels]: what the sum of the inputs over the word lines adds (flips undone, shift subtracted).
    """

    group: int
    groups: int
    rows: IntArray
    levels: npt.NDArray[Any]
    worth: npt.NDArray[np.int32]
    inputs: IntArray


def read_blocks(
    cells: Iterator[Cells],
    op: MatrixOp,
    table: TileTable,
    target: Target,
    shape: ArrayShape,
    shift: int,
    flips: npt.NDArray[np.bool_],
    signs: npt.NDArray[np.bool_] | None = None,
) -> list[ReadBlock]:
    """Every read of an operation, from the cells.

    Args:
        cells: packed level codes, in table order.
        op: operation whose shape and kept indices say where the cells belong; its codes are not read.
        table, shape, shift, flips: as in encode_cells.
        signs: as in decode_cells.
        target: where pairs are subtracted, how many word lines are active.
    """
    encoding = target.encoding.weights
    copies = shape.arrays_per_tile
    merged: dict[tuple[int, int, int, int], list[ReadBlock]] = {}
    first = 0
    for chunk in cells:
        levels = unpack_levels(chunk, shape.storage_bits, shape.columns)
        for position in range(0, len(chunk), copies):
            arrays = slice(first + position, first + position + copies)
            block = _tile_block(levels[position : position + copies], op, table[arrays], shape, encoding, flips[arrays])
            block = _apply_shift(block, shift, shape, encoding)
            tile = table[first + position]
            for read, part in enumerate(_split_rows(block, shape.rows_active)):
                part = part if signs is None else _signed(part, signs[arrays, read], table[arrays], op, shape)
                key = (int(tile["group"]), int(tile["groups"]), int(tile["row"]), read)
                merged.setdefault(key, []).append(part)
        first += len(chunk)
    joined = [_join(blocks) for blocks in merged.values()]
    return [_subtract_pairs(block) if is_signed(target) else block for block in joined]


def _tile_block(
    levels: Levels,
    op: MatrixOp,
    arrays: TileTable,
    shape: ArrayShape,
    encoding: WeightEncoding,
    flips: npt.NDArray[np.bool_],
) -> ReadBlock:
    """One tile: its columns spread over the output channels of its groups. Conversions: slices x polarities."""
    tile = arrays[0]
    group, groups, cols = int(tile["group"]), int(tile["groups"]), op.codes.shape[2]
    depth = op.codes.shape[1]
    blocks = tile_blocks(tile, op.rows, op.cols)
    rows = (
        np.concatenate([(block.group - group) * depth + block.rows for block in blocks])
        if int(tile["groups"]) > 1
        else blocks[0].rows
    )
    channels = _channels(tile, op)
    width = len(channels)
    conversions = shape.slices * shape.polarities
    spread = np.zeros((len(rows), conversions, groups * cols), dtype=np.int16)
    worth = np.zeros((conversions, groups * cols), dtype=np.int32)
    inputs = np.zeros(groups * cols, dtype=np.int64)
    full = (1 << shape.cell_bits) - 1
    for array, held, flip in zip(arrays, levels, flips, strict=True):
        used = shape.tile_columns * shape.columns_per_weight
        parts = steps_of(held[: len(rows), :used], shape).reshape(len(rows), shape.tile_columns, -1)[
            :, :width
        ]  # [rows, width, cells]
        flipped = flip[:used].reshape(shape.tile_columns, -1)[:width]  # [width, cells]
        for place, (which_slice, sign, index) in enumerate(_places(array, shape)):
            spread[:, index, channels] = parts[:, :, place]
            unit = sign << (shape.cell_bits * which_slice) if sign > 0 else -(1 << (shape.cell_bits * which_slice))
            worth[index, channels] = np.where(flipped[:, place], -unit, unit)
            inputs[channels] += np.where(flipped[:, place], full * unit, 0)
    return ReadBlock(group, groups, rows, spread, worth, inputs)


def _channels(tile: np.void, op: MatrixOp) -> IntArray:
    """Output channel of each column of weights of a tile, counted over its groups."""
    group, cols = int(tile["group"]), op.codes.shape[2]
    blocks = tile_blocks(tile, op.rows, op.cols)
    return np.concatenate([(block.group - group) * cols + block.cols for block in blocks])


def _signed(
    block: ReadBlock, negative: npt.NDArray[np.bool_], arrays: TileTable, op: MatrixOp, shape: ArrayShape
) -> ReadBlock:
    """One read of one tile with the signs of its columns [arrays, tile_columns] in what their codes are worth."""
    worth, channels = block.worth.copy(), _channels(arrays[0], op)
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
        levels=np.asarray(np.sum([block.levels for block in blocks], axis=0, dtype=np.int16)),
        worth=np.sum([block.worth for block in blocks], axis=0, dtype=np.int32),
        inputs=np.sum([block.inputs for block in blocks], axis=0, dtype=np.int64),
    )


def _subtract_pairs(block: ReadBlock) -> ReadBlock:
    """The pair's difference is what one conversion sees."""
    slices = len(block.worth) // 2
    return replace(
        block, levels=np.subtract(block.levels[:, :slices], block.levels[:, slices:]), worth=block.worth[:slices]
    )


def _split_rows(block: ReadBlock, active: int) -> list[ReadBlock]:
    return [
        replace(block, rows=block.rows[start : start + active], levels=block.levels[start : start + active])
        for start in range(0, len(block.rows), active)
    ]
