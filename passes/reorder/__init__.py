"""Reorder rows and columns so that scattered zeros fill whole array positions; ``prune`` then drops these.

Word lines are driven from a buffer and bit lines are read into one, both by address. So a line may be anywhere: a
table of addresses says which input it reads and to which output channel it belongs. Tensors keep their order, and
nothing that reads or adds them sees another one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt

from mcompiler.declarations import ARRAY_SHAPE_KEYS, Option, Reads, Seed
from mcompiler.errors import CompileError
from mcompiler.geometry import ArrayShape, array_shape, tile_positions, tile_table, used_tiles
from mcompiler.ir import IntArray, Kept, MatrixProgram, Reordering, WeightMatrix
from mcompiler.passes.reorder.bound import fewest_tiles
from mcompiler.passes.reorder.search import Search
from mcompiler.records import ReorderRecord
from mcompiler.target import Target

__all__ = ["Reorder", "Search", "fewest_tiles"]


@dataclass(frozen=True)
class Reorder:
    """Gather the zeros of pruned weights into whole array positions by reordering word lines and bit lines.

    Attributes:
        effort: multiplies the orders that are tried.
        seed: of the search.
        enabled: whether the pipeline has this pass.

    Raises:
        CompileError: an effort below 1.
    """

    name: ClassVar[str] = "reorder"
    reads: ClassVar[Reads] = ARRAY_SHAPE_KEYS
    effort: int = 1
    seed: Seed = 0
    enabled: Annotated[
        bool, Option(key="reorder", off=False, help="Reorder word and bit lines where that empties whole arrays.")
    ] = True

    def __post_init__(self) -> None:
        if self.effort < 1:
            raise CompileError(f"reorder: effort is {self.effort}; give a whole number of at least 1")

    def run(self, program: MatrixProgram, target: Target) -> MatrixProgram:
        """Return the program with the lines of every operation in the best order found, ascending where none is."""
        shape = array_shape(target)
        return replace(program, matrices=tuple(self._reordered(matrix, shape) for matrix in program.matrices))

    def record(self, program: MatrixProgram) -> ReorderRecord:
        """What another order of the lines gained."""
        found = [(program.first_site(number), matrix.reorder) for number, matrix in enumerate(program.matrices)]
        return ReorderRecord.of([(site.name, each) for site, each in found if each is not None])

    def _reordered(self, matrix: WeightMatrix, shape: ArrayShape) -> WeightMatrix:
        rows, cols, bound = [], [], _shared_positions(matrix, shape)
        for group in range(len(matrix.codes)):
            kept_rows, kept_cols = matrix.rows.of(group), matrix.cols.of(group)
            if len(kept_rows) > shape.rows or len(kept_cols) > shape.tile_columns:
                used = matrix.codes[group][np.ix_(kept_rows, kept_cols)] != 0
                row_order, col_order, least = self._order(used, shape)
                kept_rows, kept_cols, bound = kept_rows[row_order], kept_cols[col_order], bound + least
            rows.append(kept_rows)
            cols.append(kept_cols)
        found = replace(
            matrix,
            rows=Kept(np.concatenate(rows), matrix.rows.offsets),
            cols=Kept(np.concatenate(cols), matrix.cols.offsets),
        )
        before, after = _positions(matrix, shape), _positions(found, shape)
        if after >= before:
            found, after = matrix, before
        return replace(found, reorder=_reordering(matrix, found, before, after, bound))

    def _order(self, used: npt.NDArray[np.bool_], shape: ArrayShape) -> tuple[IntArray, IntArray, int]:
        """Order of the rows and columns of one group, and the positions that no order can do without."""
        unit = shape.encoding.rows_together(shape)
        firsts = np.arange(0, len(used), unit)
        met = np.logical_or.reduceat(used, firsts, axis=0) if unit > 1 else used
        height, width = shape.rows // unit, shape.tile_columns
        least = fewest_tiles(met, height, width)
        search = Search.of(met, height, width)
        limit = len(search.heights) * len(search.widths) - least
        order = search.best(self.effort, self.seed, limit) if limit else search.given
        units, cols = order.lines()
        if len(used) % unit:  # a fragment that is not full stays the last
            last = len(units) - 1
            units[units == last] = units[-1]
            units[-1] = last
        rows = (firsts[units][:, None] + np.arange(unit)).ravel()
        return rows[rows < len(used)], cols, least


def _positions(matrix: WeightMatrix, shape: ArrayShape) -> int:
    """Array positions that hold a weight."""
    table = tile_table(tile_positions(matrix.rows.counts(), matrix.cols.counts(), shape), shape)
    return int(used_tiles(matrix.codes, table[:: shape.arrays_per_tile], matrix.rows, matrix.cols).sum())


def _shared_positions(matrix: WeightMatrix, shape: ArrayShape) -> int:
    """Array positions of groups that fit one: they hold weights in every order."""
    rows, cols = matrix.rows.counts(), matrix.cols.counts()
    fits = (rows <= shape.rows) & (cols <= shape.tile_columns)
    return sum(bool(fits[group]) for group, *_ in tile_positions(rows, cols, shape))


def _reordering(matrix: WeightMatrix, found: WeightMatrix, before: int, after: int, bound: int) -> Reordering:
    """The note of an operation: what was gained, and what the tables of addresses take."""
    row_bits, row_bytes = _address_table(matrix.rows, found.rows, matrix.codes.shape[1])
    col_bits, col_bytes = _address_table(matrix.cols, found.cols, matrix.codes.shape[2])
    return Reordering(
        tiles_before=before,
        tiles_after=after,
        bound=bound,
        row_bits=row_bits,
        col_bits=col_bits,
        routing_bytes=row_bytes + col_bytes,
    )


def _address_table(before: Kept, after: Kept, lines: int) -> tuple[int, int]:
    """Bits of an entry and bytes of the table that holds one for each line; none where the order is as it was."""
    if np.array_equal(before.indices, after.indices):
        return 0, 0
    bits = (lines - 1).bit_length()
    return bits, -(-len(after.indices) * bits // 8)
