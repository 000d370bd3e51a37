"""Sample-and-hold circuits against noise, and against ISAAC's and FORMS's."""

from __future__ import annotations

from math import sqrt

import pytest

from mcompiler.pricing import Figure, Quantity, find_rule
from tests.pricing.points import ratio

RULE = find_rule("sample_hold")


@pytest.mark.parametrize("bits", [4, 8, 12])
def test_noise_of_the_capacitor_is_that_of_rounding(bits: int) -> None:
    smallest = RULE.value(Figure.ENERGY_J, {Quantity.ADC_BITS: -40})
    farad = RULE.value(Figure.ENERGY_J, {Quantity.ADC_BITS: bits}) - smallest
    assert smallest == pytest.approx(0.45e-15)
    assert sqrt(1.380649e-23 * 300 / farad) == pytest.approx(2.0**-bits / sqrt(12))


def test_isaac_and_forms() -> None:
    """8 and 4 bits, 0.01 and 0.0055 mW at 100 and 15.24 ns a hold, 40 and 23 um2 for 1,024 circuits."""
    assert ratio(RULE, Figure.AREA_M2, adc_bits=4) == pytest.approx(23 / 40, rel=0.01)
    assert ratio(RULE, Figure.ENERGY_J, adc_bits=4) == pytest.approx(0.0055 * 15.24 / (0.01 * 100), rel=0.6)


def test_four_times_a_bit_once_noise_decides() -> None:
    assert ratio(RULE, Figure.ENERGY_J, adc_bits=13) / ratio(RULE, Figure.ENERGY_J, adc_bits=12) > 3.99
    assert ratio(RULE, Figure.ENERGY_J, adc_bits=3) / ratio(RULE, Figure.ENERGY_J, adc_bits=2) < 1.01
