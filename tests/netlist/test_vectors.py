"""Many vectors in one deck, and inputs of a layer on the word lines of its arrays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcompiler.cli.main import run
from mcompiler.driver import Build
from mcompiler.effects import CellCurve, Circuit, LineResistances, circuit_of, described
from mcompiler.errors import DataError
from mcompiler.netlist import DeckArray, find_ngspice, run_deck, write_deck
from mcompiler.netlist.layer import word_lines
from mcompiler.netlist.spice import _table
from mcompiler.physics.nodal import solve
from mcompiler.physics.wires import transfer
from tests.support.builds import conv_case, gemm_case, target

needs_ngspice = pytest.mark.skipif(find_ngspice() is None, reason="ngspice is not installed")

ROW = Circuit(LineResistances(1.5, 0.7, 200.0, 50.0), 0.2)
WIRED = (
    "array.wire_resistance_ohm=2.0", "array.driver_resistance_ohm=100.0", "array.sense_resistance_ohm=50.0",
    "array.source=assumption: test", "converters.adc.bits=14",
)  # fmt: skip
OFFSET = ("encoding.weights=offset", "encoding.pedestal=digitised_reference", "encoding.input_sum=unit_column")


def cells(rows: int, columns: int, seed: int = 0) -> Any:
    return 10 ** np.random.default_rng(seed).uniform(-6, -4, (rows, columns))


def run_text(tmp_path: Path, text: str) -> dict[str, Any]:
    deck = tmp_path / "deck.sp"
    deck.write_text(text)
    return run_deck(deck)


def run_tiles(tmp_path: Path, tiles: list[DeckArray], inputs: list[Any], circuit: Circuit) -> dict[str, Any]:
    parts: list[str] = []
    write_deck(parts.append, "test", tiles, inputs, circuit)
    return run_text(tmp_path, "".join(parts))


@needs_ngspice
@pytest.mark.parametrize("vectors", [1, 2, 300])
def test_every_vector_of_a_sweep_is_solved(tmp_path: Path, vectors: int) -> None:
    g, other = cells(12, 10), cells(12, 7, 1)
    x, y = np.random.default_rng(2).integers(0, 4, (2, vectors, 12)) / 3
    x[:, 3] = 1.0  # sources that never change, and one that does at the end only
    x[:, 4], y[:, 5] = 0.0, 0.0
    y[-1, 5] = 1.0
    got = run_tiles(tmp_path, [DeckArray("a", g), DeckArray("b7", other)], [x, y], ROW)
    assert list(got) == ["a", "b7"]
    np.testing.assert_allclose(got["a"], 0.2 * x @ transfer(g[None], ROW.lines)[0], rtol=1e-9)
    np.testing.assert_allclose(got["b7"], 0.2 * y @ transfer(other[None], ROW.lines)[0], rtol=1e-9)


@needs_ngspice
@pytest.mark.parametrize(
    "curve", [CellCurve(0.2, sinh_v=0.1), CellCurve(0.2, voltages_v=(0.1, 0.2), ratios=(0.3, 1.0))]
)
def test_a_sweep_over_curved_cells(tmp_path: Path, curve: CellCurve) -> None:
    g, x = cells(8, 8), np.random.default_rng(3).integers(0, 4, (6, 8)) / 3
    circuit = replace(ROW, curve=curve, access_ohm=3000.0)
    got = run_tiles(tmp_path, [DeckArray("a", g)], [x], circuit)["a"]
    np.testing.assert_allclose(got, [solve(g, vector, circuit) for vector in x], rtol=1e-6, atol=1e-15)


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.1, 0.2]), min_size=2, max_size=30))
def test_the_table_of_a_source_gives_every_voltage(volts: list[float]) -> None:
    words = _table(np.array(volts))
    points = [[float(value) for value in word[1:].split(",")] for word in words[1:-1]]
    numbers, values = np.array(points).T
    np.testing.assert_array_equal(np.interp(np.arange(len(volts)), numbers, values), volts)


@pytest.mark.parametrize("changes", [{"drive": "gate"}, {"idle_rows": "floating"}])
def test_vectors_that_change_the_circuit_are_refused(changes: dict[str, Any]) -> None:
    circuit = replace(ROW, **changes)
    with pytest.raises(ValueError, match="one where gates are driven or rows float"):
        write_deck(lambda text: None, "test", [DeckArray("a", cells(4, 4))], [np.ones((2, 4))], circuit)


def test_arrays_with_different_numbers_of_vectors_are_refused() -> None:
    tiles, inputs = [DeckArray("a", cells(4, 4)), DeckArray("b", cells(4, 4))], [np.ones((2, 4)), np.ones((3, 4))]
    with pytest.raises(ValueError, match="give the same number of vectors for every array"):
        write_deck(lambda text: None, "test", tiles, inputs, ROW)


def expected(build: Build, index: int, x: Any) -> Any:
    g = build.conductances(build.layers[0], index)
    return np.stack([solve(g, vector, circuit_of(build.target, described(build.target))) for vector in x])


@needs_ngspice
@pytest.mark.parametrize(
    ("encoding", "access"),
    [
        ((), 0.0),
        (OFFSET, 2000.0),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (((), 2000.0), (OFFSET, 0.0))),
    ],
    ids=["differential", "offset-access", "differential-access", "offset"],
)
def test_compiled_tiles_of_64_by_64(tmp_path: Path, encoding: tuple[str, ...], access: float) -> None:
    wide = ("array.rows=64", "array.columns=64", "array.rows_active=64", f"device.access_resistance_ohm={access}")
    chip = target(*encoding, *WIRED, *wide, small=False)
    build = gemm_case(transposed=False, rows=64, cols=8).compile(chip)
    (layer,) = build.layers
    x = np.random.default_rng(4).integers(0, 2, (2, 64)).astype(float)
    (got,) = run_text(tmp_path, build.netlist(layer, 0, vectors=x)).values()
    assert got.shape == (2, 64 + (2 if encoding else 0))  # unit and reference columns
    np.testing.assert_allclose(got, expected(build, 0, x), rtol=1e-6)


@needs_ngspice
@pytest.mark.parametrize("groups", [1, 3])
def test_arrays_of_a_layer_get_the_inputs_of_their_word_lines(tmp_path: Path, groups: int) -> None:
    case = conv_case([3, 3], channels=3, outputs=6, group=groups)
    build = case.compile(target(*WIRED))
    (layer,) = build.layer_data
    count, depth, _ = layer.op.matrix.codes.shape
    x = np.random.default_rng(5).integers(0, 2, (3, count * depth)).astype(float)
    got = run_text(tmp_path, build.netlist(layer.op.site.name, vectors=x))
    assert list(got) == [f"a{index}" for index in range(build.arrays(layer.op.site.name))]
    seen = set()
    for index, currents in enumerate(got.values()):
        lines = word_lines(layer, index, 8, x.reshape(3, count, depth))
        block = layer.table[index]
        if groups == 1:  # all rows are kept: blocks of 8 word lines, one after the other
            first, held = int(block["row"]), int(block["rows"])
            np.testing.assert_array_equal(lines[:, :held], x[:, first : first + held])
            assert not lines[:, held:].any()
            seen.add(first)
        np.testing.assert_allclose(currents, expected(build, index, lines), rtol=1e-6, atol=1e-15)
    assert groups > 1 or len(seen) > 1


def test_inputs_that_do_not_fit() -> None:
    build = gemm_case(transposed=False).compile(target())
    with pytest.raises(DataError, match=r"inputs of shape \[7\]: give 8 shares from 0 to 1, one a word line"):
        build.netlist("gemm", inputs=np.ones(7))
    with pytest.raises(DataError, match=r"inputs of shape \[2, 8\]: give 8 shares"):
        build.netlist("gemm", inputs=np.ones((2, 8)))
    with pytest.raises(DataError, match=r"shape \[8\]: give 13 shares from 0 to 1, one an input of the layer"):
        build.netlist("gemm", vectors=np.ones(8))
    with pytest.raises(DataError, match=r"shape \[0, 13\]"):
        build.netlist("gemm", vectors=np.ones((0, 13)))
    with pytest.raises(DataError, match="give one of them"):
        build.netlist("gemm", inputs=np.ones(8), vectors=np.ones(13))
    gates = gemm_case(transposed=False).compile(target("array.drive=gate"))
    with pytest.raises(DataError, match="inputs between 0 and 1: the target drives gates"):
        gates.netlist("gemm", vectors=np.full(13, 0.5))
    with pytest.raises(DataError, match="2 vectors, but driven gates and floating rows change the circuit"):
        gates.netlist("gemm", vectors=np.ones((2, 13)))


def test_writing_takes_arrays_one_after_the_other() -> None:
    build = gemm_case(transposed=False).compile(target())
    sizes: list[int] = []
    build.write_netlist(lambda text: sizes.append(len(text)), "gemm")
    assert max(sizes) < 1000 < sum(sizes)


def test_vectors_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build = gemm_case(transposed=False).compile(target())
    root, out, data = str(build.save(tmp_path / "case.build")), tmp_path / "a.sp", tmp_path / "x.npz"
    x = np.random.default_rng(6).integers(0, 2, (3, 13)).astype(np.uint8)
    arguments = ["netlist", root, "--layer", "gemm", "--input", str(data), "--out", str(out)]
    np.savez(data, x=x)
    assert run(arguments) == 0
    assert out.read_text() == build.netlist("gemm", vectors=x)
    np.savez(data, x=x[:1])
    assert run(arguments) == 0
    assert out.read_text() == build.netlist("gemm", vectors=x[0])
    np.savez(data, x=x[:, :5])
    capsys.readouterr()
    before = out.read_text()
    assert run(arguments) == 1
    assert "needs shape [n, 13], the file has [3, 5]" in capsys.readouterr().err
    assert run([*arguments[:3], "nowhere", *arguments[4:]]) == 1
    assert "no layer 'nowhere'" in capsys.readouterr().err
    assert out.read_text() == before
