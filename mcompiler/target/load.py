"""Loading and checking targets: all faults of a file at once, each with its file, its key and what to do."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from mcompiler.errors import TargetError
from mcompiler.target.base import Section
from mcompiler.target.layers import (
    COMMAND_LINE,
    Each,
    Layer,
    Shape,
    Table,
    holds,
    holds_numbers,
    inner,
    merged,
    read_layers,
    read_override,
    sections_of,
)
from mcompiler.target.locate import did_you_mean, find_target, target_names
from mcompiler.target.measured import with_measured_levels
from mcompiler.target.messages import describe_value_errors
from mcompiler.target.rules import disagreements
from mcompiler.target.scaling import scaled
from mcompiler.target.schema import Target


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong in a target: the file (or override), the key path, the fact and the remedy."""

    file: str
    key: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.key, self.message) if part)


def _shape_at(path: Sequence[str]) -> Shape | None:
    shape: Shape | None = Target
    for key in path:
        shape = inner(shape, key) if shape is not None else None
    return shape


def _key_of(error: ErrorDetails) -> tuple[str, ...]:
    """The key at fault: pydantic's location, without what it adds for unions below a key."""
    location = tuple(str(part) for part in error["loc"])
    for length, key in enumerate(location, 1):
        if key != "sources" and _shape_at(location[:length]) is None:
            return location[:length]
    return location


def _paths_to(key: str, shape: Shape = Target, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Paths of the schema that end in ``key``."""
    if isinstance(shape, Each):
        return
    for name in shape.model_fields:
        below = inner(shape, name)
        if name == key and path:
            yield ".".join((*path, name))
        if below is not None:
            yield from _paths_to(key, below, (*path, name))


def _unknown(path: tuple[str, ...]) -> str:
    shape = _shape_at(path[:-1])
    known = list(shape.model_fields) if shape is not None and not isinstance(shape, Each) else []
    close = did_you_mean(path[-1], known)
    if not close and len(path) == 1:
        elsewhere = list(_paths_to(path[0]))
        close = f"; did you mean {' or '.join(repr(each) for each in elsewhere)}?" if elsewhere else ""
    return f"unknown key{close or '; known here: ' + ', '.join(known)}"


def _message(errors: Sequence[ErrorDetails], path: tuple[str, ...], data: Table) -> str:
    """What is wrong at one key, from all that pydantic says about it."""
    first = errors[0]
    if first["type"] == "extra_forbidden":
        return _unknown(path)
    if first["type"] == "missing":
        others = [name for name in data.get("components", {}) if name != path[1]] if path[0] == "components" else []
        return "missing" + (did_you_mean(path[1], others).replace("mean", "mean the component") if others else "")
    return describe_value_errors(errors)


def _origin(layers: Sequence[Layer], path: Sequence[str]) -> str:
    """The label of the last layer that gives a key, or what is nearest above it; the user's own file otherwise."""
    for length in range(len(path), 0, -1):
        for layer in reversed(layers):
            if holds(layer.data, path[:length]):
                return layer.label
    return next(layer.label for layer in reversed(layers) if not layer.label.startswith("--set "))


def _schema_faults(error: ValidationError, layers: Sequence[Layer], data: Table) -> Iterator[Fault]:
    at: dict[tuple[str, ...], list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        if detail["loc"]:  # the whole target has none: what its sections must agree on is asked of the rules
            at.setdefault(_key_of(detail), []).append(detail)
    for path, details in at.items():
        yield Fault(_origin(layers, path), ".".join(path), _message(details, path, data))


def _valid_sections(error: ValidationError | None, data: Table) -> dict[str, Section]:
    """The sections that are valid in themselves, unknown keys aside, so that rules can be applied to them."""
    known = copy.deepcopy(data)
    for detail in error.errors(include_url=False) if error is not None else ():
        if detail["type"] == "extra_forbidden":
            node: Any = known
            for key in detail["loc"][:-1]:
                node = node[key]
            del node[detail["loc"][-1]]
    sections: dict[str, Section] = {}
    for name in Target.model_fields:
        model = inner(Target, name)
        if model is None or isinstance(model, Each):
            continue
        try:
            sections[name] = model.model_validate(known.get(name))
        except ValidationError:
            continue
    return sections


def _source_faults(layer: Layer) -> Iterator[Fault]:
    """Numbers that a layer gives without a source, and sources of keys that do not exist.

    A number equal to the schema's default needs none: it says nothing that leaving it out would not.
    """
    for path, model, table in sections_of(layer.data):
        sources = table.get("sources")
        named = sources if isinstance(sources, dict) else {}
        fields = [name for name in model.model_fields if name not in ("source", "sources")]
        for key, source in named.items():
            if key not in fields and source != COMMAND_LINE:  # the unknown key itself is a fault already
                where = ".".join((*path, "sources", key))
                yield Fault(layer.label, where, f"names no key of the section{did_you_mean(key, fields)}")
        bare = [
            key
            for key, value in table.items()
            if key in fields
            and holds_numbers(value)
            and value != model.model_fields[key].default
            and not (named.get(key) or (path and table.get("source")))
        ]
        if bare:
            yield Fault(
                layer.label,
                ".".join(path),
                f'no source for {", ".join(bare)}; write source = "..." in the section, or '
                f'sources.{bare[0]} = "..." ("assumption: ..." is legal)',
            )


def _load(name_or_path: str | Path, overrides: Sequence[str]) -> tuple[Target | None, list[Fault]]:
    layers = read_layers(find_target(name_or_path)) + [read_override(text) for text in overrides]
    layers = with_measured_levels(layers)
    data = merged(layers)
    target, error = None, None
    try:
        target = Target.model_validate(data)
    except ValidationError as caught:
        error = caught
    faults = list(_schema_faults(error, layers, data)) if error is not None else []
    if error is not None:
        for key, message in disagreements(_valid_sections(error, data)):
            faults.append(Fault(_origin(layers, key.split(".")), key, message))
    for layer in layers:
        faults.extend(_source_faults(layer))
    return (None if target is None else scaled(target)), faults


def load_target(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Target:
    """Load a target description.

    Args:
        name_or_path: the name of a shipped target or of one that an installed package brings (entry point group
            ``mcompiler.targets``: the entry point's name is the target's, its value a package that holds
            ``<name>.toml``); or the path of a file.
        overrides: ``section.key=VALUE`` each, VALUE as in TOML or a bare word; later ones win. Their numbers get the
            source "given on the command line".

    Raises:
        TargetError: all that is wrong, one fault a line: file or override, key path, fact and remedy.
    """
    target, faults = _load(name_or_path, overrides)
    if faults or target is None:
        raise TargetError("\n".join(str(fault) for fault in faults))
    return target


def check_target(name_or_path: str | Path, overrides: Sequence[str] = ()) -> tuple[str, ...]:
    """All faults of a target, one text each, as in the message of ``load_target``'s error; none if it is fine."""
    try:
        _, faults = _load(name_or_path, overrides)
    except TargetError as error:
        return (str(error),)
    return tuple(str(fault) for fault in faults)


def list_targets() -> list[tuple[str, str]]:
    """Name and description of every shipped and installed target, by name.

    A target that cannot be read is listed with the reason, so that one broken package hides no other.
    """
    listed = []
    for name in target_names():
        try:
            description = str(merged(read_layers(find_target(name))).get("description", ""))
        except TargetError as error:
            description = f"cannot be read: {error}"
        listed.append((name, description))
    return listed
