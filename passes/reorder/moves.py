"""Steps of the search: assign lines to blocks by cost, group rows with common zeros, exchange rows of two blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.ir import IntArray

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]


def indicator(blocks: IntArray, count: int) -> Floats:
    """Which block each line is in, float32 [lines, blocks]."""
    found: Floats = np.equal(blocks[:, None], np.arange(count)).astype(np.float32)
    return found


def count_empty(hits: Bools, rows: IntArray, blocks: int) -> int:
    """Positions without a weight."""
    met: Floats = indicator(rows, blocks).T @ hits.astype(np.float32)
    return int((met == 0).sum())


def assign_to_blocks(cost: npt.NDArray[np.floating[Any]], sizes: IntArray) -> IntArray:
    """A block for each line, at nearly the least cost in all.

    Lines take their cheapest block. Where that has too little room, it takes those that would lose most elsewhere; the
    others choose again among the blocks with room.

    Args:
        cost: [lines, blocks].
        sizes: lines of each block.
    """
    blocks = np.full(len(cost), -1, dtype=np.int64)
    free, open_lines = sizes.copy(), np.arange(len(cost))
    closed = np.zeros(len(sizes), dtype=bool)
    while len(open_lines):
        prices = np.where(closed, np.inf, cost[open_lines])
        wanted = prices.argmin(axis=1)
        if (~closed).sum() > 1:
            two = np.partition(prices, 1, axis=1)
            regret = two[:, 1] - two[:, 0]
        else:
            regret = np.zeros(len(open_lines))
        order = np.lexsort((-regret, wanted))
        rank = np.arange(len(order)) - np.searchsorted(wanted[order], wanted[order])
        taken = order[rank < free[wanted[order]]]
        blocks[open_lines[taken]] = wanted[taken]
        free = free - np.bincount(wanted[taken], minlength=len(sizes))
        closed = free == 0
        open_lines = np.delete(open_lines, taken)
    return blocks


def group_by_common_zeros(hits: Bools, sizes: IntArray) -> IntArray:
    """Fill blocks one after the other with rows that have no weights in the same column blocks, as many as possible.

    Args:
        hits: whether a row has a weight in a column block, [rows, column blocks].
        sizes: rows of each row block.
    """
    blocks = np.full(len(hits), len(sizes) - 1, dtype=np.int64)
    left = np.arange(len(hits))
    for block, size in enumerate(sizes[:-1].tolist()):
        missing = ~hits[left]
        able, avoided = np.ones(len(left), dtype=bool), np.zeros(hits.shape[1], dtype=bool)
        while True:
            counts = np.where(avoided, -1, missing[able].sum(axis=0))
            column = int(counts.argmax())
            if counts[column] < size:
                break
            avoided[column] = True
            able &= missing[:, column]
        candidates = np.flatnonzero(able)
        flexible = missing[candidates].sum(axis=1)  # rows that few other blocks could use go first
        taken = candidates[np.argsort(flexible, kind="stable")[:size]]
        blocks[left[taken]] = block
        left = np.delete(left, taken)
    return blocks


def exchange_rows(hits: Bools, rows: IntArray, blocks: int) -> IntArray:
    """Empty further positions by exchanging the rows with weights in them, without filling an empty one.

    Args:
        hits: whether a row has a weight in a column block, [rows, column blocks].
        rows: block of each row.
        blocks: how many there are.
    """
    rows, meets = rows.copy(), hits.astype(np.float32)
    met = indicator(rows, blocks).T @ meets  # rows of each block with a weight in each column block
    fills = meets @ (met == 0).astype(np.float32).T > 0  # whether a row would fill an empty position of a block
    again = True
    while again:
        again = False
        misses = (~fills).astype(np.float32).T @ (1 - meets)  # rows that a block could have with that position empty
        possible = (met > 0) & (misses >= np.bincount(rows, minlength=blocks)[:, None])
        places = np.argwhere(possible)
        for block, column in places[np.argsort(met[possible], kind="stable")].tolist():
            if met[block, column] == 0:
                continue
            changed = _exchange(hits, rows, fills, (block, column))
            if changed is None:
                continue
            again = True
            for one in changed:
                met[one] = meets[rows == one].sum(axis=0)
                fills[:, one] = meets @ (met[one] == 0).astype(np.float32) > 0
    return rows


def _exchange(hits: Bools, rows: IntArray, fills: Bools, position: tuple[int, int]) -> list[int] | None:
    """Exchange every row of a block that has a weight in a column block; None if there are not enough others.

    Changes ``rows``, and returns the blocks that changed.
    """
    (block, column), blocks = position, fills.shape[1]
    leaving = np.flatnonzero((rows == block) & hits[:, column])
    coming = np.flatnonzero(~fills[:, block] & ~hits[:, column] & (rows != block))
    if len(coming) < len(leaving):
        return None
    offered = np.bincount(rows[coming], minlength=blocks)
    allowed = ~fills[leaving]
    if (np.minimum(offered, allowed.sum(axis=0)).sum() < len(leaving)) or not (allowed & (offered > 0)).any(
        axis=1
    ).all():
        return None
    goes = np.empty(len(leaving), dtype=np.int64)
    for line in np.argsort((allowed & (offered > 0)).sum(axis=1), kind="stable").tolist():
        choice = np.where(allowed[line], offered, 0)
        goes[line] = choice.argmax()
        if choice[goes[line]] == 0:
            return None
        offered[goes[line]] -= 1
    for other in np.unique(goes).tolist():
        moved = leaving[goes == other]
        rows[coming[rows[coming] == other][: len(moved)]] = block
        rows[moved] = other
    return [block, *np.unique(goes).tolist()]
