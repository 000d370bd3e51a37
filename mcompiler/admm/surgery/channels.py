"""Which channels of which layers are one and the same, across sequential, residual and concatenating networks.

A symbolic trace gives the tensors. Every position of a tensor's channel axis carries the id of a channel; what works
channel by channel hands the ids on, and additions, products and depthwise-like reuse tie ids together (union-find). All
that carries ids of one class can only be removed together. Whatever is not known pins the channels that it touches:
they are kept, and the reason is reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mcompiler.admm.surgery.operators import SAME, SAME_MODULES, OpKind, operation
from mcompiler.admm.surgery.rules import ChannelGraphBuilder
from mcompiler.admm.surgery.steps import ChannelGraph, ChannelStep
from mcompiler.admm.surgery.tracing import symbolic_trace

__all__ = ["ChannelGraph", "Site", "Step", "Value", "find_batchnorm_pairs", "find_shared_inputs", "trace"]


def trace(
    model: nn.Module,
    example: torch.Tensor | Sequence[torch.Tensor],
    *,
    elementwise: Iterable[type[nn.Module]] = (),
) -> ChannelGraph:
    """Find the channels of a model.

    The model is copied, traced and run once in evaluation mode without gradient; it keeps its mode and its statistics.

    Args:
        model: any module that torch.fx can trace; modules of the user are walked through, layers are not.
        example: the inputs, as they are passed to the model.
        elementwise: types of modules that work on every element alone (activation quantisers, say).

    Raises:
        CompileError: it cannot be traced, differs between training and evaluation, or does not take the example.
    """
    inputs = (example,) if isinstance(example, torch.Tensor) else tuple(example)
    kinds = tuple(elementwise)
    traced = symbolic_trace(model, inputs, kinds)
    rules = ChannelGraphBuilder(model, traced, kinds)
    for node in traced.graph.nodes:
        rules.visit(node)
    return rules.finish()


def find_batchnorm_pairs(graph: ChannelGraph) -> list[tuple[str, str]]:
    """Pairs (layer, BatchNorm that alone reads its output); each of the two is used once."""
    norms = {step.node: step.module for step in graph.steps if step.kind is OpKind.NORM}
    used = [step.module for step in graph.steps if step.module is not None]
    pairs = []
    for name, site in graph.layers.items():
        if len(site.calls) != 1 or len(site.calls[0].node.users) != 1:
            continue
        norm = norms.get(next(iter(site.calls[0].node.users)))
        if norm is None or used.count(norm) != 1:
            continue
        if isinstance(graph.model.get_submodule(norm), _BatchNorm):
            pairs.append((name, norm))
    return pairs


def find_shared_inputs(graph: ChannelGraph) -> list[tuple[str, ...]]:
    """All layers, in groups that read the same tensor and can share an input quantiser.

    Dropout and Identity are looked through. A layer that is used several times joins the groups of all its inputs.
    """
    steps = {step.node: step for step in graph.steps}
    groups: list[tuple[set[fx.Node], list[str]]] = []
    for name, site in graph.layers.items():
        tensors = {_source(graph, call.inputs[0], steps) for call in site.calls}
        names = [name]
        for group in [g for g in groups if g[0] & tensors]:
            groups.remove(group)
            tensors |= group[0]
            names = group[1] + names
        groups.append((tensors, names))
    order = {name: place for place, name in enumerate(graph.layers)}
    return sorted((tuple(sorted(names, key=order.__getitem__)) for _, names in groups), key=lambda g: order[g[0]])


def _source(graph: ChannelGraph, node: fx.Node, steps: Mapping[fx.Node, ChannelStep]) -> fx.Node:
    """The tensor behind operations that do nothing in evaluation."""
    while (step := steps.get(node)) is not None and step.kind is OpKind.UNARY:
        if step.module is not None:
            idle = isinstance(graph.model.get_submodule(step.module), SAME_MODULES)
        else:
            idle = operation(node) in SAME
        if not idle:
            break
        node = step.inputs[0]
    return node
