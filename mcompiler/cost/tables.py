"""Cost of a scheduled program: counts times component prices, plus static power times time.

Every total is a sum that a reader can redo from the tables: events per layer, prices per component.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.dataflow import StageKind
from mcompiler.declarations import ARRAY_SHAPE_KEYS
from mcompiler.geometry import array_shape
from mcompiler.ir import NO_BITS, BitRange, ScheduledProgram
from mcompiler.naming import shown_name
from mcompiler.target import Component, Event, HierarchyUnit, Target
from mcompiler.target.view import target_view

WRITING = "(writing)"
"""Row of the component table for rewriting cells, where layers take turns on the arrays."""

DIGITAL = "(digital)"
"""Row of the layer table for the operations that stay digital."""


@dataclass(frozen=True)
class Price:
    """Energy, power and area of one layer or one component; of a layer also the ADC bits that its arrays need.

    ``energy_j`` is the sum of ``dynamic_j`` (events) and ``static_j`` (static power).
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
    """Priced quantities of one layer.

    Attributes:
        events: count per inference.
        shares: units of each kind that it occupies; a unit that layers share is split in proportion to their arrays.
        busy_s: time per inference during which its arrays work.
        span_s: from its first read to its last result.
        crossbars, crossbars_dense: arrays, copies included, and those of the dense mapping.
        cells, live: all cells of those arrays, and the ones that hold a weight.
        adc_bits: that its arrays need.
        written_cells: cells written per inference, where layers take turns on the same arrays.
        label: for people.
    """

    events: dict[Event, float]
    shares: dict[HierarchyUnit, float]
    busy_s: float = 0.0
    span_s: float = 0.0
    crossbars: int = 0
    crossbars_dense: int = 0
    cells: int = 0
    live: int = 0
    adc_bits: BitRange = NO_BITS
    written_cells: float = 0.0
    label: str = ""


@dataclass(frozen=True)
class PricedQuantities:
    """The quantities that are priced: all that a cost needs of a schedule, independent of the components.

    Attributes:
        layers: by name, the last one DIGITAL.
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
        counts: the priced quantities: events per inference, units and times of each layer.
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
    counts: PricedQuantities

    @property
    def labels(self) -> dict[str, str]:
        """Labels of the layers, by name."""
        return {name: layer.label for name, layer in self.counts.layers.items()}

    @property
    def events(self) -> list[tuple[str, str, float]]:
        """(layer, event, count per inference)."""
        return [
            (name, event.value, n) for name, layer in self.counts.layers.items() for event, n in layer.events.items()
        ]

    def as_json(self) -> dict[str, Any]:
        """The object that ``cost --json`` prints and cost.json holds."""
        energies = ("energy_j", "dynamic_j", "static_j", "area_m2")
        layer_keys = ("latency_s", *energies, "crossbars", "crossbars_dense", "utilisation")
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
                name: {key: getattr(p, key) for key in layer_keys}
                | {"adc_bits": p.adc_bits.as_json(), "label": shown_name(name, self.labels)}
                for name, p in self.layers.items()
            },
            "components": {
                name: {key: getattr(p, key) for key in (*energies, "static_power_w")}
                for name, p in self.components.items()
            },
            "events": [{"layer": layer, "event": event, "count": count} for layer, event, count in self.events],
            "units": {
                "tiles": self.counts.tiles,
                "interval_s": self.counts.interval_s,
                "layers": {
                    name: {
                        "busy_s": layer.busy_s,
                        "cells": layer.cells,
                        "live": layer.live,
                        "written_cells": layer.written_cells,
                        **{unit.value: layer.shares[unit] for unit in HierarchyUnit},
                    }
                    for name, layer in self.counts.layers.items()
                },
            },
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Cost:
        """Undo ``as_json``."""
        kept = ("layers", "components", "events", "units")
        totals = {key: data[key] for key in data if key not in kept}
        layers, labels = {}, {}
        for name, row in data["layers"].items():
            labels[name] = row.get("label", name)
            prices = {key: value for key, value in row.items() if key != "label"}
            layers[name] = Price(**prices | {"adc_bits": BitRange(**row["adc_bits"])})
        events: dict[str, dict[Event, float]] = {name: {} for name in layers}
        for row in data["events"]:
            events[row["layer"]][Event(row["event"])] = row["count"]
        units = {
            name: LayerCounts(
                events=events[name],
                shares={unit: row[unit.value] for unit in HierarchyUnit},
                busy_s=row["busy_s"],
                span_s=layers[name].latency_s,
                crossbars=layers[name].crossbars,
                crossbars_dense=layers[name].crossbars_dense,
                cells=row["cells"],
                live=row["live"],
                adc_bits=layers[name].adc_bits,
                written_cells=row["written_cells"],
                label=labels[name],
            )
            for name, row in data["units"]["layers"].items()
        }
        return Cost(
            **totals,
            layers=layers,
            components={name: Price(**row) for name, row in data["components"].items()},
            counts=PricedQuantities(units, data["units"]["tiles"], data["units"]["interval_s"], data["latency_s"]),
        )


COUNT_KEYS = ARRAY_SHAPE_KEYS
"""Keys of the target that ``count`` reads; it is given no others, so that prices of counts can change all others."""


def estimate(program: ScheduledProgram, target: Target) -> Cost:
    """Price a scheduled program."""
    return price(count(program, target_view(target, COUNT_KEYS)), target)


def count(program: ScheduledProgram, target: Target) -> PricedQuantities:
    """Count everything in a scheduled program that has a price."""
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
            shares={unit: shares[unit].get(site.name, 0.0) for unit in HierarchyUnit},
            busy_s=sum(program.layers[use].busy_s for use in uses),
            span_s=layer.end_s - layer.start_s,
            crossbars=arrays,
            crossbars_dense=analog.tiled.dense[which] if owner else 0,
            cells=arrays * shape.rows * shape.columns,
            live=int(encoded.live.sum()) * copies if owner else 0,
            adc_bits=encoded.adc_range,
            written_cells=arrays * shape.cells / analog.batch if analog.turns else 0.0,
            label=site.label,
        )
    nodes = [stage for stage in program.stages if stage.kind == StageKind.DIGITAL]
    layers[DIGITAL] = LayerCounts(
        events={Event.DIGITAL_OP: sum(stage.operations for stage in nodes)},
        shares={unit: shares[unit].get(DIGITAL, 0.0) for unit in HierarchyUnit},
        span_s=max((stage.end_s - stage.start_s for stage in nodes), default=0.0),
        label=DIGITAL,
    )
    return PricedQuantities(layers, sum(shares[HierarchyUnit.TILE].values()), program.interval_s, program.latency_s)


def price(counts: PricedQuantities, target: Target) -> Cost:
    """Put prices on counted quantities.

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
    """Cost of one component in one layer."""

    dynamic_j: float
    static_j: float
    area_m2: float


