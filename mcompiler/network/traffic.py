"""What the links of placed layers carry, and how far that is from the least that any placement needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mcompiler.dataflow import Step, network_steps
from mcompiler.geometry import array_shape
from mcompiler.ir import AnalogProgram, PlacedProgram
from mcompiler.network.flows import OUTSIDE, Floats, Flows, Ints, input_share, layer_flows
from mcompiler.network.topology import PORT, Topology, topology_of
from mcompiler.target import Target

Stages = tuple[tuple[Step, ...], tuple[int, ...]]
"""The stages of a network, and those whose results leave it."""


@dataclass(frozen=True)
class LayerTraffic:
    """What a layer receives and adds up, per inference.

    Attributes:
        link_byte_hops: bytes times links between tiles.
        chip_bytes: bytes between chips.
        hops, chip_hops: links that the farthest word of its input crosses, and behind it the farthest partial sum.
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


def traffic(program: PlacedProgram, target: Target, elsewhere: frozenset[int] = frozenset()) -> Traffic:
    """What the links of a placed program carry.

    Args:
        program: with the addresses of all arrays.
        target: the chip.
        elsewhere: layers that are not there in this turn.
    """
    flows = program_flows(program.analog, nodes_of(program.addresses, target), target, None, elsewhere)
    return measured(flows, len(program.analog.tiled.matrix.sites), target, lower_bound(program.analog, target))


def nodes_of(addresses: Sequence[np.ndarray[tuple[int, ...], np.dtype[np.int32]]], target: Target) -> list[Ints]:
    """Numbers of the tiles of all arrays: chip * tiles per chip + tile."""
    tiles = target.hierarchy.tiles_per_chip
    return [where[:, 0].astype(np.int64) * tiles + where[:, 1] for where in addresses]


def program_flows(
    program: AnalogProgram,
    nodes: Sequence[Ints],
    target: Target,
    stages: Stages | None = None,
    elsewhere: frozenset[int] = frozenset(),
) -> Flows:
    """Who sends how much to whom, where the arrays stand in these tiles.

    Args:
        program: with the tables of the arrays.
        nodes: of the arrays of each matrix, copies included.
        target: the chip.
        stages: of the network, where they are known already.
        elsewhere: layers that are not there in this turn.
    """
    matrix = program.tiled.matrix
    steps, ends = stages or network_steps(matrix.lowered.skeleton, matrix.layers, matrix.digital_ops)
    own = [nodes[site.matrix] for site in matrix.sites]
    return layer_flows(
        steps, ends, matrix.layers, program.tiled.site_tables, own, array_shape(target), target, elsewhere
    )


def measured(flows: Flows, layers: int, target: Target, bound: float) -> Traffic:
    """What links carry of some flows."""
    net, tiles = topology_of(target), target.hierarchy.tiles_per_chip
    source, sink = np.maximum(flows.source, 0), np.maximum(flows.sink, 0)  # OUTSIDE is the port of chip 0
    (from_chip, from_tile), (to_chip, to_tile) = np.divmod(source, tiles), np.divmod(sink, tiles)
    crosses = (from_chip != to_chip) | (flows.source == OUTSIDE) | (flows.sink == OUTSIDE)
    out = np.where(crosses, PORT, to_tile)  # the leg on the chip of the source, then that on the sink's
    hops = net.hops(from_tile, out) + np.where(crosses, net.hops(np.full_like(to_tile, PORT), to_tile), 0)
    chips = np.where(crosses, flows.bytes, 0.0)
    leaves, enters = np.where(flows.source == OUTSIDE, 0.0, chips), np.where(flows.sink == OUTSIDE, 0.0, chips)
    loads = _loads(net, from_chip, from_tile, out, to_chip, to_tile, crosses, flows.bytes)
    count = 1 + int(np.maximum(from_chip, to_chip).max(initial=0))
    ports = np.bincount(from_chip, leaves, minlength=count) + np.bincount(to_chip, enters, minlength=count)
    rows = []
    for index in range(layers):
        own = flows.layer == index
        sums, data = own & flows.sums, own & ~flows.sums & (flows.sink != OUTSIDE)
        far = [int(hops[part].max(initial=0)) for part in (data, sums)]
        far_chips = [int(crosses[part].any()) for part in (data, sums)]
        rows.append(
            LayerTraffic(float((flows.bytes * hops)[own].sum()), float(chips[own].sum()), sum(far), sum(far_chips))
        )
    return Traffic(
        tuple(rows), float((flows.bytes * hops).sum()), float(chips.sum()), loads, float(ports.max(initial=0.0)), bound
    )


def _loads(
    net: Topology, from_chip: Ints, start: Ints, out: Ints, to_chip: Ints, end: Ints,
    crosses: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], size: Floats,
) -> float:  # fmt: skip
    """Bytes on the busiest link of any chip."""
    worst = 0.0
    for chip in np.unique(np.concatenate([from_chip, to_chip])).tolist():
        first, second = from_chip == chip, crosses & (to_chip == chip)
        source = np.concatenate([start[first], np.full(int(second.sum()), PORT)])
        sink = np.concatenate([out[first], end[second]])
        worst = max(worst, float(net.loads(source, sink, np.concatenate([size[first], size[second]])).max(initial=0.0)))
    return worst


def lower_bound(program: AnalogProgram, target: Target) -> float:
    """Bytes times links that any placement of these arrays needs at least.

    A layer with more arrays than a tile holds has some of them away from wherever a word of its input is made: as near
    as the network allows, one tile at no distance, on a mesh four at one link, eight at two, and so on. Every array
    takes in the rows it holds; arrays of one tile can share them, over all columns and copies at best. On several chips
    each can have a tile at no distance: a byte between chips is not counted here.
    """
    net, shape, hierarchy = topology_of(target), array_shape(target), target.hierarchy
    room = hierarchy.arrays_per_core * hierarchy.cores_per_tile
    every = sum(len(table) * copies for table, copies in zip(program.tiled.tables, program.copies, strict=True))
    chips = max(1, -(-every // hierarchy.arrays_per_chip))
    total = 0.0
    matrix = program.tiled.matrix
    steps, _ = network_steps(matrix.lowered.skeleton, matrix.layers, matrix.digital_ops)
    size = {step.layer: sum(steps[r.producer].grid.tokens * steps[r.producer].grid.width for r in step.reads)
            for step in steps if step.kind == "analog"}  # fmt: skip
    for index, (op, table) in enumerate(zip(matrix.layers, program.tiled.site_tables, strict=True)):
        copies, arrays = program.site_copies[index], len(table)
        if not arrays:
            continue
        heads = table[:: shape.arrays_per_tile]
        columns = np.unique(np.stack([heads["group"], heads["row"]], axis=1), axis=0, return_counts=True)[1]
        every_copy = np.array([copies])
        share = float(input_share(op, copies, every_copy, np.ones(1, np.int64), 1)[0]) / copies
        least_rows = int(heads["rows"].min()) / max(1, int(op.matrix.rows.offsets[-1]))
        per_array = size.get(index, 0.0) * op.site.input.bits / 8 * least_rows * share
        per_array /= int(columns.max()) * shape.arrays_per_tile
        tiles = -(-arrays * copies // room)
        near = np.sort(np.tile(net.nearest(min(tiles, hierarchy.tiles_per_chip)), chips))[:tiles]
        filled = np.full(tiles, float(room))
        filled[-1] = arrays * copies - room * (tiles - 1)
        total += float((near * filled).sum()) * per_array
    return total
