"""Wires: the transfer matrix against rational nodal analysis, and the laws that every resistor network obeys."""

from __future__ import annotations

import threading
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcompiler.effects import LineResistances
from mcompiler.physics import wires
from mcompiler.physics.wires import TransferCache, transfer
from tests.support.programs import target

FloatArray = npt.NDArray[np.float64]

PROPERTY = settings(max_examples=40, deadline=None)
NO_OHM = Fraction(1, 10**60)  # stands for no resistance where every element needs a conductance

OHMS = st.sampled_from([0.0, 1e-6, 0.1, 1.0, 10.0, 1e4])
LINES = st.builds(LineResistances, OHMS, OHMS, OHMS, OHMS)


def conductances(*shape: int, seed: int = 0, unformed: float = 0.0) -> FloatArray:
    """1 uS to 100 uS, log-uniform; a share of the cells does not conduct."""
    rng = np.random.default_rng(seed)
    g = 10 ** rng.uniform(-6, -4, shape)
    return np.where(rng.random(shape) < unformed, 0.0, g)


def rational(g: FloatArray, lines: LineResistances) -> FloatArray:
    """T by nodal analysis in rational numbers: no rounding before the end."""
    rows, columns = g.shape
    size = 2 * rows * columns
    ohms = [Fraction(ohm) or NO_OHM for ohm in (lines.word_ohm, lines.bit_ohm)]
    ends = [ohms[0] + Fraction(lines.driver_ohm), ohms[1] + Fraction(lines.sense_ohm)]
    matrix = [[Fraction(0)] * (size + rows) for _ in range(size)]

    def connect(a: int, b: int | None, conductance: Fraction) -> None:
        matrix[a][a] += conductance
        if b is not None:
            matrix[b][b] += conductance
            matrix[a][b] -= conductance
            matrix[b][a] -= conductance

    for i in range(rows):
        for j in range(columns):
            word, bit = 2 * (i * columns + j), 2 * (i * columns + j) + 1
            connect(word, bit, Fraction(float(g[i, j])))
            connect(word, word - 2 if j else None, 1 / (ohms[0] if j else ends[0]))
            connect(bit, bit + 2 * columns if i + 1 < rows else None, 1 / (ohms[1] if i + 1 < rows else ends[1]))
        matrix[2 * i * columns][size + i] = 1 / ends[0]
    for pivot in range(size):  # Gauss and Jordan; the matrix is positive definite
        scale = 1 / matrix[pivot][pivot]
        matrix[pivot] = [value * scale for value in matrix[pivot]]
        for row in range(size):
            factor = matrix[row][pivot]
            if row != pivot and factor:
                matrix[row] = [a - factor * b for a, b in zip(matrix[row], matrix[pivot], strict=True)]
    sensed = [2 * ((rows - 1) * columns + j) + 1 for j in range(columns)]
    return np.array([[float(matrix[node][size + i] / ends[1]) for node in sensed] for i in range(rows)])


# --- transfer --------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), LINES, st.sampled_from([0.0, 0.4]), st.integers(0, 99))
def test_small_tiles_equal_rational_nodal_analysis(
    rows: int, columns: int, lines: LineResistances, unformed: float, seed: int
) -> None:
    g = conductances(rows, columns, seed=seed, unformed=unformed)
    np.testing.assert_allclose(transfer(g[None], lines)[0], rational(g, lines), rtol=1e-12, atol=1e-15 * g.max())


def test_blocks_that_were_joined_equal_rational_nodal_analysis(monkeypatch: pytest.MonkeyPatch) -> None:
    g = conductances(5, 6, seed=3, unformed=0.1)
    lines = LineResistances(word_ohm=3.0, bit_ohm=0.7, driver_ohm=150.0, sense_ohm=40.0)
    monkeypatch.setattr(wires, "_SMALLEST", 1)  # 8 x 8 blocks of one cell, three joints in each direction
    np.testing.assert_allclose(transfer(g[None], lines)[0], rational(g, lines), rtol=1e-12)


