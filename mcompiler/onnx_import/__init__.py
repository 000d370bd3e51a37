"""ONNX files in: reading, refusing, and the services of the ``onnx`` package that passes need.

``load_model`` reads a file. ``convert_opset``, ``infer_shapes``, ``evaluate`` and ``output_bytes`` are the only ways by
which passes reach the ``onnx`` package.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from mcompiler.errors import ModelError
from mcompiler.ir import GraphProgram
from mcompiler.onnx_import.convert import convert_opset
from mcompiler.onnx_import.evaluate import evaluate, output_bytes
from mcompiler.onnx_import.identity import identify
from mcompiler.onnx_import.reader import EXTERNAL_KEY, TYPE_KEY, read
from mcompiler.onnx_import.refuse import check, operators
from mcompiler.onnx_import.shapes import infer_shapes
from mcompiler.onnx_import.sizes import check_sizes

__all__ = [
    "EXTERNAL_KEY",
    "TYPE_KEY",
    "convert_opset",
    "evaluate",
    "infer_shapes",
    "load_model",
    "operators",
    "output_bytes",
    "program_of",
]

_MIN_IR_VERSION = 8
"""Initializers need not be inputs since IR version 4; model-local functions exist since 8."""


def load_model(path: Path) -> GraphProgram:
    """Read an ONNX model for compilation.

    Every node gets its origin and a label. Every node of a graph or body gets a name, unique there: its own, or
    ``<Op>_<index>`` where missing or repeated (index = position in the graph). Initializers that are also inputs (IR
    version 3) are no longer inputs. Large tensors stay on disk, memory-mapped.

    Args:
        path: an ONNX file (protobuf); external data in its folder.

    Raises:
        ModelError: no readable ONNX model, missing data, or nodes that no inference can have; see the message.
    """
    path = Path(path)
    return program_of(read(path), f"'{path}'")


def program_of(model: ir.Model, label: str = "the model") -> GraphProgram:
    """Take a model that is already in memory as program; names its nodes and edits the model in place.

    Args:
        model: the model, which belongs to the program from now on.
        label: name of the model in messages.

    Raises:
        ModelError: nodes that no inference can have, all of them listed.
    """
    check(model, label)
    _forget_negative_sizes(model)
    check_sizes(model, label)
    graph = model.graph
    try:
        graph.sort()  # onnxruntime takes nodes in any order
    except ValueError as error:
        raise ModelError(f"{label} is a damaged ONNX model: its nodes form a cycle; export it again") from error
    kept = [value for value in graph.inputs if not value.is_initializer()]
    if len(kept) != len(graph.inputs):
        graph.inputs.clear()
        graph.inputs.extend(kept)
    model.ir_version = max(model.ir_version, _MIN_IR_VERSION)
    if "ai.onnx" in model.opset_imports:
        model.opset_imports.setdefault("", model.opset_imports.pop("ai.onnx"))
    return GraphProgram(model=model, nodes=identify(model))


def _forget_negative_sizes(model: ir.Model) -> None:
    """Make negative sizes unknown ones, in place, as onnxruntime reads them: some exporters write -1 for any size."""
    for graph in model.graphs():
        for value in (*graph.inputs, *graph.outputs, *(output for node in graph for output in node.outputs)):
            if value.shape is not None and any(isinstance(size, int) and size < 0 for size in value.shape):
                value.shape = ir.Shape([None if isinstance(size, int) and size < 0 else size for size in value.shape])
