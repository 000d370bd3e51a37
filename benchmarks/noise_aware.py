"""What retraining with the errors of the devices recovers: the demo's digits, the same chips before and after.

    python benchmarks/noise_aware.py [--chips 20] [--seeds 5] [--epochs 60]

For each kind of error the same recipe (the demo's, with more epochs of retraining) runs with and without
[retrain.noise], from the same dense network and seeds; then both are compiled and run on the same chips, on held-out
images. Loss is against the network that was trained without errors, on a chip without any. The number of epochs was
chosen on training images and other chips; the errors in training are those of the target, at scale 1. Writes
benchmarks/results/noise_aware.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from common import write

import mcompiler
from mcompiler import admm
from mcompiler.admm.digits import SPEC, DigitsNet, compress_digits, load_data, train_dense
from mcompiler.driver.trials import TrialOptions
from mcompiler.target import Target, load_target

WHOLE = ("device.faults.stuck_on=0", "device.faults.stuck_off=0")
CASES = {
    "programming, log-normal, 0.3": ("device.programming.proportional=0", "device.programming.log_normal=0.3", *WHOLE),
    "programming, 30% of the conductance": ("device.programming.proportional=0.3", *WHOLE),
    "1% stuck cells, programming 10%": (
        "device.programming.proportional=0.1",
        "device.faults.stuck_on=0.005",
        "device.faults.stuck_off=0.005",
    ),
}
RESAMPLES = 20_000

Floats = npt.NDArray[np.float64]


def spec_of(seed: int, epochs: int, noise: admm.DeviceNoise | None) -> admm.Spec:
    return dataclasses.replace(SPEC, seed=seed, retrain=dataclasses.replace(SPEC.retrain, epochs=epochs, noise=noise))


def on_chips(net: DigitsNet, target: Target, spec: admm.Spec, chips: int) -> tuple[float, list[float], float]:
    """Accuracy on a chip without errors, on each chip with them, and the seconds of the recipe."""
    started = time.perf_counter()
    result = compress_digits(net, spec, target, device="cpu", progress=False)
    seconds = time.perf_counter() - started
    _, _, x, y = load_data()
    with tempfile.TemporaryDirectory() as folder:
        build = mcompiler.compile(result.export(Path(folder) / "digits.onnx"), target)
        found = build.trials(x, y, options=TrialOptions(("all",), chips, causes=False))
    assert found.top1_ideal is not None
    return found.top1_ideal, [float(chip.top1 or 0) for chip in found.chips], seconds


def recovered(ideal: Floats, before: Floats, after: Floats) -> dict[str, Any]:
    """Share of the lost accuracy that came back, of mean losses; ideal [seeds], the others [seeds, chips].

    The interval is a percentile bootstrap of 95% that draws seeds and chips anew, pairs of before and after kept.
    """
    lost, gained = ideal[:, None] - before, after - before
    rng = np.random.default_rng(0)
    shares = np.empty(RESAMPLES)
    for index in range(RESAMPLES):
        seeds, chips = (rng.integers(0, count, count) for count in lost.shape)
        shares[index] = gained[np.ix_(seeds, chips)].mean() / lost[np.ix_(seeds, chips)].mean()
    low, high = np.quantile(shares, [0.025, 0.975])
    return {
        "top1_ideal": round(float(ideal.mean()), 5),
        "top1_before": round(float(before.mean()), 5),
        "top1_after": round(float(after.mean()), 5),
        "points_lost_before": round(100 * float(lost.mean()), 3),
        "points_lost_after": round(100 * float((lost - gained).mean()), 3),
        "recovered": round(float(gained.mean() / lost.mean()), 4),
        "interval": [round(float(low), 4), round(float(high), 4)],
        "recovered_by_seed": [round(float(g / each), 4) for g, each in zip(gained.mean(1), lost.mean(1), strict=True)],
        "chips_better": int((gained > 0).sum()),
        "chips_worse": int((gained < 0).sum()),
    }


def case(net: DigitsNet, overrides: tuple[str, ...], chips: int, seeds: int, epochs: int) -> dict[str, Any]:
    target = load_target("generic_128", overrides)
    runs = [
        [on_chips(net, target, spec_of(seed, epochs, noise), chips) for noise in (None, admm.DeviceNoise())]
        for seed in range(seeds)
    ]
    before, after = (np.array([run[which][1] for run in runs]) for which in (0, 1))
    return {
        "overrides": list(overrides),
        **recovered(np.array([run[0][0] for run in runs]), before, after),
        "top1_ideal_after": round(float(np.mean([run[1][0] for run in runs])), 5),
        "seconds_recipe": [round(float(np.median([run[which][2] for run in runs])), 2) for which in (0, 1)],
        "chips_before": before.round(5).tolist(),
        "chips_after": after.round(5).tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--chips", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=60)
    args = parser.parse_args()
    torch.set_num_threads(1)
    x, y, x_test, _ = load_data()
    net = train_dense(x, y)
    result: dict[str, Any] = {
        "network": "digits, compressed to 5 of 19 crossbars",
        "target": "generic_128",
        "images": len(x_test),
        "chips": args.chips,
        "training_seeds": args.seeds,
        "retrain_epochs": args.epochs,
        "scale": 1.0,
        "torch": torch.__version__,
        "cases": {},
    }
    for name, overrides in CASES.items():
        found = case(net, overrides, args.chips, args.seeds, args.epochs)
        result["cases"][name] = found
        write("noise_aware", result)
        print(name, {key: found[key] for key in ("points_lost_before", "points_lost_after", "recovered", "interval")})


if __name__ == "__main__":
    main()
