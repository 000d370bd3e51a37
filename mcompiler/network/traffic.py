"""What the links of placed layers carry, and how far that is from the least that any placement needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mcompiler.dataflow import StageGraph, StageKind, program_stages
from mcompiler.geometry import array_shape
from mcompiler.ir import AnalogProgram, PlacedProgram
from mcompiler.network.flows import OUTSIDE, Flows, network_flows
from mcompiler.network.locations import Floats, Ints, LayerLocation, input_share, layer_locations
from mcompiler.network.multicast import SharedWords
from mcompiler.network.topology import PORT, Topology, topology_of
from mcompiler.target import Target


@dataclass(frozen=True)
class LayerTraffic:
    """What a layer receives and adds up, per inference.

    Attributes:
        link_byte_hops: bytes times links between tiles.
        chip_bytes: bytes between chips.
        hops, chip_hops: links that the farthest word of its input crosses, plus those of the farthest partial sum.
    """

    link_byte_hops: float
    chip_bytes: float
    hops: int
    chip_hops: int


@dataclass(frozen=True)
class Traffic:
    """What all links carry, per inference.

    Attributes:
        layers: of each analog layer.
        byte_hops, chip_bytes: in all.
        busiest_link_bytes: of the link between tiles that carries most, in one direction.
        busiest_chip_bytes: in and out of the chip that most crosses.
        lower_bound_byte_hops: no placement needs less.
    """

    layers: tuple[LayerTraffic, ...]
    byte_hops: float
    chip_bytes: float
    busiest_link_bytes: float
    busiest_chip_bytes: float
    lower_bound_byte_hops: float


@dataclass(frozen=True)
class LocatedProgram:
    """A placed program, its stages, and the tiles in which its layers work.

    Attributes:
        program: with the addresses of all arrays.
        graph: all its stages.
        where: of each layer.
        target: the chip.
    """

    program: PlacedProgram
    graph: StageGraph
    where: Sequence[LayerLocation]
    target: Target

    def traffic(self, elsewhere: frozenset[int] = frozenset()) -> Traffic:
        """What the links carry; ``elsewhere``: layers that are not there in this turn."""
        analog = self.program.analog
        flows = network_flows(self.graph, self.where, self.target, elsewhere)
        bound = lower_bound(analog, self.graph, self.target)
        return measured(flows, len(analog.tiled.matrix.sites), self.target, bound)


def located(program: PlacedProgram, target: Target, graph: StageGraph | None = None) -> LocatedProgram:
    """A placed program with the tiles in which its layers work.

    Args:
        program: with the addresses of all arrays.
        target: the chip.
        graph: stages of the network, where they are known already.
    """
    tiled = program.analog.tiled
    graph = program_stages(tiled, target) if graph is None else graph
    where = layer_locations(tiled, graph, nodes_of(program.addresses, target), target)
    return LocatedProgram(program, graph, where, target)


def nodes_of(addresses: Sequence[np.ndarray[tuple[int, ...], np.dtype[np.int32]]], target: Target) -> list[Ints]:
    """Numbers of the tiles of all arrays: chip * tiles per chip + tile."""
    tiles = target.hierarchy.tiles_per_chip
    return [where[:, 0].astype(np.int64) * tiles + where[:, 1] for where in addresses]


def program_flows(
    program: AnalogProgram, nodes: Sequence[Ints], target: Target, graph: StageGraph | None = None
) -> Flows:
    """Bytes that flow between tiles in one inference, with arrays in these tiles.

    Args:
        program: with the tables of the arrays.
        nodes: tile of each array of each matrix, copies included.
        target: the chip.
        graph: stages of the network, where they are known already.
    """
    graph = program_stages(program.tiled, target) if graph is None else graph
    return network_flows(graph, layer_locations(program.tiled, graph, nodes, target), target)


def measured(flows: Flows, layers: int, target: Target, bound: float) -> Traffic:
    """What links carry of some flows."""
    net, tiles = topology_of(target), target.hierarchy.tiles_per_chip
    source, sink = np.maximum(flows.source, 0), np.maximum(flows.sink, 0)  # OUTSIDE is the port of chip 0
    (from_chip, from_tile), (to_chip, to_tile) = np.divmod(source, tiles), np.divmod(sink, tiles)
    crosses = (from_chip != to_chip) | (flows.source == OUTSIDE) | (flows.sink == OUTSIDE)
    out = np.where(crosses, PORT, to_tile)  # the leg on the chip of the source, then that on the sink's
    hops = net.hops(from_tile, out) + np.where(crosses, net.hops(np.full_like(to_tile, PORT), to_tile), 0)
    chips = np.where(crosses, flows.port_bytes, 0.0)
    leaves, enters = np.where(flows.source == OUTSIDE, 0.0, chips), np.where(flows.sink == OUTSIDE, 0.0, chips)
    count = 1 + int(np.maximum(from_chip, to_chip).max(initial=0))
    multicast = flows.shared if target.network.multicast else None
    # Without multicast a word goes to the port once for each chip that reads it; with it, as it does to any reader.
    to_port = flows.bytes if multicast is not None else np.where(crosses, flows.port_bytes, flows.bytes)
    legs = _Legs(
        flow=np.concatenate([np.arange(len(source)), np.flatnonzero(crosses)]),
        chip=np.concatenate([from_chip, to_chip[crosses]]),
        source=np.concatenate([from_tile, np.full(int(crosses.sum()), PORT)]),
        sink=np.concatenate([out, to_tile[crosses]]),
        bytes=np.concatenate([to_port, flows.bytes[crosses]]),
    )
    busiest, leg_hops = legs.carried(net, count, multicast)
    byte_hops = np.bincount(legs.flow, weights=leg_hops, minlength=len(source))
    ports = np.bincount(from_chip, leaves, minlength=count) + np.bincount(to_chip, enters, minlength=count)
    rows = []
    for index in range(layers):
        own = flows.layer == index
        sums, data = own & flows.sums, own & ~flows.sums & (flows.sink != OUTSIDE)
        far = [int(hops[part].max(initial=0)) for part in (data, sums)]
        far_chips = [int(crosses[part].any()) for part in (data, sums)]
        rows.append(LayerTraffic(float(byte_hops[own].sum()), float(chips[own].sum()), sum(far), sum(far_chips)))
    return Traffic(
        layers=tuple(rows),
        byte_hops=float(byte_hops.sum()),
        chip_bytes=float(chips.sum()),
        busiest_link_bytes=busiest,
        busiest_chip_bytes=float(ports.max(initial=0.0)),
        lower_bound_byte_hops=bound,
    )


@dataclass(frozen=True)
class _Legs:
    """Ways within one chip, [legs]; a flow between chips has one on each, to the port and from it.

    Attributes:
        flow: number of the flow.
        chip: where it is.
        source, sink: tiles of the chip.
        bytes: that go.
    """

    flow: Ints
    chip: Ints
    source: Ints
    sink: Ints
    bytes: Floats

    def carried(self, net: Topology, chips: int, shared: SharedWords | None) -> tuple[float, Floats]:
        """Bytes on the busiest link of any chip, and bytes times links of each leg.

        Args:
            net: links of a chip.
            chips: in use.
            shared: with multicast, which flows carry the same words; else None.
        """
        if shared is not None:
            return self._multicast(net, shared)
        worst = 0.0
        for chip in range(chips):
            own = self.chip == chip
            worst = max(worst, float(net.loads(self.source[own], self.sink[own], self.bytes[own]).max(initial=0.0)))
        return worst, self.bytes * net.hops(self.source, self.sink)

    def _multicast(self, net: Topology, shared: SharedWords) -> tuple[float, Floats]:
        """As ``carried``: a word crosses the links of a tree to its readers once each."""
        words = shared.of(self.flow)
        loads: dict[int, float] = {}
        hops = np.zeros(len(self.bytes))
        for leg, link, part in net.routes(self.source, self.sink):
            each = words.of(leg).carried(self.chip[leg] * _LINKS + link, self.bytes[leg]) * part
            hops += np.bincount(leg, weights=each, minlength=len(hops))
            ids, which = np.unique(self.chip[leg] * _LINKS + link, return_inverse=True)
            for number, load in zip(ids.tolist(), np.bincount(which.reshape(-1), weights=each).tolist(), strict=True):
                loads[number] = loads.get(number, 0.0) + load
        return max(loads.values(), default=0.0), hops


_LINKS = 1 << 32
"""More than the links of a chip."""


def lower_bound(program: AnalogProgram, graph: StageGraph, target: Target) -> float:
    """Bytes times links that any placement of these arrays needs at least.

    A layer with more arrays than a tile holds has some of them away from the tile that makes a word of its input, as
    near as the network allows: one tile at no distance, on a mesh four at one link, eight at two, and so on. Every
    array takes in the rows that it holds; arrays of one tile can share them, over all columns and copies at best. On
    several chips each can have a tile at no distance: a byte between chips is not counted here.
    """
    net, shape, hierarchy = topology_of(target), array_shape(target), target.hierarchy
    room = hierarchy.arrays_per_core * hierarchy.cores_per_tile
    every = sum(len(table) * copies for table, copies in zip(program.tiled.tables, program.copies, strict=True))
    chips = max(1, -(-every // hierarchy.arrays_per_chip))
    matrix = program.tiled.matrix
    inputs = {stage.layer: stage.inputs for stage in graph.stages if stage.kind is StageKind.ANALOG}
    tensors: dict[tuple[int, int], float] = {}
    for index, (layer, table) in enumerate(zip(matrix.layers, program.tiled.site_tables, strict=True)):
        copies, arrays = program.site_copies[index], len(table)
        if not arrays or not inputs.get(index):
            continue
        heads = table[:: shape.arrays_per_tile]
        columns = np.unique(np.stack([heads["group"], heads["row"]], axis=1), axis=0, return_counts=True)[1]
        every_copy = np.array([copies])
        share = float(input_share(layer, copies, every_copy, np.ones(1, np.int64), 1)[0]) / copies
        least_rows = int(heads["rows"].min()) / max(1, int(layer.matrix.rows.offsets[-1]))
        per_array = sum(transfer.bytes for transfer in inputs[index]) * least_rows * share
        per_array /= int(columns.max()) * shape.arrays_per_tile
        tiles = -(-arrays * copies // room)
        near = np.sort(np.tile(net.nearest(min(tiles, hierarchy.tiles_per_chip)), chips))[:tiles]
        filled = np.full(tiles, float(room))
        filled[-1] = arrays * copies - room * (tiles - 1)
        # Layers that read the same tensor may share what a tile takes in: only the one that needs most counts.
        tensor = inputs[index][0].tensor
        needed = (np.minimum(near, 1) if target.network.multicast else near) * filled
        # With multicast the tree to n tiles has n - 1 links at least; one transfer on a bus serves all.
        least = needed.max(initial=0.0) if target.network.multicast and net.kind == "bus" else needed.sum()
        tensors[tensor] = max(tensors.get(tensor, 0.0), float(least) * per_array)
    return sum(tensors.values())
