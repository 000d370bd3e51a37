"""How long compiling takes: ResNet-20 (CIFAR-10), and ResNet-50 and VGG-16 at ImageNet size with random weights.

    python benchmarks/compile.py [--rounds 3] [--out compile]

Every figure is one whole `mcompiler compile` process: start of Python, import, calibration, cells, hashes and syncing
to disk included. Wants about 2 GB of scratch space; VGG-16 alone is 553 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import imagenet
from common import SHARED, write


def measure(model: Path, out: Path, *options: str) -> dict[str, float]:
    """One compile process: wall seconds, CPU seconds, peak memory."""
    command = [
        sys.executable,
        "-m",
        "mcompiler",
        "compile",
        str(model),
        "--calibration",
        "random",
        "--out",
        str(out),
        "--force",
        "--json",
        *options,
    ]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{model.name}: exit {process.returncode}: {printed}")
    result = json.loads(printed)
    return {
        "wall_s": round(wall, 2),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_gib": round(usage.ru_maxrss / 2**20, 2),
        "passes_s": round(sum(result["seconds"].values()), 2),
        "crossbars": result["crossbars"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", default="compile")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        models = {}
        with ProcessPoolExecutor(1) as pool:  # a child's peak memory counts its parent's: stay small
            for network in ("vgg16", "resnet50"):
                models[f"{network}_imagenet"] = pool.submit(imagenet.model, network, Path(work)).result()
        resnet = SHARED / "models" / "cifar10_resnet20.torch-ts.op13.dynb.onnx"
        if resnet.exists():
            models["resnet20_cifar10"] = resnet
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in models}
        for _ in range(args.rounds):
            for name, model in models.items():
                runs[name].append(measure(model, Path(work) / f"{name}.build"))
                print(name, runs[name][-1], flush=True)
    result = {
        name: {
            "median_wall_s": statistics.median(run["wall_s"] for run in found),
            "max_peak_gib": max(run["peak_gib"] for run in found),
            "runs": found,
        }
        for name, found in runs.items()
    }
    limits = {
        "resnet20_cifar10": {"wall_s": 3},
        "resnet50_imagenet": {"wall_s": 10},
        "vgg16_imagenet": {"wall_s": 20, "peak_gib": 3},
    }
    print(write(args.out, {"asked": limits, **result}))


if __name__ == "__main__":
    main()
