"""What makes one placement of arrays better than another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mcompiler.dataflow import (
    LayerPlan,
    earliest,
    program_stages,
    read_time,
    reads_per_vector,
    tile_work,
    tiles_of,
    timed_stages,
)
from mcompiler.geometry import array_shape
from mcompiler.ir import AnalogProgram
from mcompiler.network.flows import Flows
from mcompiler.network.locations import Floats, Ints
from mcompiler.network.traffic import Traffic, measured, program_flows
from mcompiler.target import Target

Addresses = tuple[npt.NDArray[np.int32], ...]


@dataclass(frozen=True)
class Filling:
    """Tiles that are filled in one way, at any position.

    Attributes:
        slots: array positions of all arrays.
        list_flows: lists the flows, when they are needed.
        units_s: seconds that digital units and buffers need, for an interval arrays too.
        without_links_s: seconds if no link were full and every tile at the position of its number.
    """

    slots: Ints
    list_flows: Callable[[], Flows]
    units_s: float
    without_links_s: float

    @cached_property
    def flows(self) -> Flows:
        """Between tiles of slots; for an interval added up."""
        return self.list_flows()


@dataclass(frozen=True)
class Aim:
    """What a placement is for.

    Attributes:
        latency: one inference alone is to be quick; else the interval between two short.
        seed: of the exchanges that are tried to relieve links.
    """

    latency: bool = False
    seed: int = 0


INTERVAL = Aim()
"""A short interval."""


class Work:
    """The objective of a placement: the seconds of an interval or an inference, then bytes times links."""

    def __init__(self, program: AnalogProgram, target: Target, aim: Aim = INTERVAL) -> None:
        matrix, shape = program.tiled.matrix, array_shape(target)
        self.program, self.counts, self.target, self.aim = program, array_counts(program), target, aim
        self.graph = program_stages(program.tiled, target)
        self.tile_work = tile_work(program.tiled, self.graph, target)
        cycle = read_time(shape, target)
        self.plans = [
            LayerPlan(layer, reads_per_vector(layer, table, shape, target), copies)
            for layer, table, copies in zip(matrix.layers, program.tiled.site_tables, program.site_copies, strict=True)
        ]
        busy = np.zeros(len(matrix.matrices))  # sites of one matrix share its arrays, one after the other
        for site, plan in zip(matrix.sites, self.plans, strict=True):
            busy[site.matrix] += -(-site.vectors // plan.copies) * plan.reads * cycle
        self.array_s = float(busy.max(initial=0.0))

    def flows_between(self, nodes: Ints) -> Flows:
        """Flows between these nodes of all arrays, matrix after matrix."""
        own = np.split(nodes, np.cumsum(self.counts)[:-1])
        return program_flows(self.program, own, self.target, self.graph)

    def operations(self) -> Floats:
        """Digital operations after the arrays of each matrix, of all its sites: [matrices]."""
        sites = self.program.tiled.matrix.sites
        work = self.graph.operations(len(sites))[:-1]
        return np.bincount([site.matrix for site in sites], weights=work, minlength=len(self.counts)).astype(np.float64)

    def filling(self, slots: Ints, chips: int) -> Filling:
        """What is known of tiles that are filled in this way, at any position."""
        own = self._by_site(addresses_of(self.counts, slots, None, self.target))
        units = max(self.tile_work.bounds(own, self.target).values())
        nodes = filled_tiles(slots, self.target)
        if not self.aim.latency:
            units = max(units, self.array_s)
            if self.target.network.multicast:  # needs to know which flows carry the same words
                return Filling(slots, lambda: self.flows_between(nodes), units, units)
            return Filling(slots, lambda: self.flows_between(nodes).added_up(), units, units)
        found = Filling(slots, lambda: self.flows_between(nodes), units, 0.0)
        in_place = np.tile(np.arange(self.target.hierarchy.tiles_per_chip), chips)
        seconds = self._time_ignoring_links(found, self._traffic(found, in_place))
        return replace(found, without_links_s=seconds)

    def objective(self, filling: Filling, position: Ints) -> tuple[float, float]:
        """Seconds, and bytes times links, with the tiles at these positions."""
        found = self._traffic(filling, position)
        return max(self._time_ignoring_links(filling, found), self._link_time(found)), found.byte_hops

    def limited_by_links(self, filling: Filling, position: Ints) -> bool:
        """Whether the busiest links take longer than everything else."""
        found = self._traffic(filling, position)
        return self._link_time(found) > self._time_ignoring_links(filling, found)

    def _by_site(self, of_matrices: Addresses) -> Addresses:
        return tuple(of_matrices[site.matrix] for site in self.program.tiled.matrix.sites)

    def _link_time(self, found: Traffic) -> float:
        """Seconds that the busiest links need."""
        network = self.target.network
        return max(
            found.busiest_link_bytes * 8 / (network.link_bits * network.clock_hz),
            found.busiest_chip_bytes / network.chip_link_bytes_per_s,
        )

    def _traffic(self, filling: Filling, position: Ints) -> Traffic:
        tiles = self.target.hierarchy.tiles_per_chip
        node = np.arange(len(position)) // tiles * tiles + position
        layers = len(self.plans) if self.aim.latency else 0
        return measured(filling.flows.between(node), layers, self.target, 0.0)

    def _time_ignoring_links(self, filling: Filling, found: Traffic) -> float:
        """Seconds if no link were full; of an inference, the end of its last token and no less than the units need."""
        if not self.aim.latency:
            return filling.units_s
        addresses = self._by_site(addresses_of(self.counts, filling.slots, None, self.target))
        plans = [
            replace(plan, tiles=tiles_of(where), hops=way.hops, chip_hops=way.chip_hops)
            for plan, where, way in zip(self.plans, addresses, found.layers, strict=True)
        ]
        stages = timed_stages(self.graph, plans, self.target)
        runs = zip(earliest(stages), stages, strict=True)
        ends = [int(start[-1]) + stage.latency for start, stage in runs if len(start)]
        return max(filling.units_s, max(ends, default=0) / self.target.digital.clock_hz)


def array_counts(program: AnalogProgram) -> list[int]:
    """Arrays of each matrix, copies included."""
    return [len(table) * copies for table, copies in zip(program.tiled.tables, program.copies, strict=True)]


def addresses_of(counts: list[int], slots: Ints, position: Ints | None, target: Target) -> Addresses:
    """Addresses of arrays in these slots, a slot being an array position counted through all chips.

    Args:
        counts: arrays of each matrix.
        slots: of each array, matrix after matrix.
        position: tile of the chip that each tile of slots becomes, [chips * tiles per chip]; None: that of its number.
        target: the chip.
    """
    hierarchy = target.hierarchy
    index, place = np.divmod(slots, hierarchy.arrays_per_core)
    index, core = np.divmod(index, hierarchy.cores_per_tile)
    chip, tile = np.divmod(index, hierarchy.tiles_per_chip)
    if position is not None:
        tile = position[index]
    every = np.stack([chip, tile, core, place], axis=1).astype(np.int32)
    return tuple(np.split(every, np.cumsum(counts)[:-1])) if counts else ()


def filled_tiles(slots: Ints, target: Target) -> Ints:
    """Numbers of the tiles that slots belong to, counted through all chips."""
    return slots // (target.hierarchy.arrays_per_core * target.hierarchy.cores_per_tile)
