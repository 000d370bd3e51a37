"""Build: a compiled model, in memory or brought back from its directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.artefacts import (
    LayerData,
    ScheduleRecord,
    Writer,
    check_place,
    chrome_trace,
    plain_attributes,
    replayed,
    report_html,
    write_build,
)
from mcompiler.artefacts.programming import Programming, layer_levels, programming_cost, write_programming_table
from mcompiler.conductance import conductances
from mcompiler.cost import Cost, DataEnergy, data_energy, mean_field, price
from mcompiler.data import Samples, load_samples
from mcompiler.declarations import Record
from mcompiler.driver.content import Compiled, Stored, mapped_from_cells
from mcompiler.driver.proof import SampleRequest, layer_probes, misplaced, shipped_session, verified
from mcompiler.driver.saving import versions, write_files
from mcompiler.errors import BuildError, UserError
from mcompiler.fates import stored_fate
from mcompiler.ir import NodeFate, ScheduledProgram
from mcompiler.ir.packing import PacksModels
from mcompiler.naming import LayerName, find_layer
from mcompiler.passes.lower import final_fates
from mcompiler.pipeline import Outcome, Pipeline
from mcompiler.pipeline.inputs import Say, silent
from mcompiler.records import RemapRecord, ReorderRecord
from mcompiler.runtime import input_specs
from mcompiler.simulate import Verification
from mcompiler.target import Target

if TYPE_CHECKING:
    import networkx as nx

    from mcompiler.driver.trials import TrialOptions
    from mcompiler.simulate import Trials


@dataclass(frozen=True)
class Build(PacksModels):
    """A compiled model: placement, cost, cells, proof.

    Attributes:
        target: the chip.
        fates: what became of every node of the model.
        options: what it was compiled with.
        seconds: time of each pass that ran (empty for a loaded build).
        cached: names of passes whose results came from the cache.
        records: what the passes gained, by the key that JSON outputs use.
    """

    target: Target
    _content: Compiled | Stored
    fates: tuple[NodeFate, ...]
    options: Mapping[str, Any]
    seconds: Mapping[str, float] = field(default_factory=dict)
    cached: tuple[str, ...] = ()
    records: Mapping[str, Record] = field(default_factory=dict)

    @classmethod
    def of(cls, pipeline: Pipeline, outcome: Outcome) -> Build:
        """The build of a pipeline that ran to its end.

        Raises:
            BuildError: a program that is not scheduled yet.
        """
        program, source = outcome.program, pipeline.source
        if not isinstance(program, ScheduledProgram):
            raise BuildError(f"a build is made of a scheduled program, not of a {type(program).__name__}")
        options = pipeline.options | {"dims": dict(source.program.dims), "calibration": asdict(source.calibration)}
        return cls(
            target=pipeline.target,
            _content=Compiled(program, pipeline.target, source.model, source.external),
            fates=final_fates(program.placed.analog.tiled.matrix.lowered),
            options=options,
            seconds=outcome.seconds,
            cached=outcome.cached,
            records=outcome.records,
        )

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
        samples = SampleRequest(x, limit=limit).samples(specs, self._dims)
        found = exact_inputs(content, specs, samples, chip)
        means = [mean_field(layer, each.statistics(), chip) for layer, each in zip(content.layers, found, strict=True)]
        exact = [each.inputs() for each in found]
        mean, each = (data_energy(content.layers, self.cost.counts, chip, inputs) for inputs in (means, exact))
        return mean, each

    @property
    def schedule(self) -> ScheduleRecord:
        """Stages of the pipeline, what waits between them, what limits the interval: the content of schedule.json."""
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
    def reorder(self) -> ReorderRecord | None:
        """What another order of the lines gained; None where it was not asked for."""
        layers = [(layer.op.site.name, layer.op.matrix.reorder) for layer in self._own_layers]
        found = [(name, each) for name, each in layers if each is not None]
        return ReorderRecord.of(found) if found else None

    @property
    def remap(self) -> RemapRecord | None:
        """What moving lines gained on a chip with known stuck cells; None without a fault map."""
        layers = [(layer.op.site.name, layer.remap) for layer in self._own_layers]
        found = [(name, each) for name, each in layers if each is not None]
        return RemapRecord.of(found) if found else None

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
        self.check_files()
        return verified(
            self._content,
            self.target,
            self._mapped(ideal),
            SampleRequest(x, y, limit, seed),
            dims=self._dims,
            ideal=ideal,
            progress=progress,
        )

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
        content = self._content
        specs = input_specs(content.float_session(), content.skeleton)
        samples = SampleRequest(x, y, limit, wanted.seed).samples(specs, self._dims)
        same, _ = shipped_session(content, self.mapped, ideal=False)
        run = TrialRun(
            content=content,
            target=self.target,
            probes=layer_probes(content, ideal=False),
            specs=specs,
            samples=samples,
            options=wanted,
        )
        found = run.run(progress)
        plain = replace(found.plain, same_as_shipped=same, misplaced=misplaced(content, self.target))
        return replace(found, plain=plain)

    def check_files(self, *names: str) -> None:
        """Compare files of a loaded build with the hashes in its manifest: the named ones, or all.

        Raises:
            BuildError: names the file that is missing or damaged.
        """
        self._content.check(names or None)

    def report(self) -> str:
        """The report as one HTML page."""
        facts = (self.fates, self._content.layers, self.options)
        return report_html(self.target, self.cost, *facts, records=tuple(self.records.values()))

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
            records = {key: {"values": each.as_json(), "text": each.text()} for key, each in self.records.items()}
            return {"versions": versions(), "options": dict(self.options), "nodes": nodes, "records": records}

        write_build(out, force, fill, say)
        return out

    @property
    def _own_layers(self) -> tuple[LayerData, ...]:
        """Layers with arrays of their own: each matrix once."""
        return tuple(layer for layer in self._content.layers if layer.shares is None)

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

    @property
    def _dims(self) -> Mapping[str, int]:
        """Sizes that were taken for symbolic dimensions."""
        dims: Mapping[str, int] = self.options.get("dims", {})
        return dims

    def samples(self, data: Path | None, *, limit: int | None = None, seed: int = 0) -> Samples:
        """Samples for ``verify``: from an .npz file, or drawn at random.

        Raises:
            DataError: names the file, the array and the remedy.
        """
        specs = input_specs(self._content.float_session(), self._content.skeleton)
        if data is not None:
            return load_samples(data, specs, limit)
        return SampleRequest(limit=limit, seed=seed).samples(specs, self._dims)

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
