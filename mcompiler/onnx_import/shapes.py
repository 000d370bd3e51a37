"""Shape inference through the ``onnx`` package."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

from mcompiler.bodies import nodes_with_branches
from mcompiler.graph import input_at
from mcompiler.onnx_import.light import light_proto
from mcompiler.runtime import inferred

_ROUNDS = 8
_LIKE_INPUT = {
    ("", "LayerNormalization"): None,
    ("", "SimplifiedLayerNormalization"): None,
    ("ai.onnx.ml", "Scaler"): ir.DataType.FLOAT,
    ("ai.onnx.ml", "Normalizer"): ir.DataType.FLOAT,
    ("ai.onnx.ml", "Binarizer"): None,
    ("ai.onnx.ml", "Imputer"): None,
    ("com.microsoft", "Gelu"): None,
    ("com.microsoft", "FastGelu"): None,
    ("com.microsoft", "QuickGelu"): None,
    ("com.microsoft", "BiasGelu"): None,
}
"""Operators that ``onnx`` cannot infer, of the shape of their first input; the element type, None: of the input."""


def infer_shapes(model: ir.Model) -> None:
    """Infer types and shapes of intermediate values in place; symbolic sizes are carried along.

    Values in branches of If nodes are among them.

    Inference may fail (operators that it does not know, contradicting annotations); values then keep theirs.
    Types and shapes of graph inputs and outputs stay as the model states them.
    """
    runtime_tried = False
    for _ in range(_ROUNDS):
        infer_by_onnx(model)
        if sum(_supplement(node) for node in nodes_with_branches(model.graph)):
            continue
        if runtime_tried or not _infer_by_runtime(model):
            return
        runtime_tried = True


def _infer_by_runtime(model: ir.Model) -> bool:
    """Shapes of onnxruntime's own operators, which only it can infer; True where it added something."""
    foreign = [node.outputs[0] for node in model.graph if node.domain not in ("", "ai.onnx") and node.outputs]
    unknown = {value.name or "": value for value in foreign if value.shape is None and value.name}
    found = inferred(model, list(unknown)) if unknown else {}
    for name, (dtype, shape) in found.items():
        unknown[name].shape = ir.Shape(shape)
        unknown[name].type = ir.TensorType(ir.DataType.from_numpy(dtype))
    return bool(found)


def infer_by_onnx(model: ir.Model) -> None:
    """Infer types and shapes in place with the ``onnx`` package alone, which runs nothing."""
    try:
        inferred = onnx.shape_inference.infer_shapes(
            light_proto(model), check_type=False, strict_mode=False, data_prop=True
        )
    except Exception:  # onnx raises many kinds; a model without shapes is still a model
        return
    infos = {info.name: info.type for graph in _graphs(inferred.graph) for info in (*graph.value_info, *graph.output)}
    for node in nodes_with_branches(model.graph):
        for value in node.outputs:
            info = infos.get(value.name or "")
            if info is not None and info.WhichOneof("value") == "tensor_type":
                _settle(value, info.tensor_type)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and the bodies of its nodes, at any depth; names of values are unique in all of them together."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)


def _settle(value: ir.Value, info: onnx.TypeProto.Tensor) -> None:
    stated = value.is_graph_output()
    if info.elem_type and (value.type is None or not stated):
        value.type = ir.TensorType(ir.DataType(info.elem_type))
    if info.HasField("shape") and (value.shape is None or not stated):
        value.shape = ir.Shape([_size(dim) for dim in info.shape.dim])


def _size(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    kind = dim.WhichOneof("value")
    return dim.dim_value if kind == "dim_value" else dim.dim_param if kind == "dim_param" else None


def _supplement(node: ir.Node) -> bool:
    """Infer a shape that ``onnx`` does not; True where one was added."""
    if not node.outputs or node.outputs[0].shape is not None or not node.inputs or node.inputs[0] is None:
        return False
    source, output = node.inputs[0], node.outputs[0]
    if node.domain == "com.microsoft" and node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return _requantised(node, source, output)
    if (node.domain, node.op_type) in _LIKE_INPUT and source.shape is not None:
        dtype = _LIKE_INPUT[node.domain, node.op_type] or source.dtype
        output.shape = source.shape.copy()
        output.type = ir.TensorType(dtype) if dtype is not None else output.type
        return True
    if node.domain == "" and node.op_type in ("Reshape", "Expand") and len(node.inputs) == 2:
        return _rank_of_argument(node, source, output)
    return False


def _requantised(node: ir.Node, source: ir.Value, output: ir.Value) -> bool:
    """The shape of the input; the type of the scale of a DequantizeLinear, of the zero point of a QuantizeLinear."""
    if source.shape is None:
        return False
    parameter = input_at(node, 1 if node.op_type == "DequantizeLinear" else 2)
    output.shape = source.shape.copy()
    if parameter is not None and parameter.dtype is not None:
        output.type = ir.TensorType(parameter.dtype)
    return True


def _rank_of_argument(node: ir.Node, source: ir.Value, output: ir.Value) -> bool:
    """A shape that is computed at run time still has a known length, and that is the number of dimensions."""
    shape = node.inputs[1].shape if node.inputs[1] is not None else None
    if shape is None or len(shape) != 1 or not isinstance(shape[0], int) or (source.type or output.type) is None:
        return False
    if node.op_type == "Expand" and (source.shape is None or len(source.shape) > shape[0]):
        return False
    output.shape = ir.Shape([None] * shape[0])
    if output.type is None:
        output.type = source.type
    return True
