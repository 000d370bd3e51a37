"""Write docs/sweeps.md from benchmarks/results/sweep_sense.json and the texts of sweep_text.toml.

    python benchmarks/sweep_page.py [--check]

--check writes nothing, and fails if the page is out of date.
"""

from __future__ import annotations

import json
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common import RESULTS
from tables import table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "sweeps.md"

Point = Mapping[str, Any]

BASES = ("generic_128, differential", "generic_128, offset", "isaac")
HEADS = ("generic_128", "generic_128, offset", "isaac")


def page(result: Mapping[str, Any]) -> str:
    """docs/sweeps.md."""
    texts = tomllib.loads((Path(__file__).parent / "sweep_text.toml").read_text(encoding="utf-8"))
    apart = result["largest_difference"]
    facts = {"macs": result["macs"] / 1e6, "points": result["points"]}
    facts |= {key: _tiny(apart[key]) for key in ("prices", "latency")}
    lines = [
        "# Sweeps: do prices follow the chip?",
        "",
        "<!-- benchmarks/sweep_page.py writes this page from results/sweep_sense.json and sweep_text.toml. -->",
        "",
        *_wrapped(texts["introduction"].format(**facts)),
    ]
    for key, (title, text) in texts["series"].items():
        lines += [f"## {title}", "", *_wrapped(text), *_series(result, key)]
    lines += [*_sizes(result), *_plane_sizes(result), *_plane_cells(result)]
    lines += ["## Trends in the literature", "", *_operations(result)]
    trends = _facts(result)
    for text in texts["trends"].values():
        lines += _wrapped(text.format(**trends))
    return "\n".join([*lines, *AGAIN]).rstrip() + "\n"


def _wrapped(text: str) -> list[str]:
    """Paragraphs as lines of 120 columns, an empty line after each."""
    paragraphs = text.strip().split("\n\n")
    width = {"width": 120, "break_long_words": False, "break_on_hyphens": False}
    return [line for paragraph in paragraphs for line in (*textwrap.wrap(paragraph, **width), "")]


def _series(result: Mapping[str, Any], key: str) -> list[str]:
    lines = []
    for base, head in zip(BASES, HEADS, strict=True):
        points = result["series"][f"{base}, {key}"]
        rows = [
            (
                point[key],
                f"{1e6 * point['energy_j']:.3g}",
                _share(point["energy_share"], "adc"),
                _share(point["energy_share"], "drivers"),
                _share(point["energy_share"], "cells"),
                f"{1e6 * _inside(point):.3g}",
                f"{100 * point['area_share']['adc'] * point['area_m2'] / _inside(point):.0f}",
                f"{1e3 * point['latency_s']:.3g}",
                f"{point['throughput_per_s']:,.0f}",
                f"{100 * point['utilisation']:.0f}",
                _needed(point),
            )
            for point in points
        ]
        lines += table((head, *COLUMNS), rows)
    lines += _stale(result, key)
    return lines


COLUMNS = (
    "energy, µJ",
    "ADC, %",
    "drivers, %",
    "cells, %",
    "area, mm²",
    "ADC, %",
    "latency, ms",
    "inferences/s",
    "cells in use, %",
    "bits needed",
)


def _stale(result: Mapping[str, Any], key: str) -> list[str]:
    found = {
        (HEADS[BASES.index(base)], name): [
            str(point[key]) for point in result["series"][f"{base}, {key}"] if name in point["stale"]
        ]
        for base in BASES
        for name in sorted({name for point in result["series"][f"{base}, {key}"] for name in point["stale"]})
    }
    if not found:
        return []
    texts = [f"`{name}` of {base} at {', '.join(values)}" for (base, name), values in found.items()]
    return [f"Outside of the range of a rule's source (`stale`): {'; '.join(texts)}.", ""]


def _inside(point: Point) -> float:
    """Area of a point without the ports of its chips."""
    return float(point["area_m2"] * (1 - point["area_share"].get("ports", 0.0)))


