"""Extreme sums of the columns of a matrix in one read, and their consequences: flips, signs, bits of converters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.conductance.codes import TileRun, code_span, step_table, tile_runs
from mcompiler.conductance.converters import AdcTransfer, make_adc, needed_bits
from mcompiler.encodings import Levels
from mcompiler.errors import CompileError
from mcompiler.geometry import ArrayShape, TileTable, tile_blocks
from mcompiler.ir import IntArray, WeightMatrix
from mcompiler.target import Target

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ColumnSums:
    """Extreme sums of the columns of one matrix, and the flips, signs and bits that follow from them.

    Attributes:
        flips: bool [arrays, columns], columns past half of full scale.
        signs: polarised encoding: bool [arrays, reads, tile_columns], columns that are subtracted; None otherwise.
        lowest, highest: extreme sums of any column in one read, in level steps times input codes.
        inputs: largest sum of input codes over the active rows.
        bits: int64 [arrays], fewest bits of a converter that lose nothing; 0 where no number of bits suffices.
        steps: int64 [arrays], level steps of all cells of an array together.
    """

    flips: BoolArray
    signs: BoolArray | None
    lowest: int
    highest: int
    inputs: int
    bits: IntArray
    steps: IntArray


def column_sums(matrix: WeightMatrix, table: TileTable, shape: ArrayShape, target: Target, shift: int) -> ColumnSums:
    """Sum the cells of every column over every read.

    Raises:
        CompileError: polarised weights of both signs in one column of one read.
    """
    top = (1 << target.converters.dac.bits) - 1
    flips = np.zeros((len(table), shape.columns), dtype=bool)
    encoding = shape.encoding
    signs = np.zeros((len(table), shape.reads, shape.tile_columns), bool) if encoding.signed_fragments else None
    bits = np.zeros(len(table), dtype=np.int64)
    steps = np.zeros(len(table), dtype=np.int64)
    lowest = highest = inputs = 0
    adc, span = make_adc(target), code_span(matrix)
    lanes = _Lanes.of(encoding.level_table(shape, shift, span), shape)
    full = int(step_table(shape)[(1 << shape.cell_bits) - 1])
    for run in tile_runs(matrix, table, shape, span.smallest):
        live = _live(run, shape)  # [tiles, reads]
        if signs is not None:
            signs[run.arrays] = np.repeat(
                _signs(run, span.smallest, matrix, table, shape), shape.arrays_per_tile, axis=0
            )
        sums = lanes.sums(run, shape)  # [tiles, reads, tile_columns, polarities, slices]
        flip = encoding.flips(sums.sum(axis=1), live.sum(axis=1), full)
        if flip is not None:
            # The complement of a level is full - l in rows with weights only: idle rows stay at level 0. Flipping is
            # chosen over all reads of a column, and may so raise the sum of a single read.
            sums = np.where(flip[:, None], live[:, :, None, None, None] * full - sums, sums)
            flips[run.arrays] = _by_array(flip, shape)
        steps[run.arrays] = _array_steps(sums.sum(axis=1), live.sum(axis=1), shape)
        # All sums of a read lie between low and high, times the largest digit: digits are at least 0, and level steps
        # of one sign add most when their inputs are at the top and those of the other sign at 0.
        low, high = _extremes(sums, live, shape)  # [arrays, reads]
        counts = np.repeat(live, shape.arrays_per_tile, axis=0)
        bits[run.arrays] = _bits(adc, low * top, high * top, counts * top)
        lowest, highest = min(lowest, int(low.min()) * top), max(highest, int(high.max()) * top)
        inputs = max(inputs, int(live.max()) * top)
    return ColumnSums(flips=flips, signs=signs, lowest=lowest, highest=highest, inputs=inputs, bits=bits, steps=steps)


def _starts(shape: ArrayShape) -> IntArray:
    return np.arange(0, shape.rows, shape.rows_active)


def _live(run: TileRun, shape: ArrayShape) -> IntArray:
    """Word lines with weights in each read: [tiles, reads]."""
    # The first column tells: every word line in use crosses all columns (code 0 off the diagonal of packed groups).
    return np.add.reduceat((run.index[:, :, 0] >= 0).astype(np.int64), _starts(shape), axis=1)


def _signs(run: TileRun, smallest: int, matrix: WeightMatrix, table: TileTable, shape: ArrayShape) -> BoolArray:
    """Whether the weights of a column are negative, in each read: bool [tiles, reads, tile_columns]."""
    # Entries of ``index`` are code - smallest, so that -smallest is code 0 and a cell without weight (-1) is neither.
    starts = _starts(shape)
    negative = np.logical_or.reduceat((run.index >= 0) & (run.index < -smallest), starts, axis=1)
    positive = np.logical_or.reduceat(run.index > -smallest, starts, axis=1)
    both = np.argwhere(negative & positive)
    if len(both):
        tile, read, column = both[0].tolist()
        head = table[run.arrays][tile * shape.arrays_per_tile]
        more = f" (and {len(both) - 1} more columns near it)" if len(both) > 1 else ""
        where = _fragment(head, read, column, matrix, shape)
        raise CompileError(
            f"has weights of both signs in one fragment: {where}{more}; {shape.encoding.sign_conflict(shape)}",
            matrix.label,
        )
    return np.asarray(negative)


def _fragment(head: np.void, read: int, column: int, matrix: WeightMatrix, shape: ArrayShape) -> str:
    """Where a fragment is in the model's matrix and in the arrays, for messages."""
    block = next(b for b in tile_blocks(head, matrix.rows, matrix.cols) if b.col <= column < b.col + len(b.cols))
    first, last = read * shape.rows_active, min((read + 1) * shape.rows_active, int(head["rows"])) - 1
    return (
        f"group {block.group}, output channel {int(block.cols[column - block.col])}, row block "
        f"{int(head['row']) // shape.rows}, word lines {first} to {last}"
    )


