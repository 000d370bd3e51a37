"""Find target files: by name among the shipped ones and those of installed packages, or by path."""

from __future__ import annotations

import difflib
import importlib.metadata
import importlib.resources
import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path

from mcompiler.errors import TargetError

ENTRY_POINT_GROUP = "mcompiler.targets"


@dataclass(frozen=True)
class TargetFile:
    """A target's TOML file.

    Args:
        label: its name in messages: the path as the user gave it, or the file name.
        place: the file.
        folder: where a relative ``extends`` starts.
    """

    label: str
    place: Traversable
    folder: Traversable

    @property
    def stem(self) -> str:
        """The file name without ``.toml``, which is the target's name where the file gives none."""
        return self.place.name.removesuffix(".toml")

    @property
    def identity(self) -> str:
        """The same text for all paths to one file."""
        return str(self.place.resolve() if isinstance(self.place, Path) else self.place)


def did_you_mean(word: str, known: Iterable[str], noun: str = "") -> str:
    """``"; did you mean 'x'?"`` for the known word that is closest to ``word``, or an empty text.

    Args:
        word: as it was given.
        known: the words to choose from.
        noun: what a word names; ``"; did you mean the component 'x'?"``.
    """
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {f'the {noun} ' if noun else ''}'{close[0]}'?" if close else ""


def _shipped() -> dict[str, TargetFile]:
    folder = importlib.resources.files("mcompiler.targets")
    places = (place for place in folder.iterdir() if place.name.endswith(".toml"))
    return {place.name.removesuffix(".toml"): TargetFile(place.name, place, folder) for place in places}


def _entry_points() -> dict[str, list[importlib.metadata.EntryPoint]]:
    found: dict[str, list[importlib.metadata.EntryPoint]] = {}
    for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        if point not in found.setdefault(point.name, []):
            found[point.name].append(point)
    return found


def target_names() -> tuple[str, ...]:
    """Names of all shipped and installed targets, sorted."""
    return tuple(sorted({*_shipped(), *_entry_points()}))


def _from_package(name: str, point: importlib.metadata.EntryPoint) -> TargetFile:
    """The file ``<name>.toml`` in the package that an entry point names."""
    try:
        folder = importlib.resources.files(point.module)
    except Exception as error:  # a foreign package may fail in any way while it is imported
        message = f"target '{name}': its package '{point.value}' cannot be imported: {error}"
        raise TargetError(message) from error
    label = f"{point.value}/{name}.toml"
    place = folder.joinpath(f"{name}.toml")
    if not place.is_file():
        raise TargetError(
            f"target '{name}': its entry point names the package '{point.value}', which has no {name}.toml"
        )
    return TargetFile(label, place, folder)


def _by_name(name: str) -> TargetFile | None:
    shipped = _shipped().get(name)
    points = _entry_points().get(name, [])
    owners = ["mcompiler"] * (shipped is not None) + [point.value for point in points]
    if len(owners) > 1:
        raise TargetError(
            f"target '{name}' is shipped by more than one package: {', '.join(owners)}; give the file's path, or "
            "uninstall one of them"
        )
    if points:
        return _from_package(name, points[0])
    return shipped


def _by_path(text: str, folder: Traversable | None) -> TargetFile:
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise TargetError(f"{text}: {error}") from error
    if folder is None or path.is_absolute():
        if not path.is_file():
            here = path.parent.glob("*.toml") if path.parent.is_dir() else ()
            raise TargetError(f"{text}: no such file{did_you_mean(path.name, (place.name for place in here))}")
        return TargetFile(text, path, path.parent)
    place = folder.joinpath(*Path(text).parts)
    if not place.is_file():
        raise TargetError(f"{text}: no such file in the folder of the file that extends it")
    return TargetFile(text, place, folder.joinpath(*Path(text).parts[:-1]) if len(Path(text).parts) > 1 else folder)


def find_target(name_or_path: str | Path, folder: Traversable | None = None) -> TargetFile:
    """The file of a target.

    Args:
        name_or_path: a path if it ends in ``.toml`` or has a path separator; else a name, or if there is none, a path.
        folder: where a relative path starts, for ``extends``; None: the working directory.

    Raises:
        TargetError: there is no such name or file; the message lists the names.
    """
    text = os.fspath(name_or_path)
    separators = [separator for separator in (os.sep, os.altsep, "/") if separator]
    if isinstance(name_or_path, Path) or text.endswith(".toml") or any(mark in text for mark in separators):
        return _by_path(text, folder)
    found = _by_name(text)
    if found is not None:
        return found
    if text and Path(text).is_file():
        return _by_path(text, folder)
    names = target_names()
    raise TargetError(
        f"unknown target '{text}'{did_you_mean(text, names) or '.'} Known targets: {', '.join(names)}. "
        "A file of your own is given by its path, which ends in .toml."
    )
