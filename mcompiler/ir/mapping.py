"""TILED, ANALOG and PLACED: which part of which matrix is on which array, how it is encoded, and where it is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mcompiler.ir.matrix import CodeArray, IntArray, MatrixProgram

TILE = np.dtype(
    [
        ("tile", np.int32),  # index of the array position within the layer; its arrays are consecutive
        ("group", np.int32),  # first group
        ("groups", np.int32),  # groups packed on the diagonal
        ("row", np.int32),  # first row, an index into the kept rows of the group
        ("rows", np.int32),  # word lines that hold weights: kept rows, those of packed groups together
        ("col", np.int32),  # first column, an index into the kept columns
        ("cols", np.int32),
        ("slice", np.int8),  # slice held, or -1: all, in adjacent columns
        ("polarity", np.int8),  # +1, -1, or 0: both in adjacent columns (or an encoding without pairs)
    ]
)
"""One row per physical array."""


@dataclass(frozen=True)
class TiledProgram:
    """TILED: the tile table of each matrix, and the arrays of the dense mapping.

    Attributes:
        tables: one structured array (dtype TILE) per matrix.
        dense: arrays of the dense mapping of each matrix (no compaction, no pruning, no replicas).
    """

    matrix: MatrixProgram
    tables: tuple[npt.NDArray[np.void], ...]
    dense: tuple[int, ...]

    @property
    def site_tables(self) -> tuple[npt.NDArray[np.void], ...]:
        """The table of the matrix of each site."""
        return tuple(self.tables[site.matrix] for site in self.matrix.sites)


@dataclass(frozen=True)
class EncodedMatrix:
    """How the cells of one matrix are encoded and converted.

    Attributes:
        shift: offset encoding: number that was added to every code before slicing; 0 otherwise.
        flips: bool [arrays, columns]: physical columns that are stored complemented.
        signs: polarised encoding: bool [arrays, reads, tile_columns]: columns of weights whose codes count negative in
            that read; None otherwise.
        gain: ADC codes per unit of level times input code; at most 8 significant bits, so that products are exact.
        zoom: int8 [arrays, columns]: binary steps by which the range of a bit line's conversion is finer than the
            layer's, its gain being ``gain * 2**zoom``; one conversion of a pair has the same on both lines. None: 0.
        lossless: every column of every array converts without loss.
        live: int64 [arrays], cells that hold part of a weight: kept rows times kept columns of their own group.
        clipped: share of conversions that clip on the calibration vectors; None without calibration.
        adc_bits: int64 [arrays]: fewest bits of a converter of this target's kind, one code per unit, with which every
            conversion of the array is lossless given its own cells; 0 where no number of bits suffices.
        steps: int64 [arrays], level steps (``Target.cell_steps``) of all cells of the array together.
    """

    shift: int
    flips: npt.NDArray[np.bool_]
    gain: float
    lossless: bool
    live: IntArray
    clipped: float | None
    adc_bits: IntArray
    steps: IntArray
    signs: npt.NDArray[np.bool_] | None = None
    zoom: npt.NDArray[np.int8] | None = None

    @property
    def adc_range(self) -> BitRange:
        """Fewest bits over all arrays of the layer."""
        if not len(self.adc_bits):
            return NO_BITS
        bits = self.adc_bits[self.adc_bits > 0].tolist()
        return BitRange(min(bits, default=None), max(bits) if len(bits) == len(self.adc_bits) else None)


@dataclass(frozen=True)
class BitRange:
    """Bits that the arrays of a layer need, from the one with fewest to the one with most.

    Attributes:
        min, max: None where there are no arrays, or none (min) or not all of them (max) have such a number.
    """

    min: int | None
    max: int | None

    def __str__(self) -> str:
        if self.min is None:
            return "-"
        return str(self.min) if self.min == self.max else f"{self.min} to {self.max or 'any'}"

    def as_json(self) -> dict[str, int | None]:
        """The object that JSON outputs hold."""
        return {"min": self.min, "max": self.max}


NO_BITS = BitRange(None, None)
"""Bit range of a layer without arrays."""


@dataclass(frozen=True)
class Replication:
    """Gain of copies of arrays in arrays, digital units and buffers; transfers between tiles are not included.

    Attributes:
        budget, arrays: arrays that may be used, and that are used.
        interval_before_s, interval_s, interval_bound_s: between two inferences with one copy of each layer, as it is,
            and the shortest that any copies within the budget allow.
        latency_before_s, latency_s, latency_bound_s: of one inference alone; no copies within the budget go below.
        placement_effort: effort of the placement that they were chosen with; None: not chosen for a placement.
    """

    budget: int
    arrays: int
    interval_before_s: float
    interval_s: float
    interval_bound_s: float
    latency_before_s: float
    latency_s: float
    latency_bound_s: float
    placement_effort: int | None = None


@dataclass(frozen=True)
class AnalogProgram:
    """ANALOG: one EncodedMatrix per matrix.

    Attributes:
        replicas: copies of the arrays of each matrix; empty: one of each. Copies are equal, cell by cell, and serve
            the vectors of its sites in turn.
        replication: gain of the copies; None without ``replicate``.
        turns: of each matrix, where layers take turns on the same arrays, written anew each time; empty: all of them
            are on the chips at once.
        batch: inferences that go through one turn before the next.
    """

    tiled: TiledProgram
    analog: tuple[EncodedMatrix, ...]
    replicas: tuple[int, ...] = ()
    replication: Replication | None = None
    turns: tuple[int, ...] = ()
    batch: int = 1

    @property
    def copies(self) -> tuple[int, ...]:
        """Copies of the arrays of each matrix."""
        return self.replicas or (1,) * len(self.analog)

    @property
    def site_copies(self) -> tuple[int, ...]:
        """Copies of the arrays of the matrix of each site."""
        return tuple(self.copies[site.matrix] for site in self.tiled.matrix.sites)

    def turn(self, number: int) -> AnalogProgram:
        """The program with the arrays of one turn only: layers of other turns have none."""
        tables = tuple(
            table if own == number else table[:0] for table, own in zip(self.tiled.tables, self.turns, strict=True)
        )
        return replace(self, tiled=replace(self.tiled, tables=tables), turns=())


@dataclass(frozen=True)
class Remapping:
    """Physical lines of an operation's arrays on a chip whose stuck cells are known.

    The arrays of one array position share the order of their lines. Lines are counted with spares: word lines after
    ``rows``, bit lines after the unit and reference columns.

    Attributes:
        word_lines: int16 [tiles, rows], word line of each row; no two the same.
        places: int16 [tiles, tile_columns], place of each column of weights: the bit lines p * columns_per_weight and
            following, or for p >= tile_columns spare ones; no two the same.
        swapped: bool [tiles, tile_columns], columns whose + and - cells have changed places (their sign is undone
            digitally).
        faults: int32 [stuck, 4], stuck cells of the arrays: array, word line, bit line, 1 on or 0 off.
        lines: word lines and bit lines of an array, spares included.
        weighted_error_before, weighted_error_after: sum over stuck cells of (deviation in level steps x place value)^2.
    """

    word_lines: CodeArray
    places: CodeArray
    swapped: npt.NDArray[np.bool_]
    faults: npt.NDArray[np.int32]
    lines: tuple[int, int]
    weighted_error_before: float
    weighted_error_after: float


@dataclass(frozen=True)
class PlacedProgram:
    """PLACED: int32 [replicas * arrays, 4] per matrix: chip, tile, core, array position within the core.

    Array a of replica r is row r * arrays + a.

    With ``remaps`` (one per matrix, or none at all) the arrays of a chip with known stuck cells.
    """

    analog: AnalogProgram
    addresses: tuple[npt.NDArray[np.int32], ...]
    chips: int
    remaps: tuple[Remapping, ...] = ()

    @property
    def site_addresses(self) -> tuple[npt.NDArray[np.int32], ...]:
        """Addresses of the arrays of the matrix of each site."""
        return tuple(self.addresses[site.matrix] for site in self.analog.tiled.matrix.sites)
