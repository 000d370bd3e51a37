"""From projected weights to a smaller model: purification, removal of unused paths, masks of what is left."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mcompiler.admm.checkpoint import load_checkpoint, save_checkpoint
from mcompiler.admm.compressor import Compressor
from mcompiler.admm.lowering import as_matrix, as_weight
from mcompiler.admm.spec import Spec
from mcompiler.admm.surgery.channels import find_batchnorm_pairs, find_shared_inputs, trace
from mcompiler.admm.surgery.removal import clear_constant_biases, purify, remove_unused
from mcompiler.errors import CompileError


@dataclass(frozen=True)
class PrunedModel:
    """The model behind the hard projection.

    Attributes:
        model: physically smaller where paths were removed.
        compressor: of that model, projected with float weights.
        masks: what may be non-zero, by layer, in the weight's shape.
        pairs: (layer, batch normalisation behind it).
        shared: layers that read the same tensor, group by group.
        removed: channels and filters by layer, before and after, as plain values.
        stays: layer -> {why: how many}, of filters without weights that could not be removed.
    """

    model: nn.Module
    compressor: Compressor
    masks: Mapping[str, torch.Tensor]
    pairs: Sequence[tuple[str, str]]
    shared: Sequence[Sequence[str]]
    removed: Mapping[str, Any]
    stays: Mapping[str, Mapping[str, int]]


def prune(
    model: nn.Module, compressor: Compressor, example: tuple[torch.Tensor, ...], spec: Spec, file: Path | None
) -> PrunedModel:
    """Project for good, purify, remove unused paths.

    Args:
        model: with trained float weights; projected in place.
        compressor: of the model.
        example: an input.
        spec: what to purify, whether to remove paths.
        file: where the projected weights are kept for ``rebuild``; None: nowhere.

    Raises:
        CompileError: a layer of which nothing is left; a model that cannot be traced.
    """
    masks = compressor.masks()
    if spec.remove_paths:
        support = {name: as_matrix(mask, compressor.layers[name].groups) for name, mask in masks.items()}
        graph = trace(model, example)
        support |= purify(model, graph, support, spec.purify)  # layers that the trace does not follow keep their masks
        masks = {name: as_weight(support[name], mask.shape).to(mask.device) for name, mask in masks.items()}
    with torch.no_grad():
        for name, mask in masks.items():
            compressor.layers[name].weight.mul_(mask)
    if spec.remove_paths:
        clear_constant_biases(model, graph, support)
    if file is not None:
        save_checkpoint(file, {"fingerprint": "pruned", "model": model.state_dict(), "masks": dict(masks)})
    return small(model, compressor, example, masks, spec)


def rebuild(
    model: nn.Module, compressor: Compressor, example: tuple[torch.Tensor, ...], spec: Spec, file: Path
) -> PrunedModel:
    """What ``prune`` gave, from the weights that it kept."""
    state = load_checkpoint(file)
    model.load_state_dict(state["model"])
    device = next(model.parameters()).device
    return small(model, compressor, example, {name: mask.to(device) for name, mask in state["masks"].items()}, spec)


def small(
    model: nn.Module,
    compressor: Compressor,
    example: tuple[torch.Tensor, ...],
    masks: Mapping[str, torch.Tensor],
    spec: Spec,
) -> PrunedModel:
    """The model without unused paths, under a compressor of its own; deterministic."""
    if not spec.remove_paths:
        pairs, shared = _neighbours(model, example)
        compressor.project(masks, levels=False)
        return PrunedModel(model, compressor, masks, pairs, shared, {}, {})
    support = {name: as_matrix(mask, compressor.layers[name].groups) for name, mask in masks.items()}
    removal = remove_unused(model, example, support)
    kept = {
        name: as_weight(removal.support[name], removal.model.get_submodule(name).weight.shape)  # type: ignore[arg-type]
        for name in masks
        if name in removal.kept
    }
    gone = [name for name in compressor.layers if name not in removal.kept]
    structures = {name: entry for name, entry in compressor.structures.items() if name not in gone}
    skip = tuple(name for name in spec.skip if name in removal.kept)
    inner = Compressor(removal.model, compressor.target, dataclasses.replace(spec, layers={}, skip=skip), structures)
    graph = trace(removal.model, example)  # before the projection: parametrised layers are not known to it
    kept = inner.fitted(kept)
    inner.project(kept, levels=False)
    stays = {name: dict(Counter(reasons.values())) for name, reasons in removal.pinned.items()}
    pairs, shared = find_batchnorm_pairs(graph), find_shared_inputs(graph)
    return PrunedModel(removal.model, inner, kept, pairs, shared, removal.as_table(), stays)


def _neighbours(
    model: nn.Module, example: tuple[torch.Tensor, ...]
) -> tuple[Sequence[tuple[str, str]], Sequence[Sequence[str]]]:
    """Normalisations behind layers, and layers that read one tensor, of a model that may resist tracing: then none.

    Such a model is exact all the same; its normalisations stay digital.
    """
    try:
        graph = trace(model, example)
    except CompileError:
        return (), ()
    return find_batchnorm_pairs(graph), find_shared_inputs(graph)
