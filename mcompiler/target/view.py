"""A target with only the keys that a pass declares: the values that a pass can depend on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, TypeVar

from mcompiler.errors import UndeclaredKeyError
from mcompiler.target.base import Section
from mcompiler.target.schema import Target

AnySection = TypeVar("AnySection", bound=Section)

KeyTree = dict[str, "KeyTree"]
"""Declared keys by level; an empty dictionary stands for a key with everything below it."""

EVERY = "*"
"""Stands for every entry of a table such as ``components``: ``components.*.latency_s``."""

_PROSE = frozenset(["source", "sources", "description"])
"""Keys that no result depends on: a view leaves them out."""


def target_view(target: Target, keys: Sequence[str]) -> Target:
    """The target with the declared keys and its name; reading any other key raises ``UndeclaredKeyError``.

    The view is a separate ``Target``: properties and methods work on it as far as they read declared keys, views that
    hold equal values are equal, and it survives pickling.

    Args:
        target: the whole target.
        keys: paths of sections or keys: ``array``, ``converters.adc.bits``, ``components.*.latency_s``.

    Raises:
        KeyError: a path that no target has.
    """
    tree: KeyTree = {"name": {}}
    for path in keys:
        _insert(tree, path.split("."))
    return _section_view(target, tree)


def view_content(view: Target) -> dict[str, Any]:
    """The values of a view but its name, as JSON: equal for targets between which a pass cannot distinguish."""
    content = _content(view)
    assert isinstance(content, dict)
    content.pop("name")
    return content


def _insert(tree: KeyTree, path: Sequence[str]) -> None:
    """Add a path; one that ends at a section covers those that lead into it."""
    for position, key in enumerate(path):
        last = position == len(path) - 1
        if key in tree and not tree[key]:
            return
        if last:
            tree[key] = {}
        else:
            tree = tree.setdefault(key, {})


def _section_view(section: AnySection, tree: KeyTree) -> AnySection:
    """A copy that holds the keys of the tree only; an empty tree: all keys but the prose."""
    fields = type(section).model_fields
    unknown = set(tree) - set(fields)
    if unknown:
        raise KeyError(f"{type(section).__name__} has no key '{min(unknown)}'")
    wanted = tree or {key: {} for key in fields if key not in _PROSE}
    held = {key: _value_view(getattr(section, key), below) for key, below in wanted.items()}
    view = section.model_copy()
    object.__setattr__(view, "__dict__", held)  # pydantic keeps the values of the fields there
    return view


def _value_view(value: Any, tree: KeyTree) -> Any:
    if isinstance(value, Section):
        return _section_view(value, tree)
    if isinstance(value, Mapping):
        return {key: _value_view(item, tree.get(EVERY, {})) for key, item in value.items()}
    return value  # None where an optional section is absent


def _content(value: Any) -> Any:
    if isinstance(value, Section):
        return {key: _content(item) for key, item in sorted(value.__dict__.items())}
    if isinstance(value, Mapping):
        return {str(key): _content(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_content(item) for item in value]
    return value.value if isinstance(value, Enum) else value


__all__ = ["UndeclaredKeyError", "target_view", "view_content"]
