"""How often everything that costs energy happens in one inference."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mcompiler.conductance import is_signed
from mcompiler.dataflow.durations import phases
from mcompiler.dataflow.skip import Remaining
from mcompiler.geometry import ArrayShape, TileTable
from mcompiler.ir import AnalogLayer
from mcompiler.target import Event, Pedestal, Target


def layer_events(
    op: AnalogLayer,
    table: TileTable,
    shape: ArrayShape,
    target: Target,
    link_bytes: float,
    chip_bytes: float,
    left: Remaining | None = None,
) -> dict[Event, float]:
    """How often each event happens in one layer, per inference.

    Copies of its arrays change nothing: they share the vectors out.

    Args:
        op, table: the layer and the arrays of one copy.
        shape, target: what they are.
        link_bytes: bytes times links, for what it receives and reduces.
        chip_bytes: bytes between chips.
        left: what is left of reads and drives where zeros are skipped; None: all of them.
    """
    groups, _, cols = op.matrix.codes.shape
    parts, vectors = phases(op, target), op.site.vectors
    rows, width = table["rows"].astype(np.float64), table["cols"].astype(np.float64)
    full, driven = np.ones(len(table)), np.ones(len(table))
    if left is not None:
        full, driven = left.reads, left.drives
    reads = parts * np.ceil(rows / shape.rows_active) * full
    bit_lines = width * shape.columns_per_weight + shape.extra
    conversions = conversions_per_read(table, shape, target)
    tiles = table[:: shape.arrays_per_tile]
    held = float((tiles["rows"].astype(np.float64)).sum())
    outputs = vectors * groups * cols
    partial = float(tiles["cols"].sum()) * vectors
    return {
        Event.ARRAY_READ: vectors * float(reads.sum()),
        Event.CELL_READ: vectors * parts * float((rows * bit_lines * driven).sum()),
        Event.DAC_DRIVE: vectors * parts * float((rows * driven).sum()),
        Event.ADC_CONVERSION: vectors * float((reads * conversions).sum()),
        Event.SAMPLE_HOLD: vectors * float((reads * bit_lines).sum()),
        Event.SHIFT_ADD: vectors * float((reads * conversions).sum()) + partial,
        Event.BUFFER_READ_BYTE: vectors * (held * op.site.input.bits / 8 + address_bytes(op, tiles)),
        Event.BUFFER_WRITE_BYTE: outputs * target.precision.inputs / 8,
        Event.LINK_BYTE: link_bytes,
        Event.CHIP_LINK_BYTE: chip_bytes,
        # scale, bias, quantisation for the consumer; what calibration has found
        Event.DIGITAL_OP: 3.0 * outputs + sum(corrections(op, table, shape, target).values()),
    }


def corrections(op: AnalogLayer, table: TileTable, shape: ArrayShape, target: Target) -> dict[str, float]:
    """Digital operations of one inference that apply what calibration has measured, by kind.

    A factor and a summand for each code of a ``correction``, a factor for ``drift`` where it has no such factor to go
    into: on the sum of a conversion's phases, since they are the same for all.
    """
    calibration = target.calibration
    if calibration is None:
        return {}
    groups = np.ceil(table["rows"] / shape.rows_active)
    sums = op.site.vectors * float((groups * conversions_per_read(table, shape, target)).sum())
    corrected, drifts = calibration.correction != "none", target.device.drift is not None
    return {
        "correction": 2 * sums * corrected,
        "drift": sums * (drifts and not corrected and calibration.drift_interval_s is not None),
    }


def address_bytes(op: AnalogLayer, tiles: TileTable) -> float:
    """Bytes that one vector reads of the tables that say which line belongs to what; none where lines ascend.

    An input's address is looked up where a word line is driven, in every array position; an output's once.
    """
    if op.matrix.reorder is None:
        return 0.0
    inputs = float(tiles["rows"].astype(np.float64).sum()) * op.matrix.reorder.row_bits
    return (inputs + len(op.matrix.cols.indices) * op.matrix.reorder.col_bits) / 8


def conversions_per_read(
    table: TileTable, shape: ArrayShape, target: Target, extra: bool = True
) -> npt.NDArray[np.float64]:
    """Conversions of one read of each array, of unit and reference columns too unless told otherwise: [arrays]."""
    width = table["cols"].astype(np.float64)
    more = int(shape.unit) + int(target.encoding.pedestal is Pedestal.DIGITISED_REFERENCE) if extra else 0
    if not is_signed(target):
        return width * shape.columns_per_weight + more
    if shape.adjacent_polarities == 2:
        return width * shape.adjacent_slices + more
    return np.where(table["polarity"] > 0, width * shape.adjacent_slices + more, 0.0)
