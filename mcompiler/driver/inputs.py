"""What compile starts from: the model, sizes of its open dimensions, calibration data."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.data import InputSpec, Samples, batch_size, from_arrays, load_samples, random_samples
from mcompiler.errors import CompileError
from mcompiler.ir import GraphProgram
from mcompiler.onnx_import import load_model, program_of
from mcompiler.runtime import Session, input_specs, open_file, open_model

RANDOM = "random"
RANDOM_SAMPLES = 4
"""Samples drawn for ``--calibration random``."""

GUESSES = (1, 16, 32, 64, 128, 224, 256, 512, 1024)
"""Sizes tried, in this order, for a dimension that the model leaves open and ``--dim`` does not give."""

Calibration = str | Path | Mapping[str, npt.NDArray[Any]] | None
Say = Callable[[str], None]


def silent(message: str) -> None:
    """Say nothing."""


def imported(model: str | Path | ir.Model) -> tuple[GraphProgram, Path | ir.Model]:
    """The model as program, and where it came from."""
    if isinstance(model, ir.Model):
        return program_of(model.clone()), model
    path = Path(model)
    return load_model(path), path


def float_session_of(source: Path | ir.Model, model: ir.Model) -> Session:
    """The model as it came, in onnxruntime: what it does not run is refused here.

    A large file is not read a second time: its tensors are handed over as they are mapped.
    """
    if isinstance(source, Path) and source.stat().st_size < LARGE_FILE:
        return open_file(source, optimise=False, prepack=False)
    return open_model(model, optimise=False, prepack=False, origin=str(source) if isinstance(source, Path) else "model")


LARGE_FILE = 64 << 20


def open_dims(program: GraphProgram, session: Session, dims: Mapping[str, int], say: Say) -> dict[str, int]:
    """Sizes of the symbolic dimensions: given ones, and a printed guess for the others."""
    specs = session.inputs
    free = _free_dims(specs)
    unknown = sorted(
        set(dims) - free - {spec.shape[0] for spec in specs if spec.shape and isinstance(spec.shape[0], str)}
    )
    if unknown:
        raise CompileError(
            f"--dim {unknown[0]}: the model has no such dimension; it has "
            f"{', '.join(sorted(free)) or 'none that is open'}"
        )
    missing = sorted(free - set(dims))
    if not missing:
        return dict(dims)
    bounded = input_specs(session, program.model)
    batches = {name: 1 for name in missing if name.lower().startswith("batch") or name in {"N", "B"}}
    for guess, ones in itertools.product(GUESSES, (batches, {})):
        trial = {**dims, **dict.fromkeys(missing, guess), **ones}
        sample = random_samples(bounded, 1, np.random.default_rng(0), trial)
        if session.accepts(bounded, sample):
            guessed = ", ".join(f"{name}={trial[name]}" for name in missing)
            say(f"guessed {guessed}; give --dim {missing[-1]}=N for another size")
            return trial
    raise CompileError(
        f"no size is known for dimension(s) {', '.join(missing)}, and onnxruntime runs with none of "
        f"{', '.join(map(str, GUESSES))}; give --dim {missing[0]}=N"
    )


def _free_dims(specs: tuple[InputSpec, ...]) -> set[str]:
    """Names of open dimensions other than the sample axis."""
    skip = 0 if batch_size(specs) is None else 1
    heads = {spec.shape[0] for spec in specs if spec.shape} if skip else set()
    return {size for spec in specs for size in spec.shape[skip:] if isinstance(size, str)} - heads


def calibration_samples(
    calibration: Calibration, specs: tuple[InputSpec, ...], rng: np.random.Generator, dims: Mapping[str, int]
) -> Samples:
    """Samples that input ranges are taken from; one random sample where none are given, to learn shapes."""
    if calibration is None:
        return random_samples(specs, 1, rng, dims)
    if calibration == RANDOM:
        return random_samples(specs, RANDOM_SAMPLES, rng, dims)
    if isinstance(calibration, str | Path):
        return load_samples(Path(calibration), specs)
    return from_arrays(calibration, specs, "calibration")


def about_calibration(calibration: Calibration, samples: Samples) -> dict[str, Any]:
    """What the manifest says of the calibration: no paths."""
    kind = "none" if calibration is None else RANDOM if calibration == RANDOM else "data"
    return {"kind": kind, "samples": 0 if calibration is None else samples.count}
