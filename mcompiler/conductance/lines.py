"""Arrays of a chip whose lines were moved because of stuck cells: from the mapping's order to the chip's, and back.

In the mapping's order an array is [rows, columns + extra], on the chip [word lines, bit lines] with spare lines. Only
this file converts: all other code works in one order or the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from mcompiler.conductance.cells import Cells, pack_levels, unpack_levels
from mcompiler.conductance.states import ArrayState, Values
from mcompiler.geometry import ArrayShape
from mcompiler.ir import IntArray, Remapping

Number = TypeVar("Number", bound=np.generic)


def spare_places(lines: tuple[int, int], shape: ArrayShape) -> int:
    """Columns of weights that the spare bit lines of an array of these (word lines, bit lines) can hold."""
    return (lines[1] - shape.columns - shape.extra) // shape.columns_per_weight


def partners(shape: ArrayShape) -> IntArray:
    """Which of the adjacent cells of a weight each becomes where its polarities are swapped: [columns_per_weight]."""
    cells = np.arange(shape.columns_per_weight)
    # Polarity is outermost among the adjacent cells, so that the other cell is adjacent_slices further on; with one
    # polarity that is the cell itself.
    return (cells + shape.adjacent_slices) % shape.columns_per_weight


def place_lines(shape: ArrayShape, places: int) -> IntArray:
    """Bit lines of each place of a column of weights: [places, columns_per_weight]; spares follow the extra columns."""
    width = shape.columns_per_weight
    first = np.arange(places) * width
    spare = np.arange(places) >= shape.tile_columns
    # Spare bit lines come after all regular ones, of which a few at the end may be too few for a weight, and after the
    # unit and reference columns.
    first = np.where(spare, first - shape.tile_columns * width + shape.columns + shape.extra, first)
    return first[:, None] + np.arange(width)


def bit_lines(remap: Remapping, tiles: slice, shape: ArrayShape) -> IntArray:
    """Bit line of each column of the mapping, unit and reference columns included: [tiles, columns + extra]."""
    where = place_lines(shape, shape.tile_columns + spare_places(remap.lines, shape))
    chosen = where[remap.places[tiles]]  # [tiles, tile_columns, columns_per_weight]
    swapped = remap.swapped[tiles][:, :, None]
    chosen = np.where(swapped, chosen[:, :, partners(shape)], chosen)
    found = np.tile(np.arange(shape.columns + shape.extra), (len(chosen), 1))
    found[:, : shape.tile_columns * shape.columns_per_weight] = chosen.reshape(len(chosen), -1)
    return found


def _order(remap: Remapping, first: int, arrays: int, shape: ArrayShape) -> tuple[IntArray, IntArray, IntArray]:
    """Indices that take [arrays, word lines, bit lines] to [arrays, rows, columns + extra]."""
    # The arrays of one position hold slices or polarities of the same weights, and so share the order of their lines.
    copies = shape.arrays_per_tile
    tiles = slice(first // copies, (first + arrays) // copies)
    rows = np.repeat(remap.word_lines[tiles].astype(np.int64), copies, axis=0)
    columns = np.repeat(bit_lines(remap, tiles, shape), copies, axis=0)
    return np.arange(arrays)[:, None, None], rows[:, :, None], columns[:, None, :]


def restored(values: npt.NDArray[Number], first: int, remap: Remapping, shape: ArrayShape) -> npt.NDArray[Number]:
    """Cells [arrays, word lines, bit lines] in the order of the mapping, [arrays, rows, columns + extra].

    Args:
        values: of whole array positions.
        first: number of the first array within the layer.
        remap: of the layer.
        shape: array geometry.
    """
    return values[_order(remap, first, len(values), shape)]


def restored_state(state: ArrayState, first: int, remap: Remapping, shape: ArrayShape) -> ArrayState:
    """Arrays of a chip in the order of the mapping."""
    count = len(state.currents)
    array, _, columns = _order(remap, first, count, shape)

    def lines(values: Values) -> Values:
        return values[array[:, 0], columns[:, 0]]

    return replace(
        state,
        currents=restored(state.currents, first, remap, shape),
        fluctuations=state.fluctuations.map(lambda values: restored(values, first, remap, shape)),
        offset=lines(state.offset),
        gain=lines(state.gain),
        trim=lines(state.trim),
        bow=lines(state.bow),
    )


def arranged_cells(cells: Iterator[Cells], remap: Remapping, shape: ArrayShape) -> Iterator[Cells]:
    """Packed cells in the order of the mapping in the order of the chip; unused lines are at level 0."""
    first = 0
    for chunk in cells:
        levels = unpack_levels(chunk, shape.storage_bits, shape.columns + shape.extra)
        placed = np.zeros((len(chunk), *remap.lines), dtype=np.uint8)
        placed[_order(remap, first, len(chunk), shape)] = levels
        yield pack_levels(placed, shape.storage_bits)
        first += len(chunk)


def restored_cells(cells: Iterator[Cells], remap: Remapping, shape: ArrayShape) -> Iterator[Cells]:
    """Undo arranged_cells."""
    first = 0
    for chunk in cells:
        levels = unpack_levels(chunk, shape.storage_bits, remap.lines[1])
        yield pack_levels(restored(levels, first, remap, shape), shape.storage_bits)
        first += len(chunk)
