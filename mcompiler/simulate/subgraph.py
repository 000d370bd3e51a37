"""Part of a graph as a separate model: ``verify`` runs one layer on the codes that reached it."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir


def extract(model: ir.Model, start: str, end: str) -> ir.Model:
    """The part of a graph that computes value ``end`` from value ``start``."""
    clone = model.clone()
    values = ir.convenience.create_value_mapping(clone.graph)
    source, target = values[start], values[end]
    needed: set[ir.Node] = set()
    constants: dict[str, ir.Value] = {}
    for value in _ancestors(target, source, needed):
        constants[value.name or ""] = value
    nodes = [node for node in clone.graph if node in needed]
    opsets = dict(clone.graph.opset_imports)
    clone.graph.remove(list(clone.graph)[::-1], safe=False)
    source.type = source.type if source.type is not None else ir.TensorType(ir.DataType.UINT8)
    if source.producer() is not None:
        fresh = ir.Value(name=start, type=source.type, shape=None)
        for node in nodes:
            for index, read in enumerate(node.inputs):
                if read is source:
                    node.replace_input_with(index, fresh)
        source = fresh
    graph = ir.Graph(
        [source], [target], nodes=nodes, initializers=[_detached(v) for v in constants.values()], opset_imports=opsets,
        name="layer",
    )  # fmt: skip
    return ir.Model(graph, ir_version=model.ir_version, functions=list(clone.functions.values()))


def _detached(value: ir.Value) -> ir.Value:
    graph = value.graph
    if graph is not None and value.name is not None and value.name in graph.initializers:
        del graph.initializers[value.name]
    return value


def _ancestors(target: ir.Value, source: ir.Value, needed: set[ir.Node]) -> Iterator[ir.Value]:
    """Walk back from ``target`` to ``source``; collects nodes, yields the initializers met."""
    stack = [target]
    while stack:
        value = stack.pop()
        if value is source:
            continue
        producer = value.producer()
        if producer is None:
            yield value
        elif producer not in needed:
            needed.add(producer)
            stack.extend(v for v in producer.inputs if v is not None)
