"""Who sends how much to whom in one inference.

Nodes are tiles. The arrays of a column block that stand in several tiles send their sums to the tile that holds most of
them. There results are scaled and quantised, and what digital nodes make of them is made; from there it goes to the
tiles whose arrays read it, to each once, the rows that its arrays take.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mcompiler.dataflow import Holders, Kind, Step, input_shares
from mcompiler.dataflow.grids import Needs, same_place
from mcompiler.geometry import ArrayShape, TileTable
from mcompiler.ir import AnalogLayer, ConvShape
from mcompiler.target import Target

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

OUTSIDE = -1
"""Node of the model's inputs and outputs: the port of chip 0."""


@dataclass(frozen=True)
class Flows:
    """Bytes between nodes per inference, [flows].

    Attributes:
        source, sink: numbers of nodes (chip * tiles per chip + tile), or OUTSIDE.
        bytes: what goes.
        layer: the analog layer that it is booked on: the one that receives it, or whose sums or results they are.
        sums: whether it is partial sums.
    """

    source: Ints
    sink: Ints
    bytes: Floats
    layer: Ints
    sums: npt.NDArray[np.bool_]

    def between(self, node: Ints) -> Flows:
        """The same with other numbers for the nodes: ``node[n]`` for n."""
        numbers = np.append(node, OUTSIDE)  # which -1 finds at the end
        return replace(self, source=numbers[self.source], sink=numbers[self.sink])

    def added_up(self) -> Flows:
        """One flow for each pair of nodes, booked on no layer."""
        pairs = _distinct(self.source - OUTSIDE, self.sink - OUTSIDE)
        size: Floats = np.bincount(pairs.which, weights=self.bytes).astype(np.float64)
        source, sink = (end + OUTSIDE for end in pairs.columns)
        return Flows(source, sink, size, np.full(len(size), -1), np.zeros(len(size), dtype=np.bool_))


@dataclass(frozen=True)
class Held:
    """Tiles that hold something of a layer's copies, [entries].

    Attributes:
        copy, node: which copy, which tile.
        part: of the copy's input rows (of what is read), or of its results (parts of a copy add up to 1).
    """

    copy: Ints
    node: Ints
    part: Floats

    def by_node(self, copies: int) -> tuple[Ints, Floats]:
        """Tiles, and what part of all results each makes."""
        nodes, which = np.unique(self.node, return_inverse=True)
        return nodes, np.bincount(which.reshape(-1), weights=self.part) / copies


@dataclass(frozen=True)
class Spread:
    """Where a layer reads and makes its tensors.

    Attributes:
        copies: of its arrays.
        readers: rows of its input, by copy and tile.
        makers: results, by copy and tile.
        nodes, needs: tiles, and the part of the whole input that each takes in, where windows slide.
    """

    copies: int
    readers: Held
    makers: Held
    nodes: Ints
    needs: Floats


def layer_flows(
    steps: Sequence[Step],
    ends: Sequence[int],
    ops: Sequence[AnalogLayer],
    tables: Sequence[TileTable],
    nodes: Sequence[Ints],
    shape: ArrayShape,
    target: Target,
    elsewhere: frozenset[int] = frozenset(),
) -> Flows:
    """All flows of a network.

    Args:
        steps, ends: its stages, and those whose results leave it.
        ops, tables: its analog layers and their arrays.
        nodes: of the arrays of each layer, copies included.
        shape, target: what they are.
        elsewhere: layers that are not there in this turn: what they read leaves the chip.
    """
    found = _Collected()
    spreads = []
    columns = {step.layer: step.grid.sizes[-1] for step in steps if step.kind is Kind.ANALOG and step.grid.sizes}
    for index, (op, table, where) in enumerate(zip(ops, tables, nodes, strict=True)):
        spread, sums = _spread(op, table, where, columns.get(index, 1), shape, target)
        spreads.append(spread)
        found.add(*sums, index, True)
    for step in steps:
        for read in step.reads if step.layer >= 0 and step.kind is not Kind.REQUANTISE else ():
            if step.layer in elsewhere:
                _leave(found, steps[read.producer], spreads, target)
                continue
            bits = ops[step.layer].site.input.bits if step.kind is Kind.ANALOG else target.precision.inputs
            _read(found, step, steps[read.producer], read.needs, bits, spreads)
    for index in ends:
        step = steps[index]
        if step.layer >= 0:
            sources, parts = _made_by(step, spreads)
            size = step.grid.tokens * step.grid.width * target.precision.inputs / 8
            found.add_all(sources, parts * size, np.array([OUTSIDE]), np.ones(1), step.layer)
    return found.flows()


def layer_holders(
    steps: Sequence[Step],
    ops: Sequence[AnalogLayer],
    tables: Sequence[TileTable],
    nodes: Sequence[Ints],
    shape: ArrayShape,
    target: Target,
) -> list[Holders]:
    """Tiles that hold what waits for each layer; arguments as of ``layer_flows``."""
    columns = {step.layer: step.grid.sizes[-1] for step in steps if step.kind is Kind.ANALOG and step.grid.sizes}
    found = []
    for index, (op, table, where) in enumerate(zip(ops, tables, nodes, strict=True)):
        spread, _ = _spread(op, table, where, columns.get(index, 1), shape, target)
        makers, parts = spread.makers.by_node(spread.copies)
        found.append(Holders(spread.nodes, spread.needs, makers, parts))
    return found


