"""Entries that bring model and data: found by module or file, and every way in which they may fail."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcompiler.errors import DataError

torch = pytest.importorskip("torch")

from mcompiler.admm.entry import Task, load_task  # noqa: E402

GOOD = """
import torch
from mcompiler.admm import Task

def task():
    return Task(model=torch.nn.Linear(2, 2), train=[(torch.ones(1, 2), torch.zeros(1, dtype=torch.long))])

def number():
    return 3

def no_model():
    return Task(model="text", train=[])

def broken():
    raise KeyError("what")

def leaves():
    raise SystemExit(2)

value = 4
"""


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Modules and paths of a test end with it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def put(path: Path, text: str = GOOD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_modules_packages_and_files(tmp_path: Path) -> None:
    put(tmp_path / "own_entry.py")
    put(tmp_path / "own_package" / "inner.py")
    put(tmp_path / "elsewhere" / "own-file.py")
    for entry in ("own_entry:task", "own_package.inner:task", "elsewhere/own-file.py:task", "./own_entry.py:task"):
        task = load_task(entry)
        assert isinstance(task, Task)
        assert len(list(task.train)) == 1  # type: ignore[arg-type]
        assert (task.test, task.loss, task.example) == (None, None, None)


def test_a_file_may_import_its_neighbours(tmp_path: Path) -> None:
    put(tmp_path / "there" / "own_neighbour.py")
    put(tmp_path / "there" / "own_main.py", "from own_neighbour import task")
    assert isinstance(load_task("there/own_main.py:task"), Task)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("own_entry", "'own_entry': write package.module:function or file.py:function"),
        (":task", "':task': write package.module:function"),
        ("own_entry:", "'own_entry:': write package.module:function"),
        ("own_entry:a.b", "'own_entry:a.b': write package.module:function"),
        ("own_entry:tusk", "'own_entry:tusk': own_entry has no function 'tusk'; did you mean 'task'?"),
        ("own_entry:value", "'own_entry:value': own_entry has no function 'value'"),
        ("own_entry:number", "'own_entry:number' returned a int; return mcompiler.admm.Task(model=..., train=...)"),
        ("own_entry:no_model", "'own_entry:no_model': its model is a str; give a torch.nn.Module"),
        ("own_entry:broken", "'own_entry:broken' failed: KeyError: 'what'"),
        ("own_entry:leaves", "'own_entry:leaves' failed: SystemExit: 2"),
        (
            "missing:task",
            "'missing:task': cannot import missing: No module named 'missing'; is it in ",
        ),
        ("missing.py:task", "'missing.py:task': no such file: missing.py"),
        (
            "needs:task",
            "'needs:task': cannot import needs: No module named 'nowhere_to_be_found'; is it",
        ),
        ("wrong:task", "'wrong:task': importing wrong failed: ZeroDivisionError: division by zero"),
        ("garbled.py:task", "'garbled.py:task': importing garbled failed: SyntaxError: "),
        ("exits:task", "'exits:task': importing exits failed: SystemExit: 1"),
        ("json.py:task", "'json.py:task': another module is called json ("),
    ],
)
def test_what_is_wrong_with_an_entry(tmp_path: Path, entry: str, message: str) -> None:
    put(tmp_path / "own_entry.py")
    put(tmp_path / "needs.py", "import nowhere_to_be_found")
    put(tmp_path / "wrong.py", "1 / 0")
    put(tmp_path / "garbled.py", "def (")
    put(tmp_path / "exits.py", "import sys\nsys.exit(1)")
    put(tmp_path / "json.py")
    with pytest.raises(DataError) as caught:
        load_task(entry)
    assert str(caught.value).startswith(message)


def test_an_interrupt_passes_through(tmp_path: Path) -> None:
    put(tmp_path / "own_entry.py", "def task():\n    raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_task("own_entry:task")
