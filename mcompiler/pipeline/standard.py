"""The passes of the compiler in their order, and the pipeline that ``mcompiler.compile`` runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from mcompiler.conductance import read_faults
from mcompiler.geometry import array_shape
from mcompiler.onnx_import import EXTERNAL_KEY
from mcompiler.passes.assign import Assign
from mcompiler.passes.clean import Clean
from mcompiler.passes.compact import Compact
from mcompiler.passes.convert import Convert
from mcompiler.passes.decompose import Decompose
from mcompiler.passes.fold_batchnorm import FoldBatchNorm
from mcompiler.passes.fold_constants import FoldConstants
from mcompiler.passes.infer_shapes import InferShapes
from mcompiler.passes.inline import Inline
from mcompiler.passes.lower import Lower
from mcompiler.passes.place import Place
from mcompiler.passes.prune import Prune
from mcompiler.passes.quantise import Quantise
from mcompiler.passes.reload import Reload
from mcompiler.passes.remap import Remap
from mcompiler.passes.reorder import Reorder
from mcompiler.passes.replicate import Goal, Replicate
from mcompiler.passes.schedule import Schedule
from mcompiler.passes.tile import Tile
from mcompiler.passes.widen import Widen
from mcompiler.pipeline.cache import Cache
from mcompiler.pipeline.dims import open_dims
from mcompiler.pipeline.inputs import (
    RANDOM,
    Calibration,
    Say,
    about_calibration,
    calibration_samples,
    float_session_of,
    imported,
    silent,
)
from mcompiler.pipeline.options import PassClass, checked_options, made_passes
from mcompiler.pipeline.runner import Observer
from mcompiler.pipeline.value import Pipeline, Source
from mcompiler.runtime import input_specs
from mcompiler.target import Target, load_target
from mcompiler.target.wire_drop import wire_note

GRAPH_PASSES: tuple[PassClass, ...] = (
    Inline,  # functions and bodies that always run become nodes of the graph
    Decompose,  # fused operators become standard ones
    Convert,  # one operator set from here on
    InferShapes,
    FoldConstants,  # shapes make shape arithmetic constant
    InferShapes,  # and constants make shapes
    FoldConstants,
    Clean,  # before folding: a Dropout between Conv and BatchNormalization would prevent it
    FoldBatchNorm,
    InferShapes,
    Widen,  # last: it reads the types of activations
)
"""Passes that leave a graph which runs in onnxruntime and computes what the model computes."""

PASSES: tuple[PassClass, ...] = (
    *GRAPH_PASSES,
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
    session = float_session_of(origin, program.model)
    known = open_dims(program, session, dims or {}, say)
    specs = input_specs(session, program.model)
    samples = calibration_samples(calibration, specs, np.random.default_rng(values["seed"]), known)
    del session  # a large model is not kept open twice
    inputs: dict[str, dict[str, Any]] = {
        "lower": {"samples": samples, "specs": specs},
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
