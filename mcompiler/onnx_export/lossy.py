"""A layer whose conversions lose something: what its reads look like, before anything is emitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.conductance import Adc, Decoding, ReadBlock
from mcompiler.ir import AnalogLayer, ConvShape
from mcompiler.onnx_export.converter import Lines, Physics
from mcompiler.target import Target


@dataclass(frozen=True)
class LossyLayer:
    """What every step needs to know.

    ``integer``: onnxruntime's 8-bit kernels are the converter. ``bytes``: codes are uint8 (around 128 where signed).
    ``sizes``: spatial sizes of the (padded) input, where they are static. ``physics``: what a chip does between reads.
    ``zoom``: binary steps from the layer's range to its finest.
    """

    op: AnalogLayer
    adc: Adc
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


def same_worth(blocks: Sequence[ReadBlock], layer: LossyLayer) -> bool:
    """Whether codes may be added over the reads before slices are combined."""
    scaled = any(block.scale is not None or block.constant is not None or block.beside is not None for block in blocks)
    return (
        not scaled
        and not any(block.inputs.any() for block in blocks)
        and all(np.array_equal(_clean(block, layer), _clean(blocks[0], layer)) for block in blocks)
    )


def _clean(block: ReadBlock, layer: LossyLayer) -> npt.NDArray[np.int64]:
    return in_finest(clean_worth(block, layer), block, layer)


def clean_worth(block: ReadBlock, layer: LossyLayer) -> npt.NDArray[np.int32]:
    """Worth where nothing is added to the sums: a column that is absent has code 0, unless converters make noise."""
    return block.worth if layer.physics is not None else full_worth(block)


def full_worth(block: ReadBlock) -> npt.NDArray[np.int32]:
    """Worth of each conversion, taken for absent columns as for present ones."""
    worth: npt.NDArray[np.int32] = np.where((block.worth != 0), block.worth, block.worth.max(axis=1, keepdims=True))
    return worth


def in_finest(worth: npt.NDArray[np.int32], block: ReadBlock, layer: LossyLayer) -> npt.NDArray[np.int64]:
    """Worth of each code in steps of the finest range: [conversions, channels]."""
    return worth * ((1 << layer.zoom) // block.zoomed)


def extra_columns(layer: LossyLayer) -> tuple[bool, bool]:
    """Whether a unit column and a digitised reference column are converted too."""
    encoding = layer.target.encoding
    unit = encoding.weights.value == "offset" and encoding.input_sum == "unit_column"
    reference = encoding.weights.value != "differential" and layer.adc.decoding is Decoding.TWO
    return unit, reference


def digital_sum(layer: LossyLayer) -> bool:
    """Whether the sum of the inputs is taken digitally, to undo shift and flips."""
    encoding = layer.target.encoding
    return encoding.weights.value == "offset" and encoding.input_sum == "digital"


def lines_of(layer: LossyLayer, block: ReadBlock) -> Lines:
    """Every converted bit line of a read: conversions x channels, then unit and reference columns."""
    rows, beside = len(block.rows), block.beside
    zoom, levels, variance = block.zoomed.astype(block.levels.dtype), block.levels.reshape(rows, -1), block.variance
    if block.zoom is not None:
        levels = (block.levels * zoom).reshape(rows, -1)
        variance = None if variance is None else variance * zoom.astype(np.float32) ** 2
    if beside is not None:
        return Lines(
            np.concatenate([levels, beside.currents], axis=1),
            np.concatenate([zoom.reshape(-1), np.ones(beside.units + beside.references, zoom.dtype)]),
            beside.units,
            beside.references,
            beside.owner,
            _flat(variance, beside.variance, (rows, -1)),
            _flat(block.offset, beside.offset, (-1,)),
            _flat(block.bow, beside.bow, (-1,)),
        )
    unit, reference = extra_columns(layer)
    kind = block.levels.dtype
    parts = [levels, *[np.ones((rows, 1), kind)] * unit, *[np.zeros((rows, 1), kind)] * reference]
    return Lines(
        np.concatenate(parts, axis=1),
        np.concatenate([zoom.reshape(-1), np.ones(int(unit) + int(reference), zoom.dtype)]),
        int(unit),
        int(reference),
        np.zeros(block.worth.shape, np.int64),
        _flat(variance, None, (rows, -1)),
        _flat(block.offset, None, (-1,)),
        _flat(block.bow, None, (-1,)),
    )


def _flat(
    values: npt.NDArray[Any] | None, more: npt.NDArray[Any] | None, shape: tuple[int, ...]
) -> npt.NDArray[Any] | None:
    """Values [..., conversions, channels] flat, those of the columns beside them behind; None where all is 0."""
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
