"""From planes of input codes to the codes of the converters: the analog part of one read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.conductance import CUBIC_INL_SCALE, STEADY, AdcTransfer, Variances
from mcompiler.onnx_export.emitter import Emitter
from mcompiler.target import Rounding

Values = npt.NDArray[Any]


@dataclass(frozen=True)
class Physics:
    """Errors of a chip between reads; those of cells and converters are in its read blocks.

    Attributes:
        inputs: float32 [codes of a phase]: current that each input code causes over the ideal one; None: all 1.
        noise: deviation of every conversion, in codes.
        bank: how many normal numbers a run of the model draws; every conversion takes one of a window of them that
            starts at random, which is many times faster than one draw for each conversion.
        seeds: of the random generators of the layer's nodes, one after the other.
    """

    inputs: Values | None
    noise: float
    bank: int
    seeds: Iterator[int]


@dataclass(frozen=True)
class ConvertedLines:
    """Converted bit lines of a read: weights first, then unit columns, then reference columns.

    Attributes:
        levels: [rows, columns]: integers on the target's grid, or floats where conductances are off it; times the zoom.
        zoom: [columns]: gain of a column's converter over the layer's, a power of two.
        units, references: how many columns there are of these.
        owner: int64 [conversions, channels]: number of the unit (and reference) column of a conversion's array.
        variance: float32 [rows, columns] of the levels.
        offset, bow: float32 [columns] in codes, or None.
    """

    levels: Values
    zoom: Values
    units: int
    references: int
    owner: npt.NDArray[np.int64]
    variance: Variances = STEADY
    offset: Values | None = None
    bow: Values | None = None


@dataclass(frozen=True)
class ArrayProduct:
    """The ONNX operation that an array is in the mapped model: a matrix product or a convolution.

    Attributes:
        node: adds it to the graph, from inputs and operand.
        operand: a matrix [rows, columns] as the operation takes it.
        shape: that broadcasts one number per column over its result.
    """

    node: Callable[[ir.Value, ir.Value], ir.Value]
    operand: Callable[[Values], Values]
    shape: tuple[int, ...]


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
    factor = np.float32(gain**2)
    between_reads = _scaled(lines.variance.per_read, factor)
    between_inferences = _scaled(lines.variance.per_inference, factor)
    # The pedestal is added to every cell, extra columns too: each active row adds it to every bit line. A finer range
    # (zoom) multiplies it like the levels, which have their zoom already.
    matrix = emitter.constant(product.operand(levels))
    if between_inferences is not None and physics is not None:
        matrix = _fluctuating(emitter, matrix, product.operand(between_inferences), physics)
    values = product.node(inputs, matrix)
    if gain == 1 and adc.gain != 1:
        values = emitter("Mul", values, emitter.constant(adc.gain, np.float32))
    if physics is not None and converter.drawn is not None:
        spread = None
        if between_reads is not None:
            # Independent cells: variances add up, each with the square of its input; 0 and 1 are their own squares.
            squares = inputs if converter.step == 1 and physics.inputs is None else emitter("Mul", inputs, inputs)
            spread = product.node(squares, emitter.constant(product.operand(between_reads)))
        values = _noisy(emitter, values, spread, physics, converter.drawn)
    if lines.offset is not None:
        values = emitter("Add", values, emitter.constant(lines.offset.reshape(product.shape), np.float32))
    if lines.bow is not None:
        values = _bowed(emitter, values, adc, lines.bow.reshape(product.shape))
    return _rounded(emitter, values, converter)


def _scaled(variance: Values | None, factor: np.float32) -> Values | None:
    """The variance times a factor; None where nothing fluctuates, which takes no nodes."""
    return variance * factor if variance is not None and variance.any() else None


def _applied(emitter: Emitter, planes: ir.Value, physics: Physics | None) -> ir.Value:
    """Effective inputs of the codes, in steps of a code: float32."""
    if physics is None or physics.inputs is None:
        return emitter.cast(planes, ir.DataType.FLOAT)
    table = emitter.constant(physics.inputs * np.arange(len(physics.inputs)), np.float32)
    return emitter("Gather", table, emitter.cast(planes, ir.DataType.INT32))


def _fluctuating(emitter: Emitter, matrix: ir.Value, variance: Values, physics: Physics) -> ir.Value:
    """The operand with a fresh draw of its noise in every run."""
    drawn = emitter("RandomNormalLike", matrix, seed=float(next(physics.seeds)))
    deviation = emitter.constant(np.sqrt(np.maximum(variance, 0)), np.float32)
    return emitter("Add", matrix, emitter("Mul", drawn, deviation))


def _noisy(
    emitter: Emitter, values: ir.Value, variance: ir.Value | None, physics: Physics, drawn: ir.Value
) -> ir.Value:
    """Values with noise of the given variance and of the converter, both in codes."""
    if variance is None and not physics.noise:
        return values
    normal = _window(emitter, values, physics, drawn)
    if variance is None:
        return emitter("Add", values, emitter("Mul", normal, emitter.constant(physics.noise, np.float32)))
    if physics.noise:
        variance = emitter("Add", variance, emitter.constant(physics.noise**2, np.float32))
    return emitter("Add", values, emitter("Mul", normal, emitter("Sqrt", variance)))


def _window(emitter: Emitter, values: ir.Value, physics: Physics, drawn: ir.Value) -> ir.Value:
    """A normal number for each value: successive ones of the drawn, from a place that is drawn anew in every run.

    More values than were drawn are an error when the model runs: the reshape then lacks numbers.
    """
    count = emitter("Reshape", emitter("Size", values), emitter.ints(1))
    room = emitter.cast(emitter("Sub", emitter.ints(physics.bank), count), ir.DataType.FLOAT)
    place = emitter("RandomUniform", shape=[1], seed=float(next(physics.seeds)))
    start = emitter.cast(emitter("Floor", emitter("Mul", place, room)), ir.DataType.INT64)
    window = emitter("Slice", drawn, start, emitter("Add", start, count), emitter.ints(0))
    return emitter("Reshape", window, emitter("Shape", values))


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
