"""Every number of a shipped target moves something, or is refused, or is in the list of those that move nothing."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from mcompiler.artefacts.programming import programming_cost
from mcompiler.cost import chip_calibration_cost, data_energy
from mcompiler.driver import Build, compile
from mcompiler.driver.keys import ELSEWHERE, WITHOUT_EFFECT, KeyUse, key_uses
from mcompiler.errors import CompileError, TargetError, UserError
from mcompiler.target import Target, json_schema, list_targets, load_target
from mcompiler.target.numbers import numeric_keys, other_values, with_number
from mcompiler.target.view import covers

SHIPPED = [name for name, _ in list_targets()]
QUICK = ("generic_128", "pcm_hermes")
EACH = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SHIPPED]

SPREAD = ("hierarchy.arrays_per_core=1", "hierarchy.cores_per_tile=1", "hierarchy.tiles_per_chip=3")
"""A hierarchy on which the layers of the network are on several tiles, and of separate pairs on several chips."""


FULL = """
extends = "generic_128"
description = "every number of the schema"

[device]
access_resistance_ohm = 500.0
measured_deviations = "added"
source = "test"

[device.programming]
log_normal = 0.02
absolute_siemens = 1e-7
proportional = 0.02
polynomial_siemens = [1e-7, 1e-7]
level_siemens = [1e-7, 1e-7, 2e-7, 3e-7]
source = "test"

[device.faults]
stuck_on = 0.01
stuck_off = 0.01
stuck_on_siemens = 2e-4
stuck_off_siemens = 1e-7
open_word_lines = 0.02
open_bit_lines = 0.02
source = "test"

[device.noise]
correlation = "per_read"
absolute_siemens = 1e-7
proportional = 0.01
polynomial_siemens = [1e-7, 1e-7]
table_siemens = [0.0, 2e-5, 1e-4]
table_deviation_siemens = [1e-7, 4e-7, 2e-7]
source = "test"

[device.noise.one_over_f]
q = 0.01
q_exponent = 0.5
q_largest = 0.05
read_s = 1e-6
source = "test"

[device.retention]
activation_ev = 0.5
kelvin = 330.0
reference_kelvin = 300.0
source = "test"

[device.telegraph]
correlation = "per_inference"
share = 0.1
amplitude = 0.1
low = 0.4
source = "test"

[device.drift]
t0_s = 20.0
nu = 0.05
spread = 0.01
source = "test"

[device.curve]
sinh_v = 0.3
source = "test"

[device.temperature]
kelvin = 350.0
reference_kelvin = 300.0
per_kelvin = 0.001
source = "test"

[device.write]
tolerance_siemens = 1e-6
pulses = 5.0
pulse_s = 1e-7
pulse_energy_j = 1e-12
verify_s = 1e-7
verify_energy_j = 1e-13
parallel_cells = 2
endurance = 1e6
source = "test"

[array]
wire_resistance_ohm = 1.0
bit_wire_resistance_ohm = 1.5
driver_resistance_ohm = 100.0
sense_resistance_ohm = 100.0
wire_capacitance_f = 2e-17
spare_rows = 2
spare_columns = 2
source = "test"

[converters.dac]
bits = 2
gain_error = 0.01
source = "test"

[converters.adc]
bits = 12
offset_codes = 0.5
gain_error = 0.01
nonlinearity_codes = 0.5
noise_codes = 0.2
source = "test"

[precision.layers.MatMul_0]
weights = 6
inputs = 6
source = "test"

[digital]
buffer_bytes = 4096
buffer_bytes_per_s = 1e10
fifo_bytes = 1024
fill_reads = 2
node_nm = 16
source = "test"

[hierarchy]
spare_arrays_per_core = 1
chips = 8
source = "test"

[network]
hop_cycles = 2
chip_link_latency_s = 1e-6
source = "test"

[calibration]
drift_interval_s = 1000.0
correction = "column"
vectors = 32
source = "test"

[components.adc]
count = 2.0
code_share = 0.5
static_power_w = 1e-4
latency_s = 1e-9
energy_j = 2.38e-12
source = "test"

[components.shift_add]
shared_by = 2.0
source = "test"
"""
"""A target that gives the numbers that no shipped target gives."""

TABLES = """
extends = "generic_128"
description = "levels and curve from tables"

[device]
level_means = [0, 1300, 2800, 4096]
source = "test"

[device.curve]
voltages_v = [0.1, 0.2]
ratios = [0.45, 1.0]
source = "test"

[encoding]
slices = 1
source = "test"

[converters.dac]
bits = 2
source = "test"

[converters.adc]
range = "calibrated"

