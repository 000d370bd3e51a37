"""Links of a chip against graphs that are walked step by step."""

from __future__ import annotations

import itertools
from collections import Counter

import networkx as nx
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcompiler.network import OUTSIDE, Flows, Topology, measured
from mcompiler.network.positions import SearchLimits, _directed, relieve_busiest_links
from tests.support.programs import target

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
    assert net.links == (2 * graph_of(net).number_of_edges() if tiles > 1 else 0)
    lengths = dict(nx.all_pairs_shortest_path_length(graph_of(net)))
    every = np.arange(tiles)
    hops = net.hops(every[:, None], every[None, :])
    assert hops.tolist() == [[lengths[a][b] if a != b else 0 for b in range(tiles)] for a in range(tiles)]


def test_a_bus_is_one_hop() -> None:
    assert Topology("bus", 4).links == 1
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


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 7, 16]))
def test_cases_at_once_load_links_as_one_after_the_other(seed: int, tiles: int) -> None:
    rng = np.random.default_rng(seed)
    net, (source, sink) = Topology("mesh", tiles), rng.integers(0, tiles, (2, 30))
    size, case = rng.normal(size=30), rng.integers(0, 4, 30)  # what is taken off is negative
    found = net.mesh_loads(source, sink, size, case, 4)
    alone = [net.loads(source[case == each], sink[case == each], size[case == each]) for each in range(4)]
    np.testing.assert_allclose(found, alone, atol=1e-12)


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


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 20))
def test_a_link_carries_what_goes_over_it(seed: int, tiles: int) -> None:
    """Half of a flow for each of its two ways that crosses the link: one way only where it turns elsewhere."""
    rng = np.random.default_rng(seed)
    net = Topology("mesh", tiles)
    source, sink = rng.integers(tiles, size=6), rng.integers(tiles, size=6)
    size = rng.integers(1, 9, 6).astype(float)
    for index, load in enumerate(net.loads(source, sink, size).tolist()):
        over = net.over(*net.link(index), source, sink)
        assert size[over].sum() / 2 <= load <= size[over].sum()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 3))
def test_the_busiest_link_gets_no_busier(seed: int, effort: int) -> None:
    """Each direction of a link is loaded by itself, as ``measured`` counts it; ports and chips included."""
    rng = np.random.default_rng(seed)
    chip = target("hierarchy.tiles_per_chip=16", "network.topology=mesh")
    room = chip.hierarchy.arrays_per_core * chip.hierarchy.cores_per_tile
    ends = rng.integers(OUTSIDE, 32, (2, 60))
    flows = Flows(
        ends[0], ends[1], rng.random(60) ** 4, np.zeros(60, np.int64), np.zeros(60, np.bool_), np.zeros(60)
    ).added_up()
    position = np.tile(np.arange(16), 2)
    found = relieve_busiest_links(position, flows, np.arange(32) * room, SearchLimits(effort, seed), chip)
    assert sorted(found[:16]) == sorted(found[16:]) == list(range(16))

    def busiest(position: npt.NDArray[np.int64]) -> float:
        return measured(flows.between(np.repeat([0, 16], 16) + position), 0, chip, 0.0).busiest_link_bytes

    assert busiest(found) <= busiest(position) * (1 + 1e-9)
    parts = [_directed(flows, index, 16).between(position[index * 16 :][:16]) for index in range(2)]
    loads = [Topology("mesh", 16).loads(*part).max() for part in parts]
    assert max(loads) == pytest.approx(busiest(position))


def test_an_exchange_that_halves_the_busiest_link_is_found() -> None:
    """Tile 3 sends most to tile 5 of its row: nearer, or in another row, no link carries all of it over two steps."""
    chip = target("hierarchy.tiles_per_chip=9", "network.topology=mesh")
    room = chip.hierarchy.arrays_per_core * chip.hierarchy.cores_per_tile
    source, sink = np.array([3, 3, 3, 3]), np.array([5, 5, 4, 2])
    flows = Flows(
        source, sink, np.array([4.0, 4.0, 1.0, 1.0]), np.zeros(4, np.int64), np.zeros(4, np.bool_), np.zeros(4)
    ).added_up()
    position = np.arange(9)
    found = relieve_busiest_links(position, flows, np.arange(9) * room, SearchLimits(0), chip)
    before, after = (measured(flows.between(each), 0, chip, 0.0).busiest_link_bytes for each in (position, found))
    assert before == 8 + 1 + 0.5
    assert after <= 5.0
