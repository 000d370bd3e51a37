"""Tables of the documentation that follow from the code, and a program that writes them anew.

A page has ``<!-- table: NAME -->`` above a table and ``<!-- end of table -->`` below it. ``python -m
tests.support.tables`` writes all of them; ``tests/test_docs.py`` compares them with the code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from mcompiler.driver.keys import key_uses
from mcompiler.pricing import PriceRule, find_rule, rule_names
from mcompiler.target import list_targets, load_target
from mcompiler.target.base import KeyPath
from mcompiler.target.components import DEFAULT_RULES
from tests.support.pages import ROOT, page_names

MARKED = re.compile(r"(<!-- table: ([\w ]+) -->\n\n?)(.*?)(\n\n?<!-- end of table -->)", re.DOTALL)


def markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of a page."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(each.replace('|', '/') for each in line)} |" for line in lines)


def _followed(rule: PriceRule) -> str:
    """Which figure follows what, figures that follow the same in one part."""
    parts: dict[tuple[str, ...], list[str]] = {}
    for figure, quantities in rule.follows.items():
        parts.setdefault(tuple(each.value for each in quantities), []).append(f"`{figure.value}`")
    shown = [f"{', '.join(figures)}: {', '.join(names)}" for names, figures in parts.items()]
    return "; ".join(shown) or "nothing"


def price_rules() -> str:
    """All shipped rules, with what the figures of a component follow and where the formula comes from."""
    rows = []
    for name in rule_names():
        rule = find_rule(name)
        events = [f"`{event.value}`" for event, default in DEFAULT_RULES.items() if default == name]
        if name == "constant":
            events = ["no event"]
        rows.append([f"`{name}`", ", ".join(events), rule.summary, _followed(rule), rule.source])
    return markdown(["rule", "default of", "how figures follow", "quantities", "source"], rows)


def keys_without_effect() -> str:
    """Numbers of shipped targets that move nothing, with reasons; components by any name."""
    found: dict[str, list[str]] = {}
    for name, _ in list_targets():
        for use in key_uses(load_target(name)):
            if use.reason:
                found.setdefault(use.reason, []).append(_pattern(use.path))
    rows = [[", ".join(f"`{key}`" for key in dict.fromkeys(keys)), reason] for reason, keys in found.items()]
    return markdown(["key", "reason"], rows)


def _pattern(path: KeyPath) -> str:
    """The key, with a word in place of the names of components and of figures of a paper."""
    match path:
        case ("components", _, *rest):
            return ".".join(("components", "NAME", *rest))
        case ("published", _):
            return "published.FIGURE"
    return ".".join(path)


TABLES: dict[str, Callable[[], str]] = {"price rules": price_rules, "keys without effect": keys_without_effect}
"""What writes each table, by its name."""


def with_tables(text: str) -> str:
    """A page with the tables of today."""
    return MARKED.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}{found[4]}", text)


if __name__ == "__main__":
    for page in page_names():
        path = ROOT / page
        path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
