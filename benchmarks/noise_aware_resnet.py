"""What retraining with the errors of the devices recovers: ResNet-20 on CIFAR-10, the same chips before and after.

    python benchmarks/noise_aware_resnet.py FOLDER [--epochs 4] [--train 16000] [--chips 10] [--images 1000]

The trained network is quantised for 4-bit cells in differential pairs (as in robustness.py) and retrained for a few
epochs, once with [retrain.noise] and once without; both are exported, compiled and run on the same chips, whose cells
are written with a deviation of 20% of their conductance, on held-out images. Checkpoints lie in FOLDER; a run that is
stopped goes on. Needs ../shared. Writes benchmarks/results/noise_aware_resnet.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import SHARED, write
from images import Batches, Images, load_images
from networks import trained_resnet
from noise_aware import recovered
from robustness import BASE

import mcompiler
from mcompiler import admm
from mcompiler.driver.trials import TrialOptions
from mcompiler.target import load_target

ERRORS = ("device.programming.proportional=0.2", "device.faults.stuck_on=0", "device.faults.stuck_off=0")
IMAGENET = {"mean": (0.485, 0.456, 0.406), "deviation": (0.229, 0.224, 0.225)}
CALIBRATION = 256


def spec_of(epochs: int, noise: admm.DeviceNoise | None) -> admm.Spec:
    """No structure: quantisation and retraining only."""
    optimiser = admm.Optimiser(learning_rate=0.02, weight_decay=1e-4, warmup=0.1)
    short = admm.Admm(rho=(1e-2,), epochs=1, optimiser=dataclasses.replace(optimiser, learning_rate=1e-3))
    retrain = admm.Retrain(epochs=epochs, optimiser=optimiser, noise=noise)
    return admm.Spec(seed=0, admm=short, retrain=retrain, channels_last=True)


def chips_of(model: Path, images: Images, count: int, number: int) -> tuple[float, list[float]]:
    """Accuracy on a chip without errors, and on each with them."""
    x, y = images.normalised(images.test[:count]).numpy(), images.test_labels[:count].numpy()
    calibration = {"x": images.normalised(images.train[:CALIBRATION]).numpy()}
    build = mcompiler.compile(model, "generic_128", calibration=calibration, overrides=(*BASE, *ERRORS))
    found = build.trials(x, y, options=TrialOptions(("programming",), number, causes=False))
    assert found.top1_ideal is not None
    return found.top1_ideal, [float(chip.top1 or 0) for chip in found.chips]


def main() -> None:
    """Train twice, run the chips, compare."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--train", type=int, default=16_000, help="training images")
    parser.add_argument("--chips", type=int, default=10)
    parser.add_argument("--images", type=int, default=1000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    images = dataclasses.replace(load_images("cifar10", SHARED / "data"), **IMAGENET)
    images = dataclasses.replace(
        images, train=images.train[: args.train], train_labels=images.train_labels[: args.train]
    )
    net = trained_resnet(SHARED / "weights" / "resnet20-12fca82f.th", 3)
    target = load_target("generic_128", (*BASE, *ERRORS))
    batches = Batches(images, 128, 4, flip=True, views=args.epochs + 1, seed=0)
    found: dict[str, Any] = {}
    for name, noise in (("noise", admm.DeviceNoise()), ("plain", None)):
        folder = args.folder / name
        started = time.perf_counter()
        result = admm.compress(net, batches, target, spec_of(args.epochs, noise), out=folder, device="cpu", say=print)
        seconds = time.perf_counter() - started
        ideal, chips = chips_of(result.export(folder / "model.onnx"), images, args.images, args.chips)
        found[name] = {"top1_ideal": ideal, "chips": chips, "seconds": round(seconds, 1)}
        print(name, ideal, np.mean(chips), round(seconds), flush=True)
    before, after = (np.array([found[name]["chips"]]) for name in ("plain", "noise"))
    write("noise_aware_resnet", {
        "network": "ResNet-20, CIFAR-10, no structure pruned", "target": "generic_128", "overrides": [*BASE, *ERRORS],
        "images": args.images, "chips": args.chips, "training_seeds": 1, "retrain_epochs": args.epochs,
        "training_images": args.train,
        "torch": torch.__version__, **recovered(np.array([found["plain"]["top1_ideal"]]), before, after), "runs": found,
    })  # fmt: skip


if __name__ == "__main__":
    main()
