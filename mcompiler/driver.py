"""The compiler from end to end: the list of passes, ``compile``, ``load`` and ``Build``."""

from __future__ import annotations

import itertools
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib import metadata
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

import mcompiler
from mcompiler.artefacts import (
    LayerData,
    Writer,
    check_place,
    placement_data,
    program_layers,
    read_layers,
    read_manifest,
    report_html,
    verify_hashes,
    write_build,
    write_layers,
)
from mcompiler.conductance import conductances, decode_cells, read_blocks, unpack_levels
from mcompiler.cost import Cost, estimate
from mcompiler.data import InputSpec, Samples, batch_size, from_arrays, load_samples, random_samples
from mcompiler.errors import BuildError, CompileError, DataError, ModelError
from mcompiler.geometry import ArrayShape, array_shape
from mcompiler.ir import GraphProgram, NodeFate, ScheduledProgram
from mcompiler.onnx_export import (
    MappedLayer,
    build_mapped,
    build_reference,
    code_names,
    load_model_file,
    same_models,
    save_model,
)
from mcompiler.onnx_import import EXTERNAL_KEY, load_model, program_of
from mcompiler.passes.assign import Assign
from mcompiler.passes.clean import Clean
from mcompiler.passes.compact import Compact
from mcompiler.passes.convert import Convert
from mcompiler.passes.decompose import Decompose
from mcompiler.passes.fold_batchnorm import FoldBatchNorm
from mcompiler.passes.fold_constants import FoldConstants
from mcompiler.passes.infer_shapes import InferShapes
from mcompiler.passes.inline import Inline
from mcompiler.passes.lower import Lower, final_fates
from mcompiler.passes.place import Place
from mcompiler.passes.prune import Prune
from mcompiler.passes.quantise import Quantise, RangeMethod
from mcompiler.passes.schedule import Schedule
from mcompiler.passes.tile import Tile
from mcompiler.pipeline import Observer, Runner
from mcompiler.runtime import Session, input_specs, open_file, open_model
from mcompiler.simulate import LayerProbe, Models, Verification, verify
from mcompiler.target import Target, load_target, resolved_toml

RANDOM = "random"
RANDOM_SAMPLES = 4
"""Samples drawn for ``--calibration random``."""

VERIFY_SAMPLES = 16
"""Samples drawn by ``verify`` without data."""

GUESSES = (1, 16, 32, 64, 128, 224, 256, 512, 1024)
"""Sizes tried, in this order, for a dimension that the model leaves open and ``--dim`` does not give."""

Calibration = str | Path | Mapping[str, npt.NDArray[Any]] | None
Say = Callable[[str], None]


def _silent(message: str) -> None:
    """Say nothing."""


# --- compile ---------------------------------------------------------------------------------------------------------


def compile(
    model: str | Path | ir.Model,
    target: str | Path | Target,
    *,
    calibration: Calibration = None,
    range: str = RangeMethod.MINMAX,
    dims: Mapping[str, int] | None = None,
    chips: int | None = None,
    seed: int = 0,
    overrides: Sequence[str] = (),
    observers: tuple[Observer, ...] = (),
    say: Say = _silent,
) -> Build:
    """Compile a trained model for a target.

    Args:
        model: an ONNX file, or a model of ``onnx_ir``.
        target: a shipped target's name, a TOML file, or a Target.
        calibration: data for the input ranges: an .npz file, arrays by input name, ``"random"`` (costs only), or None
            for a model that brings its own scales.
        range: how input ranges are read off the data: ``minmax``, ``percentile`` or ``mse``.
        dims: sizes of symbolic dimensions other than the batch.
        chips: chips to use at most; None: what the target says.
        seed: of everything that is drawn.
        overrides: ``section.key=VALUE`` for the target, as ``--set``.
        observers: called after each pass.
        say: told about guesses and leftovers.

    Returns:
        The build; ``save`` writes it to a directory.

    Raises:
        UserError: what is wrong with the model, the data or the target, and what to do.
        PassError: a fault of the compiler.
    """
    chip = target if isinstance(target, Target) else load_target(target, overrides)
    array_shape(chip)
    method = _method(range)
    program, source = _imported(model)
    session = _float_session(source, program.model)
    known, given = _open_dims(program, session, dims or {}, say), calibration is not None
    specs = input_specs(session, program.model)
    rng = np.random.default_rng(seed)
    samples = _calibration(calibration, specs, rng, known)
    del session  # a large model is not kept open twice
    run = Runner(chip, observers)
    graph = normalise(run, replace(program, dims=known))
    lowered = run(Lower(), graph)
    quantise = Quantise(
        samples, specs, given, method, seed, origin=str(source) if isinstance(source, Path) else "model"
    )
    matrix = run(Compact(), run(quantise, lowered))
    tiled = run(Prune(), run(Tile(), matrix))
    placed = run(Place(chips), run(Assign(), tiled))
    scheduled = run(Schedule(), placed)
    options = {
        "range": method.value,
        "seed": seed,
        "chips": chips,
        "dims": known,
        "calibration": _about(calibration, samples),
    }
    external = tuple(program.model.meta.get(EXTERNAL_KEY, ()))
    return Build(chip, _Compiled(scheduled, chip, source, external), final_fates(lowered), options, dict(run.seconds))


