"""Two cells per slice: w is proportional to G+ - G-, subtracted before the converter or after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from mcompiler.encodings.base import CodeRange, WeightEncoding
from mcompiler.encodings.settings import (
    EncodingSettings,
    Pedestal,
    Violations,
    flip_violations,
    other_pedestals,
    partner_violations,
)
from mcompiler.encodings.shape import ArrayShape, IntArray


@dataclass(frozen=True)
class Differential(WeightEncoding):
    """A pair of cells: the positive part of a code in one, the negative part in the other.

    Attributes:
        analog: whether the two bit lines are subtracted before one conversion, which then needs signed codes.
    """

    analog: bool = True

    polarity_signs: ClassVar[tuple[int, ...]] = (1, -1)
    polarity_marks: ClassVar[tuple[str, ...]] = ("+", "-")
    holder: ClassVar[str] = "a pair holds"
    holder_noun: ClassVar[str] = "pair"
    sign_place: ClassVar[str] = "pair"

    @classmethod
    def of(cls, settings: EncodingSettings) -> Self:
        """The encoding of a target."""
        return cls(pedestal=settings.pedestal, analog=settings.subtract == "before_adc")

    @classmethod
    def violations(cls, settings: EncodingSettings) -> Violations:
        """Flips and unit columns, which undo a shift; an analog difference where pairs are subtracted digitally."""
        yield from flip_violations(settings)
        analog_pair = settings.pedestal is Pedestal.PAIR
        if analog_pair and settings.subtract == "after_adc":
            yield (
                "encoding.pedestal",
                "'pair' is the analog difference and needs subtract = 'before_adc'; with 'after_adc' use one of "
                + other_pedestals(),
            )
        yield from partner_violations(settings, analog_pair)

    def layout_facts(self, settings: EncodingSettings, rows_active: int) -> tuple[str, ...]:
        """Where the cells of a pair are."""
        places = "columns" if settings.pairs_in == "adjacent" else "arrays"
        unformed = ("unformed partners",) if settings.partner == "unformed" else ()
        return (*unformed, f"pairs in {settings.pairs_in} {places}")

    def code_range(self, shape: ArrayShape, shift: int = 0) -> CodeRange:
        """Either cell holds any magnitude, the other 0: +-(2^bits - 1)."""
        return CodeRange(-shape.largest_magnitude, shape.largest_magnitude)

    def magnitudes(self, codes: IntArray, shift: int) -> IntArray:
        """Positive part and negative part."""
        return np.stack([np.maximum(codes, 0), np.maximum(-codes, 0)], axis=1)

    @property
    def converters(self) -> tuple[int, ...]:
        """Of a pair that is subtracted before: that of the positive line serves both."""
        return (0, 0) if self.analog else (0, 1)
