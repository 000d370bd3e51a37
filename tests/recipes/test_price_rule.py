"""The recipe "add a price rule": one file in another package, and a target that names the rule."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcompiler.pricing import Figure, Quantity, find_rule, rule_names
from mcompiler.target import check_target, json_schema, load_target, prices, stale_prices

ROOT = Path(__file__).resolve().parents[2]

FILE = '''
"""Flash converters: one comparator for each code."""

from mcompiler.pricing import Figure, PriceRule, Quantity


class FlashAdc(PriceRule):
    """Energy and area as the comparators."""

    name = "flash_adc"
    summary = "a comparator for each code: energy and area double with each bit"
    source = "assumption: equal comparators"
    follows = {Figure.ENERGY_J: (Quantity.ADC_BITS,), Figure.AREA_M2: (Quantity.ADC_BITS,)}

    def value(self, figure, at):
        return 2 ** at[Quantity.ADC_BITS] - 1

    def outside(self, at):
        return "no flash converter has more than 8 bits" if at[Quantity.ADC_BITS] > 8 else ""
'''

TARGET = """
extends = "generic_128"

[converters.adc]
bits = 6
source = "our converter"

[components.adc]
rule = "flash_adc"
energy_j = 63e-14
area_m2 = 63e-12
source = "our converter: 10 fJ and 1 um2 for each of 63 comparators"
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with an installed package, as its installer would have written it."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "acme_rules.py").write_text(FILE, encoding="utf-8")
    info = folder / "acme_rules-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme_rules\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[mcompiler.price_rules]\nflash_adc = acme_rules:FlashAdc\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder
        find_rule.cache_clear()
        sys.modules.pop("acme_rules", None)


@pytest.fixture(scope="module")
def chip(site: Path) -> Path:
    """A target file that names the rule."""
    path = site / "flash.toml"
    path.write_text(TARGET, encoding="utf-8")
    return path


def test_figures_follow_the_rule_from_the_chip_of_the_file_on(chip: Path) -> None:
    here, wider = (prices(load_target(str(chip), keys))["adc"] for keys in ((), ("converters.adc.bits=8",)))
    assert (here.energy_j, here.area_m2) == (63e-14, 63e-12)
    assert wider.energy_j == pytest.approx(255e-14)
    assert wider.area_m2 == pytest.approx(255e-12)


def test_what_it_does_not_follow_and_where_it_ends_is_stale(chip: Path) -> None:
    def stale(*keys: str) -> dict[str, str]:
        found = stale_prices(prices(load_target(str(chip), keys)))
        return {each.quantity.value: each.reason for each in found if each.component == "adc"}

    assert stale() == {}
    assert stale("converters.adc.bits=8") == {}
    assert stale("converters.adc.bits=9") == {"adc_bits": "no flash converter has more than 8 bits"}
    assert "rule 'flash_adc' does not follow it" in stale("converters.adc.rate_hz=2e9")["adc_rate_hz"]


def test_names_list_it(chip: Path) -> None:
    assert rule_names()[-1] == "flash_adc"
    assert "flash_adc" in json_schema()["$defs"]["Component"]["properties"]["rule"]["anyOf"][0]["enum"]
    (fault,) = check_target(str(chip), ["components.adc.rule=flash_ad"])
    assert fault.endswith("not 'flash_ad'; did you mean 'flash_adc'?")
    assert find_rule("flash_adc").value(Figure.ENERGY_J, {Quantity.ADC_BITS: 3.0}) == 7


def test_the_command_line_knows_it(site: Path, chip: Path) -> None:
    path = os.pathsep.join([str(site), str(ROOT)])
    words = [sys.executable, "-m", "mcompiler", "targets", "check", str(chip)]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
