"""The programming table against the cells, and write-verify against sums cell by cell."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcompiler.artefacts import LayerData
from mcompiler.artefacts.programming import (
    CELL,
    Programming,
    programming_cost,
    programming_csv,
    programming_table,
    write_programming_table,
    write_programming_tables,
)
from mcompiler.conductance import conductances
from mcompiler.driver import Build
from mcompiler.errors import BuildError
from mcompiler.geometry import array_shape
from mcompiler.target import Target
from tests.support.builds import conv_case, target
from tests.support.programs import with_site

PROPERTY = settings(max_examples=40, deadline=None)
WRITE = ("device.g_max_siemens=100.1234e-6", "device.write.pulses=4.5", "device.write.pulse_s=1e-6",
         "device.write.pulse_energy_j=2e-12",
         "device.write.verify_s=3e-6", "device.write.verify_energy_j=1e-12",
         "device.write.source=assumption: test")  # fmt: skip
UNFORMED = ("encoding.partner=unformed", "encoding.slices=1", "converters.adc.bits=20")
CASE = conv_case([3, 3], channels=4, outputs=6, pads=[1, 1, 1, 1])


@cache
def built(*overrides: str) -> Build:
    return CASE.compile(target(*overrides))


def drawn(name: str, levels: npt.NDArray[np.uint8], addresses: list[list[int]], chip: Target) -> LayerData:
    """A layer with these level codes [arrays, rows, columns]; only what the table and the cost look at is its own."""
    layer = built().layer_data[0]
    shape = array_shape(chip)
    bits, per_byte = shape.storage_bits, 8 // shape.storage_bits
    padded = np.zeros((*levels.shape[:2], shape.row_bytes * per_byte), np.uint8)
    padded[..., : levels.shape[2]] = levels
    places = padded.reshape(*levels.shape[:2], shape.row_bytes, per_byte)
    packed = (places << (bits * np.arange(per_byte))).sum(axis=-1).astype(np.uint8)

    def cells() -> Iterator[npt.NDArray[np.uint8]]:
        for first in range(0, len(packed), 2):  # arrays come several a step
            yield packed[first : first + 2]

    table = np.resize(layer.table, len(levels))
    own = np.array(addresses, np.int32).reshape(-1, 4)
    return replace(layer, op=with_site(layer.op, name=name), table=table, addresses=own, cells=cells)


@st.composite
def chips_of_layers(draw: st.DrawFn) -> tuple[Target, list[LayerData], list[npt.NDArray[np.uint8]]]:
    """A target with [device.write], up to 3 layers with cells at random, and their level codes."""
    unformed = draw(st.booleans())
    parallel, endurance = draw(st.sampled_from([1, 5, 32, 1000])), draw(st.sampled_from([None, 1e6]))
    chip = target(
        *WRITE, *(UNFORMED if unformed else ()), f"device.write.parallel_cells={parallel}",
        *([] if endurance is None else [f"device.write.endurance={endurance}"]),
    )  # fmt: skip
    shape = array_shape(chip)
    layers, levels = [], []
    for number in range(draw(st.integers(0, 3))):
        count = draw(st.integers(0, 5))
        rng = np.random.default_rng(draw(st.integers(0, 1000)))
        codes = rng.integers(0, len(chip.cell_steps), (count, shape.rows, shape.columns + shape.extra), np.uint8)
        codes *= rng.random(codes.shape) < draw(st.floats(0, 1))
        address = st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 1), st.integers(0, 9)).map(list)
        places = draw(st.lists(address, min_size=count, max_size=count))
        layers.append(drawn(f"layer{number}", codes, places, chip))
        levels.append(codes)
    return chip, layers, levels


# --- the table -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overrides", [(), UNFORMED, ("encoding.pedestal=reference_column",)])
def test_the_table_holds_every_cell(overrides: tuple[str, ...], tmp_path: Path) -> None:
    build = built(*overrides)
    out = tmp_path / "cells.npy"
    count = build.write_cells(out, "conv")
    table = np.load(out, mmap_mode="r")
    assert isinstance(table, np.memmap)
    assert table.dtype == CELL
    assert len(table) == count == sum(cells.size for cells in build.all_cells("conv"))
    for index, levels in enumerate(build.all_cells("conv")):
        part = table[table["array"] == index]
        np.testing.assert_array_equal(levels[part["row"], part["column"]], part["level"])
        wanted = build.conductances("conv", index)[part["row"], part["column"]]
        np.testing.assert_array_equal(wanted.astype(np.float32), part["conductance_s"])
        assert build.address("conv", index) == [int(part[0][key]) for key in ("chip", "tile", "core", "position")]
        assert len({(row, column) for row, column in zip(part["row"], part["column"], strict=True)}) == levels.size
    assert list(tmp_path.iterdir()) == [out]


@given(chips_of_layers())
@PROPERTY
def test_binary_and_csv_say_the_same_cell_by_cell(
    drawn_chip: tuple[Target, list[LayerData], list[npt.NDArray[np.uint8]]],
) -> None:
    chip, layers, levels = drawn_chip
    for layer, codes in zip(layers, levels, strict=True):
        rows = [row for table in programming_table(layer, chip) for row in table.tolist()]
        header, *lines = "".join(programming_csv(layer, chip)).splitlines()
        assert header == "array,chip,tile,core,position,row,column,level,conductance_s"
        wanted = [
            (array, *layer.addresses[array].tolist(), row, column, int(codes[array, row, column]))
            for array in range(codes.shape[0]) for row in range(codes.shape[1]) for column in range(codes.shape[2])
        ]  # fmt: skip
        assert [row[:-1] for row in rows] == wanted
        assert [tuple(map(int, line.split(",")[:-1])) for line in lines] == wanted
        siemens = [float(line.rpartition(",")[2]) for line in lines]
        np.testing.assert_allclose([row[-1] for row in rows], siemens, rtol=1e-5)


def test_one_array_of_a_layer(tmp_path: Path) -> None:
    build = built()
    assert build.arrays("conv") > 3
    build.write_cells(tmp_path / "all.npy", "conv")
    count = build.write_cells(tmp_path / "three.npy", "conv", 3)
    whole, three = np.load(tmp_path / "all.npy"), np.load(tmp_path / "three.npy")
    assert len(three) == count
    np.testing.assert_array_equal(whole[whole["array"] == 3], three)
    with pytest.raises(BuildError, match=r"^layer 'conv' has \d+ arrays; there is no number 99$"):
        build.write_cells(tmp_path / "none.npy", "conv", 99)


def test_a_layer_without_arrays_is_a_table_without_cells(tmp_path: Path) -> None:
    chip = target()
    shape = array_shape(chip)
    layer = drawn("gone", np.zeros((0, shape.rows, shape.columns + shape.extra), np.uint8), [], chip)
    assert write_programming_table(tmp_path / "none.npy", layer, chip) == 0
    assert np.load(tmp_path / "none.npy").shape == (0,)
    assert write_programming_table(tmp_path / "none.csv", layer, chip) == 0
    assert (tmp_path / "none.csv").read_text().count("\n") == 1


@pytest.mark.parametrize("suffix", [".npy", ".csv"])
def test_memory_is_that_of_an_array(suffix: str, tmp_path: Path) -> None:
    chip = target("array.rows=64", "array.columns=64", "array.rows_active=64", small=False)
    arrays = 60
    codes = np.zeros((arrays, 64, 64 + array_shape(chip).extra), np.uint8)
    layer = drawn("large", codes, [[0, 0, 0, 0]] * arrays, chip)
    tracemalloc.start()
    try:
        count = write_programming_table(tmp_path / f"cells{suffix}", layer, chip)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == codes.size
    assert (tmp_path / f"cells{suffix}").stat().st_size > 5e6
    assert peak < 1.5e6


@pytest.mark.parametrize("suffix", [".npy", ".csv"])
def test_a_table_that_fails_half_way_leaves_the_old_one(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = built()
    out = tmp_path / f"cells{suffix}"
    out.write_text("old")
    calls: list[npt.NDArray[np.uint8]] = []

    def full(levels: npt.NDArray[np.uint8], chip: Target) -> npt.NDArray[np.float64]:
        calls.append(levels)
        if len(calls) > 2:
            raise OSError(28, "No space left on device")
        return conductances(levels, chip)

    monkeypatch.setattr("mcompiler.artefacts.programming.conductances", full)
    with pytest.raises(BuildError, match=rf"^{out}: cannot be written: No space left on device$"):
        build.write_cells(out, "conv")
    assert (list(tmp_path.iterdir()), out.read_text()) == ([out], "old")
    calls.clear()
    with pytest.raises(BuildError, match=rf"^{tmp_path / 'all'}: cannot be written: No space left"):
        write_programming_tables(tmp_path / "all", build.layer_data, build.target)
    assert list(tmp_path.iterdir()) == [out]


def test_places_that_cannot_be(tmp_path: Path) -> None:
    build = built()
    with pytest.raises(BuildError, match="No such file or directory"):
        build.write_cells(tmp_path / "missing" / "cells.npy", "conv")
    with pytest.raises(BuildError, match=r"cells\.txt: cells are written as \.npy or as \.csv; name the file so$"):
        build.write_cells(tmp_path / "cells.txt", "conv")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BuildError, match="exists; cells of all layers go into a new folder, choose another --out"):
        write_programming_tables(tmp_path / "file", build.layer_data, build.target)
    with pytest.raises(BuildError, match="exists; cells of all layers go into a new folder, choose another --out"):
        write_programming_tables(tmp_path, build.layer_data, build.target)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@given(chips_of_layers())
@settings(max_examples=10, deadline=None)
def test_all_layers_go_to_a_file_each(
    tmp_path_factory: pytest.TempPathFactory,
    drawn_chip: tuple[Target, list[LayerData], list[npt.NDArray[np.uint8]]],
) -> None:
    chip, layers, levels = drawn_chip
    out = tmp_path_factory.mktemp("all")  # an empty folder may be there
    written = write_programming_tables(out, layers, chip)
    assert sorted(path.name for path in out.iterdir()) == [f"{i:04d}_layer{i}.npy" for i in range(len(layers))]
    for layer, codes in zip(layers, levels, strict=True):
        name, count = written[layer.op.site.name]
        np.testing.assert_array_equal(np.load(out / name)["level"], codes.ravel())
        assert count == codes.size


# --- write and verify ------------------------------------------------------------------------------------------------


@given(chips_of_layers())
@PROPERTY
def test_write_verify_is_what_a_loop_over_cells_says(
    drawn_chip: tuple[Target, list[LayerData], list[npt.NDArray[np.uint8]]],
) -> None:
    chip, layers, levels = drawn_chip
    write = chip.device.write
    assert write is not None
    found = programming_cost(layers, chip)
    assert found is not None
    assert [each.name for each in found] == [*(layer.op.site.name for layer in layers), "total"]
    unformed = chip.encoding.partner == "unformed"
    clocks: dict[tuple[int, int, int], float] = {}
    total = 0
    for layer, codes, each in zip(layers, levels, found[:-1], strict=True):
        own: dict[tuple[int, int, int], float] = {}
        cells = 0
        for array, address in zip(codes, layer.addresses.tolist(), strict=True):
            waiting = sum(1 for level in array.ravel().tolist() if level or not unformed)
            cells += waiting
            core = (address[0], address[1], address[2])
            for clock in (own, clocks):
                left = waiting
                clock.setdefault(core, 0.0)  # a core without a cell to write is ready at once
                while left > 0:
                    left -= write.parallel_cells
                    clock[core] += 4.5 * (1e-6 + 3e-6)
        total += cells
        check(each, cells, own, write.endurance)
    check(found[-1], total, clocks, write.endurance)


def check(each: Programming, cells: int, clocks: dict[tuple[int, int, int], float], endurance: float | None) -> None:
    assert each.cells == cells
    assert each.pulses == pytest.approx(4.5 * cells)
    assert each.energy_j == pytest.approx(cells * 4.5 * (2e-12 + 1e-12))
    assert each.seconds == pytest.approx(max(clocks.values(), default=0.0))
    by_chip = {chip: max(time for core, time in clocks.items() if core[0] == chip) for chip, _, _ in sorted(clocks)}
    assert dict(each.chip_seconds) == pytest.approx(by_chip)
    assert [chip for chip, _ in each.chip_seconds] == sorted(by_chip)
    assert each.endurance_share == (None if endurance is None else pytest.approx(4.5e-6))


@pytest.mark.parametrize("overrides", [(), UNFORMED])
def test_write_verify_of_a_build(overrides: tuple[str, ...]) -> None:
    build = built(*WRITE, "device.write.parallel_cells=5", *overrides)
    found = build.programming()
    assert found is not None
    layer, total = found
    busy: dict[tuple[int, ...], float] = {}
    cells = 0
    for index, levels in enumerate(build.all_cells("conv")):
        written = int((levels > 0).sum()) if overrides else levels.size
        cells += written
        core = tuple(build.address("conv", index)[:3])
        busy[core] = busy.get(core, 0.0) + math.ceil(written / 5) * 4.5 * 4e-6
    assert layer.cells == total.cells == cells
    assert (cells < sum(levels.size for levels in build.all_cells("conv"))) == bool(overrides)
    assert layer.seconds == total.seconds == pytest.approx(max(busy.values()))


def test_a_target_that_says_nothing_of_writing_gets_no_number() -> None:
    assert built().programming() is None
