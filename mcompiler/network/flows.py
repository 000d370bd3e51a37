"""Bytes that flow between tiles in one inference.

Nodes are tiles. The tensors that flow are those of the stage graph; here they are mapped to tiles. The arrays of a
column block that lie in several tiles send their sums to the tile that holds most of them. That tile scales and
quantises results and runs the digital nodes on them; from there they go to the tiles that read them. A tile receives a
tensor once, however many of its layers and digital nodes read it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from mcompiler.dataflow import OUTPUT, NetworkStage, Relation, StageGraph, StageKind, Transfer
from mcompiler.network.locations import NOWHERE, Floats, Ints, LayerLocation, TileShares, distinct_rows
from mcompiler.network.multicast import SharedWords
from mcompiler.target import Target

OUTSIDE = -1
"""Node of the model's inputs and outputs: the port of chip 0."""


@dataclass(frozen=True)
class Flows:
    """Bytes between nodes per inference, [flows].

    Attributes:
        source, sink: numbers of nodes (chip * tiles per chip + tile), or OUTSIDE.
        bytes: that go from one to the other; 0 where the same bytes go there for another reader anyway.
        layer: the analog layer that is charged: the one that receives them, or whose sums or results they are.
        sums: whether they are partial sums.
        port_bytes: those that pass the chip's port for this flow where it goes to another chip: a word that several
            tiles of a chip read passes it once.
        shared: which flows carry the same words; None: flows added up.
    """

    source: Ints
    sink: Ints
    bytes: Floats
    layer: Ints
    sums: npt.NDArray[np.bool_]
    port_bytes: Floats
    shared: SharedWords | None = None

    def between(self, node: Ints) -> Flows:
        """The same with other numbers for the nodes: ``node[n]`` for n."""
        numbers = np.append(node, OUTSIDE)  # the entry that index -1 finds
        return replace(self, source=numbers[self.source], sink=numbers[self.sink])

    def added_up(self) -> Flows:
        """One flow for each pair of nodes, charged to no layer."""
        pairs = distinct_rows(self.source - OUTSIDE, self.sink - OUTSIDE)
        size, ports = (
            np.bincount(pairs.which, weights=each).astype(np.float64) for each in (self.bytes, self.port_bytes)
        )
        source, sink = (end + OUTSIDE for end in pairs.columns)
        return Flows(
            source=source,
            sink=sink,
            bytes=size,
            layer=np.full(len(size), -1),
            sums=np.zeros(len(size), dtype=np.bool_),
            port_bytes=ports,
        )


def network_flows(
    graph: StageGraph, locations: Sequence[LayerLocation], target: Target, elsewhere: frozenset[int] = frozenset()
) -> Flows:
    """All flows of a network.

    Args:
        graph: its stages.
        locations: of its layers.
        target: the chip.
        elsewhere: layers whose arrays are not on the chips in this turn: tensors that they read leave the chip.
    """
    collected = _Collected(graph, locations, target.hierarchy.tiles_per_chip)
    for layer, location in enumerate(locations):
        every = np.arange(len(location.senders))  # no two sums are the same
        part = _Part(location.senders, location.adders, location.sum_bytes, every, location.sum_bytes)
        collected.add(part, _Charge(layer, sums=True))
    kept = {transfer.producer for transfer in graph.outputs}
    for reader, transfer in graph.transfers:
        stage = graph.stages[reader] if reader != OUTPUT else None
        if stage is None:
            collected.leave(transfer)
        elif stage.layer in elsewhere:
            if transfer.producer not in kept:  # kept once, however many later layers read it
                kept.add(transfer.producer)
                # As input codes: the tile that makes a tensor quantises it before it is kept for a later turn.
                if len(collected.maker(transfer).makers.node):
                    collected.leave(replace(transfer, bits=target.precision.inputs))
        elif stage.layer >= 0 and stage.kind is not StageKind.REQUANTISE:  # sums are where they are made
            collected.read(stage, transfer)
    return collected.flows()


@dataclass(frozen=True)
class _Charge:
    """The layer that a flow is charged to, and the tensor that it carries.

    Attributes:
        layer: that pays.
        tensor: id of the stage that made it, and which of its outputs it is.
        reader: id of the stage that reads it.
        sums: whether it is partial sums.
    """

    layer: int
    tensor: tuple[int, int] = (-1, 0)
    reader: int = OUTPUT
    sums: bool = False


