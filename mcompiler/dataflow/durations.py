"""How long things take on a target, in seconds and in whole clocks of its digital units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mcompiler.dataflow.stages import NetworkStage, StageGraph, StageKind, Transfer
from mcompiler.dataflow.timing import Edge, TimedStage, step_clocks
from mcompiler.geometry import ArrayShape, TileTable, array_shape
from mcompiler.ir import AnalogLayer
from mcompiler.target import Event, Target, adcs_of

SLACK = 1e-6
"""Share of a clock that a duration may exceed whole clocks by: 128 conversions at 1.28 GS/s are 100 ns, not more."""


@dataclass(frozen=True)
class LayerPlan:
    """What determines the timing of one analog layer.

    Attributes:
        layer: the site and its matrix.
        reads: of its fullest array, for one vector.
        copies: of the arrays of its matrix.
        tiles: of the hierarchy that hold them; each has a digital unit.
        hops, chip_hops: links that the farthest word crosses to the arrays, plus those of the farthest partial sum.
    """

    layer: AnalogLayer
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

    ``adc.columns`` says how many weight columns (of both arrays, where a pair is separate) share an ADC; unit and
    reference columns are distributed among the ADCs. Two lines that are subtracted first are one conversion.
    """
    return max(target.device.read_pulse_s, conversion_time(shape, target))


def conversion_time(shape: ArrayShape, target: Target) -> float:
    """Seconds that the fullest ADC of an array takes for one read."""
    lines = adcs_of(target.array, target.encoding, target.converters).lines
    return -(-lines // shape.encoding.lines_per_conversion) / target.converters.adc.rate_hz


def phases(layer: AnalogLayer, target: Target) -> int:
    """Parts in which an input is applied."""
    return -(-layer.site.input.bits // target.converters.dac.bits)


def reads_per_vector(layer: AnalogLayer, table: TileTable, shape: ArrayShape, target: Target) -> int:
    """Reads of the fullest array for one vector: phases times row groups."""
    if not len(table):
        return 0
    return phases(layer, target) * -(-int(table["rows"].max()) // shape.rows_active)


def tiles_of(addresses: npt.NDArray[np.int32]) -> int:
    """Tiles of the hierarchy that hold arrays of a layer."""
    return len(np.unique(addresses[:, :2], axis=0))


def timed_stages(graph: StageGraph, plans: Sequence[LayerPlan], target: Target) -> list[TimedStage]:
    """The stages with their durations.

    The digital units of all tiles of a layer do the work after its arrays: each copy has its share of them, or a unit
    serves several copies in turn. A unit that serves more than one stage does not take longer for a token; the interval
    accounts for it (``capacity``).

    Args:
        graph: stages of the network.
        plans: of its analog layers.
        target: the chip.
    """
    cycle = clocks(read_time(array_shape(target), target), target)
    fill = clocks(
        sum(c.latency_s for c in target.components.values() if c.event not in (Event.LINK_BYTE, Event.CHIP_LINK_BYTE)),
        target,
    )
    sites: dict[int, int] = {}  # how many sites use each matrix
    for matrix in (each.layer.site.matrix for each in plans):
        sites[matrix] = sites.get(matrix, 0) + 1
    found = []
    for stage in graph.stages:
        plan = plans[stage.layer] if stage.layer >= 0 else None
        if stage.kind is StageKind.ANALOG and plan is not None:
            # Arrays with several sites, or with steps that wait for one another, are held for one site at a time.
            held = sites[plan.layer.site.matrix] > 1 or plan.layer.site.steps > 1
            service = plan.reads * cycle
            timed = TimedStage(
                name=stage.name,
                tokens=stage.grid.tokens,
                service=service,
                latency=service + (target.digital.fill_reads * cycle + fill if service else 0),
                copies=plan.copies,
                edges=tuple(_edge(each, plan, target) for each in stage.inputs),
                arrays=plan.layer.site.matrix if held else None,
                steps=plan.layer.site.steps,
            )
        else:
            timed = _digital(stage, plan, target)
        found.append(timed)
    return _with_steps(graph, found)


def _digital(stage: NetworkStage, plan: LayerPlan | None, target: Target) -> TimedStage:
    """A stage of a digital unit, or an input, which takes no time."""
    clocks_each = 0
    # Copies take tokens in turn: where there are fewer tokens than copies, the units of all copies share these tokens.
    copies = 1 if plan is None else min(plan.copies, max(1, plan.tiles), max(1, stage.grid.tokens))
    if stage.operations:
        units = 1 if plan is None else max(1, plan.tiles // copies)
        each = stage.operations / max(1, stage.grid.tokens)
        seconds = each / (units * target.digital.operations_per_cycle * target.digital.clock_hz)
        clocks_each = max(1, clocks(seconds, target))
    return TimedStage(
        name=stage.name,
        tokens=stage.grid.tokens,
        service=clocks_each,
        latency=clocks_each,
        copies=copies,
        edges=tuple(_edge(each, None, target) for each in stage.inputs),
        steps=plan.layer.site.steps if plan is not None and stage.kind is StageKind.REQUANTISE else 1,
    )


def _with_steps(graph: StageGraph, stages: list[TimedStage]) -> list[TimedStage]:
    """The stages where those of a layer with steps know how long a step takes, arrays and digital unit together."""
    for stage in graph.stages:
        unit = stages[stage.id]
        if stage.kind is StageKind.REQUANTISE and unit.steps > 1:
            arrays = stage.inputs[0].producer
            each = step_clocks(stages[arrays], unit)
            stages[arrays] = replace(stages[arrays], step_clocks=each)
            stages[stage.id] = replace(unit, step_clocks=each)
    return stages


def _edge(transfer: Transfer, plan: LayerPlan | None, target: Target) -> Edge:
    """A tensor that a stage reads; ``plan`` for the arrays of a layer, to which it travels over links."""
    size = transfer.token_bytes
    delay = 0 if plan is None else _travel_time(plan, size, target)
    return Edge(transfer.producer, transfer.needs, delay, size)


def _travel_time(plan: LayerPlan, token_bytes: int, target: Target) -> int:
    """Clocks that a token takes over its links."""
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
