"""Unused path removal: what nobody fills or nobody reads goes, and the model becomes smaller for real.

Ma et al., ASP-DAC 2020, arXiv 1908.10017: a pruned filter makes the next layers' channel removable, a pruned channel
the previous layers' filter. A filter that is pruned still leaves a constant (its bias, the shift of a normalisation,
what an activation makes of them). Where that is zero the channel goes; where all that read it are products or unpadded
convolutions, what they make of it goes into their bias, exactly; elsewhere the channel stays and is reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mcompiler.admm.lowering import MAPPED_MODULES, CompressibleLayer
from mcompiler.admm.surgery.channels import trace
from mcompiler.admm.surgery.dataflow import ChannelAnalysis, Support, analyse, find_channel_reads, folds
from mcompiler.admm.surgery.operators import OpKind
from mcompiler.admm.surgery.purification import purify
from mcompiler.admm.surgery.rewriting import RemovalPlan, rebuild
from mcompiler.admm.surgery.slicing import LayerSlice
from mcompiler.admm.surgery.steps import ChannelGraph
from mcompiler.errors import CompileError

__all__ = ["Dead", "Kept", "Removal", "clear_constant_biases", "purify", "remove_unused", "unused"]


@dataclass(frozen=True, eq=False)
class UnusedPaths:
    """What can go.

    Attributes:
        filters: layer -> bool [G * N], filters whose channel can be removed everywhere.
        channels: layer -> bool [G * C], input channels likewise.
        support: layer -> bool [G, K, N], weights that still do something (may be less than what was given).
        pinned: layer -> {filter without weights that has to stay: why}.
        folded: layer -> bool [G * C], channels that go although they are a constant other than zero: what the layer
            makes of them goes into its bias.
    """

    filters: Mapping[str, torch.Tensor]
    channels: Mapping[str, torch.Tensor]
    support: Mapping[str, torch.Tensor]
    pinned: Mapping[str, Mapping[int, str]]
    folded: Mapping[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class RemovalResult:
    """A smaller model.

    Attributes:
        model: a torch.fx.GraphModule; layers have the names that they had, and the mode that they had.
        support: layer -> bool [G, K, N] of the small layers: what may be other than zero.
        kept: layer -> what stayed of it; a layer that vanished is missing.
        before: layer -> filters and input channels (features) before.
        folded: layer -> how many constant channels went into its bias.
        pinned: layer -> {filter without weights that had to stay: why}.
    """

    model: fx.GraphModule
    support: Mapping[str, torch.Tensor]
    kept: Mapping[str, LayerSlice]
    before: Mapping[str, tuple[int, int]]
    folded: Mapping[str, int]
    pinned: Mapping[str, Mapping[int, str]]

    def sliced(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """What the small layer has of a tensor [G, K, N], or of one in its weight's shape (mask, dual, moment)."""
        return self.kept[name].slice(tensor)

    def as_table(self) -> dict[str, dict[str, list[int]]]:
        """Plain values: filters and channels before and after, by layer."""
        return {
            name: {
                "filters": [filters, len(self.kept[name].filters) if name in self.kept else 0],
                "channels": [channels, len(self.kept[name].channels) if name in self.kept else 0],
            }
            for name, (filters, channels) in self.before.items()
        }


def unused(graph: ChannelGraph, support: Support, model: nn.Module | None = None) -> UnusedPaths:
    """Find what can go, until nothing more follows; nothing is changed.

    Args:
        graph: of the model.
        support: layer -> bool [G, K, N], what may be other than zero; layers that are missing: what is.
        model: whose parameters decide what constants dead filters leave; the traced model if None.

    Raises:
        CompileError: nothing is left of a layer that the network needs.
    """
    analysis, plan = _plan(graph, support, graph.model if model is None else model)
    filters, channels, folded = {}, {}, {}
    for name, site in graph.layers.items():
        filters[name] = plan.gone[graph.classes[site.outputs]]
        channels[name] = plan.gone[graph.classes[site.inputs]]
        folded[name] = channels[name] & find_channel_reads(analysis.support[name], site).any(dim=2).reshape(-1)
    return UnusedPaths(filters, channels, analysis.support, _pinned(graph, analysis, plan), folded)


