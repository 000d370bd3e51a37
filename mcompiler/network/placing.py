"""Where arrays are placed: the best of several ways to fill tiles, and of the positions that these tiles may have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mcompiler.dataflow import program_stages
from mcompiler.errors import CompileError
from mcompiler.ir import AnalogProgram, PlacedProgram
from mcompiler.network.filling import cut_chips, orders, spread_copies, spread_digital
from mcompiler.network.locations import Ints
from mcompiler.network.positions import SearchLimits, arrange_tiles, relieve_busiest_links
from mcompiler.network.timing import placed_timing
from mcompiler.network.traffic import located
from mcompiler.network.work import INTERVAL, Addresses, Aim, Filling, Work, addresses_of, array_counts
from mcompiler.target import Target

Arrangement = tuple[tuple[float, float], Filling, Ints]
"""Objective of a placement, how its tiles are filled and their positions."""


def in_order(program: AnalogProgram, target: Target) -> Addresses:
    """Addresses of arrays one after the other, layer by layer."""
    counts = array_counts(program)
    return addresses_of(counts, np.arange(sum(counts)), None, target)


@dataclass(frozen=True)
class ScheduledPlacement:
    """Arrays with addresses, and how fast they are.

    Attributes:
        objective: what the placement is for and then the other one of interval and latency, in seconds, as scheduled;
            then bytes times links.
        addresses: of the arrays of each matrix.
    """

    objective: tuple[float, float, float]
    addresses: Addresses


def scheduled_placement(program: AnalogProgram, effort: int, target: Target, aim: Aim = INTERVAL) -> ScheduledPlacement:
    """The best of the arrays in order and of all placements that this effort and all below it find.

    Args:
        program: with the tables of the arrays and the copies of each matrix.
        effort: 0 keeps the order of the layers, each step doubles the rounds.
        target: the chip.
        aim: interval or latency.
    """
    plain = in_order(program, target)
    chips = max(1, -(-sum(array_counts(program)) // target.hierarchy.arrays_per_chip))
    graph = program_stages(program.tiled, target)

    def scheduled(addresses: Addresses) -> ScheduledPlacement:
        placed = located(PlacedProgram(program, addresses, chips), target, graph)
        moved = placed.traffic()
        try:
            timing = placed_timing(placed, moved)
        except CompileError:  # activations do not fit; the schedule says so where no placement is better
            return ScheduledPlacement((np.inf, np.inf, moved.byte_hops), addresses)
        seconds = timing.interval_s, timing.latency_s
        return ScheduledPlacement((*(seconds[::-1] if aim.latency else seconds), moved.byte_hops), addresses)

    found = scheduled(plain)
    if effort:
        work = Work(program, target, aim)
        for _, filling, position in _placements(work, chips, effort):
            addresses = addresses_of(work.counts, filling.slots, position, target)
            if any(not np.array_equal(here, there) for here, there in zip(addresses, found.addresses, strict=True)):
                found = min(found, scheduled(addresses), key=lambda each: each.objective)
    return found


def place_filled(program: AnalogProgram, slots: Ints, chips: int, target: Target, effort: int | None = 1) -> Addresses:
    """Addresses of arrays that fill tiles in a way that is given, with these tiles placed.

    Args:
        program: with the tables of the arrays and the copies of each matrix.
        slots: of each array, matrix after matrix: array positions, counted through all chips.
        chips: to be used.
        target: the chip.
        effort: doubles the rounds; None leaves every tile at the position of its number.
    """
    work = Work(program, target)
    if effort is None:
        return addresses_of(work.counts, slots, None, target)
    filling = work.filling(slots, chips)
    found = [each for step in range(effort + 1) for each in _arranged(work, [filling], np.inf, chips, step)]
    return addresses_of(work.counts, slots, min(found, key=lambda each: each[0])[2], target)


def _fillings(work: Work, chips: int) -> list[Filling]:
    """Ways to fill the tiles; those in which links alone decide come first."""
    slots = []
    for order in orders(work):
        cut = cut_chips(work, order, chips, work.target)
        slots += [cut, *(spread_digital(work, cut, work.target, least) for least in (1.0, 0.0))]
    if work.aim.latency or max(work.program.copies, default=1) > 1:
        slots.append(spread_copies(work, slots[0], work.target))
    return sorted((work.filling(each, chips) for each in slots), key=lambda each: each.without_links_s)


def _placements(work: Work, chips: int, effort: int) -> list[Arrangement]:
    """The best arrangement of each effort; the first effort includes a quick look."""
    fillings = _fillings(work, chips)
    found = _arranged(work, fillings, np.inf, chips, 0)
    best = []
    for each in range(1, effort + 1):
        found += _arranged(work, fillings, min(objective[0] for objective, _, _ in found), chips, each)
        best.append(min(found, key=lambda arrangement: arrangement[0]))
    return best


def _arranged(work: Work, fillings: list[Filling], known: float, chips: int, effort: int) -> list[Arrangement]:
    """Arrangements that one effort finds; ``known``: seconds of the best so far."""
    found: list[Arrangement] = []
    for filling in fillings:
        if filling.without_links_s > min([known, *(objective[0] for objective, _, _ in found)]):
            break
        for position in arrange_tiles(filling.flows, filling.slots, chips, effort, work.target):
            found.append(_relieved(work, filling, position, _QUICK))
    best = sorted(found, key=lambda each: each[0])[:_RELIEVED]
    return found + [_relieved(work, filling, position, effort) for _, filling, position in best]


def _relieved(work: Work, filling: Filling, position: Ints, effort: int) -> Arrangement:
    """An arrangement whose busiest links are relieved, where they take longer than all else and where that helps."""
    plain = work.objective(filling, position), filling, position
    if not work.limited_by_links(filling, position):
        return plain
    limits = SearchLimits(effort, work.aim.seed)
    position = relieve_busiest_links(position, filling.flows, filling.slots, limits, work.target)
    return min(plain, (work.objective(filling, position), filling, position), key=lambda each: each[0])


_RELIEVED = 3
"""Arrangements, the best ones after a quick look, whose busiest links are relieved."""

_QUICK = -2
"""Effort of a quick look."""


def likely_time(program: AnalogProgram, target: Target, aim: Aim = INTERVAL) -> float:
    """Seconds of an interval or an inference with a quick look for positions only."""
    chips = max(1, -(-sum(array_counts(program)) // target.hierarchy.arrays_per_chip))
    work = Work(program, target, aim)
    found: list[float] = []
    for filling in _fillings(work, chips):
        if filling.without_links_s > min(found, default=np.inf):
            break
        position = arrange_tiles(filling.flows, filling.slots, chips, 0, target)[0]
        found.append(_relieved(work, filling, position, _QUICK)[0][0])
    return min(found)
