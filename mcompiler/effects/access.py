"""Access: the resistance in series with every cell, of its transistor (1T1R) and contacts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mcompiler.effects.base import Effect

if TYPE_CHECKING:
    from mcompiler.effects.circuit import Circuit
    from mcompiler.target.schema import Target


@dataclass(frozen=True)
class AccessEffect(Effect):
    """A cell of conductance G carries the current of G / (1 + G R), where it is ohmic; nothing is drawn."""

    name = "access"
    order = 70
    stream = 6
    described_elsewhere = "device.access_resistance_ohm"

    def is_described(self, target: Target) -> bool:
        """Whether there is a resistance in series with cells."""
        return target.device.access_resistance_ohm > 0

    def change_circuit(self, circuit: Circuit, target: Target) -> Circuit:
        """With that resistance."""
        return replace(circuit, access_ohm=target.device.access_resistance_ohm)


ACCESS = AccessEffect()
