"""Purification: what carries next to nothing goes."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from mcompiler.admm.spec import Purify  # noqa: E402
from mcompiler.admm.surgery.channels import trace  # noqa: E402
from mcompiler.admm.surgery.purification import purify  # noqa: E402


def model() -> nn.Module:
    """Channel 1 of the second layer has one row left, and little in it; filter 2 of the first one weak weight."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)
    with torch.no_grad():
        for layer in (first, second):
            layer.weight.fill_(1.0)
        second.weight[:, 1] = 0
        second.weight[:, 1, 0, 0] = 0.01
        first.weight[2] = 0
        first.weight[2, 0, 1, 1] = 0.01
    return nn.Sequential(first, nn.ReLU(), second)


def test_weak_channels_and_filters_go() -> None:
    net = model()
    graph = trace(net, torch.zeros(1, 3, 8, 8))
    found = purify(net, graph, {}, Purify(columns=1, energy=0.1))
    assert not found["2"][0, 9:18].any()
    assert int(found["2"].sum()) == 3 * 9 * 5
    assert not found["0"][0, :, 2].any()
    assert int(found["0"].sum()) == 27 * 3


@pytest.mark.parametrize(
    "options", [Purify(), Purify(columns=5, energy=0.0), Purify(columns=0, energy=1.0), Purify(columns=1, energy=1e-9)]
)
def test_thresholds_that_spare_all(options: Purify) -> None:
    net = model()
    found = purify(net, trace(net, torch.zeros(1, 3, 8, 8)), {}, options)
    assert {name: int(mask.sum()) for name, mask in found.items()} == {"0": 27 * 3 + 1, "2": 27 * 5 + 5}


def test_the_strongest_stays() -> None:
    net = model()
    found = purify(net, trace(net, torch.zeros(1, 3, 8, 8)), {}, Purify(columns=10**6, energy=10.0))
    assert all(mask.any() for mask in found.values())


def test_the_given_support_is_judged() -> None:
    net = model()
    support = {"2": torch.ones(1, 36, 5, dtype=torch.bool)}
    support["2"][:, :9] = False
    given = support["2"].clone()
    found = purify(net, trace(net, torch.zeros(1, 3, 8, 8)), support, Purify(columns=9, energy=0.1))
    assert torch.equal(support["2"], given)
    assert not (found["2"] & ~given).any()
    assert not found["2"][0, 9:18].any()
