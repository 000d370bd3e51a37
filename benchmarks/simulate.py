"""How fast the mapped model runs in onnxruntime, as ratios within one run.

    python benchmarks/simulate.py [--rounds 7] [--out simulate]

(a) mapped ResNet-20 with everything lossless against the float model, and what the fusion barrier costs;
(b) a 128-row tile product through an 8-bit ADC that loses something, on levels and with arbitrary conductances, against
    onnxruntime's float32 MatMul of the same size;
(c) ResNet-20 through calibrated 8-bit ADCs: undivided, and with two 4-bit slices, eight phases and pairs subtracted
first; (d) peak memory of `mcompiler verify` on 10,000 images.

(a), (c) and (d) need the ResNet-20 of ../shared. Models run at the best of several batch sizes, each its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from common import SHARED, interleaved, known, ratio, write

import mcompiler
from mcompiler.conductance import make_adc
from mcompiler.driver import Build
from mcompiler.geometry import array_shape
from mcompiler.onnx_export import MappedLayer, build_mapped
from mcompiler.runtime import Session, open_file, open_model

MODEL = SHARED / "models" / "cifar10_resnet20.torch-ts.op13.dynb.onnx"
BATCHES = (8, 16, 32)
SEED = 0

UNDIVIDED = (
    "device.levels=128", "encoding.slices=1", "array.rows=1152", "array.rows_active=1152", "converters.dac.bits=8",
    "converters.adc.bits=8", "converters.adc.range=calibrated",
)  # fmt: skip
SLICED = ("device.levels=16", "encoding.slices=2", "converters.adc.bits=8", "converters.adc.range=calibrated")


def images(count: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(SEED).standard_normal((count, 3, 32, 32), dtype=np.float32)


def best_batch(session: Session) -> int:
    """The batch with the most images a second."""
    name = session.inputs[0].name
    works = {str(size): partial(session.run, {name: images(size)}) for size in BATCHES}
    seconds = interleaved(works, rounds=3, least_s=0.2)
    return max(BATCHES, key=lambda size: size / statistics.median(seconds[str(size)]))


def without_barrier(model: ir.Model) -> ir.Model:
    """The same model with the Clip between product and scale taken out: faster, and not exact."""
    clone = model.clone()
    for function in clone.functions.values():
        for node in list(function):
            if node.op_type == "Clip":
                ir.convenience.replace_all_uses_with(node.outputs[0], node.inputs[0])
                function.remove(node, safe=True)
    return clone


def resnet(rounds: int) -> dict[str, Any]:
    """(a) and (c)."""
    calibration = {"input": images(32)}
    builds = {
        "lossless": mcompiler.compile(MODEL, "generic_128", calibration=calibration),
        "undivided": mcompiler.compile(MODEL, "generic_128", calibration=calibration, overrides=UNDIVIDED),
        "sliced": mcompiler.compile(MODEL, "generic_128", calibration=calibration, overrides=SLICED),
    }
    sessions = {"float": open_file(MODEL), **{name: open_model(build.mapped) for name, build in builds.items()}}
    sessions["no_barrier"] = open_model(without_barrier(builds["lossless"].mapped))
    batch = {name: best_batch(session) for name, session in sessions.items()}
    works = {name: partial(s.run, {s.inputs[0].name: images(batch[name])}) for name, s in sessions.items()}
    seconds = interleaved(works, rounds)
    per_image = {name: [s / batch[name] for s in found] for name, found in seconds.items()}
    asked = {"lossless": 0.5, "undivided": 0.5, "sliced": 0.06}
    return {
        "asked_ratio_to_float": asked,
        "batch": batch,
        "images_per_s": {name: round(1 / statistics.median(found), 1) for name, found in per_image.items()},
        "ratio_to_float": {name: ratio(per_image["float"], per_image[name]) for name in (*asked, "no_barrier")},
        "barrier_costs": ratio(per_image["lossless"], per_image["no_barrier"]),
    }


def product_model(rows: int, cols: int) -> tuple[ir.Model, np.ndarray[Any, Any]]:
    """x [V, rows] @ W [rows, cols] with Gaussian weights."""
    weights = np.random.default_rng(SEED).standard_normal((rows, cols), dtype=np.float32)
    x = ir.Value(name="x", shape=ir.Shape(["V", rows]), type=ir.TensorType(ir.DataType.FLOAT))
    w = ir.Value(name="w", shape=ir.Shape(weights.shape), type=ir.TensorType(ir.DataType.FLOAT))
    w.const_value = ir.tensor(weights, name="w")
    node = ir.node("MatMul", [x, w], name="product")
    node.outputs[0].name, node.outputs[0].type = "y", ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([x], [node.outputs[0]], nodes=[node], initializers=[w], opset_imports={"": 17}, name="product")
    return ir.Model(graph, ir_version=8), weights


def off_level(build: Build) -> ir.Model:
    """The mapped model with every cell off its level (3% of the range, Gaussian)."""
    rng = np.random.default_rng(SEED)
    target, shape = build.target, array_shape(build.target)

    def layer(data: Any) -> MappedLayer:
        noisy = []
        for block in data.reads(target, shape):
            error = rng.standard_normal(block.levels.shape, dtype=np.float32) * np.float32(
                0.03 * (target.device.levels - 1)
            )
            noisy.append(replace(block, levels=block.levels.astype(np.float32) + error))
        return MappedLayer(data.op, data.table, data.analog, data.op.matrix.codes, tuple(noisy))

    made: list[Callable[[], MappedLayer]] = [partial(layer, data) for data in build.layer_data]
    return build_mapped(build.skeleton, made, target)


def tile(rounds: int) -> dict[str, Any]:
    """(b)."""
    result: dict[str, Any] = {"asked_ratio_to_float_matmul": {"on_levels": 0.6, "off_levels": 0.3}}
    for vectors, rows, cols in ((8192, 128, 128), (1024, 1152, 256)):
        model, _ = product_model(rows, cols)
        x = np.random.default_rng(SEED + 1).standard_normal((vectors, rows), dtype=np.float32)
        build = mcompiler.compile(
            model, "generic_128", calibration={"x": x[:256]},
            overrides=("converters.adc.bits=8", "converters.adc.range=calibrated"),
        )  # fmt: skip
        analog = build.layer_data[0].analog
        assert not analog.lossless, "the converter was meant to lose something"
        sessions = {
            "float": open_model(model),
            "on_levels": open_model(build.mapped),
            "off_levels": open_model(off_level(build)),
        }
        seconds = interleaved({name: partial(s.run, {"x": x}) for name, s in sessions.items()}, rounds)
        macs = vectors * rows * cols
        work = {"float": macs, "on_levels": macs * 4 * 8, "off_levels": macs * 4 * 8}
        per_mac = {name: [s / work[name] for s in found] for name, found in seconds.items()}
        result[f"{vectors}x{rows}x{cols}"] = {
            "adc": {
                "bits": build.target.converters.adc.bits,
                "gain": analog.gain,
                "full_gain": make_adc(build.target).gain,
            },
            "gmac_per_s": {name: round(1e-9 / statistics.median(found), 1) for name, found in per_mac.items()},
            "ratio_to_float_matmul": {
                name: ratio(per_mac["float"], per_mac[name]) for name in ("on_levels", "off_levels")
            },
        }
    return result


def memory() -> dict[str, Any]:
    """(d)."""
    with tempfile.TemporaryDirectory() as work:
        np.savez(f"{work}/c.npz", x=images(32))
        np.savez(f"{work}/x.npz", x=images(10_000))
        command = [
            sys.executable,
            "-m",
            "mcompiler",
            "compile",
            str(MODEL),
            "--calibration",
            f"{work}/c.npz",
            "--out",
            f"{work}/b",
            "--force",
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        verify = [sys.executable, "-m", "mcompiler", "verify", f"{work}/b", "--data", f"{work}/x.npz", "--json"]
        with subprocess.Popen(verify, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            samples = json.loads(process.stdout.read())["samples"]
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        assert samples == 10_000
        peak = round(usage.ru_maxrss / 2**20, 2)
    return {"asked_gib": 2, "images": 10_000, "peak_gib": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", default="simulate")
    parser.add_argument("--parts", default="memory,resnet20,tile_product", help="what to measure; the rest is kept")
    args = parser.parse_args()
    result = known(args.out) | {"seed": SEED, "rounds": args.rounds}
    parts = {"memory": memory, "resnet20": partial(resnet, args.rounds), "tile_product": partial(tile, args.rounds)}
    for name in args.parts.split(","):  # memory first, while this process is small: a child's peak counts its parent's
        if name != "tile_product" and not MODEL.exists():
            result[name] = f"not measured: {MODEL.name} is not at hand"
            continue
        result[name] = parts[name]()
        write(args.out, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
