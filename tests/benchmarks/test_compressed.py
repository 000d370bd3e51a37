"""A compressed model as a PyTorch network again: it says what the exported one says, at the widths that are left."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra 'admm'")
import torch
from torch import nn

from mcompiler import admm
from mcompiler.runtime import open_file
from tests.support.benchmarks import benchmark

compressed = benchmark("compressed")


class Residual(nn.Module):
    """Two branches behind a convolution, added."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(2, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.long = nn.Conv2d(16, 24, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(24)
        self.short = nn.Conv2d(16, 24, 1, stride=2)
        self.last = nn.Linear(24 * 16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        y: torch.Tensor = self.last(torch.relu(self.norm(self.long(x)) + self.short(x)).flatten(1))
        return y


def test_it_says_what_the_exported_model_says(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(64, 2, 8, 8), torch.randint(0, 5, (64,))
    spec = admm.Spec(
        layers={
            "first.0": admm.Structure(filters=10),
            "long": admm.Structure(shapes=64, filters=20),
            "short": admm.Structure(filters=20),
        },
        admm=admm.Admm(rho=(1e-1,), epochs=2),
        retrain=admm.Retrain(epochs=2),
        quantisation=admm.Quantisation(inputs=False),
    )
    admm.compress(Residual(), [(x, y)] * 4, "yuan2019_32x32", spec, out=tmp_path, device="cpu", progress=False)
    session = open_file(tmp_path / "model.onnx")
    wanted = session.run({session.inputs[0].name: x.numpy()})[session.outputs[0]]

    model = compressed.reopened(Residual(), tmp_path / "model.onnx", x)
    with torch.no_grad():
        found = model.eval()(x).numpy()
    assert found == pytest.approx(wanted, abs=1e-4)
    assert model.first[0].weight.shape[0] <= 10 < 16
    assert model.long.weight.shape[1] == model.first[0].weight.shape[0]


def test_normalisations_know_what_they_will_see(tmp_path: Path) -> None:
    torch.manual_seed(1)
    x, y = torch.randn(64, 2, 8, 8), torch.randint(0, 5, (64,))
    spec = admm.Spec(
        admm=admm.Admm(rho=(1e-1,), epochs=1), retrain=admm.Retrain(epochs=1),
        quantisation=admm.Quantisation(inputs=False),
    )  # fmt: skip
    admm.compress(Residual(), [(x, y)], "yuan2019_32x32", spec, out=tmp_path, device="cpu", progress=False)
    model = compressed.reopened(Residual(), tmp_path / "model.onnx", x).eval()
    with torch.no_grad():
        kept = model(x)
        model.train()
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.momentum = 0.0
        assert model(x).numpy() == pytest.approx(kept.numpy(), abs=2e-2)  # batch statistics are the kept ones
