"""What a weight encoding decides, and what follows from it for every encoding alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from mcompiler.encodings.settings import EncodingSettings, Pedestal, Violations, flip_violations, pair_violations
from mcompiler.encodings.shape import ArrayShape, IntArray

BoolArray = npt.NDArray[np.bool_]
Levels = npt.NDArray[np.uint8]


class Decoding(Enum):
    """How the codes of a column become its integer sum.

    CLEAN: the pedestal is gone before the one conversion (analog difference). COUNT: one conversion of sum + pedestal,
    the digital count of active rows undoes it. TWO: two conversions, subtracted (a digitised pair or reference column).
    """

    CLEAN = "clean"
    COUNT = "count"
    TWO = "two"


class CodesDoNotFitError(ValueError):
    """Codes of a matrix that its cells cannot hold; the message says why, and what to do."""


MAX_CODE_BITS = 16
"""Bits of the largest weight code, sign included."""


@dataclass(frozen=True)
class CodeRange:
    """Weight codes that the cells of a target can hold, both ends included."""

    smallest: int
    largest: int


@dataclass(frozen=True)
class WeightEncoding(ABC):
    """How integer weight codes become cells, and how reads of these cells become sums of codes again.

    The value of a weight is the sum over its cells of (sign of the polarity) x 2^(cell_bits x slice) x (level step),
    minus the shift of its matrix; with ``signed_fragments`` that times the sign of its fragment. ``level_table`` and
    ``shift`` are an encoding's to choose, within that formula: simulation, mapped model and cost know the formula only.

    An encoding is a frozen dataclass that derives from this class, overrides what differs from the defaults (one cell
    of one sign, every bit line converted on its own), and is registered by name (``mcompiler.encodings``). Its fields
    are what it takes from the [encoding] section of a target.

    Attributes:
        pedestal: where the current of G_min goes.
    """

    pedestal: Pedestal

    polarity_signs: ClassVar[tuple[int, ...]] = (1,)
    """Sign of each cell of a slice. With (1, -1) the tile table calls the polarities +1 and -1, and 0 both together."""

    polarity_marks: ClassVar[tuple[str, ...]] = ("",)
    """What netlists call each of them."""

    holder: ClassVar[str] = "a cell holds"
    """What holds a slice of a weight, with its verb; for messages."""

    holder_noun: ClassVar[str] = "cell"
    """The same, as a noun."""

    sign_place: ClassVar[str] = ""
    """Where the sign of a code is, if it takes none of the bits of the cells; "" if it does, or there is none."""

    signed_fragments: ClassVar[bool] = False
    """Whether each read has one sign for each column of weights; weights of both signs in it are an error."""

    zero_is_empty: ClassVar[bool] = True
    """Whether the cells of code 0 are all at their lowest level, so that zeros save conversion range."""

    level_table_violation: ClassVar[str] = ""
    """Why levels from a table (``device.level_means``) cannot be used with it; "" if they can."""

    # --- the target ---------------------------------------------------------------------------------------------------

    @classmethod
    def of(cls, settings: EncodingSettings) -> Self:
        """The encoding of a target, from settings without violations."""
        return cls(pedestal=settings.pedestal)

    @classmethod
    def violations(cls, settings: EncodingSettings) -> Violations:
        """What the [encoding] section says that this encoding cannot do."""
        yield from flip_violations(settings)
        yield from pair_violations(settings)

    def layout_facts(self, settings: EncodingSettings, rows_active: int) -> tuple[str, ...]:
        """How weights are laid out, in words for the report, slices aside."""
        return ()

    # --- codes and cells ----------------------------------------------------------------------------------------------

    @property
    def polarities(self) -> int:
        """Cells of a slice of a weight."""
        return len(self.polarity_signs)

    @abstractmethod
    def code_range(self, shape: ArrayShape, shift: int = 0) -> CodeRange:
        """Codes that the cells of a weight can hold. Of levels from a table only its entries occur between the ends."""

    @abstractmethod
    def magnitudes(self, codes: IntArray, shift: int) -> IntArray:
        """What the slices of each polarity hold of codes: [n] to [n, polarities], from 0 on."""

    def nominal_shift(self, shape: ArrayShape) -> int:
        """Shift of a matrix whose codes use all bits of the cells."""
        return 0

    def fit_codes(self, low: int, high: int, shape: ArrayShape) -> int:
        """The shift with which cells hold the codes of a matrix.

        Args:
            low, high: the smallest and the largest code; 0 where there are none.
            shape: array geometry.

        Raises:
            CodesDoNotFitError: no shift is enough.
        """
        span = self.code_range(shape)
        if low < span.smallest or high > span.largest:
            raise CodesDoNotFitError(
                f"weight codes from {low} to {high} do not fit into {span.smallest}..{span.largest}, which is what "
                f"{self.holder} in {capacity(shape)}"
            )
        return 0

    def level_table(self, shape: ArrayShape, shift: int, codes: CodeRange | None = None) -> Levels:
        """Levels of every code: uint8 [codes + 1, polarities, slices], lowest slice first.

        Args:
            shape: array geometry.
            shift: of the matrix.
            codes: those of the matrix, so that cells which no code needs take no memory; None: ``table_range``.

        Returns:
            Row i belongs to code ``codes.smallest + i``; the last row is a cell that holds no weight (all zero).
        """
        span = self.table_range(shape, shift) if codes is None else codes
        levels = shape.digits(self.magnitudes(np.arange(span.smallest, span.largest + 1, dtype=np.int64), shift))
        return np.concatenate([levels, np.zeros((1, *levels.shape[1:]), dtype=np.int64)]).astype(np.uint8)

    def table_range(self, shape: ArrayShape, shift: int) -> CodeRange:
        """The codes that the cells hold and a weight can have: a weight has at most 16 bits, however many cells."""
        span, half = self.code_range(shape, shift), 1 << (MAX_CODE_BITS - 1)
        return CodeRange(max(span.smallest, -half), min(span.largest, half - 1))

    def polarities_of(self, polarity: int) -> tuple[int, ...]:
        """Which polarities an array holds whose entry in the tile table is +1, -1, or 0 for all of them."""
        return tuple(range(self.polarities)) if polarity == 0 else (self.polarity_signs.index(polarity),)

    def rows_together(self, shape: ArrayShape) -> int:
        """Successive rows that ``reorder`` moves together only; an array holds a whole number of them."""
        return 1

    # --- columns: flips, unit column, extreme sums -------------------------------------------------------------------

    @property
    def unit_column(self) -> bool:
        """Whether an array has a column of cells at level 1, to sum the inputs of every read."""
        return False

    @property
    def digital_sum(self) -> bool:
        """Whether the inputs are summed digitally, to undo shift and flips."""
        return False

    def flips(self, sums: IntArray, live: IntArray, full: int) -> BoolArray | None:
        """Columns that are stored complemented (level l as ``full`` - l); None: never any.

        Args:
            sums: of the level steps of each column, [tiles, tile_columns, polarities, slices].
            live: word lines with weights, [tiles].
            full: level step of the highest level of a slice.
        """
        return None

    def worst_sum(self, full: int, rows: int, rows_active: int) -> int:
        """Largest sum of level steps of a column in one read, over all weights that there could be.

        Args:
            full: level step of the highest level of a slice.
            rows, rows_active: of an array.
        """
        return rows_active * full

    def sign_conflict(self, shape: ArrayShape) -> str:
        """What to do about a fragment with weights of both signs; asked of encodings with ``signed_fragments``."""
        return (
            f"with this encoding a column has one sign in {shape.rows_active} rows that are active at once: train with "
            "weights of one sign there, or take another encoding (--set encoding.weights=NAME)"
        )

    # --- conversions --------------------------------------------------------------------------------------------------

    @property
    def converters(self) -> tuple[int, ...]:
        """Of each polarity, the polarity whose converter serves its bit line too, after they have been subtracted."""
        return tuple(range(self.polarities))

    @property
    def signed(self) -> bool:
        """Whether a conversion sees a difference of bit lines, so that the converter must have signed codes."""
        return self.conversions < self.polarities

    @property
    def conversions(self) -> int:
        """Conversions of one slice of a weight."""
        return len(set(self.converters))

    @property
    def lines_per_conversion(self) -> int:
        """Bit lines that one conversion serves."""
        return self.polarities // self.conversions

    def converts(self, polarity: npt.NDArray[np.integer[Any]]) -> BoolArray:
        """Whether arrays of these polarities (+1, -1, 0 for all) have converters in use: bool [arrays]."""
        signs = [self.polarity_signs[each] for each in self.converters]
        return np.asarray((polarity == 0) | np.isin(polarity, signs))

    def seen(self, lines: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
        """What converters see of the values of bit lines: ``polarities`` along ``axis`` to ``conversions``."""
        return self._joined(lines, axis, self.polarity_signs)

    def seen_variance(self, lines: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
        """Variance of what converters see, from that of bit lines (those of a difference add up)."""
        return self._joined(lines, axis, (1,) * self.polarities)

    def at_converters(self, lines: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
        """Of values that bit lines have from their converters, one for each conversion."""
        return lines if not self.signed else np.take(lines, sorted(set(self.converters)), axis)

    def _joined(self, lines: npt.NDArray[Any], axis: int, signs: tuple[int, ...]) -> npt.NDArray[Any]:
        if not self.signed:
            return lines
        found: dict[int, npt.NDArray[Any]] = {}
        for polarity, (converter, sign) in enumerate(zip(self.converters, signs, strict=True)):
            part = np.take(lines, polarity, axis)
            # The line that owns the converter comes first and counts positive: 'signs' are relative to it.
            add = np.add if sign == signs[converter] else np.subtract
            found[converter] = add(found[converter], part) if converter in found else part
        return np.stack([found[converter] for converter in sorted(found)], axis)

    def extremes(self, peaks: IntArray, held: slice) -> tuple[IntArray, IntArray]:
        """Lowest and highest value that any conversion of an array sees, where any inputs may be at 0.

        Args:
            peaks: largest sums of the columns of one kind, [..., polarities, slices]; never negative.
            held: the polarities of this array; its conversions may see others as well.

        Returns:
            Two arrays [...], the lowest at most 0.
        """
        low = np.zeros(peaks.shape[:-2], dtype=peaks.dtype)
        high = low.copy()
        converters = {self.converters[polarity] for polarity in range(self.polarities)[held]}
        for polarity, converter in enumerate(self.converters):
            if converter not in converters:
                continue
            peak = peaks[..., polarity, :].max(axis=-1)
            if self.polarity_signs[polarity] == self.polarity_signs[converter]:
                high = np.maximum(high, peak)
            else:  # alone, without what it is subtracted from: the inputs of those rows may be at 0
                low = np.minimum(low, -peak)
        return low, high

    # --- pedestal -----------------------------------------------------------------------------------------------------

    @property
    def cancels_pedestal(self) -> bool:
        """Whether the pedestals of the cells of a weight cancel when their codes are added with their signs."""
        return sum(self.polarity_signs) == 0

    @property
    def reference_column(self) -> bool:
        """Whether an array has a column of G_min cells."""
        return self.pedestal in (Pedestal.REFERENCE_COLUMN, Pedestal.DIGITISED_REFERENCE)

    @property
    def converts_reference(self) -> bool:
        """Whether the code of that column is subtracted from those of others."""
        return self.pedestal is Pedestal.DIGITISED_REFERENCE and not self.cancels_pedestal

    @property
    def decoding(self) -> Decoding:
        """How conversions are undone."""
        if self.signed or self.pedestal is Pedestal.REFERENCE_COLUMN:  # gone before any conversion
            return Decoding.CLEAN
        if self.pedestal is Pedestal.DIGITAL_COUNT and not self.cancels_pedestal:
            return Decoding.COUNT
        return Decoding.TWO  # of a pair as well: what is taken off both ends, count or reference, cancels


def capacity(shape: ArrayShape) -> str:
    """What the cells of a weight hold, and how to change that; for messages about codes that do not fit."""
    return (
        f"{shape.slices} slice(s) of {shape.cell_bits} bits; raise encoding.slices (--set encoding.slices=N) "
        "or have them quantised again (--requantise)"
    )
