"""Search for structures under a budget of whole crossbars, or of the energy or area that they cost.

A layer of one group may keep whole row blocks and column blocks: with r x c tiles left it keeps the r * rows most
important rows and the c * columns most important filters. For every r and c of a layer the importance that is kept is
found once (rows and columns are chosen in turns, which each other's choice improves); then one r x c is picked per
layer, for the largest importance kept in total that the budget allows. That is a multiple-choice knapsack problem, and
it is solved exactly, by the front of (spent, kept) over the layers seen so far. So a larger budget never keeps less,
and no rule that picks from the same r x c tables (all layers alike, one tile at a time) keeps more.

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

__all__ = ["LayerCost", "Link", "Plan", "Reader", "search"]

FRONT = 16_384
"""Points of the front that are kept. More distinct sums than that (prices without a common unit) are thinned."""
LINK_ROUNDS = 8
"""Searches at most after the first, where layers are linked; VGG-16 takes two to four."""
SLACK = 1e-9
"""Relative rounding of sums of prices."""


@dataclass(frozen=True)
class ChannelReader:
    """A layer that reads linked channels: channel j is rows ``first + j * rows`` and on, ``rows`` of them, of all rows.

    Attributes:
        layer: its name.
        first: row where channel 0 begins, counted over all groups; above 0 where layers are concatenated.
        rows: of a channel; None: its kernel positions. The pixels of a channel behind a Flatten.
    """

    layer: str
    first: int = 0
    rows: int | None = None


@dataclass(frozen=True)
class SharedChannels:
    """Output channels that are the input channels of others: what none writes needs no rows, what none reads no filter.

    Attributes:
        writers: layers whose filter j writes (adds to) channel j.
        readers: all layers that read these channels.
    """

    writers: tuple[str, ...]
    readers: tuple[ChannelReader, ...]


@dataclass(frozen=True)
class BudgetPlan:
    """What each layer may keep.

    Attributes:
        structures: by layer.
        tiles: array positions that each layer keeps.
        spent, floor, dense: cost of the plan, of one position in each layer that is not fixed, of all that there is.
        kept: importance that is kept, as a share of all.
        trace: (spent, kept) of every plan on the way to the budget that is worth its cost, cheapest first; with links,
            of the last round.
    """

    structures: dict[str, Structure]
    tiles: dict[str, int]
    spent: float
    floor: float
    dense: float
    kept: float
    trace: tuple[tuple[float, float], ...]


def search(
    layers: Sequence[LayerCost],
    importance: Mapping[str, Tensor],
    budget: float,
    *,
    links: Sequence[SharedChannels] = (),
    unit: str = "",
) -> BudgetPlan:
    """Spend a budget where it keeps most importance.

    Args:
        layers: the layers that share the budget.
        importance: of each weight of each layer, not negative, [G, K, N]; its sums must be comparable between layers.
        budget: in the currency of the prices.
        links: channels that layers share. What a plan cuts off (rows whose channel nobody writes, filters that nobody
            reads) then counts nothing and the search is repeated, until a plan cuts off nothing more (a heuristic: the
            best plan of all rounds is taken).
        unit: of the prices, for messages.

    Returns:
        A plan of at most ``budget`` (within rounding), with at least one array position in each layer.

    Raises:
        CompileError: the budget is below the floor; a price or an importance is negative, not finite or missing; a link
            does not fit its layers.
    """
    _check(layers, importance, links)
    floor, dense = (float(sum(costs)) for costs in zip(*((x.floor, x.price * x.tiles) for x in layers), strict=True))
    if not budget >= floor * (1 - SLACK):
        given, least = (f"{value:g} {unit}".rstrip() for value in (budget, floor))
        raise CompileError(
            f"a budget of {given} is below {least}, the cost of one array position in each layer that is searched "
            f"and of all that fixed layers have; give at least {least}, or search fewer layers"
        )
    if dense <= budget * (1 + SLACK):
        free, tiles = {layer.name: Structure() for layer in layers}, {layer.name: layer.tiles for layer in layers}
        return BudgetPlan(free, tiles, dense, floor, dense, 1.0, ((dense, 1.0),))
    weights = _scaled(layers, importance)
    total = sum(float(weight.sum(dtype=torch.float64)) for weight in weights.values()) or 1.0
    front, worth = _spend(layers, weights, budget, links)
    trace = tuple(zip(front.cost.tolist(), np.minimum(front.value / total, 1.0).tolist(), strict=True))
    return BudgetPlan(
        {layer.name: make_structure(layer, front.chosen[layer.name]) for layer in layers},
        {name: choice.tiles for name, choice in front.chosen.items()},
        *(trace[-1][0], floor, dense, min(worth / total, 1.0) if links else trace[-1][1], trace),
    )


def _check(layers: Sequence[LayerCost], importance: Mapping[str, Tensor], links: Sequence[SharedChannels]) -> None:
    if not layers:
        raise CompileError("there is no layer to spend a budget on; give at least one")
    for layer in layers:
        if not 0 <= layer.price < math.inf:
            raise CompileError(f"its price {layer.price:g} is negative or not finite; give 0 or more", layer.name)
        weight = importance.get(layer.name)
        shape = (layer.groups, layer.rows, layer.columns)
        if weight is None or tuple(weight.shape) != shape:
            what = "none" if weight is None else f"shape {tuple(weight.shape)}"
            raise CompileError(
                f"its importance must have shape {shape} and has {what}; give one per weight", layer.name
            )
        if not bool((weight >= 0).all() & torch.isfinite(weight).all()):
            raise CompileError(
                "its importance is negative or not finite; the model or its gradients diverged", layer.name
            )
    sizes = {layer.name: layer for layer in layers}
    for link in links:
        for name in (*link.writers, *(reader.layer for reader in link.readers)):
            if name not in sizes:
                raise CompileError("is linked and not searched; leave out links of layers that have no price", name)
        channels = {sizes[name].groups * sizes[name].columns for name in link.writers}
        if len(channels) != 1:
            raise CompileError(
                f"linked layers {', '.join(link.writers)} write {sorted(channels)} channels; they must agree"
            )
        for reader in link.readers:
            layer = sizes[reader.layer]
            end = reader.first + channels.copy().pop() * (reader.rows or layer.positions)
            if end > layer.groups * layer.rows:
                raise CompileError(f"is linked by {end} rows and has {layer.groups * layer.rows}", reader.layer)


def _spend(
    layers: Sequence[LayerCost], weights: dict[str, Tensor], budget: float, links: Sequence[SharedChannels]
) -> tuple[_Front, float]:
    """Plans within the budget; what they cut off from linked layers counts nothing."""
    everything = {layer.name: TileChoice(layer.tiles) for layer in layers}
    while useless := _cut_off(layers, weights, everything, links):
        weights = weights | useless
    everywhere = weights
    spare = budget * (1 + SLACK) - sum(layer.floor for layer in layers)
    options = {layer.name: list_choices(layer, weights[layer.name], _affordable(layer, spare)) for layer in layers}
    front = _front(layers, options, budget)
    best, most = front, _worth(layers, weights, front.chosen, links)
    for _ in range(LINK_ROUNDS if links else 0):
        cut = _cut_off(layers, weights, front.chosen, links)
        if not cut:
            break
        weights = weights | cut
        changed = [layer for layer in layers if layer.name in cut]
        options |= {layer.name: list_choices(layer, cut[layer.name], _affordable(layer, spare)) for layer in changed}
        front = _front(layers, options, budget)
        worth = _worth(layers, everywhere, front.chosen, links)
        if worth >= most:
            best, most = front, worth
    return best, most


def _worth(
    layers: Sequence[LayerCost],
    weights: Mapping[str, Tensor],
    chosen: Mapping[str, TileChoice],
    links: Sequence[SharedChannels],
) -> float:
    """Importance that a plan keeps once everything that it cuts off from linked layers is gone."""
    held = dict(weights)
    while cut := _cut_off(layers, held, chosen, links):
        held |= cut
    return sum(
        float(held[layer.name][find_kept_weights(layer, held[layer.name], chosen[layer.name])].sum(dtype=torch.float64))
        for layer in layers
    )


def _affordable(layer: LayerCost, spare: float) -> int:
    """Array positions of a layer, at most, where ``spare`` is left above the floor of all layers."""
    return 1 + min(layer.tiles, max(0, math.ceil(spare / layer.price))) if layer.price else layer.tiles


def _scaled(layers: Sequence[LayerCost], importance: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Importance in units of the largest one, so that float32 holds it."""
    peak = max(float(importance[layer.name].max()) for layer in layers) or 1.0
    return {layer.name: (importance[layer.name].detach().cpu().double() / peak).float() for layer in layers}


