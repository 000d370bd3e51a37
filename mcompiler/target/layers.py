"""Merge files (``extends``) and overrides (``--set``) into one table, with the source of every number.

The layers of a target are merged in this order: the file at the root of the ``extends`` chain, the files that extend
it, the overrides. A number keeps the source that was given with it: where a child file changes a number, the parent's
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

from mcompiler.effects.registry import section_of
from mcompiler.errors import TargetError
from mcompiler.target.base import Section
from mcompiler.target.locate import TargetFile, find_target
from mcompiler.target.schema import Target

COMMAND_LINE = "given on the command line"

LARGEST_FILE = 4 << 20
"""Bytes of a target file."""

LARGEST_DEPTH = 16
"""Levels of tables and lists in a target."""

LONGEST_CHAIN = 32
"""Files that extend each other."""

Table = dict[str, Any]
KeyPath = tuple[str, ...]


@dataclass(frozen=True)
class SectionTable:
    """A table of sections of one kind under free names: components, layers."""

    model: type[Section]


@dataclass(frozen=True)
class EffectTable:
    """The table of tables [effects]: the effect of a name decides the kind of its table."""


TableSchema = type[Section] | SectionTable | EffectTable


@dataclass(frozen=True)
class TargetLayer:
    """The table of one file or one override.

    Attributes:
        label: its name in messages.
        data: the table.
        folder: where relative paths in it start; None for an override, whose paths start in the working directory.
    """

    label: str
    data: Table
    folder: Traversable | None = None

    @property
    def is_override(self) -> bool:
        """Whether it is an override, not a file."""
        return self.folder is None


def schema_below(shape: TableSchema, key: str) -> TableSchema | None:
    """The schema of the table under ``key``; None where the value is no table."""
    if isinstance(shape, SectionTable):
        return shape.model
    if isinstance(shape, EffectTable):
        return section_of(key)
    if shape is Target and key == "effects":
        return EffectTable()
    field = shape.model_fields.get(key)
    kind = field.annotation if field is not None else None
    if isinstance(kind, UnionType):  # an optional section
        kind = next((each for each in get_args(kind) if isinstance(each, type) and issubclass(each, Section)), None)
    if isinstance(kind, type) and issubclass(kind, Section):
        return kind
    if get_origin(kind) is dict:
        value = get_args(kind)[1]
        if isinstance(value, type) and issubclass(value, Section):
            return SectionTable(value)
    return None


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a TOML value is a number (true and false are none)."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def holds_numbers(value: object) -> bool:
    """Whether a TOML value is a number or a list of numbers, which needs a source."""
    return is_number(value) or (isinstance(value, list | tuple) and bool(value) and all(map(is_number, value)))


def sections_of(
    data: Table, shape: TableSchema = Target, path: KeyPath = ()
) -> Iterator[tuple[KeyPath, type[Section], Table]]:
    """All tables of ``data`` that are sections in the schema, with path and model; outer ones first."""
    if isinstance(shape, type):
        yield path, shape, data
    for key, value in data.items():
        below = schema_below(shape, key)
        if below is not None and isinstance(value, dict):
            yield from sections_of(value, below, (*path, key))


def _has_bare_number(table: Table, model: type[Section]) -> bool:
    """Whether a number has no entry in ``sources``. One that is equal to the default needs none."""
    named = table.get("sources")
    covered = named if isinstance(named, dict) else {}
    defaults = {name: field.default for name, field in model.model_fields.items()}
    return any(
        holds_numbers(value) and not covered.get(key) and value != defaults.get(key) for key, value in table.items()
    )


def _hand_down_sources(data: Table) -> None:
    """Copy a section's source to inner sections that need one and have none. The root's source covers no number."""
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
        content = file.place.read_bytes()
        if len(content) > LARGEST_FILE:
            raise TargetError(f"{file.label}: {len(content)} bytes, more than the {LARGEST_FILE} of the largest target")
        return _checked_depth(tomllib.loads(content.decode("utf-8-sig")), file.label)
    except (RecursionError, MemoryError) as error:
        raise TargetError(f"{file.label}: tables or lists are nested too deeply") from error
    except UnicodeDecodeError as error:
        raise TargetError(f"{file.label}: not UTF-8 text: {error}") from error
    except ValueError as error:  # tomllib.TOMLDecodeError, and numbers and dates that Python does not convert
        raise TargetError(f"{file.label}: not valid TOML: {error}") from error
    except OSError as error:
        raise TargetError(f"{file.label}: cannot be read: {error.strerror or error}") from error


def _checked_depth(data: Table, label: str) -> Table:
    """The table, if nothing in it is nested deeper than ``LARGEST_DEPTH``: every level below is walked by recursion."""
    level: list[Any] = [data]
    for _ in range(LARGEST_DEPTH):
        level = [below for each in level for below in (each.values() if isinstance(each, dict) else each)]
        level = [each for each in level if isinstance(each, dict | list)]
        if not level:
            return data
    raise TargetError(f"{label}: tables or lists are nested deeper than {LARGEST_DEPTH} levels")


def read_layers(file: TargetFile) -> list[TargetLayer]:
    """The layers of a file and of what it extends, root first.

    Raises:
        TargetError: a file is missing or not valid TOML, or the chain is a cycle.
    """
    layers: list[TargetLayer] = []
    chain: list[TargetFile] = []
    while True:
        chain.append(file)
        if file.identity in (earlier.identity for earlier in chain[:-1]):
            raise TargetError(
                f"{chain[-2].label}: extends: a cycle: {' -> '.join(each.label for each in chain)}; one of them must "
                "extend nothing"
            )
        if len(chain) > LONGEST_CHAIN:
            raise TargetError(f"{chain[0].label}: extends: a chain of over {LONGEST_CHAIN} files; merge some of them")
        data = _parse(file)
        parent = data.pop("extends", None)
        data.setdefault("name", file.stem)
        _hand_down_sources(data)
        layers.insert(0, TargetLayer(file.label, data, file.folder))
        if parent is None:
            return layers
        if not isinstance(parent, str):
            raise TargetError(f"{file.label}: extends: must be the name of a target or the path of a file, in quotes")
        try:
            file = find_target(parent, folder=file.folder)
        except TargetError as error:
            raise TargetError(f"{file.label}: extends: {error}") from error


def _value(text: str) -> Any:
    """A TOML value, or else the text itself."""
    try:
        table = _checked_depth(tomllib.loads(f"value = {text}"), "a value")
    except (ValueError, RecursionError, TargetError):  # not TOML, or more than any key takes: no key takes the text
        return text
    return table["value"] if list(table) == ["value"] else text


def _mark(table: Table) -> None:
    """Set the source of every number to the command line."""
    for key, value in list(table.items()):
        if key in ("source", "sources", "reference", "references"):
            continue
        if isinstance(value, dict):
            _mark(value)
        elif holds_numbers(value) and isinstance(table.setdefault("sources", {}), dict):
            table["sources"][key] = COMMAND_LINE


def read_override(text: str) -> TargetLayer:
    """The layer of one ``--set section.key=VALUE``; a key with special characters needs quotes, as in TOML.

    Raises:
        TargetError: it has no ``=``, or its left side is no key.
    """
    label = f"--set {text}"
    key, equals, value = text.partition("=")
    example = "write section.key=VALUE, for example converters.adc.bits=6"
    try:
        data = _checked_depth(tomllib.loads(f"{key.strip()} = 0") if equals and "\n" not in key else {}, label)
    except (ValueError, RecursionError, TargetError):
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
    return TargetLayer(label, data)


def _merge_sources(parent: Table, child: Table, merged: Table) -> None:
    """Set ``source`` and ``sources`` of a merged section so that each number keeps the source it was given with."""
    own = {key for key in child if key not in ("source", "sources")}
    before, after = parent.get("source"), child.get("source")
    named = parent.get("sources", {})
    later = child.get("sources", {})
    if not isinstance(named, dict) or not isinstance(later, dict):
        return  # reported by the schema
    sources = {key: source for key, source in named.items() if key not in own}
    if isinstance(before, str) and isinstance(after, str) and before != after:
        for key, value in parent.items():
            if holds_numbers(value) and key not in own:
                sources.setdefault(key, before)
    sources |= later
    if sources or "sources" in merged:
        merged["sources"] = sources


def _merge(parent: Table, child: Table, shape: TableSchema) -> Table:
    merged = dict(parent)
    for key, value in child.items():
        below = schema_below(shape, key)
        old = parent.get(key)
        both = below is not None and isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _merge(old, value, below) if both and below is not None and isinstance(old, dict) else value
    if isinstance(shape, type):
        _merge_sources(parent, child, merged)
    return merged


def merged(layers: Sequence[TargetLayer]) -> Table:
    """Merge layers key by key, later ones take precedence; a copy that the caller may change."""
    table: Table = {}
    for layer in layers:
        table = _merge(table, copy.deepcopy(layer.data), Target)
    return table


def has_key(data: Table, path: Sequence[str]) -> bool:
    """Whether a table has a value at a path."""
    node: Any = data
    for key in path:
        if not isinstance(node, dict) or key not in node:
            return False
        node = node[key]
    return True
