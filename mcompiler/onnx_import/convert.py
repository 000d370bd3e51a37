"""Conversion to a newer operator set, by the version converter of the ``onnx`` package."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx.version_converter
import onnx_ir as ir

from mcompiler.onnx_import.light import light_proto, without_map_types
from mcompiler.provenance import mark_helper, mark_replacement

_PARKED = "mcompiler.parked"
"""Domain given to operators that the converter does not know, so that it passes them over."""


def convert_opset(model: ir.Model, version: int) -> ir.Model | None:
    """The model in operator set ``version``, or None where it cannot be converted.

    Large initializers are taken out before and put back after, so that the cost does not grow with the weights. Names
    of values survive, and by them nodes are found again: a node that makes the same value has the same provenance.
    Nodes that the converter adds help the nearest node that was there before, and are named after it.

    Args:
        model: the model; its tensors are shared with the result, itself it is not changed.
        version: the operator set wanted, not older than the model's.
    """
    if any(True for _ in model.graph.subgraphs()) or model.functions:
        return None  # the converter leaves bodies as they are, which changes their meaning
    tensors = {value.name: value for value in model.graph.initializers.values()}
    try:
        proto = _prepared(model)
        converted = onnx.version_converter.convert_version(proto, version)
        onnx.checker.check_model(converted)
        result = ir.from_proto(without_map_types(converted))
    except Exception:  # the converter and the checker raise many kinds; the model is then kept as it is
        return None
    _restore(result, model, tensors)
    _restore_notes(result.graph, model.graph)
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
    for node in graph:
        if node.domain == _PARKED:
            node.domain = ""
    result.opset_imports.pop(_PARKED, None)
    for domain, number in model.opset_imports.items():
        result.opset_imports.setdefault(domain, number)
    result.ir_version = model.ir_version
    result.producer_name, result.producer_version = model.producer_name, model.producer_version
    result.metadata_props.update(model.metadata_props)


def _restore_notes(graph: ir.Graph, before: ir.Graph) -> None:
    """Give values and nodes of a converted graph the notes and names of those they were; name and note added nodes."""
    sources = {value.name: value for value in (*before.initializers.values(), *before.inputs)}
    makers: dict[str | None, ir.Node] = {}
    for node in before:
        for output in node.outputs:
            if output.name:  # an output that is left out has none
                sources[output.name] = output
                makers[output.name] = node
    found: dict[ir.Node, ir.Node] = {}
    for node in graph:
        old = next((makers[output.name] for output in node.outputs if output.name in makers), None)
        if old is not None:
            main = _main(node, old, makers)
            found[main] = old
            main.name = old.name
            mark_replacement(main, old)
    for value in (*graph.initializers.values(), *graph.inputs, *(output for node in graph for output in node.outputs)):
        if value.name in sources:
            for key, item in sources[value.name].meta.items():
                value.meta[key] = item
    _name_added(graph, found)


def _main(node: ir.Node, old: ir.Node, makers: Mapping[str | None, ir.Node]) -> ir.Node:
    """The node that plays the part of ``old``: the maker of its value, or one of the same operator before that.

    The converter surrounds some nodes (Flatten, Softmax, Reshape in place of a Softmax over several axes).
    """
    pending = [node]
    while pending:
        candidate = pending.pop()
        if candidate.op_type == old.op_type and candidate.domain == old.domain:
            return candidate
        added = (other for other in candidate.predecessors() if not any(out.name in makers for out in other.outputs))
        pending.extend(added)
    return node


def _nearest(node: ir.Node, found: Mapping[ir.Node, ir.Node]) -> ir.Node | None:
    """The node of before that is next to an added one, a reader first; over other added nodes where none is."""
    pending, seen = [node], {node}
    while pending:
        current = pending.pop(0)
        for other in (*current.successors(), *current.predecessors()):
            if other in found:
                return found[other]
            if other not in seen:
                seen.add(other)
                pending.append(other)
    return None


def _name_added(graph: ir.Graph, found: Mapping[ir.Node, ir.Node]) -> None:
    """Name and note nodes that the converter added after the nearest node that was there before, a reader first."""
    taken = {node.name for node in found}
    for node in graph:
        if node in found:
            continue
        near = _nearest(node, found)
        if near is not None:
            mark_helper(node, near)
        base = name = f"{near.name if near is not None else node.op_type}/{node.op_type}"
        count = 1
        while name in taken:
            count += 1
            name = f"{base}_{count}"
        taken.add(name)
        node.name = name
