"""placement.json: the address of every array, and the bytes that flow between arrays, digital units and the outside.

Arrays connect to digital units only (buffer -> array -> accumulator -> layer unit -> buffer), so edges are linear in
arrays. Edges between layers, digital nodes, inputs and outputs are those of the stage graph, which costs and schedules
read too. Node-link format of networkx with ``edges="edges"``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.artefacts.layers import LayerData
from mcompiler.bodies import scheduled_nodes
from mcompiler.dataflow import OUTPUT, StageGraph, StageKind
from mcompiler.target import Target
from mcompiler.text import clean

ARRAYS_LIMIT = 1_000_000
"""Above this many arrays the graph has one node per core."""


def placement_data(
    graph: StageGraph, skeleton: ir.Model, layers: Sequence[LayerData], target: Target
) -> dict[str, Any]:
    """The placement graph as node-link data.

    Args:
        graph: stages of the network.
        skeleton: its nodes.
        layers: with tables and addresses.
        target: names the levels of the hierarchy.
    """
    detailed = sum(len(layer.addresses) for layer in layers if layer.shares is None) <= ARRAYS_LIMIT
    placement = _Graph()
    placement.node("input", kind="input")
    placement.node("output", kind="output")
    for layer in layers:
        name = layer.op.site.name
        placement.node(f"buffer:{name}", kind="buffer", layer=name)
        placement.node(f"layer:{name}", kind="layer", layer=name)
        owner = layer if layer.shares is None else layers[layer.shares]
        (_add_arrays if detailed else _add_cores)(placement, layer, owner, target)
    _add_transfers(placement, graph, skeleton, layers)
    hierarchy = target.hierarchy
    about = {
        "target": target.name,
        "chips": 1 + int(_every_address(layers)[:, 0].max(initial=0)),
        "address": ["chip", hierarchy.tile_name, hierarchy.core_name, "array"],
    }
    return {
        "directed": True,
        "multigraph": False,
        "graph": about,
        "nodes": list(placement.nodes.values()),
        "edges": [
            {"source": source, "target": sink, "bytes": size} for (source, sink), size in placement.edges.items()
        ],
    }


def plain_attributes(data: Mapping[str, Any]) -> dict[str, Any]:
    """Node-link data without lists and without attributes that have no value, as GraphML and GEXF store neither.

    The address of an array is there as ``chip``, ``tile``, ``core`` and ``position``. Characters of names that are not
    printable are escaped: XML cannot hold control characters.
    """

    def plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: clean(value) if isinstance(value, str) else value
            for key, value in attributes.items()
            if value is not None and not isinstance(value, list)
        }

    return {
        **data,
        "graph": plain(data["graph"]),
        "nodes": [plain(node) for node in data["nodes"]],
        "edges": [plain(edge) for edge in data["edges"]],
    }


def placement_faults(
    stored: Mapping[str, Any], wanted: Mapping[str, Any], layers: Sequence[LayerData], target: Target
) -> tuple[str, ...]:
    """Faults of a placement: two arrays with one address, addresses that the target lacks, files that disagree.

    Args:
        stored: placement.json.
        wanted: the placement that layers and schedule give.
        layers: from which the mapped model is rebuilt.
        target: its hierarchy.
    """
    faults = []
    every, hierarchy = _every_address(layers), target.hierarchy
    sizes = (hierarchy.tiles_per_chip, hierarchy.cores_per_tile, hierarchy.positions_per_core)
    own = [layer for layer in layers if layer.shares is None]
    turns = np.repeat([layer.turn for layer in own], [len(layer.addresses) for layer in own])
    if len(np.unique(np.column_stack([every, turns]), axis=0)) != len(every):
        faults.append("two arrays have one address")
    if len(every) and (every.min() < 0 or (every[:, 1:] >= sizes).any()):
        faults.append("an array has an address that the target's hierarchy lacks")
    if stored != wanted:
        ours = {node["id"]: node for node in wanted["nodes"]}
        theirs = {node.get("id"): node for node in stored.get("nodes", [])}
        other = [name for name in (ours | theirs) if ours.get(name) != theirs.get(name)]
        where = f" on '{other[0]}'" + (f" and {len(other) - 1} more" if len(other) > 1 else "") if other else ""
        faults.append(f"placement.json and layers/ disagree{where}")
    return tuple(faults)


@dataclass
class _Graph:
    """Nodes by id, and bytes per inference by the ids of both ends of an edge."""

    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    edges: dict[tuple[str, str], float] = field(default_factory=dict)

    def node(self, id: str, **attributes: Any) -> None:
        self.nodes[id] = {"id": id, **attributes}

    def edge(self, source: str, sink: str, size: float) -> None:
        """Bytes from one to the other, in addition to those that are there."""
        self.edges[source, sink] = self.edges.get((source, sink), 0.0) + float(size)


def _every_address(layers: Sequence[LayerData]) -> npt.NDArray[np.int32]:
    return np.concatenate([np.zeros((0, 4), np.int32), *(layer.addresses for layer in layers if layer.shares is None)])


def _array_bytes(layer: LayerData, target: Target) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Bytes per inference into and out of each array, all copies together, for one site."""
    site, table = layer.op.site, layer.table
    into = site.vectors * table["rows"] * site.input.bits / 8
    out = site.vectors * table["cols"] * target.digital.accumulator_bits / 8
    return into, out


