"""Cost tables of a scheduled program, and the counted quantities that they are made of.

Every total is a sum that a reader can redo from the tables: events per layer, prices per component.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.dataflow import StageKind
from mcompiler.declarations import ARRAY_SHAPE_KEYS
from mcompiler.geometry import ArrayShape, TileTable, array_shape
from mcompiler.ir import NO_BITS, BitRange, EncodedMatrix, ScheduledProgram
from mcompiler.naming import shown_name
from mcompiler.pricing import Quantity
from mcompiler.target import Event, HierarchyUnit, Stale, Target

WRITING = "(writing)"
"""Row of the component table for rewriting cells, where layers take turns on the arrays."""

DIGITAL = "(digital)"
"""Row of the layer table for the nodes that stay digital: their operations, and what they read and write."""

IDLE = "(idle)"
"""Row of the layer table for the parts of the chips in use that no layer uses: standby of the chips only."""

_ENERGIES = (
    "energy_j",
    "energy_active_j",
    "energy_standby_used_j",
    "energy_standby_chip_j",
    "dynamic_j",
    "static_j",
)


class InferenceEnergy:
    """Energies of one inference that follow from those that are stored."""

    energy_active_j: float
    energy_standby_used_j: float

    @property
    def energy_j(self) -> float:
        """Of the parts in use: what their events burn, and their standby."""
        return self.energy_active_j + self.energy_standby_used_j

    @property
    def dynamic_j(self) -> float:
        """``energy_active_j``, under its earlier name."""
        return self.energy_active_j

    @property
    def static_j(self) -> float:
        """``energy_standby_used_j``, under its earlier name."""
        return self.energy_standby_used_j


@dataclass(frozen=True)
class Price(InferenceEnergy):
    """Energies per inference, power and area of one layer or one component.

    Attributes:
        energy_active_j: what events burn.
        energy_standby_used_j: static power of the parts in use, shared parts by the share of their capacity in use.
        energy_standby_chip_j: static power of all parts of the chips in use.
        area_m2: of the parts in use.
        static_power_w: of the parts in use, all of it; of components.
        crossbars, crossbars_dense, utilisation, latency_s, adc_bits: of layers, as in ``LayerCounts`` and ``Cost``.
    """

    energy_active_j: float = 0.0
    energy_standby_used_j: float = 0.0
    energy_standby_chip_j: float = 0.0
    area_m2: float = 0.0
    static_power_w: float = 0.0
    crossbars: int = 0
    crossbars_dense: int = 0
    utilisation: float = 0.0
    latency_s: float = 0.0
    adc_bits: BitRange = NO_BITS


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
        mean_step: mean level step (``Target.cell_steps``) of its cells in driven rows and used columns.
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
    mean_step: float = 0.0


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

    @property
    def chips(self) -> int:
        """Chips in use; layers divide each of them between them."""
        return round(sum(layer.shares[HierarchyUnit.CHIP] for layer in self.layers.values()))

    def cell_siemens(self, target: Target) -> dict[str, float]:
        """Mean conductance of the cells of every layer, in driven rows and used columns."""
        pedestal, unit = target.pedestal, target.unit_siemens
        return {name: (layer.mean_step + pedestal) * unit for name, layer in self.layers.items()}


@dataclass(frozen=True)
class Cost(InferenceEnergy):
    """The cost tables. ``totals`` are the sums; ``layers`` and ``components`` each add up to them.

    Attributes:
        latency_s, throughput_per_s: of one inference; the highest rate of inferences.
        rate_per_s: the rate in force, at most the highest: standby is that of the time of one inference at this rate.
        energy_active_j, energy_standby_used_j, energy_standby_chip_j: per inference, as in ``Price``.
        peak_power_w, area_m2: of the parts in use.
        crossbars, crossbars_dense: physical arrays, and those of the dense mapping.
        utilisation: live cells / cells of used arrays.
        layers, components: prices by name.
        counts: the priced quantities: events per inference, units and times of each layer.
        stale: components whose price does not follow something that it depends on.
    """

    latency_s: float
    throughput_per_s: float
    rate_per_s: float
    energy_active_j: float
    energy_standby_used_j: float
    energy_standby_chip_j: float
    peak_power_w: float
    area_m2: float
    crossbars: int
    crossbars_dense: int
    utilisation: float
    layers: dict[str, Price]
    components: dict[str, Price]
    counts: PricedQuantities
    stale: tuple[Stale, ...] = ()

    @property
    def power_w(self) -> float:
        """Mean power of the parts in use at the rate in force."""
        return self.energy_j * self.rate_per_s

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
        layer_keys = ("latency_s", *_ENERGIES, "area_m2", "crossbars", "crossbars_dense", "utilisation")
        return {
            "latency_s": self.latency_s,
            "throughput_per_s": self.throughput_per_s,
            "rate_per_s": self.rate_per_s,
            **{key: getattr(self, key) for key in _ENERGIES[:4]},
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
                name: {key: getattr(p, key) for key in (*_ENERGIES, "area_m2", "static_power_w")}
                for name, p in self.components.items()
            },
            "stale": [each.as_json() for each in self.stale],
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
                        "mean_step": layer.mean_step,
                        **{unit.value: layer.shares[unit] for unit in HierarchyUnit},
                    }
                    for name, layer in self.counts.layers.items()
                },
            },
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Cost:
        """Undo ``as_json``."""
        kept = ("layers", "components", "counts", "stale")
        totals = {each.name: data[each.name] for each in fields(Cost) if each.name not in kept}
        labels = {name: row.get("label", name) for name, row in data["layers"].items()}
        layers = {name: _price(row | {"adc_bits": BitRange(**row["adc_bits"])}) for name, row in data["layers"].items()}
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
                mean_step=row["mean_step"],
                label=labels[name],
            )
            for name, row in data["units"]["layers"].items()
        }
        return Cost(
            **totals,
            layers=layers,
            components={name: _price(row) for name, row in data["components"].items()},
            counts=PricedQuantities(units, data["units"]["tiles"], data["units"]["interval_s"], data["latency_s"]),
            stale=tuple(Stale(row["component"], Quantity(row["quantity"]), row["reason"]) for row in data["stale"]),
        )


def _price(row: Mapping[str, Any]) -> Price:
    """The price of a row of JSON, without what follows from the rest."""
    return Price(**{each.name: row[each.name] for each in fields(Price) if each.name in row})


COUNT_KEYS = ARRAY_SHAPE_KEYS
"""Keys of the target that ``count`` reads; it is given no others, so that prices of counts can change all others."""


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
            mean_step=_mean_step(analog.tiled.tables[which], encoded, shape),
        )
    nodes = [stage for stage in program.stages if stage.kind == StageKind.DIGITAL]
    layers[DIGITAL] = LayerCounts(
        events={
            Event.BUFFER_READ_BYTE: sum(stage.read_bytes for stage in nodes),
            Event.BUFFER_WRITE_BYTE: sum(stage.written_bytes for stage in nodes),
            Event.DIGITAL_OP: sum(stage.operations for stage in nodes),
        },
        shares={unit: shares[unit].get(DIGITAL, 0.0) for unit in HierarchyUnit},
        span_s=max((stage.end_s - stage.start_s for stage in nodes), default=0.0),
        label=DIGITAL,
    )
    return PricedQuantities(layers, sum(shares[HierarchyUnit.TILE].values()), program.interval_s, program.latency_s)


def _mean_step(table: TileTable, encoded: EncodedMatrix, shape: ArrayShape) -> float:
    lines = table["cols"].astype(np.float64) * shape.columns_per_weight + shape.extra
    cells = float((table["rows"] * lines).sum())
    return float(encoded.steps.sum()) / cells if cells else 0.0


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
