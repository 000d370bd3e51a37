"""verify: run float model, quantised reference and mapped model side by side, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.data import MAX_BATCH, InputSpec, Samples, batch_size, batches
from mcompiler.errors import DataError
from mcompiler.runtime import RunError, Session, open_model
from mcompiler.simulate.classes import check_labels, classes_of, is_class
from mcompiler.simulate.subgraph import extract

Tensor = npt.NDArray[Any]


@dataclass(frozen=True)
class LayerResult:
    """Error of a layer's mapped accumulator against the reference's, for the input codes of the mapped layer."""

    name: str
    exact: bool
    max_code_error: float
    sqnr_db: float | None
    adc_clipped: float | None


@dataclass(frozen=True)
class Verification:
    """The result of ``verify``; ``as_json`` gives the keys of the contract.

    Attributes:
        samples: how many were run.
        exact: every layer exact and the outputs of mapped and reference bit-equal.
        same_as_shipped: the mapped model rebuilt from the cells is the shipped one.
        outputs_equal: outputs of the shipped mapped and reference models are bit-equal.
        promised: layers whose converters are lossless.
        misplaced: faults of the placement.
        baseline: which form of the float model ran.
    """

    samples: int
    exact: bool
    max_code_error: float
    sqnr_db: float | None
    agreement_mapped_quantised: float | None
    agreement_quantised_float: float | None
    top1_float: float | None
    top1_quantised: float | None
    top1_mapped: float | None
    layers: tuple[LayerResult, ...]
    same_as_shipped: bool
    outputs_equal: bool
    promised: frozenset[str]
    misplaced: tuple[str, ...] = ()
    baseline: str = "source"

    @property
    def failures(self) -> tuple[str, ...]:
        """Why the verification failed; empty where it did not."""
        reasons = list(self.misplaced)
        if not self.same_as_shipped:
            reasons.append("the shipped mapped.onnx is not the model that the cells, placement and layers give")
        broken = [layer for layer in self.layers if not layer.exact and layer.name in self.promised]
        reasons += [
            f"layer '{layer.name}' is promised lossless and differs from the reference by up to "
            f"{layer.max_code_error:g} units"
            for layer in broken
        ]
        # Outputs are compared only where every layer is promised lossless: other layers scale their codes in another
        # order than the reference, so that outputs may differ though these samples happen to lose nothing.
        if all(layer.exact and layer.name in self.promised for layer in self.layers) and not self.outputs_equal:
            reasons.append("every layer is exact, and an output of mapped.onnx differs from reference.onnx")
        return tuple(reasons)

    def as_json(self) -> dict[str, Any]:
        """The object that ``verify --json`` prints."""
        return {
            "samples": self.samples, "exact": self.exact,
            "max_code_error": self.max_code_error,
            "sqnr_db": self.sqnr_db,
            "baseline": self.baseline,
            "agreement": {
                "mapped_quantised": self.agreement_mapped_quantised, "quantised_float": self.agreement_quantised_float,
            },
            "top1_float": self.top1_float, "top1_quantised": self.top1_quantised, "top1_mapped": self.top1_mapped,
            "layers": [
                {
                    "name": layer.name, "exact": layer.exact, "max_code_error": layer.max_code_error,
                    "sqnr_db": layer.sqnr_db, "adc_clipped": layer.adc_clipped,
                }
                for layer in self.layers
            ],
        }  # fmt: skip


@dataclass
class _ErrorStatistics:
    """Sums over the samples so far of one signal's error against another; ``equal`` if all were bit-equal."""

    equal: bool = True
    signal: float = 0.0
    noise: float = 0.0
    largest: float = 0.0

    def add(self, wanted: Tensor, given: Tensor) -> None:
        reference = wanted.astype(np.float64)
        with np.errstate(invalid="ignore"):  # inf - inf
            difference = given.astype(np.float64) - reference
        difference = difference[np.isfinite(difference)] if not np.isfinite(difference).all() else difference
        self.signal += float(np.square(reference[np.isfinite(reference)]).sum())
        self.noise += float(np.square(difference).sum())
        self.largest = max(self.largest, float(np.abs(difference).max(initial=0)))

    @property
    def sqnr_db(self) -> float | None:
        if self.noise == 0 or self.signal == 0:
            return None
        return float(10 * np.log10(self.signal / self.noise))


@dataclass(frozen=True)
class LayerProbe:
    """Where a layer's signals are in both models.

    Attributes:
        name: layer.
        codes: value that carries its input codes (shared by layers that read the same tensor).
        accumulator: value that carries its accumulator.
        lossless: promised.
        clipped: share of conversions that clipped in calibration.
    """

    name: str
    codes: str
    accumulator: str
    lossless: bool
    clipped: float | None


