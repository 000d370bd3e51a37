"""MatMul with a constant on either side."""

from __future__ import annotations

import onnx_ir as ir

from mcompiler.graph import rank
from mcompiler.ir import MatMulShape, Reason, ReasonKind
from mcompiler.passes.lower.match import LayoutStep, Match
from mcompiler.passes.lower.product import EMPTY, as_groups, transposed
from mcompiler.passes.lower.registry import LoweringRule
from mcompiler.passes.lower.weights import Constant, trace


def match_matmul(node: ir.Node) -> Match | Reason:
    """A MatMul with a constant on one side as matrix, or the reason why it stays digital."""
    left, right = trace(node.inputs[0]), trace(node.inputs[1])
    x, constant = (node.inputs[0], right) if right is not None else (node.inputs[1], left)
    if constant is None or x is None:
        return Reason(ReasonKind.TWO_ACTIVATIONS)
    if 0 in constant.shape:
        return EMPTY
    dims = rank(x)
    if dims is None:
        return Reason(ReasonKind.PRODUCT_UNKNOWN_RANK)
    if dims == 0 or not constant.shape:
        return Reason(ReasonKind.PRODUCT_OF_SCALAR)
    return _right(node, x, dims, constant) if right is not None else _left(node, x, dims, constant)


def _batched(constant: Constant, dims: int) -> tuple[Constant, MatMulShape]:
    """[*batch, K, N] as groups; a batch of ones that adds no dimension to the result is no batch."""
    batch = constant.shape[:-2]
    if all(size == 1 for size in batch) and len(batch) + 2 <= dims:
        batch = ()
    return as_groups(constant), MatMulShape(batch=batch)


def _right(node: ir.Node, x: ir.Value, dims: int, constant: Constant) -> Match:
    """X @ W."""
    before: tuple[LayoutStep, ...] = ()
    squeezed: list[int] = []
    if len(constant.shape) == 1:
        constant = constant.moved(lambda array: array[:, None])
        squeezed.append(-1)
    if dims == 1:
        before = (LayoutStep("Unsqueeze", constants=((0,),)),)
        squeezed.insert(0, -2)
        dims = 2
    weights, shape = _batched(constant, dims)
    after = (LayoutStep("Squeeze", constants=(tuple(squeezed),)),) if squeezed else ()
    return Match(node, shape, weights, x, before=before, after=after)


def _left(node: ir.Node, x: ir.Value, dims: int, constant: Constant) -> Match:
    """A @ x = (x^T @ A^T)^T over the last two dimensions."""
    row = len(constant.shape) == 1
    swapped = constant.moved(lambda array: array[:, None]) if row else transposed(constant)  # [*batch, K, M]
    if dims == 1:
        weights, shape = _batched(swapped, 2)
        squeezed = (-2, -1) if row else (-2,)
        steps = (LayoutStep("Squeeze", constants=(squeezed,)),)
        return Match(node, shape, weights, x, before=(LayoutStep("Unsqueeze", constants=((0,),)),), after=steps)
    weights, shape = _batched(swapped, dims)
    out = max(dims, len(shape.batch) + 2)
    end = LayoutStep("Squeeze", constants=((-1,),)) if row else _swap(out)
    return Match(node, shape, weights, x, before=(_swap(dims),), after=(end,))


def _swap(dims: int) -> LayoutStep:
    return LayoutStep("Transpose", {"perm": (*range(dims - 2), dims - 1, dims - 2)})


RULE = LoweringRule((("", "MatMul"),), match_matmul)
