"""A model of ``onnx_ir`` as plain values: a small protobuf, large constants as arrays, and its notes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

LARGE_CONSTANT = 4096
"""Bytes from which a constant is kept outside of the protobuf."""


@dataclass(frozen=True)
class PackedModel:
    """A model without references to it: equal models give equal values.

    Attributes:
        proto: serialised ModelProto; constants in ``tensors`` are empty there.
        tensors: large initializers: number of the graph, name, element type, array.
        notes: ``meta`` of the model, its nodes and its values, by their number.
    """

    proto: bytes
    tensors: tuple[tuple[int, str, ir.DataType, npt.NDArray[Any]], ...]
    notes: tuple[tuple[int, Mapping[str, Any]], ...]


def pack_model(model: ir.Model) -> PackedModel:
    """The model as plain values; the model itself is not changed."""
    clone = model.clone()
    tensors = []
    for number, name, value, tensor in list(_large_constants(clone)):
        array = tensor.numpy()
        builtin = array.dtype.isbuiltin == 1  # numpy files have no name for bfloat16 and its kind
        tensors.append((number, name, tensor.dtype, array if builtin else array.view(f"u{array.itemsize}")))
        value.const_value = ir.tensor(np.zeros(0, np.uint8), name=name)
    noted = [(number, dict(part.meta)) for number, part in enumerate(_parts(model)) if part.meta]
    proto: bytes = ir.to_proto(clone).SerializeToString(deterministic=True)
    return PackedModel(proto, tuple(tensors), tuple(noted))


def unpack_model(packed: PackedModel) -> ir.Model:
    """The model again; its large constants are the arrays given."""
    model = ir.from_proto(onnx.ModelProto.FromString(packed.proto))
    graphs = list(_graphs(model))
    for number, name, dtype, array in packed.tensors:
        value = graphs[number].initializers[name]
        value.const_value = ir.Tensor(array.view(dtype.numpy()), dtype=dtype, name=name)
        value.type, value.shape = ir.TensorType(dtype), ir.Shape(array.shape)
    parts = list(_parts(model)) if packed.notes else []
    for number, notes in packed.notes:
        parts[number].meta.update(notes)
    return model


def _large_constants(model: ir.Model) -> Iterator[tuple[int, str, ir.Value, ir.Tensor[Any]]]:
    """Initializers that are worth keeping apart; those whose elements share a byte stay in the protobuf."""
    for number, graph in enumerate(_graphs(model)):
        for name, value in graph.initializers.items():
            tensor = value.const_value
            if isinstance(tensor, ir.Tensor) and tensor.nbytes >= LARGE_CONSTANT and tensor.dtype.bitwidth % 8 == 0:
                yield number, name, value, tensor


def _parts(model: ir.Model) -> Iterator[ir.Model | ir.Node | ir.Value]:
    """Everything of a model that can have notes, in the order of the graphs."""
    yield model
    for graph in _graphs(model):
        yield from graph.inputs
        yield from graph.initializers.values()
        for node in graph:
            yield node
            yield from node.outputs


def _graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """The main graph, those of functions, and the bodies in each of them."""
    yield from _with_bodies(model.graph)
    for function in model.functions.values():
        yield from _with_bodies(function.graph)


def _with_bodies(graph: ir.Graph) -> Iterator[ir.Graph]:
    yield graph
    for node in graph:
        for attribute in node.attributes.values():
            if attribute.is_ref():
                continue
            if attribute.type == ir.AttributeType.GRAPH:
                yield from _with_bodies(attribute.as_graph())
            elif attribute.type == ir.AttributeType.GRAPHS:
                for body in attribute.as_graphs():
                    yield from _with_bodies(body)


class PacksModels:
    """Base of dataclasses that hold models and survive pickling.

    A graph of ``onnx_ir`` is a linked list, which pickle would follow node by node until its stack is full.
    """

    def __getstate__(self) -> dict[str, Any]:
        return {key: pack_model(item) if isinstance(item, ir.Model) else item for key, item in vars(self).items()}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        for key, item in state.items():
            # vars: the dataclasses are frozen
            vars(self)[key] = unpack_model(item) if isinstance(item, PackedModel) else item
