"""One node evaluated at compile time, by the reference implementation of the ``onnx`` package."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator


def evaluate(
    node: ir.Node, inputs: Sequence[npt.NDArray[Any] | None], opsets: Mapping[str, int]
) -> list[npt.NDArray[Any]] | None:
    """Outputs of a node for constant inputs.

    Args:
        node: a node without control-flow bodies.
        inputs: one array per input, None where an optional input is left out.
        opsets: operator sets of the model.

    Returns:
        One array per output, or None where the node cannot be evaluated here (it then stays in the graph).
    """
    model, feeds = _alone(node, inputs, opsets)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            results = ReferenceEvaluator(model).run(None, feeds)
    except Exception:  # the evaluator raises many kinds; the runtime computes nodes that it cannot
        return None
    if any(not isinstance(result, (np.ndarray, np.generic)) for result in results):
        return None
    return [np.asarray(result) for result in results]


def output_bytes(node: ir.Node, inputs: Sequence[npt.NDArray[Any] | None], opsets: Mapping[str, int]) -> int | None:
    """Bytes that the outputs of a node would take for constant inputs, without evaluating the node; None: unknown.

    What the model states about their shapes is not used: a wrong statement would hide an output of any size.

    Args:
        node: a node without control-flow bodies.
        inputs: one array per input, None where an optional input is left out.
        opsets: operator sets of the model.
    """
    model, feeds = _alone(node, inputs, opsets)
    for info in model.graph.input:
        array = feeds[info.name]
        kind = onnx.helper.make_tensor_type_proto(onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        info.type.CopyFrom(kind)
        if array.nbytes <= _READ_BYTES:  # sizes, axes, limits of a Range
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, info.name))
    try:
        types = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph.output
        return sum(_bytes_of(value.type.tensor_type) for value in types)
    except Exception:  # onnx raises many kinds; a type or a size is not known
        return None


def _bytes_of(value: onnx.TypeProto.Tensor) -> int:
    """Bytes of a tensor of a known type and shape; ValueError for others."""
    if not value.HasField("shape") or not all(dim.HasField("dim_value") for dim in value.shape.dim):
        raise ValueError("a size is not known")
    width = 64 if value.elem_type == onnx.TensorProto.STRING else ir.DataType(value.elem_type).bitwidth
    return math.prod(dim.dim_value for dim in value.shape.dim) * width // 8


_READ_BYTES = 1 << 12
"""Inputs of this size at most can be sizes that the shape of an output depends on."""


def _alone(
    node: ir.Node, inputs: Sequence[npt.NDArray[Any] | None], opsets: Mapping[str, int]
) -> tuple[onnx.ModelProto, dict[str, npt.NDArray[Any]]]:
    """A model of one node, and the arrays that it is given, by the names of its inputs."""
    proto = ir.to_proto(node)
    del proto.input[:], proto.output[:]
    proto.input.extend("" if array is None else f"x{index}" for index, array in enumerate(inputs))
    proto.output.extend(f"y{index}" for index in range(len(node.outputs)))
    feeds = {f"x{index}": array for index, array in enumerate(inputs) if array is not None}
    graph = onnx.GraphProto(name="constant", node=[proto])
    graph.input.extend(onnx.ValueInfoProto(name=name) for name in feeds)
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in proto.output)
    imports = [onnx.OperatorSetIdProto(domain=domain, version=version) for domain, version in opsets.items()]
    return onnx.ModelProto(ir_version=10, graph=graph, opset_import=imports), feeds
