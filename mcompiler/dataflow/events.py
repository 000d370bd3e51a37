"""How often everything that costs energy happens in one inference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mcompiler.dataflow.durations import phases
from mcompiler.dataflow.operations import conversions_per_read
from mcompiler.dataflow.skip import Remaining
from mcompiler.geometry import TileTable, array_shape
from mcompiler.ir import AnalogLayer
from mcompiler.target import Event, Target


@dataclass(frozen=True)
class LayerWork:
    """Events of one layer other than its reads, per inference.

    Attributes:
        link_byte_hops: bytes times links, for inputs that it receives and sums that it adds up.
        chip_bytes: bytes between chips.
        operations: digital operations after its arrays.
    """

    link_byte_hops: float
    chip_bytes: float
    operations: float


def layer_events(
    layer: AnalogLayer, table: TileTable, work: LayerWork, target: Target, left: Remaining | None = None
) -> dict[Event, float]:
    """How often each event happens in one layer, per inference.

    Copies of its arrays change nothing: they share the vectors.

    Args:
        layer, table: the layer and the arrays of one copy.
        work: bytes on links, digital operations.
        target: the chip.
        left: what is left of reads and drives where zeros are skipped; None: all of them.
    """
    shape = array_shape(target)
    parts, vectors = phases(layer, target), layer.site.vectors
    rows, width = table["rows"].astype(np.float64), table["cols"].astype(np.float64)
    full, driven = np.ones(len(table)), np.ones(len(table))
    if left is not None:
        full, driven = left.reads, left.drives
    reads = parts * np.ceil(rows / shape.rows_active) * full
    bit_lines = width * shape.columns_per_weight + shape.extra
    conversions = conversions_per_read(table, shape, target)
    partial = float(table[:: shape.arrays_per_tile]["cols"].sum()) * vectors
    read, written = buffer_bytes(layer, table, target)
    return {
        Event.ARRAY_READ: vectors * float(reads.sum()),
        Event.CELL_READ: vectors * parts * float((rows * bit_lines * driven).sum()),
        Event.DAC_DRIVE: vectors * parts * float((rows * driven).sum()),
        Event.ADC_CONVERSION: vectors * float((reads * conversions).sum()),
        Event.SAMPLE_HOLD: vectors * float((reads * bit_lines).sum()),
        Event.SHIFT_ADD: vectors * float((reads * conversions).sum()) + partial,
        Event.BUFFER_READ_BYTE: read,
        Event.BUFFER_WRITE_BYTE: written,
        Event.LINK_BYTE: work.link_byte_hops,
        Event.CHIP_LINK_BYTE: work.chip_bytes,
        Event.DIGITAL_OP: work.operations,
    }


def buffer_bytes(layer: AnalogLayer, table: TileTable, target: Target) -> tuple[float, float]:
    """Bytes per inference that a layer reads from buffers, tables of addresses included, and that it writes."""
    groups, _, cols = layer.matrix.codes.shape
    tiles = table[:: array_shape(target).arrays_per_tile]
    held = float((tiles["rows"].astype(np.float64)).sum())
    read = layer.site.vectors * (held * layer.site.input.bits / 8 + address_bytes(layer, tiles))
    return read, layer.site.vectors * groups * cols * target.precision.inputs / 8


def address_bytes(layer: AnalogLayer, tiles: TileTable) -> float:
    """Bytes that one vector reads of the tables of reordered rows and columns; none where lines ascend.

    An input's address is looked up where a word line is driven, in every array position; an output's once.
    """
    if layer.matrix.reorder is None:
        return 0.0
    inputs = float(tiles["rows"].astype(np.float64).sum()) * layer.matrix.reorder.row_bits
    return (inputs + len(layer.matrix.cols.indices) * layer.matrix.reorder.col_bits) / 8
