"""Drivers of word lines by the bits that they apply at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from mcompiler.pricing.base import Figure, PriceRule, Quantities, Quantity

MOST_BITS = 6.0


class DacDriver(PriceRule):
    """A driver with one element for each level: energy, standby power and area double with each bit.

    MNSIM's table follows it from 1 to 6 bits, but for rounding. The columns that the driver loads are not in it: the
    rule ``word_line`` prices the charge of the line, ``cell`` the current of its cells, and how a driver's transistors
    grow with the current that they must deliver, no source here says.
    """

    name: ClassVar[str] = "dac"
    summary: ClassVar[str] = "doubles with each bit that is applied at once"
    source: ClassVar[str] = (
        "MNSIM, Xia et al., TCAD 37, 1009 (2018), its table of DACs: 3.9, 7.8, 15.6, 31.2, 124.8 uW and "
        "0.166, 0.33, 0.66, 1.33, 5.31 um2 at 1, 2, 3, 4, 6 bits"
    )
    follows: ClassVar[Mapping[Figure, tuple[Quantity, ...]]] = dict.fromkeys(Figure, (Quantity.DAC_BITS,))

    def value(self, figure: Figure, at: Quantities) -> float:
        """In drivers of one bit: see ``PriceRule.value``."""
        return float(2.0 ** (at[Quantity.DAC_BITS] - 1))

    def outside(self, at: Quantities) -> str:
        """See ``PriceRule.outside``."""
        return "" if at[Quantity.DAC_BITS] <= MOST_BITS else f"the table ends at {MOST_BITS:g} bits: extrapolated"
