"""From projected weights to a smaller model: purification, removal of unused paths, masks of the remaining weights."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mcompiler.admm.agreement import check_same_outputs
from mcompiler.admm.checkpoint import load_checkpoint, save_checkpoint
from mcompiler.admm.compressor import Compressor
from mcompiler.admm.inputs import Inputs
from mcompiler.admm.lowering import as_matrix, as_weight
from mcompiler.admm.spec import Spec
from mcompiler.admm.surgery.channels import find_batchnorm_pairs, find_shared_inputs, trace
from mcompiler.admm.surgery.purification import purify
from mcompiler.admm.surgery.removal import clear_constant_biases, remove_unused
from mcompiler.errors import CompileError


@dataclass(frozen=True)
class PrunedModel:
    """The model after the hard projection.

    Attributes:
        model: physically smaller where paths were removed.
        compressor: of that model, projected with float weights.
        masks: which weights may be non-zero, by layer, bool in the weight's shape.
        batchnorm_pairs: (layer, batch normalisation that follows it).
        shared_inputs: groups of layers that read the same tensor.
        removed: channels and filters by layer, before and after, as plain values.
        pinned_filters: layer -> {reason: number} of filters without weights that could not be removed.
    """

    model: nn.Module
    compressor: Compressor
    masks: Mapping[str, torch.Tensor]
    batchnorm_pairs: Sequence[tuple[str, str]]
    shared_inputs: Sequence[Sequence[str]]
    removed: Mapping[str, Any] = field(default_factory=dict)
    pinned_filters: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def prune(
    model: nn.Module,
    compressor: Compressor,
    example: Inputs,
    spec: Spec,
    file: Path | None,
    *,
    settle: Callable[[nn.Module], None] = lambda model: None,
) -> PrunedModel:
    """Project the weights, purify, remove unused paths.

    Args:
        model: with trained float weights; projected in place.
        compressor: of the model.
        example: an input.
        spec: thresholds of purification, whether to remove paths.
        file: where the projected weights are saved for ``restore_pruned``; None: nowhere.
        settle: estimates batch statistics anew, called when the weights are projected.

    Raises:
        CompileError: a layer without remaining weights; a model that cannot be traced.
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
    settle(model)
    if spec.remove_paths:
        clear_constant_biases(model, graph, support)
    if file is not None:
        save_checkpoint(file, {"fingerprint": "pruned", "model": model.state_dict(), "masks": dict(masks)})
    return _build_pruned_model(model, compressor, example, masks, spec)


def restore_pruned(model: nn.Module, compressor: Compressor, example: Inputs, spec: Spec, file: Path) -> PrunedModel:
    """The result of ``prune``, from the weights that it saved."""
    state = load_checkpoint(file)
    model.load_state_dict(state["model"])
    device = next(model.parameters()).device
    return _build_pruned_model(
        model, compressor, example, {name: mask.to(device) for name, mask in state["masks"].items()}, spec
    )


def _build_pruned_model(
    model: nn.Module,
    compressor: Compressor,
    example: Inputs,
    masks: Mapping[str, torch.Tensor],
    spec: Spec,
) -> PrunedModel:
    """The model without unused paths, and a compressor for it; deterministic, so that a resumed run gets the same."""
    if not spec.remove_paths:
        pairs, shared = _find_neighbours(model, example)
        compressor.project(masks, levels=False)
        return PrunedModel(model, compressor, masks, pairs, shared)
    support = {name: as_matrix(mask, compressor.layers[name].groups) for name, mask in masks.items()}
    removal = remove_unused(model, example, support)
    check_same_outputs(model, removal.model, example)
    kept = {
        name: as_weight(removal.support[name], removal.model.get_submodule(name).weight.shape)  # type: ignore[arg-type]
        for name in masks
        if name in removal.kept
    }
    removed = [name for name in compressor.layers if name not in removal.kept]
    structures = {name: entry for name, entry in compressor.structures.items() if name not in removed}
    skip = tuple(name for name in spec.skip if name in removal.kept)
    inner = Compressor(removal.model, compressor.target, dataclasses.replace(spec, layers={}, skip=skip), structures)
    graph = trace(removal.model, example)  # before the projection: the trace does not follow parametrised layers
    kept = inner.fit_masks(kept)
    inner.project(kept, levels=False)
    pinned_filters = {name: dict(Counter(reasons.values())) for name, reasons in removal.pinned.items()}
    pairs, shared = find_batchnorm_pairs(graph), find_shared_inputs(graph)
    return PrunedModel(
        model=removal.model,
        compressor=inner,
        masks=kept,
        batchnorm_pairs=pairs,
        shared_inputs=shared,
        removed=removal.as_table(),
        pinned_filters=pinned_filters,
    )


def _find_neighbours(model: nn.Module, example: Inputs) -> tuple[Sequence[tuple[str, str]], Sequence[Sequence[str]]]:
    """Pairs (layer, batch normalisation) and groups of layers with the same input; none where tracing fails.

    The export of such a model is exact too; its normalisations stay digital.
    """
    try:
        graph = trace(model, example)
    except CompileError:
        return (), ()
    return find_batchnorm_pairs(graph), find_shared_inputs(graph)
