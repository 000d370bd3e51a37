"""Write the files of a build directory: the source model, the program, and versions."""

from __future__ import annotations

import platform
import posixpath
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path, PurePosixPath

import onnx_ir as ir

import mcompiler
from mcompiler.artefacts import Writer, file_stem, layer_files, read_layers, write_layers
from mcompiler.cost import Cost
from mcompiler.driver.content import Compiled, mapped_from_cells
from mcompiler.errors import ModelError
from mcompiler.geometry import array_shape
from mcompiler.onnx_export import save_model
from mcompiler.target import Target, resolved_toml

MODEL = "model.onnx"
SKELETON = "layers/graph.onnx"

_TEXTS = (
    "manifest.json",
    "target.toml",
    "layers.json",
    "placement.json",
    "schedule.json",
    "cost.json",
    "report.html",
)
"""Files of every build that are no models; those of its layers are named by ``layer_files``."""


def write_files(writer: Writer, content: Compiled, target: Target, cost: Cost, report: str) -> None:
    """Write every file of a build but its manifest; the mapped model is made from the cells as they were written.

    Raises:
        ModelError: external data of the model under a name that the build needs.
    """
    _refuse_taken_names(content)
    with ThreadPoolExecutor(1) as background:  # copying and hashing a large model releases the interpreter's lock
        copied = background.submit(_write_source, writer, content.source, content.external)
        _write_own(writer, content, target, cost, report)
        copied.result()


def versions() -> dict[str, str]:
    """Versions of the packages that a build depends on."""
    names = ("numpy", "onnx", "onnx-ir", "onnxruntime", "networkx")
    return {
        "mcompiler": mcompiler.__version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in names},
    }


def _refuse_taken_names(content: Compiled) -> None:
    """Refuse external data of the model whose path is that of a file or folder of the build.

    Raises:
        ModelError: names the file.
    """
    names = (MODEL, SKELETON, "reference.onnx", "mapped.onnx")
    models = [*names, *(f"{name}.data" for name in names)]
    layers = [name for i, layer in enumerate(content.layers) for name in layer_files(file_stem(i, layer.op.site.name))]
    own = [PurePosixPath(name.casefold()) for name in (*_TEXTS, *models, *layers)]
    for name in content.external:
        # Some file systems take names that differ in case for the same.
        path = PurePosixPath(posixpath.normpath(name.casefold()))
        if any(path.is_relative_to(other) or other.is_relative_to(path) for other in own):
            raise ModelError(
                f"{content.source}: its external data file is called '{name}', as a file of the build; rename it"
            )


def _write_own(writer: Writer, content: Compiled, target: Target, cost: Cost, report: str) -> None:
    """Write everything but the source model."""
    root = writer.root
    writer.text("target.toml", resolved_toml(target))
    write_layers(writer, content.program, target)
    (root / "layers").mkdir(exist_ok=True)
    writer.adopt(save_model(content.skeleton, root, SKELETON))
    writer.adopt(save_model(content.reference, root, "reference.onnx"))
    layers = read_layers(root, array_shape(target))
    writer.adopt(save_model(mapped_from_cells(content.skeleton, layers, target, False), root, "mapped.onnx"))
    writer.json("placement.json", content.placement)
    writer.json("schedule.json", content.schedule.as_json())
    writer.json("cost.json", cost.as_json())
    writer.text("report.html", report)


def _write_source(writer: Writer, source: Path | ir.Model, external: tuple[str, ...]) -> None:
    """Write the source model: a copy of its file, and of its external data under the names that it uses."""
    if isinstance(source, ir.Model):
        writer.adopt(save_model(source, writer.root, MODEL))
        return
    writer.copy(MODEL, source)
    for name in external:
        writer.copy(name, source.parent / name)
    writer.parts[MODEL] = [MODEL, *external]
