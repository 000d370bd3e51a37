"""Gemm, and MatMul with a constant on either side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.graph import float_attr, input_at, int_attr, only_consumer, rank, standard
from mcompiler.ir import ConvShape, MatMulShape
from mcompiler.passes.lower.match import Match, Step
from mcompiler.passes.lower.weights import Constant, trace

_TURN = Step("Transpose", {"perm": (1, 0)})
_EMPTY = "matrix product without rows or columns"


def _turned(constant: Constant) -> Constant:
    """The last two dimensions swapped."""
    return constant.moved(lambda array: array.swapaxes(-1, -2))


def _matrix(constant: Constant) -> Constant:
    """[*batch, K, N] -> [G, K, N]."""
    return constant.moved(lambda array: array.reshape(-1, *array.shape[-2:]))


def match_gemm(node: ir.Node) -> Match | str:
    """A Gemm with one constant factor as matrix, or the reason why it stays digital."""
    a, b = node.inputs[0], input_at(node, 1)
    left, right = trace(a), trace(b)
    turn_a, turn_b = bool(int_attr(node, "transA", 0)), bool(int_attr(node, "transB", 0))
    if right is not None and a is not None:
        # x @ W with x = A'
        match = Match(node, MatMulShape(), _matrix(_turned(right) if turn_b else right), a)
        match = replace(match, before=(_TURN,) if turn_a else ())
        column = -1
    elif left is not None and b is not None:
        # (A' B')^T = B'^T @ A'^T
        match = Match(node, MatMulShape(), _matrix(left if turn_a else _turned(left)), b)
        match = replace(match, before=() if turn_b else (_TURN,), after=(_TURN,))
        column = -2
    else:
        return "product of two activations"
    if 0 in match.weights.shape:
        return _EMPTY
    match = replace(match, factor=float_attr(node, "alpha", 1.0))
    return _with_addend(match, input_at(node, 2), float_attr(node, "beta", 1.0), column)


def _with_addend(match: Match, addend: ir.Value | None, beta: float, column: int) -> Match:
    """Beta * C: the bias where it is constant and differs by matrix column only, a node of its own else."""
    if addend is None or beta == 0:
        return match
    found = trace(addend)
    if found is not None:
        bias = _by_column(found.real("float64"), match.weights.shape[2], column)
        if bias is not None:
            return replace(match, bias=beta * bias[None], bias_nodes=found.nodes)
    after = (*match.after, Step("Add", value=addend, attributes={"beta": beta}))
    return replace(match, after=after)


def _by_column(values: npt.NDArray[Any], columns: int, column: int) -> npt.NDArray[Any] | None:
    """One value per matrix column, where an addend depends on dimension ``column`` of the result only."""
    shape = (1,) * (2 - values.ndim) + values.shape
    other = -1 if column == -2 else -2
    if values.ndim > 2 or shape[other] != 1 or shape[column] not in (1, columns):
        return None
    return np.broadcast_to(values.reshape(-1), (columns,))


def match_matmul(node: ir.Node) -> Match | str:
    """A MatMul with a constant on one side as matrix, or the reason why it stays digital."""
    left, right = trace(node.inputs[0]), trace(node.inputs[1])
    x, constant = (node.inputs[0], right) if right is not None else (node.inputs[1], left)
    if constant is None or x is None:
        return "product of two activations"
    if 0 in constant.shape:
        return _EMPTY
    dims = rank(x)
    if dims is None:
        return "matrix product whose input has an unknown number of dimensions"
    if dims == 0 or not constant.shape:
        return "matrix product of a scalar"
    return _right(node, x, dims, constant) if right is not None else _left(node, x, dims, constant)


def _batched(constant: Constant, dims: int) -> tuple[Constant, MatMulShape]:
    """[*batch, K, N] as groups; a batch of ones that adds no dimension to the result is no batch."""
    batch = constant.shape[:-2]
    if all(size == 1 for size in batch) and len(batch) + 2 <= dims:
        batch = ()
    return _matrix(constant), MatMulShape(batch=batch)


def _right(node: ir.Node, x: ir.Value, dims: int, constant: Constant) -> Match:
    """X @ W."""
    before: tuple[Step, ...] = ()
    squeezed: list[int] = []
    if len(constant.shape) == 1:
        constant = constant.moved(lambda array: array[:, None])
        squeezed.append(-1)
    if dims == 1:
        before = (Step("Unsqueeze", constants=((0,),)),)
        squeezed.insert(0, -2)
        dims = 2
    weights, shape = _batched(constant, dims)
    after = (Step("Squeeze", constants=(tuple(squeezed),)),) if squeezed else ()
    return Match(node, shape, weights, x, before=before, after=after)


def _left(node: ir.Node, x: ir.Value, dims: int, constant: Constant) -> Match:
    """A @ x = (x^T @ A^T)^T over the last two dimensions."""
    row = len(constant.shape) == 1
    turned = constant.moved(lambda array: array[:, None]) if row else _turned(constant)  # [*batch, K, M]
    if dims == 1:
        weights, shape = _batched(turned, 2)
        squeezed = (-2, -1) if row else (-2,)
        steps = (Step("Squeeze", constants=(squeezed,)),)
        return Match(node, shape, weights, x, before=(Step("Unsqueeze", constants=((0,),)),), after=steps)
    weights, shape = _batched(turned, dims)
    out = max(dims, len(shape.batch) + 2)
    end = Step("Squeeze", constants=((-1,),)) if row else _swap(out)
    return Match(node, shape, weights, x, before=(_swap(dims),), after=(end,))


def _swap(dims: int) -> Step:
    return Step("Transpose", {"perm": (*range(dims - 2), dims - 1, dims - 2)})


def absorb_bias(match: Match) -> Match:
    """Take a constant added behind a product without bias as its bias, where it differs by output channel only."""
    output = match.node.outputs[0]
    add = only_consumer(output)
    dims = rank(output)
    if match.bias is not None or match.after or add is None or not standard(add, "Add") or dims is None:
        return match
    if add.graph is not match.node.graph:
        return match
    other = add.inputs[1] if add.inputs[0] is output else add.inputs[0]
    found = trace(other) if other is not output else None
    if found is None or len(found.shape) > dims:
        return match
    values = found.real("float64")
    axis = 1 if isinstance(match.shape, ConvShape) else dims - 1
    shape = (1,) * (dims - values.ndim) + values.shape
    groups, _, columns = match.weights.shape
    count = groups * columns if isinstance(match.shape, ConvShape) else columns
    if shape[axis] not in (1, count) or any(size != 1 for i, size in enumerate(shape) if i != axis):
        return match
    row = np.broadcast_to(values.reshape(-1), (count,))
    bias = row.reshape(groups, columns) if count == groups * columns else np.broadcast_to(row, (groups, columns))
    return replace(match, bias=bias, bias_nodes=found.nodes, absorbed=add)
