"""Give every weight its conductances and every layer its converter setting."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mcompiler.conductance import (
    Adc,
    Levels,
    TileRun,
    code_range,
    column_sums,
    convert,
    is_lossless,
    is_signed,
    largest_sum,
    level_table,
    make_adc,
    round_codes,
    run_levels,
    steps_of,
    tile_runs,
)
from mcompiler.errors import CompileError
from mcompiler.geometry import ArrayShape, TileTable, array_shape, tile_blocks
from mcompiler.ir import AnalogOp, AnalogProgram, CodeSample, IntArray, MatrixOp, TiledProgram
from mcompiler.target import AdcRange, Target, WeightEncoding

SAMPLED_TILES = 24
"""Array positions of a layer on which a calibrated converter range is fitted."""


@dataclass(frozen=True)
class Assign:
    """Encode weight codes as cell levels, flip columns, and set each layer's converter range."""

    name: ClassVar[str] = "assign"

    def run(self, program: TiledProgram, target: Target) -> AnalogProgram:
        """Return the analog settings of every operation.

        Raises:
            CompileError: codes that the cells cannot hold, an accumulator that overflows, a calibrated converter range
                without calibration data.
        """
        shape = array_shape(target)
        analog = tuple(
            _assign(op, table, program.matrix.samples.get(op.name), shape, target)
            for op, table in zip(program.matrix.ops, program.tables, strict=True)
        )
        return AnalogProgram(program, analog)


def _assign(op: MatrixOp, table: TileTable, sample: CodeSample | None, shape: ArrayShape, target: Target) -> AnalogOp:
    shift = _fit_codes(op, shape, target)
    _check_accumulator(op, target)
    sums = column_sums(op, table, shape, target, shift)
    if target.converters.adc.range is AdcRange.CALIBRATED:
        if sample is None:
            raise CompileError(
                "the target calibrates its ADC range and there is no calibration data; give --calibration DATA.npz, or "
                "--set converters.adc.range=full",
                op.name,
            )
        adc, clipped = _calibrate(op, table, sample, shape, target, shift, sums.flips)
    else:
        adc, clipped = make_adc(target), 0.0
    lossless = is_lossless(adc, sums.lowest, sums.highest, sums.inputs)
    live = _live_cells(op, table, shape)
    return AnalogOp(shift, sums.flips, adc.gain, lossless, live, clipped, sums.bits, sums.signs)


def _fit_codes(op: MatrixOp, shape: ArrayShape, target: Target) -> int:
    """Check that the cells can hold the codes; return the shift of offset encoding (0 otherwise)."""
    if shape.steps:
        _check_levels(op, shape)
        return 0
    low, high = (int(op.codes.min()), int(op.codes.max())) if op.codes.size else (0, 0)
    encoding = target.encoding.weights
    bits = shape.cell_bits * shape.slices
    remedy = (
        f"{shape.slices} slice(s) of {shape.cell_bits} bits; raise encoding.slices (--set encoding.slices=N) "
        f"or lower the "
        f"weights' bits (--set precision.weights=B)"
    )
    if encoding is WeightEncoding.OFFSET:
        shift = 1 << (bits - 1)
        if low < -shift or high > (1 << bits) - 1 - shift:
            shift = max(0, -low)
        if high + shift > (1 << bits) - 1:
            raise CompileError(f"weight codes from {low} to {high} do not fit into {remedy}", op.name)
        return shift
    span = code_range(shape, encoding)
    if low < span.smallest or high > span.largest:
        holder = "a pair" if encoding is WeightEncoding.DIFFERENTIAL else "a cell and the sign of its fragment"
        raise CompileError(
            f"weight codes from {low} to {high} do not fit into -{span.largest}..{span.largest}, which is what "
            f"{holder} {'holds' if encoding is WeightEncoding.DIFFERENTIAL else 'hold'} in {remedy}",
            op.name,
        )
    return 0


def _check_levels(op: MatrixOp, shape: ArrayShape) -> None:
    """Every code must be an entry of the level table, with either sign, or 0."""
    for group, codes in enumerate(op.codes):
        wrong = np.argwhere(~np.isin(np.abs(codes.astype(np.int32)), shape.steps))
        if len(wrong):
            row, column = wrong[0].tolist()
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            shown = ", ".join(map(str, shape.steps[1:4])) + (f" ... {shape.steps[-1]}" if len(shape.steps) > 4 else "")
            raise CompileError(
                f"weight code {codes[row, column]} (group {group}, row {row}, output channel {column}){more} is none "
                f"of the target's levels: 0 and +-({shown}), in units of (g_max - g_min) / 4096; train or quantise it "
                "to these levels (compile the float model, or mcompiler.admm for this target), or compile it for a "
                "target without device.level_means and encoding.partner",
                op.name,
            )


