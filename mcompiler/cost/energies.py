"""Prices on counted quantities: energy of events, standby of the parts in use and of the whole chips, area.

Energy is events times the energy of one. Standby is static power times the time of one inference at the rate in force.
Of the parts in use, a part that all layers share, and of which the target states a capacity (ports of a chip, links,
buffers), counts by the share of this capacity that is used; every other part in full. A gated part has static power
only while the arrays of its layer work, and none where no layer uses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mcompiler.cost.tables import COUNT_KEYS, DIGITAL, IDLE, WRITING, Cost, LayerCounts, Price, PricedQuantities, count
from mcompiler.errors import UserError
from mcompiler.ir import ScheduledProgram
from mcompiler.network import topology_of
from mcompiler.target import ComponentPrice, Event, HierarchyUnit, Target, prices, stale_prices
from mcompiler.target.view import target_view

Floats = npt.NDArray[np.float64]

_BUFFER = (Event.BUFFER_READ_BYTE, Event.BUFFER_WRITE_BYTE)
_SHARING: Mapping[Event, tuple[Event, ...]] = {
    Event.LINK_BYTE: (Event.LINK_BYTE,),
    Event.CHIP_LINK_BYTE: (Event.CHIP_LINK_BYTE,),
    Event.BUFFER_READ_BYTE: _BUFFER,
    Event.BUFFER_WRITE_BYTE: _BUFFER,
}
"""Events by which a component is shared, and those that use its capacity (a buffer reads and writes by one)."""


def estimate(program: ScheduledProgram, target: Target) -> Cost:
    """Price a scheduled program at its highest rate."""
    return price(count(program, target_view(target, COUNT_KEYS)), target)


def price(counts: PricedQuantities, target: Target, rate: float | None = None) -> Cost:
    """Put prices on counted quantities.

    Args:
        counts: of a schedule.
        target: the chip.
        rate: inferences per second; None: the highest.

    Raises:
        UserError: a rate of zero or less, or above the highest.
    """
    highest, priced = 1 / counts.interval_s, prices(target)
    interval = counts.interval_s if rate is None or rate == highest else _interval(rate, highest)
    columns = _Columns.of(counts, target)
    components = {name: _component(each, columns, target, interval) for name, each in priced.items()}
    if any(layer.written_cells for layer in counts.layers.values()):
        components[WRITING] = _writing(columns, target)
    sums = sum((each.parts for each in components.values()), np.zeros((_PARTS, len(counts.layers))))
    layers = {
        name: _layer(layer, column)
        for (name, layer), column in zip(counts.layers.items(), sums.T.tolist(), strict=True)
    }
    layers[IDLE] = Price(energy_standby_chip_j=sum(each.idle_j for each in components.values()))
    table = {name: each.price for name, each in components.items()}
    active = sum(row.energy_active_j for row in table.values())
    cells = sum(layer.cells for layer in counts.layers.values())
    static = sum(row.static_power_w for row in table.values())
    return Cost(
        latency_s=counts.latency_s,
        throughput_per_s=highest,
        rate_per_s=highest if rate is None else rate,
        energy_active_j=active,
        energy_standby_used_j=sum(row.energy_standby_used_j for row in table.values()),
        energy_standby_chip_j=sum(row.energy_standby_chip_j for row in table.values()),
        peak_power_w=static + max(_peak(components, columns, target), active * highest),
        area_m2=sum(row.area_m2 for row in table.values()),
        crossbars=sum(layer.crossbars for layer in counts.layers.values()),
        crossbars_dense=sum(layer.crossbars_dense for layer in counts.layers.values()),
        utilisation=sum(layer.live for layer in counts.layers.values()) / cells if cells else 0.0,
        layers=layers,
        components=table,
        counts=counts,
        stale=stale_prices(priced),
    )


def _interval(rate: float, highest: float) -> float:
    """Seconds between two inferences at a rate."""
    if not rate > 0:
        raise UserError(f"a rate of {rate} inferences per second is no rate; give one above 0")
    if rate > highest:
        raise UserError(
            f"a rate of {rate} inferences per second is above the highest of this build, {highest}; give at most that"
        )
    return 1 / rate


_PARTS = 4
"""Rows of the parts of a component: active energy, standby in use, standby of the chips (J), area (m2)."""


@dataclass(frozen=True)
class _Columns:
    """Counted quantities as arrays, one entry a layer, [layers]: every component is priced with the same ones.

    Attributes:
        counts: the quantities.
        shares, events: as in ``LayerCounts``; an event that no layer counts is absent.
        busy_s: as in ``LayerCounts``.
        siemens: mean conductance of the cells.
    """

    counts: PricedQuantities
    shares: dict[HierarchyUnit, Floats]
    events: dict[Event, Floats]
    busy_s: Floats
    siemens: list[float]

    @staticmethod
    def of(counts: PricedQuantities, target: Target) -> _Columns:
        layers = counts.layers.values()
        counted = dict.fromkeys(event for layer in layers for event in layer.events)
        return _Columns(
            counts=counts,
            shares={unit: np.array([layer.shares[unit] for layer in layers]) for unit in HierarchyUnit},
            events={event: np.array([layer.events.get(event, 0.0) for layer in layers]) for event in counted},
            busy_s=np.array([layer.busy_s for layer in layers]),
            siemens=list(counts.cell_siemens(target).values()),
        )

    def number(self, event: Event | None) -> Floats:
        """How often an event happens in each layer."""
        return np.zeros(len(self.busy_s)) if event is None or event not in self.events else self.events[event]


@dataclass(frozen=True)
class _Priced:
    """Cost of one component: its row, its parts in the layers [_PARTS, layers], and standby that no layer uses."""

    price: Price
    parts: Floats
    idle_j: float = 0.0


def _layer(layer: LayerCounts, parts: list[float]) -> Price:
    active, used, chip, area = parts
    return Price(
        energy_active_j=active,
        energy_standby_used_j=used,
        energy_standby_chip_j=chip,
        area_m2=area,
        crossbars=layer.crossbars,
        crossbars_dense=layer.crossbars_dense,
        utilisation=layer.live / layer.cells if layer.cells else 0.0,
        latency_s=layer.span_s,
        adc_bits=layer.adc_bits,
    )


def _component(each: ComponentPrice, columns: _Columns, target: Target, interval: float) -> _Priced:
    watts, gated = each.static_power_w, each.component.gated
    instances = each.count * columns.shares[each.per]
    # The energy of a cell is that at the mean conductance of the layer's mapped levels.
    joules = [each.energy_with(mean) for mean in columns.siemens] if each.follows_cells else each.energy_j
    standby = instances * watts * (np.minimum(columns.busy_s, interval) if gated else interval)
    used = _used(standby, each.event, columns, _joules_per_byte(each.per_chip * watts, each.event, target))
    parts = np.stack([columns.number(each.event) * joules, used, standby, instances * each.area_m2])
    in_use = float(instances.sum())
    unused = 0.0 if gated else max(0.0, each.per_chip * columns.counts.chips - in_use)
    idle = unused * watts * interval
    active_j, used_j, chip_j, area = parts.sum(axis=1).tolist()
    row = Price(
        energy_active_j=active_j,
        energy_standby_used_j=used_j,
        energy_standby_chip_j=chip_j + idle,
        area_m2=area,
        static_power_w=in_use * watts,
    )
    return _Priced(row, parts, idle)


def _used(standby: Floats, event: Event | None, columns: _Columns, joules_per_byte: float | None) -> Floats:
    """Standby of the instances in use by layer, of a shared component in proportion to the bytes that layers move.

    Power over capacity is the standby of one byte, whatever the rate; no component has more than all its standby.
    """
    if event is None or joules_per_byte is None:
        return standby
    moved = sum((columns.number(each) for each in _SHARING[event]), np.zeros(len(standby)))
    every = float(moved.sum())
    return moved * (min(joules_per_byte, float(standby.sum()) / every) if every else 0.0)


def _joules_per_byte(power_w: float, event: Event | None, target: Target) -> float | None:
    """Static power of a chip's instances of a component, over the bytes per second that they move together.

    None for a component that is not shared, or of which the target states no capacity. A chip of one tile has no links
    and moves nothing over them.
    """
    network = target.network
    if event is Event.CHIP_LINK_BYTE:
        return power_w / network.chip_link_bytes_per_s
    if event is Event.LINK_BYTE:
        links = topology_of(target).links
        return power_w / (links * network.link_bits / 8 * network.clock_hz) if links else 0.0
    if event in _BUFFER and target.digital.buffer_bytes_per_s is not None:
        return power_w / (target.digital.buffer_bytes_per_s * target.hierarchy.tiles_per_chip)
    return None


def _writing(columns: _Columns, target: Target) -> _Priced:
    """Cost of writing the cells where layers take turns on the same arrays."""
    write = target.device.write
    each = 0.0 if write is None else write.pulses * (write.pulse_energy_j + write.verify_energy_j)
    parts = np.zeros((_PARTS, len(columns.busy_s)))
    parts[0] = [layer.written_cells * each for layer in columns.counts.layers.values()]
    return _Priced(Price(energy_active_j=float(parts[0].sum())), parts)


def _peak(components: Mapping[str, _Priced], columns: _Columns, target: Target) -> float:
    """Power of events with everything active at once: every layer's arrays, the digital units of all tiles."""
    active = sum((each.parts[0] for each in components.values()), np.zeros(len(columns.busy_s)))
    works = columns.busy_s > 0
    peak = float((active[works] / columns.busy_s[works]).sum())
    digital = list(columns.counts.layers).index(DIGITAL)
    operations = float(columns.number(Event.DIGITAL_OP)[digital])
    if operations:
        units = [name for name, each in target.components.items() if each.event is Event.DIGITAL_OP]
        each = sum(float(components[name].parts[0, digital]) for name in units) / operations
        peak += each * target.digital.operations_per_cycle * target.digital.clock_hz * columns.counts.tiles
    return peak
