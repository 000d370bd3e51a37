"""Which tile of a chip each filled tile becomes: few bytes that travel far, and no link much fuller than the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mcompiler.network.flows import Floats, Flows, Ints
from mcompiler.network.topology import PORT, Topology, topology_of
from mcompiler.target import Target


def sites(flows: Flows, slots: Ints, chips: int, effort: int, target: Target) -> list[Ints]:
    """The tile that each tile of slots becomes, with few bytes times links: an arrangement for each way to start.

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
        for site, start in zip(found, starts, strict=True):
            site[chip * tiles : (chip + 1) * tiles] = _exchanged(start, traffic, ports, net, used, effort)
    return found


def cooled_sites(site: Ints, flows: Flows, slots: Ints, chips: int, effort: int, target: Target, seed: int = 0) -> Ints:
    """Sites with emptier fullest links: the chips with the fullest of all, one after the other.

    Args:
        site: to start from, as ``sites`` gives it.
        flows, slots, chips, effort, target: as for ``sites``.
        seed: of the exchanges that are tried.
    """
    net, tiles = topology_of(target), target.hierarchy.tiles_per_chip
    site, used = site.copy(), _used(slots, chips, target)
    parts = [_directed(flows, chip, tiles) for chip in range(chips)]
    fullest = np.array(
        [
            net.loads(*part.between(site[chip * tiles : (chip + 1) * tiles])).max(initial=0.0)
            for chip, part in enumerate(parts)
        ]
    )
    for chip in np.argsort(-fullest, kind="stable").tolist():
        if fullest[chip] < fullest.max():  # a chip cooled before holds all back: this one need not
            break
        own = _cooled(site[chip * tiles : (chip + 1) * tiles], parts[chip], net, used[chip], effort, seed)
        emptied = net.loads(*parts[chip].between(own)).max(initial=0.0)
        if emptied <= fullest[chip]:  # the sum of powers that it lowers does not promise that
            site[chip * tiles : (chip + 1) * tiles], fullest[chip] = own, emptied
    return site


def _used(slots: Ints, chips: int, target: Target) -> list[int]:
    """Tiles of each chip that are filled."""
    group = np.unique(slots // (target.hierarchy.arrays_per_core * target.hierarchy.cores_per_tile))
    counts: list[int] = np.bincount(group // target.hierarchy.tiles_per_chip, minlength=chips).tolist()
    return counts


@dataclass(frozen=True)
class _Directed:
    """Flows on one chip, [flows].

    Attributes:
        source, sink: tiles of slots; the port is numbered behind them.
        bytes: what goes.
    """

    source: Ints
    sink: Ints
    bytes: Floats

    def between(self, site: Ints) -> tuple[Ints, Ints, Floats]:
        """From where to where how much, with the tiles of slots at these sites."""
        ends = np.append(site, PORT)
        return ends[self.source], ends[self.sink], self.bytes


def _directed(flows: Flows, chip: int, tiles: int) -> _Directed:
    """What the links of a chip carry, the ways to the port and from it too."""
    ours, theirs = flows.source // tiles == chip, flows.sink // tiles == chip
    ours, theirs = ours & (flows.source >= 0), theirs & (flows.sink >= 0)
    source, sink = np.where(ours, flows.source % tiles, tiles), np.where(theirs, flows.sink % tiles, tiles)
    here = ours | theirs
    return _Directed(source[here], sink[here], flows.bytes[here])


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
        self.paid -= (self.traffic[:, pair] * self.far[:, pair]).sum(axis=1)
        self.site[pair] = self.site[turned]
        self.far[pair] = self.far[turned]
        self.far[:, pair] = self.far[:, turned]
        self.home[pair] = self.home[turned]
        self.paid += (self.traffic[:, pair] * self.far[:, pair]).sum(axis=1)
        self.paid[pair] = (self.traffic[pair] * self.far[pair]).sum(axis=1)


def _cooled(site: Ints, flows: _Directed, net: Topology, used: int, effort: int, seed: int) -> Ints:
    """Exchange tiles that load the fullest links with others, where the fullest links get emptier by it."""
    if net.kind != "mesh" or used < 3:
        return site
    rng = np.random.default_rng(seed)
    tiles, ends = len(site), np.append(site, PORT)
    source, sink, size = flows.source, flows.sink, flows.bytes
    load = net.loads(ends[source], ends[sink], size)
    touching = [np.flatnonzero((source == tile) | (sink == tile)) for tile in range(tiles)]
    score, moves = _norm(load), np.zeros(len(size), dtype=np.bool_)
    for _ in range(min(_TRIALS, 16 * used) << effort):
        full = _loading(load, ends[source], ends[sink], net, rng)
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
    """How full the fullest links are: the sum of their 16th powers, so that the next ones count too."""
    power = load
    for _ in range(4):
        power = power * power
    return float(power.sum())


def _near(tile: int, net: Topology, rng: np.random.Generator) -> int:
    """A tile at most two rows and two columns away."""
    row, column = (min(max(0, at + int(rng.integers(-2, 3))), net.side - 1) for at in divmod(tile, net.side))
    return min(row * net.side + column, net.tiles - 1)


def _loading(load: Floats, source: Ints, sink: Ints, net: Topology, rng: np.random.Generator) -> int:
    """A tile at an end of one of the fullest links, or of a flow that goes over it."""
    way, line, step = net.link(int(rng.choice(np.argpartition(load, -4)[-4:])))
    if rng.random() < 0.5:
        over = np.flatnonzero(net.over(way, line, step, source, sink))
        if len(over):
            flow = int(rng.choice(over))
            return int(source[flow] if rng.random() < 0.5 else sink[flow])
    near = min(step + int(rng.integers(2)), net.side - 1)
    row, column = (line, near) if way < 2 else (near, line)
    return min(row * net.side + column, net.tiles - 1)
