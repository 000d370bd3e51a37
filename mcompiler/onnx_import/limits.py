"""Limits that a model file must keep before anything allocates by it: sizes of tensors, and of what functions become.

A few bytes of a file can declare terabytes (the dimensions of a sparse tensor) or millions of nodes (functions that
call functions). Both are refused here by name, before onnx_ir, onnx and onnxruntime see the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import onnx

from mcompiler.errors import ModelError

DENSE_ELEMENTS = 1 << 27
"""Largest number of elements of a sparse tensor once it is dense."""

INLINED_NODES = 1 << 16
"""Largest number of nodes that the bodies of functions may bring, all calls together."""

NESTED_CALLS = 64
"""Deepest nesting of calls of functions."""

_TYPE = onnx.TensorProto
_FIELDS: dict[int, str] = {
    _TYPE.FLOAT: "float_data",
    _TYPE.COMPLEX64: "float_data",
    _TYPE.DOUBLE: "double_data",
    _TYPE.COMPLEX128: "double_data",
    _TYPE.INT64: "int64_data",
    _TYPE.UINT32: "uint64_data",
    _TYPE.UINT64: "uint64_data",
    _TYPE.STRING: "string_data",
}
"""Typed field that holds the elements of a tensor without raw data; of all other types ``int32_data``."""

_ALL_FIELDS = ("float_data", "double_data", "int32_data", "int64_data", "uint64_data", "string_data")
_COMPLEX = frozenset([_TYPE.COMPLEX64, _TYPE.COMPLEX128])


def check_limits(proto: onnx.ModelProto, path: object) -> None:
    """Raise ModelError where a tensor does not hold what it declares, or functions become too large.

    Args:
        proto: the model; data of large tensors may be external.
        path: name of the model in messages.
    """
    graphs = (proto.graph, *proto.functions)
    for graph in graphs:
        for holder in _with_bodies(graph):
            for sparse in _sparse_tensors(holder):
                _check_dims(sparse.dims, sparse.values.name, path)
                _check_tensor(sparse.values, path)
                _check_tensor(sparse.indices, path)
                if math.prod(sparse.dims) > DENSE_ELEMENTS:
                    raise ModelError(
                        f"'{path}': sparse tensor '{sparse.values.name}' has {math.prod(sparse.dims)} elements once it "
                        f"is dense, more than the {DENSE_ELEMENTS} that are allowed; export a smaller tensor"
                    )
            for tensor in _tensors(holder):
                _check_tensor(tensor, path)
    _check_functions(proto, path)


def _with_bodies(graph: Any) -> Iterator[Any]:
    """A graph or function and the bodies of its nodes, at any depth (protobuf itself refuses more than 100)."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                yield from _with_bodies(body)


def _sparse_tensors(graph: Any) -> Iterator[Any]:
    yield from getattr(graph, "sparse_initializer", ())
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("sparse_tensor"):
                yield attribute.sparse_tensor
            yield from attribute.sparse_tensors


def _tensors(graph: Any) -> Iterator[Any]:
    yield from getattr(graph, "initializer", ())
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _check_dims(dims: Any, name: str, path: object) -> None:
    if any(size < 0 for size in dims):
        raise ModelError(f"'{path}': tensor '{name}' is damaged (dimensions {list(dims)}); export the model again")


def _check_tensor(tensor: Any, path: object) -> None:
    """Dimensions, type and number of elements of a tensor; data outside of the message are checked where they are."""
    _check_dims(tensor.dims, tensor.name, path)
    kind = tensor.data_type
    try:
        known = kind != _TYPE.UNDEFINED and bool(_TYPE.DataType.Name(kind))
    except ValueError:
        known = False
    if not known:
        raise ModelError(f"'{path}': tensor '{tensor.name}' is damaged (element type {kind}); export the model again")
    if tensor.data_location == _TYPE.EXTERNAL or tensor.external_data:
        return
    needed, filled = math.prod(tensor.dims), [name for name in _ALL_FIELDS if len(getattr(tensor, name))]
    right = _FIELDS.get(kind, "int32_data")
    if filled and (filled != [right] or tensor.raw_data):
        other = "raw data as well" if filled == [right] else f"its data in {', '.join(filled)}, not in {right}"
        raise ModelError(
            f"'{path}': tensor '{tensor.name}' of type {_TYPE.DataType.Name(kind)} is damaged: it has {other}; "
            "export the model again"
        )
    if not filled:
        return  # raw data, whose length onnx_ir compares with the dimensions
    held = len(getattr(tensor, right)) // (2 if kind in _COMPLEX else 1)
    packed = kind in _PACKED and held == -(-needed * _PACKED[kind] // 8)
    if held != needed and not packed:
        raise ModelError(
            f"'{path}': tensor '{tensor.name}' of shape {list(tensor.dims)} is damaged: it holds {held} elements, not "
            f"{needed}; export the model again"
        )


_PACKED = {
    getattr(_TYPE, name): bits
    for name, bits in (("INT4", 4), ("UINT4", 4), ("FLOAT4E2M1", 4), ("INT2", 2), ("UINT2", 2))
    if hasattr(_TYPE, name)
}
"""Types of which a byte holds several elements."""


def _check_functions(proto: onnx.ModelProto, path: object) -> None:
    """The nodes that functions become once they are inlined, without inlining them."""
    functions = {(function.domain, function.name, function.overload): function for function in proto.functions}
    if not functions:
        return
    sizes: dict[tuple[str, str, str], tuple[int, int]] = {}
    open_calls: set[tuple[str, str, str]] = set()

    def size_of(key: tuple[str, str, str]) -> tuple[int, int]:
        """Nodes and depth of a function."""
        if key in open_calls or len(open_calls) > NESTED_CALLS:
            raise ModelError(
                f"'{path}': function '{key[1]}' calls itself, or more than {NESTED_CALLS} functions call each other; "
                "export the model without such functions"
            )
        if key not in sizes:
            open_calls.add(key)
            sizes[key] = measure(functions[key])
            open_calls.remove(key)
        return sizes[key]

    def measure(graph: Any) -> tuple[int, int]:
        nodes, depth = 0, 0
        for body in _with_bodies(graph):
            for node in body.node:
                key = (node.domain, node.op_type, node.overload)
                inner = size_of(key) if key in functions else (0, 0)
                nodes, depth = nodes + 1 + inner[0], max(depth, 1 + inner[1] if key in functions else 0)
        if depth > NESTED_CALLS:
            raise ModelError(f"'{path}': calls of functions are nested deeper than {NESTED_CALLS}; inline some of them")
        return nodes, depth

    own = sum(len(body.node) for body in _with_bodies(proto.graph))
    total = measure(proto.graph)[0]
    if total - own > INLINED_NODES:
        raise ModelError(
            f"'{path}': its functions become {total - own} nodes once they are inlined, more than the {INLINED_NODES} "
            "that are allowed; export a model with fewer nested calls"
        )
