"""Wires of an array: the exact transfer matrix of a tile with ohmic cells.

Word line i goes source, driver, segment, node (i, 0), segment, node (i, 1) and so on; bit line j goes node (0, j),
segment, node (1, j) and so on to node (R - 1, j), segment, sense resistance, virtual ground. A cell connects the two
nodes (i, j). With every word line driven (idle rows grounded through the same driver) the currents of the bit lines are
linear in the voltages of the word lines: current_j = sum_i T[i, j] v_i, and T = G where wires are perfect.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import astuple
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.effects import LineResistances
from mcompiler.physics.blocks import Segments, cell_blocks, joined_along_bits, joined_along_words

FloatArray = npt.NDArray[np.float64]

_SMALLEST = 4  # lines of the smallest blocks: 4..7, so that padding stays within a quarter
_CELLS_AT_ONCE = 1 << 16  # about 1 KiB of working memory each


def transfer(conductances: FloatArray, lines: LineResistances) -> FloatArray:
    """The transfer matrices T of tiles, current_j = sum_i T[i, j] v_i, exact up to rounding.

    Time grows with the 3/2 power of the cells of a tile, memory with their number.

    Args:
        conductances: [B, R, C] of the cells in siemens, at least 0; 0 is a cell that was never formed or an open line.
        lines: resistances.

    Returns:
        [B, R, C], siemens; equal to ``conductances`` to the bit where the lines are perfect.

    Raises:
        ValueError: a shape of other than three axes, or a conductance that is negative or not finite.
    """
    g = checked(conductances, axes=3)
    if lines.perfect or not g.size:
        return g.copy()
    tiles, rows, columns = g.shape
    height, down = _cut(rows)
    width, along = _cut(columns)
    at_once = max(1, _CELLS_AT_ONCE // (height * down * width * along))
    found = np.empty_like(g)
    for start in range(0, tiles, at_once):
        part = g[start : start + at_once]
        # Word lines end at the right and bit lines begin at the top, where no current flows: rows and columns of cells
        # that do not conduct can be added there, until the number of blocks is a power of 2.
        padded = np.zeros((len(part), height * down, width * along))
        padded[:, height * down - rows :, :columns] = part
        whole = _whole(padded, height, width, lines)
        found[start : start + at_once] = whole[:, height * down - rows :, :columns]
    # A line without cells carries no current; the solves leave rounding errors there.
    found *= g.any(axis=2, keepdims=True) & g.any(axis=1, keepdims=True)
    return found


def checked(conductances: FloatArray, axes: int) -> FloatArray:
    """The conductances as contiguous float64.

    Raises:
        ValueError: another number of axes, or a conductance that is negative or not finite.
    """
    g = np.ascontiguousarray(conductances, dtype=np.float64)
    if g.ndim != axes:
        raise ValueError(f"conductances have {g.ndim} axes, not {axes}")
    if not (np.isfinite(g).all() and (g >= 0).all()):
        raise ValueError("a conductance is negative or not finite")
    return g


def _whole(g: FloatArray, height: int, width: int, lines: LineResistances) -> FloatArray:
    """[B, R, C] from blocks that are joined until one is left; sizes are ``height`` and ``width`` times powers of 2."""
    segments = Segments(word=lines.word_ohm, bit=lines.bit_ohm, first=lines.driver_ohm, last=lines.sense_ohm)
    blocks = cell_blocks(g, height, width, segments)
    while blocks.matrix.shape[1:3] != (1, 1):
        down, along = blocks.matrix.shape[1:3]
        left, _, _, bottom = blocks.sizes
        # The cost of a joint grows with the ports, so joining along the direction that keeps blocks square is cheapest.
        if along > 1 and (down == 1 or bottom <= left):
            blocks = joined_along_words(blocks)
        else:
            blocks = joined_along_bits(blocks)
    # What is left is the map from voltages at the left to currents at the bottom: the transfer matrix.
    left_ports, _, _, bottom_ports = blocks.ports
    return blocks.matrix[:, 0, 0, left_ports, bottom_ports]


def _cut(lines: int) -> tuple[int, int]:
    """Lines of the smallest blocks, and the number of blocks, a power of 2, that hold so many lines."""
    count = 1
    while -(-lines // count) >= 2 * _SMALLEST:
        count *= 2
    return -(-lines // count), count


class TransferCache:
    """Transfer matrices that were computed before, the least recently used dropped first; threads may share it.

    Pickling keeps the bound and drops the matrices: another process computes those that it needs.

    Args:
        limit_bytes: bound of the matrices held.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._held: OrderedDict[bytes, FloatArray] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._limit,)

    @property
    def held_bytes(self) -> int:
        """Size of the matrices held."""
        return self._bytes

    def transfer(self, conductances: FloatArray, lines: LineResistances) -> FloatArray:
        """As the function ``transfer``; tiles are looked up one by one, and equal ones solved once."""
        g = checked(conductances, axes=3)
        if lines.perfect or not g.size:
            return g.copy()
        keys = [_digest(tile, lines) for tile in g]
        with self._lock:
            known = {key: self._held[key] for key in keys if key in self._held}
            for key in known:
                self._held.move_to_end(key)
        missing = {key: index for index, key in enumerate(keys) if key not in known}
        if missing:
            # Outside the lock: two threads may solve the same tile, which costs time and changes nothing.
            solved = transfer(g[list(missing.values())], lines)
            fresh = {key: matrix.copy() for key, matrix in zip(missing, solved, strict=True)}
            self._keep(fresh)
            known |= fresh
        return np.stack([known[key] for key in keys])

    def _keep(self, fresh: dict[bytes, FloatArray]) -> None:
        with self._lock:
            for key, matrix in fresh.items():
                if key not in self._held:
                    self._held[key] = matrix
                    self._bytes += matrix.nbytes
            while self._bytes > self._limit:
                _, dropped = self._held.popitem(last=False)
                self._bytes -= dropped.nbytes


def _digest(tile: FloatArray, lines: LineResistances) -> bytes:
    # Of the bytes: cells that differ by rounding are other cells, and give other results.
    key = hashlib.blake2b(np.array([*tile.shape, *astuple(lines)]).tobytes(), digest_size=32)
    key.update(tile.tobytes())
    return key.digest()
