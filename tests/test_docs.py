"""The documentation pages: their blocks run, their links resolve, and they import public names only.

The blocks of a page run in order, in one folder, as a reader would run them. ``console``: every line that starts with
``$`` must exit 0; lines below it must be its whole output, and a line ``...`` marks omitted lines. ``python``: run as a
script. ``toml`` and ``json``: parsed, and checked as a target where the block extends one. A comment in the line above
the block directs the test:

    <!-- file: NAME -->           the block is written to NAME
    <!-- output of: COMMAND -->   the whole block is the output of COMMAND
    <!-- not run: REASON -->      the block does not run; NOT_RUN lists it
    <!-- slow -->                 the block runs with the slow tests only

Where only numbers have changed, ``python -m tests.support.pages PAGE`` writes the new ones into a page.
"""

import ast
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

import mcompiler
from tests.support.pages import (
    ROOT,
    Block,
    blocks,
    blocks_of,
    call,
    check_output,
    commands,
    difference,
    page_names,
    run_block,
    run_page,
    same_line,
    updated,
)
from tests.support.tables import MARKED, TABLES, with_tables

NEEDS_TORCH = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="training needs the extra [admm]")
PAGES = page_names()
WITH_BLOCKS = [
    pytest.param(page, marks=NEEDS_TORCH) if page == "docs/admm.md" else page for page in PAGES if blocks_of(page)
]
LONG = ("docs/devices.md", "docs/pipeline.md", "docs/cost.md", "docs/programming.md")
"""Pages whose blocks take over eight seconds together: they run with the slow tests."""

LONG_PAGES = [pytest.param(page, marks=pytest.mark.slow) for page in LONG]
SHORT_PAGES = [page for page in WITH_BLOCKS if page not in LONG]

NOT_RUN = {
    ("CONTRIBUTING.md", "$ make setup-dev"): ".ci/run",
    ("CONTRIBUTING.md", "          lower, quantise,"): "diagram",
    ("README.md", "$ make demo"): ".ci/run",
    ("README.md", "$ make test"): ".ci/run",
    ("README.md", "model.onnx"): "diagram",
    ("README.md", "$ pip install ."): "installs",
    ("README.md", "$ mcompiler compress my_task.py:task"): "your task",
    ("docs/architecture.md", " model.onnx"): "diagram",
    ("docs/architecture.md", "cli"): "diagram",
    ("docs/cost.md", "$ pip install 'mcompiler[second-opinion]'"): "needs Python 3.12",
    ("docs/netlists.md", "from pathlib import Path"): "needs ngspice",
    ("docs/results.md", "$ python benchmarks/paper.py lenet5"): "hours of training",
    ("docs/sweeps.md", "$ python benchmarks/sweep_sense.py"): "minutes",
}
"""Page and beginning of every block that does not run: the reason that the page gives."""

REASONS = {
    ".ci/run": "sets up an environment; .ci/run runs it",
    "diagram": "a diagram, no code",
    "installs": "changes the environment of the tests; .ci/run installs the wheel",
    "your task": "the files are the reader's; docs/admm.md has a task that runs",
    "needs Python 3.12": "the packages of an extra do; tests/cost/test_opinion.py runs the command",
    "needs ngspice": "ngspice is no dependency; tests/netlist runs the same function where ngspice is installed",
    "hours of training": "training of four networks, on data that do not ship",
    "minutes": "many compilations; the benchmark's own test compiles some of them",
}


@pytest.mark.parametrize("page", [*SHORT_PAGES, *LONG_PAGES])
def test_page(page: str, tmp_path: Path) -> None:
    run_page(page, tmp_path, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_BLOCKS)
def test_page_with_its_slow_blocks(page: str, tmp_path: Path) -> None:
    if all(block.note != "slow" for block in blocks_of(page)):
        pytest.skip("no slow blocks on this page")
    run_page(page, tmp_path, slow=True)


def test_blocks_that_do_not_run_are_listed() -> None:
    """In both directions: every such block is in the list, and the list has no other entry."""
    marked = [block for page in PAGES for block in blocks_of(page) if block.not_run]
    unlisted = {block.place: block.not_run for block in marked}
    for (page, begin), reason in NOT_RUN.items():
        (block,) = [block for block in marked if block.page == page and block.text.startswith(begin)]
        assert block.not_run == reason, f"{block.place}: another reason than in NOT_RUN"
        del unlisted[block.place]
    assert not unlisted, "blocks that do not run and are not in NOT_RUN"
    assert set(NOT_RUN.values()) == set(REASONS)


