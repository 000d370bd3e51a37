"""What a scheduled program costs: counts times components, plus static power times time.

Every total is a sum that a reader can redo from the tables: events per layer, prices per component.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.dataflow import StageKind
from mcompiler.geometry import array_shape
from mcompiler.ir import NO_BITS, BitRange, ScheduledProgram
from mcompiler.target import Component, Event, Place, Target

WRITING = "(writing)"
"""Row of the component table for cells that are written again and again, where layers take turns."""

DIGITAL = "(digital)"
"""Row of the layer table for the operations that stay digital."""


@dataclass(frozen=True)
class Price:
    """Energy, power and area of one layer or one component; of a layer also the ADC bits that its arrays need.

    ``energy_j`` is ``dynamic_j``, of events, and ``static_j``, of standing by.
    """

    energy_j: float
    area_m2: float
    crossbars: int = 0
    crossbars_dense: int = 0
    utilisation: float = 0.0
    latency_s: float = 0.0
    static_power_w: float = 0.0
    adc_bits: BitRange = NO_BITS
    dynamic_j: float = 0.0
    static_j: float = 0.0


@dataclass(frozen=True)
class LayerCounts:
    """What one layer takes.

    Attributes:
        events: count per inference.
        shares: units of each kind that it occupies; a unit that layers share is split by their arrays.
        busy_s: time per inference that its arrays work.
        span_s: from its first read to its last result.
        crossbars, crossbars_dense: arrays, copies included, and those of the dense mapping.
        cells, live: of those arrays.
        adc_bits: that its arrays need.
        written_cells: cells written per inference, where layers take turns on the same arrays.
    """

    events: dict[Event, float]
    shares: dict[Place, float]
    busy_s: float = 0.0
    span_s: float = 0.0
    crossbars: int = 0
    crossbars_dense: int = 0
    cells: int = 0
    live: int = 0
    adc_bits: BitRange = NO_BITS
    written_cells: float = 0.0


@dataclass(frozen=True)
class Counts:
    """What prices are put on: all that a cost takes from a schedule, small and independent of the components.

    Attributes:
        layers: by name, and DIGITAL behind them.
        tiles: tiles in use, each with a digital unit.
        interval_s, latency_s: of the schedule.
    """

    layers: dict[str, LayerCounts]
    tiles: float
    interval_s: float
    latency_s: float


@dataclass(frozen=True)
class Cost:
    """The cost tables. ``totals`` are the sums; ``layers`` and ``components`` each add up to them.

    Attributes:
        latency_s, throughput_per_s, energy_j, power_w, peak_power_w, area_m2: of one inference, or of the chip(s).
        crossbars, crossbars_dense: physical arrays, and those of the dense mapping.
        utilisation: live cells / cells of used arrays.
        layers, components: prices by name.
        counts: what the prices are put on: events per inference, units and times of each layer.
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
    counts: Counts

    @property
    def events(self) -> list[tuple[str, str, float]]:
        """(layer, event, count per inference)."""
        return [
            (name, event.value, n) for name, layer in self.counts.layers.items() for event, n in layer.events.items()
        ]

    def as_json(self) -> dict[str, Any]:
        """The object that ``cost --json`` prints and cost.json holds."""
        layer_keys = (
            "latency_s", "energy_j", "dynamic_j", "static_j", "area_m2", "crossbars", "crossbars_dense", "utilisation"
        )  # fmt: skip
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
                name: {
                    key: getattr(p, key) for key in ("energy_j", "dynamic_j", "static_j", "area_m2", "static_power_w")
                }
                for name, p in self.components.items()
            },
            "events": [{"layer": layer, "event": event, "count": count} for layer, event, count in self.events],
            "units": {
                "tiles": self.counts.tiles,
                "interval_s": self.counts.interval_s,
                "layers": {
                    name: {
                        "busy_s": layer.busy_s, "cells": layer.cells, "live": layer.live,
                        "written_cells": layer.written_cells,
                        **{place.value: layer.shares[place] for place in Place},
                    }
                    for name, layer in self.counts.layers.items()
                },
            },
        }  # fmt: skip

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Cost:
        """Undo ``as_json``."""
        kept = ("layers", "components", "events", "units")
        totals = {key: data[key] for key in data if key not in kept}
        layers = {
            name: Price(**row | {"adc_bits": BitRange(**row["adc_bits"])}) for name, row in data["layers"].items()
        }
        events: dict[str, dict[Event, float]] = {name: {} for name in layers}
        for row in data["events"]:
            events[row["layer"]][Event(row["event"])] = row["count"]
        units = {
            name: LayerCounts(
                events[name], {place: row[place.value] for place in Place}, row["busy_s"], layers[name].latency_s,
                layers[name].crossbars, layers[name].crossbars_dense, row["cells"], row["live"], layers[name].adc_bits,
                row["written_cells"],
            )
            for name, row in data["units"]["layers"].items()
        }  # fmt: skip
        return Cost(
            **totals,
            layers=layers,
            components={name: Price(**row) for name, row in data["components"].items()},
            counts=Counts(units, data["units"]["tiles"], data["units"]["interval_s"], data["latency_s"]),
        )


