"""The graph of the smaller model: branches that add nothing go, numbers of channels follow, modules are cut."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from mcompiler.admm.surgery.dataflow import ChannelAnalysis, find_channel_reads, get_channel_pad, response
from mcompiler.admm.surgery.operators import DIFFERENCES, RESHAPES, SUMS, OpKind, argument, operation
from mcompiler.admm.surgery.rules import get_reshape_sizes
from mcompiler.admm.surgery.slicing import LayerSlice, cut_constant, cut_layer, cut_norm
from mcompiler.admm.surgery.steps import ChannelGraph, ChannelStep


@dataclass(frozen=True, eq=False)
class RemovalPlan:
    """Which classes of channels go.

    Attributes:
        gone: bool [classes].
        reasons: why a class stays.
    """

    gone: torch.Tensor
    reasons: dict[int, str]

    def stay(self, graph: ChannelGraph, node: fx.Node) -> torch.Tensor:
        """[channels of the node] whether each stays."""
        return ~self.gone[graph.of(node)]

    def constant_term(self, graph: ChannelGraph, analysis: ChannelAnalysis, step: ChannelStep) -> int | None:
        """Which term of a sum is a constant in all channels that stay and are read: no branch need compute it."""
        name = operation(step.node)
        if step.kind is not OpKind.BINARY or name not in SUMS | DIFFERENCES or step.node.kwargs:
            return None
        stay = self.stay(graph, step.node) & analysis.reads[step.node]
        shape = graph.dims(step.node)
        for place in (1, 0) if name in SUMS else (1,):
            part, other = step.inputs[place], step.inputs[1 - place]
            constant = not analysis.constants[part][stay].isnan().any()
            if constant and graph.dims(other) == shape and graph.shapes[other].dtype == graph.shapes[step.node].dtype:
                return place
        return None

    def operands(self, graph: ChannelGraph, analysis: ChannelAnalysis, step: ChannelStep) -> tuple[fx.Node, ...]:
        """Nodes that the step still needs in the smaller model."""
        if step.kind is OpKind.CONCATENATE:
            left = tuple(node for node in step.inputs if self.stay(graph, node).any())
            return left or step.inputs[:1]
        place = self.constant_term(graph, analysis, step)
        return tuple(step.node.all_input_nodes) if place is None else (step.inputs[1 - place],)

    def needed(self, graph: ChannelGraph, analysis: ChannelAnalysis) -> set[fx.Node]:
        """Nodes that the outputs of the smaller model need."""
        steps = {step.node: step for step in graph.steps}
        open_ = [node for node in graph.graph.nodes if node.op in ("output", "placeholder")]
        open_ += [node for node in graph.volatile if steps[node].kind is OpKind.OPAQUE]
        found: set[fx.Node] = set(open_)
        while open_:
            node = open_.pop()
            parts = self.operands(graph, analysis, steps[node]) if node in steps else node.all_input_nodes
            for part in parts:
                if part not in found:
                    found.add(part)
                    open_.append(part)
        return found


def rebuild(
    graph: ChannelGraph, model: nn.Module, analysis: ChannelAnalysis, plan: RemovalPlan
) -> tuple[fx.GraphModule, dict[str, LayerSlice], dict[str, int]]:
    """The smaller model, what stayed of its layers, and how many constants each took into its bias.

    Args:
        graph: of the model.
        model: a copy of the model; changed.
        flow: what is constant and what is read.
        plan: what goes.
    """
    needed = plan.needed(graph, analysis)
    modes = {name: module.training for name, module in model.named_modules()}
    kept, folded = _cut(graph, model, analysis, plan, needed)
    copy = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for node in graph.graph.nodes:
        if node in needed:
            copied[node] = copy.node_copy(node, lambda old: copied.get(old, old))
    _rewrite(graph, model, analysis, plan, copied)
    for node in reversed(copy.nodes):
        if not node.users and node.op == "get_attr":
            copy.erase_node(node)
    copy.lint()
    small = fx.GraphModule(model, copy, type(model).__name__ if type(model) is not fx.GraphModule else "GraphModule")
    for name, module in small.named_modules():
        module.training = modes.get(name, model.training)
    return small, kept, folded


def _cut(
    graph: ChannelGraph, model: nn.Module, analysis: ChannelAnalysis, plan: RemovalPlan, needed: set[fx.Node]
) -> tuple[dict[str, LayerSlice], dict[str, int]]:
    kept: dict[str, LayerSlice] = {}
    folded: dict[str, int] = {}
    for name, site in graph.layers.items():
        calls = [call for call in site.calls if call.node in needed]
        if not calls:
            continue
        module: Any = model.get_submodule(name)
        filters = (~plan.gone[graph.classes[site.outputs]]).nonzero().flatten()
        channels = (~plan.gone[graph.classes[site.inputs]]).nonzero().flatten()
        kept[name] = LayerSlice(tuple(module.weight.shape), site.groups, filters, channels)
        cut_layer(
            module, site, kept[name], analysis.support[name], _folding(graph, analysis, plan, name, module, folded)
        )
    done: set[str] = set()
    for step in graph.steps:
        if step.node not in needed or step.module is None or step.module in done:
            continue
        if step.kind is OpKind.NORM:
            cut_norm(model.get_submodule(step.module), plan.stay(graph, step.node))
        elif step.kind is OpKind.CONSTANT:
            cut_constant(model, step.module, plan.stay(graph, step.node))
        done.add(step.module)
    return kept, folded


def _folding(
    graph: ChannelGraph, analysis: ChannelAnalysis, plan: RemovalPlan, name: str, module: Any, folded: dict[str, int]
) -> torch.Tensor | None:
    """What goes into the bias of a layer for constants other than zero that go, float64 [O]."""
    site, mask = graph.layers[name], analysis.support[name]
    if len(site.calls) != 1 or not graph.follows(site.calls[0]):
        return None
    known = analysis.constants[site.calls[0].inputs[0]]
    leaving = plan.gone[graph.classes[site.inputs]] & find_channel_reads(mask, site).any(dim=2).reshape(-1)
    leaving &= known != 0  # never NaN here: a channel that is read and no constant stays
    if not leaving.any():
        return None
    folded[name] = int(leaving.sum())
    return response(module, site, mask, torch.where(leaving, known, 0.0))


def _rewrite(
    graph: ChannelGraph, model: nn.Module, analysis: ChannelAnalysis, plan: RemovalPlan, copied: dict[fx.Node, fx.Node]
) -> None:
    for step in graph.steps:
        node = copied.get(step.node)
        if node is None:
            continue
        if step.kind is OpKind.CONCATENATE:
            parts = [copied[part] for part in plan.operands(graph, analysis, step)]
            if len(parts) != len(step.inputs):
                node.args, node.kwargs = (parts, argument(step.node, 1, "dim", 0)), {}
        elif step.kind is OpKind.PAD:
            _pad(graph, plan, step, node)
        elif step.kind is OpKind.FLATTEN or operation(node) in RESHAPES:
            _reshape(graph, plan, step, node)
        elif step.kind is OpKind.BINARY:
            _drop_term(graph, model, analysis, plan, step, copied)
        if step.node in graph.dropouts:
            _module_dropout(graph, model, step.node, node)


def _pad(graph: ChannelGraph, plan: RemovalPlan, step: ChannelStep, node: fx.Node) -> None:
    """Only the channels in front and behind that stay."""
    source = step.inputs[0]
    front, _ = get_channel_pad(graph, step)
    stay = plan.stay(graph, step.node)
    behind = front + len(graph.values[source].ids)
    place = 2 * (len(graph.dims(source)) - 1 - graph.values[source].axis)
    widths = list(argument(step.node, 1, "pad"))
    widths[place : place + 2] = [int(stay[:front].sum()), int(stay[behind:].sum())]
    if len(node.args) > 1:
        node.update_arg(1, tuple(widths))
    else:
        node.update_kwarg("pad", tuple(widths))


def _reshape(graph: ChannelGraph, plan: RemovalPlan, step: ChannelStep, node: fx.Node) -> None:
    """Sizes that count channels."""
    source = node.args[0]
    if step.kind is OpKind.FLATTEN:
        if operation(node) in RESHAPES | {"squeeze"}:
            node.op, node.target, node.args, node.kwargs = "call_function", torch.flatten, (source, 1), {}
        return
    sizes = get_reshape_sizes(step.node)
    if sizes is None or graph.values[step.node].axis != 1 or step.kind is not OpKind.UNARY or sizes[1] == -1:
        return
    sizes[1] = int(plan.stay(graph, step.node).sum())
    olds = get_reshape_sizes(node)
    assert olds is not None
    olds[1] = sizes[1]
    node.op, node.target, node.args, node.kwargs = "call_function", torch.reshape, (source, tuple(olds)), {}


def _drop_term(
    graph: ChannelGraph,
    model: nn.Module,
    analysis: ChannelAnalysis,
    plan: RemovalPlan,
    step: ChannelStep,
    copied: dict[fx.Node, fx.Node],
) -> None:
    """A sum with a constant: the constant is a buffer; where it is zero the other term stands for the sum."""
    place = plan.constant_term(graph, analysis, step)
    if place is None:
        return
    node, other = copied[step.node], copied[step.inputs[1 - place]]
    constant = torch.where(analysis.reads[step.node], analysis.constants[step.inputs[place]], 0.0)
    constant = constant[plan.stay(graph, step.node)]
    if not constant.any():
        node.replace_all_uses_with(other)
        node.graph.erase_node(node)
        copied[step.node] = other  # what follows may drop a term too
        return
    shape = [1] * len(graph.dims(step.node))
    shape[graph.values[step.node].axis] = -1
    name = f"{step.node.name}_constant"
    like = next(model.parameters())
    dtype = graph.shapes[step.node].dtype
    model.register_buffer(name, constant.reshape(shape).to(device=like.device, dtype=dtype))
    with node.graph.inserting_before(node):
        buffer = node.graph.get_attr(name)
    node.op, node.target = "call_function", operator.add if operation(step.node) in SUMS else operator.sub
    node.args = (other, buffer)


def _module_dropout(graph: ChannelGraph, model: nn.Module, old: fx.Node, node: fx.Node) -> None:
    """Functional dropout follows the mode of the model as a module."""
    name = f"{old.name}_module"
    model.add_module(name, graph.dropouts[old](float(argument(old, 1, "p", 0.5))))
    node.op, node.target, node.args, node.kwargs = "call_module", name, (node.args[0],), {}
