"""Effects of devices: their statistics are what the description says, by formulas written out here once more.

Every tolerance is five standard errors of the statistic that is compared, for the number of cells drawn.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mcompiler.effects.drift import drifted
from mcompiler.effects.faults import open_lines, stuck
from mcompiler.effects.noise import noise_deviation, noisy
from mcompiler.effects.programming import programmed
from mcompiler.effects.telegraph import telegraph, telegraph_cells
from mcompiler.effects.temperature import warmed
from mcompiler.target import Device, load_target

N = 40_000
G_MIN, G_MAX = 1e-6, 40e-6
Floats = npt.NDArray[np.float64]


def device(**sections: Any) -> Device:
    """A device of 4 levels between 1 and 40 uS with such sections."""
    data: dict[str, Any] = {"g_min_siemens": G_MIN, "g_max_siemens": G_MAX, "levels": 4}
    return Device.model_validate(data | {"read_voltage_v": 0.2, "read_pulse_s": 1e-8} | sections)


def cells(siemens: float, shape: tuple[int, ...] = (N,)) -> Floats:
    return np.full(shape, siemens)


def levels(level: int = 0) -> npt.NDArray[np.uint8]:
    return np.full(N, level, dtype=np.uint8)


def rng(seed: int = 7) -> np.random.Generator:
    return np.random.default_rng(seed)


def expect_normal(values: Floats, mean: float, deviation: float) -> None:
    """Mean, standard deviation and the shares within one and two deviations are those of a normal."""
    size = len(values)
    assert np.mean(values) == pytest.approx(mean, abs=5 * deviation / size**0.5)
    assert np.std(values) == pytest.approx(deviation, rel=5 / (2 * size) ** 0.5)
    for distance, share in ((1, 0.682689), (2, 0.954500)):
        within = np.mean(np.abs(values - mean) < distance * deviation)
        assert within == pytest.approx(share, abs=5 * (share * (1 - share) / size) ** 0.5)


# --- ideal ----------------------------------------------------------------------------------------------------------


def test_a_device_without_sections_is_ideal() -> None:
    G = rng().uniform(G_MIN, G_MAX, (5, 7))
    ideal = device()
    codes = np.zeros(G.shape, dtype=np.uint8)
    assert programmed(G, codes, ideal, rng(), 1e6) is G
    assert drifted(G, G, ideal, rng(), 1e6) is G
    assert noisy(G, G, ideal, rng(), 1e6) is G
    assert telegraph(G, ideal, rng()) is G
    assert warmed(G, ideal) is G
    assert stuck(G, ideal, rng()) is G
    assert open_lines(G, ideal, rng()) is G
    assert not noise_deviation(G, G, ideal, 1e6).any()
    assert not telegraph_cells(G.shape, ideal, rng()).any()


# --- programming ----------------------------------------------------------------------------------------------------


def test_normal_parts_of_programming_add_in_variance() -> None:
    described = device(
        programming={
            "absolute_siemens": 0.3e-6,
            "proportional": 0.02,
            "polynomial_siemens": [-2e-6, 1e-6, 0.4e-6],
            "level_siemens": [0.0, 0.5e-6, 0.7e-6, 0.2e-6],
        }
    )
    g = 20e-6
    polynomial = -2e-6 * 0.25 + 1e-6 * 0.5 + 0.4e-6
    for level, own in enumerate([0.0, 0.5e-6, 0.7e-6, 0.2e-6]):
        sigma = (0.3e-6**2 + (0.02 * g) ** 2 + polynomial**2 + own**2) ** 0.5
        expect_normal(programmed(cells(g), levels(level), described, rng(level), 0), g, sigma)


@pytest.mark.parametrize(
    ("section", "sigma"),
    [
        ({"absolute_siemens": 0.3e-6}, 0.3e-6),
        ({"proportional": 0.02}, 0.4e-6),
        ({"polynomial_siemens": [1e-6, 0.1e-6]}, 0.6e-6),
        ({"level_siemens": [0.25e-6, 0, 0, 0]}, 0.25e-6),
    ],
)
def test_each_part_of_programming_alone(section: dict[str, Any], sigma: float) -> None:
    expect_normal(programmed(cells(20e-6), levels(), device(programming=section), rng(), 0), 20e-6, sigma)


def test_log_normal_programming_has_the_wanted_median_and_spread_of_the_logarithm() -> None:
    values = programmed(cells(10e-6), levels(), device(programming={"log_normal": 0.1}), rng(), 0)
    expect_normal(np.log(values / 10e-6), 0.0, 0.1)


def test_a_polynomial_below_zero_is_no_error() -> None:
    described = device(programming={"polynomial_siemens": [1e-6, -2e-6]})
    assert np.array_equal(programmed(cells(20e-6), levels(), described, rng(), 0), cells(20e-6))


def test_conductances_are_cut_at_zero() -> None:
    values = programmed(cells(1e-6), levels(), device(programming={"absolute_siemens": 1e-6}), rng(), 0)
    below = 0.158655  # of a normal, one deviation below its mean
    assert values.min() == 0
    assert np.mean(values == 0) == pytest.approx(below, abs=5 * (below * (1 - below) / N) ** 0.5)


RELAXED = {
    "second": {"after_s": 1.0, "polynomial_siemens": [1e-6, 0.5e-6]},
    "day": {"after_s": 86400.0, "polynomial_siemens": [2e-6, 1.5e-6]},
    "hour": {"after_s": 3600.0, "polynomial_siemens": [-9e-6, 1e-6]},  # below 0 at half of g_max
}


@pytest.mark.parametrize(
    ("time_s", "sigma"),
    [
        (0.0, 1e-6),
        (1.0, 1e-6),
        (60.0, 0.5e-6),  # halfway in ln(t) from 1 s to 1 hour
        (3600.0, 0.0),
        (3600.0 * 24**0.25, 0.25 * 2.5e-6),
        (86400.0, 2.5e-6),
        (1e9, 2.5e-6),
    ],
)
def test_relaxation_at_a_time(time_s: float, sigma: float) -> None:
    values = programmed(cells(20e-6), levels(), device(relaxation=RELAXED), rng(), time_s)
    if sigma:
        expect_normal(values, 20e-6, sigma)
    else:
        assert values == pytest.approx(cells(20e-6))


def test_a_chip_relaxes_along_one_path() -> None:
    early = programmed(cells(20e-6), levels(), device(relaxation=RELAXED), rng(), 1.0) - 20e-6
    late = programmed(cells(20e-6), levels(), device(relaxation=RELAXED), rng(), 86400.0) - 20e-6
    assert late == pytest.approx(2.5 * early)


def test_neurram_relaxes_by_the_published_microsiemens() -> None:
    """Wan et al. 2022: at most about 4 uS of deviation, near 12 uS."""
    coefficients = [-11.934, 37.062, -43.507, 20.274, 0.782]
    described = device(
        relaxation={"two_days": {"after_s": 172800.0, "polynomial_siemens": [each * 1e-6 for each in coefficients]}}
    )
    share = 12 / 40
    sigma = sum(each * share**power for each, power in zip(coefficients, range(4, -1, -1), strict=True)) * 1e-6
    assert 3.5e-6 < sigma < 4.1e-6
    expect_normal(programmed(cells(12e-6), levels(), described, rng(), 172800.0), 12e-6, sigma)


# --- drift ----------------------------------------------------------------------------------------------------------

PCM = {
    "t0_s": 20.0,
    "nu": 0.0244,
    "nu_per_log": -0.0155,
    "nu_min": 0.049,
    "nu_max": 0.1,
    "spread": -0.0059,
    "spread_per_log": -0.0125,
    "spread_min": 0.008,
    "spread_max": 0.045,
}


@pytest.mark.parametrize("share", [1.0, 0.5, 0.2])
def test_drift_exponents_are_normal_with_the_described_mean_and_deviation(share: float) -> None:
    mean = min(max(0.0244 - 0.0155 * np.log(share), 0.049), 0.1)
    deviation = min(max(-0.0125 * np.log(share) - 0.0059, 0.008), 0.045)
    G = cells(share * G_MAX)
    exponents = -np.log(drifted(G, G, device(drift=PCM), rng(), 20.0 * 1000) / G) / np.log(1000)
    assert np.median(exponents) == pytest.approx(mean, abs=5 * 1.2533 * deviation / N**0.5)
    expect_normal(exponents, mean, deviation)


def test_drift_begins_at_t0_and_follows_one_exponent() -> None:
    G, described = cells(10e-6), device(drift=PCM)
    assert drifted(G, G, described, rng(), 20.0) is G
    assert drifted(G, G, described, rng(), 1.0) is G
    day, year = (drifted(G, G, described, rng(), time) for time in (86400.0, 3.15e7))
    slope = np.log(year / G) / np.log(day / G)
    assert slope == pytest.approx(np.log(3.15e7 / 20) / np.log(86400 / 20))


def test_drift_follows_the_wanted_conductance_and_its_exponents_are_not_negative() -> None:
    """|normal|: at a share of 0.001 the mean is 0.1 and the deviation 0.045, so that 1.3% would be below 0."""
    G, wanted = cells(G_MAX), cells(0.001 * G_MAX)
    exponents = -np.log(drifted(G, wanted, device(drift=PCM), rng(), 20.0 * 1000) / G) / np.log(1000)
    assert exponents.min() >= 0
    z = 0.1 / 0.045
    folded = 0.045 * np.sqrt(2 / np.pi) * np.exp(-(z**2) / 2) + 0.1 * (1 - 2 * stats.norm.cdf(-z))
    assert np.mean(exponents) == pytest.approx(folded, abs=5 * 0.045 / N**0.5)
    growing = drifted(G, G, device(drift={"t0_s": 20.0, "nu": -0.02, "spread": 0.005}), rng(), 20.0 * 1000)
    expect_normal(-np.log(growing / G) / np.log(1000), -0.02, 0.005)


def test_unbounded_drift_without_spread_is_the_power_law() -> None:
    described = device(drift={"t0_s": 1.0, "nu": 0.06, "nu_per_log": 0.0})
    assert drifted(cells(10e-6), cells(10e-6), described, rng(), 100.0) == pytest.approx(10e-6 * 100**-0.06)


# --- faults ---------------------------------------------------------------------------------------------------------


def test_shares_of_stuck_cells() -> None:
    held = stuck(cells(20e-6), device(faults={"stuck_on": 0.02, "stuck_off": 0.05}), rng())
    for value, share in ((G_MAX, 0.02), (G_MIN, 0.05), (20e-6, 0.93)):
        assert np.mean(held == value) == pytest.approx(share, abs=5 * (share * (1 - share) / N) ** 0.5)


def test_stuck_cells_stay_where_the_description_says() -> None:
    faults = {"stuck_on": 0.5, "stuck_off": 0.5, "stuck_on_siemens": 100e-6, "stuck_off_siemens": 0.0}
    held = stuck(cells(20e-6), device(faults=faults), rng())
    assert set(np.unique(held)) == {0.0, 100e-6}


def test_more_stuck_cells_are_the_same_ones_and_others() -> None:
    few = stuck(cells(20e-6), device(faults={"stuck_on": 0.02, "stuck_off": 0.02}), rng())
    many = stuck(cells(20e-6), device(faults={"stuck_on": 0.1, "stuck_off": 0.1}), rng())
    assert np.array_equal(many[few != 20e-6], few[few != 20e-6])


def test_open_lines_cut_off_all_their_cells() -> None:
    shape = (400, 50, 80)
    lines = open_lines(cells(20e-6, shape), device(faults={"open_word_lines": 0.1, "open_bit_lines": 0.2}), rng())
    words, bits = (lines == 0).all(axis=2), (lines == 0).all(axis=1)
    assert np.array_equal(lines == 0, words[:, :, None] | bits[:, None, :])
    assert np.mean(words) == pytest.approx(0.1, abs=5 * (0.1 * 0.9 / words.size) ** 0.5)
    assert np.mean(bits) == pytest.approx(0.2, abs=5 * (0.2 * 0.8 / bits.size) ** 0.5)
    assert np.mean(words.all(axis=1)) == 0, "lines of one array are independent"


# --- noise ----------------------------------------------------------------------------------------------------------


def test_parts_of_read_noise_add_in_variance() -> None:
    noise = {
        "correlation": "static_at_t",
        "absolute_siemens": 0.1e-6,
        "proportional": 0.01,
        "polynomial_siemens": [0.5e-6, 0.05e-6],
        "one_over_f": {"q": 0.0088, "q_exponent": 0.65, "q_largest": 0.2, "read_s": 250e-9},
    }
    G, time_s = np.array([0.04e-6, 20e-6, 40e-6]), 3600.0
    slow = [min(0.0088 / share**0.65, 0.2) * np.log((time_s + 250e-9) / 500e-9) ** 0.5 for share in G / G_MAX]
    polynomial = 0.5e-6 * G / G_MAX + 0.05e-6
    expected = (0.1e-6**2 + (0.01 * G) ** 2 + polynomial**2 + (G * slow) ** 2) ** 0.5
    assert noise_deviation(G, G, device(noise=noise), time_s) == pytest.approx(expected)
    for g, sigma in zip(G[1:], expected[1:], strict=True):
        expect_normal(noisy(cells(g), cells(g), device(noise=noise), rng(), time_s), g, sigma)


def test_one_over_f_noise_begins_with_the_read_and_has_no_bound_unless_given() -> None:
    slow = {"q": 0.0088, "q_exponent": 0.65, "read_s": 250e-9}
    described = device(noise={"correlation": "static_at_t", "one_over_f": slow})
    G = np.array([1e-9])
    assert not noise_deviation(G, G, described, 250e-9).any()
    assert not noise_deviation(G, G, described, 0.0).any()
    expected = 1e-9 * 0.0088 / (1e-9 / G_MAX) ** 0.65 * np.log((1 + 250e-9) / 500e-9) ** 0.5
    assert noise_deviation(G, G, described, 1.0) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("time_s", "expected"), [(20.0, 0.0368), (3600.0, 0.0419), (86400.0, 0.0449), (2592000.0, 0.0476)]
)
def test_one_over_f_noise_depends_on_the_conductance_before_drift(time_s: float, expected: float) -> None:
    """Relative noise of a cell of 25 uS as Joshi et al. (2020) give it, whatever is left of its conductance."""
    slow = {"q": 0.0088, "q_exponent": 0.65, "q_largest": 0.2, "read_s": 250e-9}
    described = device(noise={"correlation": "static_at_t", "one_over_f": slow})
    written = np.full(1, G_MAX)
    for left in (1.0, 0.6, 0.1):
        found = noise_deviation(left * written, written, described, time_s) / (left * written)
        assert found == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize(("seeds", "expected"), [((1, 1), 1.0), ((1, 2), 0.0)])
def test_one_generator_is_one_draw_of_noise(seeds: tuple[int, int], expected: float) -> None:
    """Two evaluations with the generator of one chip agree, with new ones they are independent."""
    described = device(noise={"correlation": "per_read", "proportional": 0.05})
    first, second = (noisy(cells(20e-6), cells(20e-6), described, rng(seed), 0.0) for seed in seeds)
    assert np.corrcoef(first, second)[0, 1] == pytest.approx(expected, abs=5 / N**0.5)


# --- telegraph noise ------------------------------------------------------------------------------------------------

TELEGRAPH = {"correlation": "per_read", "share": 0.3, "amplitude": 0.2, "low": 0.25}


def test_telegraph_noise_has_two_levels_and_shares() -> None:
    read = telegraph(cells(20e-6), device(telegraph=TELEGRAPH), rng())
    assert np.unique(read) == pytest.approx([16e-6, 20e-6])
    low = 0.3 * 0.25
    assert np.mean(read < 18e-6) == pytest.approx(low, abs=5 * (low * (1 - low) / N) ** 0.5)


def test_cells_keep_having_two_states_while_these_change() -> None:
    """Over reads with the same cells: only those change, and two reads of them are independent."""
    described = device(telegraph=TELEGRAPH)
    having = telegraph_cells((N,), described, rng())
    assert np.mean(having) == pytest.approx(0.3, abs=5 * (0.3 * 0.7 / N) ** 0.5)
    first, second = (telegraph(cells(20e-6), described, rng(seed), having) for seed in (1, 2))
    assert (first[~having] == 20e-6).all()
    count = int(having.sum())
    assert np.corrcoef(first[having], second[having])[0, 1] == pytest.approx(0.0, abs=5 / count**0.5)


# --- temperature ----------------------------------------------------------------------------------------------------


def test_temperature_is_linear() -> None:
    heat = {"kelvin": 350.0, "reference_kelvin": 300.0, "per_kelvin": -0.002}
    assert warmed(cells(20e-6), device(temperature=heat)) == pytest.approx(cells(18e-6))


# --- laws -----------------------------------------------------------------------------------------------------------

EVERYTHING: dict[str, Any] = {
    "programming": {"absolute_siemens": 5e-6, "log_normal": 0.3},
    "drift": PCM,
    "faults": {"stuck_on": 0.1, "stuck_off": 0.1, "open_word_lines": 0.1, "open_bit_lines": 0.1},
    "noise": {"correlation": "per_read", "absolute_siemens": 5e-6},
    "telegraph": TELEGRAPH,
    "temperature": {"kelvin": 350.0, "reference_kelvin": 300.0, "per_kelvin": -0.002},
    "access_resistance_ohm": 1e3,
}


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 9), columns=st.integers(1, 9), time_s=st.floats(1e-9, 1e9))
def test_conductances_stay_physical_whatever_is_drawn(seed: int, rows: int, columns: int, time_s: float) -> None:
    """Never negative, finite, of the same shape, reproducible; and what was never formed conducts only if shorted."""
    described = device(**EVERYTHING)
    wanted = rng(seed).uniform(0, G_MAX, (rows, columns))
    wanted[:, 0] = 0.0
    codes = np.zeros(wanted.shape, dtype=np.uint8)

    def chip() -> list[Floats]:
        generator = rng(seed)
        G = programmed(wanted, codes, described, generator, time_s)
        stages = [G, drifted(G, wanted, described, generator, time_s), warmed(G, described)]
        stages += [noisy(G, wanted, described, generator, time_s), telegraph(G, described, generator)]
        unformed = np.concatenate([stage[:, 0] for stage in stages])
        assert not unformed.any()
        assert set(stuck(G, described, generator)[:, 0]) <= {0.0, G_MAX}
        return [*stages, open_lines(G, described, generator)]

    for first, second in zip(chip(), chip(), strict=True):
        assert first.shape == wanted.shape
        assert np.isfinite(first).all()
        assert (first >= 0).all()
        assert np.array_equal(first, second)


def test_shipped_targets_describe_devices_that_can_be_drawn() -> None:
    for name in ("generic_128", "isaac", "yuan2019", "neurram", "pcm_hermes", "pcm_joshi"):
        described = load_target(name).device
        G = np.full((3, 4), described.g_max_siemens)
        codes = np.full(G.shape, described.levels - 1, dtype=np.uint8)
        assert programmed(G, codes, described, rng(), 60.0).shape == G.shape
