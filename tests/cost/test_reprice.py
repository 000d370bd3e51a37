"""The same build with other prices: as if it had been compiled with them, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

import mcompiler
from mcompiler.cli.main import run
from mcompiler.errors import BuildError
from mcompiler.target import load_target
from tests.support.builds import conv_case, target

CASE = conv_case([3, 3], channels=4, outputs=6, pads=[1, 1, 1, 1])
OTHER = "components.adc.energy_j=7e-12"


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("priced") / "m.build"
    CASE.compile(target()).save(out)
    return out


def test_prices_are_those_of_a_compilation_with_them(build: Path) -> None:
    loaded = mcompiler.load(build)
    other = load_target(build / "target.toml", [OTHER])
    found = loaded.cost_with(other)
    assert found == CASE.compile(target(OTHER)).cost
    assert found.energy_j > loaded.cost.energy_j
    assert loaded.cost_with(loaded.target) == loaded.cost


def test_what_changes_the_counts_is_refused(build: Path) -> None:
    loaded = mcompiler.load(build)
    with pytest.raises(BuildError, match=r"another converters changes what is counted.*compile the model again"):
        loaded.cost_with(load_target(build / "target.toml", ["converters.adc.rate_hz=1e6"]))


def test_on_the_command_line(build: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cost", str(build), "--set", OTHER]) == 0
    assert "adc" in capsys.readouterr().out
    assert run(["cost", str(build), "--set", "converters.adc.rate_hz=1e6"]) == 1
    assert "compile the model again" in capsys.readouterr().err
