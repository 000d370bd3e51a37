"""schedule.json, and the timeline of a pipeline in the trace format of Chrome and Perfetto."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import onnx_ir as ir

from mcompiler.artefacts.layers import LayerData
from mcompiler.dataflow import Dataflow, Kind, LayerPlan, Stage, dataflow, network_steps, reads_per_vector, tiles_of
from mcompiler.dataflow.grids import Indices
from mcompiler.errors import BuildError
from mcompiler.geometry import array_shape
from mcompiler.ir import Replication, ScheduledProgram, StageSchedule, Stream, Turn
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
            spilled_bytes=dict(program.spilled_bytes),
            placement=PlacementRecord.of(program.placement),
            batch=analog.batch,
            turns=program.turns,
            digital_operations=dict(matrix.digital_ops),
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
                **data,
                "replication": None if copied is None else ReplicationRecord(Replication(**copied)),
                "placement": PlacementRecord.of(data["placement"]),
                "turns": tuple(Turn(**turn) for turn in data["turns"]),
                "layers": tuple(LayerTransfers(**layer) for layer in data["layers"]),
                "stages": tuple(StageSchedule(**stage) for stage in data["stages"]),
                "streams": tuple(Stream(**stream) for stream in data["streams"]),
            }
        )

    def as_json(self) -> dict[str, Any]:
        """The content of schedule.json."""
        return {
            **{each.name: getattr(self, each.name) for each in fields(self)},
            "replication": None if self.replication is None else self.replication.as_json(),
            "placement": self.placement.as_json(),
            **{key: [asdict(each) for each in getattr(self, key)] for key in ("turns", "layers", "stages", "streams")},
        }


def replayed(schedule: ScheduleRecord, skeleton: ir.Model, layers: Sequence[LayerData], target: Target) -> Dataflow:
    """The dataflow of a build, token by token, from the content of its directory."""
    if schedule.turns:
        raise BuildError("layers of this build take turns on the same arrays; a timeline shows one pipeline")
    ops, shape = [layer.op for layer in layers], array_shape(target)
    steps, _ = network_steps(skeleton, ops, schedule.digital_operations)
    plans = [
        LayerPlan(
            layer.op,
            reads=reads_per_vector(layer.op, layer.table, shape, target),
            copies=layer.copies,
            tiles=tiles_of(layer.addresses),
            hops=route.hops,
            chip_hops=route.chip_hops,
        )
        for layer, route in zip(layers, schedule.layers, strict=True)
    ]
    return dataflow(steps, plans, schedule.interval_s, target)


def chrome_trace(flow: Dataflow, target: Target) -> dict[str, Any]:
    """Activity of every stage over a few inferences, for chrome://tracing or ui.perfetto.dev; times in microseconds."""
    clock_us = 1e6 / target.digital.clock_hz
    events: list[dict[str, Any]] = []
    shown = [
        (step, stage, start)
        for step, stage, start in zip(flow.steps, flow.stages, flow.starts, strict=True)
        if step.kind is not Kind.INPUT and stage.service and len(start)
    ]
    for thread, (step, stage, start) in enumerate(shown):
        copies = f" x {stage.copies}" if stage.copies > 1 else ""
        events.append(
            {
                "ph": "M",
                "pid": 0,
                "tid": thread,
                "name": "thread_name",
                "args": {"name": f"{stage.name}{copies} ({step.kind.value})"},
            }
        )
        for inference in range(INFERENCES):
            for first, last in _runs(stage, start):
                begin = (int(start[first]) + inference * flow.interval) * clock_us
                end = (int(start[last]) + stage.service + inference * flow.interval) * clock_us
                events.append(
                    {
                        "ph": "X",
                        "pid": 0,
                        "tid": thread,
                        "name": f"inference {inference}",
                        "ts": begin,
                        "dur": end - begin,
                        "args": {"tokens": last - first + 1},
                    }
                )
    return {"displayTimeUnit": "ns", "traceEvents": events}


def _runs(stage: Stage, start: Indices) -> list[tuple[int, int]]:
    """First and last token of every period in which a stage works without a pause."""
    pause = np.diff(start) - stage.service
    least = max(0, int(np.sort(pause)[-RUNS]) if len(pause) > RUNS else 0)
    breaks = np.flatnonzero(pause > least)
    firsts, lasts = np.concatenate([[0], breaks + 1]), np.concatenate([breaks, [len(start) - 1]])
    return list(zip(firsts.tolist(), lasts.tolist(), strict=True))
