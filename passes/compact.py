"""All-zero rows and columns vanish: an input that meets no weight, an output channel that is only its bias."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from mcompiler.ir import Kept, MatrixOp, MatrixProgram
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
    return replace(op, rows=_kept(used.any(axis=2)), cols=_kept(used.any(axis=1)))


def _kept(mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Kept:
    """Kept indices from a bool mask [G, n]."""
    groups, indices = np.nonzero(mask)
    offsets = np.searchsorted(groups, np.arange(len(mask) + 1))
    return Kept(indices.astype(np.int64), offsets.astype(np.int64))
