"""The form that a lowering rule gives to a node: a constant matrix, and nodes that arrange its input and output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.ir import ConvShape, MatMulShape
from mcompiler.passes.lower.weights import Constant


@dataclass(frozen=True)
class LayoutStep:
    """A node put before or after the placeholder: x -> op(x, constants).

    Attributes:
        op: ONNX operator.
        attributes: of the node.
        constants: int64 arrays, further inputs.
        value: a further input that is a value of the graph.
        factor: multiplies ``value``.
    """

    op: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constants: tuple[tuple[int, ...], ...] = ()
    value: ir.Value | None = None
    factor: float = 1.0


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
        before, after: steps around the placeholder. What steps other than Transpose return has the matrix rows on the
            same axis, counted from the last, as what they are given.
        bias_nodes: the nodes that prepared the bias.
        absorbed: an Add after the node that became its bias.
    """

    node: ir.Node
    shape: ConvShape | MatMulShape
    weights: Constant
    tensor: ir.Value
    factor: float = 1.0
    bias: npt.NDArray[np.floating[Any]] | None = None
    before: tuple[LayoutStep, ...] = ()
    after: tuple[LayoutStep, ...] = ()
    bias_nodes: tuple[ir.Node, ...] = ()
    absorbed: ir.Node | None = None

    @property
    def order(self) -> tuple[int, ...]:
        """Axes of the activation in the order in which the placeholder reads them; empty: the order of the tensor."""
        order: tuple[int, ...] = ()
        for step in self.before:
            if step.op == "Transpose":
                perm = tuple(step.attributes["perm"])
                order = tuple(order[axis] for axis in perm) if order else perm
        return order

    @property
    def last(self) -> ir.Node:
        """The node whose output the layer computes."""
        return self.node if self.absorbed is None else self.absorbed
