"""Many chips: statistics, the same numbers whatever the number of workers, and what the command line says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mcompiler
from mcompiler.cli.main import run
from mcompiler.driver import Build
from mcompiler.driver.trials import TrialOptions
from mcompiler.errors import UserError
from mcompiler.simulate import accuracy_of
from tests.support.digits import digits_build

ERRORS = ("programming", "faults")


@pytest.fixture(scope="module")
def build() -> Build:
    return digits_build()


@pytest.fixture(scope="module")
def data() -> tuple[Any, Any]:
    with np.load(Path(mcompiler.__file__).parent / "demo" / "digits.npz") as file:
        arrays = {name: file[name] for name in file.files}
    labels = arrays.pop("y")
    (inputs,) = arrays.values()
    return inputs[:100], labels[:100]


def test_the_number_of_workers_changes_nothing(build: Build, data: tuple[Any, Any]) -> None:
    results = [
        build.trials(*data, options=TrialOptions(ERRORS, 4, seed=7, workers=workers, causes=False))
        for workers in (1, 3)
    ]
    assert results[0].as_json() == results[1].as_json()
    assert [chip.seed for chip in results[0].chips] == [7, 8, 9, 10]


def test_a_seed_is_a_chip(build: Build, data: tuple[Any, Any]) -> None:
    first = build.trials(*data, options=TrialOptions(ERRORS, 3, seed=0, causes=False))
    second = build.trials(*data, options=TrialOptions(ERRORS, 2, seed=1, causes=False))
    assert first.chips[1:] == second.chips
    assert len({chip.sqnr_db for chip in first.chips}) == 3


def test_causes_are_switched_one_by_one(build: Build, data: tuple[Any, Any]) -> None:
    found = build.trials(*data, options=TrialOptions(("faults", "programming"), 1))
    for layer in found.layers:
        assert list(layer.causes) == ["quantisation", "adc", "programming", "faults", "all"]
        faults, everything = layer.causes["faults"], layer.causes["all"]
        assert faults is not None
        assert everything is not None
        assert abs(faults - everything) < 3  # stuck cells err most
    body = found.as_json()
    assert body["exact"] is None
    assert body["effects"] == ["programming", "faults"]
    assert body["top1_mapped"] == pytest.approx(np.mean([chip["top1"] for chip in body["chips"]]))
    assert body["samples"] == 100


DRIFTED = (
    "device.drift.t0_s=20.0",
    "device.drift.nu=0.1",
    "device.drift.source=a: test",
    "device.noise.correlation=static_at_t",
    "device.noise.proportional=0.05",
    "device.noise.source=a: test",
    "calibration.drift_interval_s=20.0",
    "calibration.source=a: test",
    "converters.adc.range=calibrated",
)


def test_a_finer_converter_resolves_sums_between_levels_and_its_loss_is_its_own(data: tuple[Any, Any]) -> None:
    """All cells lose three quarters, which is compensated: what is lost is lost by rounding, 6 dB a bit."""
    digits = Path(mcompiler.__file__).parent / "demo"
    found = {}
    for bits in (12, 14):
        build = mcompiler.compile(
            digits / "digits.onnx",
            "generic_128",
            calibration=digits / "digits_calibration.npz",
            overrides=[*DRIFTED, f"converters.adc.bits={bits}"],
        )
        options = TrialOptions(("drift", "noise"), 1, time_s=2e7)
        found[bits] = build.trials(data[0][:20], data[1][:20], options=options).layers[0].causes
    for causes in found.values():
        assert causes["drift"] is None or causes["drift"] > 80
        assert causes["noise"] == pytest.approx(found[14]["noise"], abs=0.01)
    losses = {bits: causes["adc"] or 0.0 for bits, causes in found.items()}
    assert losses[14] - losses[12] == pytest.approx(12, abs=2)
    everything = found[14]["all"] or 0.0
    assert everything == pytest.approx(found[14]["noise"], abs=1)


def test_statistics_of_chips() -> None:
    shares = [0.9, 0.8, 0.95, 0.85]
    found = accuracy_of("top1", shares, 0.92, 0.03)
    assert found.mean == pytest.approx(0.875)
    assert found.deviation == pytest.approx(np.std(shares, ddof=1))
    half = 3.182446 * np.std(shares, ddof=1) / 2  # Student's t, 3 degrees of freedom, 97.5%
    assert found.interval == pytest.approx((0.875 - half, min(1.0, 0.875 + half)), abs=1e-5)
    assert found.chip_yield == 0.5
    assert found.yield_interval == pytest.approx((0.150036, 0.849964), abs=1e-5)  # Wilson, 2 of 4
    assert found.percentile5 is None, "four chips tell nothing of one in twenty"
    many = np.linspace(0.8, 0.9, 21)
    assert accuracy_of("top1", list(many), 0.92, 0.03).percentile5 == pytest.approx(0.805)
    alone = accuracy_of("top1", [0.9], 0.9, 0.0)
    assert alone.deviation is None
    assert alone.interval is None
    assert alone.chip_yield == 1.0


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (TrialOptions(trials=0), "trials = 0: one chip at least"),
        (TrialOptions(time_s=0.0), "time = 0 s: give the seconds since programming, above 0"),
        (TrialOptions(seed=-1), "seed = -1: give 0 or more"),
        (TrialOptions(loss=2.0), "loss = 2: give a share between 0 and 1"),
        (TrialOptions(("wires",)), "does not describe the effect 'wires'"),
    ],
)
def test_options_that_make_no_sense(build: Build, options: TrialOptions, fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        build.trials(limit=2, options=options)


def test_command_line(build: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(build.save(tmp_path / "digits.build"))

    def call(*arguments: str) -> tuple[int, str]:
        code = run(["verify", out, *arguments])
        return code, capsys.readouterr().out

    code, text = call("--effects", "faults", "--trials", "2", "--json")
    assert code == 0
    body = json.loads(text)
    assert body["trials"] == 2
    assert body["accuracy"]["metric"] == "agreement"
    assert {"mean", "deviation", "percentile5", "interval", "yield", "yield_interval", "loss"} <= set(body["accuracy"])
    code, text = call("--trials", "2")
    assert code == 0
    assert "2 chips on 16 samples: agreement with the quantised model" in text
    assert "each effect alone" in text
    assert call("--trials", "2", "--ideal")[0] == 2
    assert call("--time", "5")[0] == 2
    assert call("--loss", "0.1")[0] == 2
    assert call("--effects", "")[0] == 2
    assert call("--effects", "faults,,programming")[0] == 2
    assert call("--effects", "faults", "--seed", "-1")[0] == 2
    assert call("--effects", "rain")[0] == 1
