"""Options of passes: one place for the command line, the keyword arguments of compile and the manifest."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, ClassVar

import pytest
from click.testing import CliRunner

import mcompiler
from mcompiler.cli import options as cli_options
from mcompiler.cli.build import compile_command
from mcompiler.declarations import Option, field_options
from mcompiler.errors import CompileError
from mcompiler.pipeline import PASSES, option_table
from mcompiler.pipeline.options import checked_options, made_passes, recorded_options

NOT_OF_PASSES = {"model", "target", "calibration", "dims", "overrides", "observers", "cache", "cache_bytes", "say"}


class Size(StrEnum):
    """A choice."""

    SMALL = "small"
    LARGE = "large"


@dataclass(frozen=True)
class Always:
    """Always runs."""

    name: ClassVar[str] = "always"
    reads: ClassVar[tuple[str, ...]] = ()
    size: Annotated[Size, Option(choices=Size, help="Size.", recorded=True)] = Size.SMALL
    level: Annotated[int, Option(minimum=0, maximum=3, help="Level.")] = 1
    data: str = "none"


@dataclass(frozen=True)
class Sometimes:
    """Runs where it is asked for."""

    name: ClassVar[str] = "sometimes"
    reads: ClassVar[tuple[str, ...]] = ()
    excludes: ClassVar[dict[str, str]] = {"other": "not both"}
    turns: Annotated[int, Option(off=None, entry="some.turns", minimum=1, help="Turns.")]
    limit: Annotated[int | None, Option(entry="some.limit", needs="a limit without turns", help="Limit.")] = None


@dataclass(frozen=True)
class Other:
    """Excluded by the pass before."""

    name: ClassVar[str] = "other"
    reads: ClassVar[tuple[str, ...]] = ()
    other: Annotated[bool, Option(off=False, help="Other.")] = True


ALL: tuple[type[Any], ...] = (Always, Sometimes, Other)


def test_defaults_leave_optional_passes_out() -> None:
    values = checked_options(ALL, {})
    assert values == {"size": Size.SMALL, "level": 1, "turns": None, "limit": None, "other": False}
    made: list[Any] = list(made_passes(ALL, values, {"always": {"data": "given"}}))
    assert made == [Always(data="given")]
    assert recorded_options(made) == {"size": "small"}


def test_given_values_bring_passes_in_and_are_recorded() -> None:
    made: list[Any] = list(made_passes(ALL, checked_options(ALL, {"size": "large", "level": 2, "turns": 5}), {}))
    assert made == [Always(Size.LARGE, 2), Sometimes(5)]
    assert recorded_options(made) == {"size": "large", "level": 2, "some": {"turns": 5, "limit": None}}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": "vast"}, "size 'vast' is unknown; choose small or large"),
        ({"level": 4}, "level is 4; give a whole number from 0 to 3"),
        ({"level": True}, "level is True; give a whole number from 0 to 3"),
        ({"turns": 0}, "turns is 0; give a whole number of at least 1"),
        ({"limit": 3}, "a limit without turns"),
        ({"turns": 1, "other": True}, "not both"),
        ({"levle": 1}, "no pass has an option 'levle'; did you mean 'level'?"),
    ],
)
def test_wrong_values_get_a_sentence(given: dict[str, Any], message: str) -> None:
    with pytest.raises(CompileError, match=re.escape(message)):
        checked_options(ALL, given)


def test_compile_has_the_options_of_the_passes() -> None:
    """The explicit signature, which people and type checkers read, agrees with the fields."""
    signature = inspect.signature(mcompiler.compile)
    declared = option_table(PASSES)
    assert set(signature.parameters) - NOT_OF_PASSES == set(declared)
    documented = inspect.getdoc(mcompiler.compile) or ""
    for key, option in declared.items():
        assert signature.parameters[key].default == option.default, key
        assert re.search(rf"^    {key}: ", documented, re.MULTILINE), key
        assert option.help.endswith("."), key


def test_one_option_of_several_passes_has_one_default() -> None:
    defaults: dict[str, Any] = {}
    for each in PASSES:
        for declared in field_options(each).values():
            assert defaults.setdefault(declared.key, declared.default) == declared.default


def test_the_command_line_knows_every_option() -> None:
    text = cli_options.FILE.read_text(encoding="utf-8")
    assert text == cli_options.generated(), "run: make options"


def test_passes_have_what_the_pipeline_asks_of_them() -> None:
    for each in PASSES:
        assert re.fullmatch("[a-z_]+", each.name)
        assert isinstance(each.reads, tuple)
        assert each.__doc__


def test_the_command_line_refuses_an_option_of_a_pass_that_is_left_out() -> None:
    found = CliRunner().invoke(compile_command, ["model.onnx", "--arrays", "4"])
    assert found.exit_code == 2
    assert "--arrays: a budget of arrays without copies; ask for replicate throughput or latency too" in found.output
