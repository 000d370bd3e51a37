"""Arithmetic against the table of operations at 45 nm."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcompiler.pricing import Figure, Quantity, find_rule
from tests.pricing.points import POINT, ratio

ADDER, OPERATION = find_rule("adder"), find_rule("digital_operation")


@pytest.mark.parametrize(("bits", "pj", "um2"), [(8, 0.03, 36), (16, 0.05, 67), (32, 0.1, 137)])
def test_additions_of_the_table(bits: int, pj: float, um2: float) -> None:
    at = {Quantity.ACCUMULATOR_BITS: float(bits)}
    assert ADDER.value(Figure.ENERGY_J, at) == pytest.approx(pj, rel=0.2)
    assert ADDER.value(Figure.AREA_M2, at) == pytest.approx(um2, rel=0.06)


@pytest.mark.parametrize(("bits", "pj", "um2"), [(8, 0.2 + 0.03, 282 + 36), (32, 3.1 + 0.1, 3495 + 137)])
def test_an_operation_is_a_multiplication_and_an_addition(bits: int, pj: float, um2: float) -> None:
    at = {Quantity.OPERATION_BITS: float(bits)}
    assert OPERATION.value(Figure.ENERGY_J, at) == pytest.approx(pj, rel=0.03)
    assert OPERATION.value(Figure.AREA_M2, at) == pytest.approx(um2, rel=0.01)


def test_a_multiplier_grows_nearly_as_the_square() -> None:
    for width in (8, 16):
        narrow, wide = (
            OPERATION.value(Figure.ENERGY_J, {Quantity.OPERATION_BITS: bits}) for bits in (width, 2 * width)
        )
        assert 3.4 < wide / narrow < 4


@given(st.floats(1e6, 1e10))
def test_standby_power_is_that_of_a_unit_busy_in_every_clock(clock: float) -> None:
    for rule in (ADDER, OPERATION):
        at = POINT | {Quantity.CLOCK_HZ: clock}
        assert rule.value(Figure.STATIC_POWER_W, at) == pytest.approx(rule.value(Figure.ENERGY_J, at) * clock)
    assert ratio(ADDER, Figure.AREA_M2, clock_hz=clock) == 1


def test_where_the_table_ends() -> None:
    assert OPERATION.outside({Quantity.OPERATION_BITS: 8}) == ""
    assert "8 to 32 bits" in OPERATION.outside({Quantity.OPERATION_BITS: 4})
