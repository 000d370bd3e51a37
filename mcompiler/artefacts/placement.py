"""placement.json: which array sits where, and what flows between arrays and digital units.

Arrays connect to digital units only (buffer -> array -> accumulator -> layer unit -> buffer), so edges are linear in
arrays. Node-link format of networkx with ``edges="edges"``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.artefacts.layers import LayerData
from mcompiler.geometry import TileTable
from mcompiler.graph import site_of
from mcompiler.ir import AnalogLayer
from mcompiler.target import Target

ARRAYS_LIMIT = 1_000_000
"""Above this many arrays the graph has one node per core."""

INPUT, OUTPUT = "input", "output"


def placement_data(skeleton: ir.Model, layers: Sequence[LayerData], target: Target) -> dict[str, Any]:
    """The placement graph as node-link data."""
    detailed = sum(len(layer.addresses) for layer in layers) <= ARRAYS_LIMIT
    nodes: list[dict[str, Any]] = [{"id": INPUT, "kind": "input"}, {"id": OUTPUT, "kind": "output"}]
    edges: list[dict[str, Any]] = []
    for layer in layers:
        op = layer.op
        nodes.append({"id": f"buffer:{op.site.name}", "kind": "buffer", "layer": op.site.name})
        nodes.append({"id": f"layer:{op.site.name}", "kind": "layer", "layer": op.site.name})
        add = _arrays if detailed else _cores
        add(nodes, edges, layer, target)
    edges.extend(_flows(skeleton, {layer.op.site.name: layer.op for layer in layers}, target))
    hierarchy = target.hierarchy
    about = {
        "target": target.name,
        "chips": 1 + int(_every_address(layers)[:, 0].max(initial=0)),
        "address": ["chip", hierarchy.tile_name, hierarchy.core_name, "array"],
    }
    return {"directed": True, "multigraph": False, "graph": about, "nodes": nodes, "edges": edges}


def placement_faults(
    stored: Mapping[str, Any], skeleton: ir.Model, layers: Sequence[LayerData], target: Target
) -> tuple[str, ...]:
    """What is wrong with a placement: two arrays in one place, places that the target lacks, files that disagree.

    Args:
        stored: placement.json.
        skeleton: graph with placeholders.
        layers: what the mapped model is rebuilt from.
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
    wanted = placement_data(skeleton, layers, target)
    if stored != wanted:
        ours = {node["id"]: node for node in wanted["nodes"]}
        theirs = {node.get("id"): node for node in stored.get("nodes", [])}
        other = [name for name in (ours | theirs) if ours.get(name) != theirs.get(name)]
        where = f" on '{other[0]}'" + (f" and {len(other) - 1} more" if len(other) > 1 else "") if other else ""
        faults.append(f"placement.json and layers/ disagree{where}")
    return tuple(faults)


def _every_address(layers: Sequence[LayerData]) -> npt.NDArray[np.int32]:
    return np.concatenate([np.zeros((0, 4), np.int32), *(layer.addresses for layer in layers if layer.shares is None)])


