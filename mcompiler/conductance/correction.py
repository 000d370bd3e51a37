"""Digital gain and offset of columns or ADCs, fitted on known inputs: what a chip does about its own errors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.conductance.converters import AdcTransfer, apply_nonlinearity, convert
from mcompiler.conductance.reads import ReadBlock
from mcompiler.conductance.states import Values
from mcompiler.ir import IntArray

Floats = npt.NDArray[np.float64]


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

    def lines(
        self,
        levels: Values,
        wanted: npt.NDArray[np.number[Any]],
        added: Values,
        bow: Values,
        zoom: IntArray,
        shared: IntArray,
    ) -> tuple[Floats, Floats]:
        """Factor and summand on the codes of columns that come closest to the codes of the mapping.

        Args:
            levels, wanted: [rows, columns], of the chip and of the mapping.
            added, bow: [columns], what the converters add, in codes.
            zoom: [columns], gain of a column's converter over the layer's.
            shared: [columns], number from 0 of what has one factor and one summand.
        """
        counted = self.adc.pedestal * self.inputs.sum(axis=1)[:, None]
        gain = self.adc.gain * zoom
        given = gain * (self.inputs @ levels.astype(np.float64) + counted) + added
        codes = convert(replace(self.adc, gain=1.0), apply_nonlinearity(self.adc, given, bow))
        aim = gain * (self.inputs @ wanted.astype(np.float64) + counted)
        known = (aim >= self.adc.smallest) & (aim <= self.adc.largest)  # what the mapping clips says nothing
        members = np.bincount(shared, known.sum(axis=0))

        def mean(values: Values) -> Floats:
            return np.bincount(shared, (values * known).sum(axis=0)) / np.maximum(members, 1)

        middle, target = mean(codes), mean(aim)
        spread = codes - middle[shared]
        power = mean(spread**2)
        slope = np.divide(mean(spread * (aim - target[shared])), power, out=np.ones_like(power), where=power > 0)
        return slope[shared], (target - slope * middle)[shared]


def corrected(
    block: ReadBlock,
    wanted: ReadBlock,
    adc: AdcTransfer,
    vectors: int,
    largest: int,
    rng: np.random.Generator,
    per: str,
) -> ReadBlock:
    """A read with the affine map of its codes that comes closest, by least squares, to the codes of the mapping.

    All columns are measured through their converters, unit and reference columns too, noise averaged out. What the map
    cannot mend stays: errors of single cells, rounding, clipped codes.

    Args:
        block: of one chip.
        wanted: the same read as the mapping asks for it.
        adc: the layer's converter.
        vectors: known input vectors, that drive almost none to all of the rows.
        largest: input code of a phase.
        rng: draws them.
        per: ``column`` or ``adc``: what has a map of its own. Unit and reference columns have converters of their own.

    Returns:
        The block with ``scale`` and ``constant``; a scale that it had is part of what the map mends.
    """
    rows, conversions, channels = wanted.levels.shape
    measured, none = Measurement.drawn(adc, rows, vectors, largest, rng), np.zeros((conversions, channels))
    present, beside = wanted.place_value != 0, block.beside
    shared = np.arange(present.size)
    if per == "adc" and block.adc is not None:  # what is absent shares with nobody
        keys = np.where(block.adc < 0, -1 - shared.reshape(block.adc.shape), block.adc)
        shared = np.unique(keys, return_inverse=True)[1].reshape(-1)
    slope, shift = measured.lines(
        block.levels.reshape(rows, -1),
        wanted.levels.reshape(rows, -1),
        (none if block.offset is None else block.offset).reshape(-1),
        (none if block.bow is None else block.bow).reshape(-1),
        block.zoomed.reshape(-1),
        shared,
    )
    scale = np.where(present, slope.reshape(conversions, channels), 1.0)
    shift = np.where(present, shift.reshape(conversions, channels), 0.0)
    constant = (wanted.place_value / block.zoomed * shift).sum(axis=0)
    if beside is not None:
        held = np.repeat([[1, 0]], [beside.units, beside.references], axis=1)  # level of every live cell
        nominal = np.broadcast_to(held, beside.currents.shape)
        each = np.arange(len(beside.offset))
        slope, shift = measured.lines(
            beside.currents, nominal, beside.offset, beside.bow, np.ones(len(each), np.int64), each
        )
        beside = replace(beside, scale=slope, constant=shift)
    return replace(block, scale=scale, constant=constant, beside=beside)
