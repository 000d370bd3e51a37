"""Errors of a layer alone on calibration data, and the correction of its bias by their mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.data import Tensor
from mcompiler.ir import AnalogLayer, FloatArray
from mcompiler.passes.quantise.sampling import code_sample

LARGEST_TRIED = 1 << 23
"""Weights of the largest layer that is tried."""

CLEAR_GAIN = 10**0.2
"""Ratio of the error before to that after a correction from which ``auto`` makes it (2 dB)."""

LEAST_VECTORS = 32
"""Vectors from which the mean error is known well enough."""


@dataclass(frozen=True)
class LayerErrors:
    """Outputs of a layer without bias for sampled vectors, and what quantisation changes of them, [V, G, N] each."""

    wanted: npt.NDArray[np.float32]
    error: npt.NDArray[np.float32]

    @property
    def sqnr_db(self) -> float | None:
        """Signal to error; None where the layer is exact or the values are not finite."""
        signal, noise = (float(np.square(part, dtype=np.float64).sum()) for part in (self.wanted, self.error))
        known = noise > 0 and signal > 0 and np.isfinite(signal) and np.isfinite(noise)
        return float(10 * np.log10(signal / noise)) if known else None

    def bias_correction(self, least: float) -> FloatArray | None:
        """The mean error, [G, N]; None where it is not known to lower the error by the ratio ``least``.

        The mean of every second vector is tried on the others.
        """
        if len(self.error) < LEAST_VECTORS or not np.isfinite(self.error).all():
            return None
        held_back = self.error[1::2].astype(np.float64)
        after = float(np.square(held_back - self.error[::2].mean(axis=0, dtype=np.float64)).sum())
        if float(np.square(held_back).sum()) <= least * after:
            return None
        mean: FloatArray = np.asarray(self.error.mean(axis=0, dtype=np.float64), dtype=np.float32)
        return mean

    def corrected(self, correction: FloatArray) -> LayerErrors:
        """The errors after a correction of the bias."""
        return LayerErrors(self.wanted, self.error - correction)


def layer_errors(weights: npt.NDArray[np.floating[Any]], layer: AnalogLayer, vectors: Tensor) -> LayerErrors | None:
    """Errors of a layer for sampled vectors; None for a layer without them, or too large to be tried.

    Args:
        weights: of the float model, [G, K, N].
        layer: quantised.
        vectors: [V, G, K].
    """
    if not len(vectors) or weights.size > LARGEST_TRIED:
        return None
    quantiser = layer.site.input
    codes = code_sample(vectors, quantiser).vectors.astype(np.float32)
    quantised = (codes - quantiser.zero_point) * np.float32(quantiser.scale)
    wanted, given = [], []
    with np.errstate(all="ignore"):
        for group, matrix in enumerate(weights):
            wanted.append(vectors[:, group].astype(np.float32) @ matrix.astype(np.float32))
            product = quantised[:, group] @ layer.matrix.codes[group].astype(np.float32)
            given.append(product * layer.matrix.scale[group])
        outputs = np.stack(wanted, axis=1)
        return LayerErrors(outputs, outputs - np.stack(given, axis=1))
