"""Targets, builds and their records survive pickling with the same results: work travels to other processes."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

import mcompiler
from mcompiler.driver.trials import TrialOptions
from mcompiler.target import list_targets, load_target, resolved_toml
from tests.support.digits import digits_build

Value = TypeVar("Value")
DIGITS = Path(mcompiler.__file__).parent / "demo" / "digits.onnx"


def pickled(value: Value) -> Value:
    copy: Value = pickle.loads(pickle.dumps(value))
    return copy


@pytest.mark.parametrize("name", [name for name, _ in list_targets()])
def test_targets(name: str) -> None:
    target = load_target(name)
    copy = pickled(target)
    assert copy == target
    assert resolved_toml(copy) == resolved_toml(target)
    assert copy.cell_steps == target.cell_steps


@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
@pytest.mark.parametrize("stored", [False, True], ids=["in_memory", "loaded"])
def test_builds(tmp_path: Path, used: bool, stored: bool) -> None:
    """Before and after their parts were computed: models, cells, sessions."""
    build = mcompiler.compile(DIGITS, "generic_128", calibration="random")
    if stored:
        build = mcompiler.load(build.save(tmp_path / "digits.build"))
    if used:
        build.verify(limit=2)
    copy = pickled(build)
    assert copy.verify(limit=2) == build.verify(limit=2)
    assert (copy.target, copy.fates, copy.options, copy.cost) == (build.target, build.fates, build.options, build.cost)
    assert copy.report() == build.report()
    assert copy.schedule == build.schedule
    assert copy.netlist(copy.layers[0], 0) == build.netlist(build.layers[0], 0)
    for layer in build.layers:
        np.testing.assert_array_equal(copy.cells(layer), build.cells(layer))


def test_records() -> None:
    build = digits_build()
    result = build.verify(limit=2)
    assert pickled(result) == result
    assert pickled(result).as_json() == result.as_json()
    assert pickled(build.cost) == build.cost
    assert pickled(build.cost).as_json() == build.cost.as_json()
    assert pickled(build.fates) == build.fates


def test_trials() -> None:
    build = mcompiler.compile(DIGITS, "isaac", calibration="random", overrides=["device.faults.stuck_on=0.01"])
    options = TrialOptions(("all",), trials=2)
    trials = build.trials(limit=2, options=pickled(options))
    assert pickled(trials).as_json() == trials.as_json()
    assert pickled(build).trials(limit=2, options=options).as_json() == trials.as_json()
