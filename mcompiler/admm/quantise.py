"""Levels of weights and codes of inputs, as they will be mapped, inside training.

Weights take the values that cells can hold: a few integer codes times one scale per bit line. Inputs take unsigned
codes of the DAC's bits. Both round in the forward pass and pass gradients straight through (Bengio et al. 2013).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import nn

from mcompiler.admm.lowering import as_matrix, as_weight
from mcompiler.admm.projections import level_index
from mcompiler.conductance import code_range
from mcompiler.errors import CompileError
from mcompiler.geometry import array_shape
from mcompiler.target import Partner, Target

REFINEMENTS = 6
"""Steps of the alternation that fits a scale: codes for the scale, then the scale for the codes."""


SMALL = 2.0**-10
"""Scale of a bit line of which all kept weights are zero, against the layer's largest."""

SAMPLES = 8192
"""Values of each batch that an input range with the least squared error is taken from."""


class LevelSet(StrEnum):
    """Which codes a weight may take.

    ``grid``: the target's equidistant levels, zero among them. ``measured``: the means that the device's cells really
    have (device.level_means), zero among them. ``without_zero``: the origin paper's set, which needs an unformed
    partner cell (encoding.partner = "unformed"); pruned weights are not mapped. ``none``: weights stay float.
    """

    GRID = "grid"
    MEASURED = "measured"
    WITHOUT_ZERO = "without_zero"
    NONE = "none"


