"""Where a budget is spent: saliencies from training data, prices from the cost model, structures from the search."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from mcompiler.admm.budget import SLACK, LayerCost, Link, Plan, Reader, search
from mcompiler.admm.compressor import Compressor
from mcompiler.admm.constraints import Structure
from mcompiler.admm.export import to_onnx
from mcompiler.admm.loop import Batch, Loss, Setting, forward
from mcompiler.admm.lowering import Layer, as_matrix, find_layers
from mcompiler.admm.spec import Budget, Spec
from mcompiler.admm.surgery.channels import ChannelGraph, trace
from mcompiler.driver import Build, compile
from mcompiler.errors import CompileError
from mcompiler.geometry import array_shape
from mcompiler.target import HierarchyUnit, Target

UNITS = {"crossbars": "crossbars", "energy_j": "J", "area_m2": "m2"}
"""Of the currencies."""

ROUNDS = 8
"""Searches at most, until a plan keeps its energy as it is mapped; two or three do."""


def plan_structures(
    model: nn.Module,
    batches: Iterable[Batch],
    loss_of: Loss,
    target: Target,
    spec: Spec,
    setting: Setting,
    example: tuple[torch.Tensor, ...],
) -> tuple[dict[str, Structure], dict[str, Any]]:
    """Structures for the layers that the specification does not name, within its budget.

    Returns:
        Structures by layer, and what the search did, as plain values: ``currency``, ``limit``, ``dense``, ``spent``,
        ``floor``, ``importance_kept``, ``tiles`` and ``structures`` by layer.

    Raises:
        CompileError: a budget below what one array position a layer takes; no layer to search.
    """
    budget = spec.budget
    assert budget is not None
    layers = find_layers(model, spec.skip, spec.layers)
    chosen = {
        name: layer
        for name, layer in layers.items()
        if name not in spec.layers and (budget.layers == "all" or not isinstance(layer.module, nn.Linear))
    }
    if not chosen:
        raise CompileError(
            "the budget has no layer to be spent on: a layer that [layers] names is not searched, and products are "
            "searched with budget.layers = 'all' only"
        )
    importance = saliencies(model, chosen, itertools.islice(batches, budget.batches), loss_of, setting)
    costs = layer_costs(model, chosen, target, budget, example)
    links = channel_links(model, chosen, example) if spec.remove_paths else ()
    plan, spent = _within(
        budget,
        lambda limit: search(costs, importance, limit, links=links, unit=UNITS[budget.currency]),
        lambda plan: mapped_cost(model, chosen, {**spec.layers, **plan.structures}, target, spec, example),
    )
    line = {
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
    return dict(plan.structures), line


def _within(
    budget: Budget, search_for: Callable[[float], Plan], cost_of: Callable[[Plan], float]
) -> tuple[Plan, float]:
    """A plan that keeps the budget as it would be mapped, and what it costs then.

    Energies of array positions are means over a dense layer, and the positions that stay are fuller than those. So what
    is searched for next is less by as much as the plan before costs too much.
    """
    plan = search_for(budget.limit)
    if budget.currency != "energy_j":
        return plan, plan.spent
    for _ in range(ROUNDS):
        spent = cost_of(plan)
        if spent <= budget.limit * (1 + SLACK):
            return plan, spent
        aim = plan.spent * budget.limit / spent
        if aim < plan.floor:
            break
        plan = search_for(aim)
    raise CompileError(
        f"no structure that costs {budget.limit:g} J when it is mapped was found, the last one costs {spent:g} J; give "
        "as much, or search fewer layers"
    )


def mapped_cost(
    model: nn.Module,
    layers: Mapping[str, Layer],
    structures: Mapping[str, Structure],
    target: Target,
    spec: Spec,
    example: tuple[torch.Tensor, ...],
) -> float:
    """Energy per inference of what stands in the arrays of some layers, the model projected on structures and compiled.

    What the projection makes unused is still there: the network that training ends with costs this much or less.
    """
    copied = copy.deepcopy(model)
    compressor = Compressor(copied, target, dataclasses.replace(spec, budget=None), structures)
    with torch.no_grad():
        for name, mask in compressor.masks().items():
            compressor.layers[name].weight.mul_(mask)
    build = compile(to_onnx(copied, find_layers(copied), (), example), target, calibration="random")
    return sum(_array_parts(build, name, "energy_j") for name in layers)


def saliencies(
    model: nn.Module, layers: Mapping[str, Layer], batches: Iterable[Batch], loss_of: Loss, setting: Setting
) -> dict[str, torch.Tensor]:
    """Squared weight times squared gradient, summed over batches: [G, K, N] by layer.

    The second-order estimate of what removing a weight costs, with the Fisher information for the curvature (Theis et
    al. 2018, arXiv 1801.05787; Molchanov et al. 2019, arXiv 1906.10771).
    """
    training = model.training
    model.eval()
    sums = {name: torch.zeros_like(layer.weight, dtype=torch.float64) for name, layer in layers.items()}
    for x, y in batches:
        model.zero_grad(set_to_none=True)
        loss = loss_of(forward(model, setting.moved(x)), setting.moved(y))
        loss.backward()  # type: ignore[no-untyped-call]
        for name, layer in layers.items():
            gradient = layer.weight.grad
            if gradient is not None:
                sums[name] += (layer.weight.detach() * gradient).double().square()
    model.zero_grad(set_to_none=True)
    model.train(training)
    return {name: as_matrix(total, layers[name].groups).cpu() for name, total in sums.items()}


def layer_costs(
    model: nn.Module, layers: Mapping[str, Layer], target: Target, budget: Budget, example: tuple[torch.Tensor, ...]
) -> list[LayerCost]:
    """What one array position of each layer costs in the budget's currency, by the cost model of the dense mapping.

    Energy and area are those of what stands in an array (cells, converters): the rest does not shrink with the arrays.
    """
    shape = array_shape(target)
    price = dict.fromkeys(layers, 1.0)
    if budget.currency != "crossbars":
        every = find_layers(model)
        pairs: Sequence[tuple[str, str]] = ()
        build = compile(to_onnx(model, every, pairs, example), target, calibration="random")
        for name in layers:
            tiles = max(1, build.cost.layers[name].crossbars // shape.arrays_per_tile)
            price[name] = _array_parts(build, name, budget.currency) / tiles
    return [
        LayerCost(name, *layer.shape, positions=layer.positions, shape=shape, price=price[name])
        for name, layer in layers.items()
    ]


def _array_parts(build: Build, layer: str, currency: str) -> float:
    """Energy per inference, or area, of the parts that stand in the arrays of a layer."""
    parts = [part for part in build.target.components.values() if part.per is HierarchyUnit.ARRAY]
    arrays = build.cost.layers[layer].crossbars
    if currency == "area_m2":
        return arrays * sum(part.count * part.area_m2 for part in parts)
    counts = {event: count for name, event, count in build.cost.events if name == layer}
    dynamic = sum(part.energy_j * counts.get(part.event, 0.0) for part in parts if part.event is not None)
    idle_w = arrays * sum(part.count * part.static_power_w for part in parts)
    return dynamic + idle_w / build.cost.throughput_per_s


def channel_links(model: nn.Module, layers: Mapping[str, Layer], example: tuple[torch.Tensor, ...]) -> tuple[Link, ...]:
    """Channels that the searched layers write for each other: what one does not fill, the others need not read.

    Channels that anybody else writes or reads (a layer that is not searched, an output, an unknown operation) are left
    out: they count as read.
    """
    graph = trace(model, example)
    pinned = set(graph.pins)
    writers: dict[tuple[int, ...], list[str]] = {}
    for name, site in graph.layers.items():
        writers.setdefault(tuple(graph.classes[site.outputs].tolist()), []).append(name)
    links = []
    for channels, names in writers.items():
        found = [_reader(graph, name, channels) for name in graph.layers]
        readers = [reader for reader in found if reader is not None]
        others = any(
            set(channels) & set(graph.classes[graph.layers[name].inputs].tolist())
            for name in graph.layers
            if name not in {reader.layer for reader in readers}
        )
        searched = all(name in layers for name in (*names, *(reader.layer for reader in readers)))
        if readers and searched and not others and not pinned & set(channels):
            links.append(Link(tuple(names), tuple(readers)))
    return tuple(links)


def _reader(graph: ChannelGraph, name: str, channels: tuple[int, ...]) -> Reader | None:
    """How a layer reads channels: all of them, in order, each as equally many inputs; None where it does not."""
    site = graph.layers[name]
    reads = graph.classes[site.inputs].numpy()
    where = np.flatnonzero(reads == channels[0])
    if not len(where) or site.groups > 1:
        return None
    first, each = int(where[0]), len(where)
    if not np.array_equal(reads[first : first + each * len(channels)], np.repeat(channels, each)):
        return None
    return Reader(name, first * site.positions, each * site.positions)
