"""One cell per slice: codes are shifted to be non-negative, and the shift times the sum of the inputs comes off.

With ``flip``, ISAAC's refinement (Shafiee et al., ISCA 2016): a column whose levels sum to more than half of full scale
is stored complemented, which saves one bit of the converter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from mcompiler.encodings.base import MAX_CODE_BITS, BoolArray, CodeRange, CodesDoNotFitError, WeightEncoding, capacity
from mcompiler.encodings.settings import EncodingSettings, Violations, pair_violations
from mcompiler.encodings.shape import ArrayShape, IntArray


@dataclass(frozen=True)
class Offset(WeightEncoding):
    """Codes plus a shift in cells of one sign.

    Attributes:
        flip: whether columns past half of full scale are stored complemented.
        unit: whether a column of cells at level 1 sums the inputs, so that shift and flips can be undone; otherwise the
            inputs are summed digitally.
    """

    flip: bool = False
    unit: bool = False

    zero_is_empty: ClassVar[bool] = False
    level_table_violation: ClassVar[str] = (
        "measured levels need weights = 'differential' or 'polarised', not 'offset': sums of shifted codes are no "
        "levels"
    )

    @classmethod
    def of(cls, settings: EncodingSettings) -> Self:
        """The encoding of a target."""
        return cls(pedestal=settings.pedestal, flip=settings.flip, unit=settings.input_sum == "unit_column")

    @classmethod
    def violations(cls, settings: EncodingSettings) -> Violations:
        """There are no pairs."""
        yield from pair_violations(settings)

    def code_range(self, shape: ArrayShape, shift: int = 0) -> CodeRange:
        """[-shift, 2^bits - 1 - shift]."""
        return CodeRange(-shift, shape.largest_magnitude - shift)

    def magnitudes(self, codes: IntArray, shift: int) -> IntArray:
        """Shifted codes."""
        return (codes + shift)[:, None]

    def nominal_shift(self, shape: ArrayShape) -> int:
        """Half of the range of the cells, as far as weight codes need it."""
        return 1 << (min(shape.cell_bits * shape.slices, MAX_CODE_BITS) - 1)

    def fit_codes(self, low: int, high: int, shape: ArrayShape) -> int:
        """Half of the range where that is enough, and so one for most matrices; else what ``low`` needs."""
        shift, largest = self.nominal_shift(shape), shape.largest_magnitude
        if low < -shift or high > largest - shift:
            shift = max(0, -low)
        if high + shift > largest:
            raise CodesDoNotFitError(f"weight codes from {low} to {high} do not fit into {capacity(shape)}")
        return shift

    @property
    def unit_column(self) -> bool:
        """Where it is asked for; one in every array."""
        return self.unit

    @property
    def digital_sum(self) -> bool:
        """Where no unit column sums the inputs."""
        return not self.unit

    def flips(self, sums: IntArray, live: IntArray, full: int) -> BoolArray | None:
        """Columns past half of what their live cells could hold."""
        if not self.flip:
            return None
        return np.asarray(2 * sums > live[:, None, None, None] * full)

    def worst_sum(self, full: int, rows: int, rows_active: int) -> int:
        """With flips no column sums to more than half of full scale over all its rows, and so not in any read."""
        total = rows_active * full
        if self.flip:
            total = min(total, rows * full // 2)
        return max(total, rows_active) if self.unit else total  # the unit column is never flipped
