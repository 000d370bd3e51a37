"""Where arrays stand: orders in which they fill tiles, cuts between chips, and what makes one placement better."""

from __future__ import annotations

from dataclasses import replace

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
from mcompiler.network.flows import OUTSIDE, Floats, Flows, Ints
from mcompiler.network.sites import cooled_sites, sites
from mcompiler.network.traffic import Traffic, measured, nodes_of, program_flows
from mcompiler.target import Target

Addresses = tuple[npt.NDArray[np.int32], ...]


def in_order(program: AnalogProgram, target: Target) -> Addresses:
    """Addresses of arrays one after the other, layer by layer."""
    counts = array_counts(program)
    return _addresses(counts, np.arange(sum(counts)), None, target)


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
    work = _Work(program, array_counts(program), target, latency, seed)
    found = [_placement(work, chips, each, target) for each in range(effort + 1)]
    return min(found, key=work.badness)


def _placement(work: _Work, chips: int, effort: int, target: Target) -> Addresses:
    """What one effort finds."""
    program, counts = work.program, work.counts
    filled = []
    for order in _orders(program, counts):
        cut = _cut_chips(work, order, chips, target)
        filled += [cut, _spread_digital(work, cut, target)]
    if work.latency:
        filled.append(_dealt(work, filled[0], target))
    # Ways to fill the tiles in which links alone decide come first; what is slower without links is left out.
    apart = [work.without_links(_addresses(counts, slots, None, target)) for slots in filled]
    plain = in_order(program, target)
    found = [(work.badness(plain), -1, plain)]
    arranged: dict[int, Ints] = {}
    for number in sorted(range(len(filled)), key=apart.__getitem__):
        if apart[number] > min(each[0] for each in found)[0]:
            break
        slots = filled[number]
        arranged[number] = sites(work.flows_between(_tiles_of(slots, target)), slots, chips, effort, target)
        addresses = _addresses(counts, slots, arranged[number], target)
        found.append((work.badness(addresses), number, addresses))
    for (seconds, _), number, addresses in sorted(found, key=lambda each: each[:2])[:_COOLED]:
        if number >= 0 and seconds > work.without_links(addresses):  # links are what holds it back
            slots = filled[number]
            flows = work.flows_between(_tiles_of(slots, target))
            site = cooled_sites(arranged[number], flows, slots, chips, effort, target, work.seed)
            addresses = _addresses(counts, slots, site, target)
            found.append((work.badness(addresses), number + len(filled), addresses))
    return min(found, key=lambda each: each[:2])[2]


_COOLED = 2
"""Ways to fill the tiles, the best ones, for which exchanges that empty the fullest links are sought."""


