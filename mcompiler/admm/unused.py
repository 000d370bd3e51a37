"""Unused path removal: channels that nobody fills or nobody reads go, and the model becomes smaller for real.

A filter of zeros makes a channel that is one constant everywhere. Where that constant is zero, whoever reads it can do
without; where it is not (the shift of a normalisation), it is folded into the bias of what reads it if that is
exact, else the channel stays. A channel that nobody reads needs no filters. Both repeat until nothing changes (Ma et
al., ASP-DAC 2020, arXiv 1908.10017).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx, nn

from mcompiler.admm.lowering import as_matrix
from mcompiler.admm.operators import ARITHMETIC, CATENATIONS, RESHAPES, SUMS, argument, operation
from mcompiler.admm.paths import NORMS, ChannelGraph, trace
from mcompiler.admm.spec import Purify
from mcompiler.errors import CompileError

Bools = npt.NDArray[np.bool_]
Support = Mapping[str, torch.Tensor]
"""What may be non-zero, bool [G, K, N] by layer."""


@dataclass(frozen=True)
class Kept:
    """Output and input channels of a layer that stay, ascending; input channels within their group."""

    outputs: torch.Tensor
    inputs: torch.Tensor
    positions: int
    depthwise: bool

    def slice(self, matrix: torch.Tensor) -> torch.Tensor:
        """The part of a matrix [G, K, N] of the layer that stays."""
        if self.depthwise:
            return matrix[self.outputs]
        rows = (self.inputs[:, None] * self.positions + torch.arange(self.positions)).reshape(-1)
        groups, _, columns = matrix.shape
        if groups > 1:
            return matrix
        assert columns >= len(self.outputs)
        return matrix[:, rows.to(matrix.device)][:, :, self.outputs.to(matrix.device)]


@dataclass(frozen=True)
class Removal:
    """A smaller model.

    Attributes:
        model: it; layers have the names that they had.
        support: what may be non-zero in it, [G, K, N] of the small layers.
        kept: channels that stay, by layer; a layer that vanished is missing.
        before: output and input channels of every layer before.
        folded: constants that went into a bias: (layer that read them, how many channels).
        pinned: channels that had to stay though their filters are zero: (layer, how many).
    """

    model: nn.Module
    support: Support
    kept: Mapping[str, Kept]
    before: Mapping[str, tuple[int, int]]
    folded: Mapping[str, int]
    pinned: Mapping[str, int]

    def sliced(self, name: str, matrix: torch.Tensor) -> torch.Tensor:
        """The part of a matrix of the old layer that the new one holds."""
        return self.kept[name].slice(matrix)

    def as_table(self) -> dict[str, Any]:
        """Plain values: filters and channels before and after, by layer."""
        return {
            name: {
                "filters": [outputs, len(self.kept[name].outputs) if name in self.kept else 0],
                "channels": [inputs, len(self.kept[name].inputs) if name in self.kept else 0],
            }
            for name, (outputs, inputs) in self.before.items()
        }


def remove_unused(model: nn.Module, example: Sequence[torch.Tensor], support: Support | None = None) -> Removal:
    """A smaller model that computes in evaluation mode what the masked one does; the given model is not touched.

    Args:
        model: any module that can be traced.
        example: its inputs.
        support: what may be non-zero, by layer; a layer that is missing, and None: what is.

    Raises:
        CompileError: a model that cannot be traced; a layer of which nothing is left, other than a branch.
    """
    work = copy.deepcopy(model)
    graph = trace(work, example)
    masks = _masks(graph, support or {})
    _apply(graph, masks)
    folded: dict[str, int] = {}
    while True:
        before = {name: int(mask.sum()) for name, mask in masks.items()}
        _drop_fixed(graph, masks, folded)
        _drop_unread(graph, masks)
        if before == {name: int(mask.sum()) for name, mask in masks.items()}:
            break
    sizes = _sizes(graph, model)
    _drop_branches(graph, masks)
    dead = _dead_roots(graph, masks)
    pinned = _pinned(graph, masks, dead)
    kept = _slice_modules(graph, dead)
    small = _rebuilt(graph, dead, model.training)
    device = next(iter(model.parameters())).device
    smaller = {name: kept[name].slice(masks[name]).to(device) for name in graph.layers}
    return Removal(small, smaller, kept, sizes, folded, pinned)


def _sizes(graph: ChannelGraph, model: nn.Module) -> dict[str, tuple[int, int]]:
    """Output and input channels of every layer."""
    found = {}
    for name in graph.layers:
        weight: Any = model.get_submodule(name).weight
        found[name] = (int(weight.shape[0]), int(weight.shape[1]))
    return found


def clear_shifts(model: nn.Module, example: Sequence[torch.Tensor], support: Support) -> None:
    """Take bias and normalisation of filters that are zero away, so that they leave no constant behind; in place.

    For training: what such a shift did is learnt again by the biases that stay.
    """
    graph = trace(model, example)
    masks = _masks(graph, support)
    fixed = _fixed(graph, masks)
    outputs = {source for node in graph.graph.nodes if node.op == "output" for source in node.all_input_nodes}
    with torch.no_grad():
        for name, mask in masks.items():
            bias = model.get_submodule(name).bias
            if isinstance(bias, torch.Tensor) and graph.layers[name].node not in outputs:
                empty = ~mask.any(dim=1).reshape(-1)
                bias[empty.to(bias.device)] = 0
        for name, place in graph.norms.items():
            module = model.get_submodule(name)
            dead = torch.from_numpy(fixed[place.node])
            if isinstance(module, NORMS[:3]) and module.affine:
                module.weight[dead.to(module.weight.device)] = 0
                module.bias[dead.to(module.bias.device)] = 0


def purify(
    model: nn.Module, example: Sequence[torch.Tensor], support: Support, options: Purify
) -> dict[str, torch.Tensor]:
    """Drop what carries next to nothing, then what that makes unused: smaller masks, [G, K, N] by layer.

    A channel (filter) goes when at most ``options.columns`` of its rows (weights) are left and their energy is below
    ``options.energy`` of the mean over the channels (filters) of its layer that are left. A layer keeps at least one.
    """
    graph = trace(model, example)
    masks = _masks(graph, support)
    for name, mask in masks.items():
        weight: Any = model.get_submodule(name).weight
        groups = int(getattr(model.get_submodule(name), "groups", 1))
        energy = as_matrix(weight.detach(), groups).double().square() * mask
        positions = weight[0, 0].numel()
        by_channel = energy.reshape(groups, -1, positions, energy.shape[2]).sum(dim=(2, 3))
        rows_left = mask.any(dim=2).reshape(groups, -1, positions).sum(dim=2)
        channels = _weak(by_channel, rows_left, options)
        filters = _weak(energy.sum(dim=1), mask.sum(dim=1), options)
        mask &= ~channels.repeat_interleave(positions, dim=1)[:, :, None]
        mask &= ~filters[:, None, :]
    for _ in range(len(masks)):
        before = {name: int(mask.sum()) for name, mask in masks.items()}
        _close(graph, masks)
        if before == {name: int(mask.sum()) for name, mask in masks.items()}:
            break
    return masks


def _weak(energy: torch.Tensor, left: torch.Tensor, options: Purify) -> torch.Tensor:
    alive = left > 0
    if not options.columns or not options.energy or not alive.any():
        return torch.zeros_like(alive)
    weak = alive & (left <= options.columns) & (energy < options.energy * energy[alive].mean())
    if bool((weak | ~alive).all()):  # the strongest one stays
        weak.view(-1)[int(energy.argmax())] = False
    return weak


def _close(graph: ChannelGraph, masks: dict[str, torch.Tensor]) -> None:
    """One round of unused paths in training, where shifts of zero filters are cleared: fixed channels are zero."""
    fixed = _fixed(graph, masks)
    for name, place in graph.layers.items():
        source = place.node.args[0]
        assert isinstance(source, fx.Node)
        if source.op != "placeholder":
            _clear_rows(masks[name], torch.from_numpy(fixed[source]))
    _drop_unread(graph, masks)


# --- masks and what follows from them --------------------------------------------------------------------------------


def _masks(graph: ChannelGraph, support: Support) -> dict[str, torch.Tensor]:
    masks = {}
    for name in graph.layers:
        module: Any = graph.model.get_submodule(name)
        if name in support:
            masks[name] = support[name].detach().cpu().clone()
        else:
            masks[name] = as_matrix(module.weight.detach() != 0, int(getattr(module, "groups", 1))).cpu().clone()
    return masks


def _apply(graph: ChannelGraph, masks: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, mask in masks.items():
            weight: Any = graph.model.get_submodule(name).weight
            weight.mul_(mask.transpose(1, 2).reshape(weight.shape).to(weight.device))


def _fixed(graph: ChannelGraph, masks: Mapping[str, torch.Tensor]) -> dict[fx.Node, Bools]:
    """Channels of every node that do not depend on the inputs of the network."""
    layers = {place.node: name for name, place in graph.layers.items()}
    found: dict[fx.Node, Bools] = {}
    for node, ids in graph.ids.items():
        if node in layers:
            found[node] = ~masks[layers[node]].any(dim=1).reshape(-1).numpy()
            continue
        sources = [found[part] for part in node.all_input_nodes if part in found]
        name = operation(node)
        if node.op in ("placeholder", "get_attr") or not sources:
            found[node] = np.zeros(len(ids), dtype=bool)
        elif name in ("cat", "concat", "concatenate"):
            joined = np.concatenate(sources)
            found[node] = joined if len(joined) == len(ids) else np.zeros(len(ids), dtype=bool)
        elif name == "pad" and len(sources[0]) != len(ids):
            found[node] = _padded(graph, node, sources[0], ids)
        elif name in ARITHMETIC and len(sources) == 2:
            found[node] = sources[0] & sources[1]
        elif len(sources) == 1 and len(ids) % max(1, len(sources[0])) == 0 and not _is_fresh(graph, node):
            found[node] = np.repeat(sources[0], len(ids) // max(1, len(sources[0])))
        else:
            found[node] = np.zeros(len(ids), dtype=bool)
    return found


def _is_fresh(graph: ChannelGraph, node: fx.Node) -> bool:
    """Whether a node's channels are not those of its input (an operation that is not known)."""
    source = node.all_input_nodes[0]
    return not set(graph.ids[node].tolist()) <= set(graph.ids[source].tolist())


