"""ngspice on the decks, against the solvers, which share nothing with them."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcompiler.cli.main import run
from mcompiler.effects import CellCurve, Circuit, LineResistances, circuit_of, described
from mcompiler.errors import UserError
from mcompiler.netlist import DeckArray, find_ngspice, run_deck, write_deck
from mcompiler.physics.nodal import solve
from mcompiler.physics.wires import transfer
from tests.support.builds import conv_case, gemm_case, target

needs_ngspice = pytest.mark.skipif(find_ngspice() is None, reason="ngspice is not installed")

WIRES = LineResistances(1.5, 0.7, 200.0, 50.0)
ROW = Circuit(WIRES, 0.2)


def text_of(tiles: list[DeckArray], inputs: list[Any], circuit: Circuit) -> str:
    out = io.StringIO()
    write_deck(out.write, "test", tiles, inputs, circuit)
    return out.getvalue()


def currents(tmp_path: Path, tiles: list[DeckArray], inputs: list[Any], circuit: Circuit) -> Any:
    deck = tmp_path / "deck.sp"
    deck.write_text(text_of(tiles, inputs, circuit))
    return run_deck(deck)


def cells(rows: int, columns: int, seed: int = 0) -> Any:
    return 10 ** np.random.default_rng(seed).uniform(-6, -4, (rows, columns))


@needs_ngspice
@pytest.mark.parametrize(
    "lines",
    [
        WIRES,
        LineResistances(),
        LineResistances(word_ohm=2.0),
        LineResistances(bit_ohm=2.0),
        LineResistances(driver_ohm=99.0),
    ],
)
def test_random_tiles_against_the_transfer_matrix(tmp_path: Path, lines: LineResistances) -> None:
    g, x = cells(16, 16), np.random.default_rng(1).integers(0, 2, 16).astype(float)
    g[3, 4] = 0.0
    got = currents(tmp_path, [DeckArray("a", g)], [x], replace(ROW, lines=lines))["a"]
    np.testing.assert_allclose(got, 0.2 * x @ transfer(g[None], lines)[0], rtol=1e-6, atol=1e-18)


@needs_ngspice
def test_a_tile_of_64_by_64(tmp_path: Path) -> None:
    g, x = cells(64, 64), np.random.default_rng(2).integers(0, 2, 64).astype(float)
    got = currents(tmp_path, [DeckArray("a", g)], [x], ROW)["a"]
    np.testing.assert_allclose(got, 0.2 * x @ transfer(g[None], WIRES)[0], rtol=1e-6)


CIRCUITS = {
    "access": replace(ROW, access_ohm=3000.0),
    "gate": replace(ROW, drive="gate"),
    "floating": replace(ROW, idle_rows="floating"),
    "sinh": replace(ROW, curve=CellCurve(0.2, sinh_v=0.1)),
    "table": replace(ROW, curve=CellCurve(0.2, voltages_v=(0.1, 0.2, 0.3), ratios=(0.3, 1.0, 2.0))),
    "sinh, access": replace(ROW, access_ohm=3000.0, curve=CellCurve(0.2, sinh_v=0.1)),
}


@needs_ngspice
@pytest.mark.parametrize("name", CIRCUITS)
def test_every_circuit_against_a_nodal_solve(tmp_path: Path, name: str) -> None:
    g, x = cells(16, 12, 4), np.random.default_rng(5).integers(0, 2, 16).astype(float)
    got = currents(tmp_path, [DeckArray("a", g)], [x], CIRCUITS[name])["a"]
    np.testing.assert_allclose(got, solve(g, x, CIRCUITS[name]), rtol=1e-6)


ENCODINGS = {
    "differential": (),
    "offset": (
        "encoding.weights=offset", "encoding.pedestal=digitised_reference", "encoding.input_sum=unit_column",
    ),
}  # fmt: skip


@needs_ngspice
@pytest.mark.parametrize("access", [0.0, 2000.0])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_compiled_tiles(tmp_path: Path, encoding: str, access: float) -> None:
    lines = ("array.wire_resistance_ohm=2.0", "array.driver_resistance_ohm=100.0", "array.source=assumption: test")
    wide = ("array.rows=16", "array.columns=16", "array.rows_active=16", f"device.access_resistance_ohm={access}")
    chip = target(*ENCODINGS[encoding], *lines, *wide, "converters.adc.bits=14", small=False)
    build = gemm_case(transposed=False).compile(chip)
    (layer,) = build.layers
    out = tmp_path / "layer.sp"
    out.write_text(build.netlist(layer))
    circuit = circuit_of(chip, described(chip))
    found = run_deck(out)
    assert len(found) == build.arrays(layer)
    for index, name in enumerate(found):
        g = build.conductances(layer, index)
        np.testing.assert_allclose(found[name], solve(g, np.ones(len(g)), circuit), rtol=1e-6)
    alone = tmp_path / "tile.sp"
    x = np.arange(16) % 2
    alone.write_text(build.netlist(layer, 1, inputs=x))
    (only,) = run_deck(alone).values()
    np.testing.assert_allclose(only, solve(build.conductances(layer, 1), x.astype(float), circuit), rtol=1e-6)


def test_names_lead_back() -> None:
    build = gemm_case(transposed=False).compile(target())
    text = build.netlist(build.layers[0], 1)
    assert "array 1 of layer 'gemm'" in text
    assert "bit line 0: output channel " in text
    assert "word line 0: input 0" in text
    assert "polarity +" in text


LAYOUTS = {
    "adjacent": (),
    "pairs apart": ("encoding.pairs_in=separate",),
    "slices apart": ("encoding.slices_in=separate",),
    "all apart": ("encoding.pairs_in=separate", "encoding.slices_in=separate"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_comments_say_which_weight_every_cell_holds(layout: str) -> None:
    case = conv_case([3, 3], channels=4, outputs=4, group=2)
    build = case.compile(target(*LAYOUTS[layout]))
    (name,) = build.layers
    codes = np.zeros_like(case.codes)
    for index in range(build.arrays(name)):
        text, levels = build.netlist(name, index), build.cells(name, index).astype(int)
        words = re.findall(r"^\* word line (\d+): input (\d+) of group (\d+)$", text, re.MULTILINE)
        lines = r"^\* bit line (\d+): output channel (\d+) of group (\d+), slice (\d+), polarity ([+-])$"
        for line, channel, group, piece, sign in re.findall(lines, text, re.MULTILINE):
            for word, row, own in words:
                value = levels[int(word), int(line)] * 4 ** int(piece)
                if own == group:
                    codes[int(group), int(row), int(channel)] += value if sign == "+" else -value
    np.testing.assert_array_equal(codes, case.codes)


def test_ngspice_that_fails_says_so(tmp_path: Path) -> None:
    deck = tmp_path / "bad.sp"
    deck.write_text("* nothing\n.end\n")
    with pytest.raises(UserError, match="ngspice"):
        run_deck(deck)


def test_ngspice_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="ngspice is not installed; on Debian: apt-get install ngspice"):
        run_deck(tmp_path / "deck.sp")


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build = gemm_case(transposed=False).compile(target())
    root = str(build.save(tmp_path / "case.build"))
    out = tmp_path / "a.sp"
    assert run(["netlist", root, "--layer", "gemm", "--tile", "1", "--input", "1010", "--out", str(out)]) == 0
    assert out.read_text() == build.netlist("gemm", 1, inputs=[1, 0, 1, 0, 0, 0, 0, 0])
    assert list(tmp_path.glob(".*.part")) == []
    capsys.readouterr()
    assert run(["netlist", root, "--layer", "gemm", "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"layer": "gemm", "arrays": build.arrays("gemm"), "out": str(out), "bytes": out.stat().st_size}
    assert run(["netlist", root, "--layer", "gemm", "--tile", "99", "--out", str(out)]) == 1
    assert "there is no number 99" in capsys.readouterr().err
    assert run(["netlist", root, "--layer", "gemm", "--input", "012", "--out", str(out)]) == 1
    assert "give at most 8 digits 0 or 1" in capsys.readouterr().err
