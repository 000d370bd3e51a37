"""Nodal analysis against the block solver and scipy's roots; linearisations against differences and exact solves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from mcompiler.effects import CellCurve, Circuit, LineResistances, circuit_of, described
from mcompiler.errors import TargetError
from mcompiler.physics import network, nodal
from mcompiler.physics.nodal import LinearisationAccuracy, linearisation_accuracy, linearise, solve
from mcompiler.physics.wires import transfer
from mcompiler.target import Target
from tests.support.programs import target

FloatArray = npt.NDArray[np.float64]

PROPERTY = settings(max_examples=40, deadline=None)

VOLTS = 0.2
SINH = CellCurve(VOLTS, sinh_v=0.08)
TABLE = CellCurve(VOLTS, voltages_v=(0.1, VOLTS), ratios=(0.3, 1.0))
OHMS = st.sampled_from([0.0, 0.1, 10.0, 300.0])
LINES = st.builds(LineResistances, OHMS, OHMS, OHMS, OHMS)
SIZES = st.integers(1, 6)

SOME = LineResistances(word_ohm=10.0, bit_ohm=4.0, driver_ohm=200.0, sense_ohm=60.0)
ROWS = Circuit(SOME, VOLTS)
GATES = Circuit(SOME, VOLTS, drive="gate")
FLOATING = Circuit(SOME, VOLTS, idle_rows="floating")
CURVED = Circuit(SOME, VOLTS, curve=SINH)
ALL = {
    "rows": ROWS,
    "gates": GATES,
    "floating": FLOATING,
    "curved": CURVED,
    "curved table": replace(ROWS, curve=TABLE),
    "curved floating": replace(FLOATING, curve=SINH, access_ohm=2000.0),
    "curved gates": replace(GATES, curve=SINH),
}

circuits = pytest.mark.parametrize("circuit", list(ALL.values()), ids=list(ALL))
nonlinear = pytest.mark.parametrize("circuit", list(ALL.values())[1:], ids=list(ALL)[1:])


def conductances(rows: int, columns: int, seed: int = 0, unformed: float = 0.0) -> FloatArray:
    """1 uS to 100 uS, log-uniform; a share of the cells does not conduct."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random((rows, columns)) < unformed, 0.0, 10 ** rng.uniform(-6, -4, (rows, columns)))


def bits(rows: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).integers(0, 2, rows).astype(np.float64)


def by_cell_currents(g: FloatArray, x: FloatArray, circuit: Circuit) -> FloatArray:
    """Currents from unknown cell currents instead of unknown node voltages, by scipy's root finder.

    Floating rows have an unknown voltage at the end of their line, at which their currents add up to 0.
    """
    rows, columns = g.shape
    lines, curve = circuit.lines, circuit.curve or CellCurve(VOLTS, voltages_v=(VOLTS,), ratios=(1.0,))
    idle = x == 0
    off = idle if circuit.drive == "gate" else np.zeros(rows, bool)
    hangs = idle if circuit.drive == "row_voltage" and circuit.idle_rows == "floating" else np.zeros(rows, bool)
    source = np.full(rows, VOLTS) if circuit.drive == "gate" else VOLTS * x

    def left(unknown: FloatArray) -> FloatArray:
        c, free = unknown[:-rows].reshape(rows, columns) * 1e-6, unknown[-rows:]
        volts = np.where(hangs, free, source)
        over = np.empty_like(c)
        for i in range(rows):
            for j in range(columns):
                fall = 0.0 if hangs[i] else lines.driver_ohm * c[i].sum()
                fall += sum(lines.word_ohm * c[i, k:].sum() for k in range(j + 1))
                rise = lines.sense_ohm * c[:, j].sum() + sum(
                    lines.bit_ohm * c[: k + 1, j].sum() for k in range(i, rows)
                )
                over[i, j] = volts[i] - fall - rise - circuit.access_ohm * c[i, j]
        missing = c - np.where(off[:, None], 0, g) * curve.current(over)
        tied = np.where(hangs & g.any(axis=1), c.sum(axis=1) * 1e6, free)
        return np.concatenate([missing.ravel() * 1e6, tied])

    found = optimize.root(left, np.zeros(rows * columns + rows), tol=1e-13)
    currents: FloatArray = found.x[:-rows].reshape(rows, columns).sum(axis=0) * 1e-6
    return currents


