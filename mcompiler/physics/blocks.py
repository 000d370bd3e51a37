"""Blocks of a crossbar's resistor network, seen from the ends of their lines, and how two of them become one.

A block of h word lines and w bit lines has four kinds of ports: word lines enter at the ``left`` and leave at the
``right``, bit lines enter at the ``top`` and leave at the ``bottom``, towards the sense circuit. The block is a linear
map from one quantity per port to the conjugate one:

    port     given                             result
    left     voltage                           current that flows in
    right    current that flows out            voltage
    top      current that flows in             minus the voltage
    bottom   minus the voltage                 current that flows out

In these variables a segment of no resistance and a cell of no conductance need no special case (admittances or
impedances of a block would be infinite there), and the map is a symmetric matrix, by reciprocity. Joining two blocks
along k lines sets the k voltages that one block gives equal to those that the other takes, and likewise the currents in
the other direction. With the resistance matrix R of one side and the conductance matrix G of the other, both positive
semidefinite, that is one solve with I + R G, whose eigenvalues are 1 and more: it is always well conditioned. (This is
the star product of scattering theory: R. Redheffer, "Difference equations and functional equations in
transmission-line theory", in Modern Mathematics for the Engineer, second series, McGraw-Hill, 1961.)

Joining neighbours pairwise, alternately along word and bit lines, is a nested dissection of the grid (A. George, SIAM
Journal on Numerical Analysis 10, 345, 1973): the work grows with the 3/2 power of the number of cells, and blocks of
one size go through one batched call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Segments:
    """Resistances along the lines, in ohm.

    Attributes:
        word: from a word node to the next one.
        bit: from a bit node to the next one.
        first: added to the first segment of every word line: the driver.
        last: added to the last segment of every bit line: the sense circuit.
    """

    word: float
    bit: float
    first: float
    last: float


@dataclass(frozen=True)
class Blocks:
    """Equal blocks in a grid, for a batch of tiles.

    Attributes:
        matrix: [B, r, c, P, P], symmetric, its ports in the order left, right, top, bottom.
        sizes: ports of each kind; right and top are none where the lines end.
    """

    matrix: FloatArray
    sizes: tuple[int, int, int, int]

    @property
    def ports(self) -> tuple[slice, slice, slice, slice]:
        """Rows and columns of the matrix for each kind of port."""
        left, right, top, bottom = _runs(self.sizes)
        return left, right, top, bottom


@dataclass(frozen=True)
class _Side:
    """One side of a joint: blocks [B, r, c, P, P], the ports that are tied, and places of the others in the result."""

    matrix: FloatArray
    tied: slice
    others: tuple[tuple[slice, slice], ...]


def cell_blocks(conductances: FloatArray, height: int, width: int, segments: Segments) -> Blocks:
    """The smallest blocks, straight from their cells.

    The current of every cell is c = g (b.x - K c): b.x is the voltage over it that the ports x would cause alone, K c
    the voltage that the currents of all cells lose on shared segments. Hence c = (I + g K)^-1 g b.x, K positive
    semidefinite.

    Args:
        conductances: [B, r * height, c * width], siemens.
        height: word lines of a block.
        width: bit lines of a block.
        segments: resistances.
    """
    tiles, rows, columns = conductances.shape
    r, c, cells = rows // height, columns // width, height * width
    grid = conductances.reshape(tiles, r, height, c, width).transpose(0, 1, 3, 2, 4)
    g = grid.reshape(tiles, r, c, cells, 1)
    # Only the first segment of a word line and the last one of a bit line differ from the others (driver and sense
    # circuit are added to them), so four kinds of blocks cover the grid.
    kinds = np.zeros((r, c), dtype=np.intp)
    kinds[:, 0] += 1
    kinds[-1, :] += 2
    made = [_cells(height, width, segments, first, last) for last in (False, True) for first in (False, True)]
    drops, shares, wires = (np.stack(parts)[kinds] for parts in zip(*made, strict=True))
    # I + g K: g scales rows, so a cell of conductance 0 leaves its row of the unit matrix and gets no current.
    system = g * drops  # [B, r, c, cells, cells]
    diagonal = np.arange(cells)
    system[..., diagonal, diagonal] += 1
    currents = np.linalg.solve(system, g * shares)  # [B, r, c, cells, P]
    # A current c of a cell acts on the ports through the same numbers b as the ports act on it (reciprocity).
    return Blocks(wires + _transposed(shares) @ currents, (height, height, width, width))


def _cells(
    height: int, width: int, segments: Segments, first: bool, last: bool
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """K [cells, cells], b [cells, P] and the map of the ports without any cell [P, P] of one kind of block."""
    row, column = np.repeat(np.arange(height), width), np.tile(np.arange(width), height)
    along = segments.word * np.arange(1, width + 1) + (segments.first if first else 0.0)  # from the left end to a node
    down = segments.bit * np.arange(height, 0, -1) + (segments.last if last else 0.0)  # from a node to the bottom end
    # Two cells on one word line share the segments up to the nearer one: a resistance matrix of a ladder, positive
    # semidefinite. On a bit line they share those from the lower cell down to the bottom.
    drops = (row[:, None] == row) * along[np.minimum(column[:, None], column)]
    drops = drops + (column[:, None] == column) * down[np.maximum(row[:, None], row)]
    left, right, top, bottom = _runs((height, height, width, width))
    cell = np.arange(height * width)
    # b: a voltage at the left raises the word node by itself; a current that leaves at the right flows through all
    # segments up to the cell and lowers it. At the top and bottom likewise, the bottom given as minus its voltage.
    shares = np.zeros((height * width, 2 * (height + width)))
    shares[cell, left.start + row] = 1
    shares[cell, right.start + row] = -along[column]
    shares[cell, top.start + column] = -down[row]
    shares[cell, bottom.start + column] = 1
    # Without cells a line passes current and voltage on, less the voltage over its own segments.
    wires = np.zeros((2 * (height + width),) * 2)
    wires[left, right] = wires[right, left] = np.eye(height)
    wires[right, right] = -along[-1] * np.eye(height)
    wires[top, bottom] = wires[bottom, top] = np.eye(width)
    wires[top, top] = -down[0] * np.eye(width)
    return drops, shares, wires


def joined_along_words(blocks: Blocks) -> Blocks:
    """Pairs of neighbours along the word lines joined; no current leaves the last block at the right."""
    near, far = blocks.matrix[:, :, 0::2], blocks.matrix[:, :, 1::2]
    left, right, top, bottom = blocks.ports
    # The last block of the grid takes no current out at the right: a given of 0, so that its ports can be dropped.
    goes_on = blocks.matrix.shape[2] > 2
    sizes = (blocks.sizes[0], blocks.sizes[1] if goes_on else 0, 2 * blocks.sizes[2], 2 * blocks.sizes[3])
    to_left, to_right, to_top, to_bottom = _runs(sizes)
    near_top, far_top = _halves(to_top)
    near_bottom, far_bottom = _halves(to_bottom)
    end = ((right, to_right),) if goes_on else ()
    return _join(
        _Side(near, right, ((left, to_left), (top, near_top), (bottom, near_bottom))),
        _Side(far, left, (*end, (top, far_top), (bottom, far_bottom))),
        sizes,
    )


def joined_along_bits(blocks: Blocks) -> Blocks:
    """Pairs of neighbours along the bit lines joined; no current enters the first block at the top."""
    upper, lower = blocks.matrix[:, 0::2], blocks.matrix[:, 1::2]
    left, right, top, bottom = blocks.ports
    goes_on = blocks.matrix.shape[1] > 2
    sizes = (2 * blocks.sizes[0], 2 * blocks.sizes[1], blocks.sizes[2] if goes_on else 0, blocks.sizes[3])
    to_left, to_right, to_top, to_bottom = _runs(sizes)
    upper_left, lower_left = _halves(to_left)
    upper_right, lower_right = _halves(to_right)
    end = ((top, to_top),) if goes_on else ()
    return _join(
        _Side(lower, top, ((left, lower_left), (right, lower_right), (bottom, to_bottom))),
        _Side(upper, bottom, (*end, (left, upper_left), (right, upper_right))),
        sizes,
    )


def _join(one: _Side, other: _Side, sizes: tuple[int, int, int, int]) -> Blocks:
    """Tie the lines of ``one``, which gives voltages for currents, to ``other``, which gives currents for voltages.

    With a and b the voltages and currents that the other ports of the two sides cause at the tied ones: v = a - R i and
    i = b + G v, hence v = (I + R G)^-1 (a - R b) and i = (I + G R)^-1 (b + G a).
    """
    resistance, conductance = -one.matrix[..., one.tied, one.tied], other.matrix[..., other.tied, other.tied]
    a = np.concatenate([one.matrix[..., one.tied, ports] for ports, _ in one.others], axis=-1)
    b = np.concatenate([other.matrix[..., other.tied, ports] for ports, _ in other.others], axis=-1)
    system = resistance @ conductance
    diagonal = np.arange(system.shape[-1])
    system[..., diagonal, diagonal] += 1
    # One factorisation serves both sides: (I + G R)^-1 = I - G (I + R G)^-1 R, and the result is symmetric.
    split = a.shape[-1]
    solved = np.linalg.solve(system, np.concatenate([a, resistance], axis=-1))
    voltages = solved[..., :split]  # (I + R G)^-1 a
    within_one = _transposed(a) @ (conductance @ voltages)
    across = _transposed(voltages) @ b
    within_other = _transposed(b) @ (solved[..., split:] @ b)
    joined = np.empty((*system.shape[:-2], sum(sizes), sum(sizes)))
    ones = tuple(zip(one.others, _runs([_length(ports) for ports, _ in one.others]), strict=True))
    others = tuple(zip(other.others, _runs([_length(ports) for ports, _ in other.others]), strict=True))
    for (row, to_row), at_row in ones:
        for (column, to_column), at_column in ones:
            part = joined[..., to_row, to_column]
            np.add(one.matrix[..., row, column], within_one[..., at_row, at_column], out=part)
        for (_, to_column), at_column in others:
            joined[..., to_row, to_column] = across[..., at_row, at_column]
            joined[..., to_column, to_row] = _transposed(across[..., at_row, at_column])
    for (row, to_row), at_row in others:
        for (column, to_column), at_column in others:
            part = joined[..., to_row, to_column]
            np.subtract(other.matrix[..., row, column], within_other[..., at_row, at_column], out=part)
    left, right, top, bottom = sizes
    return Blocks(joined, (left, right, top, bottom))


def _runs(sizes: Sequence[int]) -> list[slice]:
    """Consecutive slices of these lengths."""
    return [slice(start, stop) for start, stop in pairwise(accumulate(sizes, initial=0))]


def _halves(run: slice) -> tuple[slice, slice]:
    middle = (run.start + run.stop) // 2
    return slice(run.start, middle), slice(middle, run.stop)


def _length(run: slice) -> int:
    return int(run.stop - run.start)


def _transposed(matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.swapaxes(matrix, -1, -2)
