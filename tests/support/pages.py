"""Blocks of the documentation pages: what they are, how they run, and how their quoted output compares.

``python -m tests.support.pages PAGE...`` runs pages and replaces quoted lines whose numbers have changed.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DEMO = ROOT / "mcompiler" / "demo"
STAND_INS = {
    "my_model.onnx": "digits.onnx",
    "my_calibration.npz": "digits_calibration.npz",
    "my_test.npz": "digits.npz",
}
"""Files of the reader that the pages use, and the files of the demo that replace them in the tests."""

GAP = "..."
"""A quoted line that marks omitted lines."""

TOLERANCE = 0.01
"""Relative difference of percentages and decibels between a page and the real output: processors round differently."""

_BLOCK = re.compile(r"(?:<!-- (?P<note>[^\n]*?) -->\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
_DURATION = re.compile(r"\b\d+(?:\.\d+)? s\b")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: path of the page, relative to the repository.
        kind: the word after the fence.
        text: the lines of the block.
        note: the comment in the line above the block.
        line: number of the line with the fence.
    """

    page: str
    kind: str
    text: str
    note: str
    line: int

    @property
    def place(self) -> str:
        """Page and line."""
        return f"{self.page}:{self.line}"

    @property
    def not_run(self) -> str:
        """The reason why the block does not run; empty if it runs."""
        return self.note.removeprefix("not run: ") if self.note.startswith("not run: ") else ""

    @property
    def file(self) -> str:
        """The name of the file that the block is written to; empty if there is none."""
        return self.note.removeprefix("file: ") if self.note.startswith("file: ") else ""

    @property
    def output_of(self) -> str:
        """The command whose output the whole block quotes; empty if there is none."""
        return self.note.removeprefix("output of: ") if self.note.startswith("output of: ") else ""


def page_names() -> list[str]:
    """Every page of the documentation, relative to the repository."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "mcompiler").rglob("*.md")]
    return sorted(str(page.relative_to(ROOT)) for page in pages)


def blocks(page: str, text: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = []
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("kind")) + 1
        found.append(Block(page, match["kind"], match["text"], match["note"] or "", line))
    return found


def blocks_of(page: str) -> list[Block]:
    """The fenced blocks of a page of the repository."""
    return blocks(page, (ROOT / page).read_text(encoding="utf-8"))


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each command of a console block, with the output lines quoted below the command."""
    command, quoted = "", list[str]()
    for line in text.splitlines():
        if line.startswith("$ "):
            if command:
                yield command, quoted
            command, quoted = line[2:], []
        else:
            quoted.append(line)
    if command:
        yield command, quoted


# --- comparison ------------------------------------------------------------------------------------------------------


def same_line(quoted: str, printed: str) -> bool:
    """Whether a quoted line is the printed one: words and numbers equal, percentages and decibels nearly."""
    quoted, printed = (" ".join(_DURATION.sub("# s", line).split()) for line in (quoted, printed))
    if _NUMBER.sub("#", quoted) != _NUMBER.sub("#", printed):
        return False
    numbers = re.findall(rf"({_NUMBER.pattern})(%| dB)?", printed)
    for ours, (theirs, measured) in zip(_NUMBER.findall(quoted), numbers, strict=True):
        value, real = float(ours.replace(",", "")), float(theirs.replace(",", ""))
        if abs(value - real) > (TOLERANCE * abs(real) if measured else 0):
            return False
    return True


def _matches_at(quoted: Sequence[str], printed: Sequence[str], start: int) -> bool:
    found = printed[start : start + len(quoted)]
    return len(found) == len(quoted) and all(map(same_line, quoted, found))


def difference(quoted: Sequence[str], printed: Sequence[str]) -> str:
    """The first difference between a quoted and the real output; empty if there is none.

    Every line of the output must be quoted, in order. A quoted line ``...`` replaces any number of lines.
    """
    runs: list[list[str]] = [[]]
    for line in quoted:
        if line.strip() == GAP:
            runs.append([])
        else:
            runs[-1].append(line)
    place = 0
    for index, run in enumerate(runs):
        first, last = index == 0, index == len(runs) - 1
        if last and not first:
            starts = [len(printed) - len(run)] if len(printed) - len(run) >= place else []
        elif first:
            starts = [0]
        else:
            starts = list(range(place, len(printed) - len(run) + 1))
        start = next((start for start in starts if _matches_at(run, printed, start)), None)
        if start is None:
            return _first_fault(run, printed[starts[0] :] if starts else [])
        place = start + len(run)
    if place < len(printed):
        return f"left out without a line '{GAP}': {printed[place]!r}"
    return ""


