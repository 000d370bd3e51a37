"""Result of a compression: the model, a copy that computes as the chip does, the ONNX file, the figures."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from mcompiler.admm.export import build_deployed, get_mapped_weight, get_original_weight, to_onnx, write_onnx
from mcompiler.admm.inputs import Inputs
from mcompiler.admm.lowering import CompressibleLayer
from mcompiler.admm.spec import Structure
from mcompiler.target import Target


@dataclass(frozen=True)
class Compressed:
    """A compressed model.

    Attributes:
        model: in inference mode; weights masked and on their levels, inputs quantised, normalisations not folded.
        target: for which it was compressed.
        layers: its compressible layers, by name.
        batchnorm_pairs: (layer, batch normalisation that follows it), by name.
        example: an input.
        structures: of each layer.
        figures: top-1 accuracies (fractions; None without test data): ``dense``, ``projected``, ``quantised`` (in the
            arithmetic of the chip with lossless converters).
        dense_tiles, tiles: array positions by layer, before and after.
        dense_weights: weights by layer, before.
        pinned_filters: layer -> {reason: number} of filters without weights that could not be removed.
        uncompressed: modules with matrices that are not compressed, and their types; the counts here leave them out.
    """

    model: nn.Module
    target: Target
    layers: Mapping[str, CompressibleLayer]
    batchnorm_pairs: Sequence[tuple[str, str]]
    example: Inputs
    structures: Mapping[str, Structure]
    figures: Mapping[str, Any]
    dense_tiles: Mapping[str, int]
    dense_weights: Mapping[str, int]
    tiles: Mapping[str, int]
    pinned_filters: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    uncompressed: Mapping[str, str] = field(default_factory=dict)

    def deployed(self) -> nn.Module:
        """A copy that computes as the chip does with lossless converters: its predictions are the mapped model's."""
        return build_deployed(self.model, self.layers, self.batchnorm_pairs, exact=True)

    def weights(self) -> dict[str, int]:
        """Non-zero weights by layer, as they are mapped."""
        found = {}
        for name, layer in self.layers.items():
            mapped = get_mapped_weight(layer.module)
            weight = get_original_weight(layer.module).detach()
            found[name] = int(((weight if mapped is None else mapped.values(weight)) != 0).sum())
        return found

    def export(self, path: str | Path) -> Path:
        """Write the model as QDQ ONNX with integer weights and input scales.

        Compiling it needs no data for the calibration of input ranges.

        Raises:
            UserError: what ONNX or its exporter cannot express.
        """
        path = Path(path)
        write_onnx(to_onnx(self.model, self.layers, self.batchnorm_pairs, self.example), path)
        return path

    def report(self) -> dict[str, Any]:
        """Accuracies, and the remaining weights and tiles of each layer; plain values."""
        weights = self.weights()
        structures = {name: dataclasses.asdict(entry) for name, entry in self.structures.items()}
        layers = [
            {
                "name": name,
                "matrix": list(self.layers[name].shape) if name in self.layers else [0, 0, 0],
                "weights": weights.get(name, 0),
                "weights_dense": self.dense_weights[name],
                "tiles": self.tiles.get(name, 0),
                "tiles_dense": self.dense_tiles[name],
                "structure": {key: value for key, value in structures.get(name, {}).items() if value},
                "filters_that_stay": dict(self.pinned_filters.get(name, {})),
            }
            for name in self.dense_tiles
        ]
        return {
            "target": self.target.name,
            "top1": {key: value for key, value in self.figures.items() if value is not None},
            "tiles": sum(self.tiles.values()),
            "tiles_dense": sum(self.dense_tiles.values()),
            "weights": sum(weights.values()),
            "weights_dense": sum(self.dense_weights.values()),
            "layers": layers,
            "not_compressed": dict(self.uncompressed),
        }

    def write(self, folder: Path) -> None:
        """Write model.onnx and report.json into a folder."""
        self.export(folder / "model.onnx")
        temporary = folder / ".report.json.new"
        temporary.write_text(json.dumps(self.report(), indent=1) + "\n", encoding="utf-8")
        temporary.replace(folder / "report.json")
