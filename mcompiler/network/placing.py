"""Where arrays stand: the best of several ways to fill tiles, and of the sites that these tiles may have."""

from __future__ import annotations

import numpy as np

from mcompiler.ir import AnalogProgram
from mcompiler.network.filling import cut_chips, dealt, orders, spread_digital
from mcompiler.network.flows import Ints
from mcompiler.network.sites import cooled_sites, sites
from mcompiler.network.work import Addresses, Filling, Work, addresses_of, array_counts
from mcompiler.target import Target


def in_order(program: AnalogProgram, target: Target) -> Addresses:
    """Addresses of arrays one after the other, layer by layer."""
    counts = array_counts(program)
    return addresses_of(counts, np.arange(sum(counts)), None, target)


def best_placement(
    program: AnalogProgram, chips: int, effort: int, target: Target, latency: bool = False, seed: int = 0
) -> Addresses:
    """The best of all orders of filling tiles and arrangements of tiles that this effort and all below it find.

    Args:
        program: with the tables of the arrays and the copies of each layer.
        chips: to be used.
        effort: doubles the rounds.
        target: the chip.
        latency: whether one inference alone is to be quick, else the interval between two short.
        seed: of the exchanges that are tried for emptier links.
    """
    work = Work(program, array_counts(program), target, latency, seed)
    _, filling, site = _placement(work, chips, effort)
    return addresses_of(work.counts, filling.slots, site, target)


def standing(program: AnalogProgram, slots: Ints, chips: int, target: Target, effort: int | None = 1) -> Addresses:
    """Addresses of arrays that fill tiles in a way that is given, with these tiles placed.

    Args:
        program: with the tables of the arrays and the copies of each layer.
        slots: of each array, layer after layer: array positions, counted through all chips.
        chips: to be used.
        target: the chip.
        effort: doubles the rounds; None leaves the tiles where they are counted.
    """
    work = Work(program, array_counts(program), target)
    if effort is None:
        return addresses_of(work.counts, slots, None, target)
    filling = work.filling(slots, chips)
    found = [each for step in range(effort + 1) for each in _arranged(work, [filling], np.inf, chips, step)]
    return addresses_of(work.counts, slots, min(found, key=lambda each: each[0])[2], target)


def _placement(work: Work, chips: int, effort: int) -> tuple[tuple[float, float], Filling, Ints]:
    """What the efforts up to this one find: how bad it is, how tiles are filled and where they stand."""
    slots = []
    for order in orders(work):
        cut = cut_chips(work, order, chips, work.target)
        slots += [cut, spread_digital(work, cut, work.target)]
    if work.latency:
        slots.append(dealt(work, slots[0], work.target))
    # Ways to fill the tiles in which links alone decide come first; what is slower without links is left out.
    fillings = sorted((work.filling(each, chips) for each in slots), key=lambda each: each.apart)
    found: list[tuple[tuple[float, float], Filling, Ints]] = []
    for each in range(effort + 1):
        found += _arranged(work, fillings, min((bad[0] for bad, _, _ in found), default=np.inf), chips, each)
    plain = work.filling(np.arange(sum(work.counts)), chips)
    if plain.apart <= min(bad[0] for bad, _, _ in found):
        in_place = np.tile(np.arange(work.target.hierarchy.tiles_per_chip), chips)
        found.append((work.badness(plain, in_place), plain, in_place))
    return min(found, key=lambda each: each[0])


def _arranged(
    work: Work, fillings: list[Filling], known: float, chips: int, effort: int
) -> list[tuple[tuple[float, float], Filling, Ints]]:
    """What one effort finds; ``known`` seconds are there already."""
    found: list[tuple[tuple[float, float], Filling, Ints]] = []
    for filling in fillings:
        if filling.apart > min([known, *(bad[0] for bad, _, _ in found)]):
            break
        for site in sites(filling.flows, filling.slots, chips, effort, work.target):
            found.append((work.badness(filling, site), filling, site))
    for _, filling, start in sorted(found, key=lambda each: each[0])[:_COOLED]:
        if work.held_back_by_links(filling, start):
            site = cooled_sites(start, filling.flows, filling.slots, chips, effort, work.target, work.seed)
            found.append((work.badness(filling, site), filling, site))
    return found


_COOLED = 3
"""Arrangements, the best ones, for which exchanges that empty the fullest links are sought."""


def placed_interval(program: AnalogProgram, chips: int, target: Target, effort: int = 0) -> float:
    """The interval in seconds that arrays, digital units and links allow in the placement that an effort finds."""
    return _placed(program, chips, target, effort, latency=False)


def placed_latency(program: AnalogProgram, chips: int, target: Target, effort: int = 0) -> float:
    """Seconds of one inference alone in the placement that an effort finds."""
    return _placed(program, chips, target, effort, latency=True)


def _placed(program: AnalogProgram, chips: int, target: Target, effort: int, latency: bool) -> float:
    counts = array_counts(program)
    needed = -(-sum(counts) // target.hierarchy.arrays_per_chip)
    (seconds, _), _, _ = _placement(Work(program, counts, target, latency), min(chips, needed), effort)
    return seconds


def likely_interval(program: AnalogProgram, chips: int, target: Target) -> float:
    """The interval in seconds in one arrangement of one way to fill tiles: digital work spread, no links emptied."""
    counts = array_counts(program)
    chips = min(chips, -(-sum(counts) // target.hierarchy.arrays_per_chip))
    work = Work(program, counts, target)
    slots = spread_digital(work, cut_chips(work, orders(work)[0], chips, target), target)
    filling = work.filling(slots, chips)
    return work.badness(filling, sites(filling.flows, slots, chips, 0, target)[0])[0]
