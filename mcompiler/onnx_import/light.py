"""A model as protobuf without its weights, for the C++ services of the ``onnx`` package."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from mcompiler.onnx_import.reader import TYPE_KEY

_SMALL = 1024
"""Initializers up to this many bytes travel with the model: shapes, axes and scales are read."""


def light_proto(model: ir.Model) -> onnx.ModelProto:
    """Serialize a model whose large initializers have become inputs; small ones are inputs and initializers.

    Output types that onnx_ir cannot hold are put back. The model is not changed.
    """
    work = model.clone()
    graph = work.graph
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or tensor.nbytes > _SMALL:
            del graph.initializers[value.name or ""]
        if value not in graph.inputs:
            graph.inputs.append(value)
    proto = ir.to_proto(work)
    for output, info in zip(model.graph.outputs, proto.graph.output, strict=True):
        if TYPE_KEY in output.meta:
            info.type.ParseFromString(output.meta[TYPE_KEY])
    return proto


def without_map_types(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Clear, in place, the types of outputs and drop the value infos that onnx_ir cannot read."""
    for info in proto.graph.output:
        if info.type.WhichOneof("value") not in (None, "tensor_type", "sparse_tensor_type"):
            info.ClearField("type")
    for index in reversed(range(len(proto.graph.value_info))):
        kind = proto.graph.value_info[index].type.WhichOneof("value")
        if kind not in ("tensor_type", "sparse_tensor_type"):
            del proto.graph.value_info[index]
    return proto
