"""Place arrays, rows and columns so that the stuck cells of a known chip change the weights least.

Three assignment problems, each solved exactly while the others are fixed (scipy's ``linear_sum_assignment``): arrays
of a layer to the positions of their core, rows of an array position to its word lines, columns of weights to its bit
lines, with the polarities of a pair swapped where that is better. Unused lines and arrays, spares included, can replace
others.

The error that is minimised is the sum over stuck cells of (deviation in level steps x place value of a step)^2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt

from mcompiler.conductance import (
    FaultMap,
    MappedMatrix,
    bit_lines,
    conductances,
    encode_cells,
    partners,
    physical_lines,
    place_lines,
    spare_places,
    unpack_levels,
)
from mcompiler.declarations import ARRAY_SHAPE_KEYS, Option, Reads
from mcompiler.effects.faults import stuck_siemens
from mcompiler.geometry import ArrayShape, array_shape
from mcompiler.ir import CodeArray, IntArray, PlacedProgram, Remapping
from mcompiler.records import RemapRecord
from mcompiler.target import Target

Values = npt.NDArray[np.float64]

ROUNDS = 8
"""Times that rows and columns are assigned in turn, at most."""

LEAST_GAIN = 1e-9
"""Share by which the error must fall for lines to move: a move without gain only costs entries of address tables."""


def _fault_summary(faults: FaultMap) -> dict[str, Any]:
    """Entry of a fault map in manifest.json."""
    return {"stuck": len(faults.cells), "sha256": faults.digest}


@dataclass(frozen=True)
class Remap:
    """Move arrays, rows and columns, and swap polarities, so that stuck cells change the weights least.

    Attributes:
        faults: the stuck cells of the chip.
    """

    name: ClassVar[str] = "remap"
    excludes: ClassVar[dict[str, str]] = {
        "replicate": "copies of an array have different stuck cells, and lines move once; drop replicate or faults"
    }
    reads: ClassVar[Reads] = (
        *ARRAY_SHAPE_KEYS,
        "array.spare_columns",
        "array.spare_rows",
        "device.faults",
        "device.g_max_siemens",
        "device.g_min_siemens",
        "hierarchy",
    )
    faults: Annotated[
        FaultMap,
        Option(
            off=None,
            path=True,
            to_json=_fault_summary,
            metavar="MAP.csv",
            help="Stuck cells of one chip (chip,tile,core,position,row,column,stuck), which arrays and lines avoid.",
        ),
    ]

    def run(self, program: PlacedProgram, target: Target) -> PlacedProgram:
        """Return the program with new addresses within each core, and the lines of its arrays."""
        tiled = program.analog.tiled
        free = _free_positions(program, target)
        addresses, remaps = [], []
        parts = zip(tiled.matrix.matrices, tiled.tables, program.analog.analog, program.addresses, strict=True)
        for matrix, table, analog, own in parts:
            layer = _ChipMatrix(MappedMatrix(matrix, table, analog, array_shape(target), target), self.faults)
            moved, before = layer.moved(own, free)
            addresses.append(moved)
            remaps.append(layer.remap(moved, before))
        return replace(program, addresses=tuple(addresses), remaps=tuple(remaps))

    def record(self, program: PlacedProgram) -> RemapRecord:
        """Weighted error of the stuck cells before and after lines were moved."""
        matrix = program.analog.tiled.matrix
        return RemapRecord.of([(matrix.first_site(number).name, each) for number, each in enumerate(program.remaps)])


def _free_positions(program: PlacedProgram, target: Target) -> dict[tuple[int, ...], set[int]]:
    """Positions that no array has, spares included, of each core that has arrays."""
    every = range(target.hierarchy.positions_per_core)
    free: dict[tuple[int, ...], set[int]] = {}
    for *core, position in (row for own in program.addresses for row in own.tolist()):
        free.setdefault(tuple(core), set(every)).discard(position)
    return free


@dataclass(frozen=True)
class LineOrder:
    """Where the lines of one array position are; as in ``Remapping``."""

    words: IntArray
    places: IntArray
    swapped: npt.NDArray[np.bool_]

    @classmethod
    def unchanged(cls, shape: ArrayShape) -> LineOrder:
        """As the mapping numbers them."""
        return cls(np.arange(shape.rows), np.arange(shape.tile_columns), np.zeros(shape.tile_columns, dtype=bool))


@dataclass(frozen=True)
class ArrayPosition:
    """The cells that one array position should have, and which of them are stuck.

    Attributes:
        shape: array geometry.
        lines: word lines and bit lines of an array, spares included.
        wanted: [copies, rows, columns + extra], in level steps above no conductance.
        weights: [copies, columns + extra], squared place value of a level step; 0 for columns without weights.
        rows, cols: that are in use.
        stuck: [stuck, 4]: copy, word line, bit line, 1 on or 0 off.
        at: conductance of cells that are stuck off and on, level steps.
    """

    shape: ArrayShape
    lines: tuple[int, int]
    wanted: Values
    weights: Values
    rows: int
    cols: int
    stuck: IntArray
    at: Values

    def error(self, order: LineOrder) -> float:
        """Weighted error of the stuck cells with the lines in this order."""
        copy, word, bit, _ = self.stuck.T
        row, column = _inverse(order.words, self.lines[0])[word], self._columns(order)[bit]
        met = (row >= 0) & (row < self.rows) & (column >= 0)
        copy, row, column = copy[met], row[met], column[met]
        error = self._deviation(self.wanted[copy, row, column], met) * self.weights[copy, column]
        return float(error.sum())

    def best(self) -> LineOrder:
        """Rows and columns assigned in turn as long as the error falls."""
        # Each assignment is exact for the other lines as they are, so that the error never rises from step to step. The
        # result is an optimum of rows alone and of columns alone, and not always of both together.
        order = LineOrder.unchanged(self.shape)
        error = self.error(order)
        for _ in range(ROUNDS):
            tried = self.best_columns(self.best_rows(order))
            after = self.error(tried)
            if not after < error * (1 - LEAST_GAIN):
                break
            order, error = tried, after
        return order

    def best_rows(self, order: LineOrder) -> LineOrder:
        """The best word lines for the columns as they are; a row stays in its read, or goes to a spare line."""
        copy, word, bit, _ = self.stuck.T
        column = self._columns(order)[bit]
        met = column >= 0
        copy, word, column = copy[met], word[met], column[met]
        # The cost of a row on a word line: how far the stuck cells of that line would change its weights. The arrays of
        # a position have one order of lines, so that their costs add up.
        error = self._deviation(self.wanted[copy, : self.rows, column], met)  # [stuck, rows]
        cost = np.zeros((self.lines[0], self.rows))
        np.add.at(cost, word, error * self.weights[copy, column][:, None])
        lines, rows = np.arange(self.lines[0])[:, None], np.arange(self.rows)
        active = self.shape.rows_active
        # Rows of different reads must not change places, since a read's rows are driven together and, with signed
        # fragments, share signs. A line of another read so costs more than all errors together. A spare line belongs to
        # no read: it may replace a line of any.
        apart = (lines < self.shape.rows) & (lines // active != rows // active)
        chosen = _assign(np.where(apart, cost.sum() + 1, cost).T)
        return replace(order, words=_completed(chosen, self.shape.rows, self.lines[0]))

    def best_columns(self, order: LineOrder) -> LineOrder:
        """The best bit lines for the rows as they are, each column with or without its polarities swapped."""
        shape, width = self.shape, self.shape.columns_per_weight
        where = place_lines(shape, shape.tile_columns + spare_places(self.lines, shape))  # [places, width]
        place = np.full(self.lines[1], -1)
        place[where] = np.arange(len(where))[:, None]
        cell = np.zeros(self.lines[1], dtype=np.int64)
        cell[where] = np.arange(width)
        copy, word, bit, _ = self.stuck.T
        row = _inverse(order.words, self.lines[0])[word]
        met = (row >= 0) & (row < self.rows) & (place[bit] >= 0)
        copy, row, bit = copy[met], row[met], bit[met]
        # A place is all adjacent bit lines of one weight. A stuck cell replaces the cell of the weight with the same
        # number among them, or that of the other polarity where the two are swapped.
        costs = []
        for held in (cell[bit], partners(shape)[cell[bit]]):
            columns = np.arange(self.cols) * width + held[:, None]  # [stuck, cols]
            error = self._deviation(self.wanted[copy[:, None], row[:, None], columns], met)
            cost = np.zeros((len(where), self.cols))
            np.add.at(cost, place[bit], error * self.weights[copy[:, None], columns])
            costs.append(cost.T)
        # Whether to swap is free for each column and place, so that the better one is the cost of that pairing.
        swap = costs[1] < costs[0]
        chosen = _assign(np.minimum(*costs))
        swapped = np.zeros(shape.tile_columns, dtype=bool)
        swapped[: self.cols] = swap[np.arange(self.cols), chosen]
        return LineOrder(order.words, _completed(chosen, shape.tile_columns, len(where)), swapped)

    def _columns(self, order: LineOrder) -> IntArray:
        """Column of the mapping on each bit line, -1 where there is none: [bit lines]."""
        # By the function that arranges the cells for the chip: the error counts the lines that are programmed.
        remap = remap_of([order], np.zeros((0, 4), np.int32), self.lines, 0.0, 0.0)
        return _inverse(bit_lines(remap, slice(0, 1), self.shape)[0], self.lines[1])

    def _deviation(self, wanted: Values, met: npt.NDArray[np.bool_]) -> Values:
        """Squared deviation of the stuck cells ``met`` from the wanted levels [stuck, ...]."""
        # An unformed cell (wanted: no conductance) that is stuck off stays without conductance (``faults.held``), also
        # where the target states a conductance for cells that are stuck off.
        on = self.stuck[met, 3].reshape(-1, *[1] * (wanted.ndim - 1))
        return np.where((on == 0) & (wanted == 0), 0.0, wanted - self.at[on]) ** 2


def _inverse(order: IntArray, room: int) -> IntArray:
    """Which entry is at each of ``room`` places, -1 where there is none."""
    entry = np.full(room, -1)
    entry[order] = np.arange(len(order))
    return entry


def _assign(cost: Values) -> IntArray:
    """Place of each line [n] that costs least in all, from cost [n, places]; among equals those that stay."""
    from scipy.optimize import linear_sum_assignment  # needed here only, and slow to import

    # Places other than a line's own cost a little more, in all less than the smallest gain that counts: among solutions
    # of equal error the one that moves fewest lines is found.
    stays = np.arange(len(cost))
    nudged = cost + cost.max(initial=0.0) * LEAST_GAIN / max(1, len(cost))
    nudged[stays, stays] = cost[stays, stays]
    chosen: IntArray = linear_sum_assignment(nudged)[1].astype(np.int64)
    return chosen


def _completed(chosen: IntArray, count: int, room: int) -> IntArray:
    """Places of all ``count`` lines: those chosen, then the idle ones, which stay where they can."""
    free = np.setdiff1d(np.arange(room), chosen)
    idle = np.arange(len(chosen), count)
    stay = np.isin(idle, free)
    idle[~stay] = np.setdiff1d(free, idle[stay])[: int((~stay).sum())]
    return np.concatenate([chosen, idle])


def remap_of(
    orders: Sequence[LineOrder], faults: npt.NDArray[np.int32], lines: tuple[int, int], before: float, after: float
) -> Remapping:
    """The orders of the array positions of a layer."""

    def stacked(parts: list[IntArray]) -> CodeArray:
        return np.stack(parts).astype(np.int16)

    swapped = np.stack([order.swapped for order in orders])
    words, places = stacked([order.words for order in orders]), stacked([order.places for order in orders])
    return Remapping(
        word_lines=words,
        places=places,
        swapped=swapped,
        faults=faults,
        lines=lines,
        weighted_error_before=before,
        weighted_error_after=after,
    )


@dataclass(frozen=True)
class _ChipMatrix:
    """A matrix on the chip."""

    mapped: MappedMatrix
    faults: FaultMap

    def moved(
        self, addresses: npt.NDArray[np.int32], free: dict[tuple[int, ...], set[int]]
    ) -> tuple[npt.NDArray[np.int32], float]:
        """Addresses of least error, and the error before; ``free`` changes as positions are taken.

        Positions are compared by the error that they have before lines move, as the lines of an array are assigned for
        one position only. An array stays in its core, so that the flows between tiles do not change.
        """
        cores: dict[tuple[int, ...], list[int]] = {}
        for number, (*core, _) in enumerate(addresses.tolist()):
            cores.setdefault(tuple(core), []).append(number)
        positions = {core: sorted({*addresses[own, 3].tolist(), *free[core]}) for core, own in cores.items()}
        known = {
            (*core, position): self.faults.of((*core, position))
            for core, each in positions.items()
            for position in each
        }
        costs: dict[int, dict[int, float]] = {}
        for number, levels in self._arrays():
            core = tuple(addresses[number, :3].tolist())
            costs[number] = {
                place: self._position(number, levels, known[*core, place]).error(LineOrder.unchanged(self.mapped.shape))
                for place in positions[core]
                if len(known[*core, place])
            }
        moved = addresses.copy()
        for core, own in cores.items():
            places = [*addresses[own, 3].tolist(), *sorted(free[core])]  # an array's own place is on the diagonal
            cost = np.array([[costs[number].get(place, 0.0) for place in places] for number in own])
            moved[own, 3] = np.array(places)[_assign(cost)]
            free[core] = set(places) - set(moved[own, 3].tolist())
        before = sum(costs[number].get(int(place), 0.0) for number, place in enumerate(addresses[:, 3]))
        return moved, before

    def remap(self, addresses: npt.NDArray[np.int32], before: float) -> Remapping:
        """Lines of every array position at these addresses."""
        copies, lines = self.mapped.shape.arrays_per_tile, physical_lines(self.mapped.target)
        orders, faults, after = [], [np.zeros((0, 4), np.int32)], 0.0
        wanted: list[npt.NDArray[np.uint8]] = []
        for number, levels in self._arrays():
            wanted.append(levels)
            if len(wanted) < copies:
                continue
            first = number + 1 - copies
            stuck = [self.faults.of(addresses[first + copy].tolist()) for copy in range(copies)]
            position = self._position(first, np.concatenate(wanted), *stuck)
            orders.append(position.best() if len(position.stuck) else LineOrder.unchanged(self.mapped.shape))
            after += position.error(orders[-1])
            faults.append((position.stuck + np.array([first, 0, 0, 0])).astype(np.int32))
            wanted = []
        if not orders:
            empty = remap_of([LineOrder.unchanged(self.mapped.shape)], faults[0], lines, 0.0, 0.0)
            none = slice(0, 0)
            return replace(
                empty, word_lines=empty.word_lines[none], places=empty.places[none], swapped=empty.swapped[none]
            )
        return remap_of(orders, np.concatenate(faults), lines, before, after)

    def _arrays(self) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        """Number and level codes [1, rows, columns + extra] of every array, in the order of the mapping."""
        number = 0
        for chunk in encode_cells(self.mapped):
            for packed in chunk:
                columns = self.mapped.shape.columns + self.mapped.shape.extra
                yield number, unpack_levels(packed[None], self.mapped.shape.storage_bits, columns)
                number += 1

    def _position(self, first: int, levels: npt.NDArray[np.uint8], *stuck: IntArray) -> ArrayPosition:
        """Arrays from ``first`` on as one position, with the stuck cells [stuck, 3] of each."""
        head, unit = self.mapped.table[first], self.mapped.target.unit_siemens
        marked = [np.insert(cells, 0, copy, axis=1) for copy, cells in enumerate(stuck)]
        weights = np.stack([self._weights(first + copy) for copy in range(len(stuck))])
        on, off = stuck_siemens(self.mapped.target.device)
        wanted = conductances(levels, self.mapped.target) / unit
        rows, cols = int(head["rows"]), int(head["cols"])
        at = np.array([off, on]) / unit
        return ArrayPosition(
            shape=self.mapped.shape,
            lines=physical_lines(self.mapped.target),
            wanted=wanted,
            weights=weights,
            rows=rows,
            cols=cols,
            stuck=np.concatenate(marked),
            at=at,
        )

    def _weights(self, number: int) -> Values:
        """Squared place value of a level step on each bit line of an array: [columns + extra]."""
        shape, head, encoded = self.mapped.shape, self.mapped.table[number], self.mapped.encoded
        width = shape.columns_per_weight
        slices = np.arange(shape.slices) if int(head["slice"]) < 0 else np.array([int(head["slice"])])
        steps = np.tile(2.0 ** (shape.cell_bits * slices), shape.adjacent_polarities)  # [columns_per_weight]
        used = int(head["cols"])
        weights = np.zeros(shape.columns + shape.extra)
        weights[: used * width] = np.tile(steps**2, used)
        if shape.unit:
            # Its code undoes shift and flips: its error enters each weight, times the shift, and times full scale for
            # each flipped column.
            flips = encoded.flips[number, : used * width].reshape(used, width)
            factors = flips @ (steps * ((1 << shape.cell_bits) - 1)) - encoded.shift  # [used]
            weights[shape.columns] = (factors**2).sum()
        if shape.reference:  # it is subtracted from every column of weights
            weights[-1] = weights[: used * width].sum()
        return weights
