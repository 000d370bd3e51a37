"""Predistortion: inside the range, never worse than nothing, and as good as the range allows where it allows all."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcompiler.effects import LineResistances
from mcompiler.physics.compensate import predistort
from mcompiler.physics.wires import transfer

FloatArray = npt.NDArray[np.float64]

G_MIN, G_MAX = 1e-6, 1e-4
LEVELS = np.linspace(G_MIN, G_MAX, 4)


def cells(*shape: int, seed: int = 0, unformed: float = 0.0) -> FloatArray:
    """Cells on four levels; a share of them was never formed."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < unformed, 0.0, rng.choice(LEVELS, shape))


def residual(g: FloatArray, wanted: FloatArray, lines: LineResistances, scale: float, pedestal: float) -> float:
    """Written out anew."""
    formed = wanted > 0
    signal = scale * (wanted - pedestal) * formed
    error = transfer(g, lines) - signal - pedestal * formed
    return float(np.sqrt((error**2).sum() / (signal**2).sum()))


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 24),
    st.integers(2, 24),
    st.sampled_from([0.1, 2.0, 20.0]),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from([0.0, G_MIN]),
    st.integers(0, 99),
)
def test_better_than_nothing_and_within_the_range(
    rows: int, columns: int, ohm: float, unformed: float, pedestal: float, seed: int
) -> None:
    wanted, lines = cells(2, rows, columns, seed=seed, unformed=unformed), LineResistances(ohm, ohm, 50.0, 10.0)
    if pedestal:
        wanted[:] = np.maximum(wanted, G_MIN)
    wanted[0, 0, 0] = G_MAX
    found = predistort(wanted, lines, G_MIN, G_MAX, pedestal=pedestal, other_error=0.0)
    assert 0 < found.scale <= 1
    formed = wanted > 0
    assert (found.conductances[formed] >= G_MIN).all()
    assert (found.conductances[formed] <= G_MAX).all()
    assert not found.conductances[~formed].any()
    assert found.residual == pytest.approx(residual(found.conductances, wanted, lines, found.scale, pedestal), rel=1e-6)
    assert found.residual_plain == pytest.approx(residual(wanted, wanted, lines, 1.0, pedestal), rel=1e-9)
    assert found.residual <= found.residual_scaled * (1 + 1e-9)
    assert found.residual_scaled <= found.residual_plain * (1 + 1e-9)
    careful = predistort(wanted, lines, G_MIN, G_MAX, pedestal=pedestal)
    assert careful.scale > found.scale - 0.02
    assert careful.residual <= careful.residual_plain


def test_a_pair_of_a_64_row_tile() -> None:
    """1 ohm, 1 to 100 uS: the error of 13% (4.4% of what a factor leaves) falls below three thousandths."""
    wanted = cells(1, 64, 64)
    found = predistort(wanted, LineResistances(1, 1), G_MIN, G_MAX, pedestal=G_MIN, iterations=8)
    assert found.residual_plain > 0.1
    assert found.residual_scaled > 0.03
    assert found.residual < 3e-3
    assert 0.6 < found.scale < 0.95


def test_all_is_matched_where_nothing_is_cut() -> None:
    wanted = np.random.default_rng(0).uniform(4e-5, 6e-5, (1, 32, 32))
    found = predistort(wanted, LineResistances(1, 1, 20, 20), G_MIN, G_MAX, scale=1.0, iterations=12)
    assert found.residual < 1e-9
    np.testing.assert_allclose(transfer(found.conductances, LineResistances(1, 1, 20, 20)), wanted, rtol=1e-7)
    assert (found.conductances > wanted).all()


def test_the_scale_may_be_given() -> None:
    wanted, lines = cells(1, 32, 32), LineResistances(2, 2)
    found = predistort(wanted, lines, G_MIN, G_MAX, scale=0.8, pedestal=G_MIN)
    assert found.scale == 0.8
    assert found.residual < residual(wanted, wanted, lines, 0.8, G_MIN)


def test_perfect_lines_need_nothing() -> None:
    wanted = cells(2, 9, 9, unformed=0.2)
    found = predistort(wanted, LineResistances(), G_MIN, G_MAX)
    np.testing.assert_array_equal(found.conductances, wanted)
    assert (found.scale, found.residual, found.residual_scaled, found.residual_plain) == (1.0, 0.0, 0.0, 0.0)
    nothing = predistort(np.zeros((1, 3, 3)), LineResistances(1, 1), G_MIN, G_MAX)
    assert not nothing.conductances.any()
    assert nothing.residual == 0


def test_what_cannot_be_asked() -> None:
    with pytest.raises(ValueError, match=r"wanted conductances are 0.0001 to 0.0002 S, beyond the range"):
        predistort(np.array([[[1e-4, 2e-4]]]), LineResistances(1, 1), G_MIN, G_MAX)
    with pytest.raises(ValueError, match=r"a scale of 1.5 is not above 0 and at most 1"):
        predistort(cells(1, 3, 3), LineResistances(1, 1), G_MIN, G_MAX, scale=1.5)
