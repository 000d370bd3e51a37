"""Imports run downwards only: the contracts of pyproject.toml, and that they can fail."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / "lint-imports"
    return subprocess.run([program, "--no-cache"], cwd=folder, capture_output=True, text=True)


def test_contracts_hold() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("errors.py", "from mcompiler import target", "imports run downwards only BROKEN"),
        ("target/__init__.py", "import mcompiler.runtime", "imports run downwards only BROKEN"),
        ("passes/second.py", "import mcompiler.passes.first", "passes never import each other BROKEN"),
        ("passes/first.py", "import torch", "torch only in admm BROKEN"),
        ("ir.py", "from onnxruntime import InferenceSession", "onnxruntime only in runtime BROKEN"),
        ("ir.py", "import pydantic", "pydantic only in target, effects, and the specification of a compression BROKEN"),
        ("graph.py", "import onnx.helper", "onnx protobufs only in onnx_import, onnx_export and ir.packing BROKEN"),
        ("stray.py", "import math", "stray"),
    ],
)
def test_contracts_can_fail(tmp_path: Path, module: str, line: str, contract: str) -> None:
    """A skeleton of the house with one wrong import: the contract that forbids it breaks, and no other does."""
    package = tmp_path / "mcompiler"
    names = ["__init__", "errors", "ir", "graph", "runtime", "target/__init__"]
    names += ["passes/__init__", "passes/first", "passes/second"]
    for name in names:
        file = package / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.touch()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    assert lint_imports(tmp_path).returncode == 0, "the skeleton itself is in order"
    (package / module).write_text(line + "\n", encoding="utf-8")
    done = lint_imports(tmp_path)
    assert done.returncode != 0
    assert contract in done.stdout
    assert done.stdout.count("BROKEN") == 1
