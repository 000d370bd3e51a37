"""The resistor network of an array as lists of elements, and the node voltages at which its currents add up.

Every way of driving an array becomes a network, in which some word lines have a source and some cells conduct. For
averages a network may hold several copies of the word lines that share the bit lines: each cell passes only a share of
its current on to the bit line (``mcompiler.physics.nodal``). Such an element takes more current from its word line than
it gives to its bit line, so the system of equations is not symmetric.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse import linalg

from mcompiler.effects import CellCurve, LineResistances
from mcompiler.errors import TargetError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
BoolArray = npt.NDArray[np.bool_]

_STEPS = 200
_SETTLED = 1e-13  # a Newton step in units of the highest source
_ROUNDING = 1e-9  # smaller steps that no longer lower the residual are rounding errors
_SHORTEST = 1e-9  # part of a Newton step below which the search along it ends


@dataclass(frozen=True)
class Copy:
    """One state of all word lines.

    Attributes:
        volts: [R] sources.
        driven: [R] whether the source is connected.
        conducts: [R] whether the cells of the row do.
        share: [R] of the current of its cells that reaches the bit lines.
        rate: [R] what that share gains with the row's activity.
    """

    volts: FloatArray
    driven: BoolArray
    conducts: BoolArray
    share: FloatArray
    rate: FloatArray


@dataclass(frozen=True)
class Elements:
    """Conductances between nodes: the current leaves ``start``, and a share of it reaches ``end``.

    Attributes:
        start: [E] node.
        end: [E] node.
        siemens: [E].
        share: [E].
        rate: [E] what that share gains with the activity of the row.
        row: [E] the row whose activity it is.
        curved: [E] whether the device curve applies.
    """

    start: IntArray
    end: IntArray
    siemens: FloatArray
    share: FloatArray
    rate: FloatArray
    row: IntArray
    curved: BoolArray

    @classmethod
    def make(
        cls, start: Any, end: Any, siemens: Any, weights: tuple[Any, Any, Any] = (1.0, 0.0, 0), curved: bool = False
    ) -> Elements:
        """Flat arrays from values that broadcast to one shape; ``weights`` are share, rate and row."""
        share, rate, row = weights
        values = (start, end, siemens, share, rate, row, curved)
        parts = [part.ravel() for part in np.broadcast_arrays(*values)]
        return cls(*parts)

    @classmethod
    def joined(cls, parts: Sequence[Elements]) -> Elements:
        """All elements that conduct."""
        columns = [np.concatenate(column) for column in zip(*(vars(part).values() for part in parts), strict=True)]
        conducts = columns[2] > 0
        return cls(*(column[conducts] for column in columns))


@dataclass(frozen=True)
class ResistorNetwork:
    """Elements and nodes: first the ``fixed`` ones (a ground for every bit line, then the sources), then the others.

    Attributes:
        elements: what conducts.
        columns: bit lines.
        fixed: [F] voltages of the fixed nodes.
        nodes: all nodes.
    """

    elements: Elements
    columns: int
    fixed: FloatArray
    nodes: int

    def currents(self, volts: FloatArray, curve: CellCurve | None) -> FloatArray:
        """[E] current of every element."""
        over = volts[self.elements.start] - volts[self.elements.end]
        if curve is not None:
            over = np.where(self.elements.curved, curve.current(over), over)
        return self.elements.siemens * over

    def leaving(self, currents: FloatArray) -> FloatArray:
        """[nodes] sum of the currents that leave each node."""
        elements = self.elements
        out = np.bincount(elements.start, currents, self.nodes).astype(np.float64)
        return out - np.bincount(elements.end, elements.share * currents, self.nodes)

    def jacobian(self, volts: FloatArray, curve: CellCurve | None) -> sparse.csc_array:
        """[nodes, nodes] derivative of ``leaving`` after the voltages."""
        elements = self.elements
        slopes = elements.siemens
        if curve is not None:
            over = volts[elements.start] - volts[elements.end]
            slopes = slopes * np.where(elements.curved, curve.slope(over), 1.0)
        # Each element contributes its slope to the equations of its two nodes: four entries, summed where they meet.
        passed = elements.share * slopes
        rows = np.concatenate([elements.start, elements.start, elements.end, elements.end])
        columns = np.concatenate([elements.start, elements.end, elements.end, elements.start])
        values = np.concatenate([slopes, -slopes, passed, -passed])
        return sparse.coo_array((values, (rows, columns)), shape=(self.nodes, self.nodes)).tocsc()

    def factor(self, volts: FloatArray, curve: CellCurve | None) -> linalg.SuperLU:
        """Sparse LU of the free nodes' part."""
        # In each row the diagonal is the sum of the sizes of the other entries, and more where an element ties the node
        # to a fixed one: such a matrix needs no pivoting, and an ordering for its symmetric pattern keeps LU sparse.
        free = slice(len(self.fixed), None)
        return linalg.splu(
            self.jacobian(volts, curve)[free, free],
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )

    def settled(self, curve: CellCurve | None) -> FloatArray:
        """[nodes] voltages: sparse LU and one refinement, then Newton's method with halved steps for curved cells.

        Raises:
            TargetError: Newton's method does not arrive.
        """
        first = len(self.fixed)
        volts = np.concatenate([self.fixed, np.zeros(self.nodes - first)])
        if first == self.nodes:
            return volts
        # Ohmic cells: one solve, and one step of iterative refinement with the same factors, which removes the rounding
        # error that many orders of magnitude between resistances leave.
        factor = self.factor(volts, None)
        for _ in range(2):
            volts[first:] -= factor.solve(self.leaving(self.currents(volts, None))[first:])
        if curve is None:
            return volts
        # Curved cells: Newton's method from the ohmic solution. Curves ascend, so every Jacobian is regular, and a step
        # that is short enough lowers the residual.
        highest = np.abs(self.fixed).max()
        left = self.leaving(self.currents(volts, curve))[first:]
        for _ in range(_STEPS):
            step = self.factor(volts, curve).solve(left)
            volts, left, better = self._stepped(volts, left, step, curve)
            size = np.abs(step).max()
            # Done where the step is negligible, or where only rounding errors keep the residual from falling.
            if size <= _SETTLED * highest or (not better and size <= _ROUNDING * highest):
                return volts
            if not better:
                break
        raise TargetError(
            f"device.curve: Newton's method finds no voltages of an array (residual {np.abs(left).max():.3g} A); "
            "give a curve that bends less below device.read_voltage_v"
        )

    def _stepped(
        self, volts: FloatArray, left: FloatArray, step: FloatArray, curve: CellCurve
    ) -> tuple[FloatArray, FloatArray, bool]:
        """Voltages and residual after the longest of the steps 1, 1/2, 1/4 and so on that lowers the residual."""
        first, size = len(self.fixed), float(np.linalg.norm(left))
        length = 1.0
        while length > _SHORTEST:
            tried = volts.copy()
            tried[first:] -= length * step
            remains = self.leaving(self.currents(tried, curve))[first:]
            if np.linalg.norm(remains) < size:
                return tried, remains, True
            length /= 2
        return volts, left, False


