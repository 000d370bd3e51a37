"""mcompiler compress as a user meets it: exit codes, messages, files, and a run that goes on where it was."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import mcompiler
from mcompiler.cli.main import run

torch = pytest.importorskip("torch")

TASK = """
import torch
from torch import nn
from mcompiler.admm import Task

def data(seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(96, 2, 4, 4, generator=generator)
    y = (x.mean(dim=(1, 2, 3)) > 0).long()
    return [(x[i : i + 32], y[i : i + 32]) for i in range(0, 96, 32)]

def task():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(32, 2),
    )
    return Task(model, data(0), test=data(1))

def wild():
    found = task()
    with torch.no_grad():
        found.model[3].weight[0, 0] = float("nan")
    return found

def once():
    return Task(task().model, iter(data(0)))

def other_shape():
    return Task(task().model, [(x[:, :1], y) for x, y in data(0)])

class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.product = nn.Linear(4, 2)

    def forward(self, x):
        y = self.product(x.mean(dim=(1, 2)))
        return y if y.sum() > 0 else -y

def branches():
    return Task(Branches(), data(0))
"""

SPEC = """
[layers."0"]
filters = 4
[layers."3"]
shapes = 20
[admm]
rho = [0.01, 0.1]
epochs = 1
[retrain]
epochs = 3
float_epochs = 1
"""

SET = ["--set", "array.rows=16", "--set", "array.columns=16", "--set", "array.rows_active=16"]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A folder with an entry and a specification; modules of a test end with it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_task.py").write_text(TASK)
    (tmp_path / "spec.toml").write_text(SPEC)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]


def call(capsys: Capture, *arguments: str) -> tuple[int, str, str]:
    code = run(["compress", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err.rstrip("\n").rpartition("\n")[2]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "Missing argument 'PACKAGE.MODULE:FUNCTION'"),
        (["own_task:task", "--rho", "1"], 2, "No such option '--rho'"),
        (["missing:function"], 1, "'missing:function': cannot import missing: No module named 'missing'"),
        (["own_task"], 1, "'own_task': write package.module:function or file.py:function"),
        (["own_task:tasks"], 1, "'own_task:tasks': own_task has no function 'tasks'; did you mean 'task'?"),
        (["own_task:data"], 1, "'own_task:data' failed: TypeError: data() missing 1 required positional argument"),
        (["own_task:task", "--spec", "none.toml"], 1, "none.toml: no such specification file"),
        (["own_task:task", "--spec", "own_task.py"], 1, "own_task.py: cannot be read as TOML"),
        (["own_task:task", "--target", "generic_182"], 1, "generic_128"),
        (["own_task:task", "--set", "array.row=3"], 1, "array.row"),
        (["own_task:task", "--device", "gpu"], 1, "device 'gpu' cannot be used: "),
        (["own_task:task", "--out", "spec.toml"], 1, "spec.toml: is a file; give another --out"),
        (["own_task:wild"], 1, "the weights of layer '3' are not finite"),
        (["own_task:once"], 1, "iterated only once; give a list, a DataLoader or a function of the epoch"),
        (["own_task:other_shape"], 1, "the model does not run on the example inputs: Given groups=1"),
        (["own_task:branches"], 1, "or set `remove_paths = false` to compress the model without removing paths"),
    ],
)
def test_exit_codes_and_messages(capsys: Capture, arguments: list[str], code: int, message: str) -> None:
    found, out, last = call(capsys, *arguments)
    assert found == code, last
    assert last.startswith("mcompiler: ")
    assert message in last
    assert out == ""
    assert not list(Path().rglob("checkpoint.pt")), "an error that comes behind hours of training comes too late"


def test_a_wrong_specification_is_told_with_file_and_place(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text("[admm]\nepoch = 3")
    code, out, _ = call(capsys, "own_task:task", "--spec", "spec.toml", "--json")
    assert code == 1
    assert json.loads(out) == {"error": "spec.toml: admm.epoch: unknown key; did you mean 'epochs'?"}


def test_layers_of_the_specification_must_be_the_model_s(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text('[layers."1"]\nfilters = 3')
    code, _, last = call(capsys, "own_task:task", "--spec", "spec.toml")
    assert (code, "'1' (BatchNorm2d) is not mapped to crossbars" in last) == (1, True)


def test_without_torch_the_remedy_is_named(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else find(name, *rest))
    code, _, last = call(capsys, "own_task:task")
    assert code == 1
    assert last == (
        "mcompiler: mcompiler compress trains with PyTorch, which is not installed; pip install 'mcompiler[admm]'"
    )


def test_help(capsys: Capture) -> None:
    code, out, _ = call(capsys, "--help")
    assert code == 0
    assert "--spec FILE.toml" in out
    assert "torchrun" in out


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished run, and what it printed as JSON."""
    folder = tmp_path_factory.mktemp("compress")
    (folder / "own_task.py").write_text(TASK)
    (folder / "spec.toml").write_text(SPEC)
    command = [*SET, "--spec", str(folder / "spec.toml"), "--out", str(folder / "run"), "--json"]
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr(sys, "path", list(sys.path))
        patch.setattr("mcompiler.cli.compress.print_json", lambda data: printed.append(json.dumps(data)))
        assert run(["compress", f"{folder / 'own_task.py'}:task", *command]) == 0
        sys.modules.pop("own_task", None)
    return folder, json.loads(printed[0])


