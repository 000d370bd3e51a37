"""Retention: time passes faster for hot cells, by the law of Arrhenius.

What happens to a cell within t at the temperature T takes t exp(E_a / k (1 / T_ref - 1 / T)) at the temperature T_ref
of the measurement, with the activation energy E_a and Boltzmann's constant k.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from mcompiler.target.base import NonNegativeFloat, PositiveFloat, Section

if TYPE_CHECKING:
    from mcompiler.target.sections import Device

BOLTZMANN_EV = 8.617333262e-5
"""eV / K; exact values of the SI of 2019."""


class Retention(Section):
    """How much faster drift and relaxation are at the temperature of the chip than where they were measured."""

    activation_ev: NonNegativeFloat = Field(description="activation energy of drift and relaxation")
    kelvin: PositiveFloat = Field(description="temperature of the chip since programming")
    reference_kelvin: PositiveFloat = Field(description="temperature at which drift and relaxation were measured")


def aged_s(device: Device, time_s: float) -> float:
    """Seconds at the temperature of the measurement that do to cells what a time on the chip does."""
    retention = device.retention
    if retention is None:
        return time_s
    exponent = retention.activation_ev / BOLTZMANN_EV * (1 / retention.reference_kelvin - 1 / retention.kelvin)
    return time_s * math.exp(min(max(exponent, -_LARGEST), _LARGEST))


_LARGEST = 300.0
"""Exponents are cut here; cells that age by such a factor are at the end of every law."""