def _padded(graph: ChannelGraph, node: fx.Node, source: Bools, ids: Any) -> Bools:
    """Channels that a pad adds are zero."""
    first = node.args[0]
    assert isinstance(first, fx.Node)
    own = graph.ids[first]
    start = int(np.flatnonzero(ids == own[0])[0]) if len(own) else 0
    result = np.ones(len(ids), dtype=bool)
    result[start : start + len(own)] = source
    return result


class _Values(fx.Interpreter):
    """Runs the graph in float64 and keeps what the layers read."""

    def __init__(self, graph: ChannelGraph) -> None:
        model = copy.deepcopy(graph.model).double().eval()
        super().__init__(fx.GraphModule(model, graph.graph))
        self.read: dict[fx.Node, torch.Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, torch.Tensor) and value.ndim >= 2:
            self.read[n] = value
        return value


def _values(graph: ChannelGraph) -> dict[fx.Node, torch.Tensor]:
    runner = _Values(graph)
    with torch.no_grad():
        runner.run(*(part.double() if part.is_floating_point() else part for part in graph.example))
    return runner.read


def _drop_fixed(graph: ChannelGraph, masks: dict[str, torch.Tensor], folded: dict[str, int]) -> None:
    """Rows that read a constant: zero rows go, others go into the bias where that is exact."""
    fixed = _fixed(graph, masks)
    if not any(flags.any() for flags in fixed.values()):
        return
    values = _values(graph)
    for name, place in graph.layers.items():
        source = place.node.args[0]
        assert isinstance(source, fx.Node)
        flags = fixed[source]
        if not flags.any():
            continue
        seen = values[source].transpose(0, 1).reshape(len(flags), -1)
        constant = seen[:, 0]
        uniform = torch.from_numpy(flags) & (seen == constant[:, None]).all(dim=1).cpu()
        zero = uniform & (constant.cpu() == 0)
        _clear_rows(masks[name], zero)
        module: Any = graph.model.get_submodule(name)
        rest = uniform & ~zero
        if rest.any() and _folds(module) and bool(_reads(masks[name], len(flags))[rest].any()):
            folded[name] = folded.get(name, 0) + int((rest & _reads(masks[name], len(flags))).sum())
            _fold(module, constant, rest)
            _clear_rows(masks[name], rest)
    _apply(graph, masks)


