"""How many of everything a target has: one derivation for timing, area and energy, and counts of a user's own file."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcompiler.dataflow import read_time
from mcompiler.errors import TargetError
from mcompiler.geometry import array_shape
from mcompiler.target import Each, HierarchyUnit, Target, list_targets, load_target, prices, unit_counts

SHIPPED = [name for name, _ in list_targets()]


def counts(target: Target) -> dict[str, float]:
    return {name: price.count for name, price in prices(target).items()}


def test_isaac_has_the_parts_of_its_paper() -> None:
    """ISAAC, ISCA 2016, Table I: 8 ADCs, 8 x 128 drivers and 4 shift-and-add units an IMA, 2 sigmoid units a tile."""
    found = counts(load_target("isaac"))
    assert {name: found[name] for name in ("adc", "dac", "shift_add", "sigmoid", "router")} == {
        "adc": 8,
        "dac": 8 * 128,
        "shift_add": 4,
        "sigmoid": 2,
        "router": 0.25,
    }
    assert found["sample_hold"] == 8 * 129, "the unit column has one too"
    assert found["cell"] == 128 * 129


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_targets_state_no_count_that_can_be_derived(name: str) -> None:
    target = load_target(name)
    stated = [key for key, part in target.components.items() if part.count is not None]
    assert all(target.components[key].counted is Each.UNIT for key in stated), stated


def test_counts_follow_geometry_and_sharing() -> None:
    """A 32x32 array was billed 16,384 cells and 128 drivers."""
    small = counts(load_target("generic_128", ["array.rows=32", "array.columns=32", "array.rows_active=32"]))
    assert (small["cell"], small["dac"], small["sample_hold"], small["adc"]) == (1024, 32, 32, 1)
    shared = counts(load_target("generic_128", ["converters.adc.columns=16"]))
    assert shared["adc"] == 8
    single = counts(load_target("generic_128", ["converters.adc.columns=1"]))
    assert single["adc"] == 64, "one conversion serves both lines of a pair: more converters would have nothing to do"
    spare = counts(load_target("generic_128", ["array.spare_rows=4", "array.spare_columns=2"]))
    assert spare["cell"] == 132 * 130


@given(
    rows=st.integers(8, 200),
    columns=st.integers(8, 200),
    sharing=st.integers(1, 300),
    cores=st.integers(1, 9),
)
def test_timing_and_area_count_the_same_converters(rows: int, columns: int, sharing: int, cores: int) -> None:
    """As many conversions as a read needs fit into the time of a read with the converters that area counts."""
    target = load_target(
        "isaac",
        [
            f"array.rows={rows}",
            f"array.rows_active={rows}",
            f"array.columns={columns}",
            f"converters.adc.columns={sharing}",
            f"hierarchy.arrays_per_core={cores}",
            "device.read_pulse_s=1e-12",
        ],
    )
    converters = counts(target)["adc"] / cores
    conversions = columns + 1  # and the unit column
    reads = read_time(array_shape(target), target) * target.converters.adc.rate_hz
    assert converters * round(reads) >= conversions > converters * (round(reads) - 1)


def test_too_few_are_refused_by_key(tmp_path: Path) -> None:
    """A target that contradicts itself: 8 converters in a core of 8 x 128 columns, each with one of its own."""
    own = tmp_path / "own.toml"
    own.write_text(
        'extends = "isaac"\n[converters.adc]\ncolumns = 1\nsource = "x"\n[components.adc]\ncount = 8\nsource = "x"\n'
    )
    with pytest.raises(TargetError, match=r"components\.adc\.count: 8 in each core, but array\.columns and conv.*1024"):
        load_target(own)
    own.write_text('extends = "isaac"\n[components.adc]\ncount = 9\nsource = "one to spare"\n')
    assert counts(load_target(own))["adc"] == 9, "more than needed are the user's to decide"
    with pytest.raises(TargetError, match=r"components\.adc\.count: 9 in each core, but .* ask for 16 "):
        load_target(own, ["converters.adc.columns=64"])
    with pytest.raises(TargetError, match=r"components\.dac\.count: 100 in each array"):
        load_target("generic_128", ["components.dac.count=100"])


def test_units_of_units() -> None:
    found = unit_counts(load_target("isaac"))
    assert found.units(HierarchyUnit.ARRAY, HierarchyUnit.CHIP) == 8 * 12 * 168
    assert found.units(HierarchyUnit.TILE, HierarchyUnit.CORE) == pytest.approx(1 / 12)
    assert found.parts(Each.LANE, HierarchyUnit.CORE) == pytest.approx(2 / 12)
    assert found.parts(Each.ADC, HierarchyUnit.TILE) == 96
