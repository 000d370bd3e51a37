"""What makes one placement of arrays better than another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mcompiler.dataflow import (
    LayerPlan,
    digital_bound,
    digital_work,
    earliest,
    network_steps,
    read_time,
    reads_per_vector,
    tiles_of,
    timed,
)
from mcompiler.geometry import array_shape
from mcompiler.ir import AnalogProgram
from mcompiler.network.flows import Floats, Flows, Ints
from mcompiler.network.traffic import Traffic, measured, program_flows
from mcompiler.target import Target

Addresses = tuple[npt.NDArray[np.int32], ...]


@dataclass(frozen=True)
class Filling:
    """Tiles that are filled in one way, wherever they stand.

    Attributes:
        slots: array positions of all arrays.
        listed: lists the flows, when somebody asks for them.
        units: seconds that digital units need, for an interval arrays too.
        apart: seconds, were no link full and every tile where it is counted.
    """

    slots: Ints
    listed: Callable[[], Flows]
    units: float
    apart: float

    @cached_property
    def flows(self) -> Flows:
        """Between tiles of slots; for an interval added up."""
        return self.listed()


class Work:
    """What makes one placement better than another: the seconds of an interval or an inference, then byte-hops."""

    def __init__(
        self, program: AnalogProgram, counts: list[int], target: Target, latency: bool = False, seed: int = 0
    ) -> None:
        matrix, shape = program.tiled.matrix, array_shape(target)
        self.program, self.counts, self.target, self.latency, self.seed = program, counts, target, latency, seed
        self.stages = network_steps(matrix.lowered.skeleton, matrix.layers, matrix.digital_ops)
        self.steps = self.stages[0]
        cycle = read_time(shape, target)
        reads = [
            reads_per_vector(op, table, shape, target)
            for op, table in zip(matrix.layers, program.tiled.site_tables, strict=True)
        ]
        self.plans = [
            LayerPlan(op, number, copies)
            for op, number, copies in zip(matrix.layers, reads, program.site_copies, strict=True)
        ]
        busy = np.zeros(len(matrix.matrices))  # sites of one matrix share its arrays, one after the other
        for site, plan in zip(matrix.sites, self.plans, strict=True):
            busy[site.matrix] += -(-site.vectors // plan.copies) * plan.reads * cycle
        self.array_s = float(busy.max(initial=0.0))

    def flows_between(self, nodes: Ints) -> Flows:
        """Flows between these nodes of all arrays, layer after layer."""
        return program_flows(self.program, np.split(nodes, np.cumsum(self.counts)[:-1]), self.target, self.stages)

    def operations(self) -> Floats:
        """Digital operations behind the arrays of each matrix, of all its sites: [matrices]."""
        sites = self.program.tiled.matrix.sites
        work = digital_work(self.steps, len(sites))[:-1]
        return np.bincount([site.matrix for site in sites], weights=work, minlength=len(self.counts)).astype(np.float64)

    def _by_site(self, of_matrices: Addresses) -> Addresses:
        return tuple(of_matrices[site.matrix] for site in self.program.tiled.matrix.sites)

    def filling(self, slots: Ints, chips: int) -> Filling:
        """What is to know of tiles that are filled so, wherever they stand."""
        addresses = addresses_of(self.counts, slots, None, self.target)
        own = self._by_site(addresses)
        units = digital_bound(self.steps, len(own), own, self.target)
        nodes = filled_tiles(slots, self.target)
        if not self.latency:
            units = max(units, self.array_s)
            return Filling(slots, lambda: self.flows_between(nodes).added_up(), units, units)
        found = Filling(slots, lambda: self.flows_between(nodes), units, 0.0)
        in_place = np.tile(np.arange(self.target.hierarchy.tiles_per_chip), chips)
        return replace(found, apart=self._apart(found, self._traffic(found, in_place)))

    def badness(self, filling: Filling, site: Ints) -> tuple[float, float]:
        """Seconds, and bytes times links, with the tiles at these sites."""
        found = self._traffic(filling, site)
        return max(self._apart(filling, found), self._links(found)), found.byte_hops

    def held_back_by_links(self, filling: Filling, site: Ints) -> bool:
        """Whether it would be quicker, were no link full."""
        found = self._traffic(filling, site)
        return self._links(found) > self._apart(filling, found)

    def _links(self, found: Traffic) -> float:
        """Seconds that the fullest links need."""
        network = self.target.network
        return max(
            found.busiest_link_bytes * 8 / (network.link_bits * network.clock_hz),
            found.busiest_chip_bytes / network.chip_link_bytes_per_s,
        )

    def _traffic(self, filling: Filling, site: Ints) -> Traffic:
        tiles = self.target.hierarchy.tiles_per_chip
        node = np.arange(len(site)) // tiles * tiles + site
        return measured(filling.flows.between(node), len(self.plans) if self.latency else 0, self.target, 0.0)

    def _apart(self, filling: Filling, found: Traffic) -> float:
        """Seconds, were no link full. Of an inference: the end of its last token; no unit is faster."""
        if not self.latency:
            return filling.units
        addresses = self._by_site(addresses_of(self.counts, filling.slots, None, self.target))
        plans = [
            replace(plan, tiles=tiles_of(where), hops=way.hops, chip_hops=way.chip_hops)
            for plan, where, way in zip(self.plans, addresses, found.layers, strict=True)
        ]
        stages = timed(self.steps, plans, self.target)
        ends = [int(start[-1]) + stage.latency for start, stage in zip(earliest(stages), stages, strict=True)
                if len(start)]  # fmt: skip
        return max(filling.units, max(ends, default=0) / self.target.digital.clock_hz)


def array_counts(program: AnalogProgram) -> list[int]:
    """Arrays of each matrix, copies included."""
    return [len(table) * copies for table, copies in zip(program.tiled.tables, program.copies, strict=True)]


def addresses_of(counts: list[int], slots: Ints, site: Ints | None, target: Target) -> Addresses:
    """Addresses of arrays that stand in these slots, a slot being an array position counted through all chips.

    Args:
        counts: arrays of each matrix.
        slots: of each array, matrix after matrix.
        site: tile of the chip that each tile of slots becomes, [chips * tiles per chip]; None: as they are counted.
        target: the chip.
    """
    hierarchy = target.hierarchy
    index, position = np.divmod(slots, hierarchy.arrays_per_core)
    index, core = np.divmod(index, hierarchy.cores_per_tile)
    chip, tile = np.divmod(index, hierarchy.tiles_per_chip)
    if site is not None:
        tile = site[index]
    every = np.stack([chip, tile, core, position], axis=1).astype(np.int32)
    return tuple(np.split(every, np.cumsum(counts)[:-1])) if counts else ()


def filled_tiles(slots: Ints, target: Target) -> Ints:
    """Numbers of the tiles that slots belong to, counted through all chips."""
    return slots // (target.hierarchy.arrays_per_core * target.hierarchy.cores_per_tile)
