"""Train the network of `mcompiler demo`: a small convolutional network on scikit-learn's 8x8 digits.

    pip install "mcompiler[admm]" scikit-learn
    python examples/train_digits.py

writes `mcompiler/demo/digits.onnx`, the held-out images with their labels (`digits.npz`) and 128 training images to
calibrate with (`digits_calibration.npz`), in half a minute. Seeds are fixed and one thread computes, so that one
machine gives the same weights each time.
"""

import argparse
import io
import warnings
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

OUT = Path(__file__).resolve().parent.parent / "mcompiler" / "demo"
HELD_OUT = 450  # of 1797 images
CALIBRATION = 128
BATCH = 64
SEED = 0


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
        x = self.relu(self.norm1(self.conv1(x)))  # [n, 16, 8, 8]
        x = self.pool(self.relu(self.norm2(self.conv2(x))))  # [n, 32, 4, 4]
        x = self.pool(self.relu(self.norm3(self.conv3(x))))  # [n, 64, 2, 2]
        return self.classifier(torch.flatten(x, 1))


def load_data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images float32 [n, 1, 8, 8] and labels int64 [n]: training, then held out; classes in equal shares."""
    digits = load_digits()
    images = digits.images.astype(np.float32)[:, None]
    labels = digits.target.astype(np.int64)
    x, x_test, y, y_test = train_test_split(images, labels, test_size=HELD_OUT, stratify=labels, random_state=SEED)
    return x, y, x_test, y_test


def shifted(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Move each image by up to one pixel each way: 8x8 digits touch the border, so more would cut them."""
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    rows, cols = rng.integers(0, 3, size=(2, len(images)))
    return np.stack([image[:, r : r + 8, c : c + 8] for image, r, c in zip(padded, rows, cols, strict=True)])


def train(x: np.ndarray, y: np.ndarray, epochs: int) -> DigitsNet:
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # the order of additions, and so the weights, depends on the number of threads
    torch.use_deterministic_algorithms(True)
    rng = np.random.default_rng(SEED)
    net = DigitsNet()
    steps = epochs * (len(x) // BATCH)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=1e-2, total_steps=steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    for _ in range(epochs):
        order = rng.permutation(len(x))[: len(x) // BATCH * BATCH].reshape(-1, BATCH)
        for batch in order:
            loss = loss_of(net(torch.from_numpy(shifted(x[batch], rng))), torch.from_numpy(y[batch]))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return net.eval()


def to_onnx(net: DigitsNet) -> bytes:
    """Export with a free batch axis; batch normalisations stay nodes of their own, for the compiler to fold."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the TorchScript exporter announces its retirement; it gives readable names
        torch.onnx.export(
            net,
            (torch.zeros(1, 1, 8, 8),),
            file,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=17,
            input_names=["x"],
            output_names=["logits"],
            dynamic_axes={"x": {0: "n"}, "logits": {0: "n"}},
            training=torch.onnx.TrainingMode.PRESERVE,
        )
    return file.getvalue()


def save_npz(path: Path, **arrays: np.ndarray) -> None:
    """Like numpy.savez_compressed, but with a fixed date, so that the same arrays give the same file."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array)
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, content.getvalue(), compresslevel=9)


def accuracy(model: bytes, x: np.ndarray, y: np.ndarray) -> tuple[int, float]:
    """Images that onnxruntime classifies right, and their share in percent."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"x": x})
    right = int((logits.argmax(axis=1) == y).sum())
    return right, 100 * right / len(y)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--out", type=Path, default=OUT, help="folder to write to (default: the compiler's own demo)")
    parser.add_argument("--no-write", action="store_true", help="train and report only")
    args = parser.parse_args()
    x, y, x_test, y_test = load_data()
    net = train(x, y, args.epochs)
    model = to_onnx(net)
    right, percent = accuracy(model, x_test, y_test)
    print(f"{sum(p.numel() for p in net.parameters())} parameters, {percent:.2f}% ({right} of {len(y_test)}) held out")
    if args.no_write:
        return
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "digits.onnx").write_bytes(model)
    save_npz(args.out / "digits.npz", x=x_test, y=y_test)
    save_npz(args.out / "digits_calibration.npz", x=x[:CALIBRATION])


if __name__ == "__main__":
    main()
