"""Layers with lossy converters: their bit lines and place values, before any node is added to the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.conductance import AdcTransfer, ExtraColumns, Fluctuations, ReadBlock, SharedLines
from mcompiler.ir import AnalogLayer, ConvShape
from mcompiler.onnx_export.converter import ConvertedLines
from mcompiler.onnx_export.fluctuations import Physics
from mcompiler.target import Target


@dataclass(frozen=True)
class LossyLayer:
    """A layer whose converters are lossy, with the values that every step of its export reads.

    ``integer``: onnxruntime's 8-bit kernels are the converter. ``bytes``: codes are uint8 (around 128 where signed).
    ``sizes``: spatial sizes of the (padded) input, where they are static. ``physics``: errors of a chip between reads.
    ``zoom``: binary steps from the layer's range to its finest.
    """

    op: AnalogLayer
    adc: AdcTransfer
    target: Target
    phases: int
    integer: bool
    bytes: bool
    sizes: tuple[int, ...] | None
    physics: Physics | None = None
    drawn: ir.Value | None = None
    zoom: int = 0

    @property
    def gain(self) -> float:
        """Sums of codes over sums of level steps: codes count in steps of the finest range."""
        return self.adc.gain * (1 << self.zoom)

    @property
    def reads(self) -> int:
        """Reads of an array for one sample."""
        return self.phases * self.op.site.vectors

    @property
    def step(self) -> int:
        """Bits of a phase."""
        return self.target.converters.dac.bits

    @property
    def pads_itself(self) -> bool:
        """Whether the codes are padded with z_x before the convolution (which pads with 0)."""
        return self.conv is not None and any(self.conv.pads) and self.op.site.input.zero_point != 0

    @property
    def source_sizes(self) -> tuple[int, ...] | None:
        """Static spatial sizes after that padding."""
        if self.sizes is None or self.conv is None or not self.pads_itself:
            return self.sizes
        rank = len(self.sizes)
        return tuple(n + self.conv.pads[i] + self.conv.pads[i + rank] for i, n in enumerate(self.sizes))

    @property
    def conv(self) -> ConvShape | None:
        """Geometry of a convolution, None for a product."""
        return self.op.site.shape if isinstance(self.op.site.shape, ConvShape) else None


@dataclass(frozen=True)
class ReadSegment:
    """Successive groups whose channels are computed together, and the reads of those that have cells.

    Attributes:
        first, end: groups; those before ``blocks[0].group`` have vanished, so that their channels are zero.
        blocks: the reads, all of the same groups.
        cols: output channels of a group.
    """

    first: int
    end: int
    blocks: tuple[ReadBlock, ...]
    cols: int

    @property
    def channels(self) -> int:
        """Output channels of all its groups."""
        return (self.end - self.first) * self.cols

    @property
    def held(self) -> slice:
        """The channels that have cells."""
        start = (self.blocks[0].group - self.first) * self.cols
        return slice(start, start + self.blocks[0].place_value.shape[1])


def same_place_values(blocks: Sequence[ReadBlock], layer: LossyLayer) -> bool:
    """Whether codes may be added over the reads before slices are combined."""
    scaled = any(
        block.scale is not None or block.constant is not None or block.extra_columns is not None for block in blocks
    )
    return (
        not scaled
        and not any(block.inputs.any() for block in blocks)
        and all(np.array_equal(_clean(block, layer), _clean(blocks[0], layer)) for block in blocks)
    )


def _clean(block: ReadBlock, layer: LossyLayer) -> npt.NDArray[np.int64]:
    return in_finest(place_values_of(block, layer), block, layer)


def place_values_of(block: ReadBlock, layer: LossyLayer) -> npt.NDArray[np.int32]:
    """Place values where nothing is added to the sums.

    A column without cells has code 0 whatever its place value, so that it may have that of the others: then reads with
    different empty columns have equal place values and their codes can be added first. Not with noisy converters, which
    give codes other than 0 there too.
    """
    return block.place_value if layer.physics is not None else present_place_values(block)


def present_place_values(block: ReadBlock) -> npt.NDArray[np.int32]:
    """Place value of each conversion, the same for columns without cells as for those with cells."""
    held = block.place_value
    filled: npt.NDArray[np.int32] = np.where(held != 0, held, held.max(axis=1, keepdims=True))
    return filled


def in_finest(place_values: npt.NDArray[np.int32], block: ReadBlock, layer: LossyLayer) -> npt.NDArray[np.int64]:
    """Place values in steps of the finest range: [conversions, channels]."""
    return place_values * ((1 << layer.zoom) // block.zoomed)


def converts_extra(layer: LossyLayer) -> tuple[bool, bool]:
    """Whether a unit column and a digitised reference column are converted too."""
    encoding = layer.target.weight_encoding
    return encoding.unit_column, encoding.converts_reference


def digital_sum(layer: LossyLayer) -> bool:
    """Whether the sum of the inputs is taken digitally, to undo shift and flips."""
    return layer.target.weight_encoding.digital_sum


def lines_of(layer: LossyLayer, block: ReadBlock) -> ConvertedLines:
    """Every converted bit line of a read: conversions x channels, then unit and reference columns."""
    rows, extra = len(block.rows), block.extra_columns
    zoom, levels, moving = block.zoomed.astype(block.levels.dtype), block.levels.reshape(rows, -1), block.fluctuations
    reference = block.reference
    if block.zoom is not None:
        levels = (block.levels * zoom).reshape(rows, -1)
        moving = moving.scaled(zoom.astype(np.float32))
    moving = moving.map(lambda values: values.reshape(rows, -1))
    if reference is not None:
        reference = replace(reference, share=(reference.share * zoom).reshape(len(reference.share), -1))
    if extra is not None:
        return ConvertedLines(
            levels=np.concatenate([levels, extra.currents], axis=1),
            zoom=np.concatenate([zoom.reshape(-1), np.ones(extra.units + extra.references, zoom.dtype)]),
            units=extra.units,
            references=extra.references,
            owner=extra.owner,
            fluctuations=Fluctuations.combined([moving, *_split_states(extra, moving)], _beside),
            reference=None if reference is None else _with_extra(reference, extra),
            offset=_flat(block.offset, extra.offset, (-1,)),
            bow=_flat(block.bow, extra.bow, (-1,)),
        )
    unit, digitised = converts_extra(layer)
    kind = block.levels.dtype
    # Cells of a unit column are at level 1 and those of a reference column at 0 in all rows of the read; the pedestal
    # is added to them as to all others. One of each is enough for all arrays of the read: ideal ones are equal.
    parts = [levels, *[np.ones((rows, 1), kind)] * unit, *[np.zeros((rows, 1), kind)] * digitised]
    return ConvertedLines(
        levels=np.concatenate(parts, axis=1),
        zoom=np.concatenate([zoom.reshape(-1), np.ones(int(unit) + int(digitised), zoom.dtype)]),
        units=int(unit),
        references=int(digitised),
        owner=np.zeros(block.place_value.shape, np.int64),
        fluctuations=moving,
        reference=reference,
        offset=_flat(block.offset, None, (-1,)),
        bow=_flat(block.bow, None, (-1,)),
    )


def _beside(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.concatenate(parts, axis=-1)


def _split_states(extra: ExtraColumns, moving: Fluctuations) -> list[Fluctuations]:
    """What changes in extra columns, with as many entries of states as the other lines have."""
    # A difference of two lines has two entries for one of a single line, as its cells have states independently.
    own = extra.fluctuations
    times = len(moving.states) // max(1, len(own.states))
    states = [
        replace(each, loss=each.loss if copy == 0 else np.zeros_like(each.loss))
        for each in own.states
        for copy in range(times)
    ]
    return [replace(own, states=tuple(states))]


def _with_extra(reference: SharedLines, extra: ExtraColumns) -> SharedLines:
    """The reference columns with their shares in extra columns too: each array's unit column has its reference."""
    # Where a reference is subtracted before conversion, extra columns are unit columns, one an array like references.
    own = -np.diag(extra.gain)
    return replace(reference, share=np.concatenate([reference.share, own], axis=1))


def _flat(
    values: npt.NDArray[Any] | None, more: npt.NDArray[Any] | None, shape: tuple[int, ...]
) -> npt.NDArray[Any] | None:
    """Values [..., conversions, channels] flat, followed by those of the extra columns; None where all is 0."""
    if values is None:
        return None
    flat = values.reshape(shape)
    return flat if more is None else np.concatenate([flat, more], axis=-1)


def word_lines(layer: LossyLayer, block: ReadBlock) -> tuple[int, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Input channels of the layer; channel and kernel position of each word line."""
    assert layer.conv is not None
    positions = int(np.prod(layer.conv.kernel))
    per_group = layer.op.matrix.codes.shape[1] // positions
    channel, position = np.divmod(block.rows, positions)
    return layer.op.matrix.codes.shape[0] * per_group, channel + block.group * per_group, position
