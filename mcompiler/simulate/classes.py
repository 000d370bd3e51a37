"""Classes that an output predicts, and labels that are compared with them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.data import Tensor
from mcompiler.errors import DataError


def is_class(values: Any, fed: int | None) -> bool:
    """Whether an output is one integer for each of the ``fed`` samples (None: for the only sample)."""
    return (
        isinstance(values, np.ndarray) and values.dtype.kind in "iu" and values.shape == (() if fed is None else (fed,))
    )


def classes_of(values: Tensor) -> npt.NDArray[np.int64]:
    """Predicted class of each sample: an integer [n] output itself, else argmax over all but the first axis."""
    if values.ndim == 1 and values.dtype.kind in "iu":
        return values.astype(np.int64)
    if not values.size:
        return np.zeros(len(values), np.int64)
    best: npt.NDArray[np.int64] = values.reshape(len(values), -1).argmax(axis=1).astype(np.int64)
    return best


def check_labels(labels: npt.NDArray[np.int64] | None, values: Any, name: str) -> None:
    """Refuse labels that no prediction can equal: their share would look like an accuracy.

    Args:
        labels: of all samples, or None.
        values: the output with the scores of some samples, [n, classes]; one that holds classes allows any label.
        name: of the output.

    Raises:
        DataError: names the first label that is out of range.
    """
    if labels is None or values.ndim < 2:
        return
    count = math.prod(values.shape[1:])
    wrong = np.flatnonzero((labels < 0) | (labels >= count))
    if len(wrong):
        raise DataError(
            f"label {labels[wrong[0]]} of sample {wrong[0]} is none of the {count} classes 0 ... {count - 1} of output "
            f"'{name}' ({len(wrong)} of {len(labels)} labels); number the classes as the model does"
        )
