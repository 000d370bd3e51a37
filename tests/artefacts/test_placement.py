"""placement.json: a graph that networkx reads, arrays between digital units, linear in arrays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest

import mcompiler
from mcompiler.artefacts import placement as placement_module
from mcompiler.driver import Build
from mcompiler.target import Target
from tests.support.builds import activations, codes_of, floats, model, node, target


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
            ("input", "buffer"), ("buffer", "array"), ("array", "accumulator"), ("accumulator", "layer"),
            ("layer", "buffer"), ("layer", "output"), ("input", "output"),
        }  # fmt: skip
    assert all(graph.in_degree(name) == graph.out_degree(name) == 1 for name in arrays)
    assert graph.number_of_edges() <= 3 * len(arrays) + 8
    assert all(edge["bytes"] >= 0 for edge in data["edges"])
    assert nx.is_directed_acyclic_graph(graph)
    assert set(nx.ancestors(graph, "output")) == set(graph) - {"output"}, "everything leads to the output"
    assert nx.utils.graphs_equal(nx.DiGraph(graph), build.placement)


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


def test_data_flow_follows_the_graph(tmp_path: Path) -> None:
    graph, _ = graph_of(two_layers(), tmp_path)
    assert set(graph.predecessors("buffer:first")) == {"input"}
    assert set(graph.predecessors("buffer:second")) == {"layer:first"}
    assert set(graph.predecessors("output")) == {"layer:first", "layer:second"}, "the branch around the second"


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
    assert list(graph.edges) == [("input", "output")]
    assert data["graph"]["chips"] == 1
