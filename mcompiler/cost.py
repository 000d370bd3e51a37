"""What a scheduled program costs: counts times components, plus static power times time.

Every total is a sum that a reader can redo from the tables: events per layer, prices per component.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.geometry import array_shape
from mcompiler.ir import NO_BITS, BitRange, ScheduledProgram
from mcompiler.target import Component, Event, Place, Target

DIGITAL = "(digital)"
"""Row of the layer table for the operations that stay digital."""


@dataclass(frozen=True)
class Price:
    """Energy, power and area of one layer or one component; of a layer also the ADC bits that its arrays need."""

    energy_j: float
    area_m2: float
    crossbars: int = 0
    crossbars_dense: int = 0
    utilisation: float = 0.0
    latency_s: float = 0.0
    static_power_w: float = 0.0
    adc_bits: BitRange = NO_BITS


@dataclass(frozen=True)
class Cost:
    """The cost tables. ``totals`` are the sums; ``layers`` and ``components`` each add up to them.

    Attributes:
        latency_s, throughput_per_s, energy_j, power_w, peak_power_w, area_m2: of one inference, or of the chip(s).
        crossbars, crossbars_dense: physical arrays, and those of the dense mapping.
        utilisation: live cells / cells of used arrays.
        layers, components: prices by name.
        events: (layer, event, count per inference).
    """

    latency_s: float
    throughput_per_s: float
    energy_j: float
    power_w: float
    peak_power_w: float
    area_m2: float
    crossbars: int
    crossbars_dense: int
    utilisation: float
    layers: dict[str, Price]
    components: dict[str, Price]
    events: list[tuple[str, str, float]]

    def as_json(self) -> dict[str, Any]:
        """The object that ``cost --json`` prints and cost.json holds."""
        layer_keys = ("latency_s", "energy_j", "area_m2", "crossbars", "crossbars_dense", "utilisation")
        return {
            "latency_s": self.latency_s,
            "throughput_per_s": self.throughput_per_s,
            "energy_j": self.energy_j,
            "power_w": self.power_w,
            "peak_power_w": self.peak_power_w,
            "area_m2": self.area_m2,
            "crossbars": self.crossbars,
            "crossbars_dense": self.crossbars_dense,
            "utilisation": self.utilisation,
            "layers": {
                name: {key: getattr(p, key) for key in layer_keys} | {"adc_bits": p.adc_bits.as_json()}
                for name, p in self.layers.items()
            },
            "components": {
                name: {"energy_j": p.energy_j, "area_m2": p.area_m2, "static_power_w": p.static_power_w}
                for name, p in self.components.items()
            },
            "events": [{"layer": layer, "event": event, "count": count} for layer, event, count in self.events],
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Cost:
        """Undo ``as_json``."""
        totals = {key: data[key] for key in data if key not in ("layers", "components", "events")}
        return Cost(
            **totals,
            layers={
                name: Price(**row | {"adc_bits": BitRange(**row["adc_bits"])}) for name, row in data["layers"].items()
            },
            components={name: Price(**row) for name, row in data["components"].items()},
            events=[(row["layer"], row["event"], row["count"]) for row in data["events"]],
        )


def estimate(program: ScheduledProgram, target: Target) -> Cost:
    """Price a scheduled program.

    Static power is charged over the interval between two inferences in steady state, so that power times interval is
    the energy of one inference.
    """
    ops = program.placed.analog.tiled.matrix.ops
    names = [op.name for op in ops]
    counts = _counts(program, names)
    shares = _shares(program, target)
    layers = {name: [0.0, 0.0] for name in [*names, DIGITAL]}
    components: dict[str, Price] = {}
    dynamic = dict.fromkeys(layers, 0.0)
    for key, component in target.components.items():
        price, per_layer, dynamic_of = _price(component, counts, shares, program.interval_s)
        components[key] = price
        for name, (energy, area) in per_layer.items():
            layers[name][0] += energy
            layers[name][1] += area
            dynamic[name] += dynamic_of[name]
    energy = sum(price.energy_j for price in components.values())
    static = sum(price.static_power_w for price in components.values())
    shape = array_shape(target)
    tables = program.placed.analog.tiled.tables
    live = [int(op.live.sum()) for op in program.placed.analog.analog]
    arrays = [len(table) for table in tables]
    prices = {}
    for index, name in enumerate(names):
        cells = arrays[index] * shape.rows * shape.columns
        schedule = program.layers[index]
        prices[name] = Price(
            energy_j=layers[name][0],
            area_m2=layers[name][1],
            crossbars=arrays[index],
            crossbars_dense=program.placed.analog.tiled.dense[index],
            utilisation=live[index] / cells if cells else 0.0,
            latency_s=schedule.end_s - schedule.start_s,
            adc_bits=program.placed.analog.analog[index].adc_range,
        )
    digital_time = max((end - start for start, end in program.digital_s.values()), default=0.0)
    prices[DIGITAL] = Price(layers[DIGITAL][0], layers[DIGITAL][1], latency_s=digital_time)
    peak = static + sum(
        dynamic[name] / layer.busy_s for name, layer in zip(names, program.layers, strict=True) if layer.busy_s > 0
    )
    one_unit_s = sum(end - start for start, end in program.digital_s.values())
    if one_unit_s > 0:  # the digital units of all tiles at once
        peak += dynamic[DIGITAL] / one_unit_s * sum(shares[Place.TILE].values())
    throughput = 1 / program.interval_s
    cells = sum(arrays) * shape.rows * shape.columns
    return Cost(
        latency_s=program.latency_s,
        throughput_per_s=throughput,
        energy_j=energy,
        power_w=energy * throughput,
        peak_power_w=max(peak, energy * throughput),
        area_m2=sum(price.area_m2 for price in components.values()),
        crossbars=sum(arrays),
        crossbars_dense=sum(program.placed.analog.tiled.dense),
        utilisation=sum(live) / cells if cells else 0.0,
        layers=prices,
        components=components,
        events=[(name, event.value, count) for name, events in counts.items() for event, count in events.items()],
    )


def _counts(program: ScheduledProgram, names: list[str]) -> dict[str, dict[Event, float]]:
    """Events of every layer, and of the operations that stay digital."""
    counts = {name: dict(layer.events) for name, layer in zip(names, program.layers, strict=True)}
    digital = program.placed.analog.tiled.matrix.digital_ops
    counts[DIGITAL] = {Event.DIGITAL_OP: float(sum(digital.values()))}
    return counts


def _shares(program: ScheduledProgram, target: Target) -> dict[Place, dict[str, float]]:
    """Units of each kind that each layer occupies; a unit that layers share is split by their arrays."""
    ops = program.placed.analog.tiled.matrix.ops
    addresses = program.placed.addresses
    owner = np.repeat(np.arange(len(ops)), [len(a) for a in addresses])
    every: npt.NDArray[np.int32] = np.concatenate([*addresses, np.zeros((0, 4), np.int32)])
    shares: dict[Place, dict[str, float]] = {}
    for place, depth in ((Place.CHIP, 1), (Place.TILE, 2), (Place.CORE, 3), (Place.ARRAY, 4)):
        if not len(every):
            shares[place] = {DIGITAL: 0.0 if place is Place.ARRAY else 1.0}
            continue
        _, unit, size = np.unique(every[:, :depth], axis=0, return_inverse=True, return_counts=True)
        part = np.bincount(owner, weights=1 / size[unit.reshape(-1)], minlength=len(ops))
        shares[place] = {op.name: float(value) for op, value in zip(ops, part, strict=True)}
    return shares


def _price(
    component: Component,
    counts: dict[str, dict[Event, float]],
    shares: dict[Place, dict[str, float]],
    interval_s: float,
) -> tuple[Price, dict[str, tuple[float, float]], dict[str, float]]:
    """Price one component: its row, (energy, area) per layer, and dynamic energy per layer."""
    share = shares[component.per]
    per_layer: dict[str, tuple[float, float]] = {}
    dynamic: dict[str, float] = {}
    for name, events in counts.items():
        instances = component.count * share.get(name, 0.0)
        used = component.energy_j * events.get(component.event, 0.0) if component.event is not None else 0.0
        dynamic[name] = used
        per_layer[name] = (used + instances * component.static_power_w * interval_s, instances * component.area_m2)
    instances = component.count * sum(share.values())
    price = Price(
        sum(energy for energy, _ in per_layer.values()),
        sum(area for _, area in per_layer.values()),
        static_power_w=instances * component.static_power_w,
    )
    return price, per_layer, dynamic
