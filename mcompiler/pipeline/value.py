"""The pipeline as a value: passes in their order, which can be run in part, looked at, changed and resumed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from mcompiler.errors import UserError
from mcompiler.ir import GraphProgram
from mcompiler.ir.packing import PacksModels
from mcompiler.pipeline.cache import Cache, CacheMissError, StageCache
from mcompiler.pipeline.inputs import CalibrationNote, Say, silent
from mcompiler.pipeline.options import AnyPass, recorded_options, refuse_exclusions
from mcompiler.pipeline.runner import Observer, Outcome, Runner
from mcompiler.target import Target


@dataclass(frozen=True)
class Source(PacksModels):
    """The model that a pipeline starts from.

    Attributes:
        program: the model as GRAPH; the first pass gets it.
        model: the file or model that the user gave.
        external: names of the external data files of the model, relative to its folder.
        calibration: kind and number of the calibration samples.
    """

    program: GraphProgram
    model: Path | ir.Model
    external: tuple[str, ...]
    calibration: CalibrationNote


@dataclass(frozen=True)
class Pipeline:
    """Passes in their order, the target and the model: everything that determines the result.

    Methods that change it return another pipeline. A pass is named by ``Pass.name``; where a name occurs more than once
    (``infer_shapes``), the last one is meant.

    Attributes:
        source: the model.
        target: the chip.
        passes: in the order in which they run.
        observers: called after each pass that runs.
        cache: where results of passes are kept; None: nowhere.
        say: called with notes for the user.

    Raises:
        CompileError: passes that exclude each other.
    """

    source: Source
    target: Target
    passes: tuple[AnyPass, ...]
    observers: tuple[Observer, ...] = ()
    cache: Cache | None = None
    say: Say = silent

    def __post_init__(self) -> None:
        refuse_exclusions(self.passes)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the passes, in order."""
        return tuple(step.name for step in self.passes)

    @property
    def options(self) -> dict[str, Any]:
        """Options of the passes as manifest.json holds them."""
        return recorded_options(self.passes)

    def __getitem__(self, name: str) -> AnyPass:
        return self.passes[self._index(name)]

    def insert_after(self, name: str, step: AnyPass) -> Pipeline:
        """The pipeline with another pass after the named one."""
        return self._spliced(self._index(name) + 1, 0, step)

    def insert_before(self, name: str, step: AnyPass) -> Pipeline:
        """The pipeline with another pass before the named one."""
        return self._spliced(self._index(name), 0, step)

    def replace(self, name: str, step: AnyPass) -> Pipeline:
        """The pipeline with another pass in place of the named one, or the same pass with other options."""
        return self._spliced(self._index(name), 1, step)

    def remove(self, name: str) -> Pipeline:
        """The pipeline without the named pass."""
        return self._spliced(self._index(name), 1)

    def with_target(self, target: Target) -> Pipeline:
        """The same passes for another target."""
        return replace(self, target=target)

    def run(self, *, until: str | None = None) -> Any:
        """Run the passes from the model on; return the program.

        Args:
            until: name of the last pass to run; None: all.

        Raises:
            UserError: what is wrong with the model, the data or the target, and the remedy.
            PassError: a fault of a pass.
        """
        return self.execute(until=until).program

    def resume(self, program: Any, *, after: str, until: str | None = None) -> Any:
        """Run the passes that follow a named one on a program of its level; return the program.

        Args:
            program: as the named pass returns it, or changed.
            after: name of the pass that made it.
            until: name of the last pass to run; None: all.
        """
        return self.execute(program, after=after, until=until).program

    def execute(self, program: Any = None, *, after: str | None = None, until: str | None = None) -> Outcome:
        """As ``run`` without a program and as ``resume`` with one; also returns times and records."""
        first = 0 if after is None else self._index(after) + 1
        last = len(self.passes) if until is None else self._index(until) + 1
        steps = self.passes[first:last]
        start = self.source.program if program is None else program
        if self.cache is None:
            return self._computed(steps, start)
        stages = StageCache(self.cache, self.say)
        try:
            outcome = stages.execute(steps, start, self._runner)
        except CacheMissError:  # a result is gone or damaged: compute all of them again, and keep them
            stages = StageCache(self.cache, self.say, renew=True)
            outcome = stages.execute(steps, start, self._runner)
        stages.trim()
        return outcome

    def _computed(self, steps: tuple[AnyPass, ...], program: Any) -> Outcome:
        run = self._runner()
        for step in steps:
            program = run(step, program)
        return Outcome(program, dict(run.seconds), (), dict(run.records))

    def _runner(self) -> Runner:
        return Runner(self.target, self.observers)

    def _index(self, name: str) -> int:
        found = [position for position, step in enumerate(self.passes) if step.name == name]
        if not found:
            raise UserError(f"the pipeline has no pass '{name}'; it has {', '.join(dict.fromkeys(self.names))}")
        return found[-1]

    def _spliced(self, at: int, removed: int, *steps: AnyPass) -> Pipeline:
        return replace(self, passes=(*self.passes[:at], *steps, *self.passes[at + removed :]))