def _by_array(columns: npt.NDArray[Any], shape: ArrayShape) -> npt.NDArray[Any]:
    """[tiles, tile_columns, polarities, slices] to [arrays, columns], in the order of the cells in the arrays."""
    tiles, width = columns.shape[:2]
    arrays = np.zeros((tiles, shape.arrays_per_tile, shape.columns), dtype=columns.dtype)
    for copy, (polarity, piece) in enumerate(_copies(shape)):
        arrays[:, copy, : width * shape.columns_per_weight] = columns[:, :, polarity, piece].reshape(tiles, -1)
    return arrays.reshape(-1, shape.columns)


def _array_steps(sums: IntArray, live: IntArray, shape: ArrayShape) -> IntArray:
    """Level steps of all cells of each array, [arrays], from those of columns; a unit column has one a live row."""
    held = [sums[:, :, polarity, piece].sum(axis=(1, 2, 3)) for polarity, piece in _copies(shape)]
    steps = np.stack(held, axis=1).reshape(-1).astype(np.int64)
    return steps + np.repeat(live, shape.arrays_per_tile) if shape.unit else steps


def _copies(shape: ArrayShape) -> list[tuple[slice, slice]]:
    """Polarities and slices that each array of a tile holds: slices outermost, as in a tile table."""
    polarity, piece = shape.adjacent_polarities, shape.adjacent_slices
    return [
        (slice(p, p + polarity), slice(s, s + piece))
        for s in range(0, shape.slices, piece)
        for p in range(0, shape.polarities, polarity)
    ]