def _first_fault(run: Sequence[str], printed: Sequence[str]) -> str:
    for index, line in enumerate(run):
        if index >= len(printed) or not same_line(line, printed[index]):
            there = repr(printed[index]) if index < len(printed) else "the end of the output"
            return f"quoted {line!r}, printed {there}"
    return f"quoted lines are not in this order: {run[0]!r}"


# --- running ---------------------------------------------------------------------------------------------------------


def call(command: Sequence[str], folder: Path, place: str) -> list[str]:
    """Run a command in a folder, with the programs of this environment; return the lines that it prints.

    Raises:
        AssertionError: the command failed; with its place and output.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "COLUMNS": "120", "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(
        list(command), cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, f"{place}: {shlex.join(command)}\n{done.stdout}"
    return _trimmed(done.stdout.splitlines())


def _trimmed(lines: Sequence[str]) -> list[str]:
    """Lines without empty ones at both ends."""
    return "\n".join(line.rstrip() for line in lines).strip("\n").splitlines()


def check_output(command: str, quoted: Sequence[str], folder: Path, place: str) -> None:
    """Run a command, and compare what it prints with the quoted lines.

    Raises:
        AssertionError: the command failed, or prints something else.
    """
    printed = call(shlex.split(command, comments=True), folder, place)
    if quoted := _trimmed(quoted):
        found = difference(quoted, printed)
        assert not found, f"{place}: {command}: {found}\n" + "\n".join(printed)


def run_block(block: Block, folder: Path) -> None:
    """Run a block, or validate it.

    Raises:
        AssertionError: the block fails, quotes another output, or nothing here can check it.
    """
    if block.file:
        (folder / block.file).write_text(block.text, encoding="utf-8")
    if block.output_of:
        check_output(block.output_of, block.text.splitlines(), folder, block.place)
    elif block.kind == "console":
        for command, quoted in commands(block.text):
            check_output(command, quoted, folder, block.place)
    elif block.kind == "python" and block.file:
        ast.parse(block.text)
    elif block.kind == "python":
        call([sys.executable, "-W", "error", "-c", block.text], folder, block.place)
    elif block.kind == "toml":
        if "extends" in tomllib.loads(block.text):
            call(["mcompiler", "targets", "check", block.file], folder, block.place)
    elif block.kind == "json":
        json.loads(block.text)
    else:
        assert block.file, f"{block.place}: a block of kind {block.kind!r} that nothing runs or compares"


def put_stand_ins(folder: Path) -> None:
    """Copy the files that replace those of the reader into a folder."""
    for ours, demo in STAND_INS.items():
        shutil.copy(DEMO / demo, folder / ours)


def run_page(page: str, folder: Path, *, slow: bool) -> None:
    """Run the blocks of a page in order, in one folder, as a reader would run them."""
    put_stand_ins(folder)
    for block in blocks_of(page):
        if not block.not_run and (slow or block.note != "slow"):
            run_block(block, folder)


# --- update ----------------------------------------------------------------------------------------------------------


def updated(quoted: Sequence[str], printed: Sequence[str]) -> list[str]:
    """Quoted lines with the numbers and spaces of the first later printed line that has the same words."""
    lines, place = [], 0
    for line in quoted:
        words = _NUMBER.sub("#", " ".join(line.split()))
        like = [at for at in range(place, len(printed)) if _NUMBER.sub("#", " ".join(printed[at].split())) == words]
        equal = [at for at in like if same_line(line, printed[at])]
        lines.append(line if equal or not like else printed[like[0]])
        place = (equal or like or [place - 1])[0] + 1
    return lines


def update_page(page: str) -> None:
    """Run a page and write the numbers that the commands print now into it."""
    text = (ROOT / page).read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        put_stand_ins(folder)
        for block in blocks(page, text):
            if block.not_run or block.note == "slow":
                continue
            given = list(commands(block.text)) if block.kind == "console" else []
            if block.output_of:
                given = [(block.output_of, block.text.splitlines())]
            if not given:
                run_block(block, folder)
            for command, quoted in given:
                printed = call(shlex.split(command, comments=True), folder, block.place)
                if quoted:
                    text = text.replace("\n".join(quoted), "\n".join(updated(quoted, printed)), 1)
    (ROOT / page).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    for given_page in sys.argv[1:]:
        update_page(given_page)
