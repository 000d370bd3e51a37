"""What a chip's calibration takes: its measurements, and what they make every inference do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from mcompiler.dataflow import LayerWork, corrections, layer_events, read_time
from mcompiler.geometry import array_shape
from mcompiler.target import Event, Target

if TYPE_CHECKING:
    from mcompiler.artefacts.layers import LayerData

MEASURING = (Event.ARRAY_READ, Event.CELL_READ, Event.DAC_DRIVE, Event.ADC_CONVERSION, Event.SAMPLE_HOLD)
"""Events of a read whose codes go to whoever calibrates."""


@dataclass(frozen=True)
class CalibrationCost:
    """One kind of calibration on all arrays of a build.

    Attributes:
        kind: ``correction`` (gain and offset of columns or ADCs) or ``drift`` (one factor an array).
        interval_s: between two rounds; None: once, behind the writing of the cells.
        reads: of arrays, in a round.
        time_s: of a round; arrays measure side by side, each with its own converters.
        energy_j: of a round.
        power_w: of the rounds that come again and again, in the mean.
        words: numbers that the digital side keeps.
        operations: of the digital units in each inference; the cost tables have them.
    """

    kind: str
    interval_s: float | None
    reads: float
    time_s: float
    energy_j: float
    power_w: float
    words: int
    operations: float

    def as_json(self) -> dict[str, Any]:
        """The object that ``cost --json`` prints."""
        return asdict(self)


def calibration_cost(layers: Iterable[LayerData], target: Target) -> tuple[CalibrationCost, ...]:
    """What the target's ``[calibration]`` takes; empty where it asks for nothing that is measured."""
    calibration, shape = target.calibration, array_shape(target)
    if calibration is None:
        return ()
    once = dict.fromkeys(MEASURING, 0.0)  # each array read with one vector of one phase, all its row groups
    arrays, groups, deepest = 0, 0.0, 0
    operations = {"correction": 0.0, "drift": 0.0}
    for layer in layers:
        for kind, count in corrections(layer.op, layer.table, shape, target).items():
            operations[kind] += count
        if layer.shares is not None:  # its arrays are measured once
            continue
        copies = len(layer.addresses) // max(1, len(layer.table))
        site = layer.op.site
        one = replace(
            layer.op, site=replace(site, vectors=1, input=replace(site.input, bits=target.converters.dac.bits))
        )
        events = layer_events(one, layer.table, LayerWork(0.0, 0.0, 0.0), target)
        for event in MEASURING:
            once[event] += copies * events[event]
        arrays += copies * len(layer.table)
        groups += copies * events[Event.ARRAY_READ]
        deepest = max(deepest, -(-int(layer.table["rows"].max(initial=0)) // shape.rows_active))
    each = {event: sum(c.energy_j for c in target.components.values() if c.event is event) for event in MEASURING}
    energy = sum(once[event] * each[event] for event in MEASURING)
    time_s = deepest * read_time(shape, target)
    found = []
    if calibration.correction != "none":
        adcs = -(-shape.columns // target.converters.adc.columns) + shape.extra
        words = 2 * (once[Event.ADC_CONVERSION] if calibration.correction == "column" else groups * adcs)
        rounds = calibration.vectors
        times = (rounds * groups, rounds * time_s, rounds * energy, 0.0)
        found.append(CalibrationCost("correction", None, *times, int(words), operations["correction"]))
    if calibration.drift_interval_s is not None and target.device.drift is not None:
        interval = calibration.drift_interval_s
        times = (groups, time_s, energy, energy / interval)
        found.append(CalibrationCost("drift", interval, *times, 2 * arrays, operations["drift"]))
    return tuple(found)
