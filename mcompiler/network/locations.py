"""Tiles in which the layers of a network read and make their tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mcompiler.dataflow import LayerBuffers, StageGraph, input_shares
from mcompiler.geometry import TileTable, array_shape
from mcompiler.ir import AnalogLayer, ConvShape, TiledProgram
from mcompiler.target import Target

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TileShares:
    """Shares that tiles have of a tensor, copy by copy of a layer, [entries].

    Attributes:
        copy, node: number of the copy and of the tile.
        part: of the copy's input rows (of what is read), or of its results (parts of a copy add up to 1).
        words: number of the set of row blocks: entries of a copy with the same number read the same rows. Of results,
            each entry its own.
    """

    copy: Ints
    node: Ints
    part: Floats
    words: Ints

    def by_node(self, copies: int) -> tuple[Ints, Floats]:
        """Tiles, and the part of all results that each makes."""
        nodes, which = np.unique(self.node, return_inverse=True)
        return nodes, np.bincount(which.reshape(-1), weights=self.part) / copies


@dataclass(frozen=True)
class LayerLocation:
    """Tiles in which a layer reads and makes its tensors.

    Attributes:
        copies: of its arrays.
        readers: rows of its input, by copy and tile.
        makers: results, by copy and tile.
        nodes, needs: tiles, and the part of the whole input that each takes in, overlaps of windows included.
        words: number of the set of copies and row blocks in each of these tiles.
        senders, adders, sum_bytes: tiles of arrays, the tiles that add up their sums, and bytes from one to the other.
    """

    copies: int
    readers: TileShares
    makers: TileShares
    nodes: Ints
    needs: Floats
    words: Ints
    senders: Ints
    adders: Ints
    sum_bytes: Floats

    @property
    def buffers(self) -> LayerBuffers:
        """Tiles that hold the tokens that wait for its arrays, and those that wait after them."""
        return LayerBuffers(self.nodes, self.needs, *self.makers.by_node(self.copies))


def layer_locations(
    program: TiledProgram, graph: StageGraph, nodes: Sequence[Ints], target: Target
) -> list[LayerLocation]:
    """Where each layer works.

    Args:
        program: its tables of arrays.
        graph: its stages.
        nodes: tile of each array of each matrix, copies included.
        target: the chip.
    """
    columns = graph.columns()
    return [
        _location(layer, table, nodes[layer.site.matrix], columns.get(number, 1), target)
        for number, (layer, table) in enumerate(zip(program.matrix.layers, program.site_tables, strict=True))
    ]


_NO_SHARES = TileShares(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64))

NOWHERE = LayerLocation(
    copies=1,
    readers=_NO_SHARES,
    makers=_NO_SHARES,
    nodes=np.zeros(0, np.int64),
    needs=np.zeros(0),
    words=np.zeros(0, np.int64),
    senders=np.zeros(0, np.int64),
    adders=np.zeros(0, np.int64),
    sum_bytes=np.zeros(0),
)
"""Location of a layer without arrays."""


def _location(layer: AnalogLayer, table: TileTable, where: Ints, columns: int, target: Target) -> LayerLocation:
    """Where a layer works, and what its partial sums take.

    Args:
        layer, table: the layer and the arrays of one copy.
        where: tile of each array, copies included.
        columns: vectors in a row of the raster.
        target: the chip.
    """
    if not len(table):
        return NOWHERE
    shape = array_shape(target)
    copies = len(where) // len(table)
    heads = table[:: shape.arrays_per_tile]
    node = where.reshape(copies, len(table))[:, :: shape.arrays_per_tile]  # [copies, positions]
    readers, tiles, needs, words = _needs(layer, heads, node, columns)
    blocks = distinct_rows(heads["group"].astype(np.int64), heads["col"].astype(np.int64))
    width, count = np.zeros(len(blocks.first)), len(blocks.first)
    width[blocks.which] = heads["cols"]
    # Tiles with arrays of each copy's column blocks, the fullest of each first: it adds up and makes the results.
    pairs = distinct_rows((np.arange(copies)[:, None] * count + blocks.which).reshape(-1), node.reshape(-1))
    owned, tile = pairs.columns
    order = np.lexsort((pairs.first, -pairs.count, owned))  # ties go to the tile that holds the first array
    owned, tile = owned[order], tile[order]
    heads_of = np.flatnonzero(np.concatenate([[True], owned[1:] != owned[:-1]]))
    adder = np.repeat(tile[heads_of], np.diff(np.append(heads_of, len(owned))))
    bytes_each = width[owned % count] * np.ceil(target.digital.accumulator_bits / 8) * layer.site.vectors / copies
    makers = _added_up(owned[heads_of] // count, tile[heads_of], width[owned[heads_of] % count] / width.sum())
    return LayerLocation(
        copies=copies,
        readers=readers,
        makers=makers,
        nodes=tiles,
        needs=needs,
        words=words,
        senders=tile,
        adders=adder,
        sum_bytes=bytes_each,
    )


def input_share(layer: AnalogLayer, copies: int, together: Ints, runs: Ints, columns: int) -> Floats:
    """Part of its input that the copies of a layer in one tile read.

    Copies take vectors in turn, along the rows of the raster. Windows of neighbours overlap, and so do windows of one
    copy in the rows above: everywhere where rows are as long as a multiple of the copies, else at every other offset.

    Args:
        layer: which.
        copies: in all.
        together, runs: copies in one tile, and runs of neighbours that they form, elementwise.
        columns: vectors in a row of the raster.

    Returns:
        Elementwise, at most 1.
    """
    if not isinstance(layer.site.shape, ConvShape):
        return np.minimum(1.0, together / copies)
    kernel, stride = layer.site.shape.kernel[-1], layer.site.shape.strides[-1]
    across = (runs * max(0, kernel - stride) + together * min(kernel, stride)) / (copies * stride)
    down = float(
        np.prod(layer.site.shape.kernel[:-1], dtype=np.float64)
        / np.prod(layer.site.shape.strides[:-1], dtype=np.float64)
    )
    offsets = copies // math.gcd(copies, max(1, columns))
    rows = min(1.0, down) * max(1.0, min(float(offsets), down))
    return np.minimum(min(1.0, down) * min(1.0, kernel / stride), rows * across)


@dataclass(frozen=True)
class DistinctRows:
    """Distinct rows of a few columns, in ascending order.

    Attributes:
        columns: of the distinct rows.
        which: number of the distinct row that each row is.
        first, count: place of the first row of each kind, and how many there are.
    """

    columns: tuple[Ints, ...]
    which: Ints
    first: Ints
    count: Ints


def distinct_rows(*columns: Ints) -> DistinctRows:
    """``numpy.unique`` over rows of numbers that are not negative, as one number each: many times faster."""
    key, sizes = columns[0], [int(column.max(initial=0)) + 1 for column in columns]
    for column, size in zip(columns[1:], sizes[1:], strict=True):
        key = key * size + column
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    starts = np.ones(len(key), dtype=np.bool_)
    starts[1:] = ordered[1:] != ordered[:-1]
    begins = np.flatnonzero(starts)
    which = np.empty(len(key), dtype=np.int64)
    which[order] = np.cumsum(starts) - 1
    rows, found = ordered[begins], []
    for size in reversed(sizes[1:]):
        rows, last = np.divmod(rows, size)
        found.append(last)
    counts = np.diff(np.append(begins, len(key)))
    return DistinctRows((rows, *reversed(found)), which, order[begins], counts)


def _added_up(copy: Ints, node: Ints, part: Floats) -> TileShares:
    """Entries of one copy and tile added up, in the order of the copies."""
    both = distinct_rows(copy, node)
    total: Floats = np.bincount(both.which, weights=part).astype(np.float64)
    return TileShares(both.columns[0], both.columns[1], total, np.arange(len(total)))


def _needs(layer: AnalogLayer, heads: TileTable, node: Ints, columns: int) -> tuple[TileShares, Ints, Floats, Ints]:
    """Tiles that read the input of a layer: rows by copy and tile, parts of all input by tile, and numbers of words.

    Args:
        layer: which.
        heads: its array positions.
        node: tile of each, [copies, positions].
        columns: vectors in a row of the raster.
    """
    copies = len(node)
    kinds = distinct_rows(*(heads[name].astype(np.int64) for name in ("group", "row", "rows")))
    kind = np.broadcast_to(kinds.which, node.shape).reshape(-1)
    copy = np.broadcast_to(np.arange(copies)[:, None], node.shape).reshape(-1)
    tile, block, number = distinct_rows(node.reshape(-1), kind, copy).columns
    height = np.minimum(1.0, input_shares(layer, heads)[kinds.first])
    readers = _added_up(number, tile, height[block])
    readers = replace(
        readers,
        part=np.minimum(1.0, readers.part),  # blocks of reordered rows may share channels
        words=_same_sets(distinct_rows(number, tile).which, block),
    )
    # Copies that share a block of rows in a tile, and how many runs of neighbours they are.
    begins = np.ones(len(tile), dtype=np.int64)
    begins[1:] = (np.diff(tile) != 0) | (np.diff(block) != 0) | (np.diff(number) != 1)
    held = distinct_rows(tile, block)
    runs = np.add.reduceat(begins, held.first)
    tiles, which = np.unique(held.columns[0], return_inverse=True)
    part = input_share(layer, copies, held.count, runs, columns) * height[held.columns[1]]
    held_words = _same_sets(np.unique(tile, return_inverse=True)[1].reshape(-1), block * copies + number)
    return readers, tiles, np.minimum(1.0, np.bincount(which.reshape(-1), weights=part)), held_words


def _same_sets(owner: Ints, member: Ints) -> Ints:
    """Number of the set of members of each owner; equal sets have equal numbers: [owners].

    Args:
        owner: from 0 on, each at least once.
        member: that it has, elementwise.
    """
    order = np.lexsort((member, owner))
    sets = np.split(member[order], np.searchsorted(owner[order], np.arange(1, int(owner.max(initial=0)) + 1)))
    known: dict[bytes, int] = {}
    return np.array([known.setdefault(each.tobytes(), len(known)) for each in sets], dtype=np.int64)
