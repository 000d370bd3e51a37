"""Input ranges: from the values that calibration data give a tensor to the quantiser of the tensor."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
import numpy.typing as npt

from mcompiler.errors import CompileError
from mcompiler.ir import FloatMatrix, Quantiser
from mcompiler.passes.quantise.grids import data_grid
from mcompiler.passes.quantise.observe import TensorStatistics

_LARGEST = float(np.finfo(np.float32).max)


class RangeMethod(StrEnum):
    """Method that takes an input range from the calibration data."""

    MINMAX = "minmax"
    PERCENTILE = "percentile"
    MSE = "mse"


def input_quantiser(
    matrix: FloatMatrix, seen: TensorStatistics, bits: int, *, method: RangeMethod, drawn: bool
) -> Quantiser:
    """Quantiser of the input of a layer, from the values that the tensor had; a grid that they lie on is kept.

    Args:
        matrix: the layer.
        seen: its input tensor on the calibration data.
        bits: of a code.
        method: minimum and maximum, the range without the outermost 0.01 % at either end, or the least squared error.
        drawn: the data are random: values that are not finite are left out instead of refused.

    Raises:
        CompileError: values that are not finite, or too large for a float32 scale.
    """
    low, high = seen.low, seen.high
    if not (seen.finite or drawn):
        raise CompileError(
            f"its input '{matrix.tensor}' is not finite on the calibration data (NaN or infinite values among those "
            f"from {low:g} to {high:g}); check the data's preprocessing",
            matrix.name,
        )
    if max(-low, high) > _LARGEST:
        raise CompileError(
            f"its input '{matrix.tensor}' reaches from {low:g} to {high:g} on the calibration data, beyond the range "
            "of float32, in which scales are kept; scale the model's inputs or weights down",
            matrix.name,
        )
    values = np.concatenate(seen.values) if seen.values else np.zeros(0, np.float32)
    grid = None if drawn else data_grid(matrix.tensor, values, low, high, bits)
    if grid is not None:
        return grid
    if method is not RangeMethod.MINMAX and len(values):
        if method is RangeMethod.PERCENTILE:
            low, high = (float(q) for q in np.quantile(values, [0.0001, 0.9999]))
        else:
            low, high = _least_squares(values, low, high, bits)
    return affine(matrix.tensor, low, high, bits)


def affine(tensor: str, low: float, high: float, bits: int) -> Quantiser:
    """Quantiser whose range holds 0 and [low, high]; scale a float32."""
    low, high = min(low, 0.0), max(high, 0.0)
    top = (1 << bits) - 1
    scale = float(np.float32((high - low) / top))
    # The reciprocal of such a scale is no float32, and onnxruntime would compute with infinity: all values are zero.
    if scale * _LARGEST < 1:
        return Quantiser(tensor, 1.0, 0, bits)
    return Quantiser(tensor, scale, int(np.clip(np.rint(-low / scale), 0, top)), bits)


def _least_squares(values: npt.NDArray[np.float32], low: float, high: float, bits: int) -> tuple[float, float]:
    """The shrunken range with the least squared error on the values."""
    best = (np.inf, low, high)
    for shrink in np.linspace(1.0, 0.3, 36):
        trial = affine("", low * shrink, high * shrink, bits)
        codes = np.clip(np.rint(values / trial.scale) + trial.zero_point, 0, trial.largest)
        error = float(np.square((codes - trial.zero_point) * trial.scale - values, dtype=np.float64).mean())
        if error < best[0]:
            best = (error, low * shrink, high * shrink)
    return best[1], best[2]
