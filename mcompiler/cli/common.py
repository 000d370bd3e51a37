"""Shared by several commands: the option --json, output, progress bars."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from mcompiler.cli.streams import echo, echo_json
from mcompiler.errors import UserError

Command = TypeVar("Command", bound=Callable[..., Any])


def json_option(command: Command) -> Command:
    """Add the option ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")(command)


def print_json(data: Any) -> None:
    """Print one JSON object on stdout."""
    echo_json(json.dumps(data, indent=1, ensure_ascii=False))


def say(message: str) -> None:
    """Print a note to stderr, so that stdout has the result only."""
    echo(message, err=True)


def needs_torch(what: str) -> None:
    """Raise an error with the remedy if PyTorch is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise UserError(f"{what} trains with PyTorch, which is not installed; pip install 'mcompiler[admm]'")


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, nothing elsewhere; yields a function that takes the number of finished items."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(label, total=total)
        yield lambda done: bars.update(task, completed=done)


@contextmanager
def passes_progress(label: str) -> Iterator[Callable[[str, Any, float], None]]:
    """A spinner with the last finished pass on a terminal, nothing elsewhere; yields a pipeline observer."""
    if not sys.stderr.isatty():
        yield lambda name, program, seconds: None
        return
    from rich.console import Console

    with Console(stderr=True).status(label) as status:
        yield lambda name, program, seconds: status.update(f"{label}: {name} done ({seconds:.1f} s)")
