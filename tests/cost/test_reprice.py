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
OTHER = "components.adc.energy_j=7e-11"


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


@pytest.mark.parametrize(
    ("base", "override"),
    [
        ("generic_128", "device.read_voltage_v=0.4"),
        ("generic_128", "device.g_max_siemens=2e-4"),  # codes of equidistant levels, the pedestal gone in the pair
        ("generic_128", "device.g_min_siemens=2e-6"),
        ("generic_128", "array.wire_resistance_ohm=1.5"),
        ("generic_128", "converters.adc.noise_codes=0.5"),
        ("generic_128", "digital.node_nm=22"),
        ("generic_128", "components.buffer.static_power_w=0.25"),
        ("generic_128", "components.adc.area_m2=1e-8"),
        ("generic_128", "components.shift_add.gated=true"),
        ("isaac", "device.read_voltage_v=0.4"),
        ("isaac", "components.edram.static_power_w=0.25"),
    ],
)
def test_every_key_that_no_stage_reads_prices_in_place(base: str, override: str) -> None:
    build = CASE.compile(target(base=base))
    other = target(override, base=base)
    assert other != build.target
    assert build.cost_with(other) == CASE.compile(other).cost


@pytest.mark.parametrize(
    ("base", "override", "stage"),
    [
        ("generic_128", "converters.adc.columns=64", "place"),
        ("generic_128", "converters.adc.bits=9", "assign"),
        ("generic_128", "array.rows=64", "tile"),
        ("generic_128", "precision.inputs=4", "equalise"),
        ("generic_128", "digital.fifo_bytes=4096", "schedule"),
        ("generic_128", "hierarchy.tiles_per_chip=3", "place"),
        ("isaac", "device.g_max_siemens=0.0002", "assign"),  # converters see the pedestal
        ("isaac", "precision.layers.conv.inputs=4", "equalise"),
        ("yuan2019", "device.levels=32", "quantise"),
    ],
)
def test_other_keys_name_the_first_stage_that_reads_them(base: str, override: str, stage: str) -> None:
    build = CASE.compile(target(base=base))
    key = override.partition("=")[0]
    with pytest.raises(BuildError) as caught:
        build.cost_with(target(override, base=base))
    found = [line for line in str(caught.value).splitlines() if line.startswith(key)]
    assert found == [
        f"{key} changes more than prices: compile again with --set {override} (first stage that reads it: {stage})"
    ]


def test_conductances_are_read_where_weight_codes_are_measured_levels() -> None:
    chip = target("encoding.slices=1", "encoding.partner=unformed", "precision.weights=3")
    build = CASE.compile(chip)
    with pytest.raises(BuildError, match=r"device\.g_max_siemens .*first stage that reads it: quantise"):
        build.cost_with(chip.model_copy(update={"device": chip.device.model_copy(update={"g_max_siemens": 2e-4})}))


def test_every_key_has_one_line() -> None:
    build = CASE.compile(target())
    with pytest.raises(BuildError) as caught:
        build.cost_with(target("device.read_voltage_v=0.4", "converters.adc.columns=64", "array.rows=64"))
    assert [line.split(" ")[0] for line in str(caught.value).splitlines()] == ["array.rows", "converters.adc.columns"]


def test_on_the_command_line(build: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cost", str(build), "--set", OTHER]) == 0
    assert "adc" in capsys.readouterr().out
    assert run(["cost", str(build), "--set", "device.read_voltage_v=0.4"]) == 0
    capsys.readouterr()
    assert run(["cost", str(build), "--set", "converters.adc.rate_hz=1e6"]) == 1
    assert "compile again with --set converters.adc.rate_hz=1000000.0" in capsys.readouterr().err
