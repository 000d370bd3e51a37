"""Numbers and tables as text: engineering units, shares, aligned columns.

What is made here is ASCII, for any terminal and any file. Names that come out of a model are cleaned: what is not
printable in them is escaped, so that no node name can move a cursor or break a line.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

_PREFIXES = {
    -18: "a", -15: "f", -12: "p", -9: "n", -6: "u", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T", 15: "P", 18: "E",
}  # fmt: skip
_GAP = "  "
DOTS = "..."


def quantity(value: float, unit: str, *, trim: bool = False) -> str:
    """Write a value with an SI prefix and 3 significant digits: ``149 us``, ``7.82 uJ``, ``15.3 k/s``.

    Args:
        value: in SI units without prefix; zero, infinite and negative values are fine.
        unit: its symbol.
        trim: drop zeros behind the point (``10 ns`` for ``10.0 ns``): for values that somebody chose.
    """
    if not math.isfinite(value) or value == 0:
        return f"{value:g} {unit}".replace("-0 ", "0 ").rstrip()
    mantissa, _, power = f"{value:.2e}".partition("e")  # rounded first: 999.9 is 1.00 k
    prefix = int(power) // 3 * 3
    if prefix not in _PREFIXES:
        return f"{value:.2e} {unit}".rstrip()
    number = _plain_number(float(mantissa) * 10 ** (int(power) - prefix), 2 - (int(power) - prefix), trim)
    return f"{number} {_PREFIXES[prefix]}{unit}".rstrip()


def area(value_m2: float) -> str:
    """Write an area with 3 significant digits, from 0.01 mm2 upwards in mm2, below that in um2."""
    if not math.isfinite(value_m2) or value_m2 == 0:
        return f"{value_m2:g} mm2"
    return f"{_three(value_m2 * 1e6)} mm2" if abs(value_m2) >= 1e-8 else f"{_three(value_m2 * 1e12)} um2"


def percent(share: float | None) -> str:
    """Write a share: ``66.2%``. Only 0 is ``0%``, and nothing below 1 is ``100%``; ``-`` where there is none."""
    if share is None:
        return "-"
    if share == 0 or not share < 1:
        return f"{100 * share:.0f}%"
    for digits in (1, 2):
        text = f"{100 * share:.{digits}f}"
        if float(text) not in (0, 100):
            return f"{text}%"
    return "<0.01%" if share < 0.5 else ">99.99%"


def count(value: float) -> str:
    """Write a number of things with thousands separators: ``18,874,368``; small fractions with 3 significant digits."""
    if not math.isfinite(value):
        return f"{value:g}"
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else _three(value)


def plural(value: int, one: str, many: str = "") -> str:
    """Write how many of what: ``1 chip``, ``4 chips``."""
    return f"{value:,} {one if value == 1 else many or one + 's'}"


def _three(value: float) -> str:
    """3 significant digits, thousands separators, no exponent (unless it would be very long)."""
    mantissa, _, power = f"{value:.2e}".partition("e")
    if not -5 <= int(power) <= 15:
        return f"{value:.2e}"
    return _plain_number(float(mantissa) * 10.0 ** int(power), 2 - int(power), False)


def _plain_number(value: float, digits: int, trim: bool) -> str:
    text = f"{value:,.{max(0, digits)}f}"
    return text.rstrip("0").rstrip(".") if trim and "." in text else text


def clean(text: str) -> str:
    """The text with everything escaped that is not printable: line breaks, terminal controls, lone surrogates."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in text)


def display_width(text: str) -> int:
    """Columns that a text takes on a terminal: 2 for wide characters, 0 for combining ones."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def shorten(text: str, width: int) -> str:
    """Cut a long name in the middle, where it says least: ``/encoder/layer.0/.../MatMul``; cleaned."""
    text = clean(text)
    if display_width(text) <= width:
        return text
    if width <= len(DOTS):
        return DOTS[:width]
    room = width - len(DOTS)
    tail = _fitting(text[::-1], room - room // 2)[::-1]
    return _fitting(text, room - display_width(tail)) + DOTS + tail


def _fitting(text: str, width: int) -> str:
    """As much of the start of a text as fits."""
    used = 0
    for index, char in enumerate(text):
        used += display_width(char)
        if used > width:
            return text[:index]
    return text


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> str:
    """Lay out columns for a terminal: a line of headers, a line per row, two blanks between columns.

    Args:
        headers: one per column.
        rows: cells; cleaned here, not shortened.
        align: ``l`` or ``r`` for each column.

    Returns:
        Lines without blanks at their ends, joined; no line break after the last.
    """
    if len(align) != len(headers) or any(len(row) != len(headers) for row in rows):
        cells = sorted({len(row) for row in rows})
        raise ValueError(f"{len(headers)} headers, align '{align}' and rows of {cells} cells")
    lines = [[clean(cell) for cell in row] for row in [headers, *rows]]
    widths = [max(map(display_width, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        _GAP.join(_pad(cell, width, side) for cell, width, side in zip(line, widths, align, strict=True)).rstrip()
        for line in lines
    )


def _pad(cell: str, width: int, side: str) -> str:
    blanks = " " * (width - display_width(cell))
    return blanks + cell if side == "r" else cell + blanks


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Lay out names and values, one pair a line, values aligned; values are printed as they are."""
    width = max((display_width(name) for name, _ in pairs), default=0)
    return "\n".join(f"{_pad(name, width, 'l')}{_GAP}{value}".rstrip() for name, value in pairs)
