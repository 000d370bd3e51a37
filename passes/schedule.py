"""When every array works, and how often everything happens per inference.

A pipeline of stages: a layer takes up a vector as soon as its inputs are there, and inferences follow each other at the
interval that the busiest stage, memory or link allows (docs/schedule.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from mcompiler.dataflow import (
    Dataflow,
    LayerPlan,
    LayerWork,
    Remaining,
    StageGraph,
    StageKind,
    check_depths,
    conversion_time,
    layer_events,
    program_stages,
    read_time,
    remaining,
    stage_bounds,
)
from mcompiler.declarations import TIMING_KEYS, Reads
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
from mcompiler.network import Traffic, in_order, located, placed_timing
from mcompiler.records import PlacementRecord
from mcompiler.target import Event, Skip, Target

_ELSEWHERE = LayerSchedule(np.zeros(0, np.int64), 0.0, 0.0, 0.0, {})
"""Schedule of a layer that has another turn."""


@dataclass(frozen=True)
class Schedule:
    """Layers work on a vector as soon as its inputs are there; inferences follow each other as a pipeline."""

    name: ClassVar[str] = "schedule"
    reads: ClassVar[Reads] = (
        *TIMING_KEYS,
        "device.write",
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
    """The schedule of layers that are there at once; the results of layers elsewhere are there from the start."""
    whole = program_stages(program.analog.tiled, target)
    placed = located(program, target, whole)
    moved = placed.traffic(elsewhere)
    timing = placed_timing(placed, moved, elsewhere)
    events, flow, waiting, spilled = _events(program, whole, moved, target), timing.flow, timing.waiting, timing.spilled
    shape = array_shape(target)
    cycle = read_time(shape, target)
    check_depths(waiting, flow.graph, target)
    for index, link_bytes in spilled.byte_hops.items():
        events[index][Event.LINK_BYTE] += link_bytes
    bounds = stage_bounds(flow, conversion_time(shape, target) / cycle, target) | timing.limits
    plain = moved
    addresses = in_order(program.analog, target)
    if any(not np.array_equal(one, other) for one, other in zip(addresses, program.addresses, strict=True)):
        plain = located(replace(program, addresses=addresses), target, whole).traffic(elsewhere)
    return ScheduledProgram(
        placed=program,
        layers=_layer_schedules(program, flow, events, timing.plans, target),
        cycle_s=cycle,
        latency_s=timing.latency_s,
        interval_s=timing.interval_s,
        stages=_stage_schedules(flow, target),
        streams=waiting,
        bounds_s=bounds,
        spilled_bytes=spilled.bytes,
        placement={
            "byte_hops": moved.byte_hops,
            "byte_hops_in_order": plain.byte_hops,
            "byte_hops_bound": moved.lower_bound_byte_hops,
            "chip_bytes": moved.chip_bytes,
        },
    )


def _events(program: PlacedProgram, graph: StageGraph, moved: Traffic, target: Target) -> list[dict[Event, float]]:
    """Events of each layer per inference."""
    tiled = program.analog.tiled
    unit_operations = {stage.layer: stage.operations for stage in graph.stages if stage.kind is StageKind.REQUANTISE}
    found = []
    for index, (layer, table, way) in enumerate(zip(tiled.matrix.layers, tiled.site_tables, moved.layers, strict=True)):
        work = LayerWork(way.link_byte_hops, way.chip_bytes, unit_operations[index])
        left = _remaining(tiled.matrix, index, table, target)
        found.append(layer_events(layer, table, work, target, left))
    return found


def _remaining(matrix: MatrixProgram, index: int, table: TileTable, target: Target) -> Remaining | None:
    """Reads and drives that skipping zeros leaves; starts keep to the worst case, as they are known beforehand."""
    sample = matrix.sample(index)
    if target.digital.skip is Skip.NONE or sample is None:
        return None
    return remaining(matrix.layers[index], table, sample, target)


def _stage_schedules(flow: Dataflow, target: Target) -> tuple[StageSchedule, ...]:
    clock = target.digital.clock_hz
    found = []
    for stage, run in zip(flow.graph.stages, flow.runs, strict=True):
        timed, starts = run.stage, run.starts
        found.append(
            StageSchedule(
                id=stage.id,
                kind=stage.kind.value,
                name=stage.name,
                layer=stage.layer,
                node=stage.node,
                operations=stage.operations,
                read_bytes=stage.read_bytes,
                written_bytes=stage.written_bytes,
                tokens=timed.tokens,
                copies=timed.copies,
                service_s=timed.service / clock,
                latency_s=timed.latency / clock,
                start_s=int(starts[0]) / clock if len(starts) else 0.0,
                end_s=(int(starts[-1]) + timed.latency) / clock if len(starts) else 0.0,
                busy_s=timed.busy / clock,
            )
        )
    return tuple(found)


def _layer_schedules(
    program: PlacedProgram, flow: Dataflow, events: list[dict[Event, float]], plans: list[LayerPlan], target: Target
) -> tuple[LayerSchedule, ...]:
    clock, cycle_s = target.digital.clock_hz, read_time(array_shape(target), target)
    arrays = {stage.layer: stage.id for stage in flow.graph.stages if stage.kind is StageKind.ANALOG}
    found = []
    for index, table in enumerate(program.analog.tiled.site_tables):
        if index not in arrays:
            found.append(_ELSEWHERE)
            continue
        timed, starts = flow.runs[arrays[index]].stage, flow.runs[arrays[index]].starts
        # Copy n begins with token n; a copy without a token is listed with the last.
        first = np.repeat(np.arange(program.analog.site_copies[index]), len(table))
        reads = np.zeros(len(first), np.int64)
        if len(starts):
            reads = np.rint(starts[np.minimum(first, len(starts) - 1)] / (clock * cycle_s)).astype(np.int64)
        found.append(
            LayerSchedule(
                start=reads,
                start_s=int(starts[0]) / clock if len(starts) else 0.0,
                end_s=(int(starts[-1]) + timed.latency) / clock if len(starts) else 0.0,
                busy_s=timed.busy / clock,
                events=events[index],
                hops=plans[index].hops,
                chip_hops=plans[index].chip_hops,
            )
        )
    return tuple(found)


@dataclass
class _Turns:
    """The schedules of turns, one after the other."""

    layers: list[LayerSchedule]
    clock: float = 0.0
    stages: dict[int, StageSchedule] = field(default_factory=dict)
    streams: list[Stream] = field(default_factory=list)
    bounds: dict[str, float] = field(default_factory=dict)
    spilled: dict[int, float] = field(default_factory=dict)
    placement: dict[str, float] = field(default_factory=dict)
    turns: list[Turn] = field(default_factory=list)

    def add(self, found: ScheduledProgram, turn: Turn, own: frozenset[int], batch: int) -> None:
        """A turn in which the layers ``own`` work."""
        begin = self.clock + turn.write_s
        self.clock = begin + found.latency_s + (batch - 1) * found.interval_s
        self.turns.append(turn)
        for index in own:
            each = found.layers[index]
            late = each.start + round(begin / found.cycle_s)
            self.layers[index] = replace(each, start=late, start_s=each.start_s + begin, end_s=each.end_s + begin)
        for stage in found.stages:
            # A stage is listed with its turn; for the other turns it is an input. Inputs of the model come first.
            if stage.kind != StageKind.INPUT or (stage.node < 0 and stage.id not in self.stages):
                self.stages[stage.id] = replace(stage, start_s=stage.start_s + begin, end_s=stage.end_s + begin)
        self.streams += [stream for stream in found.streams if found.stages[stream.consumer].layer in own]
        self.bounds = {name: max(value, self.bounds.get(name, 0.0)) for name, value in found.bounds_s.items()}
        self.spilled |= found.spilled_bytes
        self.placement = _sum(self.placement, found.placement)


def _sum(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {name: value + one.get(name, 0.0) for name, value in other.items()}


def _in_turns(program: PlacedProgram, target: Target) -> ScheduledProgram:
    """Turn by turn: its arrays are written, then a batch of inferences goes through its layers."""
    analog, sites = program.analog, program.analog.tiled.matrix.sites
    found = _Turns([_ELSEWHERE] * len(sites))
    whole = program_stages(analog.tiled, target)
    for number in range(max(analog.turns) + 1):
        own = frozenset(index for index, site in enumerate(sites) if analog.turns[site.matrix] == number)
        none = np.zeros((0, 4), np.int32)
        where = tuple(
            each if turn == number else none for each, turn in zip(program.addresses, analog.turns, strict=True)
        )
        here = PlacedProgram(analog.turn(number), where, program.chips)
        schedule = _pipeline(here, target, frozenset(range(len(sites))) - own)
        found.add(schedule, _turn(here, schedule, _kept_bytes(whole, own, target), target), own, analog.batch)
    return ScheduledProgram(
        placed=program,
        layers=tuple(found.layers),
        cycle_s=read_time(array_shape(target), target),
        latency_s=found.clock,
        interval_s=found.clock / analog.batch,
        stages=tuple(found.stages[id] for id in sorted(found.stages)),
        streams=tuple(found.streams),
        bounds_s=found.bounds,
        spilled_bytes=found.spilled,
        turns=tuple(found.turns),
        placement=found.placement,
    )


def _turn(program: PlacedProgram, found: ScheduledProgram, kept_bytes: float, target: Target) -> Turn:
    """What a turn takes: the arrays of a core are written one after the other, cores side by side."""
    write, shape = target.device.write, array_shape(target)
    assert write is not None  # the pass that makes turns has asked for it
    every = np.concatenate(program.addresses)
    _, arrays = np.unique(every[:, :3], axis=0, return_counts=True)
    pulses = int(arrays.max(initial=0)) * -(-shape.cells // write.parallel_cells) * write.pulses
    return Turn(
        write_s=pulses * (write.pulse_s + write.verify_s),
        write_j=len(every) * shape.cells * write.pulses * (write.pulse_energy_j + write.verify_energy_j),
        latency_s=found.latency_s,
        interval_s=found.interval_s,
        kept_bytes=kept_bytes,
    )


def _kept_bytes(graph: StageGraph, own: frozenset[int], target: Target) -> float:
    """Bytes of one inference that the layers of a turn leave to others; outputs of the model are not kept."""
    kept = {
        transfer.tensor: transfer.tokens * transfer.width * target.precision.inputs / 8
        for stage in graph.stages
        for transfer in stage.inputs
        if graph.stages[transfer.producer].layer in own and stage.layer not in own
    }
    leaving = {transfer.tensor for transfer in graph.outputs}
    return sum(size for tensor, size in kept.items() if tensor not in leaving)
