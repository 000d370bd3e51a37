"""The public surface: every type of mcompiler that a user meets is in ``mcompiler.__all__`` and documented."""

import enum
import functools
import inspect
import re
import types
import typing
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mcompiler

PAGE = Path(__file__).resolve().parent.parent / "docs" / "python.md"

NOT_WALKED = {
    "Target": "its fields are the sections of a target file, which docs/targets.md describes key by key",
    "Build.layer_data": "internal tables of the layers, for the command line",
    "Build.of": "its arguments are a pipeline and its outcome, which docs/pipeline.md describes",
    "ScheduleRecord.of": "called by the pass, with the program of its level",
    "RemapRecord.of": "called by the pass, with the program of its level",
    "ReorderRecord.of": "called by the pass, with the program of its level",
}
"""Classes and members whose types a user does not need: why."""

KNOWN = {name: getattr(mcompiler, name) for name in mcompiler.__all__} | {"nx": types.SimpleNamespace(DiGraph=list)}
"""Names in annotations that modules import for type checkers only."""


def components(annotation: Any) -> Iterator[Any]:
    """The classes and functions in an annotation: ``dict[str, Cost | None]`` has dict, str, Cost, None."""
    if isinstance(annotation, list | tuple):
        for part in annotation:
            yield from components(part)
    elif arguments := typing.get_args(annotation):
        yield from components(arguments)
    else:
        yield annotation


def functions_of(cls: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties of a class, as functions."""
    ours = [base for base in reversed(cls.__mro__) if base.__module__.split(".")[0] == "mcompiler"]
    for name, member in (item for base in ours for item in vars(base).items()):
        member = getattr(member, "__func__", member)  # class and static methods
        if isinstance(member, property):
            member = member.fget
        elif isinstance(member, functools.cached_property):
            member = member.func
        if not name.startswith("_") and inspect.isfunction(member):
            yield name, member


def annotations(item: Any) -> dict[str, Any]:
    """Annotations of a function or of the public fields of a class; an unknown name becomes the text of an error."""
    names = dict[str, Any]()  # imported for type checkers only
    while True:
        try:
            found = typing.get_type_hints(item, localns=names)
        except NameError as error:
            if error.name not in KNOWN:
                return {"": str(error)}
            names[error.name] = KNOWN[error.name]
        else:
            return {name: annotation for name, annotation in found.items() if not name.startswith("_")}


def members(item: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The parts of a public item that have annotations: itself, and methods and properties of a class."""
    yield name, item
    if inspect.isclass(item) and not issubclass(item, enum.Enum):
        for member, function in functions_of(item):
            yield f"{item.__name__}.{member}", function


def is_ours(part: Any) -> bool:
    return isinstance(part, str) or (inspect.isclass(part) and part.__module__.split(".")[0] == "mcompiler")


def reachable(public: dict[str, Any], skip: dict[str, str]) -> dict[str, str]:
    """Types of mcompiler that annotations lead to: name, and where it was first met."""
    found, waiting = dict[str, str](), [(value, name) for name, value in public.items()]
    seen = set[int]()
    while waiting:
        item, name = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        for place, member in members(item, name):
            if place in skip or name in skip:
                continue
            for field, annotation in annotations(member).items():
                where = place if inspect.isfunction(member) else f"{place}.{field}"
                if where in skip:
                    continue
                for part in filter(is_ours, components(annotation)):
                    label = part if isinstance(part, str) else part.__name__
                    found.setdefault(label, where)
                    if not isinstance(part, str):
                        waiting.append((part, label))
    return found


def public_items() -> dict[str, Any]:
    items = {name: getattr(mcompiler, name) for name in mcompiler.__all__}
    return {name: item for name, item in items.items() if inspect.isclass(item) or inspect.isfunction(item)}


def missing(skip: dict[str, str]) -> dict[str, str]:
    found = reachable(public_items(), skip)
    public = {*mcompiler.__all__, *mcompiler.pipeline.__all__}
    return {name: where for name, where in found.items() if name not in public}


def test_every_type_that_a_user_meets_is_public() -> None:
    assert missing(NOT_WALKED) == {}


@pytest.mark.parametrize("name", NOT_WALKED)
def test_the_list_of_exceptions_is_minimal(name: str) -> None:
    assert missing({key: reason for key, reason in NOT_WALKED.items() if key != name})


class Inner:
    """Reached by a field of a value of a mapping."""


class Outer:
    """Reached by a return annotation."""

    parts: dict[str, tuple[Inner, ...]]
    _private: "Unknown"  # type: ignore[name-defined]  # noqa: F821

    def method(self, other: "Unknown") -> None:  # type: ignore[name-defined]  # noqa: F821
        """Has an annotation that nobody can resolve."""


def start() -> Outer | None:
    """Return nothing."""


def test_the_walk_finds_what_is_not_public(monkeypatch: pytest.MonkeyPatch) -> None:
    for cls in (Inner, Outer):
        monkeypatch.setattr(cls, "__module__", "mcompiler.somewhere")
    monkeypatch.delattr(Outer, "method")
    monkeypatch.setattr(Outer, "__annotations__", {"parts": dict[str, tuple[Inner, ...]]})
    assert reachable({"start": start}, {}) == {"Outer": "start", "Inner": "Outer.parts"}
    assert reachable({"start": start}, {"Outer.parts": "a reason"}) == {"Outer": "start"}


def test_an_annotation_that_cannot_be_resolved_is_found() -> None:
    assert "Unknown" in annotations(Outer.method)[""]


# --- documentation ---------------------------------------------------------------------------------------------------


def documented(page: str) -> list[str]:
    """The names in the first column of the tables, without their arguments."""
    rows = re.findall(r"^\| (`[^|]*`) \| \S", page, re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([\w.]+)", row)]


def test_every_public_name_is_documented_once() -> None:
    names = Counter(documented(PAGE.read_text(encoding="utf-8")))
    fields = [name for base in mcompiler.Build.__mro__ for name in getattr(base, "__annotations__", ())]
    members = {name for name in [*dir(mcompiler.Build), *fields] if not name.startswith("_")}
    wanted = Counter([*mcompiler.__all__, *(f"build.{name}" for name in members)])
    assert sorted(wanted - names) == [], "names without a line in docs/python.md"
    assert sorted(names - wanted) == [], "lines of docs/python.md that are too many"


def test_every_name_of_the_pipeline_is_documented_once() -> None:
    page = (PAGE.parent / "pipeline.md").read_text(encoding="utf-8")
    table = page.split("## Insert a pass", 1)[1].split("## Observers", 1)[0]
    names = [
        name for row in re.findall(r"^\| (`[^|]*`) \| \S", table, re.MULTILINE) for name in re.findall(r"`(\w+)", row)
    ]
    assert sorted(names) == sorted(mcompiler.pipeline.__all__)


@pytest.mark.parametrize("name", public_items())
def test_public_items_have_docstrings(name: str) -> None:
    item = public_items()[name]
    assert inspect.getdoc(item)
    if inspect.isclass(item) and not issubclass(item, enum.Enum):
        assert [member for member, function in functions_of(item) if not function.__doc__] == []
