"""Ways to fill tiles with arrays: orders, cuts between chips, spreading digital work."""

from __future__ import annotations

import numpy as np

from mcompiler.network.flows import OUTSIDE
from mcompiler.network.locations import Ints
from mcompiler.network.work import Work, filled_tiles
from mcompiler.target import Target

# --- orders ----------------------------------------------------------------------------------------------------------


def orders(work: Work) -> list[Ints]:
    """Orders in which arrays fill the tiles, arrays numbered matrix by matrix."""
    program, counts = work.program, work.counts
    copies = np.array(program.copies)
    inside = _inside_matrices(work)
    matrix = np.repeat(np.arange(len(counts)), counts)
    plain = np.lexsort((inside, matrix))
    if not (copies > 1).any():
        return [plain]
    run = np.cumsum(np.concatenate([[0], np.diff(copies) != 0]))  # matrices in a row with equally many copies
    sizes = np.array([max(1, len(table)) for table in program.tiled.tables])
    return [plain, np.lexsort((inside, matrix, inside // sizes[matrix], run[matrix]))]


def _inside_matrices(work: Work) -> Ints:
    """Places of all arrays in the order of their matrix, copy after copy.

    Copies fill tiles row block by row block, or column block by column block; in the second way tiles take in more rows
    and send fewer partial sums. For each matrix the way that moves fewer bytes, estimated with matrices that fill the
    tiles one after the other.
    """
    counts = work.counts
    across, down = [], []
    for table, copies in zip(work.program.tiled.tables, work.program.copies, strict=True):
        order = np.lexsort((np.arange(len(table)), table["row"], table["col"], table["group"]))
        first = np.arange(copies)[:, None] * len(table)
        across.append((first + np.arange(len(table))).reshape(-1))
        down.append((first + _inverse(order)).reshape(-1))
    begins = np.cumsum(counts) - counts
    bytes_ = []
    for places in (across, down):
        slots = np.concatenate([place + begin for place, begin in zip(places, begins, strict=True)])
        flows = work.flows_between(filled_tiles(slots, work.target))
        # Bytes are charged to sites; those of the sites of a matrix add up.
        moved = np.bincount(flows.layer, flows.bytes, minlength=len(work.plans))
        owner = [plan.layer.site.matrix for plan in work.plans]
        bytes_.append(np.bincount(owner, moved, minlength=len(counts)))
    better = bytes_[1] < bytes_[0]
    return np.concatenate([b if turned else a for a, b, turned in zip(across, down, better, strict=True)])


# --- chips -----------------------------------------------------------------------------------------------------------


def cut_chips(work: Work, order: Ints, chips: int, target: Target) -> Ints:
    """Slots of all arrays, filled in an order, chips cut where the fewest bytes cross.

    A chip that need not be full may end earlier, between two copies of a matrix; the cuts with the least traffic are
    found exactly (for this order) by dynamic programming over the chips used and the arrays placed.
    """
    program, counts = work.program, work.counts
    total, per_chip = sum(counts), target.hierarchy.arrays_per_chip
    if chips == 1:
        return _inverse(order)
    matrix = np.repeat(np.arange(len(counts)), counts)
    sizes = np.array([max(1, len(table)) for table in program.tiled.tables])
    copy = matrix + len(counts) * ((np.arange(total) - (np.cumsum(counts) - counts)[matrix]) // sizes[matrix])
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


def _crossing(work: Work, order: Ints, places: Ints) -> dict[int, float]:
    """Bytes that cross each place in an order of the arrays: those that flow between arrays on its two sides."""
    pieces = np.searchsorted(places, _inverse(order), side="right")  # the piece between two places, as if a tile
    flows = work.flows_between(pieces)
    moving = (flows.source != OUTSIDE) & (flows.sink != OUTSIDE)
    low = np.minimum(flows.source, flows.sink)[moving]
    high = np.maximum(flows.source, flows.sink)[moving]
    steps = np.zeros(len(places) + 2)
    np.add.at(steps, low, flows.bytes[moving])
    np.add.at(steps, high, -flows.bytes[moving])
    across = np.cumsum(steps)
    # Piece i ends at places[i]: flows from pieces up to i to later ones cross that place.
    return {int(place): float(across[index]) for index, place in enumerate(places)}


# --- digital work ----------------------------------------------------------------------------------------------------


def spread_digital(work: Work, slots: Ints, target: Target, least: float = 1.0) -> Ints:
    """Slots in which every tile of a chip has about as much digital work.

    Arrays with much of it come first, in their order, to each tile as many as carry its share; the others fill the rest
    of the tiles, in their order.

    Args:
        work: with the arrays.
        slots: that they have.
        target: the chip.
        least: how much is much, in multiples of the average; at 0 everything is spread.
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
        much = each[own] > least * each[own].mean()
        heavy, light = own[much], own[~much]
        # Tile of each heavy array: in proportion to the work in front of it, but no tile gets more than it holds.
        before = np.cumsum(each[heavy]) - each[heavy]
        wanted = np.minimum((before / max(1e-30, each[heavy].sum()) * tiles).astype(np.int64), tiles - 1)
        wanted = _within(wanted, room, tiles)
        free = room - np.bincount(wanted, minlength=tiles)
        rest = np.repeat(np.arange(tiles), _evenly(free, len(light)))
        tile = np.empty(len(own), np.int64)
        tile[much], tile[~much] = wanted, rest
        order = np.argsort(tile, kind="stable")
        place = np.empty(len(own), np.int64)
        firsts = np.searchsorted(tile[order], np.arange(tiles))
        place[order] = np.arange(len(own)) - firsts[tile[order]]
        found[own] = chip * hierarchy.arrays_per_chip + tile * room + place
    return found


def spread_copies(work: Work, slots: Ints, target: Target) -> Ints:
    """Slots in which the copies of every matrix are spread over all tiles of its chips, close to many digital units."""
    hierarchy = target.hierarchy
    room, tiles = hierarchy.arrays_per_core * hierarchy.cores_per_tile, hierarchy.tiles_per_chip
    matrix = np.repeat(np.arange(len(work.counts)), work.counts)
    sizes = np.array([max(1, len(table)) for table in work.program.tiled.tables])
    copy = (np.arange(len(slots)) - (np.cumsum(work.counts) - work.counts)[matrix]) // sizes[matrix]
    found = slots.copy()
    for chip in np.unique(slots // hierarchy.arrays_per_chip).tolist():
        own = np.flatnonzero(slots // hierarchy.arrays_per_chip == chip)
        # Middle of the tiles that a copy takes when its matrix alone fills them: in this order all tiles fill evenly.
        first = np.full(len(work.counts), len(slots))
        np.minimum.at(first, matrix[own], copy[own])
        last = np.zeros(len(work.counts), np.int64)
        np.maximum.at(last, matrix[own], copy[own])
        shares = (copy[own] - first[matrix[own]] + 0.5) / (last - first + 1)[matrix[own]]
        order = own[np.lexsort((slots[own], shares))]
        tile = np.arange(len(own)) * tiles // len(own)
        begins = np.searchsorted(tile, np.arange(tiles))
        found[order] = chip * hierarchy.arrays_per_chip + tile * room + np.arange(len(own)) - begins[tile]
    return found


def _tiles_for(work: Work, own: Ints, target: Target) -> int:
    """Tiles whose digital units keep pace with the arrays when the work is spread evenly."""
    rate = target.digital.operations_per_cycle * target.digital.clock_hz
    share = len(own) / max(1, sum(work.counts))
    return int(np.ceil(float(work.operations().sum()) * share / rate / work.array_s)) if work.array_s else 1


def _within(wanted: Ints, room: int, tiles: int) -> Ints:
    """Ascending tiles with at most ``room`` arrays each: the excess moves to the next tile, or back from the end."""
    place = np.arange(len(wanted))
    # Slot of array k, no earlier than its tile begins and after the slot of the array before it ...
    forward = np.maximum.accumulate(wanted * room - place) + place
    # ... and early enough to leave slots for those after it.
    late = np.minimum(forward, tiles * room - len(wanted) + place)
    found: Ints = late // room
    return found


def _evenly(free: Ints, count: int) -> Ints:
    """Arrays out of ``count`` that each tile takes when free positions are filled from the first tile on."""
    ends = np.minimum(np.cumsum(free), count)
    return np.diff(np.concatenate([[0], ends]))
