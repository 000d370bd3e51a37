"""The result of ``compress`` and the comparison of ``demo`` as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mcompiler.cost import Cost
from mcompiler.simulate import Verification
from mcompiler.text import facts, percent, quantity, table

_TOP1 = {"dense": "dense", "projected": "projected, not retrained", "quantised": "compressed, as it will be mapped"}


def compress_summary(report: Mapping[str, Any]) -> str:
    """Result of a compression: accuracies, and the remaining weights and array positions of each layer.

    Args:
        report: as ``mcompiler compress --json`` prints it.
    """
    top1 = report["top1"]
    pairs = [(f"top-1 {label}", percent(top1[key])) for key, label in _TOP1.items() if key in top1]
    for label, key in (("weights", "weights"), ("array positions", "tiles")):
        kept, dense = report[key], report[f"{key}_dense"]
        pairs.append((label, f"{kept:,} of {dense:,}, {dense / max(1, kept):.2f}x fewer"))
    rows = []
    for layer in report["layers"]:
        groups, inputs, outputs = layer["matrix"]
        matrix = f"{f'{groups} x ' if groups > 1 else ''}{inputs} x {outputs}"
        weights = (f"{layer['weights']:,}", f"{layer['weights_dense']:,}")
        rows.append([layer["name"], matrix, *weights, str(layer["tiles"]), str(layer["tiles_dense"])])
    layers = table(["layer", "matrix", "weights", "dense", "positions", "dense"], rows, "lrrrrr")
    return f"{facts(pairs)}\n\n{layers}"


def demo_comparison(rows: Sequence[tuple[str, Cost, Verification]]) -> str:
    """The networks of the demo compared: crossbars, energy, accuracies."""
    cells = [
        [
            label,
            str(cost.crossbars),
            quantity(cost.energy_j, "J"),
            percent(found.top1_float),
            percent(found.top1_mapped),
        ]
        for label, cost, found in rows
    ]
    return table(["", "crossbars", "energy", "top-1 float", "mapped"], cells, "lrrrr")
