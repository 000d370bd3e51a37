"""mapped.onnx: the model as the crossbars compute it, one model-local function per analog operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import onnx_ir as ir

from mcompiler.bodies import nodes_with_branches
from mcompiler.conductance import make_adc
from mcompiler.graph import site_of
from mcompiler.ir import ANALOG_DOMAIN
from mcompiler.onnx_export.codes import CodeTable, scale_and_bias
from mcompiler.onnx_export.converted import converted_layer
from mcompiler.onnx_export.emitter import Emitter, insert_before
from mcompiler.onnx_export.fluctuations import Physics
from mcompiler.onnx_export.folded import folded_accumulator
from mcompiler.onnx_export.layer import MappedLayer
from mcompiler.onnx_export.reference import replace_node
from mcompiler.target import Target


def build_mapped(skeleton: ir.Model, layers: Sequence[Callable[[], MappedLayer]], target: Target) -> ir.Model:
    """The mapped model.

    Args:
        skeleton: graph with placeholders.
        layers: one per site; called one after the other, so that only one layer's weights are decoded at a time.
        target: its converters.

    Returns:
        A model with one function (domain ``mcompiler``, named after the layer) per analog operation; values
        ``<layer>/codes`` and ``<layer>/accumulator`` carry what ``verify`` compares.
    """
    model = skeleton.clone()
    table = CodeTable()
    names, drawn = set[str](), None
    for node in list(nodes_with_branches(model.graph)):
        site = site_of(node)
        if site is None:
            continue
        layer = layers[site]()
        codes = table.of(node, layer.op.site)
        if drawn is None and layer.physics is not None and layer.physics.bank:
            drawn = _drawn(model.graph, layer.physics)
        function_name = _identifier(layer.op.site.name, names)
        _replace(model, node, codes, layer, target, function_name=function_name, drawn=drawn)
    model.opset_imports[ANALOG_DOMAIN] = 1
    return model


def _drawn(graph: ir.Graph, physics: Physics) -> ir.Value:
    """Normal numbers, new ones in every run: one node for the whole model."""
    emitter = Emitter("noise")
    value = emitter("RandomNormal", name="noise/drawn", shape=[physics.bank], seed=float(next(physics.seeds)))
    graph.insert_before(next(iter(graph)), emitter.nodes)
    return value


def _identifier(layer: str, taken: set[str]) -> str:
    """A function name that is an identifier, so that every viewer and parser takes it."""
    stem = "".join(c if c.isascii() and c.isalnum() else "_" for c in layer).strip("_") or "layer"
    name, count = stem, 1
    while name in taken:
        count += 1
        name = f"{stem}_{count}"
    taken.add(name)
    return name


def _replace(
    model: ir.Model,
    node: ir.Node,
    codes: ir.Value,
    layer: MappedLayer,
    target: Target,
    *,
    function_name: str,
    drawn: ir.Value | None,
) -> None:
    """Define the layer's function and call it in place of the placeholder."""
    body = Emitter(function_name, inside_function=True)
    formal = ir.Value(name="codes")
    noise = ir.Value(name="drawn") if drawn is not None and layer.physics is not None else None
    if layer.analog.lossless:
        accumulator, probe = folded_accumulator(body, formal, layer.op, layer.weights)
        y = scale_and_bias(body, accumulator, layer.op)
    else:
        adc = replace(make_adc(target), gain=layer.analog.gain)
        y, probe = converted_layer(body, formal, layer, adc, target, sizes=_spatial_sizes(node), drawn=noise)
    # Inputs of a function have no types in ONNX: the arrays that are passed in the call have them.
    parameters = [value for value, _ in body.constants]
    for value, _ in body.constants:
        value.type = None
        value.shape = None
    graph = ir.Graph(
        [formal, *([] if noise is None else [noise]), *parameters],
        [y, probe],
        nodes=body.nodes,
        opset_imports=dict(model.opset_imports),
        name=function_name,
    )
    graph.opset_imports.pop(ANALOG_DOMAIN, None)
    function = ir.Function(ANALOG_DOMAIN, function_name, graph=graph, attributes=[])
    model.functions[function.identifier()] = function
    outside = Emitter(layer.op.site.name)
    actual = [outside.constant(array) for _, array in body.constants]
    inputs = [codes] if noise is None else [codes, drawn]
    call = ir.node(function_name, [*inputs, *actual], domain=ANALOG_DOMAIN, num_outputs=2, name=layer.op.site.name)
    outside.nodes.append(call)
    home, name = node.graph, f"{layer.op.site.name}/accumulator"
    assert isinstance(home, ir.Graph)
    if home is model.graph:
        call.outputs[1].name = name
    else:  # an output of a branch must have a known element type
        call.outputs[1].name = f"{name}/plain"
        outside.cast(call.outputs[1], ir.DataType.DOUBLE, name=name).type = ir.TensorType(ir.DataType.DOUBLE)
    insert_before(home, node, outside)
    replace_node(node, call.outputs[0])


def _spatial_sizes(node: ir.Node) -> tuple[int, ...] | None:
    """Spatial sizes of a placeholder's input [B, C, *sizes], where all are static."""
    source = node.inputs[0]
    shape = None if source is None else source.shape
    if shape is None or any(not isinstance(size, int) for size in shape[2:]):
        return None
    return tuple(int(size) for size in shape[2:] if isinstance(size, int))
