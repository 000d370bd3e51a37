"""Curves of cells: odd, ascending, through the read point, with the slope that differences show."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcompiler.effects import CellCurve
from tests.support.programs import target

SINH = CellCurve(read_v=0.2, sinh_v=0.1)
TABLE = CellCurve(read_v=0.2, voltages_v=(0.1, 0.2, 0.3), ratios=(0.4, 1.0, 2.5))

curves = pytest.mark.parametrize("curve", [SINH, TABLE], ids=["sinh", "table"])


@curves
@settings(deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=9, unique=True))
def test_curves_are_odd_and_ascend(curve: CellCurve, voltages: list[float]) -> None:
    v = np.sort(np.array(voltages))
    v = v[np.insert(np.diff(v) > 1e-6, 0, True)]
    np.testing.assert_array_equal(curve.current(-v), -curve.current(v))
    assert (np.diff(curve.current(v)) > 0).all()
    assert (curve.slope(v) > 0).all()


@curves
def test_the_conductance_is_the_chord_at_the_read_voltage(curve: CellCurve) -> None:
    assert curve.current(np.array([curve.read_v]))[0] == pytest.approx(curve.read_v, rel=1e-15)
    assert curve.current(np.zeros(1))[0] == 0


@curves
def test_slopes_are_those_of_differences(curve: CellCurve) -> None:
    v = np.linspace(-0.5, 0.5, 48)  # no point of the table among them
    measured = (curve.current(v + 1e-6) - curve.current(v - 1e-6)) / 2e-6
    np.testing.assert_allclose(curve.slope(v), measured, rtol=1e-6)


def test_sinh() -> None:
    v = np.array([0.05, 0.17])
    np.testing.assert_allclose(SINH.current(v), 0.2 * np.sinh(v / 0.1) / np.sinh(2), rtol=1e-14)


def test_a_table_is_linear_between_its_points_and_goes_on() -> None:
    v = np.array([0.05, 0.1, 0.15, 0.2, 0.3, 0.4, -0.4])
    np.testing.assert_allclose(TABLE.current(v), 0.2 * np.array([0.2, 0.4, 0.7, 1.0, 2.5, 4.0, -4.0]), rtol=1e-14)


def test_a_sharp_bend_does_not_overflow() -> None:
    sharp = CellCurve(read_v=1.0, sinh_v=1e-3)  # sinh(1000) is no float
    np.testing.assert_allclose(sharp.current(np.array([0.5, 1.0])), [np.exp(-500), 1.0], rtol=1e-12)
    assert np.isfinite(sharp.current(np.array([9.0]))).all()
    assert np.isfinite(sharp.slope(np.array([9.0]))).all()


def test_the_curve_of_a_target() -> None:
    assert CellCurve.of(target()) is None
    bent = CellCurve.of(target("device.read_voltage_v=0.3", "device.curve.sinh_v=0.25"))
    assert bent == CellCurve(read_v=0.3, sinh_v=0.25)


@pytest.mark.parametrize(
    ("parts", "fault"),
    [
        ({}, "a curve is either a sinh or a table"),
        ({"sinh_v": 0.1, "voltages_v": (0.1,), "ratios": (1.0,)}, "a curve is either a sinh or a table"),
        ({"voltages_v": (0.1, 0.2), "ratios": (1.0,)}, "2 voltages and 1 ratios are no table"),
        ({"voltages_v": (0.2, 0.1), "ratios": (0.5, 1.0)}, "the points of a table ascend"),
        ({"voltages_v": (0.1, 0.2), "ratios": (1.0, 1.0)}, "the points of a table ascend"),
    ],
)
def test_what_is_no_curve(parts: dict[str, object], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        CellCurve(0.2, **parts)  # type: ignore[arg-type]