def _extremes(sums: IntArray, live: IntArray, shape: ArrayShape) -> tuple[IntArray, IntArray]:
    """Lowest and highest sum of any conversion of each array: [arrays, reads], in level steps times active inputs."""
    low, high = [], []
    # The largest sum of each kind of column is enough: levels are not negative and inputs may be 0, so that the lowest
    # value of a line is 0, and of a pair minus the largest sum of the line that is subtracted.
    peaks = sums.max(axis=2)  # [tiles, reads, polarities, slices]
    for polarity, piece in _copies(shape):
        lowest, highest = shape.encoding.extremes(peaks[:, :, :, piece], polarity)
        low.append(lowest)
        high.append(highest)
        if shape.unit:  # its cells hold level 1 in every live row, so that it sums to their number
            high[-1] = np.maximum(high[-1], live)
    reads = sums.shape[1]
    return np.stack(low, axis=1).reshape(-1, reads), np.stack(high, axis=1).reshape(-1, reads)


def _bits(adc: AdcTransfer, lowest: IntArray, highest: IntArray, inputs: IntArray) -> IntArray:
    """Fewest bits for all reads of each array."""
    needed = needed_bits(adc, lowest, highest, inputs)  # [arrays, reads]; an array's converters serve all its reads
    return np.where((needed == 0).any(axis=1), 0, needed.max(axis=1))


@dataclass(frozen=True)
class _Lanes:
    """Cells of a weight as lanes of 64-bit words, so that one addition sums several columns.

    Attributes:
        words: uint64 [words, codes + 1].
        kind: type of a lane.
        rows: word lines that may be added before a lane overflows.
    """

    words: npt.NDArray[np.uint64]
    kind: type[np.unsignedinteger[Any]]
    rows: int

    @staticmethod
    def of(lut: Levels, shape: ArrayShape) -> _Lanes:
        """Lanes from a level table [codes + 1, polarities, slices]."""
        # A lane is as narrow as allows at least 16 rows to be added before it could overflow: narrower lanes sum more
        # columns per addition, wider ones are emptied into int64 less often.
        steps = step_table(shape)[lut].reshape(len(lut), -1)
        largest = max(1, int(steps.max()))
        kinds: tuple[type[np.unsignedinteger[Any]], ...] = (np.uint8, np.uint16, np.uint32)
        kind = next(kind for kind in kinds if kind is np.uint32 or np.iinfo(kind).max // largest >= 16)
        per_word = 8 // np.dtype(kind).itemsize
        padded = np.zeros((len(lut), -(-steps.shape[1] // per_word) * per_word), dtype=kind)
        padded[:, : steps.shape[1]] = steps
        return _Lanes(np.ascontiguousarray(padded.view(np.uint64).T), kind, int(np.iinfo(kind).max) // largest)

    def sums(self, run: TileRun, shape: ArrayShape) -> IntArray:
        """Sums over the rows of every read: int64 [tiles, reads, tile_columns, polarities, slices]."""
        tiles = len(run.index)
        # Index -1, where there is no weight, picks the last row of the level table, which is all zero.
        index = run.index.transpose(1, 0, 2).reshape(shape.rows, -1)  # [rows, tiles * tile_columns]
        lanes = self.words.shape[0] * (8 // np.dtype(self.kind).itemsize)
        sums = np.zeros((shape.reads, index.shape[1], lanes), dtype=np.int64)
        # Weights fill an array from its first row on: rows after the last one of the fullest tile add nothing.
        used = int((run.index[:, :, 0] >= 0).sum(axis=1).max())
        for read, start in enumerate(_starts(shape).tolist()):
            for first in range(start, min(start + shape.rows_active, used), self.rows):
                part = index[first : min(first + self.rows, start + shape.rows_active)]
                # No lane carries into its neighbour, because at most self.rows rows are added at once: words can be
                # added as wholes, and taken apart afterwards.
                total = np.stack([word[part].sum(axis=0) for word in self.words], axis=-1)
                sums[read] += total.view(self.kind).reshape(index.shape[1], lanes)
        cells = sums[:, :, : shape.polarities * shape.slices]  # lanes after these fill up the last word
        cells = cells.reshape(shape.reads, tiles, shape.tile_columns, shape.polarities, shape.slices)
        return cells.swapaxes(0, 1)
