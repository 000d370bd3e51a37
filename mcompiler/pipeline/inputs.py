"""Inputs of compile: the model, its float session, calibration data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.data import InputSpec, Samples, from_arrays, load_samples, random_samples
from mcompiler.errors import DataError
from mcompiler.ir import GraphProgram
from mcompiler.onnx_import import load_model, program_of

RANDOM = "random"
RANDOM_SAMPLES = 64
"""Samples drawn for ``--calibration random``."""

Calibration = str | Path | npt.NDArray[Any] | Mapping[str, npt.NDArray[Any]] | None
Say = Callable[[str], None]


def silent(message: str) -> None:
    """Ignore the message."""


def imported(model: str | Path | ir.Model) -> tuple[GraphProgram, Path | ir.Model]:
    """The model as a program, and its source (file or model in memory)."""
    if isinstance(model, ir.Model):
        return program_of(model.clone()), model
    path = Path(model)
    return load_model(path), path


def calibration_samples(
    calibration: Calibration, specs: tuple[InputSpec, ...], rng: np.random.Generator, dims: Mapping[str, int]
) -> Samples:
    """Samples from which input ranges are taken; without calibration data one random sample, for the shapes."""
    if calibration is None:
        return random_samples(specs, 1, rng, dims)
    if isinstance(calibration, np.ndarray):  # of a model with one input, as for verify
        return _not_all_zero(from_arrays({"x": calibration}, specs, "calibration"), "calibration")
    if calibration == RANDOM:
        return random_samples(specs, RANDOM_SAMPLES, rng, dims)
    if isinstance(calibration, str | Path):
        return _not_all_zero(load_samples(Path(calibration), specs), str(calibration))
    return _not_all_zero(from_arrays(calibration, specs, "calibration"), "calibration")


def _not_all_zero(samples: Samples, origin: str) -> Samples:
    """The samples; refused where all of their numbers are zero, which gives no range of any input."""
    numbers = [array for array in samples.inputs.values() if array.dtype.kind == "f" and array.size]
    if numbers and not any(array.any() for array in numbers):
        raise DataError(f"{origin}: all values of the calibration data are zero; give samples of the model's use")
    return samples


@dataclass(frozen=True)
class CalibrationNote:
    """Entry of the manifest about the calibration data, without paths.

    Attributes:
        kind: ``none``, ``random`` or ``data``.
        samples: how many were used; 0 without calibration.
    """

    kind: str
    samples: int


def about_calibration(calibration: Calibration, samples: Samples) -> CalibrationNote:
    """The note of the calibration data that the user gave."""
    drawn = isinstance(calibration, str) and calibration == RANDOM
    kind = "none" if calibration is None else RANDOM if drawn else "data"
    return CalibrationNote(kind, 0 if calibration is None else samples.count)
