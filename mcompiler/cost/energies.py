"""Prices on counted quantities: energy of events, standby of the parts in use and of the whole chips, area.

Energy is events times the energy of one. Standby is static power times the time of one inference at the rate in force.
Of the parts in use, a part that all layers share, and of which the target states a capacity (ports of a chip, links,
buffers), counts by the share of this capacity that is used; every other part in full. A gated part has static power
only while the arrays of its layer work, and none where no layer uses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from mcompiler.cost.tables import COUNT_KEYS, DIGITAL, IDLE, WRITING, Cost, LayerCounts, Price, PricedQuantities, count
from mcompiler.errors import UserError
from mcompiler.ir import ScheduledProgram
from mcompiler.network import topology_of
from mcompiler.target import ComponentPrice, Event, Target, prices, stale_prices
from mcompiler.target.view import target_view

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
    siemens = counts.cell_siemens(target)
    cells = {name: _cell_energies(each, siemens) for name, each in priced.items() if each.follows_cells}
    components = {
        name: _component(each, counts, target, _Rate(interval, cells.get(name))) for name, each in priced.items()
    }
    if any(layer.written_cells for layer in counts.layers.values()):
        components[WRITING] = _writing(counts, target)
    layers = {name: _layer(name, layer, components) for name, layer in counts.layers.items()}
    layers[IDLE] = Price(energy_standby_chip_j=sum(each.idle_j for each in components.values()))
    table = {name: each.price for name, each in components.items()}
    active = sum(row.energy_active_j for row in table.values())
    every_cell = sum(layer.cells for layer in counts.layers.values())
    static = sum(row.static_power_w for row in table.values())
    return Cost(
        latency_s=counts.latency_s,
        throughput_per_s=highest,
        rate_per_s=highest if rate is None else rate,
        energy_active_j=active,
        energy_standby_used_j=sum(row.energy_standby_used_j for row in table.values()),
        energy_standby_chip_j=sum(row.energy_standby_chip_j for row in table.values()),
        peak_power_w=static + max(_peak(components, counts, target), active * highest),
        area_m2=sum(row.area_m2 for row in table.values()),
        crossbars=sum(layer.crossbars for layer in counts.layers.values()),
        crossbars_dense=sum(layer.crossbars_dense for layer in counts.layers.values()),
        utilisation=sum(layer.live for layer in counts.layers.values()) / every_cell if every_cell else 0.0,
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


class _LayerShare(NamedTuple):
    """Cost of one component in one layer; one for each pair, so a tuple, which is made fastest."""

    active_j: float = 0.0
    used_j: float = 0.0
    chip_j: float = 0.0
    area_m2: float = 0.0


@dataclass(frozen=True)
class _Priced:
    """Cost of one component: its row, its part in each layer, and the standby of instances that no layer uses."""

    price: Price
    layers: dict[str, _LayerShare]
    idle_j: float = 0.0


class _Rate(NamedTuple):
    """The time between two inferences, and the energies by layer of an event that follows the mapped levels."""

    interval_s: float
    cells: Mapping[str, float] | None


def _layer(name: str, layer: LayerCounts, components: Mapping[str, _Priced]) -> Price:
    parts = (priced.layers[name] for priced in components.values())
    total = _LayerShare(*map(sum, zip(_LayerShare(), *parts, strict=True)))
    return Price(
        energy_active_j=total.active_j,
        energy_standby_used_j=total.used_j,
        energy_standby_chip_j=total.chip_j,
        area_m2=total.area_m2,
        crossbars=layer.crossbars,
        crossbars_dense=layer.crossbars_dense,
        utilisation=layer.live / layer.cells if layer.cells else 0.0,
        latency_s=layer.span_s,
        adc_bits=layer.adc_bits,
    )


def _component(each: ComponentPrice, counts: PricedQuantities, target: Target, at: _Rate) -> _Priced:
    watts, square_metres, interval = each.static_power_w, each.area_m2, at.interval_s
    instances = {name: each.count * layer.shares[each.per] for name, layer in counts.layers.items()}
    in_use, gated = sum(instances.values()), each.component.gated
    active = _active(each, counts, at.cells)
    standby = used = dict.fromkeys(counts.layers, 0.0)
    if watts:
        standby = {
            name: instances[name] * watts * (min(layer.busy_s, interval) if gated else interval)
            for name, layer in counts.layers.items()
        }
        used = _used(standby, each.event, counts, _joules_per_byte(each.per_chip * watts, each.event, target))
    idle = 0.0 if gated else max(0.0, each.per_chip * counts.chips - in_use) * watts * interval
    layers = {
        name: _LayerShare(active[name], used[name], standby[name], number * square_metres)
        for name, number in instances.items()
    }
    row = Price(
        energy_active_j=sum(active.values()),
        energy_standby_used_j=sum(used.values()),
        energy_standby_chip_j=sum(standby.values()) + idle,
        area_m2=in_use * square_metres,
        static_power_w=in_use * watts,
    )
    return _Priced(row, layers, idle)


def _cell_energies(each: ComponentPrice, siemens: Mapping[str, float]) -> dict[str, float]:
    """Energy of an event in every layer, at the mean conductance of its mapped levels."""
    return {name: each.energy_with(mean) for name, mean in siemens.items()}


def _active(each: ComponentPrice, counts: PricedQuantities, cells: Mapping[str, float] | None) -> dict[str, float]:
    """Energy of the events of every layer."""
    event, joules = each.event, each.energy_j
    if event is None or not (joules or cells):
        return dict.fromkeys(counts.layers, 0.0)
    return {
        name: layer.events.get(event, 0.0) * (joules if cells is None else cells[name])
        for name, layer in counts.layers.items()
    }


def _used(
    standby: dict[str, float], event: Event | None, counts: PricedQuantities, joules_per_byte: float | None
) -> dict[str, float]:
    """Standby of the instances in use by layer, of a shared component in proportion to the bytes that layers move.

    Power over capacity is the standby of one byte, whatever the rate; no component has more than all its standby.
    """
    if event is None or joules_per_byte is None:
        return standby
    moved = {
        name: sum(layer.events.get(each, 0.0) for each in _SHARING[event]) for name, layer in counts.layers.items()
    }
    every = sum(moved.values())
    each = min(joules_per_byte, sum(standby.values()) / every) if every else 0.0
    return {name: each * number for name, number in moved.items()}


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


def _writing(counts: PricedQuantities, target: Target) -> _Priced:
    """Cost of writing the cells where layers take turns on the same arrays."""
    write = target.device.write
    each = 0.0 if write is None else write.pulses * (write.pulse_energy_j + write.verify_energy_j)
    layers = {name: _LayerShare(layer.written_cells * each) for name, layer in counts.layers.items()}
    return _Priced(Price(energy_active_j=sum(part.active_j for part in layers.values())), layers)


def _peak(components: Mapping[str, _Priced], counts: PricedQuantities, target: Target) -> float:
    """Power of events with everything active at once: every layer's arrays, the digital units of all tiles."""
    peak = 0.0
    for name, layer in counts.layers.items():
        if layer.busy_s > 0:
            peak += sum(priced.layers[name].active_j for priced in components.values()) / layer.busy_s
    operations = counts.layers[DIGITAL].events[Event.DIGITAL_OP]
    if operations:
        units = [name for name, each in target.components.items() if each.event is Event.DIGITAL_OP]
        each = sum(components[name].layers[DIGITAL].active_j for name in units) / operations
        peak += each * target.digital.operations_per_cycle * target.digital.clock_hz * counts.tiles
    return peak
