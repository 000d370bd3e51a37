"""Where arrays are placed: the best of several ways to fill tiles, and of the positions that these tiles may have."""

from __future__ import annotations

import numpy as np

from mcompiler.ir import AnalogProgram
from mcompiler.network.filling import cut_chips, orders, spread_copies, spread_digital
from mcompiler.network.locations import Ints
from mcompiler.network.positions import SearchLimits, arrange_tiles, relieve_busiest_links
from mcompiler.network.work import INTERVAL, Addresses, Aim, Filling, Work, addresses_of, array_counts
from mcompiler.target import Target

Arrangement = tuple[tuple[float, float], Filling, Ints]
"""Objective of a placement, how its tiles are filled and their positions."""


def in_order(program: AnalogProgram, target: Target) -> Addresses:
    """Addresses of arrays one after the other, layer by layer."""
    counts = array_counts(program)
    return addresses_of(counts, np.arange(sum(counts)), None, target)


def best_placement(program: AnalogProgram, chips: int, effort: int, target: Target, aim: Aim = INTERVAL) -> Addresses:
    """The best of all orders of filling tiles and arrangements of tiles that this effort and all below it find.

    Args:
        program: with the tables of the arrays and the copies of each matrix.
        chips: to be used.
        effort: doubles the rounds.
        target: the chip.
        aim: interval or latency.
    """
    work = Work(program, target, aim)
    _, filling, position = _placement(work, chips, effort)
    return addresses_of(work.counts, filling.slots, position, target)


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


def _placement(work: Work, chips: int, effort: int) -> Arrangement:
    """The best arrangement that the efforts up to this one find."""
    slots = []
    for order in orders(work):
        cut = cut_chips(work, order, chips, work.target)
        slots += [cut, *(spread_digital(work, cut, work.target, least) for least in (1.0, 0.0))]
    if work.aim.latency:
        slots.append(spread_copies(work, slots[0], work.target))
    # Ways to fill the tiles in which links alone decide come first; what is slower without links is left out.
    fillings = sorted((work.filling(each, chips) for each in slots), key=lambda each: each.without_links_s)
    found: list[Arrangement] = []
    for each in range(effort + 1):
        found += _arranged(
            work, fillings, min((objective[0] for objective, _, _ in found), default=np.inf), chips, each
        )
    plain = work.filling(np.arange(sum(work.counts)), chips)
    if plain.without_links_s <= min(objective[0] for objective, _, _ in found):
        in_place = np.tile(np.arange(work.target.hierarchy.tiles_per_chip), chips)
        found.append((work.objective(plain, in_place), plain, in_place))
    return min(found, key=lambda each: each[0])


def _arranged(work: Work, fillings: list[Filling], known: float, chips: int, effort: int) -> list[Arrangement]:
    """Arrangements that one effort finds; ``known``: seconds of the best so far."""
    found: list[Arrangement] = []
    for filling in fillings:
        if filling.without_links_s > min([known, *(objective[0] for objective, _, _ in found)]):
            break
        for position in arrange_tiles(filling.flows, filling.slots, chips, effort, work.target):
            found.append((work.objective(filling, position), filling, position))
    for _, filling, start in sorted(found, key=lambda each: each[0])[:_RELIEVED]:
        if work.limited_by_links(filling, start):
            limits = SearchLimits(effort, work.aim.seed)
            position = relieve_busiest_links(start, filling.flows, filling.slots, limits, work.target)
            found.append((work.objective(filling, position), filling, position))
    return found


_RELIEVED = 3
"""Arrangements, the best ones, whose busiest links are relieved."""


def placed_interval(program: AnalogProgram, chips: int, target: Target, effort: int = 0) -> float:
    """The interval in seconds that arrays, digital units and links allow in the placement that an effort finds."""
    return _placed(program, chips, target, effort, latency=False)


def placed_latency(program: AnalogProgram, chips: int, target: Target, effort: int = 0) -> float:
    """Seconds of one inference alone in the placement that an effort finds."""
    return _placed(program, chips, target, effort, latency=True)


def _placed(program: AnalogProgram, chips: int, target: Target, effort: int, latency: bool) -> float:
    counts = array_counts(program)
    needed = -(-sum(counts) // target.hierarchy.arrays_per_chip)
    (seconds, _), _, _ = _placement(Work(program, target, Aim(latency)), min(chips, needed), effort)
    return seconds


def likely_interval(program: AnalogProgram, chips: int, target: Target) -> float:
    """The interval in seconds in one arrangement of one way to fill tiles: digital work spread, no links relieved."""
    counts = array_counts(program)
    chips = min(chips, -(-sum(counts) // target.hierarchy.arrays_per_chip))
    work = Work(program, target)
    slots = spread_digital(work, cut_chips(work, orders(work)[0], chips, target), target)
    filling = work.filling(slots, chips)
    return work.objective(filling, arrange_tiles(filling.flows, slots, chips, 0, target)[0])[0]
