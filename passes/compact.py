"""Drop all-zero rows and columns: inputs without a weight, and output channels that are only their bias."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from mcompiler.geometry import kept_of
from mcompiler.ir import MatrixProgram, WeightMatrix
from mcompiler.target import Target


@dataclass(frozen=True)
class Compact:
    """Drop all-zero rows and columns of every weight matrix, exactly; their indices are kept."""

    name: ClassVar[str] = "compact"
    reads: ClassVar[tuple[str, ...]] = ()

    def run(self, program: MatrixProgram, target: Target) -> MatrixProgram:
        """Return the program with the kept indices of every matrix."""
        return replace(program, matrices=tuple(map(_compact, program.matrices)))


def _compact(matrix: WeightMatrix) -> WeightMatrix:
    used = matrix.codes != 0  # [G, K, N]
    return replace(matrix, rows=kept_of(used.any(axis=2)), cols=kept_of(used.any(axis=1)))
