"""Compare figures computed from a target with those that its source publishes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mcompiler.dataflow import read_time
from mcompiler.geometry import ArrayShape, array_shape
from mcompiler.target import LEVELS, Event, HierarchyUnit, Target, prices, unit_counts

ROLLED_UP, DERIVED = 0.02, 0.10
"""Allowed relative difference of sums of components, and of derived figures."""


@dataclass(frozen=True)
class Comparison:
    """Comparison of one figure.

    Attributes:
        figure: its name, unit included.
        ours, theirs: the computed and the published value.
        difference: relative difference from the published figure.
        allowed: largest allowed difference.
        explained: the target's explanation of a difference or contradiction; empty if it has none.
    """

    figure: str
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


def compare(target: Target) -> list[Comparison]:
    """Compare every figure of the section [published]; empty for a target without it."""
    published = target.published
    if published is None:
        return []
    found = []
    for name, (compute, allowed) in FIGURES.items():
        theirs = getattr(published, name)
        if theirs is not None:
            found.append(Comparison(name, compute(target), theirs, allowed, published.explained.get(name, "")))
    return found


def event_rate(event: Event, target: Target) -> float:
    """Events per second in one array at full activity, or of digital events in one tile."""
    shape, cycle = array_shape(target), read_time(array_shape(target), target)
    lines = shape.columns + shape.extra
    conversions = lines / shape.lines_per_conversion
    per_read = {
        Event.ARRAY_READ: 1.0,
        Event.CELL_READ: float(shape.rows_active * lines),
        Event.DAC_DRIVE: float(shape.rows_active),
        Event.ADC_CONVERSION: float(conversions),
        Event.SAMPLE_HOLD: float(lines),
        Event.SHIFT_ADD: float(conversions),
    }
    if event in per_read:
        return per_read[event] / cycle
    if event is Event.DIGITAL_OP:
        return target.digital.operations_per_cycle * target.digital.clock_hz
    if event in (Event.BUFFER_READ_BYTE, Event.BUFFER_WRITE_BYTE):
        return (target.digital.buffer_bytes_per_s or 0.0) / 2
    if event is Event.LINK_BYTE:
        return target.network.link_bits / 8 * target.network.clock_hz
    return target.network.chip_link_bytes_per_s


_PER_ARRAY = frozenset(
    {Event.ARRAY_READ, Event.CELL_READ, Event.DAC_DRIVE, Event.ADC_CONVERSION, Event.SAMPLE_HOLD, Event.SHIFT_ADD}
)


def power(place: HierarchyUnit, target: Target) -> float:
    """Power of one unit and all that is in it at full activity, in W."""
    total, counts = 0.0, unit_counts(target)
    for part in prices(target).values():
        if LEVELS.index(part.per) > LEVELS.index(place):
            continue
        total += part.count * part.static_power_w * counts.units(part.per, place)
        if part.event is not None and part.energy_j:
            where = HierarchyUnit.ARRAY if part.event in _PER_ARRAY else HierarchyUnit.TILE
            where = HierarchyUnit.CHIP if part.event is Event.CHIP_LINK_BYTE else where
            rate = event_rate(part.event, target)
            # The rate of a tile is shared by its components in arrays or cores.
            if where is HierarchyUnit.TILE and part.per in (HierarchyUnit.ARRAY, HierarchyUnit.CORE):
                rate, where = rate / counts.units(part.per, HierarchyUnit.TILE), part.per
            if LEVELS.index(where) <= LEVELS.index(place):
                total += part.energy_j * rate * counts.units(where, place)
    return total


def area(place: HierarchyUnit, target: Target) -> float:
    """Area of one unit and all that is in it, in m2."""
    counts = unit_counts(target)
    return sum(
        part.count * part.area_m2 * counts.units(part.per, place)
        for part in prices(target).values()
        if LEVELS.index(part.per) <= LEVELS.index(place)
    )


def weights_per_array(shape: ArrayShape) -> float:
    """Weights that one array holds, counting the arrays that share a position."""
    return shape.rows * shape.tile_columns / shape.arrays_per_tile


def _phases(target: Target) -> int:
    return -(-target.precision.inputs // target.converters.dac.bits)


def _vector_reads(target: Target) -> int:
    return _phases(target) * array_shape(target).reads


def peak_operations(target: Target) -> float:
    """Operations per second of a chip whose arrays read all the time."""
    shape = array_shape(target)
    arrays = unit_counts(target).units(HierarchyUnit.ARRAY, HierarchyUnit.CHIP)
    return 2 * arrays * weights_per_array(shape) / (_vector_reads(target) * read_time(shape, target))


def storage_bytes(target: Target) -> float:
    """Bytes of weights that the cells of a chip hold, at whole bits a cell."""
    arrays = unit_counts(target).units(HierarchyUnit.ARRAY, HierarchyUnit.CHIP)
    cells = target.array.rows * target.array.columns * arrays
    return cells * target.device.bits / 8 / target.weight_encoding.polarities


def _pipeline_reads(target: Target) -> float:
    return float(_vector_reads(target) + target.digital.fill_reads)


def _product_s(target: Target) -> float:
    return _pipeline_reads(target) * read_time(array_shape(target), target)


def _product_j(target: Target) -> float:
    """Arrays, converters and all that works with every read, for a matrix with as many columns as an array."""
    copies = target.encoding.slices * target.weight_encoding.polarities
    each = sum(
        part.energy_j * event_rate(part.event, target) for part in prices(target).values() if part.event in _PER_ARRAY
    )
    return copies * each * _product_s(target)


FIGURES: dict[str, tuple[Callable[[Target], float], float]] = {
    "array_power_w": (lambda target: power(HierarchyUnit.ARRAY, target), ROLLED_UP),
    "array_area_m2": (lambda target: area(HierarchyUnit.ARRAY, target), ROLLED_UP),
    "core_power_w": (lambda target: power(HierarchyUnit.CORE, target), ROLLED_UP),
    "core_area_m2": (lambda target: area(HierarchyUnit.CORE, target), ROLLED_UP),
    "tile_power_w": (lambda target: power(HierarchyUnit.TILE, target), ROLLED_UP),
    "tile_area_m2": (lambda target: area(HierarchyUnit.TILE, target), ROLLED_UP),
    "chip_power_w": (lambda target: power(HierarchyUnit.CHIP, target), ROLLED_UP),
    "chip_area_m2": (lambda target: area(HierarchyUnit.CHIP, target), ROLLED_UP),
    "read_s": (lambda target: read_time(array_shape(target), target), DERIVED),
    "pipeline_reads": (_pipeline_reads, DERIVED),
    "product_s": (_product_s, DERIVED),
    "product_j": (_product_j, DERIVED),
    "peak_ops_per_s": (peak_operations, DERIVED),
    "peak_ops_per_j": (lambda target: peak_operations(target) / power(HierarchyUnit.CHIP, target), DERIVED),
    "peak_ops_per_s_m2": (lambda target: peak_operations(target) / area(HierarchyUnit.CHIP, target), DERIVED),
    "storage_bytes_per_m2": (lambda target: storage_bytes(target) / area(HierarchyUnit.CHIP, target), DERIVED),
}
"""How each figure is computed, and its allowed relative difference."""
