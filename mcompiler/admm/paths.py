"""Which channels of a network are the same thing: a symbolic trace (torch.fx) with an identity for every channel.

Channels run along axis 1. Additions tie channels together, concatenations put them side by side, a Flatten turns each
into a run of features. Where an operation is not known, its channels are pinned: they stay, whatever the masks say.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx, nn

from mcompiler.admm.lowering import MAPPED
from mcompiler.admm.operators import (
    ARITHMETIC,
    AVERAGE,
    AVERAGES,
    BORDERS,
    CATENATIONS,
    POINTWISE,
    POINTWISE_MODULES,
    REDUCTIONS,
    RESHAPES,
    SAME,
    SAME_MODULES,
    SPATIAL,
    SPATIAL_MODULES,
    argument,
    operation,
)
from mcompiler.admm.tracing import Shape, attribute, symbolic_trace

Ids = npt.NDArray[np.int64]
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.PReLU)
"""Modules with one number (or a few) per channel."""

_UNARY_MODULES = (*POINTWISE_MODULES, *SAME_MODULES, *SPATIAL_MODULES, *AVERAGES, *BORDERS)
_UNARY = POINTWISE | SAME | SPATIAL | AVERAGE


@dataclass(frozen=True)
class Place:
    """A module in the graph: its node, and the identities of the channels that it reads and makes."""

    node: fx.Node
    reads: Ids
    makes: Ids


@dataclass
class ChannelGraph:
    """A traced model.

    Attributes:
        model: the model that was traced.
        graph: the graph, in evaluation mode.
        shapes: of every node, for the example.
        ids: identity of each channel of a node's tensor (of each feature behind a Flatten).
        layers, norms: modules by name.
        pinned: identities that must stay.
        dropouts: nodes of functional dropout that follow the mode of the model, and the module for each.
    """

    model: nn.Module
    graph: fx.Graph
    shapes: Mapping[fx.Node, Shape]
    example: tuple[torch.Tensor, ...]
    dropouts: Mapping[fx.Node, type[nn.Module]] = field(default_factory=dict)
    ids: dict[fx.Node, Ids] = field(default_factory=dict)
    layers: dict[str, Place] = field(default_factory=dict)
    norms: dict[str, Place] = field(default_factory=dict)
    parents: list[int] = field(default_factory=list)
    pinned: set[int] = field(default_factory=set)

    def fresh(self, count: int) -> Ids:
        """New identities."""
        first = len(self.parents)
        self.parents.extend(range(first, first + count))
        return np.arange(first, first + count)

    def root(self, identity: int) -> int:
        """The one identity that stands for all that are tied to it."""
        while self.parents[identity] != identity:
            self.parents[identity] = self.parents[self.parents[identity]]
            identity = self.parents[identity]
        return identity

    def roots(self, ids: Ids) -> Ids:
        """``root`` of each."""
        return np.array([self.root(int(identity)) for identity in ids], dtype=np.int64)

    def tie(self, one: Ids, other: Ids) -> None:
        """Make channels one, pair by pair."""
        for a, b in zip(one.tolist(), other.tolist(), strict=True):
            self.parents[self.root(b)] = self.root(a)

    def pin(self, ids: Ids) -> None:
        """Make channels stay."""
        self.pinned.update(ids.tolist())

    def pinned_roots(self) -> set[int]:
        """Roots of all that is pinned."""
        return {self.root(identity) for identity in self.pinned}


def trace(model: nn.Module, example: Sequence[torch.Tensor]) -> ChannelGraph:
    """Trace a model; the model itself is not touched.

    Args:
        model: any module.
        example: its inputs.

    Raises:
        CompileError: it cannot be traced, or does not take the example.
    """
    found = symbolic_trace(model, example, ())
    result = ChannelGraph(model, found.graph, found.shapes, tuple(example), found.dropouts)
    for node in found.graph.nodes:
        _visit(result, node)
    return result


def module_of(graph: ChannelGraph, node: fx.Node) -> nn.Module | None:
    """The module that a node calls, or None."""
    if node.op != "call_module":
        return None
    found: nn.Module = attribute(graph.model, str(node.target))
    return found


def _visit(graph: ChannelGraph, node: fx.Node) -> None:
    dims = graph.shapes[node].dims if node in graph.shapes else None
    if node.op == "output":
        for source in node.all_input_nodes:
            _pin_node(graph, source)
        return
    if dims is None or len(dims) < 2:  # sizes, dtypes, scalars; a vector has no channels
        if node.op != "placeholder" and not _asks_only(node):
            for source in node.all_input_nodes:
                _pin_node(graph, source)
        return
    rule = _rule(graph, node)
    ids = rule(graph, node) if rule is not None else None
    if ids is None or len(ids) != dims[1]:
        ids = _opaque(graph, node, dims[1])
    graph.ids[node] = ids


def _asks_only(node: fx.Node) -> bool:
    """Whether a node asks a tensor for its shape or type only."""
    return operation(node) in {"size", "shape", "dim", "ndim", "dtype", "device", "numel"} or (
        node.op == "call_function" and node.target is operator.getitem and _asks_only(node.args[0])  # type: ignore[arg-type]
    )


def _pin_node(graph: ChannelGraph, node: fx.Node) -> None:
    if node in graph.ids:
        graph.pin(graph.ids[node])


def _opaque(graph: ChannelGraph, node: fx.Node, channels: int) -> Ids:
    """Everything that goes in stays, everything that comes out stays."""
    for source in node.all_input_nodes:
        _pin_node(graph, source)
    ids = graph.fresh(channels)
    graph.pin(ids)
    return ids


Rule = Callable[[ChannelGraph, fx.Node], "Ids | None"]


def _rule(graph: ChannelGraph, node: fx.Node) -> Rule | None:
    module = module_of(graph, node)
    if module is not None:
        if isinstance(module, MAPPED):
            return _layer
        if isinstance(module, NORMS):
            return _norm
        if isinstance(module, nn.Flatten):
            return _flatten
        return _unary if isinstance(module, _UNARY_MODULES) else None
    if node.op not in ("call_function", "call_method"):
        return None
    name = operation(node)
    if name in _UNARY:
        return _unary
    rules: dict[str, Rule] = {"flatten": _flatten, "getitem": _getitem, "pad": _pad}
    rules |= dict.fromkeys(RESHAPES, _flatten) | dict.fromkeys(CATENATIONS, _concatenate)
    rules |= dict.fromkeys(ARITHMETIC, _binary) | dict.fromkeys(REDUCTIONS, _reduce)
    return rules.get(name)


def _source(graph: ChannelGraph, node: fx.Node) -> Ids | None:
    first = node.args[0] if node.args else None
    return graph.ids.get(first) if isinstance(first, fx.Node) else None


def _unary(graph: ChannelGraph, node: fx.Node) -> Ids | None:
    return _source(graph, node)


def _layer(graph: ChannelGraph, node: fx.Node) -> Ids | None:
    """New channels; those of a layer that is used twice, or along another axis, are pinned."""
    reads, name = _source(graph, node), str(node.target)
    module: Any = module_of(graph, node)
    dims = graph.shapes[node].dims
    assert dims is not None
    groups = int(getattr(module, "groups", 1))
    depthwise = groups == module.weight.shape[0] and module.weight.shape[1] == 1
    if reads is None or name in graph.layers or (isinstance(module, nn.Linear) and len(dims) != 2):
        if name in graph.layers:
            for part in (graph.layers[name].reads, graph.layers[name].makes):
                graph.pin(part)
        return None
    makes = graph.fresh(dims[1])
    if groups > 1 and not depthwise:
        graph.pin(reads)
        graph.pin(makes)
    graph.layers[name] = Place(node, reads, makes)
    return makes


def _norm(graph: ChannelGraph, node: fx.Node) -> Ids | None:
    ids, name = _source(graph, node), str(node.target)
    if ids is None or name in graph.norms:
        if name in graph.norms:
            graph.pin(graph.norms[name].reads)
        return None
    graph.norms[name] = Place(node, ids, ids)
    return ids


def _flatten(graph: ChannelGraph, node: fx.Node) -> Ids | None:
    """[N, C, ...] to [N, C * ...]; anything else is opaque."""
    ids, dims = _source(graph, node), graph.shapes[node].dims
    first = node.args[0]
    before = graph.shapes[first].dims if isinstance(first, fx.Node) and first in graph.shapes else None
    if ids is None or dims is None or before is None or len(dims) != 2 or dims[0] != before[0]:
        return None
    each, rest = divmod(dims[1], max(1, len(ids)))
    if rest or before[1] != len(ids) or int(np.prod(before[1:])) != dims[1]:
        return None
    return np.repeat(ids, each)


def _getitem(graph: ChannelGraph, node: fx.Node) -> Ids | None:
    """x[:, :, ...]: whatever leaves the first two axes whole."""
    index = node.args[1]
    whole = slice(None)
    if not isinstance(index, tuple) or len(index) < 2 or index[0] != whole or index[1] != whole:
        return None
    return _source(graph, node)


def _reduce(graph: ChannelGraph, node: fx.Node) -> Ids | None:
    """Means and sums over axes behind the channels."""
    dims = argument(node, 1, "dim")
    first = node.args[0]
    shape = graph.shapes[first].dims if isinstance(first, fx.Node) and first in graph.shapes else None
    if dims is None or shape is None:
        return None
    axes = [axis % len(shape) for axis in (dims if isinstance(dims, tuple | list) else [dims])]
    return _source(graph, node) if min(axes) >= 2 else None


def _pad(graph: ChannelGraph, node: fx.Node) -> Ids | None:
    """Zero channels in front and behind (option-A shortcuts), or borders in space."""
    ids, widths = _source(graph, node), argument(node, 1, "pad")
    mode, value = argument(node, 2, "mode", "constant"), argument(node, 3, "value", None)
    first = node.args[0]
    shape = graph.shapes[first].dims if isinstance(first, fx.Node) and first in graph.shapes else None
    if ids is None or shape is None or not isinstance(widths, tuple | list) or not all(type(w) is int for w in widths):
        return None
    place = 2 * (len(shape) - 2)
    if len(widths) > place + 2 or mode != "constant" or (value not in (None, 0, 0.0)):
        return None
    before, behind = (*widths[place : place + 2], 0, 0)[:2]
    if before < 0 or behind < 0:
        return None
    return np.concatenate([graph.fresh(before), ids, graph.fresh(behind)])


def _concatenate(graph: ChannelGraph, node: fx.Node) -> Ids | None:
    parts, dim = node.args[0], argument(node, 1, "dim", 0)
    if not isinstance(parts, tuple | list) or dim not in (1, -3 if _rank(graph, node) == 4 else 1):
        return None
    ids = [graph.ids.get(part) if isinstance(part, fx.Node) else None for part in parts]
    return None if any(part is None for part in ids) else np.concatenate([part for part in ids if part is not None])


def _rank(graph: ChannelGraph, node: fx.Node) -> int:
    dims = graph.shapes[node].dims
    return 0 if dims is None else len(dims)


def _binary(graph: ChannelGraph, node: fx.Node) -> Ids | None:
    """Channel by channel; a number beside a tensor changes values, not channels."""
    tensors = [part for part in node.args[:2] if isinstance(part, fx.Node)]
    ids = [graph.ids.get(part) for part in tensors]
    if len(tensors) == 1 and len(node.args) == 2 and isinstance(node.args[0], fx.Node):
        return ids[0]
    if len(tensors) != 2 or any(part is None for part in ids) or _rank(graph, tensors[0]) != _rank(graph, tensors[1]):
        return None
    one, other = ids
    assert one is not None
    assert other is not None
    if len(one) != len(other):
        return None
    graph.tie(one, other)
    return one


def fold_batchnorm_pairs(graph: ChannelGraph) -> list[tuple[str, str]]:
    """(layer, batch normalisation) where the normalisation reads the layer's output and nobody else does."""
    pairs = []
    for name, place in graph.layers.items():
        users = list(place.node.users)
        if len(users) != 1 or users[0].op != "call_module" or str(users[0].target) not in graph.norms:
            continue
        module = module_of(graph, users[0])
        if isinstance(module, NORMS[:3]) and module.running_mean is not None:
            pairs.append((name, str(users[0].target)))
    return pairs


def shared_inputs(graph: ChannelGraph) -> list[list[str]]:
    """Layers that read the same tensor, group by group: they can share the codes of their inputs."""
    groups: dict[fx.Node, list[str]] = {}
    for name, place in graph.layers.items():
        source = place.node.args[0]
        assert isinstance(source, fx.Node)
        groups.setdefault(source, []).append(name)
    return list(groups.values())
