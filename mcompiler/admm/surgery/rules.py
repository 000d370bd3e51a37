"""From the nodes of a trace to steps on channels: one rule per family of operations, and a pin for everything else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from mcompiler.admm.lowering import MAPPED_MODULES
from mcompiler.admm.surgery import operators as ops
from mcompiler.admm.surgery.aliases import is_read_after_overwrite, volatile
from mcompiler.admm.surgery.identities import ChannelIds
from mcompiler.admm.surgery.operators import ConstantRule, OpKind, argument, operation
from mcompiler.admm.surgery.sizes import ChannelCounts
from mcompiler.admm.surgery.steps import ChannelGraph, ChannelStep, TensorChannels, TracedLayer
from mcompiler.admm.surgery.tracing import Trace, get_attribute

_INPUT = "it is an input of the network"
_OUTPUT = "it is an output of the network"


class ChannelGraphBuilder:
    """Builds a ChannelGraph node by node, in order of execution."""

    def __init__(self, model: nn.Module, traced: Trace, elementwise: Iterable[type[nn.Module]]) -> None:
        self._model = model
        self._traced = traced
        self._pointwise = (*ops.POINTWISE_MODULES, *elementwise)
        self._values: dict[fx.Node, TensorChannels] = {}
        self._steps: list[ChannelStep] = []
        self._ids = ChannelIds()
        self._sites: dict[str, TracedLayer] = {}
        self._called: dict[str, TensorChannels] = {}  # normalisations and constants
        self._sizes = ChannelCounts(traced.shapes, self._values)
        self._owners: dict[int, str] = {}  # weights -> layer

    def visit(self, node: fx.Node) -> None:
        """Take in one node."""
        shape = self._traced.shapes.get(node)
        if node.op == "output":
            self._pin_inputs(node, _OUTPUT)
            self._add(ChannelStep(node, OpKind.OUTPUT, self._tracked(node)))
        elif shape is None or shape.dims is None:
            if shape is not None and shape.holds_tensors:
                self._opaque(node)
            elif not self._sizes.visit(node):
                self._add_scalar_consumer(node)
        elif len(shape.dims) < 2:
            if node.op not in ("placeholder", "get_attr"):
                self._add_scalar_consumer(node)
        else:
            reshapes = self._rule(node)
            if not reshapes:
                self._pin_sizes(node, node.all_input_nodes)

    def finish(self) -> ChannelGraph:
        """The graph of all nodes."""
        classes, pins = self._ids.classes()
        traced = self._traced
        return ChannelGraph(
            self._model,
            traced.graph,
            tuple(self._steps),
            self._values,
            classes,
            pins,
            self._sites,
            traced.shapes,
            traced.dropouts,
            frozenset(volatile(traced.graph, self._model)),
        )

    def _pin_inputs(self, node: fx.Node, reason: str) -> None:
        for part in self._tracked(node):
            self._ids.pin(self._values[part].ids, reason)
        self._pin_sizes(node, node.all_input_nodes)

    def _pin_sizes(self, node: fx.Node, numbers: Iterable[fx.Node]) -> None:
        """Numbers of channels that go anywhere else than into a reshape must not change."""
        for source in self._sizes.sources(numbers):
            self._ids.pin(self._values[source].ids, f"'{node.name}' uses how many there are")

    # --- nodes

    def _tracked(self, node: fx.Node) -> tuple[fx.Node, ...]:
        return tuple(part for part in node.all_input_nodes if part in self._values)

    def _dims(self, node: fx.Node) -> tuple[int, ...]:
        dims = self._traced.shapes[node].dims
        assert dims is not None
        return dims

    def _module(self, node: fx.Node) -> nn.Module | None:
        if node.op != "call_module":
            return None
        found: nn.Module = get_attribute(self._model, str(node.target))
        return found

    def _title(self, node: fx.Node) -> str:
        module = self._module(node)
        return type(module).__name__ if module is not None else operation(node) or str(node.target)

    def _add(self, step: ChannelStep, value: TensorChannels | None = None) -> bool:
        """Note a step; True for the caller to return: it stands."""
        self._steps.append(step)
        if value is not None:
            self._values[step.node] = value
        return True

    def _opaque(self, node: fx.Node) -> None:
        reason = f"'{node.name}' ({self._title(node)}) is not known to keep channels apart"
        self._pin_inputs(node, reason)
        dims = self._traced.shapes[node].dims
        value = None
        if dims is not None and len(dims) >= 2:
            value = TensorChannels(1, self._ids.fresh(dims[1]))
            self._ids.pin(value.ids, reason)
        self._add(ChannelStep(node, OpKind.OPAQUE, self._tracked(node)), value)

    def _add_scalar_consumer(self, node: fx.Node) -> None:
        """A node that makes numbers, or a vector, of tensors."""
        self._pin_inputs(node, f"'{node.name}' ({self._title(node)}) is not known to keep channels apart")
        self._add(ChannelStep(node, OpKind.OPAQUE, self._tracked(node)))

    def _source(self, node: fx.Node) -> fx.Node | None:
        """The first argument, where it is a tensor with channels."""
        first = argument(node, 0, "input")
        return first if isinstance(first, fx.Node) and first in self._values else None

    def _rule(self, node: fx.Node) -> bool:
        """Apply the rule of the node; True where numbers of channels may go in (a reshape)."""
        if node.op == "placeholder":
            value = TensorChannels(1, self._ids.fresh(self._dims(node)[1]))
            self._ids.pin(value.ids, _INPUT)
            return self._add(ChannelStep(node, OpKind.INPUT, ()), value)
        if node.op == "get_attr":
            self._constant(node)
            return False
        overwritten = ops.in_place(node, self._module(node)) and is_read_after_overwrite(node, self._model)
        source = self._source(node)
        done, reshapes = False, False
        if not overwritten:
            if node.op == "call_module":
                done = source is not None and self._module_rule(node, source)
            elif operation(node) in ops.CATENATIONS:
                done = self._concatenate(node)
            elif operation(node) in ops.ARITHMETIC:
                done = self._binary(node)
            elif source is not None:
                done = self._function_rule(node, source)
                reshapes = done and operation(node) in ops.RESHAPES
        if not done:
            self._opaque(node)
        return reshapes

    def _constant(self, node: fx.Node) -> None:
        """A parameter or buffer [1, C, 1, ...]; anything else has no channels."""
        dims, name = self._dims(node), str(node.target)
        if dims[0] != 1 or prod(dims[2:]) != 1 or dims[1] == 1:
            return
        value = TensorChannels(1, self._ids.fresh(dims[1]))
        if name in self._called:
            self._ids.tie(self._called[name].ids, value.ids)
        self._called.setdefault(name, value)
        self._add(ChannelStep(node, OpKind.CONSTANT, (), ConstantRule.NOTHING, name), value)

    # --- modules

    def _module_rule(self, node: fx.Node, source: fx.Node) -> bool:
        module = self._module(node)
        if len(node.all_input_nodes) != 1:
            return False
        if isinstance(module, MAPPED_MODULES):
            return self._layer(node, source, module)
        if isinstance(module, (_BatchNorm, _InstanceNorm)) or (
            isinstance(module, nn.PReLU) and module.num_parameters > 1
        ):
            return self._norm(node, source, module)
        if isinstance(module, nn.Flatten):
            return self._reshape(node, source)
        if getattr(module, "return_indices", False):
            return False
        if isinstance(module, (*self._pointwise, nn.PReLU)):
            return self._unary(node, source, ConstantRule.EVALUATED)
        if isinstance(module, (*ops.SAME_MODULES, *ops.SPATIAL_MODULES)):
            return self._spatial(node, source, ConstantRule.SAME)
        if isinstance(module, ops.AVERAGES):
            plain = not _any(module.padding) and getattr(module, "divisor_override", None) is None
            return self._spatial(node, source, ConstantRule.SAME if plain else ConstantRule.ZERO)
        return isinstance(module, ops.BORDERS) and self._spatial(node, source, ConstantRule.ZERO)

    def _layer(self, node: fx.Node, source: fx.Node, module: nn.Module) -> bool:
        name = str(node.target)
        weight = module._parameters.get("weight")
        if weight is None or self._owners.setdefault(id(weight), name) != name:
            return False  # computed from something else, or shared with another layer
        rank, value = len(self._dims(source)), self._values[source]
        linear = isinstance(module, nn.Linear)
        axis = rank - 1 if linear else 1
        if not linear and rank != weight.ndim:
            return False
        groups = int(getattr(module, "groups", 1))
        count = weight.shape[1] * groups
        inputs = value.ids
        if value.axis != axis:
            self._ids.pin(value.ids, f"layer '{name}' reads another axis of it")
            inputs = self._ids.fresh(count)
            self._ids.pin(inputs, f"layer '{name}' reads an axis that is not followed")
        outputs = self._ids.fresh(weight.shape[0])
        step = ChannelStep(node, OpKind.LAYER, (source,), ConstantRule.NOTHING, name)
        first = self._sites.get(name)
        if first is not None:
            self._ids.tie(first.inputs, inputs)
            self._ids.tie(first.outputs, outputs)
            self._sites[name] = TracedLayer(
                name, (*first.calls, step), first.inputs, first.outputs, groups, first.positions
            )
        else:
            self._sites[name] = TracedLayer(name, (step,), inputs, outputs, groups, prod(weight.shape[2:]))
        return self._add(step, TensorChannels(axis, outputs))

    def _norm(self, node: fx.Node, source: fx.Node, module: nn.Module) -> bool:
        value, name = self._values[source], str(node.target)
        if value.axis != 1:
            return False
        if name in self._called:
            self._ids.tie(self._called[name].ids, value.ids)
        self._called.setdefault(name, value)
        known = isinstance(module, nn.PReLU) or (
            isinstance(module, _BatchNorm) and isinstance(module.running_mean, torch.Tensor)
        )
        constant_rule = ConstantRule.EVALUATED if known else ConstantRule.NOTHING
        return self._add(ChannelStep(node, OpKind.NORM, (source,), constant_rule, name), value)

    def _unary(self, node: fx.Node, source: fx.Node, constant_rule: ConstantRule) -> bool:
        module = str(node.target) if node.op == "call_module" else None
        return self._add(ChannelStep(node, OpKind.UNARY, (source,), constant_rule, module), self._values[source])

    def _spatial(self, node: fx.Node, source: fx.Node, constant_rule: ConstantRule) -> bool:
        """Works on axes behind the channels: they must lie where the operation takes them to lie."""
        value, before, after = self._values[source], self._dims(source), self._dims(node)
        if before != after and (value.axis != 1 or len(before) != len(after) or before[:2] != after[:2]):
            return False
        return self._unary(node, source, constant_rule)

    # --- functions and methods

    def _function_rule(self, node: fx.Node, source: fx.Node) -> bool:
        name = operation(node)
        alone = node.all_input_nodes == [source]
        if name in ops.POINTWISE:
            return alone and self._unary(node, source, ConstantRule.EVALUATED)
        if name in ops.SAME:
            quiet = "dropout" not in name or argument(node, 2, "training", True) is False
            return alone and self._unary(node, source, ConstantRule.SAME if quiet else ConstantRule.ZERO)
        if name in ops.SPATIAL:
            return self._tracked(node) == (source,) and self._spatial(node, source, ConstantRule.SAME)
        if name in ops.AVERAGE:
            plain = not _any(argument(node, 3, "padding", 0)) and argument(node, 6, "divisor_override") is None
            return self._tracked(node) == (source,) and self._spatial(
                node, source, ConstantRule.SAME if plain else ConstantRule.ZERO
            )
        if name in ops.REDUCTIONS:
            return alone and self._reduce(node, source, ops.REDUCTIONS[name])
        if name in ops.SHAPERS:
            return self._reshape(node, source)
        rules = {"getitem": self._getitem, "pad": self._pad, "expand_as": self._expand_as}
        return name in rules and rules[name](node, source)

    def _reduce(self, node: fx.Node, source: fx.Node, constant_rule: ConstantRule) -> bool:
        value, rank = self._values[source], len(self._dims(source))
        dims = argument(node, 1, "dim")
        axes = [dims] if isinstance(dims, int) else dims
        if not isinstance(axes, (tuple, list)) or not axes or not all(isinstance(axis, int) for axis in axes):
            return False
        where = {axis % rank for axis in axes}
        if value.axis in where or 0 in where:
            return False
        kept = len(self._dims(node)) == rank
        axis = value.axis - (0 if kept else sum(other < value.axis for other in where))
        return self._add(ChannelStep(node, OpKind.UNARY, (source,), constant_rule), TensorChannels(axis, value.ids))

    def _reshape(self, node: fx.Node, source: fx.Node) -> bool:
        """[N, C, ...] to [N, C, other axes], or to [N, C * ...]."""
        value, before, after = self._values[source], self._dims(source), self._dims(node)
        name = operation(node)
        if value.axis != 1:
            return False
        flat = len(after) == 2 and len(before) > 2 and after == (before[0], prod(before[1:]))
        if not flat and (after[:2] != before[:2] or (name == "squeeze" and len(node.args) + len(node.kwargs) == 1)):
            return False
        if name in ops.RESHAPES and not flat:
            sizes = get_reshape_sizes(node)
            if sizes is None or len(sizes) != len(after):
                return False
            self._pin_sizes(node, [n for i, n in enumerate(sizes) if i != 1 and isinstance(n, fx.Node)])
        if not flat:
            return self._add(ChannelStep(node, OpKind.UNARY, (source,), ConstantRule.SAME), value)
        ids = value.ids.repeat_interleave(prod(before[2:]))
        return self._add(ChannelStep(node, OpKind.FLATTEN, (source,), ConstantRule.SAME), TensorChannels(1, ids))

    def _getitem(self, node: fx.Node, source: fx.Node) -> bool:
        """Whatever leaves samples and channels whole and in place."""
        index, value, rank = node.args[1], self._values[source], len(self._dims(source))
        parts = list(index) if isinstance(index, tuple) else [index]
        if any(not isinstance(part, (slice, int, type(...))) for part in parts) or value.axis != 1:
            return False
        if ... in parts:
            place = parts.index(...)
            parts[place : place + 1] = [slice(None)] * (rank - len(parts) + 1)
        if any(part != slice(None) for part in parts[:2]):
            return False
        return self._add(ChannelStep(node, OpKind.UNARY, (source,), ConstantRule.SAME), value)

    def _expand_as(self, node: fx.Node, source: fx.Node) -> bool:
        value, other = self._values[source], node.args[1]
        like = self._values.get(other) if isinstance(other, fx.Node) else None
        if like is None or like.axis != value.axis or len(like.ids) != len(value.ids):
            return False
        if len(self._dims(source)) != len(self._dims(node)):
            return False
        self._ids.tie(value.ids, like.ids)
        return self._add(ChannelStep(node, OpKind.UNARY, (source,), ConstantRule.SAME), value)

    def _pad(self, node: fx.Node, source: fx.Node) -> bool:
        value, rank = self._values[source], len(self._dims(source))
        widths, mode = argument(node, 1, "pad"), argument(node, 2, "mode", "constant")
        fill = argument(node, 3, "value") or 0
        if not isinstance(widths, (tuple, list)) or not all(type(w) is int for w in widths):
            return False
        pairs = {rank - 1 - i // 2: (widths[i], widths[i + 1]) for i in range(0, len(widths), 2)}
        front, behind = pairs.pop(value.axis, (0, 0))
        borders = any(_any(pair) for pair in pairs.values())
        if _any(pairs.pop(0, (0, 0))) or front < 0 or behind < 0 or type(fill) not in (int, float):
            return False
        if mode != "constant":
            return front == behind == 0 and self._unary(node, source, ConstantRule.SAME)
        constant_rule = ConstantRule.SAME if not borders else ConstantRule.ZERO if fill == 0 else ConstantRule.NOTHING
        if front == behind == 0:
            return self._unary(node, source, constant_rule)
        ids = torch.cat([self._ids.fresh(front), value.ids, self._ids.fresh(behind)])
        return self._add(ChannelStep(node, OpKind.PAD, (source,), constant_rule), TensorChannels(value.axis, ids))

    # --- several tensors

    def _concatenate(self, node: fx.Node) -> bool:
        parts = argument(node, 0, "tensors")
        dim = argument(node, 1, "dim", 0)
        if (
            not isinstance(parts, (tuple, list))
            or not isinstance(dim, int)
            or any(p not in self._values for p in parts)
        ):
            return False
        axis = dim % len(self._dims(node))
        if any(self._values[part].axis != axis for part in parts):
            return False
        ids = torch.cat([self._values[part].ids for part in parts])
        return self._add(ChannelStep(node, OpKind.CONCATENATE, tuple(parts)), TensorChannels(axis, ids))

    def _binary(self, node: fx.Node) -> bool:
        """Two tensors channel by channel, or a tensor and a number."""
        one, other = argument(node, 0, "input"), argument(node, 1, "other")
        parts = self._tracked(node)
        if set(node.kwargs) - {"input", "other", "alpha"} or len(node.args) > 2:
            return False
        numbers = [part for part in (one, other) if part not in self._values]
        if len(parts) == 1 and len(numbers) == 1:
            plain = isinstance(numbers[0], (int, float))
            if not plain and (not isinstance(numbers[0], fx.Node) or self._traced.shapes[numbers[0]].dims is not None):
                return False
            return self._unary(node, parts[0], ConstantRule.EVALUATED if plain else ConstantRule.NOTHING)
        if numbers or not all(isinstance(part, fx.Node) for part in (one, other)):
            return False
        a, b = self._values[one], self._values[other]
        if a.axis != b.axis or len(a.ids) != len(b.ids) or len(self._dims(one)) != len(self._dims(other)):
            return False
        self._ids.tie(a.ids, b.ids)
        return self._add(
            ChannelStep(node, OpKind.BINARY, (one, other), ConstantRule.EVALUATED), TensorChannels(a.axis, a.ids)
        )


def get_reshape_sizes(node: fx.Node) -> list[Any] | None:
    """The sizes of a view or reshape, each a number or a node; None where they come as one value."""
    sizes: Sequence[Any] = node.args[1:] if len(node.args) > 1 else [node.kwargs.get("shape")]
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = sizes[0]
    plain = all(isinstance(size, (int, fx.Node)) for size in sizes)
    return list(sizes) if plain else None


def _any(value: Any) -> bool:
    return any(value) if isinstance(value, (tuple, list)) else bool(value)
