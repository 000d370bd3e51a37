"""Run hostile inputs, and count which are accepted, refused with a sentence, or handled wrongly.

    python -m tests.support.fuzz --count 5000 [--seed 0] [--only models|targets|data|builds]

Each input runs in a child process with bounded memory; one that hangs or ends the process is counted as wrong, and the
next child goes on with the next input. Accepted models must also verify. The exit code is 1 if any input is wrong.
"""

from __future__ import annotations

import argparse
import json
import resource
import select
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.support.hostile_inputs import (
    base_models,
    hostile_build,
    hostile_data,
    hostile_model,
    hostile_target,
)

SECONDS = 60
"""An input that takes longer hangs. Loose: the machine may be busy."""

GIB = 8
"""Address space of the child."""

KINDS = ("models", "targets", "data", "builds")
ACCEPTED, REFUSED, WRONG = "accepted", "refused", "wrong"


class Inputs:
    """Makes and runs inputs by their numbers; holds good models, targets and a good build to change."""

    def __init__(self, seed: int, work: Path) -> None:
        import mcompiler
        from mcompiler.target import resolved_toml

        self.seed, self.work = seed, work
        self.models = base_models()
        self.qdq = work / "qdq.onnx"
        self.qdq.write_bytes(self.models[2].SerializeToString())
        names = ("generic_128", "isaac", "yuan2019", "pcm_hermes")
        self.targets = [resolved_toml(mcompiler.load_target(name)) for name in names]
        self.build = work / "good.build"
        first = work / "first.onnx"
        first.write_bytes(self.models[0].SerializeToString())
        mcompiler.compile(first, "generic_128", calibration="random").save(self.build)
        self.qdq_build = mcompiler.compile(self.qdq, "generic_128", calibration="random")

    def run(self, number: int, kind: str) -> tuple[str, str]:
        """The outcome of an input, and a message about it."""
        from mcompiler.errors import UserError

        runs: dict[str, Callable[[Random], str]] = {
            "models": self._model,
            "targets": self._target,
            "data": self._data,
            "builds": self._build,
        }
        try:
            wrong = runs[kind](Random(f"{self.seed}/{kind}/{number}"))
        except (UserError, OSError, MemoryError) as error:  # the command line exits 1 with a sentence
            return (REFUSED, str(error)[:200]) if str(error) else (WRONG, "an empty message")
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            cause = error.__cause__ or error
            inner = traceback.extract_tb(cause.__traceback__)[-1]
            text = f"{type(error).__name__}: {error} [{where.name}; {inner.filename}:{inner.lineno}]"
            return WRONG, text.replace("\n", " ")[-400:]
        return (WRONG, wrong) if wrong else (ACCEPTED, "")

    def _model(self, random: Random) -> str:
        import mcompiler

        path = self.work / "model.onnx"
        path.write_bytes(hostile_model(self.models, random))
        build = mcompiler.compile(path, "generic_128", calibration="random")
        failures = build.verify(limit=2).failures
        return f"accepted, but does not verify: {failures[0]}" if failures else ""

    def _target(self, random: Random) -> str:
        import mcompiler

        path = self.work / "target.toml"
        path.write_bytes(hostile_target(self.targets, random))
        mcompiler.compile(self.qdq, path, calibration="random").report()
        return ""

    def _data(self, random: Random) -> str:
        path = self.work / "data.npz"
        path.write_bytes(hostile_data(random))
        if random.random() < 0.2:
            import mcompiler

            mcompiler.compile(self.qdq, "generic_128", calibration=path)
            return ""
        result = self.qdq_build.verify(self.qdq_build.samples(path))
        return f"fails: {result.failures[0]}" if result.failures else ""

    def _build(self, random: Random) -> str:
        import shutil

        import mcompiler

        place = self.work / "bad.build"
        shutil.rmtree(place, ignore_errors=True)
        hostile_build(self.build, place, random)
        build = mcompiler.load(place)
        choice = random.randrange(4)
        if choice == 0:
            build.check_files()
            build.cost.as_json()
            build.report()
        elif choice == 1:
            build.placement.number_of_nodes()
            build.timeline()
        elif choice == 2:
            build.check_files("layers.json")
            build.cells(build.layers[0], 0)
        else:
            build.verify(limit=2)  # that it fails is an answer
        return ""


def work_off(seed: int, numbers: list[tuple[int, str]]) -> None:
    """The child: one JSON line for each input."""
    resource.setrlimit(resource.RLIMIT_AS, (GIB << 30, GIB << 30))
    with tempfile.TemporaryDirectory() as folder:
        inputs = Inputs(seed, Path(folder))
        print(json.dumps(["ready"]), flush=True)
        for number, kind in numbers:
            print(json.dumps([number, kind, *inputs.run(number, kind)]), flush=True)


def run_all(seed: int, numbers: list[tuple[int, str]], show: Callable[[str], None]) -> Counter[tuple[str, str]]:
    """Run inputs; returns how many of each kind had each outcome.

    Args:
        seed: of all inputs.
        numbers: number and kind of each input.
        show: called with a line for each input that is handled wrongly.
    """
    counts: Counter[tuple[str, str]] = Counter()
    left = list(numbers)
    while left:
        given = [sys.executable, "-m", "tests.support.fuzz", "--worker"]
        with subprocess.Popen(
            given, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as child:
            assert child.stdin is not None
            child.stdin.write(json.dumps([seed, left]))
            child.stdin.close()
            assert _line(child, 10 * SECONDS) == ["ready"], "the child does not start"
            while left:
                answer = _line(child, SECONDS)
                number, kind = left.pop(0)
                outcome, message = answer[2:] if answer else (WRONG, "hangs, or ends the process")
                counts[kind, outcome] += 1
                if outcome == WRONG:
                    show(f"wrong: {kind} {number}: {message}")
                if not answer:
                    child.kill()
                    break
    return counts


def _line(child: subprocess.Popen[str], seconds: float) -> list[str] | None:
    """The next answer of the child; None where none comes in time."""
    assert child.stdout is not None
    if not select.select([child.stdout], [], [], seconds)[0]:
        return None
    text = child.stdout.readline()
    answer: list[str] | None = json.loads(text) if text.endswith("\n") else None
    return answer


def numbered(count: int, kinds: tuple[str, ...] = KINDS, first: int = 0) -> list[tuple[int, str]]:
    """Number and kind of inputs; half of them models, where all kinds are wanted."""
    order = ("models", *kinds) if len(kinds) > 1 else kinds
    order = ("models", "targets", "models", "data", "models", "builds") if kinds == KINDS else order
    return [(number, order[number % len(order)]) for number in range(first, first + count)]


def main() -> int:
    """Run and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=KINDS, action="append")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        seed, numbers = json.load(sys.stdin)
        work_off(seed, numbers)
        return 0
    numbers = numbered(given.count, tuple(given.only) if given.only else KINDS, given.first)
    counts = run_all(given.seed, numbers, lambda line: print(line, flush=True))
    total: Counter[str] = Counter()
    for kind in KINDS:
        outcomes = {outcome: counts[kind, outcome] for outcome in (ACCEPTED, REFUSED, WRONG)}
        total.update(outcomes)
        print(f"{kind:8} {sum(outcomes.values()):6} inputs  {outcomes}")
    print(f"{'all':8} {sum(total.values()):6} inputs  {dict(total)}")
    return int(total[WRONG] > 0)


if __name__ == "__main__":
    sys.exit(main())