def remove_unused(
    model: nn.Module,
    example: torch.Tensor | Sequence[torch.Tensor],
    support: Support | None = None,
    *,
    graph: ChannelGraph | None = None,
) -> RemovalResult:
    """A smaller model that computes in evaluation mode what the given one does with its weights masked.

    The given model is not touched.

    Args:
        model: any module that torch.fx can trace, in any mode.
        example: its inputs.
        support: layer -> bool [G, K, N], what may be other than zero; layers that are missing: what is.
        graph: ``trace(model, example)``, where it is at hand.

    Raises:
        CompileError: a model that cannot be traced; nothing is left of a layer that no other path leads past.
    """
    given = {} if support is None else support
    graph = trace(model, example) if graph is None else graph
    analysis, plan = _plan(graph, given, model)
    copy = deepcopy(model)
    _mask_others(copy, graph, given)
    small, kept, folded = rebuild(graph, copy, analysis, plan)
    sizes = {name: (len(site.outputs), len(site.inputs)) for name, site in graph.layers.items()}
    masks = {}
    for name, part in kept.items():
        weight: Any = model.get_submodule(name).weight
        masks[name] = part.slice(analysis.support[name]).to(weight.device)
    for name, layer in _others(small, graph).items():
        groups, shape = layer.groups, tuple(layer.weight.shape)
        kept[name] = LayerSlice(shape, groups, torch.arange(shape[0]), torch.arange(shape[1] * groups))
        sizes[name] = (shape[0], shape[1] * groups)
        masks[name] = given[name] if name in given else layer.matrix() != 0
    return RemovalResult(small, masks, kept, sizes, folded, _pinned(graph, analysis, plan))


def _others(model: nn.Module, graph: ChannelGraph) -> dict[str, CompressibleLayer]:
    """Layers that the graph does not follow (inside other modules, with weights that are computed or shared)."""
    return {
        name: CompressibleLayer(name, module)
        for name, module in model.named_modules()
        if isinstance(module, MAPPED_MODULES) and name not in graph.layers
    }


def clear_constant_biases(model: nn.Module, graph: ChannelGraph, support: Support) -> dict[str, torch.Tensor]:
    """Take away the shifts that pruned filters would leave behind, in place; for training, at the hard projection.

    Biases of filters without weights, and weight and bias of normalisations whose channel is constant, become zero,
    until nothing more follows. Biases at the outputs of the network stay. A later optimiser step moves a cleared bias
    of a normalisation again: set it to zero after every step where the returned mask says so, or mask its gradient.

    Args:
        model: the model; changed.
        graph: its channels.
        support: layer -> bool [G, K, N], what may be other than zero.

    Returns:
        parameter name -> bool of its shape, where it was set to zero.
    """
    cleared: dict[str, torch.Tensor] = {}
    while True:
        analysis = analyse(graph, support, model)
        found = _shifts(model, graph, analysis)
        news = [name for name, mask in found.items() if name not in cleared or (mask & ~cleared[name]).any()]
        if not news:
            return cleared
        with torch.no_grad():
            for name in news:
                parameter = model.get_parameter(name)
                cleared[name] = found[name] | cleared.get(name, torch.zeros_like(found[name]))
                parameter[cleared[name].to(parameter.device)] = 0


def _shifts(model: nn.Module, graph: ChannelGraph, analysis: ChannelAnalysis) -> dict[str, torch.Tensor]:
    """Shifts of channels that are constant: parameter name -> bool of its shape."""
    outputs = {node for step in graph.steps if step.kind is OpKind.OUTPUT for node in step.inputs}
    found: dict[str, torch.Tensor] = {}
    for name, site in graph.layers.items():
        has_bias = model.get_submodule(name)._parameters.get("bias") is not None
        if has_bias and not any(call.node in outputs for call in site.calls):
            found[f"{name}.bias"] = ~analysis.support[name].any(dim=1).reshape(-1)
    for step in graph.steps:
        if step.kind is not OpKind.NORM or step.node in outputs:
            continue
        module = model.get_submodule(str(step.module))
        constant = ~analysis.constants[step.inputs[0]].isnan()
        if isinstance(module, _BatchNorm) and module.affine:
            for part in ("weight", "bias"):
                name = f"{step.module}.{part}"
                found[name] = found.get(name, torch.ones_like(constant)) & constant
    return {name: mask for name, mask in found.items() if mask.any()}


def _mask_others(model: nn.Module, graph: ChannelGraph, support: Support) -> None:
    """Layers that the graph does not follow keep their size and lose what is masked."""
    with torch.no_grad():
        for name, layer in _others(model, graph).items():
            if name in support and layer.module._parameters.get("weight") is not None:
                layer.weight.mul_(layer.as_weight(support[name]).to(layer.weight.device))


# --- which classes go


