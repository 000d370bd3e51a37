"""Converter ranges that are fitted to the reads of calibration inputs: of a layer, of each array or of each column."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.conductance.codes import TileRun, code_span, run_levels, steps_of, tile_runs
from mcompiler.conductance.converters import convert, eight_bit_floor, make_adc, round_codes
from mcompiler.conductance.mapped import MappedMatrix
from mcompiler.encodings import Levels
from mcompiler.geometry import ArrayShape, TileTable, tile_blocks
from mcompiler.ir import CodeSample, IntArray
from mcompiler.target import RangePer, Target

SAMPLED_TILES = 24
"""Array positions of a layer on which a range for all of it is fitted."""

SAMPLED_READS = 1024
"""Reads of each array on which ranges of arrays and columns are fitted."""

MANTISSAS = tuple(eight_bit_floor(2.0 ** (-place / 4)) for place in range(4))
"""Gains within an octave that are tried for a layer whose arrays or columns choose the octave. Of 8 bits, as in
``eight_bit_floor``: a product with a sum is then exact in float32, and every form of the converter rounds alike."""

Values = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ConverterRanges:
    """Ranges of a layer's converters.

    Attributes:
        gain: of the widest range, in codes per level step.
        zoom: int8 [arrays, columns]: binary steps by which that of each bit line is finer; None: all are as wide.
        clipped: share of the sampled conversions that clip.
    """

    gain: float
    zoom: npt.NDArray[np.int8] | None
    clipped: float


def fit_ranges(mapped: MappedMatrix, samples: Sequence[CodeSample]) -> ConverterRanges:
    """The ranges with the least mean square error over the conversions of sampled reads.

    Args:
        mapped: the matrix; shift and flips are read, converter ranges are not.
        samples: input codes of the calibration data, of every site that uses the matrix.
    """
    table, shape, target = mapped.table, mapped.shape, mapped.target
    tiles = np.arange(len(table) // shape.arrays_per_tile)
    if target.converters.adc.range_per is RangePer.LAYER:
        chosen = tiles[np.unique(np.linspace(0, len(tiles) - 1, min(SAMPLED_TILES, len(tiles))).astype(np.int64))]
        reads = _Sampled(mapped, tuple(samples)).reads(chosen)
        return _of_layer(np.concatenate([np.zeros(0, np.float32), *(values.ravel() for values in reads)]), target)
    few = tuple(_few(sample, shape, target) for sample in samples)
    return _of_parts(_Sampled(mapped, few).reads(tiles), table, shape, target)


def _few(sample: CodeSample, shape: ArrayShape, target: Target) -> CodeSample:
    """The vectors, evenly taken from a sample, whose reads of an array are ``SAMPLED_READS`` at most."""
    phases, seen = -(-sample.bits // target.converters.dac.bits), len(sample.vectors)
    kept = np.linspace(0, seen - 1, min(seen, max(1, SAMPLED_READS // (phases * shape.reads)))).astype(np.int64)
    return replace(sample, vectors=sample.vectors[kept])


def _of_layer(values: Values, target: Target) -> ConverterRanges:
    """One range for all conversions of a layer."""
    if not values.any():
        return ConverterRanges(make_adc(target).gain, None, 0.0)
    # A narrower range rounds less and clips more. The best is between the largest value seen and a sixteenth of it; the
    # error is flat near its minimum, so that a grid of 33 gains loses nothing that matters.
    limits = float(np.abs(values).max()) * np.geomspace(1.0, 1 / 16, 33)
    gains = [make_adc(target, float(limit)).gain for limit in limits]
    gain = gains[int(np.argmin([_error(values, gain, target).sum() for gain in gains]))]
    return ConverterRanges(gain, None, float(_clips(values, gain, target).mean()))


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


def _of_parts(reads: Iterator[Values], table: TileTable, shape: ArrayShape, target: Target) -> ConverterRanges:
    """Arrays or columns choose the octave of their gain; the layer chooses the mantissa that all of them share."""
    # The gain of a bit line is mantissa x 2^-octave. The mantissa is common to the layer, because codes of different
    # octaves can then be added after a shift by whole bits; the octave is free. So: sum the errors of every group at
    # every (mantissa, octave), give each group its best octave for each mantissa, take the mantissa of the least sum.
    # Octaves reach from a gain of about 1 (a finer code than a level step tells nothing more) to that of full scale.
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
        wired.append(np.where(lines >= 0, group[lines] + count, -1))  # entries for -1 are discarded
        count, conversions = count + sums.shape[2], conversions + values.size
    # Groups that only ever convert 0 err by nothing at any gain: they must not take part in the choice.
    live = np.concatenate([np.zeros(0, bool), *alive])
    if not live.any():
        return ConverterRanges(full, None, 0.0)
    error = np.concatenate(errors, axis=1)[:, live].reshape(*gains.shape, -1)  # [mantissas, octaves, live groups]
    mantissa = int(error.min(axis=1).sum(axis=1).argmin())
    chosen = np.zeros(count, dtype=np.int64)
    chosen[live] = error[mantissa].argmin(axis=0)
    where = np.concatenate(wired)
    used = np.zeros(count, bool)
    used[where[where >= 0]] = True  # groups with bit lines of weights; unit columns have the layer's range
    # The widest range in use is the layer's gain; all others are finer by a number of binary steps, their zoom.
    widest = int(chosen[live].max())
    zoom = np.where(live & used, widest - chosen, 0)
    at = np.ravel_multi_index((np.full(count, mantissa), widest - zoom), gains.shape)
    clipped = float(np.concatenate(clips, axis=1)[at, np.arange(count)].sum() / conversions)
    spread = np.where(where >= 0, zoom[where], 0).astype(np.int8)
    return ConverterRanges(float(gains[mantissa, widest]), spread if spread.any() else None, clipped)


def _groups(arrays: TileTable, conversions: int, shape: ArrayShape, target: Target) -> tuple[IntArray, IntArray]:
    """Groups of the conversions of a tile that share a range.

    Args:
        arrays: of the tile.
        conversions: those of ``_converted``, then the unit columns.

    Returns:
        Number of the group of each conversion; number of the conversion of each bit line [arrays, columns], or -1.
    """
    held = conversions - len(arrays) * shape.unit
    lines = np.full((len(arrays), shape.columns), -1, dtype=np.int64)
    columns = int(arrays["cols"][0]) * shape.columns_per_weight
    encoding, apart = shape.encoding, shape.polarities // shape.adjacent_polarities
    # Arrays of a tile: slices outermost, then polarities. Two arrays whose lines are subtracted share a set of
    # converters; numbers of these sets are counted without gaps, as the conversions of `_converted` are.
    served = [encoding.converters[polarity] for polarity in range(apart)]
    copy, polarity = np.divmod(np.arange(len(arrays)), apart)
    owner = copy * len(set(served)) + np.asarray(served)[polarity]
    # The same within an array, where the lines of a pair are adjacent: polarity outermost, slices inside.
    weight, line = np.divmod(np.arange(columns), shape.columns_per_weight)
    place, piece = np.divmod(line, shape.adjacent_slices)
    shared = shape.columns_per_weight // shape.lines_per_conversion
    within = weight * shared + np.asarray(encoding.converters)[place] * shape.adjacent_slices + piece
    each = columns // shape.lines_per_conversion
    lines[:, :columns] = owner[:, None] * each + within
    group = np.arange(conversions)
    if target.converters.adc.range_per is RangePer.ARRAY:
        group = np.where(group < held, group // each, group - held + held // each)
    return group, lines


# --- sampled reads ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sampled:
    """A matrix and the input codes on which its ranges are fitted."""

    mapped: MappedMatrix
    samples: tuple[CodeSample, ...]

    def reads(self, tiles: Iterable[int]) -> Iterator[Values]:
        """Analog values before every conversion of the sampled vectors, tile by tile: [reads, conversions].

        Conversions are those of ``_converted``, then one unit column for each array, where there are any.
        """
        matrix, table, shape, target = self.mapped.matrix, self.mapped.table, self.mapped.shape, self.mapped.target
        shift, flips = self.mapped.encoded.shift, self.mapped.encoded.flips
        codes = code_span(matrix)
        lut = shape.encoding.level_table(shape, shift, codes)
        copies = shape.arrays_per_tile
        heads = table[::copies]
        pedestal, full = make_adc(target).pedestal, (1 << shape.cell_bits) - 1
        for position in tiles:
            arrays = slice(position * copies, (position + 1) * copies)
            run = next(tile_runs(matrix, table[arrays], shape, codes.smallest))
            levels = steps_of(_flipped(run_levels(run, lut, shape), run, flips[arrays], full, shape), shape)
            height, width = int(heads[position]["rows"]), int(heads[position]["cols"]) * shape.columns_per_weight
            columns = _converted(levels[:, :height, :width], shape).astype(np.float32)
            if shape.unit:  # one in each array
                columns = np.concatenate([columns, np.ones((height, copies), np.float32)], axis=1)  # [rows, columns]
            parts = []
            for sample in self.samples:
                inputs = self._inputs(sample, heads[position])[:, :height]  # [V, rows]
                reads = _reads(inputs, sample.bits, shape, target)
                # Every active row adds the pedestal to every conversion, in proportion to its input.
                parts += [read @ columns + pedestal * read.sum(axis=1, keepdims=True) for read in reads]
            yield np.concatenate(parts).astype(np.float32)

    def _inputs(self, sample: CodeSample, tile: np.void) -> npt.NDArray[np.uint16]:
        """Input codes of the sampled vectors on the word lines of a tile: [V, rows]."""
        vectors = np.zeros((len(sample.vectors), self.mapped.shape.rows), dtype=np.uint16)
        for block in tile_blocks(tile, self.mapped.matrix.rows, self.mapped.matrix.cols):
            vectors[:, block.row : block.row + len(block.rows)] = sample.vectors[:, block.group, block.rows]
        return vectors


def _converted(levels: npt.NDArray[Any], shape: ArrayShape) -> npt.NDArray[np.int16]:
    """Levels that each conversion of a tile adds up: a pair's difference, or a single column. int16 [rows, columns]."""
    rows, columns = levels.shape[1:]
    weights, apart = columns // shape.columns_per_weight, shape.polarities // shape.adjacent_polarities
    # [slices apart, polarities apart, rows, weights, adjacent polarities, adjacent slices]: polarities are on one of
    # two axes, the other has length 1.
    axes = (-1, apart, rows, weights, shape.adjacent_polarities, shape.adjacent_slices)
    parts = levels.astype(np.int16).reshape(axes)
    seen = shape.encoding.seen(parts, axis=1 if apart > 1 else 4)
    return seen.transpose((2, 0, 1, 3, 4, 5)).reshape(rows, -1)


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
