"""The types of values that were read from JSON, compared with the annotations of the dataclasses that hold them."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def check_types(record: Any) -> None:
    """Raise TypeError where a field of a dataclass, at any depth, holds a value of another type than it states.

    JSON says nothing about types, and a text in the place of a number would fail far from the file that holds it.
    """
    for name, hint in _hints(type(record)).items():
        value = getattr(record, name)
        if not _fits(value, hint):
            raise TypeError(f"{type(record).__name__}.{name} is a {type(value).__name__}, not {hint}")


def _hints(kind: type[Any]) -> dict[str, Any]:
    known = get_type_hints(kind)
    return {field.name: known[field.name] for field in dataclasses.fields(kind)}


def _fits(value: object, hint: Any) -> bool:
    if hint is Any:
        return True
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        inner = [parts[0]] * len(value) if len(parts) == 2 and parts[1] is Ellipsis else list(parts)
        return len(inner) == len(value) and all(map(_fits, value, inner))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(_fits(k, parts[0]) and _fits(v, parts[1]) for k, v in value.items())
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return isinstance(value, Sequence) and not isinstance(value, str) and all(_fits(v, parts[0]) for v in value)
    if hint in (int, float):
        return isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool)
    if not isinstance(hint, type):
        return True
    if not isinstance(value, hint):
        return False
    if dataclasses.is_dataclass(value):
        check_types(value)
    return True
