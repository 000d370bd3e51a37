"""Evaluate at compile time every node that depends on constants only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from mcompiler.graph import (
    Array,
    Names,
    add_initializer,
    constant,
    constant_tensor,
    has_subgraph,
    int_attr,
    remove_unused_initializers,
    standard,
)
from mcompiler.ir import Fate, GraphProgram, Reason, ReasonKind
from mcompiler.onnx_import import evaluate, output_bytes
from mcompiler.provenance import (
    Decision,
    mark_helper,
    roots,
    set_roots,
    with_fates,
)
from mcompiler.target import Target

_RANDOM = frozenset(
    ["RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial", "Dropout"]
)
_OTHERWISE = frozenset(["Attention", "MaxUnpool", "Resize", "Upsample"])
"""Operators that the evaluator and onnxruntime compute differently in some modes: left to onnxruntime."""

_MOVING = frozenset(["Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Expand", "Tile", "Slice", "Gather"])
"""Operators whose results are elements of their first input."""

_RESULTS_LIMIT = 1 << 30
"""Bytes by which all results together may be larger than what they were computed from."""

_FILL_LIMIT = 4 << 30


@dataclass(frozen=True)
class FoldConstants:
    """Evaluate nodes whose inputs are all constants, and inline control flow whose condition is constant.

    A DequantizeLinear of constants stays, and so do the nodes after it: it carries quantised weights, and lowering
    reads codes, scale and zero point from it. Nodes that produce a graph output stay too.

    Attributes:
        limit: bytes up to which a result is kept that is larger than its inputs. ConstantOfShape is folded up to 4 GiB
            since its result takes no memory until it is used.
    """

    name: ClassVar[str] = "fold_constants"
    reads: ClassVar[tuple[str, ...]] = ()
    limit: int = 64 << 20

    def run(self, program: GraphProgram, target: Target) -> GraphProgram:
        """Return the program with results in place of nodes."""
        model = program.model.clone()
        names = Names(model)
        fates: list[Decision] = []
        spare = _RESULTS_LIMIT
        pending = list(model.graph)
        while pending:
            inlined: list[ir.Node] = []
            for node in pending:
                branch = _selected_branch(node)
                if branch is not None:
                    inlined += _inline_branch(model.graph, node, branch, names)
                    fates.append((node, Fate.DIGITAL, Reason(ReasonKind.INLINED_BRANCH)))
                    continue
                results = self._results(node, model, spare)
                if results is not None:
                    spare -= _growth(node, results)
                    _replace(model.graph, node, results)
                    fates.append((node, Fate.DIGITAL, Reason(ReasonKind.EVALUATED)))
            # A branch that moved up may make later nodes constant.
            pending = list(model.graph) if inlined else []
        remove_unused_initializers(model.graph)
        return with_fates(program, model, fates)

    def _results(self, node: ir.Node, model: ir.Model, spare: int) -> list[ir.TensorProtocol] | None:
        """Outputs of a node as tensors, or None where it cannot or must not be evaluated.

        Args:
            node: the node.
            model: its model.
            spare: bytes by which results may still be larger than what they are computed from.
        """
        if any(output.is_graph_output() for output in node.outputs):
            return None
        if standard(node, "Constant"):
            tensor = constant_tensor(node.outputs[0])
            return None if tensor is None else [ir.Tensor(tensor.numpy(), dtype=tensor.dtype)]
        if standard(node, "Shape", "Size"):
            return _shape_results(node)
        if standard(node, "Gather"):
            sizes = _gathered_sizes(node)
            if sizes is not None:
                return sizes
        if not standard(node, node.op_type) or has_subgraph(node):
            return None
        if node.op_type in _RANDOM or node.op_type in _OTHERWISE or node.op_type == "DequantizeLinear":
            return None
        inputs = [constant(value) for value in node.inputs]
        if any(value is not None and array is None for value, array in zip(node.inputs, inputs, strict=True)):
            return None
        if node.op_type == "ConstantOfShape":
            return _filled(node, inputs[0])
        source = sum(_held_bytes(array) for array in inputs if array is not None)
        limit = max(min(self.limit, spare), source)
        if not _fits(node, inputs, model.opset_imports, limit):
            return None
        results = evaluate(node, inputs, model.opset_imports)
        if results is None or sum(array.nbytes for array in results) > limit:
            return None
        return [_tensor(array, output) for array, output in zip(results, node.outputs, strict=True)]


def _fits(node: ir.Node, inputs: list[Array | None], opsets: Mapping[str, int], limit: int) -> bool:
    """Whether the outputs of a node are known to take ``limit`` bytes at most, before it is evaluated.

    A Range, a window function or a broadcast makes terabytes of a few bytes.
    """
    if node.op_type in _SELECTING:
        return sum(array.nbytes for array in inputs if array is not None) <= limit
    size = output_bytes(node, inputs, opsets)
    return size is not None and size <= limit


_SELECTING = frozenset(["NonZero", "Compress", "Unique", "Slice", "Reshape"])
"""Operators whose results are elements of the first input, or indices of some: how many may depend on the values."""


def _growth(node: ir.Node, results: list[ir.TensorProtocol]) -> int:
    """Bytes by which results take more memory than the constants that they were computed from."""
    sources = (array for array in map(constant, node.inputs) if array is not None)
    made = sum(_held_bytes(tensor.numpy()) for tensor in results)
    return max(0, made - sum(_held_bytes(array) for array in sources))


def _held_bytes(array: Array) -> int:
    """Memory that an array takes: one element seen many times takes that of one."""
    sizes = (size for size, stride in zip(array.shape, array.strides, strict=True) if stride)
    return int(math.prod(sizes)) * int(array.itemsize)


def _tensor(array: Array, output: ir.Value) -> ir.TensorProtocol:
    """The array as tensor, of the type that inference found where the evaluator returned a wider one."""
    if output.dtype is not None and array.dtype != output.dtype.numpy() and array.dtype.kind in "iuf":
        array = array.astype(output.dtype.numpy())
    return ir.Tensor(array)


def _shape_results(node: ir.Node) -> list[ir.TensorProtocol] | None:
    """Shape and Size of a value whose sizes, as far as they are read, are known."""
    value = node.inputs[0]
    if value is None or value.shape is None:
        return None
    dims = list(value.shape)
    if node.op_type == "Shape":
        end = node.attributes.get("end")
        dims = dims[int_attr(node, "start", 0) :] if end is None else dims[int_attr(node, "start", 0) : end.as_int()]
    sizes = [size for size in dims if isinstance(size, int)]
    if len(sizes) != len(dims):
        return None
    array = np.array(sizes, np.int64) if node.op_type == "Shape" else np.array(math.prod(sizes), np.int64)
    return [ir.Tensor(array)]


def _gathered_sizes(node: ir.Node) -> list[ir.TensorProtocol] | None:
    """Gather from the shape of a value of which the sizes that are read are known, though others are not."""
    source = node.inputs[0].producer() if node.inputs[0] is not None else None
    indices = constant(node.inputs[1])
    if source is None or indices is None or not standard(source, "Shape") or source.inputs[0] is None:
        return None
    shape = source.inputs[0].shape
    if shape is None or source.attributes:
        return None
    sizes = [shape[int(index)] for index in indices.reshape(-1) if -len(shape) <= index < len(shape)]
    known = [size for size in sizes if isinstance(size, int)]
    if len(known) != indices.size:
        return None
    return [ir.Tensor(np.array(known, np.int64).reshape(indices.shape))]


def _filled(node: ir.Node, shape: Array | None) -> list[ir.TensorProtocol] | None:
    """ConstantOfShape as one element seen many times: no memory is taken."""
    if shape is None:
        return None
    attr = node.attributes.get("value")
    fill = attr.as_tensor().numpy().reshape(()) if attr is not None else np.zeros((), np.float32)
    sizes = tuple(int(size) for size in shape)
    if math.prod(sizes) * fill.dtype.itemsize > _FILL_LIMIT:
        return None
    return [ir.Tensor(np.broadcast_to(fill, sizes))]


def _replace(graph: ir.Graph, node: ir.Node, results: list[ir.TensorProtocol]) -> None:
    """Initializers of the same names in place of a node's outputs; with the roots of its inputs."""
    if standard(node, "Constant"):
        sources = roots(node.outputs[0])
    else:  # the constants that a shape was computed from give no numbers
        sources = roots(*node.inputs[:1] if node.op_type in _MOVING else node.inputs)
    for output, tensor in zip(node.outputs, results, strict=True):
        name = output.name or ""
        if not name or not output.uses():
            continue
        tensor.name = name
        shape = ir.Shape(tensor.shape.numpy())
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
        set_roots(value, sources)
        output.replace_all_uses_with(value)
        output.name = f"{name}/replaced"
        graph.register_initializer(value)
    graph.remove(node, safe=True)


