"""The geometry of a target's arrays, as an encoding and all that counts cells see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from mcompiler.encodings.base import WeightEncoding

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ArrayShape:
    """How the cells of weights are arranged in the arrays of a target.

    Attributes:
        rows: word lines of an array.
        columns: bit lines of an array that hold weights; a unit column and a reference column follow them.
        encoding: decides which cells a weight code becomes.
        slices: cells (or pairs) per weight.
        adjacent_slices, adjacent_polarities: how many of these are in adjacent columns of one array.
        cell_bits: bits that one slice holds.
        rows_active: word lines driven in one read.
        steps: what a cell adds to its column at each level code, where that is not the level code itself.
    """

    rows: int
    columns: int
    encoding: WeightEncoding
    slices: int
    adjacent_slices: int
    adjacent_polarities: int
    cell_bits: int
    rows_active: int
    steps: tuple[int, ...] = ()

    @property
    def polarities(self) -> int:
        """Cells per slice of a weight: 2 where a weight is a difference of two cells, else 1."""
        return self.encoding.polarities

    @property
    def unit(self) -> bool:
        """Whether an array has a unit column, which sums the inputs; it follows the columns of weights."""
        return self.encoding.unit_column

    @property
    def reference(self) -> bool:
        """Whether an array has a column of G_min cells; it is the last."""
        return self.encoding.reference_column

    @property
    def extra(self) -> int:
        """Bit lines after ``columns``: the unit column, then the reference column."""
        return int(self.unit) + int(self.reference)

    @property
    def reads(self) -> int:
        """Reads of all word lines of an array, each of a fragment of its rows."""
        return -(-self.rows // self.rows_active)

    @property
    def columns_per_weight(self) -> int:
        """Adjacent bit lines of one array that hold one weight: polarity outermost, slices (lowest first) inside."""
        return self.adjacent_slices * self.adjacent_polarities

    @property
    def lines_per_conversion(self) -> int:
        """Adjacent bit lines of one array that one conversion serves."""
        return min(self.adjacent_polarities, self.encoding.lines_per_conversion)

    @property
    def arrays_per_tile(self) -> int:
        """Physical arrays of one array position: slices and polarities in separate arrays multiply it."""
        return (self.slices // self.adjacent_slices) * (self.polarities // self.adjacent_polarities)

    @property
    def tile_columns(self) -> int:
        """Output channels that fit one array position."""
        return self.columns // self.columns_per_weight

    @property
    def storage_bits(self) -> int:
        """Bits in which one level code is stored: 1, 2, 4 or 8."""
        needed = max(self.cell_bits, (len(self.steps) - 1).bit_length() if self.steps else 0)
        return next(bits for bits in (1, 2, 4, 8) if bits >= needed)

    @property
    def row_bytes(self) -> int:
        """Bytes of one stored word line."""
        return -(-(self.columns + self.extra) * self.storage_bits // 8)

    @property
    def cells(self) -> int:
        """Cells of one array, unit and reference columns included."""
        return self.rows * (self.columns + self.extra)

    @property
    def largest_magnitude(self) -> int:
        """The largest number that the slices of one polarity hold."""
        return self.steps[-1] if self.steps else (1 << (self.cell_bits * self.slices)) - 1

    def digits(self, magnitudes: IntArray) -> IntArray:
        """Level codes of the slices that hold magnitudes: [...] to [..., slices], lowest slice first.

        Where levels come from a table, a magnitude that is no entry of it becomes level 0: such codes do not occur.
        """
        if self.steps:
            known = np.isin(magnitudes, self.steps)
            levels: npt.NDArray[Any] = np.where(known, np.searchsorted(self.steps, magnitudes), 0)[..., None]
            return levels
        places = np.minimum(self.cell_bits * np.arange(self.slices), 62)  # a shift by 64 is none; nothing is as large
        return (magnitudes[..., None] >> places) & ((1 << self.cell_bits) - 1)