def _leave(found: _Collected, producer: Step, spreads: Sequence[Spread], target: Target) -> None:
    """Add results that are kept outside until another turn."""
    if producer.layer >= 0 and len(spreads[producer.layer].makers.node):
        sources, parts = _made_by(producer, spreads)
        size = producer.grid.tokens * producer.grid.width * target.precision.inputs / 8
        found.add_all(sources, parts * size, np.array([OUTSIDE]), np.ones(1), producer.layer)


def _read(found: _Collected, step: Step, producer: Step, needs: Needs, bits: int, spreads: Sequence[Spread]) -> None:
    """Add what a stage reads of one tensor."""
    size = producer.grid.tokens * producer.grid.width * bits / 8
    own, analog = spreads[step.layer], step.kind is Kind.ANALOG
    in_turn = needs is same_place(producer.grid.tokens)
    if producer.layer == step.layer and not analog and (in_turn or own.copies == 1):
        return  # its tiles have made what it reads, but for windows over tokens that different copies made
    sinks = own.readers if analog else own.makers
    other = spreads[producer.layer] if producer.layer >= 0 else None
    if in_turn and other is not None and len(other.makers.node) and len(sinks.node):
        _in_turn(found, other, own, sinks, size, step.layer)
        return
    sources, parts = _made_by(producer, spreads)
    if analog:
        found.add_all(sources, parts * size, own.nodes, own.needs, step.layer)
    else:
        nodes, shares = own.makers.by_node(own.copies)
        found.add_all(sources, parts * size, nodes, shares, step.layer)


def _in_turn(found: _Collected, other: Spread, own: Spread, sinks: Held, size: float, layer: int) -> None:
    """Token by token: what copy a of one layer makes goes to copy b of the other where a token is the turn of both."""
    turns = np.arange(math.lcm(other.copies, own.copies))
    source_copy, sink_copy = turns % other.copies, turns % own.copies
    begins = np.searchsorted(other.makers.copy, np.arange(other.copies + 1))
    enters = np.searchsorted(sinks.copy, np.arange(own.copies + 1))
    made, taken = np.diff(begins)[source_copy], np.diff(enters)[sink_copy]
    pairs = made * taken
    turn = np.repeat(turns, pairs)
    inside = np.arange(len(turn)) - np.repeat(np.cumsum(pairs) - pairs, pairs)
    source = begins[source_copy[turn]] + inside // taken[turn]
    sink = enters[sink_copy[turn]] + inside % taken[turn]
    part = other.makers.part[source] * sinks.part[sink] / len(turns)
    found.add(other.makers.node[source], sinks.node[sink], size * part, layer, False)


class _Collected:
    """Flows as they come in."""

    def __init__(self) -> None:
        self.parts: list[tuple[Ints, Ints, Floats, Ints, npt.NDArray[np.bool_]]] = []

    def add(self, source: Ints, sink: Ints, size: Floats, layer: int, sums: bool) -> None:
        moving = source != sink
        count = int(moving.sum())
        self.parts.append((
            source[moving], sink[moving], size[moving], np.full(count, layer), np.full(count, sums, dtype=np.bool_)
        ))  # fmt: skip

    def add_all(self, sources: Ints, sizes: Floats, sinks: Ints, needs: Floats, layer: int) -> None:
        """Every source sends to every sink what it has of what the sink needs."""
        source, sink = np.repeat(sources, len(sinks)), np.tile(sinks, len(sources))
        self.add(source, sink, np.outer(sizes, needs).reshape(-1), layer, False)

    def flows(self) -> Flows:
        none: tuple[Ints, Ints, Floats, Ints, npt.NDArray[np.bool_]] = (
            np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.bool_)
        )  # fmt: skip
        source, sink, size, layer, sums = (np.concatenate(column) for column in zip(none, *self.parts, strict=True))
        return Flows(source, sink, size, layer, sums)


def _made_by(step: Step, spreads: Sequence[Spread]) -> tuple[Ints, Floats]:
    """Where the results of a stage are made, and which part of them."""
    if step.layer < 0 or not len(spreads[step.layer].makers.node):
        return np.array([OUTSIDE]), np.ones(1)
    return spreads[step.layer].makers.by_node(spreads[step.layer].copies)


