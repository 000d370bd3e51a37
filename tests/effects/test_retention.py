"""Retention by the law of Arrhenius: a time at one temperature is another time at another."""

import numpy as np
import pytest

from mcompiler import TrialOptions
from mcompiler.conductance import conductances
from mcompiler.driver.arrays import drawn_chip
from mcompiler.effects.retention import aged_s
from mcompiler.target import check_target, load_target
from tests.support.builds import conv_case, target

HOT = (
    "device.retention.activation_ev=1.1",
    "device.retention.kelvin=358.15",
    "device.retention.reference_kelvin=298.15",
)


def test_the_acceleration_of_an_oven() -> None:
    """1.1 eV from 25 to 85 degrees: exp(1.1 / 8.617e-5 x (1 / 298.15 - 1 / 358.15)) = 1,301.5."""
    device = load_target("generic_128", HOT).device
    assert aged_s(device, 10.0) == pytest.approx(10 * np.exp(1.1 / 8.617333262e-5 * (1 / 298.15 - 1 / 358.15)))
    assert aged_s(device, 1.0) == pytest.approx(1301.5, rel=2e-3)
    assert aged_s(load_target("generic_128").device, 10.0) == 10.0


def test_cells_drift_as_much_later() -> None:
    drift = ("device.drift.t0_s=20.0", "device.drift.nu=0.05")
    build = conv_case([3, 3], channels=4, outputs=6).compile(target(*drift, *HOT))
    layer = build.layers[0]
    found = drawn_chip(build, TrialOptions(("drift",), time_s=1e4)).cells(layer)(0, build.cells(layer)[None])
    factor = np.exp(1.1 / 8.617333262e-5 * (1 / 298.15 - 1 / 358.15))
    wanted = conductances(build.cells(build.layers[0]), build.target) * (1e4 * factor / 20) ** -0.05
    assert found[0] == pytest.approx(wanted)


def test_units() -> None:
    (found,) = check_target("generic_128", [HOT[0].replace("1.1", "1e-19"), *HOT[1:]])
    assert "1e-19 eV is outside of 0.001 to 20 eV" in found
