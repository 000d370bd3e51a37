"""Interval and latency of a placed program, as its schedule has them."""

from __future__ import annotations

from dataclasses import dataclass

from mcompiler.dataflow import (
    Dataflow,
    LayerPlan,
    clocks,
    dataflow,
    read_time,
    reads_per_vector,
    streams,
    tile_work,
    tiles_of,
)
from mcompiler.geometry import array_shape
from mcompiler.ir import PlacedProgram, Stream
from mcompiler.network.spills import Spills, spills
from mcompiler.network.traffic import LocatedProgram, Traffic
from mcompiler.target import Target


@dataclass(frozen=True)
class PlacedTiming:
    """When the stages of a placed program work.

    Attributes:
        plans: what determines the timing of each layer.
        limits: seconds per inference that the units which serve many stages work: busiest link, chip's port, buffer
            and digital unit.
        flow: the periodic schedule.
        waiting: the streams between its stages.
        spilled: activations that wait in other tiles than those of their layer.
        interval_s: between two inferences.
        latency_s: of one inference; none is through before the busiest of those units has served it.
    """

    plans: list[LayerPlan]
    limits: dict[str, float]
    flow: Dataflow
    waiting: tuple[Stream, ...]
    spilled: Spills
    interval_s: float
    latency_s: float


def placed_timing(placed: LocatedProgram, moved: Traffic, elsewhere: frozenset[int] = frozenset()) -> PlacedTiming:
    """When the stages of a placed program work.

    Args:
        placed: with the tiles in which its layers work.
        moved: what the links carry.
        elsewhere: layers that are not there in this turn; their results are there from the start.

    Raises:
        CompileError: activations do not fit the chips' memory.
    """
    program, target = placed.program, placed.target
    graph = placed.graph.without(elsewhere) if elsewhere else placed.graph
    tiled, network, clock = program.analog.tiled, target.network, target.digital.clock_hz
    plans, cycle = _plans(program, moved, target), read_time(array_shape(target), target)
    loads = tile_work(tiled, graph, target).at(program.site_addresses)
    free = {
        "link": moved.busiest_link_bytes * 8 / (network.link_bits * network.clock_hz),
        "chip_link": moved.busiest_chip_bytes / network.chip_link_bytes_per_s,
        **loads.bounds(target),
    }
    buffers, limits = [each.buffers for each in placed.where], free
    while True:
        flow = dataflow(graph, plans, max([cycle, *limits.values()]), target)
        waiting = streams(graph, flow.runs, flow.interval)
        spilled = spills(waiting, flow, buffers, target)
        limits = spilled.bounds(free, loads, moved.busiest_link_bytes, target)
        if clocks(max(limits.values()), target) <= flow.interval:
            break
        # Activations on their way to other tiles fill a link or a buffer: with a longer interval fewer have to wait.
    latency = max(flow.latency / clock, *limits.values())
    return PlacedTiming(
        plans=plans,
        limits=limits,
        flow=flow,
        waiting=waiting,
        spilled=spilled,
        interval_s=flow.interval / clock,
        latency_s=latency,
    )


def _plans(program: PlacedProgram, moved: Traffic, target: Target) -> list[LayerPlan]:
    """What determines the timing of each layer."""
    tiled, shape = program.analog.tiled, array_shape(target)
    sites = zip(tiled.matrix.layers, tiled.site_tables, program.analog.site_copies, strict=True)
    return [
        LayerPlan(
            layer=layer,
            reads=reads_per_vector(layer, table, shape, target),
            copies=copies,
            tiles=tiles_of(where),
            hops=way.hops,
            chip_hops=way.chip_hops,
        )
        for (layer, table, copies), where, way in zip(sites, program.site_addresses, moved.layers, strict=True)
    ]
