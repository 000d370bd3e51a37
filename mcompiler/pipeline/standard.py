"""The passes of the compiler in their order, and the pipeline that ``mcompiler.compile`` runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from mcompiler.conductance import read_faults
from mcompiler.data import InputSpec
from mcompiler.errors import UserError
from mcompiler.geometry import array_shape
from mcompiler.ir import GraphProgram
from mcompiler.onnx_import import EXTERNAL_KEY
from mcompiler.passes.assign import Assign
from mcompiler.passes.compact import Compact
from mcompiler.passes.lower import Lower
from mcompiler.passes.place import Place
from mcompiler.passes.prune import Prune
from mcompiler.passes.quantise import Quantise
from mcompiler.passes.quantise.equalise import Equalise
from mcompiler.passes.reload import Reload
from mcompiler.passes.remap import Remap
from mcompiler.passes.reorder import Reorder
from mcompiler.passes.replicate import Goal, Replicate
from mcompiler.passes.schedule import Schedule
from mcompiler.passes.tile import Tile
from mcompiler.pipeline.baseline import Baseline, baselines
from mcompiler.pipeline.cache import Cache
from mcompiler.pipeline.dims import open_dims
from mcompiler.pipeline.inputs import (
    RANDOM,
    Calibration,
    Say,
    about_calibration,
    calibration_samples,
    imported,
    silent,
)
from mcompiler.pipeline.normalise import GRAPH_PASSES
from mcompiler.pipeline.options import PassClass, checked_options, made_passes
from mcompiler.pipeline.runner import Observer
from mcompiler.pipeline.value import Pipeline, Source
from mcompiler.runtime import input_specs
from mcompiler.target import Target, load_target
from mcompiler.target.wire_drop import wire_note

PASSES: tuple[PassClass, ...] = (
    *GRAPH_PASSES,
    Equalise,  # while scales can move between nodes
    Lower,  # products with constant weights leave the graph
    Quantise,
    Compact,
    Reorder,  # before tiling: it decides which lines share an array
    Tile,
    Prune,
    Assign,
    Replicate,  # before placement: copies need places
    Reload,
    Place,
    Remap,  # after placement: stuck cells belong to addresses
    Schedule,
)
"""Every pass, in the order in which they run; options leave some of them out."""


def default(
    model: str | Path | ir.Model,
    target: str | Path | Target,
    *,
    calibration: Calibration = None,
    dims: Mapping[str, int] | None = None,
    overrides: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    observers: tuple[Observer, ...] = (),
    cache: Cache | None = None,
    say: Say = silent,
) -> Pipeline:
    """The pipeline that ``mcompiler.compile`` runs.

    Args:
        model, target, calibration, dims, overrides, observers, say: as for ``mcompiler.compile``.
        options: of the passes, by the names that ``mcompiler.compile`` gives them.
        cache: where results of passes are kept; None: nowhere.

    Raises:
        UserError: what is wrong with the model, the data, the target or an option, and the remedy.
    """
    values = checked_options(PASSES, options or {})
    chip = target if isinstance(target, Target) else load_target(target, overrides)
    array_shape(chip)
    if (note := wire_note(chip)) is not None:
        say(note)
    faults = values["faults"]
    stuck = read_faults(Path(faults), chip) if isinstance(faults, str | Path) else faults
    program, origin = imported(model)
    known, specs = _dims_and_inputs(program, baselines(origin, chip, dims or {}, loaded=program.model), dims or {}, say)
    samples = calibration_samples(calibration, specs, np.random.default_rng(values["seed"]), known)
    inputs: dict[str, dict[str, Any]] = {
        "lower": {"samples": samples, "specs": specs},
        "equalise": {
            "samples": None if calibration is None else samples,
            "specs": specs,
            "calibrated": calibration is not None and not (isinstance(calibration, str) and calibration == RANDOM),
        },
        "quantise": {
            "samples": samples,
            "specs": specs,
            "calibrated": calibration is not None,
            "origin": str(origin) if isinstance(origin, Path) else "model",
            "drawn": isinstance(calibration, str) and calibration == RANDOM,
        },
        "place": {"latency": values["replicate"] is Goal.LATENCY},
        "remap": {"faults": stuck},
    }
    source = Source(
        program=replace(program, dims=known),
        model=origin,
        external=tuple(program.model.meta.get(EXTERNAL_KEY, ())),
        calibration=about_calibration(calibration, samples),
    )
    passes = made_passes(PASSES, values, inputs)
    return Pipeline(source, chip, passes, observers=observers, cache=cache, say=say)


def _dims_and_inputs(
    program: GraphProgram, candidates: Iterable[Baseline], dims: Mapping[str, int], say: Say
) -> tuple[dict[str, int], tuple[InputSpec, ...]]:
    """Sizes of the symbolic dimensions and the inputs, from the first form of the float model that runs with them.

    Raises:
        UserError: none of them does; the error of the first.
    """
    first: UserError | None = None
    for baseline in candidates:
        try:
            known = open_dims(program, baseline.session, dims, say)
        except UserError as error:
            first = first or error
            continue
        return known, input_specs(baseline.session, program.model)
    assert first is not None  # baselines yields at least one or raises
    raise first
