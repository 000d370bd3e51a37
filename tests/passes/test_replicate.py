"""Replicate: within the budget, as good as the bounds say, and the copies are in every artefact."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mcompiler
from mcompiler.errors import CompileError
from mcompiler.ir import ANALOG_DOMAIN, AnalogProgram, ConvShape
from mcompiler.passes.place import Place
from mcompiler.passes.replicate import Goal, Replicate
from mcompiler.passes.schedule import Schedule
from mcompiler.target import Target
from tests.support.models import SHARED_MODELS
from tests.support.programs import analog, matrix_op, matrix_program, placeholder, target

KEYS = ("array.rows=8", "array.rows_active=8", "array.columns=16")
CONV = ConvShape((3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 1)


def convolutions(sizes: list[int], strides: list[int]) -> AnalogProgram:
    """Convolutions one after another: [C, H, W] with 2 channels, smaller where a stride says so."""
    size = sizes[0]
    x = ir.Value(name="x", shape=ir.Shape(["N", 2, size, size]), type=ir.TensorType(ir.DataType.FLOAT))
    nodes: list[ir.Node] = []
    ops = []
    for index, stride in enumerate(strides):
        nodes.append(placeholder(f"c{index}", nodes[-1].outputs[0] if nodes else x, index))
        size = (size - 1) // stride + 1
        nodes[-1].outputs[0].shape = ir.Shape(["N", 2, size, size])
        shape = ConvShape((3, 3), (stride, stride), (1, 1), (1, 1, 1, 1), 1)
        codes = np.ones((18, 2 + 2 * index), int)
        ops.append(matrix_op(codes, name=f"c{index}", vectors=size * size, input_bits=4, shape=shape))
    graph = ir.Graph([x], [nodes[-1].outputs[0]], nodes=nodes, opset_imports={"": 20, ANALOG_DOMAIN: 1})
    return analog(matrix_program(ops, model=ir.Model(graph, ir_version=10)), target(*KEYS))


@settings(max_examples=10, deadline=None)
@given(
    st.integers(4, 10), st.lists(st.sampled_from([1, 2]), min_size=1, max_size=4), st.integers(0, 60),
    st.sampled_from([Goal.THROUGHPUT, Goal.LATENCY]),
)  # fmt: skip
def test_copies_keep_to_the_budget_and_to_what_they_promise(
    size: int, strides: list[int], more: int, goal: Goal
) -> None:
    chip, program = target(*KEYS), convolutions([size], strides)
    one = sum(len(table) for table in program.tiled.tables)
    found = Replicate(goal, arrays=one + more).run(program, chip)
    figures = found.replication
    assert figures is not None
    used = sum(len(table) * n for table, n in zip(program.tiled.tables, found.copies, strict=True))
    assert used == figures.arrays <= figures.budget == one + more
    assert all(n >= 1 for n in found.copies)
    assert figures.interval_bound_s <= figures.interval_s <= figures.interval_before_s
    assert figures.latency_bound_s <= figures.latency_s * (1 + 1e-9) <= figures.latency_before_s * (1 + 2e-9)
    if goal is Goal.THROUGHPUT:
        assert figures.interval_s == figures.interval_bound_s
    # the schedule of the placed program is that fast (it waits for whole reads, and has a cycle at least)
    scheduled = Schedule().run(Place().run(found, chip), chip)
    assert scheduled.bounds_s["array"] == pytest.approx(figures.interval_s)


SLOW = ("digital.operations_per_cycle=1", "digital.clock_hz=1e8")


def test_latency_spreads_copies_over_digital_units() -> None:
    """Where digital units are slow, copies that stand together wait for each other's unit; no placement is worse."""
    tiles = ("hierarchy.arrays_per_core=4", "hierarchy.cores_per_tile=4", "hierarchy.tiles_per_chip=16")
    chip = target(*KEYS, *tiles, *SLOW)
    found = Replicate(Goal.LATENCY, arrays=100).run(convolutions([8], [1, 1]), chip)
    together, spread = (Schedule().run(Place(latency=latency).run(found, chip), chip) for latency in (False, True))
    assert spread.latency_s < together.latency_s
    figures = found.replication
    assert figures is not None
    assert spread.latency_s >= figures.latency_bound_s


@pytest.mark.parametrize("unit", ["digital", pytest.param("link", marks=pytest.mark.slow)])
def test_no_inference_is_through_before_what_it_shares(unit: str) -> None:
    """The fullest unit works on all of an inference, however many stages it serves at once."""
    keys = {"digital": ("digital.operations_per_cycle=1", "digital.clock_hz=1e7"), "link": ("network.clock_hz=1e5",)}
    cores, tiles = {"digital": (64, 1), "link": (1, 64)}[unit]  # all in one tile, and one array in each
    room = ("hierarchy.arrays_per_core=1", f"hierarchy.cores_per_tile={cores}", f"hierarchy.tiles_per_chip={tiles}")
    chip = target(*KEYS, *room, *keys[unit])
    found = Replicate(Goal.THROUGHPUT, arrays=60).run(convolutions([8], [1, 1, 1]), chip)
    scheduled = Schedule().run(Place().run(found, chip), chip)
    assert max(stage.end_s for stage in scheduled.stages) < scheduled.bounds_s[unit] == scheduled.latency_s


