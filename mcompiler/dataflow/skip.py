"""Reads that need not happen: all-zero phases, fragments and rows of the inputs that calibration saw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mcompiler.dataflow.durations import phases
from mcompiler.geometry import TileTable, array_shape, tile_blocks
from mcompiler.ir import AnalogLayer, CodeSample
from mcompiler.target import Skip, Target

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Remaining:
    """Shares of the reads and drives of each array that are left: float64 [arrays]."""

    reads: Floats
    drives: Floats


def remaining(layer: AnalogLayer, table: TileTable, sample: CodeSample, target: Target) -> Remaining:
    """Shares over the vectors of a sample.

    A read of a fragment of rows in one phase is left out where none of its rows is driven (``fragments``), or only
    where no row of the whole array is driven in that phase (``phases``); with ``rows`` rows at zero are not driven
    either. Each array decides for itself.

    Args:
        layer, table: a layer and its arrays.
        sample: input codes of some vectors.
        target: the chip.
    """
    shape, skip, bits = array_shape(target), target.digital.skip, target.converters.dac.bits
    reads, drives = np.ones(len(table)), np.ones(len(table))
    if skip is Skip.NONE or not len(sample.vectors):
        return Remaining(reads, drives)
    for index in range(0, len(table), shape.arrays_per_tile):
        blocks = tile_blocks(table[index], layer.matrix.rows, layer.matrix.cols)
        codes = np.concatenate([sample.vectors[:, block.group, block.rows] for block in blocks], axis=1)
        starts = np.arange(0, codes.shape[1], shape.rows_active)
        done = driven = 0.0
        for phase in range(phases(layer, target)):
            on = ((codes >> (phase * bits)) & ((1 << bits) - 1)) != 0  # [V, rows]
            busy = np.logical_or.reduceat(on, starts, axis=1)  # [V, fragments]
            if skip is Skip.PHASES:
                busy = np.broadcast_to(busy.any(axis=1, keepdims=True), busy.shape)
            done += float(busy.mean())
            rows = np.repeat(busy, np.diff(np.append(starts, codes.shape[1])), axis=1)
            driven += float((on if skip is Skip.ROWS else rows).mean())
        own = slice(index, index + shape.arrays_per_tile)
        reads[own], drives[own] = done / phases(layer, target), driven / phases(layer, target)
    return Remaining(reads, drives)
