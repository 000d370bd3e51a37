"""schedule.json, and the timeline of a pipeline in the trace format of Chrome and Perfetto."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import onnx_ir as ir

from mcompiler.artefacts.layers import LayerData
from mcompiler.bodies import scheduled_nodes
from mcompiler.dataflow import (
    Dataflow,
    DigitalWork,
    LayerPlan,
    StageGraph,
    StageKind,
    StageRun,
    dataflow,
    layer_operations,
    reads_per_vector,
    stage_graph,
    tiles_of,
)
from mcompiler.errors import BuildError
from mcompiler.geometry import array_shape
from mcompiler.ir import MatrixProgram, Replication, ScheduledProgram, StageSchedule, Stream, Turn
from mcompiler.records import PlacementRecord, ReplicationRecord
from mcompiler.target import Target

INFERENCES = 3
"""Inferences in a timeline, so that their overlap is visible."""

RUNS = 256
"""Largest number of bars per stage and inference; the shortest pauses are left out where there are more."""


@dataclass(frozen=True)
class LayerTransfers:
    """Copies of a layer, and the links that its farthest word crosses."""

    name: str
    copies: int
    hops: int
    chip_hops: int


@dataclass(frozen=True)
class ScheduleRecord:
    """Stages, streams between them, bounds of the interval: the content of schedule.json.

    Stages are told apart by ``id``; names are those of nodes and may repeat. In JSON a stream names its producer and
    consumer, and gives their ids as ``producer_id`` and ``consumer_id``.

    Attributes:
        latency_s, interval_s, cycle_s, bounds_s, spilled_bytes, turns, stages, streams: as in ``ScheduledProgram``.
        replication: what copies of arrays gained; None where there are none.
        placement: transfers as placed, and their bound.
        batch: inferences that go through one turn before the next.
        digital_operations: element operations per inference of each digital node, by node name.
        layers: of each analog layer.
    """

    latency_s: float
    interval_s: float
    cycle_s: float
    bounds_s: Mapping[str, float]
    replication: ReplicationRecord | None
    spilled_bytes: Mapping[str, float]
    placement: PlacementRecord
    batch: int
    turns: tuple[Turn, ...]
    digital_operations: Mapping[str, int]
    layers: tuple[LayerTransfers, ...]
    stages: tuple[StageSchedule, ...]
    streams: tuple[Stream, ...]

    @classmethod
    def of(cls, program: ScheduledProgram) -> ScheduleRecord:
        """The record of a program."""
        analog = program.placed.analog
        matrix = analog.tiled.matrix
        return cls(
            latency_s=program.latency_s,
            interval_s=program.interval_s,
            cycle_s=program.cycle_s,
            bounds_s=dict(program.bounds_s),
            replication=None if analog.replication is None else ReplicationRecord(analog.replication),
            spilled_bytes={matrix.sites[site].name: size for site, size in program.spilled_bytes.items()},
            placement=PlacementRecord.of(program.placement),
            batch=analog.batch,
            turns=program.turns,
            digital_operations=_by_name(matrix),
            layers=tuple(
                LayerTransfers(site.name, copies, layer.hops, layer.chip_hops)
                for site, copies, layer in zip(matrix.sites, analog.site_copies, program.layers, strict=True)
            ),
            stages=program.stages,
            streams=program.streams,
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ScheduleRecord:
        """The record that schedule.json holds."""
        copied = data["replication"]
        return cls(
            **{
                **{key: value for key, value in data.items() if key != "busy"},
                "replication": None if copied is None else ReplicationRecord(Replication(**copied)),
                "placement": PlacementRecord.of(data["placement"]),
                "turns": tuple(Turn(**turn) for turn in data["turns"]),
                "layers": tuple(LayerTransfers(**layer) for layer in data["layers"]),
                "stages": tuple(StageSchedule(**stage) for stage in data["stages"]),
                "streams": tuple(_stream(stream) for stream in data["streams"]),
            }
        )

    @property
    def busy(self) -> dict[str, float]:
        """Share of its time that the busiest unit of each kind works in steady state; of turns, in the busiest one."""
        return {name: seconds / self.interval_s for name, seconds in self.bounds_s.items()}

    def as_json(self) -> dict[str, Any]:
        """The content of schedule.json."""
        names = {stage.id: stage.name for stage in self.stages}
        return {
            **{each.name: getattr(self, each.name) for each in fields(self)},
            "busy": self.busy,
            "replication": None if self.replication is None else self.replication.as_json(),
            "placement": self.placement.as_json(),
            **{key: [asdict(each) for each in getattr(self, key)] for key in ("turns", "layers", "stages")},
            "streams": [
                asdict(stream)
                | {
                    "producer": names[stream.producer],
                    "consumer": names[stream.consumer],
                    "producer_id": stream.producer,
                    "consumer_id": stream.consumer,
                }
                for stream in self.streams
            ],
        }


def _stream(data: Mapping[str, Any]) -> Stream:
    """A stream as schedule.json holds it: with names for people, and the ids of its stages."""
    own = {key: value for key, value in data.items() if not key.endswith("_id")}
    return Stream(**{**own, "producer": data["producer_id"], "consumer": data["consumer_id"]})


def _by_name(matrix: MatrixProgram) -> dict[str, int]:
    """Digital operations of nodes by name; nodes of one name together."""
    found: dict[str, int] = {}
    for position, node in enumerate(scheduled_nodes(matrix.lowered.skeleton.graph)):
        name = node.name or ""
        found[name] = found.get(name, 0) + matrix.digital_ops.get(position, 0)
    return found


def stored_stages(
    schedule: ScheduleRecord, skeleton: ir.Model, layers: Sequence[LayerData], target: Target
) -> StageGraph:
    """The stages of a build, from what its directory holds.

    Args:
        schedule: of the build.
        skeleton: graph with placeholders.
        layers: with their tables.
        target: the chip.
    """
    shape = array_shape(target)
    nodes = {stage.node: int(stage.operations) for stage in schedule.stages if stage.kind == StageKind.DIGITAL}
    layer_work = [layer_operations(layer.op, layer.table, shape, target) for layer in layers]
    return stage_graph(skeleton, [layer.op for layer in layers], DigitalWork(nodes, layer_work), target)


def replayed(schedule: ScheduleRecord, skeleton: ir.Model, layers: Sequence[LayerData], target: Target) -> Dataflow:
    """The dataflow of a build, token by token; arguments as of ``stored_stages``."""
    if schedule.turns:
        raise BuildError("layers of this build take turns on the same arrays; a timeline shows one pipeline")
    shape = array_shape(target)
    plans = [
        LayerPlan(
            layer=layer.op,
            reads=reads_per_vector(layer.op, layer.table, shape, target),
            copies=layer.copies,
            tiles=tiles_of(layer.addresses),
            hops=route.hops,
            chip_hops=route.chip_hops,
        )
        for layer, route in zip(layers, schedule.layers, strict=True)
    ]
    return dataflow(stored_stages(schedule, skeleton, layers, target), plans, schedule.interval_s, target)


@dataclass(frozen=True)
class BusyInterval:
    """A time in which a stage works without a pause.

    Attributes:
        inference: number of the inference, from 0.
        start_us, duration_us: microseconds.
        tokens: positions that the stage works on in that time.
    """

    inference: int
    start_us: float
    duration_us: float
    tokens: int


@dataclass(frozen=True)
class StageActivity:
    """Activity of one stage: its title, and when it works."""

    title: str
    intervals: tuple[BusyInterval, ...]


@dataclass(frozen=True)
class Timeline:
    """Activity of every stage over a few inferences, in topological order."""

    stages: tuple[StageActivity, ...]

    def as_json(self) -> dict[str, Any]:
        """The trace format of chrome://tracing and ui.perfetto.dev: one thread for each stage."""
        events: list[dict[str, Any]] = []
        for thread, stage in enumerate(self.stages):
            events.append({"ph": "M", "pid": 0, "tid": thread, "name": "thread_name", "args": {"name": stage.title}})
            events += [
                {
                    "ph": "X",
                    "pid": 0,
                    "tid": thread,
                    "name": f"inference {each.inference}",
                    "ts": each.start_us,
                    "dur": each.duration_us,
                    "args": {"tokens": each.tokens},
                }
                for each in stage.intervals
            ]
        return {"displayTimeUnit": "ns", "traceEvents": events}


