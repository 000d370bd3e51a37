"""The graph with a placeholder where each analog operation stands."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from mcompiler.graph import Names, add_initializer, new_node, remove_unused_nodes, take_over
from mcompiler.ir import ANALOG_DOMAIN, ANALOG_OP
from mcompiler.passes.lower.match import Match, Step


def build_skeleton(model: ir.Model, matches: list[Match]) -> tuple[ir.Model, set[str]]:
    """Replace matched nodes by placeholders in a copy of the model.

    Returns:
        The skeleton, and the names of nodes that nothing needs any more (they prepared weights).
    """
    skeleton = model.clone()
    graph = skeleton.graph
    nodes = {node.name: node for node in graph}
    values = ir.convenience.create_value_mapping(graph, include_subgraphs=False)
    names = Names(skeleton)
    for site, match in enumerate(matches):
        _replace(graph, match, site, nodes, values, names)
    if matches:
        skeleton.opset_imports[ANALOG_DOMAIN] = 1
    dropped = {node.name or "" for node in remove_unused_nodes(graph)}
    return skeleton, dropped


def _replace(
    graph: ir.Graph,
    match: Match,
    site: int,
    nodes: dict[str | None, ir.Node],
    values: dict[str, ir.Value],
    names: Names,
) -> None:
    node = nodes[match.node.name]
    last = node if match.absorbed is None else nodes[match.absorbed.name]
    layer = node.name or ""
    old = last.outputs[0]
    x = values[match.tensor.name or ""]
    added: list[ir.Node] = []
    for step in match.before:
        x = _step(graph, step, x, layer, values, names, added)
    like = old if not match.after else None
    label, attributes = names.fresh(f"{layer}/y"), {"site": site}
    placeholder = new_node(ANALOG_OP, [x], layer, label, domain=ANALOG_DOMAIN, attributes=attributes, like=like)
    added.append(placeholder)
    y = placeholder.outputs[0]
    if y.type is None:
        y.type = old.type
    for step in match.after:
        y = _step(graph, step, y, layer, values, names, added)
    # At the place of the product, not of an absorbed addition: placeholders stand in the order of the matrices.
    graph.insert_before(node, added)
    take_over(graph, old, y)
    values[y.name or ""] = y
    graph.remove([last] if last is node else [last, node], safe=True)


def _step(
    graph: ir.Graph,
    step: Step,
    x: ir.Value,
    layer: str,
    values: dict[str, ir.Value],
    names: Names,
    added: list[ir.Node],
) -> ir.Value:
    """Append the node of a step; returns its output."""
    inputs: list[ir.Value | None] = [x]
    attributes: dict[str, Any] = dict(step.attributes)
    if step.value is not None:
        inputs.append(_scaled(graph, values[step.value.name or ""], attributes.pop("beta"), layer, names, added))
    for numbers in step.constants:
        label = names.fresh(f"{layer}/axes")
        inputs.append(add_initializer(graph, label, np.array(numbers, np.int64)))
    label = names.fresh(f"{layer}/{step.op}")
    node = new_node(step.op, inputs, label, label, attributes=attributes)
    node.outputs[0].type = x.type
    node.outputs[0].shape = _shape_after(step, x)
    added.append(node)
    return node.outputs[0]


def _shape_after(step: Step, x: ir.Value) -> ir.Shape | None:
    """The shape behind a step before the placeholder, where it is easily told."""
    if x.shape is None:
        return None
    if step.op == "Transpose":
        return ir.Shape([x.shape[axis] for axis in step.attributes["perm"]])
    if step.op == "Unsqueeze" and step.constants == ((0,),):
        return ir.Shape([1, *x.shape])
    return None


def _scaled(graph: ir.Graph, addend: ir.Value, beta: float, layer: str, names: Names, added: list[ir.Node]) -> ir.Value:
    """Beta * C."""
    if beta == 1.0:
        return addend
    dtype = addend.dtype.numpy() if addend.dtype is not None else np.dtype(np.float32)
    label = names.fresh(f"{layer}/Mul")
    factor = add_initializer(graph, names.fresh(f"{layer}/beta"), np.array(beta, dtype))
    node = new_node("Mul", [addend, factor], label, label, like=addend)
    added.append(node)
    return node.outputs[0]
