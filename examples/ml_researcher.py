"""For machine learning researchers: prune and quantise a network in training, so that it needs fewer crossbars.

    pip install "mcompiler[admm]"
    python examples/ml_researcher.py

trains a small convolutional network on scikit-learn's 8x8 digits, compresses it with ADMM to a budget of crossbars,
exports it as ONNX, compiles the file, and verifies that the mapped network gives the same predictions as the compressed
network in PyTorch. It takes less than half a minute. own_loop.py shows the same in your own training loop.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import mcompiler
from mcompiler import admm

TARGET = "generic_128"
HELD_OUT = 450
BATCH = 64
SPEC = admm.Spec(
    budget=admm.Budget(crossbars=8, layers="all"),
    admm=admm.Admm(rho=(1e-2, 1e-1), epochs=2),
    retrain=admm.Retrain(epochs=6, float_epochs=2),
)


def digits_net() -> nn.Sequential:
    """Two convolutions and a classifier: [n, 1, 8, 8] to logits [n, 10]."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(1024, 10),
    )


def batches(x: torch.Tensor, y: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(x.split(BATCH), y.split(BATCH), strict=True))


def train(net: nn.Module, data: list[tuple[torch.Tensor, torch.Tensor]], epochs: int) -> None:
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(epochs):
        for x, y in data:
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimiser.step()


def main(folder: Path) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels))
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8)[order]
    y = torch.tensor(labels)[order]
    data, test = batches(x[HELD_OUT:], y[HELD_OUT:]), batches(x[:HELD_OUT], y[:HELD_OUT])

    net = digits_net()
    train(net, data, epochs=6)
    compressed = admm.compress(net.eval(), data, TARGET, SPEC, test=test, progress=False)
    for name, count in compressed.tiles.items():
        print(f"layer {name}: {compressed.dense_tiles[name]} array positions dense, {count} compressed")

    path = compressed.export(folder / "compressed.onnx")
    build = mcompiler.compile(path, TARGET)  # the file contains the input ranges: no calibration data
    result = build.verify(x[:HELD_OUT].numpy(), y[:HELD_OUT].numpy().astype(np.int64))
    print(f"crossbars: {sum(compressed.dense_tiles.values())} dense, {build.cost.crossbars} compressed")
    print(f"top-1: {compressed.figures['dense']:.1%} dense, {result.top1_mapped:.1%} mapped; exact: {result.exact}")


if __name__ == "__main__":
    with TemporaryDirectory() as work:
        main(Path(work))
