"""The constants of weights and biases: values, and the integer codes that a QDQ model stores them as."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.graph import Array, constant, dequantizes, input_at, int_attr, ints_attr, standard
from mcompiler.ir import ConstantRoot
from mcompiler.provenance import roots

_CODES = frozenset(
    [
        ir.DataType.INT4,
        ir.DataType.UINT4,
        ir.DataType.INT2,
        ir.DataType.UINT2,
        ir.DataType.INT8,
        ir.DataType.UINT8,
        ir.DataType.INT16,
        ir.DataType.UINT16,
        ir.DataType.INT32,
    ]
)
_MOVING = ("Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze")
_INT16 = np.iinfo(np.int16)


@dataclass(frozen=True)
class Constant:
    """A constant tensor of the graph, read through the nodes that reshape, cast or dequantise it.

    Attributes:
        values: the real values, of any shape; a view where possible. None where ``codes`` give them.
        codes: integers, zero point subtracted, or None.
        scale: broadcast to the shape of ``codes``; value = codes * scale, rounded to the type of ``scale``.
        nodes: the nodes passed on the way.
        roots: the constants of the model that the numbers come from.
    """

    values: Array | None
    codes: npt.NDArray[np.int32] | None = None
    scale: Array | None = None
    nodes: tuple[ir.Node, ...] = ()
    roots: tuple[ConstantRoot, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        array = self.values if self.values is not None else self.codes
        assert array is not None
        return array.shape

    def real(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """The real values in ``dtype``, as onnxruntime's DequantizeLinear gives them."""
        if self.values is not None:
            return self.values.astype(dtype, copy=False)
        assert self.codes is not None
        assert self.scale is not None
        if self.scale.dtype == np.float64:
            return (self.codes * self.scale).astype(dtype, copy=False)
        product = self.codes.astype(np.float32) * self.scale.astype(np.float32)
        return product.astype(self.scale.dtype, copy=False).astype(dtype, copy=False)

    def moved(self, move: Callable[[Array], Array]) -> Constant:
        """The constant after a node that only moves elements (transpose, reshape)."""
        if self.values is not None:
            return replace(self, values=move(self.values))
        assert self.codes is not None
        assert self.scale is not None
        return replace(self, codes=move(self.codes), scale=move(self.scale))


def trace(value: ir.Value | None) -> Constant | None:
    """The constant that a value holds, or None: an initializer, also seen through DequantizeLinear, Transpose etc."""
    if value is None:
        return None
    array = constant(value)
    if array is not None:
        return Constant(array, roots=roots(value))
    node = value.producer()
    if node is None or node.outputs[0] is not value:
        return None
    found = _through(node)
    return None if found is None else replace(found, nodes=(*found.nodes, node))


def _through(node: ir.Node) -> Constant | None:
    if dequantizes(node):
        return _dequantised(node)
    if standard(node, "Gather"):
        return _gathered(node)
    if not standard(node, *_MOVING, "Cast"):
        return None
    source = trace(node.inputs[0])
    if source is None or node.op_type == "Identity":
        return source
    if node.op_type == "Cast":
        dtype = ir.DataType(int_attr(node, "to", ir.DataType.FLOAT)).numpy()
        values = source.values if source.values is not None else source.real(np.float32)
        return Constant(values.astype(dtype, copy=False), nodes=source.nodes, roots=source.roots)
    move = _move(node, source.shape)
    try:
        return None if move is None else source.moved(move)
    except (ValueError, IndexError):  # axes or sizes that do not fit: onnxruntime decides what such a node computes
        return None


def _move(node: ir.Node, shape: tuple[int, ...]) -> Callable[[Array], Array] | None:
    """The function on arrays of this shape that a shape operator is; None where its arguments are not constant."""
    if node.op_type == "Transpose":
        perm = ints_attr(node, "perm")
        return lambda array: array.transpose(perm)
    if node.op_type == "Flatten":
        axis = int_attr(node, "axis", 1)
        rows = int(np.prod(shape[: axis if axis >= 0 else axis + len(shape)], dtype=np.int64))
        return lambda array: array.reshape(rows, -1 if array.size else 0)
    if node.op_type == "Reshape":
        wanted = constant(input_at(node, 1))
        if wanted is None:
            return None
        keep = int_attr(node, "allowzero", 0) == 0
        sizes = [shape[i] if size == 0 and keep else int(size) for i, size in enumerate(wanted)]
        return lambda array: array.reshape(sizes)
    axes = ints_attr(node, "axes")
    if axes is None and input_at(node, 1) is not None:
        given = constant(input_at(node, 1))
        if given is None:
            return None
        axes = tuple(int(axis) for axis in given)
    if node.op_type == "Squeeze":
        return lambda array: np.squeeze(array, axes)
    return None if axes is None else lambda array: np.expand_dims(array, axes)


