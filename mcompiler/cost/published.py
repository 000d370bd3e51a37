"""Figures that a paper publishes, read off the cost of a compiled product, and their comparison.

The product is priced as any network. At full activity each unit works all the time at what the product makes it do:
the energy of its events over the time for which the schedule keeps it busy. A larger place holds so many of the units
that the product takes up; standby and area are those of its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mcompiler.cost.tables import Cost, LayerCounts
from mcompiler.target import LEVELS, Event, HierarchyUnit, Target, unit_counts

ALLOWED = 0.02
"""Largest relative difference that needs no explanation."""

_ARRAY = ("array", HierarchyUnit.ARRAY)
_BUFFER = ("buffer", HierarchyUnit.TILE)
_WORKS_IN: Mapping[Event, tuple[str, HierarchyUnit]] = {
    Event.ARRAY_READ: _ARRAY,
    Event.CELL_READ: _ARRAY,
    Event.DAC_DRIVE: _ARRAY,
    Event.ADC_CONVERSION: _ARRAY,
    Event.SAMPLE_HOLD: _ARRAY,
    Event.SHIFT_ADD: _ARRAY,
    Event.DIGITAL_OP: ("digital", HierarchyUnit.TILE),
    Event.BUFFER_READ_BYTE: _BUFFER,
    Event.BUFFER_WRITE_BYTE: _BUFFER,
    Event.LINK_BYTE: ("link", HierarchyUnit.TILE),
    Event.CHIP_LINK_BYTE: ("chip_link", HierarchyUnit.CHIP),
}
"""Name of the bound (``ScheduledProgram.bounds_s``) of the resource that does an event, and where the resource is."""


@dataclass(frozen=True)
class Comparison:
    """Comparison of one figure.

    Attributes:
        figure: its name, unit included.
        network: that was compiled, for people.
        ours, theirs: the computed and the published value.
        allowed: largest difference without an explanation.
        explained: the target's explanation of a difference or contradiction; empty if it has none.
    """

    figure: str
    network: str
    ours: float
    theirs: float
    allowed: float
    explained: str

    @property
    def difference(self) -> float:
        """Relative difference from the published figure."""
        return self.ours / self.theirs - 1

    @property
    def holds(self) -> bool:
        """Whether the difference is allowed or explained."""
        return self.within or bool(self.explained)

    @property
    def within(self) -> bool:
        """Whether the difference is allowed."""
        return abs(self.difference) <= self.allowed


@dataclass(frozen=True)
class ProductCost:
    """Cost of one product of a vector with a matrix as large as an array, compiled for a target.

    Attributes:
        target: the chip.
        cost: of the build; its only layer is the product.
        bounds_s: time per product of each resource, as in ``ScheduledProgram``.
        weights: of the matrix.
        network: what was compiled, for people.
    """

    target: Target
    cost: Cost
    bounds_s: Mapping[str, float]
    weights: int
    network: str

    @property
    def layer(self) -> LayerCounts:
        """Counted quantities of the product."""
        return next(layer for layer in self.cost.counts.layers.values() if layer.crossbars)

    def times(self, inner: HierarchyUnit, outer: HierarchyUnit) -> float:
        """How often the units that the product takes up are in a unit of another kind; less than once in a smaller."""
        return unit_counts(self.target).units(inner, outer) / self.layer.shares[inner]

    def power(self, place: HierarchyUnit) -> float:
        """Power of one unit and all that is in it at full activity, in W."""
        total = 0.0
        for name, part in self._parts(place).items():
            price = self.cost.components[name]
            total += price.static_power_w * self.times(part, place)
            event = self.target.components[name].event
            if event is not None and price.energy_active_j:
                bound, where = _WORKS_IN[event]
                # A resource of which the target states no capacity keeps pace with the arrays.
                busy_s = self.bounds_s[bound] or self.bounds_s["array"]
                total += price.energy_active_j / busy_s * self.times(where, place)
        return total

    def area(self, place: HierarchyUnit) -> float:
        """Area of one unit and all that is in it, in m2."""
        parts = self._parts(place)
        return sum(self.cost.components[name].area_m2 * self.times(per, place) for name, per in parts.items())

    def _parts(self, place: HierarchyUnit) -> dict[str, HierarchyUnit]:
        """The units that components within a unit belong to, by component."""
        every = {name: component.per for name, component in self.target.components.items()}
        return {name: per for name, per in every.items() if LEVELS.index(per) <= LEVELS.index(place)}

    @property
    def read_s(self) -> float:
        """Time of one read of an array, as the schedule counts it."""
        return self.layer.busy_s / (self.layer.events[Event.ARRAY_READ] / self.layer.crossbars)

    @property
    def product_j(self) -> float:
        """Energy of arrays, converters and all that works with every read."""
        return sum(
            self.cost.components[name].energy_active_j
            for name, component in self.target.components.items()
            if component.event is not None and _WORKS_IN[component.event] is _ARRAY
        )

    @property
    def peak_operations(self) -> float:
        """Operations per second of a chip whose arrays read all the time."""
        return 2 * self.weights / self.bounds_s["array"] * self.times(HierarchyUnit.ARRAY, HierarchyUnit.CHIP)

    @property
    def storage_bytes(self) -> float:
        """Bytes of weights that the arrays of a chip hold."""
        each = self.weights * self.target.precision.weights / 8
        return each * self.times(HierarchyUnit.ARRAY, HierarchyUnit.CHIP)


def compare(product: ProductCost) -> list[Comparison]:
    """Compare every figure of the section [published] of a product's target; empty for a target without it."""
    published = product.target.published
    if published is None:
        return []
    found = []
    for name, compute in FIGURES.items():
        theirs = getattr(published, name)
        if theirs is not None:
            reason = published.explained.get(name, "")
            found.append(
                Comparison(
                    figure=name,
                    network=product.network,
                    ours=compute(product),
                    theirs=theirs,
                    allowed=ALLOWED,
                    explained=reason,
                )
            )
    return found


FIGURES: Mapping[str, Callable[[ProductCost], float]] = {
    "array_power_w": lambda product: product.power(HierarchyUnit.ARRAY),
    "array_area_m2": lambda product: product.area(HierarchyUnit.ARRAY),
    "core_power_w": lambda product: product.power(HierarchyUnit.CORE),
    "core_area_m2": lambda product: product.area(HierarchyUnit.CORE),
    "tile_power_w": lambda product: product.power(HierarchyUnit.TILE),
    "tile_area_m2": lambda product: product.area(HierarchyUnit.TILE),
    "chip_power_w": lambda product: product.power(HierarchyUnit.CHIP),
    "chip_area_m2": lambda product: product.area(HierarchyUnit.CHIP),
    "read_s": lambda product: product.read_s,
    "pipeline_reads": lambda product: product.layer.span_s / product.read_s,
    "product_s": lambda product: product.layer.span_s,
    "product_j": lambda product: product.product_j,
    "peak_ops_per_s": lambda product: product.peak_operations,
    "peak_ops_per_j": lambda product: product.peak_operations / product.power(HierarchyUnit.CHIP),
    "peak_ops_per_s_m2": lambda product: product.peak_operations / product.area(HierarchyUnit.CHIP),
    "storage_bytes_per_m2": lambda product: product.storage_bytes / product.area(HierarchyUnit.CHIP),
}
"""How each figure is computed."""
