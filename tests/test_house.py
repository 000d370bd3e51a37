"""The house itself: links, packaging, and what ``import mcompiler`` needs."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import mcompiler

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def in_python(code: str) -> str:
    """Run code in a fresh interpreter; return what it prints."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", ["passes", "targets"])
def test_links(name: str) -> None:
    link = ROOT / "mcompiler" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..") / name, "a link that works in every clone is relative"
    assert (link / "__init__.py").is_file()


def test_version_is_that_of_the_package() -> None:
    assert importlib.metadata.version("mcompiler") == mcompiler.__version__


def test_changelog_knows_the_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{mcompiler.__version__}]" in text or "## [Unreleased]" in text


BLOCK_TORCH = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ImportError("torch is blocked")

sys.meta_path.insert(0, Blocker())
"""


def test_everything_but_admm_imports_without_torch() -> None:
    code = f"""{BLOCK_TORCH}
import importlib, pkgutil
import mcompiler

for name in mcompiler.__all__:
    getattr(mcompiler, name)
for module in pkgutil.walk_packages(mcompiler.__path__, "mcompiler.", onerror=lambda name: None):
    if not module.name.startswith("mcompiler.admm") and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
assert "torch" not in sys.modules
print("fine")
"""
    assert in_python(code) == "fine"


def test_import_is_cheap() -> None:
    """The names are lazy: the bare import loads no heavy dependency."""
    loaded = in_python("import mcompiler, sys; print(*sys.modules)").split()
    assert not {"numpy", "onnx", "onnx_ir", "onnxruntime", "pydantic", "torch", "networkx"} & set(loaded)


def test_lazy_names_agree_with_what_type_checkers_see() -> None:
    tree = ast.parse((ROOT / "mcompiler" / "__init__.py").read_text(encoding="utf-8"))
    (typed,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in typed.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == mcompiler._HOME
    assert set(mcompiler.__all__) == {*seen, "__version__"}
    assert set(mcompiler.__all__) <= set(dir(mcompiler))


def test_admm_is_at_hand_where_torch_is() -> None:
    pytest.importorskip("torch", reason="needs the extra [admm]")
    assert in_python("import mcompiler; print(mcompiler.admm.Spec.__name__)") == "Spec"


def test_admm_says_what_it_needs() -> None:
    code = """
import sys
sys.modules["torch"] = None
import mcompiler
try:
    mcompiler.admm
except ImportError as error:
    print(error)
"""
    assert "pip install 'mcompiler[admm]'" in in_python(code)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'mcompiler' has no attribute 'compiel'"):
        _ = mcompiler.compiel


def canonical(requirement: str) -> str:
    """Name of a requirement as indexes normalise it."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None, requirement
    return re.sub(r"[-_.]+", "-", match.group()).lower()


def test_every_dependency_is_pinned_and_explained() -> None:
    project = PYPROJECT["project"]
    named = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*( ; python_version >= '3\.12')?", pin) for pin in pins)
    decision = (ROOT / "docs" / "decisions" / "0001-dependencies.md").read_text(encoding="utf-8")
    for requirement in named:
        name = canonical(requirement)
        if name == project["name"]:  # an extra that takes in another
            continue
        assert name in {canonical(pin) for pin in pins}, f"{name} has no line in constraints.txt"
        assert re.search(rf"^\|[^|]*\b{name}\b", decision, re.MULTILINE), f"{name} is not explained in decision 0001"


def test_the_benchmarks_take_in_what_training_needs() -> None:
    extras = PYPROJECT["project"]["optional-dependencies"]
    assert {canonical(r) for r in extras["admm"]} == {"scikit-learn", "torch"}
    assert "mcompiler[admm]" in extras["benchmarks"]


def test_torch_is_an_extra_only() -> None:
    assert not [r for r in PYPROJECT["project"]["dependencies"] if canonical(r) == "torch"]
