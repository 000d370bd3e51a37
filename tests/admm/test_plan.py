"""Where a budget is spent: compute_saliencies by autograd, prices of the cost model, shared between layers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mcompiler.target import HierarchyUnit, Target, load_target

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch")
from torch import nn

import mcompiler
from mcompiler import admm
from mcompiler.admm.budget import ChannelReader, SharedChannels
from mcompiler.admm.distributed import ProcessRank
from mcompiler.admm.export import to_onnx
from mcompiler.admm.loop import ComputeSettings
from mcompiler.admm.lowering import find_layers
from mcompiler.admm.plan import compute_saliencies, find_shared_channels, plan_structures, price_layers
from mcompiler.admm.spec import Budget, Spec
from mcompiler.errors import CompileError
from mcompiler.geometry import array_shape

COMPUTE = ComputeSettings(torch.device("cpu"), bfloat16=False, channels_last=False, ranks=ProcessRank())
TARGET = load_target("yuan2019_32x32")


class Block(nn.Module):
    """A residual block, a concatenation and a product behind a Flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.inner = nn.Conv2d(32, 40, 3, padding=1)
        self.outer = nn.Conv2d(40, 32, 3, padding=1)
        self.side = nn.Conv2d(32, 8, 1)
        self.last = nn.Conv2d(40, 34, 3, padding=1, stride=2)
        self.head = nn.Linear(34 * 16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.outer(torch.relu(self.inner(x))))
        x = torch.cat([x, torch.relu(self.side(x))], dim=1)
        y: torch.Tensor = self.head(torch.flatten(torch.relu(self.last(x)), 1))
        return y


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    return Block()


X = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(2))
Y = torch.arange(6) % 4


def test_links_follow_additions_concatenations_and_flatten(model: Any) -> None:
    shared = find_shared_channels(model, find_layers(model), (X[:2],))
    assert SharedChannels(("inner",), (ChannelReader("outer", 0, 9),)) in shared
    stream = SharedChannels(
        ("stem", "outer"), (ChannelReader("inner", 0, 9), ChannelReader("side", 0, 1), ChannelReader("last", 0, 9))
    )
    assert stream in shared
    assert SharedChannels(("side",), (ChannelReader("last", 32 * 9, 9),)) in shared
    assert SharedChannels(("last",), (ChannelReader("head", 0, 16),)) in shared
    assert len(shared) == 4


def test_channels_that_an_unsearched_layer_reads_are_not_linked(model: Any) -> None:
    layers = {name: layer for name, layer in find_layers(model).items() if name != "head"}
    assert all("last" not in link.writers for link in find_shared_channels(model, layers, (X[:2],)))


def test_saliencies_are_squared_weight_times_squared_gradient(model: Any) -> None:
    layers = find_layers(model)
    found = compute_saliencies(model, layers, [(X[:3], Y[:3]), (X[3:], Y[3:])], nn.functional.cross_entropy, COMPUTE)
    wanted = torch.zeros_like(model.outer.weight)
    for part in (slice(0, 3), slice(3, 6)):
        loss = nn.functional.cross_entropy(model(X[part]), Y[part])
        (gradient,) = torch.autograd.grad(loss, [model.outer.weight])
        wanted += (model.outer.weight.detach() * gradient) ** 2
    assert torch.allclose(found["outer"][0].float(), wanted.reshape(32, -1).T, rtol=1e-4, atol=1e-12)
    assert model.outer.weight.grad is None


@pytest.mark.parametrize("budget", [Budget(energy_j=1.0), Budget(area_m2=1.0)])
def test_prices_are_the_cost_models(model: Any, budget: Budget) -> None:
    layers = find_layers(model)
    costs = price_layers(model, layers, TARGET, budget, (X[:2],))
    build = mcompiler.compile(to_onnx(model, layers, (), (X[:2],)), TARGET, calibration="random")
    assert [cost.tiles for cost in costs] == [
        build.cost.layers[cost.name].crossbars // array_shape(TARGET).arrays_per_tile for cost in costs
    ]
    in_arrays = [key for key, part in TARGET.components.items() if part.per is HierarchyUnit.ARRAY]
    wanted = sum(getattr(build.cost.components[key], budget.currency) for key in in_arrays)
    assert sum(cost.price * cost.tiles for cost in costs) == pytest.approx(wanted)


def planned(model: Any, spec: Spec, target: Target = TARGET) -> tuple[dict[str, Any], dict[str, Any]]:
    return plan_structures(
        model, target, spec, (X[:2],), batches=[(X, Y)], loss=nn.functional.cross_entropy, compute=COMPUTE
    )


def array_energy(model: Any, target: str) -> float:
    """What stands in the arrays takes, of an ONNX model of which all layers are mapped."""
    build = mcompiler.compile(model, target, calibration="random")
    in_arrays = [key for key, part in build.target.components.items() if part.per is HierarchyUnit.ARRAY]
    return sum(build.cost.components[key].energy_j for key in in_arrays)


@pytest.mark.parametrize("target", ["yuan2019_32x32", "generic_128"])
@pytest.mark.parametrize("share", [0.4, 0.6, 0.8])
def test_a_plan_stays_within_its_energy_when_it_is_mapped(
    model: Any, tmp_path: Path, target: str, share: float
) -> None:
    """The network behind a whole compression is compiled: by prices alone the first two take 10% and 5% too much."""
    dense = array_energy(to_onnx(model, find_layers(model), (), (X[:2],)), target)
    spec = Spec(
        budget=Budget(energy_j=share * dense, layers="all", batches=1),
        admm=admm.Admm(rho=(1e-1,), epochs=1),
        retrain=admm.Retrain(epochs=1),
    )
    structures, line = planned(model, spec, load_target(target))
    assert set(structures) == set(find_layers(model))
    assert line["currency"] == "energy_j"
    assert line["spent"] <= share * dense * (1 + 1e-9)
    result = admm.compress(model, [(X, Y)], target, spec, device="cpu", progress=False)
    assert array_energy(result.export(tmp_path / "model.onnx"), target) <= line["spent"] * (1 + 1e-9)


def test_an_energy_below_the_floor_has_a_unit(model: Any) -> None:
    spec = Spec(budget=Budget(energy_j=1e-15, layers="all", batches=1))
    with pytest.raises(CompileError, match=r"a budget of 1e-15 J is below .* J, .*give at least .* J"):
        planned(model, spec)


def test_a_budget_without_a_layer_to_search_says_how_to_have_one() -> None:
    spec = Spec(budget=Budget(crossbars=3))
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    with pytest.raises(CompileError, match=r"no layer to be spent on.*budget\.layers = 'all'"):
        planned(flat, spec)
