"""Physics of an array: heat of its cells, charge of its word lines.

Bit lines have no rule: the circuit that senses a current holds them at one voltage (virtual ground), so that they are
never charged, and what it draws to hold them is in the figures of the sample-and-hold and the converter. Targets do not
describe voltage sensing, which would charge them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from mcompiler.pricing.base import Figure, PriceRule, Quantities, Quantity


class CellHeat(PriceRule):
    """Joule heat of a cell of a driven word line during one read: V^2 G t times the mean square of the input.

    The cells' area follows nothing here: it is that of one cell.
    """

    name: ClassVar[str] = "cell"
    summary: ClassVar[str] = "energy V^2 G t at the mean conductance and the mean square of the input"
    source: ClassVar[str] = "Ohm's law"
    follows: ClassVar[Mapping[Figure, tuple[Quantity, ...]]] = {
        Figure.ENERGY_J: (
            Quantity.READ_VOLTAGE_V,
            Quantity.CELL_SIEMENS,
            Quantity.READ_PULSE_S,
            Quantity.INPUT_POWER,
        )
    }
    computes: ClassVar[frozenset[Figure]] = frozenset({Figure.ENERGY_J})

    def value(self, figure: Figure, at: Quantities) -> float:
        """In J: see ``PriceRule.value``."""
        power = at[Quantity.READ_VOLTAGE_V] ** 2 * at[Quantity.CELL_SIEMENS] * at[Quantity.INPUT_POWER]
        return power * at[Quantity.READ_PULSE_S]


class WordLineCharge(PriceRule):
    """Charge of a whole word line to the voltage of its input, once a drive: C V^2 from the supply.

    The capacitance is that of the wire past all its columns, whichever of them are used. Half of the energy is lost
    while the line is charged, half when it returns to zero.
    """

    name: ClassVar[str] = "word_line"
    summary: ClassVar[str] = "energy C V^2 of a line past all columns, at the mean square of the input"
    source: ClassVar[str] = "charge of a capacitance"
    follows: ClassVar[Mapping[Figure, tuple[Quantity, ...]]] = {
        Figure.ENERGY_J: (
            Quantity.COLUMNS,
            Quantity.WORD_SEGMENT_F,
            Quantity.READ_VOLTAGE_V,
            Quantity.INPUT_POWER,
        )
    }
    computes: ClassVar[frozenset[Figure]] = frozenset({Figure.ENERGY_J})

    def value(self, figure: Figure, at: Quantities) -> float:
        """In J: see ``PriceRule.value``."""
        farad = at[Quantity.WORD_SEGMENT_F] * at[Quantity.COLUMNS]
        return farad * at[Quantity.READ_VOLTAGE_V] ** 2 * at[Quantity.INPUT_POWER]
