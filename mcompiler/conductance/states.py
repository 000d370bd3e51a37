"""What the arrays of one chip do, as seen from their word and bit lines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.conductance.converters import AdcTransfer
from mcompiler.encodings import Levels
from mcompiler.geometry import ArrayShape
from mcompiler.ir import IntArray
from mcompiler.target import Target

Values = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class ArrayState:
    """What arrays of one chip do, unit and reference columns included.

    Attributes:
        currents: float64 [arrays, rows, columns + extra]: what a unit of input code on a word line adds to a bit line,
            in level steps; G_min, wires and input converters included.
        variance: the same shape: variance of that between reads (float64), and between inferences as an imaginary part
            (complex128); None where nothing fluctuates.
        offset: float64 [arrays, columns + extra]: what a bit line carries without inputs, in level steps.
        gain: float64 [arrays, columns + extra]: gain of each bit line's converter over the nominal one.
        trim: float64 [arrays, columns + extra]: codes that the converter adds before it rounds.
        bow: float64 [arrays, columns + extra]: largest deviation of its characteristic, in codes.
        scale: float64 [arrays]: digital factor on the codes of an array.
    """

    currents: Values
    variance: Values | None
    offset: Values
    gain: Values
    trim: Values
    bow: Values
    scale: Values

    @classmethod
    def plain(cls, currents: Values, variance: Values | None, offset: Values, scale: Values) -> ArrayState:
        """With converters as they should be."""
        lines = np.zeros((len(currents), currents.shape[2]))
        return cls(currents, variance, offset, lines + 1, lines, lines, scale)

    def of(self, arrays: slice) -> ArrayState:
        """Some of the arrays."""
        return ArrayState(
            self.currents[arrays], None if self.variance is None else self.variance[arrays], self.offset[arrays],
            self.gain[arrays], self.trim[arrays], self.bow[arrays], self.scale[arrays],
        )  # fmt: skip

    def less_reference(self) -> ArrayState:
        """With the last column, the reference, subtracted from all before they are converted."""
        variance = None if self.variance is None else self.variance + self.variance[:, :, -1:]
        currents, offset = self.currents - self.currents[:, :, -1:], self.offset - self.offset[:, -1:]
        return replace(self, currents=currents, variance=variance, offset=offset)

    def added(self, gain: float) -> Values:
        """Codes without inputs, before rounding, of converters of this nominal gain: [arrays, columns + extra]."""
        return self.offset * self.gain * gain + self.trim


Realise = Callable[[int, Levels], ArrayState]
"""From the number of the first array and level codes uint8 [arrays, rows, columns + extra] to arrays of one chip."""


@dataclass(frozen=True)
class Beside:
    """Unit and reference columns of the arrays that a read block joins, as one chip has them.

    Attributes:
        currents: float32 [rows, units + references]: units of all arrays first.
        variance: the same shape, or None.
        offset, bow: float32 [units + references].
        scale: float64 [units + references]: digital factor on their codes.
        constant: float64 [units + references]: what the digital side adds to their scaled codes, in codes.
        units, references: how many; an array has one of each kind or none.
        owner: int64 [conversions, channels]: which array holds the bit line of a conversion.
    """

    currents: Values
    variance: Values | None
    offset: Values
    bow: Values
    scale: Values
    constant: Values
    units: int
    references: int
    owner: IntArray

    def of(self, rows: slice) -> Beside:
        """Some of the word lines."""
        variance = None if self.variance is None else self.variance[rows]
        return replace(self, currents=self.currents[rows], variance=variance)


def single(variance: Values) -> Values:
    """A variance in half of its bits, with its imaginary part where it has one."""
    return variance.astype(np.complex64 if np.iscomplexobj(variance) else np.float32)


def beside_of(
    state: ArrayState, adc: AdcTransfer, pedestal: float, shape: ArrayShape, target: Target, owner: IntArray
) -> Beside | None:
    """Unit and reference columns that are converted, of the arrays of a tile; None where there are none.

    Args:
        state: of those arrays.
        adc: the layer's converter.
        pedestal: what the product adds to every bit line again.
        shape, target: which columns there are, and whether a reference is converted or subtracted before it.
        owner: as in ``Beside``.
    """
    digitised = shape.encoding.converts_reference
    lines = [shape.columns] * shape.unit + [shape.columns + shape.unit] * digitised
    if not lines:
        return None

    def pick(values: Values) -> Values:
        return np.concatenate([values[..., line].T for line in lines], axis=-1)  # [..., lines of all arrays]

    gain, arrays = pick(state.gain), len(state.gain)
    return Beside(
        (pick(state.currents) * gain - pedestal).astype(np.float32),
        None if state.variance is None else single(pick(state.variance) * gain**2),
        pick(state.added(adc.gain)).astype(np.float32),
        pick(state.bow).astype(np.float32),
        np.tile(state.scale, len(lines)),
        np.zeros(arrays * len(lines)),
        arrays * shape.unit,
        arrays * digitised,
        owner,
    )
