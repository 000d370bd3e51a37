"""The runner: errors keep their kind, promises are checked, observers see every pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from mcompiler.errors import CompileError, PassError, TargetError, UserError
from mcompiler.ir import MatrixProgram
from mcompiler.pipeline import Runner
from mcompiler.target import Target
from tests.support.programs import matrix_op, matrix_program, target


@dataclass(frozen=True)
class Add:
    """Add to a number."""

    name: ClassVar[str] = "add"
    reads: ClassVar[tuple[str, ...]] = ()
    number: int = 1

    def run(self, program: int, target: Target) -> int:
        """Return the sum."""
        return program + self.number


@dataclass(frozen=True)
class Call:
    """Call a function."""

    name: ClassVar[str] = "say"
    reads: ClassVar[tuple[str, ...]] = ()
    what: Callable[[], Any]

    def run(self, program: int, target: Target) -> Any:
        """Return what the function returns."""
        return self.what()


def raising(error: Exception) -> Call:
    """A pass that fails."""

    def fail() -> None:
        raise error

    return Call(fail)


@pytest.mark.parametrize("error", [CompileError("too wide", "conv"), TargetError("no levels"), UserError("no")])
def test_errors_of_the_user_pass_unchanged(error: UserError) -> None:
    run = Runner(target())
    with pytest.raises(UserError) as caught:
        run(raising(error), run(Add(), 1))
    assert caught.value is error
    assert caught.value.__cause__ is None


def test_other_errors_name_the_pass_and_those_before_it() -> None:
    run = Runner(target())
    cause = IndexError("out of range")
    with pytest.raises(PassError) as caught:
        run(raising(cause), run(Add(), 1))
    assert str(caught.value) == "pass 'say' failed after add: out of range"
    assert caught.value.__cause__ is cause
    assert caught.value.pass_name == "say"
    assert not isinstance(caught.value, UserError)


def test_the_first_pass_fails_after_no_other() -> None:
    with pytest.raises(PassError, match=r"^pass 'say' failed after no other pass: nothing$"):
        Runner(target())(raising(ValueError("nothing")), 0)


def test_a_pass_that_breaks_a_promise_fails() -> None:
    program: MatrixProgram = matrix_program([matrix_op([[1]], zero_point=256)])
    seen: list[str] = []
    run = Runner(target(), (lambda name, result, seconds: seen.append(name),))
    with pytest.raises(PassError, match=r"^pass 'say' failed after add: layer: zero point 256") as caught:
        run(Call(lambda: program), run(Add(), 1))
    assert isinstance(caught.value.__cause__, AssertionError)
    assert seen == ["add"], "nobody is shown a broken program"
    assert "say" not in run.seconds


def test_keyboard_interrupt_is_no_error_of_a_pass() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Runner(target())(Call(interrupt), 0)


def test_observers_and_times() -> None:
    seen: list[tuple[str, Any, float]] = []
    others: list[str] = []
    run = Runner(target(), (lambda *event: seen.append(event), lambda name, *_: others.append(name)))
    assert run(Add(2), run(Add(), 1)) == 4
    assert run(Call(lambda: "done"), 4) == "done"
    assert [(name, result) for name, result, _ in seen] == [("add", 2), ("add", 4), ("say", "done")]
    assert others == ["add", "add", "say"]
    assert list(run.seconds) == ["add", "say"], "a pass that runs twice has one entry"
    assert run.seconds["add"] == pytest.approx(seen[0][2] + seen[1][2])
    assert run.seconds["say"] == pytest.approx(seen[2][2])
    assert all(seconds >= 0 for _, _, seconds in seen)


def test_runners_share_no_times() -> None:
    first, second = Runner(target()), Runner(target())
    first(Add(), 1)
    assert second.seconds == {}


@dataclass(frozen=True)
class Curious:
    """Reads a key that it does not declare."""

    name: ClassVar[str] = "curious"
    reads: ClassVar[tuple[str, ...]] = ("array.rows",)

    def run(self, program: int, target: Target) -> int:
        """Return the sum."""
        return program + target.array.rows + target.array.columns


def test_a_pass_that_reads_an_undeclared_key_fails() -> None:
    with pytest.raises(PassError, match=r"^pass 'curious' failed after no other pass: it reads key 'columns' of the "):
        Runner(target())(Curious(), 1)
