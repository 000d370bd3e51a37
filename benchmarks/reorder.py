"""Gain of reordering word and bit lines, and a bound that no order beats.

Planted: masks of which some array positions are empty, rows and columns shuffled. Random: masks without structure.
Real: ResNet-20 (CIFAR-10) with the smallest weights of each layer at zero (one shot, no retraining), and the compressed
networks of this repository; every build is verified against its quantised reference.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from common import SHARED, write
from onnx import numpy_helper

import mcompiler
import mcompiler.geometry
from mcompiler.driver import Build
from mcompiler.passes.reorder import Search, fewest_tiles

MODELS = Path(__file__).resolve().parent / "models"
RESNET = SHARED / "models" / "cifar10_resnet20.torch-ts.op13.keepbn.dynb.onnx"
TARGETS = ("generic_128", "isaac", "yuan2019", "yuan2019_32x32")
SHARES = (0.8, 0.9, 0.95)
SAMPLES = 4
"""Random inputs of each verification."""

Mask = npt.NDArray[np.bool_]


def planted(rows: int, cols: int, tile: tuple[int, int], empty: float, density: float, seed: int) -> tuple[Mask, int]:
    """A shuffled mask, and its hidden empty positions; every line has a weight, every block of lines a tile."""
    rng = np.random.default_rng(seed)
    p, q = -(-rows // tile[0]), -(-cols // tile[1])
    on = rng.random((p, q)) >= empty
    on[np.arange(p), rng.integers(q, size=p)] = True
    on[rng.integers(p, size=q), np.arange(q)] = True
    cells = np.kron(on, np.ones(tile))[:rows, :cols] > 0
    used = cells & (rng.random((rows, cols)) < density)
    for axis in (0, 1):
        for line in np.flatnonzero(~used.any(axis=1 - axis)).tolist():
            places = np.flatnonzero(np.moveaxis(cells, axis, 0)[line])
            np.moveaxis(used, axis, 0)[line, rng.choice(places)] = True
    return used[rng.permutation(rows)][:, rng.permutation(cols)], int((~on).sum())


def searched(used: Mask, tile: tuple[int, int]) -> dict[str, Any]:
    """Positions before, after, and the bound."""
    search = Search.of(used, *tile)
    tiles = len(search.heights) * len(search.widths)
    before = tiles - search.empty(search.given)
    start = time.perf_counter()
    bound = fewest_tiles(used, *tile)
    middle = time.perf_counter()
    after = tiles - search.empty(search.best(1, 0, tiles - bound))
    end = time.perf_counter()
    return {
        "matrix": list(used.shape), "array": list(tile), "tiles_before": before, "tiles_after": after, "bound": bound,
        "bound_s": round(middle - start, 3), "search_s": round(end - middle, 3),
    }  # fmt: skip


def expected_empty(rows: int, cols: int, weights: int, tile: tuple[int, int]) -> float:
    """log10 of how many choices of tile[0] rows and tile[1] columns hold no weight, on average over random masks.

    Below zero it bounds the logarithm of the probability that there is one at all (Markov's inequality).
    """

    def choose(n: int, k: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

    cells, inside = rows * cols, tile[0] * tile[1]
    none = choose(cells - inside, weights) - choose(cells, weights) if weights <= cells - inside else -math.inf
    return (choose(rows, tile[0]) + choose(cols, tile[1]) + none) / math.log(10)


def planted_rows() -> list[dict[str, Any]]:
    found = []
    for rows, cols, tile in (
        (512, 512, (128, 128)), (2304, 512, (128, 128)), (576, 64, (128, 16)), (1152, 256, (128, 16)),
        (1000, 200, (128, 16)), (2304, 512, (128, 32)), (4608, 512, (128, 16)), (1152, 256, (32, 32)),
    ):  # fmt: skip
        for empty in (0.3, 0.6):
            for density in (1.0, 0.5, 0.2, 0.1):
                for seed in range(2):
                    used, hidden = planted(rows, cols, tile, empty, density, seed)
                    one = searched(used, tile)
                    gained = one["tiles_before"] - one["tiles_after"]
                    shares = {"empty": empty, "density": density, "seed": seed, "hidden": hidden}
                    found.append({**shares, "recovered": round(gained / hidden, 4) if hidden else None, **one})
                    print(found[-1], flush=True)
    return found


def random_rows() -> list[dict[str, Any]]:
    found = []
    for rows, cols, tile in (
        (512, 512, (128, 128)), (4608, 512, (128, 128)), (576, 64, (128, 64)), (1152, 256, (128, 32)),
        (576, 64, (128, 16)), (4608, 512, (128, 16)),
    ):  # fmt: skip
        for share in SHARES:
            used = np.random.default_rng(0).random((rows, cols)) >= share
            weights = int(used.sum())
            used = used[used.any(axis=1)][:, used.any(axis=0)]
            expected = expected_empty(rows, cols, weights, tile)
            found.append({"pruned": share, **searched(used, tile), "log10_expected_empty": round(expected, 1)})
            print(found[-1], flush=True)
    return found


def pruned(share: float) -> ir.Model:
    """ResNet-20 with that share of the weights of every layer at zero, the smallest."""
    model = onnx.load(RESNET)
    for tensor in model.graph.initializer:
        weights = numpy_helper.to_array(tensor)
        if weights.ndim in (2, 4):
            least = np.quantile(np.abs(weights), share)
            kept = np.where(np.abs(weights) > least, weights, 0).astype(weights.dtype)
            tensor.CopyFrom(numpy_helper.from_array(kept, tensor.name))
    return ir.from_proto(model)


def compared(model: ir.Model | Path, target: str) -> dict[str, Any]:
    """A build in ascending order and one reordered: arrays, energy, area, and whether both are exact."""
    plain, moved = (mcompiler.compile(model, target, calibration="random", reorder=asked) for asked in (False, True))
    assert moved.reorder is not None
    note = moved.reorder.as_json()
    layers = note.pop("layers")
    return {
        **note,
        "seconds": round(moved.seconds["reorder"], 2),
        "exact": _exact(plain) and _exact(moved),
        **{f"{key}_before": getattr(plain.cost, key) for key in ("crossbars", "energy_j", "area_m2", "latency_s")},
        **{f"{key}_after": getattr(moved.cost, key) for key in ("crossbars", "energy_j", "area_m2", "latency_s")},
        "lossless_layers_before": sum(layer.analog.lossless for layer in plain.layer_data),
        "lossless_layers_after": sum(layer.analog.lossless for layer in moved.layer_data),
        "tiles_with_own_rows": sum(_own_rows(layer, moved) for layer in moved.layer_data),
        "layers": layers,
    }


def _exact(build: Build) -> bool:
    """With ideal converters, on random inputs: that the mapping is right."""
    return build.verify(ideal=True, limit=SAMPLES).exact


def _own_rows(layer: Any, build: Build) -> int:
    """Positions, if each column block could leave out the rows that it has no weight in: what the layout cannot do."""
    shape, count = mcompiler.geometry.array_shape(build.target), 0
    for group, codes in enumerate(layer.op.matrix.codes):
        rows, cols = layer.op.matrix.rows.of(group), layer.op.matrix.cols.of(group)
        if len(rows) <= shape.rows and len(cols) <= shape.tile_columns:
            continue
        for first in range(0, len(cols), shape.tile_columns):
            held = (codes[np.ix_(rows, cols[first : first + shape.tile_columns])] != 0).any(axis=1)
            count += -(-int(held.sum()) // shape.rows)
    shared = layer.table[:: shape.arrays_per_tile]
    single = [
        len(layer.op.matrix.rows.of(g)) > shape.rows or len(layer.op.matrix.cols.of(g)) > shape.tile_columns
        for g in shared["group"]
    ]
    return count + sum(not one for one in single)


def real_rows() -> list[dict[str, Any]]:
    found = []
    for target in TARGETS:
        for share in SHARES if RESNET.exists() else ():
            found.append({"model": RESNET.name, "pruned": share, "target": target, **compared(pruned(share), target)})
            print({key: value for key, value in found[-1].items() if key != "layers"}, flush=True)
    for name, target in (("vgg16_cifar10_5bit", "yuan2019"), ("convnet_cifar10_5bit", "yuan2019")):
        found.append({"model": f"{name}.onnx", "target": target, **compared(MODELS / f"{name}.onnx", target)})
        print({key: value for key, value in found[-1].items() if key != "layers"}, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", default="reorder")
    args = parser.parse_args()
    real, random, hidden = real_rows(), random_rows(), planted_rows()
    known = [row["recovered"] for row in hidden if row["recovered"] is not None]
    summary = {
        "planted_cases": len(known),
        "planted_recovered_worst": min(known),
        "planted_recovered_mean": round(float(np.mean(known)), 4),
        "planted_at_least_95_percent": sum(share >= 0.95 for share in known),
        "planted_worst_by_density": {
            str(density): min(r["recovered"] for r in hidden if r["density"] == density and r["recovered"] is not None)
            for density in (1.0, 0.5, 0.2, 0.1)
        },
        "all_exact": all(row["exact"] for row in real),
    }
    print(summary)
    print(write(args.out, {"summary": summary, "real": real, "random": random, "planted": hidden}))


if __name__ == "__main__":
    main()
