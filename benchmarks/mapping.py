"""Figures of the compiler for `paper.py`: mapped accuracy, array counts, power and area, compressed and dense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from images import Images
from networks import NETWORKS, SHAPES
from torch import nn

import mcompiler
from mcompiler.admm.export import to_onnx
from mcompiler.admm.lowering import find_layers
from mcompiler.driver import Build
from mcompiler.geometry import array_shape
from mcompiler.runtime import Session, open_file, open_model
from mcompiler.target import Event, HierarchyUnit, Target, load_target, prices

CALIBRATION = 512
"""Training images on which converter ranges are fitted, then frozen."""

DENSE_BITS = ("encoding.slices=2", "precision.weights=9")
"""The paper's baseline: 9-bit weights, four arrays a tile."""

CONVERTING = (Event.CELL_READ, Event.DAC_DRIVE, Event.SAMPLE_HOLD, Event.ADC_CONVERSION, Event.ARRAY_READ)


def mapped_figures(model: Path, target: str, images: Images, probed: int | None = None) -> dict[str, Any]:
    """Accuracy on the whole test set: calibrated 8-bit ADC, the same with its full range, and lossless.

    Args:
        model: compressed, as exported.
        target: name of the chip.
        images: with the test set.
        probed: compare layer by layer on so many test images only (on a large network that takes ten times as long as
            running it); None: on all.
    """
    x, y = images.normalised(images.test).numpy(), images.test_labels.numpy()
    calibration = {"x": images.normalised(images.train[:CALIBRATION]).numpy()}
    build = mcompiler.compile(model, target, calibration=calibration)
    wide = mcompiler.compile(model, target, calibration=calibration, overrides=("converters.adc.range=full",))
    found = build.verify(x[:probed], y[:probed])
    lossless = build.verify(x[:probed], y[:probed], ideal=True)
    if probed is None:
        full = wide.verify(x, y)
        tops = {
            "top1_float": found.top1_float, "top1_quantised": found.top1_quantised, "top1_mapped": found.top1_mapped,
            "top1_mapped_full_range": full.top1_mapped, "top1_mapped_lossless": lossless.top1_mapped,
        }  # fmt: skip
    else:
        tops = {
            "top1_float": top1(open_file(model), x, y), "top1_quantised": top1(open_model(build.reference), x, y),
            "top1_mapped": top1(open_model(build.mapped), x, y),
            "top1_mapped_full_range": top1(open_model(wide.mapped), x, y),
        }  # fmt: skip
        assert lossless.exact  # so the lossless crossbars say what the quantised model says
        tops["top1_mapped_lossless"] = tops["top1_quantised"]
    clipped = [layer.adc_clipped for layer in found.layers if layer.adc_clipped is not None]
    conv = [layer for layer in build.layer_data if hasattr(layer.op.site.shape, "kernel")]
    return {
        **tops,
        "lossless_exact": lossless.exact,
        "images_probed": len(x) if probed is None else probed,
        "adc_clipped": {"mean": float(np.mean(clipped)), "largest": float(np.max(clipped))} if clipped else None,
        "adc_clipped_layers": {layer.name: layer.adc_clipped for layer in found.layers},
        "calibration_images": CALIBRATION,
        "arrays": build.cost.crossbars,
        "arrays_conv": sum(build.cost.layers[layer.op.site.name].crossbars for layer in conv),
    }


def top1(session: Session, x: npt.NDArray[Any], y: npt.NDArray[Any], batch: int = 50) -> float:
    """Accuracy of a classifier."""
    right = 0
    for start in range(0, len(x), batch):
        scores = session.run({session.inputs[0].name: x[start : start + batch]})[session.outputs[0]]
        right += int((scores.argmax(1) == y[start : start + batch]).sum())
    return right / len(x)


def dense_build(network: str, target: Target) -> Build:
    """A dense network compiled for a target; costs only, so that it need not be trained."""
    torch.manual_seed(0)
    dense = NETWORKS[network]().eval()
    model = to_onnx(dense, find_layers(dense), (), (torch.zeros(1, *SHAPES[network]),))
    return mcompiler.compile(model, target, calibration="random")


