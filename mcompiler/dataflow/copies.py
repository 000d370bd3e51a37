"""Choice of copies for a budget of arrays: shortest interval, short latency, and bounds of both."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace

import numpy as np

from mcompiler.dataflow.capacity import tile_work
from mcompiler.dataflow.durations import LayerPlan, clocks, read_time, reads_per_vector, timed_stages
from mcompiler.dataflow.replicas import (
    Candidate,
    CriticalPath,
    Floats,
    Load,
    Server,
    best_interval,
    copies_for_throughput,
    critical_path,
    latency_bound,
)
from mcompiler.dataflow.stages import NetworkStage, StageKind, program_stages
from mcompiler.dataflow.timing import TimedStage, earliest
from mcompiler.geometry import array_shape
from mcompiler.ir import AnalogProgram, Replication
from mcompiler.target import Target


class CopySearch:
    """The stages of a network and what copies do to them."""

    def __init__(self, program: AnalogProgram, target: Target, spread: bool = False) -> None:
        """Without copies; ``within`` gives a budget.

        Args:
            program: without copies.
            target: the chip.
            spread: whether copies are spread over many tiles.
        """
        matrix, shape = program.tiled.matrix, array_shape(target)
        self.target, self.spread = target, spread
        self.graph, self.sites = program_stages(program.tiled, target), matrix.sites
        self.plans = [
            LayerPlan(layer, reads_per_vector(layer, table, shape, target), tiles=1 if len(table) else 0)
            for layer, table in zip(matrix.layers, program.tiled.site_tables, strict=True)
        ]
        self.per_tile = target.hierarchy.arrays_per_core * target.hierarchy.cores_per_tile
        cycle = clocks(read_time(shape, target), target)
        loads: list[list[Load]] = [[] for _ in matrix.matrices]
        for site, plan in zip(matrix.sites, self.plans, strict=True):
            loads[site.matrix].append(Load(site.vectors, plan.reads * cycle, site.steps))
        self.candidates = [
            Candidate(tuple(each), len(table)) for each, table in zip(loads, program.tiled.tables, strict=True)
        ]
        self.arrays = np.array([each.arrays for each in self.candidates], dtype=np.float64)
        self.paths: list[CriticalPath] = []  # critical paths with the copies that were tried
        columns = self.graph.columns()
        self.columns = {matrix.sites[site].matrix: count for site, count in reversed(columns.items())}
        self.budget, self.units, self.servers = 0, 1, [Server()]
        self.work = tile_work(program.tiled, self.graph, target)

    def within(self, budget: int) -> CopySearch:
        """The same for a budget of arrays."""
        found = copy(self)
        found.budget, found.paths = budget, []
        found.units = -(-max(1, budget) // self.target.hierarchy.arrays_per_chip) * self.target.hierarchy.tiles_per_chip
        found.servers = [found._server(stage) for stage in self.graph.stages]
        return found

    def _server(self, stage: NetworkStage) -> Server:
        matrix = self.sites[stage.layer].matrix if stage.layer >= 0 else -1
        if matrix < 0 or not self.candidates[matrix].arrays:
            return Server()
        if stage.kind is StageKind.ANALOG:
            return Server(matrix)
        each = stage.operations / max(1, stage.grid.tokens) / self.target.digital.operations_per_cycle
        return Server(matrix, each, self.candidates[matrix].arrays, self.units)

    def _with_units(self) -> list[Candidate]:
        """The candidates with the work of digital units and buffers at their tiles."""
        each = np.zeros(len(self.candidates))
        for site, own in zip(self.sites, self.work.unit_clocks(self.target), strict=False):
            each[site.matrix] += own
        return [
            replace(candidate, unit_clocks=own if candidate.arrays else 0.0, units=self.units)
            for candidate, own in zip(self.candidates, each.tolist(), strict=True)
        ]

    def least_interval(self) -> float:
        """Seconds between two inferences that no copies within the budget go below, links not counted."""
        least = self.work.least_clocks(self.units, self.target)
        return max(least, best_interval(self._with_units(), self.budget)) / self.target.digital.clock_hz

    def stages(self, copies: Sequence[int]) -> list[TimedStage]:
        """With tiles as many as the arrays fill; for latency as many as there are copies, where there are."""
        tiles = []
        for number, each in zip(copies, self.candidates, strict=True):
            filled = -(-number * each.arrays // self.per_tile)
            tiles.append(max(filled, min(number, self.units)) if self.spread and each.arrays else filled)
        plans = [
            replace(plan, copies=copies[site.matrix], tiles=tiles[site.matrix])
            for site, plan in zip(self.sites, self.plans, strict=True)
        ]
        return timed_stages(self.graph, plans, self.target)

    def interval(self, copies: Sequence[int]) -> int:
        """Clocks between two inferences that arrays allow."""
        return max(each.busy(number) for each, number in zip(self.candidates, copies, strict=True))

    def latency(self, copies: Sequence[int]) -> int:
        """Clocks of one inference alone."""
        stages = self.stages(copies)
        ends = (
            int(start[-1]) + stage.latency for start, stage in zip(earliest(stages), stages, strict=True) if len(start)
        )
        return max(ends, default=0)

    def for_throughput(self, rounds: int) -> list[int]:
        """Copies for the shortest interval of arrays, and with what the budget leaves for a short latency."""
        return self.lower_latency(copies_for_throughput(self.candidates, self.budget), rounds)

    def for_latency(self, rounds: int) -> list[int]:
        """Copies for the shortest latency found."""
        fastest = self.for_throughput(rounds // 6)
        return min(fastest, self.lower_latency([1] * len(fastest), rounds), key=self.latency)

    def slower(self, factor: float) -> tuple[list[int] | None, list[int] | None]:
        """Copies for an interval that much longer than the best; and such that each takes the same columns of each row.

        Where the copies divide a row, or a row the copies, each sees the same columns in every row, and its windows
        overlap with themselves: it reads less of its input. None: more than the budget.
        """
        interval = int(best_interval(self.candidates, self.budget) * factor)
        plain = [each.copies_for(max(interval, each.least)) for each in self.candidates]
        aligned = [
            _aligned(number, self.columns.get(index, 1), each.most)
            for index, (number, each) in enumerate(zip(plain, self.candidates, strict=True))
        ]
        first, second = (c if self.arrays @ np.array(c) <= self.budget else None for c in (plain, aligned))
        return first, second

    def for_digital(self, least: list[int]) -> list[int]:
        """Spend the rest of the budget where arrays have most digital work after them: more copies, more units."""
        copies, sizes = list(least), self.arrays
        work = np.bincount(
            [site.matrix for site in self.sites],
            weights=self.graph.operations(len(self.sites))[:-1],
            minlength=len(copies),
        )
        left = self.budget - float(sizes @ np.array(copies))
        free = np.array([each.arrays > 0 and each.most > n for each, n in zip(self.candidates, copies, strict=True)])
        while free.any():
            each = np.where(free, work / np.maximum(1, sizes * copies), -1)
            index = int(np.argmax(each))
            if sizes[index] > left:
                break
            copies[index] += 1
            left -= float(sizes[index])
            free[index] = copies[index] < self.candidates[index].most
        return copies

    def lower_latency(self, least: list[int], effort: int) -> list[int]:
        """Spend what the budget leaves on latency; no layer gets fewer copies than ``least``."""
        best, shortest = list(least), self.latency(least)
        paths = [self._path(least)]
        for _ in range(effort):
            copies = self._rounded(latency_bound(paths, self.arrays, self.budget, np.array(least, float))[1], least)
            found = self.latency(copies)
            if found < shortest:
                best, shortest = copies, found
            path = self._path(copies)
            if any(np.array_equal(path.work, known.work) and path.fixed == known.fixed for known in paths):
                break
            paths.append(path)
        self.paths += paths
        return best

    def _path(self, copies: Sequence[int]) -> CriticalPath:
        """The chain of tokens that an inference waits for with these copies."""
        stages = self.stages(copies)
        return critical_path(stages, earliest(stages), self.servers, len(self.candidates))

    def _rounded(self, wanted: Floats, least: Sequence[int]) -> list[int]:
        """Whole copies within the budget: rounded down, and what is left to those that lost most by it."""
        most = [each.most for each in self.candidates]
        copies = [min(top, max(low, int(want))) for want, low, top in zip(wanted.tolist(), least, most, strict=True)]
        left = self.budget - sum(each.arrays * number for each, number in zip(self.candidates, copies, strict=True))
        lost = [
            want / number if each.arrays else 0.0
            for want, number, each in zip(wanted.tolist(), copies, self.candidates, strict=True)
        ]
        for index in sorted(range(len(copies)), key=lambda i: -lost[i]):
            if lost[index] > 1 and copies[index] < most[index] and self.candidates[index].arrays <= left:
                copies[index] += 1
                left -= self.candidates[index].arrays
        return copies

    def latency_bound(self, copies: Sequence[Sequence[int]]) -> float:
        """Seconds of one inference alone that no copies within the budget go below.

        Args:
            copies: whose critical paths bound the latency, besides those that were tried before.
        """
        paths = [*self.paths, *(self._path(each) for each in copies)]
        bound, _ = latency_bound(paths, self.arrays, self.budget, np.ones(len(self.candidates)))
        clock = self.target.digital.clock_hz
        return max(bound / clock, self.least_interval() - 1 / clock)  # an interval is rounded up to whole clocks

    def figures(self, copies: Sequence[int], effort: int) -> Replication:
        """What the copies gain, and how far from the best they can be.

        Args:
            copies: of each matrix.
            effort: of the placement that they were chosen with.
        """
        one = [1] * len(copies)
        (interval_before, latency_before), (interval, latency) = self._times(one), self._times(copies)
        return Replication(
            budget=self.budget,
            arrays=sum(each.arrays * number for each, number in zip(self.candidates, copies, strict=True)),
            interval_before_s=interval_before,
            interval_s=interval,
            interval_bound_s=self.least_interval(),
            latency_before_s=latency_before,
            latency_s=latency,
            latency_bound_s=self.latency_bound([one, copies]),
            placement_effort=effort,
        )

    def _times(self, copies: Sequence[int]) -> tuple[float, float]:
        """Seconds of interval and latency, links not counted."""
        busy = [each.busy(number) for each, number in zip(self._with_units(), copies, strict=True)]
        clock, interval = self.target.digital.clock_hz, max(self.work.least_clocks(self.units, self.target), *busy)
        return interval / clock, max(self.latency(copies), interval - 1) / clock


def _aligned(least: int, columns: int, tokens: int) -> int:
    """Fewest copies, at least as many, that divide a row of the raster or are whole rows."""
    for number in range(least, min(columns, tokens) + 1):
        if columns % number == 0:
            return number
    whole_rows = -(-least // columns) * columns
    return whole_rows if whole_rows <= tokens else least
