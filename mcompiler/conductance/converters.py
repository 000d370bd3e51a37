"""What a converter does to the value of a column, and whether anything is lost."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.ir import IntArray
from mcompiler.target import Pedestal, Rounding, Target, WeightEncoding


class Decoding(Enum):
    """What stands between a column's current and the integer sum.

    CLEAN: the pedestal is gone before the one conversion (analog difference). COUNT: one conversion of sum + pedestal,
    the digital count of active rows undoes it. TWO: two conversions, subtracted (a digitised pair or reference column).
    """

    CLEAN = "clean"
    COUNT = "count"
    TWO = "two"


@dataclass(frozen=True)
class Adc:
    """The converter of a column.

    Attributes:
        smallest, largest: its codes; signed when an analog difference may be negative.
        rounding: at half a step.
        decoding: how its codes become sums.
        pedestal: what a cell at level code 0 conducts, in level steps, per unit of input code.
        gain: codes per level step; at most 8 significant bits.
    """

    smallest: int
    largest: int
    rounding: Rounding
    decoding: Decoding
    pedestal: float
    gain: float


def decoding_of(target: Target) -> Decoding:
    """How a target's conversions are undone."""
    encoding = target.encoding
    if is_signed(target) or encoding.pedestal is Pedestal.REFERENCE_COLUMN:  # gone before any conversion
        return Decoding.CLEAN
    if encoding.weights is not WeightEncoding.DIFFERENTIAL and encoding.pedestal is Pedestal.DIGITAL_COUNT:
        return Decoding.COUNT
    return Decoding.TWO  # of a pair as well: what is taken off both ends, count or reference, cancels


def is_signed(target: Target) -> bool:
    """Whether one conversion sees an analog difference of a pair."""
    encoding = target.encoding
    return encoding.weights is WeightEncoding.DIFFERENTIAL and encoding.subtract == "before_adc"


def eight_bit_floor(value: float) -> float:
    """The largest number of at most 8 significant bits that is not above ``value`` (> 0).

    A gain of 8 bits times a sum below 2^16 is exact in float32, so that every form of the converter rounds alike.
    """
    mantissa, exponent = np.frexp(value)
    return float(np.ldexp(np.floor(mantissa * 256) / 256, exponent))


