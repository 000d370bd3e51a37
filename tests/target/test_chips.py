"""Published chips with published devices: totals that the papers print, and statistics at their own points."""

import numpy as np
import numpy.typing as npt
import pytest

import mcompiler
from mcompiler.effects.drift import exponents
from mcompiler.effects.noise import noise_deviation
from mcompiler.target import HierarchyUnit, Relaxation, Target, load_target, prices
from tests.support.builds import model, node


def operations(target: Target) -> int:
    """Of one product of one core, a multiply-accumulate being two."""
    return 2 * target.array.rows * target.array.columns // 2


def chip_area(target: Target) -> float:
    hierarchy = target.hierarchy
    cores = hierarchy.cores_per_tile * hierarchy.tiles_per_chip
    instances = {
        HierarchyUnit.ARRAY: cores * hierarchy.arrays_per_core,
        HierarchyUnit.CORE: cores,
        HierarchyUnit.TILE: hierarchy.tiles_per_chip,
        HierarchyUnit.CHIP: 1,
    }
    return sum(part.count * instances[part.per] * part.area_m2 for part in prices(target).values())


def product_joules(target: Target) -> float:
    """One product of a core that works with all rows and columns: what its events cost."""
    rows, lines = target.array.rows, target.array.columns
    events = {"cell_read": rows * lines, "dac_drive": rows, "adc_conversion": lines // 2}
    return sum(part.energy_j * events.get(part.event or "", 0) for part in prices(target).values())


def product_seconds(target: Target) -> float:
    adc = target.converters.adc
    conversions = target.array.columns / adc.columns / prices(target)["adc"].count
    return max(target.device.read_pulse_s, conversions / adc.rate_hz)


@pytest.mark.parametrize(
    ("name", "cores", "cells", "area_m2", "operations_per_j", "operations_per_s"),
    [
        # Le Gallo et al. 2023, Extended Data Table II: 48 x 256 x 256, 159 mm2, 16 TOPS/W, 0.754 TOPS
        ("neurram", 48, 256 * 256, 159e-6, 16e12, 0.754e12),
        # the same, Tables I and E.I, one phase; one of two devices of each sign
        ("pcm_hermes", 64, 2 * 256 * 256, 144e-6, 9.76e12, 63.1e12),
        ("pcm_joshi", 64, 2 * 256 * 256, 144e-6, 9.76e12, 63.1e12),
    ],
)
def test_totals_of_the_papers(
    name: str, cores: int, cells: int, area_m2: float, operations_per_j: float, operations_per_s: float
) -> None:
    target = load_target(name)
    assert target.hierarchy.arrays_per_chip == cores
    assert target.array.rows * target.array.columns == cells
    assert chip_area(target) == pytest.approx(area_m2, rel=1e-3)
    assert operations(target) / product_joules(target) == pytest.approx(operations_per_j, rel=1e-3)
    assert cores * operations(target) / product_seconds(target) == pytest.approx(operations_per_s, rel=2e-3)


def test_neurram_relaxes_as_measured() -> None:
    """Wan et al. 2022, Methods: about 2.8 uS on average and 3.87 uS at most, near 12 uS, 30 minutes after programming.

    AIHWKIT's polynomials, read off the figure, have their maximum somewhat higher.
    """
    target = load_target("neurram")
    g = np.linspace(0, 1, 401)

    def deviation(each: Relaxation) -> npt.NDArray[np.float64]:
        total = np.zeros_like(g)
        for coefficient, power in zip(each.polynomial_siemens, range(4, -1, -1), strict=True):
            total += coefficient * g**power
        return total

    by_time = sorted(target.device.relaxation.values(), key=lambda each: each.after_s)
    assert [each.after_s for each in by_time] == [1.0, 86400.0, 2 * 86400.0]
    second, day, two_days = (deviation(each) for each in by_time)
    half_hour = second + (day - second) * np.log(1800) / np.log(86400)
    assert half_hour.mean() == pytest.approx(2.8e-6, rel=0.03)
    assert half_hour.max() == pytest.approx(3.87e-6, rel=0.15)
    assert 11e-6 < 40e-6 * g[half_hour.argmax()] < 16e-6
    assert two_days.mean() == pytest.approx(day.mean(), rel=0.01)


def test_phase_change_memory_drifts_and_errs_as_published() -> None:
    """Joshi et al. 2020: exponents near 0.05 at high and near 0.1 at low conductances; at g_max 1.06 uS of error."""
    device = load_target("pcm_joshi").device
    drift, programming = device.drift, device.programming
    assert drift is not None
    assert programming is not None
    assert programming.polynomial_siemens is not None

    def mean(share: float) -> float:
        return float(np.clip(drift.nu + drift.nu_per_log * np.log(share), drift.nu_min, drift.nu_max))

    assert (mean(1.0), mean(1e-3)) == (0.049, 0.1)
    assert mean(0.05) == pytest.approx(0.0244 + 0.0155 * 2.995732, rel=1e-5)
    assert sum(programming.polynomial_siemens) == pytest.approx(1.0554e-6)


def test_cells_of_hermes_are_those_of_the_chip() -> None:
    """AIHWKIT, HermesNoiseModel, num_devices = 1: its formulas, at conductances between the points of the tables."""
    device = load_target("pcm_hermes").device
    drift, programming, noise = device.drift, device.programming, device.noise
    assert drift is not None
    assert noise is not None
    assert noise.one_over_f is not None
    assert programming is not None
    assert programming.polynomial_siemens is not None
    assert (device.g_max_siemens, drift.t0_s, noise.one_over_f.read_s) == (10.35e-6, 200.0, 512e-9)
    assert sum(programming.polynomial_siemens) / device.g_max_siemens == pytest.approx(0.0973, abs=1e-4)
    x = np.concatenate([np.linspace(0.0055, 0.09, 50), np.linspace(0.095, 1, 100)])
    low, middle = -0.0387 * np.log(x) - 0.0182, -0.0436 * x**2 - 0.0126 * x + 0.0736
    mean = np.where(x < 0.0945, np.clip(low, 0.0720, 0.13), middle)
    low, middle = -0.0120 * np.log(x) - 0.0023, -0.0165 * x**2 + 0.0116 * x + 0.0104
    spread = np.where(x < 0.3039, np.clip(low, 0.0124, 0.04), middle)
    low, middle = -0.0078 * np.log(x) + 0.0038, 0.0664 * x**3 - 0.1352 * x**2 + 0.0768 * x + 0.0088
    share = np.where(x < 0.1591, np.clip(low, 0.0179, 0.04), middle)
    found = exponents(x * device.g_max_siemens, device)
    assert found[0] == pytest.approx(mean, abs=1.5e-3)
    assert found[1] == pytest.approx(spread, abs=1e-3)
    assert found[0][-1] == pytest.approx(0.0174, abs=1e-5)
    t = 86400.0
    wanted = x * device.g_max_siemens * share * np.sqrt(np.log((t + 512e-9) / (2 * 512e-9)))
    written = x * device.g_max_siemens
    assert noise_deviation(written, written, device, t) == pytest.approx(wanted, rel=0.03)


@pytest.mark.parametrize("name", ["neurram", "pcm_hermes", "pcm_joshi"])
def test_a_float_network_compiles_for_the_chip(name: str) -> None:
    """Exact with lossless converters; with the chip's own ones most answers stay, of a network that learnt nothing."""
    generator = np.random.default_rng(5)
    weights = [generator.normal(size=shape).astype(np.float32) for shape in ((20, 30), (30, 10))]
    x = generator.normal(size=(200, 20)).astype(np.float32)
    nodes = [node("MatMul", "x w0", "hidden"), node("Relu", "hidden", "rest"), node("MatMul", "rest w1", name="last")]
    constants = {f"w{index}": each for index, each in enumerate(weights)}
    build = mcompiler.compile(model(nodes, {"x": x}, constants), name, calibration={"x": x})
    assert build.verify({"x": x}, ideal=True).exact
    agreement = build.verify({"x": x}).agreement_mapped_quantised
    assert agreement is not None
    assert agreement > 0.7
