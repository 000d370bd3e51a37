"""Conditions between sections of a target. Each rule takes the sections that it needs, by name.

A rule yields its violations as (key path, message). The loader applies every rule whose sections are valid, so that all
problems of a file are reported at once. Rules about one effect are in its file (``mcompiler.effects``).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from itertools import pairwise

from mcompiler.effects.registry import rules_of
from mcompiler.encodings import Decoding, Partner, encoding_of, encoding_violations, find_encoding
from mcompiler.encodings.base import MAX_CODE_BITS
from mcompiler.encodings.settings import Violations
from mcompiler.target.base import Section
from mcompiler.target.chip import Digital, Hierarchy, NetworkSection
from mcompiler.target.conductances import RULES as CONDUCTANCE_RULES
from mcompiler.target.converters import AdcRange, ChipCalibration, Converters, RangePer
from mcompiler.target.counts import given_counts
from mcompiler.target.ranges import in_range
from mcompiler.target.sections import MEAN_STEPS, Array, Device, Encoding, Layout, Precision

MAX_HELD_BITS = 62
"""Bits of all slices of a weight: their place values are integers of 64 bits."""


MAX_ARRAY_CELLS = 1 << 26
"""Cells of the largest array: 8,192 x 8,192."""

MAX_TILES = 4096
"""Tiles of the largest chip; placement holds a number for every pair of tiles."""

MAX_ARRAYS = 1 << 60
"""Array positions of all chips: they are numbered by integers of 64 bits."""

MAX_CLOCKS = 1 << 40
"""Clocks of the longest step; a schedule adds up to 2^22 of them."""


def _conductances(device: Device) -> Violations:
    if device.g_max_siemens <= device.g_min_siemens:
        yield (
            "device.g_max_siemens",
            f"{device.g_max_siemens:g} S is not above g_min_siemens = {device.g_min_siemens:g} S; levels run from "
            "g_min to g_max (g = 1 / R: the low resistance is g_max)",
        )


def _active_rows(array: Array) -> Violations:
    if array.rows_active > array.rows:
        yield (
            "array.rows_active",
            f"{array.rows_active} word lines at once, but array.rows is {array.rows}; give at most {array.rows}",
        )


def _input_phases(precision: Precision, converters: Converters) -> Violations:
    bits = converters.dac.bits
    if bits > precision.inputs:
        yield (
            "converters.dac.bits",
            f"{bits} bits at once, but precision.inputs is {precision.inputs}; give at most {precision.inputs}",
        )
    for name, layer in precision.layers.items():
        if layer.inputs is not None and bits > layer.inputs:
            yield (
                f"precision.layers.{name}.inputs",
                f"{layer.inputs} bits, but converters.dac.bits applies {bits} at once; give at least {bits}",
            )


def _weight_encoding(encoding: Encoding) -> Violations:
    yield from encoding_violations(encoding)


def _capacity(device: Device, encoding: Encoding, precision: Precision) -> Violations:
    if device.level_means is not None or encoding.partner is Partner.UNFORMED:
        return  # codes are the table's entries, with any number of bits
    where = find_encoding(encoding.weights).sign_place
    sign = 1 if where else 0
    held = device.bits * encoding.slices
    if held > MAX_HELD_BITS:
        yield (
            "encoding.slices",
            f"{encoding.slices} x {device.bits} bits of a cell (device.levels = {device.levels}) hold {held} bits, and "
            f"a weight has at most {MAX_CODE_BITS}; give at most {MAX_HELD_BITS // device.bits}",
        )
        return
    wanted = {"precision.weights": precision.weights}
    for name, layer in precision.layers.items():
        if layer.weights is not None:
            wanted[f"precision.layers.{name}.weights"] = layer.weights
    for key, bits in wanted.items():
        if bits - sign > held:
            needed = -(-(bits - sign) // device.bits)
            what = f"{held + sign} bits, the sign in the {where}" if sign else f"{held} bits"
            fewer = f", or {key} = {held + sign}" if held + sign >= 2 else ""
            yield (
                key,
                f"{bits} bits, but {encoding.slices} x {device.bits} bits of a cell (device.levels = {device.levels}) "
                f"hold {what}; set encoding.slices = {needed}{fewer}",
            )


def _level_table(device: Device, encoding: Encoding) -> Violations:
    means, unformed = device.level_means, encoding.partner is Partner.UNFORMED
    fault = find_encoding(encoding.weights).level_table_violation
    if means is not None and fault:
        yield "device.level_means", fault
    if (means is not None or unformed) and encoding.slices > 1:
        key = "device.level_means" if means is not None else "encoding.partner"
        yield key, f"weight codes are conductances of one cell, but encoding.slices is {encoding.slices}; give 1"
    if unformed and device.levels > 255:
        yield "device.levels", f"{device.levels} levels and an unformed one are too many; give at most 255"
    if unformed and means is None and device.formed_steps[-1] >= 1 << (MAX_CODE_BITS - 1):
        ratio = 1 + MEAN_STEPS / ((1 << (MAX_CODE_BITS - 1)) - 1 - MEAN_STEPS)
        yield (
            "device.g_min_siemens",
            f"the highest level is {device.formed_steps[-1]} x (g_max - g_min) / 4096 above an unformed cell, and a "
            f"weight code has at most {MAX_CODE_BITS} bits; give at most g_max_siemens / {ratio:.4g} = "
            f"{device.g_max_siemens / ratio:.4g} S",
        )
    if unformed and means is None and device.formed_steps[0] < 1:
        yield (
            "device.g_min_siemens",
            "less than half of (g_max - g_min) / 4096 cannot be distinguished from an unformed cell",
        )


def _level_means(device: Device) -> Violations:
    means = device.level_means
    if means is None:
        return
    if len(means) != device.levels:
        yield "device.level_means", f"{len(means)} levels, but device.levels is {device.levels}; give one for each"
    if any(after <= before for before, after in pairwise(means)):
        yield "device.level_means", "not in ascending order; give the lowest level first, no two of them equal"
    elif means and device.formed_steps[0] < 1:
        yield (
            "device.level_means",
            f"{means[0]} is {means[0]} x (g_max - g_min) / 4096 above g_min, which is no conductance; check the unit",
        )


def _gates(array: Array, converters: Converters) -> Violations:
    if array.drive == "gate" and converters.dac.bits > 1:
        yield (
            "array.drive",
            f"gates are on or off, and converters.dac.bits applies {converters.dac.bits} bits at once; set "
            "converters.dac.bits = 1, or array.drive = 'row_voltage'",
        )


def _ranges(converters: Converters) -> Violations:
    adc = converters.adc
    if adc.range_per is not RangePer.LAYER and adc.range is not AdcRange.CALIBRATED:
        yield (
            "converters.adc.range_per",
            f"a range for each {adc.range_per} is fitted to data, but converters.adc.range is {adc.range}; set it to "
            "calibrated, or range_per to layer",
        )


def _predistortion(device: Device, array: Array, encoding: Encoding, calibration: ChipCalibration) -> Violations:
    if not calibration.predistort:
        return
    if array.drive != "row_voltage" or array.idle_rows != "grounded" or device.curve is not None:
        yield (
            "calibration.predistort",
            "wires of driven gates, floating rows or curved cells are no linear map that cells could be chosen for; "
            "set it false",
        )
    elif encoding_of(encoding).decoding is Decoding.COUNT:
        yield (
            "calibration.predistort",
            "it scales the part above the pedestal, but a pedestal that is counted digitally is subtracted unscaled; "
            "choose another encoding.pedestal",
        )


def _exact_reads(device: Device, array: Array, encoding: Encoding, converters: Converters) -> Violations:
    if device.level_means is None and encoding.partner is Partner.MINIMUM:
        return
    worst = array.rows_active * device.formed_steps[-1] * ((1 << converters.dac.bits) - 1)
    if worst >= 1 << 24:
        yield (
            "array.rows_active",
            f"a read of {array.rows_active} rows sums to {worst} units of a measured level, and below 2^24 sums are "
            "exact in float32; lower array.rows_active or converters.dac.bits",
        )


def _signed_codes(encoding: Encoding, converters: Converters) -> Violations:
    if converters.adc.bits == 1 and encoding_of(encoding).signed:
        yield (
            "converters.adc.bits",
            "1 bit, sign included, has no positive code for the difference of a pair; give at least 2",
        )


def _array_size(array: Array) -> Violations:
    if array.rows * array.columns > MAX_ARRAY_CELLS:
        key, other = ("rows", array.columns) if array.rows >= array.columns else ("columns", array.rows)
        yield (
            f"array.{key}",
            f"an array of {array.rows} x {array.columns} cells, and {MAX_ARRAY_CELLS} are the most that are held in "
            f"memory at once; give at most {max(1, MAX_ARRAY_CELLS // other)} {key}",
        )


def _tiles(hierarchy: Hierarchy) -> Violations:
    if hierarchy.tiles_per_chip > MAX_TILES:
        yield (
            "hierarchy.tiles_per_chip",
            f"{hierarchy.tiles_per_chip} tiles, and placement weighs every pair of them; give at most {MAX_TILES}, and "
            "more chips",
        )


def _arrays(hierarchy: Hierarchy) -> Violations:
    chips = 1 if hierarchy.chips == "as needed" else hierarchy.chips
    parts = {
        "arrays_per_core": hierarchy.arrays_per_core,
        "cores_per_tile": hierarchy.cores_per_tile,
        "tiles_per_chip": hierarchy.tiles_per_chip,
        "chips": chips,
    }
    total, largest = math.prod(parts.values()), max(parts, key=lambda key: parts[key])
    if total > MAX_ARRAYS and hierarchy.tiles_per_chip <= MAX_TILES:
        yield (
            f"hierarchy.{largest}",
            f"{total:.3g} arrays in all, and positions are counted up to {MAX_ARRAYS:.3g}; give at most "
            f"{max(1, MAX_ARRAYS * parts[largest] // total)}",
        )


def _countable_times(
    device: Device, array: Array, converters: Converters, digital: Digital, network: NetworkSection
) -> Violations:
    """The schedule counts clocks of the digital units as integers of 64 bits."""
    conversions = min(converters.adc.columns, array.columns) / converters.adc.rate_hz
    read = max(device.read_pulse_s, conversions)
    steps = (
        ("device.read_pulse_s", device.read_pulse_s, device.read_pulse_s),
        ("converters.adc.rate_hz", converters.adc.rate_hz, conversions),
        ("digital.fill_reads", digital.fill_reads, min(digital.fill_reads, 1e300) * read),
        ("network.hop_cycles", network.hop_cycles, min(network.hop_cycles, 1e300) / network.clock_hz),
        ("network.clock_hz", network.clock_hz, 1 / network.clock_hz),
        ("network.chip_link_latency_s", network.chip_link_latency_s, network.chip_link_latency_s),
    )
    for key, value, duration in steps:
        clocks = duration * digital.clock_hz
        if clocks > MAX_CLOCKS and in_range(key, value) and in_range("clock_hz", digital.clock_hz):
            yield (
                key,
                f"{value:g} makes a step of {duration:.3g} s, {clocks:.3g} clocks at digital.clock_hz = "
                f"{digital.clock_hz:g}, and a schedule counts at most {MAX_CLOCKS:.3g} for one; make it shorter, or "
                f"digital.clock_hz at most {MAX_CLOCKS / duration:.3g}",
            )


def _one_weight_fits(array: Array, encoding: Encoding) -> Violations:
    polarities = len(find_encoding(encoding.weights).polarity_signs) if encoding.pairs_in is Layout.ADJACENT else 1
    columns = (encoding.slices if encoding.slices_in is Layout.ADJACENT else 1) * polarities
    if columns > array.columns:
        yield (
            "array.columns",
            f"{array.columns} columns, but one weight takes {columns} adjacent ones; put slices or pairs in separate "
            "arrays (encoding.slices_in, encoding.pairs_in = 'separate')",
        )


_RULES: tuple[Callable[..., Violations], ...] = (
    _conductances,
    _active_rows,
    _input_phases,
    _weight_encoding,
    _capacity,
    _level_table,
    _level_means,
    _gates,
    _predistortion,
    _ranges,
    _signed_codes,
    _exact_reads,
    _one_weight_fits,
    given_counts,
    _array_size,
    _tiles,
    _arrays,
    _countable_times,
    *CONDUCTANCE_RULES,
)


def violations(
    sections: Mapping[str, Section | Mapping[str, Section]], effects: Mapping[str, Section]
) -> list[tuple[str, str]]:
    """Violations, as (key path, message), of every rule whose sections are all given.

    Args:
        sections: of a target, by name; the components as a table.
        effects: tables ``[effects.NAME]``, by the names of effects that packages register.
    """
    found: list[tuple[str, str]] = []
    given: dict[str, Section | Mapping[str, Section]] = {**effects, **sections}
    for rule in (*_RULES, *rules_of(effects)):
        names = inspect.signature(rule).parameters
        if all(name in given for name in names):
            found.extend(rule(**{name: given[name] for name in names}))
    return found
