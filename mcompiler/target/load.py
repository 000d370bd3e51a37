"""Load and check targets: report all problems at once, each with file, key and remedy."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from mcompiler.errors import TargetError
from mcompiler.target.base import Choices, Section
from mcompiler.target.components import Component
from mcompiler.target.effect_tables import known_tables
from mcompiler.target.layers import (
    COMMAND_LINE,
    EffectTable,
    SectionTable,
    Table,
    TableSchema,
    TargetLayer,
    has_key,
    holds_numbers,
    merged,
    read_layers,
    read_override,
    schema_below,
    sections_of,
)
from mcompiler.target.locate import did_you_mean, find_target, target_names
from mcompiler.target.measured import with_measured_levels
from mcompiler.target.messages import describe_value_errors
from mcompiler.target.prices import prices
from mcompiler.target.ranges import range_violations
from mcompiler.target.references import with_references
from mcompiler.target.rules import violations
from mcompiler.target.schema import Target
from mcompiler.target.state_tables import with_state_tables


@dataclass(frozen=True)
class TargetProblem:
    """A problem of a target: the file (or override), the key path, the fact and the remedy."""

    file: str
    key: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.key, self.message) if part)


def _choices(path: Sequence[str]) -> list[str]:
    """The words that the schema allows at a path."""
    section = _schema_at(path[:-1])
    if not isinstance(section, type) or path[-1] not in section.model_fields:
        return []
    field = section.model_fields[path[-1]]
    kinds = [field.annotation]
    words = [word for each in field.metadata if isinstance(each, Choices) for word in each.names()]
    for kind in kinds:  # grows by the members of unions, and by the metadata of those that are annotated
        if isinstance(kind, Choices):
            words += kind.names()
        elif isinstance(kind, type) and issubclass(kind, Enum):
            words += [member.value for member in kind]
        elif get_origin(kind) is Literal:
            words += get_args(kind)
        else:
            kinds += get_args(kind)
    return words


def _schema_at(path: Sequence[str]) -> TableSchema | None:
    schema: TableSchema | None = Target
    for key in path:
        schema = schema_below(schema, key) if schema is not None else None
    return schema


def _key_of(error: ErrorDetails) -> tuple[str, ...]:
    """Path of the key: pydantic's location, without the parts that it adds for unions."""
    location = tuple(str(part) for part in error["loc"])
    for length, key in enumerate(location, 1):
        if key != "sources" and _schema_at(location[:length]) is None:
            return location[:length]
    return location


