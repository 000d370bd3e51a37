"""Links of a chip against graphs that are walked step by step."""

from __future__ import annotations

import itertools
from collections import Counter

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcompiler.network import Topology

Link = tuple[object, object]


def graph_of(net: Topology) -> nx.Graph[object]:
    """The network as a graph; tiles are integers."""
    graph: nx.Graph[object] = nx.Graph()
    if net.kind == "mesh":
        side = net.side
        for tile in range(side * side):
            if tile % side + 1 < side:
                graph.add_edge(tile, tile + 1)
            if tile + side < side * side:
                graph.add_edge(tile, tile + side)
        graph.add_node(0)
    else:  # a binary tree: leaf t, its parents (level, t >> level)
        depth = max(1, (net.tiles - 1).bit_length())
        for tile in range(net.tiles):
            below: object = tile
            for level in range(1, depth + 1):
                graph.add_edge(below, (level, tile >> level))
                below = (level, tile >> level)
    return graph


@pytest.mark.parametrize(("kind", "tiles"), [("mesh", 1), ("mesh", 9), ("mesh", 7), ("htree", 8), ("htree", 6)])
def test_hops_are_shortest_paths(kind: str, tiles: int) -> None:
    net = Topology(kind, tiles)
    lengths = dict(nx.all_pairs_shortest_path_length(graph_of(net)))
    every = np.arange(tiles)
    hops = net.hops(every[:, None], every[None, :])
    assert hops.tolist() == [[lengths[a][b] if a != b else 0 for b in range(tiles)] for a in range(tiles)]


def test_a_bus_is_one_hop() -> None:
    assert Topology("bus", 4).hops(np.array([0, 1]), np.array([0, 3])).tolist() == [0, 1]
    assert Topology("bus", 4).loads(np.array([0, 1]), np.array([0, 3]), np.array([5.0, 7.0])).tolist() == [7.0]


def walked(net: Topology, source: int, sink: int, size: float) -> Counter[Link]:
    """Bytes on every directed link, hop by hop."""
    found: Counter[Link] = Counter()
    if net.kind == "htree":
        up: list[object] = [source]
        down: list[object] = [sink]
        level = 0
        while source >> level != sink >> level:
            level += 1
            up.append((level, source >> level))
            down.append((level, sink >> level))
        for one, other in itertools.pairwise(up):
            found[one, other] += size  # type: ignore[assignment]
        for one, other in itertools.pairwise(down):
            found[other, one] += size  # type: ignore[assignment]
        return found
    side = net.side
    for rows_first in (True, False):
        row, column = divmod(source, side)
        to_row, to_column = divmod(sink, side)
        for along_row in (rows_first, not rows_first):
            while (column != to_column) if along_row else (row != to_row):
                before = row * side + column
                if along_row:
                    column += 1 if to_column > column else -1
                else:
                    row += 1 if to_row > row else -1
                found[before, row * side + column] += size / 2  # type: ignore[assignment]
    return found


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([("mesh", 9), ("mesh", 16), ("mesh", 7), ("htree", 8), ("htree", 5)]), st.data())
def test_loads_are_those_of_a_walk(net_of: tuple[str, int], data: st.DataObject) -> None:
    net = Topology(*net_of)
    tile = st.integers(0, net.tiles - 1)
    flows = data.draw(st.lists(st.tuples(tile, tile, st.integers(1, 100)), max_size=12))
    source, sink, size = (np.array([flow[i] for flow in flows], dtype=float) for i in range(3))
    loads = net.loads(source.astype(int), sink.astype(int), size)
    every: Counter[Link] = Counter()
    for one, other, much in flows:
        every.update(walked(net, one, other, float(much)))
    assert sorted(load for load in loads.tolist() if load > 1e-9) == pytest.approx(sorted(every.values()))
    hops = net.hops(source.astype(int), sink.astype(int))
    assert loads.sum() == pytest.approx(float((size * hops).sum()))


@pytest.mark.parametrize(("kind", "tiles"), [("mesh", 16), ("htree", 8), ("bus", 5)])
def test_no_tile_has_nearer_neighbours_than_the_nearest(kind: str, tiles: int) -> None:
    net = Topology(kind, tiles)
    every = np.arange(tiles)
    near = net.nearest(tiles)
    for tile in range(tiles):
        assert (np.sort(net.hops(np.full(tiles, tile), every)) >= near).all()


def test_a_walk_goes_from_neighbour_to_neighbour() -> None:
    net = Topology("mesh", 16)
    order = net.walk()
    assert sorted(order.tolist()) == list(range(16))
    assert (net.hops(order[:-1], order[1:]) == 1).all()
