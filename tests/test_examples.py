"""The networks of the demo have the accuracy that their page states, can be trained again, and the examples run."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "mcompiler" / "demo"
NETWORKS = ("digits.onnx", "digits_compressed.onnx")


def recorded_accuracy(name: str) -> tuple[float, int, int]:
    """Percent, right and all images, from '| `digits.onnx` | 99.33% (447 of 450) |' of the demo's page."""
    text = (DEMO / "README.md").read_text(encoding="utf-8")
    match = re.search(rf"\| `{re.escape(name)}` \| ([\d.]+)% \((\d+) of (\d+)\)", text)
    assert match is not None, name
    return float(match[1]), int(match[2]), int(match[3])


def right_answers(model: Path) -> tuple[int, int]:
    """Held-out images that onnxruntime classifies right, and all of them.

    Node by node as the file says: fused integer kernels differ between processors (446 on one with AVX2 only).
    """
    with np.load(DEMO / "digits.npz") as held_out:
        x, y = held_out["x"], held_out["y"]
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"x": x})
    return int((logits.argmax(axis=1) == y).sum()), len(y)


def in_python(*arguments: object, folder: Path) -> str:
    """Run Python in a folder; return what it prints."""
    command = [sys.executable, "-W", "error", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", NETWORKS)
def test_shipped_networks_are_as_accurate_as_recorded(name: str) -> None:
    percent, right, of = recorded_accuracy(name)
    assert right_answers(DEMO / name) == (right, of)
    assert percent == round(100 * right / of, 2)
    assert percent >= 97.5


def test_the_compressed_network_holds_as_many_weights_as_recorded() -> None:
    graph = onnx.load(DEMO / "digits_compressed.onnx").graph
    weights = [array for array in graph.initializer if array.data_type == onnx.TensorProto.INT8 and len(array.dims) > 1]
    count = sum(int(np.prod(array.dims)) for array in weights)
    assert f"{count:,} integer weights" in (DEMO / "README.md").read_text(encoding="utf-8")


def test_shipped_data() -> None:
    with np.load(DEMO / "digits.npz") as held_out, np.load(DEMO / "digits_calibration.npz") as calibration:
        assert sorted(held_out) == ["x", "y"]
        assert sorted(calibration) == ["x"]
        x, y, x_calibration = held_out["x"], held_out["y"], calibration["x"]
    assert (x.shape, x.dtype) == ((450, 1, 8, 8), np.float32)
    assert (x_calibration.shape, x_calibration.dtype) == ((128, 1, 8, 8), np.float32)
    assert (y.shape, y.dtype) == ((450,), np.int64)
    assert set(np.unique(x)) == set(range(17)), "grey values are whole numbers, 0..16"
    held = {image.tobytes() for image in x}
    assert not any(image.tobytes() in held for image in x_calibration), "no calibration image is held out"


def test_the_demo_ships_small() -> None:
    assert sum(file.stat().st_size for file in DEMO.iterdir() if file.is_file()) < 300_000


@pytest.mark.slow
def test_what_ships_can_be_made_again(tmp_path: Path) -> None:
    """Trained elsewhere, with the figures of the page nearly; the same images to the byte."""
    pytest.importorskip("torch", reason="training needs the extra [admm]")
    printed = in_python("-m", "mcompiler.admm.digits", tmp_path / "demo", folder=ROOT)
    assert re.search(r"^array positions +[45] of 19, ", printed, re.MULTILINE), printed
    assert {path.name for path in (tmp_path / "demo").iterdir()} == {path.name for path in DEMO.iterdir()} - {
        "README.md"
    }
    for name in ("digits.npz", "digits_calibration.npz"):
        assert (tmp_path / "demo" / name).read_bytes() == (DEMO / name).read_bytes()
    for name in NETWORKS:
        right, of = right_answers(tmp_path / "demo" / name)
        assert abs(100 * right / of - recorded_accuracy(name)[0]) <= 1.0, name


def test_without_a_folder_the_digits_explain_themselves() -> None:
    pytest.importorskip("torch", reason="training needs the extra [admm]")
    done = subprocess.run([sys.executable, "-m", "mcompiler.admm.digits"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert "python -m mcompiler.admm.digits FOLDER" in done.stderr


EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))

PRINTS = {
    "architect.py": (
        r"^generic_128 +\d+ ",
        r"^ +8 +4 of 4 ",
        r"^hypertransport .* 3\.\d+%",
        r"^without the links between chips: \d\.\d+ uJ",
    ),
    "compiler_user.py": (
        r"^exact on 450 samples: True; top-1 mapped 99\.\d%$",
        r"^  /conv1/Conv +Conv +analog ",
        r"acyclic: True$",
        r"^  128 x 128 cells, levels used: \[0, 1, 2, 3\]$",
    ),
    "device_physicist.py": (
        r"^ideal devices and lossless converters: exact True, top-1 9\d\.\d%$",
        r"^4 chips, effects programming, noise, faults:$",
        r"^top-1 9\d\.\d% on average",
    ),
    "ml_researcher.py": (
        r"^crossbars: 22 dense, [1-8] compressed$",
        r"^top-1: 9\d\.\d% dense, 9\d\.\d% mapped; exact: True$",
    ),
    "own_loop.py": (
        r"^crossbars: 19 dense, 7 compressed$",
        r"^top-1: 9[6-9]\.\d% mapped, exact: True$",
    ),
}
"""Lines that each example prints."""

SLOW = {"ml_researcher.py", "own_loop.py"}
"""Examples that train, and need PyTorch."""

WRITES = {"own_loop.py": ["own_loop.onnx"]}
"""Files that an example leaves in the folder where it runs."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in EXAMPLES]
)
def test_examples(name: str, tmp_path: Path) -> None:
    if name in SLOW:
        pytest.importorskip("torch", reason="training needs the extra [admm]")
    printed = in_python(ROOT / "examples" / name, folder=tmp_path)
    for pattern in PRINTS[name]:
        assert re.search(pattern, printed, re.MULTILINE), f"{pattern}\n{printed}"
    assert sorted(path.name for path in tmp_path.iterdir()) == WRITES.get(name, [])


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_say_what_they_show(name: str) -> None:
    docstring = ast.get_docstring(ast.parse((ROOT / "examples" / name).read_text(encoding="utf-8"))) or ""
    assert f"python examples/{name}" in docstring
    assert len(docstring.splitlines()) >= 4


def test_the_readme_links_to_every_example() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in EXAMPLES if f"](examples/{name})" not in readme] == []
