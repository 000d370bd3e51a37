"""From a file to an ``onnx_ir`` model whose large tensors stay on disk, memory-mapped.

protobuf would copy every byte of a model into memory and hold it there. The reader instead walks the wire format of the
file, cuts the ``raw_data`` of large initializers out, and hands protobuf only the rest; the tensors become views
into the mapped file. Tensors that the model keeps in external files are mapped the same way.
"""

from __future__ import annotations

import logging
import math
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from mcompiler.errors import ModelError
from mcompiler.onnx_import.limits import check_limits

_SELF = "\x01self"
_LARGE = 4096
_LEN = 2
# Field numbers of onnx.proto.
_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_RAW, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 7, 5, 9, 13, 14

TYPE_KEY = "mcompiler.onnx_type"
"""Key in ``Value.meta`` of a graph output whose type onnx_ir cannot hold: its serialized TypeProto."""

EXTERNAL_KEY = "mcompiler.external"
"""Key in ``Model.meta``: names of the external data files, relative to the model's folder."""


def read(path: Path) -> ir.Model:
    """Read an ONNX file; initializers above 4 KiB are views into the mapped file.

    Raises:
        ModelError: the file cannot be read, is no ONNX model, or its external data are missing or too short.
    """
    source = _map(path)
    proto = _parsed(path, source)
    check_limits(proto, path)
    types = _drop_map_types(proto.graph)
    try:
        _densify(proto.graph)
    except (ValueError, IndexError, TypeError) as error:
        raise ModelError(f"'{path}' is a damaged ONNX model (a sparse tensor: {error}); export it again") from error
    model = _deserialized(proto, path)
    for output in model.graph.outputs:
        if output.name in types:
            output.meta[TYPE_KEY] = types[output.name]
    tensors = _Tensors(path, source)
    tensors.settle(model)
    model.meta[EXTERNAL_KEY] = tuple(sorted(set(tensors.files) - {_SELF}))
    return model


def _parsed(path: Path, source: memoryview) -> onnx.ModelProto:
    try:
        proto: onnx.ModelProto = onnx.ModelProto.FromString(_strip(source))
    except Exception as error:  # protobuf's DecodeError, or the walk through the wire format gone astray
        raise ModelError(f"'{path}' is not an ONNX model (or a damaged one); give a .onnx file") from error
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        raise ModelError(f"'{path}' is not an ONNX model: it holds no graph; give a .onnx file")
    return proto


def _deserialized(proto: onnx.ModelProto, path: Path) -> ir.Model:
    log = logging.getLogger("onnx_ir")
    level = log.level
    log.setLevel(logging.CRITICAL)  # the faults that it warns of are refused below
    try:
        model: ir.Model = ir.from_proto(proto)
    except Exception as error:  # onnx_ir raises many kinds, all of them about the file
        raise ModelError(f"'{path}' is a damaged ONNX model ({_first_line(error)}); export it again") from error
    finally:
        log.setLevel(level)
    made = {id(value) for node in model.graph for value in node.outputs}
    for output in model.graph.outputs:
        if id(output) not in made and not output.is_graph_input() and not output.is_initializer():
            raise ModelError(
                f"'{path}' is a damaged ONNX model: nothing produces its output '{output.name}'; export it again"
            )
    for index, node in enumerate(model.graph.all_nodes()):
        if not all(isinstance(text, str) for text in (node.op_type, node.domain, node.name or "")):
            raise ModelError(f"'{path}' is a damaged ONNX model (a name in it is no UTF-8 text); export it again")
        for value in node.inputs:
            if value is not None and value.producer() is None and value.graph is None:
                label = node.name or f"{node.op_type}_{index}"
                raise ModelError(
                    f"'{path}' is a damaged ONNX model: node '{label}' reads '{value.name}', which nothing produces; "
                    "export it again"
                )
    return model


def _map(path: Path) -> memoryview:
    if path.is_dir():
        raise ModelError(f"'{path}' is a directory; give a .onnx file")
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise ModelError(f"'{path}' is empty; give a .onnx file")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError as error:
        raise ModelError(f"'{path}' does not exist; give the path of a .onnx file") from error
    except OSError as error:
        raise ModelError(f"'{path}' cannot be read: {error.strerror}") from error


