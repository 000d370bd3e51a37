"""What is constant and what is read: constants run forwards through the graph, reads run backwards, until both rest.

A filter without weights makes a channel that is one constant (bias, then what normalisations and activations make of
it). Rows that read a zero go; filters that nobody reads go. Neither changes what the model computes in evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from mcompiler.admm.lowering import as_matrix, as_weight
from mcompiler.admm.surgery.operators import PRODUCTS, ConstantRule, OpKind, argument, operation
from mcompiler.admm.surgery.steps import ChannelGraph, ChannelStep, TracedLayer
from mcompiler.admm.surgery.tracing import get_attribute

Support = Mapping[str, torch.Tensor]
"""Layer -> which of its weights may be other than zero, bool [G, K, N]."""


@dataclass(frozen=True, eq=False)
class ChannelAnalysis:
    """The fixpoint.

    Attributes:
        support: layer -> bool [G, K, N] on the CPU: weights that still do something.
        constants: node -> float64 [channels]: the value of a channel that is constant, NaN for others.
        reads: node -> bool [channels]: whether an output of the network depends on it.
    """

    support: dict[str, torch.Tensor]
    constants: dict[fx.Node, torch.Tensor]
    reads: dict[fx.Node, torch.Tensor]


def analyse(graph: ChannelGraph, support: Support, model: nn.Module | None = None) -> ChannelAnalysis:
    """Reduce the support until nothing changes.

    Args:
        graph: of the model.
        support: layers that are missing: where their weights are not zero.
        model: whose parameters to read; the graph's own if None.
    """
    model = graph.model if model is None else model
    analysis = ChannelAnalysis(complete_support(graph, support, model), {}, {})
    count = -1
    while count != (count := sum(int(mask.sum()) for mask in analysis.support.values())):
        _forward(graph, model, analysis)
        _backward(graph, analysis)
    return analysis


def complete_support(graph: ChannelGraph, support: Support, model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy on the CPU, complete.

    Raises:
        ValueError: a shape that is not that of the layer's matrix.
    """
    found = {}
    for name, site in graph.layers.items():
        given = support.get(name)
        if given is None:
            given = as_matrix(get_attribute(model, name).weight.detach() != 0, site.groups)
        if tuple(given.shape) != site.matrix:
            raise ValueError(f"support of '{name}' is {tuple(given.shape)}, its matrix is {site.matrix}")
        found[name] = given.detach().bool().cpu().clone()
    return found


def find_channel_reads(support: torch.Tensor, site: TracedLayer) -> torch.Tensor:
    """[G, K, N] to bool [G, C, N]: whether a filter reads a channel."""
    groups, _, columns = site.matrix
    return support.reshape(groups, -1, site.positions, columns).any(dim=2)


def folds(module: Any) -> bool:
    """Whether a constant input channel gives one constant per filter: no border is padded with zeros."""
    if isinstance(module, nn.Linear) or module.padding_mode != "zeros":
        return True
    if isinstance(module.padding, str):
        return module.padding == "valid" or all(size == 1 for size in module.kernel_size)
    return not any(module.padding)


def response(module: Any, site: TracedLayer, support: torch.Tensor, constants: torch.Tensor) -> torch.Tensor:
    """What constant channels add to every output of a layer, float64 [G * N], bias not counted.

    A subclass of a layer (with quantisers, say) is asked itself; the classes of torch.nn are computed in float64.

    Args:
        module: the layer; ``folds`` holds.
        site: the layer in the graph.
        support: bool [G, K, N].
        constants: [G * C], zero for channels that do not count.
    """
    mask = as_weight(support, module.weight.shape)
    if type(module) in (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear):
        matrix = as_matrix((module.weight.detach().cpu().double() * mask), site.groups)  # [G, K, N]
        rows = constants.reshape(site.groups, -1).repeat_interleave(site.positions, dim=1)
        return torch.einsum("gk,gkn->gn", rows, matrix).reshape(-1)
    probe = deepcopy(module).eval()
    weight = probe.weight
    extent = [1] if isinstance(probe, nn.Linear) else [(k - 1) * d + 1 for k, d in _windows(probe)]
    with torch.no_grad():
        weight.mul_(mask.to(weight.device))
        x = constants.to(weight)
        x = x[None] if isinstance(probe, nn.Linear) else x.reshape(1, -1, *[1] * len(extent)).repeat(1, 1, *extent)
        added: torch.Tensor = probe(x) - probe(torch.zeros_like(x))
    return added.reshape(len(site.outputs), -1)[:, 0].cpu().double()