def normalise(run: Runner, program: GraphProgram) -> GraphProgram:
    """The graph passes: what they leave runs in onnxruntime and computes what the model computes."""
    program = run(Inline(), program)
    program = run(Decompose(), program)
    program = run(Convert(), program)
    for _ in range(2):  # shapes make shape arithmetic constant, and constants make shapes
        program = run(InferShapes(), program)
        program = run(FoldConstants(), program)
    program = run(Clean(), program)
    program = run(FoldBatchNorm(), program)
    return run(InferShapes(), program)


def _method(name: str) -> RangeMethod:
    try:
        return RangeMethod(name)
    except ValueError:
        raise CompileError(f"range '{name}' is unknown; choose minmax, percentile or mse") from None


def _imported(model: str | Path | ir.Model) -> tuple[GraphProgram, Path | ir.Model]:
    if isinstance(model, ir.Model):
        return program_of(model.clone()), model
    path = Path(model)
    return load_model(path), path


def _float_session(source: Path | ir.Model, model: ir.Model) -> Session:
    """The model as it came, in onnxruntime: what it does not run is refused here.

    A large file is not read a second time: its tensors are handed over as they are mapped.
    """
    if isinstance(source, Path) and source.stat().st_size < LARGE_FILE:
        return open_file(source, optimise=False, prepack=False)
    return open_model(model, optimise=False, prepack=False, origin=str(source) if isinstance(source, Path) else "model")


LARGE_FILE = 64 << 20


def _open_dims(program: GraphProgram, session: Session, dims: Mapping[str, int], say: Say) -> dict[str, int]:
    """Sizes of the symbolic dimensions: given ones, and a printed guess for the others."""
    specs = session.inputs
    free = _free_dims(specs)
    unknown = sorted(
        set(dims) - free - {spec.shape[0] for spec in specs if spec.shape and isinstance(spec.shape[0], str)}
    )
    if unknown:
        raise CompileError(
            f"--dim {unknown[0]}: the model has no such dimension; it has "
            f"{', '.join(sorted(free)) or 'none that is open'}"
        )
    missing = sorted(free - set(dims))
    if not missing:
        return dict(dims)
    bounded = input_specs(session, program.model)
    batches = {name: 1 for name in missing if name.lower().startswith("batch") or name in {"N", "B"}}
    for guess, ones in itertools.product(GUESSES, (batches, {})):
        trial = {**dims, **dict.fromkeys(missing, guess), **ones}
        sample = random_samples(bounded, 1, np.random.default_rng(0), trial)
        if session.accepts(bounded, sample):
            guessed = ", ".join(f"{name}={trial[name]}" for name in missing)
            say(f"guessed {guessed}; give --dim {missing[-1]}=N for another size")
            return trial
    raise CompileError(
        f"no size is known for dimension(s) {', '.join(missing)}, and onnxruntime runs with none of "
        f"{', '.join(map(str, GUESSES))}; give --dim {missing[0]}=N"
    )


def _free_dims(specs: tuple[InputSpec, ...]) -> set[str]:
    """Names of open dimensions other than the sample axis."""
    skip = 0 if batch_size(specs) is None else 1
    heads = {spec.shape[0] for spec in specs if spec.shape} if skip else set()
    return {size for spec in specs for size in spec.shape[skip:] if isinstance(size, str)} - heads


