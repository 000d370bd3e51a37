"""The dataflow of a network on a chip: stages, the interval that they can keep, and when every token is worked on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mcompiler.dataflow.durations import LayerPlan, clocks, timed_stages
from mcompiler.dataflow.stages import StageGraph, StageKind
from mcompiler.dataflow.timing import StageRun, earliest, just_in_time, least_interval
from mcompiler.target import Event, Target


@dataclass(frozen=True)
class Dataflow:
    """A periodic schedule: every token of every stage, again and again after ``interval``.

    Attributes:
        graph: the stages of the network.
        runs: each stage with its durations and the clock at which each of its tokens begins; 0 is when the first input
            is due.
        interval: clocks between two inferences.
        latency: clocks from the first input to the last result.
    """

    graph: StageGraph
    runs: tuple[StageRun, ...]
    interval: int
    latency: int


def dataflow(graph: StageGraph, plans: Sequence[LayerPlan], least_s: float, target: Target) -> Dataflow:
    """The periodic schedule with the shortest interval, and with it the earliest results, that holds little.

    Args:
        graph: the stages of the network.
        plans: its analog layers.
        least_s: interval that links, buffers and digital units allow.
        target: the chip.
    """
    stages = timed_stages(graph, plans, target)
    interval = max(clocks(least_s, target), 1, least_interval(stages))
    starts = just_in_time(stages, earliest(stages, interval), interval)
    first = min((int(start[0]) for start in starts if len(start)), default=0)
    runs = tuple(StageRun(stage, start - first) for stage, start in zip(stages, starts, strict=True))
    ends = (int(run.starts[-1]) + run.stage.latency for run in runs if len(run.starts))
    return Dataflow(graph, runs, interval, max(ends, default=0))


def stage_bounds(flow: Dataflow, conversion_share: float, target: Target) -> dict[str, float]:
    """Shortest interval that each kind of unit allows, in seconds.

    Args:
        flow: the schedule.
        conversion_share: part of a read that its conversions take.
        target: the chip.
    """
    pairs = list(zip(flow.graph.stages, flow.runs, strict=True))
    analog = [run.stage for stage, run in pairs if stage.kind is StageKind.ANALOG]
    digital = [run.stage for stage, run in pairs if stage.kind is not StageKind.ANALOG]
    array, clock = least_interval(analog), target.digital.clock_hz
    return {
        "array": array / clock,
        "converter": array * conversion_share / clock,
        "digital_stage": least_interval(digital) / clock,
    }


def port_time(
    events: Sequence[Mapping[Event, float]], addresses: Sequence[npt.NDArray[np.int32]], target: Target
) -> float:
    """Seconds per inference that the busiest tile's activation memory reads and writes.

    Args:
        events: of each layer.
        addresses: of its arrays; its bytes are spread over its tiles as they are.
        target: the chip.
    """
    rate = target.digital.buffer_bytes_per_s
    if rate is None:
        return 0.0
    tiles: dict[tuple[int, int], float] = {}
    for each, where in zip(events, addresses, strict=True):
        moved = each.get(Event.BUFFER_READ_BYTE, 0.0) + each.get(Event.BUFFER_WRITE_BYTE, 0.0)
        found, counts = np.unique(where[:, :2], axis=0, return_counts=True)
        for (chip, tile), count in zip(found.tolist(), counts.tolist(), strict=True):
            tiles[chip, tile] = tiles.get((chip, tile), 0.0) + moved * count / len(where)
    return max(tiles.values(), default=0.0) / rate
