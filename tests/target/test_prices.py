"""Prices follow the chip: from the point at which a figure holds, by the rule of its component."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcompiler.errors import TargetError
from mcompiler.pricing import Figure, Quantity, find_rule
from mcompiler.pricing.nodes import NODE_AREA, NODE_ENERGY
from mcompiler.target import Target, list_targets, load_target, prices, resolved_toml, stale_prices

SHIPPED = [name for name, _ in list_targets()]


def stale(target: Target) -> set[tuple[str, str]]:
    return {(each.component, each.quantity.value) for each in stale_prices(prices(target))}


@pytest.mark.parametrize("name", SHIPPED)
def test_every_component_of_shipped_targets_follows_a_rule(name: str) -> None:
    target = load_target(name)
    assert all(part.price_rule.name != "fixed" for part in target.components.values())
    assert not stale(target)


CHILDREN = ("neurosim_22nm", "yuan2019_32x32")
"""Targets that change a chip whose figures they inherit: these follow the change."""


@pytest.mark.parametrize("name", [name for name in SHIPPED if name not in CHILDREN])
def test_figures_hold_as_their_file_states_them(name: str) -> None:
    """Without overrides nothing is scaled; isaac_16bit states the points of its paper's figures."""
    found = 0
    for key, price in prices(load_target(name)).items():
        for figure in Figure:
            if figure not in price.component.price_rule.computes:
                assert getattr(price, figure.value) == getattr(price.component, figure.value), (key, figure)
                found += getattr(price, figure.value) > 0
    assert found > 10


def test_cells_are_v_squared_g_t() -> None:
    """Half of the input bits set; levels from 1 to 100 uS in one cell of a pair, the other at 1 uS."""
    cell = prices(load_target("generic_128"))["cell"]
    assert cell.energy_j == pytest.approx(0.2**2 * (50.5e-6 + 1e-6) / 2 * 10e-9 / 2)
    assert cell.energy_with(30e-6) == pytest.approx(0.2**2 * 30e-6 * 10e-9 / 2)
    twice = prices(load_target("generic_128", ["device.read_voltage_v=0.4"]))["cell"]
    assert twice.energy_j == pytest.approx(4 * cell.energy_j)


def test_a_figure_of_a_child_file_holds_there(tmp_path: Path) -> None:
    """A file that gives bits and energy of a converter means this energy at these bits."""
    own = tmp_path / "own.toml"
    own.write_text(
        'extends = "generic_128"\n[converters.adc]\nbits = 11\nsource = "x"\n[components.adc]\nenergy_j = 3e-12\n'
        'source = "x"\n'
    )
    adc = prices(load_target(own))["adc"]
    assert adc.energy_j == 3e-12
    grown = prices(load_target("generic_128", ["converters.adc.bits=11"]))["adc"]
    assert adc.area_m2 == grown.area_m2, "the area is that of the parent, which holds at 10 bits"
    assert grown.area_m2 > prices(load_target("generic_128"))["adc"].area_m2
    more = prices(load_target(own, ["converters.adc.bits=12"]))["adc"]
    rule = find_rule("adc_survey")
    point = {Quantity.ADC_BITS: 11.0, Quantity.ADC_RATE_HZ: 1e9}
    ratio = rule.value(Figure.ENERGY_J, {**point, Quantity.ADC_BITS: 12.0}) / rule.value(Figure.ENERGY_J, point)
    assert more.energy_j == pytest.approx(3e-12 * ratio)


def test_what_is_given_on_the_command_line_holds_as_it_is() -> None:
    sets = ["converters.adc.bits=12", "components.adc.energy_j=3e-12", "digital.node_nm=20"]
    found = prices(load_target("isaac", [*sets, "components.router.area_m2=1e-7"]))
    assert found["adc"].energy_j == 3e-12
    assert found["router"].area_m2 == 1e-7


def test_a_reference_names_the_point(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        'extends = "isaac"\n[components.adc]\nenergy_j = 1e-12\nreference = { adc_bits = 6 }\nsource = "measured"\n'
    )
    part = prices(load_target(own))["adc"]
    assert part.energy_j == pytest.approx(1e-12 * 1.67 / 1.20), "Accelergy's table at 8 and 6 bits"


