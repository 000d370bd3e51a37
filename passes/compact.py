"""All-zero rows and columns vanish: an input that meets no weight, an output channel that is only its bias."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from mcompiler.geometry import kept_of
from mcompiler.ir import MatrixOp, MatrixProgram
from mcompiler.target import Target


@dataclass(frozen=True)
class Compact:
    """Drop all-zero rows and columns of every weight matrix, exactly; their indices are kept."""

    name: ClassVar[str] = "compact"

    def run(self, program: MatrixProgram, target: Target) -> MatrixProgram:
        """Return the program with the kept indices of every operation."""
        return replace(program, ops=tuple(_compact(op) for op in program.ops))


def _compact(op: MatrixOp) -> MatrixOp:
    used = op.codes != 0  # [G, K, N]
    return replace(op, rows=kept_of(used.any(axis=2)), cols=kept_of(used.any(axis=1)))
