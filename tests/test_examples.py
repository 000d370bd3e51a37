"""The demo's network is what its page says, and the script that trained it still runs."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "mcompiler" / "demo"
SCRIPT = ROOT / "examples" / "train_digits.py"


def recorded_accuracy(text: str) -> tuple[float, int, int]:
    """Percent, right and all images, from '99.78% (449 of 450)'."""
    match = re.search(r"([\d.]+)% \((\d+) of (\d+)\)", text)
    assert match is not None, text
    return float(match[1]), int(match[2]), int(match[3])


def test_shipped_network_is_as_accurate_as_recorded() -> None:
    percent, right, of = recorded_accuracy((DEMO / "README.md").read_text(encoding="utf-8"))
    with np.load(DEMO / "digits.npz") as held_out:
        x, y = held_out["x"], held_out["y"]
    session = onnxruntime.InferenceSession(DEMO / "digits.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"x": x})
    assert len(y) == of
    assert int((logits.argmax(axis=1) == y).sum()) == right
    assert percent == round(100 * right / of, 2)
    assert percent >= 97.5


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
    assert not any(image.tobytes() in held for image in x_calibration), "calibration must not see what is held out"


def test_the_demo_ships_small() -> None:
    assert sum(file.stat().st_size for file in DEMO.iterdir() if file.is_file()) < 300_000


@pytest.mark.slow
def test_training_script_runs(tmp_path: Path) -> None:
    """Two epochs, written elsewhere: close to the shipped network, and the same held-out images to the byte."""
    pytest.importorskip("torch", reason="training needs the extra [admm]")
    command: list[str | Path] = [sys.executable, SCRIPT, "--epochs", "2", "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    percent, _, of = recorded_accuracy(done.stdout)
    assert percent > 90
    assert of == 450
    for name in ("digits.npz", "digits_calibration.npz"):
        with np.load(tmp_path / name) as ours, np.load(DEMO / name) as shipped:
            assert sorted(ours) == sorted(shipped)
            assert all(np.array_equal(ours[key], shipped[key]) for key in ours)


@pytest.mark.slow
def test_training_script_writes_nothing_unless_asked(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="training needs the extra [admm]")
    command: list[str | Path] = [sys.executable, SCRIPT, "--epochs", "1", "--no-write", "--out", tmp_path / "never"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())
