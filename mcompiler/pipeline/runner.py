"""Runs one pass after another: a view of the target for each, its promises checked, its time taken."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mcompiler.check import check
from mcompiler.declarations import Pass, Record, Recording
from mcompiler.errors import CompileError, PassError, UserError
from mcompiler.target import Target
from mcompiler.target.view import target_view

Result = TypeVar("Result")
Given = TypeVar("Given")

Observer = Callable[[str, Any, float], None]
"""Called after each pass that ran with its name, the program that it returned and the seconds that it took."""


@dataclass(frozen=True)
class Outcome:
    """Result of running passes.

    Attributes:
        program: as the last pass returned it.
        seconds: time of each pass that ran, by name.
        cached: names of passes whose results came from the cache.
        records: what the passes gained, by the key of the record.
    """

    program: Any
    seconds: Mapping[str, float] = field(default_factory=dict)
    cached: tuple[str, ...] = ()
    records: Mapping[str, Record] = field(default_factory=dict)


@dataclass
class Runner:
    """Runs passes one after the other.

    Attributes:
        target: each pass is given a view of it with the keys that the pass declares.
        observers: called after each pass.
        seconds: time of each pass so far, by name.
        records: what the passes gained, by the key of the record.
    """

    target: Target
    observers: tuple[Observer, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)

    def __call__(self, step: Pass[Given, Result], program: Given) -> Result:
        """Run one pass and check what its level promises.

        Raises:
            UserError: an error that the user can correct, as the pass raised it.
            PassError: any other error, the cause chained.
        """
        start = time.perf_counter()
        try:
            result = step.run(program, target_view(self.target, step.reads))
            check(result, self.target)
            record = step.record(result) if isinstance(step, Recording) else None
        except UserError:
            raise
        except MemoryError as error:
            raise CompileError(
                f"pass '{step.name}' needs more memory than this machine gives ({error}); compile a smaller model"
            ) from error
        except RecursionError as error:
            raise CompileError(
                f"pass '{step.name}' meets nodes that are nested or chained too deeply; simplify the model (onnxsim)"
            ) from error
        except Exception as error:
            raise PassError(step.name, tuple(self.seconds), error) from error
        if record is not None:
            self.records[record.key] = record
        elapsed = time.perf_counter() - start
        self.seconds[step.name] = self.seconds.get(step.name, 0.0) + elapsed
        for observer in self.observers:
            observer(step.name, result, elapsed)
        return result
