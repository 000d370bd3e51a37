"""Temperature: conductances at the chip's temperature, linear around the one at which the levels hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from mcompiler.effects.base import ArrayOnChip, Effect, Siemens
from mcompiler.encodings.settings import Violations
from mcompiler.target.base import Float, PositiveFloat, Section

if TYPE_CHECKING:
    from mcompiler.target.schema import Target
    from mcompiler.target.sections import Device


class Temperature(Section):
    """G(T) = G x (1 + per_kelvin x (kelvin - reference_kelvin))."""

    kelvin: PositiveFloat = Field(description="temperature of the chip")
    reference_kelvin: PositiveFloat = Field(description="temperature at which the conductances hold")
    per_kelvin: Float = Field(description="share of the conductance per kelvin")


def warmed(G: Siemens, device: Device) -> Siemens:
    """Conductances at the chip's temperature: G (1 + per_kelvin (kelvin - reference_kelvin)). Shape [...], siemens."""
    heat = device.temperature
    if heat is None:
        return G
    return G * (1 + heat.per_kelvin * (heat.kelvin - heat.reference_kelvin))


def _conducts(device: Device) -> Violations:
    heat = device.temperature
    if heat is not None and 1 + heat.per_kelvin * (heat.kelvin - heat.reference_kelvin) <= 0:
        yield (
            "device.temperature.per_kelvin",
            f"{heat.per_kelvin:g} per kelvin leaves no conductance at {heat.kelvin:g} K; the linear law ends before "
            "that: check kelvin and reference_kelvin",
        )


@dataclass(frozen=True)
class TemperatureEffect(Effect):
    """All cells conduct more, or less, by the same factor; nothing is drawn."""

    name = "temperature"
    order = 50
    stream = 4
    described_elsewhere = "[device.temperature]"
    rules = (_conducts,)

    def is_described(self, target: Target) -> bool:
        """Whether conductances depend on the temperature."""
        return target.device.temperature is not None

    def change_cells(self, G: Siemens, array: ArrayOnChip) -> Siemens:
        """Cells at the chip's temperature."""
        return warmed(G, array.target.device)


TEMPERATURE = TemperatureEffect()
