"""What changes in the conductances of a chip between its reads and inferences, as nodes of the mapped model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.conductance import Fluctuations, LineStates
from mcompiler.effects import Correlation
from mcompiler.onnx_export.emitter import Emitter

Values = npt.NDArray[Any]

STATES_AT_ONCE = 1 << 22
"""Draws of the states of cells that one node makes at most, if fewer lines at once can limit them."""


@dataclass(frozen=True)
class Physics:
    """Errors of a chip between reads; those of cells and converters are in its read blocks.

    Attributes:
        inputs: float32 [codes of a phase]: current that each input code causes over the ideal one; None: all 1.
        noise: deviation of every conversion, in codes.
        bank: how many normal numbers a run of the model draws; every conversion takes one of a window of them that
            starts at random, which is many times faster than one draw for each conversion.
        seeds: of the random generators of the layer's nodes, one after the other.
        inference_seeds: likewise, of what lasts for an inference; the same for layers that share arrays, whose nodes
            then draw the same numbers.
    """

    inputs: Values | None
    noise: float
    bank: int
    seeds: Iterator[int]
    inference_seeds: Iterator[int]


@dataclass(frozen=True)
class ArrayProduct:
    """The ONNX operation that an array is in the mapped model: a matrix product or a convolution.

    Attributes:
        node: adds it to the graph, from inputs and operand.
        operand: a matrix [rows, columns] as the operation takes it.
        shape: that broadcasts one number per column over its result.
        mixed: result of a product of values, one per column of the operand, with a matrix [those columns, columns].
        inputs: the inputs that each result of the operation adds up: [..., rows].
        restored: values [..., columns] of these results, in the layout of the operation.
        reads: results of one run, at most.
    """

    node: Callable[[ir.Value, ir.Value], ir.Value]
    operand: Callable[[Values], Values]
    shape: tuple[int, ...]
    mixed: Callable[[ir.Value, Values], ir.Value]
    inputs: Callable[[ir.Value], ir.Value]
    restored: Callable[[ir.Value], ir.Value]
    reads: int


@dataclass(frozen=True)
class Read:
    """One read, for what changes in it.

    Attributes:
        inputs, squares: of the word lines, float32.
        product: of inputs and cells.
        physics: of the chip.
        drawn: the normal numbers of this run, where normal noise differs from read to read.
    """

    inputs: ir.Value
    squares: ir.Value
    product: ArrayProduct
    physics: Physics
    drawn: ir.Value | None


def moving_matrix(
    emitter: Emitter, matrix: ir.Value, moving: Fluctuations, product: ArrayProduct, physics: Physics
) -> ir.Value:
    """The operand of a product with what changes between inferences, drawn anew in every run."""
    variance = moving.variance.per_inference
    if variance is not None and variance.any():
        drawn = emitter("RandomNormalLike", matrix, seed=float(next(physics.inference_seeds)))
        deviation = emitter.constant(np.sqrt(np.maximum(product.operand(variance), 0)), np.float32)
        matrix = emitter("Add", matrix, emitter("Mul", drawn, deviation))
    for states in _of(moving, Correlation.PER_INFERENCE):
        low = _low(emitter, matrix, states, next(physics.inference_seeds))
        loss = emitter.constant(product.operand(states.loss), np.float32)
        matrix = emitter("Sub", matrix, emitter("Mul", low, loss))
    return matrix


def moving_values(emitter: Emitter, values: ir.Value, moving: Fluctuations, read: Read, *, noise: float) -> ir.Value:
    """Results of a product with what changes between reads; ``noise``: deviation of every one of them besides."""
    product, variance, sums = read.product, moving.variance.per_read, None
    if variance is not None and variance.any():
        # Independent cells: variances add up, each with the square of its input.
        sums = product.node(read.squares, emitter.constant(product.operand(variance), np.float32))
        if noise:
            sums = emitter("Add", sums, emitter.constant(noise**2, np.float32))
    if read.drawn is not None and (sums is not None or noise):
        normal = _window(emitter, values, read.physics, read.drawn)
        size = emitter.constant(noise, np.float32) if sums is None else emitter("Sqrt", sums)
        values = emitter("Add", values, emitter("Mul", normal, size))
    for states in _of(moving, Correlation.PER_READ):
        values = emitter("Sub", values, _state_losses(emitter, states, read))
    return values


def _of(moving: Fluctuations, correlation: Correlation) -> Sequence[LineStates]:
    return [states for states in moving.states if states.correlation is correlation and states.loss.any()]


def _low(emitter: Emitter, like: ir.Value, states: LineStates, seed: int) -> ir.Value:
    """1 where a cell is in its lower state, else 0: a new draw in every run, of the shape of a value."""
    chance = emitter("RandomUniformLike", like, dtype=ir.DataType.FLOAT.value, seed=float(seed))
    return emitter.cast(emitter("Less", chance, emitter.constant(states.low, np.float32)), ir.DataType.FLOAT)


def _state_losses(emitter: Emitter, states: LineStates, read: Read) -> ir.Value:
    """What the cells in their lower states add less, every read with states of its own; layout of the product."""
    product, lines = read.product, states.loss.shape[1]
    inputs = product.inputs(read.inputs)  # [..., rows]
    # The cells of each line that have two states, the lines that have fewer filled up with cells that lose nothing.
    counts = (states.loss != 0).sum(axis=0)
    most = int(counts.max())
    order = np.argsort(states.loss == 0, axis=0, kind="stable")[:most].T  # [lines, most] word lines
    loss = np.take_along_axis(states.loss.T, order, axis=1)
    width = max(1, STATES_AT_ONCE // (most * product.reads))
    parts = []
    for first in range(0, lines, width):
        some = slice(first, first + width)
        driven = emitter("Gather", inputs, emitter.constant(order[some]), axis=-1)  # [..., lines, most]
        low = _low(emitter, driven, states, next(read.physics.seeds))
        lost = emitter("Mul", emitter("Mul", driven, low), emitter.constant(loss[some], np.float32))
        parts.append(emitter("ReduceSum", lost, emitter.ints(-1), keepdims=0))
    return product.restored(parts[0] if len(parts) == 1 else emitter("Concat", *parts, axis=-1))


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
