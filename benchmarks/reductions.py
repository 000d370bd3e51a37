"""Savings by compression, component by component: the compressed 5-bit networks against dense ones at 9 bit.

    python benchmarks/reductions.py

The reductions of Yuan et al. (ISLPED 2019) count arrays. Here both networks are compiled for the same target and priced
with everything that the target has; every row says what a component takes in the dense and in the compressed network,
and the shares say how much of the reduction of the arrays survives in the whole. Energies are per inference, of the
parts in use at the throughput of the slower of both. Results: benchmarks/results/reductions.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from common import RESULTS, write
from mapping import DENSE_BITS, dense_build
from networks import NETWORKS

import mcompiler
from mcompiler.driver import Build
from mcompiler.target import load_target

MODELS = Path(__file__).resolve().parent / "models"
CELLS = ("cell", "array")
CONVERTERS = ("adc", "dac", "sample_hold")


def part_of(component: str) -> str:
    """Cells, converters, or what else there is."""
    if any(name in component for name in CELLS):
        return "cells"
    return "converters" if component in CONVERTERS else "buffers, network, digital"


def rows(dense: Build, small: Build) -> dict[str, Any]:
    """Energy and area of every component in both, and what the compression leaves of it."""
    rate = min(build.cost.throughput_per_s for build in (dense, small))
    costs = {"dense_9bit": dense.cost_with(rate=rate), "compressed_5bit": small.cost_with(rate=rate)}
    table = {}
    for name in dense.cost.components:
        prices = {label: cost.components[name] for label, cost in costs.items()}
        each = {label: {"energy_j": price.energy_j, "area_m2": price.area_m2} for label, price in prices.items()}
        table[name] = {"part": part_of(name), **each}
    return table


def saved(table: dict[str, Any], key: str, parts: set[str] | None = None) -> float | None:
    """Percent saved of a key, over some parts."""
    chosen = [row for row in table.values() if parts is None or row["part"] in parts]
    before, after = (sum(row[label][key] for row in chosen) for label in ("dense_9bit", "compressed_5bit"))
    return round(100 * (1 - after / before), 2) if before else None


def measure(network: str) -> dict[str, Any]:
    """One network."""
    path = next(MODELS.glob(f"{network}_*_5bit.onnx"))
    known = json.loads((RESULTS / f"{path.stem}.json").read_text())
    small = mcompiler.compile(path, known["target"], calibration="random")
    dense = dense_build(network, load_target(known["target"], DENSE_BITS))
    table = rows(dense, small)
    whole: dict[str, Any] = {
        key: {
            "cells": saved(table, key, {"cells"}),
            "cells and converters": saved(table, key, {"cells", "converters"}),
            "everything": saved(table, key),
        }
        for key in ("energy_j", "area_m2")
    }
    return {
        "network": network, "target": known["target"], "arrays_dense_9bit": dense.cost.crossbars,
        "arrays_compressed_5bit": small.cost.crossbars,
        "saved_arrays_percent": round(100 * (1 - small.cost.crossbars / dense.cost.crossbars), 2),
        "saved_percent": whole, "components": table,
    }  # fmt: skip


def main() -> None:
    """All committed models."""
    found = [measure(network) for network in NETWORKS]
    for row in found:
        print(row["network"], row["arrays_dense_9bit"], row["arrays_compressed_5bit"], row["saved_percent"])
    print(write("reductions", {"rows": found}))


if __name__ == "__main__":
    main()
