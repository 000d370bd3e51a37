"""Grids that weights or data already lie on: integer multiples of a scale, baked into floats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.ir import CodeArray, FloatArray, Quantiser

Floats = npt.NDArray[np.floating[Any]]

TOLERANCE = 2.0**-20
"""Deviation from a multiple of the scale, as a share of the largest value: what a few roundings to float32 leave."""

SCREENED = 16
"""Values of a channel that are tried on all grids; those grids that hold them are tried on all values."""

FIRST = 8
"""Columns that are tried before the others."""

EVIDENCE = 8
"""Values beyond one for each channel that must lie on a grid: fewer lie on one by chance."""

FEW_CODES = 16
"""With fewer different values than this on a grid, it is made finer by a power of two: other data may have more."""

LEAST_VALUES = 1000
"""Values of the data, zeros not counted, that must lie on a grid for an input to keep it."""


def weight_grid(weights: Floats, bits: int, steps: Sequence[int] = ()) -> tuple[CodeArray, FloatArray] | None:
    """As ``grid_of``; None as well where codes from the largest weight on down hold the weights as exactly."""
    found = grid_of(weights, bits, steps)
    if found is None:
        return None
    largest = np.abs(found[0].astype(np.int32)).max(axis=1, initial=0)
    top = steps[-1] if steps else (1 << (bits - 1)) - 1
    return found if (top % largest[largest > 0]).any() else None


def grid_of(weights: Floats, bits: int, steps: Sequence[int] = ()) -> tuple[CodeArray, FloatArray] | None:
    """Codes int16 [G, K, N] and scales float32 [G, N] of weights that are integer multiples of a scale.

    None where one channel lies on no grid, and where too few values say so.

    Args:
        weights: [G, K, N].
        bits: sign included; codes reach +-(2^(bits-1) - 1).
        steps: the only magnitudes that codes may have; empty: all that ``bits`` allow.
    """
    groups, _, cols = weights.shape
    top = steps[-1] if steps else (1 << (bits - 1)) - 1
    peaks = np.maximum(weights.max(axis=1, initial=0), -weights.min(axis=1, initial=0)).astype(np.float64)  # [G, N]
    largest = np.zeros((groups, cols), dtype=np.int64)
    for group in range(groups):
        found = _screened(weights[group], peaks[group], top)
        if found is None:
            return None
        largest[group] = found
    codes = np.zeros(weights.shape, dtype=np.int16)
    scales = np.ones((groups, cols), dtype=np.float32)
    evidence = 0
    for group, matrix in enumerate(weights):
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = np.where(peaks[group] > 0, peaks[group] / largest[group], 1.0)
        exact = matrix.astype(np.float64) / scale
        near = np.rint(exact)
        if (np.abs(exact - near) > TOLERANCE * largest[group]).any():
            return None
        if steps and not np.isin(np.abs(near), steps).all():
            return None
        # Roundings of single weights cancel in the scale that fits all of them best.
        power = np.square(near).sum(axis=0)
        best = np.where(power > 0, (matrix * near).sum(axis=0, dtype=np.float64) / np.maximum(power, 1), 1.0)
        codes[group], scales[group] = near, best
        evidence += int(np.maximum(np.count_nonzero(near, axis=0) - 1, 0).sum())
    return (codes, scales) if evidence >= EVIDENCE else None


def _screened(matrix: Floats, peaks: npt.NDArray[np.float64], top: int) -> npt.NDArray[np.int64] | None:
    """The smallest code of the largest weight of each column with which some weights lie on a grid, [N].

    0 for columns of zeros; None where a column lies on none.
    """
    if matrix.shape[1] > FIRST and _screened(matrix[:, :FIRST], peaks[:FIRST], top) is None:
        return None  # most matrices end here
    rows = np.linspace(0, len(matrix) - 1, min(len(matrix), SCREENED)).astype(np.int64)
    some = matrix[rows].astype(np.float64)
    found = np.zeros(matrix.shape[1], dtype=np.int64)
    open_ = peaks > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where(open_, some / peaks, 0.0)
    for code in range(1, top + 1):
        columns = np.flatnonzero(open_)
        if not len(columns):
            break
        exact = shares[:, columns] * code
        fits = (np.abs(exact - np.rint(exact)) <= TOLERANCE * code).all(axis=0)
        fitting = columns[fits]
        if len(fitting) and len(rows) < len(matrix):  # screened: now all weights of these columns
            exact = matrix[:, fitting] / peaks[fitting] * code
            fitting = fitting[(np.abs(exact - np.rint(exact)) <= TOLERANCE * code).all(axis=0)]
        found[fitting] = code
        open_[fitting] = False
    return None if open_.any() else found


def data_grid(tensor: str, values: Floats, low: float, high: float, bits: int) -> Quantiser | None:
    """Quantiser of a tensor whose values are integer multiples of a scale; None where they are not.

    None as well where fewer than ``LEAST_VALUES`` of them say so.

    Args:
        tensor: its name.
        values: on the calibration data.
        low, high: smallest and largest of all its values.
        bits: of a code.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    peak = max(-low, high)
    nonzero = values[values != 0].astype(np.float64)
    if len(nonzero) < LEAST_VALUES or not peak or not np.isfinite(peak):
        return None
    few = nonzero[:: max(1, len(nonzero) // 256)]
    for code in range(1, 1 << bits):
        if not _on_grid(few, peak / code, code):
            continue
        scale = peak / code
        smallest, largest = round(low / scale), round(high / scale)
        if largest - smallest >= 1 << bits:
            return None
        if _on_grid(nonzero, scale, code) and abs(low / scale - smallest) <= TOLERANCE * code:
            near = np.rint(nonzero / scale)
            best = float(np.float32((nonzero * near).sum() / np.square(near).sum()))
            finer = 1
            if len(np.unique(near)) < FEW_CODES:
                while 2 * finer * (largest - smallest) < 1 << bits:
                    finer *= 2
            return Quantiser.of_grid(tensor, best / finer, smallest * finer, largest * finer, bits)
    return None


def _on_grid(values: npt.NDArray[np.float64], scale: float, largest: int) -> bool:
    exact = values / scale
    return bool((np.abs(exact - np.rint(exact)) <= TOLERANCE * largest).all())
