"""Constants as matrices, and products as matches: shared by the rules for matrix products."""

from __future__ import annotations

from mcompiler.ir import Reason, ReasonKind
from mcompiler.passes.lower.match import LayoutStep
from mcompiler.passes.lower.weights import Constant

SWAP = LayoutStep("Transpose", {"perm": (1, 0)})
"""Transposes a matrix."""

EMPTY = Reason(ReasonKind.PRODUCT_EMPTY)


def transposed(constant: Constant) -> Constant:
    """The constant with its last two dimensions swapped."""
    return constant.moved(lambda array: array.swapaxes(-1, -2))


def as_groups(constant: Constant) -> Constant:
    """[*batch, K, N] -> [G, K, N]."""
    return constant.moved(lambda array: array.reshape(-1, *array.shape[-2:]))