def _traffic(op: AnalogLayer, table: TileTable, target: Target) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Bytes per inference into and out of each array."""
    into = op.site.vectors * table["rows"] * op.site.input.bits / 8
    out = op.site.vectors * table["cols"] * target.digital.accumulator_bits / 8
    return into, out


def _arrays(
    nodes: list[dict[str, Any]],
    edges: list[dict[str, Any]],
    layer: LayerData,
    target: Target,
) -> None:
    """One node per array, one accumulator per column block."""
    op, table = layer.op, layer.table
    into, out = (column.tolist() for column in _traffic(op, table, target))
    width = target.digital.accumulator_bits / 8
    blocks: dict[tuple[int, int], tuple[str, float]] = {}
    copies = layer.copies
    rows = zip(table.tolist(), layer.analog.adc_bits.tolist(), into, out, strict=True)
    every = product(range(copies), list(rows))
    for index, ((copy, (tile, bits, bytes_in, bytes_out)), address) in enumerate(
        zip(every, layer.addresses.tolist(), strict=True)
    ):
        _, group, groups, row, height, col, cols, which, polarity = tile
        name = f"array:{op.site.name}:{index}"
        nodes.append({
            "id": name, "kind": "array", "layer": op.site.name, "address": address, "group": group, "groups": groups,
            "row": row, "rows": height, "col": col, "columns": cols, "slice": which, "polarity": polarity,
            "replica": copy, "adc_bits": bits or None,
        })  # fmt: skip
        unit = f"accumulator:{op.site.name}:{group}:{col}"
        blocks[group, col] = (unit, op.site.vectors * cols * width)
        edges.append({"source": f"buffer:{op.site.name}", "target": name, "bytes": bytes_in / copies})
        edges.append({"source": name, "target": unit, "bytes": bytes_out / copies})
    for unit, bytes_out in blocks.values():
        nodes.append({"id": unit, "kind": "accumulator", "layer": op.site.name})
        edges.append({"source": unit, "target": f"layer:{op.site.name}", "bytes": bytes_out})


def _cores(
    nodes: list[dict[str, Any]],
    edges: list[dict[str, Any]],
    layer: LayerData,
    target: Target,
) -> None:
    """One node per core: for models of over a million arrays."""
    op, copies = layer.op, layer.copies
    into, out = (np.tile(each / copies, copies) for each in _traffic(op, layer.table, target))
    cores, index, count = np.unique(layer.addresses[:, :3], axis=0, return_inverse=True, return_counts=True)
    index = index.reshape(-1)
    bytes_in, bytes_out = np.bincount(index, weights=into), np.bincount(index, weights=out)
    for address, arrays, first, last in zip(
        cores.tolist(), count.tolist(), bytes_in.tolist(), bytes_out.tolist(), strict=True
    ):
        name = f"core:{op.site.name}:{'.'.join(map(str, address))}"
        nodes.append({"id": name, "kind": "core", "layer": op.site.name, "address": address, "arrays": arrays})
        edges.append({"source": f"buffer:{op.site.name}", "target": name, "bytes": first})
        edges.append({"source": name, "target": f"layer:{op.site.name}", "bytes": last})


def _flows(skeleton: ir.Model, ops: Mapping[str, AnalogLayer], target: Target) -> list[dict[str, Any]]:
    """Edges between layers, through whatever stays digital between them, and from and to the outside ("" below)."""
    sources: dict[str, frozenset[str]] = {value.name or "": frozenset({""}) for value in skeleton.graph.inputs}
    edges: list[dict[str, Any]] = []
    for node in skeleton.graph:
        reaching: frozenset[str] = frozenset().union(
            *(sources.get(value.name or "", frozenset()) for value in node.inputs if value is not None)
        )
        if site_of(node) is not None:
            op = ops[node.name or ""]
            edges += [
                {"source": _out(source), "target": f"buffer:{op.site.name}", "bytes": _bytes(source, ops, target)}
                for source in sorted(reaching)
            ]
            reaching = frozenset({op.site.name})
        sources.update((value.name or "", reaching) for value in node.outputs)
    final: frozenset[str] = frozenset().union(
        *(sources.get(value.name or "", frozenset()) for value in skeleton.graph.outputs)
    )
    edges += [
        {"source": _out(source), "target": OUTPUT, "bytes": _bytes(source, ops, target)} for source in sorted(final)
    ]
    return edges


def _out(source: str) -> str:
    return INPUT if not source else f"layer:{source}"


def _bytes(source: str, ops: Mapping[str, AnalogLayer], target: Target) -> float:
    """Bytes of a layer's results per inference, in input codes; 0 where the source is the model's input itself."""
    if not source:
        return 0.0
    op = ops[source]
    groups, _, cols = op.matrix.codes.shape
    return float(op.site.vectors * groups * cols * target.precision.inputs) / 8
