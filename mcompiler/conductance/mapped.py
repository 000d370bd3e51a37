"""A matrix on the arrays of a target: everything that says which cell holds which part of which weight."""

from __future__ import annotations

from dataclasses import dataclass

from mcompiler.geometry import ArrayShape, TileTable
from mcompiler.ir import EncodedMatrix, WeightMatrix
from mcompiler.target import Target


@dataclass(frozen=True)
class MappedMatrix:
    """A matrix, how it is cut into arrays, and how its codes are encoded.

    Attributes:
        matrix: shape and kept indices say where cells belong. Its codes are read where cells are written, never where
            they are read back.
        table: its tile table, one row per array.
        encoded: shift, flips, signs and converter ranges.
        shape: array geometry of the target.
        target: the chip.
    """

    matrix: WeightMatrix
    table: TileTable
    encoded: EncodedMatrix
    shape: ArrayShape
    target: Target
