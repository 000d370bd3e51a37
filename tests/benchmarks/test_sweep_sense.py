"""Sweeps: prices and latencies agree with their second computation, now and in the result file."""

from __future__ import annotations

import ast
import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import mcompiler
from mcompiler.target import load_target, resolved_toml
from tests.support.benchmarks import FOLDER, benchmark
from tests.support.digits import DEMO

DIGITS = DEMO / "digits.onnx"

sweep = benchmark("sweep_sense")
check = benchmark("sweep_check")

POINTS = [
    (
        "generic_128, differential",
        ("array.rows=64", "array.columns=256", "array.rows_active=64", "converters.adc.bits=7"),
    ),
    ("generic_128, differential", ("converters.dac.bits=3", "converters.adc.columns=16", "digital.buffer_bytes=16384")),
    ("generic_128, offset", ("device.levels=8", "encoding.slices=3", "digital.accumulator_bits=24")),
    ("isaac", ("array.rows_active=32", "converters.adc.rate_hz=2e9", "network.link_bits=64", "digital.clock_hz=1e9")),
]


@pytest.mark.parametrize(("base", "overrides"), POINTS)
def test_a_point_agrees_with_its_second_computation(base: str, overrides: tuple[str, ...], tmp_path: Path) -> None:
    found = sweep.point(DIGITS, sweep.BASES[base], overrides)
    assert found["difference"] < 1e-6
    models = {name: sweep.single(layer, tmp_path) for name, layer in sweep.LAYERS.items()}
    for layer in sweep.latencies(models, sweep.BASES[base], overrides).values():
        assert layer["difference"] < 1e-6


def test_a_price_that_is_off_by_a_millionth_is_found() -> None:
    build = mcompiler.compile(DIGITS, "generic_128", calibration="random")
    target, cost = tomllib.loads(resolved_toml(build.target)), build.cost.as_json()
    assert max(check.differences(target, cost).values()) < 1e-9
    for name in ("adc", "cell", "buffer"):
        row = cost["components"][name]
        kept, row["energy_active_j"] = row["energy_active_j"], row["energy_active_j"] * (1 + 1e-6)
        apart = check.differences(target, cost)
        assert [key for key, value in apart.items() if value > 1e-9] == [f"{name}.energy_active_j"]
        row["energy_active_j"] = kept


def test_standby_at_a_lower_rate_agrees() -> None:
    build = mcompiler.compile(DIGITS, "isaac", calibration="random")
    cost = build.cost_with(rate=100.0).as_json()
    assert max(check.differences(tomllib.loads(resolved_toml(build.target)), cost).values()) < 1e-9


def test_the_second_computation_imports_nothing_of_the_compiler() -> None:
    for name in ("sweep_check.py", "sweep_rules.py"):
        nodes = list(ast.walk(ast.parse((FOLDER / name).read_text(encoding="utf-8"))))
        names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
        assert {each.split(".")[0] for each in names} <= {*sys.stdlib_module_names, "sweep_rules"}


def test_recorded_points_are_complete_and_agree() -> None:
    result: dict[str, Any] = json.loads((FOLDER / "results" / "sweep_sense.json").read_text(encoding="utf-8"))
    for name in sweep.BASES:
        for key, values in sweep.lines(name.endswith("differential")).items():
            rows = result["series"][f"{name}, {key}"]
            assert [row[key] for row in rows] == list(values)
            assert all(layer["difference"] < 1e-6 for row in rows for layer in row["layers"].values())
    for name, plane in sweep.PLANES.items():
        one, two = name.split(", ")
        assert [(row[one], row[two]) for row in result["planes"][name]] == list(plane)
    every = [row for rows in (*result["series"].values(), *result["planes"].values()) for row in rows]
    assert len(every) == result["points"]
    assert all(row["difference"] < 1e-6 for row in every)
    for row in every:
        for key, value in row["independent"].items():
            assert row[key] == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (("digital.node_nm=22",), "digital.node_nm"),
        (("encoding.slices=1", "precision.weights=3", "device.level_means=[0,1000,2000,4000]"), "device.level_means"),
        (("encoding.slices=1", "precision.weights=3", "encoding.partner=unformed"), "encoding.partner"),
    ],
)
def test_what_the_second_computation_has_no_rule_for_is_refused_by_key(overrides: tuple[str, ...], key: str) -> None:
    target = tomllib.loads(resolved_toml(load_target("generic_128", overrides)))
    with pytest.raises(SystemExit, match=key):
        check.Chip(target)
