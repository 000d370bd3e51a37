"""The dataflow of a network on a chip: stages, the interval that they can keep, and when every token is worked on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mcompiler.dataflow.durations import LayerPlan, clocks, timed_stages
from mcompiler.dataflow.stages import StageGraph, StageKind
from mcompiler.dataflow.timing import StageRun, earliest, just_in_time, least_interval
from mcompiler.target import Target


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
