"""The files of a build directory, and what of them is not the program's alone: the model as it came, versions."""

from __future__ import annotations

import platform
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import onnx_ir as ir

import mcompiler
from mcompiler.artefacts import Writer, read_layers, write_layers
from mcompiler.cost import Cost
from mcompiler.driver.content import Compiled, mapped_from_cells
from mcompiler.errors import ModelError
from mcompiler.geometry import array_shape
from mcompiler.onnx_export import save_model
from mcompiler.target import Target, resolved_toml


def write_files(writer: Writer, content: Compiled, target: Target, cost: Cost, report: str) -> None:
    """Write every file of a build but its manifest; the mapped model is made from the cells as they were written.

    Raises:
        ModelError: external data of the model under a name that the build needs.
    """
    with ThreadPoolExecutor(1) as beside:  # copying and hashing a large model needs no interpreter
        copied = beside.submit(_write_source, writer, content.source, content.external)
        _write_own(writer, content, target, cost, report)
        copied.result()


def versions() -> dict[str, str]:
    """Of the packages that a build depends on."""
    names = ("numpy", "onnx", "onnx-ir", "onnxruntime", "networkx")
    return {
        "mcompiler": mcompiler.__version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in names},
    }


def _write_own(writer: Writer, content: Compiled, target: Target, cost: Cost, report: str) -> None:
    """Everything but the copy of the model."""
    root = writer.root
    writer.text("target.toml", resolved_toml(target))
    write_layers(writer, content.program, target)
    (root / "layers").mkdir(exist_ok=True)
    for name in save_model(content.skeleton, root, "layers/graph.onnx"):
        writer.adopt(name)
    for name in save_model(content.reference, root, "reference.onnx"):
        writer.adopt(name)
    layers = read_layers(root, array_shape(target))
    for name in save_model(mapped_from_cells(content.skeleton, layers, target, False), root, "mapped.onnx"):
        writer.adopt(name)
    writer.json("placement.json", content.placement)
    writer.json("schedule.json", content.schedule)
    writer.json("cost.json", cost.as_json())
    writer.text("report.html", report)


def _write_source(writer: Writer, source: Path | ir.Model, external: tuple[str, ...]) -> None:
    """The model as it came: its file byte for byte, with its external data under the names that it uses."""
    if isinstance(source, ir.Model):
        for name in save_model(source, writer.root, "model.onnx"):
            writer.adopt(name)
        return
    writer.copy("model.onnx", source)
    for name in external:
        if name in {"model.onnx", "manifest.json"} or name in writer.files:
            raise ModelError(f"{source}: its external data file is called '{name}', as a file of the build; rename it")
        writer.copy(name, source.parent / name)
