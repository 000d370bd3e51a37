"""Which channels are constant and which are read: constants are propagated forwards, reads backwards, to a fixpoint.

A filter without weights makes a channel that is one constant (its bias, then the results of normalisations and
activations on it). Rows that read a zero are removed, and filters that are never read. Neither changes what the model
computes in evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from mcompiler.admm.lowering import as_matrix, as_weight
from mcompiler.admm.surgery.operators import PRODUCTS, ConstantRule, OpKind, argument, operation
from mcompiler.admm.surgery.steps import ChannelGraph, ChannelStep, TracedLayer
from mcompiler.admm.surgery.tracing import get_attribute

Support = Mapping[str, torch.Tensor]
"""Layer -> which of its weights may be non-zero, bool [G, K, N]."""


@dataclass(frozen=True, eq=False)
class ChannelAnalysis:
    """The fixpoint.

    Attributes:
        graph: the analysed graph.
        model: the model whose parameters decide the constants.
        support: layer -> bool [G, K, N] on the CPU: weights that affect an output.
        constants: node -> float64 [channels]: the value of a channel that is constant, NaN for others.
        reads: node -> bool [channels]: whether an output of the network depends on it.
    """

    graph: ChannelGraph
    model: nn.Module
    support: dict[str, torch.Tensor]
    constants: dict[fx.Node, torch.Tensor] = field(default_factory=dict)
    reads: dict[fx.Node, torch.Tensor] = field(default_factory=dict)


def analyse(graph: ChannelGraph, support: Support, model: nn.Module | None = None) -> ChannelAnalysis:
    """Reduce the support until nothing changes.

    Args:
        graph: of the model.
        support: layers that are missing: which weights are not zero.
        model: whose parameters to read; the graph's own if None.
    """
    model = graph.model if model is None else model
    analysis = ChannelAnalysis(graph, model, complete_support(graph, support, model))
    # A removed row can make a filter empty, so that its channel becomes constant; a removed filter can leave a channel
    # unread. So both passes are repeated. They only clear entries of the support, so this ends.
    count = -1
    while count != (count := sum(int(mask.sum()) for mask in analysis.support.values())):
        _propagate_constants(analysis)
        _propagate_reads(analysis)
    return analysis


def complete_support(graph: ChannelGraph, support: Support, model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of the support on the CPU, with an entry for every layer.

    Raises:
        ValueError: a shape that is not that of the layer's matrix.
    """
    found = {}
    for name, layer in graph.layers.items():
        given = support.get(name)
        if given is None:
            given = as_matrix(get_attribute(model, name).weight.detach() != 0, layer.groups)
        if tuple(given.shape) != layer.matrix:
            raise ValueError(f"support of '{name}' is {tuple(given.shape)}, its matrix is {layer.matrix}")
        found[name] = given.detach().bool().cpu().clone()
    return found


def find_channel_reads(support: torch.Tensor, layer: TracedLayer) -> torch.Tensor:
    """[G, K, N] to bool [G, C, N]: whether a filter reads a channel."""
    groups, _, columns = layer.matrix
    return support.reshape(groups, -1, layer.positions, columns).any(dim=2)


def is_foldable(module: Any) -> bool:
    """Whether a constant input channel adds one constant to each filter: no border is padded with zeros."""
    # At a border that is padded with zeros some kernel positions read 0 instead of the constant. Other padding modes
    # repeat values of the channel, so the whole padded channel is the constant.
    if isinstance(module, nn.Linear) or module.padding_mode != "zeros":
        return True
    if isinstance(module.padding, str):
        return module.padding == "valid" or all(size == 1 for size in module.kernel_size)
    return not any(module.padding)


def compute_constant_response(
    module: Any, layer: TracedLayer, support: torch.Tensor, constants: torch.Tensor
) -> torch.Tensor:
    """What constant channels add to every output of a layer, float64 [G * N], without the bias.

    Args:
        module: the layer; ``is_foldable`` holds.
        layer: the layer in the graph.
        support: bool [G, K, N].
        constants: [G * C], zero for channels that do not count.
    """
    mask = as_weight(support, module.weight.shape)
    matrix = as_matrix((module.weight.detach().cpu().double() * mask), layer.groups)  # [G, K, N]
    rows = constants.reshape(layer.groups, -1).repeat_interleave(layer.positions, dim=1)
    return torch.einsum("gk,gkn->gn", rows, matrix).reshape(-1)


def get_channel_pad(graph: ChannelGraph, step: ChannelStep) -> tuple[int, float]:
    """How many channels a pad puts in front, and their value."""
    source = step.inputs[0]
    place = 2 * (len(graph.dims(source)) - 1 - graph.channels[source].axis)  # PyTorch counts from the last axis
    return argument(step.node, 1, "pad")[place], float(argument(step.node, 3, "value") or 0)