def placed_interval(program: AnalogProgram, chips: int, target: Target, effort: int = 0) -> float:
    """The interval in seconds that arrays, digital units and links allow in the placement that an effort finds."""
    counts = array_counts(program)
    needed = -(-sum(counts) // target.hierarchy.arrays_per_chip)
    work = _Work(program, counts, target)
    return work.badness(_placement(work, min(chips, needed), effort, target))[0]


def placed_latency(program: AnalogProgram, chips: int, target: Target, effort: int = 0) -> float:
    """Seconds of one inference alone in the placement that an effort finds."""
    counts = array_counts(program)
    needed = -(-sum(counts) // target.hierarchy.arrays_per_chip)
    work = _Work(program, counts, target, latency=True)
    return work.badness(_placement(work, min(chips, needed), effort, target))[0]


def likely_interval(program: AnalogProgram, target: Target) -> float:
    """The interval in seconds that arrays, digital units and links allow in a placement that takes no search."""
    counts = array_counts(program)
    work = _Work(program, counts, target)
    plain = np.arange(sum(counts))
    return min(
        work.badness(_addresses(counts, slots, None, target))[0]
        for slots in (plain, _spread_digital(work, plain, target))
    )


def _tiles_of(slots: Ints, target: Target) -> Ints:
    """Numbers of the tiles that slots belong to, counted through all chips."""
    return slots // (target.hierarchy.arrays_per_core * target.hierarchy.cores_per_tile)


def array_counts(program: AnalogProgram) -> list[int]:
    """Arrays of each layer, copies included."""
    return [len(table) * copies for table, copies in zip(program.tiled.tables, program.copies, strict=True)]


class _Work:
    """What makes one placement better than another: the seconds of an interval or an inference, then byte-hops."""

    def __init__(
        self, program: AnalogProgram, counts: list[int], target: Target, latency: bool = False, seed: int = 0
    ) -> None:
        matrix, shape = program.tiled.matrix, array_shape(target)
        self.program, self.counts, self.target, self.latency, self.seed = program, counts, target, latency, seed
        self.stages = network_steps(matrix.lowered.skeleton, matrix.ops, matrix.digital_ops)
        self.steps = self.stages[0]
        cycle = read_time(shape, target)
        reads = [
            reads_per_vector(op, table, shape, target)
            for op, table in zip(matrix.ops, program.tiled.tables, strict=True)
        ]
        self.plans = [
            LayerPlan(op, number, copies) for op, number, copies in zip(matrix.ops, reads, program.copies, strict=True)
        ]
        self.array_s = max(-(-plan.op.vectors // plan.copies) * plan.reads * cycle for plan in self.plans)

    def flows_between(self, nodes: Ints) -> Flows:
        """Flows between these nodes of all arrays, layer after layer."""
        return program_flows(self.program, np.split(nodes, np.cumsum(self.counts)[:-1]), self.target, self.stages)

    def operations(self) -> Floats:
        """Digital operations of each layer and of what stands behind it, [layers]."""
        return digital_work(self.steps, len(self.counts))[:-1]

    def badness(self, addresses: Addresses) -> tuple[float, float]:
        """Seconds, and bytes times links."""
        found, network = self._traffic(addresses), self.target.network
        links = max(
            found.busiest_link_bytes * 8 / (network.link_bits * network.clock_hz),
            found.busiest_chip_bytes / network.chip_link_bytes_per_s,
        )
        return max(self._without_links(addresses, found), links), found.byte_hops

    def without_links(self, addresses: Addresses) -> float:
        """Seconds, were no link full."""
        return self._without_links(addresses, self._traffic(addresses))

    def _traffic(self, addresses: Addresses) -> Traffic:
        flows = program_flows(self.program, nodes_of(addresses, self.target), self.target, self.stages)
        return measured(flows, len(addresses), self.target, 0.0)

    def _without_links(self, addresses: Addresses, found: Traffic) -> float:
        """Of an interval: arrays and digital units. Of an inference: the end of its last token; no unit is faster."""
        digital = digital_bound(self.steps, len(addresses), addresses, self.target)
        if not self.latency:
            return max(self.array_s, digital)
        plans = [
            replace(plan, tiles=tiles_of(where), hops=way.hops, chip_hops=way.chip_hops)
            for plan, where, way in zip(self.plans, addresses, found.layers, strict=True)
        ]
        stages = timed(self.steps, plans, self.target)
        ends = [int(start[-1]) + stage.latency for start, stage in zip(earliest(stages), stages, strict=True)
                if len(start)]  # fmt: skip
        return max(digital, max(ends, default=0) / self.target.digital.clock_hz)


def _spread_digital(work: _Work, slots: Ints, target: Target) -> Ints:
    """Slots in which every tile of a chip has about as much digital work.

    Arrays with more of it than the average come first, in the order of the layers, to each tile as many as carry its
    share; the others fill what is left, in their order.
    """
    hierarchy = target.hierarchy
    room = hierarchy.arrays_per_core * hierarchy.cores_per_tile
    counts = np.array(work.counts)
    each = np.repeat(work.operations() / np.maximum(1, counts), counts)
    found = slots.copy()
    for chip in np.unique(slots // hierarchy.arrays_per_chip).tolist():
        own = np.flatnonzero(slots // hierarchy.arrays_per_chip == chip)
        own = own[np.argsort(slots[own])]
        tiles = min(hierarchy.tiles_per_chip, max(-(-len(own) // room), _tiles_for(work, own, target)))
        heavy = own[each[own] > each[own].mean()]
        light = own[each[own] <= each[own].mean()]
        # Tile of each heavy array: by the work in front of it, but no tile gets more than it holds.
        before = np.cumsum(each[heavy]) - each[heavy]
        wanted = np.minimum((before / max(1e-30, each[heavy].sum()) * tiles).astype(np.int64), tiles - 1)
        wanted = _within(wanted, room, tiles)
        free = room - np.bincount(wanted, minlength=tiles)
        rest = np.repeat(np.arange(tiles), _evenly(free, len(light)))
        tile = np.empty(len(own), np.int64)
        tile[each[own] > each[own].mean()], tile[each[own] <= each[own].mean()] = wanted, rest
        order = np.argsort(tile, kind="stable")
        place = np.empty(len(own), np.int64)
        firsts = np.searchsorted(tile[order], np.arange(tiles))
        place[order] = np.arange(len(own)) - firsts[tile[order]]
        found[own] = chip * hierarchy.arrays_per_chip + tile * room + place
    return found


def _dealt(work: _Work, slots: Ints, target: Target) -> Ints:
    """Slots in which the copies of every layer are spread over all tiles of its chips: each has a digital unit near."""
    hierarchy = target.hierarchy
    room, tiles = hierarchy.arrays_per_core * hierarchy.cores_per_tile, hierarchy.tiles_per_chip
    layer = np.repeat(np.arange(len(work.counts)), work.counts)
    sizes = np.array([max(1, len(table)) for table in work.program.tiled.tables])
    copy = (np.arange(len(slots)) - (np.cumsum(work.counts) - work.counts)[layer]) // sizes[layer]
    found = slots.copy()
    for chip in np.unique(slots // hierarchy.arrays_per_chip).tolist():
        own = np.flatnonzero(slots // hierarchy.arrays_per_chip == chip)
        # The middle of each copy's share of the tiles, were its layer alone: in this order they fill all tiles evenly.
        first = np.full(len(work.counts), len(slots))
        np.minimum.at(first, layer[own], copy[own])
        last = np.zeros(len(work.counts), np.int64)
        np.maximum.at(last, layer[own], copy[own])
        shares = (copy[own] - first[layer[own]] + 0.5) / (last - first + 1)[layer[own]]
        order = own[np.argsort(shares, kind="stable")]
        tile = np.arange(len(own)) * tiles // len(own)
        begins = np.searchsorted(tile, np.arange(tiles))
        found[order] = chip * hierarchy.arrays_per_chip + tile * room + np.arange(len(own)) - begins[tile]
    return found


def _tiles_for(work: _Work, own: Ints, target: Target) -> int:
    """Tiles whose digital units keep pace with the arrays, were the work spread evenly."""
    rate = target.digital.operations_per_cycle * target.digital.clock_hz
    share = len(own) / max(1, sum(work.counts))
    return int(np.ceil(float(work.operations().sum()) * share / rate / work.array_s)) if work.array_s else 1


def _within(wanted: Ints, room: int, tiles: int) -> Ints:
    """Tiles in ascending order, with what is too much for one moved on to the next with room, or back from the end."""
    place = np.arange(len(wanted))
    # Array k goes no earlier than its turn allows: the arrays in front of it fill tiles one by one at the most.
    forward = np.maximum.accumulate(wanted * room - place) + place
    late = np.minimum(forward, tiles * room - len(wanted) + place)
    found: Ints = late // room
    return found


def _evenly(free: Ints, count: int) -> Ints:
    """How many of ``count`` arrays fill each tile's free positions: first those of the tiles in front."""
    ends = np.minimum(np.cumsum(free), count)
    return np.diff(np.concatenate([[0], ends]))


def _addresses(counts: list[int], slots: Ints, site: Ints | None, target: Target) -> Addresses:
    """Addresses of arrays that stand in these slots, a slot being an array position counted through all chips.

    Args:
        counts: arrays of each layer.
        slots: of each array, layer after layer.
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


# --- orders ----------------------------------------------------------------------------------------------------------


def _orders(program: AnalogProgram, counts: list[int]) -> list[Ints]:
    """Orders in which arrays fill the tiles, numbers of arrays counted layer by layer."""
    copies = np.array(program.copies)
    plain = np.arange(sum(counts))
    if not (copies > 1).any():
        return [plain]
    run = np.cumsum(np.concatenate([[0], np.diff(copies) != 0]))  # layers in a row with as many copies
    layer = np.repeat(np.arange(len(counts)), counts)
    sizes = np.array([max(1, len(table)) for table in program.tiled.tables])
    inside = plain - np.repeat(np.cumsum(counts) - counts, counts)
    return [plain, np.lexsort((plain, layer, inside // sizes[layer], run[layer]))]


# --- chips -----------------------------------------------------------------------------------------------------------


def _cut_chips(work: _Work, order: Ints, chips: int, target: Target) -> Ints:
    """Slots of all arrays, filled in an order, chips cut where the fewest bytes cross.

    Chips that are not filled to the last array may end earlier, between two copies of a layer; the cuts with the least
    traffic over all ends are found exactly (for cuts in this order).
    """
    program, counts = work.program, work.counts
    total, per_chip = sum(counts), target.hierarchy.arrays_per_chip
    if chips == 1:
        return _inverse(order)
    layer = np.repeat(np.arange(len(counts)), counts)
    sizes = np.array([max(1, len(table)) for table in program.tiled.tables])
    copy = layer + len(counts) * ((np.arange(total) - (np.cumsum(counts) - counts)[layer]) // sizes[layer])
    ends = 1 + np.flatnonzero(np.diff(copy[order]))
    places = sorted({*ends.tolist(), *range(per_chip, total, per_chip), total})
    crossing = _crossing(work, order, np.array(places))
    best: dict[tuple[int, int], tuple[float, tuple[int, ...]]] = {
        (0, 0): (0.0, ())
    }  # (chips used, arrays placed) -> bytes over all cuts, the cuts
    for used in range(chips):
        for start in [place for number, place in best if number == used]:
            cost, cuts = best[used, start]
            for place in places:
                left = total - place
                if not start < place <= start + per_chip or left > (chips - used - 1) * per_chip:
                    continue
                found = cost + (crossing[place] if place < total else 0.0)
                known = best.get((used + 1, place))
                if known is None or found < known[0]:
                    best[used + 1, place] = (found, (*cuts, place))
    _, cuts = min(
        (best[used, total] for used in range(1, chips + 1) if (used, total) in best), key=lambda each: each[0]
    )
    lengths = np.diff([0, *cuts])
    first = np.repeat(np.arange(len(lengths)) * per_chip, lengths)
    inside = np.arange(total) - np.repeat(np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
    return np.asarray((first + inside)[_inverse(order)], dtype=np.int64)


def _inverse(order: Ints) -> Ints:
    """Place of each array in an order."""
    found = np.empty_like(order)
    found[order] = np.arange(len(order))
    return found


def _crossing(work: _Work, order: Ints, places: Ints) -> dict[int, float]:
    """Bytes that cross each place in an order of the arrays: what goes between arrays on its two sides."""
    pieces = np.searchsorted(places, _inverse(order), side="right")  # the piece between two places, as if a tile
    flows = work.flows_between(pieces)
    moving = (flows.source != OUTSIDE) & (flows.sink != OUTSIDE)
    low = np.minimum(flows.source, flows.sink)[moving]
    high = np.maximum(flows.source, flows.sink)[moving]
    steps = np.zeros(len(places) + 2)
    np.add.at(steps, low, flows.bytes[moving])
    np.add.at(steps, high, -flows.bytes[moving])
    across = np.cumsum(steps)
    # Piece i ends at places[i]: what goes from pieces up to i to later ones crosses that place.
    return {int(place): float(across[index]) for index, place in enumerate(places)}
