"""ResNet-20 over the keys that architects vary, beside a second computation of energy, area and latency.

    python benchmarks/sweep_sense.py [MODEL.onnx]

One key at a time on generic_128 in two encodings and on isaac, then two planes on generic_128. Every point is compiled;
sweep_check.py computes its prices again from target and events, and the latency of two single layers from the target.
Results: benchmarks/results/sweep_sense.json; sweep_page.py writes docs/sweeps.md from them.
"""

from __future__ import annotations

import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from common import SHARED, write
from onnx import TensorProto, helper, numpy_helper
from sweep_check import Layer, difference, differences, latency, priced

import mcompiler
from mcompiler.cost import Cost
from mcompiler.target import Event, Target, load_target, prices, resolved_toml

SEED = 0

Overrides = tuple[str, ...]

OFFSET: Overrides = (
    "encoding.weights=offset",
    "encoding.pedestal=digital_count",
    "encoding.flip=true",
    "encoding.input_sum=unit_column",
)
"""Weights as ISAAC stores them."""

BASES: Mapping[str, tuple[str, Overrides]] = {
    "generic_128, differential": ("generic_128", ()),
    "generic_128, offset": ("generic_128", OFFSET),
    "isaac": ("isaac", ()),
}

SIZES, ADC_BITS, DAC_BITS, SHARING = (32, 64, 128, 256, 512), range(4, 13), range(1, 9), (1, 2, 4, 8, 16, 32, 64, 128)
SLICES = {1: {True: 7, False: 8}, 2: {True: 4, False: 4}, 3: {True: 3, False: 3}, 4: {True: 2, False: 2}}
"""Cells for an 8-bit weight by the bits of a cell, where a pair holds the sign, and where it does not."""


def array(size: int) -> Overrides:
    return (f"array.rows={size}", f"array.columns={size}", f"array.rows_active={size}")


def cell(bits: int, pairs: bool) -> Overrides:
    return (f"device.levels={2**bits}", f"encoding.slices={SLICES[bits][pairs]}")


def adc(bits: int) -> Overrides:
    return (f"converters.adc.bits={bits}",)


def dac(bits: int) -> Overrides:
    return (f"converters.dac.bits={bits}",)


def lines(pairs: bool) -> dict[str, dict[int, Overrides]]:
    """Overrides of each point, by key and value."""
    return {
        "array": {size: array(size) for size in SIZES},
        "adc_bits": {bits: adc(bits) for bits in ADC_BITS},
        "dac_bits": {bits: dac(bits) for bits in DAC_BITS},
        "sharing": {number: (f"converters.adc.columns={number}",) for number in SHARING},
        "cell_bits": {bits: cell(bits, pairs) for bits in SLICES},
    }


PLANES: Mapping[str, dict[tuple[int, int], Overrides]] = {
    "array, adc_bits": {(size, bits): (*array(size), *adc(bits)) for size in SIZES for bits in ADC_BITS},
    "cell_bits, dac_bits": {(bits, each): (*cell(bits, True), *dac(each)) for bits in SLICES for each in DAC_BITS},
}
"""On generic_128 with differential weights."""

KINDS = {
    "adc": (Event.ADC_CONVERSION,),
    "drivers": (Event.DAC_DRIVE,),
    "cells": (Event.CELL_READ, Event.ARRAY_READ),
    "sample_hold": (Event.SAMPLE_HOLD,),
    "buffer": (Event.BUFFER_READ_BYTE, Event.BUFFER_WRITE_BYTE),
    "network": (Event.LINK_BYTE,),
    "ports": (Event.CHIP_LINK_BYTE,),
    "digital": (Event.SHIFT_ADD, Event.DIGITAL_OP),
}
"""Kinds of components by their events; without an event: other (registers, control)."""

LAYERS = {"dense 96-32": Layer(96, 32, 1, 96), "conv 3x3, 16-32, 8x8": Layer(144, 32, 64, 16)}


