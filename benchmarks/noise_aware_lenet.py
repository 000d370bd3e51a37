"""Accuracy that retraining with device errors recovers for a compressed network: LeNet-5 in 18 of 449 tiles.

    python benchmarks/noise_aware_lenet.py FOLDER [--seeds 0 1] [--epochs 16] [--chips 10] [--images 2000]

The recipe of `paper.py lenet5` (the same dense network, structure and teacher; more epochs of masked retraining) runs
once with [retrain.noise] and once without; both are exported, compiled for yuan2019_32x32 and run on the same chips,
whose cells are written with a deviation of 30% of their conductance, on test images. The ADCs have full range.
Checkpoints are in FOLDER; a run that is stopped resumes. Needs ../shared. Writes
benchmarks/results/noise_aware_lenet.json.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import SHARED, write
from images import Images, load_images
from noise_aware import recovered
from paper import TARGETS, Experiment, loss_of, recipe_of, train_dense, training_batches

import mcompiler
from mcompiler import admm
from mcompiler.admm.spec import Spec
from mcompiler.driver.trials import TrialOptions
from mcompiler.target import load_target

ERRORS = ("device.programming.proportional=0.3", "device.programming.source=assumption: 30% of the conductance")
FULL_RANGE = "converters.adc.range=full"
KINDS: dict[str, dict[str, Any]] = {"plain": {}, "noise": {"noise": {}}}


def chips_of(model: Path, images: Images, count: int, number: int) -> tuple[float, list[float]]:
    """Accuracy on a chip without errors, and on each with them."""
    x, y = images.normalised(images.test[:count]).numpy(), images.test_labels[:count].numpy()
    build = mcompiler.compile(model, TARGETS["lenet5"], overrides=(*ERRORS, FULL_RANGE))
    found = build.trials(x, y, options=TrialOptions(("programming",), number, causes=False))
    assert found.top1_ideal is not None
    return found.top1_ideal, [float(chip.top1 or 0) for chip in found.chips]


def main() -> None:
    """Train twice for each seed, run the chips, compare."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=0.01, help="of both; noise needs a low one")
    parser.add_argument("--chips", type=int, default=10)
    parser.add_argument("--images", type=int, default=2000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    images = load_images("mnist", SHARED / "data")
    recipe = recipe_of("lenet5")
    experiment = Experiment("lenet5", images, recipe, args.folder)
    target = load_target(TARGETS["lenet5"], ERRORS)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in KINDS}
    for seed in args.seeds:
        _, start = train_dense(experiment, seed)
        for name, noise in KINDS.items():
            plain = recipe["compress"]["retrain"]
            optimiser = {**plain["optimiser"], "learning_rate": args.learning_rate}
            retrain = {**plain, "epochs": args.epochs, "optimiser": optimiser, **noise}
            spec = Spec.from_table({"seed": seed, **recipe["compress"], "retrain": retrain})
            batches = training_batches(experiment, seed, "compress")
            started, folder = time.perf_counter(), args.folder / f"{name}{seed}"
            result = admm.compress(
                start, batches, target, spec, loss=loss_of(recipe, "compress"), out=folder, device="cpu", say=print
            )
            seconds = time.perf_counter() - started
            ideal, chips = chips_of(result.export(folder / "model.onnx"), images, args.images, args.chips)
            runs[name].append(
                {"seed": seed, "tiles": result.tiles, "top1_ideal": ideal, "chips": chips, "seconds": round(seconds, 1)}
            )
            print(name, seed, ideal, float(np.mean(chips)), round(seconds), flush=True)
    before, after = (np.array([run["chips"] for run in runs[name]]) for name in KINDS)
    write(
        "noise_aware_lenet",
        {
            "network": "LeNet-5 20-50-500, MNIST, compressed as in lenet5_mnist_5bit",
            "target": TARGETS["lenet5"],
            "overrides": [*ERRORS, FULL_RANGE],
            "images": args.images,
            "chips": args.chips,
            "training_seeds": len(args.seeds),
            "retrain_epochs": args.epochs,
            "torch": torch.__version__,
            **recovered(np.array([run["top1_ideal"] for run in runs["plain"]]), before, after),
            "runs": runs,
        },
    )


if __name__ == "__main__":
    main()