def test_fences_are_closed() -> None:
    """A fence that BLOCK does not see would not be checked."""
    for page in PAGES:
        fences = re.findall(r"^\s*```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
        assert len(fences) == 2 * len(blocks_of(page)), page


# --- links -----------------------------------------------------------------------------------------------------------

LINK = re.compile(r"!?\[[^\]]*\]\((?!https?://|mailto:)([^)\s]*)\)")


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", without_blocks(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    broken = []
    for link in LINK.findall(without_blocks(page.read_text(encoding="utf-8"))):
        path, _, anchor = link.partition("#")
        aim = page.parent / path if path else page
        if not aim.exists() or (anchor and anchor not in anchors(aim)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES)
def test_links_resolve(page: str) -> None:
    assert broken_links(ROOT / page) == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# One `two`: three\n```\n# no heading\n```\n", encoding="utf-8")
    page = tmp_path / "page.md"
    links = [
        "other.md",
        "other.md#one-two-three",
        "#here",
        "other.md#no-heading",
        "missing.md",
        "missing.svg",
        "#there",
    ]
    page.write_text("## Here\n" + "\n".join(f"[x]({link}) " for link in links), encoding="utf-8")
    assert broken_links(page) == links[3:]


PATH = re.compile(r"`((?:benchmarks|docs|examples|mcompiler|passes|targets|tests)/[\w./-]*)`")


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])
def test_paths_exist(page: str) -> None:
    """Files that the text names in backquotes."""
    text = without_blocks((ROOT / page).read_text(encoding="utf-8"))
    assert [path for path in PATH.findall(text) if not (ROOT / path).exists()] == []


NAME_IN_FILE = re.compile(r"`(\w+)` in `((?:mcompiler|passes|tests)/[\w/]+\.py)`")


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])
def test_names_exist_in_the_files_that_the_text_states(page: str) -> None:
    text = without_blocks((ROOT / page).read_text(encoding="utf-8"))
    missing = [
        f"{name} in {path}"
        for name, path in NAME_IN_FILE.findall(text)
        if not re.search(rf"\b{name}\b", (ROOT / path).read_text(encoding="utf-8"))
    ]
    assert missing == []


# --- structure -------------------------------------------------------------------------------------------------------


def layers_of_contract() -> list[set[str]]:
    """The layers of the import contract, from the top; names without the marks of import-linter."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (contract,) = [contract for contract in tool["contracts"] if contract["id"] == "layers"]
    return [set(re.findall(r"\w+", layer)) for layer in contract["layers"]]


def test_architecture_lists_the_layers_of_the_contract() -> None:
    (diagram,) = [block for block in blocks_of("docs/architecture.md") if block.text.startswith("cli\n")]
    assert [set(line.split()) for line in diagram.text.splitlines()] == layers_of_contract()


def test_architecture_describes_every_package() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    table = page.split("## Packages", 1)[1].split("## Imports", 1)[0]
    packages = re.findall(r"^\| `(\w+)` \| \S", table, re.MULTILINE)
    assert sorted(packages) == sorted(set().union(*layers_of_contract()))


def test_every_recipe_names_its_test() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Recipes", 1)[1]
    written = {f"tests/recipes/{path.name}" for path in (ROOT / "tests/recipes").glob("test_*.py")}
    recipes = [set(re.findall(r"`(tests/recipes/\w+\.py)`", part)) for part in page.split("\n### ")[1:]]
    assert all(len(tests) == 1 for tests in recipes)
    assert set().union(*recipes) == written


def test_tables_that_follow_from_the_code_are_of_today() -> None:
    """``python -m tests.support.tables`` writes them."""
    texts = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
    for page, text in texts.items():
        assert with_tables(text) == text, page
    assert {name for text in texts.values() for _, name, *_ in MARKED.findall(text)} == set(TABLES)


# --- public names ----------------------------------------------------------------------------------------------------

PRIVATE_IMPORTS = {
    ("docs/admm.md", "mcompiler.admm.digits"): "the task on scikit-learn's digits, which the page trains",
    ("examples/own_loop.py", "mcompiler.admm.digits"): "the same task",
}
"""Page or script, and the module that it imports although the module is not public: why."""


def public_names(module: str) -> set[str]:
    """The public names of a module; empty for a module that is not public."""
    if module == "mcompiler":
        return {*mcompiler.__all__, "admm", "pipeline"}
    if module in {"mcompiler.admm", "mcompiler.pipeline"}:
        tree = ast.parse(Path(importlib.util.find_spec(module).origin or "").read_text(encoding="utf-8"))  # type: ignore[union-attr]
        for node in tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                return set(ast.literal_eval(node.value))
    return set()


def private_imports(code: str) -> set[str]:
    """Names of mcompiler that a script imports or reads, and that are not public."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.startswith("mcompiler.") and not public_names(a.name)}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mcompiler":
            public = public_names(node.module or "")
            found |= {
                f"{node.module}.{a.name}" if public else str(node.module) for a in node.names if a.name not in public
            }
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = {"mcompiler": "mcompiler", "admm": "mcompiler.admm"}.get(node.value.id)
            if module and node.attr not in public_names(module):
                found.add(f"{module}.{node.attr}")
    return found


