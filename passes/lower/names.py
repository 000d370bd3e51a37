"""Names and labels of layers, and room for the names that the emitted models give to the values of a layer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import onnx_ir as ir

from mcompiler.errors import CompileError
from mcompiler.graph import Names, add_initializer, constant_tensor
from mcompiler.ir import GraphProgram
from mcompiler.naming import LayerName
from mcompiler.onnx_import.identity import unique
from mcompiler.provenance import origin, provenance

_EMITTED = re.compile(r"codes|accumulator|(quantise|reference)/.*|[A-Za-z]+[0-9]+")
"""What follows ``<layer>/`` in the names that reference.onnx and mapped.onnx use (a model may be one of them)."""


def make_room(model: ir.Model, layers: set[str]) -> ir.Model:
    """The model without values that bear such a name; itself where it has none.

    Args:
        model: left as it is.
        layers: names of nodes that may become layers.

    Raises:
        CompileError: an input or output bears such a name; those cannot be renamed.
    """
    if not any(_taken(value, layers) for value in _values(model)):
        return model
    for value in (*model.graph.inputs, *model.graph.outputs):
        if _taken(value, layers):
            raise CompileError(
                f"the model's input or output '{value.name}' bears a name that the emitted models use for a value of a "
                "layer; rename it, or the node that it is named after"
            )
    work = model.clone()
    names = Names(work)
    for value in list(_values(work)):
        if not _taken(value, layers):
            continue
        fresh = names.fresh(value.name or "")
        tensor = constant_tensor(value) if value.is_initializer() else None
        if tensor is None:
            value.name = fresh
        elif value.graph is work.graph:  # a new value: clones share tensors, and renaming a value renames its tensor
            value.replace_all_uses_with(add_initializer(work.graph, fresh, tensor.numpy(), tensor.dtype))
            del work.graph.initializers[value.name or ""]
    return work


def name_layers(program: GraphProgram, nodes: Sequence[ir.Node]) -> list[LayerName]:
    """Name and label of the layer that each node becomes; no name and no label occurs twice.

    A node of the main graph of the input model keeps its name and its label. Nodes of bodies and of inlined functions
    may have the name of another node; they, and nodes that a pass made, take what is left.
    """
    of_user = {node.origin: node for node in program.nodes}
    found: dict[int, LayerName] = {}
    used: set[str] = set()
    for index, node in enumerate(nodes):
        place = origin(node)
        own = of_user.get(place) if place is not None else None
        if own is not None and own.name == node.name and own.name not in used:
            found[index] = LayerName(own.name, own.label)
            used.add(own.name)
    names, labels = Names(program.model), {node.label for node in program.nodes}
    used = {node.name for node in program.nodes}
    for index, node in enumerate(nodes):
        if index in found:
            continue
        name = node.name if node.name and node.name not in used else names.fresh(node.name or node.op_type)
        used.add(name)
        found[index] = LayerName(name, unique(provenance(node).label or name, labels))
    return [found[index] for index in range(len(nodes))]


def _values(model: ir.Model) -> Iterator[ir.Value]:
    """Inputs, initializers and node outputs, those of control-flow bodies included."""
    for graph in model.graphs():
        yield from graph.inputs
        yield from graph.initializers.values()
        for node in graph:
            yield from node.outputs


def _taken(value: ir.Value, layers: set[str]) -> bool:
    name = value.name or ""
    cuts = [index for index, letter in enumerate(name) if letter == "/"]
    return any(name[:cut] in layers and _EMITTED.fullmatch(name, cut + 1) for cut in cuts)