def test_bounds_and_placement_know_the_digital_units() -> None:
    """Copies of one layer that all have the same digital work lie in as many tiles as their units must keep pace."""
    chip = target(*KEYS, *SLOW)
    found = Replicate(Goal.THROUGHPUT, arrays=64).run(convolutions([8], [1]), chip)
    figures, scheduled = found.replication, Schedule().run(Place().run(found, chip), chip)
    assert figures is not None
    operations = sum(stage.operations for stage in scheduled.stages)
    assert figures.interval_before_s >= operations / 1e8, "one array has one unit"
    assert figures.interval_bound_s <= figures.interval_s <= scheduled.interval_s * (1 + 1e-9)
    assert scheduled.bounds_s["digital"] <= 1.1 * max(figures.interval_bound_s, scheduled.bounds_s["array"])
    tight = target(*KEYS, *SLOW, "hierarchy.tiles_per_chip=2")
    two = Replicate(Goal.THROUGHPUT, arrays=64).run(convolutions([8], [1]), tight).replication
    assert two is not None
    assert two.interval_bound_s >= operations / 1e8 / 2, "two units do all of it"


def test_without_a_budget_the_chips_that_are_used_are_filled() -> None:
    chip = target(*KEYS, "hierarchy.arrays_per_core=2", "hierarchy.cores_per_tile=3", "hierarchy.tiles_per_chip=4")
    found = Replicate(Goal.THROUGHPUT).run(convolutions([8], [1, 1]), chip)
    assert found.replication is not None
    assert found.replication.budget == 24
    assert Place().run(found, chip).chips == 1


def test_a_budget_that_is_too_small_is_named() -> None:
    with pytest.raises(CompileError, match=r"takes 9 arrays and the budget is 8; raise --arrays"):
        Replicate(Goal.LATENCY, arrays=8).run(convolutions([8], [1, 1]), target(*KEYS))


