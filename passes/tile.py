"""Cut every weight matrix into array positions of the target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mcompiler.declarations import ARRAY_SHAPE_KEYS, Reads
from mcompiler.geometry import ArrayShape, array_shape, count_dense, tile_positions, tile_table
from mcompiler.ir import MatrixProgram, TiledProgram, WeightMatrix
from mcompiler.target import Target


@dataclass(frozen=True)
class Tile:
    """Cut the kept rows and columns into the target's arrays; small groups share an array on its diagonal."""

    name: ClassVar[str] = "tile"
    reads: ClassVar[Reads] = ARRAY_SHAPE_KEYS

    def run(self, program: MatrixProgram, target: Target) -> TiledProgram:
        """Return the tile tables, and the array count of the dense mapping."""
        shape = array_shape(target)
        tables = tuple(
            tile_table(tile_positions(matrix.rows.counts(), matrix.cols.counts(), shape), shape)
            for matrix in program.matrices
        )
        dense = tuple(_dense(matrix, shape) for matrix in program.matrices)
        return TiledProgram(program, tables, dense)


def _dense(matrix: WeightMatrix, shape: ArrayShape) -> int:
    groups, rows, cols = matrix.codes.shape
    return count_dense(groups, rows, cols, shape)
