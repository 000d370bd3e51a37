"""Numbers and tables as text: engineering units, shares, aligned columns.

Numbers, units and layout are ASCII, for any terminal and any file. Names that come from a model are cleaned: characters
that are not printable are escaped, so that no node name can move the cursor or break a line. Display widths are those
of rich, imported when first needed; its tables are not used, because they need a console with a width and styles.
"""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Sequence

_PREFIXES = {
    -18: "a",
    -15: "f",
    -12: "p",
    -9: "n",
    -6: "u",
    -3: "m",
    0: "",
    3: "k",
    6: "M",
    9: "G",
    12: "T",
    15: "P",
    18: "E",
}
_GAP = "  "
_ELLIPSIS = "..."
_CHARACTERS_PER_COLUMN = 4  # more combining characters than that are cut


def quantity(value: float, unit: str, *, trim: bool = False) -> str:
    """Write a value with an SI prefix and 3 significant digits: ``149 us``, ``7.82 uJ``, ``15.3 k/s``.

    Args:
        value: in SI units without prefix; zero, infinite and negative values are fine.
        unit: its symbol.
        trim: drop zeros after the decimal point (``10 ns`` for ``10.0 ns``): for settings, which are exact.
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
    """Write an area with 3 significant digits: in mm2 from 0.01 mm2 upwards, in um2 below."""
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
    """Write a number and its noun: ``1 chip``, ``4 chips``."""
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
    """Escape characters that are not printable: line breaks, terminal controls, lone surrogates."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in text)


def display_width(text: str) -> int:
    """Columns that a text takes on a terminal: 2 for wide characters, 0 for combining ones."""
    from rich.cells import cell_len

    return cell_len(text)


def shorten(text: str, width: int) -> str:
    """Clean a name, and shorten a long one in the middle: ``/encoder/layer.0/.../MatMul``."""
    text = clean(text)
    if display_width(text) <= width:
        return text
    room = width - len(_ELLIPSIS)
    if room <= 0:
        return _ELLIPSIS[:width]
    most = _CHARACTERS_PER_COLUMN * width
    tails = (text[i:] for i in range(max(0, len(text) - most), len(text) + 1))
    tail = next(tail for tail in tails if display_width(tail) <= room - room // 2)
    heads = (text[:i] for i in range(min(len(text), most), -1, -1))
    return next(cut for cut in (head + _ELLIPSIS + tail for head in heads) if display_width(cut) <= width)


def screen_width() -> int | None:
    """Columns of the terminal that stdout is; None where it is none: a file or a pipe has room for any name."""
    if sys.stdout is None or not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], align: str, width: int | None = None) -> str:
    """Align columns: a line of headers, a line per row, two spaces between columns, no borders.

    Where lines are longer than ``width``, long names in the first column are shortened in the middle; where that does
    not suffice, groups of columns follow each other, each after the names.

    Args:
        headers: one per column.
        rows: cells; cleaned.
        align: ``l`` or ``r`` for each column.
        width: columns at most; None: those of the terminal, and any number where stdout is none.

    Returns:
        Lines without trailing spaces, joined; no line break after the last.
    """
    if len(align) != len(headers) or any(len(row) != len(headers) for row in rows):
        cells = sorted({len(row) for row in rows})
        raise ValueError(f"{len(headers)} headers, align '{align}' and rows of {cells} cells")
    lines = [[clean(cell) for cell in row] for row in [headers, *rows]]
    widths = [max(map(display_width, column)) for column in zip(*lines, strict=True)]
    most = screen_width() if width is None else width
    if most is None or sum(widths) + len(_GAP) * (len(widths) - 1) <= most:
        return _aligned(lines, widths, align)
    others = sum(widths[1:]) + len(_GAP) * (len(widths) - 1)
    room = min(widths[0], max(most - others, _LEAST_NAME))
    lines = [[shorten(line[0], room), *(shorten(cell, most - room - len(_GAP)) for cell in line[1:])] for line in lines]
    widths = [max(map(display_width, column)) for column in zip(*lines, strict=True)]
    groups: list[list[int]] = [[]]
    for column in range(1, len(widths)):
        used = widths[0] + sum(len(_GAP) + widths[other] for other in (*groups[-1], column))
        if groups[-1] and used > most:
            groups.append([])
        groups[-1].append(column)
    parts = []
    for group in groups:
        chosen = (0, *group)
        part = [[line[column] for column in chosen] for line in lines]
        parts.append(_aligned(part, [widths[column] for column in chosen], "".join(align[column] for column in chosen)))
    return "\n\n".join(parts)


_LEAST_NAME = 12
"""Columns that names keep before the columns of a table are divided into groups."""


def _aligned(lines: Sequence[Sequence[str]], widths: Sequence[int], align: str) -> str:
    return "\n".join(
        _GAP.join(_pad(cell, width, side) for cell, width, side in zip(line, widths, align, strict=True)).rstrip()
        for line in lines
    )


def _pad(cell: str, width: int, side: str) -> str:
    blanks = " " * (width - display_width(cell))
    return blanks + cell if side == "r" else cell + blanks


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Align names and values, one pair per line; values are printed unchanged."""
    width = max((display_width(name) for name, _ in pairs), default=0)
    return "\n".join(f"{_pad(name, width, 'l')}{_GAP}{value}".rstrip() for name, value in pairs)
