"""How many cells, lines, converters, lanes and arrays a target has: the one derivation from geometry and sharing.

Timing, energy, area, peak power, floorplan and reports take their counts from here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcompiler.encodings import encoding_of
from mcompiler.encodings.settings import Violations
from mcompiler.target.chip import Digital, Hierarchy
from mcompiler.target.components import Component, Each, HierarchyUnit
from mcompiler.target.converters import Converters
from mcompiler.target.sections import Array, Encoding, Layout

if TYPE_CHECKING:
    from mcompiler.target.schema import Target

LEVELS = (HierarchyUnit.ARRAY, HierarchyUnit.CORE, HierarchyUnit.TILE, HierarchyUnit.CHIP)
"""Units of the hierarchy, innermost first."""


@dataclass(frozen=True)
class Adcs:
    """Converters of the arrays that share them: one array, or the arrays of a pair that is subtracted before the ADC.

    Attributes:
        arrays: that share the converters.
        converters: of these arrays together.
        lines: bit lines of the fullest of them, unit and reference columns included.
    """

    arrays: int
    converters: int
    lines: int


def adcs_of(array: Array, encoding: Encoding, converters: Converters) -> Adcs:
    """Converters of an array: ``converters.adc.columns`` bit lines of weights, of both arrays of a pair, share one.

    Unit and reference columns are distributed among them. Where one conversion serves both lines of a pair, there are
    no more converters than conversions.
    """
    cells = encoding_of(encoding)
    adjacent = cells.polarities if encoding.pairs_in is Layout.ADJACENT else 1
    arrays = cells.polarities // adjacent
    weights = arrays * array.columns
    count = min(-(-weights // converters.adc.columns), -(-weights // cells.lines_per_conversion))
    lines = arrays * (array.columns + int(cells.unit_column) + int(cells.reference_column))
    return Adcs(arrays, count, -(-lines // count))


@dataclass(frozen=True)
class UnitCounts:
    """Numbers of parts of a target.

    Attributes:
        word_lines, bit_lines: of one array; unit, reference and spare lines included.
        adcs: of one array; a fraction where arrays share one.
        lanes: of a tile's digital unit.
        arrays_per_core, cores_per_tile, tiles_per_chip: spare arrays included.
    """

    word_lines: int
    bit_lines: int
    adcs: float
    lanes: int
    arrays_per_core: int
    cores_per_tile: int
    tiles_per_chip: int

    def units(self, inner: HierarchyUnit, outer: HierarchyUnit) -> float:
        """Units of one kind in a unit of another; below 1 where ``outer`` is the smaller one."""
        sizes = (1, self.arrays_per_core, self.cores_per_tile, self.tiles_per_chip)
        low, high = LEVELS.index(inner), LEVELS.index(outer)
        if low > high:
            return 1 / self.units(outer, inner)
        return float(math.prod(sizes[low + 1 : high + 1]))

    def parts(self, each: Each, per: HierarchyUnit) -> float:
        """Parts of one kind in a unit of the hierarchy."""
        in_array = {
            Each.ARRAY: 1.0,
            Each.CELL: float(self.word_lines * self.bit_lines),
            Each.WORD_LINE: float(self.word_lines),
            Each.BIT_LINE: float(self.bit_lines),
            Each.ADC: self.adcs,
        }
        if each is Each.UNIT:
            return 1.0
        if each is Each.LANE:
            return self.lanes * self.units(HierarchyUnit.TILE, per)
        return in_array[each] * self.units(HierarchyUnit.ARRAY, per)

    def derived(self, component: Component) -> float:
        """Instances of a component in each unit of ``per``, as the target's geometry and sharing ask for."""
        return self.parts(component.counted, component.per) / component.shared_by

    def instances(self, component: Component) -> float:
        """Instances of a component in each unit of ``per``: the number that its target gives, else the derived one."""
        return self.derived(component) if component.count is None else component.count


def unit_counts(target: Target) -> UnitCounts:
    """The numbers of parts of a target."""
    return _counts(target.array, target.encoding, target.converters, target.digital, target.hierarchy)


def _counts(
    array: Array, encoding: Encoding, converters: Converters, digital: Digital, hierarchy: Hierarchy
) -> UnitCounts:
    cells, adcs = encoding_of(encoding), adcs_of(array, encoding, converters)
    extra = int(cells.unit_column) + int(cells.reference_column)
    return UnitCounts(
        word_lines=array.rows + array.spare_rows,
        bit_lines=array.columns + extra + array.spare_columns,
        adcs=adcs.converters / adcs.arrays,
        lanes=digital.operations_per_cycle,
        arrays_per_core=hierarchy.positions_per_core,
        cores_per_tile=hierarchy.cores_per_tile,
        tiles_per_chip=hierarchy.tiles_per_chip,
    )


_DECIDED_BY = {
    Each.ARRAY: "hierarchy",
    Each.CELL: "array.rows and array.columns",
    Each.WORD_LINE: "array.rows",
    Each.BIT_LINE: "array.columns",
    Each.ADC: "array.columns and converters.adc.columns",
    Each.LANE: "digital.operations_per_cycle",
}
_NAMES = {each: each.value.replace("_", " ") for each in Each} | {Each.ADC: "converter"}


def given_counts(
    components: Mapping[str, Component],
    array: Array,
    encoding: Encoding,
    converters: Converters,
    digital: Digital,
    hierarchy: Hierarchy,
) -> Violations:
    """Counts that a target gives although fewer are too few for its own geometry and sharing."""
    counts = _counts(array, encoding, converters, digital, hierarchy)
    for name, component in components.items():
        if component.count is None or component.counted is Each.UNIT:
            continue
        derived = counts.derived(component)
        if component.count < derived * (1 - 1e-9):
            decided, sharing = _DECIDED_BY[component.counted], _sharing(component)
            yield (
                f"components.{name}.count",
                f"{component.count:g} in each {component.per}, but {decided} ask for {derived:g} ({sharing}); leave "
                f"count out, so that it follows them, or give at least {derived:g}",
            )


def _sharing(component: Component) -> str:
    what = _NAMES[component.counted]
    return f"one for each {what}" if component.shared_by == 1 else f"one for {component.shared_by:g} {what}s"
