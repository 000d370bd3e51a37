"""When every array works, and how often everything happens per inference.

A layer starts when everything that it reads is there and works through its vectors; inferences are pipelined, a layer
serving one while the next layer serves the one before. So latency is the longest path and the interval between
inferences is set by the busiest layer or digital unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.conductance import is_signed
from mcompiler.geometry import ArrayShape, TileTable, array_shape
from mcompiler.ir import ANALOG_DOMAIN, ANALOG_OP, LayerSchedule, MatrixOp, PlacedProgram, ScheduledProgram
from mcompiler.target import Event, Pedestal, Target


@dataclass(frozen=True)
class Schedule:
    """Layers start when their inputs are complete; inferences follow each other as a pipeline."""

    name: ClassVar[str] = "schedule"

    def run(self, program: PlacedProgram, target: Target) -> ScheduledProgram:
        """Return start and end of every layer and the events of one inference."""
        tiled = program.analog.tiled
        ops, tables = tiled.matrix.ops, tiled.tables
        shape = array_shape(target)
        cycle = read_time(shape, target)
        busy = {
            op.name: op.vectors * _reads(op, table, shape, target) * cycle
            for op, table in zip(ops, tables, strict=True)
        }
        digital = _digital_times(program, target)
        fill = sum(component.latency_s for component in target.components.values())
        skeleton = tiled.matrix.lowered.skeleton
        spans = _spans(skeleton, {name: time + fill for name, time in busy.items()}, digital)
        layers = []
        for index, (op, table) in enumerate(zip(ops, tables, strict=True)):
            start, end = spans[op.name]
            first = np.full(len(table), round(start / cycle), dtype=np.int64)
            events = _events(op, table, program.addresses[index], shape, target)
            layers.append(LayerSchedule(first, start, end, busy[op.name], events))
        names = {op.name for op in ops}
        slowest = max([*busy.values(), sum(digital.values()) / max(1, _tiles(program)), cycle])
        return ScheduledProgram(
            program,
            tuple(layers),
            {name: span for name, span in spans.items() if name not in names},
            cycle,
            max((end for _, end in spans.values()), default=0.0),
            slowest,
        )


def read_time(shape: ArrayShape, target: Target) -> float:
    """Seconds of one read: the pulse, or the conversions of the fullest ADC, whichever takes longer.

    ``adc.columns`` says how many ADCs the weight columns have (of both arrays, where a pair is separate); unit and
    reference columns are shared out among them. Two lines that are subtracted first are one conversion.
    """
    adc = target.converters.adc
    arrays = shape.polarities // shape.adjacent_polarities
    adcs = -(-arrays * shape.columns // adc.columns)
    lines = -(-arrays * (shape.columns + shape.extra) // adcs)
    conversions = -(-lines // 2) if is_signed(target) else lines
    return max(target.device.read_pulse_s, conversions / adc.rate_hz)


def _phases(op: MatrixOp, target: Target) -> int:
    return -(-op.input.bits // target.converters.dac.bits)


def _reads(op: MatrixOp, table: TileTable, shape: ArrayShape, target: Target) -> int:
    """Reads of the fullest array for one vector: phases times row groups."""
    if not len(table):
        return 0
    return _phases(op, target) * -(-int(table["rows"].max()) // shape.rows_active)


def _tiles(program: PlacedProgram) -> int:
    """Tiles of the hierarchy that are in use."""
    used = [addresses[:, :2] for addresses in program.addresses if len(addresses)]
    return len(np.unique(np.concatenate(used), axis=0)) if used else 1


def _digital_times(program: PlacedProgram, target: Target) -> dict[str, float]:
    """Seconds of every digital node, worked on by one tile's digital unit."""
    rate = target.digital.operations_per_cycle * target.digital.clock_hz
    return {name: count / rate for name, count in program.analog.tiled.matrix.digital_ops.items()}


def _spans(
    skeleton: ir.Model, analog: Mapping[str, float], digital: Mapping[str, float]
) -> dict[str, tuple[float, float]]:
    """Start and end of every node: it starts when the last of its inputs is there."""
    ready: dict[str, float] = {}
    spans: dict[str, tuple[float, float]] = {}
    for node in skeleton.graph:
        start = max((ready.get(name, 0.0) for name in _reads_values(node)), default=0.0)
        name = node.name or ""
        placeholder = node.domain == ANALOG_DOMAIN and node.op_type == ANALOG_OP
        end = start + (analog if placeholder else digital).get(name, 0.0)
        spans[name] = (start, end)
        ready.update((value.name or "", end) for value in node.outputs)
    return spans


