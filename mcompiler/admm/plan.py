"""Budgets: saliencies from training data, prices from the cost model, structures from the search."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from mcompiler.admm.budget import SLACK, BudgetPlan, ChannelReader, LayerCost, SharedChannels, search
from mcompiler.admm.compressor import Compressor
from mcompiler.admm.export import to_onnx
from mcompiler.admm.inputs import Inputs, run_model
from mcompiler.admm.loop import Batch, ComputeSettings, Loss, iterate_pairs
from mcompiler.admm.lowering import CompressibleLayer, as_matrix, find_layers
from mcompiler.admm.spec import Budget, Spec, Structure
from mcompiler.admm.surgery.channels import ChannelGraph, trace
from mcompiler.driver import Build, compile
from mcompiler.errors import CompileError
from mcompiler.geometry import array_shape
from mcompiler.target import HierarchyUnit, Target, prices

UNITS = {"crossbars": "crossbars", "energy_j": "J", "area_m2": "m2"}
"""Units of the currencies."""

MAX_SEARCHES = 8
"""Searches for a plan whose energy, as mapped, is within the budget; two or three are usually enough."""


def plan_structures(
    model: nn.Module,
    target: Target,
    spec: Spec,
    example: Inputs,
    *,
    batches: Iterable[Batch],
    loss: Loss,
    compute: ComputeSettings,
) -> tuple[dict[str, Structure], dict[str, Any]]:
    """Structures for the layers that the specification does not name, within its budget.

    Args:
        model: trained dense model.
        target: the chip.
        spec: with a budget.
        example: inputs of the model.
        batches: training batches for the saliencies.
        loss: of (output, targets).
        compute: device and precision.

    Returns:
        Structures by layer, and a record of the search as plain values: ``currency``, ``limit``, ``dense``, ``spent``,
        ``floor``, ``importance_kept``, ``tiles`` and ``structures`` by layer.

    Raises:
        CompileError: a budget below the cost of one array position in each layer; no layer to search.
    """
    budget = spec.budget
    assert budget is not None
    layers = _select_layers(model, spec)
    importance = compute_saliencies(model, layers, itertools.islice(batches, budget.batches), loss, compute)
    costs = price_layers(model, layers, target, budget, example)
    shared = find_shared_channels(model, layers, example) if spec.remove_paths else ()
    plan, spent = _search_within(
        budget,
        lambda limit: search(costs, importance, limit, shared=shared, unit=UNITS[budget.currency]),
        lambda plan: compute_mapped_energy(model, layers, plan.structures, target, spec, example=example),
    )
    record = {
        "currency": budget.currency,
        "limit": budget.limit,
        "dense": plan.dense,
        "spent": spent,
        "floor": plan.floor,
        "importance_kept": plan.kept,
        "tiles": plan.tiles,
        "structures": {
            name: {key: value for key, value in dataclasses.asdict(entry).items() if value}
            for name, entry in plan.structures.items()
        },
    }
    return dict(plan.structures), record


def _select_layers(model: nn.Module, spec: Spec) -> dict[str, CompressibleLayer]:
    """The layers that the budget's search covers."""
    assert spec.budget is not None
    every = spec.budget.layers == "all"
    selected = {
        name: layer
        for name, layer in find_layers(model, spec.skip, spec.layers).items()
        if name not in spec.layers and (every or not isinstance(layer.module, nn.Linear))
    }
    if not selected:
        raise CompileError(
            "the budget has no layer to be spent on: a layer that [layers] names is not searched, and nn.Linear is "
            "searched with budget.layers = 'all' only"
        )
    return selected


def _search_within(
    budget: Budget, search_for: Callable[[float], BudgetPlan], energy_of: Callable[[BudgetPlan], float]
) -> tuple[BudgetPlan, float]:
    """A plan whose cost, as mapped, is within the budget, and that cost."""
    plan = search_for(budget.limit)
    if budget.currency != "energy_j":
        return plan, plan.spent
    # Crossbars and area are exact, but the price in energy of an array position is the mean over the dense layer, and
    # the positions that a plan keeps hold more weights than the mean. So a plan may cost more when it is mapped than
    # its price. The next search gets a limit that is lower by the same ratio.
    for _ in range(MAX_SEARCHES):
        spent = energy_of(plan)
        if spent <= budget.limit * (1 + SLACK):
            return plan, spent
        limit = plan.spent * budget.limit / spent
        if limit < plan.floor:
            break
        plan = search_for(limit)
    raise CompileError(
        f"no structure that costs {budget.limit:g} J when it is mapped was found, the last one costs {spent:g} J; give "
        "as much, or search fewer layers"
    )


def compute_mapped_energy(
    model: nn.Module,
    layers: Mapping[str, CompressibleLayer],
    structures: Mapping[str, Structure],
    target: Target,
    spec: Spec,
    *,
    example: Inputs,
) -> float:
    """Energy per inference of the arrays of some layers, the model projected onto structures and compiled.

    Channels that the projection makes unused are not removed here, so that the trained network costs this much or less.
    """
    copied = copy.deepcopy(model)
    compressor = Compressor(copied, target, dataclasses.replace(spec, budget=None), {**spec.layers, **structures})
    with torch.no_grad():
        for name, mask in compressor.masks().items():
            compressor.layers[name].weight.mul_(mask)
    build = compile(to_onnx(copied, compressor.layers, (), example), target, calibration="random")
    return sum(_sum_array_costs(build, name, "energy_j") for name in layers)


