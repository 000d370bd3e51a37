"""Cost of a chip's calibration: its measurements, and the additional operations of every inference."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from mcompiler.dataflow import LayerWork, corrections, layer_events, read_time
from mcompiler.geometry import array_shape
from mcompiler.target import Event, Target, adcs_of, prices

if TYPE_CHECKING:
    from mcompiler.artefacts.layers import LayerData

MEASURING = (Event.ARRAY_READ, Event.CELL_READ, Event.DAC_DRIVE, Event.ADC_CONVERSION, Event.SAMPLE_HOLD)
"""Events of a read whose codes are used for calibration."""


@dataclass(frozen=True)
class ChipCalibrationCost:
    """Cost of one kind of chip calibration on all arrays of a build.

    Attributes:
        kind: ``correction`` (gain and offset of columns or ADCs) or ``drift`` (one factor per array).
        interval_s: time between two rounds; None: one round, after the cells are written.
        reads: array reads of a round.
        time_s: duration of a round; arrays are measured in parallel, each with its own converters.
        energy_j: energy of a round.
        power_w: mean power of periodic rounds.
        words: numbers that the digital side stores.
        operations: operations of the digital units in each inference; they are part of the cost tables.
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


def chip_calibration_cost(layers: Iterable[LayerData], target: Target) -> tuple[ChipCalibrationCost, ...]:
    """Cost of the target's section [calibration]; empty where nothing in it needs a measurement."""
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
    priced = prices(target).values()
    each = {event: sum(part.energy_j for part in priced if part.event is event) for event in MEASURING}
    energy = sum(once[event] * each[event] for event in MEASURING)
    time_s = deepest * read_time(shape, target)
    found = []
    if calibration.correction != "none":
        adcs = adcs_of(target.array, target.encoding, target.converters)
        each_array = adcs.converters / adcs.arrays
        words = 2 * (once[Event.ADC_CONVERSION] if calibration.correction == "column" else groups * each_array)
        rounds = calibration.vectors
        found.append(
            ChipCalibrationCost(
                kind="correction",
                interval_s=None,
                reads=rounds * groups,
                time_s=rounds * time_s,
                energy_j=rounds * energy,
                power_w=0.0,
                words=int(words),
                operations=operations["correction"],
            )
        )
    if calibration.drift_interval_s is not None and target.device.drift is not None:
        interval = calibration.drift_interval_s
        found.append(
            ChipCalibrationCost(
                kind="drift",
                interval_s=interval,
                reads=groups,
                time_s=time_s,
                energy_j=energy,
                power_w=energy / interval,
                words=2 * arrays,
                operations=operations["drift"],
            )
        )
    return tuple(found)
