"""Conditions between sections of a target. Each rule takes the sections that it needs, by name.

A rule yields its violations as (key path, message). The loader applies every rule whose sections are valid, so that all
problems of a file are reported at once. Rules about one effect are in its file (``mcompiler.effects``).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from itertools import pairwise

from mcompiler.effects.registry import rules_of
from mcompiler.encodings import Decoding, Partner, encoding_of, encoding_violations, find_encoding
from mcompiler.encodings.base import Violations
from mcompiler.target.base import Section
from mcompiler.target.converters import AdcRange, ChipCalibration, Converters, RangePer
from mcompiler.target.counts import given_counts
from mcompiler.target.sections import Array, Device, Encoding, Layout, Precision


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
    _exact_reads,
    _one_weight_fits,
    given_counts,
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
