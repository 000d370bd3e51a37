"""Words that several tiles read: each word followed on its own, over every link of its ways."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcompiler.ir import PlacedProgram
from mcompiler.network import located
from tests.network.test_traffic import KEYS, sequence
from tests.support.programs import target

TOKENS, TILES, SIDE = 3, 9, 3
Link = tuple[int | str, ...]


def mesh_ways(source: int, sink: int) -> Iterator[list[Link]]:
    """The links of the way along the row first, and of that along the column first."""
    (row, column), (to_row, to_column) = divmod(source, SIDE), divmod(sink, SIDE)

    def steps(start: int, end: int) -> Iterator[tuple[int, int]]:
        way = 1 if end > start else -1
        return ((at, at + way) for at in range(start, end, way))

    def links(way: str, line: int, start: int, end: int) -> list[Link]:
        return [(way, line, *step) for step in steps(start, end)]

    yield links("row", row, column, to_column) + links("column", to_column, row, to_row)
    yield links("column", column, row, to_row) + links("row", to_row, column, to_column)


def tree_ways(source: int, sink: int) -> Iterator[list[Link]]:
    """Up to the first node above both, and down."""
    level = 0
    links: list[Link] = []
    while source >> level != sink >> level:
        links += [("up", level, source >> level), ("down", level, sink >> level)]
        level += 1
    yield from (links, links)


def bus_ways(source: int, sink: int) -> Iterator[list[Link]]:
    """One medium."""
    links: list[Link] = [("bus",)] if source != sink else []
    yield from (links, links)


WAYS = {"mesh": mesh_ways, "htree": tree_ways, "bus": bus_ways}


class Followed:
    """Bytes on links and ports, word by word.

    Attributes:
        links: bytes of each link, per chip.
        ports: bytes in and out of each chip.
    """

    def __init__(self, topology: str, multicast: bool) -> None:
        self.ways, self.multicast = WAYS[topology], multicast
        self.links: dict[Link, float] = defaultdict(float)
        self.ports: dict[int, float] = defaultdict(float)
        self.chip_bytes = 0.0

    def send(self, source: int | None, sinks: set[int | None], size: float) -> None:
        """One word from a tile to tiles; None: outside."""
        paths: list[tuple[int, int, int]] = []  # chip, from, to
        begin = (0, 0) if source is None else divmod(source, TILES)
        for sink in sinks - {source}:
            if sink is not None and source is not None and sink // TILES == begin[0]:
                paths.append((begin[0], begin[1], sink % TILES))
        for chip in {None if sink is None else sink // TILES for sink in sinks}:
            if source is not None and chip == begin[0]:
                continue
            self.chip_bytes += size
            if source is not None:
                self.ports[begin[0]] += size
                paths.append((begin[0], begin[1], 0))
            if chip is not None:
                self.ports[chip] += size
                paths += [(chip, 0, sink % TILES) for sink in sinks if sink is not None and sink // TILES == chip]
        for turn in range(2):
            crossed: list[Link] = []
            for chip, start, end in paths:
                crossed += [(chip, start, *link) for link in list(self.ways(start, end))[turn]]
            for link in set(crossed) if self.multicast else crossed:
                self.links[(link[0], *link[2:])] += size / 2


def follow(widths: list[int], nodes: list[list[int]], followed: Followed) -> None:
    """All words of two products: arrays of 4 rows and 2 columns, column blocks fastest; the first has one row block."""
    makers: list[int | None] = [None] * widths[0]
    for rows, columns, where in zip(widths, widths[1:], nodes, strict=False):
        blocks = -(-columns // 2)
        readers: list[set[int | None]] = [{where[k // 4 * blocks + b] for b in range(blocks)} for k in range(rows)]
        for _ in range(TOKENS):
            for maker, sinks in zip(makers, readers, strict=True):
                followed.send(maker, sinks, 1.0)
        makers = []
        for block in range(blocks):
            own = where[block::blocks]
            adder = max(own, key=lambda tile: (own.count(tile), -own.index(tile)))
            width = min(2, columns - 2 * block)
            for tile in set(own) - {adder}:
                followed.send(tile, {adder}, TOKENS * width * 4.0)
            makers += [adder] * width
    for maker in makers:
        followed.send(maker, {None}, TOKENS * 1.0)


@pytest.mark.parametrize("topology", WAYS)
@pytest.mark.parametrize("multicast", [False, True])
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 2), st.integers(1, 4), st.data())
def test_every_word_followed_on_its_own(
    topology: str, multicast: bool, row_blocks: int, wide: int, data: st.DataObject
) -> None:
    """The first product in one tile, the second anywhere on two chips."""
    chip = target(*KEYS, f"hierarchy.tiles_per_chip={TILES}", f"network.topology={topology}",
                  f"network.multicast={str(multicast).lower()}")  # fmt: skip
    widths = [4, 4 * row_blocks, 2 * wide]
    program = sequence(widths, TOKENS)
    counts = [len(table) for table in program.tiled.tables]
    assert counts == [2 * row_blocks, row_blocks * wide]
    node = st.integers(0, 2 * TILES - 1)
    nodes = [[data.draw(node)] * counts[0], data.draw(st.lists(node, min_size=counts[1], max_size=counts[1]))]
    addresses = tuple(
        np.array([[tile // TILES, tile % TILES, 0, 0] for tile in each], dtype=np.int32) for each in nodes
    )
    found = located(PlacedProgram(program, addresses, 2), chip).traffic()
    followed = Followed(topology, multicast)
    follow(widths, nodes, followed)
    assert found.chip_bytes == pytest.approx(followed.chip_bytes)
    assert found.busiest_chip_bytes == pytest.approx(max(followed.ports.values()))
    assert found.byte_hops == pytest.approx(sum(followed.links.values()))
    assert found.busiest_link_bytes == pytest.approx(max(followed.links.values(), default=0.0))
    assert sum(layer.link_byte_hops for layer in found.layers) == pytest.approx(found.byte_hops)
    assert found.lower_bound_byte_hops <= found.byte_hops + 1e-9