# --- constants, forwards ---------------------------------------------------------------------------------------------


def _propagate_constants(analysis: ChannelAnalysis) -> None:
    """Find the constants of every tensor; rows that read a zero leave the support."""
    graph = analysis.graph
    for step in graph.steps:
        if step.node not in graph.channels:
            continue
        known = _find_constants(analysis, step)
        if step.node in graph.overwritten:
            known = torch.full_like(known, torch.nan)
        analysis.constants[step.node] = known


def _find_constants(analysis: ChannelAnalysis, step: ChannelStep) -> torch.Tensor:
    """The constants of a step's tensor, float64 [channels], NaN for channels that vary."""
    inputs = [analysis.constants[node] for node in step.inputs]
    unknown = torch.full((len(analysis.graph.channels[step.node].ids),), torch.nan, dtype=torch.float64)
    if step.kind is OpKind.LAYER:
        return _find_layer_constants(analysis, step)
    if step.kind is OpKind.CONSTANT:
        value: torch.Tensor = get_attribute(analysis.model, str(step.module))
        return value.detach().cpu().double().reshape(-1)
    if step.kind is OpKind.NORM:
        module = get_attribute(analysis.model, str(step.module))
        return _find_norm_constants(module, inputs[0], step.constant_rule)
    if step.kind is OpKind.CONCATENATE:
        return torch.cat(inputs)
    if step.kind is OpKind.FLATTEN:
        return inputs[0].repeat_interleave(len(unknown) // max(1, len(inputs[0])))
    if step.kind is OpKind.PAD:
        front, fill = get_channel_pad(analysis.graph, step)
        known = torch.full_like(unknown, fill)
        known[front : front + len(inputs[0])] = _apply_constant_rule(inputs[0], step.constant_rule)
        return known
    if step.kind is OpKind.BINARY:
        return _find_binary_constants(analysis, step, inputs)
    if step.kind is OpKind.UNARY and step.constant_rule is ConstantRule.EVALUATED:
        return _evaluate(analysis.graph, analysis.model, step, inputs)
    return _apply_constant_rule(inputs[0], step.constant_rule) if step.kind is OpKind.UNARY else unknown


def _apply_constant_rule(known: torch.Tensor, rule: ConstantRule) -> torch.Tensor:
    if rule is ConstantRule.SAME:
        return known
    kept = known == 0 if rule is ConstantRule.ZERO else torch.zeros_like(known, dtype=torch.bool)
    return torch.where(kept, known, torch.nan)


def _find_layer_constants(analysis: ChannelAnalysis, step: ChannelStep) -> torch.Tensor:
    graph, name = analysis.graph, str(step.module)
    layer, mask, module = graph.layers[name], analysis.support[name], get_attribute(analysis.model, name)
    known = torch.full((len(layer.inputs),), torch.nan, dtype=torch.float64)
    if graph.follows_channels(step):
        known = analysis.constants[step.inputs[0]]
    groups = layer.groups
    # A row that multiplies zero can be removed. A layer that is used twice has one weight for both uses, and in the
    # other use the row may multiply another value.
    if len(layer.calls) == 1:
        rows = (known == 0).reshape(groups, -1).repeat_interleave(layer.positions, dim=1)
        mask &= ~rows[:, :, None]
    reads = find_channel_reads(mask, layer)  # [G, C, N]
    # A filter gives a constant if all channels that it reads are constant, and those other than zero add the same at
    # every position. Then the constant is the bias plus the response to these channels.
    exact = is_foldable(module)
    varying = known.isnan() | ((known != 0) & (not exact))
    varies = (reads & varying.reshape(groups, -1, 1)).any(dim=1).reshape(-1)
    if varies.all():
        return torch.full_like(varies, torch.nan, dtype=torch.float64)
    bias = torch.zeros(len(varies), dtype=torch.float64)
    if isinstance(module.bias, torch.Tensor):
        bias = module.bias.detach().cpu().double()
    constant = torch.where(varying, torch.zeros_like(known), known)
    if exact and constant.any():
        bias = bias + compute_constant_response(module, layer, mask, constant)
    return torch.where(varies, torch.nan, bias)


def _find_norm_constants(module: Any, known: torch.Tensor, rule: ConstantRule) -> torch.Tensor:
    if rule is ConstantRule.UNKNOWN or known.isnan().all():
        return torch.full_like(known, torch.nan)

    def vector(name: str, default: float) -> torch.Tensor:
        value = getattr(module, name)
        return torch.full_like(known, default) if value is None else value.detach().cpu().double()

    if isinstance(module, nn.PReLU):
        return known.clamp(min=0) + vector("weight", 0) * known.clamp(max=0)
    scale: torch.Tensor = vector("weight", 1) / (vector("running_var", 1) + module.eps).sqrt()
    return (known - vector("running_mean", 0)) * scale + vector("bias", 0)


def _find_binary_constants(analysis: ChannelAnalysis, step: ChannelStep, inputs: list[torch.Tensor]) -> torch.Tensor:
    result = _evaluate(analysis.graph, analysis.graph.model, step, inputs)
    if operation(step.node) in PRODUCTS:  # a zero factor makes zero, whatever the other factor is
        result = torch.where((inputs[0] == 0) | (inputs[1] == 0), torch.zeros_like(result), result)
    return result


def _evaluate(graph: ChannelGraph, model: nn.Module, step: ChannelStep, inputs: list[torch.Tensor]) -> torch.Tensor:
    """Run the operation itself on tensors that hold the constants, one element per channel."""
    # The operation works on every element separately, so one element per channel is enough, and running it in its own
    # type gives the value that the network has. Channels that vary are computed as 0 and discarded.
    known = torch.stack([~part.isnan() for part in inputs]).all(dim=0)
    result = torch.full_like(inputs[0], torch.nan)
    if not known.any():
        return result
    node, values = step.node, {}
    module = None if step.module is None else deepcopy(get_attribute(model, step.module)).eval()
    device = next((p.device for p in module.parameters()), None) if module is not None else None
    for source, part in zip(step.inputs, inputs, strict=True):
        shape = [1] * len(graph.dims(source))
        shape[graph.channels[source].axis] = -1
        dtype = graph.shapes[source].dtype
        values[source] = torch.where(known, part, 0).reshape(shape).to(device=device, dtype=dtype)
    with torch.no_grad():
        if module is not None:
            out = module(values[step.inputs[0]])
        else:
            args = fx.node.map_arg(node.args, values.__getitem__)
            kwargs = fx.node.map_arg(node.kwargs, values.__getitem__)
            target: Callable[..., Any] = (
                getattr(torch.Tensor, node.target) if isinstance(node.target, str) else node.target
            )
            out = target(*args, **kwargs)
    return torch.where(known, out.detach().cpu().double().reshape(-1), result)


# --- reads, backwards ------------------------------------------------------------------------------------------------


def _propagate_reads(analysis: ChannelAnalysis) -> None:
    """Find the channels of every tensor that are read; filters that are never read leave the support."""
    graph = analysis.graph
    for node, channels in graph.channels.items():
        analysis.reads[node] = torch.zeros(len(channels.ids), dtype=torch.bool)
    for step in reversed(graph.steps):
        for node, needed in zip(step.inputs, _find_needed(analysis, step), strict=True):
            analysis.reads[node] |= needed
    for name, layer in graph.layers.items():
        read = torch.stack([analysis.reads[call.node] for call in layer.calls]).any(dim=0)
        analysis.support[name] &= read.reshape(layer.groups, 1, -1)


def _find_needed(analysis: ChannelAnalysis, step: ChannelStep) -> list[torch.Tensor]:
    """Which channels of its inputs a step needs."""
    graph, reads = analysis.graph, analysis.reads
    if step.kind in (OpKind.OUTPUT, OpKind.OPAQUE):
        return [torch.ones_like(reads[node]) for node in step.inputs]
    read = reads[step.node]
    if step.kind is OpKind.LAYER:
        layer = graph.layers[str(step.module)]
        by_filter = find_channel_reads(analysis.support[layer.name], layer) & read.reshape(layer.groups, 1, -1)
        if graph.follows_channels(step):
            return [by_filter.any(dim=2).reshape(-1)]
        return [torch.full_like(reads[step.inputs[0]], bool(by_filter.any()))]  # it mixes an axis that is not followed
    if step.kind is OpKind.CONCATENATE:
        return list(torch.split(read, [len(reads[node]) for node in step.inputs]))
    if step.kind is OpKind.FLATTEN:
        return [read.reshape(len(reads[step.inputs[0]]), -1).any(dim=1)]
    if step.kind is OpKind.PAD:
        front, _ = get_channel_pad(graph, step)
        return [read[front : front + len(reads[step.inputs[0]])]]
    if step.kind is OpKind.BINARY and operation(step.node) in PRODUCTS:
        # Where one factor is a constant zero, the product needs only that factor. Where both are, the first is enough.
        one, other = (analysis.constants[node] == 0 for node in step.inputs)
        return [read & (one | ~other), read & ~one]
    return [read for _ in step.inputs]
