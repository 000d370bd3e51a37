"""The graph with a placeholder in place of each analog operation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from mcompiler.bodies import graphs_with_branches, nodes_with_branches
from mcompiler.graph import Names, add_initializer, new_node, remove_unused_nodes, replace_value
from mcompiler.ir import ANALOG_DOMAIN, ANALOG_OP
from mcompiler.passes.lower.match import LayoutStep, Match
from mcompiler.provenance import merge_origins


def build_skeleton(model: ir.Model, matches: Mapping[str, Match]) -> tuple[ir.Model, set[ir.Node]]:
    """Replace matched nodes by placeholders in a copy of the model.

    Args:
        model: left as it is.
        matches: by layer name, in graph order.

    Returns:
        The skeleton, and the nodes of the model that nothing needs any more (they prepared weights).
    """
    copy = _Copy.of(model)
    for site, (layer, match) in enumerate(matches.items()):
        _Placeholder(copy, site, layer, match).insert()
    if matches:
        copy.model.opset_imports[ANALOG_DOMAIN] = 1
    originals = {new: old for old, new in copy.nodes.items()}
    return copy.model, {originals[node] for node in remove_unused_nodes(copy.model.graph) if node in originals}


@dataclass(frozen=True)
class _Copy:
    """A clone of a model, with the clone's nodes and values by those of the original."""

    model: ir.Model
    nodes: dict[ir.Node, ir.Node]
    values: dict[ir.Value, ir.Value]
    names: Names

    @classmethod
    def of(cls, model: ir.Model) -> _Copy:
        """Clones keep the order of nodes, inputs and initializers; equal positions pair them."""
        clone = model.clone()
        nodes = dict(zip(nodes_with_branches(model.graph), nodes_with_branches(clone.graph), strict=True))
        values = dict(zip(model.graph.inputs, clone.graph.inputs, strict=True))
        for before, after in zip(graphs_with_branches(model.graph), graphs_with_branches(clone.graph), strict=True):
            values |= dict(zip(before.initializers.values(), after.initializers.values(), strict=True))
        for old, new in nodes.items():
            values |= dict(zip(old.outputs, new.outputs, strict=True))
        return cls(clone, nodes, values, Names(clone))


@dataclass(frozen=True)
class _Placeholder:
    """One layer: its placeholder, and the nodes that bring input and output into canonical layout."""

    copy: _Copy
    site: int
    layer: str
    match: Match
    added: list[ir.Node] = field(default_factory=list)

    def insert(self) -> None:
        """Put the placeholder into the copy, in place of the matched node and an absorbed addition."""
        match, names = self.match, self.copy.names
        node, last = self.copy.nodes[match.node], self.copy.nodes[match.last]
        graph = node.graph
        assert graph is not None
        old, x = last.outputs[0], self.copy.values[match.tensor]
        for step in match.before:
            x = self._step(step, x)
        like = old if not match.after else None
        label = names.fresh(f"{self.layer}/y")
        placeholder = new_node(
            ANALOG_OP,
            [x],
            self.layer,
            label,
            domain=ANALOG_DOMAIN,
            attributes={"site": self.site},
            like=like,
            replaces=node,
        )
        if last is not node:
            merge_origins(placeholder, last)
        self.added.append(placeholder)
        y = placeholder.outputs[0]
        if y.type is None:
            y.type = old.type
        for step in match.after:
            y = self._step(step, y)
        # At the place of the product, not of an absorbed addition: placeholders have the order of the matrices.
        graph.insert_before(node, self.added)
        replace_value(old, y)
        self.copy.values[match.last.outputs[0]] = y
        graph.remove([last] if last is node else [last, node], safe=True)

    def _step(self, step: LayoutStep, x: ir.Value) -> ir.Value:
        """Append the node of a step; returns its output."""
        graph, names = self.copy.model.graph, self.copy.names
        inputs: list[ir.Value | None] = [x]
        attributes: dict[str, Any] = dict(step.attributes)
        if step.value is not None:
            inputs.append(self._scaled(self.copy.values[step.value], step.factor))
        for numbers in step.constants:
            label = names.fresh(f"{self.layer}/axes")
            inputs.append(add_initializer(graph, label, np.array(numbers, np.int64)))
        label = names.fresh(f"{self.layer}/{step.op}")
        node = new_node(step.op, inputs, label, label, attributes=attributes, helps=self.copy.nodes[self.match.node])
        node.outputs[0].type = x.type
        node.outputs[0].shape = _shape_after(step, x)
        self.added.append(node)
        return node.outputs[0]

    def _scaled(self, addend: ir.Value, factor: float) -> ir.Value:
        """Factor * addend (Gemm's beta * C)."""
        if factor == 1.0:
            return addend
        graph, names = self.copy.model.graph, self.copy.names
        dtype = addend.dtype.numpy() if addend.dtype is not None else np.dtype(np.float32)
        label = names.fresh(f"{self.layer}/Mul")
        constant = add_initializer(graph, names.fresh(f"{self.layer}/beta"), np.array(factor, dtype))
        helped = self.copy.nodes[self.match.node]
        node = new_node("Mul", [addend, constant], label, label, like=addend, helps=helped)
        self.added.append(node)
        return node.outputs[0]


def _shape_after(step: LayoutStep, x: ir.Value) -> ir.Shape | None:
    """The shape after a step before the placeholder, where it follows from the input's alone."""
    if x.shape is None:
        return None
    if step.op == "Transpose":
        return ir.Shape([x.shape[axis] for axis in step.attributes["perm"]])
    if step.op == "Unsqueeze" and step.constants == ((0,),):
        return ir.Shape([1, *x.shape])
    return None
