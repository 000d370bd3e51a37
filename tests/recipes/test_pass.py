"""Recipe: a pass from outside the package, in one file, brought in by one line.

The pass below drops weights whose codes are small. It declares an option, the key of the target that it reads, and a
record of what it gained; the pipeline does the rest.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pytest

import mcompiler
from mcompiler.driver import Build
from mcompiler.errors import PassError
from mcompiler.ir import MatrixProgram
from mcompiler.pipeline import Option, Pipeline, option_table
from mcompiler.target import Target
from tests.support.builds import conv_case

# --- the new file ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DropRecord:
    """Weights that were dropped, and those that there are."""

    key: ClassVar[str] = "dropped"
    zeros: int
    weights: int

    def as_json(self) -> dict[str, Any]:
        """The object of JSON outputs."""
        return asdict(self)

    def text(self) -> str:
        """One line."""
        return f"small weights: {self.zeros:,} of {self.weights:,} codes are zero"


@dataclass(frozen=True)
class DropSmall:
    """Set weight codes to zero whose magnitude is at most a limit."""

    name: ClassVar[str] = "drop_small"
    reads: ClassVar[tuple[str, ...]] = ("precision.weights",)
    limit: Annotated[int, Option(key="drop_limit", minimum=0, help="Largest magnitude that is dropped.")] = 1

    def run(self, program: MatrixProgram, target: Target) -> MatrixProgram:
        """Return the program with more zeros."""
        limit = min(self.limit, (1 << (target.precision.weights - 1)) - 1)
        matrices = tuple(
            replace(matrix, codes=np.where(np.abs(matrix.codes) <= limit, 0, matrix.codes).astype(np.int16))
            for matrix in program.matrices
        )
        return replace(program, matrices=matrices)

    def record(self, program: MatrixProgram) -> DropRecord:
        """How many codes are zero."""
        codes = [matrix.codes for matrix in program.matrices]
        return DropRecord(sum(int((each == 0).sum()) for each in codes), sum(each.size for each in codes))


# --- the one line ----------------------------------------------------------------------------------------------------


def with_drop(pipeline: Pipeline, step: Any) -> Pipeline:
    return pipeline.insert_after("quantise", step)


# --- what follows from it --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    case = conv_case([3, 3])
    return mcompiler.pipeline.default(case.model, "generic_128", calibration=case.feeds)


def test_its_option_appears(pipeline: Pipeline) -> None:
    assert option_table([DropSmall])["drop_limit"].flag == "--drop-limit"
    assert with_drop(pipeline, DropSmall(3)).options["drop_limit"] == 3


def test_its_record_is_in_every_report(pipeline: Pipeline, tmp_path: Path) -> None:
    changed = with_drop(pipeline, DropSmall(20))
    build = Build.of(changed, changed.execute())
    record = build.records["dropped"]
    assert isinstance(record, DropRecord)
    assert 0 < record.zeros < record.weights
    assert record.text() in re.sub(r"\s+", " ", build.report())
    loaded = mcompiler.load(build.save(tmp_path / "b"))
    assert loaded.records["dropped"].as_json() == record.as_json()
    assert loaded.records["dropped"].text() == record.text()
    assert loaded.options.passes["drop_limit"] == 20
    assert "drop_small" in build.seconds
    assert loaded.verify().exact, "the reference has the same codes"


def test_it_changes_what_follows(pipeline: Pipeline) -> None:
    plain = pipeline.run(until="compact")
    dropped = with_drop(pipeline, DropSmall(127)).run(until="compact")
    assert not dropped.matrices[0].codes.any()
    assert plain.matrices[0].codes.any()
    assert dropped.matrices[0].rows.counts().sum() == 0


@dataclass(frozen=True)
class Breaks(DropSmall):
    """Returns a program that breaks a promise of its level."""

    name: ClassVar[str] = "breaks"

    def run(self, program: MatrixProgram, target: Target) -> MatrixProgram:
        """Return codes of another type."""
        wide = tuple(replace(each, codes=each.codes.astype(np.int32)) for each in program.matrices)
        return replace(program, matrices=wide)


@dataclass(frozen=True)
class Reads(DropSmall):
    """Reads a key that it does not declare."""

    name: ClassVar[str] = "reads"

    def run(self, program: MatrixProgram, target: Target) -> MatrixProgram:
        """Never returns."""
        assert target.device.bits
        return program


def test_its_promises_are_checked(pipeline: Pipeline) -> None:
    with pytest.raises(PassError, match=r"pass 'breaks' failed after .*quantise"):
        with_drop(pipeline, Breaks()).run()
    with pytest.raises(PassError, match=r"pass 'reads' failed .* it reads key 'device' .*does not declare"):
        with_drop(pipeline, Reads()).run()