# --- solve -----------------------------------------------------------------------------------------------------------


@PROPERTY
@given(SIZES, SIZES, LINES, st.sampled_from([0.0, 0.4]), st.integers(0, 99))
def test_row_voltages_equal_the_transfer_matrix(
    rows: int, columns: int, lines: LineResistances, unformed: float, seed: int
) -> None:
    g = conductances(rows, columns, seed, unformed)
    x = np.random.default_rng(seed).random(rows)
    expected = VOLTS * x @ transfer(g[None], lines)[0]
    np.testing.assert_allclose(solve(g, x, Circuit(lines, VOLTS)), expected, rtol=1e-10, atol=1e-20)


@pytest.mark.parametrize("size", [16, 128, pytest.param(256, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "lines",
    [
        LineResistances(0.1, 0.1),
        LineResistances(1, 1, 100, 50),
        LineResistances(10, 0.1),
        LineResistances(10, 10),
        LineResistances(1e4, 1),
    ],
)
def test_large_tiles_equal_the_transfer_matrix(size: int, lines: LineResistances) -> None:
    g = conductances(size, size - 3, seed=size, unformed=0.05)
    x = np.random.default_rng(size).random(size)
    expected = VOLTS * x @ transfer(g[None], lines)[0]
    np.testing.assert_allclose(solve(g, x, Circuit(lines, VOLTS)), expected, rtol=1e-9)


@circuits
@pytest.mark.parametrize(
    "lines",
    [
        SOME,
        LineResistances(),
        LineResistances(bit_ohm=50.0),
        LineResistances(word_ohm=50.0),
        LineResistances(0, 0, 90.0, 70.0),
    ],
)
def test_solves_equal_scipys_roots(circuit: Circuit, lines: LineResistances) -> None:
    circuit = replace(circuit, lines=lines)
    g = conductances(4, 3, seed=5, unformed=0.2)
    g[1] = 0  # a row without cells that hangs in the air
    for x in (np.array([1.0, 0, 1, 0]), np.array([1.0, 1, 1, 1]), np.array([0.0, 0, 1, 0])):
        np.testing.assert_allclose(solve(g, x, circuit), by_cell_currents(g, x, circuit), rtol=1e-9, atol=1e-18)


def test_rows_between_0_and_1_with_curved_cells() -> None:
    g, x = conductances(4, 3, seed=6), np.array([0.2, 0.0, 1.0, 0.7])
    np.testing.assert_allclose(solve(g, x, CURVED), by_cell_currents(g, x, CURVED), rtol=1e-9)
    assert not np.allclose(solve(g, x, CURVED), solve(g, x, ROWS), rtol=0.05)


@circuits
def test_no_inputs_no_currents(circuit: Circuit) -> None:
    np.testing.assert_allclose(solve(conductances(5, 4), np.zeros(5), circuit), 0, atol=1e-20)
    np.testing.assert_array_equal(solve(np.zeros((5, 4)), np.ones(5), circuit), 0)


def test_cells_of_idle_gates_are_not_there() -> None:
    g, x = conductances(9, 7), bits(9, seed=1)
    expected = solve(g * x[:, None], np.ones(9), ROWS)
    np.testing.assert_allclose(solve(g, x, GATES), expected, rtol=1e-12)
    assert not np.allclose(solve(g, x, ROWS), expected, rtol=1e-3)


def test_floating_rows_lead_from_bit_line_to_bit_line() -> None:
    """Bit line 0 is driven through row 0 and reaches bit line 1 only through the floating row 1."""
    g = np.array([[1e-4, 0.0], [1e-4, 1e-4]])
    found = solve(g, np.array([1.0, 0.0]), FLOATING)
    assert found[1] > 0
    assert solve(g, np.array([1.0, 0.0]), GATES)[1] == 0


def test_access_resistance_is_part_of_an_ohmic_cell() -> None:
    g, x = conductances(5, 4), np.array([1.0, 0.3, 0, 1, 0.5])
    with_access = solve(g, x, replace(ROWS, access_ohm=3000.0))
    np.testing.assert_allclose(with_access, solve(g / (1 + g * 3000), x, ROWS), rtol=1e-12)
    straight = CellCurve(VOLTS, voltages_v=(VOLTS,), ratios=(1.0,))
    curved = solve(g, x, replace(ROWS, access_ohm=3000.0, curve=straight))
    np.testing.assert_allclose(curved, with_access, rtol=1e-11)


def test_a_steep_curve_settles() -> None:
    g = conductances(12, 12)
    steep = Circuit(LineResistances(100, 100, 1000, 1000), 1.0, curve=CellCurve(1.0, sinh_v=0.05))
    found = solve(g, np.ones(12), steep)
    assert (found > 0).all()
    assert found.sum() < g.sum()


def test_newton_that_does_not_arrive_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "_STEPS", 1)
    message = (
        r"^device\.curve: Newton's method finds no voltages of an array \(residual .* A\); give a curve that bends"
    )
    with pytest.raises(TargetError, match=message):
        solve(conductances(4, 4), np.ones(4), CURVED)


def test_inputs_that_do_not_fit() -> None:
    g = conductances(4, 3)
    with pytest.raises(ValueError, match=r"inputs have the shape \(3,\), the array has 4 rows"):
        solve(g, np.ones(3), ROWS)
    with pytest.raises(ValueError, match="inputs are shares, from 0 to 1"):
        solve(g, np.array([0, 1, 2, 0]), ROWS)
    with pytest.raises(ValueError, match="inputs between 0 and 1 cannot switch gates"):
        solve(g, np.array([0, 0.5, 1, 0]), GATES)
    with pytest.raises(ValueError, match="inputs between 0 and 1 cannot switch gates"):
        linearise(g, np.full(4, 0.5), GATES, levels=4)


def test_the_circuit_of_a_target() -> None:
    found = circuit_for(
        target(
            "array.wire_resistance_ohm=2.0",
            "array.idle_rows=floating",
            "device.curve.sinh_v=0.3",
            "device.access_resistance_ohm=500.0",
            "device.read_voltage_v=0.25",
        )
    )
    assert found == Circuit(
        LineResistances(2.0, 2.0), 0.25, "row_voltage", "floating", CellCurve(0.25, sinh_v=0.3), 500.0
    )
    assert not found.linear
    assert circuit_for(target()).linear
    assert circuit_for(target("array.drive=gate")).drive == "gate"


# --- linearise -------------------------------------------------------------------------------------------------------


def circuit_for(chip: Target) -> Circuit:
    return circuit_of(chip, described(chip))


def mean_currents(g: FloatArray, x: FloatArray, circuit: Circuit, levels: int = 2) -> FloatArray:
    linear = linearise(g, x, circuit, levels)
    return VOLTS * (x @ linear.matrix + linear.offset)


def test_a_linear_circuit_is_its_own_linearisation() -> None:
    g = conductances(6, 5)
    linear = linearise(g, np.full(6, 0.3), replace(ROWS, access_ohm=1000.0))
    np.testing.assert_array_equal(linear.matrix, transfer((g / (1 + g * 1000))[None], SOME)[0])
    np.testing.assert_array_equal(linear.offset, 0)


@nonlinear
@pytest.mark.parametrize(
    "lines", [SOME, LineResistances(), LineResistances(bit_ohm=50.0), LineResistances(0, 0, 0, 70.0)]
)
def test_the_map_is_exact_at_certain_inputs_and_follows_the_currents(circuit: Circuit, lines: LineResistances) -> None:
    circuit = replace(circuit, lines=lines)
    g, x = conductances(6, 5, seed=2, unformed=0.1), bits(6, seed=3)
    np.testing.assert_allclose(mean_currents(g, x, circuit), solve(g, x, circuit), rtol=1e-9, atol=1e-18)
    mean = np.linspace(0.2, 0.8, 6)
    matrix = linearise(g, mean, circuit).matrix
    for row, unit in enumerate(np.eye(6) * 1e-4):
        measured = (mean_currents(g, mean + unit, circuit) - mean_currents(g, mean - unit, circuit)) / 2e-4
        np.testing.assert_allclose(VOLTS * matrix[row], measured, rtol=1e-5, atol=1e-12)


@nonlinear
def test_perfect_lines_leave_the_conductances(circuit: Circuit) -> None:
    """At its levels 0 and 1 a curve does not show."""
    g = conductances(6, 5, unformed=0.2)
    linear = linearise(g, np.full(6, 0.4), replace(circuit, lines=LineResistances(), access_ohm=0.0))
    np.testing.assert_allclose(linear.matrix, g, rtol=1e-12)
    np.testing.assert_allclose(linear.offset, 0, atol=1e-18)


@pytest.mark.parametrize(("levels", "off"), [(2, 0.005), (4, 0.005), (5, 0.005), (16, 0.02), (256, 0.02)])
@pytest.mark.parametrize("mean", [0.2, 0.5])
def test_levels_are_averaged_over(levels: int, off: float, mean: float) -> None:
    """Perfect lines: the mean current of a row is that over its inputs; five states stand for more."""
    circuit = Circuit(LineResistances(), VOLTS, curve=SINH)
    g, activity = conductances(1, 3), np.array([mean])
    draws = nodal._draw(activity, np.random.default_rng(0), 200_000, levels)
    np.testing.assert_allclose(draws.mean(), mean, rtol=0.01)
    expected = g[0] * SINH.current(VOLTS * draws).mean()
    np.testing.assert_allclose(mean_currents(g, activity, circuit, levels), expected, rtol=0.01 + off)
    more, less = (mean_currents(g, activity + step, circuit, levels) for step in (1e-5, -1e-5))
    np.testing.assert_allclose(
        VOLTS * linearise(g, activity, circuit, levels).matrix[0], (more - less) / 2e-5, rtol=1e-6
    )


def test_all_levels_are_equally_likely_at_a_half() -> None:
    draws = nodal._draw(np.array([0.5, 0.0, 1.0]), np.random.default_rng(0), 100_000, levels=4)
    np.testing.assert_allclose(np.bincount((3 * draws[:, 0]).astype(int)) / 1e5, 0.25, atol=0.01)
    np.testing.assert_array_equal(draws[:, 1:], np.broadcast_to([0.0, 1.0], (100_000, 2)))


@nonlinear
def test_the_error_is_measured_and_small(circuit: Circuit) -> None:
    g, activity = conductances(24, 20), np.full(24, 0.5)
    error = linearisation_accuracy(g, activity, circuit, np.random.default_rng(0), vectors=8)
    assert 0 < error.rms < 0.02
    assert error.rms < error.worst < 0.06
    assert error.rms < error.of_spread < 0.08
    assert error.ignored_rms > 5 * error.rms
    assert error == linearisation_accuracy(g, activity, circuit, np.random.default_rng(0), vectors=8)


def test_errors_by_hand() -> None:
    """One cell behind one row: the currents are 0 and one value, the map is at their mean."""
    g, activity = np.full((1, 1), 1e-4), np.ones(1)
    error = linearisation_accuracy(g, activity, CURVED, np.random.default_rng(0), vectors=3)
    exact = solve(g, activity, CURVED)[0]
    assert error.rms < 1e-12
    assert error.of_spread == 0  # nothing varies
    assert error.ignored_rms == pytest.approx(VOLTS * 1e-4 / exact - 1)


def test_a_linear_circuit_has_no_error() -> None:
    g = conductances(8, 6)
    error = linearisation_accuracy(g, np.full(8, 0.5), ROWS, np.random.default_rng(0), vectors=4)
    assert max(error.rms, error.worst, error.of_spread) < 1e-11
    nothing = linearisation_accuracy(g, np.zeros(8), FLOATING, np.random.default_rng(0), vectors=2)
    assert nothing == LinearisationAccuracy(0, 0, 0, 0)


def test_many_levels_have_an_error_too() -> None:
    g, activity = conductances(16, 12), np.full(16, 0.4)
    found = linearisation_accuracy(g, activity, CURVED, np.random.default_rng(0), vectors=6, levels=16)
    assert 0 < found.rms < 0.15
    assert found.ignored_rms > 3 * found.rms
