"""One read of a matrix: the values that converters see; column blocks over the same word lines are joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.conductance.states import STEADY, ExtraColumns, Fluctuations, SharedLines, Values
from mcompiler.ir import IntArray


@dataclass(frozen=True)
class ReadBlock:
    """Word lines that are driven at once, and every column that they cross: one read of one phase.

    Attributes:
        group, groups: input groups that the word lines belong to; their output channels are the columns.
        rows: int64 [rows], index of each word line in groups x K, counted from ``group``.
        levels: int16 [rows, conversions, channels]: level (or level difference of a pair) on each converted bit line,
            for the ``groups * N`` output channels of those groups, in the units of the level table where there is one;
            float32 where conductances are off their levels: as a chip has them, gains of converters included, and less
            the nominal pedestal where it is not taken off before the conversion.
        place_value: int32 [conversions, channels]: factor of a decoded code in its channel's sum, with the sign of the
            read; 0 where there is no cell.
        inputs: int64 [channels]: factor of the sum of the inputs over the word lines, which is added to the channel's
            sum: undoes flips and subtracts the shift.
        fluctuations: float32 [rows, conversions, channels]: of ``levels``.
        reference: what fluctuates in reference columns that were subtracted; shares [references, conversions,
            channels].
        offset, bow: float32 [conversions, channels]: of each converter, in codes, or None.
        scale: float64 [conversions, channels]: digital factor on decoded codes, or None.
        constant: float64 [channels]: digital correction of each read of one phase, in units of a code of the
            layer's range times ``place_value``, or None.
        extra_columns: unit and reference columns of a chip; None: ideal ones, as the mapping defines them.
        adc: int64 [conversions, channels]: number of the converter of each, over all arrays of the layer; -1 where
            there is no cell; of a chip only, else None.
        zoom: int8 [conversions, channels]: binary steps by which the range of a conversion is finer than the layer's;
            None: not at all. Levels and their variance are before that gain, offsets after it.
    """

    group: int
    groups: int
    rows: IntArray
    levels: npt.NDArray[Any]
    place_value: npt.NDArray[np.int32]
    inputs: IntArray
    fluctuations: Fluctuations = STEADY
    reference: SharedLines | None = None
    offset: Values | None = None
    bow: Values | None = None
    scale: Values | None = None
    constant: Values | None = None
    extra_columns: ExtraColumns | None = None
    zoom: npt.NDArray[np.int8] | None = None
    adc: IntArray | None = None

    @property
    def zoomed(self) -> npt.NDArray[np.int64]:
        """Codes of each conversion over those of the layer's range, a power of two: [conversions, channels]."""
        return np.ones(self.place_value.shape, np.int64) if self.zoom is None else 1 << self.zoom.astype(np.int64)


def joined_columns(blocks: list[ReadBlock]) -> ReadBlock:
    """Column blocks over the same word lines are one read.

    Their channels are disjoint and a block is 0 in the channels of the others, so that their sum has the values of all.
    Neutral is 1 for ``scale`` and -1 for ``adc`` instead.
    """
    first = blocks[0]
    if len(blocks) == 1:
        return first
    return replace(
        first,
        levels=np.asarray(np.sum([block.levels for block in blocks], axis=0, dtype=first.levels.dtype)),
        place_value=np.sum([block.place_value for block in blocks], axis=0, dtype=np.int32),
        inputs=np.sum([block.inputs for block in blocks], axis=0, dtype=np.int64),
        fluctuations=Fluctuations.combined(
            [block.fluctuations for block in blocks], lambda parts: np.asarray(sum(parts))
        ),
        reference=_join_references(blocks),
        offset=_sum_of([block.offset for block in blocks]),
        bow=_sum_of([block.bow for block in blocks]),
        scale=_join_scale(blocks),
        zoom=None if first.zoom is None else np.asarray(sum(block.zoom for block in blocks if block.zoom is not None)),
        adc=None if first.adc is None else np.max([block.adc for block in blocks if block.adc is not None], axis=0),
        extra_columns=_join_extra_columns(blocks),
    )


def _sum_of(parts: Sequence[Values | None]) -> Values | None:
    known = [part for part in parts if part is not None]
    return np.asarray(sum(known[1:], known[0])) if known else None


def _join_references(blocks: list[ReadBlock]) -> SharedLines | None:
    """The reference columns of all arrays, in the order of the blocks."""
    parts = [block.reference for block in blocks if block.reference is not None]
    if not parts:
        return None
    fluctuations = Fluctuations.combined([part.fluctuations for part in parts], partial(np.concatenate, axis=1))
    return SharedLines(fluctuations, np.concatenate([part.share for part in parts]))


def _join_scale(blocks: list[ReadBlock]) -> Values | None:
    if all(block.scale is None for block in blocks):
        return None
    joined = np.ones(blocks[0].place_value.shape)
    for block in blocks:
        if block.scale is not None:
            joined = np.where(block.place_value != 0, block.scale, joined)
    return joined


def _join_extra_columns(blocks: list[ReadBlock]) -> ExtraColumns | None:
    """The columns of all arrays, units first; numbers of arrays are counted on from block to block."""
    parts = [(block, block.extra_columns) for block in blocks if block.extra_columns is not None]
    if not parts:
        return None
    owner, before = np.zeros_like(parts[0][1].owner), 0
    for block, part in parts:
        owner += np.where(block.place_value != 0, part.owner + before, 0)
        before += part.units or part.references  # each array has one of every kind: both count its arrays

    def joined(values: Sequence[Values]) -> Values:
        units = [value[..., : part.units] for value, (_, part) in zip(values, parts, strict=True)]
        references = [value[..., part.units :] for value, (_, part) in zip(values, parts, strict=True)]
        return np.concatenate([*units, *references], axis=-1)

    return ExtraColumns(
        currents=joined([part.currents for _, part in parts]),
        fluctuations=Fluctuations.combined([part.fluctuations for _, part in parts], joined),
        offset=joined([part.offset for _, part in parts]),
        bow=joined([part.bow for _, part in parts]),
        gain=joined([part.gain for _, part in parts]),
        scale=joined([part.scale for _, part in parts]),
        constant=joined([part.constant for _, part in parts]),
        units=sum(part.units for _, part in parts),
        references=sum(part.references for _, part in parts),
        owner=owner,
    )
