"""Stuck cells fall where they harm least, and nothing that is computed changes."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import mcompiler
from mcompiler.artefacts.programming import programming_table
from mcompiler.cli.build import compile_command
from mcompiler.conductance import FaultMap, bit_lines, conductances, parse_faults, physical_lines, unpack_levels
from mcompiler.driver import Build, compile
from mcompiler.driver.trials import TrialOptions
from mcompiler.effects import FAULTS
from mcompiler.errors import BuildError
from mcompiler.geometry import ArrayShape, array_shape
from mcompiler.netlist.layer import word_lines
from mcompiler.passes.remap import ArrayPosition, LineOrder
from mcompiler.physics.chip import Chip, LayerKey
from mcompiler.target import Target
from tests.support import programs
from tests.support.builds import conv_case, gemm_case, target
from tests.support.digits import DEMO
from tests.support.sealed import rewrite_npz

SPARES = ("array.spare_rows=2", "array.spare_columns=5", "hierarchy.spare_arrays_per_core=2")
OFFSET = ("encoding.weights=offset", "encoding.slices=4", "encoding.pedestal=digital_count")
CHIPS = {
    "pair": (),
    "spares": SPARES,
    "reads": (*SPARES, "array.rows_active=3"),
    "separate": (*SPARES, "encoding.pairs_in=separate", "encoding.slices_in=separate"),
    "after": ("encoding.subtract=after_adc", "encoding.pedestal=digital_count"),
    "unit": (*OFFSET, *SPARES, "encoding.input_sum=unit_column", "encoding.flip=true"),
    "reference": (*OFFSET[:2], "array.spare_columns=5", "encoding.pedestal=reference_column"),
}
CASES = {
    "product": gemm_case(transposed=False, signed=False),
    "groups": conv_case([3, 3], channels=4, outputs=6, group=2, pads=[1, 1, 1, 1]),
}


def fault_map(chip: Target, arrays: npt.NDArray[Any], share: float, seed: int) -> FaultMap:
    """A share of the cells of these addresses stuck, on and off alike."""
    rng = np.random.default_rng(seed)
    cells = [np.zeros((0, 7), np.int64)]
    for address in np.unique(arrays, axis=0):
        place = np.argwhere(rng.random(physical_lines(chip)) < share)
        on = rng.integers(2, size=(len(place), 1))
        cells.append(np.concatenate([np.tile(address, (len(place), 1)), place, on], axis=1))
    return FaultMap("drawn", np.concatenate(cells))


def every_position(chip: Target, arrays: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """All positions of the cores that these addresses are in, spares included."""
    cores = np.unique(arrays[:, :3], axis=0)
    return np.array([[*core, place] for core in cores.tolist() for place in range(chip.hierarchy.positions_per_core)])


@cache
def built(case: str, chip: str, seed: int = 0) -> tuple[Build, Build]:
    """Without and with a fault map of five cells in a hundred."""
    made = target(*CHIPS[chip], "hierarchy.arrays_per_core=4")
    plain = CASES[case].compile(made)
    faults = fault_map(made, every_position(made, plain.layer_data[0].addresses), 0.05, seed)
    return plain, compile(CASES[case].model, made, calibration=CASES[case].feeds, faults=faults)


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("case", CASES)
def test_the_mapping_stays_exact_and_the_build_comes_back(case: str, chip: str, tmp_path: Path) -> None:
    plain, moved = built(case, chip)
    remap = moved.layer_data[0].remap
    assert remap is not None
    assert (remap.word_lines != np.arange(remap.word_lines.shape[1])).any()  # so that this tests something
    assert remap.weighted_error_after < remap.weighted_error_before
    wanted = plain.verify(CASES[case].feeds, ideal=True)
    found = moved.verify(CASES[case].feeds, ideal=True)
    assert found.exact == wanted.exact
    assert found.exact
    loaded = mcompiler.load(moved.save(tmp_path / "b"))
    again = loaded.verify(CASES[case].feeds)
    assert not again.failures
    assert again.layers == plain.verify(CASES[case].feeds).layers
    assert loaded.remap == moved.remap
    back = loaded.layer_data[0].remap
    assert back is not None
    for name in ("word_lines", "places", "swapped", "faults"):
        np.testing.assert_array_equal(getattr(back, name), getattr(remap, name))


@pytest.mark.parametrize("chip", CHIPS)
def test_cells_are_those_of_the_mapping_moved_by_whole_lines(chip: str) -> None:
    plain, moved = built("product", chip)
    shape, (layer,) = array_shape(moved.target), moved.layer_data
    assert layer.remap is not None
    width = shape.columns_per_weight
    for number, (before, after) in enumerate(
        zip(plain.all_cells(layer.op.site.name), moved.all_cells(layer.op.site.name), strict=True)
    ):
        assert after.shape == physical_lines(moved.target)
        tile = number // shape.arrays_per_tile
        for row, column in np.ndindex(shape.rows, shape.tile_columns):
            place = int(layer.remap.places[tile, column])
            first = place * width if place < shape.tile_columns else (
                shape.columns + shape.extra + (place - shape.tile_columns) * width
            )  # fmt: skip
            held = after[layer.remap.word_lines[tile, row], first : first + width]
            if layer.remap.swapped[tile, column]:
                held = np.concatenate([held[width // 2 :], held[: width // 2]])
            np.testing.assert_array_equal(held, before[row, column * width : (column + 1) * width])
        assert np.count_nonzero(after) == np.count_nonzero(before)


def weighted_error_by_hand(build: Build) -> float:
    """Squared deviation of the weights that a chip with only its stuck cells has: pairs in one array, no extras.

    Every stuck cell counts for itself, so that this holds where no two of them are in one weight.
    """
    (layer,), chip = build.layer_data, build.target
    shape, total = array_shape(chip), 0.0
    assert layer.remap is not None
    stuck = {(a, r, c): on for a, r, c, on in layer.remap.faults.tolist()}
    device = chip.device
    for number, levels in enumerate(build.all_cells(layer.op.site.name)):
        G, tile = conductances(levels, chip), layer.table[number]
        for row, column in np.ndindex(int(tile["rows"]), int(tile["cols"])):
            word = int(layer.remap.word_lines[number, row])
            place = int(layer.remap.places[number, column])
            for cell in range(shape.columns_per_weight):
                bit = place * shape.columns_per_weight + cell
                if (number, word, bit) in stuck:
                    at = device.g_max_siemens if stuck[number, word, bit] else device.g_min_siemens
                    worth = 1 << (shape.cell_bits * (cell % shape.adjacent_slices))
                    total += ((G[word, bit] - at) / device.step_siemens * worth) ** 2
    return total


@pytest.mark.parametrize("case", CASES)
def test_weighted_error_is_that_of_the_stuck_cells_in_the_weights(case: str) -> None:
    _, moved = built(case, "pair")
    remap = moved.layer_data[0].remap
    assert remap is not None
    assert remap.weighted_error_after == pytest.approx(weighted_error_by_hand(moved), rel=1e-9)


@st.composite
def positions(draw: st.DrawFn, rows: int = 4) -> ArrayPosition:
    """A small array position with stuck cells; some lines idle, some spare."""
    names = draw(st.sampled_from([
        ("encoding.slices=1",), ("encoding.slices=2",), ("encoding.slices=2", "encoding.pairs_in=separate"),
    ]))  # fmt: skip
    bits = 3 if names[0] == "encoding.slices=1" else 5
    active = draw(st.sampled_from([2, rows]))
    chip = programs.target(
        f"array.rows={rows}", f"array.rows_active={active}", "array.columns=8", *names, "device.levels=4",
        f"precision.weights={bits}",
    )  # fmt: skip
    shape = array_shape(chip)
    spare = draw(st.integers(0, 2)), draw(st.sampled_from([0, shape.columns_per_weight]))
    lines = rows + spare[0], shape.columns + shape.extra + spare[1]
    rng = np.random.default_rng(draw(st.integers(0, 1 << 20)))
    copies, used = shape.arrays_per_tile, int(rng.integers(1, shape.tile_columns + 1))
    wanted = rng.integers(0, 4, (copies, rows, shape.columns + shape.extra)).astype(float)
    worth = np.zeros((copies, shape.columns + shape.extra))
    worth[:, : used * shape.columns_per_weight] = np.tile(4.0 ** rng.permutation(shape.columns_per_weight), used)
    places = np.argwhere(rng.random((copies, *lines)) < 0.3)
    stuck = np.concatenate([places, rng.integers(2, size=(len(places), 1))], axis=1)
    return ArrayPosition(shape, lines, wanted, worth, int(rng.integers(1, rows + 1)), used, stuck, np.array([0.0, 3.0]))


def check_order(position: ArrayPosition, order: LineOrder) -> None:
    """Lines that exist, no two in one place, rows in their reads."""
    shape = position.shape
    assert len(set(order.words.tolist())) == shape.rows
    assert set(order.words.tolist()) <= set(range(position.lines[0]))
    assert len(set(order.places.tolist())) == shape.tile_columns
    for row, word in enumerate(order.words[: position.rows].tolist()):
        assert word >= shape.rows or word // shape.rows_active == row // shape.rows_active


@given(positions())
@settings(deadline=None, max_examples=150)
def test_never_worse_and_always_an_order(position: ArrayPosition) -> None:
    found = position.best()
    check_order(position, found)
    assert position.error(found) <= position.error(LineOrder.unchanged(position.shape))


@given(positions())
@settings(deadline=None, max_examples=60)
def test_rows_are_the_best_of_all(position: ArrayPosition) -> None:
    plain, shape = LineOrder.unchanged(position.shape), position.shape
    best = min(
        position.error(replace(plain, words=np.array([*words, *rest(words, shape.rows, position.lines[0])])))
        for words in itertools.permutations(range(position.lines[0]), position.rows)
        if all(word >= shape.rows or word // shape.rows_active == row // shape.rows_active
               for row, word in enumerate(words))
    )  # fmt: skip
    found = position.best_rows(plain)
    check_order(position, found)
    assert position.error(found) == pytest.approx(best, abs=1e-6)


@given(positions())
@settings(deadline=None, max_examples=40)
def test_columns_are_the_best_of_all(position: ArrayPosition) -> None:
    plain, shape = LineOrder.unchanged(position.shape), position.shape
    room = shape.tile_columns + (position.lines[1] - shape.columns - shape.extra) // shape.columns_per_weight
    used = min(position.cols, 3)
    position = replace(position, cols=used, weights=_only(position.weights, used, shape))
    flips = [(False,), (False, True)][shape.adjacent_polarities == 2]
    best = min(
        position.error(LineOrder(
            plain.words, np.array([*places, *rest(places, shape.tile_columns, room)]),
            np.array([*swaps, *[False] * (shape.tile_columns - used)]),
        ))
        for places in itertools.permutations(range(room), used)
        for swaps in itertools.product(flips, repeat=used)
    )  # fmt: skip
    found = position.best_columns(plain)
    check_order(position, found)
    assert position.error(found) == pytest.approx(best, abs=1e-6)


def rest(taken: tuple[int, ...], count: int, room: int) -> list[int]:
    """Places for the lines that are idle."""
    return [place for place in range(room) if place not in taken][: count - len(taken)]


def _only(worth: npt.NDArray[np.float64], used: int, shape: ArrayShape) -> npt.NDArray[np.float64]:
    return np.where(np.arange(worth.shape[1]) < used * shape.columns_per_weight, worth, 0.0)


def test_an_array_moves_to_a_spare_one() -> None:
    made = target("hierarchy.arrays_per_core=1", "hierarchy.spare_arrays_per_core=1", "array.columns=64")
    plain = CASES["product"].compile(made)
    first = plain.layer_data[0].addresses[:1]
    faults = fault_map(made, first, 1.0, 0)  # no cell of the first array works
    moved = compile(CASES["product"].model, made, calibration=CASES["product"].feeds, faults=faults)
    assert moved.layer_data[0].addresses[0].tolist() == [*first[0, :3].tolist(), 1]
    assert moved.remap is not None
    assert moved.remap.weighted_error_before > 0
    assert moved.remap.weighted_error_after == 0
    assert moved.verify(CASES["product"].feeds, ideal=True).exact
    assert not moved.verify(CASES["product"].feeds).misplaced


def test_a_chip_has_the_stuck_cells_of_its_map_and_no_others() -> None:
    _, moved = built("product", "spares")
    (layer,), shape = moved.layer_data, array_shape(moved.target)
    assert layer.remap is not None
    chip = Chip(moved.target, 3, frozenset({FAULTS}), 1.0, stuck={0: layer.remap.faults})
    packed = np.concatenate(list(layer.cells()))
    levels = unpack_levels(packed, shape.storage_bits, layer.remap.lines[1])
    changed = conductances(levels, moved.target)
    device = moved.target.device
    for array, row, column, on in layer.remap.faults.tolist():
        changed[array, row, column] = device.g_max_siemens if on else device.g_min_siemens
    found = chip.realise(LayerKey(0, layer.op.site.name), 0, levels).currents * moved.target.unit_siemens
    np.testing.assert_allclose(found, changed, rtol=1e-12)


def twice(arrays: dict[str, npt.NDArray[Any]]) -> None:
    arrays["word_lines"][0, 0] = arrays["word_lines"][0, 1]


def beyond(arrays: dict[str, npt.NDArray[Any]]) -> None:
    arrays["places"][0, 0] = 99


def elsewhere(arrays: dict[str, npt.NDArray[Any]]) -> None:
    arrays["faults"][0, 1] = 99


def other_rows(arrays: dict[str, npt.NDArray[Any]]) -> None:
    arrays["word_lines"][:, [0, 1]] = arrays["word_lines"][:, [1, 0]]


def other_columns(arrays: dict[str, npt.NDArray[Any]]) -> None:
    arrays["places"][:, [0, 1]] = arrays["places"][:, [1, 0]]


def other_polarity(arrays: dict[str, npt.NDArray[Any]]) -> None:
    arrays["swapped"] ^= 0x80  # the first column of each array position


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (twice, "two lines in one place"),
        (beyond, "lines that the arrays lack"),
        (elsewhere, "stuck cells outside of its arrays"),
    ],
)
def test_a_damaged_order_is_refused(edit: Any, message: str, tmp_path: Path) -> None:
    out = built("product", "pair")[1].save(tmp_path / "b")
    (file,) = (out / "layers").glob("*.npz")
    rewrite_npz(out, f"layers/{file.name}", edit)
    with pytest.raises(BuildError, match=message):
        mcompiler.load(out).verify(CASES["product"].feeds)


@pytest.mark.parametrize("edit", [other_rows, other_columns, other_polarity])
def test_verify_finds_an_order_that_is_not_that_of_the_cells(edit: Any, tmp_path: Path) -> None:
    out = built("product", "pair")[1].save(tmp_path / "b")
    (file,) = (out / "layers").glob("*.npz")
    rewrite_npz(out, f"layers/{file.name}", edit)
    assert mcompiler.load(out).verify(CASES["product"].feeds).failures


def digits(chip: Target, faults: FaultMap | None) -> Build:
    return compile(DEMO / "digits.onnx", chip, calibration=DEMO / "digits_calibration.npz", faults=faults)


def test_one_stuck_cell_in_a_hundred_errs_less_after_the_move(monkeypatch: pytest.MonkeyPatch) -> None:
    chip = mcompiler.load_target("generic_128")
    arrays = np.concatenate([layer.addresses for layer in digits(chip, None).layer_data])
    faults = fault_map(chip, arrays, 0.01, 4)
    moved = digits(chip, faults)
    monkeypatch.setattr(ArrayPosition, "best", lambda position: LineOrder.unchanged(position.shape))
    stayed = digits(chip, faults)
    options = TrialOptions(("faults",))  # which the target does not describe: the map does
    errors = []
    for build in (stayed, moved):
        layers = build.trials(options=options, limit=16).layers
        distances = [layer.causes["faults"] for layer in layers]
        errors.append([0.0 if distance is None else 10 ** (-distance / 10) for distance in distances])
    before, after = np.array(errors)
    assert np.count_nonzero(before) >= 3
    assert (after <= before).all()  # each on the inputs that it really saw
    assert after.sum() < before.sum() / 1.5


def test_compile_says_what_it_gained(tmp_path: Path) -> None:
    model, chart = DEMO / "digits.onnx", tmp_path / "map.csv"
    chart.write_text("chip,tile,core,position,row,column,stuck\n0,0,0,0,0,0,on\n0,0,0,0,1,1,off\n")
    arguments = [str(model), "--calibration", str(DEMO / "digits_calibration.npz"), "--faults", str(chart), "--force"]
    run = CliRunner().invoke(compile_command, [*arguments, "--out", str(tmp_path / "b"), "--json"])
    assert run.exit_code == 0, run.output
    found = json.loads(run.stdout)["remap"]
    assert found["stuck"] == 2
    assert found["harm_after"] <= found["harm_before"]
    assert [layer["name"] for layer in found["layers"]] == list(mcompiler.load(tmp_path / "b").layers)
    run = CliRunner().invoke(compile_command, [*arguments, "--out", str(tmp_path / "b")])
    assert "2 stuck cells in the arrays; weighted error " in run.stdout


@pytest.mark.parametrize(
    ("lines", "note"),
    [
        (["0,0,0,0,1,1,on"], None),
        (["7,0,0,0,1,1,on", "7,0,0,0,2,1,on"], "names 1 of 1 arrays that no layer uses (chip 7, tile 0, core 0, pos"),
        (["0,0,0,0,1,1,on", "9,0,0,0,2,1,on"], "names 1 of 2 arrays that no layer uses (chip 9, tile 0, core 0, pos"),
    ],
)
def test_a_map_of_arrays_that_are_not_used_is_told(lines: list[str], note: str | None, tmp_path: Path) -> None:
    chart, said = tmp_path / "map.csv", list[str]()
    chart.write_text("\n".join(["chip,tile,core,position,row,column,stuck", *lines]) + "\n")
    calibration = DEMO / "digits_calibration.npz"
    compile(DEMO / "digits.onnx", "generic_128", calibration=calibration, faults=chart, say=said.append)
    found = [each for each in said if "arrays that no layer uses" in each]
    assert len(found) == (note is not None)
    assert note is None or note in found[0]


def test_the_programming_table_has_the_spare_lines() -> None:
    _, moved = built("product", "spares")
    (layer,) = moved.layer_data
    table = next(programming_table(layer, moved.target))
    assert (int(table["row"].max()) + 1, int(table["column"].max()) + 1) == physical_lines(moved.target)


def test_a_map_by_number_is_the_same_map() -> None:
    made = target("hierarchy.arrays_per_core=4")
    named = parse_faults(["chip,tile,core,position,row,column,stuck", "0,0,0,2,1,1,on"], made, "a")
    counted = parse_faults(["array,row,column,stuck", "2,1,1,on"], made, "b")
    assert named.cells.tolist() == counted.cells.tolist()


@pytest.mark.parametrize("chip", CHIPS)
def test_a_netlist_puts_inputs_where_the_lines_stand(chip: str) -> None:
    """With perfect wires a deck's currents are the products of its inputs and cells: they carry the same weights."""
    plain, moved = built("groups", chip)
    name, x = plain.layers[0], np.random.default_rng(0).random(plain.layer_data[0].op.matrix.codes.shape[:2])
    for index in range(plain.arrays(name)):
        currents = []
        for build in (plain, moved):
            (layer,), G = build.layer_data, build.conductances(name, index)
            shape = array_shape(build.target)
            applied = word_lines(layer, index, layer.lines(shape)[0], x)
            order = slice(None)
            if layer.remap is not None:
                tile = index // shape.arrays_per_tile
                order = bit_lines(layer.remap, slice(tile, tile + 1), shape)[0]
            currents.append((applied @ G)[order])
        np.testing.assert_allclose(currents[1], currents[0], rtol=1e-12)


def test_the_programming_table_counts_spare_lines(tmp_path: Path) -> None:
    _, moved = built("product", "spares")
    count = moved.write_cells(tmp_path / "cells.npy", moved.layers[0])
    assert (
        count == sum(cells.size for cells in moved.all_cells(moved.layers[0])) == len(np.load(tmp_path / "cells.npy"))
    )
