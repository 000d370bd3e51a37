"""Cells and word lines against sums over every cell and every input."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcompiler.pricing import Figure, Quantity, find_rule

CELL, WORD_LINE = find_rule("cell"), find_rule("word_line")


def input_power(bits: int) -> float:
    """Mean square of the digits of so many bits, each as likely, over that of the largest."""
    digits = range(2**bits)
    return sum((digit / digits[-1]) ** 2 for digit in digits) / len(digits)


@given(st.integers(1, 6), st.floats(0.05, 3), st.floats(1e-7, 1e-3), st.floats(1e-9, 1e-6))
def test_heat_of_a_cell_is_the_mean_over_the_voltages_of_its_inputs(
    bits: int, volt: float, siemens: float, second: float
) -> None:
    currents = [siemens * volt * digit / (2**bits - 1) for digit in range(2**bits)]
    heat = sum(current**2 / siemens * second for current in currents) / len(currents)
    at = {
        Quantity.READ_VOLTAGE_V: volt,
        Quantity.CELL_SIEMENS: siemens,
        Quantity.READ_PULSE_S: second,
        Quantity.INPUT_POWER: input_power(bits),
    }
    assert CELL.value(Figure.ENERGY_J, at) == pytest.approx(heat)


def test_the_starter_target_s_cell() -> None:
    """0.2 V, 1 to 100 uS in equal steps, 10 ns, one bit: 0.2^2 x 50.5e-6 x 10e-9 / 2 J."""
    at = {
        Quantity.READ_VOLTAGE_V: 0.2,
        Quantity.CELL_SIEMENS: 50.5e-6,
        Quantity.READ_PULSE_S: 10e-9,
        Quantity.INPUT_POWER: input_power(1),
    }
    assert CELL.value(Figure.ENERGY_J, at) == pytest.approx(1.01e-14)


@given(st.integers(1, 6), st.integers(1, 1024), st.floats(1e-17, 1e-14), st.floats(0.05, 3))
def test_charge_of_a_line_is_the_sum_over_its_segments(bits: int, columns: int, farad: float, volt: float) -> None:
    charge = sum(sum(farad for _ in range(columns)) * (volt * d / (2**bits - 1)) ** 2 for d in range(2**bits)) / 2**bits
    at = {
        Quantity.COLUMNS: columns,
        Quantity.WORD_SEGMENT_F: farad,
        Quantity.READ_VOLTAGE_V: volt,
        Quantity.INPUT_POWER: input_power(bits),
    }
    assert WORD_LINE.value(Figure.ENERGY_J, at) == pytest.approx(charge)
    assert WORD_LINE.outside(at) == ""


def test_both_are_computed_and_nothing_else_follows() -> None:
    for rule in (CELL, WORD_LINE):
        assert rule.computes == rule.follows.keys() == {Figure.ENERGY_J}