def _calibration(
    calibration: Calibration, specs: tuple[InputSpec, ...], rng: np.random.Generator, dims: Mapping[str, int]
) -> Samples:
    if calibration is None:
        return random_samples(specs, 1, rng, dims)
    if calibration == RANDOM:
        return random_samples(specs, RANDOM_SAMPLES, rng, dims)
    if isinstance(calibration, str | Path):
        return load_samples(Path(calibration), specs)
    return from_arrays(calibration, specs, "calibration")


def _about(calibration: Calibration, samples: Samples) -> dict[str, Any]:
    """What the manifest says of the calibration: no paths."""
    kind = "none" if calibration is None else RANDOM if calibration == RANDOM else "data"
    return {"kind": kind, "samples": 0 if calibration is None else samples.count}


# --- where a build's content comes from ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Compiled:
    """A build in memory."""

    program: ScheduledProgram
    target: Target
    source: Path | ir.Model
    external: tuple[str, ...]

    @cached_property
    def layers(self) -> tuple[LayerData, ...]:
        return program_layers(self.program, self.target)

    @cached_property
    def skeleton(self) -> ir.Model:
        return self.program.placed.analog.tiled.matrix.lowered.skeleton

    @cached_property
    def reference(self) -> ir.Model:
        return build_reference(self.program.placed.analog.tiled.matrix)

    @cached_property
    def cost(self) -> Cost:
        return estimate(self.program, self.target)

    @cached_property
    def placement(self) -> dict[str, Any]:
        return placement_data(self.program.placed, self.target)

    def float_session(self) -> Session:
        return open_file(self.source) if isinstance(self.source, Path) else open_model(self.source)

    def shipped(self) -> ir.Model | None:
        """No model has been shipped yet."""
        return None


@dataclass(frozen=True)
class _Stored:
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
        verify_hashes(
            self.root, self.manifest,
            ["layers.json", *(n for n in self.manifest["files"] if n.startswith(("layers/", "cells/")))],
        )  # fmt: skip
        return read_layers(self.root, self.shape)

    @cached_property
    def skeleton(self) -> ir.Model:
        return self._model("layers/graph.onnx")

    @cached_property
    def reference(self) -> ir.Model:
        return self._model("reference.onnx")

    @cached_property
    def cost(self) -> Cost:
        return Cost.from_json(self._json("cost.json"))

    @cached_property
    def placement(self) -> dict[str, Any]:
        data: dict[str, Any] = self._json("placement.json")
        return data

    def float_session(self) -> Session:
        self._checked(*(name for name in self.manifest["files"] if name.startswith(("model.onnx", "model/"))))
        return open_file(self.root / "model.onnx")

    def shipped(self) -> ir.Model | None:
        return self._model("mapped.onnx")


