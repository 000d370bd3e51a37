"""From planes of input codes to the codes of the converters: the analog part of one read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.conductance import CUBIC_INL_SCALE, STEADY, AdcTransfer, Fluctuations, SharedLines
from mcompiler.onnx_export.emitter import Emitter
from mcompiler.onnx_export.fluctuations import ArrayProduct, Physics, Read, moving_matrix, moving_values
from mcompiler.target import Rounding

Values = npt.NDArray[Any]


@dataclass(frozen=True)
class ConvertedLines:
    """Converted bit lines of a read: weights first, then unit columns, then reference columns.

    Attributes:
        levels: [rows, columns]: integers on the target's grid, or floats where conductances are off it; times the zoom.
        zoom: [columns]: gain of a column's converter over the layer's, a power of two.
        units, references: how many columns there are of these.
        owner: int64 [conversions, channels]: number of the unit (and reference) column of a conversion's array.
        fluctuations: float32 [rows, columns] of the levels.
        reference: what fluctuates in reference columns that were subtracted, shares [references, columns].
        offset, bow: float32 [columns] in codes, or None.
    """

    levels: Values
    zoom: Values
    units: int
    references: int
    owner: npt.NDArray[np.int64]
    fluctuations: Fluctuations = STEADY
    reference: SharedLines | None = None
    offset: Values | None = None
    bow: Values | None = None


@dataclass(frozen=True)
class Converter:
    """The converter of a layer, and its input converter.

    Attributes:
        adc: codes, gain, pedestal.
        bytes: codes leave as uint8 (around 128 where signed), else as float32.
        step: bits of an input code.
        physics: of a chip, or None.
        drawn: the normal numbers of this run, where conversions fluctuate.
    """

    adc: AdcTransfer
    bytes: bool
    step: int
    physics: Physics | None
    drawn: ir.Value | None


def zero_code(adc: AdcTransfer) -> int:
    """uint8 code of the value 0."""
    return 128 if adc.smallest < 0 else 0


def narrow(emitter: Emitter, codes: ir.Value, adc: AdcTransfer) -> ir.Value:
    """Clip uint8 codes to a converter of fewer than 8 bits."""
    zero = zero_code(adc)
    if adc.largest + zero == 255:
        return codes
    low, high = emitter.constant(adc.smallest + zero, np.uint8), emitter.constant(adc.largest + zero, np.uint8)
    return emitter("Clip", codes, low, high)


def convert_read(
    emitter: Emitter, planes: ir.Value, converter: Converter, lines: ConvertedLines, product: ArrayProduct
) -> ir.Value:
    """Codes of one read.

    Args:
        emitter: of the layer's function.
        planes: input codes of each phase, uint8.
        converter: of the layer.
        lines: converted bit lines of the read.
        product: of the inputs and the cells.
    """
    adc, physics = converter.adc, converter.physics
    inputs = _applied(emitter, planes, physics)
    # On the grid the product must be an exact integer and is scaled afterwards, as the converter does. Off the grid
    # nothing is exact anyway, so that the gain may be in the cells: one pass less over the result.
    gain = 1.0 if lines.levels.dtype.kind in "iu" else adc.gain
    pedestal = np.float32(adc.pedestal) * lines.zoom.astype(np.float32)
    levels = (lines.levels.astype(np.float32) + pedestal) * np.float32(gain)
    # The pedestal is added to every cell, extra columns too: each active row adds it to every bit line. A finer range
    # (zoom) multiplies it like the levels, which have their zoom already.
    matrix, moving = emitter.constant(product.operand(levels)), lines.fluctuations.scaled(np.float32(gain))
    if physics is not None:
        matrix = moving_matrix(emitter, matrix, moving, product, physics)
    values = product.node(inputs, matrix)
    if gain == 1 and adc.gain != 1:
        values = emitter("Mul", values, emitter.constant(adc.gain, np.float32))
    if physics is not None:
        # 0 and 1 are their own squares.
        squares = inputs if converter.step == 1 and physics.inputs is None else emitter("Mul", inputs, inputs)
        read = Read(inputs, squares, product, physics, converter.drawn)
        values = moving_values(emitter, values, moving, read, noise=physics.noise)
        reference = lines.reference
        if reference is not None:
            # Its mean has been subtracted from the levels; what is left is one value a read for all lines of an array.
            still = emitter.constant(product.operand(np.zeros((len(levels), len(reference.share)), np.float32)))
            changing = moving_matrix(emitter, still, reference.fluctuations, product, physics)
            drawn = product.node(inputs, changing)
            drawn = moving_values(emitter, drawn, reference.fluctuations, read, noise=0.0)
            values = emitter("Add", values, product.mixed(drawn, reference.share * np.float32(gain)))
    if lines.offset is not None:
        values = emitter("Add", values, emitter.constant(lines.offset.reshape(product.shape), np.float32))
    if lines.bow is not None:
        values = _bowed(emitter, values, adc, lines.bow.reshape(product.shape))
    return _rounded(emitter, values, converter)


def _applied(emitter: Emitter, planes: ir.Value, physics: Physics | None) -> ir.Value:
    """Effective inputs of the codes, in steps of a code: float32."""
    if physics is None or physics.inputs is None:
        return emitter.cast(planes, ir.DataType.FLOAT)
    table = emitter.constant(physics.inputs * np.arange(len(physics.inputs)), np.float32)
    return emitter("Gather", table, emitter.cast(planes, ir.DataType.INT32))


def _bowed(emitter: Emitter, values: ir.Value, adc: AdcTransfer, bow: Values) -> ir.Value:
    """As ``conductance.apply_nonlinearity``: a cubic characteristic with a deviation of up to ``bow`` codes."""
    middle, half = (adc.largest + adc.smallest) / 2, (adc.largest - adc.smallest) / 2
    u = emitter("Sub", values, emitter.constant(middle, np.float32))
    u = emitter("Clip", emitter("Div", u, emitter.constant(half, np.float32)), _float(emitter, -1), _float(emitter, 1))
    cubic = emitter("Sub", emitter("Mul", emitter("Mul", u, u), u), u)
    return emitter("Add", values, emitter("Mul", cubic, emitter.constant(bow * CUBIC_INL_SCALE, np.float32)))


def _float(emitter: Emitter, value: float) -> ir.Value:
    return emitter.constant(value, np.float32)


def _rounded(emitter: Emitter, scaled: ir.Value, converter: Converter) -> ir.Value:
    """Codes of values in codes: uint8 where they fit, else float32."""
    adc = converter.adc
    if converter.bytes:  # QuantizeLinear with scale 1 is this converter; with scale 1 / gain it would round otherwise
        zero = emitter.constant(zero_code(adc), np.uint8)
        return narrow(emitter, emitter("QuantizeLinear", scaled, _float(emitter, 1), zero), adc)
    if adc.rounding is Rounding.HALF_EVEN:
        rounded = emitter("Round", scaled)
    else:
        rounded = emitter("Floor", emitter("Add", scaled, _float(emitter, 0.5)))
    return emitter("Clip", rounded, _float(emitter, adc.smallest), _float(emitter, adc.largest))