@dataclass(frozen=True)
class _Priced:
    """Cost of one component: its row, and its part in each layer."""

    price: Price
    layers: dict[str, _Part]


def _component(component: Component, counts: PricedQuantities) -> _Priced:
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


def _writing(counts: PricedQuantities, target: Target) -> _Priced:
    """Cost of writing the cells where layers take turns on the same arrays."""
    write = target.device.write
    each = 0.0 if write is None else write.pulses * (write.pulse_energy_j + write.verify_energy_j)
    layers = {name: _Part(layer.written_cells * each, 0.0, 0.0) for name, layer in counts.layers.items()}
    energy = sum(part.dynamic_j for part in layers.values())
    return _Priced(Price(energy, 0.0, dynamic_j=energy), layers)


def _peak(components: dict[str, _Priced], counts: PricedQuantities, target: Target) -> float:
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


def _shares(program: ScheduledProgram) -> dict[HierarchyUnit, dict[str, float]]:
    """Units of each kind that each layer occupies; shared units are split in proportion to the layers' arrays."""
    matrix, addresses = program.placed.analog.tiled.matrix, program.placed.addresses
    names = [matrix.sites[matrix.sites_of(number)[0]].name for number in range(len(matrix.matrices))]
    owner = np.repeat(np.arange(len(names)), [len(a) for a in addresses])
    every: npt.NDArray[np.int32] = np.concatenate([*addresses, np.zeros((0, 4), np.int32)])
    shares: dict[HierarchyUnit, dict[str, float]] = {}
    for place, depth in (
        (HierarchyUnit.CHIP, 1),
        (HierarchyUnit.TILE, 2),
        (HierarchyUnit.CORE, 3),
        (HierarchyUnit.ARRAY, 4),
    ):
        if not len(every):
            shares[place] = {DIGITAL: 0.0 if place is HierarchyUnit.ARRAY else 1.0}
            continue
        key = every[:, 0].astype(np.int64)
        for column in range(1, depth):
            key = key * (int(every[:, column].max()) + 1) + every[:, column]
        _, unit, size = np.unique(key, return_inverse=True, return_counts=True)
        part = np.bincount(owner, weights=1 / size[unit.reshape(-1)], minlength=len(names))
        shares[place] = {name: float(value) for name, value in zip(names, part, strict=True)}
    return shares
