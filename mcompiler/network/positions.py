"""Positions of filled tiles on their chips: few bytes times links, and no link much fuller than the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mcompiler.network.flows import Flows
from mcompiler.network.locations import Floats, Ints
from mcompiler.network.topology import PORT, Topology, topology_of
from mcompiler.target import Target


def arrange_tiles(flows: Flows, slots: Ints, chips: int, effort: int, target: Target) -> list[Ints]:
    """Position of each tile of slots, with few bytes times links: an arrangement for each way to start.

    Args:
        flows: between tiles of slots, counted through all chips.
        slots: array positions that are filled.
        chips: in use.
        effort: doubles the rounds.
        target: the chip.

    Returns:
        int64 [chips * tiles per chip] each.
    """
    net, tiles = topology_of(target), target.hierarchy.tiles_per_chip
    in_order = np.arange(tiles)
    if net.kind == "bus":
        return [np.tile(in_order, chips)]
    starts = [net.walk(), in_order] if net.kind == "mesh" else [in_order]
    found = [np.tile(start, chips) for start in starts]
    for chip, used in enumerate(_used(slots, chips, target)):
        traffic, ports = _between(flows, chip, tiles)
        for position, start in zip(found, starts, strict=True):
            state = _State(start, traffic, ports, net)
            position[chip * tiles : (chip + 1) * tiles] = _exchanged(state, used, effort)
    return found


@dataclass(frozen=True)
class SearchLimits:
    """How long to search for better positions.

    Attributes:
        effort: doubles the rounds.
        seed: of the exchanges that are tried.
    """

    effort: int
    seed: int = 0


def relieve_busiest_links(position: Ints, flows: Flows, slots: Ints, limits: SearchLimits, target: Target) -> Ints:
    """Positions with less traffic on the busiest links: the chips with the busiest of all, one after the other.

    Args:
        position: to start from, as ``arrange_tiles`` gives it: int64 [chips * tiles per chip].
        flows, slots: as for ``arrange_tiles``.
        limits: of the search.
        target: the chip.
    """
    net, tiles = topology_of(target), target.hierarchy.tiles_per_chip
    chips = len(position) // tiles
    position, used = position.copy(), _used(slots, chips, target)
    parts = [_directed(flows, chip, tiles) for chip in range(chips)]
    busiest = np.array(
        [
            net.loads(*part.between(position[chip * tiles : (chip + 1) * tiles])).max(initial=0.0)
            for chip, part in enumerate(parts)
        ]
    )
    for chip in np.argsort(-busiest, kind="stable").tolist():
        if busiest[chip] < busiest.max():  # a chip before this one limits the interval, and could not be relieved
            break
        own = _relieved(position[chip * tiles : (chip + 1) * tiles], parts[chip], net, used[chip], limits)
        after = net.loads(*parts[chip].between(own)).max(initial=0.0)
        if after <= busiest[chip]:  # a lower sum of powers does not promise that
            position[chip * tiles : (chip + 1) * tiles], busiest[chip] = own, after
    return position


def _used(slots: Ints, chips: int, target: Target) -> list[int]:
    """Tiles of each chip that are filled."""
    group = np.unique(slots // (target.hierarchy.arrays_per_core * target.hierarchy.cores_per_tile))
    counts: list[int] = np.bincount(group // target.hierarchy.tiles_per_chip, minlength=chips).tolist()
    return counts


@dataclass(frozen=True)
class _Directed:
    """Flows on one chip, [flows].

    Attributes:
        source, sink: tiles of slots; the port has the number after theirs.
        bytes: what goes.
    """

    source: Ints
    sink: Ints
    bytes: Floats

    def between(self, position: Ints) -> tuple[Ints, Ints, Floats]:
        """Source, sink and bytes with the tiles of slots at these positions."""
        ends = np.append(position, PORT)
        return ends[self.source], ends[self.sink], self.bytes


def _directed(flows: Flows, chip: int, tiles: int) -> _Directed:
    """Flows over the links of a chip, those to its port and from it included."""
    ours, theirs = flows.source // tiles == chip, flows.sink // tiles == chip
    ours, theirs = ours & (flows.source >= 0), theirs & (flows.sink >= 0)
    source, sink = np.where(ours, flows.source % tiles, tiles), np.where(theirs, flows.sink % tiles, tiles)
    here = ours | theirs
    size = np.where(ours & ~theirs, flows.port_bytes, flows.bytes)  # on the way to the port, once for each chip
    return _Directed(source[here], sink[here], size[here])


def _between(flows: Flows, chip: int, tiles: int) -> tuple[Floats, Floats]:
    """Bytes between the tiles of slots of a chip, both directions together, and between each and the port."""
    traffic, ports = np.zeros((tiles, tiles)), np.zeros(tiles)
    source, sink = flows.source, flows.sink
    ours, theirs = source // tiles == chip, sink // tiles == chip
    inside = ours & theirs & (source >= 0) & (sink >= 0)
    np.add.at(traffic, (source[inside] % tiles, sink[inside] % tiles), flows.bytes[inside])
    for end, here, size in ((source, ours, flows.port_bytes), (sink, theirs, flows.bytes)):
        through = here & ~inside & (end >= 0)
        np.add.at(ports, end[through] % tiles, size[through])
    return traffic + traffic.T, ports


def _exchanged(start: _State, used: int, effort: int) -> Ints:
    """Exchange tiles, each with the one that gains most, until nothing gains or the rounds are over."""
    state, tiles = start, len(start.position)
    for _ in range(4 << effort):
        changed = False
        for one in range(min(used, tiles)):
            gain = state.gains(one)
            other = int(np.argmax(gain))
            if gain[other] > 1e-9 * max(1.0, float(state.traffic[one].sum())):
                state.exchange(one, other)
                changed = True
        if not changed:
            break
    return state.position


class _State:
    """Positions of tiles and what they cost; distances are kept by tile, not by position.

    Attributes:
        position: of each tile.
        traffic, ports: bytes between tiles, and between each and the port.
        far, home: links between the positions of tiles, and to the port.
    """

    def __init__(self, position: Ints, traffic: Floats, ports: Floats, net: Topology) -> None:
        every = np.arange(len(position))
        far = net.hops(every[:, None], every[None, :]).astype(np.float64)
        self.position, self.traffic, self.ports = position.copy(), traffic, ports
        self.far, self.home = far[np.ix_(position, position)], far[PORT][position]
        self.paid: Floats = (traffic * self.far).sum(axis=1)

    def gains(self, one: int) -> Floats:
        """Bytes times links saved by exchanging the position of one tile with that of each other."""
        own, away = self.traffic[one], self.far[one]
        # What the others would pay at the position of this one, and this one at theirs. Both sums take the distance
        # between the two as none, while it stays the same: the last term puts it back.
        after = self.far @ own + self.traffic @ away + 2 * own * away
        before = self.paid[one] + self.paid
        leave = self.ports[one] * self.home[one] + self.ports * self.home
        come = self.ports[one] * self.home + self.ports * self.home[one]
        gain: Floats = before - after + leave - come
        gain[one] = 0.0
        return gain

    def exchange(self, one: int, other: int) -> None:
        """Let two tiles exchange their positions."""
        pair, turned = [one, other], [other, one]
        self.paid -= (self.traffic[:, pair] * self.far[:, pair]).sum(axis=1)
        self.position[pair] = self.position[turned]
        self.far[pair] = self.far[turned]
        self.far[:, pair] = self.far[:, turned]
        self.home[pair] = self.home[turned]
        self.paid += (self.traffic[:, pair] * self.far[:, pair]).sum(axis=1)
        self.paid[pair] = (self.traffic[pair] * self.far[pair]).sum(axis=1)


def _relieved(position: Ints, flows: _Directed, net: Topology, used: int, limits: SearchLimits) -> Ints:
    """Exchange tiles that load the busiest links with others where that takes traffic off the busiest links."""
    if net.kind != "mesh" or used < 3:
        return position
    rng = np.random.default_rng(limits.seed)
    tiles, ends = len(position), np.append(position, PORT)
    source, sink, size = flows.source, flows.sink, flows.bytes
    load = net.loads(ends[source], ends[sink], size)
    touching = [np.flatnonzero((source == tile) | (sink == tile)) for tile in range(tiles)]
    score, moves = _norm(load), np.zeros(len(size), dtype=np.bool_)
    for _ in range(min(_TRIALS, 16 * used) << limits.effort):
        full = _loading(load, ends[source], ends[sink], net, rng)
        with_it = _near(full, net, rng) if rng.random() < 0.5 else int(rng.integers(tiles))
        one, other = (int(np.flatnonzero(ends[:tiles] == place)[0]) for place in (full, with_it))
        # Only the flows of the two tiles change their links: their old loads are taken off, their new ones added.
        moves[:] = False
        moves[touching[one]] = moves[touching[other]] = True
        moved = np.flatnonzero(moves)
        begin, end, change = source[moved], sink[moved], np.tile(size[moved], 2)
        change[: len(moved)] *= -1
        before = ends[begin], ends[end]
        ends[one], ends[other] = ends[other], ends[one]
        starts, stops = np.append(before[0], ends[begin]), np.append(before[1], ends[end])
        changed = load + net.loads(starts, stops, change)
        found = _norm(changed)
        if found < score:
            load, score = changed, found
        else:
            ends[one], ends[other] = ends[other], ends[one]
    return ends[:tiles]


_TRIALS = 800
"""Exchanges that are tried to relieve links on a large chip at effort 0; each effort doubles them."""


def _norm(load: Floats) -> float:
    """Sum of the 16th powers of the loads: close to the power of the maximum, and the next ones count too."""
    power = load
    for _ in range(4):
        power = power * power
    return float(power.sum())


def _near(tile: int, net: Topology, rng: np.random.Generator) -> int:
    """A tile at most two rows and two columns away."""
    row, column = (min(max(0, at + int(rng.integers(-2, 3))), net.side - 1) for at in divmod(tile, net.side))
    return min(row * net.side + column, net.tiles - 1)


def _loading(load: Floats, source: Ints, sink: Ints, net: Topology, rng: np.random.Generator) -> int:
    """A tile at an end of one of the busiest links, or of a flow over it."""
    way, line, step = net.link(int(rng.choice(np.argpartition(load, -4)[-4:])))
    if rng.random() < 0.5:
        over = np.flatnonzero(net.over(way, line, step, source, sink))
        if len(over):
            flow = int(rng.choice(over))
            return int(source[flow] if rng.random() < 0.5 else sink[flow])
    near = min(step + int(rng.integers(2)), net.side - 1)
    row, column = (line, near) if way < 2 else (near, line)
    return min(row * net.side + column, net.tiles - 1)