def test_a_price_without_rule_goes_stale_and_says_so(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('extends = "isaac"\n[components.adc]\nrule = "fixed"\n')
    assert not stale(load_target(own))
    target = load_target(own, ["converters.adc.bits=6"])
    assert stale(target) == {("adc", "adc_bits")}
    (found,) = stale_prices(prices(target))
    assert "energy_j holds at adc_bits = 8, and rule 'fixed' does not follow it to 6" in found.reason
    assert "components.adc.rule" in found.reason
    assert not stale(load_target("isaac", ["converters.adc.bits=6"]))


def test_an_unknown_rule_is_a_fault_with_the_known_ones(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('extends = "isaac"\n[components.adc]\nscales_with = "adc_bits"\n')
    with pytest.raises(TargetError, match=r"components\.adc\.scales_with: no longer a key: rule names how"):
        load_target(own)
    own.write_text('extends = "isaac"\n[components.adc]\nrule = "adc_sabery"\n')
    with pytest.raises(TargetError, match=r"components\.adc\.rule: .*did you mean 'adc_saberi'"):
        load_target(own)


def test_numbers_of_computed_figures_are_checks(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    text = 'extends = "generic_128"\n[components.cell]\nenergy_j = {}\nsource = "x"\n'
    own.write_text(text.format("5.15e-15"))
    assert prices(load_target(own, ["device.read_voltage_v=0.4"]))["cell"].energy_j == pytest.approx(2.06e-14)
    own.write_text(text.format("1e-12"))
    with pytest.raises(TargetError, match=r"components\.cell\.energy_j: 1e-12, but rule 'cell' computes 5\.15e-15"):
        load_target(own)
    with pytest.raises(TargetError, match="rule 'cell' computes it"):
        load_target("generic_128", ["components.cell.energy_j=2e-14"])
    chosen = load_target("generic_128", ["components.cell.energy_j=2e-14", "components.cell.rule=constant"])
    assert prices(chosen)["cell"].energy_j == 2e-14


def test_digital_components_follow_the_node_and_analog_ones_do_not() -> None:
    before, after = (prices(load_target("isaac", keys)) for keys in ([], ["digital.node_nm=20"]))
    energy, area = NODE_ENERGY[20] / NODE_ENERGY[32], NODE_AREA[20] / NODE_AREA[32]
    for name, old in before.items():
        scaled = name not in ("adc", "dac", "sample_hold", "cell", "word_line", "hypertransport")
        assert after[name].energy_j == pytest.approx(old.energy_j * (energy if scaled else 1)), name
        assert after[name].static_power_w == pytest.approx(old.static_power_w * (energy if scaled else 1)), name
        assert after[name].area_m2 == pytest.approx(old.area_m2 * (area if scaled else 1)), name


@pytest.mark.parametrize("sets", [[], ["converters.adc.bits=6", "array.columns=256", "digital.node_nm=22"]])
@pytest.mark.parametrize("name", SHIPPED)
def test_a_target_comes_back_with_the_same_prices(name: str, sets: list[str], tmp_path: Path) -> None:
    if name in ("neurram", "pcm_hermes", "pcm_joshi") and sets:
        sets = ["converters.adc.bits=7"]
    chip = load_target(name, sets)
    file = tmp_path / "chip.toml"
    file.write_text(resolved_toml(chip))
    assert load_target(file) == chip
    again, found = prices(load_target(file)), prices(chip)
    for key, price in found.items():
        for figure in Figure:
            assert getattr(again[key], figure.value) == getattr(price, figure.value)


def test_a_node_without_its_own_is_a_fault(tmp_path: Path) -> None:
    own = tmp_path / "half.toml"
    own.write_text('extends = "generic_128"\n[components.adc_extra]\nper = "tile"\nscales_node = true\n')
    with pytest.raises(TargetError, match="from node_nm on; give that too"):
        load_target(own)


def test_a_node_beyond_the_table_is_a_fault() -> None:
    with pytest.raises(TargetError, match="supports nodes from 7 to 180 nm"):
        load_target("isaac", ["components.router.node_nm=250", "digital.node_nm=22"])
