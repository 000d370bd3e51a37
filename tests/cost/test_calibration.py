"""What calibration takes, counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mcompiler.cli.main import run
from mcompiler.cost import chip_calibration_cost
from mcompiler.driver import Build
from mcompiler.target import prices
from tests.support.builds import gemm_case, target

CASE = gemm_case(transposed=False, signed=False)  # 13 inputs, 5 outputs

KEYS = ("array.rows=8", "array.rows_active=4", "array.columns=16", "converters.adc.columns=8",
        "calibration.vectors=10", "calibration.source=assumption: test")  # fmt: skip
DRIFT = ("device.drift.t0_s=1.0", "device.drift.nu=0.1", "device.drift.source=assumption: test",
         "calibration.drift_interval_s=100.0")  # fmt: skip


@pytest.mark.parametrize("per", ["adc", "column"])
def test_a_correction_and_drift(per: str) -> None:
    plain = CASE.compile(target(*KEYS))
    chip = target(*KEYS, *DRIFT, f"calibration.correction={per}")
    build = CASE.compile(chip)
    (layer,) = build.layer_data
    slices, priced = chip.encoding.slices, prices(chip)
    groups = sum(-(-int(rows) // 4) for rows in layer.table["rows"])
    conversions = sum(-(-int(array["rows"]) // 4) * int(array["cols"]) * slices for array in layer.table)
    lines = 2 * slices
    cells = sum(int(array["rows"]) * int(array["cols"]) * lines for array in layer.table)
    held = sum(-(-int(array["rows"]) // 4) * int(array["cols"]) * lines for array in layer.table)
    rows = int(layer.table["rows"].sum())
    counts = {"array_read": groups, "cell_read": cells, "dac_drive": rows, "adc_conversion": conversions,
              "sample_hold": held}  # fmt: skip
    energy = sum(counts.get(str(c.event), 0) * c.energy_j for c in priced.values())
    correction, drift = chip_calibration_cost(build.layer_data, chip)
    assert (correction.kind, correction.interval_s, correction.power_w) == ("correction", None, 0.0)
    assert correction.reads == 10 * groups
    assert correction.energy_j == pytest.approx(10 * energy)
    read = max(chip.device.read_pulse_s, 4 / chip.converters.adc.rate_hz)  # 8 lines are 4 pairs
    assert correction.time_s == pytest.approx(10 * 2 * read)
    assert correction.words == 2 * (conversions if per == "column" else groups * 2)
    assert (drift.kind, drift.interval_s, drift.reads) == ("drift", 100.0, groups)
    assert drift.energy_j == pytest.approx(energy)
    assert drift.power_w == pytest.approx(energy / 100)
    assert drift.words == 2 * len(layer.table)
    vectors = layer.op.site.vectors
    assert correction.operations == 2 * vectors * conversions
    assert drift.operations == 0, "the factor is part of the correction's"
    before, after = (_digital(each, layer.op.site.name) for each in (plain, build))
    assert after - before == correction.operations


def test_drift_alone_and_nothing() -> None:
    chip = target(*KEYS, *DRIFT)
    build = CASE.compile(chip)
    (drift,) = chip_calibration_cost(build.layer_data, chip)
    (layer,) = build.layer_data
    plain = CASE.compile(target(*KEYS))
    assert drift.operations == _digital(build, layer.op.site.name) - _digital(plain, layer.op.site.name) > 0
    assert chip_calibration_cost(plain.layer_data, plain.target) == ()


def _digital(build: Build, layer: str) -> float:
    return next(count for name, event, count in build.cost.events if (name, event) == (layer, "digital_op"))


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    CASE.compile(target(*KEYS, *DRIFT, "calibration.correction=adc")).save(tmp_path / "a.build")
    assert run(["cost", str(tmp_path / "a.build")]) == 0
    text = capsys.readouterr().out
    assert [line.split()[0] for line in text.splitlines() if line.startswith(("correction", "drift"))] == [
        "correction", "drift",
    ]  # fmt: skip
    assert run(["cost", str(tmp_path / "a.build"), "--json"]) == 0
    assert [row["kind"] for row in json.loads(capsys.readouterr().out)["calibration"]] == ["correction", "drift"]
