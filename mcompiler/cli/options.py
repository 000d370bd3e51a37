"""The options of ``compile`` that belong to passes, as click takes them.

They are read from compile_options.json, which ``make options`` generates from the fields of the passes; a test holds
that it is up to date. Importing the passes takes about a second, which is too long for ``--help``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]

FILE = Path(__file__).with_name("compile_options.json")


@cache
def declared_options() -> tuple[Mapping[str, Any], ...]:
    """The options of the passes, in the order of the passes."""
    return tuple(json.loads(FILE.read_text(encoding="utf-8")))


def pass_options(command: Command) -> Command:
    """Give a command the options of the passes, under their keys."""
    for declared in reversed(declared_options()):
        command = _click_option(declared)(command)
    return command


def refuse_unused(values: Mapping[str, Any]) -> None:
    """Refuse options of passes that no other option brings in.

    Raises:
        click.UsageError: names the option and what it needs.
    """
    defaults = {declared["key"]: declared["default"] for declared in declared_options()}
    for declared in declared_options():
        key, needed = declared["key"], declared["with"]
        if needed is not None and values[key] != defaults[key] and values[needed] == defaults[needed]:
            raise click.UsageError(f"{declared['flag']}: {declared['needs']}")


def _click_option(declared: Mapping[str, Any]) -> Callable[[Command], Command]:
    help_text = declared["help"]
    if declared["shown_default"]:
        help_text = f"{help_text.rstrip('.')}  [default: {declared['shown_default']}]"
    if declared["flag_only"]:
        return click.option(declared["flag"], declared["key"], is_flag=True, help=help_text)
    default = declared["default"]
    return click.option(
        declared["flag"],
        declared["key"],
        type=_click_type(declared),
        default=default,
        show_default=default is not None,
        metavar=declared["metavar"] or None,
        help=help_text,
    )


def _click_type(declared: Mapping[str, Any]) -> click.ParamType[Any]:
    if declared["choices"] is not None:
        return click.Choice(declared["choices"])
    if declared["path"]:
        return click.Path(path_type=Path)
    if declared["minimum"] is not None:
        return click.IntRange(declared["minimum"], declared["maximum"])
    return click.INT


def generated() -> str:
    """The content that compile_options.json should have."""
    from mcompiler.pipeline import PASSES
    from mcompiler.pipeline.options import options_as_json

    return json.dumps(options_as_json(PASSES), indent=1) + "\n"


def write_options() -> None:
    """Generate compile_options.json anew."""
    FILE.write_text(generated(), encoding="utf-8")
