"""Half-precision activations that ONNX defines by other operators are computed in float32."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import onnx_ir as ir

from mcompiler.graph import Names, new_node, replace_value, standard
from mcompiler.ir import GraphProgram
from mcompiler.target import Target

_ACTIVATIONS = (
    "Celu",
    "Elu",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "Mish",
    "PRelu",
    "Selu",
    "Shrink",
    "Softplus",
    "Softsign",
    "Swish",
    "ThresholdedRelu",
)
"""Operators that ONNX defines by several others, with constants in between whose rounding can go missing."""


@dataclass(frozen=True)
class Widen:
    """Put Casts to float32 and back around float16 LeakyRelu, HardSwish and the like.

    onnxruntime has no float16 kernels for them, writes them out as the operators that define them, and then drops
    roundings between those: how many depends on the rest of the graph, so that reference.onnx and mapped.onnx would
    round differently. Casts that are part of the graph are kept.
    """

    name: ClassVar[str] = "widen"
    reads: ClassVar[tuple[str, ...]] = ()

    def run(self, program: GraphProgram, target: Target) -> GraphProgram:
        """Return the program with the same interface; the nodes keep their names."""
        if not any(_is_narrow(node) for node in program.model.graph):
            return program
        model = program.model.clone()
        names = Names(model)
        for node in list(model.graph):
            if _is_narrow(node):
                _widen(model.graph, node, names)
        return replace(program, model=model)


def _is_narrow(node: ir.Node) -> bool:
    """Whether a node is such an activation with a float16 output."""
    return standard(node, *_ACTIVATIONS) and any(_half(value) for value in node.outputs)


def _half(value: ir.Value | None) -> bool:
    return value is not None and value.dtype == ir.DataType.FLOAT16


def _widen(graph: ir.Graph, node: ir.Node, names: Names) -> None:
    for index, value in enumerate(node.inputs):
        if value is not None and _half(value):
            cast = _cast(value, ir.DataType.FLOAT, node, names)
            graph.insert_before(node, cast)
            node.replace_input_with(index, cast.outputs[0])
    for value in node.outputs:
        if not _half(value):
            continue
        cast = _cast(None, ir.DataType.FLOAT16, node, names)
        graph.insert_after(node, cast)
        replace_value(value, cast.outputs[0])
        cast.replace_input_with(0, value)
        value.name, value.type = names.fresh(f"{node.name}/wide"), ir.TensorType(ir.DataType.FLOAT)


def _cast(value: ir.Value | None, to: ir.DataType, node: ir.Node, names: Names) -> ir.Node:
    label = names.fresh(f"{node.name}/Cast")
    cast = new_node("Cast", [value], label, label, attributes={"to": int(to)}, helps=node)
    cast.outputs[0].type = ir.TensorType(to)
    cast.outputs[0].shape = value.shape if value is not None else None
    return cast
