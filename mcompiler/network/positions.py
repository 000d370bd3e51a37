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
        effort: doubles the rounds; below 0: a quick look.
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
    """Exchange tiles that load the busiest links with others where that takes traffic off the busiest links.

    Exchanges are tried in batches; the best of a batch is made where it is better than none.
    """
    if net.kind != "mesh" or used < 3 or not len(flows.bytes):
        return position
    rng = np.random.default_rng(limits.seed)
    tiles, ends = len(position), np.append(position, PORT)
    touching = _Touching(flows, tiles)
    load = net.loads(*flows.between(ends[:tiles]))
    scale = max(float(load.max()), 1e-300)
    score = float(_norm(load / scale))
    for _ in range(max(1, int(min(_TRIALS, 16 * used) * 2.0**limits.effort) // _BATCH)):
        at = np.argsort(ends[:tiles])  # the tile at each position
        full, other = _pairs(load, (ends[flows.source], ends[flows.sink]), net, rng)
        one, two = at[full], at[other]
        # Only the flows of the two tiles change their links: their old loads are taken off, their new ones added.
        case, flow = touching.either(one, two)
        size, before = flows.bytes[flow], (ends[flows.source[flow]], ends[flows.sink[flow]])
        after = [
            np.where(end == full[case], other[case], np.where(end == other[case], full[case], end)) for end in before
        ]
        for end, tile in zip(after, (flows.source[flow], flows.sink[flow]), strict=True):
            end[tile == tiles] = PORT  # the port stays where it is, whichever tile comes to its position
        changed = load + net.mesh_loads(
            np.concatenate([before[0], after[0]]),
            np.concatenate([before[1], after[1]]),
            np.concatenate([-size, size]),
            np.tile(case, 2),
            _BATCH,
        )
        found = _norm(changed / scale)
        best = int(np.argmin(found))
        if found[best] < score:
            load, score = changed[best], float(found[best])
            ends[[one[best], two[best]]] = ends[[two[best], one[best]]]
    return ends[:tiles]


_TRIALS = 800
"""Exchanges that are tried to relieve links on a large chip at effort 0; each effort doubles them."""

_BATCH = 16
"""Exchanges of which the best is made."""


def _norm(load: Floats) -> Floats:
    """Sum over the last axis of the 16th powers: close to that of the maximum, and the next ones count too."""
    power = load
    for _ in range(4):
        power = power * power
    found: Floats = power.sum(axis=-1)
    return found


class _Touching:
    """Which flows start or end at a tile."""

    def __init__(self, flows: _Directed, tiles: int) -> None:
        self._count = len(flows.bytes)
        every = np.concatenate([flows.source, flows.sink])
        order = np.argsort(every, kind="stable")
        self._flows = order % self._count
        self._begin = np.searchsorted(every[order], np.arange(tiles + 1))

    def either(self, one: Ints, other: Ints) -> tuple[Ints, Ints]:
        """Flows of the first or the second tile of each pair, every flow once: number of the pair, and the flow."""
        ends = np.concatenate([one, other])
        first, counts = self._begin[ends], self._begin[ends + 1] - self._begin[ends]
        pair = np.repeat(np.tile(np.arange(len(one)), 2), counts)
        places = np.repeat(first - (np.cumsum(counts) - counts), counts) + np.arange(len(pair))
        return np.divmod(np.unique(pair * self._count + self._flows[places]), self._count)


def _pairs(load: Floats, ends: tuple[Ints, Ints], net: Topology, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Positions of a batch of exchanges: of a tile at a busy link or of a flow over it, and of any other or one near.

    Args:
        load: of the links.
        ends: positions at which each flow starts and ends.
        net: the mesh.
        rng: chooses.
    """
    links = [net.link(int(each)) for each in np.argpartition(load, -4)[-4:]]
    which, near = rng.integers(len(links), size=_BATCH), rng.integers(2, size=_BATCH)
    of_flow, at_source = rng.random((2, _BATCH)) < 0.5
    full = np.empty(_BATCH, np.int64)
    for number, (way, line, step) in enumerate(links):
        mine = which == number
        at = np.minimum(step + near[mine], net.side - 1)
        full[mine] = line * net.side + at if way < 2 else at * net.side + line
        over = np.flatnonzero(net.over(way, line, step, *ends))
        mine = np.flatnonzero(mine & of_flow)
        if len(over) and len(mine):
            flow = over[rng.integers(len(over), size=len(mine))]
            full[mine] = np.where(at_source[mine], ends[0][flow], ends[1][flow])
    full = np.minimum(full, net.tiles - 1)
    row, column = np.divmod(full, net.side)
    around = [np.clip(place + rng.integers(-2, 3, size=_BATCH), 0, net.side - 1) for place in (row, column)]
    close = np.minimum(around[0] * net.side + around[1], net.tiles - 1)
    return full, np.where(rng.random(_BATCH) < 0.5, close, rng.integers(net.tiles, size=_BATCH))
