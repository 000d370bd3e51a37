"""Control-flow bodies: nodes in the branches of If nodes, and values of branches as outputs of the model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from mcompiler.graph import site_of, standard


def branches(node: ir.Node) -> tuple[ir.Graph, ...]:
    """The two branches of an If, then first; empty for any other node."""
    if not standard(node, "If"):
        return ()
    return node.attributes["then_branch"].as_graph(), node.attributes["else_branch"].as_graph()


def nodes_with_branches(graph: ir.Graph) -> Iterator[ir.Node]:
    """Every node of a graph and, before each If, those of its branches: depth first, so that producers come first.

    Nodes of Loop and Scan bodies are left out.
    """
    for node in graph:
        for branch in branches(node):
            yield from nodes_with_branches(branch)
        yield node


def holds_layers(node: ir.Node) -> bool:
    """Whether a branch of an If, or one nested in it, holds a placeholder of a layer."""
    return any(site_of(inner) is not None for branch in branches(node) for inner in nodes_with_branches(branch))


def scheduled_nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    """The nodes that are separate stages, in topological order; the position of a node is its index in this order.

    An If whose branches hold layers follows the nodes of both branches; any other If is one node.
    """
    for node in graph:
        if holds_layers(node):
            for branch in branches(node):
                yield from scheduled_nodes(branch)
        yield node


def graphs_with_branches(graph: ir.Graph) -> Iterator[ir.Graph]:
    """A graph and the branches of its If nodes, depth first."""
    yield graph
    for node in graph:
        for branch in branches(node):
            yield from graphs_with_branches(branch)


def add_branch_output(model: ir.Model, name: str) -> ir.Value:
    """Make a value of a branch of an If an output of that If, in place, and so a value of the main graph.

    ONNX has outputs of the whole If only, so that both branches must give one more: the other branch gives a tensor
    without elements. The value in the main graph takes the name; the value in the branch gets another, since a name may
    occur once in a graph and its bodies.

    Args:
        model: changed in place.
        name: of a value of a branch, nested to any depth, whose element type is known.

    Returns:
        The value of the main graph.

    Raises:
        KeyError: no branch has such a value.
    """
    path = _path_to(model.graph, name)
    if path is None:
        raise KeyError(name)
    value = next(each for each in _values(path[-1][1]) if each.name == name)
    # From the innermost If to the outermost: each makes it a value of the graph in which the If is.
    for depth, (node, taken) in enumerate(reversed(path), start=1):
        assert value.dtype is not None, f"the element type of '{name}' is not known"
        value.name = f"{name}/branch{len(path) - depth}"
        for branch in branches(node):
            branch.outputs.append(
                value if branch is taken else _empty(branch, f"{name}/empty{len(path) - depth}", value)
            )
        node.resize_outputs(len(node.outputs) + 1)
        outer = node.outputs[-1]
        outer.name, outer.type = name, value.type
        value = outer
    return value


def _path_to(graph: ir.Graph, name: str) -> list[tuple[ir.Node, ir.Graph]] | None:
    """The Ifs around a value, outermost first, each with the branch on the way; None where no branch has it."""
    for node in graph:
        for branch in branches(node):
            if any(value.name == name for value in _values(branch)):
                return [(node, branch)]
            inner = _path_to(branch, name)
            if inner is not None:
                return [(node, branch), *inner]
    return None


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    for node in graph:
        yield from node.outputs


def _empty(branch: ir.Graph, name: str, like: ir.Value) -> ir.Value:
    """A tensor without elements, of the element type of another value."""
    assert like.dtype is not None
    tensor = ir.Tensor(np.zeros(0, like.dtype.numpy()), dtype=like.dtype, name=name)
    node = ir.node("Constant", [], {"value": tensor}, name=name)
    node.outputs[0].name, node.outputs[0].type = name, like.type
    branch.append(node)
    return node.outputs[0]
