"""One cell per slice holds the magnitude; the sign belongs to a fragment of a column (FORMS, Yuan et al., ISCA 2021).

A fragment is what one read drives, so that the digital side can multiply the code of a column by one sign per read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mcompiler.encodings.base import CodeRange, WeightEncoding
from mcompiler.encodings.settings import EncodingSettings
from mcompiler.encodings.shape import ArrayShape, IntArray


@dataclass(frozen=True)
class Polarised(WeightEncoding):
    """Magnitudes in cells, and one sign in each fragment of a column."""

    holder: ClassVar[str] = "a cell and the sign of its fragment hold"
    sign_place: ClassVar[str] = "fragment"
    signed_fragments: ClassVar[bool] = True

    def layout_facts(self, settings: EncodingSettings, rows_active: int) -> tuple[str, ...]:
        """How many rows share a sign."""
        return (f"one sign for {rows_active} row{'' if rows_active == 1 else 's'}",)

    def code_range(self, shape: ArrayShape, shift: int = 0) -> CodeRange:
        """Any magnitude, with either sign."""
        return CodeRange(-shape.largest_magnitude, shape.largest_magnitude)

    def magnitudes(self, codes: IntArray, shift: int) -> IntArray:
        """Without sign: ``signed_fragments`` has the signs."""
        return np.abs(codes)[:, None]

    def rows_together(self, shape: ArrayShape) -> int:
        """The rows of a read, which have one sign; a whole array where reads do not divide it evenly."""
        return shape.rows_active if shape.rows % shape.rows_active == 0 else shape.rows

    def sign_conflict(self, shape: ArrayShape) -> str:
        """What to do about weights of both signs."""
        return (
            f"polarised weights have one sign per column in {shape.rows_active} rows that are active at once: train "
            "with the one_sign constraint of mcompiler.admm for this target, or take a differential encoding "
            "(--set encoding.weights=differential --set encoding.pedestal=pair)"
        )
