"""The options of passes put together: what the user gives becomes fields of passes, and fields become a record."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

from mcompiler.declarations import Option, Pass, field_options
from mcompiler.errors import CompileError

AnyPass = Pass[Any, Any]
PassClass = type[Any]


def option_table(classes: Iterable[PassClass]) -> dict[str, Option]:
    """The options of all passes by key, in the order of the passes; fields with one key are one option."""
    table: dict[str, Option] = {}
    for each in classes:
        for declared in field_options(each).values():
            table.setdefault(declared.key, declared)
    return table


def checked_options(classes: Sequence[PassClass], given: Mapping[str, Any]) -> dict[str, Any]:
    """A value for every option: the given one, checked, or the default.

    Args:
        classes: the passes that there are.
        given: values by key.

    Raises:
        CompileError: an option that no pass has, a value that it does not take, or options that exclude each other.
    """
    table = option_table(classes)
    for key in given:
        if key not in table:
            close = difflib.get_close_matches(key, table, 1)
            hint = f"did you mean '{close[0]}'?" if close else f"the options are {', '.join(sorted(table))}"
            raise CompileError(f"no pass has an option '{key}'; {hint}")
    values = {key: declared.checked(given.get(key, declared.default)) for key, declared in table.items()}
    used = used_passes(classes, values)
    for each in classes:
        if each in used:
            continue
        for declared in field_options(each).values():
            if declared.needs and values[declared.key] != declared.default:
                raise CompileError(declared.needs)
    refuse_exclusions(used)
    return values


def used_passes(classes: Iterable[PassClass], values: Mapping[str, Any]) -> tuple[PassClass, ...]:
    """The passes that no option leaves out."""
    return tuple(
        each
        for each in classes
        if not any(
            declared.has_off and values[declared.key] == declared.off for declared in field_options(each).values()
        )
    )


def refuse_exclusions(passes: Iterable[Any]) -> None:
    """Raise CompileError where a pass names another in ``excludes`` and both are there."""
    present = list(passes)
    names = {each.name for each in present}
    for each in present:
        for other, message in getattr(each, "excludes", {}).items():
            if other in names:
                raise CompileError(message)


def made_passes(
    classes: Iterable[PassClass], values: Mapping[str, Any], inputs: Mapping[str, Mapping[str, Any]]
) -> tuple[AnyPass, ...]:
    """The passes that the options ask for, in order.

    Args:
        classes: the passes that there are, in their order.
        values: of all options, by key.
        inputs: of fields that are no options, by name of the pass and of the field; they take precedence.
    """
    made = []
    for each in used_passes(classes, values):
        fields = {name: values[declared.key] for name, declared in field_options(each).items()}
        made.append(each(**{**fields, **inputs.get(each.name, {})}))
    return tuple(made)


def recorded_options(passes: Iterable[AnyPass]) -> dict[str, Any]:
    """The entries of manifest.json: what was asked of each pass, as JSON.

    Options that are always recorded, those of passes that an option brings in, and others where they differ from their
    default.
    """
    entries: dict[str, Any] = {}
    for step in passes:
        options = field_options(type(step))
        optional = any(declared.has_off for declared in options.values())
        for name, declared in options.items():
            value = getattr(step, name)
            if declared.recorded or optional or value != declared.default:
                _enter(entries, step, declared, value)
    return entries


def _enter(entries: dict[str, Any], step: AnyPass, declared: Option, value: Any) -> None:
    *above, last = declared.entry.split(".")
    place = entries
    for key in above:
        place = place.setdefault(key, {})
    shown = _as_json(declared, value)
    if place.setdefault(last, shown) != shown:  # another pass has the same option with another value
        entries[f"{step.name}.{declared.key}"] = shown


def _as_json(declared: Option, value: Any) -> Any:
    if declared.to_json is not None:
        return declared.to_json(value)
    return value.value if isinstance(value, Enum) else value


def options_as_json(classes: Sequence[PassClass]) -> list[dict[str, Any]]:
    """The options of all passes for the command line, which does not import the passes for ``--help``.

    ``with``: key of the option that brings in the pass, for an option that is refused without it.
    """
    owners: dict[str, str | None] = {}
    for each in classes:
        options = field_options(each).values()
        owner = next((declared.key for declared in options if declared.has_off), None)
        for declared in options:
            owners.setdefault(declared.key, owner if declared.needs else None)
    return [{**declared.as_json(), "with": owners[key]} for key, declared in option_table(classes).items()]
