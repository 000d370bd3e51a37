"""Converter ranges that are fitted to what calibration saw: of a layer, of each array or of each column."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.conductance.codes import Levels, TileRun, code_range, level_table, run_levels, steps_of, tile_runs
from mcompiler.conductance.converters import convert, eight_bit_floor, is_signed, make_adc, round_codes
from mcompiler.geometry import ArrayShape, TileTable, tile_blocks
from mcompiler.ir import CodeSample, IntArray, WeightMatrix
from mcompiler.target import RangePer, Target

SAMPLED_TILES = 24
"""Array positions of a layer on which a range for all of it is fitted."""

SAMPLED_READS = 1024
"""Reads of each array on which ranges of arrays and columns are fitted."""

MANTISSAS = tuple(eight_bit_floor(2.0 ** (-place / 4)) for place in range(4))
"""Gains within an octave that are tried for a layer whose arrays or columns choose the octave."""

Values = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Fitted:
    """Ranges of a layer's converters.

    Attributes:
        gain: of the widest range, in codes per level step.
        zoom: int8 [arrays, columns]: binary steps by which that of each bit line is finer; None: all are as wide.
        clipped: share of the sampled conversions that clip.
    """

    gain: float
    zoom: npt.NDArray[np.int8] | None
    clipped: float


def fit_ranges(
    matrix: WeightMatrix,
    table: TileTable,
    samples: Sequence[CodeSample],
    shape: ArrayShape,
    target: Target,
    shift: int,
    flips: npt.NDArray[np.bool_],
) -> Fitted:
    """The ranges that err least on sampled reads, in the mean square over conversions.

    Args:
        matrix, table, shape, shift, flips: as in ``encode_cells``.
        samples: input codes of the calibration data, of every site that uses the matrix.
        target: says what has a range of its own.
    """
    tiles = np.arange(len(table) // shape.arrays_per_tile)
    if target.converters.adc.range_per is RangePer.LAYER:
        chosen = tiles[np.unique(np.linspace(0, len(tiles) - 1, min(SAMPLED_TILES, len(tiles))).astype(np.int64))]
        reads = _Sampled(matrix, table, tuple(samples), shape, target, shift, flips).reads(chosen)
        return _of_layer(np.concatenate([np.zeros(0, np.float32), *(values.ravel() for values in reads)]), target)
    few = tuple(_few(sample, shape, target) for sample in samples)
    reads = _Sampled(matrix, table, few, shape, target, shift, flips).reads(tiles)
    return _of_parts(reads, table, shape, target)


def _few(sample: CodeSample, shape: ArrayShape, target: Target) -> CodeSample:
    """The vectors, evenly taken from a sample, whose reads of an array are ``SAMPLED_READS`` at most."""
    phases, seen = -(-sample.bits // target.converters.dac.bits), len(sample.vectors)
    kept = np.linspace(0, seen - 1, min(seen, max(1, SAMPLED_READS // (phases * shape.reads)))).astype(np.int64)
    return replace(sample, vectors=sample.vectors[kept])


def _of_layer(values: Values, target: Target) -> Fitted:
    """One range for all that is converted."""
    if not values.any():
        return Fitted(make_adc(target).gain, None, 0.0)
    limits = float(np.abs(values).max()) * np.geomspace(1.0, 1 / 16, 33)
    gains = [make_adc(target, float(limit)).gain for limit in limits]
    gain = gains[int(np.argmin([_error(values, gain, target).sum() for gain in gains]))]
    return Fitted(gain, None, float(_clips(values, gain, target).mean()))


def _error(values: Values, gain: float, target: Target) -> npt.NDArray[np.float64]:
    """Squared error of each conversion at a gain."""
    adc = replace(make_adc(target), gain=gain)
    error: npt.NDArray[np.float64] = np.square(convert(adc, values) / np.float32(gain) - values, dtype=np.float64)
    return error


def _clips(values: Values, gain: float, target: Target) -> npt.NDArray[np.bool_]:
    """Whether each conversion clips at a gain."""
    adc = make_adc(target)
    codes = round_codes(adc, values * np.float32(gain))
    clips: npt.NDArray[np.bool_] = (codes > adc.largest) | (codes < adc.smallest)
    return clips


def _of_parts(reads: Iterator[Values], table: TileTable, shape: ArrayShape, target: Target) -> Fitted:
    """Arrays or columns choose the octave of their gain, the layer the place within an octave that serves them best."""
    full, copies = make_adc(target).gain, shape.arrays_per_tile
    octaves = np.arange(int(np.ceil(-np.log2(full))) + 1)
    gains = np.outer(MANTISSAS, 0.5**octaves)
    errors, clips, alive, wired, count, conversions = [], [], [], [], 0, 0
    for tile, values in enumerate(reads):
        arrays = table[tile * copies : (tile + 1) * copies]
        group, lines = _groups(arrays, values.shape[1], shape, target)
        sums = np.zeros((2, gains.size, int(group.max()) + 1))
        for place, gain in enumerate(gains.ravel().tolist()):
            np.add.at(sums[0, place], group, _error(values, gain, target).sum(axis=0))
            np.add.at(sums[1, place], group, _clips(values, gain, target).sum(axis=0))
        errors.append(sums[0])
        clips.append(sums[1])
        alive.append(np.bincount(group, np.abs(values).max(axis=0, initial=0.0)) > 0)
        wired.append(np.where(lines >= 0, group[lines] + count, -1))
        count, conversions = count + sums.shape[2], conversions + values.size
    live = np.concatenate([np.zeros(0, bool), *alive])
    if not live.any():
        return Fitted(full, None, 0.0)
    error = np.concatenate(errors, axis=1)[:, live].reshape(*gains.shape, -1)  # [mantissas, octaves, live groups]
    mantissa = int(error.min(axis=1).sum(axis=1).argmin())
    chosen = np.zeros(count, dtype=np.int64)
    chosen[live] = error[mantissa].argmin(axis=0)
    where = np.concatenate(wired)
    used = np.zeros(count, bool)
    used[where[where >= 0]] = True  # groups of weights; unit columns have the layer's range
    widest = int(chosen[live].max())
    zoom = np.where(live & used, widest - chosen, 0)
    at = np.ravel_multi_index((np.full(count, mantissa), widest - zoom), gains.shape)
    clipped = float(np.concatenate(clips, axis=1)[at, np.arange(count)].sum() / conversions)
    spread = np.where(where >= 0, zoom[where], 0).astype(np.int8)
    return Fitted(float(gains[mantissa, widest]), spread if spread.any() else None, clipped)


def _groups(arrays: TileTable, conversions: int, shape: ArrayShape, target: Target) -> tuple[IntArray, IntArray]:
    """What has one range in a tile.

    Args:
        arrays: of the tile.
        conversions: those of ``_converted``, then the unit columns.

    Returns:
        Number of the group of each conversion; number of the conversion of each bit line [arrays, columns], or -1.
    """
    held = conversions - len(arrays) * shape.unit
    lines = np.full((len(arrays), shape.columns), -1, dtype=np.int64)
    columns = int(arrays["cols"][0]) * shape.columns_per_weight
    owner = np.arange(len(arrays))  # which converters serve an array
    if is_signed(target) and shape.adjacent_polarities == 1:  # one set for the two arrays of a pair
        positive = arrays["polarity"] > 0
        owner[positive] = owner[~positive] = np.arange(positive.sum())
    within = np.arange(columns)
    if is_signed(target) and shape.adjacent_polarities == 2:
        weight, piece = np.divmod(within, shape.columns_per_weight)
        within = weight * shape.adjacent_slices + piece % shape.adjacent_slices
    each = int(within.max()) + 1
    lines[:, :columns] = owner[:, None] * each + within
    group = np.arange(conversions)
    if target.converters.adc.range_per is RangePer.ARRAY:
        group = np.where(group < held, group // each, group - held + held // each)
    return group, lines


# --- what is converted -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sampled:
    """A matrix and the input codes on which its ranges are fitted; as in ``fit_ranges``."""

    matrix: WeightMatrix
    table: TileTable
    samples: tuple[CodeSample, ...]
    shape: ArrayShape
    target: Target
    shift: int
    flips: npt.NDArray[np.bool_]

    def reads(self, tiles: Iterable[int]) -> Iterator[Values]:
        """Analog values before every conversion of the sampled vectors, tile by tile: [reads, conversions].

        Conversions are those of ``_converted``, then one unit column for each array, where there are any.
        """
        shape, target = self.shape, self.target
        lut = level_table(shape, target.encoding.weights, self.shift)
        smallest = code_range(shape, target.encoding.weights, self.shift).smallest
        copies = shape.arrays_per_tile
        heads = self.table[::copies]
        pedestal, full = make_adc(target).pedestal, (1 << shape.cell_bits) - 1
        for position in tiles:
            arrays = slice(position * copies, (position + 1) * copies)
            run = next(tile_runs(self.matrix, self.table[arrays], shape, smallest))
            levels = steps_of(_flipped(run_levels(run, lut, shape), run, self.flips[arrays], full, shape), shape)
            height, width = int(heads[position]["rows"]), int(heads[position]["cols"]) * shape.columns_per_weight
            columns = _converted(levels[:, :height, :width], self.table[arrays], shape, target).astype(np.float32)
            if shape.unit:  # one in each array
                columns = np.concatenate([columns, np.ones((height, copies), np.float32)], axis=1)  # [rows, columns]
            parts = []
            for sample in self.samples:
                inputs = self._inputs(sample, heads[position])[:, :height]  # [V, rows]
                reads = _reads(inputs, sample.bits, shape, target)
                parts += [read @ columns + pedestal * read.sum(axis=1, keepdims=True) for read in reads]
            yield np.concatenate(parts).astype(np.float32)

    def _inputs(self, sample: CodeSample, tile: np.void) -> npt.NDArray[np.uint16]:
        """What the sampled vectors put on the word lines of a tile: [V, rows]."""
        seen = sample.vectors
        vectors = np.zeros((len(seen), self.shape.rows), dtype=np.uint16)
        for block in tile_blocks(tile, self.matrix.rows, self.matrix.cols):
            vectors[:, block.row : block.row + len(block.rows)] = seen[:, block.group, block.rows]
        return vectors


def _converted(levels: npt.NDArray[Any], arrays: TileTable, shape: ArrayShape, target: Target) -> npt.NDArray[np.int16]:
    """What one conversion sees of a tile: the pair's difference, or single columns. int16 [rows, columns]."""
    signed, rows = levels.astype(np.int16), levels.shape[1]
    if is_signed(target):
        if shape.adjacent_polarities == 2:
            parts = signed.reshape(len(levels), rows, -1, 2, shape.adjacent_slices)
            signed = (parts[:, :, :, 0] - parts[:, :, :, 1]).reshape(len(levels), rows, -1)
        else:
            signed = signed[arrays["polarity"] > 0] - signed[arrays["polarity"] < 0]
    return signed.transpose(1, 0, 2).reshape(rows, -1)


def _reads(
    inputs: npt.NDArray[np.uint16], bits: int, shape: ArrayShape, target: Target
) -> Iterator[npt.NDArray[np.float32]]:
    """Input codes of each phase and row group, the other rows at zero: float32 [V, rows]."""
    step = target.converters.dac.bits
    for place in range(0, bits, step):
        plane = (inputs >> place) & ((1 << step) - 1)
        for first in range(0, inputs.shape[1], shape.rows_active):
            read = np.zeros(inputs.shape, dtype=np.float32)
            rows: Any = slice(first, first + shape.rows_active)
            read[:, rows] = plane[:, rows]
            yield read


def _flipped(levels: Levels, run: TileRun, flip: npt.NDArray[np.bool_], full: int, shape: ArrayShape) -> Levels:
    """Levels with the flipped columns complemented in their live rows."""
    live = np.repeat(run.index[:, :, 0] >= 0, shape.arrays_per_tile, axis=0)
    return np.where(flip[:, None, :] & live[:, :, None], np.uint8(full) - levels, levels)
