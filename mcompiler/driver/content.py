"""The content of a build: from a program in memory, or from a directory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.artefacts import (
    LayerData,
    ScheduleRecord,
    check_types,
    parts_of,
    placement_data,
    plain_attributes,
    program_layers,
    read_layers,
    reading,
    verify_hashes,
)
from mcompiler.bodies import nodes_with_branches
from mcompiler.conductance import corrected, decode_cells, make_adc
from mcompiler.cost import Cost, estimate
from mcompiler.dataflow import program_stages
from mcompiler.errors import BuildError
from mcompiler.geometry import ArrayShape, array_shape
from mcompiler.graph import site_of
from mcompiler.ir import ScheduledProgram
from mcompiler.ir.packing import PacksModels
from mcompiler.onnx_export import (
    MappedLayer,
    Physics,
    build_mapped,
    build_reference,
    load_model_file,
)
from mcompiler.target import Target

if TYPE_CHECKING:
    from mcompiler.physics.chip import Chip, LayerKey


CHIP_BATCH = 8
"""Samples of a run of one chip: with so few, phases, slices and reads stay in the processor's cache."""

WINDOW = 1 << 20
"""Largest number of noisy conversions of one read in one run, if it can be limited by fewer samples."""


@dataclass(frozen=True)
class Compiled(PacksModels):
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
    def schedule(self) -> ScheduleRecord:
        """Stages, streams and bounds."""
        return ScheduleRecord.of(self.program)

    @cached_property
    def placement(self) -> dict[str, Any]:
        """The placement graph as node-link data."""
        graph = program_stages(self.program.placed.analog.tiled, self.target)
        return placement_data(graph, self.skeleton, self.layers, self.target)

    @property
    def model(self) -> Path | ir.Model:
        """The source model."""
        return self.source

    def check(self, names: Iterable[str] | None = None) -> None:
        """Nothing is on disk yet."""

    def check_layers(self) -> None:
        """Layers and graph are of one program."""

    def shipped(self) -> ir.Model | None:
        """None: no model has been written yet."""
        return None


@dataclass(frozen=True)
class Stored(PacksModels):
    """A build on disk; every file is hashed when it is first read."""

    root: Path
    manifest: Mapping[str, Any]
    shape: ArrayShape
    _hashed: set[str] = field(default_factory=set, repr=False, compare=False)

    def check(self, names: Iterable[str] | None = None) -> None:
        """Hash files that were not hashed yet (all of the build, or ``names``).

        Raises:
            BuildError: names the file that is missing or damaged.
        """
        wanted = self.manifest["files"] if names is None else names
        fresh = [name for name in wanted if name not in self._hashed]
        verify_hashes(self.root, self.manifest, fresh)
        self._hashed.update(fresh)

    def _checked(self, name: str) -> Path:
        """Path of a file, once it and the files that it refers to are found unchanged."""
        self.check(parts_of(self.manifest, name))
        return self.root / name

    def _json(self, name: str) -> Any:
        path = self._checked(name)
        with reading(path):
            return json.loads(path.read_text(encoding="utf-8"))

    @cached_property
    def layers(self) -> tuple[LayerData, ...]:
        """The analog layers with tables, addresses and cells."""
        with reading(self._checked("layers.json")):
            layers = read_layers(self.root, self.shape)
            for layer in layers:
                check_types(layer)
            return layers

    @cached_property
    def skeleton(self) -> ir.Model:
        """The graph with a placeholder for each analog layer."""
        return self._model_file("layers/graph.onnx")

    @cached_property
    def reference(self) -> ir.Model:
        """The quantised reference."""
        return self._model_file("reference.onnx")

    @cached_property
    def cost(self) -> Cost:
        """The cost tables."""
        with reading(self.root / "cost.json"):
            cost = Cost.from_json(self._json("cost.json"))
            check_types(cost)
            return cost

    @cached_property
    def schedule(self) -> ScheduleRecord:
        """Stages, streams and bounds."""
        with reading(self.root / "schedule.json"):
            schedule = ScheduleRecord.from_json(self._json("schedule.json"))
            check_types(schedule)
            return schedule

    @cached_property
    def placement(self) -> dict[str, Any]:
        """The placement graph as node-link data."""
        data: dict[str, Any] = self._json("placement.json")
        with reading(self.root / "placement.json"):
            plain_attributes(data)
        return data

    @property
    def model(self) -> Path | ir.Model:
        """The source model."""
        return self._checked("model.onnx")

    def shipped(self) -> ir.Model | None:
        """mapped.onnx as it is on disk."""
        return self._model_file("mapped.onnx")

    def check_layers(self) -> None:
        """Compare the names of the layers with those in the graph, before values are found by them.

        Raises:
            BuildError: they differ.
        """
        named = sorted(
            node.name or "" for node in nodes_with_branches(self.skeleton.graph) if site_of(node) is not None
        )
        if named != sorted(layer.op.site.name for layer in self.layers):
            raise BuildError(f"{self.root / 'layers.json'}: damaged; compile the model again")

    def _model_file(self, name: str) -> ir.Model:
        path = self._checked(name)
        with reading(path):
            return load_model_file(path)


