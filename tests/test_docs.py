"""The blocks of the pages run, in order, in one folder for each page, as a reader would run them.

``console``: every line that starts with ``$`` must exit 0. Lines below it are its output and must be printed by it, up
to numbers and spacing; a line ``...`` stands for lines that are left out. ``python``: run as a script. Other blocks are
pictures or files. What stands in a comment right above a block directs it:

    <!-- file: NAME -->           the block is written to NAME
    <!-- output of: COMMAND -->   the whole block is what COMMAND prints
    <!-- not run: REASON -->      the block is left alone
    <!-- slow -->                 the block runs with the slow tests only
"""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "mcompiler" / "demo"
NEEDS_TORCH = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="training needs the extra [admm]")
PAGES = [
    "README.md",
    "docs/devices.md",
    "docs/netlists.md",
    "docs/programming.md",
    "docs/schedule.md",
    pytest.param("docs/admm.md", marks=NEEDS_TORCH),
]
STAND_INS = {
    "my_model.onnx": "digits.onnx",
    "my_calibration.npz": "digits_calibration.npz",
    "my_test.npz": "digits.npz",
}
"""Files that a reader would bring, and what of the demo stands in for them."""

BLOCK = re.compile(r"(?:<!-- (?P<note>[^\n]*?) -->\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
LANGUAGES = {"", "console", "python", "toml", "json"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    kind: str
    text: str
    note: str
    line: int


def blocks(page: str) -> list[Block]:
    found = []
    for match in BLOCK.finditer(page):
        line = page.count("\n", 0, match.start("kind")) + 1
        found.append(Block(match["kind"], match["text"], match["note"] or "", line))
    return found


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each command of a console block with the output lines shown below it."""
    command, shown = "", list[str]()
    for line in text.splitlines():
        if line.startswith("$ "):
            if command:
                yield command, shown
            command, shown = line[2:], []
        else:
            shown.append(line)
    if command:
        yield command, shown


def squeezed(line: str) -> str:
    """A line without what may differ from run to run: numbers become #, spacing and table rules go."""
    return " ".join(re.sub(r"\d+(\.\d+)?(e[-+]?\d+)?", "#", re.sub(r"[─━┄-]{3,}", "", line)).split())


def missing_lines(shown: list[str], printed: str) -> list[str]:
    """Lines of the page that the command does not print."""
    real = {squeezed(line) for line in printed.splitlines()}
    return [line for line in shown if line != "..." and squeezed(line) not in real]


def call(command: list[str], folder: Path, where: str) -> str:
    # The commands of the environment that runs the tests, whether it is activated or not.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "COLUMNS": "120", "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{where}: {shlex.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def check_output(command: str, shown: list[str], folder: Path, where: str) -> None:
    printed = call(shlex.split(command, comments=True), folder, where)
    assert not missing_lines(shown, printed), f"{where}: not printed any more by {command}\n{printed}"


def run_page(name: str, folder: Path, *, slow: bool) -> None:
    for ours, demo in STAND_INS.items():
        shutil.copy(DEMO / demo, folder / ours)
    for block in blocks((ROOT / name).read_text(encoding="utf-8")):
        where = f"{name}:{block.line}"
        assert block.kind in LANGUAGES, f"{where}: nobody runs blocks of kind {block.kind!r}"
        if block.note.startswith("not run: ") or (block.note == "slow" and not slow):
            continue
        if block.note.startswith("file: "):
            (folder / block.note.removeprefix("file: ")).write_text(block.text, encoding="utf-8")
        elif block.note.startswith("output of: "):
            check_output(block.note.removeprefix("output of: "), block.text.splitlines(), folder, where)
        elif block.kind == "python":
            call([sys.executable, "-W", "error", "-c", block.text], folder, where)
        elif block.kind == "console":
            for command, shown in commands(block.text):
                check_output(command, shown, folder, where)


@pytest.mark.parametrize("name", PAGES)
def test_page(name: str, tmp_path: Path) -> None:
    run_page(name, tmp_path, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_page_with_its_slow_blocks(name: str, tmp_path: Path) -> None:
    if all(block.note != "slow" for block in blocks((ROOT / name).read_text(encoding="utf-8"))):
        pytest.skip("no slow blocks on this page")
    run_page(name, tmp_path, slow=True)


PAGE = """
<!-- file: hello.py -->
```python
print("3 tiles\\n   x  4.5e-3 J")
```
text
<!-- not run: it would fail -->
```console
$ false
```
```console
$ python hello.py   # a comment
7 tiles
x 1 J
$ python -V
...
```
<!-- output of: python hello.py -->
```
5 tiles
...
```
"""


def test_runner_reads_blocks() -> None:
    assert [(b.kind, b.note, b.line) for b in blocks(PAGE)] == [
        ("python", "file: hello.py", 3),
        ("console", "not run: it would fail", 8),
        ("console", "", 11),
        ("", "output of: python hello.py", 19),
    ]
    found = list(commands(blocks(PAGE)[2].text))
    assert found == [("python hello.py   # a comment", ["7 tiles", "x 1 J"]), ("python -V", ["..."])]


def test_runner_compares_up_to_numbers() -> None:
    printed = "3 tiles\n   x  4.5e-3 J"
    assert missing_lines(["7 tiles", "x 1 J"], printed) == []
    assert missing_lines(["7 arrays"], printed) == ["7 arrays"]
    assert missing_lines(["3 tiles", "...", "x 1 J"], printed) == []
    assert missing_lines(["3 tiles", "...", "anything"], printed) == ["anything"]


def test_runner_compares_whole_blocks(tmp_path: Path) -> None:
    check_output("python -c 'print(3, 4)'", ["1 2", "..."], tmp_path, "page:1")
    with pytest.raises(AssertionError, match="page:1: not printed any more by python -c"):
        check_output("python -c 'print(3, 4)'", ["1 tile"], tmp_path, "page:1")


def test_runner_fails_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"page:7: python -c 'raise SystemExit\(3\)'"):
        call(["python", "-c", "raise SystemExit(3)"], tmp_path, "page:7")


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
        assert (ROOT / name).parent.joinpath(link).exists(), link
