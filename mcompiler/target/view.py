"""A target with only the keys that a pass declares: the values that a pass can depend on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from mcompiler.errors import UndeclaredKeyError
from mcompiler.target.base import KeyPath, Section
from mcompiler.target.schema import Target

AnySection = TypeVar("AnySection", bound=Section)

KeyTree = dict[str, "KeyTree"]
"""Declared keys by level; an empty dictionary stands for a key with everything below it."""

EVERY = "*"
"""Stands for every entry of a table such as ``components``: ``components.*.latency_s``."""

_PROSE = frozenset(["source", "sources", "description"])
"""Keys that no result depends on: a view leaves them out."""


@dataclass(frozen=True)
class KeysWhere:
    """Keys that a pass reads of some targets only.

    Attributes:
        keys: as ``target_view`` takes them.
        where: of which targets; it reads keys only that the pass declares in any case.
    """

    keys: tuple[str, ...]
    where: Callable[[Target], bool]


def declared_keys(target: Target, reads: Sequence[str | KeysWhere]) -> tuple[str, ...]:
    """The keys that a declaration names for this target."""
    found: list[str] = []
    for each in reads:
        if isinstance(each, str):
            found.append(each)
        elif each.where(target):
            found.extend(each.keys)
    return tuple(dict.fromkeys(found))


def target_view(target: Target, keys: Sequence[str | KeysWhere]) -> Target:
    """The target with the declared keys and its name; reading any other key raises ``UndeclaredKeyError``.

    The view is a separate ``Target``: properties and methods work on it as far as they read declared keys, views that
    hold equal values are equal, and it survives pickling.

    Args:
        target: the whole target.
        keys: paths of sections or keys: ``array``, ``converters.adc.bits``, ``components.*.latency_s``; or such paths
            with a condition.

    Raises:
        KeyError: a path that no target has.
    """
    tree: KeyTree = {"name": {}}
    for path in declared_keys(target, keys):
        _insert(tree, path.split("."))
    return _section_view(target, tree)


def view_content(view: Target) -> dict[str, Any]:
    """The values of a view but its name, as JSON: equal for targets between which a pass cannot distinguish."""
    content = _content(view)
    assert isinstance(content, dict)
    content.pop("name")
    return content


def changed_keys(before: Target, after: Target) -> dict[KeyPath, Any]:
    """The keys in which two targets differ, with their values in the second; None for one that it does not have.

    Sources and descriptions are no such keys.
    """
    old, new = dict(_leaves(_content(before))), dict(_leaves(_content(after)))
    return {path: new.get(path) for path in {**old, **new} if old.get(path) != new.get(path)}


def covers(key: str, path: KeyPath) -> bool:
    """Whether a declared key is the key at a path, lies above it, or lies below it."""
    pairs = zip(key.split("."), path, strict=False)
    return all(declared in (EVERY, given) for declared, given in pairs)


def _leaves(content: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    if not isinstance(content, Mapping):
        yield path, content
        return
    for key, value in content.items():
        if key not in _PROSE:
            yield from _leaves(value, (*path, key))


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


__all__ = [
    "KeyPath",
    "KeysWhere",
    "UndeclaredKeyError",
    "changed_keys",
    "covers",
    "declared_keys",
    "target_view",
    "view_content",
]