def mapped_from_cells(
    skeleton: ir.Model, layers: Sequence[LayerData], target: Target, ideal: bool = False, chip: Chip | None = None
) -> ir.Model:
    """The mapped model from the cells of the layers.

    Args:
        skeleton: graph with placeholders.
        layers: with their cells.
        target: the chip's description.
        ideal: lossless converters.
        chip: a chip with its errors; None: ideal devices.
    """
    shape = array_shape(target)
    if chip is None:
        made = [partial(_mapped_layer, layer, target, shape, ideal) for layer in layers]
    else:
        known = {index: layer.remap.faults for index, layer in enumerate(layers) if layer.remap is not None}
        chip = replace(chip, stuck=known)
        bank = noise_bank(layers, target, chip)[0]
        made = [partial(_layer_on, chip, bank, index, layers) for index in range(len(layers))]
    return build_mapped(skeleton, made, target)


def noise_bank(layers: Sequence[LayerData], target: Target, chip: Chip) -> tuple[int, int]:
    """Normal numbers that one run of a chip's mapped model draws, and how many samples a run may have with them.

    Every read takes a window of four fifths of them at most. None are needed where conversions do not fluctuate; a run
    has one sample where cells fluctuate between inferences.
    """
    most = 1 if chip.needs_single_sample_batches or chip.draws_states_per_read else CHIP_BATCH
    if not chip.fluctuates:
        return 0, most
    shape = array_shape(target)
    each = [1]
    for layer in layers:
        phases = -(-layer.op.site.input.bits // target.converters.dac.bits)
        groups, _, columns = layer.op.matrix.codes.shape
        conversions = shape.slices * shape.encoding.conversions
        lines = groups * columns * conversions + shape.extra * len(layer.table)
        each.append(phases * layer.op.site.vectors * lines)
    samples = max(1, min(most, WINDOW // max(each)))
    return max(1 << 16, -(-5 * samples * max(each) // 4)), samples


def _mapped_layer(layer: LayerData, target: Target, shape: ArrayShape, ideal: bool) -> MappedLayer:
    analog = replace(layer.analog, lossless=True) if ideal else layer.analog
    weights = _weights(layer, target, shape)
    blocks = () if analog.lossless else tuple(layer.reads(target, shape))
    return MappedLayer(layer.op, layer.table, analog, weights, blocks)


def layer_key(layers: Sequence[LayerData], index: int) -> LayerKey:
    """Key of a layer's arrays on a chip; layers that share arrays share their errors."""
    from mcompiler.physics.chip import LayerKey  # scipy, needed for chips only

    owner = layers[index].shares
    return LayerKey(index, layers[index if owner is None else owner].op.site.name)


def _layer_on(chip: Chip, bank: int, index: int, layers: Sequence[LayerData]) -> MappedLayer:
    """A layer on one chip, where no conversion is lossless."""
    layer, target, shape = layers[index], chip.target, array_shape(chip.target)
    key = layer_key(layers, index)
    physics = Physics(
        chip.inputs(),
        chip.converter_noise,
        bank,
        seeds=chip.seeds(layer.op.site.name),
        inference_seeds=chip.seeds(f"{key.seed_key}/inference"),
    )
    blocks = layer.reads(target, shape, partial(chip.realise, key))
    calibration = target.calibration
    if chip.calibrated and calibration is not None and calibration.correction != "none":
        adc, rng = replace(make_adc(target), gain=layer.analog.gain), np.random.default_rng([chip.seed, len(blocks)])
        largest, vectors = (1 << target.converters.dac.bits) - 1, calibration.vectors
        nominal = layer.reads(target, shape)
        pairs = zip(blocks, nominal, strict=True)
        blocks = [
            corrected(block, wanted, adc, vectors=vectors, largest=largest, rng=rng, per=calibration.correction)
            for block, wanted in pairs
        ]
    analog = replace(layer.analog, lossless=False)
    return MappedLayer(layer.op, layer.table, analog, _weights(layer, target, shape), tuple(blocks), physics=physics)


def _weights(layer: LayerData, target: Target, shape: ArrayShape) -> npt.NDArray[np.signedinteger[Any]]:
    """Weight codes, decoded from the cells."""
    return decode_cells(layer.mapped_cells(shape), layer.mapped(target, shape))
