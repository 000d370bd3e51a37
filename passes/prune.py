"""Drop array positions that hold only zeros."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from mcompiler.declarations import ARRAY_SHAPE_KEYS, Reads
from mcompiler.geometry import TileTable, array_shape, used_tiles
from mcompiler.ir import TiledProgram, WeightMatrix
from mcompiler.target import Target


@dataclass(frozen=True)
class Prune:
    """Drop all-zero tiles, with all arrays (slices, polarities) of their position."""

    name: ClassVar[str] = "prune"
    reads: ClassVar[Reads] = ARRAY_SHAPE_KEYS

    def run(self, program: TiledProgram, target: Target) -> TiledProgram:
        """Return the tile tables without the empty positions."""
        copies = array_shape(target).arrays_per_tile
        matrices = program.matrix.matrices
        tables = tuple(_prune(matrix, table, copies) for matrix, table in zip(matrices, program.tables, strict=True))
        return replace(program, tables=tables)


def _prune(matrix: WeightMatrix, table: TileTable, copies: int) -> TileTable:
    used = used_tiles(matrix.codes, table[::copies], matrix.rows, matrix.cols)
    if used.all():
        return table
    kept = table[np.repeat(used, copies)]
    kept["tile"] = np.repeat(np.arange(int(used.sum())), copies)
    return kept
