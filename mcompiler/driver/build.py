"""Build: a compiled model, in memory or brought back from its directory."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import onnx_ir as ir

from mcompiler.artefacts import (
    LayerData,
    ScheduleRecord,
    Timeline,
    Writer,
    check_place,
    plain_attributes,
    reading,
    replayed,
    report_html,
    timeline_of,
    write_build,
)
from mcompiler.artefacts.programming import Programming, programming_cost
from mcompiler.cost import Cost, DataEnergy, data_energy, price
from mcompiler.data import Samples, load_samples
from mcompiler.declarations import Record
from mcompiler.driver.arrays import BuildArrays
from mcompiler.driver.content import Compiled, mapped_from_cells
from mcompiler.driver.proof import (
    Inputs,
    SampleRequest,
    layer_probes,
    misplaced,
    model_inputs,
    sampled_model,
    shipped_session,
    verified,
)
from mcompiler.driver.repricing import StageReads, check_prices_only, stage_reads
from mcompiler.driver.saving import versions, write_files
from mcompiler.errors import BuildError
from mcompiler.fates import stored_fate
from mcompiler.ir import NodeFate, ScheduledProgram
from mcompiler.ir.packing import PacksModels
from mcompiler.passes.lower import final_fates
from mcompiler.pipeline import Outcome, Pipeline
from mcompiler.pipeline.inputs import Say, silent
from mcompiler.records import BuildOptions, RemapRecord, ReorderRecord
from mcompiler.simulate import Verification
from mcompiler.target import Target
from mcompiler.text import area, clean, quantity

if TYPE_CHECKING:
    import networkx as nx

    from mcompiler.driver.trials import TrialOptions
    from mcompiler.simulate import Trials


@dataclass(frozen=True, repr=False)
class Build(BuildArrays, PacksModels):
    """A compiled model: placement, cost, cells, proof.

    Attributes:
        target: the chip.
        fates: fate of every node of the model.
        options: options of the compilation.
        reads: keys of the target that each stage read, first stage first.
        seconds: time of each pass that ran (empty for a loaded build).
        cached: names of passes whose results came from the cache.
        records: results of passes and their bounds, by the key that JSON outputs use.
    """

    fates: tuple[NodeFate, ...]
    options: BuildOptions
    reads: StageReads
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
        options = BuildOptions(pipeline.options, dict(source.program.dims), asdict(source.calibration))
        return cls(
            target=pipeline.target,
            _content=Compiled(program, pipeline.target, source.model, source.external),
            fates=final_fates(program.placed.analog.tiled.matrix.lowered),
            options=options,
            reads=stage_reads(pipeline),
            seconds=outcome.seconds,
            cached=outcome.cached,
            records=outcome.records,
        )

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value}" for name, value in self._shown())
        return f"Build({shown})"

    def _repr_html_(self) -> str:
        """A small table, for notebooks."""
        cells = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th><td style='text-align:left'>"
            f"{html.escape(value)}</td></tr>"
            for name, value in self._shown()
        )
        return f"<table>{cells}</table>"

    def _shown(self) -> list[tuple[str, str]]:
        cost = self.cost
        return [
            ("target", clean(self.target.name)),
            ("layers", f"{len(self._content.layers):,}"),
            ("crossbars", f"{cost.crossbars:,}"),
            ("energy", quantity(cost.energy_j, "J")),
            ("latency", quantity(cost.latency_s, "s")),
            ("area", area(cost.area_m2)),
        ]

    @property
    def labels(self) -> dict[str, str]:
        """Labels of the layers for people, by name."""
        return {layer.op.site.name: layer.op.site.label for layer in self._content.layers}

    @property
    def cost(self) -> Cost:
        """Energy, latency, area, with their tables."""
        return self._content.cost

    @property
    def placement(self) -> nx.DiGraph[str]:
        """Addresses of arrays and bytes that flow: placement.json with attributes that GraphML and GEXF can hold."""
        import networkx as nx  # a tenth of a compilation's start, and needed here only

        with reading(Path("placement.json")):
            return nx.DiGraph(nx.node_link_graph(plain_attributes(self._content.placement), edges="edges"))

    def cost_with(self, target: Target | None = None, *, rate: float | None = None) -> Cost:
        """Cost of the same build on a target with other prices or at another rate; events are not counted again.

        Args:
            target: as that of the build in every key that a stage of the compilation reads; None: that of the build.
            rate: inferences per second, at most ``cost.throughput_per_s``; None: that.

        Raises:
            BuildError: another key differs; names it and the first stage that reads it.
            UserError: a rate that the build cannot have; names the highest.
        """
        if target is None:
            return price(self.cost.counts, self.target, rate)
        check_prices_only(self.reads, self.target, target)
        return price(self.cost.counts, target, rate)

    def data_energy(self) -> tuple[DataEnergy, ...]:
        """Energy of cells, word lines and DACs at the calibration inputs, by layer and in all.

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
        from mcompiler.driver.exact import energies  # onnxruntime, needed here only

        chip, content = self.target if target is None else target, self._content
        specs = model_inputs(content, self.target, self.options.dims)
        samples = SampleRequest(x, limit=limit).samples(specs, self.options.dims)
        return energies(content, self.cost.counts, specs, samples, chip)

    @property
    def schedule(self) -> ScheduleRecord:
        """Stages, streams between them and bounds of the interval: the content of schedule.json."""
        return self._content.schedule

    def timeline(self) -> Timeline:
        """Activity of every stage over a few inferences."""
        content = self._content
        return timeline_of(replayed(content.schedule, content.skeleton, content.layers, self.target), self.target)

    @cached_property
    def reference(self) -> ir.Model:
        """The quantised model, in integer operators."""
        return self._content.reference

    @cached_property
    def mapped(self) -> ir.Model:
        """The model as the crossbars compute it, rebuilt from the cells."""
        return self._mapped(ideal=False)

    @property
    def reorder(self) -> ReorderRecord | None:
        """Result of reordering word and bit lines; None without that pass."""
        layers = [(layer.op.site.name, layer.op.matrix.reorder) for layer in self._own_layers]
        results = [(name, each) for name, each in layers if each is not None]
        return ReorderRecord.of(results) if results else None

    @property
    def remap(self) -> RemapRecord | None:
        """Result of moving lines around stuck cells; None without a fault map."""
        layers = [(layer.op.site.name, layer.remap) for layer in self._own_layers]
        results = [(name, each) for name, each in layers if each is not None]
        return RemapRecord.of(results) if results else None

    def programming(self) -> tuple[Programming, ...] | None:
        """Time and energy of writing and verifying the cells, by layer and in all; None without [device.write]."""
        return programming_cost(self._content.layers, self.target)

    def verify(
        self,
        x: Inputs = None,
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
            ideal: lossless converters.
            seed: of random samples.
            progress: called with the number of samples done.
        """
        self.check_files()
        return verified(
            self._content,
            self.target,
            self._mapped(ideal),
            sampled_model(self._content, self.target, SampleRequest(x, y, limit, seed), self.options.dims),
            ideal=ideal,
            progress=progress,
        )

    def trials(
        self,
        x: Inputs = None,
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
            progress: called with the number of chips done.

        Raises:
            UserError: an effect that the target does not describe; options that make no sense.
        """
        from mcompiler.driver.trials import TrialOptions, TrialRun, check_options  # scipy, needed here only

        wanted = TrialOptions() if options is None else options
        check_options(wanted)
        self.check_files()
        content = self._content
        request = SampleRequest(x, y, limit, wanted.seed)
        model = sampled_model(content, self.target, request, self.options.dims)
        same, _ = shipped_session(content, self.mapped, ideal=False)
        probes = layer_probes(content, ideal=False)
        run = TrialRun(content, self.target, probes, model=model, options=wanted)
        trials = run.run(progress)
        plain = replace(
            trials.plain,
            same_as_shipped=same,
            misplaced=misplaced(content, self.target),
            baseline=model.baseline.kind.value,
        )
        return replace(trials, plain=plain)

    def check_files(self, *names: str) -> None:
        """Compare files of a loaded build with the hashes in its manifest: the named ones, or all.

        Raises:
            BuildError: names the file that is missing or damaged.
        """
        self._content.check(names or None)

    def report(self) -> str:
        """The report as one HTML page."""
        records = tuple(self.records.values())
        options, layers = self.options.as_json(), self._content.layers
        return report_html(self.target, self.cost, self.fates, layers, options, records=records)

    def save(self, directory: str | Path, *, force: bool = False, say: Say = silent) -> Path:
        """Write the build directory, completely or not at all.

        Raises:
            BuildError: the directory exists and is no build, or is one and ``force`` is not given.
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
            about = {"options": self.options.as_json(), "reads": self.reads, "nodes": nodes, "records": records}
            return {"versions": versions(), **about}

        write_build(out, force, fill, say)
        return out

    @property
    def _own_layers(self) -> tuple[LayerData, ...]:
        """Layers that are the first to use their arrays: each matrix once."""
        return tuple(layer for layer in self._content.layers if layer.shares is None)

    def _mapped(self, ideal: bool) -> ir.Model:
        return mapped_from_cells(self._content.skeleton, self._content.layers, self.target, ideal)

    def samples(self, data: Path | None, *, limit: int | None = None, seed: int = 0) -> Samples:
        """Samples for ``verify``: from an .npz file, or drawn at random.

        Raises:
            DataError: names the file, the array and the remedy.
        """
        specs = model_inputs(self._content, self.target, self.options.dims)
        if data is not None:
            return load_samples(data, specs, limit)
        return SampleRequest(limit=limit, seed=seed).samples(specs, self.options.dims)

    @property
    def skeleton(self) -> ir.Model:
        """The graph with a placeholder node for each analog layer."""
        return self._content.skeleton
