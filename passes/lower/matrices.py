"""The float matrices of matched nodes."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.errors import CompileError
from mcompiler.ir import ConstantKey, ConstantRoot, FloatMatrix
from mcompiler.naming import LayerName
from mcompiler.passes.lower.inputs import tensor_grid
from mcompiler.passes.lower.match import Match
from mcompiler.passes.lower.weights import codes_of
from mcompiler.provenance import provenance

_BLOCK = 1 << 24
"""Bytes, about, that are copied at once for a digest."""


def float_matrices(matches: Mapping[str, Match], labels: Mapping[str, str]) -> tuple[FloatMatrix, ...]:
    """The matrix of each match; the model's own codes where it brings them.

    Args:
        matches: by layer name.
        labels: of the layers, by layer name.

    Raises:
        CompileError: weights or a bias that are NaN or infinite.
    """
    uses = Counter(match.weights.roots for match in matches.values())
    uses[()] = 0  # unknown roots are nobody's
    return tuple(
        _float_matrix(LayerName(name, labels[name]), match, uses[match.weights.roots] > 1)
        for name, match in matches.items()
    )


def _float_matrix(layer: LayerName, match: Match, shared: bool) -> FloatMatrix:
    """The matrix of a match; ``shared`` where another layer uses the same constants of the model."""
    name = layer.name
    element = _element(match)
    dtype = np.float64 if element == ir.DataType.DOUBLE else np.float32
    real = match.weights.real(dtype)
    if match.factor != 1.0:
        real = real * dtype(match.factor)
    weights = _read_only(real)
    _refuse_not_finite(weights, "weights", name)
    bias = None
    if match.bias is not None:
        with np.errstate(over="ignore"):
            bias = np.ascontiguousarray(match.bias, dtype=np.float32)
        _refuse_not_finite(bias, "bias", name)
        bias.flags.writeable = False
    codes, scale = codes_of(match.weights, match.factor) or (None, None)
    grid = tensor_grid(match.tensor)
    source = provenance(match.node)
    # A rule of another package may make weights without saying from which constants: then no other layer has them.
    roots = match.weights.roots or (ConstantRoot((), name),)
    return FloatMatrix(
        name=name,
        shape=match.shape,
        weights=weights,
        bias=bias,
        tensor=match.tensor.name or "",
        order=match.order,
        element=element,
        label=layer.label,
        origin=source.origins[0] if source.origins else None,
        source=ConstantKey(roots, _digest(weights, codes, scale) if shared else ""),
        weight_codes=codes,
        weight_scale=scale,
        input_scale=None if grid is None else grid.scale,
        input_zero_point=None if grid is None else grid.zero_point,
        input_bits=None if grid is None else grid.bits,
        input_stated=grid is not None and grid.stated,
    )


def _element(match: Match) -> ir.DataType:
    """Element type of input and output."""
    for value in (match.node.outputs[0], match.tensor):
        if value.dtype is not None:
            return value.dtype
    array = match.weights.values if match.weights.values is not None else match.weights.scale
    assert array is not None
    return ir.DataType.from_numpy(array.dtype)


def _digest(*arrays: npt.NDArray[Any] | None) -> str:
    """SHA-256 of arrays: types, shapes and contents in C order, copied block by block."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr(None if array is None else (array.dtype.str, array.shape)).encode())
        if array is None:
            continue
        for group in array:  # [K, N], or [N]
            rows = max(1, _BLOCK // max(1, group[:1].nbytes))
            for start in range(0, len(group), rows):
                digest.update(np.ascontiguousarray(group[start : start + rows]).data)
    return digest.hexdigest()


def _read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A read-only view: quantisation reads it in any order of the axes, so that large weights are not copied."""
    result = array.view()
    result.flags.writeable = False
    return result


def _refuse_not_finite(array: npt.NDArray[Any], role: str, name: str) -> None:
    """NaN and infinity survive minimum and maximum, which need no copy of the array."""
    low, high = array.min(initial=0), array.max(initial=0)
    if max(-low, high) > np.finfo(np.float32).max and np.isfinite(low) and np.isfinite(high):
        raise CompileError(
            f"its {role} reach from {low:g} to {high:g}, beyond the range of float32, in which scales are kept; "
            "scale them down",
            name,
        )
    if not (np.isfinite(low) and np.isfinite(high)):
        count = int(np.count_nonzero(~np.isfinite(array)))
        raise CompileError(
            f"{count} of its {role} are NaN or infinite, which no device can hold; repair or retrain the model", name
        )