@dataclass(frozen=True)
class Models:
    """Models of a verification: sessions of the float and the shipped model, graphs to which probes are added."""

    float_model: Session
    reference: ir.Model
    mapped: ir.Model
    shipped: Session
    specs: tuple[InputSpec, ...]


def verify(
    models: Models,
    probes: Sequence[LayerProbe],
    samples: Samples,
    *,
    same_as_shipped: bool,
    misplaced: tuple[str, ...] = (),
    progress: Callable[[int], None] = lambda done: None,
    largest: int = MAX_BATCH,
) -> Verification:
    """Run all models on the samples and compare.

    Args:
        models: of the build.
        probes: one per analog layer.
        samples: inputs and labels.
        same_as_shipped: whether the rebuilt mapped model equals the shipped one.
        misplaced: faults of the placement.
        progress: called with the number of samples done.
        largest: samples of a run.
    """
    run = _Run(models, probes)
    for feeds, count in batches(models.specs, samples, largest):
        run.step(feeds, count, samples.labels)
        progress(run.done)
    return replace(run.result(probes, samples, same_as_shipped), misplaced=misplaced)


@dataclass
class _Run:
    """State of one verification."""

    models: Models
    probes: Sequence[LayerProbe]
    done: int = 0
    equal: bool = True
    errors: dict[str, _ErrorStatistics] = field(default_factory=dict)
    output: _ErrorStatistics = field(default_factory=_ErrorStatistics)
    signal: str | None = None
    decision: str | None = None
    classes: dict[str, list[npt.NDArray[np.int64]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = list(dict.fromkeys([p.codes for p in self.probes] + [p.accumulator for p in self.probes]))
        self._names = names
        self._mapped = open_model(self.models.mapped, outputs=names, origin="mapped model")
        self._probed = open_model(self.models.reference, outputs=names, origin="reference model")
        self._plain = open_model(self.models.reference, origin="reference model")
        self._layers: dict[str, Session] = {}
        self._outputs = list(self.models.float_model.outputs)
        self.errors = {probe.name: _ErrorStatistics() for probe in self.probes}

    def step(self, feeds: Mapping[str, Tensor], count: int, labels: npt.NDArray[np.int64] | None) -> None:
        try:
            wanted = self.models.float_model.run(feeds)
            mapped = self._mapped.run(feeds, [*self._outputs, *self._names])
            probed = self._probed.run(feeds, [*self._outputs, *self._names])
            shipped = self.models.shipped.run(feeds)
            reference = probed
            if any(not _bit_equal(shipped[name], probed[name]) for name in self._outputs):
                # Probes are outputs, which keep onnxruntime from fusions of digital nodes that round differently: the
                # shipped model, without probes, is compared with a reference without probes.
                reference = self._plain.run(feeds)
        except RunError as error:
            raise DataError(f"onnxruntime fails on the data: {error}; check --dim and the data's values") from error
        for probe in self.probes:
            self._compare(probe, mapped, probed)
        self.equal &= all(_bit_equal(shipped[name], reference[name]) for name in self._outputs)
        batched = batch_size(self.models.specs) is not None
        outputs = {"float": wanted, "quantised": reference, "mapped": shipped}
        if not self.done:
            fed = len(next(iter(feeds.values()))) if batched else None
            self.signal = first_float_output(wanted, self._outputs)
            self.decision = class_output(wanted, self._outputs, fed)
            if self.decision is not None:
                check_labels(labels, wanted[self.decision], self.decision)
        if self.signal is not None:
            name = self.signal
            self.output.add(
                _without_padding(wanted[name], count, batched), _without_padding(shipped[name], count, batched)
            )
        if self.decision is not None:
            for kind, values in outputs.items():
                self.classes.setdefault(kind, []).append(
                    classes_of(_without_padding(values[self.decision], count, batched))
                )
        self.done += count

    def _compare(self, probe: LayerProbe, mapped: Mapping[str, Tensor], probed: Mapping[str, Tensor]) -> None:
        """Compare the accumulators of a layer for the same input codes, those of the mapped layer."""
        # Errors of earlier layers change these codes. Then the layer of the reference runs alone on them, so that each
        # layer is judged by its own error only.
        wanted = probed[probe.accumulator]
        if not np.array_equal(mapped[probe.codes], probed[probe.codes]):
            if probe.name not in self._layers:
                graph = extract(self.models.reference, probe.codes, probe.accumulator)
                self._layers[probe.name] = open_model(graph, origin=f"reference of layer '{probe.name}'")
            wanted = self._layers[probe.name].run({probe.codes: mapped[probe.codes]})[probe.accumulator]
        given = mapped[probe.accumulator]
        if given.shape != wanted.shape:
            raise AssertionError(f"accumulators of {probe.name}: {given.shape} and {wanted.shape}")
        if np.array_equal(given, wanted):
            self.errors[probe.name].signal += float(np.square(wanted.astype(np.float64)).sum())
        else:
            self.errors[probe.name].equal = False
            self.errors[probe.name].add(wanted, given)

    def result(self, probes: Sequence[LayerProbe], samples: Samples, same_as_shipped: bool) -> Verification:
        layers = tuple(
            LayerResult(
                probe.name, self.errors[probe.name].equal, self.errors[probe.name].largest,
                self.errors[probe.name].sqnr_db, probe.clipped,
            )
            for probe in probes
        )  # fmt: skip
        classes = {kind: np.concatenate(parts) for kind, parts in self.classes.items()}
        known = len(classes) == 3 and all(len(found) == samples.count for found in classes.values())
        labels = samples.labels if known else None

        def top1(kind: str) -> float | None:
            return None if labels is None else float((classes[kind] == labels).mean())

        def agree(one: str, other: str) -> float | None:
            return float((classes[one] == classes[other]).mean()) if known else None

        exact = all(layer.exact for layer in layers) and self.equal
        return Verification(
            samples=samples.count,
            exact=exact,
            max_code_error=max((layer.max_code_error for layer in layers), default=0.0),
            sqnr_db=self.output.sqnr_db,
            agreement_mapped_quantised=agree("mapped", "quantised"),
            agreement_quantised_float=agree("quantised", "float"),
            top1_float=top1("float"),
            top1_quantised=top1("quantised"),
            top1_mapped=top1("mapped"),
            layers=layers,
            same_as_shipped=same_as_shipped,
            outputs_equal=self.equal,
            promised=frozenset(probe.name for probe in probes if probe.lossless),
        )


def class_output(values: Mapping[str, Any], names: Sequence[str], fed: int | None) -> str | None:
    """The output with the classes of the samples: one integer for each sample, else scores."""
    integer = next((name for name in names if is_class(values[name], fed)), None)
    first = first_float_output(values, names) or (names[0] if names else None)
    if integer is not None or first is None:
        return integer
    return first if isinstance(values[first], np.ndarray) and values[first].dtype.kind in "fiu" else None


def first_float_output(values: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The first output that holds floats."""
    held = [(name, values[name]) for name in names]
    return next(
        (n for n, value in held if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.size), None
    )


@dataclass(frozen=True)
class Outputs:
    """Outputs of a model for samples.

    Attributes:
        classes: int64 [n], or None where no output has classes.
        signal: first float output [n, ...], or None.
    """

    classes: npt.NDArray[np.int64] | None
    signal: Tensor | None


def outputs_of(session: Session, specs: tuple[InputSpec, ...], samples: Samples, largest: int) -> Outputs:
    """Run a model on samples.

    Args:
        session: the model.
        specs: its inputs.
        samples: inputs.
        largest: samples of a run.

    Raises:
        DataError: onnxruntime fails on the data.
    """
    batched, parts = batch_size(specs) is not None, list[dict[str, Any]]()
    decision: str | None = None
    signal: str | None = None
    for index, (feeds, count) in enumerate(batches(specs, samples, largest)):
        try:
            values = session.run(feeds)
        except RunError as error:
            raise DataError(f"onnxruntime fails on the data: {error}; check --dim and the data's values") from error
        if not index:
            fed = len(next(iter(feeds.values()))) if batched else None
            signal = first_float_output(values, session.outputs)
            decision = class_output(values, session.outputs, fed)
            if decision is not None:
                check_labels(samples.labels, values[decision], decision)
        wanted = {name for name in (signal, decision) if name is not None}
        parts.append({name: _without_padding(values[name], count, batched) for name in wanted})
    classes = None if decision is None else np.concatenate([classes_of(part[decision]) for part in parts])
    if classes is not None and len(classes) != samples.count:
        classes = None
    return Outputs(classes, None if signal is None else np.concatenate([part[signal] for part in parts]))


def sqnr_db(wanted: Tensor, given: Tensor) -> float | None:
    """Signal over error in decibels; None where there is no error or no signal."""
    error = _ErrorStatistics()
    error.add(wanted, given)
    return error.sqnr_db


def _bit_equal(one: Any, other: Any) -> bool:
    """Bit equality of two outputs, NaN equal to NaN; sequences and maps by their contents."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return (
            one.dtype == other.dtype
            and one.shape == other.shape
            and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_bit_equal(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def _without_padding(values: Tensor, count: int, batched: bool) -> Tensor:
    """The samples of a batch that are not padding; a model without batch gives one sample."""
    if batched:
        return values[:count] if values.ndim else values[None]
    return values[None]
