"""The arrays of one chip, as seen from their word and bit lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.conductance.converters import AdcTransfer
from mcompiler.effects import Correlation
from mcompiler.encodings import ArrayShape, Levels
from mcompiler.ir import IntArray

Values = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Variances:
    """Variances of the same quantities that fluctuate for two reasons; None where nothing fluctuates so.

    Attributes:
        per_read: between reads: each read draws anew.
        per_inference: between inferences: all reads of one inference share a draw.
    """

    per_read: Values | None = None
    per_inference: Values | None = None

    def map(self, function: Callable[[Values], Values]) -> Variances:
        """The same function applied to both."""
        reads, inferences = self.per_read, self.per_inference
        return Variances(
            None if reads is None else function(reads),
            None if inferences is None else function(inferences),
        )

    @classmethod
    def combined(cls, parts: Sequence[Variances], combine: Callable[[Sequence[Values]], Values]) -> Variances:
        """One value of those that are given; the parts are all of one chip, and so fluctuate for the same reasons."""
        reads = [part.per_read for part in parts if part.per_read is not None]
        inferences = [part.per_inference for part in parts if part.per_inference is not None]
        return cls(combine(reads) if reads else None, combine(inferences) if inferences else None)


@dataclass(frozen=True)
class LineStates:
    """Cells that change between two states, by what they add to bit lines.

    Attributes:
        loss: what a cell adds less for a unit of input code in the lower state; 0 where it has one state only.
        low: probability of the lower state.
        correlation: between reads or between inferences.
    """

    loss: Values
    low: float
    correlation: Correlation


@dataclass(frozen=True)
class Fluctuations:
    """What changes while a chip runs; all its arrays have one shape.

    Attributes:
        variance: of normal parts.
        states: of cells with two states; those of one entry, and of different ones, are independent of one another.
    """

    variance: Variances = field(default_factory=Variances)
    states: tuple[LineStates, ...] = ()

    @property
    def steady(self) -> bool:
        """Whether nothing fluctuates."""
        return self.variance.per_read is None and self.variance.per_inference is None and not self.states

    def map(self, function: Callable[[Values], Values]) -> Fluctuations:
        """The same function applied to all arrays: one that moves or leaves out values."""
        states = (replace(each, loss=function(each.loss)) for each in self.states)
        return Fluctuations(self.variance.map(function), tuple(states))

    def scaled(self, factor: npt.ArrayLike) -> Fluctuations:
        """Of the quantities times a factor."""
        times = np.asarray(factor)
        states = (replace(each, loss=each.loss * times) for each in self.states)
        return Fluctuations(self.variance.map(partial(np.multiply, times**2)), tuple(states))

    def to_single_precision(self) -> Fluctuations:
        """As float32."""
        return self.map(lambda values: values.astype(np.float32))

    @classmethod
    def combined(cls, parts: Sequence[Fluctuations], combine: Callable[[Sequence[Values]], Values]) -> Fluctuations:
        """One of parts that are all of one chip, and so fluctuate for the same reasons."""
        states = (
            replace(same[0], loss=combine([each.loss for each in same]))
            for same in zip(*(part.states for part in parts), strict=True)
        )
        return cls(Variances.combined([part.variance for part in parts], combine), tuple(states))


STEADY = Fluctuations()
"""Nothing fluctuates."""


@dataclass(frozen=True)
class SharedLines:
    """Reference columns that are subtracted before conversion, by what fluctuates in them.

    One draw of such a column is common to all bit lines from which it is subtracted. Its mean is in their levels.

    Attributes:
        fluctuations: float32 [rows, references].
        share: float32 [references, ...]: of its current in the value of each conversion, gains of converters included.
    """

    fluctuations: Fluctuations
    share: Values

    def of(self, rows: slice) -> SharedLines:
        """Some of the word lines."""
        return replace(self, fluctuations=self.fluctuations.map(lambda values: values[rows]))


@dataclass(frozen=True)
class ArrayState:
    """Arrays of one chip, unit and reference columns included.

    Attributes:
        currents: float64 [arrays, rows, columns + extra]: what a unit of input code on a word line adds to a bit line,
            in level steps; G_min, wires and input converters included.
        fluctuations: of that, the same shape, in level steps.
        offset: float64 [arrays, columns + extra]: current of a bit line without inputs, in level steps.
        gain: float64 [arrays, columns + extra]: gain of each bit line's converter over the nominal one.
        trim: float64 [arrays, columns + extra]: codes that the converter adds before it rounds.
        bow: float64 [arrays, columns + extra]: largest deviation of its characteristic, in codes.
        scale: float64 [arrays]: digital factor on the codes of an array.
    """

    currents: Values
    fluctuations: Fluctuations
    offset: Values
    gain: Values
    trim: Values
    bow: Values
    scale: Values

    @classmethod
    def with_nominal_converters(
        cls, currents: Values, fluctuations: Fluctuations, offset: Values, scale: Values
    ) -> ArrayState:
        """Arrays whose converters have no errors."""
        lines = np.zeros((len(currents), currents.shape[2]))
        return cls(currents, fluctuations, offset, gain=lines + 1, trim=lines, bow=lines, scale=scale)

    def of(self, arrays: slice) -> ArrayState:
        """Some of the arrays."""
        return ArrayState(
            currents=self.currents[arrays],
            fluctuations=self.fluctuations.map(lambda values: values[arrays]),
            offset=self.offset[arrays],
            gain=self.gain[arrays],
            trim=self.trim[arrays],
            bow=self.bow[arrays],
            scale=self.scale[arrays],
        )

    def less_reference(self) -> ArrayState:
        """With the last column, the reference, subtracted from all before they are converted.

        What fluctuates in the reference is not: it is common to all columns (``SharedLines``).
        """
        currents, offset = self.currents - self.currents[:, :, -1:], self.offset - self.offset[:, -1:]
        return replace(self, currents=currents, offset=offset)

    def added(self, gain: float) -> Values:
        """Codes without inputs, before rounding, of converters of this nominal gain: [arrays, columns + extra]."""
        return self.offset * self.gain * gain + self.trim


Realise = Callable[[int, Levels], ArrayState]
"""From the number of the first array and level codes uint8 [arrays, rows, columns + extra] to arrays of one chip."""


@dataclass(frozen=True)
class ExtraColumns:
    """Unit and reference columns of the arrays that a read block joins, as one chip has them.

    Attributes:
        currents: float32 [rows, units + references]: units of all arrays first.
        fluctuations: of that, the same shape.
        offset, bow: float32 [units + references].
        gain: float32 [units + references]: of each column's converter over the nominal one.
        scale: float64 [units + references]: digital factor on their codes.
        constant: float64 [units + references]: what the digital side adds to their scaled codes, in codes.
        units, references: how many; an array has one of each kind or none.
        owner: int64 [conversions, channels]: which array holds the bit line of a conversion.
    """

    currents: Values
    fluctuations: Fluctuations
    offset: Values
    bow: Values
    gain: Values
    scale: Values
    constant: Values
    units: int
    references: int
    owner: IntArray

    def of(self, rows: slice) -> ExtraColumns:
        """Some of the word lines."""
        fluctuations = self.fluctuations.map(lambda values: values[rows])
        return replace(self, currents=self.currents[rows], fluctuations=fluctuations)


def extra_columns_of(
    state: ArrayState, adc: AdcTransfer, pedestal: float, shape: ArrayShape, *, owner: IntArray
) -> ExtraColumns | None:
    """Unit and reference columns that are converted, of the arrays of a tile; None where there are none.

    Args:
        state: of those arrays.
        adc: the layer's converter.
        pedestal: what the product adds to every bit line again.
        shape: which columns there are, and whether a reference is converted or subtracted before it.
        owner: as in ``ExtraColumns``.
    """
    digitised = shape.encoding.converts_reference
    lines = [shape.columns] * shape.unit + [shape.columns + shape.unit] * digitised
    if not lines:
        return None

    def pick(values: Values) -> Values:
        return np.concatenate([values[..., line].T for line in lines], axis=-1)  # [..., lines of all arrays]

    gain, arrays = pick(state.gain), len(state.gain)
    return ExtraColumns(
        currents=(pick(state.currents) * gain - pedestal).astype(np.float32),
        fluctuations=state.fluctuations.map(pick).scaled(gain).to_single_precision(),
        offset=pick(state.added(adc.gain)).astype(np.float32),
        bow=pick(state.bow).astype(np.float32),
        gain=gain.astype(np.float32),
        scale=np.tile(state.scale, len(lines)),
        constant=np.zeros(arrays * len(lines)),
        units=arrays * shape.unit,
        references=arrays * digitised,
        owner=owner,
    )