def _folds(module: Any) -> bool:
    """Whether a constant input channel is a constant at every output position: no border is padded."""
    if isinstance(module, nn.Linear):
        return True
    padding = module.padding
    return int(module.groups) == 1 and padding != "same" and (padding == "valid" or not any(padding))


def _fold(module: Any, constant: torch.Tensor, channels: torch.Tensor) -> None:
    """Add what constant channels contribute to the bias (float64, rounded once)."""
    weight = (
        module.weight.detach().double().flatten(2)
        if module.weight.ndim > 2
        else module.weight.detach().double()[..., None]
    )
    shift = (weight.sum(dim=2) * torch.where(channels, constant, torch.zeros_like(constant))).sum(dim=1)
    before = torch.zeros_like(shift) if module.bias is None else module.bias.detach().double()
    module.bias = nn.Parameter((before + shift).to(module.weight.dtype))


def _clear_rows(mask: torch.Tensor, channels: torch.Tensor) -> None:
    """Take input channels out of a mask [G, K, N]."""
    groups, rows, _ = mask.shape
    by_group = channels.reshape(groups, -1)
    mask &= ~by_group.repeat_interleave(rows // by_group.shape[1], dim=1)[:, :, None]


def _reads(mask: torch.Tensor, channels: int) -> torch.Tensor:
    """Input channels of which a row is left, bool [channels]."""
    groups = mask.shape[0]
    return mask.any(dim=2).reshape(groups, channels // groups, -1).any(dim=2).reshape(-1)


def _read_roots(graph: ChannelGraph, masks: Mapping[str, torch.Tensor]) -> set[int]:
    """Channels that some layer reads, or that are pinned."""
    found = graph.pinned_roots()
    for name, place in graph.layers.items():
        reads = _reads(masks[name], len(place.reads)).numpy()
        found.update(graph.roots(place.reads[reads]).tolist())
    for node in graph.graph.nodes:  # inputs of the network stay as they are
        if node.op in ("placeholder", "get_attr") and node in graph.ids:
            found.update(graph.roots(graph.ids[node]).tolist())
    return found


def _drop_unread(graph: ChannelGraph, masks: dict[str, torch.Tensor]) -> None:
    """Filters whose channel nobody reads."""
    read = _read_roots(graph, masks)
    for name, place in graph.layers.items():
        roots = graph.roots(place.makes)
        unread = torch.tensor([root not in read for root in roots.tolist()])
        if unread.any():
            groups, _, columns = masks[name].shape
            masks[name] &= ~unread.reshape(groups, 1, columns)
    _apply(graph, masks)


def _dead_roots(graph: ChannelGraph, masks: Mapping[str, torch.Tensor]) -> set[int]:
    """Channels that go; a depthwise layer keeps both of its ends or neither."""
    read = _read_roots(graph, masks)
    every = {graph.root(int(identity)) for ids in graph.ids.values() for identity in ids}
    dead = every - read
    changed = True
    while changed:
        changed = False
        for name, place in graph.layers.items():
            if int(getattr(graph.model.get_submodule(name), "groups", 1)) == 1 or len(place.reads) != len(place.makes):
                held = (
                    []
                    if int(getattr(graph.model.get_submodule(name), "groups", 1)) == 1
                    else [*place.reads, *place.makes]
                )
                back = {graph.root(int(i)) for i in held} & dead
            else:
                pairs = zip(graph.roots(place.reads).tolist(), graph.roots(place.makes).tolist(), strict=True)
                back = {root for pair in pairs if (pair[0] in dead) != (pair[1] in dead) for root in pair} & dead
            if back:
                dead -= back
                changed = True
    return dead


def _pinned(graph: ChannelGraph, masks: Mapping[str, torch.Tensor], dead: set[int]) -> dict[str, int]:
    found = {}
    for name, place in graph.layers.items():
        empty = ~masks[name].any(dim=1).reshape(-1).numpy()
        stay = np.array([root not in dead for root in graph.roots(place.makes).tolist()])
        if (empty & stay).any():
            found[name] = int((empty & stay).sum())
    return found


# --- the smaller model -----------------------------------------------------------------------------------------------


def _alive(graph: ChannelGraph, ids: Any, dead: set[int]) -> torch.Tensor:
    """Positions of channels that stay."""
    return torch.tensor([i for i, root in enumerate(graph.roots(ids).tolist()) if root not in dead], dtype=torch.long)


def _slice_modules(graph: ChannelGraph, dead: set[int]) -> dict[str, Kept]:
    """Cut layers and normalisations to the channels that stay; say which those are."""
    kept = {}
    for name, place in graph.layers.items():
        module: Any = graph.model.get_submodule(name)
        outputs, inputs = _alive(graph, place.makes, dead), _alive(graph, place.reads, dead)
        groups = int(getattr(module, "groups", 1))
        depthwise = groups > 1 and groups == module.weight.shape[0] and module.weight.shape[1] == 1
        _slice_layer(module, outputs, inputs, depthwise)
        positions = module.weight[0, 0].numel() if len(outputs) and module.weight.shape[1] else 1
        kept[name] = Kept(outputs, inputs, positions, depthwise)
    for name, place in graph.norms.items():
        _slice_norm(graph.model.get_submodule(name), _alive(graph, place.reads, dead))
    return kept


def _slice_layer(module: Any, outputs: torch.Tensor, inputs: torch.Tensor, depthwise: bool) -> None:
    weight = module.weight.detach()[outputs.to(module.weight.device)]
    grouped = int(getattr(module, "groups", 1)) > 1
    if not grouped:
        weight = weight[:, inputs.to(weight.device)]
    module.weight = nn.Parameter(weight.clone(), requires_grad=module.weight.requires_grad)
    if module.bias is not None:
        module.bias = nn.Parameter(module.bias.detach()[outputs.to(weight.device)].clone())
    if isinstance(module, nn.Linear):
        module.in_features, module.out_features = len(inputs), len(outputs)
        return
    module.in_channels, module.out_channels = len(inputs), len(outputs)
    if depthwise:
        module.groups = len(outputs)


def _slice_norm(module: Any, alive: torch.Tensor) -> None:
    with torch.no_grad():
        for name in ("weight", "bias"):
            parameter = getattr(module, name, None)
            if isinstance(parameter, nn.Parameter) and parameter.numel() > 1:
                setattr(module, name, nn.Parameter(parameter.detach()[alive.to(parameter.device)].clone()))
        for name in ("running_mean", "running_var"):
            buffer = getattr(module, name, None)
            if isinstance(buffer, torch.Tensor):
                setattr(module, name, buffer[alive.to(buffer.device)].clone())
    for name in ("num_features", "num_parameters"):
        if getattr(module, name, 1) > 1:
            setattr(module, name, len(alive))


def _drop_branches(graph: ChannelGraph, masks: Mapping[str, torch.Tensor]) -> None:
    """Take branches that add zero out of the graph; a layer of which nothing is left is an error elsewhere."""
    empty = [name for name, mask in masks.items() if not mask.any()]
    if not empty:
        return
    fixed, values, dead = _fixed(graph, masks), _values(graph), _dead_roots(graph, masks)
    for node in list(graph.graph.nodes):
        if operation(node) in CATENATIONS and node in graph.ids:
            _drop_parts(graph, node, dead)
            continue
        if operation(node) not in SUMS or len(node.all_input_nodes) != 2 or node.kwargs:
            continue
        for index, part in enumerate(node.args[:2]):
            other = node.args[1 - index]
            if not (isinstance(part, fx.Node) and isinstance(other, fx.Node) and part in fixed):
                continue
            if fixed[part].all() and not values[part].any():
                node.replace_all_uses_with(other)
                break
    graph.graph.eliminate_dead_code()
    called = {str(node.target) for node in graph.graph.nodes if node.op == "call_module"}
    left = [name for name in empty if name in called]
    if left:
        raise CompileError(
            "has no weight left, and what follows hangs on it; loosen its structure or budget, or name it in `skip`",
            left[0],
        )
    for places in (graph.layers, graph.norms):
        for name in [name for name in places if name not in called]:
            del places[name]


def _drop_parts(graph: ChannelGraph, node: fx.Node, dead: set[int]) -> None:
    """Parts of a concatenation of which every channel goes."""
    parts: Any = node.args[0]
    left = [part for part in parts if part not in graph.ids or len(_alive(graph, graph.ids[part], dead))]
    if left and len(left) < len(parts):
        node.args = (left, *node.args[1:])


def _rebuilt(graph: ChannelGraph, dead: set[int], training: bool) -> nn.Module:
    """A module of the graph over the cut modules; channel numbers in its arguments follow."""
    for node in graph.graph.nodes:
        node.type = None  # annotations that are text cannot be pickled
        if node not in graph.ids:
            continue
        name = operation(node)
        count = len(_alive(graph, graph.ids[node], dead))
        if name in RESHAPES and count != len(graph.ids[node]):
            node.args = _reshaped(node.args, count)
        elif name == "pad" and count != len(graph.ids[node]):
            _repad(graph, node, dead)
    for index, (node, kind) in enumerate(graph.dropouts.items()):  # a module follows the mode
        name = f"dropout_{index}"
        graph.model.add_module(name, kind(argument(node, 1, "p", 0.5)))
        with graph.graph.inserting_after(node):
            following = graph.graph.create_node("call_module", name, node.args[:1])
        node.replace_all_uses_with(following)
        graph.graph.erase_node(node)
    small = fx.GraphModule(graph.model, graph.graph)
    small.recompile()
    return small.train(training)


def _reshaped(args: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    """The last size of a view or reshape, where it is a number."""
    last = args[-1]
    if isinstance(last, tuple | list):
        sizes = [*last[:-1], count if isinstance(last[-1], int) and last[-1] >= 0 else last[-1]]
        return (*args[:-1], type(last)(sizes))
    return (*args[:-1], count if isinstance(last, int) and last >= 0 else last)


def _repad(graph: ChannelGraph, node: fx.Node, dead: set[int]) -> None:
    """Fewer zero channels in front and behind."""
    first = node.args[0]
    assert isinstance(first, fx.Node)
    own, ids = set(graph.ids[first].tolist()), graph.ids[node].tolist()
    inside = [i for i, identity in enumerate(ids) if identity in own]
    if not inside or len(ids) == len(graph.ids[first]):
        return
    alive = set(_alive(graph, graph.ids[node], dead).tolist())
    front = sum(1 for i in range(inside[0]) if i in alive)
    behind = sum(1 for i in range(inside[-1] + 1, len(ids)) if i in alive)
    widths = list(node.args[1] if len(node.args) > 1 else node.kwargs["pad"])  # type: ignore[arg-type]
    widths[-2:] = [front, behind]
    if len(node.args) > 1:
        node.args = (first, widths, *node.args[2:])
    else:
        node.kwargs = {**node.kwargs, "pad": widths}
