"""Seconds of a point of a sweep: a compiled network priced again, and networks compiled and priced from their file.

    python benchmarks/reprice.py [MODEL.onnx]

MODEL is ResNet-50 of the ONNX project's light models unless given: it is compiled once and priced many times. LeNet-5
and ResNet-20 are compiled and priced in this process, each time for another target (`full_point_s`).
Results: benchmarks/results/reprice.json.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

from common import SHARED, write

import mcompiler
from mcompiler.cost import count, price
from mcompiler.target import load_target

ROUNDS = 50
POINTS = {"lenet5": "mnist_lenet5.torch-ts.op13.onnx", "resnet20": "cifar10_resnet20.torch-ts.op13.dynb.onnx"}
FULL_ROUNDS = 10


def full_point(model: Path) -> dict[str, float]:
    """Seconds to load a target, compile a model for it and price it, for targets that differ in the ADC's bits."""
    seconds = []
    for turn in range(FULL_ROUNDS):
        start = time.perf_counter()
        target = load_target("generic_128", [f"converters.adc.bits={10 + turn % 3}"])
        assert mcompiler.compile(model, target, calibration="random").cost.energy_j > 0
        seconds.append(time.perf_counter() - start)
    return {"median": round(statistics.median(seconds), 4), "least": round(min(seconds), 4)}


def main() -> None:
    """Compile once, price many times, each time with another ADC."""
    model = Path(sys.argv[1]) if len(sys.argv) > 1 else SHARED / "models" / "onnxlight__light_resnet50.onnx"
    start = time.perf_counter()
    build = mcompiler.compile(model, "isaac", calibration="random")
    compiled = time.perf_counter() - start
    program = build._content.program
    start = time.perf_counter()
    count(program, build.target)
    counted = time.perf_counter() - start
    seconds = []
    counts = build.cost.counts
    adc = build.target.components["adc"]
    for turn in range(ROUNDS):
        other = adc.model_copy(update={"energy_j": adc.energy_j * (1 + turn)})
        target = build.target.model_copy(update={"components": {**build.target.components, "adc": other}})
        start = time.perf_counter()
        found = price(counts, target)
        seconds.append(time.perf_counter() - start)
        assert found.energy_j >= build.cost.energy_j * (1 - 1e-12)
    result = {
        "model": model.name, "target": "isaac", "layers": len(build.layers),
        "compile_s": round(compiled, 3), "count_s": round(counted, 4),
        "price_s": {"median": round(statistics.median(seconds), 6), "most": round(max(seconds), 6), "rounds": ROUNDS},
        "compile_over_price": round(compiled / statistics.median(seconds)),
        "full_point_s": {name: full_point(SHARED / "models" / file) for name, file in POINTS.items()},
    }  # fmt: skip
    print(result)
    print(write("reprice", result))


if __name__ == "__main__":
    main()
