"""Tables by conductance from CSV files: ``table_csv`` of [device.drift], [device.noise] and [device.noise.one_over_f].

The first line names the columns, each further line is a state. A loaded target has the numbers themselves, as lists.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mcompiler.errors import TargetError
from mcompiler.target.layers import Table, TargetLayer
from mcompiler.target.measured import csv_text

KEY = "table_csv"

COLUMNS: Mapping[tuple[str, ...], Mapping[str, str]] = {
    ("drift",): {"conductance_siemens": "table_siemens", "nu": "table_nu", "spread": "table_spread"},
    ("noise",): {"conductance_siemens": "table_siemens", "deviation_siemens": "table_deviation_siemens"},
    ("noise", "one_over_f"): {"conductance_siemens": "table_siemens", "q": "table_q"},
}
"""Key of each column of a table, by the section of [device] that names the file."""


def with_state_tables(layers: Sequence[TargetLayer]) -> list[TargetLayer]:
    """Replace every ``table_csv`` by the numbers of that file.

    Raises:
        TargetError: a CSV file is missing or wrong; the message names the file and its line.
    """
    return [_filled(layer) for layer in layers]


def _filled(layer: TargetLayer) -> TargetLayer:
    for path, columns in COLUMNS.items():
        table = _at(layer.data, path)
        if KEY in table:
            layer = replace(layer, data=_with(layer.data, ("device", *path), _read(layer, path, table, columns)))
    return layer


def _at(data: Table, path: tuple[str, ...]) -> Table:
    found = data
    for key in ("device", *path):
        inner = found.get(key)
        found = inner if isinstance(inner, dict) else {}
    return dict(found)


def _with(data: Table, path: tuple[str, ...], table: Table) -> Table:
    """The data with another table at a path."""
    key, *rest = path
    return data | {key: _with(data[key], tuple(rest), table) if rest else table}


def _read(layer: TargetLayer, path: tuple[str, ...], table: Table, columns: Mapping[str, str]) -> Table:
    name = table.pop(KEY)
    at = f"{layer.label}: {'.'.join(('device', *path))}.{KEY}"
    if not isinstance(name, str):
        raise TargetError(f"{at}: must be the name of a CSV file, in quotes")
    given = [key for key in columns.values() if key in table]
    if given:
        raise TargetError(f"{at}: {given[0]} is given too, and both define the table; remove one")
    try:
        lines = list(csv.reader(io.StringIO(csv_text(layer, name, at), newline=""), skipinitialspace=True))
    except csv.Error as error:
        raise TargetError(f"{at}: {name}: not valid CSV: {error}") from error
    header = [each.strip() for each in lines[0]] if lines else []
    if sorted(header) != sorted(columns):
        raise TargetError(f"{at}: {name}, line 1: the columns are {', '.join(columns)}, not {', '.join(header)!r}")
    rows = [(number, row) for number, row in enumerate(lines[1:], 2) if row]
    if not rows:
        raise TargetError(f"{at}: {name}: holds no state; give one row for each conductance")
    values = [_numbers(row, header, f"{at}: {name}, line {number}") for number, row in rows]
    source = table.get("source")
    sources = table.get("sources")
    own = dict(sources) if isinstance(sources, dict) else {}
    csv_source = own.pop(KEY, source)
    for place, column in enumerate(header):
        table[columns[column]] = [each[place] for each in values]
        if csv_source:
            own[columns[column]] = csv_source
    return table | ({"sources": own} if own else {})


def _numbers(row: Sequence[str], header: Sequence[str], at: str) -> list[float]:
    if len(row) != len(header):
        raise TargetError(f"{at}: not {len(header)} values, as line 1 names columns")
    found = []
    for column, text in zip(header, row, strict=True):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise TargetError(f"{at}: {column}: must be a number, not {text.strip()!r}")
        found.append(value)
    return found
