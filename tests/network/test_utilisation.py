"""No unit is asked for more than it can do: of every shared model on every shipped target."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mcompiler
from mcompiler.cost import estimate
from mcompiler.errors import UserError
from mcompiler.ir import ScheduledProgram
from mcompiler.network import Unit, utilisations
from mcompiler.pipeline import default
from mcompiler.target import Event, Target, load_target
from mcompiler.target.locate import target_names
from tests.support.models import SHARED_MODELS

FULL = 1 + 1e-9

DEMO = Path(mcompiler.__file__).parent / "demo" / "digits.onnx"

SLOW_UNITS = ("digital.operations_per_cycle=1", "digital.clock_hz=1e8")
SLOW_BUFFERS = ("digital.buffer_bytes_per_s=1e7",)


def scheduled(path: Path, target: Target, **options: Any) -> ScheduledProgram:
    program = default(path, target, calibration="random", options={"effort": 0, **options}).execute().program
    assert isinstance(program, ScheduledProgram)
    return program


def busiest_tile(program: ScheduledProgram, target: Target, *events: Event) -> float:
    """Most events of one tile in an inference: those of the cost table, spread over tiles as arrays are.

    What digital nodes do is booked on the layer at whose tiles they work.
    """
    sites = program.placed.analog.tiled.matrix.sites
    counts = [0.0] * len(sites)
    for index, layer in enumerate(program.layers):
        counts[index] += sum(layer.events.get(event, 0.0) for event in events)
    known = {
        Event.DIGITAL_OP: "operations",
        Event.BUFFER_READ_BYTE: "read_bytes",
        Event.BUFFER_WRITE_BYTE: "written_bytes",
    }
    for stage in program.stages:
        if stage.kind == "digital":
            counts[stage.layer] += sum(getattr(stage, known[event]) for event in events)
    priced = sum(count for _, event, count in estimate(program, target).events if event in events)
    assert sum(counts) == pytest.approx(priced), "energy and time count the same"
    tiles: dict[tuple[int, ...], float] = defaultdict(float)
    for index, where in enumerate(program.placed.site_addresses):
        for address in where.tolist():
            tiles[tuple(address[:2])] += counts[index] / len(where)
    return max(tiles.values(), default=0.0)


@pytest.mark.parametrize("replicate", ["none", "throughput", "latency"])
@pytest.mark.parametrize("keys", [(), SLOW_UNITS, SLOW_BUFFERS], ids=["plain", "digital", "buffer"])
def test_what_limits_the_interval_is_full_and_nothing_is_fuller(keys: tuple[str, ...], replicate: str) -> None:
    target = load_target("isaac", keys)
    program = scheduled(DEMO, target, replicate=replicate)
    shares = dict.fromkeys(Unit, 0.0)
    for each in utilisations(program, target):
        shares[each.unit] = max(shares[each.unit], each.share)
    assert max(shares.values()) <= FULL
    assert shares[Unit.ARRAY] == pytest.approx(program.bounds_s["array"] / program.interval_s)
    if keys:
        assert shares[Unit.DIGITAL if keys is SLOW_UNITS else Unit.BUFFER] == pytest.approx(1, rel=1e-3)
    digital = target.digital
    operations = busiest_tile(program, target, Event.DIGITAL_OP)
    moved = busiest_tile(program, target, Event.BUFFER_READ_BYTE, Event.BUFFER_WRITE_BYTE)
    rate = digital.operations_per_cycle * digital.clock_hz
    assert digital.buffer_bytes_per_s is not None
    assert shares[Unit.DIGITAL] == pytest.approx(operations / rate / program.interval_s)
    assert shares[Unit.BUFFER] == pytest.approx(moved / digital.buffer_bytes_per_s / program.interval_s)


def test_spilled_activations_wait_for_the_links_that_they_take(tmp_path: Path) -> None:
    """Buffers too small for the activations, and slow links: the interval is as long as the way there and back."""
    keys = ("digital.buffer_bytes=600", "network.clock_hz=1e6", "hierarchy.arrays_per_core=1",
            "hierarchy.cores_per_tile=1")  # fmt: skip
    target = load_target("isaac", keys)
    program = scheduled(DEMO, target)
    assert program.spilled_bytes
    moved = sum(layer.events[Event.LINK_BYTE] for layer in program.layers)
    links = target.network.link_bits * target.network.clock_hz / 8
    side = int(np.ceil(np.sqrt(target.hierarchy.tiles_per_chip)))
    assert moved <= program.interval_s * links * 4 * side * side, "all links of the mesh together carry no more"
    assert program.bounds_s["link"] <= program.interval_s * FULL
    free = scheduled(DEMO, load_target("isaac", (*keys, "digital.buffer_bytes=65536")))
    assert program.bounds_s["link"] > free.bounds_s["link"]


def models() -> list[Path]:
    return sorted(SHARED_MODELS.glob("*.onnx"))


EVERY_TARGET = os.environ.get("MCOMPILER_TEST_EVERY_TARGET") == "1"
"""All shipped targets, each with and without copies, take 20 minutes; the slow tests take those that differ most."""

CHIPS = [(name, goal) for name in target_names() for goal in ("none", "throughput")]
SAMPLE = [("isaac", "none"), ("isaac", "throughput"), ("generic_128", "none")]


@pytest.mark.slow
@pytest.mark.skipif(not models(), reason="no collection of models beside this checkout")
@pytest.mark.parametrize(("name", "replicate"), CHIPS if EVERY_TARGET else SAMPLE)
@pytest.mark.parametrize("path", models(), ids=lambda path: path.name)
def test_no_unit_is_busy_above_its_capacity(path: Path, name: str, replicate: str) -> None:
    target = load_target(name)
    try:
        program = scheduled(path, target, replicate=replicate)
    except UserError as error:
        pytest.skip(f"refused: {error}")
    worst = utilisations(program, target)[0]
    assert worst.share <= FULL, f"{worst.unit} {worst.where}"
    assert max(program.bounds_s.values()) <= program.interval_s * FULL * max(1, len(program.turns))
