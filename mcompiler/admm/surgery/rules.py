"""What each node of a trace does with channels: one rule per family of operations; any other node pins its channels.

A rule returns whether it applies. It must be certain that channel c of the output depends on channel c of its inputs
only (or on the channels that the step's kind says): a rule that does not apply costs only channels that stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from mcompiler.admm.lowering import MAPPED_MODULES
from mcompiler.admm.surgery import operators as ops
from mcompiler.admm.surgery.aliases import is_read_after_overwrite
from mcompiler.admm.surgery.builder import ChannelGraphBuilder
from mcompiler.admm.surgery.operators import ConstantRule, OpKind, argument, operation
from mcompiler.admm.surgery.steps import ChannelStep, TensorChannels, TracedLayer


def add_node(builder: ChannelGraphBuilder, node: fx.Node) -> None:
    """Add a node of the trace to the graph; nodes come in order of execution.

    Args:
        builder: the graph so far.
        node: the node.
    """
    if node.op == "output":
        builder.pin_inputs(node, "it is an output of the network")
        builder.add_step(ChannelStep(node, OpKind.OUTPUT, builder.tracked_inputs(node)))
    elif builder.holds_tensors(node):
        builder.add_opaque(node)
    elif not builder.is_tensor(node):
        if not builder.counts.add_number(node):
            builder.add_scalar_consumer(node)
    elif len(builder.dims(node)) < 2:
        if node.op not in ("placeholder", "get_attr"):
            builder.add_scalar_consumer(node)
    elif not _apply_rule(builder, node):
        # A number that counts channels changes when channels are removed. Only a reshape is rewritten for that.
        builder.pin_counts(node, node.all_input_nodes)


def _apply_rule(builder: ChannelGraphBuilder, node: fx.Node) -> bool:
    """Apply the rule of a node; True where its arguments may count channels (a reshape)."""
    if node.op == "placeholder":
        channels = TensorChannels(1, builder.ids.create(builder.dims(node)[1]))
        builder.ids.pin(channels.ids, "it is an input of the network")
        builder.add_step(ChannelStep(node, OpKind.INPUT, ()), channels)
        return False
    if node.op == "get_attr":
        _add_constant(builder, node)
        return False
    source, name = builder.get_source(node), operation(node)
    applied = False
    # An operation in place also changes tensors that share its memory. If one of them is read afterwards under its own
    # node, the graph would show the old values there, so no rule is applied.
    overwrites = ops.in_place(node, builder.get_module(node)) and is_read_after_overwrite(node, builder.model)
    if not overwrites:
        if node.op == "call_module":
            applied = source is not None and _apply_module_rule(builder, node, source)
        elif name in ops.CATENATIONS:
            applied = _add_concatenation(builder, node)
        elif name in ops.ARITHMETIC:
            applied = _add_binary(builder, node)
        elif source is not None:
            applied = _apply_function_rule(builder, node, source)
    if not applied:
        builder.add_opaque(node)
    return applied and name in ops.RESHAPES


def _add_constant(builder: ChannelGraphBuilder, node: fx.Node) -> None:
    """A parameter or buffer [1, C, 1, ...]; any other has no channels, so that operations with it are opaque."""
    dims, name = builder.dims(node), str(node.target)
    if dims[0] != 1 or prod(dims[2:]) != 1 or dims[1] == 1:
        return
    channels = TensorChannels(1, builder.ids.create(dims[1]))
    _tie_uses(builder, name, channels)
    builder.add_step(ChannelStep(node, OpKind.CONSTANT, (), ConstantRule.UNKNOWN, name), channels)


def _tie_uses(builder: ChannelGraphBuilder, name: str, channels: TensorChannels) -> None:
    """Tie the channels of all uses of a module or constant: its vectors can be cut once only."""
    if name in builder.module_channels:
        builder.ids.tie(builder.module_channels[name].ids, channels.ids)
    builder.module_channels.setdefault(name, channels)


# --- modules ---------------------------------------------------------------------------------------------------------


def _apply_module_rule(builder: ChannelGraphBuilder, node: fx.Node, source: fx.Node) -> bool:
    module = builder.get_module(node)
    if len(node.all_input_nodes) != 1:
        return False
    if isinstance(module, MAPPED_MODULES):
        return _add_layer(builder, node, source, module)
    if isinstance(module, (_BatchNorm, _InstanceNorm)) or (isinstance(module, nn.PReLU) and module.num_parameters > 1):
        return _add_norm(builder, node, source, module)
    if isinstance(module, nn.Flatten):
        return _add_reshape(builder, node, source)
    if getattr(module, "return_indices", False):
        return False
    if isinstance(module, (*ops.POINTWISE_MODULES, nn.PReLU)):
        return _add_unary(builder, node, source, ConstantRule.EVALUATED)
    if isinstance(module, (*ops.SAME_MODULES, *ops.SPATIAL_MODULES)):
        return _add_spatial(builder, node, source, ConstantRule.SAME)
    if isinstance(module, ops.AVERAGES):
        # Padding puts zeros into the average at the borders, and divisor_override changes it everywhere: a constant
        # other than zero does not stay that constant.
        plain = not _is_nonzero(module.padding) and getattr(module, "divisor_override", None) is None
        return _add_spatial(builder, node, source, ConstantRule.SAME if plain else ConstantRule.ZERO)
    return isinstance(module, ops.BORDERS) and _add_spatial(builder, node, source, ConstantRule.ZERO)


def _add_layer(builder: ChannelGraphBuilder, node: fx.Node, source: fx.Node, module: nn.Module) -> bool:
    name = str(node.target)
    weight = module._parameters.get("weight")
    # A weight that is computed (a parametrisation), or that two modules share, cannot be cut for one of them alone.
    if weight is None or builder.weight_owners.setdefault(id(weight), name) != name:
        return False
    rank, channels = len(builder.dims(source)), builder.channels[source]
    linear = isinstance(module, nn.Linear)
    if not linear and rank != weight.ndim:
        return False
    axis = rank - 1 if linear else 1
    groups = int(getattr(module, "groups", 1))
    inputs = channels.ids
    # A Linear reads the last axis. Where the channels are on another one (tokens, images of 4 dimensions), it mixes an
    # axis that is not followed: its inputs are new channels that stay, and so do those of the tensor.
    if channels.axis != axis:
        builder.ids.pin(channels.ids, f"layer '{name}' reads another axis of it")
        inputs = builder.ids.create(weight.shape[1] * groups)
        builder.ids.pin(inputs, f"layer '{name}' reads an axis that is not followed")
    outputs = builder.ids.create(weight.shape[0])
    step = ChannelStep(node, OpKind.LAYER, (source,), ConstantRule.UNKNOWN, name)
    first = builder.layers.get(name)
    if first is None:
        builder.layers[name] = TracedLayer(
            name, (step,), inputs, outputs, groups=groups, positions=prod(weight.shape[2:])
        )
    else:  # a second use has the same weight, so both uses keep and remove the same rows and filters
        builder.ids.tie(first.inputs, inputs)
        builder.ids.tie(first.outputs, outputs)
        builder.layers[name] = first.with_call(step)
    return builder.add_step(step, TensorChannels(axis, outputs))


def _add_norm(builder: ChannelGraphBuilder, node: fx.Node, source: fx.Node, module: nn.Module) -> bool:
    channels, name = builder.channels[source], str(node.target)
    if channels.axis != 1:
        return False
    _tie_uses(builder, name, channels)
    # Only with running statistics is the output of a constant channel known; otherwise it depends on the batch.
    known = isinstance(module, nn.PReLU) or (
        isinstance(module, _BatchNorm) and isinstance(module.running_mean, torch.Tensor)
    )
    rule = ConstantRule.EVALUATED if known else ConstantRule.UNKNOWN
    return builder.add_step(ChannelStep(node, OpKind.NORM, (source,), rule, name), channels)


def _add_unary(builder: ChannelGraphBuilder, node: fx.Node, source: fx.Node, rule: ConstantRule) -> bool:
    module = str(node.target) if node.op == "call_module" else None
    return builder.add_step(ChannelStep(node, OpKind.UNARY, (source,), rule, module), builder.channels[source])


def _add_spatial(builder: ChannelGraphBuilder, node: fx.Node, source: fx.Node, rule: ConstantRule) -> bool:
    """An operation on the axes after the channels: these must be on the axis that the operation expects."""
    channels, before, after = builder.channels[source], builder.dims(source), builder.dims(node)
    if before != after and (channels.axis != 1 or len(before) != len(after) or before[:2] != after[:2]):
        return False
    return _add_unary(builder, node, source, rule)


# --- functions and methods -------------------------------------------------------------------------------------------


def _apply_function_rule(builder: ChannelGraphBuilder, node: fx.Node, source: fx.Node) -> bool:
    name = operation(node)
    alone = node.all_input_nodes == [source]
    tracked_alone = builder.tracked_inputs(node) == (source,)
    if name in ops.POINTWISE:
        return alone and _add_unary(builder, node, source, ConstantRule.EVALUATED)
    if name in ops.SAME:
        # In training dropout scales the values that it keeps; only zero is the same in both modes.
        inactive = "dropout" not in name or argument(node, 2, "training", True) is False
        return alone and _add_unary(builder, node, source, ConstantRule.SAME if inactive else ConstantRule.ZERO)
    if name in ops.SPATIAL:
        return tracked_alone and _add_spatial(builder, node, source, ConstantRule.SAME)
    if name in ops.AVERAGE:
        plain = not _is_nonzero(argument(node, 3, "padding", 0)) and argument(node, 6, "divisor_override") is None
        rule = ConstantRule.SAME if plain else ConstantRule.ZERO
        return tracked_alone and _add_spatial(builder, node, source, rule)
    if name in ops.REDUCTIONS:
        return alone and _add_reduction(builder, node, source, ops.REDUCTIONS[name])
    if name in ops.SHAPERS:
        return _add_reshape(builder, node, source)
    rule_of: dict[str, Callable[[ChannelGraphBuilder, fx.Node, fx.Node], bool]] = {
        "getitem": _add_getitem,
        "pad": _add_pad,
        "expand_as": _add_expand_as,
    }
    return name in rule_of and rule_of[name](builder, node, source)


def _add_reduction(builder: ChannelGraphBuilder, node: fx.Node, source: fx.Node, rule: ConstantRule) -> bool:
    channels, rank = builder.channels[source], len(builder.dims(source))
    dims = argument(node, 1, "dim")
    axes = [dims] if isinstance(dims, int) else dims
    if not isinstance(axes, (tuple, list)) or not axes or not all(isinstance(axis, int) for axis in axes):
        return False
    reduced = {axis % rank for axis in axes}
    if channels.axis in reduced or 0 in reduced:
        return False
    # Without keepdim every reduced axis before the channels moves them one axis forward.
    keeps_axes = len(builder.dims(node)) == rank
    axis = channels.axis - (0 if keeps_axes else sum(other < channels.axis for other in reduced))
    return builder.add_step(ChannelStep(node, OpKind.UNARY, (source,), rule), TensorChannels(axis, channels.ids))


def _add_reshape(builder: ChannelGraphBuilder, node: fx.Node, source: fx.Node) -> bool:
    """[N, C, ...] to [N, C, other axes], or to [N, C * ...]."""
    channels, before, after = builder.channels[source], builder.dims(source), builder.dims(node)
    name = operation(node)
    if channels.axis != 1:
        return False
    flat = len(after) == 2 and len(before) > 2 and after == (before[0], prod(before[1:]))
    # squeeze() without a dimension would also drop the channel axis of a smaller model that has one channel left.
    if not flat and (after[:2] != before[:2] or (name == "squeeze" and len(node.args) + len(node.kwargs) == 1)):
        return False
    if name in ops.RESHAPES and not flat:
        sizes = get_reshape_sizes(node)
        if sizes is None or len(sizes) != len(after):
            return False
        # The size at position 1 is rewritten for the smaller model; a count of channels elsewhere is not.
        builder.pin_counts(node, [n for i, n in enumerate(sizes) if i != 1 and isinstance(n, fx.Node)])
    if not flat:
        return builder.add_step(ChannelStep(node, OpKind.UNARY, (source,), ConstantRule.SAME), channels)
    # In [N, C, H, W] the positions of a channel are adjacent, so a flat tensor has H * W successive features for each.
    ids = channels.ids.repeat_interleave(prod(before[2:]))
    return builder.add_step(ChannelStep(node, OpKind.FLATTEN, (source,), ConstantRule.SAME), TensorChannels(1, ids))


def _add_getitem(builder: ChannelGraphBuilder, node: fx.Node, source: fx.Node) -> bool:
    """An index that leaves samples and channels complete and in place."""
    index, channels, rank = node.args[1], builder.channels[source], len(builder.dims(source))
    parts = list(index) if isinstance(index, tuple) else [index]
    if any(not isinstance(part, (slice, int, type(...))) for part in parts) or channels.axis != 1:
        return False
    if ... in parts:
        place = parts.index(...)
        parts[place : place + 1] = [slice(None)] * (rank - len(parts) + 1)
    if any(part != slice(None) for part in parts[:2]):
        return False
    return builder.add_step(ChannelStep(node, OpKind.UNARY, (source,), ConstantRule.SAME), channels)


def _add_expand_as(builder: ChannelGraphBuilder, node: fx.Node, source: fx.Node) -> bool:
    channels, other = builder.channels[source], node.args[1]
    like = builder.channels.get(other) if isinstance(other, fx.Node) else None
    if like is None or like.axis != channels.axis or len(like.ids) != len(channels.ids):
        return False
    if len(builder.dims(source)) != len(builder.dims(node)):
        return False
    builder.ids.tie(channels.ids, like.ids)  # both tensors must keep the same size
    return builder.add_step(ChannelStep(node, OpKind.UNARY, (source,), ConstantRule.SAME), channels)


def _add_pad(builder: ChannelGraphBuilder, node: fx.Node, source: fx.Node) -> bool:
    channels, rank = builder.channels[source], len(builder.dims(source))
    widths, mode = argument(node, 1, "pad"), argument(node, 2, "mode", "constant")
    fill = argument(node, 3, "value") or 0
    if not isinstance(widths, (tuple, list)) or not all(type(w) is int for w in widths):
        return False
    pairs = {rank - 1 - i // 2: (widths[i], widths[i + 1]) for i in range(0, len(widths), 2)}  # from the last axis on
    front, behind = pairs.pop(channels.axis, (0, 0))
    borders = any(_is_nonzero(pair) for pair in pairs.values())
    if _is_nonzero(pairs.pop(0, (0, 0))) or front < 0 or behind < 0 or type(fill) not in (int, float):
        return False
    if mode != "constant":  # reflection and replication repeat values of the same channel
        return front == behind == 0 and _add_unary(builder, node, source, ConstantRule.SAME)
    rule = ConstantRule.SAME if not borders else ConstantRule.ZERO if fill == 0 else ConstantRule.UNKNOWN
    if front == behind == 0:
        return _add_unary(builder, node, source, rule)
    ids = torch.cat([builder.ids.create(front), channels.ids, builder.ids.create(behind)])
    return builder.add_step(ChannelStep(node, OpKind.PAD, (source,), rule), TensorChannels(channels.axis, ids))


# --- several tensors -------------------------------------------------------------------------------------------------


def _add_concatenation(builder: ChannelGraphBuilder, node: fx.Node) -> bool:
    parts, dim = argument(node, 0, "tensors"), argument(node, 1, "dim", 0)
    if not isinstance(parts, (tuple, list)) or not isinstance(dim, int):
        return False
    if any(part not in builder.channels for part in parts):
        return False
    axis = dim % len(builder.dims(node))
    if any(builder.channels[part].axis != axis for part in parts):
        return False
    ids = torch.cat([builder.channels[part].ids for part in parts])
    return builder.add_step(ChannelStep(node, OpKind.CONCATENATE, tuple(parts)), TensorChannels(axis, ids))


def _add_binary(builder: ChannelGraphBuilder, node: fx.Node) -> bool:
    """Two tensors channel by channel, or a tensor and a number."""
    one, other = argument(node, 0, "input"), argument(node, 1, "other")
    parts = builder.tracked_inputs(node)
    if set(node.kwargs) - {"input", "other", "alpha"} or len(node.args) > 2:
        return False
    numbers = [part for part in (one, other) if part not in builder.channels]
    if len(parts) == 1 and len(numbers) == 1:
        plain = isinstance(numbers[0], (int, float))
        if not plain and (not isinstance(numbers[0], fx.Node) or builder.is_tensor(numbers[0])):
            return False
        return _add_unary(builder, node, parts[0], ConstantRule.EVALUATED if plain else ConstantRule.UNKNOWN)
    if numbers or not all(isinstance(part, fx.Node) for part in (one, other)):
        return False
    # Broadcasting along the channel axis would use one channel for many; only equal sizes are followed.
    a, b = builder.channels[one], builder.channels[other]
    if a.axis != b.axis or len(a.ids) != len(b.ids) or len(builder.dims(one)) != len(builder.dims(other)):
        return False
    # Channel c of both tensors is needed as long as one of them is: they can only be removed together.
    builder.ids.tie(a.ids, b.ids)
    step = ChannelStep(node, OpKind.BINARY, (one, other), ConstantRule.EVALUATED)
    return builder.add_step(step, TensorChannels(a.axis, a.ids))


def get_reshape_sizes(node: fx.Node) -> list[Any] | None:
    """The sizes of a view or reshape, each a number or a node; None where they come as one value."""
    sizes: Sequence[Any] = node.args[1:] if len(node.args) > 1 else [node.kwargs.get("shape")]
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = sizes[0]
    plain = all(isinstance(size, (int, fx.Node)) for size in sizes)
    return list(sizes) if plain else None


def _is_nonzero(value: Any) -> bool:
    return any(value) if isinstance(value, (tuple, list)) else bool(value)
