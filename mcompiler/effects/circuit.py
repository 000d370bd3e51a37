"""The circuit of an array: how it is driven and read, and the resistances that effects add to it."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mcompiler.effects.curve import CellCurve
    from mcompiler.target.schema import Target


@dataclass(frozen=True)
class LineResistances:
    """Resistances of the lines of an array, all 0 where wires are perfect.

    Attributes:
        word_ohm: of a segment of a word line.
        bit_ohm: of a segment of a bit line.
        driver_ohm: between the source of a word line and its first segment.
        sense_ohm: between the last segment of a bit line and virtual ground.
    """

    word_ohm: float = 0.0
    bit_ohm: float = 0.0
    driver_ohm: float = 0.0
    sense_ohm: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{field.name} = {value}: a resistance is finite and not negative")

    @classmethod
    def of(cls, target: Target) -> LineResistances:
        """The lines of a target's arrays."""
        array = target.array
        return cls(
            array.wire_resistance_ohm, array.bit_wire_ohm, array.driver_resistance_ohm, array.sense_resistance_ohm
        )

    @property
    def perfect(self) -> bool:
        """Whether nothing has a resistance."""
        return not any(astuple(self))


@dataclass(frozen=True)
class Circuit:
    """How an array is driven and read.

    Attributes:
        lines: resistances of the lines.
        read_voltage_v: on a word line whose input is 1.
        drive: ``row_voltage``: word line i is driven with its input times the read voltage. ``gate``: all word lines
            are at the read voltage, and the cells of rows with input 0 do not conduct.
        idle_rows: with ``row_voltage``, whether word lines with input 0 are ``grounded`` through their drivers or
            ``floating``.
        curve: of the cells; None where they are ohmic.
        access_ohm: in series with every cell. Conductances given together with a circuit are those of the cells alone.
    """

    lines: LineResistances
    read_voltage_v: float
    drive: Literal["row_voltage", "gate"] = "row_voltage"
    idle_rows: Literal["grounded", "floating"] = "grounded"
    curve: CellCurve | None = None
    access_ohm: float = 0.0

    @classmethod
    def without_effects(cls, target: Target) -> Circuit:
        """The circuit of a target's arrays with perfect lines and ohmic cells, nothing in series."""
        return cls(LineResistances(), target.device.read_voltage_v, target.array.drive, target.array.idle_rows)

    @property
    def linear(self) -> bool:
        """Whether currents are linear in the inputs, so that one transfer matrix describes the array."""
        return self.curve is None and self.drive == "row_voltage" and self.idle_rows == "grounded"
