"""ADCs by bits and rate: the model of published converters, and the table by which ISAAC's converter is scaled.

Neither follows the technology node: a target's converter stays the circuit that its source describes. The bits are
those that the circuit resolves. One that stops a conversion early, because a column's sum cannot be larger, saves the
energy of its later steps, but is no smaller converter: its comparator, capacitors and settling are those of all bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, log
from typing import ClassVar

from mcompiler.pricing.base import Figure, PriceRule, Quantities, Quantity
from mcompiler.pricing.tables import log_linear

FEWEST_BITS = 4.0
"""Effective bits from which the survey's model holds."""

HIGHEST_RATE_HZ = 1e10

_RATE_DB, _RATE_DB_PER_E = 213.7806687348118, -2.8719030399529957
"""Figure of merit that a rate allows, in dB: this much at 1 Hz, this much for each factor e of the rate."""
_BITS_DB, _BITS_DB_PER_BIT = 128.3068287398817, 3.2205115109776
"""Figure of merit that no converter of so many effective bits exceeds, in dB."""
_BITS_EXPONENT = -2.8291256050594527
"""Correction of the energy by the effective bits."""
_AREA_RATE, _AREA_ENERGY = 0.18071538424508238, 0.29912426192653485
"""Exponents of the area: of the rate, of the energy of a conversion."""

ADC_PJ = {4: 0.79, 5: 0.99, 6: 1.20, 7: 1.42, 8: 1.67, 9: 1.97, 10: 2.38}
ADC_UM2 = {4: 361.0, 5: 477.0, 6: 627.0, 7: 845.0, 8: 1200.0, 9: 1828.0, 10: 3002.0}
"""ISAAC's ADC at other bits: Accelergy's table, after Saberi et al., TCAS-I 2011."""

SABERI_RATE_HZ = 1.28e9
"""Rate at which the table holds: ISAAC's converter."""

_FOLLOWS: Mapping[Figure, tuple[Quantity, ...]] = dict.fromkeys(Figure, (Quantity.ADC_BITS, Quantity.ADC_RATE_HZ))


def _ratio(decibel: float) -> float:
    return exp(decibel / 10 * log(10))


def _excess(bits: float, rate_hz: float) -> float:
    """Energy at a rate over that of a slow converter of the same bits: above 1 where the rate limits the merit."""
    decibel = (_BITS_DB + _BITS_DB_PER_BIT * bits) - (_RATE_DB + _RATE_DB_PER_E * log(rate_hz))
    return _ratio(max(0.0, decibel))


class AdcSurvey(PriceRule):
    """Best published converters: energy by effective bits and rate, area by rate and energy.

    The energy of a conversion is ``10^((SNDR - FOM) / 10) x bits^-2.83``, with ``SNDR = 6.02 bits + 1.76`` dB and the
    figure of merit the smaller of two bounds: one by bits, a floor of the energy that no rate changes, and one by rate,
    above which the energy rises as rate^0.66. The area is ``rate^0.181 x energy^0.299``. Standby power is that of a
    converter which never stops: energy times rate.
    """

    name: ClassVar[str] = "adc_survey"
    summary: ClassVar[str] = "energy by bits above a floor that the rate lifts, area by rate and energy of a conversion"
    source: ClassVar[str] = (
        "Andrulis et al., Modeling Analog-Digital-Converter Energy and Area for Compute-In-Memory Accelerator Design, "
        "arXiv 2404.06553 (2024), after Murmann's survey; coefficients of its published model, at 32 nm"
    )
    follows: ClassVar[Mapping[Figure, tuple[Quantity, ...]]] = _FOLLOWS

    def value(self, figure: Figure, at: Quantities) -> float:
        """In pJ, pJ/s and um2 but for the constants of the node: see ``PriceRule.value``."""
        bits, rate = max(at[Quantity.ADC_BITS], FEWEST_BITS), at[Quantity.ADC_RATE_HZ]
        merit_by_bits = _BITS_DB + _BITS_DB_PER_BIT * bits
        signal_to_noise = 1.5 * exp(bits * log(4))
        energy = signal_to_noise * _ratio(-merit_by_bits) * exp(_BITS_EXPONENT * log(bits)) * _excess(bits, rate)
        if figure is Figure.AREA_M2:
            return exp(_AREA_RATE * log(rate) + _AREA_ENERGY * log(energy))
        return energy * (rate if figure is Figure.STATIC_POWER_W else 1.0)

    def outside(self, at: Quantities) -> str:
        """See ``PriceRule.outside``."""
        if at[Quantity.ADC_BITS] < FEWEST_BITS:
            return f"the survey has no ADC below {FEWEST_BITS:g} effective bits: priced as one of {FEWEST_BITS:g}"
        if at[Quantity.ADC_RATE_HZ] > HIGHEST_RATE_HZ:
            return f"the survey's model ends at {HIGHEST_RATE_HZ:g} conversions per second: extrapolated"
        return ""


class AdcSaberi(PriceRule):
    """ISAAC's converter at other bits by a table; at other rates in the ratios of the survey's model.

    At ISAAC's rate of 1.28e9 conversions per second the figures are those of the table, between its rows and beyond its
    ends exponential in the bits. Below that rate a conversion takes as much energy: the table does not say how much of
    it the rate costs. Standby power is that of a converter which never stops: energy times rate.
    """

    name: ClassVar[str] = "adc_saberi"
    summary: ClassVar[str] = "ISAAC's ADC: a table by bits; rates above its own as adc_survey"
    source: ClassVar[str] = (
        "Accelergy's table for ISAAC's ADC, after Saberi et al., TCAS-I 58, 1736 (2011); "
        "rates: Andrulis et al., arXiv 2404.06553 (2024)"
    )
    follows: ClassVar[Mapping[Figure, tuple[Quantity, ...]]] = _FOLLOWS

    def value(self, figure: Figure, at: Quantities) -> float:
        """In pJ, pJ/s and um2: see ``PriceRule.value``."""
        bits, rate = at[Quantity.ADC_BITS], at[Quantity.ADC_RATE_HZ]
        excess = _excess(bits, max(rate, SABERI_RATE_HZ)) / _excess(bits, SABERI_RATE_HZ)
        if figure is Figure.AREA_M2:
            growth = _AREA_RATE * log(rate / SABERI_RATE_HZ) + _AREA_ENERGY * log(excess)
            return log_linear(bits, ADC_UM2) * exp(growth)
        return log_linear(bits, ADC_PJ) * excess * (rate if figure is Figure.STATIC_POWER_W else 1.0)

    def outside(self, at: Quantities) -> str:
        """See ``PriceRule.outside``."""
        fewest, most = min(ADC_PJ), max(ADC_PJ)
        if not fewest <= at[Quantity.ADC_BITS] <= most:
            return f"the table has ADCs of {fewest} to {most} bits: extrapolated"
        if at[Quantity.ADC_RATE_HZ] > HIGHEST_RATE_HZ:
            return f"the model of rates ends at {HIGHEST_RATE_HZ:g} conversions per second: extrapolated"
        return ""
