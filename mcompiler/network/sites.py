"""Which tile of a chip each filled tile becomes: few bytes that travel far, and no link much fuller than the others."""

from __future__ import annotations

import numpy as np

from mcompiler.network.flows import Floats, Flows, Ints
from mcompiler.network.topology import PORT, Topology, topology_of
from mcompiler.target import Target


def sites(flows: Flows, slots: Ints, chips: int, effort: int, target: Target) -> Ints:
    """The tile that each tile of slots becomes: with few bytes times links.

    Args:
        flows: between tiles of slots, counted through all chips.
        slots: array positions that are filled.
        chips: in use.
        effort: doubles the rounds.
        target: the chip.

    Returns:
        int64 [chips * tiles per chip].
    """
    net, tiles = topology_of(target), target.hierarchy.tiles_per_chip
    site = np.tile(np.arange(tiles), chips)
    if net.kind == "bus":
        return site
    for chip, used in enumerate(_used(slots, chips, target)):
        traffic, ports = _between(flows, chip, tiles)
        starts = [np.arange(tiles), net.walk()]
        own = min((_exchanged(start, traffic, ports, net, used, effort) for start in starts),
                  key=lambda each: _byte_hops(each, traffic, ports, net))  # fmt: skip
        site[chip * tiles : (chip + 1) * tiles] = own
    return site


def cooled_sites(site: Ints, flows: Flows, slots: Ints, chips: int, effort: int, target: Target, seed: int = 0) -> Ints:
    """Sites with emptier fullest links: the chips with the fullest of all, one after the other.

    Args:
        site: to start from, as ``sites`` gives it.
        flows, slots, chips, effort, target: as for ``sites``.
        seed: of the exchanges that are tried.
    """
    net, tiles = topology_of(target), target.hierarchy.tiles_per_chip
    site, used = site.copy(), _used(slots, chips, target)
    parts = [_between(flows, chip, tiles) for chip in range(chips)]
    fullest = np.array(
        [
            _loads(site[chip * tiles : (chip + 1) * tiles], traffic, ports, net).max(initial=0.0)
            for chip, (traffic, ports) in enumerate(parts)
        ]
    )
    for chip in np.argsort(-fullest, kind="stable").tolist():
        if fullest[chip] < fullest.max():  # a chip cooled before holds all back: this one need not
            break
        traffic, ports = parts[chip]
        own = _cooled(site[chip * tiles : (chip + 1) * tiles], traffic, ports, net, used[chip], effort, seed)
        site[chip * tiles : (chip + 1) * tiles] = own
        fullest[chip] = _loads(own, traffic, ports, net).max(initial=0.0)
    return site


