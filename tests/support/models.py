"""Helpers for tests of the graph passes: sessions, and a lowered program turned back into plain ONNX."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort

from mcompiler.fates import reason_text
from mcompiler.graph import Names, add_initializer, replace_value
from mcompiler.ir import (
    ANALOG_OP,
    ConvShape,
    FloatMatrix,
    GraphProgram,
    LoweredProgram,
    ModelNode,
    NodeFate,
    Origin,
)
from mcompiler.onnx_import import program_of
from mcompiler.passes.clean import Clean
from mcompiler.passes.convert import Convert
from mcompiler.passes.decompose import Decompose
from mcompiler.passes.fold_batchnorm import FoldBatchNorm
from mcompiler.passes.fold_constants import FoldConstants
from mcompiler.passes.infer_shapes import InferShapes
from mcompiler.passes.inline import Inline
from mcompiler.passes.lower import Lower
from mcompiler.passes.widen import Widen
from mcompiler.target import load_target

SHARED_MODELS = Path(__file__).parents[2].parent / "shared" / "models"

GENERIC = load_target("generic_128")


def session(model: onnx.ModelProto | Path) -> ort.InferenceSession:
    """A quiet single-threaded session without fusions.

    With them onnxruntime computes products with dequantised weights in integers, which rounds the activations.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto | Path, feeds: Mapping[str, npt.NDArray[Any]]) -> list[Any]:
    """All outputs."""
    return list(session(model).run(None, dict(feeds)))


def rebuilt(program: LoweredProgram) -> onnx.ModelProto:
    """The skeleton with a Conv or MatMul of the float matrix (and an Add of the bias) for every placeholder."""
    model = program.skeleton.clone()
    names = Names(model)
    matrices = {matrix.name: matrix for matrix in program.matrices}
    placeholders = [node for node in model.graph if node.op_type == ANALOG_OP]
    assert [node.name for node in placeholders] == [matrix.name for matrix in program.matrices]
    for node in placeholders:
        _fill(model.graph, node, matrices[node.name or ""], names)
    model.opset_imports.pop("mcompiler", None)
    return ir.to_proto(model)


def _fill(graph: ir.Graph, node: ir.Node, matrix: FloatMatrix, names: Names) -> None:
    dtype = matrix.element.numpy()
    weights, bias = matrix.weights.astype(dtype), matrix.bias
    groups, rows, columns = weights.shape
    if isinstance(matrix.shape, ConvShape):
        shape = matrix.shape
        channels = rows // math.prod(shape.kernel)
        array = weights.transpose(0, 2, 1).reshape(groups * columns, channels, *shape.kernel)
        attributes: dict[str, Any] = {
            "group": groups,
            "kernel_shape": shape.kernel,
            "strides": shape.strides,
            "dilations": shape.dilations,
            "pads": shape.pads,
        }
        row = None if bias is None else bias.reshape(-1, *[1] * len(shape.kernel))
        op = "Conv"
    else:
        array = weights.reshape(*matrix.shape.batch, rows, columns)
        assert math.prod(matrix.shape.batch) == groups
        attributes, op = {}, "MatMul"
        row = None if bias is None else bias.reshape(*matrix.shape.batch, 1, columns)
        if row is not None and not matrix.shape.batch:
            row = row.reshape(columns)
    value = add_initializer(graph, names.fresh("w"), np.ascontiguousarray(array))
    main = ir.Node("", op, [node.inputs[0], value], ir.convenience.convert_attributes(attributes), num_outputs=1)
    main.outputs[0].name = names.fresh("product")
    added = [main]
    if row is not None:
        offset = add_initializer(graph, names.fresh("b"), row.astype(dtype))
        added.append(ir.Node("", "Add", [main.outputs[0], offset], num_outputs=1))
        added[-1].outputs[0].name = names.fresh("sum")
    graph.insert_before(node, added)
    replace_value(node.outputs[0], added[-1].outputs[0])
    graph.remove(node, safe=True)


def largest_error(expected: Sequence[Any], got: Sequence[Any]) -> float:
    """The largest difference relative to the largest magnitude of each output; types and shapes must agree."""
    worst = 0.0
    for one, other in zip(expected, got, strict=True):
        if isinstance(one, list):  # a sequence of maps
            assert isinstance(other, list)
            assert len(one) == len(other)
            continue
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        if one.size:
            size = float(np.abs(one.astype(np.float64)).max())
            difference = float(np.abs(one.astype(np.float64) - other.astype(np.float64)).max())
            worst = max(worst, difference / max(size, 1e-30))
    return worst


NORMALISE: tuple[Inline | Decompose | Convert | InferShapes | FoldConstants | FoldBatchNorm | Clean | Widen, ...] = (
    Inline(),
    Decompose(),
    Convert(),
    InferShapes(),
    FoldConstants(),
    InferShapes(),
    FoldConstants(),
    FoldBatchNorm(),
    Clean(),
    InferShapes(),
    Widen(),
)
"""The graph passes as the driver runs them."""


def parsed(text: str) -> onnx.ModelProto:
    """A model in ONNX's text format."""
    return onnx.parser.parse_model(text)


def imported(model: onnx.ModelProto) -> GraphProgram:
    """A model in memory as program."""
    return program_of(ir.from_proto(model))


def normalised(program: GraphProgram) -> GraphProgram:
    """The program after all graph passes."""
    for step in NORMALISE:
        program = step.run(program, GENERIC)
    return program


def proto(program: GraphProgram) -> onnx.ModelProto:
    """The program's graph as plain ONNX."""
    return ir.to_proto(program.model)


def lowered(model: onnx.ModelProto) -> LoweredProgram:
    """A model in memory, normalised and lowered."""
    return Lower().run(normalised(imported(model)), GENERIC)


def fate_of(program: LoweredProgram, name: str) -> tuple[str, str]:
    """Fate and reason of a node."""
    fate = fate_decided(program.graph, name)
    return str(fate.fate), reason_text(fate.reason)


def fate_decided(program: GraphProgram, name: str) -> NodeFate:
    """What was decided about the node of this name."""
    (fate,) = (fate for fate in program.fates.values() if fate.name == name)
    return fate


def model_node(index: int, name: str, op: str, label: str | None = None) -> ModelNode:
    """A node of the main graph."""
    return ModelNode(Origin((), index), name, op, name if label is None else label)