def _paths_to(key: str, shape: TableSchema = Target, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Paths of the schema that end in ``key``."""
    if not isinstance(shape, type):
        return
    for name in shape.model_fields:
        below = schema_below(shape, name)
        if name == key and path:
            yield ".".join((*path, name))
        if below is not None:
            yield from _paths_to(key, below, (*path, name))


def _unknown(path: tuple[str, ...]) -> str:
    shape = _schema_at(path[:-1])
    if isinstance(shape, EffectTable):
        names = list(known_tables())
        installed = did_you_mean(path[-1], names) or (f"; installed: {', '.join(names)}" if names else "")
        return f"no installed package adds an effect of this name to targets{installed}"
    if path[0] == "components" and path[-1] == "scales_with":
        return "no longer a key: rule names how figures follow the target, reference is a table of quantities"
    known = list(shape.model_fields) if isinstance(shape, type) else []
    close = did_you_mean(path[-1], known)
    if not close and len(path) == 1:
        elsewhere = list(_paths_to(path[0]))
        close = f"; did you mean {' or '.join(repr(each) for each in elsewhere)}?" if elsewhere else ""
    return f"unknown key{close or '; known here: ' + ', '.join(known)}"


def _message(errors: Sequence[ErrorDetails], path: tuple[str, ...], data: Table) -> str:
    """The message for one key, from all errors that pydantic reports for it."""
    first = errors[0]
    if first["type"] == "extra_forbidden":
        return _unknown(path)
    if first["type"] == "missing":
        others = [name for name in data.get("components", {}) if name != path[1]] if path[0] == "components" else []
        return "missing" + (did_you_mean(path[1], others, noun="component") if others else "")
    return describe_value_errors(errors, _choices(path))


def _origin(layers: Sequence[TargetLayer], path: Sequence[str]) -> str:
    """Label of the last layer that gives a key, else the nearest table above it; else the user's file."""
    for length in range(len(path), 0, -1):
        for layer in reversed(layers):
            if has_key(layer.data, path[:length]):
                return layer.label
    return next(layer.label for layer in reversed(layers) if not layer.is_override)


def _schema_problems(error: ValidationError, layers: Sequence[TargetLayer], data: Table) -> Iterator[TargetProblem]:
    at: dict[tuple[str, ...], list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        if detail["loc"]:  # an error of the whole target has none: the rules between sections report it
            at.setdefault(_key_of(detail), []).append(detail)
    for path, details in at.items():
        yield TargetProblem(_origin(layers, path), ".".join(path), _message(details, path, data))


def _valid_sections(
    error: ValidationError, data: Table
) -> tuple[dict[str, Section | Mapping[str, Section]], dict[str, Section]]:
    """The sections that are valid on their own, unknown keys aside, so that rules can be applied to them.

    Those of the target by name, its components as a table, and tables of effects by name.
    """
    known = copy.deepcopy(data)
    for detail in error.errors(include_url=False):
        if detail["type"] == "extra_forbidden":
            node: Any = known
            for key in detail["loc"][:-1]:
                node = node[key]
            del node[detail["loc"][-1]]
    components = _valid_tables(known.get("components"), SectionTable(Component))
    sections: dict[str, Section | Mapping[str, Section]] = {"components": components}
    for name in Target.model_fields:
        model = schema_below(Target, name)
        if not isinstance(model, type):
            continue
        try:
            sections[name] = model.model_validate(known.get(name))
        except ValidationError:
            continue
    return sections, _valid_tables(known.get("effects"), EffectTable())


def _valid_tables(tables: Any, kind: TableSchema) -> dict[str, Section]:
    """The tables of a section, such as effects, that are valid on their own."""
    valid: dict[str, Section] = {}
    for name, table in tables.items() if isinstance(tables, dict) else ():
        model = schema_below(kind, name)
        if not isinstance(model, type):
            continue
        try:
            valid[name] = model.model_validate(table)
        except ValidationError:
            continue
    return valid


def _source_problems(layer: TargetLayer) -> Iterator[TargetProblem]:
    """Numbers of a layer without a source, and sources of unknown keys.

    A number equal to the schema's default needs no source: the file would mean the same without it.
    """
    for path, model, table in sections_of(layer.data):
        sources = table.get("sources")
        named = sources if isinstance(sources, dict) else {}
        fields = [name for name in model.model_fields if name not in ("source", "sources")]
        for key, source in named.items():
            if key not in fields and source != COMMAND_LINE:  # an unknown key is reported already
                where = ".".join((*path, "sources", key))
                yield TargetProblem(layer.label, where, f"names no key of the section{did_you_mean(key, fields)}")
        bare = [
            key
            for key, value in table.items()
            if key in fields
            and holds_numbers(value)
            and value != model.model_fields[key].default
            and not (named.get(key) or (path and table.get("source")))
        ]
        if bare:
            yield TargetProblem(
                layer.label,
                ".".join(path),
                f'no source for {", ".join(bare)}; write source = "..." in the section, or '
                f'sources.{bare[0]} = "..." ("assumption: ..." is legal)',
            )


CHECKED_WITHIN = 2.0
"""Factor that a number may differ by from what the rule of its component computes."""


def _computed_figures(target: Target, layers: Sequence[TargetLayer]) -> Iterator[TargetProblem]:
    """Numbers of figures that a rule computes: a check in a file, without effect and thus an error in an override."""
    files = [layer for layer in layers if not layer.is_override]
    ours, described = prices(target), None
    for name, component in target.components.items():
        rule = component.price_rule
        for figure in sorted(rule.computes):
            given, key = float(getattr(component, figure.value)), f"components.{name}.{figure.value}"
            if not given:
                continue
            computed = float(getattr(ours[name], figure.value))
            origin = _origin(layers, key.split("."))
            remedy = f"leave it out, or set components.{name}.rule = 'constant' to price it by this number"
            if component.sources.get(figure.value) == COMMAND_LINE:
                yield TargetProblem(origin, key, f"rule '{rule.name}' computes it ({computed:.4g}); {remedy}")
                continue
            if described is None:  # a number in a file is checked at the chip that the file describes
                described = prices(Target.model_validate(merged(files)))
            computed = float(getattr(described[name], figure.value))
            if not 1 / CHECKED_WITHIN <= given / max(computed, 1e-300) <= CHECKED_WITHIN:
                message = f"{given:g}, but rule '{rule.name}' computes {computed:.4g} ({rule.summary}); {remedy}"
                yield TargetProblem(origin, key, message)


def _load(name_or_path: str | Path, overrides: Sequence[str]) -> tuple[Target | None, list[TargetProblem]]:
    layers = read_layers(find_target(name_or_path)) + [read_override(text) for text in overrides]
    layers = with_measured_levels(with_state_tables(layers))
    data = merged(layers)
    target, error = None, None
    try:
        target = Target.model_validate(data)
    except ValidationError as caught:
        error = caught
    problems = list(_schema_problems(error, layers, data)) if error is not None else []
    if error is not None:
        for key, message in violations(*_valid_sections(error, data)):
            problems.append(TargetProblem(_origin(layers, key.split(".")), key, message))
    for path, message in range_violations(data):
        problems.append(TargetProblem(_origin(layers, path), ".".join(path), message))
    for layer in layers:
        problems.extend(_source_problems(layer))
    if target is not None and not problems:
        problems.extend(_computed_figures(target, layers))
    return (None if target is None or problems else with_references(target, layers)), problems


def load_target(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Target:
    """Load a target description.

    Args:
        name_or_path: the name of a shipped target or of one that an installed package brings (entry point group
            ``mcompiler.targets``: the entry point's name is the target's, its value a package that holds
            ``<name>.toml``); or the path of a file.
        overrides: ``section.key=VALUE`` each, VALUE as in TOML or a bare word; later ones win. Their numbers get the
            source "given on the command line".

    Raises:
        TargetError: all problems, one per line: file or override, key path, fact and remedy.
    """
    target, problems = _load(name_or_path, overrides)
    if problems or target is None:
        raise TargetError("\n".join(str(fault) for fault in problems))
    return target


def check_target(name_or_path: str | Path, overrides: Sequence[str] = ()) -> tuple[str, ...]:
    """All problems of a target, as in the message of ``load_target``; empty if there are none."""
    try:
        _, problems = _load(name_or_path, overrides)
    except TargetError as error:
        return (str(error),)
    return tuple(str(fault) for fault in problems)


def list_targets() -> list[tuple[str, str]]:
    """Name and description of every shipped and installed target, by name.

    A target that cannot be read is listed with the reason, so that the others are still listed.
    """
    listed = []
    for name in target_names():
        try:
            description = str(merged(read_layers(find_target(name))).get("description", ""))
        except TargetError as error:
            description = f"cannot be read: {error}"
        listed.append((name, description))
    return listed
