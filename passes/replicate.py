"""Copies of the arrays of the layers that limit the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from itertools import pairwise
from math import lcm
from typing import Annotated, ClassVar

from mcompiler.dataflow import Choice, CopySearch, best_within, budget_levels, copies_by_turns, copies_for_throughput
from mcompiler.declarations import TIMING_KEYS, Chips, Effort, Option, Reads, Seed
from mcompiler.errors import CompileError
from mcompiler.ir import AnalogProgram
from mcompiler.network import Aim, likely_time, scheduled_placement
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

    Copies are judged by the schedule of their placement. A larger budget is never worse than a smaller one, and a
    higher effort never worse than a lower one.

    Attributes:
        goal: ``throughput``: a short interval, and then a short latency; ``latency``: the other way round.
        arrays: budget, copies included; None: what the chips that the model takes anyway hold.
        chips: chips to use at most, or None.
        effort: of the placement; what lower efforts find is kept where it is better.
        seed: of the placement.
        rounds: of the search for latency, where that is the goal; a sixth of them where it comes second.
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
    effort: Effort = 1
    seed: Seed = 0
    rounds: int = 72

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
        search = _PlacedSearch(program, target, Aim(self.goal is Goal.LATENCY, self.seed), self.rounds)
        levels = search.levels(self._room(target))
        best, effort = min(
            (best_within(budget, levels, partial(search.find, effort), search.bound), effort)
            for effort in range(self.effort + 1)
        )
        figures = search.within(budget).figures(best.copies, effort)
        return replace(program, replicas=best.copies, replication=figures)

    def record(self, program: AnalogProgram) -> ReplicationRecord | None:
        """What the copies gain."""
        return None if program.replication is None else ReplicationRecord(program.replication)

    def _room(self, target: Target) -> int | None:
        """Arrays of all chips that may be used; None: as many as needed."""
        chips = target.hierarchy.chips if self.chips is None else self.chips
        return None if chips == "as needed" else chips * target.hierarchy.arrays_per_chip

    def _budget(self, total: int, target: Target) -> int:
        if self.arrays is not None:
            return self.arrays
        return self._room(target) or -(-total // target.hierarchy.arrays_per_chip) * target.hierarchy.arrays_per_chip


@dataclass
class _PlacedSearch:
    """Choices of copies for budgets, with the interval and latency of their placement.

    Attributes:
        program: what is copied.
        target: the chip.
        aim: interval or latency.
        rounds: of the search for latency, where that is the goal.
    """

    program: AnalogProgram
    target: Target
    aim: Aim
    rounds: int
    _searches: dict[int, CopySearch] = field(default_factory=dict)
    _bounds: dict[int, float] = field(default_factory=dict)
    _likely: dict[int, list[tuple[int, ...]]] = field(default_factory=dict)
    _placed: dict[tuple[int, tuple[int, ...]], Choice] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._plain = CopySearch(self.program, self.target, spread=self.aim.latency)

    def levels(self, room: int | None) -> list[int]:
        """Budgets at which a search starts anew; ``room``: arrays of all chips, None: as many as needed."""
        one = sum(each.arrays for each in self._plain.candidates)
        most = sum(each.arrays * each.most for each in self._plain.candidates)
        chips = -(-one // self.target.hierarchy.arrays_per_chip)
        return budget_levels(
            one, chips * self.target.hierarchy.arrays_per_chip, most if room is None else min(most, room)
        )

    def within(self, budget: int) -> CopySearch:
        """The search for a budget."""
        if budget not in self._searches:
            self._searches[budget] = self._plain.within(budget)
        return self._searches[budget]

    def bound(self, budget: int) -> float:
        """Seconds that no copies within a budget go below."""
        if budget not in self._bounds:
            search = self.within(budget)
            one, quick = [1] * len(search.candidates), copies_for_throughput(search.candidates, budget)
            by_goal = search.latency_bound([one, quick]) if self.aim.latency else search.least_interval()
            self._bounds[budget] = by_goal
        return self._bounds[budget]

    def find(self, effort: int, budget: int) -> Choice:
        """The best for a budget of those choices that are worth a placement."""
        if budget not in self._likely:
            self._likely[budget] = self._most_likely(budget)
        return min(self._place(effort, copies) for copies in self._likely[budget])

    def _place(self, effort: int, copies: tuple[int, ...]) -> Choice:
        """These copies with what their placement reaches."""
        key = effort, copies
        if key not in self._placed:
            program = replace(self.program, replicas=copies)
            first, second, _ = scheduled_placement(program, effort, self.target, self.aim).objective
            self._placed[key] = Choice((first, second), int(self._plain.arrays @ copies), copies)
        return self._placed[key]

    def _most_likely(self, budget: int) -> list[tuple[int, ...]]:
        """Copies with which links and digital units are likely to hold the arrays back least."""
        search = self.within(budget)
        first = search.for_latency(self.rounds) if self.aim.latency else search.for_throughput(self.rounds // 18)
        likely = [(self._likely_time(first), tuple(first))]
        if likely[0][0] <= _CLOSE * self.bound(budget):
            return [likely[0][1]]
        for copies in dict.fromkeys(self._propose(budget)):
            arrays_s = search.interval(copies) / self.target.digital.clock_hz
            hopeless = len(likely) == _PLACED and arrays_s > likely[-1][0]
            if not hopeless and copies not in {known for _, known in likely} and _few_turns(copies):
                likely = sorted([*likely, (self._likely_time(copies), copies)])[:_PLACED]
        return [copies for _, copies in likely]

    def _likely_time(self, copies: Sequence[int]) -> float:
        return likely_time(replace(self.program, replicas=tuple(copies)), self.target, self.aim)

    def _propose(self, budget: int) -> Iterator[tuple[int, ...]]:
        search = self.within(budget)
        yield tuple(copies_by_turns(search.candidates, budget))
        yield tuple(search.for_digital(copies_for_throughput(search.candidates, budget)))
        yield tuple(search.for_throughput(self.rounds // 6))
        for factor in _SLOWER:
            plain, aligned = search.slower(factor)
            if aligned is not None:
                yield tuple(aligned)
            if plain is not None:
                yield tuple(plain)
                yield tuple(search.for_digital(plain))


def _few_turns(copies: Sequence[int]) -> bool:
    """Whether flows between layers, which are listed turn by turn, are not too many."""
    return all(lcm(one, other) <= _TURNS for one, other in pairwise(copies))


_CLOSE = 1.01
"""Multiple of the bound up to which no other choice is tried."""

_PLACED = 4
"""Choices for a budget that are placed with full effort."""

_SLOWER = (1.0, 1.1, 1.2, 1.3, 1.45, 1.6, 1.8, 2.0)
"""Intervals of arrays that are tried, as multiples of the best; longer ones are those of smaller budgets."""

_TURNS = 1 << 17
"""Most turns after which the same copies of two layers meet again."""
