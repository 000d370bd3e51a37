"""Numbers, units and table cells of the report as they are printed in HTML."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mcompiler.cost import Cost
from mcompiler.text import area, clean, percent, quantity

OPEN_ROWS = 12
"""Largest number of rows of a table that is shown open; longer tables are folded."""

UNITS = {
    "_bytes_per_s": "B/s",
    "_siemens": "S",
    "_ohm": "\u03a9",
    "_hz": "Hz",
    "_nm": "nm",
    "_w": "W",
    "_v": "V",
    "_j": "J",
    "_s": "s",
}


@dataclass(frozen=True)
class Cell:
    """One cell of a table: text, and optionally a bar (share of 1), a colour sample, a tooltip."""

    text: str
    bar: float | None = None
    colour: str | None = None
    hint: str = ""


Row = Mapping[str, str | Cell]
"""Cells of a row by header; a header that is missing has an empty cell."""


@dataclass(frozen=True)
class Table:
    """A table: ``align`` has ``l`` or ``r`` per column; ``foot`` is its line of sums."""

    headers: tuple[str, ...]
    align: str
    rows: tuple[tuple[Cell, ...], ...]
    foot: tuple[Cell, ...] = ()

    @property
    def short(self) -> bool:
        """Whether it has few enough rows to be shown open."""
        return len(self.rows) <= OPEN_ROWS


def table(columns: Mapping[str, str], rows: Iterable[Row], foot: Row | None = None) -> Table:
    """A table of rows.

    Args:
        columns: alignment (``l`` or ``r``) by header, from left to right.
        rows: their cells by header.
        foot: the line of sums.
    """
    lines = [_line(columns, row) for row in rows]
    return Table(tuple(columns), "".join(columns.values()), tuple(lines), () if foot is None else _line(columns, foot))


def _line(columns: Mapping[str, str], row: Row) -> tuple[Cell, ...]:
    cells = (row.get(header, "") for header in columns)
    return tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in cells)


def _typeset(text: str) -> str:
    """A number with its unit in typographic form: micro sign, square, no-break space."""
    number, _, unit = text.partition(" ")
    unit = ("\u00b5" + unit[1:] if unit.startswith("u") else unit).replace("m2", "m\u00b2")
    return f"{number}\u00a0{unit}" if unit else number


def print_quantity(value: float, unit: str) -> str:
    """A computed value with 3 significant digits."""
    return _typeset(quantity(value, unit))


def print_setting(value: float, unit: str) -> str:
    """A setting, without trailing zeros."""
    return _typeset(quantity(value, unit, trim=True))


def print_area(value_m2: float) -> str:
    """An area in mm2 or um2."""
    return _typeset(area(value_m2))


def share_cell(part: float, whole: float) -> Cell:
    """A percentage with a bar."""
    share = part / whole if whole else 0.0
    return Cell(percent(share), bar=min(1.0, max(0.0, share)))


def layer_colour(index: int) -> str:
    """A colour for each layer that differs from that of its neighbours, on light and dark backgrounds."""
    # Multiples of the golden angle are far apart for any number of layers.
    return f"hsl({index * 137.508 % 360:.0f} 60% {(52, 40, 64)[index // 7 % 3]}%)"


def inference_interval(cost: Cost) -> float:
    """Seconds between two inferences."""
    return 1 / cost.throughput_per_s if cost.throughput_per_s else math.inf


def print_value(key: str, value: float | str | bool) -> str:
    """A value of a target, with the unit at the end of its key."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key.endswith("_m2"):
        return print_area(value)
    unit = next((unit for suffix, unit in UNITS.items() if key.endswith(suffix)), None)
    if unit == "nm":
        return f"{value:g}\u00a0nm"
    return print_setting(value, unit) if unit is not None else f"{value:,}"
