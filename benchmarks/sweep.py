"""Accuracy against crossbars: the digits network under budgets that the search spends, compressed, compiled, verified.

    python benchmarks/sweep.py [--budgets 4 5 6 8 10 14 19] [--seeds 0 1 2] [--restart]

One dense network; each budget is compressed once per seed with the demo's recipe, mapped on `generic_128` and run on
the 450 held-out images. One thread, some 10 s a point; a run that was stopped continues with the next point. Writes
benchmarks/results/digits_sweep.json. Needs PyTorch and scikit-learn.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, write

import mcompiler
from mcompiler import admm
from mcompiler.admm.digits import EPOCHS, HELD_OUT, SEED, SPEC, DigitsNet, compress_digits, load_data, train_dense

NAME = "digits_sweep"
TARGET = "generic_128"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--budgets", type=int, nargs="+", default=[4, 5, 6, 8, 10, 14, 19], help="crossbars, of 19")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--restart", action="store_true", help="measure points again that the result file has")
    args = parser.parse_args()
    torch.set_num_threads(1)  # the order of additions, and so the weights, depends on the number of threads
    points = [] if args.restart else earlier()
    x, y, _, _ = load_data()
    net = train_dense(x, y)
    for seed in args.seeds:
        for budget in args.budgets:
            if any((point["budget"], point["seed"]) == (budget, seed) for point in points):
                continue
            points.append(measure(net, budget, seed))
            print(json.dumps({key: value for key, value in points[-1].items() if key != "structures"}), flush=True)
            write(NAME, summary(points))
    print(write(NAME, summary(points)))


def earlier() -> list[dict[str, Any]]:
    """Points of a run before."""
    path = RESULTS / f"{NAME}.json"
    return json.loads(path.read_text())["points"] if path.exists() else []


def measure(net: DigitsNet, budget: int, seed: int) -> dict[str, Any]:
    """One point: compressed within a budget of crossbars, mapped, and run on the held-out images."""
    started = time.perf_counter()
    spec = dataclasses.replace(SPEC, seed=seed, layers={}, budget=admm.Budget(crossbars=budget, layers="all"))
    result = compress_digits(net, spec, TARGET, progress=False)
    _, _, x_test, y_test = load_data()
    with tempfile.TemporaryDirectory() as folder:
        build = mcompiler.compile(result.export(Path(folder) / "model.onnx"), TARGET)
        found = build.verify(x_test, y_test)
    report = result.report()
    return {
        "budget": budget,
        "seed": seed,
        "tiles": report["tiles"],
        "crossbars": build.cost.crossbars,
        "tiles_dense": report["tiles_dense"],
        "weights": report["weights"],
        "weights_dense": report["weights_dense"],
        "top1_dense": report["top1"]["dense"],
        "top1_projected": report["top1"]["projected"],
        "top1_quantised": found.top1_quantised,
        "top1_mapped": found.top1_mapped,
        "exact": found.exact,
        "tiles_by_layer": {layer["name"]: layer["tiles"] for layer in report["layers"]},
        "structures": {layer["name"]: layer["structure"] for layer in report["layers"]},
        "seconds": round(time.perf_counter() - started, 1),
    }


def summary(points: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and spread by budget on top, every point below."""
    points = sorted(points, key=lambda point: (point["budget"], point["seed"]))
    rows = []
    for budget in sorted({point["budget"] for point in points}):
        group = [point for point in points if point["budget"] == budget]
        mapped = [point["top1_mapped"] for point in group]
        rows.append(
            {
                "budget": budget,
                "tiles": sorted({point["tiles"] for point in group}),
                "ratio_weights": statistics.fmean(point["weights_dense"] / point["weights"] for point in group),
                "top1_projected": statistics.fmean(point["top1_projected"] for point in group),
                "top1_mapped": statistics.fmean(mapped),
                "spread": statistics.stdev(mapped) if len(mapped) > 1 else None,
                "seeds": [point["seed"] for point in group],
            }
        )
    return {
        "network": "digits", "target": TARGET, "images": HELD_OUT, "tiles_dense": points[0]["tiles_dense"],
        "top1_dense": points[0]["top1_dense"], "dense_seed": SEED, "dense_epochs": EPOCHS,
        "epochs_admm": len(SPEC.admm.rho) * SPEC.admm.epochs, "epochs_retrain": SPEC.retrain.epochs,
        "torch": torch.__version__, "threads": 1, "rows": rows, "points": points,
    }  # fmt: skip


if __name__ == "__main__":
    main()
