"""The numeric keys of a loaded target, and targets with another value of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from mcompiler.errors import TargetError
from mcompiler.target.base import KeyPath, Section
from mcompiler.target.ranges import OTHERS, range_of
from mcompiler.target.schema import Target

Number = int | float | tuple[int | float, ...]
"""The value of a numeric key: a number, or a list of numbers."""

FACTOR = 1.5

_NO_KEYS = ("source", "sources", "description", "reference", "references")
"""Entries of sections that hold no keys of their own: prose, and the points at which figures hold."""


def numeric_keys(target: Target) -> dict[KeyPath, Number]:
    """The numbers that a target gives, by their keys, in the order of the schema."""
    return dict(_numbers(target, ()))


def other_values(key: str, value: Number) -> Iterator[Number]:
    """Other values of a key: first larger by a factor (whole numbers 2, others 1.5), then smaller, then much larger.

    Zero becomes a small number of the unit.
    """
    if isinstance(value, tuple):
        if all(isinstance(each, int) for each in value):
            yield tuple(each + 1 for each in value)
        yield tuple(each * FACTOR for each in value)
    elif isinstance(value, int):
        smaller = (value // 2, value - 1) if value > 1 else ()
        yield from dict.fromkeys(each for each in (2 * value, value + 1, *smaller) if each != value)
    elif value:
        yield from (value * FACTOR, value / FACTOR, value * 10)
        if 0 < value < 0.5:
            yield 0.5  # a share of few lines may need as many to change one of them
    else:
        unit = range_of(key)
        yield 0.1 if unit is OTHERS else unit.smallest


def with_number(target: Target, path: KeyPath, value: Number) -> Target:
    """The target with another value of one numeric key; figures hold at the same points as before.

    Raises:
        TargetError: the value is out of range, or other sections do not allow it.
    """
    data = target.model_dump(exclude_unset=True)
    table = data
    for key in path[:-1]:
        table = table[key]
    table[path[-1]] = value
    try:
        return Target.model_validate(data)
    except ValidationError as error:
        message = str(error.errors()[0]["msg"]).removeprefix("Value error, ").splitlines()[0]
        raise TargetError(f"{'.'.join(path)} = {value}: {message}") from error


def _numbers(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Number]]:
    if isinstance(value, Section):
        for key in type(value).model_fields:
            if key in value.model_fields_set and key not in _NO_KEYS:
                yield from _numbers(getattr(value, key), (*path, key))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _numbers(item, (*path, key))
    elif _is_number(value) or (isinstance(value, tuple) and value and all(map(_is_number, value))):
        yield path, value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
