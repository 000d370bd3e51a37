"""Digital gain and offset of every converted column, fitted on known inputs: what a chip does about its own errors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mcompiler.conductance.converters import Adc, convert
from mcompiler.conductance.reads import ReadBlock


def corrected(
    block: ReadBlock, wanted: ReadBlock, adc: Adc, vectors: int, largest: int, rng: np.random.Generator
) -> ReadBlock:
    """A read with the affine map of its codes that comes closest, by least squares, to the codes of the mapping.

    The columns are measured through their converters, noise averaged out. What the map cannot mend stays: errors of
    single cells, rounding, clipped codes.

    Args:
        block: of one chip.
        wanted: the same read as the mapping asks for it.
        adc: the layer's converter.
        vectors: known input vectors, drawn uniformly.
        largest: input code of a phase.
        rng: draws them.

    Returns:
        The block with ``scale`` and ``constant``; a scale that it had is part of what the map mends.
    """
    rows, conversions, channels = wanted.levels.shape
    pedestal = adc.pedestal * adc.gain
    x = rng.integers(0, largest + 1, (vectors, rows)).astype(np.float64)
    counted = pedestal * x.sum(axis=1)[:, None]

    def values(read: ReadBlock) -> npt.NDArray[np.float64]:
        found: npt.NDArray[np.float64] = adc.gain * (x @ read.levels.reshape(rows, -1).astype(np.float64)) + counted
        return found

    given = values(block)
    if block.offset is not None:
        given = given + block.offset.reshape(-1)
    codes = convert(replace(adc, gain=1.0), given)  # [vectors, conversions * channels]
    aim = values(wanted)
    spread = codes - codes.mean(axis=0)
    power = (spread**2).sum(axis=0)
    slope = np.divide((spread * (aim - aim.mean(axis=0))).sum(axis=0), power, out=np.ones_like(power), where=power > 0)
    shift = aim.mean(axis=0) - slope * codes.mean(axis=0)
    present = wanted.worth != 0
    scale = np.where(present, slope.reshape(conversions, channels), 1.0)
    constant = (wanted.worth * np.where(present, shift.reshape(conversions, channels), 0.0)).sum(axis=0)
    return replace(block, scale=scale, constant=constant)