def dense_figures(network: str, target: str) -> dict[str, Any]:
    """Weights, tiles and arrays of the dense network, at equal bits and at 9 bit."""
    nine = dense_build(network, load_target(target, DENSE_BITS))
    layers = find_layers(NETWORKS[network]())
    conv = [name for name, layer in layers.items() if not isinstance(layer.module, nn.Linear)]
    copies = array_shape(nine.target).arrays_per_tile
    tiles = {name: cost.crossbars_dense // copies for name, cost in nine.cost.layers.items() if name in layers}
    return {
        "weights_conv_dense": sum(layers[name].weight.numel() for name in conv),
        "weights_dense": sum(layer.weight.numel() for layer in layers.values()),
        "tiles_conv_dense": sum(tiles[name] for name in conv),
        "tiles_dense": sum(tiles.values()),
        "tiles_conv_floor": len(conv),
        "tiles_floor": len(layers),
        "arrays_dense_9bit": nine.cost.crossbars_dense,
        "arrays_conv_dense_9bit": copies * sum(tiles[name] for name in conv),
    }


def power_and_area(model: Path, network: str, target: str) -> dict[str, Any]:
    """Compressed at 5 bit against dense at 9 bit, three ways, and what the early layers leave at least."""
    small = mcompiler.compile(model, target, calibration="random")
    large = dense_build(network, load_target(target, DENSE_BITS))
    rate = min(small.cost.throughput_per_s, large.cost.throughput_per_s)
    rows = {name: _figures(build, rate) for name, build in (("compressed_5bit", small), ("dense_9bit", large))}
    five, nine = rows["compressed_5bit"], rows["dense_9bit"]
    return {
        **rows,
        "saved_percent": {key: round(100 * (1 - five[key] / nine[key]), 2) for key in five if nine[key]},
        "floor_array_energy_j": _floor(small),
        "throughput_per_s": rate,
        "energy_per_inference_by_layer_j": {name: cost.energy_j for name, cost in small.cost.layers.items()},
    }


def _sum_array_costs(build: Build) -> list[Any]:
    return [part for part in prices(build.target).values() if part.per is HierarchyUnit.ARRAY]


def _figures(build: Build, rate: float) -> dict[str, float]:
    """Peak power and area of arrays and converters; their energy per inference; the chip's totals at a rate."""
    parts = _sum_array_costs(build)
    cost, target = build.cost, build.target
    cycle = max(target.device.read_pulse_s, target.converters.adc.columns / target.converters.adc.rate_hz)
    events = {
        Event.CELL_READ: target.array.rows * target.array.columns,
        Event.DAC_DRIVE: target.array.rows,
        Event.SAMPLE_HOLD: target.array.columns,
        Event.ADC_CONVERSION: target.array.columns / 2,  # one for both arrays of a pair
        Event.ARRAY_READ: 1,
    }
    read = sum(part.energy_j * events.get(part.event, 0) for part in parts if part.event in CONVERTING)
    static = sum(part.count * part.static_power_w for part in parts)
    names = [key for key, part in target.components.items() if part.per is HierarchyUnit.ARRAY]
    return {
        "peak_array_power_w": cost.crossbars * (read / cycle + static),
        "array_area_m2": cost.crossbars * sum(part.count * part.area_m2 for part in parts),
        "array_energy_j": sum(cost.components[key].energy_j for key in names),
        "chip_power_w": build.cost_with(rate=rate).power_w,
        "chip_area_m2": cost.area_m2,
    }


def _floor(build: Build) -> float:
    """Array energy of one inference if every layer had one tile only, fully used as its present ones are on average."""
    names = {part.event: part.energy_j for part in _sum_array_costs(build) if part.event is not None}
    copies = array_shape(build.target).arrays_per_tile
    total = 0.0
    for layer in build.layer_data:
        tiles = max(1, len(layer.table) // copies)
        for event in build.cost.events:
            if event[0] == layer.op.site.name and event[1] in {kind.value for kind in names}:
                total += event[2] * names[Event(event[1])] / tiles
    return total
