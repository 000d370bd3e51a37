"""Search for structures under a budget of whole crossbars, or of the energy or area that they cost.

A layer of one group may keep whole row blocks and column blocks: with r x c tiles it keeps the r * rows most important
rows and the c * columns most important filters. For every r and c of a layer the largest importance that can be kept is
found once (rows and columns are chosen in turns, each given the other); then one r x c is chosen per layer, so that the
total importance is largest within the budget. That is a multiple-choice knapsack problem. It is solved exactly, by the
Pareto front of (spent, kept) over the layers. So a larger budget never keeps less, and no rule that chooses from the
same r x c tables (all layers alike, one tile at a time) keeps more.

Layers of several groups keep whole tiles, the most important ones.

Pruning by saliency: LeCun et al., Optimal Brain Damage, NIPS 1989. The front: Kellerer, Pferschy and Pisinger, Knapsack
Problems, 2004, chapter 11.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mcompiler.admm.choices import (
    ChoiceTable,
    Floats,
    Ints,
    LayerCost,
    TileChoice,
    find_kept_weights,
    list_choices,
    make_structure,
)
from mcompiler.admm.spec import Structure
from mcompiler.errors import CompileError

__all__ = ["BudgetPlan", "ChannelReader", "LayerCost", "SharedChannels", "search"]

MAX_FRONT = 16_384
"""Points of the front, at most. With more distinct sums (prices without a common unit) the front is thinned."""

MAX_ROUNDS = 8
"""Searches after the first, at most, where layers share channels; VGG-16 takes two to four."""

SLACK = 1e-9
"""Relative rounding error of sums of prices."""


@dataclass(frozen=True)
class ChannelReader:
    """A layer that reads shared channels: channel j is the rows from ``first + j * rows`` on, ``rows`` of them.

    Attributes:
        layer: its name.
        first: row where channel 0 begins, counted over all groups; above 0 where layers are concatenated.
        rows: number of rows of a channel; None: the kernel positions of the layer. After a Flatten a channel has one
            row per pixel.
    """

    layer: str
    first: int = 0
    rows: int | None = None


@dataclass(frozen=True)
class SharedChannels:
    """Output channels of layers that are input channels of others.

    A channel that no layer writes needs no rows in its readers; a channel that no layer reads needs no filters.

    Attributes:
        writers: layers whose filter j writes (adds to) channel j.
        readers: all layers that read these channels.
    """

    writers: tuple[str, ...]
    readers: tuple[ChannelReader, ...]


@dataclass(frozen=True)
class BudgetPlan:
    """A structure for each layer.

    Attributes:
        structures: by layer.
        tiles: array positions that each layer keeps.
        spent: cost of the plan.
        floor: cost of one position in each layer.
        dense: cost of all positions of all layers.
        kept: importance that is kept, as a fraction of all.
    """

    structures: dict[str, Structure]
    tiles: dict[str, int]
    spent: float
    floor: float
    dense: float
    kept: float


def search(
    layers: Sequence[LayerCost],
    importance: Mapping[str, Tensor],
    budget: float,
    *,
    shared: Sequence[SharedChannels] = (),
    unit: str = "",
) -> BudgetPlan:
    """Find the structures within a budget that keep the most importance.

    Args:
        layers: the layers that share the budget.
        importance: of each weight of each layer, not negative, [G, K, N]; its sums must be comparable between layers.
        budget: in the currency of the prices.
        shared: channels that layers share. Weights that a plan makes useless (rows whose channel no layer writes,
            filters that no layer reads) get importance 0 and the search is repeated, until a plan makes no further
            weights useless (a heuristic: the best plan of all rounds is returned).
        unit: of the prices, for messages.

    Returns:
        A plan of at most ``budget`` (within rounding), with at least one array position in each layer.

    Raises:
        CompileError: the budget is below the floor; a price or an importance is negative, not finite or missing; shared
            channels do not fit their layers.
    """
    _check(layers, importance)
    _check_shared(layers, shared)
    floor, dense = (float(sum(costs)) for costs in zip(*((x.floor, x.price * x.tiles) for x in layers), strict=True))
    if not budget >= floor * (1 - SLACK):
        given, least = (f"{value:g} {unit}".rstrip() for value in (budget, floor))
        raise CompileError(
            f"a budget of {given} is below {least}, the cost of one array position in each layer that is "
            f"searched; give at least {least}, or search fewer layers"
        )
    if dense <= budget * (1 + SLACK):
        return BudgetPlan(
            structures={layer.name: Structure() for layer in layers},
            tiles={layer.name: layer.tiles for layer in layers},
            spent=dense,
            floor=floor,
            dense=dense,
            kept=1.0,
        )
    weights = _normalise(layers, importance)
    total = sum(float(weight.sum(dtype=torch.float64)) for weight in weights.values()) or 1.0
    front, kept = _search_rounds(layers, weights, budget, shared)
    return BudgetPlan(
        structures={layer.name: make_structure(layer, front.chosen[layer.name]) for layer in layers},
        tiles={name: choice.tiles for name, choice in front.chosen.items()},
        spent=float(front.cost[-1]),
        floor=floor,
        dense=dense,
        kept=min(kept / total, 1.0) if shared else min(float(front.value[-1]) / total, 1.0),
    )


def _check(layers: Sequence[LayerCost], importance: Mapping[str, Tensor]) -> None:
    if not layers:
        raise CompileError("there is no layer to spend a budget on; give at least one")
    for layer in layers:
        if not 0 <= layer.price < math.inf:
            raise CompileError(f"its price {layer.price:g} is negative or not finite; give 0 or more", layer.name)
        weight = importance.get(layer.name)
        shape = (layer.groups, layer.rows, layer.columns)
        if weight is None or tuple(weight.shape) != shape:
            given = "none" if weight is None else f"shape {tuple(weight.shape)}"
            raise CompileError(
                f"its importance must have shape {shape} and has {given}; give one per weight", layer.name
            )
        if not bool((weight >= 0).all() & torch.isfinite(weight).all()):
            raise CompileError(
                "its importance is negative or not finite; the model or its gradients diverged", layer.name
            )


def _check_shared(layers: Sequence[LayerCost], shared: Sequence[SharedChannels]) -> None:
    sizes = {layer.name: layer for layer in layers}
    for channels in shared:
        for name in (*channels.writers, *(reader.layer for reader in channels.readers)):
            if name not in sizes:
                raise CompileError(
                    "shares channels and is not searched; leave out shared channels of layers that have no price", name
                )
        counts = {sizes[name].groups * sizes[name].columns for name in channels.writers}
        if len(counts) != 1:
            raise CompileError(
                f"layers {', '.join(channels.writers)} share channels and write {sorted(counts)} of them; they must "
                "agree"
            )
        for reader in channels.readers:
            layer = sizes[reader.layer]
            end = reader.first + min(counts) * (reader.rows or layer.positions)
            if end > layer.groups * layer.rows:
                raise CompileError(
                    f"reads shared channels in {end} rows and has {layer.groups * layer.rows}", reader.layer
                )


def _search_rounds(
    layers: Sequence[LayerCost], weights: dict[str, Tensor], budget: float, shared: Sequence[SharedChannels]
) -> tuple[_ParetoFront, float]:
    """The best front of all rounds, and the importance that its best plan keeps.

    Weights that a plan makes useless in layers with shared channels have no importance in the next round.
    """
    dense = {layer.name: TileChoice(layer.tiles) for layer in layers}
    while useless := _reduce_importance(layers, weights, dense, shared):
        weights = weights | useless
    initial = weights
    spare = budget * (1 + SLACK) - sum(layer.floor for layer in layers)
    options = {
        layer.name: list_choices(layer, weights[layer.name], _compute_max_tiles(layer, spare)) for layer in layers
    }
    front = _find_front(layers, options, budget)
    best, most = front, _sum_kept(layers, weights, front.chosen, shared)
    for _ in range(MAX_ROUNDS if shared else 0):
        reduced = _reduce_importance(layers, weights, front.chosen, shared)
        if not reduced:
            break
        weights = weights | reduced
        changed = [layer for layer in layers if layer.name in reduced]
        options |= {
            layer.name: list_choices(layer, reduced[layer.name], _compute_max_tiles(layer, spare)) for layer in changed
        }
        front = _find_front(layers, options, budget)
        kept = _sum_kept(layers, initial, front.chosen, shared)
        if kept >= most:
            best, most = front, kept
    return best, most


def _sum_kept(
    layers: Sequence[LayerCost],
    weights: Mapping[str, Tensor],
    chosen: Mapping[str, TileChoice],
    shared: Sequence[SharedChannels],
) -> float:
    """Importance that a plan keeps, without the weights that it makes useless."""
    remaining = dict(weights)
    while reduced := _reduce_importance(layers, remaining, chosen, shared):
        remaining |= reduced
    total = 0.0
    for layer in layers:
        weight = remaining[layer.name]
        total += float(weight[find_kept_weights(layer, weight, chosen[layer.name])].sum(dtype=torch.float64))
    return total


def _compute_max_tiles(layer: LayerCost, spare: float) -> int:
    """Largest number of array positions of a layer, where ``spare`` is left above the floor of all layers."""
    return 1 + min(layer.tiles, max(0, math.ceil(spare / layer.price))) if layer.price else layer.tiles


def _normalise(layers: Sequence[LayerCost], importance: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Importance in units of the largest one, so that float32 can hold it."""
    peak = max(float(importance[layer.name].max()) for layer in layers) or 1.0
    return {layer.name: (importance[layer.name].detach().cpu().double() / peak).float() for layer in layers}