@dataclass(frozen=True)
class Levels:
    """The codes of a weight.

    Attributes:
        codes: ascending integers.
        uniform: they are -top..top, so that rounding finds the nearest.
    """

    codes: tuple[int, ...]
    uniform: bool

    @property
    def top(self) -> int:
        """The largest magnitude."""
        return max(abs(self.codes[0]), abs(self.codes[-1]))

    def nearest(self, matrix: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Codes [G, K, N] (as floats) whose values code * scale [G, N] are nearest to the weights.

        A weight that is exactly 0 is a pruned one: it has code 0 even where that is no level.
        """
        if self.uniform:
            return (matrix / scale[:, None]).round_().clamp_(self.codes[0], self.codes[-1])
        values = torch.tensor(self.codes, dtype=matrix.dtype, device=matrix.device)
        codes = values[level_index(matrix, values, scale)]
        return codes if 0 in self.codes else torch.where(matrix == 0, torch.zeros_like(codes), codes)


def weight_levels(target: Target, kind: LevelSet, layer: str = "") -> Levels | None:
    """The codes that a weight of a layer (by default: of any) may take on a target; None where weights stay float.

    Raises:
        CompileError: the target has no such set.
    """
    kind = LevelSet(kind)
    if kind is LevelSet.NONE:
        return None
    unformed = target.encoding.partner is Partner.UNFORMED
    if kind is LevelSet.GRID:
        return _grid(target, layer)
    if not target.has_level_table or (kind is LevelSet.WITHOUT_ZERO and not unformed):
        needed = "encoding.partner = 'unformed'" if kind is LevelSet.WITHOUT_ZERO else "device.level_means"
        other = "measured" if target.has_level_table else "grid"
        raise CompileError(
            f"target '{target.name}' has no {needed}, which quantisation.levels = '{kind}' needs; give it, "
            f"or take '{other}'"
        )
    steps = {step for step in target.cell_steps if step or kind is LevelSet.MEASURED}
    return Levels(tuple(sorted({-step for step in steps} | steps)), False)


def _grid(target: Target, layer: str) -> Levels:
    """Codes -top..top of the target's bits for a layer."""
    if target.has_level_table:
        other = "without_zero" if target.encoding.partner is Partner.UNFORMED else "measured"
        raise CompileError(
            f"target '{target.name}' has no equidistant grid with zero; set quantisation.levels = '{other}'"
        )
    bits, _ = target.layer_bits(layer)
    span = code_range(array_shape(target), target.encoding.weights)
    top = min((1 << (bits - 1)) - 1, span.largest if span.smallest < 0 else (span.largest + 1) // 2 - 1)
    return Levels(tuple(range(-top, top + 1)), True)


def best_scale(matrix: torch.Tensor, levels: Levels) -> torch.Tensor:
    """One scale per bit line with (locally) the least squared error of the nearest codes: [G, N].

    Alternates between the codes for a scale and the least-squares scale for the codes, from the largest weight's scale
    and from 0.7 of it; the better one stands. A bit line of zeros has scale 1.
    """
    largest = matrix.abs().amax(dim=1)  # [G, N]
    best_error: torch.Tensor | None = None
    best = largest
    for start in (1.0, 0.7):
        scale = torch.where(largest > 0, (largest * (start / levels.top)).clamp_min(1e-30), torch.ones_like(largest))
        for _ in range(REFINEMENTS):
            codes = levels.nearest(matrix, scale)
            energy = (codes * codes).sum(dim=1)
            fitted = (codes * matrix).sum(dim=1) / energy.clamp_min(1e-30)
            scale = torch.where((energy > 0) & (fitted > 0), fitted, scale)
        error = ((levels.nearest(matrix, scale) * scale[:, None] - matrix) ** 2).sum(dim=1)
        if best_error is None:
            best, best_error = scale, error
        else:
            better = error < best_error
            best, best_error = torch.where(better, scale, best), torch.minimum(error, best_error)
    return best


class _StraightThrough(torch.autograd.Function):
    """Quantised values forward, the gradient of the weights that are kept backward."""

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
        mask: bool, shape of the weight; what may be non-zero.
        scale: [G, N], one per bit line.
        noise: from codes to what cells hold instead, in training only; None: nothing errs.
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
        self.groups, self.levels, self.hold_lines = groups, levels, False
        self.noise: nn.Module | None = None
        self.register_buffer("mask", mask)
        self.register_buffer("scale", scale)
        self.register_buffer("sign", sign)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Weights as they will be mapped; in training, as one more chip would hold them."""
        with torch.no_grad():
            values = self.values(weight, self.noise if self.training else None)
        held: torch.Tensor = _StraightThrough.apply(weight, values, self.mask)  # type: ignore[no-untyped-call]
        return held

    def values(self, weight: torch.Tensor, noise: nn.Module | None = None) -> torch.Tensor:
        """Codes times scale, in the weight's shape; with noise, the codes that it draws."""
        if self.levels is None:
            return self._held(weight)
        per_filter = self.scale.reshape(-1, *[1] * (weight.ndim - 1))
        codes = self.codes(weight)
        return (codes if noise is None else noise(codes)) * per_filter

    def codes(self, weight: torch.Tensor) -> torch.Tensor:
        """Integer codes (as floats), in the weight's shape; pruned entries 0."""
        assert self.levels is not None
        per_filter = self.scale.reshape(-1, *[1] * (weight.ndim - 1))
        held = self._held(weight)
        if self.levels.uniform:
            codes = (held / per_filter).round_().clamp_(self.levels.codes[0], self.levels.codes[-1])
        else:
            nearest = self.levels.nearest(as_matrix(held, self.groups), self.scale)
            codes = as_weight(nearest, weight.shape) * self.mask
        return self._lines_held(codes, held / per_filter) if self.hold_lines else codes

    def refit(self, weight: torch.Tensor) -> None:
        """Fit the scales to the weights as they are now; a bit line of zeros gets a small one, should it be held."""
        if self.levels is not None:
            matrix = as_matrix(self._held(weight), self.groups)
            scale, dead = best_scale(matrix, self.levels), ~(matrix != 0).any(dim=1)
            alive = torch.where(dead, torch.zeros_like(scale), scale).amax()
            small = torch.where(alive > 0, alive, torch.ones_like(alive)) * SMALL
            self.scale.copy_(torch.where(dead, small, scale))

    def _lines_held(self, codes: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Give each kept row and column that rounds to nothing its largest weight as the smallest level.

        Blocks, fragments and column counts stand where the compiler cuts what is left: a line that vanished would shift
        them.
        """
        assert self.levels is not None
        step = min(abs(code) for code in self.levels.codes if code)
        matrix, real = as_matrix(codes, self.groups).clone(), as_matrix(wanted, self.groups)
        mask = as_matrix(self.mask, self.groups)
        preference = torch.where(mask, real.abs() + 1e-12, torch.zeros_like(real))
        sign = torch.where(real < 0, -1.0, 1.0) if self.sign is None else as_matrix(self.sign, self.groups)
        for axis in (2, 1):
            empty = mask.any(dim=axis, keepdim=True) & ~(matrix != 0).any(dim=axis, keepdim=True)
            if not empty.any():
                continue
            where = torch.zeros_like(mask).scatter_(axis, preference.argmax(dim=axis, keepdim=True), True)
            matrix = torch.where(where & empty, sign * step, matrix)
        return as_weight(matrix, codes.shape)

    def _held(self, weight: torch.Tensor) -> torch.Tensor:
        held = weight * self.mask
        return held if self.sign is None else torch.where(held * self.sign > 0, held, torch.zeros_like(held))


class InputQuantiser(nn.Module):
    """Inputs as the DAC will see them: scale * (q - zero_point), q unsigned of ``bits`` bits.

    Ranges are observed (``observing``), then frozen by ``freeze``; until then values pass unchanged.
    """

    scale: torch.Tensor
    zero_point: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.observing, self.frozen = False, False
        self.samples: list[torch.Tensor] = []
        for name in ("scale", "low", "high"):
            self.register_buffer(name, torch.ones(()) if name == "scale" else torch.zeros(()))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32))

    @property
    def largest(self) -> int:
        """The largest code."""
        return (1 << self.bits) - 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Fake-quantised values, in float32."""
        if self.observing:
            self._observe(x.detach())
        if not self.frozen:
            return x
        y: torch.Tensor = torch.fake_quantize_per_tensor_affine(x.float(), self.scale, self.zero_point, 0, self.largest)
        return y

    def codes(self, x: torch.Tensor) -> torch.Tensor:
        """Codes without their zero point, as floats, rounded as onnxruntime's QuantizeLinear does."""
        zero = self.zero_point.to(x.dtype)
        return ((x / self.scale).round_() + zero).clamp_(0, self.largest) - zero

    def _observe(self, x: torch.Tensor) -> None:
        if x.numel() == 0:
            return
        flat = x.float().reshape(-1)
        self.low.copy_(torch.minimum(self.low, flat.min()))
        self.high.copy_(torch.maximum(self.high, flat.max()))
        self.samples.append(flat[_spread(flat.numel(), flat.device)])

    def freeze(self, layer: str, method: str = "mse") -> None:
        """Set the range from what was observed: ``minmax``, or the range with the least squared error (``mse``).

        Raises:
            CompileError: nothing was seen, or values that are not finite.
        """
        if not self.samples:
            raise CompileError(
                "saw no input while ranges were observed; is the layer used in the model's forward?", layer
            )
        low, high = float(self.low), float(self.high)
        if not torch.isfinite(torch.tensor([low, high])).all():
            raise CompileError(
                "its input is not finite on the calibration batches; check the data and lower the learning rate", layer
            )
        if method == "mse":
            low, high = self._least_squares(torch.cat(self.samples).to(self.scale.device), low, high)
        self._set(low, high)
        self.samples.clear()
        self.observing, self.frozen = False, True

    def _set(self, low: float, high: float) -> None:
        scale = torch.tensor((high - low) / self.largest, dtype=torch.float32)
        if float(scale) <= 1e-30:
            scale, low = torch.tensor(1.0), 0.0
        self.scale.copy_(scale)
        self.zero_point.copy_(torch.tensor(round(-low / float(scale))).clamp(0, self.largest))

    def _least_squares(self, values: torch.Tensor, low: float, high: float) -> tuple[float, float]:
        best = (float("inf"), low, high)
        for shrink in torch.linspace(1.0, 0.3, 36).tolist():
            self._set(low * shrink, high * shrink)
            error = float(((self.codes(values) * self.scale - values) ** 2).mean())
            if error < best[0]:
                best = (error, low * shrink, high * shrink)
        return best[1], best[2]


def _spread(count: int, device: torch.device) -> torch.Tensor:
    """Up to SAMPLES of ``count`` indices, by the golden ratio: a stride would see some pixels or channels only."""
    if count <= SAMPLES:
        return torch.arange(count, device=device)
    places = torch.arange(SAMPLES, dtype=torch.float64, device=device) * 0.6180339887498949
    return (places.frac() * count).long().clamp_max_(count - 1)