def _check_accumulator(op: MatrixOp, target: Target) -> None:
    """The digital accumulator must hold the extreme sum of every column."""
    extreme = int(largest_sum(op.codes)) * op.input.largest
    if extreme >= 1 << (target.digital.accumulator_bits - 1):
        raise CompileError(
            f"a column can sum to {extreme}, which overflows the target's accumulators of "
            f"{target.digital.accumulator_bits} bits; raise digital.accumulator_bits to "
            f"{extreme.bit_length() + 1} or lower the bits of weights or inputs",
            op.name,
        )


def _live_cells(op: MatrixOp, table: TileTable, shape: ArrayShape) -> IntArray:
    """Cells of each array that hold a kept weight of its own group: int64 [arrays]."""
    copies = shape.arrays_per_tile
    heads = table[::copies]
    weights = heads["rows"].astype(np.int64) * heads["cols"]
    for position in np.flatnonzero(heads["groups"] > 1):
        weights[position] = sum(len(b.rows) * len(b.cols) for b in tile_blocks(heads[position], op.rows, op.cols))
    return np.repeat(weights * shape.columns_per_weight, copies)


# --- calibrated converter ranges -------------------------------------------------------------------------------------


def _calibrate(
    op: MatrixOp,
    table: TileTable,
    sample: CodeSample,
    shape: ArrayShape,
    target: Target,
    shift: int,
    flips: npt.NDArray[np.bool_],
) -> tuple[Adc, float]:
    """Fit the converter range that errs least on sampled reads; return it and the share of reads that it clips."""
    values = np.concatenate([np.zeros(0, np.float32), *_sampled_reads(op, table, sample, shape, target, shift, flips)])
    if not values.any():
        return make_adc(target), 0.0
    best: tuple[float, Adc] | None = None
    for limit in float(np.abs(values).max()) * np.geomspace(1.0, 1 / 16, 33):
        adc = make_adc(target, float(limit))
        error = float(np.square(convert(adc, values) / adc.gain - values, dtype=np.float64).mean())
        if best is None or error < best[0]:
            best = (error, adc)
    assert best is not None  # the list of candidates is not empty
    adc = best[1]
    codes = round_codes(adc, values * np.float32(adc.gain))
    return adc, float(((codes > adc.largest) | (codes < adc.smallest)).mean())


def _sampled_reads(
    op: MatrixOp,
    table: TileTable,
    sample: CodeSample,
    shape: ArrayShape,
    target: Target,
    shift: int,
    flips: npt.NDArray[np.bool_],
) -> Iterator[npt.NDArray[np.float32]]:
    """Analog values before every conversion of the sampled vectors, on evenly spread tiles."""
    lut = level_table(shape, target.encoding.weights, shift)
    smallest = code_range(shape, target.encoding.weights, shift).smallest
    copies = shape.arrays_per_tile
    heads = table[::copies]
    count = min(SAMPLED_TILES, len(heads))
    chosen = np.unique(np.linspace(0, len(heads) - 1, count).astype(np.int64)) if count else np.zeros(0, np.int64)
    pedestal, full = make_adc(target).pedestal, (1 << shape.cell_bits) - 1
    for position in chosen:
        arrays = slice(position * copies, (position + 1) * copies)
        run = next(tile_runs(op, table[arrays], shape, smallest))
        levels = steps_of(_flipped(run_levels(run, lut, shape), run, flips[arrays], full, shape), shape)
        height, width = int(heads[position]["rows"]), int(heads[position]["cols"]) * shape.columns_per_weight
        inputs = _tile_inputs(op, heads[position], sample, shape)[:, :height]  # [V, rows]
        columns = _converted(levels[:, :height, :width], table[arrays], shape, target).astype(np.float32)
        if shape.unit:  # one in each array
            columns = np.concatenate([columns, np.ones((height, copies), np.float32)], axis=1)  # [rows, columns]
        for read in _reads(inputs, op.input.bits, shape, target):
            yield (read @ columns + pedestal * read.sum(axis=1, keepdims=True)).ravel().astype(np.float32)


def _tile_inputs(op: MatrixOp, tile: np.void, sample: CodeSample, shape: ArrayShape) -> npt.NDArray[np.uint16]:
    vectors = np.zeros((len(sample.vectors), shape.rows), dtype=np.uint16)
    for block in tile_blocks(tile, op.rows, op.cols):
        vectors[:, block.row : block.row + len(block.rows)] = sample.vectors[:, block.group, block.rows]
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
