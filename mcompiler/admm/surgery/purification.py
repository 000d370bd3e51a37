"""Network purification: channels and filters that hold little energy are removed, though the projection kept them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mcompiler.admm.lowering import as_matrix
from mcompiler.admm.spec import Purify
from mcompiler.admm.surgery.dataflow import Support, complete_support
from mcompiler.admm.surgery.steps import ChannelGraph


def purify(model: nn.Module, graph: ChannelGraph, support: Support, options: Purify) -> dict[str, torch.Tensor]:
    """Drop channels and filters whose few remaining weights carry little energy (Ma et al., arXiv 1908.10017).

    A channel is dropped when at most ``options.columns`` of its rows are left and the sum of their squared weights is
    below ``options.energy`` times the mean over the remaining channels of its layer; a filter likewise, by its
    remaining weights, after channels have been dropped. The channel and the filter of most energy stay. Paths that
    become unused are for ``remove_unused`` to find.

    Args:
        model: with the weights; not changed.
        graph: its channels.
        support: layer -> bool [G, K, N], which weights may be non-zero; layers that are missing: those that are.
        options: thresholds; nothing is dropped where one of them is 0.

    Returns:
        The new support of every layer, on the device of its weights.
    """
    found = {}
    for name, mask in complete_support(graph, support, model).items():
        layer = graph.layers[name]
        weight: Any = model.get_submodule(name).weight
        energy = as_matrix(weight.detach().cpu().double().square(), layer.groups) * mask  # [G, K, N]
        groups, _, columns = layer.matrix
        by_row = energy.sum(dim=2).reshape(groups, -1, layer.positions)
        rows = mask.any(dim=2).reshape(groups, -1, layer.positions)
        weak = _find_weak(by_row.sum(dim=2), rows.sum(dim=2), options)  # [G, C]
        mask &= ~weak.repeat_interleave(layer.positions, dim=1)[:, :, None]
        weak = _find_weak((energy * mask).sum(dim=1), mask.sum(dim=1), options)  # [G, N]
        mask &= ~weak.reshape(groups, 1, columns)
        found[name] = mask.to(weight.device)
    return found


def _find_weak(energy: torch.Tensor, left: torch.Tensor, options: Purify) -> torch.Tensor:
    """Which channels or filters are dropped, bool.

    Args:
        energy: of each channel or filter.
        left: its number of remaining rows or weights.
        options: thresholds.
    """
    alive = left > 0
    if not options.columns or not options.energy or not alive.any():
        return torch.zeros_like(alive)
    weak = alive & (left <= options.columns) & (energy < options.energy * energy[alive].mean())
    weak.view(-1)[int(energy.argmax())] = False
    return weak
