"""A second opinion on a cost: events of ours, prices of the packages `hwcomponents`, here of packages that mirror them.

The files below have the names, arguments, units and actions of the real packages (hwcomponents 1.0), with figures that
tell every attribute apart. The last test takes the real ones where they are installed (Python 3.12 or newer).
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import platform
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from mcompiler.cli.main import run
from mcompiler.cost import Cost, hwmodels
from mcompiler.cost.opinion import ComponentKind, OpinionRow, SecondOpinion, price_again
from mcompiler.target import Event
from tests.support.builds import conv_case, target

CASE = conv_case([3, 3], channels=4, outputs=6, pads=[1, 1, 1, 1])

BASE = """
class ActionCost:
    def __init__(self, energy): self.energy = energy
class Model:
    def __init__(self, area, leak_power): self.area, self.leak_power = area, leak_power
"""

FILES = {
    "hwcomponents/__init__.py": BASE,
    "hwcomponents_adc/__init__.py": """
        from hwcomponents import ActionCost, Model
        class ADC(Model):
            def __init__(self, n_bits, tech_node, throughput, n_adcs=1):
                assert n_bits >= 4, "Bits must be >= 4"
                super().__init__(n_bits * tech_node**2, throughput * 1e-15)
                self.energy = 2**n_bits * 1e-15
            def convert(self): return ActionCost(self.energy)
        """,
    "hwcomponents_cacti/__init__.py": """
        from hwcomponents import ActionCost, Model
        class SRAM(Model):
            def __init__(self, tech_node, width=None, depth=None, size=None, n_rw_ports=1, n_banks=1):
                if size == 8 * 4096: raise Exception("CACTI failed with exit code 1. Please check the log.")
                super().__init__(size * tech_node**2, size * 1e-12)
                self.width = width
            def read(self, bits_per_action): return ActionCost(3e-12 * bits_per_action / self.width)
            def write(self, bits_per_action): return ActionCost(5e-12 * bits_per_action / self.width)
        """,
    "hwcomponents_library/__init__.py": "import hwcomponents_neurosim  # as the real one: all files, NeuroSim's too\n",
    "hwcomponents_library/library/__init__.py": "",
    "hwcomponents_library/library/isaac.py": """
        from hwcomponents import ActionCost, Model
        class IsaacDAC(Model):
            def __init__(self, tech_node, resolution=1, rows=1):
                super().__init__(tech_node**2, 0.0)
                self.energy = resolution * 1e-13
            def convert(self): return ActionCost(self.energy)
        class IsaacRouter(Model):
            def __init__(self, tech_node, width=256):
                super().__init__(width * 1e-10, 0.0)
                self.width = width
            def read(self, bits_per_action): return ActionCost(2e-11 * bits_per_action / self.width)
        class IsaacChip2ChipLink(Model):
            def __init__(self, tech_node, width=128): super().__init__(1e-5, 0.0)
            def read(self, bits_per_action): return ActionCost(7e-13 * bits_per_action)
        """,
    "hwcomponents_library/library/aladdin.py": """
        from hwcomponents import ActionCost, Model
        class AladdinAdder(Model):
            def __init__(self, tech_node, width):
                super().__init__(width * 1e-11, 1e-6)
                self.width = width
            def add(self): return ActionCost(1e-14 * self.width)
        class AladdinRegister(Model):
            def __init__(self, tech_node, width=None, size=None):
                super().__init__(width * 2e-11, 0.0)
                self.width = width
            def write(self): return ActionCost(3e-14 * self.width)
        """,
}


def forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0].startswith("hwcomponents")]:
        del sys.modules[name]


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Packages that mirror the real ones, installed in a folder."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
    for package in {name.partition("/")[0] for name in FILES}:
        record = tmp_path / f"{package}-1.0.7.dist-info"
        record.mkdir()
        (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0.7\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    forget()
    yield
    forget()


@cache
def priced(*overrides: str) -> Cost:
    """Cost of the one layer."""
    return CASE.compile(target(*overrides)).cost


def opinion(*overrides: str) -> tuple[dict[str, float], SecondOpinion]:
    """Events of the layer by name, and the second opinion on it."""
    chip, cost = target(*overrides), priced(*overrides)
    events: dict[str, float] = {}
    for _, event, number in cost.events:
        events[event] = events.get(event, 0.0) + number
    return events, price_again(cost, chip)


def row(found: SecondOpinion, name: str) -> OpinionRow:
    (only,) = [each for each in found.rows if each.component == name]
    return only


@pytest.mark.usefixtures("packages")
def test_events_are_ours_and_their_prices_follow_the_target() -> None:
    events, found = opinion("converters.adc.bits=9", "converters.dac.bits=2", "network.link_bits=16")
    assert found.versions == dict.fromkeys(found.versions, "1.0.7")
    assert len(found.versions) == 4
    expected = {
        "adc": events["adc_conversion"] * 2**9 * 1e-15,
        "word_line, dac": events["dac_drive"] * 2 * 1e-13,
        "buffer, buffer_write": (3 * events["buffer_read_byte"] + 5 * events["buffer_write_byte"]) * 1e-12 * 8 / 256,
        "router, link": events["link_byte"] * 2e-11 * 8 / (8 * 16),
        "chip_link": events["chip_link_byte"] * 7e-13 * 8,
        "shift_add": events["shift_add"] * 32 * 4e-14,
        "digital_unit": events["digital_op"] * 32 * 1e-14,
    }
    theirs = {each.component: each.theirs for each in found.rows if each.theirs is not None}
    assert {name: figures.dynamic_j for name, figures in theirs.items()} == pytest.approx(expected, rel=1e-12)
    router = hwmodels.router(target("network.link_bits=16"), 32)
    assert router.energies_j[Event.LINK_BYTE] == pytest.approx(2e-11 * 8 / (8 * 16))
    assert router.area_m2 == pytest.approx(8 * 16 * 1e-10)
    assert expected["adc"] > 0
    assert expected["buffer, buffer_write"] > 0
    assert not (set(sys.modules) & {"hwcomponents_library", "hwcomponents_neurosim"})


@pytest.mark.usefixtures("packages")
def test_area_and_standby_are_of_as_many_instances_over_the_same_time() -> None:
    key = "digital.buffer_bytes=2048"
    chip, cost = target(key), priced(key)
    found = price_again(cost, chip)
    converter = row(found, "adc").as_json()
    component = chip.components["adc"]
    assert converter["ratio_area"] == pytest.approx(chip.converters.adc.bits * (32e-9) ** 2 / component.area_m2)
    instances = cost.components["adc"].area_m2 / component.area_m2
    leakage = chip.converters.adc.rate_hz * 1e-15
    assert converter["theirs_static_j"] == pytest.approx(leakage * instances / cost.throughput_per_s)
    memory = row(found, "buffer, buffer_write").as_json()  # one in a tile, not one for reads and one for writes
    assert memory["theirs_m2"] == pytest.approx(cost.counts.tiles * 8 * 2048 * (32e-9) ** 2)
    assert memory["theirs_static_j"] == pytest.approx(cost.counts.tiles * 8 * 2048 * 1e-12 / cost.throughput_per_s)
    both = memory["theirs_j"] + memory["theirs_static_j"], memory["ours_j"] + memory["ours_static_j"]
    assert memory["ratio_energy"] == pytest.approx(both[0] / both[1])
    assert "assumed" not in memory["note"]


@pytest.mark.usefixtures("packages")
def test_totals_are_sums_of_the_rows_that_both_price() -> None:
    _, found = opinion()
    cost = priced()
    totals = {total.kind: total for total in found.totals}
    assert list(totals) == list(ComponentKind)
    for side in ("ours_share", "theirs_share", "ours_share_energy", "theirs_share_energy"):
        assert math.fsum(total.shares[side] for total in found.totals) == pytest.approx(1)
    converter = totals[ComponentKind.CONVERTER]
    assert converter.ours.dynamic_j == pytest.approx(sum(cost.components[n].dynamic_j for n in ("adc", "dac")))
    assert converter.without_model.dynamic_j == pytest.approx(cost.components["sample_hold"].dynamic_j)
    assert totals[ComponentKind.ARRAY].theirs is None
    assert totals[ComponentKind.ARRAY].without_model.dynamic_j > 0
    every = [figures for total in found.totals for figures in (total.ours, total.without_model)]
    assert math.fsum(figures.energy_j for figures in every) == pytest.approx(cost.energy_j)
    assert math.fsum(figures.area_m2 for figures in every) == pytest.approx(cost.area_m2)


@pytest.mark.usefixtures("packages")
def test_what_has_no_model_says_why() -> None:
    _, found = opinion("converters.adc.bits=3")
    assert row(found, "adc").theirs is None
    assert row(found, "adc").note == "the model of ADCs holds from 4 bits, and converters.adc.bits is 3"
    assert "NeuroSim" in row(found, "cell").note
    assert "size assumed, 65536 bytes" in row(found, "buffer, buffer_write").note
    _, found = opinion("digital.buffer_bytes=4096")
    assert row(found, "buffer, buffer_write").theirs is None
    assert row(found, "buffer, buffer_write").note.startswith("CACTI failed (CACTI failed with exit code 1)")
    assert "make -C" in row(found, "buffer, buffer_write").note


@pytest.mark.usefixtures("packages")
def test_the_node_is_that_of_the_component_or_of_the_digital_parts() -> None:
    def node(name: str, *overrides: str) -> str:
        found = row(opinion(*overrides)[1], name)
        return found.model or found.note

    assert "22 nm" in node("adc", "components.adc.node_nm=22")
    assert "32 nm" in node("chip_link")  # gives none; all others give 32
    assert "45 nm" in node("digital_unit", "digital.node_nm=45")
    assert "no technology node" in node("chip_link", "components.adc.node_nm=22")


@pytest.mark.usefixtures("packages")
def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "m.build"
    CASE.compile(target()).save(out)
    command = ["cost", str(out), "--second-opinion", "hwcomponents"]
    assert run(command) == 0
    shown = capsys.readouterr().out
    for text in ("second opinion", "ADC(10 bits", "not compared: cell: ", "converter", "hwcomponents-adc 1.0.7"):
        assert text in shown
    assert run([*command, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert "second_opinion" in data
    rows: dict[str, dict[str, Any]] = {each["component"]: each for each in data["second_opinion"]["components"]}
    assert rows["cell"]["theirs_j"] is rows["cell"]["ratio"] is rows["cell"]["model"] is None
    assert rows["adc"]["ratio"] == pytest.approx(rows["adc"]["theirs_j"] / rows["adc"]["ours_j"])
    assert rows["adc"]["ours_j"] == data["components"]["adc"]["dynamic_j"]
    doubled = f"components.adc.energy_j={2 * target().components['adc'].energy_j}"
    assert run([*command, "--json", "--set", doubled]) == 0
    again = {each["component"]: each for each in json.loads(capsys.readouterr().out)["second_opinion"]["components"]}
    assert again["adc"]["ratio"] == pytest.approx(rows["adc"]["ratio"] / 2)


def test_without_the_packages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "m.build"
    CASE.compile(target()).save(out)
    find = importlib.util.find_spec
    gone = "hwcomponents_adc"
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name.startswith("hwcomponents") else find(name, *rest)
    )
    assert run(["cost", str(out), "--second-opinion", "hwcomponents"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines()[-1] == (
        f"mcompiler: --second-opinion hwcomponents: hwcomponents, {gone}, hwcomponents_cacti, hwcomponents_library not "
        "installed; pip install 'mcompiler[second-opinion]' with Python 3.12 or newer "
        f"(this is {platform.python_version()})"
    )
    assert run(["cost", str(out)]) == 0


def test_the_real_packages() -> None:
    """Figures that the packages publish: ISAAC's DAC and router at 32 nm, and an ADC near ISAAC's 1.67 pJ."""
    pytest.importorskip("hwcomponents_adc", reason="needs the extra [second-opinion]")
    chip = target(base="isaac", small=False)
    assert hwmodels.dac(chip, 32).energies_j[Event.DAC_DRIVE] == pytest.approx(0.41667e-12)
    assert hwmodels.dac(chip, 32).area_m2 == pytest.approx(0.00017e-6 / 1024)  # Table I
    assert hwmodels.router(chip, 32).area_m2 == pytest.approx(0.15e-6)
    assert hwmodels.router(chip, 32).energies_j[Event.LINK_BYTE] == pytest.approx(20.74e-12 / 32)
    assert 1e-12 < hwmodels.adc(chip, 32).energies_j[Event.ADC_CONVERSION] < 3e-12
    assert hwmodels.shift_add(chip, 40).energies_j[Event.SHIFT_ADD] == pytest.approx(0.21e-12 + 32 * 0.009e-12)
    assert hwmodels.digital_operation(chip, 40).area_m2 == pytest.approx(278e-12)
