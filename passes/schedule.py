"""When every array works, and how often everything happens per inference.

A pipeline of stages: a layer takes up a vector as soon as what it reads is there, and inferences follow each other at
the interval that the busiest stage, memory or link allows (docs/schedule.md).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from mcompiler.dataflow import (
    Dataflow,
    Kind,
    LayerPlan,
    Remaining,
    check_depths,
    conversion_time,
    dataflow,
    digital_bound,
    layer_events,
    network_steps,
    port_time,
    read_time,
    reads_per_vector,
    remaining,
    stage_bounds,
    streams,
    tile_memory,
    tiles_of,
)
from mcompiler.declarations import TIMING_KEYS
from mcompiler.geometry import TileTable, array_shape
from mcompiler.ir import (
    LayerSchedule,
    MatrixProgram,
    PlacedProgram,
    ScheduledProgram,
    StageSchedule,
    Stream,
    Turn,
)
from mcompiler.network import Traffic, in_order, layer_holders, nodes_of, topology_of, traffic
from mcompiler.records import PlacementRecord
from mcompiler.target import Event, Skip, Target

_SHARED = ("buffer", "link", "chip_link", "digital")
"""What serves many stages: how long it works on an inference is in the interval, not in the time of a token."""


@dataclass(frozen=True)
class Schedule:
    """Layers work on a vector as soon as its inputs are there; inferences follow each other as a pipeline."""

    name: ClassVar[str] = "schedule"
    reads: ClassVar[tuple[str, ...]] = (
        *TIMING_KEYS,
        "calibration",
        "device.drift",
        "device.write",
        "digital.buffer_bytes",
        "digital.buffer_bytes_per_s",
        "digital.fifo_bytes",
        "digital.skip",
    )

    def run(self, program: PlacedProgram, target: Target) -> ScheduledProgram:
        """Return start and end of every stage, what waits between them, and the events of one inference.

        Raises:
            CompileError: activations do not fit the chips' memory.
        """
        if program.analog.turns:
            return _in_turns(program, target)
        return _pipeline(program, target, frozenset())

    def record(self, program: ScheduledProgram) -> PlacementRecord:
        """What the placement gained in transfers, which this pass counts."""
        return PlacementRecord.of(program.placement)


def _pipeline(program: PlacedProgram, target: Target, elsewhere: frozenset[int]) -> ScheduledProgram:
    """The schedule of layers that are there at once; what others make is there from the start."""
    tiled = program.analog.tiled
    matrix, shape = tiled.matrix, array_shape(target)
    ops, tables, copies = matrix.layers, tiled.site_tables, program.analog.site_copies
    addresses = program.site_addresses
    steps, _ = network_steps(matrix.lowered.skeleton, ops, matrix.digital_ops)
    steps = tuple(
        replace(step, kind=Kind.INPUT, layer=-1, operations=0.0, reads=()) if step.layer in elsewhere else step
        for step in steps
    )
    moved = traffic(program, target, elsewhere)
    events = [
        layer_events(op, table, shape, target, way.link_byte_hops, way.chip_bytes, _left(matrix, index, table, target))
        for index, (op, table, way) in enumerate(zip(ops, tables, moved.layers, strict=True))
    ]
    plans = [
        LayerPlan(op, reads_per_vector(op, table, shape, target), number, tiles_of(where), way.hops, way.chip_hops)
        for op, table, number, where, way in zip(ops, tables, copies, addresses, moved.layers, strict=True)
    ]
    limits = _shared_limits(moved, events, addresses, target)
    limits["digital"] = digital_bound(steps, len(ops), addresses, target)
    cycle = read_time(shape, target)
    flow = dataflow(steps, plans, max([cycle, *limits.values()]), target)
    waiting = streams(steps, flow.stages, flow.starts, flow.interval)
    check_depths(waiting, target)
    spilled, far = _spilled(waiting, flow, program, target)
    for index, link_bytes in far.items():
        events[index][Event.LINK_BYTE] += link_bytes
    bounds = stage_bounds(flow, conversion_time(shape, target) / cycle, target) | limits
    plain = traffic(replace(program, addresses=in_order(program.analog, target)), target, elsewhere)
    placement = {
        "byte_hops": moved.byte_hops, "byte_hops_in_order": plain.byte_hops,
        "byte_hops_bound": moved.lower_bound_byte_hops, "chip_bytes": moved.chip_bytes,
    }  # fmt: skip
    found = _scheduled(program, flow, events, plans, waiting, bounds, spilled, cycle, target)
    return replace(found, placement=placement)


def _left(matrix: MatrixProgram, index: int, table: TileTable, target: Target) -> Remaining | None:
    """What skipping zeros leaves of reads and drives; starts keep to the worst case, as they are known beforehand."""
    sample = matrix.sample(index)
    if target.digital.skip is Skip.NONE or sample is None:
        return None
    return remaining(matrix.layers[index], table, sample, array_shape(target), target)


def _shared_limits(
    moved: Traffic, events: list[dict[Event, float]], addresses: tuple[npt.NDArray[np.int32], ...], target: Target
) -> dict[str, float]:
    """Shortest interval that memories and links allow, in seconds."""
    network = target.network
    return {
        "buffer": port_time(events, addresses, target),
        "link": moved.busiest_link_bytes * 8 / (network.link_bits * network.clock_hz),
        "chip_link": moved.busiest_chip_bytes / network.chip_link_bytes_per_s,
    }


def _spilled(
    waiting: tuple[Stream, ...], flow: Dataflow, program: PlacedProgram, target: Target
) -> tuple[dict[str, float], dict[int, float]]:
    """Bytes of activations, by layer, in tiles of others; and bytes times links there and back per inference."""
    tiled = program.analog.tiled
    ops, nodes, net = tiled.matrix.layers, nodes_of(program.site_addresses, target), topology_of(target)
    names = [op.site.name for op in ops]
    holders = layer_holders(flow.steps, ops, tiled.site_tables, nodes, array_shape(target), target)

    def hops(tile: int, other: int) -> int:
        return int(net.hops(np.array([tile]), np.array([other]))[0])

    memory = tile_memory(waiting, names, holders, hops, target)
    tokens = {stage.name: stage.tokens for stage in flow.stages}
    far = {}
    for index, moved in memory.spilled_far.items():
        own = [stream for stream in waiting if stream.layer == index and stream.tokens]
        held = sum(stream.bytes for stream in own)
        through = sum(stream.bytes / stream.tokens * tokens[stream.producer] for stream in own)
        far[index] = 2 * moved * through / held
    return {names[index]: moved for index, moved in sorted(memory.spilled_bytes.items())}, far


def _scheduled(
    program: PlacedProgram,
    flow: Dataflow,
    events: list[dict[Event, float]],
    plans: list[LayerPlan],
    waiting: tuple[Stream, ...],
    bounds: dict[str, float],
    spilled: dict[str, float],
    cycle_s: float,
    target: Target,
) -> ScheduledProgram:
    clock = target.digital.clock_hz
    stages = []
    for step, stage, start in zip(flow.steps, flow.stages, flow.starts, strict=True):
        first, last = (int(start[0]), int(start[-1]) + stage.latency) if len(start) else (0, 0)
        stages.append(
            StageSchedule(
                stage.name, step.kind.value, stage.tokens, stage.copies, stage.service / clock, stage.latency / clock,
                first / clock, last / clock, stage.busy / clock,
            )
        )  # fmt: skip
    spans = {stage.name: (stage.start_s, stage.end_s) for stage in stages}
    busy = {stage.name: stage.busy_s for stage in stages}
    layers = []
    tiled = program.analog.tiled
    for index, (op, table) in enumerate(zip(tiled.matrix.layers, tiled.site_tables, strict=True)):
        place = next((i for i, step in enumerate(flow.steps) if step.kind is Kind.ANALOG and step.layer == index), None)
        if place is None:  # it has another turn
            layers.append(LayerSchedule(np.zeros(0, np.int64), 0.0, 0.0, 0.0, {}))
            continue
        begins = flow.starts[place] / (clock * cycle_s)
        turns = np.minimum(np.repeat(np.arange(program.analog.site_copies[index]), len(table)), max(0, len(begins) - 1))
        first_reads = np.rint(begins[turns]).astype(np.int64) if len(begins) else np.zeros(len(turns), np.int64)
        way = plans[index]
        layers.append(
            LayerSchedule(first_reads, *spans[op.site.name], busy[op.site.name], events[index], way.hops, way.chip_hops)
        )
    digital = {
        stage.name: spans[stage.name]
        for step, stage in zip(flow.steps, flow.stages, strict=True)
        if step.kind is Kind.DIGITAL
    }
    shared = max(bounds[unit] for unit in _SHARED)  # no inference is through before the fullest of them has served it
    return ScheduledProgram(
        program, tuple(layers), digital, cycle_s, max(flow.latency / clock, shared), flow.interval / clock,
        tuple(stages), waiting, bounds, spilled,
    )  # fmt: skip


def _in_turns(program: PlacedProgram, target: Target) -> ScheduledProgram:
    """Turn by turn: its arrays are written, then a batch of inferences goes through its layers."""
    analog, clock = program.analog, 0.0
    layers = [LayerSchedule(np.zeros(0, np.int64), 0.0, 0.0, 0.0, {})] * len(analog.turns)
    digital: dict[str, tuple[float, float]] = {}
    stages: list[StageSchedule] = []
    waiting: list[Stream] = []
    bounds: dict[str, float] = {}
    spilled: dict[str, float] = {}
    moved: dict[str, float] = {}
    turns = []
    for number in range(max(analog.turns) + 1):
        own = frozenset(index for index, turn in enumerate(analog.turns) if turn == number)
        none = np.zeros((0, 4), np.int32)
        where = tuple(each if index in own else none for index, each in enumerate(program.addresses))
        here = PlacedProgram(analog.turn(number), where, program.chips)
        found = _pipeline(here, target, frozenset(range(len(layers))) - own)
        turn = _turn(here, found, target)
        turns.append(turn)
        begin = clock + turn.write_s
        clock = begin + found.latency_s + (analog.batch - 1) * found.interval_s
        for index in own:
            each = found.layers[index]
            late = each.start + round(begin / found.cycle_s)
            layers[index] = replace(each, start=late, start_s=each.start_s + begin, end_s=each.end_s + begin)
        digital |= {name: (start + begin, end + begin) for name, (start, end) in found.digital_s.items()}
        stages += [
            replace(stage, start_s=stage.start_s + begin, end_s=stage.end_s + begin)
            for stage in found.stages
            if stage.kind != Kind.INPUT or number == 0
        ]
        waiting += [stream for stream in found.streams if stream.layer in own]
        bounds = {name: max(value, bounds.get(name, 0.0)) for name, value in found.bounds_s.items()}
        spilled |= found.spilled_bytes
        moved = {name: value + moved.get(name, 0.0) for name, value in found.placement.items()}
    cycle = read_time(array_shape(target), target)
    return ScheduledProgram(
        program, tuple(layers), digital, cycle, clock, clock / analog.batch, tuple(stages), tuple(waiting), bounds,
        spilled, tuple(turns), moved,
    )  # fmt: skip


def _turn(program: PlacedProgram, found: ScheduledProgram, target: Target) -> Turn:
    """What a turn takes: the arrays of a core are written one after the other, cores side by side."""
    write, shape = target.device.write, array_shape(target)
    assert write is not None  # the pass that makes turns has asked for it
    every = np.concatenate(program.addresses)
    _, arrays = np.unique(every[:, :3], axis=0, return_counts=True)
    steps = int(arrays.max(initial=0)) * -(-shape.cells // write.parallel_cells)
    matrix = program.analog.tiled.matrix
    made = {index for index, where in enumerate(program.addresses) if len(where)}
    steps_of, ends = network_steps(matrix.lowered.skeleton, matrix.layers, matrix.digital_ops)
    kept = {
        read.producer
        for step in steps_of
        for read in step.reads
        if steps_of[read.producer].layer in made and step.layer not in made
    }
    size = sum(steps_of[i].grid.tokens * steps_of[i].grid.width for i in kept - set(ends))
    return Turn(
        steps * write.pulses * (write.pulse_s + write.verify_s),
        len(every) * shape.cells * write.pulses * (write.pulse_energy_j + write.verify_energy_j),
        found.latency_s,
        found.interval_s,
        size * target.precision.inputs / 8,
    )