def single(layer: Layer, folder: Path) -> Path:
    """A model of one dense layer, or of one 3x3 convolution of square maps."""
    random = np.random.default_rng(SEED)
    if layer.vectors == 1:
        shape, out, weights = [1, layer.rows], [1, layer.results], (layer.rows, layer.results)
        node = helper.make_node("Gemm", ["x", "w"], ["y"])
    else:
        side, channels = round(layer.vectors**0.5), layer.rows // 9
        shape, out, weights = (
            [1, channels, side, side],
            [1, layer.results, side, side],
            (layer.results, channels, 3, 3),
        )
        node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)
    values = numpy_helper.from_array(random.normal(size=weights).astype(np.float32), "w")
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [values],
    )
    path = folder / f"{layer.rows}_{layer.results}_{layer.vectors}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def point(model: Path, base: tuple[str, Overrides], overrides: Overrides) -> dict[str, Any]:
    """One compiled point beside its second computation."""
    target = load_target(base[0], (*base[1], *overrides))
    build = mcompiler.compile(model, target, calibration="random", seed=SEED)
    described, cost = tomllib.loads(resolved_toml(build.target)), build.cost.as_json()
    again, apart = priced(described, cost), differences(described, cost)
    again.pop("components")
    keys = (*again, "latency_s", "throughput_per_s", "crossbars", "utilisation")
    return {
        "set": list(overrides),
        **{key: cost[key] for key in keys},
        **shares(build.cost, build.target),
        "conversion_j": prices(build.target)["adc"].energy_j,
        "adc_bits_needed": needed_bits(build.cost),
        "stale": sorted({each.component for each in build.cost.stale}),
        "independent": again,
        "difference": max(apart.values()),
    }


def needed_bits(cost: Cost) -> int | None:
    """Fewest bits of a converter that loses nothing in any array; None where an array has no such number."""
    found = [layer.adc_bits.max for layer in cost.layers.values() if layer.crossbars]
    numbers = [bits for bits in found if bits is not None]
    return max(numbers) if len(numbers) == len(found) else None


def shares(cost: Cost, target: Target) -> dict[str, dict[str, float]]:
    """Shares of energy and area of the parts in use by kind of component."""
    sums: dict[str, dict[str, float]] = {"energy_share": {}, "area_share": {}}
    for name, row in cost.components.items():
        event = target.components[name].event if name in target.components else None
        kind = next((kind for kind, events in KINDS.items() if event in events), "other")
        for table, value in zip(sums.values(), (row.energy_j / cost.energy_j, row.area_m2 / cost.area_m2), strict=True):
            table[kind] = table.get(kind, 0.0) + value
    return {name: {kind: round(value, 6) for kind, value in table.items()} for name, table in sums.items()}


def latencies(models: Mapping[str, Path], base: tuple[str, Overrides], overrides: Overrides) -> dict[str, Any]:
    """Latency of each single layer, and the same from the target alone."""
    found = {}
    for name, model in models.items():
        build = mcompiler.compile(model, base[0], overrides=(*base[1], *overrides), calibration="random", seed=SEED)
        again = latency(tomllib.loads(resolved_toml(build.target)), LAYERS[name])
        ours = build.cost.latency_s
        found[name] = {"latency_s": ours, "independent_s": again, "difference": difference(ours, again)}
    return found


def macs(model: Path) -> int:
    """Multiply-accumulates of the analog layers in one inference."""
    build = mcompiler.compile(model, "generic_128", calibration="random", seed=SEED)
    matrix = build._content.program.placed.analog.tiled.matrix
    return sum(site.vectors * int(np.prod(matrix.matrices[site.matrix].codes.shape)) for site in matrix.sites)


def largest(points: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Largest differences of prices and of latencies."""
    every = list(points)
    layers = [layer["difference"] for each in every for layer in each.get("layers", {}).values()]
    return {"prices": max(each["difference"] for each in every), "latency": max(layers, default=0.0)}


def main() -> None:
    """Compile all points; the machine's speed changes none of the results."""
    model = Path(sys.argv[1]) if len(sys.argv) > 1 else SHARED / "models" / "cifar10_resnet20.torch-ts.op13.dynb.onnx"
    start, series, planes = time.perf_counter(), {}, {}
    with tempfile.TemporaryDirectory() as folder:
        models = {name: single(layer, Path(folder)) for name, layer in LAYERS.items()}
        for name, base in BASES.items():
            for key, values in lines(name.endswith("differential")).items():
                rows = series[f"{name}, {key}"] = []
                for value, overrides in values.items():
                    found = point(model, base, overrides)
                    rows.append({key: value, **found, "layers": latencies(models, base, overrides)})
                print(f"{time.perf_counter() - start:6.0f} s  {name}, {key}: {largest(rows)}", flush=True)
    for name, plane in PLANES.items():
        one, two = name.split(", ")
        rows = planes[name] = []
        for (first, second), overrides in plane.items():
            rows.append({one: first, two: second, **point(model, BASES["generic_128, differential"], overrides)})
        print(f"{time.perf_counter() - start:6.0f} s  {name}: {largest(rows)}", flush=True)
    every = [row for rows in (*series.values(), *planes.values()) for row in rows]
    result = {
        "model": model.name,
        "mcompiler": mcompiler.__version__,
        "seed": SEED,
        "macs": macs(model),
        "seconds": round(time.perf_counter() - start, 1),
        "points": len(every),
        "largest_difference": largest(every),
        "series": series,
        "planes": planes,
    }
    print(write("sweep_sense", result))


if __name__ == "__main__":
    main()