# --- all layers together ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ParetoFront:
    """Plans of which none keeps less than a cheaper one, cheapest first, and the choices of the last."""

    cost: Floats
    value: Floats
    chosen: dict[str, TileChoice]


def _find_front(layers: Sequence[LayerCost], options: Mapping[str, ChoiceTable], budget: float) -> _ParetoFront:
    """All plans within a budget of which none keeps less than a cheaper one."""
    limit = budget * (1 + SLACK)
    dense = sum(layer.price * layer.tiles for layer in layers)
    cost, value = np.zeros(1), np.zeros(1)
    origins: list[tuple[Ints, Ints]] = []
    for index, layer in enumerate(layers):
        option = options[layer.name]
        # Every plan of the layers so far with every choice of this layer. A plan must leave enough for at least the
        # floor of the remaining layers, so the last layer always has a choice.
        rest = sum(other.floor for other in layers[index + 1 :])
        sums = (cost[:, None] + layer.price * option.tiles).ravel()
        gains = (value[:, None] + option.value).ravel()
        fits = np.flatnonzero(sums + rest <= limit)
        # In order of cost (of equal cost the more valuable first), a plan stays only if it keeps more than all before
        # it. A dominated plan cannot become the best one: the layers to come add the same to both.
        order = fits[np.lexsort((-gains[fits], sums[fits]))]
        best = np.maximum.accumulate(gains[order])
        order = order[np.r_[True, best[1:] > best[:-1]]]
        order = order[_thin(sums[order], dense)]
        cost, value = sums[order], gains[order]
        origins.append((order // len(option.tiles), order % len(option.tiles)))
    # Walk back from the plan that keeps most: each point knows the point it extends and this layer's choice.
    chosen: dict[str, TileChoice] = {}
    point = len(cost) - 1
    for layer, (before, which) in zip(reversed(layers), reversed(origins), strict=True):
        chosen[layer.name] = options[layer.name].choices[int(which[point])]
        point = int(before[point])
    return _ParetoFront(cost, value, {layer.name: chosen[layer.name] for layer in layers})


def _thin(cost: Floats, dense: float) -> Ints:
    """Indices of at most about MAX_FRONT points: the cheapest, and the last in each of equal intervals of cost."""
    if len(cost) <= MAX_FRONT:
        return np.arange(len(cost))
    interval = np.floor(cost / dense * MAX_FRONT)
    return np.flatnonzero(np.r_[True, interval[1:-1] != interval[2:], True])


# --- channels that layers share --------------------------------------------------------------------------------------


def _reduce_importance(
    layers: Sequence[LayerCost],
    weights: Mapping[str, Tensor],
    chosen: Mapping[str, TileChoice],
    shared: Sequence[SharedChannels],
) -> dict[str, Tensor]:
    """New importance of layers in which a plan keeps useless weights, 0 for these.

    Useless are rows of a channel that no layer writes; where there are none, filters of a channel that no layer reads.
    """
    kept = {layer.name: find_kept_weights(layer, weights[layer.name], chosen[layer.name]) for layer in layers}
    unwritten, unread = ({name: torch.zeros_like(mask) for name, mask in kept.items()} for _ in range(2))
    positions = {layer.name: layer.positions for layer in layers}
    for channels in shared:
        written = torch.stack([kept[name].any(dim=1).flatten() for name in channels.writers]).any(dim=0)  # [channels]
        read = torch.zeros_like(written)
        for reader in channels.readers:
            size = reader.rows or positions[reader.layer]
            rows = slice(reader.first, reader.first + len(written) * size)
            read |= kept[reader.layer].any(dim=2).flatten()[rows].reshape(-1, size).any(dim=1)
            unwritten[reader.layer].flatten(0, 1)[rows] |= ~written.repeat_interleave(size)[:, None]
        for name in channels.writers:
            unread[name] |= ~read.reshape(len(kept[name]), 1, -1)
    # One kind at a time: the next round may keep other weights once the first kind has lost its importance. Both at
    # once could remove the writer and the reader of a channel that either of them alone would have kept.
    for useless in (unwritten, unread):
        changed = [name for name in kept if bool((useless[name] & kept[name]).any())]
        if changed:
            return {name: weights[name].masked_fill(useless[name], 0.0) for name in changed}
    return {}
