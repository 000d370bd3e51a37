"""Network purification: what carries next to nothing goes, though the projection left it."""

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

    A channel goes when at most ``options.columns`` of its rows are left and the sum of their squared weights is below
    ``options.energy`` times the mean over the channels of its layer that are left; a filter likewise, by its remaining
    weights. Filters are judged by what the channels leave. The strongest channel and filter of a layer stay. What the
    smaller masks make unused is for ``remove_unused`` to find.

    Args:
        model: whose weights to judge; not changed.
        graph: its channels.
        support: layer -> bool [G, K, N], what may be other than zero; layers that are missing: what is.
        options: thresholds; nothing goes where one of them is 0.

    Returns:
        The new support of every layer, on the device of its weights.
    """
    found = {}
    for name, mask in complete_support(graph, support, model).items():
        site = graph.layers[name]
        weight: Any = model.get_submodule(name).weight
        energy = as_matrix(weight.detach().cpu().double().square(), site.groups) * mask  # [G, K, N]
        groups, _, columns = site.matrix
        by_row = energy.sum(dim=2).reshape(groups, -1, site.positions)
        rows = mask.any(dim=2).reshape(groups, -1, site.positions)
        weak = _weak(by_row.sum(dim=2), rows.sum(dim=2), options)  # [G, C]
        mask &= ~weak.repeat_interleave(site.positions, dim=1)[:, :, None]
        weak = _weak((energy * mask).sum(dim=1), mask.sum(dim=1), options)  # [G, N]
        mask &= ~weak.reshape(groups, 1, columns)
        found[name] = mask.to(weight.device)
    return found


def _weak(energy: torch.Tensor, left: torch.Tensor, options: Purify) -> torch.Tensor:
    """What goes, bool like ``left``, the numbers of remaining rows or weights."""
    alive = left > 0
    if not options.columns or not options.energy or not alive.any():
        return torch.zeros_like(alive)
    weak = alive & (left <= options.columns) & (energy < options.energy * energy[alive].mean())
    weak.view(-1)[int(energy.argmax())] = False
    return weak
