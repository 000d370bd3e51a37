"""Prices of a target's components: how many there are, and what one costs, by the rule of each component.

A figure of a target holds at its reference point (``Component.reference_of``). Its price is figure x value(now) /
value(reference), by the component's rule (``mcompiler.pricing``), scaled to the target's technology node where the
component is digital.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mcompiler.pricing import Figure, Quantities, Quantity
from mcompiler.pricing.nodes import NODE_AREA, NODE_ENERGY, node_factor
from mcompiler.target.components import Component, Event, HierarchyUnit
from mcompiler.target.counts import LEVELS, UnitCounts, unit_counts
from mcompiler.target.layers import COMMAND_LINE
from mcompiler.target.quantities import quantities

if TYPE_CHECKING:
    from mcompiler.target.schema import Target


@dataclass(frozen=True)
class Stale:
    """A component whose price does not follow something that it depends on.

    Attributes:
        component: its name.
        quantity: that the price does not follow.
        reason: fact and remedy.
    """

    component: str
    quantity: Quantity
    reason: str

    def as_json(self) -> dict[str, Any]:
        """The object that JSON outputs hold."""
        return {"component": self.component, "quantity": self.quantity.value, "reason": self.reason}


@dataclass(frozen=True)
class ComponentPrice:
    """The price of one component of a target.

    Attributes:
        component: as the target describes it.
        count: instances in each unit of ``component.per``.
        at: quantities of the target.
        per_chip: instances on a chip, spare ones included.
        node_energy, node_area: factors of the technology node.
    """

    component: Component
    count: float
    at: Quantities
    per_chip: float = 0.0
    node_energy: float = 1.0
    node_area: float = 1.0

    @property
    def event(self) -> Event | None:
        """The event that it serves."""
        return self.component.event

    @property
    def per(self) -> HierarchyUnit:
        """The unit of the hierarchy that it belongs to."""
        return self.component.per

    @cached_property
    def energy_j(self) -> float:
        """Dynamic energy of one event; of a cell: at the mean of equally likely levels."""
        return self._figure(Figure.ENERGY_J, self.at)

    @cached_property
    def static_power_w(self) -> float:
        """Static power of one instance."""
        return self._figure(Figure.STATIC_POWER_W, self.at)

    @cached_property
    def area_m2(self) -> float:
        """Area of one instance."""
        return self._figure(Figure.AREA_M2, self.at)

    @cached_property
    def follows_cells(self) -> bool:
        """Whether the energy follows the mean conductance of the mapped cells."""
        return Quantity.CELL_SIEMENS in self.component.price_rule.follows.get(Figure.ENERGY_J, ())

    def energy_with(self, siemens: float) -> float:
        """Dynamic energy of one event where the mean conductance of a cell is ``siemens``."""
        if not self.follows_cells:
            return self.energy_j
        return self._figure(Figure.ENERGY_J, {**self.at, Quantity.CELL_SIEMENS: siemens})

    def _figure(self, figure: Figure, at: Quantities) -> float:
        component, rule = self.component, self.component.price_rule
        node = self.node_area if figure is Figure.AREA_M2 else self.node_energy
        if component.sources.get(figure.value) == COMMAND_LINE:
            node = 1.0  # what is given on the command line holds as it is
        if figure in rule.computes:
            return rule.value(figure, at) * node
        given = float(getattr(component, figure.value))
        followed = rule.follows.get(figure, ())
        if not given or not followed:
            return given * node
        here, there = _both(at, component.reference_of(figure), followed)
        if all(here[quantity] == there[quantity] for quantity in followed if quantity in here):
            return given * node  # without rounding by a ratio
        return given * rule.value(figure, here) / rule.value(figure, there) * node


def _both(
    now: Quantities, reference: Quantities, followed: tuple[Quantity, ...]
) -> tuple[dict[Quantity, float], dict[Quantity, float]]:
    """The followed quantities now and at the reference; one that a target does not limit is as at the other point."""
    here, there = {}, {}
    for quantity in followed:
        known = [each[quantity] for each in (now, reference) if quantity in each]
        if known:
            here[quantity], there[quantity] = known[0], known[-1]
        else:
            here[quantity] = there[quantity] = 1.0
    return here, there


def prices(target: Target) -> dict[str, ComponentPrice]:
    """The price of every component, by name."""
    counts, at = unit_counts(target), quantities(target)
    found = {name: _price(component, counts, at, target) for name, component in target.components.items()}
    side = math.sqrt(tile_area(found, counts))
    if not side or all(Quantity.LINK_M not in each.component.depends_on for each in found.values()):
        return found
    return {name: replace(each, at={**at, Quantity.LINK_M: side}) for name, each in found.items()}


def _price(component: Component, counts: UnitCounts, at: Quantities, target: Target) -> ComponentPrice:
    node, own = target.digital.node_nm, component.node_nm
    energy = area = 1.0
    if component.scales_node and node is not None and own is not None and node != own:
        energy, area = node_factor(node, own, NODE_ENERGY), node_factor(node, own, NODE_AREA)
    count = counts.instances(component)
    per_chip = count * counts.units(component.per, HierarchyUnit.CHIP)
    return ComponentPrice(component, count, at, per_chip, node_energy=energy, node_area=area)


def tile_area(found: Mapping[str, ComponentPrice], counts: UnitCounts) -> float:
    """Area of a tile, in m2, without parts whose area follows the length of a link."""
    return sum(
        each.count * each.area_m2 * counts.units(each.per, HierarchyUnit.TILE)
        for each in found.values()
        if LEVELS.index(each.per) <= LEVELS.index(HierarchyUnit.TILE)
        and Quantity.LINK_M not in each.component.price_rule.follows.get(Figure.AREA_M2, ())
    )


def price_quantities(target: Target) -> dict[Quantity, float]:
    """All quantities of a target, the length of a link included."""
    side = math.sqrt(tile_area(prices(target), unit_counts(target)))
    return {**quantities(target), **({Quantity.LINK_M: side} if side else {})}


def stale_prices(found: Mapping[str, ComponentPrice]) -> tuple[Stale, ...]:
    """Components whose price does not follow a quantity that has changed since its reference point."""
    stale = []
    for name, each in found.items():
        component, rule = each.component, each.component.price_rule
        priced = [figure for figure in Figure if getattr(component, figure.value)]
        unfollowed = [each for each in component.depends_on if each not in rule.quantities()]
        for quantity in unfollowed:
            reason = _changed(name, each, quantity, priced)
            if reason:
                stale.append(Stale(name, quantity, reason))
        followed = rule.quantities()
        known = all(quantity in each.at for quantity in followed)
        scaled = any(_changed(name, each, quantity, priced) for quantity in followed) or rule.computes
        outside = rule.outside(each.at) if known and scaled else ""
        if outside:
            stale.append(Stale(name, followed[0], outside))
    return tuple(stale)


def _changed(name: str, price: ComponentPrice, quantity: Quantity, figures: Sequence[Figure]) -> str:
    """Why figures do not hold, if a quantity is not what it is at their reference points; else empty."""
    component, now = price.component, price.at.get(quantity)
    for figure in figures:
        reference = component.reference_of(figure).get(quantity)
        if reference is not None and now is not None and not math.isclose(reference, now):
            rule = component.price_rule.name
            return (
                f"{figure.value} holds at {quantity.value} = {reference:g}, and rule '{rule}' does not follow it to "
                f"{now:g}; name another components.{name}.rule, or give figures for {now:g}"
            )
    return ""
