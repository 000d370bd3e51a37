"""Build: a compiled model, in memory or brought back from its directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.artefacts import (
    LayerData,
    Writer,
    check_place,
    chrome_trace,
    placement_data,
    placement_faults,
    plain_attributes,
    read_manifest,
    replayed,
    report_html,
    stored_stages,
    verify_hashes,
    write_build,
)
from mcompiler.artefacts.programming import Programming, layer_levels, programming_cost, write_programming_table
from mcompiler.conductance import conductances
from mcompiler.cost import Cost, DataEnergy, data_energy, mean_field, price
from mcompiler.data import InputSpec, Samples, from_arrays, load_samples, random_samples
from mcompiler.driver.content import Compiled, Stored, mapped_from_cells
from mcompiler.driver.inputs import Say, silent
from mcompiler.driver.saving import versions, write_files
from mcompiler.errors import BuildError, DataError, UserError
from mcompiler.fates import restored_fate, stored_fate
from mcompiler.geometry import array_shape
from mcompiler.ir import NodeFate
from mcompiler.naming import LayerName, find_layer
from mcompiler.onnx_export import code_names, same_models
from mcompiler.runtime import Session, input_specs, open_model
from mcompiler.simulate import LayerProbe, Models, Verification, verify
from mcompiler.target import Target, load_target

VERIFY_SAMPLES = 16
"""Samples drawn by ``verify`` without data."""

if TYPE_CHECKING:
    import networkx as nx

    from mcompiler.driver.trials import TrialOptions
    from mcompiler.simulate import Trials


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
    _content: Compiled | Stored
    fates: tuple[NodeFate, ...]
    options: Mapping[str, Any]
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the analog layers."""
        return tuple(layer.op.site.name for layer in self._content.layers)

    @property
    def cost(self) -> Cost:
        """Energy, latency, area, with their tables."""
        return self._content.cost

    @property
    def placement(self) -> nx.DiGraph[str]:
        """Addresses of arrays and bytes that flow: placement.json with attributes that GraphML and GEXF can hold."""
        import networkx as nx  # a tenth of a compilation's start, and needed here only

        return nx.DiGraph(nx.node_link_graph(plain_attributes(self._content.placement), edges="edges"))

    def cost_with(self, target: Target) -> Cost:
        """What the same build costs with other component values: what is counted is not counted again.

        Args:
            target: as that of the build, but for its components.

        Raises:
            BuildError: the targets differ elsewhere; names the sections.
        """
        ours = self.target.model_copy(update={"components": target.components})
        if ours != target:
            other = [name for name in type(target).model_fields if getattr(ours, name) != getattr(target, name)]
            raise BuildError(
                f"another {', '.join(other)} changes what is counted, not only what it costs; compile the model again "
                "with --set"
            )
        return price(self.cost.counts, target)

    def data_energy(self) -> tuple[DataEnergy, ...]:
        """Energy of cells, word lines and DACs at the inputs that calibration saw, by layer and in all.

        Raises:
            BuildError: the build was made without calibration data.
        """
        return data_energy(self._content.layers, self.cost.counts, self.target)

    def exact_energy(
        self,
        x: npt.NDArray[Any] | Mapping[str, npt.NDArray[Any]] | Samples,
        *,
        limit: int | None = None,
        target: Target | None = None,
    ) -> tuple[tuple[DataEnergy, ...], tuple[DataEnergy, ...]]:
        """Energy at given inputs, as ``data_energy``: by their densities, and vector by vector.

        Args:
            x: inputs [n, ...], or arrays by input name.
            limit: the first so many samples.
            target: with other component values; None: that of the build.
        """
        from mcompiler.driver.exact import exact_inputs  # onnxruntime, needed here only

        chip, content = self.target if target is None else target, self._content
        specs = input_specs(content.float_session(), content.skeleton)
        found = exact_inputs(content, specs, self._samples(x, None, specs, limit, 0), chip)
        means = [mean_field(layer, each.statistics(), chip) for layer, each in zip(content.layers, found, strict=True)]
        exact = [each.inputs() for each in found]
        mean, each = (data_energy(content.layers, self.cost.counts, chip, inputs) for inputs in (means, exact))
        return mean, each

    @property
    def schedule(self) -> Mapping[str, Any]:
        """Stages of the pipeline, what waits between them, what limits the interval: what schedule.json holds."""
        return self._content.schedule

    def timeline(self) -> dict[str, Any]:
        """Who is busy when over a few inferences, in the trace format of Chrome and Perfetto."""
        content = self._content
        return chrome_trace(replayed(content.schedule, content.skeleton, content.layers, self.target), self.target)

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

        Of a chip whose stuck cells are known as they stand on it, spare lines after the others.

        Args:
            layer: layer name, label, or a part of either that no other layer has.
            tile: number of the array within the layer.

        Raises:
            BuildError: no such layer or array.
        """
        count = self.arrays(layer)
        if not 0 <= tile < count:
            raise BuildError(f"layer '{layer}' has {count} arrays; there is no number {tile}")
        return next(levels for _, levels in layer_levels(self._layer(layer), self.target, tile))

    def all_cells(self, layer: str) -> Iterator[npt.NDArray[np.uint8]]:
        """Level codes of every array of a layer, in order, read as they are asked for; as ``cells`` gives them."""
        return (levels for _, levels in layer_levels(self._layer(layer), self.target))

    def conductances(self, layer: str, tile: int = 0) -> npt.NDArray[np.float64]:
        """Conductance of every cell of one array in siemens, [rows, columns + extra]."""
        return conductances(self.cells(layer, tile), self.target)

    def write_cells(self, path: str | Path, layer: str, tile: int | None = None) -> int:
        """Write the cells of a layer, or of one array, as F.npy (dtype ``artefacts.programming.CELL``) or F.csv.

        Returns:
            How many there are.

        Raises:
            BuildError: no such layer or array, another ending, or the file cannot be written.
        """
        if tile is not None and not 0 <= tile < self.arrays(layer):
            raise BuildError(f"layer '{layer}' has {self.arrays(layer)} arrays; there is no number {tile}")
        return write_programming_table(Path(path), self._layer(layer), self.target, tile)

    @property
    def reorder(self) -> dict[str, Any] | None:
        """What another order of the lines gained, in all and by layer; None where it was not asked for.

        ``tiles_before``, ``tiles_after``: array positions in use; ``bound``: those that no order could do without;
        ``routing_bytes``: memory of the tables that say which line belongs to which input and output channel.
        """
        found = [
            (layer.op.site.name, layer.op.matrix.reorder)
            for layer in self._content.layers
            if layer.op.matrix.reorder is not None
        ]
        if not found:
            return None
        keys = ("tiles_before", "tiles_after", "bound", "routing_bytes")
        layers = [{"name": name, **{key: getattr(one, key) for key in keys}} for name, one in found]
        return {**{key: sum(layer[key] for layer in layers) for key in keys}, "layers": layers}

    @property
    def remap(self) -> dict[str, Any] | None:
        """What moving lines gained on a chip with known stuck cells, in all and by layer; None without a fault map.

        ``stuck``: of the cells of the arrays in use; ``harm_before``, ``harm_after``: sum over them of (deviation in
        level steps x worth of a step)^2.
        """
        moved = [
            (layer.op.site.name, layer.remap)
            for layer in self._content.layers
            if layer.remap is not None and layer.shares is None
        ]
        if not moved:
            return None
        layers = [
            {"name": name, "stuck": len(one.faults), "harm_before": one.harm_before, "harm_after": one.harm_after}
            for name, one in moved
        ]
        keys = ("stuck", "harm_before", "harm_after")
        return {**{key: sum(layer[key] for layer in layers) for key in keys}, "layers": layers}

    def programming(self) -> tuple[Programming, ...] | None:
        """What writing and verifying the cells takes, by layer and in all; None without [device.write]."""
        return programming_cost(self._content.layers, self.target)

    def netlist(
        self,
        layer: str,
        tile: int | None = None,
        *,
        inputs: npt.ArrayLike | None = None,
        vectors: npt.ArrayLike | None = None,
    ) -> str:
        """A SPICE deck of one array, or of all arrays of a layer, as ``write_netlist`` writes it."""
        parts: list[str] = []
        self.write_netlist(parts.append, layer, tile, inputs=inputs, vectors=vectors)
        return "".join(parts)

    def write_netlist(
        self,
        write: Callable[[str], object],
        layer: str,
        tile: int | None = None,
        *,
        inputs: npt.ArrayLike | None = None,
        vectors: npt.ArrayLike | None = None,
    ) -> None:
        """Write a SPICE deck that ngspice runs: every cell and wire, sources, and a print of every bit line's current.

        Args:
            write: takes text, a line at a time.
            layer, tile: which arrays; without ``tile`` all of the layer.
            inputs, vectors: what is applied, as ``netlist.write_layer`` says; None: 1 on all word lines.

        Raises:
            BuildError: no such layer or array.
            DataError: inputs that do not fit the word lines, the layer or the drive.
        """
        from mcompiler.netlist import write_layer  # scipy, needed here only

        write_layer(write, self._layer(layer), self.target, tile, inputs=inputs, vectors=vectors)

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
        self.check_files()
        float_session = content.float_session()
        specs = input_specs(float_session, content.skeleton)
        samples = self._samples(x, y, specs, limit, seed)
        mapped = self._mapped(ideal)
        same, session = self._shipped_session(mapped, ideal)
        models = Models(float_session, content.reference, mapped, session, specs)
        probes = self._probes(ideal)
        return verify(models, probes, samples, same_as_shipped=same, misplaced=self._misplaced(), progress=progress)

    def trials(
        self,
        x: npt.NDArray[Any] | Mapping[str, npt.NDArray[Any]] | Samples | None = None,
        y: npt.NDArray[Any] | None = None,
        *,
        options: TrialOptions | None = None,
        limit: int | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> Trials:
        """Run chips with the errors that the target describes, one seed a chip.

        Args:
            x, y, limit: as for ``verify``.
            options: effects, number of chips, first seed, time since programming and so on.
            progress: told how many chips are done.

        Raises:
            UserError: an effect that the target does not describe; options that make no sense.
        """
        from mcompiler.driver.trials import TrialOptions, TrialRun, check_options  # scipy, needed here only

        wanted = TrialOptions() if options is None else options
        check_options(wanted)
        self.check_files()
        specs = input_specs(self._content.float_session(), self._content.skeleton)
        samples = self._samples(x, y, specs, limit, wanted.seed)
        same, _ = self._shipped_session(self.mapped, ideal=False)
        run = TrialRun(self._content, self.target, self._probes(ideal=False), specs, samples, wanted)
        found = run.run(progress)
        return replace(found, plain=replace(found.plain, same_as_shipped=same, misplaced=self._misplaced()))

    def _shipped_session(self, mapped: ir.Model, ideal: bool) -> tuple[bool, Session]:
        """Whether the shipped mapped model is the one that the cells give, and the model that runs."""
        shipped = mapped if ideal else self._content.shipped()
        same = shipped is None or shipped is mapped or same_models(shipped, mapped)
        return same, open_model(shipped if shipped is not None else mapped, origin="mapped model")

    def _misplaced(self) -> tuple[str, ...]:
        content = self._content
        graph = stored_stages(content.schedule, content.skeleton, content.layers, self.target)
        wanted = placement_data(graph, content.skeleton, content.layers, self.target)
        return placement_faults(content.placement, wanted, content.layers, self.target)

    def _probes(self, ideal: bool) -> list[LayerProbe]:
        layers = self._content.layers
        names = code_names(self._content.skeleton, [layer.op.site for layer in layers])
        return [
            LayerProbe(
                name=layer.op.site.name,
                codes=codes,
                accumulator=f"{layer.op.site.name}/accumulator",
                lossless=ideal or layer.analog.lossless,
                clipped=0.0 if ideal else layer.analog.clipped,
            )
            for layer, codes in zip(layers, names, strict=True)
        ]

    def check_files(self, *names: str) -> None:
        """Compare files of a loaded build with the hashes in its manifest: the named ones, or all.

        Raises:
            BuildError: names the file that is missing or damaged.
        """
        self._content.check(names or None)

    def report(self) -> str:
        """The report as one HTML page."""
        return report_html(self.target, self.cost, self.fates, self._content.layers, self.options)

    def save(self, directory: str | Path, *, force: bool = False, say: Say = silent) -> Path:
        """Write the build directory, whole or not at all.

        Raises:
            BuildError: something else stands there, or a build and ``force`` is not given.
        """
        content = self._content
        if not isinstance(content, Compiled):
            raise BuildError(f"{directory}: this build was loaded; copy its directory instead")
        out = Path(directory)
        check_place(out, force)

        def fill(writer: Writer) -> dict[str, Any]:
            write_files(writer, content, self.target, self.cost, self.report())
            nodes = [stored_fate(fate) for fate in self.fates]
            return {"versions": versions(), "options": dict(self.options), "nodes": nodes}

        write_build(out, force, fill, say)
        return out

    def layer_name(self, given: str) -> str:
        """Name of the layer that a user names: by its name, its label, or a part of either that no other layer has.

        Raises:
            BuildError: no layer, or several.
        """
        return self._layer(given).op.site.name

    def _layer(self, given: str) -> LayerData:
        layers = self._content.layers
        try:
            return layers[find_layer(given, [LayerName(layer.op.site.name, layer.op.site.label) for layer in layers])]
        except UserError as error:
            raise BuildError(str(error)) from None

    def _mapped(self, ideal: bool) -> ir.Model:
        return mapped_from_cells(self._content.skeleton, self._content.layers, self.target, ideal)

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
        fates = tuple(restored_fate(record) for record in manifest["nodes"])
        options = dict(manifest["options"])
    except (KeyError, TypeError, ValueError) as error:
        raise BuildError(f"{root / 'manifest.json'}: damaged; compile the model again") from error
    return Build(target, Stored(root, manifest, array_shape(target)), fates, options)
