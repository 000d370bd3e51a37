"""Standard streams and signals of the process: whatever the caller has closed, filled or sent, no file is damaged."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path
from types import FrameType

import click

from mcompiler.text import clean

_UNPRINTABLE = re.compile(r"[^\n -~]")


class TerminatedError(BaseException):
    """SIGTERM arrived. No Exception, so that nothing but clean-up catches it."""


def prepare_process() -> None:
    """Open missing streams, let any name be printed, and turn SIGTERM into an exception that runs clean-up."""
    # A closed descriptor would be given to the next file that is opened, and messages would be written into it.
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = Path(os.devnull).open("r" if name == "stdin" else "w", encoding="utf-8")  # noqa: SIM115 (kept)
            setattr(sys, name, nowhere)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    owner = os.getpid()

    def terminate(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a worker process has nothing to clean up
            os._exit(128 + number)
        raise TerminatedError

    signal.signal(signal.SIGTERM, terminate)


def silence(number: int) -> None:
    """Send a stream that cannot be written to nowhere, so that the interpreter does not fail on it at its end."""
    target = os.open(os.devnull, os.O_WRONLY)
    os.dup2(target, number)
    os.close(target)


def echo(message: object = "", *, err: bool = False, nl: bool = True) -> None:
    """Print text; characters that could move the cursor of a terminal are escaped, line by line."""
    lines = str(message).split("\n")
    click.echo("\n".join("\t".join(map(clean, line.split("\t"))) for line in lines), err=err, nl=nl)


def echo_json(text: str) -> None:
    """Print JSON; characters that are not printable are written as JSON escapes."""
    click.echo(_UNPRINTABLE.sub(_escaped, text))


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    if character.isprintable():
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
