"""How long compiling takes: ResNet-20 (CIFAR-10) and VGG-16 at ImageNet size with random weights.

    python benchmarks/compile.py [--rounds 3] [--out compile]

Every figure is one whole `mcompiler compile` process: start of Python, import, calibration, cells, hashes and syncing
to disk included. Wants 139 million random float32 weights (553 MB) and about 2 GB of scratch space.
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

import numpy as np
import onnx
from common import SHARED, write
from onnx import TensorProto, helper, numpy_helper

VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")
SEED = 0


def vgg16(path: Path) -> int:
    """Write VGG-16 for 224x224 inputs with He-initialised random weights; return the number of weights."""
    rng = np.random.default_rng(SEED)
    nodes, weights = [], []
    count, value, channels = 0, "x", 3

    def constant(name: str, *shape: int) -> str:
        nonlocal count
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
        array = rng.standard_normal(shape, dtype=np.float32) * np.float32(
            np.sqrt(2 / fan_in) if len(shape) > 1 else 0.01
        )
        weights.append(numpy_helper.from_array(array, name))
        count += array.size
        return name

    for index, width in enumerate(VGG16):
        if width == "M":
            nodes.append(helper.make_node("MaxPool", [value], [f"p{index}"], kernel_shape=[2, 2], strides=[2, 2]))
            value = f"p{index}"
            continue
        inputs = [value, constant(f"w{index}", int(width), channels, 3, 3), constant(f"b{index}", int(width))]
        nodes.append(
            helper.make_node("Conv", inputs, [f"c{index}"], name=f"conv{index}", kernel_shape=[3, 3], pads=[1] * 4)
        )
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"]))
        value, channels = f"r{index}", int(width)
    nodes.append(helper.make_node("Flatten", [value], ["flat"]))
    value, rows = "flat", 25088
    for index, width in enumerate((4096, 4096, 1000)):
        inputs = [value, constant(f"fw{index}", width, rows), constant(f"fb{index}", width)]
        nodes.append(helper.make_node("Gemm", inputs, [f"f{index}"], name=f"fc{index}", transB=1))
        value, rows = f"f{index}", width
        if index < 2:
            nodes.append(helper.make_node("Relu", [value], [f"fr{index}"]))
            value = f"fr{index}"
    graph = helper.make_graph(
        nodes, "vgg16", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 224, 224])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["N", 1000])], weights,
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return count


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
        models = {"vgg16_imagenet": Path(work) / "vgg16.onnx"}
        with ProcessPoolExecutor(1) as pool:  # a child's peak memory counts its parent's: stay small
            parameters = pool.submit(vgg16, models["vgg16_imagenet"]).result()
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
    limits = {"resnet20_cifar10": {"wall_s": 3}, "vgg16_imagenet": {"wall_s": 20, "peak_gib": 3}}
    print(write(args.out, {"seed": SEED, "vgg16_parameters": parameters, "asked": limits, **result}))


if __name__ == "__main__":
    main()
