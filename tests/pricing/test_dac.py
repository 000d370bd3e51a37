"""Drivers against MNSIM's table."""

from __future__ import annotations

import pytest

from mcompiler.pricing import Figure, Quantity, find_rule
from tests.pricing.points import ratio

DAC = find_rule("dac")


@pytest.mark.parametrize(("bits", "uw", "um2"), [(2, 7.8, 0.33), (3, 15.6, 0.66), (4, 31.2, 1.33), (6, 124.8, 5.31)])
def test_mnsim_s_table(bits: int, uw: float, um2: float) -> None:
    assert ratio(DAC, Figure.ENERGY_J, dac_bits=bits) == pytest.approx(uw / 3.9)
    assert ratio(DAC, Figure.STATIC_POWER_W, dac_bits=bits) == pytest.approx(uw / 3.9)
    assert ratio(DAC, Figure.AREA_M2, dac_bits=bits) == pytest.approx(um2 / 0.166, rel=0.01)


def test_where_the_table_ends() -> None:
    assert DAC.outside({Quantity.DAC_BITS: 6}) == ""
    assert "6 bits" in DAC.outside({Quantity.DAC_BITS: 7})
