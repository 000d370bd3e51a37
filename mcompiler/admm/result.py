"""What a compression came to: the model, its twin in the chip's arithmetic, its ONNX file, its figures."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mcompiler.admm.export import deployed, get_mapped_weight, get_original_weight, to_onnx, write_onnx
from mcompiler.admm.lowering import CompressibleLayer
from mcompiler.admm.spec import Structure
from mcompiler.target import Target


@dataclass(frozen=True)
class Compressed:
    """A compressed model.

    Attributes:
        model: in inference mode; weights masked and on their levels, inputs quantised, normalisations still there.
        target: what it was compressed for.
        layers: its compressible layers, by name.
        pairs: (layer, batch normalisation behind it), by name.
        example: an input.
        structures: what each layer may keep.
        figures: top-1 accuracies (fractions; None without test data): ``dense``, ``projected``, ``quantised`` (in the
            arithmetic of the chip with lossless converters).
        dense_tiles, tiles: array positions by layer, before and after.
        dense_weights: weights by layer, before.
        stays: layer -> {why: how many}, of filters without weights that could not be removed.
        left: modules with matrices that are not compressed, and their types; nothing here counts what they take.
    """

    model: nn.Module
    target: Target
    layers: Mapping[str, CompressibleLayer]
    pairs: Sequence[tuple[str, str]]
    example: tuple[torch.Tensor, ...]
    structures: Mapping[str, Structure]
    figures: Mapping[str, Any]
    dense_tiles: Mapping[str, int]
    dense_weights: Mapping[str, int]
    tiles: Mapping[str, int]
    stays: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)

    def deployed(self) -> nn.Module:
        """A copy that computes as the chip does with lossless converters: its predictions are the mapped model's."""
        return deployed(self.model, self.layers, self.pairs, exact=True)

    def weights(self) -> dict[str, int]:
        """Non-zero weights by layer, as they are mapped."""
        found = {}
        for name, layer in self.layers.items():
            mapped = get_mapped_weight(layer.module)
            weight = get_original_weight(layer.module).detach()
            found[name] = int(((weight if mapped is None else mapped.values(weight)) != 0).sum())
        return found

    def export(self, path: str | Path) -> Path:
        """Write the model as QDQ ONNX: integer weights and input scales inside, no calibration needed to compile it.

        Raises:
            UserError: what ONNX or its exporter cannot carry.
        """
        path = Path(path)
        write_onnx(to_onnx(self.model, self.layers, self.pairs, self.example), path)
        return path

    def report(self) -> dict[str, Any]:
        """Accuracies, and per layer what is left; plain values."""
        weights = self.weights()
        names = list(self.dense_tiles)
        layers = [
            {
                "name": name,
                "matrix": list(self.layers[name].shape) if name in self.layers else [0, 0, 0],
                "weights": weights.get(name, 0),
                "weights_dense": self.dense_weights[name],
                "tiles": self.tiles.get(name, 0),
                "tiles_dense": self.dense_tiles[name],
                "structure": {
                    key: value for key, value in dataclasses.asdict(self.structures[name]).items() if value
                } if name in self.structures else {},
                "filters_that_stay": dict(self.stays.get(name, {})),
            }
            for name in names
        ]  # fmt: skip
        return {
            "target": self.target.name,
            "top1": {key: value for key, value in self.figures.items() if value is not None},
            "tiles": sum(self.tiles.values()),
            "tiles_dense": sum(self.dense_tiles.values()),
            "weights": sum(weights.values()),
            "weights_dense": sum(self.dense_weights.values()),
            "layers": layers,
            "not_compressed": dict(self.left),
        }

    def write(self, folder: Path) -> None:
        """model.onnx and report.json in a folder."""
        self.export(folder / "model.onnx")
        beside = folder / ".report.json.new"
        beside.write_text(json.dumps(self.report(), indent=1) + "\n", encoding="utf-8")
        beside.replace(folder / "report.json")
