"""The whole recipe: what it leaves, that it can be killed, that processes agree, and what it says when it cannot."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch")
from torch import nn

import mcompiler
from mcompiler import admm
from mcompiler.errors import BuildError, CompileError
from mcompiler.geometry import array_shape

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import sys
import torch
from torch import nn
from mcompiler import admm

torch.set_num_threads(1)
torch.manual_seed(3)
x = torch.randn(96, 1, 8, 8)
y = (x.mean(dim=(1, 2, 3)) > 0).long() + 2 * (x[:, 0, 0, 0] > 0).long()


class Batches:
    def __len__(self):
        return 6

    def __iter__(self):
        for index in torch.randperm(96).view(6, 16):
            yield x[index] + 0.01 * torch.randn(16, 1, 8, 8), y[index]


def network(norm):
    layers = [nn.Conv2d(1, 12, 3, padding=1), *([nn.BatchNorm2d(12)] if norm else []), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(12, 20, 3, padding=1), *([nn.BatchNorm2d(20)] if norm else []), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(80, 4))


def spec(norm, **options):
    second = "4" if norm else "3"
    last = "9" if norm else "7"
    return admm.Spec(
        seed=5,
        layers={second: admm.Structure(filters=8, shapes=32), last: admm.Structure(shapes=24)},
        admm=admm.Admm(rho=(1e-2, 1e-1), epochs=2, updates_per_epoch=2),
        retrain=admm.Retrain(epochs=4, float_epochs=2),
        **options,
    )


if __name__ == "__main__":
    out, norm = sys.argv[1], sys.argv[2] == "norm"
    model = network(norm)
    result = admm.compress(
        model, Batches(), "yuan2019_32x32", spec(norm), test=[(x, y)], out=out, device="cpu",
        say=lambda line: print(line, flush=True),
    )
    torch.save(result.model.state_dict(), out + "/final.pt")
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training script as a file."""
    path = tmp_path_factory.mktemp("recipe") / "train_small.py"
    path.write_text(SCRIPT, encoding="utf-8")
    return path