def _plan(graph: ChannelGraph, support: Support, model: nn.Module) -> tuple[ChannelAnalysis, RemovalPlan]:
    analysis = analyse(graph, support, model)
    _check(graph, support, model, analysis)
    reasons = _reasons(graph, analysis, model)
    gone = torch.ones(int(graph.classes.max()) + 1 if len(graph.classes) else 0, dtype=torch.bool)
    gone[list(reasons)] = False
    plan = RemovalPlan(gone, reasons)
    while back := (_uneven_groups(graph, plan) or _emptied(graph, analysis, plan)):
        for number, reason in back.items():
            gone[number] = False
            reasons[number] = reason
    return analysis, plan


def _check(graph: ChannelGraph, support: Support, model: nn.Module, analysis: ChannelAnalysis) -> None:
    """An output must still depend on an input."""
    inputs = [step.node for step in graph.steps if step.kind is OpKind.INPUT]
    if not graph.layers or not inputs or any(analysis.reads[node].any() for node in inputs):
        return
    empty = [name for name in graph.layers if name in support and not support[name].any()]
    empty += [name for name in graph.layers if not model.get_submodule(name).get_parameter("weight").any()]
    empty += [name for name, mask in analysis.support.items() if not mask.any()]
    raise CompileError(
        "nothing is left of it that the outputs of the network need, and no other path leads past it: loosen its "
        "structure or the budget, or name it in `skip`",
        empty[0] if empty else next(iter(graph.layers)),
    )


def _reasons(graph: ChannelGraph, analysis: ChannelAnalysis, model: nn.Module) -> dict[int, str]:
    """Classes that stay, and why."""
    reasons = dict(graph.pins)
    live: dict[int, str] = {}
    for name, site in graph.layers.items():
        reads = find_channel_reads(analysis.support[name], site).any(dim=2).reshape(-1)
        exact = folds(model.get_submodule(name)) and len(site.calls) == 1
        for call in site.calls:
            if not graph.follows(call):
                continue
            known = analysis.constants[call.inputs[0]]
            numbers = graph.of(call.inputs[0])
            for number in numbers[reads & known.isnan()].tolist():
                live.setdefault(number, "it is tied to channels that are in use")
            shifted = reads & ~known.isnan() & (known != 0)
            if not exact:
                for number, value in zip(numbers[shifted].tolist(), known[shifted].tolist(), strict=True):
                    reasons.setdefault(number, f"it is {value:.3g} everywhere, and '{name}' pads or is used twice")
    return live | reasons


def _uneven_groups(graph: ChannelGraph, plan: RemovalPlan) -> dict[int, str]:
    """A grouped convolution needs as many channels, and as many filters, in every group that stays."""
    back: dict[int, str] = {}
    for name, site in graph.layers.items():
        if site.groups == 1:
            continue
        ends = [graph.classes[ids].reshape(site.groups, -1) for ids in (site.inputs, site.outputs)]
        stays = [~plan.gone[numbers] for numbers in ends]
        groups = stays[0].any(dim=1) | stays[1].any(dim=1)
        for numbers, stay in zip(ends, stays, strict=True):
            most = max(1, int(stay.sum(dim=1).max())) if groups.any() else 0
            for group in groups.nonzero().flatten().tolist():
                lack = most - int(stay[group].sum())
                for number in numbers[group][~stay[group]][: max(0, lack)].tolist():
                    back[number] = f"the groups of '{name}' must be of one size"
    return back


def _emptied(graph: ChannelGraph, analysis: ChannelAnalysis, plan: RemovalPlan) -> dict[int, str]:
    """A layer that is still called needs a channel and a filter, though it gives constants only."""
    needed = plan.needed(graph, analysis)
    for name, site in graph.layers.items():
        if not any(call.node in needed for call in site.calls):
            continue
        for ids in (site.inputs, site.outputs):
            numbers = graph.classes[ids]
            if len(numbers) and plan.gone[numbers].all():
                return {int(numbers[0]): f"'{name}' needs one"}
    return {}


def _pinned(graph: ChannelGraph, analysis: ChannelAnalysis, plan: RemovalPlan) -> dict[str, dict[int, str]]:
    found: dict[str, dict[int, str]] = {}
    for name, site in graph.layers.items():
        numbers = graph.classes[site.outputs]
        stay = ~analysis.support[name].any(dim=1).reshape(-1) & ~plan.gone[numbers]
        places = stay.nonzero().flatten().tolist()
        if places:
            found[name] = {place: plan.reasons[int(numbers[place])] for place in places}
    return found