def estimate(program: ScheduledProgram, target: Target) -> Cost:
    """Price a scheduled program."""
    return price(count(program, target), target)


def count(program: ScheduledProgram, target: Target) -> Counts:
    """What a scheduled program takes of everything that has a price."""
    analog = program.placed.analog
    matrix, shape = analog.tiled.matrix, array_shape(target)
    shares = _shares(program)
    layers = {}
    for number, (site, layer) in enumerate(zip(matrix.sites, program.layers, strict=True)):
        which, uses = site.matrix, matrix.sites_of(site.matrix)
        owner = uses[0] == number  # arrays that several sites use are booked on the first of them
        copies, encoded = analog.copies[which], analog.analog[which]
        arrays = len(analog.tiled.tables[which]) * copies if owner else 0
        layers[site.name] = LayerCounts(
            events=dict(layer.events),
            shares={place: shares[place].get(site.name, 0.0) for place in Place},
            busy_s=sum(program.layers[use].busy_s for use in uses),
            span_s=layer.end_s - layer.start_s,
            crossbars=arrays,
            crossbars_dense=analog.tiled.dense[which] if owner else 0,
            cells=arrays * shape.rows * shape.columns,
            live=int(encoded.live.sum()) * copies if owner else 0,
            adc_bits=encoded.adc_range,
            written_cells=arrays * shape.cells / analog.batch if analog.turns else 0.0,
        )
    nodes = [stage for stage in program.stages if stage.kind == StageKind.DIGITAL]
    layers[DIGITAL] = LayerCounts(
        events={Event.DIGITAL_OP: sum(stage.operations for stage in nodes)},
        shares={place: shares[place].get(DIGITAL, 0.0) for place in Place},
        span_s=max((stage.end_s - stage.start_s for stage in nodes), default=0.0),
    )
    return Counts(layers, sum(shares[Place.TILE].values()), program.interval_s, program.latency_s)


def price(counts: Counts, target: Target) -> Cost:
    """Put prices on what is counted.

    Static power is charged over the interval between two inferences in steady state, that of gated components over the
    time that the arrays of their layer work, so that power times interval is the energy of one inference.
    """
    components = {name: _component(component, counts) for name, component in target.components.items()}
    if any(layer.written_cells for layer in counts.layers.values()):
        components[WRITING] = _writing(counts, target)
    layers = {}
    for name, layer in counts.layers.items():
        parts = [priced.layers[name] for priced in components.values()]
        layers[name] = Price(
            energy_j=sum(part.dynamic_j + part.static_j for part in parts),
            area_m2=sum(part.area_m2 for part in parts),
            crossbars=layer.crossbars,
            crossbars_dense=layer.crossbars_dense,
            utilisation=layer.live / layer.cells if layer.cells else 0.0,
            latency_s=layer.span_s,
            adc_bits=layer.adc_bits,
            dynamic_j=sum(part.dynamic_j for part in parts),
            static_j=sum(part.static_j for part in parts),
        )
    table = {name: priced.price for name, priced in components.items()}
    energy, cells = sum(row.energy_j for row in table.values()), sum(layer.cells for layer in counts.layers.values())
    throughput = 1 / counts.interval_s
    return Cost(
        latency_s=counts.latency_s,
        throughput_per_s=throughput,
        energy_j=energy,
        power_w=energy * throughput,
        peak_power_w=max(_peak(components, counts, target), energy * throughput),
        area_m2=sum(row.area_m2 for row in table.values()),
        crossbars=sum(layer.crossbars for layer in counts.layers.values()),
        crossbars_dense=sum(layer.crossbars_dense for layer in counts.layers.values()),
        utilisation=sum(layer.live for layer in counts.layers.values()) / cells if cells else 0.0,
        layers=layers,
        components=table,
        counts=counts,
    )


