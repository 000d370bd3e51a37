"""Replace fused and retired operators by the standard operators that they are defined by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from mcompiler.graph import Names, add_initializer, float_attr, input_at, ints_attr, new_node, replace_value, standard
from mcompiler.ir import GraphProgram
from mcompiler.provenance import mark_replacement
from mcompiler.target import Target

_FUSED = {"FusedConv": "Conv", "FusedGemm": "Gemm"}
_ACTIVATIONS = frozenset(
    ["Relu", "Sigmoid", "Tanh", "LeakyRelu", "Clip", "HardSigmoid", "Elu", "Softplus", "Softsign", "ThresholdedRelu"]
)
_END = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Decompose:
    """Replace FusedConv and FusedGemm of onnxruntime, and the retired ImageScaler, Crop and Affine, by standard ones.

    The main operator keeps the node's name; nodes that are added are called ``<node>/<operator>``.
    """

    name: ClassVar[str] = "decompose"
    reads: ClassVar[tuple[str, ...]] = ()

    def run(self, program: GraphProgram, target: Target) -> GraphProgram:
        """Return the program with the same interface and results."""
        if not any(_rule(node) for node in program.model.graph):
            return program
        model = program.model.clone()
        names = Names(model)
        for node in list(model.graph):
            rule = _rule(node)
            if rule is not None:
                rule(model, node, names)
        return replace(program, model=model)


def _rule(node: ir.Node) -> Callable[[ir.Model, ir.Node, Names], None] | None:
    if node.domain == "com.microsoft" and node.op_type in _FUSED:
        activation = node.attributes.get("activation")
        known = activation is None or activation.as_string() in ("", *_ACTIVATIONS)
        return _unfuse if known else None
    if standard(node, "ImageScaler"):
        return _image_scaler
    if standard(node, "Crop") and len(ints_attr(node, "border") or ()) == 4 and "scale" not in node.attributes:
        return _crop
    if standard(node, "Affine"):
        return _affine
    return None


def _chain(model: ir.Model, node: ir.Node, nodes: list[ir.Node]) -> None:
    """Put ``nodes`` in the place of ``node``; the last one's output replaces that of ``node``."""
    model.graph.insert_after(node, nodes)
    replace_value(node.outputs[0], nodes[-1].outputs[0])
    model.graph.remove(node, safe=True)


def _unfuse(model: ir.Model, node: ir.Node, names: Names) -> None:
    """Conv or Gemm, the addition of FusedConv's fourth input, the activation."""
    operator, name = _FUSED[node.op_type], node.name or ""
    attrs = [attr for key, attr in node.attributes.items() if not key.startswith("activation")]
    main = ir.Node("", operator, list(node.inputs[:3]), attrs, num_outputs=1, name=name)
    mark_replacement(main, node)
    main.outputs[0].name = names.fresh(f"{name}/{operator}")
    main.outputs[0].type = node.outputs[0].type
    nodes = [main]
    if node.op_type == "FusedConv" and input_at(node, 3) is not None:
        added = names.fresh(f"{name}/Add")
        nodes.append(new_node("Add", [main.outputs[0], node.inputs[3]], added, added, helps=node))
    activation = node.attributes.get("activation")
    if activation is not None and activation.as_string():
        nodes.append(_activation(model, node, nodes[-1].outputs[0], activation.as_string(), names))
    _chain(model, node, nodes)


def _activation(model: ir.Model, node: ir.Node, x: ir.Value, operator: str, names: Names) -> ir.Node:
    """The activation ``operator`` of a fused node, with the parameters that the node states."""
    attr = node.attributes.get("activation_params") or node.attributes.get("activation_alpha")
    values = [float(v) for v in attr.as_floats()] if attr is not None and attr.type == ir.AttributeType.FLOATS else []
    if attr is not None and attr.type == ir.AttributeType.FLOAT:
        beta = node.attributes.get("activation_beta")
        values = [attr.as_float()] + ([beta.as_float()] if beta is not None else [])
    label = names.fresh(f"{node.name}/{operator}")
    inputs: list[ir.Value | None] = [x]
    attributes: dict[str, float] = {}
    if operator == "Clip" and model.opset_imports.get("", 1) >= 11:
        for value, limit in zip(values, ("min", "max"), strict=False):
            inputs.append(add_initializer(model.graph, names.fresh(f"{label}/{limit}"), np.array(value, np.float32)))
    elif operator == "Clip":
        attributes = dict(zip(("min", "max"), values, strict=False))
    else:
        attributes = dict(zip(("alpha", "beta"), values, strict=False))
    return new_node(operator, inputs, label, label, attributes=attributes, helps=node)


def _scale_shift(model: ir.Model, node: ir.Node, names: Names, scale: float, shift: np.ndarray) -> None:
    """Y = scale * x + shift, in the type of the input."""
    x = node.inputs[0]
    assert x is not None
    dtype = x.dtype.numpy() if x.dtype is not None else np.dtype(np.float32)
    name, graph = node.name or "", model.graph
    first = names.fresh(f"{name}/Mul")
    factor = add_initializer(graph, names.fresh(f"{name}/scale"), np.array(scale, dtype))
    offset = add_initializer(graph, names.fresh(f"{name}/shift"), shift.astype(dtype))
    product = new_node("Mul", [x, factor], first, first, helps=node)
    total = names.fresh(f"{name}/sum")
    _chain(model, node, [product, new_node("Add", [product.outputs[0], offset], name, total, replaces=node)])


def _image_scaler(model: ir.Model, node: ir.Node, names: Names) -> None:
    bias = node.attributes.get("bias")
    shift = np.array(bias.as_floats() if bias is not None else [0.0], np.float32).reshape(1, -1, 1, 1)
    _scale_shift(model, node, names, float_attr(node, "scale", 1.0), shift)


def _affine(model: ir.Model, node: ir.Node, names: Names) -> None:
    shift = np.array(float_attr(node, "beta", 0.0), np.float32)
    _scale_shift(model, node, names, float_attr(node, "alpha", 1.0), shift)


def _crop(model: ir.Model, node: ir.Node, names: Names) -> None:
    """Border = left, top, right, bottom of an NCHW image."""
    left, top, right, bottom = ints_attr(node, "border") or (0, 0, 0, 0)
    starts, ends = [top, left], [-bottom if bottom else _END, -right if right else _END]
    name = node.name or ""
    if model.opset_imports.get("", 1) < 10:
        attributes = {"starts": starts, "ends": ends, "axes": [2, 3]}
        output = names.fresh(f"{name}/cropped")
        crop = new_node("Slice", [node.inputs[0]], name, output, attributes=attributes, replaces=node)
        _chain(model, node, [crop])
        return
    inputs: list[ir.Value | None] = [node.inputs[0]]
    for key, values in (("starts", starts), ("ends", ends), ("axes", [2, 3])):
        inputs.append(add_initializer(model.graph, names.fresh(f"{name}/{key}"), np.array(values, np.int64)))
    _chain(model, node, [new_node("Slice", inputs, name, names.fresh(f"{name}/cropped"), replaces=node)])