# --- what all layers can keep together -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Front:
    """Plans that are worth their cost, cheapest first, and the choices of the last, which keeps most."""

    cost: Floats
    value: Floats
    chosen: dict[str, TileChoice]


def _front(layers: Sequence[LayerCost], options: Mapping[str, ChoiceTable], budget: float) -> _Front:
    """All plans within a budget of which none keeps less than a cheaper one."""
    limit = budget * (1 + SLACK)
    dense = sum(layer.price * layer.tiles for layer in layers)
    cost, value = np.zeros(1), np.zeros(1)
    back: list[tuple[Ints, Ints]] = []
    for index, layer in enumerate(layers):
        option = options[layer.name]
        rest = sum(other.floor for other in layers[index + 1 :])
        sums = (cost[:, None] + layer.price * option.tiles).ravel()
        gains = (value[:, None] + option.value).ravel()
        fits = np.flatnonzero(sums + rest <= limit)
        order = fits[np.lexsort((-gains[fits], sums[fits]))]
        best = np.maximum.accumulate(gains[order])
        order = order[np.r_[True, best[1:] > best[:-1]]]
        order = order[_thinned(sums[order], dense)]
        cost, value = sums[order], gains[order]
        back.append((order // len(option.tiles), order % len(option.tiles)))
    chosen: dict[str, TileChoice] = {}
    point = len(cost) - 1
    for layer, (before, which) in zip(reversed(layers), reversed(back), strict=True):
        chosen[layer.name] = options[layer.name].choices[int(which[point])]
        point = int(before[point])
    return _Front(cost, value, {layer.name: chosen[layer.name] for layer in layers})


def _thinned(cost: Floats, dense: float) -> Ints:
    """Indices of at most about FRONT points: the cheapest, and the last of each equal share of the dense cost."""
    if len(cost) <= FRONT:
        return np.arange(len(cost))
    share = np.floor(cost / dense * FRONT)
    return np.flatnonzero(np.r_[True, share[1:-1] != share[2:], True])


# --- channels that layers share --------------------------------------------------------------------------------------


def _cut_off(
    layers: Sequence[LayerCost],
    weights: Mapping[str, Tensor],
    chosen: Mapping[str, TileChoice],
    links: Sequence[SharedChannels],
) -> dict[str, Tensor]:
    """New importance of the layers in which a plan keeps rows that nobody writes or filters that nobody reads."""
    kept = {layer.name: find_kept_weights(layer, weights[layer.name], chosen[layer.name]) for layer in layers}
    unwritten, unread = ({name: torch.zeros_like(mask) for name, mask in kept.items()} for _ in range(2))
    positions = {layer.name: layer.positions for layer in layers}
    for link in links:
        written = torch.stack([kept[name].any(dim=1).flatten() for name in link.writers]).any(dim=0)  # [channels]
        read = torch.zeros_like(written)
        for reader in link.readers:
            size = reader.rows or positions[reader.layer]
            rows = slice(reader.first, reader.first + len(written) * size)
            read |= kept[reader.layer].any(dim=2).flatten()[rows].reshape(-1, size).any(dim=1)
            unwritten[reader.layer].flatten(0, 1)[rows] |= ~written.repeat_interleave(size)[:, None]
        for name in link.writers:
            unread[name] |= ~read.reshape(len(kept[name]), 1, -1)
    for dead in (unwritten, unread):  # one after the other: cutting off both sides at once may leave none
        lost = [name for name in kept if bool((dead[name] & kept[name]).any())]
        if lost:
            return {name: weights[name].masked_fill(dead[name], 0.0) for name in lost}
    return {}
