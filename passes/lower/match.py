"""What a node that becomes analog is turned into, and the reasons of those that do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.graph import has_subgraph, standard
from mcompiler.ir import ConvShape, MatMulShape
from mcompiler.passes.lower.weights import Constant


@dataclass(frozen=True)
class Step:
    """A node put before or after the placeholder: x -> op(x, constants).

    Attributes:
        op: ONNX operator.
        attributes: of the node.
        constants: int64 arrays, further inputs.
        value: a further input that is a value of the graph.
    """

    op: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constants: tuple[tuple[int, ...], ...] = ()
    value: ir.Value | None = None


@dataclass(frozen=True)
class Match:
    """A node as x' @ W: the constant, and the nodes around that bring the input into canonical layout.

    Attributes:
        node: the node of the normalised graph.
        shape: how vectors are formed.
        weights: [G, K, N].
        tensor: the activation.
        factor: multiplies the weights (Gemm's alpha).
        bias: [G, N] or None.
        before, after: steps around the placeholder.
        bias_nodes: names of the nodes that prepared the bias.
        absorbed: an Add behind the node that became its bias.
    """

    node: ir.Node
    shape: ConvShape | MatMulShape
    weights: Constant
    tensor: ir.Value
    factor: float = 1.0
    bias: npt.NDArray[np.floating[Any]] | None = None
    before: tuple[Step, ...] = ()
    after: tuple[Step, ...] = ()
    bias_nodes: tuple[str, ...] = ()
    absorbed: ir.Node | None = None


_ANALOG_LATER = {
    "LSTM": "recurrent operator, stays digital for now",
    "GRU": "recurrent operator, stays digital for now",
    "RNN": "recurrent operator, stays digital for now",
    "ConvTranspose": "transposed convolution, stays digital for now",
    "DeformConv": "deformable convolution: its windows depend on the data",
    "QLinearConv": "integer operator (QOp form), stays digital for now; the QDQ form is mapped",
    "QLinearMatMul": "integer operator (QOp form), stays digital for now; the QDQ form is mapped",
    "ConvInteger": "integer operator (QOp form), stays digital for now; the QDQ form is mapped",
    "MatMulInteger": "integer operator (QOp form), stays digital for now; the QDQ form is mapped",
    "Attention": "attention: product of two activations",
    "Einsum": "Einsum, stays digital for now",
}
_MICROSOFT_LATER = {
    "QGemm": _ANALOG_LATER["QLinearMatMul"],
    "QAttention": _ANALOG_LATER["QLinearMatMul"],
    "DynamicQuantizeMatMul": _ANALOG_LATER["QLinearMatMul"],
    "MatMulIntegerToFloat": _ANALOG_LATER["QLinearMatMul"],
    "FusedMatMul": "fused operator of onnxruntime, stays digital for now; export the model unoptimised",
    "FusedConv": "fused operator of onnxruntime with an unknown activation, stays digital",
    "FusedGemm": "fused operator of onnxruntime with an unknown activation, stays digital",
    "MatMulNBits": "block-quantised operator of onnxruntime, stays digital for now",
    "Attention": "fused attention of onnxruntime, stays digital for now; export the model unoptimised",
    "MultiHeadAttention": "attention: product of two activations",
}


_DOMAINS = frozenset(
    ["", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "com.microsoft.experimental"]
)


def digital_reason(node: ir.Node) -> str:
    """Why a node that no rule turns into a crossbar stays digital."""
    if node.domain == "com.microsoft" and node.op_type in _MICROSOFT_LATER:
        return _MICROSOFT_LATER[node.op_type]
    if standard(node, *_ANALOG_LATER):
        return _ANALOG_LATER[node.op_type]
    if node.domain not in _DOMAINS:
        return "function that cannot be inlined (it uses other operator sets than the model), stays digital"
    if has_subgraph(node):
        return "control flow: its branches stay digital"
    if node.op_type in ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"):
        return "quantisation, no matrix product"
    return "no matrix product"