def test_json_and_files(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, report = finished
    out = folder / "run"
    assert (report["out"], report["model"]) == (str(out), str(out / "model.onnx"))
    assert {"model.onnx", "report.json", "log.jsonl", "checkpoint.pt"} <= {entry.name for entry in out.iterdir()}
    assert not [entry for entry in out.iterdir() if entry.name.startswith(".")]
    written = json.loads((out / "report.json").read_text())
    assert {key: value for key, value in report.items() if key not in ("out", "model")} == written
    assert [layer["name"] for layer in report["layers"]] == ["0", "3", "6"]
    assert report["tiles"] == sum(layer["tiles"] for layer in report["layers"]) < report["tiles_dense"]
    assert report["layers"][0]["structure"] == {"filters": 4}
    assert set(report["top1"]) == {"dense", "projected", "quantised"}
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    stages = [line["stage"] for line in lines]
    assert stages == ["admm", "admm", "projection", "float", "quantised", "quantised"]
    assert set(lines[0]["residuals"]) == {"0", "3", "6"}


def test_the_compiler_finds_the_arrays_and_predictions_of_the_report(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, report = finished
    build = mcompiler.compile(folder / "run" / "model.onnx", "generic_128", overrides=SET[1::2])
    tiles = {layer["name"]: layer["tiles"] for layer in report["layers"] if layer["tiles"]}
    assert {name: build.cost.layers[name].crossbars for name in build.layers} == tiles
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(96, 2, 4, 4, generator=generator)
    y = (x.mean(dim=(1, 2, 3)) > 0).long()
    found = build.verify(x.numpy(), y.numpy(), ideal=True)
    assert found.exact
    assert found.top1_mapped == pytest.approx(report["top1"]["quantised"], abs=1e-12)


def test_normalisations_are_folded_into_the_layers(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = finished
    operators = [node.op_type for node in onnx.load(folder / "run" / "model.onnx").graph.node]
    assert operators.count("Conv") == 2
    assert "BatchNormalization" not in operators


def test_a_finished_run_is_not_run_again(capsys: Capture, finished: tuple[Path, dict[str, Any]]) -> None:
    folder, report = finished
    before = (folder / "run" / "model.onnx").read_bytes()
    arguments = [*SET, "--spec", str(folder / "spec.toml"), "--out", str(folder / "run")]
    code = run(["compress", f"{folder / 'own_task.py'}:task", *arguments])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert "resuming from" in captured.err
    assert re.search(rf"top-1 dense +{100 * report['top1']['dense']:.1f}\d*%", captured.out)
    assert "mcompiler compile" in captured.out
    assert "--target generic_128 --set array.rows=16 --set array.columns=16" in captured.out
    assert (folder / "run" / "model.onnx").read_bytes() == before
    code = run(["compress", f"{folder / 'own_task.py'}:task", "--out", str(folder / "run")])
    captured = capsys.readouterr()
    assert code == 1
    assert (
        "checkpoint.pt: of another specification, target or model; give another --out, or start again" in captured.err
    )


def test_of_several_processes_one_speaks(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, finished: tuple[Path, dict[str, Any]]
) -> None:
    folder, _ = finished
    monkeypatch.setitem(os.environ, "RANK", "1")
    arguments = [*SET, "--spec", str(folder / "spec.toml"), "--out", str(folder / "run")]
    assert run(["compress", f"{folder / 'own_task.py'}:task", *arguments]) == 0
    assert capsys.readouterr().out == ""


def test_random_inputs_agree_too(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = finished
    build = mcompiler.compile(folder / "run" / "model.onnx", "generic_128", overrides=SET[1::2])
    x = np.random.default_rng(0).standard_normal((40, 2, 4, 4)).astype(np.float32) * 3
    assert build.verify(x).exact
