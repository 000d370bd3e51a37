"""Sample-and-hold circuits of bit lines by the bits of the converter that they feed."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, log
from typing import ClassVar

from mcompiler.pricing.base import Figure, PriceRule, Quantities, Quantity

_THERMAL_J = 1.380649e-23 * 300
_SMALLEST_F = 0.45e-15
"""Metal capacitor below which nothing is gained: the smallest that is characterised at 32 nm."""
_CIRCUIT_F = 4.38e-15
"""Switches and amplifier, as the capacitor of their area: FORMS's circuit for 4 bits takes 0.575 of ISAAC's for 8."""


def _noise_farad(bits: float) -> float:
    """Capacitor whose noise kT/C at 1 V full scale is that of rounding, (2^-bits V)^2 / 12."""
    return 12 * _THERMAL_J * exp(bits * log(4))


class SampleHold(PriceRule):
    """One capacitor for each column: four times as large for each bit, above what is smallest.

    Energy and standby power follow the capacitor, area the capacitor and a circuit that does not grow.
    """

    name: ClassVar[str] = "sample_hold"
    summary: ClassVar[str] = "a capacitor that grows four times with each bit of the converter, above a smallest one"
    source: ClassVar[str] = (
        "noise kT/C equal to that of rounding (Murmann, CICC 2008); smallest capacitor: Tripathi and Murmann, "
        "TCAS-I 61, 2236 (2014); area: ISAAC, ISCA 2016, Table I, and FORMS, ISCA 2021, Table III"
    )
    follows: ClassVar[Mapping[Figure, tuple[Quantity, ...]]] = dict.fromkeys(Figure, (Quantity.ADC_BITS,))

    def value(self, figure: Figure, at: Quantities) -> float:
        """In F, at 1 V full scale: see ``PriceRule.value``."""
        least = _CIRCUIT_F if figure is Figure.AREA_M2 else _SMALLEST_F
        return least + _noise_farad(at[Quantity.ADC_BITS])
