"""From files and overrides to one table: ``extends``, ``--set``, and what becomes of the sources on the way.

A target is a stack of layers: the file at the root of the ``extends`` chain first, the user's file and the overrides
last. A number always keeps the source that was given *with* it: where a child file changes a number, the parent's
source no longer covers it; where a child file gives a section a new source, the parent's numbers keep theirs.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from types import UnionType
from typing import Any, TypeGuard, get_args, get_origin

from mcompiler.errors import TargetError
from mcompiler.target.base import Section
from mcompiler.target.locate import TargetFile, find_target
from mcompiler.target.schema import Target

COMMAND_LINE = "given on the command line"

Table = dict[str, Any]
Path = tuple[str, ...]


@dataclass(frozen=True)
class Each:
    """A table of tables, all of one kind: components, layers."""

    model: type[Section]


Shape = type[Section] | Each


@dataclass(frozen=True)
class Layer:
    """The table of one file or one override; ``label`` is what messages call it.

    ``folder`` is where names of further files start; None for overrides: the working directory.
    """

    label: str
    data: Table
    folder: Traversable | None = None


def inner(shape: Shape, key: str) -> Shape | None:
    """The shape of the table under ``key``, None where no table stands there."""
    if isinstance(shape, Each):
        return shape.model
    field = shape.model_fields.get(key)
    kind = field.annotation if field is not None else None
    if isinstance(kind, UnionType):  # a section that may be missing
        kind = next((each for each in get_args(kind) if isinstance(each, type) and issubclass(each, Section)), None)
    if isinstance(kind, type) and issubclass(kind, Section):
        return kind
    if get_origin(kind) is dict:
        value = get_args(kind)[1]
        if isinstance(value, type) and issubclass(value, Section):
            return Each(value)
    return None


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a TOML value is a number (true and false are none)."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def holds_numbers(value: object) -> bool:
    """Whether a TOML value is a number or a list of them: what needs a source."""
    return is_number(value) or (isinstance(value, list | tuple) and bool(value) and all(map(is_number, value)))


def sections_of(data: Table, shape: Shape = Target, path: Path = ()) -> Iterator[tuple[Path, type[Section], Table]]:
    """All tables of ``data`` that the schema knows as sections, with path and model; outer ones first."""
    if not isinstance(shape, Each):
        yield path, shape, data
    for key, value in data.items():
        below = inner(shape, key)
        if below is not None and isinstance(value, dict):
            yield from sections_of(value, below, (*path, key))


def _has_bare_number(table: Table, model: type[Section]) -> bool:
    """Whether a number has no source of its own. One that is equal to the default needs none."""
    named = table.get("sources")
    covered = named if isinstance(named, dict) else {}
    defaults = {name: field.default for name, field in model.model_fields.items()}
    return any(
        holds_numbers(value) and not covered.get(key) and value != defaults.get(key) for key, value in table.items()
    )


def _hand_down_sources(data: Table) -> None:
    """Write a section's source into those inside it that need one and have none. The root's covers no number."""
    for path, model, table in sections_of(data):
        source = table.get("source")
        if not path or not isinstance(source, str):
            continue
        for inside, kind, below in sections_of(table, model):
            if inside and _has_bare_number(below, kind):
                below.setdefault("source", source)


def _parse(file: TargetFile) -> Table:
    try:
        # utf-8-sig: editors of some systems start a file with a byte order mark
        return tomllib.loads(file.place.read_bytes().decode("utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        raise TargetError(f"{file.label}: not valid TOML: {error}") from error
    except UnicodeDecodeError as error:
        raise TargetError(f"{file.label}: not UTF-8 text: {error}") from error
    except OSError as error:
        raise TargetError(f"{file.label}: cannot be read: {error.strerror or error}") from error


def read_layers(file: TargetFile) -> list[Layer]:
    """The layers of a file and of what it extends, root first.

    Raises:
        TargetError: a file is missing, no TOML, or the chain is a cycle.
    """
    layers: list[Layer] = []
    chain: list[TargetFile] = []
    while True:
        chain.append(file)
        if file.identity in (earlier.identity for earlier in chain[:-1]):
            raise TargetError(
                f"{chain[-2].label}: extends: a cycle: {' -> '.join(each.label for each in chain)}; one of them must "
                "extend nothing"
            )
        data = _parse(file)
        parent = data.pop("extends", None)
        data.setdefault("name", file.stem)
        _hand_down_sources(data)
        layers.insert(0, Layer(file.label, data, file.folder))
        if parent is None:
            return layers
        if not isinstance(parent, str):
            raise TargetError(f"{file.label}: extends: must be the name of a target or the path of a file, in quotes")
        try:
            file = find_target(parent, beside=file.folder)
        except TargetError as error:
            raise TargetError(f"{file.label}: extends: {error}") from error


def _value(text: str) -> Any:
    """A value as in TOML; what is none is a bare word, that is, text."""
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return table["value"] if list(table) == ["value"] else text


def _mark(table: Table) -> None:
    """Name the command line as source of every number."""
    for key, value in list(table.items()):
        if key in ("source", "sources"):
            continue
        if isinstance(value, dict):
            _mark(value)
        elif holds_numbers(value) and isinstance(table.setdefault("sources", {}), dict):
            table["sources"][key] = COMMAND_LINE


def read_override(text: str) -> Layer:
    """The layer of one ``--set section.key=VALUE``; a key with special characters stands in quotes, as in TOML.

    Raises:
        TargetError: it has no ``=``, or its left side is no key.
    """
    label = f"--set {text}"
    key, equals, value = text.partition("=")
    example = "write section.key=VALUE, for example converters.adc.bits=6"
    try:
        data = tomllib.loads(f"{key.strip()} = 0") if equals and "\n" not in key else {}
    except tomllib.TOMLDecodeError:
        data = {}
    if not data or not value.strip():
        raise TargetError(f"{label}: {example}")
    table = data
    while True:
        (last,) = table
        if not isinstance(table[last], dict):
            break
        table = table[last]
    table[last] = _value(value.strip())
    _mark(data)
    return Layer(label, data)


def _merge_sources(parent: Table, child: Table, merged: Table) -> None:
    """Set ``source`` and ``sources`` of a merged section so that each number keeps the source it was given with."""
    own = {key for key in child if key not in ("source", "sources")}
    before, after = parent.get("source"), child.get("source")
    named = parent.get("sources", {})
    later = child.get("sources", {})
    if not isinstance(named, dict) or not isinstance(later, dict):
        return  # a fault, reported by the schema
    sources = {key: source for key, source in named.items() if key not in own}
    if isinstance(before, str) and isinstance(after, str) and before != after:
        for key, value in parent.items():
            if holds_numbers(value) and key not in own:
                sources.setdefault(key, before)
    sources |= later
    if sources or "sources" in merged:
        merged["sources"] = sources


def _merge(parent: Table, child: Table, shape: Shape) -> Table:
    merged = dict(parent)
    for key, value in child.items():
        below = inner(shape, key)
        old = parent.get(key)
        both = below is not None and isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _merge(old, value, below) if both and below is not None and isinstance(old, dict) else value
    if not isinstance(shape, Each):
        _merge_sources(parent, child, merged)
    return merged


def merged(layers: Sequence[Layer]) -> Table:
    """One table of all layers, the later ones winning key by key; fresh, so that it can be changed."""
    table: Table = {}
    for layer in layers:
        table = _merge(table, copy.deepcopy(layer.data), Target)
    return table


def holds(data: Table, path: Sequence[str]) -> bool:
    """Whether a table has something at a path."""
    node: Any = data
    for key in path:
        if not isinstance(node, dict) or key not in node:
            return False
        node = node[key]
    return True
