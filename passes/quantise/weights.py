"""Float weights become integer codes, one scale per output channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.geometry import all_kept
from mcompiler.ir import CodeArray, FloatArray, FloatMatrix, WeightMatrix
from mcompiler.passes.quantise.grids import weight_grid
from mcompiler.target import Target


def weight_matrix(matrix: FloatMatrix, target: Target, *, requantise: bool = False) -> WeightMatrix:
    """The integer matrix of a float matrix; nothing is compacted yet.

    Args:
        matrix: the weights.
        target: number of bits, levels of the cells.
        requantise: output channels of which the model's own codes do not fit are quantised again.
    """
    codes, scale, bits = _weight_codes(matrix, target, requantise)
    groups, rows, cols = codes.shape
    return WeightMatrix(
        label=matrix.name,
        codes=codes,
        scale=scale,
        weight_bits=bits,
        rows=all_kept(groups, rows),
        cols=all_kept(groups, cols),
    )


def _weight_codes(matrix: FloatMatrix, target: Target, requantise: bool) -> tuple[CodeArray, FloatArray, int]:
    """Codes, scales and bits of weights: the model's own, those of a grid that the weights lie on, or computed here."""
    # A level table fixes the magnitudes that a cell can hold: precision.weights then says nothing about the codes.
    bits, steps = target.layer_bits(matrix.name)[0], target.cell_steps if target.has_level_table else ()
    if matrix.weight_codes is not None and matrix.weight_scale is not None:
        codes, scale = matrix.weight_codes, matrix.weight_scale
        if requantise:
            codes, scale = _fitting_codes(matrix.weights, codes, scale, bits, steps)
        return codes, scale, _bits(codes)
    found = weight_grid(matrix.weights, bits, steps)
    if found is not None:
        return *found, _bits(found[0])
    codes, scale = quantise_weights(matrix.weights, bits, steps)
    return codes, scale, steps[-1].bit_length() + 1 if steps else bits


def _bits(codes: CodeArray) -> int:
    """Bits of codes, sign included."""
    return max(2, int(np.abs(codes.astype(np.int32)).max(initial=1)).bit_length() + 1)


def _fitting_codes(
    weights: npt.NDArray[np.floating[Any]], codes: CodeArray, scale: FloatArray, bits: int, steps: Sequence[int]
) -> tuple[CodeArray, FloatArray]:
    """The codes and scales of a model; new ones, from the real weights, for output channels that do not fit."""
    size = np.abs(codes.astype(np.int32))
    fits = np.isin(size, steps) if steps else size < 1 << (bits - 1)
    wide = ~np.asarray(fits.all(axis=1))  # [G, N]
    if not wide.any():
        return codes, scale
    codes, scale = codes.copy(), scale.copy()
    for group in np.flatnonzero(wide.any(axis=1)):
        columns = np.flatnonzero(wide[group])
        fresh = quantise_weights(weights[group : group + 1, :, columns], bits, steps)
        codes[group][:, columns], scale[group, columns] = fresh[0][0], fresh[1][0]
    return codes, scale


def quantise_weights(
    weights: npt.NDArray[np.floating[Any]], bits: int, steps: Sequence[int] = ()
) -> tuple[CodeArray, FloatArray]:
    """Symmetric codes, one scale per output channel.

    Args:
        weights: [G, K, N].
        bits: sign included; codes reach +-(2^(bits-1) - 1).
        steps: the only magnitudes that codes may have, ascending from 0, in place of all that ``bits`` allow; the
            nearest is taken, the smaller of two.

    Returns:
        codes int16 [G, K, N] and scale float32 [G, N] (1 for an all-zero channel).
    """
    top = steps[-1] if steps else (1 << (bits - 1)) - 1
    groups, _, cols = weights.shape
    codes = np.empty(weights.shape, dtype=np.int16)
    scales = np.ones((groups, cols), dtype=np.float32)
    middles = (np.array(steps[1:]) + np.array(steps[:-1])) / 2
    for group, matrix in enumerate(weights):
        peak = np.maximum(matrix.max(axis=0, initial=0), -matrix.min(axis=0, initial=0)).astype(np.float64)
        # The scale is rounded before the codes are computed: codes belong to the scale that is stored.
        scale = (peak / top).astype(np.float32)
        scales[group] = np.where(scale > 0, scale, np.float32(1))
        by_column = matrix.flags.f_contiguous and not matrix.flags.c_contiguous
        # Pieces follow the order in memory, and one of them stays in cache through all its steps.
        step = max(1, (1 << 20) // max(1, matrix.shape[0] if by_column else cols))
        for start in range(0, cols if by_column else len(matrix), step):
            piece = np.s_[:, start : start + step] if by_column else np.s_[start : start + step]
            part = matrix[piece] / (scales[group, start : start + step] if by_column else scales[group])
            if steps:
                nearest = np.searchsorted(middles, np.abs(part))
                codes[group][piece] = np.copysign(np.take(steps, nearest), part)
                continue
            np.rint(part, out=part)  # half to even, as QuantizeLinear of ONNX
            codes[group][piece] = np.clip(part, -top, top, out=part)
    return codes, scales