def _gathered(node: ir.Node) -> Constant | None:
    """Entries of a constant table, as quantised weights with a level table have them."""
    table, indices = trace(input_at(node, 0)), trace(input_at(node, 1))
    if table is None or indices is None or table.values is None or indices.values is None:
        return None
    axis = int_attr(node, "axis", 0)
    if indices.values.dtype.kind != "i" or not table.values.ndim or not indices.values.size:
        return None
    size = table.values.shape[axis]
    if indices.values.min() < -size or indices.values.max() >= size:
        return None
    sources = tuple(sorted({*table.roots, *indices.roots}))
    return Constant(np.take(table.values, indices.values, axis), nodes=(*table.nodes, *indices.nodes), roots=sources)


def _dequantised(node: ir.Node) -> Constant | None:
    """(codes - zero point) * scale: per tensor, per axis or by blocks."""
    source = node.inputs[0]
    codes, scale = constant(source), constant(input_at(node, 1))
    kind = source.dtype if source is not None else None
    nodes: tuple[ir.Node, ...] = ()
    sources = set(roots(source, input_at(node, 1), input_at(node, 2)))
    if codes is None:  # after a Gather from a table of levels
        traced = trace(source)
        if traced is None or traced.values is None or traced.values.dtype.kind not in "iu":
            return None
        codes, kind, nodes = traced.values, ir.DataType.from_numpy(traced.values.dtype), traced.nodes
        sources = {*traced.roots, *roots(input_at(node, 1), input_at(node, 2))}
    zero = constant(input_at(node, 2))
    if scale is None or (zero is None and input_at(node, 2) is not None):
        return None
    if kind is None or kind not in _CODES:
        return None
    axis, block = int_attr(node, "axis", 1), int_attr(node, "block_size", 0)
    shifted = codes.astype(np.int32)
    try:
        if zero is not None and zero.any():
            shifted = shifted - _spread(zero.astype(np.int32), shifted.shape, axis, block)
        spread = _spread(scale, shifted.shape, axis, block)
    except (ValueError, IndexError):  # an axis or a length that does not fit: onnxruntime decides what it computes
        return None
    return Constant(None, codes=shifted, scale=spread, nodes=nodes, roots=tuple(sorted(sources)))


def _spread(parameter: Array, shape: tuple[int, ...], axis: int, block: int) -> Array:
    """A scale or zero point broadcast to the shape of the codes."""
    if parameter.ndim == 0 or (parameter.ndim == 1 and parameter.size == 1):
        return np.broadcast_to(parameter.reshape(()), shape)
    if parameter.ndim == 1 and not block:
        sizes = [1] * len(shape)
        sizes[axis] = -1
        return np.broadcast_to(parameter.reshape(sizes), shape)
    repeated = np.repeat(parameter, min(block, shape[axis]), axis=axis)
    index: list[slice] = [slice(None)] * len(shape)
    index[axis] = slice(shape[axis])
    return repeated[tuple(index)]


def codes_of(matrix: Constant, factor: float) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float32]] | None:
    """Codes [G, K, N] and scale [G, N] of a constant of shape [G, K, N], times ``factor``.

    None where it is not quantised, where the scale differs along K (by input channel, by block), or where codes or
    scale are not usable: beyond int16, a scale that is negative or not finite.
    """
    if matrix.codes is None or matrix.scale is None or factor == 0 or matrix.codes.size == 0:
        return None
    if matrix.codes.max() > _INT16.max or matrix.codes.min() < -_INT16.max:
        return None
    if any(matrix.scale.strides) and not (matrix.scale == matrix.scale[:, :1]).all():
        return None
    scale = (matrix.scale[:, 0].astype(np.float64) * abs(factor)).astype(np.float32)  # [G, N]
    if not np.isfinite(scale).all() or (scale < 0).any():
        return None
    codes = np.ascontiguousarray(matrix.codes, dtype=np.int16)
    if factor < 0:
        codes = -codes
    if (scale == 0).any():
        codes = np.where(scale[:, None] == 0, np.int16(0), codes)
    return codes, scale