def _share(shares: Mapping[str, float], kind: str) -> str:
    return f"{100 * shares.get(kind, 0.0):.0f}"


def _needed(point: Point) -> str:
    return str(point["adc_bits_needed"] or "–")


def _tiny(value: float) -> str:
    return f"{value:.0e}" if value else "0"


def _best(points: Iterable[Point], key: str, figure: Callable[[Point], float]) -> Any:
    return min(points, key=figure)[key]


def _lossless(result: Mapping[str, Any]) -> list[Point]:
    """For each array size the point of the plane whose ADC has the bits that are needed."""
    return [p for p in result["planes"]["array, adc_bits"] if p["adc_bits"] == p["adc_bits_needed"]]


def _sizes(result: Mapping[str, Any]) -> list[str]:
    series = result["series"]
    rows = []
    for title, points in (
        *((f"{head}, bits as they are", series[f"{base}, array"]) for base, head in zip(BASES, HEADS, strict=True)),
        ("generic_128, bits that are needed", _lossless(result)),
    ):
        rows.append(
            (
                title,
                _best(points, "array", lambda p: p["energy_j"]),
                _best(points, "array", _inside),
                _best(points, "array", lambda p: p["energy_j"] * _inside(p)),
                _best(points, "array", lambda p: p["energy_j"] * p["latency_s"]),
                _best(points, "array", lambda p: _inside(p) / p["throughput_per_s"]),
            )
        )
    head = (
        "best array size for",
        "energy",
        "area",
        "energy x area",
        "energy x latency",
        "area / throughput",
    )
    return [
        "## The best array size",
        "",
        "With the bits that are needed, a larger array pays for its fewer conversions with a larger ADC.",
        "",
        *table(head, rows),
    ]


def _plane(points: Sequence[Point], names: tuple[str, str], text: Callable[[Point], str]) -> list[str]:
    """Rows by the first name, columns by the second; the point with the needed bits is bold."""
    one, two = names
    firsts, seconds = (list(dict.fromkeys(point[name] for point in points)) for name in names)
    found = {(point[one], point[two]): point for point in points}

    def cell(first: int, second: int) -> str:
        point = found[first, second]
        fits = (
            point["adc_bits_needed"] == second if two == "adc_bits" else 0 < (point["adc_bits_needed"] or 0) <= ADC_BITS
        )
        return f"**{text(point)}**" if fits else text(point)

    head = (f"{LABELS[one]} \\ {LABELS[two]}", *map(str, seconds))
    return table(head, ((first, *(cell(first, second) for second in seconds)) for first in firsts))


ADC_BITS = 10
"""Of generic_128."""

LABELS = {"array": "array size", "adc_bits": "ADC bits", "cell_bits": "cell bits", "dac_bits": "DAC bits"}


def _energy(point: Point) -> str:
    return f"{1e6 * point['energy_j']:.3g}"


def _area(point: Point) -> str:
    return f"{1e6 * _inside(point):.3g}"


def _plane_sizes(result: Mapping[str, Any]) -> list[str]:
    points, names = result["planes"]["array, adc_bits"], ("array", "adc_bits")
    return [
        "## Array size by ADC bits",
        "",
        "`generic_128`, energy in µJ; in bold the ADC with the bits that are needed.",
        "",
        *_plane(points, names, _energy),
        "The same, area in mm²:",
        "",
        *_plane(points, names, _area),
    ]


def _plane_cells(result: Mapping[str, Any]) -> list[str]:
    points, names = result["planes"]["cell_bits, dac_bits"], ("cell_bits", "dac_bits")
    return [
        "## Bits of a cell by DAC bits",
        "",
        f"`generic_128`, energy in µJ with an ADC of {ADC_BITS} bits; in bold where these are enough:",
        "",
        *_plane(points, names, _energy),
        "Area in mm²:",
        "",
        *_plane(points, names, _area),
        "Bits of the ADC that would be needed:",
        "",
        *_plane(points, names, _needed),
    ]


