"""The cells of a drawn chip that ``cells`` and ``netlist`` write are those with which trials compute."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mcompiler import TrialOptions
from mcompiler.cli.main import run
from mcompiler.conductance import unpack_levels
from mcompiler.driver import Build
from mcompiler.effects import chosen
from mcompiler.geometry import array_shape
from mcompiler.netlist import find_ngspice, run_deck
from mcompiler.physics.chip import Chip, LayerKey
from mcompiler.physics.nodal import solve
from tests.support.builds import conv_case, target

ERRORS = (
    "device.programming.proportional=0.1", "device.drift.t0_s=20.0", "device.drift.nu=0.05", "device.drift.spread=0.02",
    "device.faults.stuck_on=0.02", "device.faults.stuck_off=0.03", "device.faults.open_bit_lines=0.05",
    "array.wire_resistance_ohm=2.0", "array.driver_resistance_ohm=50.0", "device.access_resistance_ohm=500.0",
)  # fmt: skip
CASE = conv_case([3, 3], channels=4, outputs=6, pads=[1, 1, 1, 1])
CELL = re.compile(r"^rc(\d+)_(\d+) \S+ \S+ (\S+)$", re.MULTILINE)
SETS = [("programming",), ("programming", "drift", "faults"), ("all",)]


@pytest.fixture(scope="module")
def build() -> Build:
    return CASE.compile(target(*ERRORS))


def in_trials(build: Build, options: TrialOptions) -> tuple[Chip, Any]:
    """The chip of these options and the states of the first arrays of its first layer, as trials draw them."""
    chip = Chip(build.target, options.seed, chosen(options.effects, build.target), options.time_s or 20.0)
    layer, shape = build.layer_data[0], array_shape(build.target)
    levels = unpack_levels(next(layer.cells()), shape.storage_bits, layer.lines(shape)[1])
    return chip, chip.realise(LayerKey(0, layer.op.site.name), 0, levels)


def table(build: Build, options: TrialOptions, folder: Path) -> npt.NDArray[Any]:
    """Conductances [rows, columns] of the first array of the first layer, as written."""
    build.write_cells(folder / "cells.npy", build.layers[0], 0, chip=options)
    cells = np.load(folder / "cells.npy")
    found = np.zeros((cells["row"].max() + 1, cells["column"].max() + 1))
    found[cells["row"], cells["column"]] = cells["conductance_s"]
    return found


@pytest.mark.parametrize("effects", SETS)
@pytest.mark.parametrize("time_s", [None, 1e5])
def test_currents_of_written_cells_are_those_of_trials(
    build: Build, effects: tuple[str, ...], time_s: float | None, tmp_path: Path
) -> None:
    """The solver of the nodes on the written cells, against the transfer matrix of the chip."""
    options = TrialOptions(effects, seed=7, time_s=time_s)
    chip, state = in_trials(build, options)
    G = table(build, options, tmp_path)
    x = np.random.default_rng(1).integers(0, 2, len(G)).astype(np.float64)
    wanted = x @ state.currents[0] * build.target.unit_siemens * build.target.device.read_voltage_v
    assert solve(G, x, chip.circuit) == pytest.approx(wanted, rel=1e-5, abs=1e-12)


def test_decks_hold_the_written_cells(build: Build, tmp_path: Path) -> None:
    options = TrialOptions(("programming", "drift"), seed=3, time_s=1e4)
    G = table(build, options, tmp_path)
    deck = build.netlist(build.layers[0], 0, chip=options)
    assert deck.splitlines()[0].endswith("chip 3 with programming, drift")
    ohms = {(int(row), int(column)): float(value) for row, column, value in CELL.findall(deck)}
    assert len(ohms) == G.size
    assert [1 / ohms[place] for place in np.ndindex(G.shape)] == pytest.approx(list(G.ravel()), rel=1e-6)


@pytest.mark.skipif(find_ngspice() is None, reason="ngspice is not installed")
@pytest.mark.parametrize("effects", SETS)
def test_ngspice_on_a_drawn_tile_agrees_with_trials(build: Build, effects: tuple[str, ...], tmp_path: Path) -> None:
    options = TrialOptions(effects, seed=11, time_s=1e5)
    _, state = in_trials(build, options)
    (tmp_path / "deck.sp").write_text(build.netlist(build.layers[0], 0, chip=options))
    (found,) = run_deck(tmp_path / "deck.sp").values()
    wanted = state.currents[0].sum(axis=0) * build.target.unit_siemens * build.target.device.read_voltage_v
    assert np.ravel(found) == pytest.approx(wanted, rel=1e-5, abs=1e-13)


def test_seed_and_time_choose_the_chip(build: Build, tmp_path: Path) -> None:
    draw = partial(table, build, folder=tmp_path)
    first = draw(TrialOptions(("programming", "drift"), seed=0, time_s=1e3))
    assert np.array_equal(first, draw(TrialOptions(("programming", "drift"), seed=0, time_s=1e3)))
    later = draw(TrialOptions(("programming", "drift"), seed=0, time_s=1e6))
    assert not np.allclose(first, draw(TrialOptions(("programming", "drift"), seed=1, time_s=1e3)))
    assert later.mean() == pytest.approx(first.mean() * 1e3**-0.05, rel=0.05)


def test_the_commands(build: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = build.save(tmp_path / "a.build")
    chip = ["--effects", "programming,drift", "--seed", "5", "--time", "1e4"]
    layer = build.layers[0]
    G = table(build, TrialOptions(("programming", "drift"), seed=5, time_s=1e4), tmp_path)
    assert run(["cells", str(folder), "--layer", layer, "--tile", "0", *chip, "--json"]) == 0
    (array,) = json.loads(capsys.readouterr().out)["arrays"]
    assert np.asarray(array["conductances_s"]) == pytest.approx(G, rel=1e-6)
    assert run(["cells", str(folder), "--out", str(tmp_path / "all"), *chip]) == 0
    assert np.load(next((tmp_path / "all").iterdir()))["conductance_s"][: G.size] == pytest.approx(G.ravel(), rel=1e-6)
    assert run(["netlist", str(folder), "--layer", layer, "--out", str(tmp_path / "a.sp"), *chip]) == 0
    assert "chip 5 with" in (tmp_path / "a.sp").read_text().splitlines()[0]
    capsys.readouterr()
    assert run(["cells", str(folder), "--layer", layer, "--seed", "5"]) == 2
    assert "need a chip with errors: give --effects too" in capsys.readouterr().err
    assert run(["netlist", str(folder), "--layer", layer, "--effects", "noise"]) == 1
    assert "does not describe the effect 'noise'" in capsys.readouterr().err