def _reads_values(node: ir.Node) -> Iterator[str]:
    """Names of the values that a node reads, those that its subgraphs capture included."""
    yield from (value.name or "" for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type is ir.AttributeType.GRAPH:
            graph = attribute.as_graph()
            yield from (value.name or "" for value in graph.outputs)
            for inside in graph:
                yield from _reads_values(inside)


def _events(
    op: MatrixOp, table: TileTable, addresses: npt.NDArray[np.int32], shape: ArrayShape, target: Target
) -> dict[Event, float]:
    """How often each event happens in one layer, per inference."""
    groups, _, cols = op.codes.shape
    phases, vectors = _phases(op, target), op.vectors
    rows, width = table["rows"].astype(np.float64), table["cols"].astype(np.float64)
    reads = phases * np.ceil(rows / shape.rows_active)
    bit_lines = width * shape.columns_per_weight + shape.extra
    conversions = _conversions(table, shape, target)
    tiles = table[:: shape.arrays_per_tile]
    held = float((tiles["rows"].astype(np.float64)).sum())
    outputs = vectors * groups * cols
    partial = float(tiles["cols"].sum()) * vectors
    links, chip_links = _link_bytes(op, tiles, addresses[:: shape.arrays_per_tile], target)
    return {
        Event.ARRAY_READ: vectors * float(reads.sum()),
        Event.CELL_READ: vectors * phases * float((rows * bit_lines).sum()),
        Event.DAC_DRIVE: vectors * phases * float(rows.sum()),
        Event.ADC_CONVERSION: vectors * float((reads * conversions).sum()),
        Event.SAMPLE_HOLD: vectors * float((reads * bit_lines).sum()),
        Event.SHIFT_ADD: vectors * float((reads * conversions).sum()) + partial,
        Event.BUFFER_READ_BYTE: vectors * held * op.input.bits / 8,
        Event.BUFFER_WRITE_BYTE: outputs * target.precision.inputs / 8,
        Event.LINK_BYTE: links,
        Event.CHIP_LINK_BYTE: chip_links,
        Event.DIGITAL_OP: 3.0 * outputs,  # scale, bias, quantisation for the consumer
    }


def _conversions(table: TileTable, shape: ArrayShape, target: Target) -> npt.NDArray[np.float64]:
    """Conversions of one read of each array: [arrays]."""
    width = table["cols"].astype(np.float64)
    extra = int(shape.unit) + int(target.encoding.pedestal is Pedestal.DIGITISED_REFERENCE)
    if not is_signed(target):
        return width * shape.columns_per_weight + extra
    if shape.adjacent_polarities == 2:
        return width * shape.adjacent_slices + extra
    return np.where(table["polarity"] > 0, width * shape.adjacent_slices + extra, 0.0)


def _link_bytes(
    op: MatrixOp, tiles: TileTable, addresses: npt.NDArray[np.int32], target: Target
) -> tuple[float, float]:
    """Bytes times hops between a layer's home tile (its first) and its other tiles, and bytes between chips."""
    if not len(tiles):
        return 0.0, 0.0
    home = addresses[0]
    moved = op.vectors * (
        tiles["rows"] * op.input.bits / 8 + tiles["cols"] * np.ceil(target.digital.accumulator_bits / 8)
    )
    hops = _hops(home[1], addresses[:, 1], target)
    same = addresses[:, 0] == home[0]
    return float((moved * hops * same).sum()), float((moved * ~same).sum())


def _hops(home: np.int32, tiles: npt.NDArray[np.int32], target: Target) -> npt.NDArray[np.float64]:
    """Links crossed between two tiles of a chip."""
    if target.network.topology == "bus":
        elsewhere: npt.NDArray[np.bool_] = np.not_equal(tiles, home)
        return elsewhere.astype(np.float64)
    if target.network.topology == "htree":
        levels: npt.NDArray[np.float64] = np.ceil(np.log2(np.bitwise_xor(tiles, home) + 1.0))
        return 2.0 * levels
    side = int(np.ceil(np.sqrt(target.hierarchy.tiles_per_chip)))
    steps: npt.NDArray[np.int32] = np.abs(tiles // side - home // side) + np.abs(tiles % side - home % side)
    return steps.astype(np.float64)
