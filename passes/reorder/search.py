"""Orders of rows and columns that leave many array positions without a weight.

Rows are assigned to row blocks and columns to column blocks. With the columns fixed, all that counts of a row is in
which column blocks it has weights; rows with weights in few of them together make a block with empty positions. The
same holds with rows and columns exchanged. Finding the best order is NP-hard (one empty position is a biclique of the
zeros), so there are several starts, each improved until it does not get better, and the best of them is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mcompiler.ir import IntArray
from mcompiler.passes.reorder.moves import (
    assign_to_blocks,
    count_empty,
    exchange_rows,
    group_by_common_zeros,
    indicator,
)

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

ROUNDS = 10
"""Times that rows and columns are assigned anew in ``sharpened``, with ever smaller e."""

FITS = 30
"""Times that rows and columns are assigned anew by likelihood, at most."""

RANK = 48
"""Singular vectors by which lines are compared, at most."""

WORK = 8_000_000
"""Places of the matrix, times tries, at effort 1: a second or two."""

FEWEST_TRIES, MOST_TRIES = 2, 60
"""Tries at effort 1, for any size."""

PATIENCE = 20
"""Tries from changed orders without a gain after which the search ends, at effort 1."""

PERTURBED_SHARES = (0.05, 0.1, 0.2, 0.4)
"""Shares of the lines that change places before another try."""


@dataclass(frozen=True)
class BlockOrder:
    """Which block each line is in.

    Attributes:
        rows, cols: block of each row and of each column.
    """

    rows: IntArray
    cols: IntArray

    def lines(self) -> tuple[IntArray, IntArray]:
        """Rows and columns, block after block, ascending within each."""
        return np.argsort(self.rows, kind="stable"), np.argsort(self.cols, kind="stable")


def block_sizes(lines: int, size: int) -> IntArray:
    """Lines of each block: all full but the last."""
    return np.array([min(size, lines - first) for first in range(0, lines, size)], dtype=np.int64)


@dataclass(frozen=True)
class Search:
    """A matrix and the blocks that it is to be cut into.

    Attributes:
        rows, cols: row and column of each weight.
        heights, widths: lines of each row block and column block.
    """

    rows: IntArray
    cols: IntArray
    heights: IntArray
    widths: IntArray

    @staticmethod
    def of(used: Bools, height: int, width: int) -> Search:
        """From where weights are, bool [R, C], and the lines of an array position."""
        rows, cols = np.nonzero(used)
        return Search(rows, cols, block_sizes(used.shape[0], height), block_sizes(used.shape[1], width))

    @property
    def shape(self) -> tuple[int, int]:
        """R and C."""
        return int(self.heights.sum()), int(self.widths.sum())

    @property
    def turned(self) -> Search:
        """Rows and columns exchanged."""
        return Search(self.cols, self.rows, self.widths, self.heights)

    @property
    def given(self) -> BlockOrder:
        """Lines in their given order."""
        rows, cols = (np.repeat(np.arange(len(sizes)), sizes) for sizes in (self.heights, self.widths))
        return BlockOrder(rows, cols)

    def empty(self, order: BlockOrder) -> int:
        """Array positions without a weight."""
        return int((self.fill(order) == 0).sum())

    def fill(self, order: BlockOrder) -> Floats:
        """Weights in each array position: [row blocks, column blocks]."""
        width = len(self.widths)
        places = order.rows[self.rows] * width + order.cols[self.cols]
        return np.bincount(places, minlength=len(self.heights) * width).reshape(-1, width).astype(np.float32)

    def met(self, cols: IntArray) -> Floats:
        """Weights that each row has in each column block: [R, column blocks]."""
        width = len(self.widths)
        places = self.rows * width + cols[self.cols]
        return np.bincount(places, minlength=self.shape[0] * width).reshape(-1, width).astype(np.float32)

    def best(self, effort: int, seed: int, limit: int) -> BlockOrder:
        """The order with most empty positions that was found; the one that is there if none is better.

        Args:
            effort: multiplies the starts.
            seed: of those that are drawn.
            limit: empty positions that no order exceeds; the search ends where it is reached.
        """
        rng = np.random.default_rng(seed)
        best, gained = self.given, self.empty(self.given)
        tries = int(np.clip(WORK * effort // math.prod(self.shape), FEWEST_TRIES * effort, MOST_TRIES * effort))
        starts, idle = self._starts(rng), 0
        for _ in range(tries):
            if gained >= limit or idle > PATIENCE * effort:
                break
            start = next(starts, None)
            if start is not None:
                found = self._fit_while_better(self.improved(start))
            else:
                found = self._another(best, rng)
            empty = self.empty(found)
            idle = 0 if empty > gained or start is not None else idle + 1
            if empty > gained or (empty == gained and start is None):
                best, gained = found, empty
        return best if gained > self.empty(self.given) else self.given

    def _starts(self, rng: np.random.Generator) -> Iterator[BlockOrder]:
        yield self.fitted(BlockOrder(*_embedded(self, rng)))
        yield self.fitted(BlockOrder(*_embedded(self, rng)))
        yield BlockOrder(_by_degree(self.rows, self.heights), _by_degree(self.cols, self.widths))
        yield self.sharpened(self.given)

    def _another(self, best: BlockOrder, rng: np.random.Generator) -> BlockOrder:
        """An order near the best, one fitted from such an order, or one from a new start."""
        kind = int(rng.integers(4))
        if kind == 0:
            return self.improved(self._perturbed(best, rng))
        start = self._perturbed(best, rng) if kind < 3 else BlockOrder(*_embedded(self, rng))
        return self._fit_while_better(self.improved(self.fitted(start)))

    def _fit_while_better(self, order: BlockOrder) -> BlockOrder:
        """Assign by likelihood and improve, again while that empties more; the given order if it never does."""
        empty = self.empty(order)
        while True:
            other = self.improved(self.fitted(order))
            found = self.empty(other)
            if found <= empty:
                return order
            order, empty = other, found

    def _perturbed(self, order: BlockOrder, rng: np.random.Generator) -> BlockOrder:
        """Some columns, or some rows, change places at random."""
        lines = (order.rows, order.cols)[which := int(rng.integers(2))].copy()
        chosen = np.flatnonzero(rng.random(len(lines)) < rng.choice(PERTURBED_SHARES))
        lines[chosen] = lines[rng.permutation(chosen)]
        return replace(order, cols=lines) if which else replace(order, rows=lines)

    def sharpened(self, order: BlockOrder) -> BlockOrder:
        """Rows, then columns go where positions are full already; the fuller, the less one more weight costs.

        This descends on the sum of log(weights + e) over the positions, e ever smaller (majorisation: the logarithm
        lies below its tangent), which counts full positions in the end.
        """
        for turn in range(ROUNDS):
            floor = len(self.rows) / (len(self.heights) * len(self.widths)) / 2.0**turn
            rows = assign_to_blocks(self.met(order.cols) @ (1 / (self.fill(order) + floor)).T, self.heights)
            order = replace(order, rows=rows)
            cols = assign_to_blocks(self.turned.met(order.rows) @ (1 / (self.fill(order) + floor)), self.widths)
            if turn and (cols == order.cols).all():
                break
            order = replace(order, cols=cols)
        return order

    def fitted(self, order: BlockOrder) -> BlockOrder:
        """Rows and columns in their likeliest blocks, weights of a position being independent and equally frequent."""
        area = np.outer(self.heights, self.widths).astype(np.float32)
        for _ in range(FITS):
            rate = (self.fill(order) + np.float32(0.5)) / area
            cost = (self.widths * rate).sum(axis=1) - self.met(order.cols) @ np.log(rate).T
            order = replace(order, rows=assign_to_blocks(cost, self.heights))
            rate = (self.fill(order) + np.float32(0.5)) / area
            cost = self.heights @ rate - self.turned.met(order.rows) @ np.log(rate)
            cols = assign_to_blocks(cost, self.widths)
            if (cols == order.cols).all():
                break
            order = replace(order, cols=cols)
        return order

    def improved(self, order: BlockOrder) -> BlockOrder:
        """Assign rows with the columns fixed, and columns with the rows fixed, while more positions become empty."""
        empty, rounds_without = self.empty(order), 0
        turned = self.turned
        while rounds_without < 2:
            before = empty
            for side in (self, turned):
                flipped = side is turned
                one = BlockOrder(order.cols, order.rows) if flipped else order
                hits = side.met(one.cols) > 0
                for rows in (group_by_common_zeros(hits, side.heights), one.rows):
                    rows = exchange_rows(hits, rows, len(side.heights))
                    found = count_empty(hits, rows, len(side.heights))
                    if found >= empty and (rows != one.rows).any():
                        empty = found
                        order = BlockOrder(order.rows, rows) if flipped else BlockOrder(rows, order.cols)
            rounds_without = rounds_without + 1 if empty == before else 0
        return order


# --- starts ----------------------------------------------------------------------------------------------------------


def _by_degree(line_of: IntArray, sizes: IntArray) -> IntArray:
    """Lines with most weights first, from the line of each weight."""
    lines = int(sizes.sum())
    blocks = np.empty(lines, dtype=np.int64)
    blocks[np.argsort(-np.bincount(line_of, minlength=lines), kind="stable")] = np.repeat(np.arange(len(sizes)), sizes)
    return blocks


def _embedded(search: Search, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """Lines that are alike together: k-means of given sizes on the leading singular vectors.

    The rank of a matrix of blocks is that of the blocks' own matrix; what lies beyond is noise (spectral
    co-clustering: Dhillon, KDD 2001). Singular vectors by subspace iteration (Halko, Martinsson and Tropp, 2011).
    """
    used = np.zeros(search.shape, dtype=np.float32)
    used[search.rows, search.cols] = 1
    by_row, by_col = used.sum(axis=1), used.sum(axis=0)
    scaled = used / np.sqrt(np.maximum(by_row, 1))[:, None] / np.sqrt(np.maximum(by_col, 1))
    rank = min(len(search.heights), len(search.widths), RANK, *used.shape)
    basis = rng.standard_normal((used.shape[1], min(rank + 8, *used.shape))).astype(np.float32)
    for _ in range(6):
        basis = np.linalg.qr(scaled.T @ (scaled @ basis))[0]
    left, values, right = np.linalg.svd(scaled @ basis, full_matrices=False)
    rows = left[:, :rank] * values[:rank]
    cols = (basis @ right.T)[:, :rank] * values[:rank]
    # Back to the unscaled profile: a line with few weights is as near to similar lines as one with many.
    rows = rows / np.sqrt(np.maximum(by_row, 1))[:, None]
    cols = cols / np.sqrt(np.maximum(by_col, 1))[:, None]
    return _clustered(rows, search.heights, rng), _clustered(cols, search.widths, rng)


def _clustered(points: Floats, sizes: IntArray, rng: np.random.Generator) -> IntArray:
    """k-means with given sizes, [n] from [n, d]; centres begin far from each other."""
    nearest = np.full(len(points), np.inf, dtype=np.float32)
    centres = np.empty((len(sizes), points.shape[1]), dtype=np.float32)
    chosen = int(rng.integers(len(points)))
    for number in range(len(sizes)):
        centres[number] = points[chosen]
        nearest = np.minimum(nearest, ((points - centres[number]) ** 2).sum(axis=1))
        chances = nearest.astype(np.float64)
        if chances.sum() > 0:
            chosen = int(rng.choice(len(points), p=chances / chances.sum()))
    blocks = np.zeros(len(points), dtype=np.int64)
    for _ in range(8):
        distance = (points**2).sum(axis=1)[:, None] - 2 * points @ centres.T + (centres**2).sum(axis=1)
        found = assign_to_blocks(distance, sizes)
        if (found == blocks).all():
            break
        blocks = found
        centres = (indicator(blocks, len(sizes)).T @ points / sizes[:, None]).astype(np.float32)
    return blocks
