"""The dataflow of a network on a chip: stages, the interval that they can keep, and when every token is worked on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mcompiler.dataflow.durations import LayerPlan, clocks, timed
from mcompiler.dataflow.grids import Indices
from mcompiler.dataflow.stages import Kind, Step
from mcompiler.dataflow.timing import Stage, earliest, just_in_time
from mcompiler.target import Event, Target


@dataclass(frozen=True)
class Dataflow:
    """A periodic schedule: every token of every stage, again and again after ``interval``.

    Attributes:
        steps, stages: of the network, in topological order.
        starts: clock at which each token of a stage begins, per stage int64 [tokens]; 0 is when the first input is due.
        interval: clocks between two inferences.
        latency: clocks from the first input to the last result.
    """

    steps: tuple[Step, ...]
    stages: tuple[Stage, ...]
    starts: tuple[Indices, ...]
    interval: int
    latency: int


def dataflow(steps: Sequence[Step], plans: Sequence[LayerPlan], least_s: float, target: Target) -> Dataflow:
    """The periodic schedule with the shortest interval, and with it the earliest results, that holds little.

    Args:
        steps: of the network.
        plans: its analog layers.
        least_s: interval that links, buffers and digital units allow.
        target: the chip.
    """
    stages = timed(steps, plans, target)
    interval = max([clocks(least_s, target), 1, *(stage.busy for stage in stages)])
    starts = just_in_time(stages, earliest(stages, interval), interval)
    begins = [int(start[0]) for start in starts if len(start)]
    first = min(begins, default=0)
    starts = [start - first for start in starts]
    ends = (int(start[-1]) + stage.latency for stage, start in zip(stages, starts, strict=True) if len(start))
    return Dataflow(tuple(steps), tuple(stages), tuple(starts), interval, max(ends, default=0))


def stage_bounds(flow: Dataflow, conversion_share: float, target: Target) -> dict[str, float]:
    """Shortest interval that each kind of unit allows, in seconds.

    Args:
        flow: the schedule.
        conversion_share: part of a read that its conversions take.
        target: the chip.
    """
    busy = dict.fromkeys(Kind, 0)
    for step, stage in zip(flow.steps, flow.stages, strict=True):
        busy[step.kind] = max(busy[step.kind], stage.busy)
    array, clock = busy[Kind.ANALOG], target.digital.clock_hz
    return {
        "array": array / clock,
        "converter": array * conversion_share / clock,
        "digital_stage": max(busy[Kind.REQUANTISE], busy[Kind.DIGITAL]) / clock,
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