def _windows(module: Any) -> list[tuple[int, int]]:
    return list(zip(module.kernel_size, module.dilation, strict=True))


# --- constants, forwards


def _forward(graph: ChannelGraph, model: nn.Module, analysis: ChannelAnalysis) -> None:
    """Constants of every tensor; rows that read a zero leave the support."""
    for step in graph.steps:
        if step.node not in graph.values:
            continue
        known = _constant(graph, model, analysis, step)
        if step.node in graph.volatile:
            known = torch.full_like(known, torch.nan)
        analysis.constants[step.node] = known


def _constant(graph: ChannelGraph, model: nn.Module, analysis: ChannelAnalysis, step: ChannelStep) -> torch.Tensor:
    inputs = [analysis.constants[node] for node in step.inputs]
    unknown = torch.full((len(graph.values[step.node].ids),), torch.nan, dtype=torch.float64)
    if step.kind is OpKind.LAYER:
        return _layer_constants(graph, model, analysis, step)
    if step.kind is OpKind.CONSTANT:
        value: torch.Tensor = get_attribute(model, str(step.module))
        return value.detach().cpu().double().reshape(-1)
    if step.kind is OpKind.NORM:
        return _norm_constants(get_attribute(model, str(step.module)), inputs[0], step.constant_rule)
    if step.kind is OpKind.CONCATENATE:
        return torch.cat(inputs)
    if step.kind is OpKind.FLATTEN:
        return inputs[0].repeat_interleave(len(unknown) // max(1, len(inputs[0])))
    if step.kind is OpKind.PAD:
        front, fill = get_channel_pad(graph, step)
        known = torch.full_like(unknown, fill)
        known[front : front + len(inputs[0])] = _carried(inputs[0], step.constant_rule)
        return known
    if step.kind is OpKind.BINARY:
        return _binary_constants(graph, step, inputs)
    if step.kind is OpKind.UNARY and step.constant_rule is ConstantRule.EVALUATED:
        return _evaluated(graph, model, step, inputs)
    return _carried(inputs[0], step.constant_rule) if step.kind is OpKind.UNARY else unknown


def _carried(known: torch.Tensor, constant_rule: ConstantRule) -> torch.Tensor:
    if constant_rule is ConstantRule.SAME:
        return known
    kept = known == 0 if constant_rule is ConstantRule.ZERO else torch.zeros_like(known, dtype=torch.bool)
    return torch.where(kept, known, torch.nan)


def _layer_constants(
    graph: ChannelGraph, model: nn.Module, analysis: ChannelAnalysis, step: ChannelStep
) -> torch.Tensor:
    name = str(step.module)
    site, mask, module = graph.layers[name], analysis.support[name], get_attribute(model, name)
    known = (
        analysis.constants[step.inputs[0]]
        if graph.values[step.inputs[0]].axis == graph.values[step.node].axis
        else None
    )
    if known is None or len(known) != len(site.inputs):
        known = torch.full((len(site.inputs),), torch.nan, dtype=torch.float64)
    groups = site.groups
    if len(site.calls) == 1:
        rows = (known == 0).reshape(groups, -1).repeat_interleave(site.positions, dim=1)
        mask &= ~rows[:, :, None]
    reads = find_channel_reads(mask, site)  # [G, C, N]
    exact = folds(module)
    moving = known.isnan() | ((known != 0) & (not exact))
    varies = (reads & moving.reshape(groups, -1, 1)).any(dim=1).reshape(-1)
    if varies.all():
        return torch.full_like(varies, torch.nan, dtype=torch.float64)
    bias = torch.zeros(len(varies), dtype=torch.float64)
    if isinstance(module.bias, torch.Tensor):
        bias = module.bias.detach().cpu().double()
    still = torch.where(moving, torch.zeros_like(known), known)
    if exact and still.any():
        bias = bias + response(module, site, mask, still)
    return torch.where(varies, torch.nan, bias)


def _norm_constants(module: Any, known: torch.Tensor, constant_rule: ConstantRule) -> torch.Tensor:
    if constant_rule is ConstantRule.NOTHING or known.isnan().all():
        return torch.full_like(known, torch.nan)

    def vector(name: str, default: float) -> torch.Tensor:
        value = getattr(module, name)
        return torch.full_like(known, default) if value is None else value.detach().cpu().double()

    if isinstance(module, nn.PReLU):
        return known.clamp(min=0) + vector("weight", 0) * known.clamp(max=0)
    scale: torch.Tensor = vector("weight", 1) / (vector("running_var", 1) + module.eps).sqrt()
    return (known - vector("running_mean", 0)) * scale + vector("bias", 0)


def _binary_constants(graph: ChannelGraph, step: ChannelStep, inputs: list[torch.Tensor]) -> torch.Tensor:
    result = _evaluated(graph, graph.model, step, inputs)
    if operation(step.node) in PRODUCTS:
        result = torch.where((inputs[0] == 0) | (inputs[1] == 0), torch.zeros_like(result), result)
    return result


def _evaluated(graph: ChannelGraph, model: nn.Module, step: ChannelStep, inputs: list[torch.Tensor]) -> torch.Tensor:
    """The operation itself, on tensors that hold the constants."""
    known = torch.stack([~part.isnan() for part in inputs]).all(dim=0)
    result = torch.full_like(inputs[0], torch.nan)
    if not known.any():
        return result
    node, places = step.node, {}
    module = None if step.module is None else deepcopy(get_attribute(model, step.module)).eval()
    device = next((p.device for p in module.parameters()), None) if module is not None else None
    for source, part in zip(step.inputs, inputs, strict=True):
        shape = [1] * len(graph.dims(source))
        shape[graph.values[source].axis] = -1
        dtype = graph.shapes[source].dtype
        places[source] = torch.where(known, part, 0).reshape(shape).to(device=device, dtype=dtype)
    with torch.no_grad():
        if module is not None:
            out = module(places[step.inputs[0]])
        else:
            args = fx.node.map_arg(node.args, places.__getitem__)
            kwargs = fx.node.map_arg(node.kwargs, places.__getitem__)
            target: Callable[..., Any] = (
                getattr(torch.Tensor, node.target) if isinstance(node.target, str) else node.target
            )
            out = target(*args, **kwargs)
    return torch.where(known, out.detach().cpu().double().reshape(-1), result)


def get_channel_pad(graph: ChannelGraph, step: ChannelStep) -> tuple[int, float]:
    """How many channels a pad puts in front, and their value."""
    source = step.inputs[0]
    place = 2 * (len(graph.dims(source)) - 1 - graph.values[source].axis)
    return argument(step.node, 1, "pad")[place], float(argument(step.node, 3, "value") or 0)


# --- reads, backwards


def _backward(graph: ChannelGraph, analysis: ChannelAnalysis) -> None:
    """Reads of every tensor; filters that nobody reads leave the support."""
    for node, value in graph.values.items():
        analysis.reads[node] = torch.zeros(len(value.ids), dtype=torch.bool)
    for step in reversed(graph.steps):
        for node, needed in zip(step.inputs, _needed(graph, analysis, step), strict=True):
            analysis.reads[node] |= needed
    for name, site in graph.layers.items():
        read = torch.stack([analysis.reads[call.node] for call in site.calls]).any(dim=0)
        analysis.support[name] &= read.reshape(site.groups, 1, -1)


def _needed(graph: ChannelGraph, analysis: ChannelAnalysis, step: ChannelStep) -> list[torch.Tensor]:
    """Which channels of its inputs a step needs."""
    if step.kind in (OpKind.OUTPUT, OpKind.OPAQUE):
        return [torch.ones_like(analysis.reads[node]) for node in step.inputs]
    read = analysis.reads[step.node]
    if step.kind is OpKind.LAYER:
        site = graph.layers[str(step.module)]
        reads = find_channel_reads(analysis.support[site.name], site) & read.reshape(site.groups, 1, -1)
        channels, source = reads.any(dim=2).reshape(-1), analysis.reads[step.inputs[0]]
        return [channels if graph.follows(step) else torch.full_like(source, bool(reads.any()))]
    if step.kind is OpKind.CONCATENATE:
        return list(torch.split(read, [len(analysis.reads[node]) for node in step.inputs]))
    if step.kind is OpKind.FLATTEN:
        return [read.reshape(len(analysis.reads[step.inputs[0]]), -1).any(dim=1)]
    if step.kind is OpKind.PAD:
        front, _ = get_channel_pad(graph, step)
        return [read[front : front + len(analysis.reads[step.inputs[0]])]]
    if step.kind is OpKind.BINARY and operation(step.node) in PRODUCTS:
        one, other = (analysis.constants[node] == 0 for node in step.inputs)
        return [read & (one | ~other), read & ~one]  # a zero factor is enough; of two zeros the first is
    return [read for _ in step.inputs]
