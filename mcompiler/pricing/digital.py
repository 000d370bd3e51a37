"""Digital arithmetic by the width of its operands: Horowitz's table of operations at 45 nm.

A standby power of these units, where a target gives one, is that of a unit busy in every clock, as in the tables of
ISAAC and PUMA: energy times clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, log
from typing import ClassVar

from mcompiler.pricing.base import Figure, PriceRule, Quantities, Quantity

ADD_PJ_PER_BIT, ADD_UM2_PER_BIT = 0.1 / 32, 137.0 / 32
"""Integer addition: 0.03, 0.05, 0.1 pJ and 36, 67, 137 um2 at 8, 16, 32 bits are linear to 20%."""

MULTIPLY_PJ, MULTIPLY_UM2 = {8: 0.2, 32: 3.1}, {8: 282.0, 32: 3495.0}
"""Integer multiplication."""

_SOURCE = (
    "Horowitz, ISSCC 2014, Fig. 1.1.9: operations at 45 nm, 0.9 V; areas: Dally, High-performance hardware for machine "
    "learning, NIPS 2015 tutorial"
)


def _multiplication(bits: float, table: dict[int, float]) -> float:
    """A power of the bits through both rows: energy to the 1.98, area to the 1.82."""
    exponent = log(table[32] / table[8]) / log(4)
    return table[8] * exp(exponent * log(bits / 8))


class ShiftAdder(PriceRule):
    """Shift-and-add units: an adder as wide as the accumulator."""

    name: ClassVar[str] = "adder"
    summary: ClassVar[str] = "linear in the bits of the accumulator"
    source: ClassVar[str] = _SOURCE
    follows: ClassVar[Mapping[Figure, tuple[Quantity, ...]]] = {
        Figure.ENERGY_J: (Quantity.ACCUMULATOR_BITS,),
        Figure.STATIC_POWER_W: (Quantity.ACCUMULATOR_BITS, Quantity.CLOCK_HZ),
        Figure.AREA_M2: (Quantity.ACCUMULATOR_BITS,),
    }

    def value(self, figure: Figure, at: Quantities) -> float:
        """In pJ, pJ/s and um2 at 45 nm: see ``PriceRule.value``."""
        bits = at[Quantity.ACCUMULATOR_BITS]
        if figure is Figure.AREA_M2:
            return ADD_UM2_PER_BIT * bits
        return ADD_PJ_PER_BIT * bits * (at[Quantity.CLOCK_HZ] if figure is Figure.STATIC_POWER_W else 1.0)


class DigitalOperation(PriceRule):
    """Lanes of a digital unit: a multiplier and an adder, and an operation that uses both.

    Which operations a network asks for, the events do not say: additions, comparisons and table look-ups cost less.
    """

    name: ClassVar[str] = "digital_operation"
    summary: ClassVar[str] = "a multiplication and an addition at the width of the operands"
    source: ClassVar[str] = _SOURCE
    follows: ClassVar[Mapping[Figure, tuple[Quantity, ...]]] = {
        Figure.ENERGY_J: (Quantity.OPERATION_BITS,),
        Figure.STATIC_POWER_W: (Quantity.CLOCK_HZ, Quantity.OPERATION_BITS),
        Figure.AREA_M2: (Quantity.OPERATION_BITS,),
    }

    def value(self, figure: Figure, at: Quantities) -> float:
        """In pJ, pJ/s and um2 at 45 nm: see ``PriceRule.value``."""
        bits = at[Quantity.OPERATION_BITS]
        if figure is Figure.AREA_M2:
            return ADD_UM2_PER_BIT * bits + _multiplication(bits, MULTIPLY_UM2)
        energy = ADD_PJ_PER_BIT * bits + _multiplication(bits, MULTIPLY_PJ)
        return energy * (at[Quantity.CLOCK_HZ] if figure is Figure.STATIC_POWER_W else 1.0)

    def outside(self, at: Quantities) -> str:
        """See ``PriceRule.outside``."""
        bits = at[Quantity.OPERATION_BITS]
        return "" if 8 <= bits <= 32 else "the table has multiplications of 8 to 32 bits: extrapolated"
