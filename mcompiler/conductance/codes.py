"""Weight codes as level codes of cells, and the walk over the tiles of an operation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.encodings import CodeRange, Levels
from mcompiler.geometry import ArrayShape, TileTable, span, tile_blocks
from mcompiler.ir import CodeArray, IntArray, WeightMatrix

MAX_BYTES_PER_RUN = 64 << 20
"""Bound on the working set of one step of encoding."""


def code_span(matrix: WeightMatrix) -> CodeRange:
    """The smallest and the largest code of a matrix, 0 included, which stands where packed groups have no weight."""
    if not matrix.codes.size:
        return CodeRange(0, 0)
    return CodeRange(min(0, int(matrix.codes.min())), max(0, int(matrix.codes.max())))


def steps_of(levels: npt.NDArray[np.unsignedinteger[Any]], shape: ArrayShape) -> npt.NDArray[Any]:
    """Level steps of cells at these level codes: the codes themselves, or the entries of a level table.

    Codes beyond the table, which only damaged cells have, count as 0.
    """
    return step_table(shape)[levels] if shape.steps else levels


def step_table(shape: ArrayShape) -> npt.NDArray[np.int16]:
    """Level step of a cell at every code that its storage can have: [2 ** storage_bits]."""
    table = np.zeros(1 << shape.storage_bits, dtype=np.int16)
    steps = shape.steps or range(len(table))
    table[: len(steps)] = steps
    return table


def largest_sum(codes: npt.NDArray[np.signedinteger[Any]]) -> int:
    """Largest sum of magnitudes over the rows of any column of codes [G, K, N]; bounds every partial sum."""
    largest = 0
    for group in codes:
        total = np.zeros(group.shape[1], dtype=np.int64)
        step = max(1, (1 << 18) // max(1, group.shape[1]))
        for row in range(0, len(group), step):  # in pieces that stay in cache
            total += np.abs(group[row : row + step], dtype=np.int32).sum(axis=0)
        largest = max(largest, int(total.max(initial=0)))
    return largest


@dataclass(frozen=True)
class TileRun:
    """Successive tiles that share a row block: their weights as one padded matrix of indices into a level table.

    Attributes:
        arrays: which rows of the tile table these are.
        index: int32 [tiles, rows, tile_columns], entries of the level table; -1 where there is no weight.
    """

    arrays: slice
    index: npt.NDArray[np.int32]


def tile_runs(matrix: WeightMatrix, table: TileTable, shape: ArrayShape, smallest: int) -> Iterator[TileRun]:
    """Walk the array positions of an operation, a row block at a time.

    Args:
        matrix: the operation.
        table: its tile table.
        shape: array geometry.
        smallest: the code of entry 0 of the level table.
    """
    copies = shape.arrays_per_tile
    heads = table[::copies]
    limit = max(1, MAX_BYTES_PER_RUN // (shape.rows * shape.columns * 4))
    for start, stop in row_runs(heads, limit):
        first = heads[start]
        index = np.full((shape.rows, (stop - start) * shape.tile_columns), -1, dtype=np.int32)
        if int(first["groups"]) == 1:
            group, row, col = int(first["group"]), int(first["row"]), int(first["col"])
            rows = matrix.rows.of(group)[row : row + int(first["rows"])]
            width = int(heads[start:stop]["cols"].sum())
            cols = matrix.cols.of(group)[col : col + width]
            index[: len(rows), :width] = _submatrix(matrix.codes[group], rows, cols) - np.int32(smallest)
        else:
            height, width = int(first["rows"]), int(first["cols"])
            index[:height, :width] = -smallest  # code 0 off the diagonal: live rows cross it
            for block in tile_blocks(first, matrix.rows, matrix.cols):
                index[block.row : block.row + len(block.rows), block.col : block.col + len(block.cols)] = _submatrix(
                    matrix.codes[block.group], block.rows, block.cols
                ) - np.int32(smallest)
        tiles = index.reshape(shape.rows, stop - start, shape.tile_columns).transpose(1, 0, 2)
        yield TileRun(slice(start * copies, stop * copies), tiles)


def row_runs(heads: TileTable, limit: int) -> Iterator[tuple[int, int]]:
    """(first, end) of runs of at most ``limit`` tiles that hold successive columns of one row block of one group."""
    if not len(heads):
        return
    before, after = heads[:-1], heads[1:]
    alone = (before["groups"] == 1) & (after["groups"] == 1)
    same_rows = (before["group"] == after["group"]) & (before["row"] == after["row"])
    joins = alone & same_rows & (before["col"] + before["cols"] == after["col"])
    edges = [0, *(np.flatnonzero(~joins) + 1).tolist(), len(heads)]
    for start, stop in pairwise(edges):
        for first in range(start, stop, limit):
            yield first, min(first + limit, stop)


def _submatrix(codes: CodeArray, rows: IntArray, cols: IntArray) -> npt.NDArray[np.int32]:
    """codes[rows, cols], by slices where the indices are contiguous (the common case, and many times faster)."""
    height, width = span(rows), span(cols)
    part = codes[rows if height is None else height]
    return part[:, cols if width is None else width].astype(np.int32)


def held_levels(lut: Levels, shape: ArrayShape, copy: int) -> Levels:
    """Columns of the level table that array ``copy`` of a tile holds: uint8 [codes + 1, columns_per_weight]."""
    polarity_copies = shape.polarities // shape.adjacent_polarities
    which_slice, which_polarity = divmod(copy, polarity_copies)
    part = lut if shape.adjacent_polarities == shape.polarities else lut[:, which_polarity : which_polarity + 1]
    part = part if shape.adjacent_slices == shape.slices else part[:, :, which_slice : which_slice + 1]
    return np.ascontiguousarray(part.reshape(len(part), -1))


def run_levels(run: TileRun, lut: Levels, shape: ArrayShape) -> Levels:
    """Levels of the weight columns of a run: uint8 [arrays, rows, columns], not yet flipped."""
    tiles = len(run.index)
    copies = shape.arrays_per_tile
    out = np.zeros((tiles, copies, shape.rows, shape.columns), dtype=np.uint8)
    used = shape.tile_columns * shape.columns_per_weight
    for copy in range(copies):
        held = held_levels(lut, shape, copy)
        out[:, copy, :, :used] = held[run.index].reshape(tiles, shape.rows, used)
    return out.reshape(tiles * copies, shape.rows, shape.columns)
