"""The progress bar: on a terminal only."""

from __future__ import annotations

import io
import sys

import pytest

torch = pytest.importorskip("torch")

from mcompiler.admm.display import no_progress, progress_bar  # noqa: E402


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_nothing_is_shown_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = io.StringIO()
    monkeypatch.setattr(sys, "stderr", silent)
    with progress_bar() as advance:
        assert advance is no_progress
        advance("admm 1/2", 3, 10)
    assert silent.getvalue() == ""


def test_nothing_is_shown_where_it_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_bar(enabled=False) as advance:
        assert advance is no_progress


@pytest.mark.parametrize("total", [10, None])
def test_a_terminal_sees_stage_and_steps(monkeypatch: pytest.MonkeyPatch, total: int | None) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with progress_bar() as advance:
        for done in range(1, 11):
            advance("admm 1/2", done, total)
        advance("admm 2/2", 1, total)
    shown = terminal.getvalue()
    assert "admm 2/2" in shown
    assert f"1/{total if total else '?'}" in shown