def _selected_branch(node: ir.Node) -> ir.Graph | None:
    """The branch of an If whose condition is constant, where all its constants can move; else None."""
    condition = constant(node.inputs[0]) if standard(node, "If") else None
    if condition is None or condition.size != 1:
        return None
    branch = node.attributes["then_branch" if condition.reshape(-1)[0] else "else_branch"].as_graph()
    movable = all(constant(value) is not None for value in branch.initializers.values())
    return branch if movable else None


def _inline_branch(graph: ir.Graph, node: ir.Node, branch: ir.Graph, names: Names) -> list[ir.Node]:
    """Move a branch of an If into the graph in its place; returns its nodes.

    Every output passes through an Identity, since it may be no node of the branch (a captured value, a constant).
    """
    prefix = node.name or "If"
    outputs = list(branch.outputs)
    for name, value in list(branch.initializers.items()):
        # A new value: clones share tensors, and renaming a value renames its tensor.
        array = constant(value)
        assert array is not None
        moved = add_initializer(graph, names.fresh(f"{prefix}/{name}"), array, value.dtype)
        set_roots(moved, roots(value))
        outputs = [moved if output is value else output for output in outputs]
        value.replace_all_uses_with(moved, replace_graph_outputs=True)
    nodes = list(branch)
    branch.outputs.clear()
    branch.remove(nodes)
    for index, inner in enumerate(nodes):
        inner.name = names.fresh(f"{prefix}/{inner.name or f'{inner.op_type}_{index}'}")
        for output in inner.outputs:
            if output.name:
                output.name = names.fresh(f"{prefix}/{output.name}")
    graph.insert_before(node, nodes)
    for old, new in zip(node.outputs, outputs, strict=True):
        label = names.fresh(f"{prefix}/Identity")
        passed = ir.Node("", "Identity", [new], num_outputs=1, name=label)
        mark_helper(passed, node)
        passed.outputs[0].type, passed.outputs[0].shape = old.type or new.type, old.shape or new.shape
        result = old.name
        graph.insert_before(node, passed)
        old.replace_all_uses_with(passed.outputs[0], replace_graph_outputs=True)
        old.name = f"{result}/replaced"
        passed.outputs[0].name = result
    graph.remove(node, safe=True)
    return nodes
