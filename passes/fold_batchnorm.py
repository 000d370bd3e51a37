"""Fold batch normalisation after a product with constant weights into the weights."""

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
    float_attr,
    input_at,
    int_attr,
    new_node,
    only_consumer,
    rank,
    remove_unused_initializers,
    replace_value,
    standard,
)
from mcompiler.ir import Fate, GraphProgram, Reason, ReasonKind
from mcompiler.provenance import Decision, merge_origins, reference, roots, set_roots, with_fates
from mcompiler.target import Target

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FoldBatchNorm:
    """Fold BatchNormalization into the Conv, Gemm, MatMul or MatMul and Add before it.

    Folded where that node has constant weights and no other reader; anything else stays digital. The arithmetic is
    float64, the result is rounded once to the type of the weights.
    """

    name: ClassVar[str] = "fold_batchnorm"
    reads: ClassVar[tuple[str, ...]] = ()

    def run(self, program: GraphProgram, target: Target) -> GraphProgram:
        """Return the program with fewer BatchNormalization nodes."""
        model = program.model.clone()
        names = Names(model)
        fates: list[Decision] = []
        for node in list(model.graph):
            if not standard(node, "BatchNormalization"):
                continue
            into = _fold(model, node, names)
            if into is not None:
                fates.append((node, Fate.ANALOG, Reason(ReasonKind.FOLDED, into=reference(into))))
        remove_unused_initializers(model.graph)
        return with_fates(program, model, fates)


@dataclass(frozen=True)
class _Normalisation:
    """A BatchNormalization in inference, y = factor * x + shift per channel, in the model where it is folded."""

    model: ir.Model
    node: ir.Node
    factor: Vector
    shift: Vector
    names: Names


_Rule = Callable[[_Normalisation, ir.Node], ir.Node | None]
"""Folds a normalisation into the node before it; returns the product that took it up, or None."""


def _fold(model: ir.Model, node: ir.Node, names: Names) -> ir.Node | None:
    """Fold one normalisation; returns the node that took it up, or None."""
    linear = _linear(node, model.opset_imports.get("", 1))
    source = node.inputs[0]
    if linear is None or source is None or only_consumer(source) is not node:
        return None
    before = source.producer()
    if before is None or before.graph is not node.graph:
        return None
    rules: dict[str, _Rule] = {
        "Conv": _into_conv,
        "Gemm": _into_gemm,
        "MatMul": _into_matmul,
        "Add": _into_add,
    }
    rule = rules.get(before.op_type) if before.domain == "" else None
    if rule is None:
        return None
    into = rule(_Normalisation(model, node, *linear, names), before)
    if into is not None:
        merge_origins(into, node)
    return into


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


def _bypass(norm: _Normalisation, product: ir.Node) -> None:
    """The product's output takes the place of the normalisation's."""
    replace_value(norm.node.outputs[0], product.outputs[0])
    norm.model.graph.remove(norm.node, safe=True)


def _put(norm: _Normalisation, node: ir.Node, index: int, array: Array, suffix: str) -> None:
    """Make a new constant input number ``index`` of a node (another reader keeps the old one)."""
    value = add_initializer(norm.model.graph, norm.names.fresh(f"{node.name}/{suffix}"), array)
    set_roots(value, roots(input_at(node, index), *norm.node.inputs[1:5]))
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    node.replace_input_with(index, value)


def _into_conv(norm: _Normalisation, conv: ir.Node) -> ir.Node | None:
    weights = constant(input_at(conv, 1))  # [O, C / groups, *kernel]
    bias = constant(input_at(conv, 2))
    factor = norm.factor
    if weights is None or (bias is None and input_at(conv, 2) is not None) or weights.shape[0] != factor.size:
        return None
    total = norm.shift if bias is None else bias.astype(np.float64) * factor + norm.shift
    folded = _folded(weights, factor.reshape(-1, *[1] * (weights.ndim - 1)), total)
    if folded is None:
        return None
    _put(norm, conv, 1, folded[0], "folded_weight")
    _put(norm, conv, 2, folded[1], "folded_bias")
    _bypass(norm, conv)
    return conv


def _into_gemm(norm: _Normalisation, gemm: ir.Node) -> ir.Node | None:
    weights = constant(input_at(gemm, 1))
    addend = constant(input_at(gemm, 2))
    factor = norm.factor
    if weights is None or (addend is None and input_at(gemm, 2) is not None):
        return None
    transposed = int_attr(gemm, "transB", 0) != 0
    if weights.shape[0 if transposed else 1] != factor.size:
        return None
    total = norm.shift
    if addend is not None:
        if addend.size not in (1, factor.size) or (addend.ndim and addend.shape[-1] != addend.size):
            return None  # differs by row
        total = float_attr(gemm, "beta", 1.0) * addend.astype(np.float64).reshape(-1) * factor + norm.shift
    folded = _folded(weights, factor[:, None] if transposed else factor, total)
    if folded is None:
        return None
    _put(norm, gemm, 1, folded[0], "folded_weight")
    _put(norm, gemm, 2, folded[1], "folded_bias")
    gemm.attributes["beta"] = ir.AttrFloat32("beta", 1.0)
    _bypass(norm, gemm)
    return gemm


def _columns(product: ir.Node, count: int) -> Array | None:
    """Constant weights [K, N] of a MatMul whose result is [rows, N]: there channels are columns."""
    weights = constant(input_at(product, 1))
    if weights is None or weights.ndim != 2 or weights.shape[1] != count or rank(product.inputs[0]) != 2:
        return None
    return weights


def _into_matmul(norm: _Normalisation, product: ir.Node) -> ir.Node | None:
    weights = _columns(product, norm.factor.size)
    folded = None if weights is None else _folded(weights, norm.factor, norm.shift)
    if folded is None:
        return None
    node, graph, names = norm.node, norm.model.graph, norm.names
    _put(norm, product, 1, folded[0], "folded_weight")
    offset = add_initializer(graph, names.fresh(f"{node.name}/shift"), folded[1])
    # The addition replaces the normalisation; lowering makes it the bias.
    inputs: list[ir.Value | None] = [product.outputs[0], offset]
    added = new_node("Add", inputs, node.name or "", names.fresh(f"{node.name}/sum"), replaces=node)
    graph.insert_after(node, added)
    replace_value(node.outputs[0], added.outputs[0])
    graph.remove(node, safe=True)
    return product


def _into_add(norm: _Normalisation, add: ir.Node) -> ir.Node | None:
    """MatMul, Add of a constant row, normalisation."""
    factor = norm.factor
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
        folded = _folded(weights, factor, addend.astype(np.float64).reshape(-1) * factor + norm.shift)
        if folded is None:
            return None
        _put(norm, product, 1, folded[0], "folded_weight")
        _put(norm, add, 1 - index, folded[1], "folded_bias")
        _bypass(norm, add)
        return product
    return None
