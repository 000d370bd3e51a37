"""Wires: resistances along word and bit lines, of drivers and of the circuits that sense."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mcompiler.effects.base import Effect
from mcompiler.effects.circuit import LineResistances

if TYPE_CHECKING:
    from mcompiler.effects.circuit import Circuit
    from mcompiler.target.schema import Target


@dataclass(frozen=True)
class WiresEffect(Effect):
    """Voltage drops along the lines of an array; nothing is drawn."""

    name = "wires"
    order = 80
    stream = 7
    described_elsewhere = "resistances of lines in [array] (wire_resistance_ohm, driver_resistance_ohm, ...)"

    def is_described(self, target: Target) -> bool:
        """Whether a line has a resistance."""
        return not LineResistances.of(target).perfect

    def change_circuit(self, circuit: Circuit, target: Target) -> Circuit:
        """With the resistances of the target's lines."""
        return replace(circuit, lines=LineResistances.of(target))


WIRES = WiresEffect()
