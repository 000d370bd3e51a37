"""The graph of the smaller model: constant terms of sums are dropped, counts of channels adapted, modules cut."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from mcompiler.admm.surgery.dataflow import (
    ChannelAnalysis,
    compute_constant_response,
    find_channel_reads,
    get_channel_pad,
)
from mcompiler.admm.surgery.operators import DIFFERENCES, RESHAPES, SUMS, OpKind, argument, operation
from mcompiler.admm.surgery.rules import get_reshape_sizes
from mcompiler.admm.surgery.slicing import LayerSlice, cut_constant, cut_layer, cut_norm
from mcompiler.admm.surgery.steps import ChannelGraph, ChannelStep


@dataclass(frozen=True, eq=False)
class RemovalPlan:
    """Which classes of channels are removed.

    Attributes:
        analysis: constants and reads.
        removed: bool [classes].
        reasons: why a class stays.
    """

    analysis: ChannelAnalysis
    removed: torch.Tensor
    reasons: dict[int, str]

    @property
    def graph(self) -> ChannelGraph:
        """The graph whose channels are removed."""
        return self.analysis.graph

    def find_kept(self, node: fx.Node) -> torch.Tensor:
        """[channels of the node] whether each stays."""
        return ~self.removed[self.graph.classes_of(node)]

    def find_constant_term(self, step: ChannelStep) -> int | None:
        """Which term of a sum is constant in all channels that stay and are read; None where neither is.

        The branch that computes such a term is not needed.
        """
        graph, name = self.graph, operation(step.node)
        if step.kind is not OpKind.BINARY or name not in SUMS | DIFFERENCES or step.node.kwargs:
            return None
        relevant = self.find_kept(step.node) & self.analysis.reads[step.node]
        shape, dtype = graph.dims(step.node), graph.shapes[step.node].dtype
        # The other term replaces the sum, so it must have its shape and type. Only the second term of a difference can
        # be dropped: the first one would leave a negation.
        for place in (1, 0) if name in SUMS else (1,):
            part, other = step.inputs[place], step.inputs[1 - place]
            constant = not self.analysis.constants[part][relevant].isnan().any()
            if constant and graph.dims(other) == shape and graph.shapes[other].dtype == dtype:
                return place
        return None

    def find_operands(self, step: ChannelStep) -> tuple[fx.Node, ...]:
        """Nodes that the step still needs in the smaller model."""
        if step.kind is OpKind.CONCATENATE:
            remaining = tuple(node for node in step.inputs if self.find_kept(node).any())
            return remaining or step.inputs[:1]
        place = self.find_constant_term(step)
        return tuple(step.node.all_input_nodes) if place is None else (step.inputs[1 - place],)

    def find_needed(self) -> set[fx.Node]:
        """Nodes that the outputs of the smaller model need."""
        graph = self.graph
        steps = {step.node: step for step in graph.steps}
        # Inputs stay, as the signature of the model. An unknown operation in place on memory that is read later has an
        # effect without being an operand of the output.
        pending = [node for node in graph.graph.nodes if node.op in ("output", "placeholder")]
        pending += [node for node in graph.overwritten if steps[node].kind is OpKind.OPAQUE]
        found: set[fx.Node] = set(pending)
        while pending:
            node = pending.pop()
            for part in self.find_operands(steps[node]) if node in steps else node.all_input_nodes:
                if part not in found:
                    found.add(part)
                    pending.append(part)
        return found


def build_smaller_model(
    plan: RemovalPlan, model: nn.Module
) -> tuple[fx.GraphModule, dict[str, LayerSlice], dict[str, int]]:
    """The smaller model, the slice of each remaining layer, and how many constants were folded into each bias.

    Args:
        plan: which channels are removed.
        model: a copy of the model; changed.
    """
    needed = plan.find_needed()
    modes = {name: module.training for name, module in model.named_modules()}
    kept, folded = _cut_layers(plan, model, needed)
    _cut_vectors(plan, model, needed)
    copy = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for node in plan.graph.graph.nodes:
        if node in needed:
            copied[node] = copy.node_copy(node, lambda old: copied.get(old, old))
    _rewrite_nodes(plan, model, copied)
    for node in reversed(copy.nodes):
        if not node.users and node.op == "get_attr":
            copy.erase_node(node)
    copy.lint()
    small = fx.GraphModule(model, copy, type(model).__name__ if type(model) is not fx.GraphModule else "GraphModule")
    for name, module in small.named_modules():
        module.training = modes.get(name, model.training)
    return small, kept, folded


def _cut_layers(
    plan: RemovalPlan, model: nn.Module, needed: set[fx.Node]
) -> tuple[dict[str, LayerSlice], dict[str, int]]:
    graph, analysis = plan.graph, plan.analysis
    kept: dict[str, LayerSlice] = {}
    folded: dict[str, int] = {}
    for name, layer in graph.layers.items():
        if not any(call.node in needed for call in layer.calls):
            continue
        module: Any = model.get_submodule(name)
        filters = (~plan.removed[graph.classes[layer.outputs]]).nonzero().flatten()
        channels = (~plan.removed[graph.classes[layer.inputs]]).nonzero().flatten()
        kept[name] = LayerSlice(tuple(module.weight.shape), layer.groups, filters, channels)
        added = None
        constants = _find_folded_constants(plan, name)
        if constants is not None:
            folded[name] = int((constants != 0).sum())
            added = compute_constant_response(module, layer, analysis.support[name], constants)
        cut_layer(module, layer, kept[name], analysis.support[name], added)
    return kept, folded


def _find_folded_constants(plan: RemovalPlan, name: str) -> torch.Tensor | None:
    """Constants other than zero of removed channels that a layer reads, [G * C], 0 elsewhere; None without any.

    They are folded into the bias of the layer.
    """
    layer = plan.graph.layers[name]
    if len(layer.calls) != 1 or not plan.graph.follows_channels(layer.calls[0]):
        return None
    known = plan.analysis.constants[layer.calls[0].inputs[0]]
    read = find_channel_reads(plan.analysis.support[name], layer).any(dim=2).reshape(-1)
    # `known` is never NaN here: a channel that is read and varies is not removed.
    folded = plan.removed[plan.graph.classes[layer.inputs]] & read & (known != 0)
    return torch.where(folded, known, 0.0) if folded.any() else None


def _cut_vectors(plan: RemovalPlan, model: nn.Module, needed: set[fx.Node]) -> None:
    """Cut normalisations and constants; each once, however often it is used."""
    done: set[str] = set()
    for step in plan.graph.steps:
        if step.node not in needed or step.module is None or step.module in done:
            continue
        if step.kind is OpKind.NORM:
            cut_norm(model.get_submodule(step.module), plan.find_kept(step.node))
        elif step.kind is OpKind.CONSTANT:
            cut_constant(model, step.module, plan.find_kept(step.node))
        done.add(step.module)


def _rewrite_nodes(plan: RemovalPlan, model: nn.Module, copied: dict[fx.Node, fx.Node]) -> None:
    """Adapt the nodes of the copied graph whose arguments name or count channels."""
    for step in plan.graph.steps:
        node = copied.get(step.node)
        if node is None:
            continue
        if step.kind is OpKind.CONCATENATE:
            parts = [copied[part] for part in plan.find_operands(step)]
            if len(parts) != len(step.inputs):
                node.args, node.kwargs = (parts, argument(step.node, 1, "dim", 0)), {}
        elif step.kind is OpKind.PAD:
            _rewrite_pad(plan, step, node)
        elif step.kind is OpKind.FLATTEN or operation(node) in RESHAPES:
            _rewrite_reshape(plan, step, node)
        elif step.kind is OpKind.BINARY:
            _replace_constant_term(plan, model, step, copied)
        if step.node in plan.graph.dropouts:
            _make_dropout_module(plan.graph, model, step.node, node)


def _rewrite_pad(plan: RemovalPlan, step: ChannelStep, node: fx.Node) -> None:
    """Pad only the channels in front and behind that stay."""
    source, graph = step.inputs[0], plan.graph
    front, _ = get_channel_pad(graph, step)
    kept = plan.find_kept(step.node)
    behind = front + len(graph.channels[source].ids)
    place = 2 * (len(graph.dims(source)) - 1 - graph.channels[source].axis)
    widths = list(argument(step.node, 1, "pad"))
    widths[place : place + 2] = [int(kept[:front].sum()), int(kept[behind:].sum())]
    if len(node.args) > 1:
        node.update_arg(1, tuple(widths))
    else:
        node.update_kwarg("pad", tuple(widths))


def _rewrite_reshape(plan: RemovalPlan, step: ChannelStep, node: fx.Node) -> None:
    """Replace sizes that count channels."""
    source = node.args[0]
    if step.kind is OpKind.FLATTEN:
        if operation(node) in RESHAPES | {"squeeze"}:
            node.op, node.target, node.args, node.kwargs = "call_function", torch.flatten, (source, 1), {}
        return
    sizes = get_reshape_sizes(step.node)
    if sizes is None or plan.graph.channels[step.node].axis != 1 or step.kind is not OpKind.UNARY or sizes[1] == -1:
        return
    new_sizes = get_reshape_sizes(node)  # of the copied node: sizes that are nodes are those of the copy
    assert new_sizes is not None
    new_sizes[1] = int(plan.find_kept(step.node).sum())
    node.op, node.target, node.args, node.kwargs = "call_function", torch.reshape, (source, tuple(new_sizes)), {}


def _replace_constant_term(
    plan: RemovalPlan, model: nn.Module, step: ChannelStep, copied: dict[fx.Node, fx.Node]
) -> None:
    """Replace the constant term of a sum by a buffer; where it is zero, replace the sum by its other term."""
    place = plan.find_constant_term(step)
    if place is None:
        return
    graph, analysis = plan.graph, plan.analysis
    node, other = copied[step.node], copied[step.inputs[1 - place]]
    constant = torch.where(analysis.reads[step.node], analysis.constants[step.inputs[place]], 0.0)
    constant = constant[plan.find_kept(step.node)]
    if not constant.any():
        node.replace_all_uses_with(other)
        node.graph.erase_node(node)
        copied[step.node] = other  # a later sum may use this one as its other term
        return
    shape = [1] * len(graph.dims(step.node))
    shape[graph.channels[step.node].axis] = -1
    name = f"{step.node.name}_constant"
    like = next(model.parameters())
    dtype = graph.shapes[step.node].dtype
    model.register_buffer(name, constant.reshape(shape).to(device=like.device, dtype=dtype))
    with node.graph.inserting_before(node):
        buffer = node.graph.get_attr(name)
    node.op, node.target = "call_function", operator.add if operation(step.node) in SUMS else operator.sub
    node.args = (other, buffer)


def _make_dropout_module(graph: ChannelGraph, model: nn.Module, old: fx.Node, node: fx.Node) -> None:
    """Replace functional dropout by a module, since the traced function has the mode of the trace written into it."""
    name = f"{old.name}_module"
    model.add_module(name, graph.dropouts[old](float(argument(old, 1, "p", 0.5))))
    node.op, node.target, node.args, node.kwargs = "call_module", name, (node.args[0],), {}
