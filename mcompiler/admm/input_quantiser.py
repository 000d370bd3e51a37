"""Quantisation of inputs inside training, to the codes of the DAC, and the input ranges that it needs."""

from __future__ import annotations

import torch
from torch import nn

from mcompiler.errors import CompileError

RANGE_SAMPLES = 8192
"""Values of each batch that are kept to choose the input range of least squared error."""


class InputFakeQuantiser(nn.Module):
    """Fake quantisation of an input as the DAC does it: scale * (q - zero_point), q unsigned of ``bits`` bits.

    The input range is observed while ``observing`` is set, then fixed by ``freeze``; until then values pass unchanged.
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
        """Codes minus the zero point, as floats, rounded as onnxruntime's QuantizeLinear does."""
        # Division, rounding half to even, then the zero point: the order of QuantizeLinear. Multiplying by the
        # reciprocal of the scale, or adding the zero point before rounding, differs from it in rare codes.
        zero = self.zero_point.to(x.dtype)
        return ((x / self.scale).round_() + zero).clamp_(0, self.largest) - zero

    def _observe(self, x: torch.Tensor) -> None:
        if x.numel() == 0:
            return
        flat = x.float().reshape(-1)
        self.low.copy_(torch.minimum(self.low, flat.min()))
        self.high.copy_(torch.maximum(self.high, flat.max()))
        self.samples.append(flat[_sample_indices(flat.numel(), flat.device)])

    def freeze(self, layer: str, method: str = "mse") -> None:
        """Fix the range from the observed values: ``minmax``, or the range of least squared error (``mse``).

        Raises:
            CompileError: no value was observed, or values that are not finite.
        """
        if not self.samples:
            raise CompileError(
                "got no input while input ranges were observed; is the layer used in the model's forward?", layer
            )
        low, high = float(self.low), float(self.high)
        if not torch.isfinite(torch.tensor([low, high])).all():
            raise CompileError(
                "its input is not finite on the batches for input ranges; check the data and lower the learning rate",
                layer,
            )
        if method == "mse":
            low, high = self._find_least_squares_range(torch.cat(self.samples).to(self.scale.device), low, high)
        self._set_range(low, high)
        self.samples.clear()
        self.observing, self.frozen = False, True

    def _set_range(self, low: float, high: float) -> None:
        scale = torch.tensor((high - low) / self.largest, dtype=torch.float32)
        if float(scale) <= 1e-30:  # all observed values are zero: any scale represents them
            scale, low = torch.tensor(1.0), 0.0
        self.scale.copy_(scale)
        self.zero_point.copy_(torch.tensor(round(-low / float(scale))).clamp(0, self.largest))

    def _find_least_squares_range(self, values: torch.Tensor, low: float, high: float) -> tuple[float, float]:
        """The observed range, shrunk by the factor that gives the least mean squared error on the samples."""
        # Clipping the few largest values costs less than the coarser step that they force upon all others. Both ends
        # shrink by one factor, so that the zero point, and with it the code of zero, stays where it is.
        best = (float("inf"), low, high)
        for shrink in torch.linspace(1.0, 0.3, 36).tolist():
            self._set_range(low * shrink, high * shrink)
            error = float(((self.codes(values) * self.scale - values) ** 2).mean())
            if error < best[0]:
                best = (error, low * shrink, high * shrink)
        return best[1], best[2]


def _sample_indices(count: int, device: torch.device) -> torch.Tensor:
    """Up to RANGE_SAMPLES of ``count`` indices, evenly spread."""
    # Multiples of the golden ratio, modulo 1, are spread evenly for any number of them. A constant stride could share a
    # factor with the tensor's sizes and then sample only some pixels or channels.
    if count <= RANGE_SAMPLES:
        return torch.arange(count, device=device)
    places = torch.arange(RANGE_SAMPLES, dtype=torch.float64, device=device) * 0.6180339887498949
    return (places.frac() * count).long().clamp_max_(count - 1)