# --- Build -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Build:
    """A compiled model: placement, cost, cells, proof.

    Attributes:
        target: the chip.
        fates: what became of every node of the model.
        options: what it was compiled with.
        seconds: time of each pass (empty for a loaded build).
    """

    target: Target
    _content: _Compiled | _Stored
    fates: tuple[NodeFate, ...]
    options: Mapping[str, Any]
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the analog layers."""
        return tuple(layer.op.name for layer in self._content.layers)

    @property
    def cost(self) -> Cost:
        """Energy, latency, area, with their tables."""
        return self._content.cost

    @property
    def placement(self) -> nx.DiGraph[str]:
        """Which array sits where, and what flows: built on demand from placement.json."""
        return nx.DiGraph(nx.node_link_graph(self._content.placement, edges="edges"))

    @cached_property
    def reference(self) -> ir.Model:
        """The quantised model, in integer operators."""
        return self._content.reference

    @cached_property
    def mapped(self) -> ir.Model:
        """The model as the crossbars compute it, rebuilt from the cells."""
        return self._mapped(ideal=False)

    def cells(self, layer: str, tile: int = 0) -> npt.NDArray[np.uint8]:
        """Level codes of one physical array of a layer: uint8 [rows, columns + unit and reference column].

        Args:
            layer: layer name.
            tile: number of the array within the layer.

        Raises:
            BuildError: no such layer or array.
        """
        data = self._layer(layer)
        shape = array_shape(self.target)
        if not 0 <= tile < len(data.table):
            raise BuildError(f"layer '{layer}' has {len(data.table)} arrays; there is no number {tile}")
        first = 0
        for chunk in data.cells():
            if tile < first + len(chunk):
                return unpack_levels(chunk[tile - first], shape.storage_bits, shape.columns + shape.extra)
            first += len(chunk)
        raise BuildError(f"layer '{layer}': its cells end before array {tile}")

    def conductances(self, layer: str, tile: int = 0) -> npt.NDArray[np.float64]:
        """Conductance of every cell of one array in siemens, [rows, columns + extra]."""
        return conductances(self.cells(layer, tile), self.target)

    def verify(
        self,
        x: npt.NDArray[Any] | Mapping[str, npt.NDArray[Any]] | Samples | None = None,
        y: npt.NDArray[Any] | None = None,
        *,
        limit: int | None = None,
        ideal: bool = False,
        seed: int = 0,
        progress: Callable[[int], None] = lambda done: None,
    ) -> Verification:
        """Run float, quantised and mapped model on the same samples and compare them layer by layer.

        Args:
            x: inputs [n, ...], arrays by input name, or None for random ones.
            y: labels [n], for accuracies.
            limit: the first so many samples, or the number drawn without ``x`` (16).
            ideal: lossless converters too.
            seed: of random samples.
            progress: told how many samples are done.
        """
        content = self._content
        float_session = content.float_session()
        specs = input_specs(float_session, content.skeleton)
        samples = self._samples(x, y, specs, limit, seed)
        mapped = self._mapped(ideal)
        shipped = mapped if ideal else content.shipped()
        same = shipped is None or shipped is mapped or same_models(shipped, mapped)
        session = open_model(shipped if shipped is not None else mapped, origin="mapped model")
        names = code_names(content.skeleton, {layer.op.name: layer.op for layer in content.layers})
        probes = [
            LayerProbe(
                layer.op.name, names[layer.op.name], f"{layer.op.name}/accumulator", ideal or layer.analog.lossless,
                0.0 if ideal else layer.analog.clipped,
            )
            for layer in content.layers
        ]  # fmt: skip
        models = Models(float_session, content.reference, mapped, session, specs)
        return verify(models, probes, samples, same_as_shipped=same, progress=progress)

    def report(self) -> str:
        """The report as one HTML page."""
        return report_html(self.target, self.cost, self.fates, self._content.layers, self.options)

    def save(self, directory: str | Path, *, force: bool = False, say: Say = _silent) -> Path:
        """Write the build directory, whole or not at all.

        Raises:
            BuildError: something else stands there, or a build and ``force`` is not given.
        """
        content = self._content
        if not isinstance(content, _Compiled):
            raise BuildError(f"{directory}: this build was loaded; copy its directory instead")
        out = Path(directory)
        check_place(out, force)
        write_build(out, force, lambda writer: self._fill(writer, content), say)
        return out

    def _fill(self, writer: Writer, content: _Compiled) -> dict[str, Any]:
        """Write every file of the build; the mapped model is made from the cells as they were written."""
        root = writer.root
        with ThreadPoolExecutor(1) as beside:  # copying and hashing a large model needs no interpreter
            copied = beside.submit(_write_source, writer, content.source, content.external)
            self._fill_own(writer, content, root)
            copied.result()
        fates = [{"name": f.name, "op": f.op, "fate": f.fate.value, "reason": f.reason} for f in self.fates]
        return {"versions": _versions(), "options": dict(self.options), "nodes": fates}

    def _fill_own(self, writer: Writer, content: _Compiled, root: Path) -> None:
        """Everything but the copy of the model."""
        writer.text("target.toml", resolved_toml(self.target))
        write_layers(writer, content.program, self.target)
        (root / "layers").mkdir(exist_ok=True)
        for name in save_model(content.skeleton, root, "layers/graph.onnx"):
            writer.adopt(name)
        for name in save_model(content.reference, root, "reference.onnx"):
            writer.adopt(name)
        layers = read_layers(root, array_shape(self.target))
        for name in save_model(_build_mapped(content.skeleton, layers, self.target, False), root, "mapped.onnx"):
            writer.adopt(name)
        writer.json("placement.json", content.placement)
        writer.json("cost.json", self.cost.as_json())
        writer.text("report.html", self.report())

    def _layer(self, name: str) -> LayerData:
        for layer in self._content.layers:
            if layer.op.name == name:
                return layer
        known = ", ".join(f"'{layer}'" for layer in self.layers[:8]) + (" ..." if len(self.layers) > 8 else "")
        raise BuildError(f"no layer '{name}'; the layers are {known}")

    def _mapped(self, ideal: bool) -> ir.Model:
        return _build_mapped(self._content.skeleton, self._content.layers, self.target, ideal)

    def _samples(
        self, x: Any, y: npt.NDArray[Any] | None, specs: tuple[InputSpec, ...], limit: int | None, seed: int
    ) -> Samples:
        if isinstance(x, Samples):
            return x
        if x is None:
            if y is not None:
                raise DataError("labels without inputs; give both")
            dims = self.options.get("dims", {})
            return random_samples(specs, limit or VERIFY_SAMPLES, np.random.default_rng(seed), dims)
        arrays = dict(x) if isinstance(x, Mapping) else {"x": x}
        if y is not None:
            arrays["__labels__" if any(spec.name == "y" for spec in specs) else "y"] = y
        return from_arrays(arrays, specs, "samples", limit)

    def samples(self, data: Path | None, *, limit: int | None = None, seed: int = 0) -> Samples:
        """Samples for ``verify``: from an .npz file, or drawn at random.

        Raises:
            DataError: names the file, the array and the remedy.
        """
        specs = input_specs(self._content.float_session(), self._content.skeleton)
        if data is not None:
            return load_samples(data, specs, limit)
        return self._samples(None, None, specs, limit, seed)

    @property
    def skeleton(self) -> ir.Model:
        """The graph with a placeholder node for each analog layer."""
        return self._content.skeleton

    @property
    def layer_data(self) -> tuple[LayerData, ...]:
        """The layers with tables, addresses and cells."""
        return self._content.layers

    @property
    def chips(self) -> int:
        """Chips in use."""
        used = [layer.addresses[:, 0] for layer in self._content.layers if len(layer.addresses)]
        return len(np.unique(np.concatenate(used))) if used else 0

    def arrays(self, layer: str) -> int:
        """Physical arrays of a layer."""
        return len(self._layer(layer).table)

    def address(self, layer: str, tile: int) -> list[int]:
        """Chip, tile, core and position of one array."""
        address: list[int] = self._layer(layer).addresses[tile].tolist()
        return address


def _build_mapped(skeleton: ir.Model, layers: Sequence[LayerData], target: Target, ideal: bool) -> ir.Model:
    """The mapped model from the cells of the layers."""
    shape = array_shape(target)
    made = {layer.op.name: partial(_mapped_layer, layer, target, shape, ideal) for layer in layers}
    return build_mapped(skeleton, made, target)


def _mapped_layer(layer: LayerData, target: Target, shape: ArrayShape, ideal: bool) -> MappedLayer:
    encoding = target.encoding.weights
    analog = replace(layer.analog, lossless=True) if ideal else layer.analog
    weights = decode_cells(layer.cells(), layer.op, layer.table, shape, encoding, analog.shift, analog.flips)
    blocks = (
        () if analog.lossless
        else tuple(read_blocks(layer.cells(), layer.op, layer.table, target, shape, analog.shift, analog.flips))
    )  # fmt: skip
    return MappedLayer(layer.op, layer.table, analog, weights, blocks)


def _write_source(writer: Writer, source: Path | ir.Model, external: tuple[str, ...]) -> None:
    """The model as it came: its file byte for byte, with its external data under the names that it uses."""
    if isinstance(source, ir.Model):
        for name in save_model(source, writer.root, "model.onnx"):
            writer.adopt(name)
        return
    writer.copy("model.onnx", source)
    for name in external:
        if name in {"model.onnx", "manifest.json"} or name in writer.files:
            raise ModelError(f"{source}: its external data file is called '{name}', as a file of the build; rename it")
        writer.copy(name, source.parent / name)


def _versions() -> dict[str, str]:
    names = ("numpy", "onnx", "onnx-ir", "onnxruntime", "networkx")
    return {
        "mcompiler": mcompiler.__version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in names},
    }


def load(directory: str | Path) -> Build:
    """Bring a build back from its directory.

    Raises:
        BuildError: no build there, or one that is damaged; names the file.
    """
    root = Path(directory)
    manifest = read_manifest(root)
    verify_hashes(root, manifest, ["target.toml"])
    target = load_target(root / "target.toml")
    try:
        fates = tuple(NodeFate(n["name"], n["op"], n["fate"], n["reason"]) for n in manifest["nodes"])
        options = dict(manifest["options"])
    except (KeyError, TypeError) as error:
        raise BuildError(f"{root / 'manifest.json'}: damaged; compile the model again") from error
    return Build(target, _Stored(root, manifest, array_shape(target)), fates, options)
