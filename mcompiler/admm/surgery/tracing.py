"""Symbolic traces of PyTorch models: one graph for training and evaluation, and the shapes of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from mcompiler.admm.arithmetic import is_torch_arithmetic
from mcompiler.admm.inputs import Inputs, find_given_parameters, order_inputs
from mcompiler.admm.lowering import MAPPED_MODULES
from mcompiler.errors import CompileError

NO_REMOVAL_REMEDY = "set `remove_paths = false` to compress the model without removing paths"
_LEAVES: tuple[type[nn.Module], ...] = (*MAPPED_MODULES, _BatchNorm, _InstanceNorm, nn.PReLU)


@dataclass(frozen=True)
class NodeShape:
    """Shape and type of a node's result for the example.

    Attributes:
        dims: the tensor's shape; None for a value that is not a tensor.
        dtype: the tensor's type; None likewise.
        holds_tensors: whether the value is a tuple or list with tensors inside.
    """

    dims: tuple[int, ...] | None
    dtype: torch.dtype | None
    holds_tensors: bool = False


@dataclass(frozen=True, eq=False)
class Trace:
    """A model as a graph.

    Attributes:
        graph: the graph in evaluation mode; its nodes name the modules as ``named_modules`` does.
        shapes: per node, for the example.
        dropouts: nodes of functional dropout that follow the mode of the model, with the module that replaces each.
    """

    graph: fx.Graph
    shapes: Mapping[fx.Node, NodeShape]
    dropouts: Mapping[fx.Node, type[nn.Module]]


class _Tracer(fx.Tracer):
    """Does not trace into layers, normalisations and the modules of torch.nn.

    Args:
        given: parameters of forward that become inputs, the others keep their defaults; None: all become inputs.
    """

    def __init__(self, given: Sequence[str] | None) -> None:
        super().__init__()
        self._given = given

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """The function to trace, and its arguments: the model and a placeholder for each input."""
        # An input that is not given must be its default while tracing: a placeholder for `labels=None` would pass the
        # test `labels is not None`.
        if self._given is None:
            return super().create_args_for_root(root_fn, is_module, concrete_args)
        inputs = {name: self.create_proxy("placeholder", name, (), {}) for name in self._given}

        def run(root: nn.Module) -> Any:
            return root_fn(root, **inputs)

        return run, [self.root]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # A module with hooks or a forward of its own is traced into, so that the graph shows what it computes.
        leaf = isinstance(m, _LEAVES) or super().is_leaf_module(m, module_qualified_name)
        return leaf and is_torch_arithmetic(m)


def symbolic_trace(model: nn.Module, example: Inputs) -> Trace:
    """Trace a copy of the model in both modes and run it once in evaluation mode; the model itself is not changed.

    Raises:
        CompileError: it cannot be traced, differs between the modes, or does not take the example.
    """
    copy = deepcopy(model)
    given = find_given_parameters(model, example)
    training = _trace_graph(copy.train(), given)
    graph = _trace_graph(copy.eval(), given)
    dropouts = _find_mode_differences(graph, training)
    recorder = _ShapeRecorder(fx.GraphModule(copy, graph))
    graph.owning_module = None
    try:
        with torch.no_grad():
            recorder.run(*order_inputs(model, example))
    except Exception as error:  # whatever the model raises
        raise CompileError(f"the model does not run on the example inputs: {_first_line(error)}") from error
    return Trace(graph, recorder.shapes, dropouts)


def get_attribute(model: nn.Module, target: str) -> Any:
    """A module, parameter or buffer by its dotted name."""
    value: Any = model
    for part in target.split("."):
        value = getattr(value, part)
    return value


def _trace_graph(model: nn.Module, given: Sequence[str] | None) -> fx.Graph:
    try:
        graph = _Tracer(given).trace(model)
    except Exception as error:  # tracing runs the user's code
        raise CompileError(
            f"the model cannot be traced: {_first_line(error)}; remove control flow that depends on data from "
            f"its forward, or {NO_REMOVAL_REMEDY}"
        ) from error
    for node in graph.nodes:
        node.type = None  # annotations that are strings make a GraphModule that cannot be pickled
    return graph


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


_DROPOUTS: dict[Callable[..., Any], type[nn.Module]] = {
    nn.functional.dropout: nn.Dropout,
    nn.functional.dropout1d: nn.Dropout1d,
    nn.functional.dropout2d: nn.Dropout2d,
    nn.functional.dropout3d: nn.Dropout3d,
    nn.functional.alpha_dropout: nn.AlphaDropout,
    nn.functional.feature_alpha_dropout: nn.FeatureAlphaDropout,
}


def _find_mode_differences(graph: fx.Graph, training: fx.Graph) -> dict[fx.Node, type[nn.Module]]:
    """Functional dropouts whose `training` follows the model; any other difference is an error."""
    evaluation, in_training = list(graph.nodes), list(training.nodes)
    dropouts: dict[fx.Node, type[nn.Module]] = {}
    same = len(evaluation) == len(in_training)
    for a, b in zip(evaluation, in_training, strict=False):
        same = same and a.op == b.op and a.target == b.target
        if not same:
            break
        if _describe_arguments(a) == _describe_arguments(b):
            continue
        same = a.op == "call_function" and a.target in _DROPOUTS
        if same:
            dropouts[a] = _DROPOUTS[a.target]
    if not same:
        raise CompileError(
            f"the model computes something else in training than in evaluation (it asks `self.training`); use modules "
            f"such as nn.Dropout for that, or {NO_REMOVAL_REMEDY}"
        )
    return dropouts


def _describe_arguments(node: fx.Node) -> str:
    return repr((node.args, node.kwargs))


class _ShapeRecorder(fx.Interpreter):
    """Runs the graph and records the shape of every result."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[fx.Node, NodeShape] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            self.shapes[n] = NodeShape(tuple(value.shape), value.dtype)
        else:
            inside = isinstance(value, (tuple, list)) and any(isinstance(v, torch.Tensor) for v in value)
            self.shapes[n] = NodeShape(None, None, inside)
        return value