def compute_saliencies(
    model: nn.Module,
    layers: Mapping[str, CompressibleLayer],
    batches: Iterable[Batch],
    loss: Loss,
    compute: ComputeSettings,
) -> dict[str, torch.Tensor]:
    """Squared weight times squared gradient, summed over batches: [G, K, N] by layer.

    The second-order estimate of what removing a weight costs, with the Fisher information for the curvature (Theis et
    al. 2018, arXiv 1801.05787; Molchanov et al. 2019, arXiv 1906.10771).
    """
    training = model.training
    model.eval()
    sums = {name: torch.zeros_like(layer.weight, dtype=torch.float64) for name, layer in layers.items()}
    for x, y in iterate_pairs(batches):
        model.zero_grad(set_to_none=True)
        value = loss(run_model(model, compute.move_batch(x)), compute.move_batch(y))
        value.backward()  # type: ignore[no-untyped-call]
        for name, layer in layers.items():
            gradient = layer.weight.grad
            if gradient is not None:
                sums[name] += (layer.weight.detach() * gradient).double().square()
    model.zero_grad(set_to_none=True)
    model.train(training)
    return {name: as_matrix(total, layers[name].groups).cpu() for name, total in sums.items()}


def price_layers(
    model: nn.Module,
    layers: Mapping[str, CompressibleLayer],
    target: Target,
    budget: Budget,
    example: Inputs,
) -> list[LayerCost]:
    """Price of one array position of each layer in the budget's currency, by the cost model of the dense mapping.

    Energy and area are those of the parts of an array (cells, converters): all others do not shrink with the arrays.
    """
    shape = array_shape(target)
    price = dict.fromkeys(layers, 1.0)
    if budget.currency != "crossbars":
        build = compile(to_onnx(model, layers, (), example), target, calibration="random")
        for name in layers:
            tiles = max(1, build.cost.layers[name].crossbars // shape.arrays_per_tile)
            price[name] = _sum_array_costs(build, name, budget.currency) / tiles
    return [
        LayerCost(name, *layer.shape, positions=layer.positions, shape=shape, price=price[name])
        for name, layer in layers.items()
    ]


def _sum_array_costs(build: Build, layer: str, currency: str) -> float:
    """Energy per inference, or area, of the parts inside the arrays of a layer."""
    parts = [part for part in prices(build.target).values() if part.per is HierarchyUnit.ARRAY]
    arrays = build.cost.layers[layer].crossbars
    if currency == "area_m2":
        return arrays * sum(part.count * part.area_m2 for part in parts)
    counts = {event: count for name, event, count in build.cost.events if name == layer}
    siemens = build.cost.counts.cell_siemens(build.target)[layer]
    dynamic = sum(part.energy_with(siemens) * counts.get(part.event, 0.0) for part in parts if part.event is not None)
    idle_w = arrays * sum(part.count * part.static_power_w for part in parts)
    return dynamic + idle_w / build.cost.throughput_per_s


def find_shared_channels(
    model: nn.Module, layers: Mapping[str, CompressibleLayer], example: Inputs
) -> tuple[SharedChannels, ...]:
    """Channels that searched layers write and searched layers read.

    Channels that any other node writes or reads (a layer that is not searched, an output, an unknown operation) are
    left out: for the search they count as read.
    """
    graph = trace(model, example)
    pinned = set(graph.pins)
    writers: dict[tuple[int, ...], list[str]] = {}
    for name, traced in graph.layers.items():
        writers.setdefault(tuple(graph.classes[traced.outputs].tolist()), []).append(name)
    shared = []
    for channels, names in writers.items():
        found = [_find_reader(graph, name, channels) for name in graph.layers]
        readers = [reader for reader in found if reader is not None]
        others = any(
            set(channels) & set(graph.classes[graph.layers[name].inputs].tolist())
            for name in graph.layers
            if name not in {reader.layer for reader in readers}
        )
        searched = all(name in layers for name in (*names, *(reader.layer for reader in readers)))
        if readers and searched and not others and not pinned & set(channels):
            shared.append(SharedChannels(tuple(names), tuple(readers)))
    return tuple(shared)


def _find_reader(graph: ChannelGraph, name: str, channels: tuple[int, ...]) -> ChannelReader | None:
    """How a layer reads channels: all of them, in order, each as equally many inputs; None where it does not."""
    traced = graph.layers[name]
    reads = graph.classes[traced.inputs].numpy()
    positions = np.flatnonzero(reads == channels[0])
    if not len(positions) or traced.groups > 1:
        return None
    first, each = int(positions[0]), len(positions)
    if not np.array_equal(reads[first : first + each * len(channels)], np.repeat(channels, each)):
        return None
    return ChannelReader(name, first * traced.positions, each * traced.positions)