@dataclass(frozen=True)
class _Part:
    """What one component costs in one layer."""

    dynamic_j: float
    static_j: float
    area_m2: float


@dataclass(frozen=True)
class _Priced:
    """What one component costs: its row, and its part in each layer."""

    price: Price
    layers: dict[str, _Part]


def _component(component: Component, counts: Counts) -> _Priced:
    layers = {}
    instances = 0.0
    for name, layer in counts.layers.items():
        own = component.count * layer.shares[component.per]
        instances += own
        used = component.energy_j * layer.events.get(component.event, 0.0) if component.event is not None else 0.0
        on_s = min(layer.busy_s, counts.interval_s) if component.gated else counts.interval_s
        layers[name] = _Part(used, own * component.static_power_w * on_s, own * component.area_m2)
    dynamic, static = (sum(getattr(part, key) for part in layers.values()) for key in ("dynamic_j", "static_j"))
    row = Price(
        dynamic + static,
        sum(part.area_m2 for part in layers.values()),
        static_power_w=instances * component.static_power_w,
        dynamic_j=dynamic,
        static_j=static,
    )
    return _Priced(row, layers)


def _writing(counts: Counts, target: Target) -> _Priced:
    """What writing the cells takes where layers take turns on the same arrays."""
    write = target.device.write
    each = 0.0 if write is None else write.pulses * (write.pulse_energy_j + write.verify_energy_j)
    layers = {name: _Part(layer.written_cells * each, 0.0, 0.0) for name, layer in counts.layers.items()}
    energy = sum(part.dynamic_j for part in layers.values())
    return _Priced(Price(energy, 0.0, dynamic_j=energy), layers)


def _peak(components: dict[str, _Priced], counts: Counts, target: Target) -> float:
    """Power with everything active at once: all static power, every layer's arrays, the digital units of all tiles."""
    peak = sum(priced.price.static_power_w for priced in components.values())
    for name, layer in counts.layers.items():
        if layer.busy_s > 0:
            peak += sum(priced.layers[name].dynamic_j for priced in components.values()) / layer.busy_s
    operations = counts.layers[DIGITAL].events[Event.DIGITAL_OP]
    if operations:
        each = sum(priced.layers[DIGITAL].dynamic_j for priced in components.values()) / operations
        peak += each * target.digital.operations_per_cycle * target.digital.clock_hz * counts.tiles
    return peak


def _shares(program: ScheduledProgram) -> dict[Place, dict[str, float]]:
    """Units of each kind that each layer occupies; a unit that layers share is split by their arrays."""
    matrix, addresses = program.placed.analog.tiled.matrix, program.placed.addresses
    names = [matrix.sites[matrix.sites_of(number)[0]].name for number in range(len(matrix.matrices))]
    owner = np.repeat(np.arange(len(names)), [len(a) for a in addresses])
    every: npt.NDArray[np.int32] = np.concatenate([*addresses, np.zeros((0, 4), np.int32)])
    shares: dict[Place, dict[str, float]] = {}
    for place, depth in ((Place.CHIP, 1), (Place.TILE, 2), (Place.CORE, 3), (Place.ARRAY, 4)):
        if not len(every):
            shares[place] = {DIGITAL: 0.0 if place is Place.ARRAY else 1.0}
            continue
        key = every[:, 0].astype(np.int64)
        for column in range(1, depth):
            key = key * (int(every[:, column].max()) + 1) + every[:, column]
        _, unit, size = np.unique(key, return_inverse=True, return_counts=True)
        part = np.bincount(owner, weights=1 / size[unit.reshape(-1)], minlength=len(names))
        shares[place] = {name: float(value) for name, value in zip(names, part, strict=True)}
    return shares
