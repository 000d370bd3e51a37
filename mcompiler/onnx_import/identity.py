"""Origins, names and labels of the nodes of a model, and the roots of its constants."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator

import onnx_ir as ir

from mcompiler.graph import standard
from mcompiler.ir import BodyStep, ConstantRoot, ModelNode, Origin, Provenance
from mcompiler.provenance import set_provenance, set_roots

_SCOPES = "pkg.torch.onnx.name_scopes"
"""Metadata of PyTorch's exporter: a list, as text, of the modules around a node, outermost first, then the call."""

_NO_MODULE = "_empty_nn_module_stack"
"""Written by the exporter in place of a module where it knows none."""

_NAMESPACE = "namespace"
"""The same with classes: ``: Net/layer1: Sequential/layer1.0: Block/conv: aten.conv2d``."""


def identify(model: ir.Model) -> tuple[ModelNode, ...]:
    """Give every node its provenance and every constant its root, in place; nodes of a graph or body get unique names.

    The definition of a function is identified once; a call that is inlined adds its own place (``Origin.in_call``).

    Returns:
        The nodes of the main graph, in order.
    """
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        for body in (graph, *graph.subgraphs()):
            _name_nodes(body)
    labels = _labels(_placed(model.graph, ()))
    for function in model.functions.values():
        path = (BodyStep(-1, f"{function.domain}::{function.name}"),)
        _labels(_placed(function.graph, path))
        _root_constants(function.graph, path)
    _root_constants(model.graph, ())
    nodes = enumerate(model.graph)
    return tuple(ModelNode(Origin((), at), node.name or "", node.op_type, labels[node]) for at, node in nodes)


def bodies(node: ir.Node) -> Iterator[tuple[str, ir.Graph]]:
    """The bodies of a control-flow node, with the attribute that holds each."""
    for name, attr in node.attributes.items():
        if attr.is_ref():
            continue
        if attr.type == ir.AttributeType.GRAPH:
            yield name, attr.as_graph()
        elif attr.type == ir.AttributeType.GRAPHS:
            yield from ((f"{name}[{index}]", graph) for index, graph in enumerate(attr.as_graphs()))


def _name_nodes(graph: ir.Graph) -> None:
    """Names for all nodes of a graph, unique in it. Names of the file win over made-up ones."""
    own = [node.name for node in graph]
    taken = {name for name in own if name}
    seen: set[str] = set()
    for index, (node, name) in enumerate(zip(graph, own, strict=True)):
        if name and name not in seen:
            seen.add(name)
            continue
        fresh = f"{node.op_type}_{index}"
        while fresh in taken or fresh in seen:
            fresh += "_"
        node.name = fresh
        seen.add(fresh)


def _placed(graph: ir.Graph, path: tuple[BodyStep, ...], holder: str = "") -> Iterator[tuple[ir.Node, Origin, str]]:
    """Every node of a graph and of the bodies in it, with its place, and its name after those of the nodes around."""
    for index, node in enumerate(graph):
        name = f"{holder}{node.name}"
        yield node, Origin(path, index), name
        for attribute, body in bodies(node):
            yield from _placed(body, (*path, BodyStep(index, attribute)), f"{name}/")


def _labels(placed: Iterator[tuple[ir.Node, Origin, str]]) -> dict[ir.Node, str]:
    """Set origin and label of every node; returns the labels, each of which occurs once."""
    nodes = [(node, place, _module_path(node) or name) for node, place, name in placed]
    uses = Counter(label for _, _, label in nodes)
    weighted = Counter(label for node, _, label in nodes if _holds_matrix(node))
    labels: dict[ir.Node, str] = {}
    taken = {label for label in uses if uses[label] == 1 or weighted[label] == 1}
    for node, place, label in nodes:
        # Several operators of one module: the only one with weights has the module's path, others add their operator.
        if uses[label] > 1 and not (weighted[label] == 1 and _holds_matrix(node)):
            label = unique(f"{label}/{node.op_type}", taken)
        labels[node] = label
        set_provenance(node, Provenance((place,), label))
    return labels


def _holds_matrix(node: ir.Node) -> bool:
    """Whether an input is a constant with rows and columns: weights rather than a bias or a scale."""
    constants = [value.const_value for value in node.inputs if value is not None and value.is_initializer()]
    return any(tensor is not None and len(tensor.shape) > 1 for tensor in constants)


def unique(base: str, taken: set[str]) -> str:
    """``base``, or ``base_2``, ``base_3`` ... where it is taken; taken from now on."""
    label, count = base, 1
    while label in taken:
        count += 1
        label = f"{base}_{count}"
    taken.add(label)
    return label


def _module_path(node: ir.Node) -> str:
    """Dotted path of the PyTorch module whose ``forward`` made the node; empty for the model itself or if unknown."""
    scopes = node.metadata_props.get(_SCOPES)
    if scopes is not None:
        try:
            names = ast.literal_eval(scopes)
        except (ValueError, SyntaxError):
            names = ()
        if isinstance(names, list) and len(names) > 1 and isinstance(names[-2], str):
            return "" if names[-2].startswith(_NO_MODULE) else names[-2]
    parts = node.metadata_props.get(_NAMESPACE, "").split("/")
    if len(parts) > 1 and all(": " in part for part in parts):
        return parts[-2].split(": ", 1)[0].strip()
    return ""


def _root_constants(graph: ir.Graph, path: tuple[BodyStep, ...]) -> None:
    """Set the roots of every initializer and every output of a Constant node: the constant itself."""
    for value in graph.initializers.values():
        set_roots(value, (ConstantRoot(path, value.name or ""),))
    for index, node in enumerate(graph):
        if standard(node, "Constant"):
            set_roots(node.outputs[0], (ConstantRoot(path, node.outputs[0].name or ""),))
        for name, body in bodies(node):
            _root_constants(body, (*path, BodyStep(index, name)))
