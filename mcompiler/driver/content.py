"""Where a build has its content from: a program in memory, or a directory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import onnx_ir as ir

from mcompiler.artefacts import (
    LayerData,
    placement_data,
    program_layers,
    read_layers,
    verify_hashes,
)
from mcompiler.conductance import decode_cells, read_blocks
from mcompiler.cost import Cost, estimate
from mcompiler.geometry import ArrayShape, array_shape
from mcompiler.ir import ScheduledProgram
from mcompiler.onnx_export import (
    MappedLayer,
    build_mapped,
    build_reference,
    load_model_file,
)
from mcompiler.runtime import Session, open_file, open_model
from mcompiler.target import Target


@dataclass(frozen=True)
class Compiled:
    """A build in memory."""

    program: ScheduledProgram
    target: Target
    source: Path | ir.Model
    external: tuple[str, ...]

    @cached_property
    def layers(self) -> tuple[LayerData, ...]:
        """The analog layers with tables, addresses and cells."""
        return program_layers(self.program, self.target)

    @cached_property
    def skeleton(self) -> ir.Model:
        """The graph with a placeholder for each analog layer."""
        return self.program.placed.analog.tiled.matrix.lowered.skeleton

    @cached_property
    def reference(self) -> ir.Model:
        """The quantised reference."""
        return build_reference(self.program.placed.analog.tiled.matrix)

    @cached_property
    def cost(self) -> Cost:
        """The cost tables."""
        return estimate(self.program, self.target)

    @cached_property
    def placement(self) -> dict[str, Any]:
        """The placement graph as node-link data."""
        return placement_data(self.skeleton, self.layers, self.target)

    def float_session(self) -> Session:
        """The model as it came, in onnxruntime."""
        return open_file(self.source) if isinstance(self.source, Path) else open_model(self.source)

    def shipped(self) -> ir.Model | None:
        """No model has been shipped yet."""
        return None


@dataclass(frozen=True)
class Stored:
    """A build on disk; every file is hashed when it is first read."""

    root: Path
    manifest: Mapping[str, Any]
    shape: ArrayShape

    def _checked(self, *names: str) -> None:
        files = [
            name for name in self.manifest["files"] if any(name == n or name.startswith(n + ".data") for n in names)
        ]
        verify_hashes(self.root, self.manifest, files or names)

    def _json(self, name: str) -> Any:
        self._checked(name)
        return json.loads((self.root / name).read_text(encoding="utf-8"))

    def _model(self, name: str) -> ir.Model:
        self._checked(name)
        return load_model_file(self.root / name)

    @cached_property
    def layers(self) -> tuple[LayerData, ...]:
        """The analog layers with tables, addresses and cells."""
        verify_hashes(
            self.root, self.manifest,
            ["layers.json", *(n for n in self.manifest["files"] if n.startswith(("layers/", "cells/")))],
        )  # fmt: skip
        return read_layers(self.root, self.shape)

    @cached_property
    def skeleton(self) -> ir.Model:
        """The graph with a placeholder for each analog layer."""
        return self._model("layers/graph.onnx")

    @cached_property
    def reference(self) -> ir.Model:
        """The quantised reference."""
        return self._model("reference.onnx")

    @cached_property
    def cost(self) -> Cost:
        """The cost tables."""
        return Cost.from_json(self._json("cost.json"))

    @cached_property
    def placement(self) -> dict[str, Any]:
        """The placement graph as node-link data."""
        data: dict[str, Any] = self._json("placement.json")
        return data

    def float_session(self) -> Session:
        """The model as it came, in onnxruntime."""
        others = ("target.toml", "layers", "cells/", "placement.json", "cost.json", "reference.onnx", "mapped.onnx",
                  "report.html")  # fmt: skip
        # What is none of the build's own files is external data of the model.
        verify_hashes(self.root, self.manifest, [n for n in self.manifest["files"] if not n.startswith(others)])
        return open_file(self.root / "model.onnx")

    def shipped(self) -> ir.Model | None:
        """mapped.onnx as it lies on disk."""
        return self._model("mapped.onnx")


def mapped_from_cells(skeleton: ir.Model, layers: Sequence[LayerData], target: Target, ideal: bool) -> ir.Model:
    """The mapped model from the cells of the layers."""
    shape = array_shape(target)
    made = {layer.op.name: partial(_mapped_layer, layer, target, shape, ideal) for layer in layers}
    return build_mapped(skeleton, made, target)


def _mapped_layer(layer: LayerData, target: Target, shape: ArrayShape, ideal: bool) -> MappedLayer:
    encoding = target.encoding.weights
    analog = replace(layer.analog, lossless=True) if ideal else layer.analog
    settings = (analog.shift, analog.flips, analog.signs)
    weights = decode_cells(layer.cells(), layer.op, layer.table, shape, encoding, *settings)
    blocks = (
        () if analog.lossless
        else tuple(read_blocks(layer.cells(), layer.op, layer.table, target, shape, *settings))
    )  # fmt: skip
    return MappedLayer(layer.op, layer.table, analog, weights, blocks)