def network(
    conductances: FloatArray, copies: Sequence[Copy], lines: LineResistances, curved: bool, access_ohm: float
) -> ResistorNetwork:
    """The network of an array [R, C] whose word lines are in the states ``copies``.

    Args:
        conductances: [R, C] of the cells, siemens.
        copies: states of the word lines.
        lines: resistances.
        curved: whether cells are; then ``access_ohm`` is an element with a node between it and the cell.
        access_ohm: in series with every cell.
    """
    rows, columns = conductances.shape
    sources = columns + np.arange(len(copies) * rows).reshape(len(copies), rows)  # [copies, R]
    fixed = np.concatenate([np.zeros(columns), *(copy.volts for copy in copies)])
    grounds = _Line(lines.bit_ohm, lines.sense_ohm, np.arange(columns), np.ones(columns, dtype=np.bool_))
    bits, parts = _line_nodes(len(fixed), columns, rows, grounds)
    bits = bits.T[::-1]  # [R, C]: counted from ground, which is below
    nodes = len(fixed) + rows * columns
    # In series with an ohmic cell the resistance makes another ohmic cell; with a curved one there is a node between.
    if not curved:
        conductances = conductances / (1 + conductances * access_ohm)
    for copy, source in zip(copies, sources, strict=True):
        # A word line without source and without cells would be a node without equation; its source changes nothing.
        driven = copy.driven | ~(conductances * copy.conducts[:, None]).any(axis=1)
        words, segments = _line_nodes(nodes, rows, columns, _Line(lines.word_ohm, lines.driver_ohm, source, driven))
        nodes += rows * columns
        parts += segments
        cells = np.where(copy.conducts[:, None], conductances, 0.0)
        weights = (copy.share[:, None], copy.rate[:, None], np.arange(rows)[:, None])
        if curved and access_ohm > 0:
            inner = nodes + np.arange(rows * columns).reshape(rows, columns)
            nodes += rows * columns
            # The share is taken once, where the current enters the bit line.
            parts.append(Elements.make(words, inner, cells, curved=True))
            parts.append(Elements.make(inner, bits, np.where(cells > 0, 1 / access_ohm, 0.0), weights))
        else:
            parts.append(Elements.make(words, bits, cells, weights, curved=curved))
    return _compact(Elements.joined(parts), columns, fixed, nodes)


@dataclass(frozen=True)
class _Line:
    """Equal lines: ``segment_ohm`` between nodes, ``end_ohm`` more before the node ``ends`` [L], where ``tied`` [L]."""

    segment_ohm: float
    end_ohm: float
    ends: IntArray
    tied: BoolArray


def _line_nodes(start: int, lines: int, cells: int, line: _Line) -> tuple[IntArray, list[Elements]]:
    """Nodes [lines, cells] counted from the end of each line, and the elements between them and to the tied ends."""
    segment_ohm, ends, tied = line.segment_ohm, line.ends, line.tied
    nodes = start + np.arange(lines * cells).reshape(lines, cells)
    # Without resistance along a line all its nodes are one; without any resistance that one is its end.
    if not segment_ohm:
        nodes = np.repeat(nodes[:, :1], cells, axis=1)
    first_ohm = segment_ohm + line.end_ohm
    if not first_ohm:
        return np.where(tied[:, None], ends[:, None], nodes), []
    parts = [Elements.make(nodes[tied, 0], ends[tied], 1 / first_ohm)]
    if segment_ohm:
        parts.append(Elements.make(nodes[:, 1:], nodes[:, :-1], 1 / segment_ohm))
    return nodes, parts


def _compact(elements: Elements, columns: int, fixed: FloatArray, nodes: int) -> ResistorNetwork:
    """The network without nodes that no element touches."""
    used = np.zeros(nodes, dtype=np.bool_)
    used[: len(fixed)] = used[elements.start] = used[elements.end] = True
    number = np.cumsum(used) - 1
    kept = {**vars(elements), "start": number[elements.start], "end": number[elements.end]}
    return ResistorNetwork(Elements(**kept), columns, fixed, int(used.sum()))
