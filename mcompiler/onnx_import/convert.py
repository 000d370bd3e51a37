"""Conversion to a newer operator set, by the version converter of the ``onnx`` package."""

from __future__ import annotations

import onnx
import onnx.version_converter
import onnx_ir as ir

from mcompiler.onnx_import.light import light_proto, without_map_types

_PARKED = "mcompiler.parked"
"""Domain given to operators that the converter does not know, so that it passes them over."""


def convert_opset(model: ir.Model, version: int) -> ir.Model | None:
    """The model in operator set ``version``, or None where it cannot be converted.

    Large initializers are taken out before and put back after, so that the cost does not grow with the weights. Names
    of values and nodes survive; nodes that the converter adds are named after a neighbour.

    Args:
        model: the model; its tensors are shared with the result, itself it is not changed.
        version: the operator set wanted, not older than the model's.
    """
    if any(True for _ in model.graph.subgraphs()) or model.functions:
        return None  # the converter leaves bodies as they are, which changes what they mean
    tensors = {value.name: value for value in model.graph.initializers.values()}
    try:
        proto = _prepared(model)
        converted = onnx.version_converter.convert_version(proto, version)
        onnx.checker.check_model(converted)
        result = ir.from_proto(without_map_types(converted))
    except Exception:  # the converter and the checker raise many kinds; the model is then kept as it is
        return None
    _restore(result, model, tensors)
    return result


def _prepared(model: ir.Model) -> onnx.ModelProto:
    """The model without large initializers and with unknown operators parked in a domain of their own."""
    proto = light_proto(model)
    for node in proto.graph.node:
        if node.domain == "" and not onnx.defs.has(node.op_type, ""):
            node.domain = _PARKED
    proto.opset_import.add(domain=_PARKED, version=1)
    return proto


def _restore(result: ir.Model, model: ir.Model, tensors: dict[str | None, ir.Value]) -> None:
    """Put initializers, interface, versions and names back into a converted model, in place."""
    graph = result.graph
    wanted = {value.name for value in model.graph.inputs}
    for value in list(graph.inputs):
        if value.name in wanted:
            continue
        graph.inputs.remove(value)
        source = tensors[value.name]
        value.const_value = source.const_value
        value.type, value.shape = source.type, source.shape
        graph.register_initializer(value)
    for old, new in zip(model.graph.outputs, graph.outputs, strict=True):
        new.type, new.shape = old.type, old.shape
        for key, item in old.meta.items():
            new.meta[key] = item
    for node in graph:
        if node.domain == _PARKED:
            node.domain = ""
    result.opset_imports.pop(_PARKED, None)
    for domain, number in model.opset_imports.items():
        result.opset_imports.setdefault(domain, number)
    result.ir_version = model.ir_version
    result.producer_name, result.producer_version = model.producer_name, model.producer_version
    result.metadata_props.update(model.metadata_props)
    _name_new(graph, {node.name for node in model.graph})


def _name_new(graph: ir.Graph, old: set[str | None]) -> None:
    """Name nodes that the converter added after the nearest node that was there before."""
    taken = set(old)
    for node in graph:
        if node.name in old and node.name:
            continue
        near = [*node.successors(), *node.predecessors()]
        anchor = next((other.name for other in near if other.name in old), node.op_type)
        base = name = f"{anchor}/{node.op_type}"
        count = 1
        while name in taken:
            count += 1
            name = f"{base}_{count}"
        taken.add(name)
        node.name = name
