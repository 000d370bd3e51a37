"""Shapes and targets only: how a G x K x N weight tensor is cut into arrays.

The compiler and the ADMM frontend both count crossbars here, so that both count the same savings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.encodings import ArrayShape
from mcompiler.errors import TargetError
from mcompiler.ir import TILE, IntArray, Kept
from mcompiler.target import Layout, Target

__all__ = [
    "ArrayShape",
    "Block",
    "BoolArray",
    "TileTable",
    "all_kept",
    "array_shape",
    "conv_matrix",
    "count_dense",
    "count_tiles",
    "fragments",
    "group_fragments",
    "kept_of",
    "same_padding",
    "span",
    "tile_blocks",
    "tile_positions",
    "tile_table",
    "used_tiles",
    "vector_view",
]

TileTable = npt.NDArray[np.void]
BoolArray = npt.NDArray[np.bool_]


def same_padding(size: int | None, kernel: int, stride: int, dilation: int, *, upper: bool) -> tuple[int, int] | None:
    """Padding at the beginning and the end of a dimension of which a convolution keeps ceil(size / stride) positions.

    Args:
        size: of the input; None: not known, then the padding is known for a stride of 1 only.
        kernel, stride, dilation: of the convolution.
        upper: an odd element is added at the end (``SAME_UPPER`` of ONNX), else at the beginning.
    """
    window = dilation * (kernel - 1) + 1
    if stride == 1:
        total = window - 1
    elif size is None:
        return None
    else:
        total = max((-(-size // stride) - 1) * stride + window - size, 0)
    small = total // 2
    return (small, total - small) if upper else (total - small, small)


def array_shape(target: Target) -> ArrayShape:
    """Read the array geometry of a target.

    Raises:
        TargetError: one weight does not fit into the columns of one array.
    """
    settings, encoding = target.encoding, target.weight_encoding
    shape = ArrayShape(
        rows=target.array.rows,
        columns=target.array.columns,
        encoding=encoding,
        slices=settings.slices,
        adjacent_slices=settings.slices if settings.slices_in is Layout.ADJACENT else 1,
        adjacent_polarities=encoding.polarities if settings.pairs_in is Layout.ADJACENT else 1,
        cell_bits=target.device.bits,
        rows_active=target.array.rows_active,
        steps=target.cell_steps if target.has_level_table else (),
    )
    if shape.tile_columns == 0:
        raise TargetError(
            f"target '{target.name}': one weight takes {shape.columns_per_weight} adjacent columns and an array has "
            f"{shape.columns}; put slices or pairs into separate arrays (encoding.slices_in, encoding.pairs_in)"
        )
    return shape


def all_kept(groups: int, count: int) -> Kept:
    """Indices of a tensor without dropped rows or columns."""
    return Kept(
        np.tile(np.arange(count, dtype=np.int64), groups),
        np.arange(groups + 1, dtype=np.int64) * count,
    )


def conv_matrix(array: Any, groups: int) -> Any:
    """The matrix of a convolution: row k is (channel in group, *kernel position) in C order.

    Args:
        array: weights [O, C / G, *kernel], a numpy array or any object with ``reshape`` and ``swapaxes`` (a torch
            tensor does); not empty.
        groups: G.

    Returns:
        [G, K, N] of the same kind; a view where the kind allows one.
    """
    return array.reshape(groups, array.shape[0] // groups, -1).swapaxes(1, 2)


def span(indices: IntArray) -> slice | None:
    """Indices as a slice where each is one more than the one before, else None; there is at least one."""
    first, last = int(indices[0]), int(indices[-1])
    if last - first + 1 != len(indices) or not (indices[1:] > indices[:-1]).all():
        return None
    return slice(first, last + 1)


def kept_of(mask: BoolArray) -> Kept:
    """Indices that a bool mask [G, n] keeps."""
    groups, indices = np.nonzero(mask)
    offsets = np.searchsorted(groups, np.arange(len(mask) + 1))
    return Kept(indices.astype(np.int64), offsets.astype(np.int64))


def _blocks(total: int, size: int) -> list[tuple[int, int]]:
    return [(start, min(size, total - start)) for start in range(0, total, size)]


def _packs(rows: IntArray, cols: IntArray, shape: ArrayShape) -> list[tuple[int, int]]:
    """Runs of successive small groups (first, count) that share an array on its diagonal, greedily."""
    runs: list[tuple[int, int]] = []
    first, used_rows, used_cols = 0, 0, 0
    for group, (height, width) in enumerate(zip(rows.tolist(), cols.tolist(), strict=True)):
        if used_rows + height > shape.rows or used_cols + width > shape.tile_columns:
            runs.append((first, group - first))
            first, used_rows, used_cols = group, 0, 0
        used_rows += height
        used_cols += width
    runs.append((first, len(rows) - first))
    return [run for run in runs if run[1]]


def tile_positions(rows: IntArray, cols: IntArray, shape: ArrayShape) -> list[tuple[int, int, int, int, int, int]]:
    """Cut groups of kept rows and columns into array positions.

    Args:
        rows, cols: kept rows and columns of each group, [G].
        shape: array geometry.

    Returns:
        (group, groups, row, rows, col, cols) per position; columns vary fastest. Empty groups (no rows and no columns)
        take none. Groups that fit an array are packed several to an array, on its diagonal.
    """
    positions: list[tuple[int, int, int, int, int, int]] = []
    small = (rows <= shape.rows) & (cols <= shape.tile_columns)
    group = 0
    while group < len(rows):
        if small[group]:
            end = group
            while end < len(rows) and small[end]:
                end += 1
            for first, count in _packs(rows[group:end], cols[group:end], shape):
                members = slice(group + first, group + first + count)
                height, width = int(rows[members].sum()), int(cols[members].sum())
                if height and width:
                    positions.append((group + first, count, 0, height, 0, width))
            group = end
        else:
            for row, height in _blocks(int(rows[group]), shape.rows):
                positions.extend(
                    (group, 1, row, height, col, width) for col, width in _blocks(int(cols[group]), shape.tile_columns)
                )
            group += 1
    return positions


def tile_table(positions: Sequence[tuple[int, int, int, int, int, int]], shape: ArrayShape) -> TileTable:
    """Expand array positions to physical arrays: one row of dtype TILE each, slices outermost, then polarities."""
    slices = range(shape.slices) if shape.adjacent_slices == 1 and shape.slices > 1 else (-1,)
    apart = shape.adjacent_polarities < shape.polarities  # an array for each polarity, else 0: all in one
    polarities = shape.encoding.polarity_signs if apart else (0,)
    copies = [(s, p) for s in slices for p in polarities]
    table = np.zeros(len(positions) * len(copies), dtype=TILE)
    if not len(positions):
        return table
    flat: npt.NDArray[Any] = np.repeat(np.asarray(positions, dtype=np.int64), len(copies), axis=0)
    table["tile"] = np.repeat(np.arange(len(positions)), len(copies))
    for column, name in enumerate(("group", "groups", "row", "rows", "col", "cols")):
        table[name] = flat[:, column]
    table["slice"] = np.tile([s for s, _ in copies], len(positions))
    table["polarity"] = np.tile([p for _, p in copies], len(positions))
    return table


def vector_view(tensor: npt.NDArray[Any], batch: tuple[int, ...]) -> npt.NDArray[Any]:
    """The vectors that a product reads of x [..., M, K], as a view [..., M, *batch, K] without copies.

    Leading dimensions of x and ``batch`` are joined as numpy does; a dimension of the batch that is 1 where x has more
    brings further vectors of the same group.

    Args:
        tensor: x; one vector [K] counts as [1, K].
        batch: leading dimensions of the constant [*batch, K, N].
    """
    tensor = np.atleast_2d(tensor)
    lead = np.broadcast_shapes(tensor.shape[:-2], batch)
    joined = np.broadcast_to(tensor, (*lead, *tensor.shape[-2:]))
    outer = len(lead) - len(batch)
    more = [axis for axis, size in enumerate(batch, outer) if size == 1]
    groups = [axis for axis, size in enumerate(batch, outer) if size > 1]
    return joined.transpose(*range(outer), *more, len(lead), *groups, len(lead) + 1)


def count_dense(groups: int, rows: int, cols: int, shape: ArrayShape) -> int:
    """Physical arrays of a G x K x N tensor, zeros included."""
    if rows <= shape.rows and cols <= shape.tile_columns:
        together = min(shape.rows // rows, shape.tile_columns // cols)
        return -(-groups // together) * shape.arrays_per_tile
    per_group = -(-rows // shape.rows) * -(-cols // shape.tile_columns)
    return groups * per_group * shape.arrays_per_tile


@dataclass(frozen=True)
class Block:
    """The weights of one group in one tile, and their place in it.

    Attributes:
        group: index of the group.
        rows, cols: their indices in the uncompacted matrix (arrays of kept indices).
        row, col: first word line, first logical column (multiply by ``columns_per_weight`` for the bit line).
    """

    group: int
    rows: IntArray
    cols: IntArray
    row: int
    col: int


def tile_blocks(tile: np.void, kept_rows: Kept, kept_cols: Kept) -> list[Block]:
    """The blocks of weights that one tile (a row of a table) holds; one, unless groups are packed. None is empty."""
    group, groups = int(tile["group"]), int(tile["groups"])
    if groups == 1:
        row, col = int(tile["row"]), int(tile["col"])
        rows = kept_rows.of(group)[row : row + int(tile["rows"])]
        cols = kept_cols.of(group)[col : col + int(tile["cols"])]
        return [Block(group, rows, cols, 0, 0)]
    blocks = []
    row = col = 0
    for member in range(group, group + groups):
        rows, cols = kept_rows.of(member), kept_cols.of(member)
        if len(rows) and len(cols):  # a group between others may have vanished
            blocks.append(Block(member, rows, cols, row, col))
        row += len(rows)
        col += len(cols)
    return blocks


def used_tiles(weights: npt.NDArray[Any], heads: TileTable, kept_rows: Kept, kept_cols: Kept) -> BoolArray:
    """Whether each tile holds a weight that is not zero: bool [tiles].

    Args:
        weights: codes, or whether they are not zero, [G, K, N].
        heads: the first array of each tile.
        kept_rows, kept_cols: indices that compaction keeps.
    """
    used = np.zeros(len(heads), dtype=bool)
    single = np.flatnonzero(heads["groups"] == 1)
    if len(single):  # for most tiles the first weight is enough to know
        group = heads["group"][single]
        row = kept_rows.indices[kept_rows.offsets[group] + heads["row"][single]]
        col = kept_cols.indices[kept_cols.offsets[group] + heads["col"][single]]
        used[single] = weights[group, row, col] != 0
    for position in np.flatnonzero(~used):
        used[position] = any(
            bool(weights[block.group][np.ix_(block.rows, block.cols)].any())
            for block in tile_blocks(heads[position], kept_rows, kept_cols)
        )
    return used


def count_tiles(used: BoolArray, shape: ArrayShape) -> int:
    """Array positions that a tensor takes once zero rows, zero columns and zero tiles are gone.

    Args:
        used: which weights are not zero, [G, K, N].
        shape: array geometry; a position is ``shape.arrays_per_tile`` physical arrays.
    """
    rows, cols = (kept_of(np.asarray(used.any(axis=axis))) for axis in (2, 1))
    heads = tile_table(tile_positions(rows.counts(), cols.counts(), shape), shape)[:: shape.arrays_per_tile]
    return int(used_tiles(used, heads, rows, cols).sum())


def fragments(rows: int, shape: ArrayShape) -> list[tuple[int, int]]:
    """(start, length) of the fragments of ``rows`` kept rows: tiles of ``shape.rows``, each cut every ``rows_active``.

    A fragment is the rows that one read drives; with polarised weights a column has one sign in it. For a group that
    shares no array; ``group_fragments`` is for all.
    """
    return [
        (tile + start, length)
        for tile, height in _blocks(rows, shape.rows)
        for start, length in _blocks(height, shape.rows_active)
    ]


def group_fragments(rows: IntArray, cols: IntArray, shape: ArrayShape) -> list[list[tuple[int, int]]]:
    """(start, length) of the fragments of each group's kept rows; small groups share an array and so its reads.

    Args:
        rows, cols: kept rows and columns of each group, [G].
        shape: array geometry.
    """
    by_group = [fragments(count, shape) for count in rows.tolist()]
    for group, groups, *_ in tile_positions(rows, cols, shape):
        line = 0
        for member in range(group, group + groups if groups > 1 else group):
            height = int(rows[member])
            edges = [0, *(edge - line for edge in range(0, line + height, shape.rows_active) if edge > line), height]
            by_group[member] = [(start, stop - start) for start, stop in pairwise(edges) if stop > start]
            line += height
    return by_group
