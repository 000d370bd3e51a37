"""Converters against the survey model's own numbers, worked out another way, and against the table."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcompiler.pricing import Figure, Quantity, find_rule
from mcompiler.pricing.adc import ADC_PJ, ADC_UM2
from mcompiler.pricing.base import Quantities

SURVEY, SABERI = find_rule("adc_survey"), find_rule("adc_saberi")

MERIT_OF_BITS = {4: 141.18887478379193, 6: 147.62989780574708, 8: 154.0709208277022, 10: 160.5119438496573}
"""Largest figures of merit (dB) by effective bits, as the published model of arXiv 2404.06553 lists them."""


def at(bits: float, rate: float) -> Quantities:
    return {Quantity.ADC_BITS: bits, Quantity.ADC_RATE_HZ: rate}


def published_pj(bits: int, rate: float) -> float:
    """Energy (pJ) of a conversion at 32 nm: Schreier's figure of merit, FOM = SNDR + 10 log10(1 / (2 E))."""
    rate_merit = 213.7806687348118 - 2.8719030399529957 * math.log(rate)
    merit = min(MERIT_OF_BITS[bits], rate_merit)
    schreier = 0.5 * math.pow(10, (6.020599913 * bits + 1.760912591 - merit) / 10)
    return (
        schreier
        * math.exp(26.0496215686518 - 1.4702022133784405)
        * math.pow(32, 1.8800369206815)
        * math.pow(bits, -2.82912560506)
    )


def published_um2(bits: int, rate: float) -> float:
    """Area (um2) at 32 nm."""
    logarithm = 1.346191643991 + 0.99327947447 * math.log(32) + 0.18071538425 * math.log(rate)
    return math.exp(logarithm + 0.2991242619 * math.log(published_pj(bits, rate)))


@pytest.mark.parametrize("rate", [1e5, 1e8, 1.28e9, 1e10])
@pytest.mark.parametrize("bits", MERIT_OF_BITS)
def test_the_survey_s_energies_and_areas(bits: int, rate: float) -> None:
    for figure, published in ((Figure.ENERGY_J, published_pj), (Figure.AREA_M2, published_um2)):
        ours = SURVEY.value(figure, at(bits, rate)) / SURVEY.value(figure, at(8, 1e8))
        assert ours == pytest.approx(published(bits, rate) / published(8, 1e8), rel=1e-8)


def test_the_survey_is_of_the_size_of_isaac_s_converter() -> None:
    """ISAAC, Table I: 16 mW and 0.0096 mm2 for 8 converters of 1.28 GS/s, best of their time."""
    assert published_pj(8, 1.28e9) == pytest.approx(1.5625, rel=0.4)
    assert published_um2(8, 1.28e9) == pytest.approx(1200, rel=5)


@given(st.integers(4, 15), st.floats(5, 11))
def test_each_bit_costs_energy_and_area(bits: int, exponent: float) -> None:
    for rule in (SURVEY, SABERI):
        for figure in Figure:
            assert rule.value(figure, at(bits + 1, 10**exponent)) > rule.value(figure, at(bits, 10**exponent))


@given(st.integers(4, 14), st.floats(5, 11), st.floats(5, 11))
def test_a_faster_converter_is_larger_and_no_conversion_cheaper(bits: int, one: float, other: float) -> None:
    slow, fast = sorted((10**one, 10**other))
    for rule in (SURVEY, SABERI):
        assert rule.value(Figure.ENERGY_J, at(bits, fast)) >= rule.value(Figure.ENERGY_J, at(bits, slow))
        if fast > slow * 1.001:
            assert rule.value(Figure.AREA_M2, at(bits, fast)) > rule.value(Figure.AREA_M2, at(bits, slow))
            assert rule.value(Figure.STATIC_POWER_W, at(bits, fast)) > rule.value(Figure.STATIC_POWER_W, at(bits, slow))


def test_below_a_rate_energy_is_at_its_floor() -> None:
    for rule in (SURVEY, SABERI):
        assert rule.value(Figure.ENERGY_J, at(8, 1e9)) == rule.value(Figure.ENERGY_J, at(8, 1e5))
        assert rule.value(Figure.ENERGY_J, at(8, 2e9)) > 1.3 * rule.value(Figure.ENERGY_J, at(8, 1e9))


def test_isaac_s_table_is_met_at_isaac_s_rate_and_goes_on() -> None:
    for figure, table in ((Figure.ENERGY_J, ADC_PJ), (Figure.AREA_M2, ADC_UM2)):
        for bits, value in table.items():
            assert SABERI.value(figure, at(bits, 1.28e9)) == pytest.approx(value)
        assert SABERI.value(figure, at(11, 1.28e9)) == pytest.approx(table[10] ** 2 / table[9])
        assert SABERI.value(figure, at(3, 1.28e9)) == pytest.approx(table[4] ** 2 / table[5])


def test_rates_count_as_in_the_survey() -> None:
    for figure in Figure:
        shares = [rule.value(figure, at(10, 5e9)) / rule.value(figure, at(10, 1.28e9)) for rule in (SURVEY, SABERI)]
        assert shares[0] == pytest.approx(shares[1])


def test_where_the_sources_end() -> None:
    assert SURVEY.outside(at(4, 1e9)) == ""
    assert "below 4 effective bits" in SURVEY.outside(at(3, 1e9))
    assert SURVEY.value(Figure.ENERGY_J, at(2, 1e9)) == SURVEY.value(Figure.ENERGY_J, at(4, 1e9))
    assert "1e+10 conversions" in SURVEY.outside(at(4, 2e10))
    assert SABERI.outside(at(10, 1e9)) == ""
    assert "4 to 10 bits" in SABERI.outside(at(11, 1e9))
    assert "1e+10 conversions" in SABERI.outside(at(8, 2e10))