@dataclass
class _Collected:
    """Flows of all transfers so far, and the charge of each."""

    graph: StageGraph
    locations: Sequence[LayerLocation]
    tiles: int
    parts: list[_Part] = field(default_factory=list)
    charges: list[_Charge] = field(default_factory=list)

    def add(self, part: _Part, charge: _Charge) -> None:
        """Flows between nodes; those that stay in a node are none."""
        self.parts.append(_Part(*(column[part.source != part.sink] for column in part.columns)))
        self.charges.append(charge)

    def maker(self, transfer: Transfer) -> LayerLocation:
        """Where a tensor is made."""
        layer = self.graph.stages[transfer.producer].layer
        return self.locations[layer] if layer >= 0 else NOWHERE

    def made(self, transfer: Transfer) -> tuple[Ints, Floats]:
        """Tiles that make a tensor, and the bytes that each makes; outside for inputs and layers without arrays."""
        location = self.maker(transfer)
        if not len(location.makers.node):
            return np.array([OUTSIDE]), np.array([transfer.bytes])
        nodes, parts = location.makers.by_node(location.copies)
        return nodes, parts * transfer.bytes

    def leave(self, transfer: Transfer) -> None:
        """A tensor leaves the chips; its producer is charged."""
        layer = self.graph.stages[transfer.producer].layer
        if layer >= 0:
            nodes, sizes = self.made(transfer)
            part = _Part(nodes, np.full(len(nodes), OUTSIDE), sizes, np.zeros(len(nodes), np.int64), sizes)
            self.add(part, _Charge(layer, transfer.tensor))

    def read(self, stage: NetworkStage, transfer: Transfer) -> None:
        """A stage of a layer's arrays or a digital node reads a tensor."""
        own, charge = self.locations[stage.layer], _Charge(stage.layer, transfer.tensor, stage.id)
        arrays = stage.kind is StageKind.ANALOG
        by_place = transfer.needs.relation is Relation.SAME_PLACE
        at_home = self.graph.stages[transfer.producer].layer == stage.layer
        if at_home and not arrays and (by_place or own.copies == 1):
            return  # made in the tiles that read it; only windows over tokens of different copies need others
        sinks, other = own.readers if arrays else own.makers, self.maker(transfer)
        if by_place and len(other.makers.node) and len(sinks.node):
            self._in_turn(other, sinks, own.copies, transfer.bytes, charge)
            return
        sources, sizes = self.made(transfer)
        nodes, shares = (own.nodes, own.needs) if arrays else own.makers.by_node(own.copies)
        words = own.words if arrays else np.arange(len(nodes))
        # A sink needs a share of the whole tensor and takes it from all sources, from each in proportion to its part:
        # the channels of a source and the rows of a sink are not related.
        source, sink = np.repeat(sources, len(nodes)), np.tile(nodes, len(sources))
        size, whole = np.outer(sizes, shares).reshape(-1), np.repeat(sizes, len(nodes))
        self.add(_Part(source, sink, size, np.tile(words, len(sources)), whole), charge)

    def _in_turn(self, other: LayerLocation, sinks: TileShares, copies: int, size: float, charge: _Charge) -> None:
        """Token by token: copy a of one layer sends to copy b of the other the tokens that both serve.

        Token j is served by copies j mod A and j mod B, so that the pairs repeat after lcm(A, B) tokens.
        """
        turns = np.arange(math.lcm(other.copies, copies))
        source_copy, sink_copy = turns % other.copies, turns % copies
        # Entries of a copy are successive (sorted by copy): where those of each begin.
        begins = np.searchsorted(other.makers.copy, np.arange(other.copies + 1))
        enters = np.searchsorted(sinks.copy, np.arange(copies + 1))
        made, taken = np.diff(begins)[source_copy], np.diff(enters)[sink_copy]
        pairs = made * taken
        # In each turn one flow from every tile that makes to every tile that takes: ``inside`` numbers these pairs, the
        # tiles that take vary fastest. A turn carries 1 / lcm of the bytes.
        turn = np.repeat(turns, pairs)
        inside = np.arange(len(turn)) - np.repeat(np.cumsum(pairs) - pairs, pairs)
        source = begins[source_copy[turn]] + inside // taken[turn]
        sink = enters[sink_copy[turn]] + inside % taken[turn]
        made_bytes = size * other.makers.part[source] / len(turns)
        words = sinks.words[sink] * len(turns) + turn
        firsts = distinct_rows(source, turn).first  # what a tile sends in all its turns
        node, node_which = np.unique(other.makers.node[source], return_inverse=True)
        sent: Floats = np.bincount(node_which.reshape(-1)[firsts], made_bytes[firsts], len(node)).astype(np.float64)
        part = _Part(
            source=other.makers.node[source],
            sink=sinks.node[sink],
            bytes=made_bytes * sinks.part[sink],
            words=words,
            whole=sent[node_which.reshape(-1)],
        )
        self.add(part, charge)

    def flows(self) -> Flows:
        """All flows, tensors that several readers in a tile share counted once."""
        source, sink, size, words, whole = (
            np.concatenate(c) for c in zip(_NONE, *(p.columns for p in self.parts), strict=True)
        )
        counts = [len(part.source) for part in self.parts]
        layer = np.repeat(np.array([charge.layer for charge in self.charges], dtype=np.int64), counts)
        sums = np.repeat(np.array([charge.sums for charge in self.charges], dtype=np.bool_), counts)
        flows = Flows(source=source, sink=sink, bytes=size, layer=layer, sums=sums, port_bytes=size)
        flows = self._once_in_a_tile(flows, counts)
        # Numbers of tensors; sums of a layer are one too.
        tensors: dict[tuple[int, int, int], int] = {}
        keys = [(*charge.tensor, charge.layer if charge.sums else -1) for charge in self.charges]
        tensor = np.repeat(np.array([tensors.setdefault(k, len(tensors)) for k in keys], dtype=np.int64), counts)
        part = np.repeat(np.arange(len(counts)), counts)
        group = distinct_rows(tensor, source - OUTSIDE).which
        shared = SharedWords(group, distinct_rows(part, words).which, np.where(sums, np.inf, whole))
        chip = np.where(sink == OUTSIDE, 0, 1 + sink // self.tiles)
        return replace(flows, shared=shared, port_bytes=shared.carried(chip, flows.bytes))

    def _once_in_a_tile(self, flows: Flows, counts: list[int]) -> Flows:
        """Flows where tensors that several readers in a tile share are counted once."""
        readers: dict[tuple[int, int], set[int]] = {}
        for charge in self.charges:
            if not charge.sums:
                readers.setdefault(charge.tensor, set()).add(charge.reader)
        shared = {tensor: number for number, tensor in enumerate(readers) if len(readers[tensor]) > 1}
        numbers = np.array([-1 if c.sums else shared.get(c.tensor, -1) for c in self.charges], dtype=np.int64)
        tensor = np.repeat(numbers, counts)
        chosen = np.flatnonzero(tensor >= 0)
        if not len(chosen):
            return flows
        reader = np.repeat(np.array([charge.reader for charge in self.charges], dtype=np.int64), counts)
        return _once(flows, chosen, tensor[chosen], reader[chosen])


@dataclass(frozen=True)
class _Part:
    """Some flows, [flows].

    Attributes:
        source, sink, bytes: as in ``Flows``.
        words: number of the part of the tensor that they carry.
        whole: bytes of the tensor that the source sends in all.
    """

    source: Ints
    sink: Ints
    bytes: Floats
    words: Ints
    whole: Floats

    @property
    def columns(self) -> tuple[Ints, Ints, Floats, Ints, Floats]:
        """All of them, in this order."""
        return self.source, self.sink, self.bytes, self.words, self.whole


_NONE = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64), np.zeros(0))
"""Columns of no flows."""


def _once(flows: Flows, chosen: Ints, tensor: Ints, reader: Ints) -> Flows:
    """Flows where of several readers of a tensor in one tile only the one that takes most is counted.

    Which tokens and rows two readers share is not known here. Those of the larger reader are carried; most often they
    hold all that the smaller one reads, as a digital node and a layer of one tile row read the whole tensor.

    Args:
        flows: all.
        chosen: places of the flows whose tensor has several readers.
        tensor, reader: of these, [chosen].
    """
    # Differences, because numbers of rows must not be negative: OUTSIDE and OUTPUT are -1.
    own = distinct_rows(tensor, flows.source[chosen] - OUTSIDE, flows.sink[chosen] - OUTSIDE, reader - OUTPUT)
    total = np.bincount(own.which, weights=flows.bytes[chosen])
    pair = distinct_rows(*own.columns[:3])
    order = np.lexsort((-total, pair.which))  # by tensor, source and sink; the reader that takes most first
    first = np.concatenate([[True], np.diff(pair.which[order]) != 0])
    counted = np.zeros(len(total), dtype=np.bool_)
    counted[order[first]] = True
    size = flows.bytes.copy()
    size[chosen[~counted[own.which]]] = 0.0
    return replace(flows, bytes=size)
