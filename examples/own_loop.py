"""ADMM in the user's own training loop: a digits network is compressed to 7 crossbars instead of 19.

    pip install "mcompiler[admm]"
    python examples/own_loop.py [FILE.onnx]

trains on scikit-learn's 8x8 digits, prunes with the compressor's three lines in an ordinary loop, writes the network as
ONNX, and compares the numbers of crossbars that compressor and compiler count. It takes a few seconds.
"""

import sys
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrize

import mcompiler
from mcompiler import admm
from mcompiler.admm.digits import CALIBRATION, DigitBatches, load_data, to_onnx, train_dense

TARGET = "generic_128"
SPEC = admm.Spec(
    layers={
        "conv2": admm.Structure(shapes=128),  # 128 of 144 rows: one row of arrays instead of two
        "conv3": admm.Structure(filters=32, shapes=128),
    },
    admm=admm.Admm(rho=(1e-1, 1.0, 1e1), epochs=1),
)


def train_epoch(net, optimiser, batches, compressor):
    for x, y in batches:
        loss = cross_entropy(net(x), y) + compressor.penalty()  # 1: every batch
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def main(path: Path) -> None:
    x, y, x_test, y_test = load_data()
    batches = DigitBatches(x, y)
    net = train_dense(x, y, epochs=10).train()
    compressor = admm.Compressor(net, TARGET, SPEC)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)

    for _ in range(SPEC.admm.epochs * len(SPEC.admm.rho)):
        train_epoch(net, optimiser, batches, compressor)
        compressor.update()  # 2: every epoch
    compressor.project()  # 3: from now on pruned weights stay zero
    for _ in range(5):
        train_epoch(net, optimiser, batches, compressor)

    net.eval()
    for layer in compressor.layers.values():  # make the masked weights plain parameters again
        parametrize.remove_parametrizations(layer.module, "weight")
    path.write_bytes(to_onnx(net))

    build = mcompiler.compile(path, TARGET, calibration=x[:CALIBRATION])
    found = build.verify(x_test, y_test)
    print(f"crossbars: {sum(compressor.dense_tiles().values())} dense, {build.cost.crossbars} compressed")
    print(f"top-1: {found.top1_mapped:.1%} mapped, exact: {found.exact}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "own_loop.onnx"))
