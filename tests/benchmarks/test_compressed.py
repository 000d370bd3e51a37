"""A compressed model as a PyTorch network again: it says what the exported one says, at the widths that are left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("torch", reason="needs the extra 'admm'")
import torch
from onnx import helper, numpy_helper
from torch import nn

from mcompiler import admm
from mcompiler.runtime import open_file
from tests.support.benchmarks import benchmark

compressed, paper = benchmark("compressed"), benchmark("paper")


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
        # Training divides by the variance over n values, inference by that over n - 1, which the weights take up here.
        for name, n in (("first.1", 64 * 64), ("norm", 64 * 16)):
            part = model.get_submodule(name)
            variance = part.running_var
            part.weight *= ((variance * (n - 1) / n + part.eps) / (variance + part.eps)).sqrt()
        assert model(x).numpy() == pytest.approx(kept.numpy(), abs=1e-5)  # batch statistics are the kept ones


def one_layer(path: Path, *, layer: str = "last", gathered: bool = False) -> Path:
    """A model with one product, its weights a constant or gathered from a table of levels."""
    held: dict[str, np.ndarray[Any, Any]] = {
        "w": np.arange(8, dtype=np.float32).reshape(4, 2),
        "table": np.arange(8, dtype=np.float32),
        "codes": np.arange(8).reshape(4, 2),
    }
    nodes = [helper.make_node("Gather", ["table", "codes"], ["w"])] if gathered else []
    nodes.append(helper.make_node("Gemm", ["x", "w"], ["y"], layer, transB=1))
    used = {"table", "codes"} if gathered else {"w"}
    graph = helper.make_graph(
        nodes, "graph",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(held[name], name) for name in sorted(used)],
    )  # fmt: skip
    onnx.save(helper.make_model(graph), path)
    return path


class Product(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(2, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.last(x)
        return y


def test_constant_weights_without_a_bias(tmp_path: Path) -> None:
    model = compressed.reopened(Product(), one_layer(tmp_path / "model.onnx"), torch.zeros(2, 2))
    assert model.last.weight.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert model.last.bias.tolist() == [0, 0, 0, 0]


def test_measured_levels_end_in_a_sentence(tmp_path: Path) -> None:
    path = one_layer(tmp_path / "model.onnx", gathered=True)
    with pytest.raises(SystemExit, match="weights of 'last' are neither constants nor behind a DequantizeLinear"):
        compressed.reopened(Product(), path, torch.zeros(2, 2))


def test_a_layer_of_another_network_ends_in_a_sentence(tmp_path: Path) -> None:
    path = one_layer(tmp_path / "model.onnx", layer="first")
    with pytest.raises(SystemExit, match="layer 'first' is not one of the network"):
        compressed.reopened(Product(), path, torch.zeros(2, 2))


def test_a_start_that_is_not_there_or_of_another_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper, "HERE", tmp_path)
    monkeypatch.setattr(paper, "RESULTS", tmp_path)
    with pytest.raises(SystemExit, match=r"row\.onnx: not there; the recipe starts from it"):
        paper.started("vgg16", None, "row")
    (tmp_path / "models").mkdir()
    one_layer(tmp_path / "models" / "row.onnx")
    with pytest.raises(SystemExit, match=r"row\.json: not there"):
        paper.started("vgg16", None, "row")
    (tmp_path / "row.json").write_text(json.dumps({"network": "lenet5"}))
    with pytest.raises(SystemExit, match="'row' is a model of lenet5, not of vgg16"):
        paper.started("vgg16", None, "row")
