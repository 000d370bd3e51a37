"""Weight encodings: how integer weight codes become cells, one encoding a file, chosen by name.

``target.encoding.weights`` names the encoding. An installed package adds one by an entry point of the group
``mcompiler.encodings``: the entry point's name is the encoding's, its value ``module:Class`` names a class that derives
from ``WeightEncoding``. Its module is imported when a target asks for it, never before. The names of encodings that
ship with the compiler cannot be registered anew: they mean the same on every machine.
"""

from __future__ import annotations

import difflib
import importlib.metadata
from functools import lru_cache

from mcompiler.encodings.base import CodeRange, CodesDoNotFitError, Decoding, Levels, WeightEncoding, capacity
from mcompiler.encodings.differential import Differential
from mcompiler.encodings.offset import Offset
from mcompiler.encodings.polarised import Polarised
from mcompiler.encodings.settings import EncodingSettings, Partner, Pedestal, Violations
from mcompiler.encodings.shape import ArrayShape
from mcompiler.errors import TargetError

__all__ = [
    "ENTRY_POINT_GROUP",
    "ArrayShape",
    "CodeRange",
    "CodesDoNotFitError",
    "Decoding",
    "Differential",
    "EncodingSettings",
    "Levels",
    "Offset",
    "Partner",
    "Pedestal",
    "Polarised",
    "WeightEncoding",
    "capacity",
    "encoding_names",
    "encoding_of",
    "encoding_violations",
    "find_encoding",
    "is_known",
]

ENTRY_POINT_GROUP = "mcompiler.encodings"

_SHIPPED: dict[str, type[WeightEncoding]] = {
    "differential": Differential,
    "offset": Offset,
    "polarised": Polarised,
}


def _plug_ins(name: str | None = None) -> list[importlib.metadata.EntryPoint]:
    """Entry points of installed packages, each once, sorted by name; of one name, or of all."""
    points = {point for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP) if name in (None, point.name)}
    return sorted(points, key=lambda point: (point.name, point.value))


def encoding_names() -> tuple[str, ...]:
    """Names of all encodings, those of installed packages last."""
    return (*_SHIPPED, *sorted({point.name for point in _plug_ins()} - _SHIPPED.keys()))


def is_known(name: str) -> bool:
    """Whether there is an encoding of this name; its module is not imported."""
    return name in _SHIPPED or bool(_plug_ins(name))


def find_encoding(name: str) -> type[WeightEncoding]:
    """The encoding of a name.

    Raises:
        TargetError: there is none, or the package that registers it cannot be used; the message names the package.
    """
    return _SHIPPED[name] if name in _SHIPPED else _from_plug_in(name)


def encoding_of(settings: EncodingSettings) -> WeightEncoding:
    """The encoding that a target's [encoding] section asks for, with its settings.

    Raises:
        TargetError: as in ``find_encoding``.
    """
    found = find_encoding(settings.weights)
    try:
        return found.of(settings)
    except Exception as error:
        if settings.weights in _SHIPPED:
            raise
        raise _plug_in_error(settings.weights, f"cannot be set up: {error}") from error


def encoding_violations(settings: EncodingSettings) -> Violations:
    """What an [encoding] section says that its encoding cannot do.

    Raises:
        TargetError: as in ``find_encoding``.
    """
    found = find_encoding(settings.weights)
    try:
        yield from found.violations(settings)
    except Exception as error:
        if settings.weights in _SHIPPED:
            raise
        raise _plug_in_error(settings.weights, f"cannot check its settings: {error}") from error


@lru_cache(maxsize=64)
def _from_plug_in(name: str) -> type[WeightEncoding]:
    """The class that a package registers. Errors are not remembered: a package may be installed while this runs."""
    points = _plug_ins(name)
    if not points:
        known = encoding_names()
        close = difflib.get_close_matches(name, known, n=1)
        meant = f"; did you mean '{close[0]}'?" if close else "."
        raise TargetError(f"unknown weight encoding '{name}'{meant} Known encodings: {', '.join(known)}")
    if len(points) > 1:
        owners = ", ".join(point.value for point in points)
        raise TargetError(f"encoding '{name}' is registered more than once: {owners}; uninstall one of the packages")
    try:
        found = points[0].load()
    except Exception as error:  # a foreign package may fail in any way while it is imported
        raise _plug_in_error(name, f"cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, WeightEncoding)):
        raise _plug_in_error(name, "is no class that derives from mcompiler.encodings.WeightEncoding")
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        raise _plug_in_error(name, f"does not define {', '.join(missing)}")
    return found


def _plug_in_error(name: str, fact: str) -> TargetError:
    """An error of a registered encoding, with the package that it is from."""
    point = _plug_ins(name)[0]
    package = f" of the package '{point.dist.name}'" if point.dist is not None else ""
    return TargetError(f"encoding '{name}': its class '{point.value}'{package} {fact}; repair or uninstall it")
