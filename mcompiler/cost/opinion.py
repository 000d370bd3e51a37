"""A second opinion on a cost: the same events priced by the models behind CiMLoop, beside our prices.

Events, numbers of instances and times are ours on both sides, so that a ratio compares prices only. A row takes the
components together that one model prices: a tile's memory is a component for reads and one for writes with us, and one
SRAM there. Ratios are theirs over ours.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from mcompiler.cost import hwmodels
from mcompiler.cost.hwmodels import ModelFigures, NoModelError
from mcompiler.cost.tables import Cost
from mcompiler.target import Component, Event, HierarchyUnit, Target, unit_counts


class ComponentKind(StrEnum):
    """What a component does, for sums by kind."""

    CONVERTER = "converter"
    ARRAY = "array"
    BUFFER = "buffer"
    NETWORK = "network"
    DIGITAL = "digital"
    OTHER = "other"  # serves no event


@dataclass(frozen=True)
class OpinionFigures:
    """Figures of one inference: dynamic energy of the events, static energy over the same time, area."""

    dynamic_j: float
    static_j: float
    area_m2: float

    @property
    def energy_j(self) -> float:
        """Dynamic and static energy."""
        return self.dynamic_j + self.static_j


@dataclass(frozen=True)
class OpinionRow:
    """Components that one model prices, by us and by it.

    Attributes:
        component: their names, separated by commas.
        kind: for the sums.
        ours: our figures.
        note: what is not comparable, or why there is no model.
        model, theirs: of the packages; empty and None where none prices these components.
    """

    component: str
    kind: ComponentKind
    ours: OpinionFigures
    note: str
    model: str = ""
    theirs: OpinionFigures | None = None

    def as_json(self) -> dict[str, Any]:
        """One row of ``cost --second-opinion --json``."""
        return {
            "component": self.component,
            "kind": self.kind.value,
            "model": self.model or None,
            **compared(self.ours, self.theirs),
            "note": self.note,
        }


@dataclass(frozen=True)
class OpinionTotal:
    """Sum over the rows of one kind that have a model.

    Attributes:
        ours, theirs: sums; ``theirs`` is None where no row has a model.
        of_ours, of_theirs: sums over the rows of all kinds that have a model, for shares.
        without_model: our figures of the rows of the kind that have no model.
    """

    kind: ComponentKind
    ours: OpinionFigures
    theirs: OpinionFigures | None
    of_ours: OpinionFigures
    of_theirs: OpinionFigures
    without_model: OpinionFigures

    @property
    def shares(self) -> dict[str, float]:
        """Shares of the energy of events, and of energy with standby, under the keys of the JSON output."""
        theirs = self.theirs or OpinionFigures(0.0, 0.0, 0.0)
        return {
            "ours_share": ratio(self.ours.dynamic_j, self.of_ours.dynamic_j) or 0.0,
            "theirs_share": ratio(theirs.dynamic_j, self.of_theirs.dynamic_j) or 0.0,
            "ours_share_energy": ratio(self.ours.energy_j, self.of_ours.energy_j) or 0.0,
            "theirs_share_energy": ratio(theirs.energy_j, self.of_theirs.energy_j) or 0.0,
        }

    def as_json(self) -> dict[str, Any]:
        """One total of ``cost --second-opinion --json``."""
        return {
            "kind": self.kind.value,
            **compared(self.ours, self.theirs),
            **self.shares,
            "ours_without_model_j": self.without_model.dynamic_j,
            "ours_without_model_static_j": self.without_model.static_j,
        }


@dataclass(frozen=True)
class SecondOpinion:
    """Rows by component, totals by kind, and the versions of the packages."""

    rows: tuple[OpinionRow, ...]
    totals: tuple[OpinionTotal, ...]
    versions: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """The value of ``second_opinion`` in ``cost --json``."""
        return {
            "versions": dict(self.versions),
            "components": [row.as_json() for row in self.rows],
            "totals": [total.as_json() for total in self.totals],
        }


def ratio(numerator: float, denominator: float) -> float | None:
    """Quotient of two figures; None where the denominator is zero."""
    return numerator / denominator if denominator else None


def compared(ours: OpinionFigures, theirs: OpinionFigures | None) -> dict[str, float | None]:
    """Both sides and their ratios (theirs over ours), under the keys of the JSON output; null where there is none."""
    found: dict[str, float | None] = {}
    for mine, other, quotient, figure in _COLUMNS:
        found[mine] = figure(ours)
        found[other] = None if theirs is None else figure(theirs)
        found[quotient] = None if theirs is None else ratio(figure(theirs), figure(ours))
    found["ratio_energy"] = None if theirs is None else ratio(theirs.energy_j, ours.energy_j)
    return found


_COLUMNS: tuple[tuple[str, str, str, Callable[[OpinionFigures], float]], ...] = (
    ("ours_j", "theirs_j", "ratio", lambda figures: figures.dynamic_j),
    ("ours_static_j", "theirs_static_j", "ratio_static", lambda figures: figures.static_j),
    ("ours_m2", "theirs_m2", "ratio_area", lambda figures: figures.area_m2),
)


def price_again(cost: Cost, target: Target) -> SecondOpinion:
    """Price the events of a cost again, with the models of the packages ``hwcomponents``.

    Args:
        cost: priced with the components of ``target``.
        target: gives bits, rates, nodes, sizes and widths to the models.

    Raises:
        UserError: the packages are not installed; names the extra and the Python that they need.
    """
    hwmodels.require_packages()
    rows = []
    for group in _GROUPS:
        members = {n: c for n, c in target.components.items() if c.event in group.events}
        if members:
            rows.append(_row(group, members, cost, target))
    rows += [
        OpinionRow(name, ComponentKind.OTHER, _ours([name], cost), "serves no event that is counted")
        for name, component in target.components.items()
        if component.event is None
    ]
    versions = {name: importlib.metadata.version(name) for name in hwmodels.PACKAGES}
    return SecondOpinion(tuple(rows), tuple(_totals(rows)), versions)


@dataclass(frozen=True)
class _Group:
    """Events that one model prices.

    Attributes:
        model: makes its figures for a target at a node in nm; None: there is none, for the reason in ``note``.
        one_per: the model is of the one instance in such a unit; None: there are as many as of our component.
    """

    kind: ComponentKind
    events: tuple[Event, ...]
    model: Callable[[Target, float], ModelFigures] | None = None
    one_per: HierarchyUnit | None = None
    note: str = ""


_NO_ARRAY = (
    "the packages have no model of cells, word lines and drivers without NeuroSim, whose licence excludes commercial "
    "use; a component that prices whole reads may contain converters too"
)
_NO_SAMPLE = "the only model (NeuRRAM's) is of an integrator at 130 nm, another circuit"

_GROUPS = (
    _Group(ComponentKind.CONVERTER, (Event.ADC_CONVERSION,), hwmodels.adc),
    _Group(ComponentKind.CONVERTER, (Event.DAC_DRIVE,), hwmodels.dac),
    _Group(ComponentKind.CONVERTER, (Event.SAMPLE_HOLD,), note=_NO_SAMPLE),
    _Group(ComponentKind.ARRAY, (Event.ARRAY_READ, Event.CELL_READ), note=_NO_ARRAY),
    _Group(
        ComponentKind.BUFFER, (Event.BUFFER_READ_BYTE, Event.BUFFER_WRITE_BYTE), hwmodels.memory, HierarchyUnit.TILE
    ),
    _Group(ComponentKind.NETWORK, (Event.LINK_BYTE,), hwmodels.router),
    _Group(ComponentKind.NETWORK, (Event.CHIP_LINK_BYTE,), hwmodels.chip_link, HierarchyUnit.CHIP),
    _Group(ComponentKind.DIGITAL, (Event.SHIFT_ADD,), hwmodels.shift_add),
    _Group(ComponentKind.DIGITAL, (Event.DIGITAL_OP,), hwmodels.digital_operation),
)


def _row(group: _Group, members: Mapping[str, Component], cost: Cost, target: Target) -> OpinionRow:
    name, ours = ", ".join(members), _ours(members, cost)
    if group.model is None:
        return OpinionRow(name, group.kind, ours, group.note)
    try:
        figures = group.model(target, _node_nm(members.values(), target))
    except NoModelError as error:
        return OpinionRow(name, group.kind, ours, str(error))
    layers = cost.counts.layers.values()
    if group.one_per is None:
        instances = max(_instances(each, cost, target) for each in members.values())
    else:
        instances = sum(layer.shares[group.one_per] for layer in layers)
    theirs = OpinionFigures(
        sum(figures.energies_j[event] * layer.events.get(event, 0.0) for event in group.events for layer in layers),
        figures.static_power_w * instances / cost.rate_per_s,
        figures.area_m2 * instances,
    )
    notes = [figures.note] if figures.note else []
    if not ours.energy_j:
        notes.append("our energy is 0: priced with another component, or not at all")
    return OpinionRow(name, group.kind, ours, "; ".join(notes), model=figures.model, theirs=theirs)


def _ours(names: Iterable[str], cost: Cost) -> OpinionFigures:
    """Our figures of components: the one place that reads them."""
    rows = [cost.components[name] for name in names]
    return _sum([OpinionFigures(row.dynamic_j, row.static_j, row.area_m2) for row in rows])


def _instances(component: Component, cost: Cost, target: Target) -> float:
    """Instances of a component in the units that are in use."""
    units = sum(layer.shares[component.per] for layer in cost.counts.layers.values())
    return unit_counts(target).instances(component) * units


def _node_nm(members: Iterable[Component], target: Target) -> float:
    """Node of these components; where they give none, that of the digital parts, or the one that all others share."""
    stated = [each for each in members if each.node_nm is not None]
    if stated and not (stated[0].scales_node and target.digital.node_nm is not None):
        return stated[0].node_nm or 0.0
    if target.digital.node_nm is not None:
        return target.digital.node_nm
    others = {each.node_nm for each in target.components.values() if each.node_nm is not None}
    if len(others) == 1:
        return others.pop()
    raise NoModelError("no technology node: give node_nm of the component or digital.node_nm")


def _totals(rows: Sequence[OpinionRow]) -> Iterator[OpinionTotal]:
    both = [(row, row.theirs) for row in rows if row.theirs is not None]
    of_ours, of_theirs = _sum([row.ours for row, _ in both]), _sum([theirs for _, theirs in both])
    for kind in ComponentKind:
        theirs = [figures for row, figures in both if row.kind is kind]
        yield OpinionTotal(
            kind,
            ours=_sum([row.ours for row, _ in both if row.kind is kind]),
            theirs=_sum(theirs) if theirs else None,
            of_ours=of_ours,
            of_theirs=of_theirs,
            without_model=_sum([row.ours for row in rows if row.kind is kind and row.theirs is None]),
        )


def _sum(figures: Sequence[OpinionFigures]) -> OpinionFigures:
    return OpinionFigures(
        math.fsum(each.dynamic_j for each in figures),
        math.fsum(each.static_j for each in figures),
        math.fsum(each.area_m2 for each in figures),
    )
