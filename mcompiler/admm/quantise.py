"""Quantisation of weights inside training, to the levels that cells can hold.

A weight is an integer code times the scale of its bit line. It is rounded in the forward pass, and gradients pass
straight through (Bengio et al. 2013).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import nn

from mcompiler.admm.lowering import as_matrix, as_weight
from mcompiler.admm.projections import find_nearest_levels
from mcompiler.admm.scales import find_best_scales
from mcompiler.errors import CompileError
from mcompiler.geometry import array_shape
from mcompiler.target import Partner, Target

EMPTY_LINE_SCALE = 2.0**-10
"""Scale of a bit line whose kept weights are all zero, relative to the layer's largest scale."""


class LevelSet(StrEnum):
    """Which codes a weight may take.

    ``grid``: the target's equidistant levels, including zero. ``measured``: the measured means of the device's levels
    (device.level_means), including zero. ``without_zero``: the origin paper's set, which needs an unformed partner cell
    (encoding.partner = "unformed"); pruned weights are not mapped. ``none``: weights stay float.
    """

    GRID = "grid"
    MEASURED = "measured"
    WITHOUT_ZERO = "without_zero"
    NONE = "none"


@dataclass(frozen=True)
class Levels:
    """The codes that a weight may take.

    Attributes:
        codes: ascending integers.
        uniform: whether the codes are -top..top, so that rounding finds the nearest.
    """

    codes: tuple[int, ...]
    uniform: bool

    @property
    def top(self) -> int:
        """The largest magnitude."""
        return max(abs(self.codes[0]), abs(self.codes[-1]))

    def nearest(self, matrix: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Codes [G, K, N] (as floats) whose values code * scale [G, N] are nearest to the weights.

        A weight that is exactly 0 is a pruned one: it has code 0 even where the level set has no zero.
        """
        if self.uniform:
            return (matrix / scale[:, None]).round_().clamp_(self.codes[0], self.codes[-1])
        values = torch.tensor(self.codes, dtype=matrix.dtype, device=matrix.device)
        codes = values[find_nearest_levels(matrix, values, scale)]
        return codes if 0 in self.codes else torch.where(matrix == 0, torch.zeros_like(codes), codes)


def get_weight_levels(target: Target, kind: LevelSet, layer: str = "") -> Levels | None:
    """The codes that a weight of a layer (by default: of any) may take on a target; None where weights stay float.

    Raises:
        CompileError: the target does not have this level set.
    """
    kind = LevelSet(kind)
    if kind is LevelSet.NONE:
        return None
    unformed = target.encoding.partner is Partner.UNFORMED
    if kind is LevelSet.GRID:
        return _grid_levels(target, layer)
    if not target.has_level_table or (kind is LevelSet.WITHOUT_ZERO and not unformed):
        needed = "encoding.partner = 'unformed'" if kind is LevelSet.WITHOUT_ZERO else "device.level_means"
        other = "measured" if target.has_level_table else "grid"
        raise CompileError(
            f"target '{target.name}' has no {needed}, which quantisation.levels = '{kind}' needs; give it, "
            f"or choose '{other}'"
        )
    steps = {step for step in target.cell_steps if step or kind is LevelSet.MEASURED}
    return Levels(tuple(sorted({-step for step in steps} | steps)), False)


def _grid_levels(target: Target, layer: str) -> Levels:
    """Codes -top..top of the target's bits for a layer."""
    if target.has_level_table:
        other = "without_zero" if target.encoding.partner is Partner.UNFORMED else "measured"
        raise CompileError(
            f"target '{target.name}' has no equidistant grid with zero; set quantisation.levels = '{other}'"
        )
    bits, _ = target.layer_bits(layer)
    span = target.weight_encoding.code_range(array_shape(target))
    top = min((1 << (bits - 1)) - 1, span.largest if span.smallest < 0 else (span.largest + 1) // 2 - 1)
    return Levels(tuple(range(-top, top + 1)), True)


def fit_scales(matrix: torch.Tensor, levels: Levels) -> torch.Tensor:
    """One scale per bit line with the least squared error of the nearest codes.

    Args:
        matrix: weights, [G, K, N].
        levels: the codes that they may take.

    Returns:
        [G, N]; 1 for a bit line of zeros.
    """
    return find_best_scales(matrix, levels.codes)


class _StraightThrough(torch.autograd.Function):
    """Forward the quantised values, backward the gradient of the kept weights as if nothing had been quantised."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(mask)
        return values

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        (mask,) = ctx.saved_tensors
        return grads[0] * mask, None, None


class MappedWeight(nn.Module):
    """A parametrisation of ``weight``: pruned entries are zero, the others take levels (where there is a level set).

    Attributes:
        mask: bool, shape of the weight: which entries may be non-zero.
        scale: [G, N], one per bit line.
        sign: -1 and 1 in the weight's shape, the sign of each weight's fragment; None without polarisation.
        preserve_lines: keep one non-zero code in each row and column that the mask keeps.
        noise: from codes to the values of erroneous cells, in training only; None: no errors.
    """

    mask: torch.Tensor
    scale: torch.Tensor
    sign: torch.Tensor | None

    def __init__(
        self,
        mask: torch.Tensor,
        scale: torch.Tensor,
        groups: int,
        levels: Levels | None,
        sign: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.groups, self.levels, self.preserve_lines = groups, levels, False
        self.noise: nn.Module | None = None
        self.register_buffer("mask", mask)
        self.register_buffer("scale", scale)
        self.register_buffer("sign", sign)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Weights as they will be mapped; in training with noise, as a newly drawn chip would hold them."""
        with torch.no_grad():
            values = self.values(weight, self.noise if self.training else None)
        quantised: torch.Tensor = _StraightThrough.apply(weight, values, self.mask)  # type: ignore[no-untyped-call]
        return quantised

    def values(self, weight: torch.Tensor, noise: nn.Module | None = None) -> torch.Tensor:
        """Codes times scale, in the weight's shape; with noise, of the codes that the noise draws."""
        if self.levels is None:
            return self._masked(weight)
        per_filter = self.scale.reshape(-1, *[1] * (weight.ndim - 1))
        codes = self.codes(weight)
        return (codes if noise is None else noise(codes)) * per_filter

    def codes(self, weight: torch.Tensor) -> torch.Tensor:
        """Integer codes (as floats), in the weight's shape; pruned entries 0."""
        assert self.levels is not None
        per_filter = self.scale.reshape(-1, *[1] * (weight.ndim - 1))
        masked = self._masked(weight)
        if self.levels.uniform:
            codes = (masked / per_filter).round_().clamp_(self.levels.codes[0], self.levels.codes[-1])
        else:
            nearest = self.levels.nearest(as_matrix(masked, self.groups), self.scale)
            codes = as_weight(nearest, weight.shape) * self.mask
        return self._restore_empty_lines(codes, masked / per_filter) if self.preserve_lines else codes

    def refit(self, weight: torch.Tensor) -> None:
        """Fit the scales to the present weights."""
        if self.levels is not None:
            matrix = as_matrix(self._masked(weight), self.groups)
            scale, empty = fit_scales(matrix, self.levels), ~(matrix != 0).any(dim=1)
            # With preserve_lines a bit line of zeros gets one non-zero code. A scale far below the layer's largest
            # makes the value of that code negligible, while the code itself keeps the column in its tile.
            largest = torch.where(empty, torch.zeros_like(scale), scale).amax()
            small = torch.where(largest > 0, largest, torch.ones_like(largest)) * EMPTY_LINE_SCALE
            self.scale.copy_(torch.where(empty, small, scale))

    def _restore_empty_lines(self, codes: torch.Tensor, unrounded: torch.Tensor) -> torch.Tensor:
        """In each kept row and column whose codes are all zero, raise the largest weight to the smallest level.

        Args:
            codes: rounded, in the weight's shape.
            unrounded: weights in units of their scale, in the weight's shape.
        """
        # The compiler removes empty rows and columns before it cuts tiles and fragments. Blocks, signs of fragments and
        # column counts were chosen for one cut; a row that rounding empties would shift all rows after it.
        assert self.levels is not None
        step = min(abs(code) for code in self.levels.codes if code)
        matrix, real = as_matrix(codes, self.groups).clone(), as_matrix(unrounded, self.groups)
        mask = as_matrix(self.mask, self.groups)
        # The small number makes any entry that the mask keeps win against one that it does not, weights of zero too.
        preference = torch.where(mask, real.abs() + 1e-12, torch.zeros_like(real))
        sign = torch.where(real < 0, -1.0, 1.0) if self.sign is None else as_matrix(self.sign, self.groups)
        for axis in (2, 1):
            empty = mask.any(dim=axis, keepdim=True) & ~(matrix != 0).any(dim=axis, keepdim=True)
            if not empty.any():
                continue
            where = torch.zeros_like(mask).scatter_(axis, preference.argmax(dim=axis, keepdim=True), True)
            matrix = torch.where(where & empty, sign * step, matrix)
        return as_weight(matrix, codes.shape)

    def _masked(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight without pruned entries, and without those of the wrong sign where fragments have one."""
        masked = weight * self.mask
        return masked if self.sign is None else torch.where(masked * self.sign > 0, masked, torch.zeros_like(masked))