def _add_arrays(placement: _Graph, layer: LayerData, owner: LayerData, target: Target) -> None:
    """One node per array, one accumulator per column block.

    Args:
        placement: the graph, to which nodes and edges are added.
        layer: that uses the arrays.
        owner: the first layer that uses them; its array nodes are there for all.
        target: the chip.
    """
    name, home, copies = layer.op.site.name, owner.op.site.name, layer.copies
    into, out = (column.tolist() for column in _array_bytes(layer, target))
    width = target.digital.accumulator_bits / 8
    blocks: dict[str, float] = {}
    rows = list(zip(layer.table.tolist(), layer.analog.adc_bits.tolist(), into, out, strict=True))
    for index, ((copy, (row, bits, bytes_in, bytes_out)), address) in enumerate(
        zip(product(range(copies), rows), layer.addresses.tolist(), strict=True)
    ):
        tile = dict(zip(layer.table.dtype.names or (), row, strict=True))
        array = f"array:{home}:{index}"
        if layer is owner:
            placement.node(
                array,
                kind="array",
                layer=home,
                address=address,
                **_position(address),
                position=address[3],
                group=tile["group"],
                groups=tile["groups"],
                row=tile["row"],
                rows=tile["rows"],
                col=tile["col"],
                columns=tile["cols"],
                slice=tile["slice"],
                polarity=tile["polarity"],
                replica=copy,
                adc_bits=bits or None,
            )
        unit = f"accumulator:{name}:{tile['group']}:{tile['col']}"
        blocks[unit] = layer.op.site.vectors * tile["cols"] * width
        placement.edge(f"buffer:{name}", array, bytes_in / copies)
        placement.edge(array, unit, bytes_out / copies)
    for unit, bytes_out in blocks.items():
        placement.node(unit, kind="accumulator", layer=name)
        placement.edge(unit, f"layer:{name}", bytes_out)


def _add_cores(placement: _Graph, layer: LayerData, owner: LayerData, target: Target) -> None:
    """One node per core: for models of over a million arrays; arguments as of ``_add_arrays``."""
    name, home, copies = layer.op.site.name, owner.op.site.name, layer.copies
    into, out = (np.tile(each / copies, copies) for each in _array_bytes(layer, target))
    cores, index, count = np.unique(layer.addresses[:, :3], axis=0, return_inverse=True, return_counts=True)
    index = index.reshape(-1)
    bytes_in, bytes_out = np.bincount(index, weights=into), np.bincount(index, weights=out)
    for address, arrays, first, last in zip(
        cores.tolist(), count.tolist(), bytes_in.tolist(), bytes_out.tolist(), strict=True
    ):
        core = f"core:{home}:{'.'.join(map(str, address))}"
        if layer is owner:
            placement.node(core, kind="core", layer=home, address=address, **_position(address), arrays=arrays)
        placement.edge(f"buffer:{name}", core, first)
        placement.edge(core, f"layer:{name}", last)


def _position(address: Sequence[int]) -> dict[str, int]:
    return dict(zip(("chip", "tile", "core"), address, strict=False))


def _add_transfers(placement: _Graph, graph: StageGraph, skeleton: ir.Model, layers: Sequence[LayerData]) -> None:
    """Digital nodes, and an edge for each tensor between layers, digital nodes, inputs and outputs of the model."""
    nodes = list(scheduled_nodes(skeleton.graph))
    read = {transfer.producer for _, transfer in graph.transfers}

    def name(stage: int, reads: bool) -> str:
        if stage == OUTPUT:
            return "output"
        part = graph.stages[stage]
        if part.kind is StageKind.DIGITAL:
            return f"digital:{part.node}"
        if part.kind is StageKind.INPUT:
            return "input"
        return f"{'buffer' if reads else 'layer'}:{layers[part.layer].op.site.name}"

    for stage in graph.stages:
        if stage.kind is StageKind.DIGITAL and (stage.inputs or stage.id in read):  # others are constants
            place = {"layer": layers[stage.layer].op.site.name} if stage.layer >= 0 else {}
            placement.node(
                name(stage.id, True),
                kind="digital",
                name=stage.name,
                op=nodes[stage.node].op_type,
                operations=stage.operations,
                **place,
            )
    for reader, transfer in graph.transfers:
        if reader == OUTPUT or graph.stages[reader].kind is not StageKind.REQUANTISE:  # sums: in the edges of arrays
            placement.edge(name(transfer.producer, False), name(reader, True), transfer.bytes)
