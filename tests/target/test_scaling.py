"""Components follow bits and sizes: unchanged at their reference, never falling, and the same when read back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcompiler.cost.published import area, power
from mcompiler.errors import TargetError
from mcompiler.target import HierarchyUnit, load_target, resolved_toml
from mcompiler.target.scaling import ADC_PJ, ADC_UM2, NODE_AREA, NODE_ENERGY, adc_factor, node_factor


@pytest.mark.parametrize("table", [ADC_PJ, ADC_UM2])
def test_the_table_is_met_and_goes_on(table: dict[int, float]) -> None:
    for bits, value in table.items():
        assert adc_factor(bits, 8, table) == pytest.approx(value / table[8])
    assert adc_factor(11, 10, table) == pytest.approx(table[10] / table[9])
    assert adc_factor(3, 4, table) == pytest.approx(table[4] / table[5])


@given(st.floats(1, 16), st.floats(1, 16))
def test_more_bits_cost_more(one: float, other: float) -> None:
    for table in (ADC_PJ, ADC_UM2):
        if one < other:
            assert adc_factor(one, 8, table) < adc_factor(other, 8, table)
        assert adc_factor(one, other, table) * adc_factor(other, one, table) == pytest.approx(1)


def test_energies_of_nodes_by_the_paper_s_polynomials() -> None:
    """The paper's own example has 0.4571 at 32 nm and 0.9 V."""
    assert NODE_ENERGY[32] == pytest.approx(0.4571, abs=5e-5)
    assert NODE_ENERGY[65] == pytest.approx(3.755 * 1.21 - 4.398 * 1.1 + 1.975)
    for table in (NODE_AREA, NODE_ENERGY):
        values = [table[node] for node in sorted(table)]
        assert values == sorted(values), "a smaller node takes less"


@given(st.floats(7, 180), st.floats(7, 180), st.floats(7, 180))
def test_nodes_scale_there_and_back(one: float, two: float, three: float) -> None:
    for table in (NODE_AREA, NODE_ENERGY):
        assert node_factor(one, two, table) * node_factor(two, three, table) == pytest.approx(
            node_factor(one, three, table)
        )
        if one < two:
            assert node_factor(one, two, table) < 1


def test_digital_components_follow_the_node_and_analog_ones_do_not() -> None:
    plain, same, small = (load_target("isaac", keys) for keys in ([], ["digital.node_nm=32"], ["digital.node_nm=20"]))
    assert {name: c.energy_j for name, c in plain.components.items()} == {
        name: c.energy_j for name, c in same.components.items()
    }
    energy, area_share = NODE_ENERGY[20] / NODE_ENERGY[32], NODE_AREA[20] / NODE_AREA[32]
    for name, before in plain.components.items():
        after = small.components[name]
        scaled = name not in ("adc", "dac", "sample_hold", "array", "hypertransport")
        assert after.energy_j == pytest.approx(before.energy_j * (energy if scaled else 1)), name
        assert after.static_power_w == pytest.approx(before.static_power_w * (energy if scaled else 1)), name
        assert after.area_m2 == pytest.approx(before.area_m2 * (area_share if scaled else 1)), name
        assert after.node_nm == (20 if scaled else before.node_nm)
    own = load_target("isaac", ["digital.node_nm=20", "components.router.area_m2=1e-7"]).components["router"]
    assert own.area_m2 == 1e-7, "what is given on the command line is meant as it is"


def test_at_the_reference_figures_are_those_of_the_file() -> None:
    components = load_target("isaac").components
    assert components["adc"].energy_j == 1.5625e-12
    assert components["array"].area_m2 == 2.5e-11


@pytest.mark.parametrize(
    ("component", "key", "value", "field", "factor"),
    [
        ("adc", "converters.adc.bits", 6, "energy_j", 1.20 / 1.67),
        ("adc", "converters.adc.bits", 6, "area_m2", 627 / 1200),
        ("array", "array.columns", 256, "energy_j", 2.0),
        ("sample_hold", "array.columns", 256, "count", 2.0),
        ("edram", "digital.buffer_bytes", 131072, "area_m2", 2.0),
        ("dac", "array.columns", 256, "count", 1.0),
    ],
)
def test_rules(component: str, key: str, value: int, field: str, factor: float) -> None:
    before, after = load_target("isaac"), load_target("isaac", [f"{key}={value}"])
    now, then = (getattr(target.components[component], field) for target in (after, before))
    assert now == pytest.approx(then * factor)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("converters.adc.bits", (4, 6, 8, 9, 12)),
        ("array.columns", (64, 128, 256)),
        ("digital.buffer_bytes", (1024, 65536)),
    ],
)
def test_a_chip_grows_with_what_it_has(key: str, values: tuple[int, ...]) -> None:
    chips = [load_target("isaac", [f"{key}={value}"]) for value in values]
    areas = [area(HierarchyUnit.CHIP, chip) for chip in chips]
    assert areas == sorted(areas)
    assert len(set(areas)) == len(areas)
    if key != "array.columns":  # wider arrays are read more slowly by their one ADC
        powers = [power(HierarchyUnit.CHIP, chip) for chip in chips]
        assert powers == sorted(powers)


def test_a_scaled_target_comes_back_as_it_is(tmp_path: Path) -> None:
    chip = load_target("isaac", ["converters.adc.bits=6", "array.columns=256", "digital.node_nm=22"])
    file = tmp_path / "chip.toml"
    file.write_text(resolved_toml(chip))
    assert load_target(file) == chip


def test_a_node_without_its_own_is_a_fault(tmp_path: Path) -> None:
    file = tmp_path / "half.toml"
    file.write_text('extends = "generic_128"\n[components.digital_unit]\nscales_node = true\n')
    with pytest.raises(TargetError, match="from node_nm on; give that too"):
        load_target(file)


def test_a_node_beyond_the_table_is_a_fault() -> None:
    with pytest.raises(TargetError, match="supports nodes from 7 to 180 nm"):
        load_target("isaac", ["components.router.node_nm=250", "digital.node_nm=22"])


def test_half_a_rule_is_a_fault(tmp_path: Path) -> None:
    file = tmp_path / "half.toml"
    file.write_text('extends = "isaac"\n[components.router]\nscales_with = "rows"\n')
    with pytest.raises(TargetError, match="give both"):
        load_target(file)