def worst_sum(target: Target) -> int:
    """The largest sum that one read of any array can give, in level steps times input codes, without the pedestal."""
    full = target.cell_steps[-1]
    total = target.array.rows_active * full
    if target.encoding.flip:
        total = min(total, target.array.rows * full // 2)
    if target.encoding.input_sum == "unit_column":  # it is never flipped
        total = max(total, target.array.rows_active)
    return total * ((1 << target.converters.dac.bits) - 1)


def exact_pedestal(pedestal: float, sums: int, inputs: int) -> float:
    """The pedestal on the finest binary grid on which every analog value is exact in float32.

    So the order of additions cannot change a code. The grid is 2^-15 level steps for `isaac`.
    """
    whole = int(sums + pedestal * inputs + 1).bit_length()
    grid = float(1 << max(0, 24 - whole - 1))
    return float(np.rint(pedestal * grid) / grid)


def make_adc(target: Target, limit: float | None = None) -> Adc:
    """The converter of a target.

    Args:
        target: target.
        limit: largest magnitude to hold (level steps times input codes, pedestal included); None: the worst sum.

    Returns:
        Converter with gain 1 where that holds ``limit``, else the largest 8-bit gain that does.
    """
    adc = target.converters.adc
    signed = is_signed(target)
    smallest, largest = (-(1 << (adc.bits - 1)), (1 << (adc.bits - 1)) - 1) if signed else (0, (1 << adc.bits) - 1)
    inputs = target.array.rows_active * ((1 << target.converters.dac.bits) - 1)
    decoding = decoding_of(target)
    pedestal = 0.0 if decoding is Decoding.CLEAN else exact_pedestal(target.pedestal, worst_sum(target), inputs)
    if limit is None:
        limit = worst_sum(target) + pedestal * inputs
    gain = 1.0 if limit <= largest else eight_bit_floor(largest / limit)
    return Adc(smallest, largest, adc.rounding, decoding, pedestal, gain)


def is_lossless(adc: Adc, lowest: int, highest: int, inputs: int) -> bool:
    """Whether every conversion of a column gives back its integer sum.

    Args:
        adc: the converter.
        lowest, highest: extreme sums of the column's own cells in one read, without pedestal (lowest <= 0 <= highest).
        inputs: largest sum of input codes over the active rows of one read.

    Returns:
        True when, for every sum in [lowest, highest] and every input sum in [0, inputs], the code does not clip and is
        decoded to the sum before shift-and-add. With a gain below 1 it is False unless the column is empty.
    """
    if lowest == highest == 0 and (adc.pedestal == 0 or inputs == 0):
        return True
    top = highest + adc.pedestal * inputs
    if round_codes(adc, adc.gain * top) > adc.largest or round_codes(adc, adc.gain * lowest) < adc.smallest:
        return False
    if adc.gain < 1:
        return False
    if adc.decoding is Decoding.CLEAN:
        return True
    ties = adc.rounding is Rounding.HALF_EVEN and _has_ties(adc.gain * adc.pedestal, inputs)
    if adc.decoding is Decoding.COUNT:
        return adc.gain > 1 or not ties
    if adc.gain > 2:
        return True
    return float(adc.gain).is_integer() and (adc.gain != 1 or not ties)


def needed_bits(adc: Adc, lowest: IntArray, highest: IntArray, inputs: IntArray) -> IntArray:
    """Fewest bits of a converter of this kind, at one code per unit, that lose nothing.

    Args:
        adc: says whether codes are signed, how they are rounded and decoded, and the pedestal; its own bits and gain
            are not read.
        lowest, highest, inputs: as in ``is_lossless``, arrays of one shape.

    Returns:
        Bits (at least 1); 0 where no number of bits suffices, because the pedestal falls on half a code.
    """
    top = round_codes(adc, highest + adc.pedestal * inputs)
    if adc.smallest < 0:
        bits = 1 + np.maximum(_bit_length(top), _bit_length(np.maximum(0, -lowest - 1)))
    else:
        bits = np.maximum(1, _bit_length(top))
    if adc.decoding is Decoding.CLEAN or adc.rounding is not Rounding.HALF_EVEN or not inputs.size:
        return bits
    tied = np.flatnonzero(_ties(adc.pedestal, int(inputs.max())))
    return np.where(inputs >= tied[0], 0, bits) if len(tied) else bits


def _bit_length(values: npt.NDArray[Any]) -> IntArray:
    """Bits of integers from 0 to 2^53."""
    return np.frexp(values.astype(np.float64))[1].astype(np.int64)


def _has_ties(pedestal: float, inputs: int) -> bool:
    """Whether some count of active rows puts the pedestal on half a code."""
    return bool(np.any(_ties(pedestal, inputs)))


def _ties(pedestal: float, inputs: int) -> npt.NDArray[np.bool_]:
    """Which counts of active rows, 0 to ``inputs``, put the pedestal on half a code."""
    halves = 2 * pedestal * np.arange(inputs + 1)
    near = np.rint(halves)
    ties: npt.NDArray[np.bool_] = (np.abs(halves - near) < 1e-6) & (near % 2 == 1)
    return ties


def round_codes(adc: Adc, values: npt.ArrayLike) -> Any:
    """Round to a code as the converter does (no clipping)."""
    array = np.asarray(values)
    return np.rint(array) if adc.rounding is Rounding.HALF_EVEN else np.floor(array + array.dtype.type(0.5))


BOW = 1.5 * 3**0.5
"""One over the largest value of u - u^3 on 0..1."""


def bent(adc: Adc, values: npt.NDArray[np.floating[Any]], bow: npt.ArrayLike) -> npt.NDArray[np.floating[Any]]:
    """Values in codes through a characteristic that bends by up to ``bow`` codes: + bow (u^3 - u) BOW, u in -1..1."""
    middle, half = (adc.largest + adc.smallest) / 2, (adc.largest - adc.smallest) / 2
    u = np.clip((values - middle) / half, -1, 1)
    found: npt.NDArray[np.floating[Any]] = values + np.asarray(bow) * BOW * (u**3 - u)
    return found


def convert(adc: Adc, values: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
    """Codes of analog values (level steps times input codes), clipped to the converter's range."""
    codes: npt.NDArray[np.floating[Any]] = np.clip(
        round_codes(adc, values * values.dtype.type(adc.gain)), adc.smallest, adc.largest
    )
    return codes
