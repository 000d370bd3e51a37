"""Text of ``cost --second-opinion``: components and kinds with our figures, theirs and ratios."""

from __future__ import annotations

from collections.abc import Callable

from mcompiler.cost.opinion import OpinionFigures, OpinionRow, SecondOpinion, ratio
from mcompiler.text import area, percent, quantity, table

Figure = Callable[[OpinionFigures], float]

_FIGURES: tuple[tuple[Figure, Callable[[float], str]], ...] = (
    (lambda figures: figures.dynamic_j, lambda value: quantity(value, "J")),
    (lambda figures: figures.static_j, lambda value: quantity(value, "J")),
    (lambda figures: figures.area_m2, area),
)


def opinion_text(opinion: SecondOpinion) -> str:
    """Tables by component and by kind, and a line for everything that is not comparable."""
    priced = [row for row in opinion.rows if row.theirs is not None]
    packages = ", ".join(f"{name} {version}" for name, version in opinion.versions.items())
    lines = [
        _components(priced),
        "",
        _kinds(opinion),
        "",
        f"ratios are theirs / ours, same events and times; models: {packages}",
        *(f"{row.component}: {row.note}" for row in priced if row.note),
    ]
    reasons: dict[str, list[str]] = {}
    for row in opinion.rows:
        if row.theirs is None:
            reasons.setdefault(row.note, []).append(row.component)
    lines += [f"not compared: {', '.join(names)}: {reason}" for reason, names in reasons.items()]
    return "\n".join(lines)


def _components(rows: list[OpinionRow]) -> str:
    cells = [[row.component, row.model, *_pairs(row.ours, row.theirs)] for row in rows if row.theirs is not None]
    pair = ("ours", "theirs", "ratio")
    headers = ["second opinion", "model", "events", *pair[1:], "standby", *pair[1:], "area", *pair[1:]]
    return table(headers, cells, "ll" + "r" * 9)


def _kinds(opinion: SecondOpinion) -> str:
    cells = []
    for total in opinion.totals:
        shares = [percent(share) for share in total.shares.values()]
        row = [total.kind.value]
        for figure, (mine, other) in ((_FIGURES[0][0], shares[:2]), (lambda each: each.energy_j, shares[2:])):
            row.append(quantity(figure(total.ours), "J"))
            row.append(mine)
            row += ["-", "-"] if total.theirs is None else [quantity(figure(total.theirs), "J"), other]
        cells.append([*row, quantity(total.without_model.energy_j, "J")])
    sides = ["ours", "share", "theirs", "share"]
    headers = ["kind", "events", *sides[1:], "with standby", *sides[1:], "ours without a model"]
    return table(headers, cells, "l" + "r" * 9)


def _pairs(ours: OpinionFigures, theirs: OpinionFigures) -> list[str]:
    return [
        text
        for figure, shown in _FIGURES
        for text in (shown(figure(ours)), shown(figure(theirs)), times(ratio(figure(theirs), figure(ours))))
    ]


def times(value: float | None) -> str:
    """Write a ratio with 3 significant digits; ``-`` where there is none."""
    return "-" if value is None else f"{value:.3g}"