def _first_line(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().split("\n")[0][:200]


# --- the wire format -------------------------------------------------------------------------------------------------


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _encode_field(number: int, content: bytes) -> bytes:
    return _encode_varint(number << 3 | _LEN) + _encode_varint(len(content)) + content


def _fields(data: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Fields of a message in data[at:end]: (number, start with tag, start of content, end)."""
    while at < end:
        start = at
        tag, at = _varint(data, at)
        wire = tag & 7
        content = at
        if wire == _LEN:
            size, content = _varint(data, at)
            at = content + size
        elif wire == 0:
            _, at = _varint(data, at)
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at > end:
            raise ValueError("truncated")
        yield tag >> 3, start, content, at


def _strip(data: memoryview) -> bytes:
    """The model's bytes with the raw data of large initializers replaced by a reference into the file."""
    parts: list[bytes] = []
    for number, start, content, end in _fields(data, 0, len(data)):
        if number == _MODEL_GRAPH:
            parts.append(_encode_field(number, _strip_graph(data, content, end)))
        else:
            parts.append(bytes(data[start:end]))
    return b"".join(parts)


def _strip_graph(data: memoryview, at: int, stop: int) -> bytes:
    parts: list[bytes] = []
    for number, start, content, end in _fields(data, at, stop):
        if number == _GRAPH_INITIALIZER and end - content > _LARGE:
            parts.append(_encode_field(number, _strip_tensor(data, content, end)))
        else:
            parts.append(bytes(data[start:end]))
    return b"".join(parts)


def _strip_tensor(data: memoryview, at: int, stop: int) -> bytes:
    parts: list[bytes] = []
    for number, start, content, end in _fields(data, at, stop):
        if number == _TENSOR_RAW and end - content >= _LARGE:
            entries = {"location": _SELF, "offset": str(content), "length": str(end - content)}
            for key, value in entries.items():
                entry = _encode_field(1, key.encode()) + _encode_field(2, value.encode())
                parts.append(_encode_field(_TENSOR_EXTERNAL, entry))
            parts.append(_encode_varint(_TENSOR_LOCATION << 3) + b"\x01")
        else:
            parts.append(bytes(data[start:end]))
    return b"".join(parts)


# --- types that onnx_ir does not hold --------------------------------------------------------------------------------


def _drop_map_types(graph: Any) -> dict[str, bytes]:
    """Take map types (scikit-learn classifiers: seq(map(int64, float))) off outputs; returns them by output name."""
    types = {}
    for value in graph.output:
        if _holds_map(value.type):
            types[value.name] = value.type.SerializeToString(deterministic=True)
            value.ClearField("type")
    for index in reversed(range(len(graph.value_info))):
        if _holds_map(graph.value_info[index].type):
            del graph.value_info[index]
    return types


def _densify(graph: Any) -> None:
    """Sparse initializers and sparse Constant nodes become dense tensors, in place."""
    for sparse in graph.sparse_initializer:
        graph.initializer.append(_dense(sparse))
    del graph.sparse_initializer[:]
    for node in graph.node:
        for attr in node.attribute:
            if attr.type == onnx.AttributeProto.SPARSE_TENSOR:
                attr.t.CopyFrom(_dense(attr.sparse_tensor))
                attr.name, attr.type = "value", onnx.AttributeProto.TENSOR
                attr.ClearField("sparse_tensor")


def _dense(sparse: Any) -> Any:
    """A SparseTensorProto as TensorProto; indices are [n] into the flat tensor or [n, rank]."""
    values, indices = onnx.numpy_helper.to_array(sparse.values), onnx.numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return onnx.numpy_helper.from_array(dense, sparse.values.name)


def _holds_map(kind: Any) -> bool:
    which = kind.WhichOneof("value")
    if which == "sequence_type":
        return _holds_map(kind.sequence_type.elem_type)
    if which == "optional_type":
        return _holds_map(kind.optional_type.elem_type)
    return bool(which == "map_type")


class _Tensors:
    """Replaces the tensors that protobuf or onnx_ir would load by arrays, mapped where they are on disk."""

    def __init__(self, path: Path, source: memoryview) -> None:
        self.path = path
        self.files: dict[str, memoryview] = {_SELF: source}

    def settle(self, model: ir.Model) -> None:
        """Give every initializer, and every external tensor of an attribute, an array."""
        for graph in model.graphs():
            for value in graph.initializers.values():
                if value.const_value is not None and value.const_value.dtype != ir.DataType.STRING:
                    value.const_value = self.array(value.const_value, value.name or "")
                    # The tensor decides: exporters leave value infos without a shape.
                    value.shape = ir.Shape(value.const_value.shape.numpy())
                    value.type = ir.TensorType(value.const_value.dtype)
            for node in graph:
                for name, attr in list(node.attributes.items()):
                    if attr.type == ir.AttributeType.TENSOR and isinstance(attr.value, ir.ExternalTensor):
                        node.attributes[name] = ir.AttrTensor(name, self.array(attr.value, attr.value.name))

    def array(self, tensor: ir.TensorProtocol, name: str) -> ir.Tensor[Any]:
        """The tensor over an array."""
        if not isinstance(tensor, ir.ExternalTensor):
            try:
                return ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=name)
            except ValueError as error:
                raise ModelError(
                    f"'{self.path}': tensor '{name}' is damaged ({_first_line(error)}); export the model again"
                ) from error
        data = self._file(str(tensor.location), name)
        shape = tensor.shape.numpy()
        offset = tensor.offset or 0
        needed = (math.prod(shape) * tensor.dtype.bitwidth + 7) // 8
        if offset < 0 or offset + needed > len(data) or (tensor.length is not None and tensor.length != needed):
            where = "it" if tensor.location == _SELF else f"its external data file '{tensor.location}'"
            raise ModelError(
                f"'{self.path}': {where} is truncated or damaged: tensor '{name}' needs {needed} bytes at {offset}; "
                "get a whole copy"
            )
        return ir.Tensor(_decode(data[offset : offset + needed], tensor.dtype, shape), dtype=tensor.dtype, name=name)

    def _file(self, location: str, name: str) -> memoryview:
        if location in self.files:
            return self.files[location]
        # As onnxruntime does: data files in the folder of the model or below it, not elsewhere on the machine.
        if Path(location).is_absolute() or ".." in Path(location).parts:
            raise ModelError(
                f"'{self.path}': tensor '{name}' lies in '{location}', outside the model's folder; "
                "put the data file beside the model and export again"
            )
        file = self.path.parent / location
        if not file.is_file():
            raise ModelError(
                f"'{self.path}': the external data file '{location}' (tensor '{name}' and maybe others) is missing; "
                "put it beside the model"
            )
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        self.files[location] = memoryview(mapped)
        return self.files[location]


def _decode(data: memoryview, dtype: ir.DataType, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Little-endian bytes as an array; types below a byte are unpacked by onnx_ir."""
    if dtype.bitwidth < 8:
        return ir.PackedTensor(np.frombuffer(data, np.uint8), dtype, shape=ir.Shape(shape)).numpy()
    return np.frombuffer(data, dtype.numpy().newbyteorder("<")).reshape(shape)
