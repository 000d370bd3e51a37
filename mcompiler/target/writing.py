"""The section [device.write]: time and energy of bringing cells to their conductances."""

from __future__ import annotations

from pydantic import Field

from mcompiler.target.base import NonNegativeFloat, PositiveFloat, PositiveInt, Section


class Write(Section):
    """Write and verify: pulses, time and energy that bring a cell to its conductance."""

    tolerance_siemens: NonNegativeFloat | None = Field(
        default=None, description="writing stops within this distance of the wanted conductance"
    )
    pulses: PositiveFloat = Field(description="expected write pulses of one cell, each with a read that verifies it")
    pulse_s: NonNegativeFloat = Field(description="duration of one write pulse")
    pulse_energy_j: NonNegativeFloat = Field(description="energy of one write pulse")
    verify_s: NonNegativeFloat = Field(default=0.0, description="duration of one verifying read")
    verify_energy_j: NonNegativeFloat = Field(default=0.0, description="energy of one verifying read")
    parallel_cells: PositiveInt = Field(default=1, description="cells of one array that are written at once")
    endurance: PositiveFloat | None = Field(default=None, description="writes that a cell stands")
