"""Give every weight its conductances and every layer its converter setting."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np

from mcompiler.conductance import MappedMatrix, column_sums, fit_ranges, is_lossless, largest_sum, make_adc
from mcompiler.declarations import ARRAY_SHAPE_KEYS, CONVERTER_KEYS, Reads
from mcompiler.encodings import CodesDoNotFitError
from mcompiler.errors import CompileError
from mcompiler.geometry import ArrayShape, TileTable, array_shape, tile_blocks
from mcompiler.ir import AnalogLayer, AnalogProgram, CodeSample, EncodedMatrix, IntArray, TiledProgram, WeightMatrix
from mcompiler.target import AdcRange, Target


@dataclass(frozen=True)
class Assign:
    """Encode weight codes as cell levels, flip columns, and set each layer's converter range."""

    name: ClassVar[str] = "assign"
    reads: ClassVar[Reads] = (
        *ARRAY_SHAPE_KEYS,
        *CONVERTER_KEYS,
        "digital.accumulator_bits",
    )

    def run(self, program: TiledProgram, target: Target) -> AnalogProgram:
        """Return the analog settings of every operation.

        Raises:
            CompileError: codes that the cells cannot hold, an accumulator that overflows, a calibrated converter range
                without calibration data.
        """
        shape = array_shape(target)
        matrix = program.matrix
        uses = [matrix.sites_of(number) for number in range(len(matrix.matrices))]
        for site in matrix.layers:
            _check_accumulator(site, target)
        samples = [[sample for use in each if (sample := matrix.sample(use)) is not None] for each in uses]
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy leaves the interpreter to others meanwhile
            assign = partial(_assign, shape=shape, target=target)
            analog = tuple(pool.map(assign, matrix.matrices, program.tables, samples))
        return AnalogProgram(program, analog)


def _assign(
    matrix: WeightMatrix, table: TileTable, samples: Sequence[CodeSample], shape: ArrayShape, target: Target
) -> EncodedMatrix:
    shift = _fit_codes(matrix, shape)
    sums = column_sums(matrix, table, shape, target, shift)
    ideal = make_adc(target)
    encoded = EncodedMatrix(
        shift=shift,
        flips=sums.flips,
        gain=ideal.gain,
        lossless=False,
        live=_live_cells(matrix, table, shape),
        clipped=0.0,
        adc_bits=sums.bits,
        steps=sums.steps,
        signs=sums.signs,
    )
    if target.converters.adc.range is AdcRange.CALIBRATED:
        if not samples:
            raise CompileError(
                "the target calibrates its ADC range and there is no calibration data; give --calibration DATA.npz, or "
                "--set converters.adc.range=full",
                matrix.label,
            )
        ranges = fit_ranges(MappedMatrix(matrix, table, encoded, shape, target), samples)
        encoded = replace(encoded, gain=ranges.gain, zoom=ranges.zoom, clipped=ranges.clipped)

    def lossless(gain: float) -> bool:
        return is_lossless(replace(ideal, gain=gain), sums.lowest, sums.highest, sums.inputs)

    if (
        target.converters.adc.range is AdcRange.FULL
        or encoded.zoom is not None
        or not sums.highest
        or not lossless(1.0)
    ):
        return replace(encoded, lossless=lossless(encoded.gain))
    # Cells off their levels give sums between those of the mapping: a converter with codes to spare resolves them.
    gain = 1.0
    while lossless(2 * gain):
        gain *= 2
    return replace(encoded, gain=gain, clipped=0.0, lossless=True)


def _fit_codes(matrix: WeightMatrix, shape: ArrayShape) -> int:
    """The shift with which the cells hold the codes of a matrix; 0 where codes are not shifted."""
    if shape.steps:
        _check_levels(matrix, shape)
    low, high = (int(matrix.codes.min()), int(matrix.codes.max())) if matrix.codes.size else (0, 0)
    try:
        return shape.encoding.fit_codes(low, high, shape)
    except CodesDoNotFitError as error:
        raise CompileError(str(error), matrix.label) from error


def _check_levels(matrix: WeightMatrix, shape: ArrayShape) -> None:
    """Every code must be an entry of the level table, with either sign, or 0."""
    for group, codes in enumerate(matrix.codes):
        wrong = np.argwhere(~np.isin(np.abs(codes.astype(np.int32)), shape.steps))
        if len(wrong):
            row, column = wrong[0].tolist()
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            shown = ", ".join(map(str, shape.steps[1:4])) + (f" ... {shape.steps[-1]}" if len(shape.steps) > 4 else "")
            raise CompileError(
                f"weight code {codes[row, column]} (group {group}, row {row}, output channel {column}){more} is none "
                f"of the target's levels: 0 and +-({shown}), in units of (g_max - g_min) / 4096; train or quantise it "
                "to these levels (--requantise, or mcompiler.admm for this target), or compile it for a target without "
                "device.level_means and encoding.partner",
                matrix.label,
            )


def _check_accumulator(layer: AnalogLayer, target: Target) -> None:
    """The digital accumulator must hold the extreme sum of every column."""
    extreme = int(largest_sum(layer.matrix.codes)) * layer.site.input.largest
    if extreme >= 1 << (target.digital.accumulator_bits - 1):
        raise CompileError(
            f"a column can sum to {extreme}, which overflows the target's accumulators of "
            f"{target.digital.accumulator_bits} bits; raise digital.accumulator_bits to "
            f"{extreme.bit_length() + 1}, or lower precision.weights or precision.inputs (with --requantise for the "
            "codes that a model brings)",
            layer.site.name,
        )


def _live_cells(matrix: WeightMatrix, table: TileTable, shape: ArrayShape) -> IntArray:
    """Cells of each array that hold a kept weight of the group of their column: int64 [arrays]."""
    copies = shape.arrays_per_tile
    heads = table[::copies]
    weights = heads["rows"].astype(np.int64) * heads["cols"]
    for position in np.flatnonzero(heads["groups"] > 1):
        weights[position] = sum(
            len(b.rows) * len(b.cols) for b in tile_blocks(heads[position], matrix.rows, matrix.cols)
        )
    return np.repeat(weights * shape.columns_per_weight, copies)
