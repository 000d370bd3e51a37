"""Small helpers on ``onnx_ir`` graphs, shared by the passes (which never import each other)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.ir import ANALOG_DOMAIN, ANALOG_OP
from mcompiler.provenance import mark_helper, mark_replacement

Array = npt.NDArray[Any]


def standard(node: ir.Node, *ops: str) -> bool:
    """Whether the node is one of these operators of the ONNX domain."""
    return node.domain in ("", "ai.onnx") and node.op_type in ops


def dequantizes(node: ir.Node) -> bool:
    """Whether the node is a DequantizeLinear: of ONNX, or onnxruntime's for types that older operator sets lack."""
    return node.op_type == "DequantizeLinear" and node.domain in ("", "ai.onnx", "com.microsoft")


def site_of(node: ir.Node) -> int | None:
    """Number of the site whose placeholder a node is; None for any other node."""
    if node.domain != ANALOG_DOMAIN or node.op_type != ANALOG_OP:
        return None
    return node.attributes["site"].as_int()


def constant_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor of an initializer or of a Constant node's output; None for anything else, graph inputs included."""
    if value is None or value.is_graph_input():
        return None
    if value.is_initializer():
        return value.const_value
    producer = value.producer()
    if producer is None or not standard(producer, "Constant"):
        return None
    return _constant_node_tensor(producer)


def _constant_node_tensor(node: ir.Node) -> ir.TensorProtocol | None:
    """The tensor of a Constant node, whichever attribute holds it; None for strings and sparse tensors."""
    if len(node.attributes) != 1:
        return None
    attr = next(iter(node.attributes.values()))
    if attr.is_ref():
        return None
    if attr.name == "value" and attr.type == ir.AttributeType.TENSOR:
        return attr.as_tensor()
    if attr.name in ("value_float", "value_floats"):
        return ir.Tensor(np.array(attr.value, np.float32))
    if attr.name in ("value_int", "value_ints"):
        return ir.Tensor(np.array(attr.value, np.int64))
    return None


def constant(value: ir.Value | None) -> Array | None:
    """The constant that a value holds as array (read-only, possibly memory-mapped), or None."""
    tensor = constant_tensor(value)
    if tensor is None or tensor.dtype == ir.DataType.STRING:
        return None
    return tensor.numpy()


