"""Measured levels from a CSV file next to the target: ``device.levels_csv`` becomes ``level_means`` and deviations.

The file has one row a level, lowest first, and the columns ``mean_siemens`` and, where it was measured,
``deviation_siemens``. A loaded target has the numbers themselves, so that it needs the CSV file no longer.

Measured deviations hold every cause. So inherited descriptions of the same error beside them are an error, unless
``device.measured_deviations`` says whether the measured ones replace them ("alone") or are one more part ("added").
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from mcompiler.errors import TargetError
from mcompiler.target.layers import COMMAND_LINE, Table, TargetLayer, is_number, merged
from mcompiler.target.locate import did_you_mean
from mcompiler.target.sections import MEAN_STEPS

_MEAN, _DEVIATION = "mean_siemens", "deviation_siemens"

CHOICE = "measured_deviations"
"""Key of [device] in files: what becomes of inherited descriptions beside measured deviations; no key of a target."""

_ALONE, _ADDED = "alone", "added"

_PARTS = ("absolute_siemens", "proportional", "log_normal", "polynomial_siemens")
"""Other descriptions of the deviation right after programming."""


@dataclass(frozen=True)
class _Level:
    line: int
    mean_siemens: float
    deviation_siemens: float | None


def with_measured_levels(layers: Sequence[TargetLayer]) -> list[TargetLayer]:
    """Replace ``device.levels_csv`` by the numbers of that file, and apply ``device.measured_deviations``.

    Means become units of (g_max - g_min) / 4096 above g_min, with g_min and g_max of the merged target.

    Raises:
        TargetError: a CSV file is missing or wrong; the message names the file and its line. Or a file inherits
            another description of what it measures.
    """
    if not any({"levels_csv", CHOICE} & set(_device(layer.data)) for layer in layers):
        return _alone(layers)
    device = _device(merged(layers))
    g_min, g_max = device.get("g_min_siemens"), device.get("g_max_siemens")
    if not (is_number(g_min) and is_number(g_max) and 0 < g_min < g_max):
        return [_bare(layer) for layer in layers]
    return _alone([_filled(layer, float(g_min), float(g_max)) for layer in layers])


def _alone(layers: Sequence[TargetLayer]) -> list[TargetLayer]:
    """The layers without descriptions that later ones replace by measured deviations."""
    choice = next((_choice(layer) for layer in reversed(layers) if CHOICE in _device(layer.data)), None)
    given = _table(_device(merged(layers)), "programming")
    found: list[TargetLayer] = []
    for layer in layers:
        device = _device(layer.data)
        device.pop(CHOICE, None)
        if "level_siemens" in _table(device, "programming") and choice != _ADDED:
            clashing = list(_other_parts(found, given))
            if clashing and choice is None:
                other, key = clashing[-1]
                raise TargetError(
                    f"{layer.label}: device.programming.level_siemens: measured deviations of the levels, and {key} of "
                    f"{other.label} describes the same error, so that both would add; write device.{CHOICE} = "
                    f'"{_ALONE}" for the measured ones only, or "{_ADDED}" for both'
                )
            found = [_without_parts(each) for each in found]
        found.append(
            replace(layer, data=layer.data | {"device": device})
            if isinstance(layer.data.get("device"), dict)
            else layer
        )
    return found


def _choice(layer: TargetLayer) -> str:
    choice = _device(layer.data)[CHOICE]
    if choice not in (_ALONE, _ADDED):
        raise TargetError(f'{layer.label}: device.{CHOICE}: must be "{_ALONE}" or "{_ADDED}", not {choice!r}')
    return str(choice)


def _other_parts(layers: Sequence[TargetLayer], given: Table) -> Iterator[tuple[TargetLayer, str]]:
    """Layers that describe deviations in another way, with the key, unless the whole target says it is 0."""
    for layer in layers:
        device = _device(layer.data)
        programming = _table(device, "programming")
        for key in _PARTS:
            if programming.get(key) and given.get(key):  # 0 describes nothing
                yield layer, f"device.programming.{key}"
        for name in _table(device, "relaxation"):
            yield layer, f"device.relaxation.{name}"


def _without_parts(layer: TargetLayer) -> TargetLayer:
    device = _device(layer.data)
    if not {"programming", "relaxation"} & set(device):
        return layer
    programming = {key: value for key, value in _table(device, "programming").items() if key not in _PARTS}
    sources = {key: value for key, value in _table(programming, "sources").items() if key not in _PARTS}
    if "sources" in programming:
        programming["sources"] = sources
    kept = {key: value for key, value in device.items() if key not in ("programming", "relaxation")}
    if "programming" in device:
        kept["programming"] = programming
    return replace(layer, data=layer.data | {"device": kept})


def _device(data: Table) -> Table:
    return _table(data, "device")


def _table(data: Table, key: str) -> Table:
    """A copy of the table under a key; empty where there is none."""
    value = data.get(key)
    return dict(value) if isinstance(value, dict) else {}


def _bare(layer: TargetLayer) -> TargetLayer:
    """Without the key: the conductance range is invalid, which the schema reports."""
    device = _device(layer.data)
    kept = {key: value for key, value in device.items() if key not in ("levels_csv", CHOICE)}
    return replace(layer, data=layer.data | {"device": kept}) if device else layer


def _filled(layer: TargetLayer, g_min: float, g_max: float) -> TargetLayer:
    device = _device(layer.data)
    if "levels_csv" not in device:
        return layer
    name = device.pop("levels_csv")
    at = f"{layer.label}: device.levels_csv"
    if not isinstance(name, str):
        raise TargetError(f"{at}: must be the name of a CSV file, in quotes")
    if "level_means" in device:
        raise TargetError(f"{at}: device.level_means is given too, and both define the levels; remove one")
    levels = _read(layer, name, at)
    sources = _table(device, "sources")
    source = sources.pop("levels_csv", device.get("source", COMMAND_LINE if layer.folder is None else ""))
    device["level_means"] = _in_units(levels, g_min, g_max, f"{at}: {name}")
    device["sources"] = sources | ({"level_means": source} if source else {})
    deviations = [level.deviation_siemens for level in levels if level.deviation_siemens is not None]
    if deviations:
        programming = _table(device, "programming")
        given = [key for key in ("level_siemens", *_PARTS) if programming.get(key)]
        if given:
            raise TargetError(
                f"{at}: {name} has a column {_DEVIATION}, and device.programming.{given[0]} is given too; remove one"
            )
        _check_deviations(levels, g_max, f"{at}: {name}")
        programming["level_siemens"] = deviations
        if source:
            programming["sources"] = {"level_siemens": source} | _table(programming, "sources")
        device["programming"] = programming
    return replace(layer, data=layer.data | {"device": device})


def _check_deviations(levels: Sequence[_Level], g_max: float, at: str) -> None:
    """Raise TargetError for a deviation that no cell of this range can have."""
    for level in levels:
        if level.deviation_siemens is not None and level.deviation_siemens > g_max:
            raise TargetError(
                f"{at}, line {level.line}: {level.deviation_siemens:g} S is more than any deviation of cells up to "
                f"g_max_siemens = {g_max:g}; check the unit, or the range in [device]"
            )


def _in_units(levels: Sequence[_Level], g_min: float, g_max: float, at: str) -> list[int]:
    unit = (g_max - g_min) / MEAN_STEPS
    means = [round((level.mean_siemens - g_min) / unit) for level in levels]
    for level, mean in zip(levels, means, strict=True):
        if not -MEAN_STEPS <= mean <= 4 * MEAN_STEPS:
            raise TargetError(
                f"{at}, line {level.line}: {level.mean_siemens:g} S is far outside of g_min_siemens = {g_min:g} to "
                f"g_max_siemens = {g_max:g}; check the unit, or the range in [device]"
            )
    for (before, mean), (after, next_mean) in pairwise(zip(levels, means, strict=True)):
        if next_mean <= mean:
            raise TargetError(
                f"{at}, line {after.line}: {after.mean_siemens:g} S is not above the {before.mean_siemens:g} S of the "
                f"level before by {unit:.2g} S, (g_max - g_min) / {MEAN_STEPS}; give the lowest level first"
            )
    return means


def csv_text(layer: TargetLayer, name: str, at: str) -> str:
    """The text of a CSV file that a layer names, given from the folder of the layer."""
    path = Path(name).expanduser()
    try:
        place = path if layer.folder is None or path.is_absolute() else layer.folder.joinpath(*path.parts)
        return place.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TargetError(f"{at}: {name}: not UTF-8 text: {error}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        where = "" if layer.folder is None else "; its place is given from the target file"
        raise TargetError(f"{at}: {name}: cannot be read: {reason}{where}") from error


def _read(layer: TargetLayer, name: str, at: str) -> list[_Level]:
    try:
        return _parse(csv_text(layer, name, at), f"{at}: {name}")
    except csv.Error as error:
        raise TargetError(f"{at}: {name}: not valid CSV: {error}") from error


def _parse(text: str, at: str) -> list[_Level]:
    reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    header = [column.strip() for column in reader.fieldnames or ()]
    reader.fieldnames = header
    for column in header:
        if column not in (_MEAN, _DEVIATION) or header.count(column) > 1:
            what = f"unknown column '{column}'" if header.count(column) == 1 else f"two columns '{column}'"
            close = did_you_mean(column, (_MEAN, _DEVIATION))
            raise TargetError(f"{at}, line 1: {what}{close or f'; its columns are {_MEAN}, {_DEVIATION}'}")
    if _MEAN not in header:
        raise TargetError(f"{at}, line 1: no column {_MEAN}; the first line names the columns {_MEAN}, {_DEVIATION}")
    levels = []
    for row in reader:
        if None in row or None in row.values():
            raise TargetError(f"{at}, line {reader.line_num}: not {len(header)} values, as line 1 names columns")
        mean = _number(row[_MEAN], f"{at}, line {reader.line_num}: {_MEAN}", positive=True)
        deviation = None
        if _DEVIATION in header:
            deviation = _number(row[_DEVIATION], f"{at}, line {reader.line_num}: {_DEVIATION}", positive=False)
        levels.append(_Level(reader.line_num, mean, deviation))
    if not levels:
        raise TargetError(f"{at}: holds no level; give one row for each")
    return levels


def _number(text: str, at: str, *, positive: bool) -> float:
    wanted = "a number above 0" if positive else "a number of at least 0"
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0 or (positive and value == 0):
        raise TargetError(f"{at}: must be {wanted}, in siemens, not {text.strip()!r}")
    return value
