"""Unused path removal: channels that are constant or never read are cut out, and the model becomes smaller.

Ma et al., ASP-DAC 2020, arXiv 1908.10017: a pruned filter makes the next layers' channel removable, a pruned channel
the previous layers' filter. A pruned filter still leaves a constant (its bias, the shift of a normalisation, the result
of an activation on them). Where that is zero the channel is removed; where all layers that read it are products or
unpadded convolutions, its contribution is folded into their biases, exactly; elsewhere the channel stays and is
reported.
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
from mcompiler.admm.surgery.dataflow import ChannelAnalysis, Support, analyse, find_channel_reads, is_foldable
from mcompiler.admm.surgery.operators import OpKind
from mcompiler.admm.surgery.rewriting import RemovalPlan, build_smaller_model
from mcompiler.admm.surgery.slicing import LayerSlice
from mcompiler.admm.surgery.steps import ChannelGraph
from mcompiler.errors import CompileError


@dataclass(frozen=True, eq=False)
class RemovalResult:
    """A smaller model.

    Attributes:
        model: a torch.fx.GraphModule; layers keep their names and their mode.
        support: layer -> bool [G, K, N] of the small layers: which weights may be non-zero.
        kept: layer -> its remaining filters and channels; a layer that was removed is missing.
        before: layer -> filters and input channels (features) before.
        folded: layer -> how many constant channels were folded into its bias.
        pinned: layer -> {filter without weights that had to stay: reason}.
    """

    model: fx.GraphModule
    support: Mapping[str, torch.Tensor]
    kept: Mapping[str, LayerSlice]
    before: Mapping[str, tuple[int, int]]
    folded: Mapping[str, int]
    pinned: Mapping[str, Mapping[int, str]]

    def as_table(self) -> dict[str, dict[str, list[int]]]:
        """Plain values: filters and channels before and after, by layer."""
        return {
            name: {
                "filters": [filters, len(self.kept[name].filters) if name in self.kept else 0],
                "channels": [channels, len(self.kept[name].channels) if name in self.kept else 0],
            }
            for name, (filters, channels) in self.before.items()
        }


def remove_unused(
    model: nn.Module,
    example: torch.Tensor | Sequence[torch.Tensor] | dict[str, Any],
    support: Support | None = None,
    *,
    graph: ChannelGraph | None = None,
) -> RemovalResult:
    """A smaller model that computes in evaluation mode what the given one computes with its weights masked.

    The given model is not changed.

    Args:
        model: any module that torch.fx can trace, in any mode.
        example: its inputs.
        support: layer -> bool [G, K, N], which weights may be non-zero; layers that are missing: those that are.
        graph: ``trace(model, example)``, where it is available.

    Raises:
        CompileError: a model that cannot be traced; no weights are left in a layer that no other path bypasses.
    """
    given = {} if support is None else support
    graph = trace(model, example) if graph is None else graph
    plan = _plan_removal(graph, given, model)
    copy = deepcopy(model)
    _mask_untraced_layers(copy, graph, given)
    small, kept, folded = build_smaller_model(plan, copy)
    sizes = {name: (len(layer.outputs), len(layer.inputs)) for name, layer in graph.layers.items()}
    masks = {}
    for name, part in kept.items():
        weight: Any = model.get_submodule(name).weight
        masks[name] = part.slice(plan.analysis.support[name]).to(weight.device)
    for name, layer in _find_untraced_layers(small, graph).items():
        groups, shape = layer.groups, tuple(layer.weight.shape)
        kept[name] = LayerSlice(shape, groups, torch.arange(shape[0]), torch.arange(shape[1] * groups))
        sizes[name] = (shape[0], shape[1] * groups)
        masks[name] = given[name] if name in given else layer.matrix() != 0
    return RemovalResult(
        model=small, support=masks, kept=kept, before=sizes, folded=folded, pinned=_find_pinned_filters(plan)
    )


def _find_untraced_layers(model: nn.Module, graph: ChannelGraph) -> dict[str, CompressibleLayer]:
    """Layers that the graph does not follow (inside other modules, with weights that are computed or shared)."""
    return {
        name: CompressibleLayer(name, module)
        for name, module in model.named_modules()
        if isinstance(module, MAPPED_MODULES) and name not in graph.layers
    }


def _mask_untraced_layers(model: nn.Module, graph: ChannelGraph, support: Support) -> None:
    """Layers that the graph does not follow keep their size; their masked weights become zero."""
    with torch.no_grad():
        for name, layer in _find_untraced_layers(model, graph).items():
            if name in support and layer.module._parameters.get("weight") is not None:
                layer.weight.mul_(layer.as_weight(support[name]).to(layer.weight.device))


# --- shifts of pruned filters ----------------------------------------------------------------------------------------


def clear_constant_biases(model: nn.Module, graph: ChannelGraph, support: Support) -> dict[str, torch.Tensor]:
    """Set constants of pruned filters to zero where they cannot be folded, in place; at the hard projection.

    A constant that only products and unpadded convolutions read is left: the removal folds it into their biases,
    exactly. Of the others (before padded convolutions, layers that are used twice) biases of filters without weights,
    and weight and bias of normalisations whose channel is constant, become zero, until nothing more follows. A later
    optimiser step changes a cleared bias of a normalisation again: set it to zero after every step where the returned
    mask says so, or mask its gradient.

    Args:
        model: the model; changed.
        graph: its channels.
        support: layer -> bool [G, K, N], which weights may be non-zero.

    Returns:
        parameter name -> bool of its shape, where it was set to zero.
    """
    cleared: dict[str, torch.Tensor] = {}
    while True:
        analysis = analyse(graph, support, model)
        found = _find_constant_biases(analysis, _find_classes_to_clear(analysis))
        changed = [name for name, mask in found.items() if name not in cleared or (mask & ~cleared[name]).any()]
        if not changed:
            return cleared
        with torch.no_grad():
            for name in changed:
                parameter = model.get_parameter(name)
                cleared[name] = found[name] | cleared.get(name, torch.zeros_like(found[name]))
                parameter[cleared[name].to(parameter.device)] = 0


def _find_classes_to_clear(analysis: ChannelAnalysis) -> torch.Tensor:
    """Bool [classes]: those that have to stay only because their constant cannot be folded, and those that cause it."""
    graph = analysis.graph
    shifts, others = _find_shifts(analysis), {**graph.pins, **_find_classes_in_use(analysis)}
    wanted = torch.zeros(int(graph.classes.max()) + 1 if len(graph.classes) else 0, dtype=torch.bool)
    wanted[[number for number in shifts if number not in others]] = True
    count = -1
    while count != (count := int(wanted.sum())):  # a filter that reads constants only is a constant of their making
        for name, layer in graph.layers.items():
            reads = find_channel_reads(analysis.support[name], layer)  # [G, C, N]
            for call in layer.calls:
                if not graph.follows_channels(call):
                    continue
                constant = ~analysis.constants[call.node].isnan() & wanted[graph.classes[layer.outputs]]
                causes = (reads & constant.reshape(layer.groups, 1, -1)).any(dim=2).reshape(-1)
                wanted[graph.classes_of(call.inputs[0])[causes]] = True
    return wanted


def _find_constant_biases(analysis: ChannelAnalysis, wanted: torch.Tensor) -> dict[str, torch.Tensor]:
    """Parameters that only shift constant channels of the wanted classes: name -> bool of its shape."""
    graph, model = analysis.graph, analysis.model
    outputs = {node for step in graph.steps if step.kind is OpKind.OUTPUT for node in step.inputs}
    found: dict[str, torch.Tensor] = {}
    for name, layer in graph.layers.items():
        has_bias = model.get_submodule(name)._parameters.get("bias") is not None
        if has_bias and not any(call.node in outputs for call in layer.calls):
            empty = ~analysis.support[name].any(dim=1).reshape(-1)
            found[f"{name}.bias"] = empty & wanted[graph.classes[layer.outputs]]
    for step in graph.steps:
        if step.kind is not OpKind.NORM or step.node in outputs:
            continue
        module = model.get_submodule(str(step.module))
        constant = ~analysis.constants[step.inputs[0]].isnan() & wanted[graph.classes_of(step.node)]
        if isinstance(module, _BatchNorm) and module.affine:
            for part in ("weight", "bias"):
                name = f"{step.module}.{part}"
                found[name] = found.get(name, torch.ones_like(constant)) & constant  # constant in all of its uses
    return {name: mask for name, mask in found.items() if mask.any()}


# --- which classes are removed ---------------------------------------------------------------------------------------


def _plan_removal(graph: ChannelGraph, support: Support, model: nn.Module) -> RemovalPlan:
    analysis = analyse(graph, support, model)
    _check_output_depends_on_input(analysis, support)
    # Every class without a reason to stay is removed. Two conditions are about several classes together (groups of one
    # size, no empty layer); where one fails, classes are put back, which never makes another class removable.
    reasons = _find_reasons(analysis)
    removed = torch.ones(int(graph.classes.max()) + 1 if len(graph.classes) else 0, dtype=torch.bool)
    removed[list(reasons)] = False
    plan = RemovalPlan(analysis, removed, reasons)
    while restored := (_find_uneven_groups(plan) or _find_emptied_layer(plan)):
        for number, reason in restored.items():
            removed[number] = False
            reasons[number] = reason
    return plan


def _check_output_depends_on_input(analysis: ChannelAnalysis, support: Support) -> None:
    graph = analysis.graph
    inputs = [step.node for step in graph.steps if step.kind is OpKind.INPUT]
    if not graph.layers or not inputs or any(analysis.reads[node].any() for node in inputs):
        return
    empty = [name for name in graph.layers if name in support and not support[name].any()]
    empty += [name for name in graph.layers if not analysis.model.get_submodule(name).get_parameter("weight").any()]
    empty += [name for name, mask in analysis.support.items() if not mask.any()]
    raise CompileError(
        "no weights are left in it that the outputs of the network need, and no other path bypasses it: loosen its "
        "structure or the budget, or name it in `skip`",
        empty[0] if empty else next(iter(graph.layers)),
    )


def _find_read_channels(analysis: ChannelAnalysis, name: str) -> torch.Tensor:
    """Bool [G * C], whether any filter of a layer reads a channel."""
    layer = analysis.graph.layers[name]
    return find_channel_reads(analysis.support[name], layer).any(dim=2).reshape(-1)


def _find_reasons(analysis: ChannelAnalysis) -> dict[int, str]:
    """Classes that stay, and why."""
    return _find_classes_in_use(analysis) | _find_shifts(analysis) | dict(analysis.graph.pins)


def _find_classes_in_use(analysis: ChannelAnalysis) -> dict[int, str]:
    """Classes of which a layer reads a channel that varies."""
    graph, found = analysis.graph, dict[int, str]()
    for name, layer in graph.layers.items():
        reads = _find_read_channels(analysis, name)
        for call in filter(graph.follows_channels, layer.calls):
            varying = reads & analysis.constants[call.inputs[0]].isnan()
            for number in graph.classes_of(call.inputs[0])[varying].tolist():
                found.setdefault(number, "it is tied to channels that are in use")
    return found


def _find_shifts(analysis: ChannelAnalysis) -> dict[int, str]:
    """Classes of which a layer reads a constant other than zero that cannot be folded into its bias."""
    graph, found = analysis.graph, dict[int, str]()
    for name, layer in graph.layers.items():
        # A constant can be folded only where it adds the same at every position, and where the layer's one bias serves
        # one use.
        if is_foldable(analysis.model.get_submodule(name)) and len(layer.calls) == 1:
            continue
        reads = _find_read_channels(analysis, name)
        for call in filter(graph.follows_channels, layer.calls):
            known, numbers = analysis.constants[call.inputs[0]], graph.classes_of(call.inputs[0])
            shifted = reads & ~known.isnan() & (known != 0)
            for number, value in zip(numbers[shifted].tolist(), known[shifted].tolist(), strict=True):
                found.setdefault(number, f"it is {value:.3g} everywhere, and '{name}' pads or is used twice")
    return found


def _find_uneven_groups(plan: RemovalPlan) -> dict[int, str]:
    """Classes to restore so that all remaining groups of a convolution have equally many channels, and filters."""
    restored: dict[int, str] = {}
    graph = plan.graph
    for name, layer in graph.layers.items():
        if layer.groups == 1:
            continue
        ends = [graph.classes[ids].reshape(layer.groups, -1) for ids in (layer.inputs, layer.outputs)]
        stays = [~plan.removed[numbers] for numbers in ends]
        groups = stays[0].any(dim=1) | stays[1].any(dim=1)
        for numbers, stay in zip(ends, stays, strict=True):
            most = max(1, int(stay.sum(dim=1).max())) if groups.any() else 0
            for group in groups.nonzero().flatten().tolist():
                missing = most - int(stay[group].sum())
                for number in numbers[group][~stay[group]][: max(0, missing)].tolist():
                    restored[number] = f"the groups of '{name}' must be of one size"
    return restored


def _find_emptied_layer(plan: RemovalPlan) -> dict[int, str]:
    """A class to restore where a layer that is still called would have no channel or no filter."""
    graph, needed = plan.graph, plan.find_needed()
    for name, layer in graph.layers.items():
        if not any(call.node in needed for call in layer.calls):
            continue
        for ids in (layer.inputs, layer.outputs):
            numbers = graph.classes[ids]
            if len(numbers) and plan.removed[numbers].all():
                return {int(numbers[0]): f"'{name}' needs one"}
    return {}


def _find_pinned_filters(plan: RemovalPlan) -> dict[str, dict[int, str]]:
    """Filters without weights that stay, and why, by layer."""
    found: dict[str, dict[int, str]] = {}
    for name, layer in plan.graph.layers.items():
        numbers = plan.graph.classes[layer.outputs]
        stay = ~plan.analysis.support[name].any(dim=1).reshape(-1) & ~plan.removed[numbers]
        places = stay.nonzero().flatten().tolist()
        if places:
            found[name] = {place: plan.reasons[int(numbers[place])] for place in places}
    return found
