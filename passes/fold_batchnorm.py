"""Batch normalisation behind a product with constant weights becomes part of the weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.graph import (
    Array,
    Names,
    add_initializer,
    constant,
    decided,
    float_attr,
    input_at,
    int_attr,
    new_node,
    only_consumer,
    rank,
    remove_unused_initializers,
    standard,
    take_over,
)
from mcompiler.ir import Fate, GraphProgram
from mcompiler.target import Target

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FoldBatchNorm:
    """Fold BatchNormalization into the Conv, Gemm, MatMul or MatMul and Add before it.

    Folded where that node has constant weights and no other reader; anything else stays digital. The arithmetic is
    float64, the result is rounded once to the type of the weights.
    """

    name: ClassVar[str] = "fold_batchnorm"

    def run(self, program: GraphProgram, target: Target) -> GraphProgram:
        """Return the program with fewer BatchNormalization nodes."""
        model = program.model.clone()
        names = Names(model)
        fates = []
        for node in list(model.graph):
            if not standard(node, "BatchNormalization"):
                continue
            into = _fold(model, node, names)
            if into is not None:
                fates.append((node.name or "", Fate.ANALOG, f"folded into {into}"))
        remove_unused_initializers(model.graph)
        return decided(program, model, fates)


def _fold(model: ir.Model, node: ir.Node, names: Names) -> str | None:
    """Fold one normalisation; returns the name of the node that took it up, or None."""
    linear = _linear(node, model.opset_imports.get("", 1))
    source = node.inputs[0]
    if linear is None or source is None or only_consumer(source) is not node:
        return None
    before = source.producer()
    if before is None or before.graph is not node.graph:
        return None
    factor, shift = linear
    rules: dict[str, Callable[[ir.Model, ir.Node, ir.Node, Vector, Vector, Names], str | None]] = {
        "Conv": _into_conv,
        "Gemm": _into_gemm,
        "MatMul": _into_matmul,
        "Add": _into_add,
    }
    rule = rules.get(before.op_type) if before.domain == "" else None
    return None if rule is None else rule(model, before, node, factor, shift, names)


def _linear(node: ir.Node, opset: int) -> tuple[Vector, Vector] | None:
    """Y = factor * x + shift of a normalisation in inference, per channel, float64; None where it is not constant."""
    arrays = [constant(input_at(node, index)) for index in range(1, 5)]
    if any(array is None or array.ndim != 1 for array in arrays):
        return None
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return None
    if opset < 9 and int_attr(node, "spatial", 1) == 0:
        return None
    scale, bias, mean, variance = (array.astype(np.float64) for array in arrays if array is not None)
    with np.errstate(all="ignore"):
        factor: Vector = scale / np.sqrt(variance + float_attr(node, "epsilon", 1e-5))
        shift: Vector = bias - mean * factor
    return (factor, shift) if np.isfinite(factor).all() and np.isfinite(shift).all() else None


def _folded(weights: Array, factor: Vector, total: Vector) -> tuple[Array, Array] | None:
    """Weights * factor, and the bias, in the type of the weights; None where that type cannot hold them.

    The product is rounded once, from float64; no float64 copy of the weights is made.
    """
    if weights.dtype.kind != "f":
        return None
    out = np.empty(weights.shape, weights.dtype)
    with np.errstate(all="ignore"):
        np.multiply(weights, factor, out=out, dtype=np.float64, casting="unsafe")
        bias = total.astype(weights.dtype)
    narrow = weights.dtype == np.float16
    if not np.isfinite(bias).all() or (narrow and not np.isfinite(out).all()):
        return None
    return out, bias


def _bypass(model: ir.Model, product: ir.Node, norm: ir.Node) -> None:
    """The product's output takes the place of the normalisation's."""
    take_over(model.graph, norm.outputs[0], product.outputs[0])
    model.graph.remove(norm, safe=True)


def _put(model: ir.Model, node: ir.Node, index: int, array: Array, names: Names, what: str) -> None:
    """Make a new constant input number ``index`` of a node (another reader keeps the old one)."""
    value = add_initializer(model.graph, names.fresh(f"{node.name}/{what}"), array)
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    node.replace_input_with(index, value)


def _into_conv(
    model: ir.Model, conv: ir.Node, norm: ir.Node, factor: Vector, shift: Vector, names: Names
) -> str | None:
    weights = constant(input_at(conv, 1))  # [O, C / groups, *kernel]
    bias = constant(input_at(conv, 2))
    if weights is None or (bias is None and input_at(conv, 2) is not None) or weights.shape[0] != factor.size:
        return None
    total = shift if bias is None else bias.astype(np.float64) * factor + shift
    folded = _folded(weights, factor.reshape(-1, *[1] * (weights.ndim - 1)), total)
    if folded is None:
        return None
    _put(model, conv, 1, folded[0], names, "folded_weight")
    _put(model, conv, 2, folded[1], names, "folded_bias")
    _bypass(model, conv, norm)
    return conv.name


def _into_gemm(
    model: ir.Model, gemm: ir.Node, norm: ir.Node, factor: Vector, shift: Vector, names: Names
) -> str | None:
    weights = constant(input_at(gemm, 1))
    addend = constant(input_at(gemm, 2))
    if weights is None or (addend is None and input_at(gemm, 2) is not None):
        return None
    transposed = int_attr(gemm, "transB", 0) != 0
    if weights.shape[0 if transposed else 1] != factor.size:
        return None
    total = shift
    if addend is not None:
        if addend.size not in (1, factor.size) or (addend.ndim and addend.shape[-1] != addend.size):
            return None  # differs by row
        total = float_attr(gemm, "beta", 1.0) * addend.astype(np.float64).reshape(-1) * factor + shift
    folded = _folded(weights, factor[:, None] if transposed else factor, total)
    if folded is None:
        return None
    _put(model, gemm, 1, folded[0], names, "folded_weight")
    _put(model, gemm, 2, folded[1], names, "folded_bias")
    gemm.attributes["beta"] = ir.AttrFloat32("beta", 1.0)
    _bypass(model, gemm, norm)
    return gemm.name


def _columns(product: ir.Node, count: int) -> Array | None:
    """Constant weights [K, N] of a MatMul whose result is [rows, N]: there channels are columns."""
    weights = constant(input_at(product, 1))
    if weights is None or weights.ndim != 2 or weights.shape[1] != count or rank(product.inputs[0]) != 2:
        return None
    return weights


def _into_matmul(
    model: ir.Model, product: ir.Node, norm: ir.Node, factor: Vector, shift: Vector, names: Names
) -> str | None:
    weights = _columns(product, factor.size)
    folded = None if weights is None else _folded(weights, factor, shift)
    if folded is None:
        return None
    _put(model, product, 1, folded[0], names, "folded_weight")
    offset = add_initializer(model.graph, names.fresh(f"{norm.name}/shift"), folded[1])
    # The addition keeps the normalisation's name; lowering makes it the bias.
    added = new_node("Add", [product.outputs[0], offset], norm.name or "", names.fresh(f"{norm.name}/sum"))
    model.graph.insert_after(norm, added)
    take_over(model.graph, norm.outputs[0], added.outputs[0])
    model.graph.remove(norm, safe=True)
    return product.name


def _into_add(model: ir.Model, add: ir.Node, norm: ir.Node, factor: Vector, shift: Vector, names: Names) -> str | None:
    """MatMul, Add of a constant row, normalisation."""
    for index in (0, 1):
        source, addend = add.inputs[index], constant(add.inputs[1 - index])
        product = source.producer() if source is not None else None
        if product is None or addend is None or not standard(product, "MatMul") or product.graph is not add.graph:
            continue
        weights = _columns(product, factor.size)
        row = (
            addend.size in (1, factor.size)
            and addend.ndim <= 2
            and (addend.ndim == 0 or addend.shape[-1] == addend.size)
        )
        if source is None or weights is None or not row or only_consumer(source) is not add:
            continue
        folded = _folded(weights, factor, addend.astype(np.float64).reshape(-1) * factor + shift)
        if folded is None:
            return None
        _put(model, product, 1, folded[0], names, "folded_weight")
        _put(model, add, 1 - index, folded[1], names, "folded_bias")
        _bypass(model, add, norm)
        return product.name
    return None
