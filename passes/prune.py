"""Array positions that hold only zeros vanish."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from mcompiler.geometry import TileTable, array_shape, tile_blocks
from mcompiler.ir import MatrixOp, TiledProgram
from mcompiler.target import Target


@dataclass(frozen=True)
class Prune:
    """Drop all-zero tiles, with all arrays (slices, polarities) of their position."""

    name: ClassVar[str] = "prune"

    def run(self, program: TiledProgram, target: Target) -> TiledProgram:
        """Return the tile tables without the empty positions."""
        copies = array_shape(target).arrays_per_tile
        ops = program.matrix.ops
        tables = tuple(_prune(op, table, copies) for op, table in zip(ops, program.tables, strict=True))
        return replace(program, tables=tables)


def _prune(op: MatrixOp, table: TileTable, copies: int) -> TileTable:
    heads = table[::copies]
    used = _corner_used(op, heads)
    for position in np.flatnonzero(~used):
        used[position] = _any_weight(op, heads[position])
    if used.all():
        return table
    kept = table[np.repeat(used, copies)]
    kept["tile"] = np.repeat(np.arange(int(used.sum())), copies)
    return kept


def _corner_used(op: MatrixOp, heads: TileTable) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Whether the first weight of each tile is not zero: that answers for most tiles at once. False: look closer."""
    used = np.zeros(len(heads), dtype=bool)
    single = np.flatnonzero(heads["groups"] == 1)
    if len(single):
        group = heads["group"][single]
        row = op.rows.indices[op.rows.offsets[group] + heads["row"][single]]
        col = op.cols.indices[op.cols.offsets[group] + heads["col"][single]]
        used[single] = op.codes[group, row, col] != 0
    return used


def _any_weight(op: MatrixOp, tile: np.void) -> bool:
    """Whether a tile holds a weight that is not zero."""
    return any(
        bool(op.codes[block.group][np.ix_(block.rows, block.cols)].any())
        for block in tile_blocks(tile, op.rows, op.cols)
    )
