"""Write the table of layouts in docs/placement.md from results/layout.json and results/layout_multicast.json.

    python benchmarks/layout_page.py [--check]

The table stands between two marks; the text around it is written by hand.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import pairwise
from math import exp, log
from pathlib import Path
from typing import Any

from common import known
from tables import table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "placement.md"
BEGIN, END = "<!-- table: benchmarks/layout_page.py -->", "<!-- end of the table -->"
HEAD = (
    "network", "arch", "chips", "interval, us", "of the bound", "multicast", "pipelining", "copies", "placement",
    "PUMA-like", "PIMCOMP as mapped", "its cores", "its copies", "latency / bound", "s",
)  # fmt: skip


def best_of_pimcomp(row: Mapping[str, Any], kind: str) -> float | None:
    """Shortest interval of its four mappings of one kind: "" (its copies), "_cores" or "_mapped"."""
    kinds = ("_cores", "_mapped")
    names = [
        name
        for name in row
        if name.startswith("pimcomp_") and (name.endswith(kind) if kind else not name.endswith(kinds))
    ]
    return min((row[name]["interval_s"] for name in names), default=None)


def factors(row: Mapping[str, Any]) -> list[float | None]:
    """Pipelining, copies, placement; then others' intervals divided by ours; then latency divided by its bound."""
    steps = [row[name]["interval_s"] for name in ("layer_by_layer", "pipelined", "replicated", "placed")]
    others = [row["puma_like"]["interval_s"], *(best_of_pimcomp(row, kind) for kind in ("_mapped", "_cores", ""))]
    return [
        *(before / after for before, after in pairwise(steps)),
        *(None if other is None else other / steps[-1] for other in others),
        row["latency"]["latency_s"] / row["latency_bound_s"],
    ]


def lines() -> list[str]:
    """The table, a row for each network and architecture, means last."""
    rows = sorted(known("layout")["rows"], key=lambda row: (row["network"], row["architecture"]))
    multicast = {(row["network"], row["architecture"]): row for row in known("layout_multicast").get("rows", [])}
    found, every, gains = [], [], []
    for row in rows:
        ratios, placed = factors(row), row["placed"]
        other = multicast.get((row["network"], row["architecture"]))
        gain = None if other is None else placed["interval_s"] / other["placed"]["interval_s"]
        every.append(ratios)
        gains.append(gain)
        found.append([
            row["network"], row["architecture"][-1].upper(), row["chips"], f"{placed['interval_s'] * 1e6:,.1f}",
            f"{placed['of_bound']:.2f}", _text(gain), _text(ratios[0], 1), f"{ratios[1]:.0f}",
            *map(_text, ratios[2:]), f"{row['total_seconds']:.1f}",
        ])  # fmt: skip
    means = [_mean([row[index] for row in every]) for index in range(len(every[0]))]
    least, most = min(row["placed"]["of_bound"] for row in rows), max(row["total_seconds"] for row in rows)
    found.append([
        "mean", "", "", "", f"≥ {least:.2f}", _text(_mean(gains)), _text(means[0], 1), f"{means[1]:.0f}",
        *map(_text, means[2:]), f"≤ {most:.1f}",
    ])  # fmt: skip
    return table(HEAD, found, left=2)


def _text(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _mean(values: list[float | None]) -> float | None:
    """Geometric mean of those that are known."""
    there = [value for value in values if value is not None]
    return exp(sum(map(log, there)) / len(there)) if there else None


def main() -> None:
    """Write the table, or with --check fail if it is out of date."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after:
        sys.exit(f"{PAGE}: the marks {BEGIN} and {END} are missing")
    new = "\n".join([before + BEGIN, "", *lines(), END + after])
    if "--check" in sys.argv[1:]:
        sys.exit(None if new == text else f"{PAGE} is out of date: run python benchmarks/layout_page.py")
    PAGE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
