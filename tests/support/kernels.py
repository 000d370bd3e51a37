"""Integer kernels in an emitted model that could saturate at 16 bits on processors without VNNI."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

WEIGHT_AT = {"MatMulInteger": 1, "ConvInteger": 1, "QLinearMatMul": 3, "QLinearConv": 3}
"""Which input of a kernel is its second operand."""

INPUT_AT = {"MatMulInteger": 0, "ConvInteger": 0, "QLinearMatMul": 0, "QLinearConv": 0}


def saturating(model: ir.Model, largest_input: int) -> list[str]:
    """Nodes whose weights are int8 and too large for inputs up to ``largest_input``; signed inputs are named too.

    uint8 times int8 is added in pairs into 16 bits: 2 * max|x| * max|w| must not pass 32767. uint8 weights are widened
    first and cannot saturate.
    """
    proto = ir.to_proto(model)
    bad = _graph(proto.graph.node, {t.name: t for t in proto.graph.initializer}, largest_input)
    functions = {(f.domain, f.name): f for f in proto.functions}
    held = {t.name: t for t in proto.graph.initializer}
    for call in proto.graph.node:
        function = functions.get((call.domain, call.op_type))
        if function is not None:
            inside = {
                formal: held[actual]
                for formal, actual in zip(function.input, call.input, strict=False)
                if actual in held
            }
            bad += [f"{call.name}: {line}" for line in _graph(function.node, inside, largest_input)]
    return bad


def _graph(nodes: Iterable[onnx.NodeProto], held: dict[str, onnx.TensorProto], largest_input: int) -> list[str]:
    nodes = list(nodes)
    constants = dict(held)
    constants.update({n.output[0]: n.attribute[0].t for n in nodes if n.op_type == "Constant"})
    bad = []
    for n in nodes:
        if n.op_type not in WEIGHT_AT:
            continue
        weight, x = constants.get(n.input[WEIGHT_AT[n.op_type]]), constants.get(n.input[INPUT_AT[n.op_type]])
        if x is not None and x.data_type == onnx.TensorProto.INT8:
            bad.append(f"{n.op_type} '{n.name}' has signed inputs")
        if weight is None or weight.data_type != onnx.TensorProto.INT8:
            continue
        size = int(np.abs(numpy_helper.to_array(weight).astype(np.int64)).max(initial=0))
        if 2 * largest_input * size > 32767:
            bad.append(f"{n.op_type} '{n.name}': int8 weights up to {size} with inputs up to {largest_input}")
    return bad