def command(script: Path, out: Path, norm: str) -> list[str]:
    return [sys.executable, str(script), str(out), norm]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def final(out: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(out / "final.pt", weights_only=True)
    return state


@pytest.fixture(scope="module")
def finished(script: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    done = subprocess.run(command(script, out, "norm"), env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def test_what_a_run_leaves(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} >= {
        "checkpoint.pt",
        "pruned.pt",
        "log.jsonl",
        "model.onnx",
        "report.json",
    }
    lines = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["admm"] * 4 + ["projection"] + ["float"] * 2 + ["quantised"] * 2
    residuals = [line["worst_primal"] for line in lines if line["stage"] == "admm"]
    assert all(0 < residual < float("inf") for residual in residuals)
    assert all(line["penalty"] > 0 for line in lines if line["stage"] == "admm")
    report = json.loads((finished / "report.json").read_text())
    assert report["tiles"] < report["tiles_dense"]
    assert {"dense", "projected", "quantised"} <= set(report["top1"])


def test_counts_are_those_of_the_compiler(finished: Path) -> None:
    """The trainer's tiles are the compiler's arrays, and its weights the compiler's non-zero codes."""
    build = mcompiler.compile(finished / "model.onnx", "yuan2019_32x32", overrides=("converters.adc.range=full",))
    copies = array_shape(build.target).arrays_per_tile
    report = json.loads((finished / "report.json").read_text())
    for layer in report["layers"]:
        assert build.cost.layers[layer["name"]].crossbars == copies * layer["tiles"]
    codes = {layer.op.site.name: layer.op.matrix.codes for layer in build.layer_data}
    assert {name: int(np.count_nonzero(array)) for name, array in codes.items()} == {
        layer["name"]: layer["weights"] for layer in report["layers"]
    }


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["admm 1", "float 0", "quantised 0"])
def test_killed_and_resumed_reaches_the_same_weights(script: Path, finished: Path, tmp_path: Path, moment: str) -> None:
    """kill -9 in each stage, some batches into the next epoch; then the same command again."""
    out = tmp_path / "run"
    process = subprocess.Popen(command(script, out, "norm"), env=environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(moment):
            time.sleep(0.01)
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not (out / "final.pt").exists()
    done = subprocess.run(command(script, out, "norm"), env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "resuming from" in done.stdout
    ours, theirs = final(out), final(finished)
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    stages = [
        [json.loads(line)["stage"] for line in (folder / "log.jsonl").read_text().splitlines()]
        for folder in (out, finished)
    ]
    assert stages[0] == stages[1]


@pytest.mark.slow
def test_two_processes_walk_the_path_of_one(script: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    done = subprocess.run(command(script, one, "plain"), env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(script)]
    done = subprocess.run([*launch, str(two), "plain"], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ours, theirs = final(two), final(one)
    assert list(ours) == list(theirs)
    for key, value in ours.items():
        assert torch.allclose(value.double(), theirs[key].double(), atol=1e-4), key


def test_a_checkpoint_of_another_specification_is_refused(finished: Path) -> None:
    scope: dict[str, Any] = {"__name__": "other"}
    exec(compile(SCRIPT, "train_small.py", "exec"), scope)
    network, spec, batches = scope["network"], scope["spec"], scope["Batches"]
    other = dataclasses.replace(spec(True), seed=6)
    with pytest.raises(BuildError, match="of another specification, target or model"):
        admm.compress(network(True), batches(), "yuan2019_32x32", other, out=finished, device="cpu")


def test_a_checkpoint_of_the_same_model_with_other_weights_is_refused(finished: Path) -> None:
    scope: dict[str, Any] = {"__name__": "other"}
    exec(compile(SCRIPT, "train_small.py", "exec"), scope)
    model = scope["network"](True)
    assert admm.compress(
        model, scope["Batches"](), "yuan2019_32x32", scope["spec"](True), out=finished, device="cpu"
    ).tiles, "the run that is finished already"
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    with pytest.raises(BuildError, match="of another specification, target or model"):
        admm.compress(model, scope["Batches"](), "yuan2019_32x32", scope["spec"](True), out=finished, device="cpu")


def tiny() -> tuple[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 4))
    x = torch.randn(32, 40)
    return model, [(x[:16], torch.arange(16) % 4), (x[16:], torch.arange(16) % 4)]


def brief(**options: Any) -> admm.Spec:
    return admm.Spec(admm=admm.Admm(rho=(1e-2,), epochs=1), retrain=admm.Retrain(epochs=1), **options)


def test_the_given_model_is_left_alone() -> None:
    model, batches = tiny()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    admm.compress(model, batches, "yuan2019_32x32", brief(layers={"0": admm.Structure(filters=8)}), device="cpu")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_budget_is_kept() -> None:
    model, batches = tiny()
    spec = brief(budget=admm.Budget(crossbars=4, layers="all", batches=2))
    result = admm.compress(model, batches, "yuan2019_32x32", spec, device="cpu")
    assert sum(result.dense_tiles.values()) == 6
    assert sum(result.tiles.values()) <= 4


def test_a_budget_below_the_floor_is_an_error() -> None:
    model, batches = tiny()
    spec = brief(budget=admm.Budget(crossbars=1, layers="all", batches=2))
    with pytest.raises(CompileError, match=r"floor|at least"):
        admm.compress(model, batches, "yuan2019_32x32", spec, device="cpu")


def test_data_that_do_not_know_their_length_are_counted(tmp_path: Path) -> None:
    """Rates, penalties and weights are those of data that do."""
    model, batches = tiny()
    spec = admm.Spec(
        layers={"0": admm.Structure(filters=8)},
        admm=admm.Admm(rho=(1e-3, 1e-2, 1e-1), epochs=1, updates_per_epoch=3),
        retrain=admm.Retrain(epochs=2),
    )
    said: list[str] = []
    kinds: dict[str, Any] = {
        "sized": batches * 3,
        "unsized": lambda epoch: iter(batches * 3),
        "shrinking": lambda epoch: iter(batches * (1 if epoch else 3)),
    }
    for name, data in kinds.items():
        admm.compress(model, data, "yuan2019_32x32", spec, out=tmp_path / name, device="cpu", say=said.append)
    logs = {
        name: [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()] for name in kinds
    }
    for lines in logs.values():
        for line in lines:
            line.pop("seconds", None)
        rhos = [line["residuals"]["0"]["rho"] for line in lines if line["stage"] == "admm"]
        assert rhos == [1e-3, 1e-2, 1e-1]
    assert [line["steps"] for line in logs["sized"] if line["stage"] == "admm"] == [6, 6, 6]
    assert logs["unsized"] == logs["sized"]
    assert sum("counted 6" in line for line in said) == 2


def test_without_removal_of_paths() -> None:
    model, batches = tiny()
    spec = brief(layers={"0": admm.Structure(filters=8)}, remove_paths=False)
    result = admm.compress(model, batches, "yuan2019_32x32", spec, device="cpu")
    assert result.model.get_submodule("0").weight.shape == (40, 40)
    assert result.weights()["0"] <= 8 * 40


def test_filters_that_have_to_stay_are_reported(tmp_path: Path) -> None:
    """A pruned filter of one branch, whose channel the other branch of the sum fills."""

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other, self.last = nn.Linear(40, 24), nn.Linear(40, 24), nn.Linear(24, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.last(torch.relu(self.one(x) + self.other(x)))
            return y

    torch.manual_seed(0)
    _, batches = tiny()
    said: list[str] = []
    spec = brief(layers={"one": admm.Structure(filters=8)})
    result = admm.compress(Sum(), batches, "yuan2019_32x32", spec, out=tmp_path, device="cpu", say=said.append)
    why = {"it is tied to channels that are in use": 16}
    assert result.pinned_filters == {"one": why}
    layers = json.loads((tmp_path / "report.json").read_text())["layers"]
    assert {layer["name"]: layer["filters_that_stay"] for layer in layers} == {"one": why, "other": {}, "last": {}}
    (line,) = (json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines() if "projection" in line)
    assert line["stays"] == {"one": why}
    assert any("have to stay" in line and "16 of 'one'" in line for line in said)


def test_loss_that_is_not_finite_stops_the_run() -> None:
    model, batches = tiny()
    batches[1] = (batches[1][0] * torch.inf, batches[1][1])
    with pytest.raises(CompileError, match="stage admm, epoch 0, step 1"):
        admm.compress(model, batches, "yuan2019_32x32", brief(), device="cpu")


def test_predictions_in_pytorch_are_those_of_the_mapped_model(tmp_path: Path) -> None:
    model, batches = tiny()
    result = admm.compress(model, batches, "yuan2019_32x32", brief(), device="cpu")
    x = torch.cat([part for part, _ in batches])
    build = mcompiler.compile(
        result.export(tmp_path / "model.onnx"), "yuan2019_32x32", overrides=("converters.adc.range=full",)
    )
    wanted = result.deployed()(x).argmax(dim=1).numpy()
    found = build.verify(x.numpy(), wanted, ideal=True)
    assert found.exact
    assert found.top1_mapped == 1.0


def test_labels_that_do_not_fit_are_the_users(tmp_path: Path) -> None:
    model, batches = tiny()
    wrong = [(x, y.float()) for x, y in batches]
    with pytest.raises(CompileError, match="does not take the model's output and these targets"):
        admm.compress(model, wrong, "yuan2019_32x32", brief(), device="cpu")
    with pytest.raises(CompileError, match="does not run on the test data"):
        admm.compress(
            model, batches, "yuan2019_32x32", brief(), test=[(torch.zeros(2, 3), batches[0][1][:2])], device="cpu"
        )


def test_a_specification_may_be_a_file_and_nothing_else(tmp_path: Path) -> None:
    model, batches = tiny()
    file = tmp_path / "spec.toml"
    file.write_text("[admm]\nepochs = 1\nrho = [1e-2]\n[retrain]\nepochs = 1\n")
    assert admm.Compressor(model, "yuan2019_32x32", file).rho == 1e-2
    assert admm.compress(model, batches, "yuan2019_32x32", str(file), device="cpu").tiles
    wrong: Any = {"admm": {}}
    with pytest.raises(CompileError, match="the specification is a dict"):
        admm.Compressor(model, "yuan2019_32x32", wrong)
    with pytest.raises(CompileError, match=r"layers\.0\.admm: unknown key; known here: filters"):
        admm.Spec(layers={"0": wrong})
    with pytest.raises(CompileError, match="needs training data to search with"):
        admm.Compressor(model, "yuan2019_32x32", admm.Spec(budget=admm.Budget(crossbars=3)))


def test_a_loop_of_ones_own_exports_the_codes_that_it_trained(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
    compressor = admm.Compressor(model, "yuan2019_32x32", admm.Spec(layers={"4": admm.Structure(shapes=64)}))
    x = torch.randn(16, 1, 8, 8)
    with pytest.raises(CompileError, match="not projected yet"):
        compressor.export(tmp_path / "early.onnx", x)
    model(x).square().mean().backward()
    compressor.update()
    compressor.project()
    model.eval()
    build = mcompiler.compile(
        compressor.export(tmp_path / "own.onnx", x), "yuan2019_32x32", calibration={"x": x.numpy()}
    )
    (layer,) = (layer for layer in build.layer_data if layer.op.site.name == "4")
    mapped: Any = model.get_submodule("4").parametrizations
    codes = mapped.weight[0].codes(mapped.weight.original)
    assert np.array_equal(layer.op.matrix.codes[0], codes.detach().numpy().T)
    assert [fate.op for fate in build.fates if "digital" in str(fate.fate)].count("BatchNormalization") == 0
    assert {name: cost.crossbars // 2 for name, cost in build.cost.layers.items() if name in "04"} == compressor.tiles()


def test_a_loop_goes_on_behind_an_export(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    compressor = admm.Compressor(model, "generic_128", admm.Spec(layers={"0": admm.Structure(filters=16)}))
    compressor.project()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(4, 64)
    before, dense = model(x), compressor.dense_tiles()
    first = compressor.export(tmp_path / "0.onnx", x).read_bytes()
    assert torch.equal(model(x), before)
    assert compressor.export(tmp_path / "1.onnx", x).read_bytes() == first
    for _ in range(3):
        model(x).square().mean().backward()
        optimiser.step()
    assert not torch.equal(model(x), before)
    assert compressor.export(tmp_path / "2.onnx", x).read_bytes() != first
    assert compressor.dense_tiles() == dense
