"""Gemm with a constant on either side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.graph import float_attr, input_at, int_attr
from mcompiler.ir import MatMulShape, Reason, ReasonKind
from mcompiler.passes.lower.match import LayoutStep, Match
from mcompiler.passes.lower.product import EMPTY, SWAP, as_groups, transposed
from mcompiler.passes.lower.registry import LoweringRule
from mcompiler.passes.lower.weights import trace


def match_gemm(node: ir.Node) -> Match | Reason:
    """A Gemm with one constant factor as matrix, or the reason why it stays digital."""
    a, b = node.inputs[0], input_at(node, 1)
    left, right = trace(a), trace(b)
    swap_a, swap_b = bool(int_attr(node, "transA", 0)), bool(int_attr(node, "transB", 0))
    if right is not None and a is not None:
        # x @ W with x = A'
        match = Match(node, MatMulShape(), as_groups(transposed(right) if swap_b else right), a)
        match = replace(match, before=(SWAP,) if swap_a else ())
        column = -1
    elif left is not None and b is not None:
        # (A' B')^T = B'^T @ A'^T
        match = Match(node, MatMulShape(), as_groups(left if swap_a else transposed(left)), b)
        match = replace(match, before=() if swap_b else (SWAP,), after=(SWAP,))
        column = -2
    else:
        return Reason(ReasonKind.TWO_ACTIVATIONS)
    if 0 in match.weights.shape:
        return EMPTY
    match = replace(match, factor=float_attr(node, "alpha", 1.0))
    return _with_addend(match, input_at(node, 2), float_attr(node, "beta", 1.0), column)


def _with_addend(match: Match, addend: ir.Value | None, beta: float, column: int) -> Match:
    """Beta * C: the bias where it is constant and differs by matrix column only, else a node after the product."""
    if addend is None or beta == 0:
        return match
    found = trace(addend)
    if found is not None:
        bias = _by_column(found.real("float64"), match.weights.shape[2], column)
        if bias is not None:
            return replace(match, bias=beta * bias[None], bias_nodes=found.nodes)
    after = (*match.after, LayoutStep("Add", value=addend, factor=beta))
    return replace(match, after=after)


def _by_column(values: npt.NDArray[Any], columns: int, column: int) -> npt.NDArray[Any] | None:
    """One value per matrix column, where an addend depends on dimension ``column`` of the result only."""
    shape = (1,) * (2 - values.ndim) + values.shape
    other = -1 if column == -2 else -2
    if values.ndim > 2 or shape[other] != 1 or shape[column] not in (1, columns):
        return None
    return np.broadcast_to(values.reshape(-1), (columns,))


RULE = LoweringRule((("", "Gemm"),), match_gemm)