def _used(slots: Ints, chips: int, target: Target) -> list[int]:
    """Tiles of each chip that are filled."""
    group = np.unique(slots // (target.hierarchy.arrays_per_core * target.hierarchy.cores_per_tile))
    counts: list[int] = np.bincount(group // target.hierarchy.tiles_per_chip, minlength=chips).tolist()
    return counts


def _loads(site: Ints, traffic: Floats, ports: Floats, net: Topology) -> Floats:
    """Bytes on the links of a chip whose tiles of slots stand at these sites."""
    source, sink, size = _listed(traffic, ports)
    ends = np.append(site, PORT)
    return net.loads(ends[source], ends[sink], size)


def _listed(traffic: Floats, ports: Floats) -> tuple[Ints, Ints, Floats]:
    """Flows between tiles of slots one by one; the port is numbered behind the tiles."""
    source, sink = np.nonzero(traffic)
    out = np.flatnonzero(ports)
    size = np.concatenate([traffic[source, sink], ports[out]])
    return np.concatenate([source, out]), np.concatenate([sink, np.full(len(out), len(ports))]), size


def _between(flows: Flows, chip: int, tiles: int) -> tuple[Floats, Floats]:
    """Bytes between the tiles of slots of a chip, both directions together, and between each and the port."""
    traffic, ports = np.zeros((tiles, tiles)), np.zeros(tiles)
    source, sink = flows.source, flows.sink
    ours, theirs = source // tiles == chip, sink // tiles == chip
    inside = ours & theirs & (source >= 0) & (sink >= 0)
    np.add.at(traffic, (source[inside] % tiles, sink[inside] % tiles), flows.bytes[inside])
    for end, here in ((source, ours), (sink, theirs)):
        through = here & ~inside & (end >= 0)
        np.add.at(ports, end[through] % tiles, flows.bytes[through])
    return traffic + traffic.T, ports


def _byte_hops(site: Ints, traffic: Floats, ports: Floats, net: Topology) -> float:
    """Bytes times links with the tiles of slots at these sites."""
    far = net.hops(site[:, None], site[None, :])
    return float((traffic * far).sum() / 2 + (ports * net.hops(site, np.full_like(site, PORT))).sum())


def _exchanged(site: Ints, traffic: Floats, ports: Floats, net: Topology, used: int, effort: int) -> Ints:
    """Exchange tiles, each with the one that gains most, until nothing gains or the rounds are over."""
    site = site.copy()
    tiles = len(site)
    every = np.arange(tiles)
    far = net.hops(every[:, None], every[None, :]).astype(np.float64)
    state = _State(site, traffic, ports, far[np.ix_(site, site)], far[PORT][site])
    for _ in range(4 << effort):
        changed = False
        for one in range(min(used, tiles)):
            gain = state.gains(one)
            other = int(np.argmax(gain))
            if gain[other] > 1e-9 * max(1.0, float(traffic[one].sum())):
                state.exchange(one, other)
                changed = True
        if not changed:
            break
    return state.site


class _State:
    """Where tiles stand, and what that costs; distances are kept by what stands there.

    Attributes:
        site: of each tile.
        traffic, ports: bytes between tiles, and between each and the port.
        far, home: links between the sites of tiles, and to the port.
    """

    def __init__(self, site: Ints, traffic: Floats, ports: Floats, far: Floats, home: Floats) -> None:
        self.site, self.traffic, self.ports, self.far, self.home = site, traffic, ports, far, home
        self.paid: Floats = (traffic * far).sum(axis=1)

    def gains(self, one: int) -> Floats:
        """Bytes times links saved by exchanging the site of one tile with that of each other."""
        own, away = self.traffic[one], self.far[one]
        # What the others would pay at the site of this one, and this one at theirs. Both sums count the distance
        # between the two as none, where it stays what it is.
        after = self.far @ own + self.traffic @ away + 2 * own * away
        before = self.paid[one] + self.paid
        leave = self.ports[one] * self.home[one] + self.ports * self.home
        come = self.ports[one] * self.home + self.ports * self.home[one]
        gain: Floats = before - after + leave - come
        gain[one] = 0.0
        return gain

    def exchange(self, one: int, other: int) -> None:
        """Let two tiles change places."""
        pair, turned = [one, other], [other, one]
        self.site[pair] = self.site[turned]
        self.far[pair] = self.far[turned]
        self.far[:, pair] = self.far[:, turned]
        self.home[pair] = self.home[turned]
        self.paid = (self.traffic * self.far).sum(axis=1)


def _cooled(site: Ints, traffic: Floats, ports: Floats, net: Topology, used: int, effort: int, seed: int) -> Ints:
    """Exchange tiles at the ends of the fullest links with others, where the fullest links get emptier by it."""
    if net.kind != "mesh" or used < 3:
        return site
    rng = np.random.default_rng(seed)
    best, tiles = site.copy(), len(site)
    source, sink, size = _listed(traffic, ports)
    ends = np.append(best, PORT)
    load = net.loads(ends[source], ends[sink], size)
    touching = [np.flatnonzero((source == tile) | (sink == tile)) for tile in range(tiles)]
    score, moves = _norm(load), np.zeros(len(size), dtype=np.bool_)
    for _ in range(min(_TRIALS, 16 * used) << effort):
        full = _tile_at(load, net, rng)
        with_it = _near(full, net, rng) if rng.random() < 0.5 else int(rng.integers(tiles))
        one, other = (int(np.flatnonzero(ends[:tiles] == place)[0]) for place in (full, with_it))
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
"""Exchanges that are tried for emptier links on a large chip, at no effort; each effort doubles them."""


def _norm(load: Floats) -> float:
    """How full the fullest links are: a mean of high power, so that the next ones count too."""
    return float((load**16).sum())


def _near(tile: int, net: Topology, rng: np.random.Generator) -> int:
    """A tile at most two rows and two columns away."""
    row, column = (min(max(0, at + int(rng.integers(-2, 3))), net.side - 1) for at in divmod(tile, net.side))
    return min(row * net.side + column, net.tiles - 1)


def _tile_at(load: Floats, net: Topology, rng: np.random.Generator) -> int:
    """A tile at an end of one of the fullest links."""
    place = int(rng.choice(np.argsort(load)[-4:]))
    kind, index = divmod(place, net.side * net.side)
    line, step = divmod(index, net.side)
    near = min(step + int(rng.integers(2)), net.side - 1)
    row, column = (line, near) if kind < 2 else (near, line)
    return min(row * net.side + column, net.tiles - 1)
