"""Batch statistics that are estimated anew after the projection."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'admm'")
import torch
from torch import nn

from mcompiler import admm
from mcompiler.admm.distributed import ProcessRank
from mcompiler.admm.loop import ComputeSettings
from mcompiler.admm.statistics import estimate_statistics

CPU = ComputeSettings(torch.device("cpu"), False, False, ProcessRank())


def network() -> Any:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5), nn.BatchNorm1d(5, momentum=0.2), nn.ReLU(), nn.Linear(5, 3))


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [
        (torch.randn(32, 6, generator=generator) * 2 + 1, torch.randint(0, 3, (32,), generator=generator))
        for _ in range(4)
    ]


def test_statistics_are_the_means_over_the_batches() -> None:
    model, data = network(), batches()
    model.train()
    model[4].eval()
    estimate_statistics(model, data, 3, CPU)
    weight, bias = (p.detach().double().numpy() for p in model[0].parameters())
    outputs = [x.double().numpy() @ weight.T + bias for x, _ in data[:3]]  # the fourth batch and dropout do not count
    np.testing.assert_allclose(model[2].running_mean, np.mean([y.mean(axis=0) for y in outputs], axis=0), rtol=1e-5)
    variance = np.mean([y.var(axis=0, ddof=1) for y in outputs], axis=0)
    np.testing.assert_allclose(model[2].running_var, variance, rtol=1e-5)
    assert model[2].momentum == 0.2
    assert [module.training for module in model] == [True, True, True, True, False]


def test_no_batch_changes_nothing() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    estimate_statistics(model, batches(), 0, CPU)
    estimate_statistics(model, [(torch.ones(1, 6), torch.zeros(1))], 1, CPU)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("count", [0, 4])
def test_a_pruned_network_without_retraining_has_fitting_statistics(count: int) -> None:
    model = network()
    spec = admm.Spec(
        layers={"0": admm.Structure(column_nonzeros=2)},
        admm=admm.Admm(epochs=0),
        retrain=admm.Retrain(epochs=0, statistics=count),
    )
    result = admm.compress(model, batches(), "generic_128", spec, device="cpu", progress=False)
    small: Any = result.model
    seen: list[torch.Tensor] = []
    small.get_submodule("2").register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        for x, _ in batches():
            small(x)
    mean = torch.cat(seen).mean(dim=0)
    off = float((small.get_submodule("2").running_mean - mean).abs().max())
    assert (off < 0.05) is (count > 0)