@pytest.mark.parametrize("smallest", [1, 2, 3, 8])
def test_the_cut_does_not_matter(smallest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    g = conductances(2, 37, 21, unformed=0.2)
    lines = LineResistances(2.0, 5.0, 100.0, 20.0)
    found = transfer(g, lines)
    monkeypatch.setattr(wires, "_SMALLEST", smallest)
    np.testing.assert_allclose(transfer(g, lines), found, rtol=1e-12)


def test_one_cell_is_a_series_of_resistances() -> None:
    found = transfer(np.full((1, 1, 1), 1e-3), LineResistances(word_ohm=1, bit_ohm=2, driver_ohm=30, sense_ohm=400))
    assert found[0, 0, 0] == pytest.approx(1 / (1000 + 433), rel=1e-14)


@pytest.mark.parametrize("shape", [(1, 3, 5), (2, 64, 33)])
def test_perfect_lines_change_nothing(shape: tuple[int, ...]) -> None:
    g = conductances(*shape, unformed=0.1)
    found = transfer(g, LineResistances())
    np.testing.assert_array_equal(found, g)
    assert not np.shares_memory(found, g)


def test_segments_without_resistance_are_exact_in_the_blocks_too() -> None:
    g = conductances(2, 32, 16, unformed=0.1)
    np.testing.assert_array_equal(wires._whole(g, 4, 4, LineResistances()), g)


@PROPERTY
@given(st.integers(1, 40), st.integers(1, 40), LINES, st.integers(0, 99))
def test_words_and_bits_swap_by_reciprocity(rows: int, columns: int, lines: LineResistances, seed: int) -> None:
    g = conductances(rows, columns, seed=seed, unformed=0.1)
    swapped = LineResistances(lines.bit_ohm, lines.word_ohm, lines.sense_ohm, lines.driver_ohm)
    mirrored = transfer(np.ascontiguousarray(g[::-1, ::-1].T)[None], swapped)[0].T[::-1, ::-1]
    found = transfer(g[None], lines)[0]
    np.testing.assert_allclose(mirrored, found, rtol=1e-9, atol=1e-12 * found.max(initial=0))


@PROPERTY
@given(st.integers(1, 40), st.integers(1, 40), LINES, st.sampled_from([0, 1, 2, 3]), st.integers(0, 99))
def test_more_resistance_means_less_current(
    rows: int, columns: int, lines: LineResistances, which: int, seed: int
) -> None:
    g = conductances(rows, columns, seed=seed)
    ohms = [lines.word_ohm, lines.bit_ohm, lines.driver_ohm, lines.sense_ohm]
    ohms[which] += 5.0
    less, more = transfer(g[None], LineResistances(*ohms))[0], transfer(g[None], lines)[0]
    tiny = 1e-12 * g.max()
    assert (less >= -tiny).all()
    assert (more.sum(0) <= g.sum(0) * (1 + 1e-12)).all()  # no bit line collects more than its cells conduct
    assert less.sum() < more.sum()  # Rayleigh: the conductance between all sources and ground falls


def test_open_lines_carry_nothing_and_load_nothing() -> None:
    g = conductances(20, 30)
    g[7], g[:, 11] = 0, 0
    lines = LineResistances(5, 5, 100, 50)
    found = transfer(g[None], lines)[0]
    assert not found[7].any()
    assert not found[:, 11].any()
    assert (np.delete(np.delete(found, 7, 0), 11, 1) > 0).all()
    assert not transfer(np.zeros((1, 20, 30)), lines).any()


def test_segments_as_high_as_cells_stay_finite() -> None:
    """Segments of 1 Mohm beside cells of 10 kohm: currents fall by many orders, none turns negative or nan."""
    found = transfer(np.full((1, 64, 64), 1e-4), LineResistances(1e6, 1e6))[0]
    assert np.isfinite(found).all()
    assert found[-1, 0] == found.max() > 0
    assert found.min() > -1e-12 * found.max()


def test_tiles_of_a_batch_do_not_touch(monkeypatch: pytest.MonkeyPatch) -> None:
    g = conductances(5, 9, 17)
    lines = LineResistances(1, 2, 3, 4)
    found = transfer(g, lines)
    single = np.concatenate([transfer(tile[None], lines) for tile in g])
    np.testing.assert_allclose(found, single, rtol=1e-13)
    monkeypatch.setattr(wires, "_CELLS_AT_ONCE", 2 * 10 * 20)
    np.testing.assert_allclose(transfer(g, lines), single, rtol=1e-13)


@pytest.mark.parametrize("shape", [(0, 4, 4), (3, 0, 4), (3, 4, 0)])
def test_nothing_is_nothing(shape: tuple[int, ...]) -> None:
    assert transfer(np.zeros(shape), LineResistances(1, 1)).shape == shape


@pytest.mark.parametrize("wrong", [-1e-6, np.nan, np.inf])
def test_conductances_are_finite_and_not_negative(wrong: float) -> None:
    g = conductances(1, 3, 3)
    g[0, 1, 1] = wrong
    with pytest.raises(ValueError, match="a conductance is negative or not finite"):
        transfer(g, LineResistances(1, 1))


def test_a_tile_is_no_batch() -> None:
    with pytest.raises(ValueError, match="conductances have 2 axes, not 3"):
        transfer(np.ones((3, 3)), LineResistances(1, 1))


# --- LineResistances -------------------------------------------------------------------------------------------------


def test_lines_of_a_target() -> None:
    ohms = ("wire_resistance_ohm=2.5", "driver_resistance_ohm=100.0", "sense_resistance_ohm=30.0")
    asked = tuple(f"array.{value}" for value in ohms)
    assert LineResistances.of(target(*asked)) == LineResistances(
        word_ohm=2.5, bit_ohm=2.5, driver_ohm=100.0, sense_ohm=30.0
    )
    apart = target(*asked, "array.bit_wire_resistance_ohm=0.0")
    assert LineResistances.of(apart) == LineResistances(word_ohm=2.5, bit_ohm=0.0, driver_ohm=100.0, sense_ohm=30.0)
    assert LineResistances().perfect
    assert not LineResistances(sense_ohm=1.0).perfect


@pytest.mark.parametrize("wrong", [-1.0, np.nan, np.inf])
def test_resistances_are_finite_and_not_negative(wrong: float) -> None:
    with pytest.raises(ValueError, match=r"bit_ohm = .*: a resistance is finite and not negative"):
        LineResistances(bit_ohm=wrong)


# --- TransferCache ---------------------------------------------------------------------------------------------------


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of tiles of every call of ``transfer``, filled as calls come."""
    calls: list[int] = []

    def count(g: FloatArray, lines: LineResistances) -> FloatArray:
        calls.append(len(g))
        return transfer(g, lines)

    monkeypatch.setattr(wires, "transfer", count)
    return calls


def test_the_cache_solves_a_tile_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    g, lines = conductances(4, 8, 9), LineResistances(1, 1)
    g[3] = g[0]
    cache = TransferCache(1 << 20)
    np.testing.assert_allclose(cache.transfer(g, lines), transfer(g, lines), rtol=1e-13)
    again = cache.transfer(g[1:], lines)
    np.testing.assert_allclose(again, transfer(g[1:], lines), rtol=1e-13)
    assert calls == [3]
    cache.transfer(g[:1], LineResistances(1, 2))
    cache.transfer(g[:1].reshape(1, 9, 8), lines)
    assert calls == [3, 1, 1]


def test_what_a_caller_does_to_a_result_is_his_own() -> None:
    g, lines, cache = conductances(1, 8, 9), LineResistances(1, 1), TransferCache(1 << 20)
    first = cache.transfer(g, lines)
    first[:] = 0
    np.testing.assert_array_equal(cache.transfer(g, lines), transfer(g, lines))


def test_the_cache_forgets_the_least_used(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    g, lines = conductances(3, 8, 8), LineResistances(1, 1)
    cache = TransferCache(2 * g[0].nbytes)
    for index in (0, 1, 0, 2, 0, 1):  # 2 drives out 1, which was used longest ago
        cache.transfer(g[index : index + 1], lines)
        assert cache.held_bytes <= 2 * g[0].nbytes
    assert len(calls) == 4
    none = TransferCache(0)
    np.testing.assert_array_equal(none.transfer(g, lines), transfer(g, lines))
    assert none.held_bytes == 0


def test_threads_share_a_cache() -> None:
    g, lines = conductances(12, 16, 16), LineResistances(1, 1)
    expected = transfer(g, lines)
    cache = TransferCache(5 * g[0].nbytes)
    wrong: list[int] = []

    def work(seed: int) -> None:
        for index in np.random.default_rng(seed).integers(0, len(g), 60):
            if not np.allclose(cache.transfer(g[index : index + 1], lines)[0], expected[index], rtol=1e-12, atol=0):
                wrong.append(int(index))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert cache.held_bytes == 5 * g[0].nbytes
