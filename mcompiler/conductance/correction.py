"""Digital gain and offset of columns or ADCs, fitted on known inputs: how a chip corrects its own errors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.conductance.converters import AdcTransfer, apply_nonlinearity, convert
from mcompiler.conductance.read_block import ReadBlock
from mcompiler.conductance.states import Values
from mcompiler.ir import IntArray

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class MeasuredColumns:
    """Columns of one read of a chip, with their converters.

    Attributes:
        levels: [rows, columns].
        added, bow: [columns], what the converters add, in codes.
        zoom: [columns], gain of a column's converter over the layer's.
        shared: [columns], number from 0 of the columns that have one factor and one summand together.
    """

    levels: Values
    added: Values
    bow: Values
    zoom: IntArray
    shared: IntArray


@dataclass(frozen=True)
class Measurement:
    """How the columns of one read are measured.

    Attributes:
        adc: the layer's converter.
        inputs: float64 [vectors, rows], known input codes of one phase.
    """

    adc: AdcTransfer
    inputs: Floats

    @classmethod
    def drawn(cls, adc: AdcTransfer, rows: int, vectors: int, largest: int, rng: np.random.Generator) -> Measurement:
        """With inputs drawn uniformly from 0 to ``largest``, on shares of the rows from almost none to all."""
        driven = rng.random((vectors, rows)) < rng.random((vectors, 1))
        return cls(adc, (rng.integers(0, largest + 1, (vectors, rows)) * driven).astype(np.float64))

    def fit(self, columns: MeasuredColumns, wanted: npt.NDArray[np.number[Any]]) -> tuple[Floats, Floats]:
        """Factor and summand [columns] on the codes of columns that come closest to the codes of the mapping.

        Args:
            columns: of the chip.
            wanted: [rows, columns], levels of the mapping.
        """
        shared = columns.shared
        counted = self.adc.pedestal * self.inputs.sum(axis=1)[:, None]
        gain = self.adc.gain * columns.zoom
        given = gain * (self.inputs @ columns.levels.astype(np.float64) + counted) + columns.added
        codes = convert(replace(self.adc, gain=1.0), apply_nonlinearity(self.adc, given, columns.bow))
        aim = gain * (self.inputs @ wanted.astype(np.float64) + counted)
        known = (aim >= self.adc.smallest) & (aim <= self.adc.largest)  # codes that the mapping clips tell nothing
        members = np.bincount(shared, known.sum(axis=0))

        def mean(values: Values) -> Floats:
            return np.bincount(shared, (values * known).sum(axis=0)) / np.maximum(members, 1)

        # Least squares of aim = slope codes + shift: slope is covariance over variance, and the line passes through the
        # means. Columns that share a converter are one fit over all their vectors.
        middle, target = mean(codes), mean(aim)
        spread = codes - middle[shared]
        power = mean(spread**2)
        slope = np.divide(mean(spread * (aim - target[shared])), power, out=np.ones_like(power), where=power > 0)
        return slope[shared], (target - slope * middle)[shared]


def corrected(
    block: ReadBlock,
    wanted: ReadBlock,
    adc: AdcTransfer,
    *,
    vectors: int,
    largest: int,
    rng: np.random.Generator,
    per: str,
) -> ReadBlock:
    """A read with the affine map of its codes that comes closest, by least squares, to the codes of the mapping.

    All columns are measured through their converters, unit and reference columns too, noise averaged out. The map
    cannot correct errors of single cells, rounding and clipped codes.

    Args:
        block: of one chip.
        wanted: the same read as the mapping asks for it.
        adc: the layer's converter.
        vectors: known input vectors, that drive almost none to all of the rows.
        largest: input code of a phase.
        rng: draws them.
        per: ``column`` or ``adc``: each column, or the columns of each ADC together, have one map. Unit and reference
            columns have converters of their own.

    Returns:
        The block with ``scale`` and ``constant``; the map includes a scale that the block had.
    """
    rows, conversions, channels = wanted.levels.shape
    measured, none = Measurement.drawn(adc, rows, vectors, largest, rng), np.zeros((conversions, channels))
    present, extra = wanted.place_value != 0, block.extra_columns
    shared = np.arange(present.size)
    if per == "adc" and block.adc is not None:  # conversions without cells share with none
        keys = np.where(block.adc < 0, -1 - shared.reshape(block.adc.shape), block.adc)
        shared = np.unique(keys, return_inverse=True)[1].reshape(-1)
    columns = MeasuredColumns(
        levels=block.levels.reshape(rows, -1),
        added=(none if block.offset is None else block.offset).reshape(-1),
        bow=(none if block.bow is None else block.bow).reshape(-1),
        zoom=block.zoomed.reshape(-1),
        shared=shared,
    )
    slope, shift = measured.fit(columns, wanted.levels.reshape(rows, -1))
    scale = np.where(present, slope.reshape(conversions, channels), 1.0)
    shift = np.where(present, shift.reshape(conversions, channels), 0.0)
    constant = (wanted.place_value / block.zoomed * shift).sum(axis=0)
    if extra is not None:
        held = np.repeat([[1, 0]], [extra.units, extra.references], axis=1)  # level of every live cell
        nominal = np.broadcast_to(held, extra.currents.shape)
        each = np.arange(len(extra.offset))
        columns = MeasuredColumns(extra.currents, extra.offset, extra.bow, np.ones(len(each), np.int64), each)
        slope, shift = measured.fit(columns, nominal)
        extra = replace(extra, scale=slope, constant=shift)
    return replace(block, scale=scale, constant=constant, extra_columns=extra)