def input_share(op: AnalogLayer, copies: int, together: Ints, runs: Ints, columns: int) -> Floats:
    """Part of its input that some of the copies of a layer read together.

    Copies take vectors in turn, along the rows of the raster. Windows of neighbours overlap, and so do windows of one
    copy in the rows above: everywhere where rows are as long as a multiple of the copies, else at every other offset.

    Args:
        op: the layer.
        copies: in all.
        together, runs: how many stand together, and in how many runs of neighbours, elementwise.
        columns: vectors in a row of the raster.

    Returns:
        Elementwise, at most 1.
    """
    if not isinstance(op.site.shape, ConvShape):
        return np.minimum(1.0, together / copies)
    kernel, stride = op.site.shape.kernel[-1], op.site.shape.strides[-1]
    across = (runs * max(0, kernel - stride) + together * min(kernel, stride)) / (copies * stride)
    down = float(
        np.prod(op.site.shape.kernel[:-1], dtype=np.float64) / np.prod(op.site.shape.strides[:-1], dtype=np.float64)
    )
    offsets = copies // math.gcd(copies, max(1, columns))
    rows = min(1.0, down) * max(1.0, min(float(offsets), down))
    return np.minimum(min(1.0, down) * min(1.0, kernel / stride), rows * across)


def _spread(
    op: AnalogLayer, table: TileTable, where: Ints, columns: int, shape: ArrayShape, target: Target
) -> tuple[Spread, tuple[Ints, Ints, Floats]]:
    """Where a layer works, and the flows of its partial sums."""
    if not len(table):
        none, nothing = np.zeros(0, np.int64), Held(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
        return Spread(1, nothing, nothing, none, np.zeros(0)), (none, none, np.zeros(0))
    copies = len(where) // len(table)
    heads = table[:: shape.arrays_per_tile]
    node = where.reshape(copies, len(table))[:, :: shape.arrays_per_tile]  # [copies, positions]
    readers, tiles, needs = _needs(op, heads, node, copies, columns)
    blocks = _distinct(heads["group"].astype(np.int64), heads["col"].astype(np.int64))
    width, count = np.zeros(len(blocks.first)), len(blocks.first)
    width[blocks.which] = heads["cols"]
    # Tiles with arrays of each copy's column blocks, the fullest of each first: it adds up and makes the results.
    pairs = _distinct((np.arange(copies)[:, None] * count + blocks.which).reshape(-1), node.reshape(-1))
    owned, tile = pairs.columns
    order = np.lexsort((pairs.first, -pairs.count, owned))  # ties go to whoever holds the first array
    owned, tile = owned[order], tile[order]
    heads_of = np.flatnonzero(np.concatenate([[True], owned[1:] != owned[:-1]]))
    adder = np.repeat(tile[heads_of], np.diff(np.append(heads_of, len(owned))))
    bytes_each = width[owned % count] * np.ceil(target.digital.accumulator_bits / 8) * op.site.vectors / copies
    makers = _held(owned[heads_of] // count, tile[heads_of], width[owned[heads_of] % count] / width.sum())
    return Spread(copies, readers, makers, tiles, needs), (tile, adder, bytes_each)


@dataclass(frozen=True)
class _Distinct:
    """Distinct rows of a few columns, in ascending order: the rows, which each is, where each is first, how often."""

    columns: tuple[Ints, ...]
    which: Ints
    first: Ints
    count: Ints


def _distinct(*columns: Ints) -> _Distinct:
    """``numpy.unique`` over rows of numbers that are not negative, as one number each: ten times faster."""
    key, sizes = columns[0], [int(column.max(initial=0)) + 1 for column in columns]
    for column, size in zip(columns[1:], sizes[1:], strict=True):
        key = key * size + column
    rows, first, which, count = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
    found: list[Ints] = []
    for size in reversed(sizes[1:]):
        rows, last = np.divmod(rows, size)
        found.append(last)
    return _Distinct((rows, *reversed(found)), which.reshape(-1), first, count)


def _held(copy: Ints, node: Ints, part: Floats) -> Held:
    """Entries of one copy and tile added up, in the order of the copies."""
    both = _distinct(copy, node)
    total: Floats = np.bincount(both.which, weights=part).astype(np.float64)
    return Held(both.columns[0], both.columns[1], total)


def _needs(op: AnalogLayer, heads: TileTable, node: Ints, copies: int, columns: int) -> tuple[Held, Ints, Floats]:
    """Tiles that read the input of a layer: rows by copy and tile, and parts of all input by tile."""
    kinds = _distinct(*(heads[name].astype(np.int64) for name in ("group", "row", "rows")))
    kind = np.broadcast_to(kinds.which, node.shape).reshape(-1)
    copy = np.broadcast_to(np.arange(copies)[:, None], node.shape).reshape(-1)
    tile, block, number = _distinct(node.reshape(-1), kind, copy).columns
    height = np.minimum(1.0, input_shares(op, heads)[kinds.first])
    readers = _held(number, tile, height[block])
    readers = replace(
        readers, part=np.minimum(1.0, readers.part)
    )  # blocks of reordered rows may read the same channels
    # Copies that share a block of rows in a tile, and how many runs of neighbours they are.
    begins = np.ones(len(tile), dtype=np.int64)
    begins[1:] = (np.diff(tile) != 0) | (np.diff(block) != 0) | (np.diff(number) != 1)
    held = _distinct(tile, block)
    runs = np.add.reduceat(begins, held.first)
    tiles, which = np.unique(held.columns[0], return_inverse=True)
    part = input_share(op, copies, held.count, runs, columns) * height[held.columns[1]]
    return readers, tiles, np.minimum(1.0, np.bincount(which.reshape(-1), weights=part))
