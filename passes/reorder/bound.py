"""Array positions that no order of the lines can empty."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.ir import IntArray

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

LARGEST_GRAM = 2500
"""Lines of a matrix up to which every two of them are compared: under a second."""

SPECTRAL_LIMIT = 1500
"""Lines of the shorter side up to which singular values are computed: under a second."""


def fewest_tiles(used: Bools, rows: int, cols: int) -> int:
    """A lower bound on the array positions that hold a weight, for any order of rows and columns.

    The largest of five bounds, each of which holds for every order:

    - *count*: a position holds ``rows * cols`` weights at most.
    - *degree*: a row with d weights needs ceil(d / cols) positions; the i-th row block from above, ordered by their
      longest rows, has one at least as long as the (i * rows)-th longest. The same for columns.
    - *pairs*: few rows can have all their columns in few column blocks, counted over pairs of columns; a row block that
      is full has more rows than that, and so has weights in more column blocks. The same for columns.
    - *union*: rows of a block with few common columns take many columns together: |union of A_i| >=
      sum of |A_i|^2 / sum over k of |A_i and A_k| (de Caen, Discrete Mathematics 169 (1997) 217-220, for counting
      measure), the inner sum bounded by its ``rows`` largest terms. The same for columns.
    - *spectrum*: the matrix of weights per position is a quotient of the whole one, so that its singular values
      interlace (Haemers, Linear Algebra and its Applications 226-228 (1995) 593-616): an empty position departs from
      the rank-one part of the matrix by a known amount at least, and all departures together are bounded by the other
      singular values.

    Args:
        used: where weights are, bool [R, C]. Rows and columns without any take no part.
        rows, cols: lines of an array position.
    """
    used = used[used.any(axis=1)][:, used.any(axis=0)]
    if not used.size:
        return 0
    height, width = _blocks(used, rows, cols)
    found = max(
        -(-int(np.count_nonzero(used)) // (rows * cols)),
        _line_bound(used, rows, cols),
        _line_bound(used.T, cols, rows),
        height,
        width,
    )
    if height == 1 or width == 1 or found == height * width:
        return height * width
    found = max(found, _union_bound(used, rows, cols), _union_bound(used.T, cols, rows))
    return max(found, height * width - _spectral_limit(used, rows, cols))


def _blocks(matrix: npt.NDArray[Any], rows: int, cols: int) -> tuple[int, int]:
    """Row blocks and column blocks of a matrix."""
    height, width = matrix.shape
    return -(-int(height) // rows), -(-int(width) // cols)


def _line_bound(used: Bools, rows: int, cols: int) -> int:
    """Positions that row blocks need, each for its longest row and for as many rows as it has."""
    longest = -np.sort(-np.count_nonzero(used, axis=1))[::rows]
    needed = -(-longest // cols)
    full, rest = divmod(len(used), rows)
    # At most one block is not full, so that all but the last of the sorted blocks need what a full one needs.
    least = np.full(len(needed), _needed_for(used, rows, cols) if full else 1)
    if rest:
        least[-1] = _needed_for(used, rest, cols)
    return int(np.maximum(needed, least).sum())


def _needed_for(used: Bools, count: int, cols: int) -> int:
    """Fewest column blocks in which any ``count`` rows together have weights.

    A row of d columns lies inside a set S of columns if all of them do, so that it counts at most the share of its
    pairs of columns that are pairs of S. Hence S holds at most sum over j and k in S of h[j, k] rows, where h[j, k]
    sums 1 / d (d - 1) over the rows with both, and h[j, j] counts the rows with j alone; the inner sum is at most that
    of the largest terms, as many as S has columns.
    """
    width = _blocks(used, len(used), cols)[1]
    if used.shape[1] > LARGEST_GRAM or width == 1:
        return 1
    degree = np.count_nonzero(used, axis=1)
    for blocks in range(1, width):
        most = blocks * cols
        inside = used[degree <= most].astype(np.float64)
        own = degree[degree <= most]
        share = np.where(own > 1, 1.0 / np.maximum(own * (own - 1), 1), 0.0)
        pairs = inside.T @ (inside * share[:, None])
        np.fill_diagonal(pairs, 0.0)
        others = np.partition(pairs, used.shape[1] - most, axis=1)[:, used.shape[1] - most :].sum(axis=1)
        total = others + inside[own == 1].sum(axis=0)
        if np.sort(total)[-most:].sum() * (1 + 1e-9) >= count:
            return blocks
    return width


def _union_bound(used: Bools, rows: int, cols: int) -> int:
    """Positions that the columns need which the rows of a block have together."""
    if len(used) > LARGEST_GRAM:
        return 0
    weights = used.astype(np.float32)
    shared = weights @ weights.T  # [R, R], exact integers
    degree = np.diag(shared).astype(np.float64)
    most = min(rows, len(used))
    others = np.partition(shared, len(used) - most, axis=1)[:, len(used) - most :].sum(axis=1, dtype=np.float64)
    share = degree**2 / others  # of a row in the union of its block, at least
    least = float(np.sort(share)[:rows].sum())  # of any full block
    together, full = float(share.sum()) / cols, len(used) // rows
    return max(_ceil(together), full * _ceil(least / cols) + int(len(used) % rows > 0))


def _ceil(value: float) -> int:
    """Rounded up, but not for an error of rounding."""
    return int(np.ceil(value - 1e-6 * max(1.0, abs(value))))


def _spectral_limit(used: Bools, rows: int, cols: int) -> int:
    """Array positions that can be empty at most, from the singular values; all of them where these are not computed."""
    height, width = _blocks(used, rows, cols)
    limit = height * width
    if min(used.shape) > SPECTRAL_LIMIT:
        return limit
    by_row, by_col = (np.count_nonzero(used, axis=axis).astype(np.float64) for axis in (1, 0))
    for power in (0.0, -0.5):  # lines as they are, or each with the same weight in all: zeros stay zeros
        scaled = used * by_row[:, None] ** power * by_col**power
        limit = min(limit, _empties_by_spectrum(scaled, rows, cols))
    return limit


def _empties_by_spectrum(scaled: Floats, rows: int, cols: int) -> int:
    height, width = _blocks(scaled, rows, cols)
    flat = scaled if scaled.shape[0] >= scaled.shape[1] else scaled.T
    squares, vectors = np.linalg.eigh(flat.T @ flat)  # ascending
    squares = np.maximum(squares[::-1], 0.0)
    first = np.abs(vectors[:, -1])  # of a matrix without negative entries it has one sign
    other = flat @ first
    sizes = (rows, cols) if flat is scaled else (cols, rows)
    least = _least_share(other, sizes[0]) * _least_share(first, sizes[1])  # rank-one part of any block
    rest = float(squares[1 : min(height, width) + 1].sum())
    if least <= 0:
        return height * width
    return min(height * width, int(np.floor(rest / least**2 * (1 + 1e-6) + 1e-9)))


def _least_share(values: npt.NDArray[Any], size: int) -> float:
    """Least sum of a block's values over the root of its size, for any choice of lines."""
    ordered = np.sort(values)
    sizes: IntArray = np.array([min(size, len(values)), len(values) % size or size])
    return float(min(ordered[:count].sum() / np.sqrt(count) for count in sizes.tolist()))
