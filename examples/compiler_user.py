"""For users of the compiler: compile, verify, and read the placement, the cells and the netlist of a build.

    python examples/compiler_user.py

compiles the digits network of the demo, verifies the mapping on the held-out digits, walks the placement as a networkx
graph, and writes one array as a SPICE netlist. It takes a few seconds.
"""

from importlib.resources import as_file, files
from pathlib import Path
from tempfile import TemporaryDirectory

import networkx as nx
import numpy as np

import mcompiler


def compile_and_verify(demo: Path, directory: Path) -> mcompiler.Build:
    """Compile, save, load, and verify on data that the compilation has not seen."""
    mcompiler.compile(demo / "digits.onnx", "generic_128", calibration=demo / "digits_calibration.npz").save(directory)
    build = mcompiler.load(directory)
    held_out = np.load(demo / "digits.npz")
    result = build.verify(held_out["x"], held_out["y"])
    print(f"exact on {result.samples} samples: {result.exact}; top-1 mapped {result.top1_mapped:.1%}")
    for node in build.fates:
        print(f"  {node.name:26} {node.op:18} {node.fate:8} {mcompiler.reason_text(node.reason)}")
    return build


def read_placement(build: mcompiler.Build) -> None:
    """The placement is a directed graph: arrays and digital units, with the bytes that flow between them."""
    graph = build.placement
    kinds = nx.get_node_attributes(graph, "kind")
    print(f"placement: {graph.number_of_nodes()} nodes, {graph.number_of_edges()} edges")
    print(
        f"  arrays: {sum(kind == 'array' for kind in kinds.values())}, acyclic: {nx.is_directed_acyclic_graph(graph)}"
    )
    source, target, flow = max(graph.edges(data="bytes"), key=lambda edge: edge[2])
    print(f"  most bytes per inference: {flow:.0f} from {source} to {target}")


def read_array(build: mcompiler.Build, layer: str, netlist: Path) -> None:
    """Address, cells and netlist of the first array of a layer."""
    levels = build.cells(layer, 0)
    print(f"{layer}: {build.arrays(layer)} arrays; number 0 is at chip, tile, core, position {build.address(layer, 0)}")
    print(f"  {levels.shape[0]} x {levels.shape[1]} cells, levels used: {np.unique(levels).tolist()}")
    netlist.write_text(build.netlist(layer, 0), encoding="utf-8")
    print(f"  netlist: {len(netlist.read_text(encoding='utf-8').splitlines()):,} lines")


if __name__ == "__main__":
    with as_file(files("mcompiler") / "demo") as demo_folder, TemporaryDirectory() as work:
        compiled = compile_and_verify(demo_folder, Path(work) / "digits.build")
        read_placement(compiled)
        read_array(compiled, compiled.layers[0], Path(work) / "array.sp")
