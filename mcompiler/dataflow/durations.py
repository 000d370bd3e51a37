"""How long things take on a target, in seconds and in whole clocks of its digital units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mcompiler.conductance import is_signed
from mcompiler.dataflow.stages import Kind, Read, Step
from mcompiler.dataflow.timing import Edge, Stage
from mcompiler.geometry import ArrayShape, TileTable, array_shape
from mcompiler.ir import AnalogLayer
from mcompiler.target import Event, Target

SLACK = 1e-6
"""Share of a clock that a duration may exceed whole clocks by: 128 conversions at 1.28 GS/s are 100 ns, not more."""


@dataclass(frozen=True)
class LayerPlan:
    """What the times of one analog layer hang on.

    Attributes:
        op: the layer.
        reads: of its fullest array, for one vector.
        copies: of its arrays.
        tiles: of the hierarchy that hold them; each has a digital unit.
        hops, chip_hops: links that the farthest word crosses on its way to the arrays, or a partial sum behind them.
    """

    op: AnalogLayer
    reads: int
    copies: int = 1
    tiles: int = 1
    hops: int = 0
    chip_hops: int = 0


def clocks(seconds: float, target: Target) -> int:
    """Whole clocks of the digital units that a duration takes."""
    return math.ceil(seconds * target.digital.clock_hz - SLACK)


def read_time(shape: ArrayShape, target: Target) -> float:
    """Seconds of one read: the pulse, or the conversions of the fullest ADC, whichever takes longer.

    ``adc.columns`` says how many ADCs the weight columns have (of both arrays, where a pair is separate); unit and
    reference columns are shared out among them. Two lines that are subtracted first are one conversion.
    """
    return max(target.device.read_pulse_s, conversion_time(shape, target))


def conversion_time(shape: ArrayShape, target: Target) -> float:
    """Seconds that the fullest ADC of an array takes for one read."""
    adc = target.converters.adc
    arrays = shape.polarities // shape.adjacent_polarities
    adcs = -(-arrays * shape.columns // adc.columns)
    lines = -(-arrays * (shape.columns + shape.extra) // adcs)
    return (-(-lines // 2) if is_signed(target) else lines) / adc.rate_hz


def phases(op: AnalogLayer, target: Target) -> int:
    """Parts in which an input is applied."""
    return -(-op.site.input.bits // target.converters.dac.bits)


def reads_per_vector(op: AnalogLayer, table: TileTable, shape: ArrayShape, target: Target) -> int:
    """Reads of the fullest array for one vector: phases times row groups."""
    if not len(table):
        return 0
    return phases(op, target) * -(-int(table["rows"].max()) // shape.rows_active)


def digital_work(steps: Sequence[Step], layers: int) -> npt.NDArray[np.float64]:
    """Operations per inference of each layer's digital units and of the nodes behind it; last those of no layer."""
    work = np.zeros(layers + 1)
    for step in steps:
        work[step.layer] += step.operations * step.grid.tokens  # -1: behind all layers
    return work


def digital_bound(
    steps: Sequence[Step], layers: int, addresses: Sequence[npt.NDArray[np.int32]], target: Target
) -> float:
    """Seconds per inference that the busiest tile's digital unit works.

    A layer's digital work, its own and that of the digital nodes behind it, is spread over the tiles that hold its
    arrays; what belongs to no layer is done by one unit.

    Args:
        steps: of the network.
        layers: how many there are.
        addresses: of the arrays of each layer, copies included.
        target: the chip.
    """
    work = digital_work(steps, layers)
    tiles: dict[int, float] = {}
    alone = float(work[-1])
    for index, where in enumerate(addresses):
        found, counts = np.unique(where[:, 0].astype(np.int64) << 32 | where[:, 1], return_counts=True)
        alone += 0.0 if len(where) else float(work[index])
        for tile, count in zip(found.tolist(), counts.tolist(), strict=True):
            tiles[tile] = tiles.get(tile, 0.0) + float(work[index]) * count / len(where)
    return max([alone, *tiles.values()]) / (target.digital.operations_per_cycle * target.digital.clock_hz)


def tiles_of(addresses: npt.NDArray[np.int32]) -> int:
    """Tiles of the hierarchy that hold arrays of a layer."""
    return len(np.unique(addresses[:, :2], axis=0))


def timed(steps: Sequence[Step], layers: Sequence[LayerPlan], target: Target) -> list[Stage]:
    """The stages with their durations.

    The digital units of all tiles of a layer work on what stands behind its arrays: each copy has its share of them, or
    a unit serves several copies in turn. That a unit has more than one stage to serve is not in the duration of a
    token, but in the interval (``digital_bound``).

    Args:
        steps: of the network.
        layers: its analog layers.
        target: the chip.
    """
    cycle = clocks(read_time(array_shape(target), target), target)
    fill = clocks(
        sum(c.latency_s for c in target.components.values() if c.event not in (Event.LINK_BYTE, Event.CHIP_LINK_BYTE)),
        target,
    )
    stages = []
    for step in steps:
        plan = layers[step.layer] if step.layer >= 0 else None
        service = latency = 0
        if step.kind is Kind.ANALOG and plan is not None:
            service = plan.reads * cycle
            latency = service + (target.digital.fill_reads * cycle + fill if service else 0)
        elif step.operations:
            units = 1 if plan is None else max(1, plan.tiles // plan.copies)
            seconds = step.operations / (units * target.digital.operations_per_cycle * target.digital.clock_hz)
            service = latency = max(1, clocks(seconds, target))
        copies = (
            1 if plan is None else plan.copies if step.kind is Kind.ANALOG else min(plan.copies, max(1, plan.tiles))
        )
        edges = tuple(_edge(read, plan if step.kind is Kind.ANALOG else None, target) for read in step.reads)
        stages.append(Stage(step.name, step.grid.tokens, service, latency, copies, edges))
    return stages


def _edge(read: Read, plan: LayerPlan | None, target: Target) -> Edge:
    """What a stage reads; ``plan`` where it is a layer's arrays, to which its input travels."""
    size = math.ceil(read.width * (target.precision.inputs if plan is None else plan.op.site.input.bits) / 8)
    return Edge(read.producer, read.needs, 0 if plan is None else _transfer(plan, size, target), size)


def _transfer(plan: LayerPlan, token_bytes: int, target: Target) -> int:
    """Clocks that a token is under way."""
    network = target.network
    latency = dict.fromkeys((Event.LINK_BYTE, Event.CHIP_LINK_BYTE), 0.0)
    for component in target.components.values():
        if component.event in latency:
            latency[component.event] += component.latency_s
    seconds = plan.hops * (network.hop_cycles / network.clock_hz + latency[Event.LINK_BYTE])
    if plan.hops:
        seconds += token_bytes * 8 / (network.link_bits * network.clock_hz)
    seconds += plan.chip_hops * (network.chip_link_latency_s + latency[Event.CHIP_LINK_BYTE])
    if plan.chip_hops:
        seconds += token_bytes / network.chip_link_bytes_per_s
    return clocks(seconds, target)