def timeline_of(flow: Dataflow, target: Target) -> Timeline:
    """Activity of every stage that works at all, over ``INFERENCES`` inferences."""
    clock_us = 1e6 / target.digital.clock_hz
    shown = [
        (stage, run)
        for stage, run in zip(flow.graph.stages, flow.runs, strict=True)
        if stage.kind is not StageKind.INPUT and run.stage.service and len(run.starts)
    ]
    stages = []
    for stage, run in shown:
        copies = f" x {run.stage.copies}" if run.stage.copies > 1 else ""
        intervals = []
        for inference in range(INFERENCES):
            for first, last in _busy_times(run):
                begin = (int(run.starts[first]) + inference * flow.interval) * clock_us
                end = (int(run.starts[last]) + run.stage.service + inference * flow.interval) * clock_us
                intervals.append(BusyInterval(inference, begin, end - begin, last - first + 1))
        stages.append(StageActivity(f"{stage.name}{copies} ({stage.kind.value})", tuple(intervals)))
    return Timeline(tuple(stages))


def _busy_times(run: StageRun) -> list[tuple[int, int]]:
    """First and last tokens of the times in which a stage works without a pause."""
    pause = np.diff(run.starts) - run.stage.service
    least = max(0, int(np.sort(pause)[-RUNS]) if len(pause) > RUNS else 0)
    breaks = np.flatnonzero(pause > least)
    firsts, lasts = np.concatenate([[0], breaks + 1]), np.concatenate([breaks, [len(run.starts) - 1]])
    return list(zip(firsts.tolist(), lasts.tolist(), strict=True))
