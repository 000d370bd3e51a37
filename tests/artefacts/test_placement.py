"""placement.json: a graph that networkx reads, arrays between digital units, linear in arrays."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest

import mcompiler
from mcompiler.artefacts import placement as placement_module
from mcompiler.artefacts import placement_data, program_layers
from mcompiler.dataflow import program_stages
from mcompiler.driver import Build
from mcompiler.target import Target
from tests.support.builds import activations, codes_of, floats, model, node, target
from tests.support.programs import chain, matrix_op, matrix_program, scheduled


def two_layers(chip: Target | None = None) -> Build:
    """Convolution, Relu, convolution in groups, and a branch around both."""
    x = activations((2, 3, 6, 6))
    nodes = [
        node("Conv", "x w", "a", "first", pads=[1, 1, 1, 1]), node("Relu", "a", "r"),
        node("Conv", "r v", "c", "second", pads=[1, 1, 1, 1], group=2), node("Add", "c r"),
    ]  # fmt: skip
    constants = {"w": floats(codes_of((4, 3, 3, 3), 8)), "v": floats(codes_of((4, 2, 3, 3), 8, 1))}
    return mcompiler.compile(model(nodes, {"x": x}, constants), chip or target(), calibration={"x": x})


def graph_of(build: Build, folder: Path) -> tuple[Any, dict[str, Any]]:
    data = json.loads((build.save(folder / "b") / "placement.json").read_text())
    graph: Any = nx.node_link_graph(data, edges="edges")
    return graph, data


CHIPS = {
    "pair": target(),
    "separate": target("encoding.slices_in=separate", "encoding.pairs_in=separate"),
    "isaac": target(base="isaac"),
    "small chips": target("hierarchy.arrays_per_core=2", "hierarchy.cores_per_tile=2", "hierarchy.tiles_per_chip=2"),
}


@pytest.mark.parametrize("chip", CHIPS)
def test_structure(chip: str, tmp_path: Path) -> None:
    build = two_layers(CHIPS[chip])
    graph, data = graph_of(build, tmp_path)
    assert isinstance(graph, nx.DiGraph)
    kinds = dict(graph.nodes(data="kind"))
    arrays = [name for name, kind in kinds.items() if kind == "array"]
    assert len(arrays) == build.cost.crossbars == sum(build.arrays(layer) for layer in build.layers)
    for one, other in graph.edges:
        pair = kinds[one], kinds[other]
        assert pair in {
            ("input", "buffer"),
            ("buffer", "array"),
            ("array", "accumulator"),
            ("accumulator", "layer"),
            ("layer", "digital"),
            ("digital", "buffer"),
            ("digital", "digital"),
            ("digital", "output"),
        }
    assert all(graph.in_degree(name) == graph.out_degree(name) == 1 for name in arrays)
    assert graph.number_of_edges() <= 3 * len(arrays) + 8
    assert all(edge["bytes"] > 0 for edge in data["edges"])
    assert nx.is_directed_acyclic_graph(graph)
    assert set(nx.ancestors(graph, "output")) == set(graph) - {"output"}, "everything leads to the output"
    plain = build.placement
    assert (set(plain.nodes), set(plain.edges)) == (set(graph.nodes), set(graph.edges))
    for name, attributes in plain.nodes(data=True):
        assert attributes.items() <= graph.nodes[name].items()


@pytest.mark.parametrize("chip", CHIPS)
def test_addresses(chip: str, tmp_path: Path) -> None:
    build = two_layers(CHIPS[chip])
    graph, data = graph_of(build, tmp_path)
    addresses = [tuple(a) for _, a in graph.nodes(data="address") if a is not None]
    assert len(set(addresses)) == len(addresses) == build.cost.crossbars
    hierarchy = build.target.hierarchy
    sizes = (build.chips, hierarchy.tiles_per_chip, hierarchy.cores_per_tile, hierarchy.arrays_per_core)
    assert all(0 <= part < size for address in addresses for part, size in zip(address, sizes, strict=True))
    assert data["graph"]["chips"] == build.chips
    for layer in build.layers:
        for index in range(build.arrays(layer)):
            assert graph.nodes[f"array:{layer}:{index}"]["address"] == build.address(layer, index)


def test_chips_are_counted() -> None:
    build = two_layers(CHIPS["small chips"])
    assert build.chips == -(-build.cost.crossbars // 8) > 1


def test_traffic_adds_up(tmp_path: Path) -> None:
    """First layer: 36 vectors of 27 codes in, in 4 row blocks; 36 x 4 accumulators of 32 bits out of the last unit."""
    build = two_layers()
    graph, _ = graph_of(build, tmp_path)
    arrays = [n for n, d in graph.nodes(data=True) if d["kind"] == "array" and d["layer"] == "first"]
    columns = {graph.nodes[name]["col"] for name in arrays}
    into = sum(graph.edges["buffer:first", name]["bytes"] for name in arrays)
    assert into == 36 * 27 * len(columns)
    out = sum(d["bytes"] for a, b, d in graph.edges(data=True) if b == "layer:first")
    assert out == 36 * 4 * 4


def test_digital_nodes_stand_between_layers(tmp_path: Path) -> None:
    """Conv, Relu, Conv, Add of both: 4 channels of 36 places, a byte each, on every edge; the input has 3 channels."""
    graph, _ = graph_of(two_layers(), tmp_path)
    flows = {(a, b): d["bytes"] for a, b, d in graph.edges(data=True) if "array" not in a + b and "accu" not in a}
    assert flows == {
        ("input", "buffer:first"): 3 * 36,
        ("layer:first", "digital:1"): 4 * 36,
        ("digital:1", "buffer:second"): 4 * 36,
        ("layer:second", "digital:3"): 4 * 36,
        ("digital:1", "digital:3"): 4 * 36,
        ("digital:3", "output"): 4 * 36,
    }
    relu, add = (graph.nodes[f"digital:{position}"] for position in (1, 3))
    assert (relu["kind"], relu["op"], relu["operations"], relu["layer"]) == ("digital", "Relu", 4 * 36, "first")
    assert (add["op"], add["operations"], add["layer"]) == ("Add", 4 * 36, "second")


@pytest.mark.parametrize("form", ["graphml", "gexf"])
def test_other_programs_can_read_the_graph(form: str, tmp_path: Path) -> None:
    placement = two_layers().placement
    getattr(nx, f"write_{form}")(placement, tmp_path / "graph.xml")
    read = getattr(nx, f"read_{form}")(tmp_path / "graph.xml")
    assert set(read.nodes) == set(placement.nodes)
    for name, attributes in placement.nodes(data=True):
        if attributes["kind"] == "array":
            assert {key: read.nodes[name][key] for key in ("chip", "tile", "core", "position")} == {
                key: attributes[key] for key in ("chip", "tile", "core", "position")
            }
    edges: list[tuple[str, str, float]] = list(placement.edges(data="bytes"))
    for source, sink, size in edges:
        assert read.edges[source, sink]["bytes"] == size


def test_edges_and_costs_state_the_same_bytes(tmp_path: Path) -> None:
    """Two products, each in a tile, with a Softmax between them; the second takes inputs of 4 bits.

    Case soft_x: placement.json once had 8 bytes into the second layer where the cost had 4, and none from the input.
    """
    x = activations((4, 16))
    nodes = [node("MatMul", "x w", "a", "fc"), node("Softmax", "a", "s", axis=-1), node("MatMul", "s v", "y", "fc2")]
    constants = {"w": floats(codes_of((16, 8), 8)), "v": floats(codes_of((8, 8), 8, 1))}
    chip = target(
        "precision.layers.fc2.inputs=4",
        "hierarchy.arrays_per_core=8",
        "hierarchy.cores_per_tile=1",
        "hierarchy.tiles_per_chip=4",
        "network.topology=bus",
    )
    build = mcompiler.compile(model(nodes, {"x": x}, constants), chip, calibration={"x": x})
    graph, _ = graph_of(build, tmp_path)
    assert graph.edges["input", "buffer:fc"]["bytes"] == 16
    assert graph.edges["digital:1", "buffer:fc2"]["bytes"] == 4
    assert graph.edges["layer:fc2", "output"]["bytes"] == 8
    tiles = [{build.address(layer, i)[1] for i in range(build.arrays(layer))} for layer in ("fc", "fc2")]
    assert [len(each) for each in tiles] == [1, 1]
    assert tiles[0] != tiles[1]
    counts = {(layer, event): count for layer, event, count in build.cost.events}
    # On the bus a byte crosses one link, or none at the tile of the port.
    assert counts["fc2", "link_byte"] == 4 + (8 if tiles[1] != {0} else 0)
    assert counts["fc", "link_byte"] == (16 if tiles[0] != {0} else 0)
    assert (counts["fc", "chip_link_byte"], counts["fc2", "chip_link_byte"]) == (16, 8)


def test_sites_of_one_matrix_share_array_nodes() -> None:
    """Two products with the same weights: one set of arrays, fed by the buffers of both layers."""
    chip = target("array.rows=4", "array.rows_active=4", "array.columns=16")
    one = matrix_op(np.ones((8, 4), int), name="one", vectors=3)
    other = replace(one, site=replace(one.site, name="other", label="other", vectors=5))
    program = scheduled(matrix_program([one, replace(other, matrix=one.matrix)]), chip)
    layers = program_layers(program, chip)
    data = placement_data(program_stages(program.placed.analog.tiled, chip), chain(["one", "other"]), layers, chip)
    graph: Any = nx.node_link_graph(data, edges="edges")
    arrays = [name for name, kind in graph.nodes(data="kind") if kind == "array"]
    assert len(arrays) == len(program.placed.addresses[0])
    for array in arrays:
        assert set(graph.predecessors(array)) == {"buffer:one", "buffer:other"}
        assert {graph.nodes[unit]["layer"] for unit in graph.successors(array)} == {"one", "other"}
        rows = graph.nodes[array]["rows"]
        assert graph.edges["buffer:one", array]["bytes"] == 3 * rows
        assert graph.edges["buffer:other", array]["bytes"] == 5 * rows


def test_one_node_per_core_above_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = two_layers()
    detailed, _ = graph_of(build, tmp_path)
    monkeypatch.setattr(placement_module, "ARRAYS_LIMIT", build.cost.crossbars - 1)
    coarse, _ = graph_of(two_layers(), tmp_path / "coarse")
    cores = {n: d for n, d in coarse.nodes(data=True) if d["kind"] == "core"}
    assert not [n for n, kind in coarse.nodes(data="kind") if kind in ("array", "accumulator")]
    assert sum(d["arrays"] for d in cores.values()) == build.cost.crossbars
    for layer in build.layers:
        addresses = np.array([build.address(layer, i) for i in range(build.arrays(layer))])
        own = {tuple(d["address"]): d["arrays"] for d in cores.values() if d["layer"] == layer}
        places, counts = np.unique(addresses[:, :3], axis=0, return_counts=True)
        assert own == {tuple(p): c for p, c in zip(places.tolist(), counts.tolist(), strict=True)}
        for kind, which in (("in", coarse.out_edges), ("out", coarse.in_edges)):
            end = f"buffer:{layer}" if kind == "in" else f"layer:{layer}"
            arrays = [n for n, d in detailed.nodes(data=True) if d["kind"] == "array" and d["layer"] == layer]
            wanted = sum(
                detailed.edges[(end, n) if kind == "in" else (n, next(detailed.successors(n)))]["bytes"] for n in arrays
            )
            edges = which(end, data=True)
            assert sum(d["bytes"] for a, b, d in edges if a in cores or b in cores) == pytest.approx(wanted)
    assert mcompiler.load(tmp_path / "coarse" / "b").verify(limit=2).failures == ()


def test_a_model_without_analog_layers(tmp_path: Path) -> None:
    x = activations((2, 3))
    build = mcompiler.compile(model([node("Relu", "x")], {"x": x}), target(), calibration={"x": x})
    graph, data = graph_of(build, tmp_path)
    assert list(graph.edges(data="bytes")) == [("input", "digital:0", 3.0), ("digital:0", "output", 3.0)]
    assert data["graph"]["chips"] == 1
