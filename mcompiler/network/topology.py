"""Links of a chip: how many of them a byte crosses, and how many bytes each carries.

A mesh routes half of every flow along its row first, the other half along its column first (O1TURN; Seo et al., ISCA
2005). An H-tree is a binary tree over the numbers of the tiles. A bus is one medium that all tiles use in turn. Links
carry both directions at once, except the bus.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mcompiler.target import Target

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

PORT = 0
"""Tile at which a chip's links to the outside end."""


@dataclass(frozen=True)
class Topology:
    """The network between the tiles of one chip.

    Attributes:
        kind: mesh, htree or bus.
        tiles: of the chip.
    """

    kind: str
    tiles: int

    @property
    def side(self) -> int:
        """Tiles in a row of the mesh."""
        return int(np.ceil(np.sqrt(self.tiles)))

    @property
    def links(self) -> int:
        """Links that ``loads`` can load, each direction one: a mesh has those of its whole square, a bus is one."""
        if self.tiles == 1:
            return 0
        if self.kind == "bus":
            return 1
        if self.kind == "htree":
            return 2 * sum(((self.tiles - 1) >> level) + 1 for level in range((self.tiles - 1).bit_length()))
        return 4 * self.side * (self.side - 1)

    def hops(self, source: Ints, sink: Ints) -> Ints:
        """Links between tiles, elementwise."""
        if self.kind == "bus":
            return np.not_equal(source, sink).astype(np.int64)
        if self.kind == "htree":
            return 2 * np.ceil(np.log2(np.bitwise_xor(source, sink) + 1.0)).astype(np.int64)
        side = self.side
        steps: Ints = np.abs(source // side - sink // side) + np.abs(source % side - sink % side)
        return steps

    def loads(self, source: Ints, sink: Ints, size: Floats) -> Floats:
        """Bytes on every link and direction that could carry some, in no particular order.

        Args:
            source, sink: tiles, [flows].
            size: bytes of each flow, [flows].
        """
        if self.kind == "bus":
            return np.array([size[source != sink].sum()])
        return self._tree(source, sink, size) if self.kind == "htree" else self._mesh(source, sink, size)

    def _tree(self, source: Ints, sink: Ints, size: Floats) -> Floats:
        """Up from the source and down to the sink, level by level, until both are under one node."""
        found: list[Floats] = [np.zeros(1)]
        level = 0
        while (self.tiles - 1) >> level:
            below, above = source >> level, sink >> level
            apart = below != above
            count = ((self.tiles - 1) >> level) + 1
            for ends in (below, above):
                load: Floats = np.bincount(ends[apart], weights=size[apart], minlength=count).astype(np.float64)
                found.append(load)
            level += 1
        return np.concatenate(found)

    def _mesh(self, source: Ints, sink: Ints, size: Floats) -> Floats:
        """Links along rows forward and backward, then along columns: four times [side * side]."""
        found: Floats = self.mesh_loads(source, sink, size, np.zeros(len(source), np.int64), 1)[0]
        return found

    def mesh_loads(self, source: Ints, sink: Ints, size: Floats, case: Ints, cases: int) -> Floats:
        """Bytes on the links of a mesh in several cases at once, links numbered as in ``loads``.

        Args:
            source, sink, size: as for ``loads``.
            case: that each flow belongs to, [flows].
            cases: their number.

        Returns:
            [cases, links].
        """
        side = self.side
        (from_row, from_column), (to_row, to_column) = np.divmod(source, side), np.divmod(sink, side)
        line = np.concatenate([from_row, to_row, from_column, to_column])
        start = np.concatenate([from_column, from_column, from_row, from_row])
        end = np.concatenate([to_column, to_column, to_row, to_row])
        # A flow enters a line of links at one place and leaves it at another: the sum over the places up to a link is
        # what the link carries.
        way = np.repeat([0, 2], 2 * len(source)) + (end < start) + 4 * np.tile(case, 4)
        place = (way * side + line) * (side + 1)
        ends = np.concatenate([place + np.minimum(start, end), place + np.maximum(start, end)])
        half = np.tile(size / 2, 4)
        steps = np.bincount(ends, np.concatenate([half, -half]), cases * 4 * side * (side + 1)).astype(np.float64)
        found: Floats = np.cumsum(steps.reshape(cases, 4 * side, side + 1), axis=2)[:, :, :-1].reshape(cases, -1)
        return found

    def routes(self, source: Ints, sink: Ints) -> list[tuple[Ints, Ints, float]]:
        """Links that flows cross, route by route: number of the flow, number of the link, part of the bytes.

        Links have the numbers of ``loads`` on a mesh; [flows x links of each].
        """
        if self.kind == "bus":
            moving = np.flatnonzero(source != sink)
            return [(moving, np.zeros_like(moving), 1.0)]
        if self.kind == "htree":
            return [self._tree_route(source, sink)]
        side = self.side
        (from_row, from_column), (to_row, to_column) = np.divmod(source, side), np.divmod(sink, side)
        rows_first = _line(0, from_row, from_column, to_column, side), _line(2, to_column, from_row, to_row, side)
        columns_first = _line(2, from_column, from_row, to_row, side), _line(0, to_row, from_column, to_column, side)
        return [
            (np.concatenate([one[0], other[0]]), np.concatenate([one[1], other[1]]), 0.5)
            for one, other in (rows_first, columns_first)
        ]

    def _tree_route(self, source: Ints, sink: Ints) -> tuple[Ints, Ints, float]:
        flows, links, level = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
        while (self.tiles - 1) >> level:
            apart = np.flatnonzero(source >> level != sink >> level)
            for down, ends in enumerate((source, sink)):
                flows.append(apart)
                links.append((2 * level + down) * self.tiles + (ends[apart] >> level))
            level += 1
        return np.concatenate(flows), np.concatenate(links), 1.0

    def link(self, index: int) -> tuple[int, int, int]:
        """(way, line, step) of a link of a mesh in ``loads``: 0, 1 forward and backward along a row, 2, 3 a column."""
        line, step = divmod(index, self.side)
        return (*divmod(line, self.side), step)

    def over(self, way: int, line: int, step: int, source: Ints, sink: Ints) -> npt.NDArray[np.bool_]:
        """Whether flows cross a link of a mesh, elementwise."""
        (from_row, from_column), (to_row, to_column) = np.divmod(source, self.side), np.divmod(sink, self.side)
        if way < 2:
            lines, start, end = (from_row, to_row), from_column, to_column
        else:
            lines, start, end = (from_column, to_column), from_row, to_row
        if way % 2:
            start, end = end, start
        found: npt.NDArray[np.bool_] = ((lines[0] == line) | (lines[1] == line)) & (start <= step) & (step < end)
        return found

    def walk(self) -> Ints:
        """All tiles in an order in which neighbours are close: a snake through the mesh, by number else."""
        order: Ints = np.arange(self.tiles, dtype=np.int64)
        if self.kind != "mesh":
            return order
        side = self.side
        row, column = np.divmod(order, side)
        return order[np.lexsort((np.where(row % 2 == 0, column, -column), row))]

    def nearest(self, count: int) -> Ints:
        """Smallest distances that ``count`` different tiles can have from one, whichever it is."""
        every = np.arange(self.tiles, dtype=np.int64)
        if self.kind == "mesh":
            reach = np.arange(self.side * 2)
            around = np.concatenate(
                [[0], np.repeat(reach[1:], 4 * reach[1:])]
            )  # an endless mesh: 4d tiles at distance d
            return around[:count].astype(np.int64)
        return np.sort(self.hops(np.zeros(self.tiles, np.int64), every))[:count]


def _line(way: int, line: Ints, start: Ints, end: Ints, side: int) -> tuple[Ints, Ints]:
    """Numbers of flows and of the links that they cross along lines of a mesh; ``way``: 0 rows, 2 columns."""
    count = np.abs(end - start)
    flow = np.repeat(np.arange(len(count)), count)
    inside = np.arange(len(flow)) - np.repeat(np.cumsum(count) - count, count)
    step = np.minimum(start, end)[flow] + inside
    found: Ints = ((way + (end < start)[flow]) * side + line[flow]) * side + step
    return flow, found


def topology_of(target: Target) -> Topology:
    """The network between the tiles of a target's chip."""
    return Topology(target.network.topology, target.hierarchy.tiles_per_chip)