def test_nothing_to_copy_is_left_alone() -> None:
    program = analog(matrix_program([matrix_op([[0]])]), target(*KEYS))
    assert Replicate().run(program, target(*KEYS)) is program


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved build whose convolution has copies."""
    rng = np.random.default_rng(0)
    weights = ir.Tensor(rng.standard_normal((4, 2, 3, 3)).astype(np.float32), name="w")
    x = ir.Value(name="x", shape=ir.Shape(["N", 2, 6, 6]), type=ir.TensorType(ir.DataType.FLOAT))
    w = ir.Value(name="w", const_value=weights, shape=ir.Shape([4, 2, 3, 3]), type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.node("Conv", [x, w], {"pads": [1, 1, 1, 1]}, name="conv")
    node.outputs[0].name = "y"
    node.outputs[0].shape, node.outputs[0].type = ir.Shape(["N", 4, 6, 6]), ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=[w], opset_imports={"": 18})
    out = tmp_path_factory.mktemp("copies") / "m.build"
    made = mcompiler.compile(
        ir.Model(graph, ir_version=9), "generic_128", calibration="random", replicate="throughput", arrays=20,
        overrides=KEYS,
    )  # fmt: skip
    made.save(out)
    return out


def test_copies_are_in_every_artefact(build: Path, tmp_path: Path) -> None:
    loaded = mcompiler.load(build)
    (layer,) = loaded.layer_data
    arrays = len(layer.table)
    assert (arrays, layer.copies, len(layer.addresses)) == (6, 3, 18)
    found = Counter(data["replica"] for _, data in loaded.placement.nodes(data=True) if data.get("kind") == "array")
    assert found == dict.fromkeys(range(layer.copies), arrays)
    path = tmp_path / "cells.npy"
    loaded.write_cells(path, "conv")
    table = np.load(path)
    places = {tuple(place) for place in np.stack([table[k] for k in ("chip", "tile", "core", "position")], 1).tolist()}
    assert places == {tuple(place) for place in layer.addresses.tolist()}
    one = [np.sort(table[table["array"] == copy * arrays], order=["row", "column"]) for copy in range(layer.copies)]
    for other in one[1:]:
        np.testing.assert_array_equal(one[0]["conductance_s"], other["conductance_s"])
    assert loaded.verify().exact


def test_the_timeline_shows_every_working_stage_in_its_time(build: Path) -> None:
    loaded = mcompiler.load(build)
    trace, schedule = loaded.timeline().as_json(), loaded.schedule
    names = {e["tid"]: e["args"]["name"] for e in trace["traceEvents"] if e["ph"] == "M"}
    for stage in schedule.as_json()["stages"]:
        threads = [tid for tid, name in names.items() if name.startswith(f"{stage['name']} ")]
        if stage["kind"] == "input" or not stage["service_s"]:
            assert not threads
            continue
        (thread,) = threads
        runs = [e for e in trace["traceEvents"] if e["ph"] == "X" and e["tid"] == thread]
        first = [e for e in runs if e["name"] == "inference 0"]
        assert min(e["ts"] for e in first) == pytest.approx(stage["start_s"] * 1e6)
        assert sum(e["args"]["tokens"] for e in first) == stage["tokens"]
        again = [e["ts"] for e in runs if e["name"] == "inference 1"]
        assert min(again) - min(e["ts"] for e in first) == pytest.approx(schedule.interval_s * 1e6)


def test_mistakes_get_a_sentence(build: Path) -> None:
    with pytest.raises(CompileError, match="different stuck cells"):
        mcompiler.compile(build / "model.onnx", "generic_128", calibration="random", replicate="latency",
                          faults=build / "none.csv")  # fmt: skip
    with pytest.raises(CompileError, match="a budget of arrays without copies"):
        mcompiler.compile(build / "model.onnx", "generic_128", calibration="random", arrays=4)
    with pytest.raises(CompileError, match="replicate 'speed' is unknown"):
        mcompiler.compile(build / "model.onnx", "generic_128", calibration="random", replicate="speed")


SMALL_TILES = ("hierarchy.arrays_per_core=1", "hierarchy.cores_per_tile=4", "hierarchy.tiles_per_chip=9")
LIMITS = {
    "arrays": (),
    "links": ("network.clock_hz=2e7", "network.link_bits=8"),
    "digital": ("digital.operations_per_cycle=1", "digital.clock_hz=2e7"),
    "ports": ("digital.buffer_bytes_per_s=2e7",),
}
NETWORKS = st.tuples(st.integers(4, 8), st.lists(st.sampled_from([1, 2]), min_size=1, max_size=3))


def reached(network: tuple[int, list[int]], chip: Target, goal: Goal, arrays: int, effort: int = 1) -> float:
    """Interval or latency of the schedule, whichever is the goal; copies checked on the way."""
    program = convolutions([network[0]], network[1])
    found = Replicate(goal, arrays=arrays, effort=effort).run(program, chip)
    for copies, site in zip(found.site_copies, program.tiled.matrix.sites, strict=True):
        assert 1 <= copies <= site.vectors
    scheduled = Schedule().run(Place(effort=effort, latency=goal is Goal.LATENCY).run(found, chip), chip)
    figures = found.replication
    assert figures is not None
    assert figures.arrays <= figures.budget
    assert scheduled.interval_s >= figures.interval_bound_s * (1 - 1e-9)
    assert scheduled.latency_s >= figures.latency_bound_s * (1 - 1e-9)
    return scheduled.interval_s if goal is Goal.THROUGHPUT else scheduled.latency_s


@pytest.mark.slow
@pytest.mark.parametrize("goal", [Goal.THROUGHPUT, Goal.LATENCY])
@pytest.mark.parametrize("limit", LIMITS)
@settings(max_examples=3, deadline=None)
@given(NETWORKS, st.lists(st.integers(0, 90), min_size=3, max_size=3))
def test_more_arrays_are_never_worse(limit: str, goal: Goal, network: tuple[int, list[int]], more: list[int]) -> None:
    chip = target(*KEYS, *SMALL_TILES, *LIMITS[limit])
    one = sum(len(table) for table in convolutions([network[0]], network[1]).tiled.tables)
    found = [reached(network, chip, goal, one + extra) for extra in sorted(more)]
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("goal", [Goal.THROUGHPUT, pytest.param(Goal.LATENCY, marks=pytest.mark.slow)])
@settings(max_examples=3, deadline=None)
@given(NETWORKS, st.sampled_from(sorted(LIMITS)), st.integers(0, 60))
def test_more_effort_is_never_worse(goal: Goal, network: tuple[int, list[int]], limit: str, more: int) -> None:
    chip = target(*KEYS, *SMALL_TILES, *LIMITS[limit])
    one = sum(len(table) for table in convolutions([network[0]], network[1]).tiled.tables)
    found = [reached(network, chip, goal, one + more, effort) for effort in range(3)]
    assert found == sorted(found, reverse=True)


@pytest.mark.slow
@pytest.mark.parametrize("goal", ["throughput", "latency"])
def test_more_arrays_are_never_worse_for_a_real_model(goal: str) -> None:
    found = []
    for arrays in (40, 57, 120, 500, None):
        made = mcompiler.compile(
            SHARED_MODELS / "mnist_lenet5.torch-ts.op13.onnx",
            "isaac",
            calibration="random",
            replicate=goal,
            arrays=arrays,
        )
        found.append(made.schedule.interval_s if goal == "throughput" else made.schedule.latency_s)
    assert found == sorted(found, reverse=True)
