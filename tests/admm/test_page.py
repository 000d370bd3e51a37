"""docs/admm.md names every hyper-parameter with its default."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from mcompiler.admm import Budget, DeviceNoise, Spec, Structure

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "admm.md").read_text(encoding="utf-8")


def rows_of(heading: str) -> list[list[str]]:
    """Cells of the first table below a heading."""
    below = PAGE[PAGE.index(f"\n## {heading}\n") :]
    table = re.search(r"(?:^\|.*\|\n)+", below, re.MULTILINE)
    assert table is not None, heading
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[0].splitlines()]
    return rows[2:]


def documented() -> dict[str, Any]:
    """Default by dotted key, as the table gives it."""
    found: dict[str, Any] = {}
    for key, default, _ in rows_of("Every hyper-parameter"):
        names = re.findall(r"`([^`]+)`", key)
        sections = [name[1:-1] for name in names if name.startswith("[")]
        keys = [name for name in names if not name.startswith("[")]
        values = [None] * len(keys) if default == "none" else tomllib.loads(f"all = [{default}]")["all"]
        assert len(values) == len(keys), key
        for section in sections or [""]:
            for name, value in zip(keys, values, strict=True):
                place = f"{section}.{name}".lstrip(".")
                assert place not in found, f"{place} is in the table twice"
                found[place] = value
        if not keys:
            found[sections[0]] = None
    return found


def defaults(part: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Default by dotted key, as the dataclasses have it."""
    for field in dataclasses.fields(part):
        name, value = f"{place}{field.name}", getattr(part, field.name)
        if name == "layers":
            yield 'layers."name"', None
        elif name == "budget":
            yield from ((f"budget.{f.name}", f.default) for f in dataclasses.fields(Budget))
        elif name == "retrain.noise":
            yield from defaults(DeviceNoise(), "retrain.noise.")
        elif dataclasses.is_dataclass(value):
            yield from defaults(value, f"{name}.")
        else:
            yield name, list(value) if isinstance(value, tuple) else value


def test_every_hyper_parameter_is_in_the_table_with_its_default() -> None:
    assert documented() == dict(defaults(Spec()))


def test_every_key_of_a_structure_is_in_the_table() -> None:
    named = [row[0].strip("`") for row in rows_of("Structures")]
    assert named == [field.name for field in dataclasses.fields(Structure)]
    assert not any(dataclasses.asdict(Structure()).values()), "a limit that is left out does not apply"
