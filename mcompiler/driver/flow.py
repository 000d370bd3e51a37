"""compile: a pipeline run to its end, as a build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.conductance import FaultMap, read_faults
from mcompiler.conductance.faults import ADDRESS
from mcompiler.driver.build import Build
from mcompiler.pipeline import Cache, Observer, Pipeline, default
from mcompiler.pipeline.cache import DEFAULT_BYTES
from mcompiler.pipeline.inputs import Calibration, Say, silent
from mcompiler.target import Target


def compile(
    model: str | Path | ir.Model,
    target: str | Path | Target,
    *,
    calibration: Calibration = None,
    range: str = "minmax",
    requantise: bool = False,
    equalise: str = "auto",
    dims: Mapping[str, int] | None = None,
    chips: int | None = None,
    seed: int = 0,
    overrides: Sequence[str] = (),
    reorder: bool = False,
    replicate: str = "none",
    arrays: int | None = None,
    reload: int | None = None,
    effort: int = 1,
    faults: str | Path | FaultMap | None = None,
    observers: tuple[Observer, ...] = (),
    cache: str | Path | None = None,
    cache_bytes: int = DEFAULT_BYTES,
    say: Say = silent,
) -> Build:
    """Compile a trained model for a target.

    Args:
        model: an ONNX file, or a model of ``onnx_ir``.
        target: a shipped target's name, a TOML file, or a Target.
        calibration: data for the input ranges: an .npz file, arrays by input name, the array of the only input,
            ``"random"`` (costs only), or None for a model that brings its own scales.
        range: how input ranges are read off the calibration data: ``minmax``, ``percentile`` or ``mse``.
        requantise: quantise output channels and inputs again of which the codes of a quantised model have more bits
            than the target gives them.
        equalise: move scales of channels between layers: ``auto`` (where real calibration data show a clear gain),
            ``on`` or ``off``.
        dims: sizes of symbolic dimensions other than the batch.
        chips: chips to use at most; None: the number of the target.
        seed: seed of everything that is drawn.
        overrides: ``section.key=VALUE`` for the target, as ``--set``.
        reorder: reorder word and bit lines where that leaves whole arrays empty.
        replicate: copies of arrays, for ``throughput`` or ``latency``, or ``none``.
        arrays: budget of arrays, copies included; None: all of the chips that are used anyway.
        reload: where the chips do not hold all layers, they take turns, this many inferences a turn.
        effort: of the placement: 0 keeps the order of the layers, each step above doubles the search.
        faults: stuck cells of the real chip (a CSV file): arrays, rows and columns move so that they change the
            weights least.
        observers: called after each pass that ran.
        cache: folder in which results of passes are kept for later compilations; None: nowhere.
        cache_bytes: size up to which that folder grows; the results that were used least recently are removed.
        say: called with notes: guesses, leftovers.

    Returns:
        The build; ``save`` writes it to a directory.

    Raises:
        UserError: a fault of the model, the data or the target, with the remedy.
        PassError: a fault of the compiler.
    """
    pipeline = default(
        model,
        target,
        calibration=calibration,
        dims=dims,
        overrides=overrides,
        options={
            "range": range,
            "requantise": requantise,
            "equalise": equalise,
            "chips": chips,
            "seed": seed,
            "reorder": reorder,
            "replicate": replicate,
            "arrays": arrays,
            "reload": reload,
            "effort": effort,
            "faults": faults,
        },
        observers=observers,
        cache=None if cache is None else Cache(Path(cache), cache_bytes),
        say=say,
    )
    return execute(pipeline, faults, say)


def execute(pipeline: Pipeline, faults: str | Path | FaultMap | None, say: Say) -> Build:
    """Run a pipeline to its end.

    Args:
        pipeline: with all its passes.
        faults: the stuck cells that it was given.
        say: called with a note where these are in arrays that no layer uses.
    """
    build = Build.of(pipeline, pipeline.execute())
    if faults is not None:
        known = faults if isinstance(faults, FaultMap) else read_faults(Path(faults), build.target)
        used = [layer.addresses for layer in build.layer_data]
        _report_unused(known, np.concatenate([np.zeros((0, 4), np.int64), *used]), say)
    return build


def _report_unused(faults: FaultMap, used: npt.NDArray[np.integer[Any]], say: Say) -> None:
    """Say how many arrays of a fault map no layer is on: of another chip, or of positions that stay empty."""
    named, stuck = np.unique(faults.cells[:, :4], axis=0, return_counts=True)
    places = {tuple(place) for place in used.tolist()}
    unused = np.array([tuple(place) not in places for place in named.tolist()], dtype=bool)
    if unused.any():
        first = ", ".join(f"{name} {number}" for name, number in zip(ADDRESS, named[unused][0].tolist(), strict=True))
        say(
            f"warning: {faults.name} names {int(unused.sum()):,} of {len(named):,} arrays that no layer uses "
            f"({first}{', ...' if unused.sum() > 1 else ''}); their {int(stuck[unused].sum()):,} stuck cells have no "
            "effect: check the addresses"
        )