def scripts() -> list[tuple[str, str]]:
    """Page or example, and Python code in it."""
    code = [(block.page, block.text) for page in PAGES for block in blocks_of(page) if block.kind == "python"]
    return code + [(f"examples/{path.name}", path.read_text()) for path in sorted((ROOT / "examples").glob("*.py"))]


def test_pages_and_examples_import_public_names_only() -> None:
    found = {(page, name) for page, code in scripts() for name in private_imports(code)}
    assert found == set(PRIVATE_IMPORTS)


@pytest.mark.parametrize(
    ("code", "private"),
    [
        ("import mcompiler\nmcompiler.load('x')", set()),
        ("from mcompiler import Build, admm\nadmm.Spec()", set()),
        ("import mcompiler.driver", {"mcompiler.driver"}),
        ("from mcompiler.driver.trials import TrialOptions", {"mcompiler.driver.trials"}),
        ("from mcompiler import _HOME", {"mcompiler._HOME"}),
        ("import mcompiler\nmcompiler.driver.compile", {"mcompiler.driver"}),
        ("from mcompiler.admm import Spec, loop", {"mcompiler.admm.loop"}),
    ],
)
def test_private_imports_are_found(code: str, private: set[str]) -> None:
    assert private_imports(code) == private


# --- the runner itself -----------------------------------------------------------------------------------------------

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
    found = blocks("page", PAGE)
    assert [(b.kind, b.note, b.line) for b in found] == [
        ("python", "file: hello.py", 3),
        ("console", "not run: it would fail", 8),
        ("console", "", 11),
        ("", "output of: python hello.py", 19),
    ]
    assert list(commands(found[2].text)) == [
        ("python hello.py   # a comment", ["7 tiles", "x 1 J"]),
        ("python -V", ["..."]),
    ]


@pytest.mark.parametrize(
    ("quoted", "printed", "same"),
    [
        ("3 tiles  x", "3 tiles x", True),
        ("3 tiles", "4 tiles", False),
        ("601,600 products", "601,601 products", False),
        ("top-1 99.3%", "top-1 99.1%", True),
        ("top-1 99.3%", "top-1 97.1%", False),
        ("same 100%", "same 99.8%", True),
        ("energy 1.56 uJ", "energy 1.56 nJ", False),
        ("energy 1.56 uJ", "energy 1.55 uJ", False),
        ("1.4 s. The builds", "25.0 s. The builds", True),
        ("/conv1/Conv", "/conv2/Conv", False),
    ],
)
def test_lines_are_compared(quoted: str, printed: str, same: bool) -> None:
    assert same_line(quoted, printed) is same


@pytest.mark.parametrize(
    ("quoted", "fault"),
    [
        ("a b c d", ""),
        ("a b c", "left out without a line '...': 'd'"),
        ("a b d", "quoted 'd', printed 'c'"),
        ("b c d", "quoted 'b', printed 'a'"),
        ("a b c d e", "quoted 'e', printed the end of the output"),
        ("a ... d", ""),
        ("... c ...", ""),
        ("a ... b c d", ""),
        ("a ...", ""),
        ("... c", "quoted 'c', printed 'd'"),
        ("... b d", "quoted 'b', printed 'c'"),
        ("a ... c ... b d", "quoted 'b', printed the end of the output"),
    ],
)
def test_omissions_must_be_marked(quoted: str, fault: str) -> None:
    assert difference(quoted.split(), ["a", "b", "c", "d"]) == fault


def test_update_replaces_numbers_only() -> None:
    printed = ["3 tiles", "2 chips", "x  4 J", "y 5 J"]
    assert updated(["7 tiles", "...", "x 1 J"], printed) == ["3 tiles", "...", "x  4 J"]
    assert updated(["7 arrays", "y 1 J"], printed) == ["7 arrays", "y 5 J"], "words are for a person to change"


def test_runner_compares_whole_blocks(tmp_path: Path) -> None:
    check_output("python -c 'print(3, 4)'", ["3 4", "..."], tmp_path, "page:1")
    with pytest.raises(AssertionError, match=r"page:1: python -c .* quoted '1 tile', printed '3 4'"):
        check_output("python -c 'print(3, 4)'", ["1 tile"], tmp_path, "page:1")


def test_runner_fails_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"page:7: python -c 'raise SystemExit\(3\)'"):
        call(["python", "-c", "raise SystemExit(3)"], tmp_path, "page:7")


@pytest.mark.parametrize(
    ("kind", "text"),
    [("", "a picture\n"), ("yaml", "a: 1\n"), ("json", "{,}\n"), ("toml", "a = \n"), ("python", "assert False\n")],
)
def test_runner_accepts_no_block_unchecked(kind: str, text: str, tmp_path: Path) -> None:
    with pytest.raises((AssertionError, ValueError)):
        run_block(Block("page", kind, text, "", 1), tmp_path)