def scalar(value: ir.Value | None) -> float | None:
    """A constant with one element, as float, or None."""
    array = constant(value)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape where every size is known, else None."""
    if value is None or value.shape is None or not all(isinstance(size, int) for size in value.shape):
        return None
    return tuple(int(size) for size in value.shape if isinstance(size, int))


def rank(value: ir.Value | None) -> int | None:
    """Number of dimensions, or None where it is not known."""
    return None if value is None or value.shape is None else len(value.shape)


def input_at(node: ir.Node, index: int) -> ir.Value | None:
    """Input number ``index``; None where it is absent or left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def int_attr(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute or its default."""
    attr = node.attributes.get(name)
    return default if attr is None else attr.as_int()


def float_attr(node: ir.Node, name: str, default: float) -> float:
    """A float attribute or its default."""
    attr = node.attributes.get(name)
    return default if attr is None else attr.as_float()


def ints_attr(node: ir.Node, name: str) -> tuple[int, ...] | None:
    """A list of integers, or None where the node has no such attribute."""
    attr = node.attributes.get(name)
    return None if attr is None else tuple(int(i) for i in attr.as_ints())


def string_attr(node: ir.Node, name: str, default: str) -> str:
    """A string attribute or its default."""
    attr = node.attributes.get(name)
    return default if attr is None else attr.as_string()


def has_subgraph(node: ir.Node) -> bool:
    """Whether the node carries a control-flow body."""
    return any(attr.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attr in node.attributes.values())


def only_consumer(value: ir.Value) -> ir.Node | None:
    """The single use of a value, or None where there are none, several, or it is a graph output."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    node: ir.Node = uses[0].node
    return node


class Names:
    """Fresh names in one model: for values (subgraphs included) and nodes together."""

    def __init__(self, model: ir.Model) -> None:
        self._taken: set[str] = set()
        for graph in model.graphs():
            self._taken.update(value.name or "" for value in graph.inputs)
            self._taken.update(graph.initializers)
            for node in graph:
                self._taken.add(node.name or "")
                self._taken.update(output.name or "" for output in node.outputs)

    def fresh(self, base: str) -> str:
        """``base``, or ``base_2``, ``base_3`` ... where it is taken; taken from now on."""
        name, count = base, 1
        while name in self._taken:
            count += 1
            name = f"{base}_{count}"
        self._taken.add(name)
        return name


def add_initializer(graph: ir.Graph, name: str, array: Array, dtype: ir.DataType | None = None) -> ir.Value:
    """Put a constant into the graph under a name that is free; returns its value."""
    tensor = ir.Tensor(array, dtype=dtype, name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
    graph.register_initializer(value)
    return value


def new_node(
    op: str,
    inputs: list[ir.Value | None],
    name: str,
    output: str,
    *,
    domain: str = "",
    attributes: Mapping[str, Any] | None = None,
    like: ir.Value | None = None,
    replaces: ir.Node | None = None,
    helps: ir.Node | None = None,
) -> ir.Node:
    """A node with one output called ``output``, of the type and shape of ``like`` where given.

    Args:
        op, inputs, name, output, domain, attributes: of the node.
        like: a value of the same type and shape as the output.
        replaces: the node that the new one replaces.
        helps: the node whose inputs or outputs the new one prepares.
    """
    attrs = ir.convenience.convert_attributes(attributes or {})
    node = ir.Node(domain, op, inputs, attrs, num_outputs=1, name=name)
    node.outputs[0].name = output
    if like is not None:
        node.outputs[0].type = like.type
        node.outputs[0].shape = like.shape
    if replaces is not None:
        mark_replacement(node, replaces)
    elif helps is not None:
        mark_helper(node, helps)
    return node


def replace_value(old: ir.Value, new: ir.Value) -> None:
    """Let every reader of ``old``, and the graph's outputs, take ``new`` instead, under the old name, type and shape.

    ``new`` must not be an initializer or a graph input (their names are fixed). It gets the meta of ``old`` too: for an
    output, the type that the file states.
    """
    name, is_output = old.name, old.is_graph_output()
    if new.type is None or is_output:
        new.type = old.type
    if new.shape is None or is_output:
        new.shape = old.shape
    for key, item in old.meta.items():
        new.meta[key] = item
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    old.name = f"{name}/replaced"
    new.name = name


def remove_unused_initializers(graph: ir.Graph) -> None:
    """Drop initializers that nothing reads."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
            del graph.initializers[name]


def remove_unused_nodes(graph: ir.Graph) -> list[ir.Node]:
    """Drop nodes of the main graph that no output depends on, and unused initializers, in place; returns the nodes.

    The pass of onnx_ir for this also drops unused outputs of the nodes that stay, whose elements cost counts.
    """
    removed = []
    for node in reversed(graph):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            graph.remove(node, safe=True)
            removed.append(node)
    remove_unused_initializers(graph)
    return removed


_SAME_INTEGERS = (
    "Cast",
    "Identity",
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "Slice",
    "Concat",
    "Split",
)


def index_bounds(model: ir.Model) -> dict[str, int]:
    """For integer inputs that index an axis (Gather, OneHot): the number of its entries, by input name."""
    bounds = {}
    for value in model.graph.inputs:
        found = _indexed_sizes(value, set())
        if found:
            bounds[value.name or ""] = min(found)
    return bounds


def _indexed_sizes(value: ir.Value, seen: set[ir.Value]) -> list[int]:
    """Sizes of the axes that a value indexes, directly or after operators that only move integers."""
    if value in seen:
        return []
    seen.add(value)
    sizes: list[int] = []
    for node, position in value.uses():
        if standard(node, "Gather") and position == 1:
            shape, axis = static_shape(node.inputs[0]), int_attr(node, "axis", 0)
            tensor = constant_tensor(node.inputs[0])
            if shape is None and tensor is not None:
                shape = tuple(tensor.shape.numpy())
            if shape:
                sizes.append(shape[axis])
        elif standard(node, "OneHot") and position == 0:
            depth = scalar(node.inputs[1])
            if depth is not None:
                sizes.append(int(depth))
        elif standard(node, *_SAME_INTEGERS):
            for output in node.outputs:
                sizes += _indexed_sizes(output, seen)
    return sizes
