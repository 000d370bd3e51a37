"""Copies of the arrays of the layers that limit the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from itertools import chain, pairwise
from math import lcm
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt

from mcompiler.dataflow import (
    Candidate,
    CriticalPath,
    LayerPlan,
    Load,
    NetworkStage,
    Server,
    StageKind,
    TimedStage,
    best_interval,
    clocks,
    copies_by_turns,
    copies_for_throughput,
    critical_path,
    earliest,
    latency_bound,
    program_stages,
    read_time,
    reads_per_vector,
    tile_work,
    timed_stages,
)
from mcompiler.declarations import TIMING_KEYS, Chips, Option, Reads
from mcompiler.errors import CompileError
from mcompiler.geometry import array_shape
from mcompiler.ir import AnalogProgram, Replication
from mcompiler.network import likely_interval, placed_interval, placed_latency
from mcompiler.records import ReplicationRecord
from mcompiler.target import Target


class Goal(StrEnum):
    """What copies are to shorten."""

    NONE = "none"
    THROUGHPUT = "throughput"
    LATENCY = "latency"


@dataclass(frozen=True)
class Replicate:
    """Copy arrays within a budget: for throughput or for latency.

    Attributes:
        goal: ``throughput``: the shortest interval that the budget allows (exact), and then, with what is left, the
            latency; ``latency``: the shortest latency found.
        arrays: budget, copies included; None: what the chips that the model takes anyway hold.
        chips: chips to use at most, or None.
        effort: rounds of the search for latency, where that is the goal; a sixth of them where it comes second.
    """

    name: ClassVar[str] = "replicate"
    reads: ClassVar[Reads] = TIMING_KEYS
    goal: Annotated[
        Goal,
        Option(
            key="replicate",
            entry="replicate.goal",
            off=Goal.NONE,
            choices=Goal,
            help="Copy the arrays of layers that limit throughput or latency.",
        ),
    ] = Goal.THROUGHPUT
    arrays: Annotated[
        int | None,
        Option(
            entry="replicate.arrays",
            minimum=1,
            metavar="N",
            help="Number of arrays available for layers and copies.",
            shown_default="those of the chips in use",
            needs="a budget of arrays without copies; ask for replicate throughput or latency too",
        ),
    ] = None
    chips: Chips = None
    effort: int = 72

    def run(self, program: AnalogProgram, target: Target) -> AnalogProgram:
        """Return the program with the copies of each layer, and what they gain.

        Raises:
            CompileError: the budget does not hold one copy of everything.
        """
        tables = program.tiled.tables
        if self.goal is Goal.NONE or not any(len(table) for table in tables):
            return program
        total = sum(len(table) for table in tables)
        budget = self._budget(total, target)
        if total > budget:
            raise CompileError(
                f"one copy of every layer takes {total:,} arrays and the budget is {budget:,}; raise --arrays, or take "
                "more chips"
            )
        search = _Search(program, budget, target, spread=self.goal is Goal.LATENCY)
        copies = self._settled(program, search, target)
        return replace(program, replicas=tuple(copies), replication=search.figures(copies))

    def record(self, program: AnalogProgram) -> ReplicationRecord | None:
        """What the copies gain."""
        return None if program.replication is None else ReplicationRecord(program.replication)

    def _settled(self, program: AnalogProgram, search: _Search, target: Target) -> list[int]:
        """The best copies for arrays, or others where links and digital units hold them back once they are placed."""
        chips, clock = -(-max(1, search.budget) // target.hierarchy.arrays_per_chip), target.digital.clock_hz
        placed, alone = placed_latency, search.latency
        others: Callable[[_Found], Iterator[list[int]]] = partial(self._others, search)
        if self.goal is Goal.THROUGHPUT:
            others, placed, alone = partial(self._slower, program, search, target), placed_interval, search.interval
        found: _Found = []
        for choice in chain([search.best(self.goal, self.effort)], others(found)):
            if any(choice == known for _, known in found):
                continue
            found.append((placed(replace(program, replicas=tuple(choice)), chips, target), choice))
            shortest, best = min(found)
            if shortest <= _HELD_BACK[self.goal] * alone(best) / clock:
                return best
        # At no effort a placement may be some percent off: what balances most simply gets another chance.
        simple = copies_by_turns(search.candidates, search.budget)
        close = [each for each in found if each[1] == simple and shortest < each[0] <= _CLOSE * shortest]
        again = []
        for seconds, choice in [(shortest, best), *close] if close else []:
            more = placed(replace(program, replicas=tuple(choice)), chips, target, 1)
            again.append((min(seconds, more), choice))
        return min(again)[1] if again else best

    def _others(self, search: _Search, found: _Found) -> Iterator[list[int]]:
        """Copies for throughput: links may carry less with them."""
        yield copies_by_turns(search.candidates, search.budget)
        yield search.best(Goal.THROUGHPUT, self.effort)
        yield from (choice for choice in search.slower(_SLOWER[1]) if choice is not None)

    def _slower(self, program: AnalogProgram, search: _Search, target: Target, found: _Found) -> Iterator[list[int]]:
        """As quick in the arrays, and slower with more digital units or fewer bytes; none that cannot be the best."""
        least = copies_for_throughput(search.candidates, search.budget)
        yield copies_by_turns(search.candidates, search.budget)
        spread = _Search(program, search.budget, target, spread=True)
        for choice in (search.for_digital(least), spread.lower_latency(least, self.effort // 18)):
            if all(lcm(one, other) <= _TURNS for one, other in pairwise(choice)):
                yield choice

        chips = -(-max(1, search.budget) // target.hierarchy.arrays_per_chip)
        longer = dict.fromkeys(tuple(each) for factor in _SLOWER for each in search.slower(factor) if each is not None)
        clock, shortest = target.digital.clock_hz, min(found)[0]
        known = [tuple(choice) for _, choice in found]
        possible = [each for each in longer if each not in known and search.interval(each) < shortest * clock]
        likely = [likely_interval(replace(program, replicas=each), chips, target) for each in possible]
        for seconds, promising in sorted(zip(likely, possible, strict=True))[:_LIKELY]:
            if seconds < _PROMISING * shortest:
                yield list(promising)

    def _budget(self, total: int, target: Target) -> int:
        if self.arrays is not None:
            return self.arrays
        chips = self.chips
        if chips is None:
            given = target.hierarchy.chips
            chips = -(-total // target.hierarchy.arrays_per_chip) if given == "as needed" else given
        return chips * target.hierarchy.arrays_per_chip


_SLOWER = (1.0, 1.15, 1.3, 1.6, 2.0, 2.6)
"""Intervals of arrays that are tried, as multiples of the best, where other units cannot keep pace with them."""


_HELD_BACK = {Goal.THROUGHPUT: 1.01, Goal.LATENCY: 1.05}
"""Placed copies may take this multiple of what arrays (for latency, digital units too) need without another try."""


_CLOSE = 1.1
"""Multiple of the best time up to which the simplest balance is compared again with more effort."""


_TURNS = 1 << 14
"""Most turns after which the same copies of two layers meet again, in choices that arrays alone do not ask for: flows
between them are listed turn by turn."""


_Found = list[tuple[float, list[int]]]
"""Seconds with choices that have been placed."""


_PROMISING = 1.7
"""Multiple of the shortest interval so far up to which a choice is placed, before links are relieved."""


_LIKELY = 3
"""Choices for longer intervals that are placed, the most likely ones, to find the effect of links."""


class _Search:
    """The stages of a network and what copies do to them."""

    def __init__(self, program: AnalogProgram, budget: int, target: Target, spread: bool = False) -> None:
        matrix, shape = program.tiled.matrix, array_shape(target)
        self.budget, self.target, self.spread = budget, target, spread
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
        self._arrays = np.array([each.arrays for each in self.candidates], dtype=np.float64)
        self.paths: list[CriticalPath] = []  # critical paths with the copies that were tried
        columns = self.graph.columns()
        self.columns = {matrix.sites[site].matrix: count for site, count in reversed(columns.items())}
        chips = -(-max(1, budget) // target.hierarchy.arrays_per_chip)
        self.units = chips * target.hierarchy.tiles_per_chip
        self.servers = [self._server(stage) for stage in self.graph.stages]
        self.work = tile_work(program.tiled, self.graph, target)

    def _server(self, stage: NetworkStage) -> Server:
        matrix = self.sites[stage.layer].matrix if stage.layer >= 0 else -1
        if matrix < 0 or not self.candidates[matrix].arrays:
            return Server()
        if stage.kind is StageKind.ANALOG:
            return Server(matrix)
        each = stage.operations / max(1, stage.grid.tokens) / self.target.digital.operations_per_cycle
        return Server(matrix, each, self.candidates[matrix].arrays, self.units)

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

    def best(self, goal: Goal, effort: int) -> list[int]:
        """Copies for the goal."""
        copies = copies_for_throughput(self.candidates, self.budget)
        fastest = self.lower_latency(copies, effort // 6)
        if goal is Goal.THROUGHPUT:
            return fastest
        return min(fastest, self.lower_latency([1] * len(copies), effort), key=self.latency)

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
        first, second = (c if self._arrays @ np.array(c) <= self.budget else None for c in (plain, aligned))
        return first, second

    def for_digital(self, least: list[int]) -> list[int]:
        """Spend the rest of the budget where arrays have most digital work after them: more copies, more units."""
        copies, sizes = list(least), self._arrays
        work = np.bincount(
            [site.matrix for site in self.sites],
            weights=self.graph.operations(len(self.sites))[:-1],
            minlength=len(copies),
        )
        left = self.budget - float(sizes @ np.array(copies))
        free = np.array([bool(each.arrays) and each.most > 1 for each in self.candidates])
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
            copies = self._rounded(latency_bound(paths, self._arrays, self.budget, np.array(least, float))[1], least)
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

    def _rounded(self, wanted: npt.NDArray[np.float64], least: Sequence[int]) -> list[int]:
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

    def _with_units(self) -> list[Candidate]:
        """The candidates with the work of digital units and buffers at their tiles."""
        each = np.zeros(len(self.candidates))
        for site, own in zip(self.sites, self.work.unit_clocks(self.target), strict=False):
            each[site.matrix] += own
        return [
            replace(candidate, unit_clocks=own if candidate.arrays else 0.0, units=self.units)
            for candidate, own in zip(self.candidates, each.tolist(), strict=True)
        ]

    def figures(self, copies: Sequence[int]) -> Replication:
        """What the copies gain, and how far from the best they can be."""
        clock, one = self.target.digital.clock_hz, [1] * len(copies)
        limited, least = self._with_units(), self.work.least_clocks(self.units, self.target)
        bound, _ = latency_bound(
            [*self.paths, self._path(one), self._path(copies)], self._arrays, self.budget, np.ones(len(copies))
        )
        return Replication(
            budget=self.budget,
            arrays=sum(each.arrays * number for each, number in zip(self.candidates, copies, strict=True)),
            interval_before_s=max(least, *(each.busy(1) for each in limited)) / clock,
            interval_s=max(least, *(each.busy(n) for each, n in zip(limited, copies, strict=True))) / clock,
            interval_bound_s=max(least, best_interval(limited, self.budget)) / clock,
            latency_before_s=self.latency(one) / clock,
            latency_s=self.latency(copies) / clock,
            latency_bound_s=max(bound, 0.0) / clock,
        )


def _aligned(least: int, columns: int, tokens: int) -> int:
    """Fewest copies, at least as many, that divide a row of the raster or are whole rows."""
    for number in range(least, min(columns, tokens) + 1):
        if columns % number == 0:
            return number
    whole_rows = -(-least // columns) * columns
    return whole_rows if whole_rows <= tokens else least
