"""A target as TOML text, the sources of its numbers, and its assumptions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tomli_w

from mcompiler.target.base import Section
from mcompiler.target.layers import holds_numbers
from mcompiler.target.schema import Target

_SOURCE_KEYS = ("source", "sources")


def _without_empty_sources(table: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_empty_sources(value) if isinstance(value, dict) else value
        for key, value in table.items()
        if not (key in _SOURCE_KEYS and value in ("", {})) and not (key == "effects" and value == {})
    }


def resolved_toml(target: Target) -> str:
    """A complete target as TOML text, with defaults and overrides and without ``extends``.

    Equal targets give equal bytes, and loading them gives an equal target.
    """
    return tomli_w.dumps(_without_empty_sources(target.model_dump(mode="json", exclude_none=True)))


def source_of(section: Section, key: str) -> str:
    """The source of a number: from ``sources``, else that of the section; empty for a default that no file gave."""
    own = section.sources.get(key)
    if own:
        return own
    return "" if getattr(section, key) == type(section).model_fields[key].default else section.source


def _sections(section: Section, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Section]]:
    yield path, section
    for key in type(section).model_fields:
        value = getattr(section, key)
        if isinstance(value, Section):
            yield from _sections(value, (*path, key))
        elif isinstance(value, dict):
            for name, each in value.items():
                if isinstance(each, Section):
                    yield from _sections(each, (*path, key, name))


def assumptions(target: Target) -> list[tuple[str, int | float | str | bool, str]]:
    """Assumptions of a target: (key path, value, source) wherever the source begins with "assumption".

    Numbers, and choices (text, true or false) that ``sources`` names; in the order of the schema.
    """
    found: list[tuple[str, int | float | str | bool, str]] = []
    for path, section in _sections(target):
        for key in type(section).model_fields:
            value = getattr(section, key)
            if key in _SOURCE_KEYS or not isinstance(value, int | float | str | tuple):
                continue
            source = section.sources.get(key, "") if not path or not holds_numbers(value) else source_of(section, key)
            if source.lower().startswith("assumption"):
                shown = ", ".join(map(str, value)) if isinstance(value, tuple) else value
                found.append((".".join((*path, key)), str(shown) if isinstance(shown, str) else shown, source))
    return found
