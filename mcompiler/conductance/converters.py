"""The converter of a column: its codes, its range, and whether it loses information."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.encodings import Decoding
from mcompiler.ir import IntArray
from mcompiler.target import Rounding, Target


@dataclass(frozen=True)
class AdcTransfer:
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


def eight_bit_floor(value: float) -> float:
    """The largest number of at most 8 significant bits that is not above ``value`` (> 0).

    A gain of 8 bits times a sum below 2^16 is exact in float32, so that every form of the converter rounds alike.
    """
    mantissa, exponent = np.frexp(value)
    return float(np.ldexp(np.floor(mantissa * 256) / 256, exponent))


def worst_sum(target: Target) -> int:
    """The largest sum that one read of any array can give, in level steps times input codes, without the pedestal."""
    array = target.array
    steps = target.weight_encoding.worst_sum(target.cell_steps[-1], array.rows, array.rows_active)
    return steps * ((1 << target.converters.dac.bits) - 1)


def exact_pedestal(pedestal: float, sums: int, inputs: int) -> float:
    """The pedestal on the finest binary grid on which every analog value is exact in float32.

    So the order of additions cannot change a code. The grid is 2^-15 level steps for `isaac`.
    """
    # float32 has 24 significant bits; those above the point hold the largest value, one is left for a rounding half.
    whole = int(sums + pedestal * inputs + 1).bit_length()
    grid = float(1 << max(0, 24 - whole - 1))
    return float(np.rint(pedestal * grid) / grid)


def make_adc(target: Target, limit: float | None = None) -> AdcTransfer:
    """The converter of a target.

    Args:
        target: target.
        limit: largest magnitude to hold (level steps times input codes, pedestal included); None: the worst sum.

    Returns:
        Converter with gain 1 where that holds ``limit``, else the largest 8-bit gain that does.
    """
    adc, encoding = target.converters.adc, target.weight_encoding
    half = 1 << (adc.bits - 1)
    smallest, largest = (-half, half - 1) if encoding.signed else (0, 2 * half - 1)
    inputs = target.array.rows_active * ((1 << target.converters.dac.bits) - 1)
    decoding = encoding.decoding
    pedestal = 0.0 if decoding is Decoding.CLEAN else exact_pedestal(target.pedestal, worst_sum(target), inputs)
    if limit is None:
        limit = worst_sum(target) + pedestal * inputs
    gain = 1.0 if limit <= largest else eight_bit_floor(largest / limit)
    return AdcTransfer(
        smallest=smallest, largest=largest, rounding=adc.rounding, decoding=decoding, pedestal=pedestal, gain=gain
    )


def is_lossless(adc: AdcTransfer, lowest: int, highest: int, inputs: int) -> bool:
    """Whether every conversion of a column gives back its integer sum.

    Args:
        adc: the converter.
        lowest, highest: extreme sums of the column's own cells in one read, without pedestal (lowest <= 0 <= highest).
        inputs: largest sum of input codes over the active rows of one read.

    Returns:
        True when, for every sum in [lowest, highest] and every input sum in [0, inputs], the code does not clip and is
        decoded to the sum before shift-and-add. With a gain below 1 it is False unless the column is empty.
    """
    # Nothing is ever converted but 0, which every gain and rounding leaves at 0.
    if lowest == highest == 0 and (adc.pedestal == 0 or inputs == 0):
        return True
    # Sums and pedestal grow together with the inputs, so that the extremes of code are at the extremes of sum: the top
    # with all of the pedestal, the bottom with none of it.
    top = highest + adc.pedestal * inputs
    if round_codes(adc, adc.gain * top) > adc.largest or round_codes(adc, adc.gain * lowest) < adc.smallest:
        return False
    if adc.gain < 1:
        return False  # two sums share a code
    if adc.decoding is Decoding.CLEAN:
        return True  # gain times an integer: codes of different sums are at least 1 apart
    # With a pedestal a conversion rounds gain x (sum + p x count). Half-up moves equal fractions alike; half-even may
    # move ties of neighbouring sums together, and then one code belongs to two sums.
    ties = adc.rounding is Rounding.HALF_EVEN and _has_ties(adc.gain * adc.pedestal, inputs)
    if adc.decoding is Decoding.COUNT:
        # The count says where the fraction of p x count is, so that rounding errs by less than half a sum if gain > 1.
        return adc.gain > 1 or not ties
    if adc.gain > 2:
        return True  # two conversions, each at most half a code off: less than half a sum together
    # At a whole gain both conversions have the same fraction and round alike, so that their errors cancel. Not so a tie
    # that is rounded to even at gain 1: where the sum is odd, one goes up and the other down.
    return float(adc.gain).is_integer() and (adc.gain != 1 or not ties)


def needed_bits(adc: AdcTransfer, lowest: IntArray, highest: IntArray, inputs: IntArray) -> IntArray:
    """Fewest bits of a converter of this kind, at one code per unit, that lose nothing.

    Args:
        adc: says whether codes are signed, how they are rounded and decoded, and the pedestal; its own bits and gain
            are not read.
        lowest, highest, inputs: as in ``is_lossless``, arrays of one shape.

    Returns:
        Bits (at least 1); 0 where no number of bits suffices, because the pedestal falls on half a code.
    """
    # At one code per unit the codes are the rounded sums: bits for the highest, and for the lowest in two's complement,
    # whose range reaches one further down.
    top = round_codes(adc, highest + adc.pedestal * inputs)
    if adc.smallest < 0:
        bits = 1 + np.maximum(_bit_length(top), _bit_length(np.maximum(0, -lowest - 1)))
    else:
        bits = np.maximum(1, _bit_length(top))
    if adc.decoding is Decoding.CLEAN or adc.rounding is not Rounding.HALF_EVEN or not inputs.size:
        return bits
    # From the first count of active rows on that puts the pedestal on half a code, no number of bits is enough.
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
    near = np.rint(halves)  # twice the pedestal near an odd whole number is a half
    ties: npt.NDArray[np.bool_] = (np.abs(halves - near) < 1e-6) & (near % 2 == 1)
    return ties


def round_codes(adc: AdcTransfer, values: npt.ArrayLike) -> Any:
    """Round to a code as the converter does (no clipping)."""
    array = np.asarray(values)
    return np.rint(array) if adc.rounding is Rounding.HALF_EVEN else np.floor(array + array.dtype.type(0.5))


CUBIC_INL_SCALE = 1.5 * 3**0.5
"""One over the largest value of u - u^3 on 0..1, which is at u = 1 / sqrt(3)."""


def apply_nonlinearity(
    adc: AdcTransfer, values: npt.NDArray[np.floating[Any]], bow: npt.ArrayLike
) -> npt.NDArray[np.floating[Any]]:
    """Values in codes through a cubic characteristic, which departs from a line by up to ``bow`` codes.

    bow x (u^3 - u) x CUBIC_INL_SCALE is added, u running from -1 to 1 over the codes: 0 at both ends and in the middle.
    """
    middle, half = (adc.largest + adc.smallest) / 2, (adc.largest - adc.smallest) / 2
    u = np.clip((values - middle) / half, -1, 1)
    found: npt.NDArray[np.floating[Any]] = values + np.asarray(bow) * CUBIC_INL_SCALE * (u**3 - u)
    return found


def convert(adc: AdcTransfer, values: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
    """Codes of analog values (level steps times input codes), clipped to the converter's range."""
    codes: npt.NDArray[np.floating[Any]] = np.clip(
        round_codes(adc, values * values.dtype.type(adc.gain)), adc.smallest, adc.largest
    )
    return codes
