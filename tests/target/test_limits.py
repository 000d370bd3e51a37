"""Sizes that nothing can work with are refused by key, with the nearest legal value, which is accepted."""

from __future__ import annotations

import re

import pytest

from mcompiler.target import check_target, load_target
from mcompiler.target.rules import MAX_ARRAY_CELLS, MAX_ARRAYS, MAX_CLOCKS, MAX_TILES

UNFORMED = ("encoding.partner=unformed", "encoding.slices=1", "precision.weights=3")


def refusal(key: str, *overrides: str, base: str = "generic_128") -> str:
    """The one refusal of a target, which is of this key."""
    (found,) = check_target(base, overrides)
    _, _, after = found.partition(f": {key}: ")
    assert after, found
    return after


def test_one_bit_has_no_code_for_a_difference() -> None:
    found = refusal("converters.adc.bits", "converters.adc.bits=1")
    assert found == "1 bit, sign included, has no positive code for the difference of a pair; give at least 2"
    load_target("generic_128", ["converters.adc.bits=2"])
    load_target("isaac", ["converters.adc.bits=1"])  # its codes have no sign
    load_target(
        "generic_128",
        ["converters.adc.bits=1", "encoding.subtract=after_adc", "encoding.pedestal=digital_count"],
    )


@pytest.mark.parametrize(("levels", "bits"), [(256, 8), (4, 2), (2, 1)])
def test_cells_of_a_weight(levels: int, bits: int) -> None:
    most = 62 // bits
    found = refusal("encoding.slices", f"device.levels={levels}", f"encoding.slices={most + 1}")
    assert found == (
        f"{most + 1} x {bits} bits of a cell (device.levels = {levels}) hold {(most + 1) * bits} bits, and a weight "
        f"has at most 16; give at most {most}"
    )
    load_target("generic_128", [f"device.levels={levels}", f"encoding.slices={most}"])


@pytest.mark.parametrize(("rows", "columns", "key"), [(100_000, 100_000, "rows"), (128, 10**9, "columns")])
def test_cells_of_an_array(rows: int, columns: int, key: str) -> None:
    sizes = {"rows": rows, "columns": columns}
    found = refusal(f"array.{key}", *(f"array.{each}={size}" for each, size in sizes.items()))
    nearest = int(re.findall(r"at most (\d+)", found)[-1])
    assert nearest == MAX_ARRAY_CELLS // sizes["columns" if key == "rows" else "rows"]
    load_target("generic_128", [f"array.{each}={size}" for each, size in (sizes | {key: nearest}).items()])


def test_tiles_of_a_chip() -> None:
    found = refusal("hierarchy.tiles_per_chip", "hierarchy.tiles_per_chip=1000000000")
    assert found == (
        f"1000000000 tiles, and placement weighs every pair of them; give at most {MAX_TILES}, and more chips"
    )
    load_target("generic_128", [f"hierarchy.tiles_per_chip={MAX_TILES}"])


def test_arrays_in_all() -> None:
    large = ["hierarchy.arrays_per_core=1000000000000", "hierarchy.chips=1000000"]
    found = refusal("hierarchy.arrays_per_core", *large)
    nearest = int(re.findall(r"at most (\d+)", found)[-1])
    legal = load_target("generic_128", [f"hierarchy.arrays_per_core={nearest}", "hierarchy.chips=1000000"])
    total = 1000000 * legal.hierarchy.arrays_per_chip
    assert total <= MAX_ARRAYS < total * (nearest + 1) / nearest


@pytest.mark.parametrize(
    ("key", "value", "seconds"),
    [
        ("device.read_pulse_s", "1000.0", 1000.0),
        ("network.hop_cycles", "1000000000000", 1e12 / 1e9),
        ("digital.fill_reads", "1000000000000", 1e12 * 128 / 1e9),
    ],
)
def test_clocks_of_a_step(key: str, value: str, seconds: float) -> None:
    base = load_target("generic_128")
    assert base.network.clock_hz == 1e9
    found = refusal(key, f"{key}={value}", "digital.clock_hz=2e9")
    clock = float(found.rpartition(" ")[2])
    assert clock == pytest.approx(MAX_CLOCKS / seconds, rel=0.01)
    load_target("generic_128", [f"{key}={value}", f"digital.clock_hz={0.99 * clock}"])


def test_codes_of_unformed_partners_have_16_bits() -> None:
    found = refusal("device.g_min_siemens", *UNFORMED, "device.g_min_siemens=95e-6")
    assert "the highest level is 81920 x (g_max - g_min) / 4096 above an unformed cell" in found
    nearest = float(re.findall(r"= ([\d.e-]+) S", found)[-1])
    load_target("generic_128", [*UNFORMED, f"device.g_min_siemens={0.999 * nearest}"])
    assert check_target("generic_128", [*UNFORMED, f"device.g_min_siemens={1.01 * nearest}"]) != ()