def _operations(result: Mapping[str, Any]) -> list[str]:
    def operation(point: Point) -> str:
        return f"{1e15 * point['energy_j'] / (2 * result['macs']):.0f}"

    head = ("array size", *KINDS, "fJ/op", "ADCs, bits needed", "fJ/op, bits needed")
    rows = [
        (
            point["array"],
            *(f"{1e6 * _kind(point, kind):.3g}" for kind in KINDS.values()),
            operation(point),
            f"{1e6 * _kind(needed, 'adc'):.3g}",
            operation(needed),
        )
        for point, needed in zip(result["series"]["generic_128, differential, array"], _lossless(result), strict=True)
    ]
    return [
        "Energy by kind of part on `generic_128`, in µJ, and energy of an operation (a multiply-accumulate is two):",
        "",
        *table(head, rows),
    ]


def _facts(result: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of the texts on trends."""
    series = result["series"]
    sizes, isaac = series["generic_128, differential, array"], series["isaac, array"]
    own = next(point for point in isaac if point["array"] == 128)
    survey = {point["adc_bits"]: point["conversion_j"] for point in series["generic_128, differential, adc_bits"]}
    saberi = {point["adc_bits"]: point["conversion_j"] for point in series["isaac, adc_bits"]}
    fits = [p for p in result["planes"]["cell_bits, dac_bits"] if 0 < (p["adc_bits_needed"] or 0) <= ADC_BITS]
    least = min(fits, key=lambda point: point["energy_j"])

    def best(points: Sequence[Point]) -> int:
        return int(_best(points, "array", lambda point: point["energy_j"]))

    return {
        "adc_fall": _kind(sizes[0], "adc") / _kind(sizes[-1], "adc"),
        "driver_fall": _kind(sizes[0], "drivers") / _kind(sizes[-1], "drivers"),
        "needed_size": best(_lossless(result)),
        "generic_size": best(sizes),
        "isaac_size": best(isaac),
        "least_used": 100 * sizes[0]["utilisation"],
        "most_used": 100 * sizes[-1]["utilisation"],
        "isaac_share": 100 * own["energy_share"]["adc"],
        "isaac_area": _areas(own),
        "generic_area": _areas(next(point for point in sizes if point["array"] == 128)),
        "single_area": _areas(next(point for point in series["isaac, sharing"] if point["sharing"] == 1)),
        "survey_8": survey[8] / survey[4],
        "survey_10": survey[10] / survey[8],
        "saberi_8": saberi[8] / saberi[4],
        "saberi_10": saberi[10] / saberi[8],
        "generic_pj": 1e12 * survey[8],
        "generic_10_pj": 1e12 * survey[10],
        "isaac_pj": 1e12 * saberi[8],
        "isaac_10_pj": 1e12 * saberi[10],
        "cell_bits": least["cell_bits"],
        "dac_bits": least["dac_bits"],
    }


KINDS = {"ADCs": "adc", "drivers": "drivers", "cells": "cells", "buffers": "buffer"}


def _kind(point: Point, kind: str) -> float:
    return float(point["energy_j"] * point["energy_share"][kind])


def _areas(point: Point) -> float:
    return float(point["area_share"]["adc"] / point["area_share"]["cells"])


AGAIN = [
    "## How to reproduce these figures",
    "",
    "In a checkout with `../shared`:",
    "",
    "<!-- not run: minutes -->",
    "```console",
    "$ python benchmarks/sweep_sense.py",
    "$ python benchmarks/sweep_page.py",
    "$ python benchmarks/sweep_check.py my.build",
    "```",
    "",
    "The last command prints the differences for a build of your own.",
]


def main() -> None:
    text = page(json.loads((RESULTS / "sweep_sense.json").read_text(encoding="utf-8")))
    if sys.argv[1:] == ["--check"]:
        sys.exit(0 if PAGE.read_text(encoding="utf-8") == text else "docs/sweeps.md: run benchmarks/sweep_page.py")
    PAGE.write_text(text, encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
