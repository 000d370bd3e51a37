"""Quantised layers of a trained model as QDQ: integer weights and input scales in the graph, no calibration needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.errors import ModelError
from mcompiler.onnx_export.emitter import Emitter, insert_before


@dataclass(frozen=True)
class QuantisedLayer:
    """Quantisation of one layer, as training determined it.

    Attributes:
        codes: int [O, ...], integer weights in the layout of the float weight; None where they stay float.
        scale: float32 [O], weight = code * scale of its output channel.
        table: the values that codes may take, ascending, where cells have no equidistant levels: weights then go out as
            a Gather from this table.
        input_scale, input_zero_point: x = scale * (q - zero_point), q of 8 bits; None: the input stays float.
    """

    codes: npt.NDArray[np.int32] | None
    scale: npt.NDArray[np.float32]
    table: npt.NDArray[np.int32] | None
    input_scale: float | None
    input_zero_point: int


def insert_quantisers(model: ir.Model, layers: Mapping[str, QuantisedLayer]) -> ir.Model:
    """Replace float weights by integers with scales, and quantise the inputs of their nodes; names nodes after layers.

    Args:
        model: float model; the weight of layer ``a.b`` is the initializer ``a.b.weight``.
        layers: by name.

    Returns:
        A clone.

    Raises:
        ModelError: a layer whose weight the exporter renamed or that several nodes read.
    """
    model = model.clone()
    inputs: dict[tuple[ir.Value, _InputCodes], ir.Value] = {}
    names = {_consumer(_weight(model, name), name): name for name in layers}
    for node in [node for node in model.graph if node in names]:  # codes come before all nodes that share them
        name = names[node]
        layer = layers[name]
        if layer.input_scale is not None:
            quantiser = _InputCodes(layer.input_scale, layer.input_zero_point)
            _quantised_input(model, node, quantiser, name, inputs)
        if layer.codes is not None:
            _integer_weight(model, _weight(model, name), layer, layer.codes, name)
        node.name = name
    return model


def _weight(model: ir.Model, name: str) -> ir.Value:
    weight = model.graph.initializers.get(f"{name}.weight")
    if weight is None:
        raise ModelError(
            f"layer '{name}': the exported graph has no initializer '{name}.weight'; is the layer used in forward?"
        )
    return weight


def _consumer(weight: ir.Value, name: str) -> ir.Node:
    """The Conv, Gemm or MatMul that reads a weight, through a Transpose or directly."""
    uses = list(weight.uses())
    if len(uses) == 1 and uses[0].node.op_type == "Transpose":
        uses = list(uses[0].node.outputs[0].uses())
    if len(uses) != 1:
        raise ModelError(
            f"layer '{name}': its weight is read {len(uses)} times in the exported graph; a layer that runs several "
            "times per inference needs a module of its own for each"
        )
    node = uses[0].node
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        raise ModelError(
            f"layer '{name}': its weight goes into the operator {node.op_type}, which is not mapped; name it in `skip`"
        )
    return node


@dataclass(frozen=True)
class _InputCodes:
    """Scale and zero point of uint8 input codes."""

    scale: float
    zero_point: int


def _quantised_input(
    model: ir.Model,
    node: ir.Node,
    quantiser: _InputCodes,
    name: str,
    known: dict[tuple[ir.Value, _InputCodes], ir.Value],
) -> None:
    """Codes and back before a node; nodes that read one tensor alike share them."""
    source = node.inputs[0]
    assert source is not None  # Conv, Gemm and MatMul have inputs
    key = (source, quantiser)
    if key not in known:
        emitter = Emitter(f"{name}/input")
        step, zero = emitter.constant(quantiser.scale, np.float32), emitter.constant(quantiser.zero_point, np.uint8)
        codes = emitter("QuantizeLinear", source, step, zero)
        value = emitter("DequantizeLinear", codes, step, zero)
        value.type, value.shape = source.type, source.shape
        known[key] = value
        insert_before(model.graph, node, emitter)
    node.replace_input_with(0, known[key])


def _integer_weight(
    model: ir.Model, weight: ir.Value, layer: QuantisedLayer, integers: npt.NDArray[np.int32], name: str
) -> None:
    """DequantizeLinear of codes (through a Gather from their table) in place of the float weight.

    Codes of more than 8 bits have another shape and a Reshape follows: onnxruntime fuses a DequantizeLinear right
    before a Conv or Gemm into an 8-bit operator, whatever the type of its codes, and then refuses the model.
    """
    emitter = Emitter(f"{name}/weight")
    narrow = layer.table is None and int(np.abs(integers).max(initial=0)) <= 127
    shape = integers.shape
    if not narrow:
        integers = integers.reshape(len(integers), -1) if integers.ndim > 2 else integers[..., None]
    if layer.table is None:
        codes = emitter.constant(integers.astype(np.int8 if narrow else np.int32))
    else:
        index = np.searchsorted(layer.table, integers).clip(max=len(layer.table) - 1)
        assert np.array_equal(layer.table[index], integers), "codes are entries of their table"
        kind: type[Any] = np.uint8 if len(layer.table) <= 256 else np.int32
        where = emitter.constant(index.astype(kind))
        if kind is np.uint8:
            where = emitter.cast(where, ir.DataType.INT32)
        codes = emitter("Gather", emitter.constant(layer.table.astype(np.int32)), where, axis=0)
    value = emitter("DequantizeLinear", codes, emitter.constant(layer.scale, np.float32), axis=0)
    if not narrow:
        value = emitter("Reshape", value, emitter.ints(*shape))
    value.type, value.shape = weight.type, weight.shape
    place = next(iter(weight.uses())).node
    insert_before(model.graph, place, emitter)
    ir.convenience.replace_all_uses_with(weight, value)
    model.graph.initializers.pop(weight.name or "")
