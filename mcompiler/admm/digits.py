"""The network of `mcompiler demo`: trained on scikit-learn's 8x8 digits, then compressed.

    python -m mcompiler.admm.digits FOLDER

writes the files of `mcompiler/demo`: the dense network `digits.onnx`, the compressed `digits_compressed.onnx`, the
held-out images with their labels (`digits.npz`) and 128 training images to determine input ranges with
(`digits_calibration.npz`). Seeds are fixed and one thread computes, so that one machine always gives the same weights.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from mcompiler.admm.display import progress_bar
from mcompiler.admm.recipe import compress
from mcompiler.admm.result import Compressed
from mcompiler.admm.spec import Admm, LearningRateSchedule, Optimiser, Retrain, Spec, Structure
from mcompiler.data import npz_bytes
from mcompiler.errors import UserError
from mcompiler.summary import compress_summary

HELD_OUT = 450
"""Test images, of 1,797 in all."""

CALIBRATION = 128
"""Training images from which the compiler takes input ranges."""

BATCH = 64
SEED = 0
EPOCHS = 30

SPEC = Spec(
    seed=SEED,
    layers={
        "conv2": Structure(filters=16, shapes=128),
        "conv3": Structure(filters=32, shapes=128),
        "classifier": Structure(shapes=128),
    },
    admm=Admm(
        rho=(1e-2, 1e-1), epochs=3, optimiser=Optimiser(learning_rate=0.02, schedule=LearningRateSchedule.CONSTANT)
    ),
    retrain=Retrain(epochs=20, float_epochs=5, optimiser=Optimiser(learning_rate=0.05, warmup=0.1)),
)
"""One array position for each convolution but the third, which takes two: 5 of 19 crossbars on `generic_128`."""

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


class DigitsNet(nn.Module):
    """Three convolutions, each with batch normalisation, and a classifier: 25,978 parameters.

    Input float32 [n, 1, 8, 8] with grey values 0..16, output logits float32 [n, 10].
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(32)
        self.conv3 = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(2)
        self.relu = nn.ReLU()
        self.classifier = nn.Linear(256, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = self.relu(self.norm1(self.conv1(x)))  # [n, 16, 8, 8]
        x = self.pool(self.relu(self.norm2(self.conv2(x))))  # [n, 32, 4, 4]
        x = self.pool(self.relu(self.norm3(self.conv3(x))))  # [n, 64, 2, 2]
        y: torch.Tensor = self.classifier(torch.flatten(x, 1))
        return y


def load_data() -> tuple[Images, Labels, Images, Labels]:
    """Images float32 [n, 1, 8, 8] and labels int64 [n]: training, then held out; classes in equal shares.

    Raises:
        UserError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise UserError(
            "the digits come with scikit-learn, which is not installed; pip install 'mcompiler[admm]'"
        ) from None
    digits = load_digits()
    images = digits.images.astype(np.float32)[:, None]
    labels = digits.target.astype(np.int64)
    x, x_test, y, y_test = train_test_split(images, labels, test_size=HELD_OUT, stratify=labels, random_state=SEED)
    return x, y, x_test, y_test


class DigitBatches:
    """Batches of an epoch; each image moves by up to one pixel each way (digits touch the border: more would cut)."""

    def __init__(self, x: Images, y: Labels) -> None:
        self._x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        self._y = y

    def __len__(self) -> int:
        return len(self._y) // BATCH

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        order = torch.randperm(len(self._y)).numpy()
        moves = torch.randint(0, 3, (2, len(self._y))).numpy()
        for start in range(0, len(self) * BATCH, BATCH):
            index = order[start : start + BATCH]
            images = [self._x[i, :, moves[0, i] : moves[0, i] + 8, moves[1, i] : moves[1, i] + 8] for i in index]
            yield torch.from_numpy(np.stack(images)), torch.from_numpy(self._y[index])


def smoothed_cross_entropy(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Cross entropy with 5% of the label spread over all classes."""
    return nn.functional.cross_entropy(output, y, label_smoothing=0.05)


def train_dense(
    x: Images, y: Labels, epochs: int = EPOCHS, tick: Callable[[int], None] = lambda done: None
) -> DigitsNet:
    """The dense network, from scratch."""
    torch.manual_seed(SEED)
    batches = DigitBatches(x, y)
    net = DigitsNet()
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=1e-2, total_steps=epochs * len(batches))
    for epoch in range(epochs):
        for images, labels in batches:
            loss = smoothed_cross_entropy(net(images), labels)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        tick(epoch + 1)
    return net.eval()


def compress_digits(net: DigitsNet, spec: Spec = SPEC, target: Any = "generic_128", **options: Any) -> Compressed:
    """The compressed network; ``options`` as of ``compress``."""
    x, y, x_test, y_test = load_data()
    test = [(torch.from_numpy(x_test), torch.from_numpy(y_test))]
    batches = DigitBatches(x, y)
    return compress(net, batches, target, spec, test=test, loss=smoothed_cross_entropy, **options)


def to_onnx(net: nn.Module) -> bytes:
    """Export with a free batch axis; batch normalisations stay separate nodes, for the compiler to fold."""
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # the TorchScript exporter, which keeps readable names, is deprecated
        file = Path(folder) / "digits.onnx"
        torch.onnx.export(
            net,
            (torch.zeros(1, 1, 8, 8),),
            str(file),
            dynamo=False,
            opset_version=17,
            input_names=["x"],
            output_names=["logits"],
            dynamic_axes={"x": {0: "n"}, "logits": {0: "n"}},
            training=torch.onnx.TrainingMode.PRESERVE,
        )
        return file.read_bytes()


def write_all(folder: Path, epochs: int = EPOCHS, spec: Spec = SPEC, **options: Any) -> Compressed:
    """Train, compress, and write the demo's files into a folder."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the order of additions, and so the weights, depends on the number of threads
    try:
        x, y, x_test, y_test = load_data()
        with progress_bar(options.get("progress", True)) as advance:
            net = train_dense(x, y, epochs, lambda done: advance("dense", done, epochs))
        result = compress_digits(net, spec, **options)
    finally:
        torch.set_num_threads(threads)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "digits.onnx").write_bytes(to_onnx(net))
    result.export(folder / "digits_compressed.onnx")
    (folder / "digits.npz").write_bytes(npz_bytes({"x": x_test, "y": y_test}, compression=9))
    (folder / "digits_calibration.npz").write_bytes(npz_bytes({"x": x[:CALIBRATION]}, compression=9))
    return result


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.stdout.write(f"{compress_summary(write_all(Path(sys.argv[1])).report())}\n")
