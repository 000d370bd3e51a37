"""Why operators without a lowering rule stay digital."""

from __future__ import annotations

import onnx_ir as ir

from mcompiler.graph import has_subgraph
from mcompiler.ir import Reason, ReasonKind
from mcompiler.passes.lower.registry import OperatorId, operator_id

_KINDS: dict[OperatorId, ReasonKind] = {
    ("", "LSTM"): ReasonKind.RECURRENT,
    ("", "GRU"): ReasonKind.RECURRENT,
    ("", "RNN"): ReasonKind.RECURRENT,
    ("", "ConvTranspose"): ReasonKind.TRANSPOSED_CONVOLUTION,
    ("", "DeformConv"): ReasonKind.DEFORMABLE_CONVOLUTION,
    ("", "QLinearConv"): ReasonKind.INTEGER_OPERATOR,
    ("", "QLinearMatMul"): ReasonKind.INTEGER_OPERATOR,
    ("", "ConvInteger"): ReasonKind.INTEGER_OPERATOR,
    ("", "MatMulInteger"): ReasonKind.INTEGER_OPERATOR,
    ("", "Attention"): ReasonKind.ATTENTION,
    ("", "Einsum"): ReasonKind.EINSUM,
    ("", "QuantizeLinear"): ReasonKind.QUANTISATION,
    ("", "DequantizeLinear"): ReasonKind.QUANTISATION,
    ("", "DynamicQuantizeLinear"): ReasonKind.QUANTISATION,
    ("com.microsoft", "QGemm"): ReasonKind.INTEGER_OPERATOR,
    ("com.microsoft", "QAttention"): ReasonKind.INTEGER_OPERATOR,
    ("com.microsoft", "DynamicQuantizeMatMul"): ReasonKind.INTEGER_OPERATOR,
    ("com.microsoft", "MatMulIntegerToFloat"): ReasonKind.INTEGER_OPERATOR,
    ("com.microsoft", "FusedMatMul"): ReasonKind.FUSED_OPERATOR,
    ("com.microsoft", "FusedConv"): ReasonKind.FUSED_ACTIVATION,
    ("com.microsoft", "FusedGemm"): ReasonKind.FUSED_ACTIVATION,
    ("com.microsoft", "MatMulNBits"): ReasonKind.BLOCK_QUANTISED,
    ("com.microsoft", "Attention"): ReasonKind.FUSED_ATTENTION,
    ("com.microsoft", "MultiHeadAttention"): ReasonKind.ATTENTION,
    ("com.microsoft", "QuantizeLinear"): ReasonKind.QUANTISATION,
    ("com.microsoft", "DequantizeLinear"): ReasonKind.QUANTISATION,
}
_DOMAINS = frozenset(["", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "com.microsoft.experimental"])


def digital_reason(node: ir.Node) -> Reason:
    """Why a node that no rule turns into a crossbar stays digital."""
    domain, op = operator_id(node)
    kind = _KINDS.get((domain, op))
    if kind is None and domain not in _DOMAINS:
        kind = ReasonKind.FUNCTION_KEPT
    if kind is None and has_subgraph(node):
        kind = ReasonKind.CONTROL_FLOW
    return Reason(kind or ReasonKind.NO_MATRIX_PRODUCT)
