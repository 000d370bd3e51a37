"""Two processes on the CPU walk the path of one; without process group everything is as it was."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcompiler.errors import UserError

torch = pytest.importorskip("torch")

import torch.distributed as dist  # noqa: E402
from torch import nn  # noqa: E402

from mcompiler.admm.compressor import Compressor  # noqa: E402
from mcompiler.admm.distributed import ProcessRank, join_ranks, map_nested, pick_device  # noqa: E402
from mcompiler.admm.loop import ComputeSettings, TrainingStage, make_optimiser, measure_accuracy, train_epoch  # noqa: E402
from mcompiler.admm.ranges import attach_quantisers, freeze_ranges, observe_ranges  # noqa: E402
from mcompiler.admm.spec import (  # noqa: E402
    Admm,
    Optimiser,
    Spec,
    Structure,
)

ROOT = Path(__file__).resolve().parents[2]
SIZES = (6, 5, 1)
"""Samples of the batches: an even share, an uneven one, and one that leaves the second process nothing."""


class Net(nn.Module):
    """No batch normalisation; one layer never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head, self.idle = nn.Conv2d(2, 4, 3, bias=False), nn.Linear(16, 3), nn.Linear(2, 2)

    def forward(self, x: Any) -> Any:
        return self.head(torch.relu(self.conv(x)).flatten(1))


def data() -> list[tuple[Any, Any]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(size, 2, 4, 4, generator=generator), torch.randint(0, 3, (size,), generator=generator))
        for size in SIZES
    ]


def run(layout: str) -> dict[str, Any]:
    """Alternate, project, quantise, retrain; process 0 knows the start only."""
    torch.set_num_threads(1)
    device = torch.device("cpu")
    ranks = join_ranks(device)
    torch.manual_seed(ranks.rank)
    model = Net()
    compute = ComputeSettings(device, False, layout == "channels_last", ranks)
    compute.move_model(model)
    ranks.broadcast_model(model)
    spec = Spec(skip=("idle",), layers={"conv": Structure(filters=3)}, admm=Admm(rho=(0.01, 0.1), epochs=1))
    compressor = Compressor(model, "generic_128", spec)
    options = Optimiser(learning_rate=0.05, weight_decay=0.1, clip=1.0)
    loss = nn.functional.cross_entropy
    optimiser = make_optimiser(model, options)
    stage = TrainingStage(model, loss, optimiser, options, compute=compute, penalty=compressor.penalty)
    epochs = []
    for _ in range(3):
        epochs.append(train_epoch(stage, data(), lambda share: share))
        compressor.update()
    compressor.project()
    quantisers = attach_quantisers(model, compressor.layers, (), compressor.target)
    observe_ranges(model, quantisers, data(), 3, compute)
    freeze_ranges(quantisers, "mse")
    ranks.broadcast_model(model)
    for _ in range(2):
        epochs.append(train_epoch(replace(stage, penalty=None), data(), lambda share: share))
    figures = [value for epoch in epochs for value in (epoch.loss, epoch.penalty)]
    result = {
        "weights": model.state_dict(),
        "figures": [*figures, measure_accuracy(model, data(), compute)],
        "world": ranks.world,
    }
    ranks.wait()
    return result


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


LAYOUTS = ("contiguous", "channels_last")


def test_two_processes_give_the_weights_of_one(tmp_path: Path) -> None:
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", __file__, str(tmp_path)]
    processes = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **place, "RANK": str(rank), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0].decode() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], outputs
    for layout in LAYOUTS:
        one = run(layout)
        both = [torch.load(tmp_path / f"{rank}.pt", weights_only=True)[layout] for rank in range(2)]
        assert (one["world"], [result["world"] for result in both]) == (1, [2, 2])
        for result in both:
            agree(one, result)
    torch.manual_seed(0)
    assert torch.equal(one["weights"]["idle.weight"], Net().idle.weight)  # no gradient, no decay


def agree(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Figures and weights within float tolerance, masks and codes' zero points as they are."""
    assert other["figures"] == pytest.approx(one["figures"], rel=1e-4)
    assert other["weights"].keys() == one["weights"].keys()
    for key, value in one["weights"].items():
        if value.is_floating_point():
            assert torch.allclose(other["weights"][key], value, atol=1e-5), key
        else:
            assert torch.equal(other["weights"][key], value), key


def test_shares_together_are_the_batch() -> None:
    Pair = namedtuple("Pair", "x y")
    batch = {"a": Pair(torch.arange(7), [torch.arange(14).reshape(7, 2)]), "b": "text"}
    shares = [ProcessRank(rank, 3).take_share(batch) for rank in range(3)]
    assert all(type(share["a"]) is Pair and share["b"] == "text" for share in shares)
    found = torch.cat([share["a"].x for share in shares])
    assert sorted(found.tolist()) == list(range(7))
    for share in shares:
        assert torch.equal(share["a"].y[0][:, 0], 2 * share["a"].x)
    assert ProcessRank().take_share(batch) is batch


def test_containers_are_rebuilt_as_they_are() -> None:
    assert map_nested((1, 2), lambda v: v + 1) == (2, 3)
    assert map_nested([1], lambda v: v + 1) == [2]
    assert map_nested({"k": 1}, lambda v: v + 1) == {"k": 2}
    assert map_nested("text", lambda v: v + 1) == "text"


def test_one_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    ranks = join_ranks(torch.device("cpu"))
    assert ranks == ProcessRank(0, 1)
    assert ranks.is_first
    assert not dist.is_initialized()
    assert ranks.sum_over_ranks(1.0, 2.0) == [1, 2]
    ranks.wait()
    parameter = nn.Parameter(torch.ones(2))
    ranks.average_gradients([parameter], 4)
    assert parameter.grad is None


def test_devices() -> None:
    assert pick_device("meta").type == "meta"
    assert pick_device(None).type == ("cuda" if torch.cuda.is_available() else "cpu")
    for wanted in ("cuda:99", "gpu"):
        with pytest.raises(UserError, match=rf"^device '{wanted}' cannot be used: .*; leave it out for the default$"):
            pick_device(wanted)


if __name__ == "__main__":
    torch.save({layout: run(layout) for layout in LAYOUTS}, Path(sys.argv[1]) / f"{os.environ['RANK']}.pt")
    dist.destroy_process_group()
