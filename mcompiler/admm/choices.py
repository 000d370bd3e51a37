"""Choices of whole array positions that one layer can keep, and the importance that each choice keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mcompiler.admm.spec import Structure
from mcompiler.geometry import ArrayShape, all_kept, tile_blocks, tile_positions, tile_table

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LayerCost:
    """Geometry and price of one layer.

    Attributes:
        name: of the layer.
        groups, rows, columns: G, K, N of its matrix.
        positions: rows of the matrix that one input channel takes.
        shape: array geometry.
        price: of one array position, in the currency of the budget; may be 0 (then nothing is removed).
    """

    name: str
    groups: int
    rows: int
    columns: int
    positions: int
    shape: ArrayShape
    price: float

    @property
    def tiles(self) -> int:
        """Array positions of the dense matrix."""
        heights, widths = (np.full(self.groups, count, dtype=np.int64) for count in (self.rows, self.columns))
        return len(tile_positions(heights, widths, self.shape))

    @property
    def floor(self) -> float:
        """The least cost of the layer."""
        return self.price


@dataclass(frozen=True)
class TileChoice:
    """Number of array positions that a layer keeps; with one group, row blocks x column blocks."""

    tiles: int
    row_blocks: int = 0
    col_blocks: int = 0


@dataclass(frozen=True)
class ChoiceTable:
    """Choices of a layer, in order: more tiles keep strictly more importance. ``tiles`` and ``value`` are [O]."""

    choices: tuple[TileChoice, ...]
    tiles: Ints
    value: Floats


def list_choices(layer: LayerCost, weight: Tensor, most: int) -> ChoiceTable:
    """The choices of a layer of at most ``most`` array positions, from its importance [G, K, N]."""
    if layer.price == 0:
        value = float(weight.sum(dtype=torch.float64))
        return _keep_undominated([TileChoice(layer.tiles)], np.array([value]))
    if layer.groups > 1:
        best = np.cumsum(np.sort(_sum_tile_importance(layer, weight))[::-1])
        return _keep_undominated([TileChoice(count + 1) for count in range(len(best))], best)
    pairs = [(r, c) for r, c in _list_rectangles(layer) if r * c <= most]
    rows, cols = _find_best_rectangles(layer, weight[0], pairs)
    kept: Floats = ((rows.float() @ weight[0]).double() * cols).sum(dim=1).numpy()
    return _keep_undominated([TileChoice(r * c, r, c) for r, c in pairs], kept)


def _keep_undominated(choices: list[TileChoice], value: Floats) -> ChoiceTable:
    """Without choices that keep no more than another choice of at most as many tiles."""
    order = np.lexsort((-value, np.array([choice.tiles for choice in choices])))
    best = np.maximum.accumulate(value[order])
    undominated = order[np.r_[True, best[1:] > best[:-1]]]
    kept = tuple(choices[index] for index in undominated)
    return ChoiceTable(kept, np.array([choice.tiles for choice in kept], dtype=np.int64), value[undominated])


def _list_rectangles(layer: LayerCost) -> list[tuple[int, int]]:
    height, width = -(-layer.rows // layer.shape.rows), -(-layer.columns // layer.shape.tile_columns)
    return [(r, c) for r in range(1, height + 1) for c in range(1, width + 1)]


def _find_best_rectangles(layer: LayerCost, weight: Tensor, pairs: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Rows and columns of large importance for each number of row and column blocks.

    Rows and columns are chosen in turns, from three starts (the columns of largest sum, the rows of largest sum, the
    rows whose best columns have the largest sum); the best result is returned. Each turn can only improve. Where the
    importance of a weight is a product of one factor of its row and one of its column, no rectangle is better.

    Args:
        layer: geometry.
        weight: importance, [K, N].
        pairs: row blocks and column blocks.

    Returns:
        bool [P, K] and bool [P, N].
    """
    heights = torch.tensor([min(r * layer.shape.rows, layer.rows) for r, _ in pairs])
    widths = torch.tensor([min(c * layer.shape.tile_columns, layer.columns) for _, c in pairs])
    row_best = weight.sort(dim=1, descending=True).values.cumsum(dim=1)  # its best 1, 2, ... columns
    by_column = weight.sum(dim=0).expand(len(pairs), -1)
    rows, cols, value = torch.zeros(0), torch.zeros(0), torch.full((len(pairs),), -1.0)
    for start in (
        _mask_largest(_mask_largest(by_column, widths).float() @ weight.T, heights),
        _mask_largest(weight.sum(dim=1).expand(len(pairs), -1), heights),
        _mask_largest(row_best.T[widths - 1], heights),
    ):
        new_cols = _mask_largest(start.float() @ weight, widths)
        scores = new_cols.float() @ weight.T
        new_rows = _mask_largest(scores, heights)
        total = (scores * new_rows).sum(dim=1)
        better = (total > value)[:, None]
        rows = torch.where(better, new_rows, rows) if len(rows) else new_rows
        cols = torch.where(better, new_cols, cols) if len(cols) else new_cols
        value = torch.maximum(value, total)
    return rows, cols


def _mask_largest(scores: Tensor, counts: Tensor) -> Tensor:
    """Mask of the ``counts[p]`` largest scores of each line [P, n]; of equal ones those of lower index."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    chosen = torch.arange(scores.shape[1]) < counts[:, None]
    return torch.zeros_like(chosen).scatter_(1, order, chosen)


def _list_tiles(layer: LayerCost) -> list[list[tuple[int, slice, slice]]]:
    """(group, rows, columns) of the parts of each tile of the dense matrix."""
    rows, cols = all_kept(layer.groups, layer.rows), all_kept(layer.groups, layer.columns)
    heads = tile_table(tile_positions(rows.counts(), cols.counts(), layer.shape), layer.shape)
    return [
        [(part.group, _make_slice(part.rows), _make_slice(part.cols)) for part in tile_blocks(tile, rows, cols)]
        for tile in heads[:: layer.shape.arrays_per_tile]
    ]


def _make_slice(indices: Ints) -> slice:
    return slice(int(indices[0]), int(indices[-1]) + 1)


def _sum_tile_importance(layer: LayerCost, weight: Tensor) -> Floats:
    sums = [sum(float(weight[part].sum(dtype=torch.float64)) for part in tile) for tile in _list_tiles(layer)]
    return np.array(sums)


def make_structure(layer: LayerCost, choice: TileChoice) -> Structure:
    """The structure that keeps what a choice keeps."""
    if choice.tiles == layer.tiles:
        return Structure()
    if layer.groups > 1:
        return Structure(blocks=choice.tiles)
    rows, cols = choice.row_blocks * layer.shape.rows, choice.col_blocks * layer.shape.tile_columns
    return Structure(filters=cols if cols < layer.columns else None, shapes=rows if rows < layer.rows else None)


def find_kept_weights(layer: LayerCost, weight: Tensor, choice: TileChoice) -> Tensor:
    """Weights of importance above 0 that a choice keeps, bool [G, K, N]."""
    if choice.tiles == layer.tiles:
        return weight > 0
    if layer.groups == 1:
        rows, cols = _find_best_rectangles(layer, weight[0], [(choice.row_blocks, choice.col_blocks)])
        return (rows[0, :, None] & cols[0])[None] & (weight > 0)
    kept = torch.zeros_like(weight, dtype=torch.bool)
    tiles = _list_tiles(layer)
    for tile in np.argsort(-_sum_tile_importance(layer, weight), kind="stable")[: choice.tiles]:
        for part in tiles[tile]:
            kept[part] = True
    return kept & (weight > 0)
