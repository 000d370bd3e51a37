"""compile: the list of passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from mcompiler.conductance import FaultMap, read_faults
from mcompiler.driver.build import Build
from mcompiler.driver.content import Compiled
from mcompiler.driver.dims import open_dims
from mcompiler.driver.inputs import (
    RANDOM,
    Calibration,
    Say,
    about_calibration,
    calibration_samples,
    float_session_of,
    imported,
    silent,
)
from mcompiler.errors import CompileError
from mcompiler.geometry import array_shape
from mcompiler.ir import GraphProgram
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
from mcompiler.passes.lower import Lower, final_fates
from mcompiler.passes.place import Place
from mcompiler.passes.prune import Prune
from mcompiler.passes.quantise import Quantise, RangeMethod
from mcompiler.passes.reload import Reload
from mcompiler.passes.remap import Remap
from mcompiler.passes.reorder import Reorder
from mcompiler.passes.replicate import Goal, Replicate
from mcompiler.passes.schedule import Schedule
from mcompiler.passes.tile import Tile
from mcompiler.passes.widen import Widen
from mcompiler.pipeline import Observer, Runner
from mcompiler.runtime import input_specs
from mcompiler.target import Target, load_target


def compile(
    model: str | Path | ir.Model,
    target: str | Path | Target,
    *,
    calibration: Calibration = None,
    range: str = RangeMethod.MINMAX,
    dims: Mapping[str, int] | None = None,
    chips: int | None = None,
    seed: int = 0,
    overrides: Sequence[str] = (),
    reorder: bool = False,
    replicate: str = Goal.NONE,
    arrays: int | None = None,
    reload: int | None = None,
    effort: int = 1,
    faults: str | Path | FaultMap | None = None,
    observers: tuple[Observer, ...] = (),
    say: Say = silent,
) -> Build:
    """Compile a trained model for a target.

    Args:
        model: an ONNX file, or a model of ``onnx_ir``.
        target: a shipped target's name, a TOML file, or a Target.
        calibration: data for the input ranges: an .npz file, arrays by input name, the array of the only input,
            ``"random"`` (costs only), or None for a model that brings its own scales.
        range: how input ranges are read off the data: ``minmax``, ``percentile`` or ``mse``.
        dims: sizes of symbolic dimensions other than the batch.
        chips: chips to use at most; None: what the target says.
        seed: of everything that is drawn.
        overrides: ``section.key=VALUE`` for the target, as ``--set``.
        reorder: let word and bit lines change places where that empties whole arrays.
        replicate: copies of arrays, for ``throughput`` or ``latency``, or ``none``.
        arrays: budget of arrays, copies included; None: what the chips that are used anyway hold.
        reload: where the chips do not hold all layers, they take turns, this many inferences a turn.
        effort: of the placement: 0 keeps the order of the layers, each step above doubles the search.
        faults: stuck cells of the real chip (a CSV file): arrays, rows and columns move so that they harm least.
        observers: called after each pass.
        say: told about guesses and leftovers.

    Returns:
        The build; ``save`` writes it to a directory.

    Raises:
        UserError: what is wrong with the model, the data or the target, and what to do.
        PassError: a fault of the compiler.
    """
    method, goal = _method(range), _goal(replicate, arrays, faults is not None, reload)
    chip = target if isinstance(target, Target) else load_target(target, overrides)
    array_shape(chip)
    stuck = read_faults(Path(faults), chip) if isinstance(faults, str | Path) else faults
    program, source = imported(model)
    session = float_session_of(source, program.model)
    known, given = open_dims(program, session, dims or {}, say), calibration is not None
    specs = input_specs(session, program.model)
    rng = np.random.default_rng(seed)
    samples = calibration_samples(calibration, specs, rng, known)
    del session  # a large model is not kept open twice
    run = Runner(chip, observers)
    graph = normalise(run, replace(program, dims=known))
    lowered = run(Lower(samples, specs), graph)
    quantise = Quantise(
        samples, specs, given, method, seed, str(source) if isinstance(source, Path) else "model",
        drawn=isinstance(calibration, str) and calibration == RANDOM,
    )  # fmt: skip
    matrix = run(Compact(), run(quantise, lowered))
    if reorder:
        matrix = run(Reorder(seed=seed), matrix)
    tiled = run(Prune(), run(Tile(), matrix))
    analog = run(Assign(), tiled)
    if goal is not Goal.NONE:
        analog = run(Replicate(goal, arrays, chips), analog)
    if reload is not None:
        analog = run(Reload(reload, chips), analog)
    placed = run(Place(chips, effort, goal is Goal.LATENCY, seed), analog)
    if stuck is not None:
        placed = run(Remap(stuck), placed)
    scheduled = run(Schedule(), placed)
    options = {
        "range": method.value,
        "seed": seed,
        "chips": chips,
        "dims": known,
        "calibration": about_calibration(calibration, samples),
    }
    if reorder:
        options["reorder"] = True
    if effort != 1:
        options["effort"] = effort
    if reload is not None:
        options["reload"] = reload
    if goal is not Goal.NONE:
        options["replicate"] = {"goal": goal.value, "arrays": arrays}
    if stuck is not None:
        options["faults"] = {"stuck": len(stuck.cells), "sha256": stuck.digest}
    external = tuple(program.model.meta.get(EXTERNAL_KEY, ()))
    return Build(chip, Compiled(scheduled, chip, source, external), final_fates(lowered), options, dict(run.seconds))


def normalise(run: Runner, program: GraphProgram) -> GraphProgram:
    """The graph passes: what they leave runs in onnxruntime and computes what the model computes."""
    program = run(Inline(), program)
    program = run(Decompose(), program)
    program = run(Convert(), program)
    for _ in range(2):  # shapes make shape arithmetic constant, and constants make shapes
        program = run(InferShapes(), program)
        program = run(FoldConstants(), program)
    program = run(Clean(), program)
    program = run(FoldBatchNorm(), program)
    return run(Widen(), run(InferShapes(), program))


def _method(name: str) -> RangeMethod:
    try:
        return RangeMethod(name)
    except ValueError:
        raise CompileError(f"range '{name}' is unknown; choose minmax, percentile or mse") from None


def _goal(name: str, arrays: int | None, faults: bool, reload: int | None) -> Goal:
    try:
        goal = Goal(name)
    except ValueError:
        raise CompileError(f"replicate '{name}' is unknown; choose throughput, latency or none") from None
    if goal is Goal.NONE and arrays is not None:
        raise CompileError("a budget of arrays without copies; ask for replicate throughput or latency too")
    if reload is not None and (faults or goal is not Goal.NONE):
        raise CompileError(
            "layers that take turns have no copies and no stuck cells of their own; drop replicate or faults"
        )
    if goal is not Goal.NONE and faults:
        raise CompileError(
            "copies of an array have different stuck cells, and lines move once; drop replicate or faults"
        )
    return goal