[published]
array_area_m2 = 1e-9
source = "test"
"""
"""Lists in place of numbers."""

LIMITS = ("digital.fifo_bytes", "hierarchy.chips")
"""Numbers that act where they are reached; of queues, tests/dataflow has more than this small network."""


@lru_cache
def network(inputs: int) -> tuple[ir.Model, np.ndarray[Any, Any]]:
    """Three small products, each column of weights with one sign, so that all encodings hold them; and samples."""
    rng = np.random.default_rng(3)
    sizes, text, weights = (inputs, 12, 10, 6), [], []
    for layer, (rows, columns) in enumerate(pairwise(sizes)):
        values = rng.uniform(0.1, 1, (rows, columns)) * np.where(np.arange(columns) % 2, -1, 1)
        weights.append(onnx.numpy_helper.from_array(values.astype(np.float32), f"w{layer}"))
        text += [f"m{layer} = MatMul (a{layer}, w{layer})", f"a{layer + 1} = Relu (m{layer})"]
    body = "\n".join(text)
    graph = f"<ir_version: 9, opset_import: ['' : 17]>\nnet (float[N, {inputs}] a0) => (float[N, 6] a3) {{\n{body}\n}}"
    model = onnx.parser.parse_model(graph.replace("'", '"'))
    model.graph.initializer.extend(weights)
    return ir.from_proto(model), rng.uniform(0, 1, (16, inputs)).astype(np.float32)


def built(target: Target) -> Build:
    model, samples = network(target.array.rows)
    return compile(model, target, calibration={"a0": samples})


def results(build: Build, priced: Target | None = None) -> dict[str, Any]:
    """What a user sees of a build: costs, times, codes, needed converters, writing, calibration on the chip."""
    seen = priced or build.target
    cost = build.cost if priced is None else build.cost_with(priced)
    return {
        "cost": {key: value for key, value in cost.as_json().items() if key not in ("counts", "stale")},
        "schedule": (build.schedule.latency_s, build.schedule.interval_s),
        "codes": [layer.op.matrix.codes.tolist() for layer in build.layer_data],
        "writing": [each.as_json() for each in programming_cost(build.layer_data, seen) or ()],
        "calibration": [each.as_json() for each in chip_calibration_cost(build.layer_data, seen)],
        "data": [each.as_json() for each in data_energy(build.layer_data, cost.counts, seen)],
    }


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return json.dumps(one, sort_keys=True, default=str) == json.dumps(other, sort_keys=True, default=str)


def moves(use: KeyUse, target: Target, build: Build, now: dict[str, Any]) -> bool:
    """Whether another value changes a result or is refused, by the target if there is no other, or by the compiler."""
    allowed = []
    for value in other_values(use.path[-1], use.value):
        with contextlib.suppress(TargetError):
            allowed.append(with_number(target, use.path, value))
    return not allowed or any(differs(other, use, build, now) for other in allowed)


def differs(target: Target, use: KeyUse, build: Build, now: dict[str, Any]) -> bool:
    """Whether a build for another target, or another price of a build if no stage reads the key, differs."""
    try:
        after = results(built(target)) if use.stages else results(build, target)
    except UserError:
        return True
    return not same(now, after)


def silent(target: Target, uses: list[KeyUse]) -> list[KeyUse]:
    """The keys that move nothing."""
    build = built(target)
    now = results(build)
    return [use for use in uses if not moves(use, target, build, now)]


@pytest.mark.parametrize("name", EACH)
def test_each_number_moves_something_or_its_reason_is_listed(name: str) -> None:
    check(name)


def check(name: str, wanted: Callable[[KeyUse], bool] = lambda use: True) -> None:
    target = load_target(name)
    uses = [use for use in key_uses(target) if wanted(use)]
    assert [use.key for use in uses if not use.explained] == []
    found = silent(target, [use for use in uses if not use.effects])
    spread = load_target(name, SPREAD)
    again = silent(spread, [use for use in found if not use.reason])
    unlisted = {use.key for use in again if use.path in numeric_keys(spread)}
    assert unlisted == set()
    assert {use.key for use in uses if use.reason} <= {use.key for use in found}, "listed, and moves something"


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Files of targets that give what no shipped target gives."""
    folder = tmp_path_factory.mktemp("targets")
    for name, text in (("full", FULL), ("tables", TABLES)):
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    return str(folder / "full.toml"), str(folder / "tables.toml")


def test_numbers_that_no_shipped_target_gives(others: tuple[str, ...]) -> None:
    shipped = {path[-1] for name in SHIPPED for path in numeric_keys(load_target(name))}
    for name in others:
        check(name, lambda use: use.path[-1] not in shipped and use.key not in LIMITS)


def test_a_limit_that_is_reached() -> None:
    with pytest.raises(CompileError, match="it would take 3 chips"):
        built(load_target("generic_128", (*SPREAD, "hierarchy.tiles_per_chip=1", "hierarchy.chips=1")))


def test_all_numbers_of_the_schema_are_among_them(others: tuple[str, ...]) -> None:
    """By their names; tables of reference points, which have quantities for keys, are none."""
    tested = {path[-1] for name in (*SHIPPED, *others) for path in numeric_keys(load_target(name))}
    models = [model for name, model in json_schema()["$defs"].items() if not name.startswith("Partial")]
    fields = {key for model in models for key, field in model.get("properties", {}).items() if numeric(field)}
    assert fields - tested == set()


def numeric(field: dict[str, Any]) -> bool:
    """Whether the JSON schema of a field has numbers, alone or in lists."""
    if field.get("type") == "array":
        return numeric(field["items"])
    return field.get("type") in ("integer", "number") or any(map(numeric, field.get("anyOf", ())))


def test_every_reason_is_of_a_key_of_a_target(others: tuple[str, ...]) -> None:
    keys = [path for name in (*SHIPPED, *others) for path in numeric_keys(load_target(name))]
    for listed in (*WITHOUT_EFFECT, *ELSEWHERE):
        assert any(covers(listed, path) for path in keys), listed
