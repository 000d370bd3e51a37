"""Rules of style that no linter has: length of files, positional arguments, hand-made formatting, names of classes."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

MAX_LINES = 400
MAX_POSITIONAL = 5
MAX_FORMAT_SKIPS = 10
ANY_NUMBER = {"zip", "max"}
"""Functions that take any number of alike arguments."""


def sources() -> list[Path]:
    """The files of the package; ``passes`` once, not through its link."""
    return [path for folder in ("mcompiler", "passes") for path in sorted((ROOT / folder).rglob("*.py"))]


def trees() -> Iterator[tuple[Path, ast.Module]]:
    """Every file with its syntax tree."""
    for path in sources():
        yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def test_files_have_at_most_400_lines() -> None:
    lengths = {path.relative_to(ROOT): len(path.read_text(encoding="utf-8").splitlines()) for path in sources()}
    assert not {str(path): length for path, length in lengths.items() if length > MAX_LINES}


def test_calls_have_at_most_five_positional_arguments() -> None:
    found = [
        f"{path}:{node.lineno}"
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and len(node.args) > MAX_POSITIONAL
        if not (isinstance(node.func, ast.Name) and node.func.id in ANY_NUMBER)
    ]
    assert not found


def test_formatting_is_left_to_the_formatter() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sources()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if "fmt: skip" in line or "fmt: off" in line
    ]
    assert len(found) <= MAX_FORMAT_SKIPS, found


def test_no_two_classes_share_a_name() -> None:
    homes: dict[str, list[str]] = defaultdict(list)
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                homes[node.name].append(str(path))
    assert not {name: places for name, places in homes.items() if len(places) > 1}
