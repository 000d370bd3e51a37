"""A progress bar while training, on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[str, int, int | None], None]
"""Receives a label, the number of steps that are done, and the number of all steps (None: not known)."""


def no_progress(label: str, done: int, total: int | None) -> None:
    """Show nothing."""


@contextmanager
def progress_bar(enabled: bool = True) -> Iterator[Advance]:
    """A bar on stderr where that is a terminal; yields the function that moves it."""
    if not enabled or not sys.stderr.isatty():
        yield no_progress
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("", total=None)
        current = ""

        def advance(label: str, done: int, total: int | None) -> None:
            nonlocal current
            if label != current:
                bars.reset(task, description=label, total=total)
                current = label
            bars.update(task, completed=done, total=total)

        yield advance
