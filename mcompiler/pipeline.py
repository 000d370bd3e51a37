"""Running passes: typed by level, timed, their promises checked, one hook for observers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

from mcompiler.check import check
from mcompiler.errors import PassError, UserError
from mcompiler.target import Target

In = TypeVar("In", contravariant=True)
Out = TypeVar("Out", covariant=True)
Result = TypeVar("Result")
Given = TypeVar("Given")


class Pass(Protocol[In, Out]):
    """A compiler pass: a frozen dataclass whose fields are its options and whose docstring is its help text."""

    name: ClassVar[str]

    def run(self, program: In, target: Target) -> Out:
        """Return the program at the next level; pure."""


Observer = Callable[[str, Any, float], None]
"""Called after each pass with its name, the program it returned and the seconds it took."""


@dataclass
class Runner:
    """Runs passes one after the other.

    Attributes:
        target: read by every pass.
        observers: called after each pass.
        seconds: time of each pass so far, by name.
    """

    target: Target
    observers: tuple[Observer, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)

    def __call__(self, step: Pass[Given, Result], program: Given) -> Result:
        """Run one pass and check what its level promises.

        Raises:
            UserError: the user's to fix, as the pass raised it.
            PassError: anything else, the cause chained.
        """
        start = time.perf_counter()
        try:
            result = step.run(program, self.target)
            check(result, self.target)
        except UserError:
            raise
        except Exception as error:
            raise PassError(step.name, tuple(self.seconds), error) from error
        elapsed = time.perf_counter() - start
        self.seconds[step.name] = self.seconds.get(step.name, 0.0) + elapsed
        for observer in self.observers:
            observer(step.name, result, elapsed)
        return result
