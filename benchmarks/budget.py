"""Budget search: VGG-16's convolutions for 60 crossbars, and for the energy or area of that plan.

    python benchmarks/budget.py [--crossbars 60] [--threads 1]

Saliencies come from 20 batches of CIFAR-10 training images, prices from the cost model of `yuan2019`. Nothing is
trained: plans are compared by the fraction of the saliency that they keep. The search runs with the channels that
layers share, as in the recipe (what one layer does not write, the next need not read), and without, where it is exact.
A few minutes on one core. Writes benchmarks/results/budget_vgg16.json. Needs ../shared and Pillow.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from common import SHARED, write
from images import Images, load_images
from networks import NETWORKS
from torch import nn

from mcompiler import admm
from mcompiler.admm.budget import BudgetPlan, LayerCost, SharedChannels, search
from mcompiler.admm.distributed import ProcessRank
from mcompiler.admm.export import to_onnx
from mcompiler.admm.loop import ComputeSettings
from mcompiler.admm.lowering import CompressibleLayer, find_layers
from mcompiler.admm.plan import compute_mapped_energy, compute_saliencies, find_shared_channels, price_layers
from mcompiler.driver import compile
from mcompiler.target import Target, load_target

TARGET = "yuan2019"
CURRENCIES = ("crossbars", "energy_j", "area_m2")
BATCHES, BATCH, SEED = 20, 64, 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--crossbars", type=int, default=60)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    started = time.perf_counter()
    model, target = trained_vgg16(), load_target(TARGET)
    images = load_images("cifar10", SHARED / "data")
    compute = ComputeSettings(torch.device("cpu"), False, False, ProcessRank())
    layers = {name: layer for name, layer in find_layers(model).items() if not isinstance(layer.module, nn.Linear)}
    importance = compute_saliencies(model, layers, batches(images), nn.functional.cross_entropy, compute)
    example = (images.normalised(images.train[:1]),)
    shared = find_shared_channels(model, layers, example)
    costs = {
        currency: price_layers(model, layers, target, admm.Budget(**{currency: args.crossbars}), example)
        for currency in CURRENCIES
    }
    found = {
        "plans": spend(costs, importance, args.crossbars, shared),
        "plans_unlinked": spend(costs, importance, args.crossbars, ()),
    }

    def facts_of(plan: BudgetPlan) -> dict[str, Any]:
        mapped = compute_mapped_energy(model, layers, plan.structures, target, admm.Spec(), example=example)
        return {**plan_facts(plan, costs), "mapped_j": mapped}

    result = {
        "network": "vgg16",
        "dataset": "cifar10",
        "target": TARGET,
        "weights": "vgg16_cifar10.npz",
        "seed": SEED,
        "batches": BATCHES,
        "batch": BATCH,
        "torch": torch.__version__,
        "threads": args.threads,
        "layers": layer_facts(model, layers, target, costs, example),
        **{key: {name: facts_of(plan) for name, plan in plans.items()} for key, plans in found.items()},
        "seconds": round(time.perf_counter() - started, 1),
    }
    show(result)
    print(write("budget_vgg16", result))


def trained_vgg16() -> nn.Module:
    """VGG-16 with the weights of ../shared."""
    sys.path.insert(0, str(SHARED / "weights"))
    import load_vgg16  # type: ignore[import-not-found]

    model = NETWORKS["vgg16"]()
    model.load_state_dict(load_vgg16.state_dict())
    return model.eval()


def batches(images: Images) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Training images, drawn once, as they are."""
    order = torch.randperm(len(images.train), generator=torch.Generator().manual_seed(SEED))
    for index in order[: BATCHES * BATCH].view(BATCHES, BATCH):
        yield images.normalised(images.train[index]), images.train_labels[index]


def spend(
    costs: Mapping[str, list[LayerCost]],
    importance: Mapping[str, torch.Tensor],
    crossbars: int,
    shared: Sequence[SharedChannels],
) -> dict[str, BudgetPlan]:
    """A plan for so many crossbars, then one in each other currency for what the first takes of it."""
    plans = {"crossbars": search(costs["crossbars"], importance, crossbars, shared=shared)}
    for currency in CURRENCIES[1:]:
        limit = worth(costs[currency], plans["crossbars"])
        plans[currency] = search(costs[currency], importance, limit, shared=shared)
    return plans


def worth(costs: list[LayerCost], plan: BudgetPlan) -> float:
    """What a plan's tiles cost in a currency."""
    return sum(layer.price * plan.tiles[layer.name] for layer in costs)


def layer_facts(
    model: nn.Module,
    layers: Mapping[str, CompressibleLayer],
    target: Target,
    costs: Mapping[str, list[LayerCost]],
    example: tuple[torch.Tensor, ...],
) -> list[dict[str, Any]]:
    """Sizes of the dense layers, products an inference, and the price of a tile in each currency."""
    build = compile(to_onnx(model, find_layers(model), (), example), target, calibration="random")
    vectors = {layer.op.site.name: layer.op.site.vectors for layer in build.layer_data}
    return [
        {
            "name": cost.name,
            "matrix": list(layers[cost.name].shape),
            "vectors": vectors[cost.name],
            "tiles_dense": cost.tiles,
            "price": {currency: costs[currency][index].price for currency in CURRENCIES},
        }
        for index, cost in enumerate(costs["crossbars"])
    ]


def plan_facts(plan: BudgetPlan, costs: Mapping[str, list[LayerCost]]) -> dict[str, Any]:
    """A plan as plain values, with what it takes of every currency."""
    return {
        "spent": plan.spent,
        "floor": plan.floor,
        "dense": plan.dense,
        "importance_kept": plan.kept,
        "takes": {currency: worth(prices, plan) for currency, prices in costs.items()},
        "tiles": dict(plan.tiles),
        "structures": {
            name: {key: value for key, value in dataclasses.asdict(entry).items() if value}
            for name, entry in plan.structures.items()
        },
    }


def show(result: Mapping[str, Any]) -> None:
    for title in ("plans", "plans_unlinked"):
        print(title)
        show_plans(result["layers"], result[title])


def show_plans(layers: list[dict[str, Any]], plans: Mapping[str, Any]) -> None:
    print(f"{'layer':>6} {'vectors':>8} {'dense':>6} " + " ".join(f"{currency:>9}" for currency in plans))
    for layer in layers:
        tiles = " ".join(f"{plan['tiles'][layer['name']]:9d}" for plan in plans.values())
        print(f"{layer['name']:>6} {layer['vectors']:8d} {layer['tiles_dense']:6d} {tiles}")
    for currency, plan in plans.items():
        takes = ", ".join(f"{name} {value:.4g}" for name, value in plan["takes"].items())
        print(f"{currency}: keeps {100 * plan['importance_kept']:.2f}% of the saliency; takes {takes}")


if __name__ == "__main__":
    main()
