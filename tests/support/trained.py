"""Small models that are projected for a target and quantised, as the recipe leaves them; not trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

import mcompiler
from mcompiler.admm.compressor import Compressor
from mcompiler.admm.distributed import ProcessRank
from mcompiler.admm.export import build_deployed, to_onnx
from mcompiler.admm.loop import ComputeSettings
from mcompiler.admm.ranges import attach_quantisers, freeze_ranges, observe_ranges
from mcompiler.admm.spec import Spec
from mcompiler.driver import Build
from mcompiler.target import Target, load_target

SMALL = ("array.rows=8", "array.columns=16", "array.rows_active=8")
TARGET = load_target("generic_128", SMALL)  # its converters are lossless
COMPUTE = ComputeSettings(torch.device("cpu"), False, False, ProcessRank())
Pairs = Sequence[tuple[str, str]]


class Trained:
    """A model projected for a target, its inputs quantised, as the recipe leaves it; no training."""

    def __init__(
        self,
        model: Any,
        x: Any,
        *,
        target: Target = TARGET,
        pairs: Pairs = (),
        shared: Sequence[Sequence[str]] = (),
        spec: Spec | None = None,
    ) -> None:
        self.model, self.x, self.target, self.pairs = model.eval(), x, target, pairs
        self.compressor = Compressor(model, target, spec)
        self.layers = self.compressor.layers
        self.compressor.project()
        quantisers = attach_quantisers(model, self.layers, shared, target)
        observe_ranges(model, quantisers, [(x, None)], 1, COMPUTE)
        freeze_ranges(quantisers, "mse")

    def onnx(self) -> Any:
        return to_onnx(self.model, self.layers, self.pairs, (self.x,))

    def twin(self) -> Any:
        return build_deployed(self.model, self.layers, self.pairs, exact=True)

    def build(self) -> Build:
        return mcompiler.compile(self.onnx(), self.target)


def draw(*shape: int, seed: int = 0) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def norm(kind: Any, channels: int, *, gamma: Sequence[float] = ()) -> Any:
    """A batch normalisation that has seen data."""
    found = kind(channels)
    with torch.no_grad():
        found.running_mean.copy_(draw(channels, seed=1) * 0.3)
        found.running_var.copy_(draw(channels, seed=2).abs() + 0.2)
        found.weight.copy_(torch.tensor([*gamma, *draw(channels, seed=3)][:channels]))
        found.bias.copy_(draw(channels, seed=4) * 0.2)
    return found


class Tokens(nn.Module):
    """Products of three-dimensional activations, in attention's manner."""

    def __init__(self) -> None:
        super().__init__()
        self.value, self.key, self.out = nn.Linear(5, 6), nn.Linear(5, 6, bias=False), nn.Linear(6, 3)

    def forward(self, x: Any) -> Any:
        return self.out(torch.relu(self.key(x)) + self.value(x))


def plain_net() -> tuple[Any, Any, Pairs]:
    model = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, 5))
    return model, draw(8, 2, 4, 4), ()


def normal_net() -> tuple[Any, Any, Pairs]:
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, stride=2, bias=False),
        norm(nn.BatchNorm2d, 6, gamma=(-1.0, 0.0, -0.3)),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding="same", groups=3),
        norm(nn.BatchNorm2d, 6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24, 5, bias=False),
        norm(nn.BatchNorm1d, 5, gamma=(-2.0,)),
    )
    return model, draw(8, 2, 4, 4), (("0", "1"), ("3", "4"), ("7", "8"))


def line_net() -> tuple[Any, Any, Pairs]:
    model = nn.Sequential(nn.Conv1d(3, 4, 3, dilation=2, padding=1), nn.Tanh(), nn.Conv1d(4, 4, 1, groups=4))
    return model, draw(8, 3, 9), ()


def volume_net() -> tuple[Any, Any, Pairs]:
    return nn.Sequential(nn.Conv3d(2, 3, (1, 2, 3), stride=(1, 2, 1)), nn.ReLU()), draw(4, 2, 2, 4, 5), ()


def token_net() -> tuple[Any, Any, Pairs]:
    return Tokens(), draw(4, 7, 5), ()


def mirror_net() -> tuple[Any, Any, Pairs]:
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), nn.ReLU())
    return model, draw(4, 2, 5, 5), ()


NETS: dict[str, Callable[[], tuple[Any, Any, Pairs]]] = {
    "conv and linear": plain_net,
    "normalised": normal_net,
    "conv1d": line_net,
    "conv3d": volume_net,
    "tokens": token_net,
    "reflecting": mirror_net,
}
