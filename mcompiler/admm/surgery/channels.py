"""Which channels of which layers are tied, across sequential, residual and concatenating networks.

A symbolic trace gives the tensors. Every position of a tensor's channel axis has the id of a channel. An operation that
works on each channel separately passes the ids on; additions, products and repeated uses of a module tie ids together
(union-find). Channels whose ids are tied form a class and can only be removed together. An unknown operation pins the
channels of its inputs and outputs: they are kept, and the reason is reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mcompiler.admm.inputs import as_inputs
from mcompiler.admm.surgery.builder import ChannelGraphBuilder
from mcompiler.admm.surgery.operators import SAME, SAME_MODULES, OpKind, operation
from mcompiler.admm.surgery.rules import add_node
from mcompiler.admm.surgery.steps import ChannelGraph, ChannelStep
from mcompiler.admm.surgery.tracing import symbolic_trace

__all__ = ["ChannelGraph", "find_batchnorm_pairs", "find_shared_inputs", "trace"]


def trace(model: nn.Module, example: torch.Tensor | Sequence[torch.Tensor] | dict[str, Any]) -> ChannelGraph:
    """The channel graph of a model.

    A copy of the model is traced and run once in evaluation mode without gradient; the model keeps its mode and its
    statistics.

    Args:
        model: any module that torch.fx can trace; it is traced into the user's modules, not into layers.
        example: the inputs, as they are passed to the model; a dict: by the names of its forward.

    Raises:
        CompileError: the model cannot be traced, differs between training and evaluation, or does not take the example.
    """
    traced = symbolic_trace(model, as_inputs(example))
    builder = ChannelGraphBuilder(model, traced)
    for node in traced.graph.nodes:
        add_node(builder, node)
    return builder.finish()


def find_batchnorm_pairs(graph: ChannelGraph) -> list[tuple[str, str]]:
    """Pairs (layer, batch normalisation) where the normalisation is the only reader of the layer, each used once."""
    norms = {step.node: step.module for step in graph.steps if step.kind is OpKind.NORM}
    used = [step.module for step in graph.steps if step.module is not None]
    pairs = []
    for name, layer in graph.layers.items():
        if len(layer.calls) != 1 or len(layer.calls[0].node.users) != 1:
            continue
        norm = norms.get(next(iter(layer.calls[0].node.users)))
        if norm is None or used.count(norm) != 1:
            continue
        if isinstance(graph.model.get_submodule(norm), _BatchNorm):
            pairs.append((name, norm))
    return pairs


def find_shared_inputs(graph: ChannelGraph) -> list[tuple[str, ...]]:
    """All layers, in groups that read the same tensor and can share an input quantiser.

    Dropout and Identity do not count as operations. A layer that is used several times joins the groups of all its
    inputs.
    """
    steps = {step.node: step for step in graph.steps}
    groups: list[tuple[set[fx.Node], list[str]]] = []
    for name, layer in graph.layers.items():
        tensors = {_skip_idle(graph, call.inputs[0], steps) for call in layer.calls}
        names = [name]
        for group in [g for g in groups if g[0] & tensors]:
            groups.remove(group)
            tensors |= group[0]
            names = group[1] + names
        groups.append((tensors, names))
    order = {name: place for place, name in enumerate(graph.layers)}
    return sorted((tuple(sorted(names, key=order.__getitem__)) for _, names in groups), key=lambda g: order[g[0]])


def _skip_idle(graph: ChannelGraph, node: fx.Node, steps: Mapping[fx.Node, ChannelStep]) -> fx.Node:
    """The tensor before operations that do nothing in evaluation."""
    while (step := steps.get(node)) is not None and step.kind is OpKind.UNARY:
        if step.module is not None:
            is_idle = isinstance(graph.model.get_submodule(step.module), SAME_MODULES)
        else:
            is_idle = operation(node) in SAME
        if not is_idle:
            break
        node = step.inputs[0]
    return node
