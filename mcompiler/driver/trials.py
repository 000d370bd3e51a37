"""Chips with their errors: many seeds of one description, compared with the models without errors."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import onnx_ir as ir

from mcompiler.conductance import conductances, unpack_levels
from mcompiler.data import MAX_BATCH, InputSpec, Samples, batches
from mcompiler.driver.content import Compiled, Stored, mapped_from_cells, noise_bank
from mcompiler.driver.proof import SampledModel
from mcompiler.effects import Effect, chosen, in_order, start_s
from mcompiler.errors import UserError
from mcompiler.geometry import array_shape
from mcompiler.onnx_import import load_model
from mcompiler.physics.chip import ACTIVITY, Chip
from mcompiler.physics.nodal import linearisation_accuracy
from mcompiler.runtime import Session, open_model
from mcompiler.simulate import (
    ChipResult,
    LayerCauses,
    LayerProbe,
    Models,
    Outputs,
    Trials,
    Verification,
    accuracy_of,
    outputs_of,
    sqnr_db,
    verify,
)
from mcompiler.target import Target

CAUSE_SAMPLES = 64
"""Samples on which errors are told apart by cause, at most."""

LINEAR_VECTORS = 8
"""Input vectors on which the error of a linearised circuit is measured."""


@dataclass(frozen=True)
class TrialOptions:
    """Settings of trials.

    Attributes:
        effects: names, or ``all``.
        trials: chips.
        seed: of the first chip; the others follow.
        time_s: seconds since programming; None: when the descriptions of the effects start to hold (``t0_s`` of drift,
            the first relaxation).
        loss: share that a good chip loses at most against the mapping without device errors.
        workers: chips at once; None: one a core. The numbers are the same.
        calibrated: whether the chip calibrates its converters as the target says.
        causes: whether errors are told apart by cause (a run per effect on the first chip).
    """

    effects: tuple[str, ...] = ("all",)
    trials: int = 1
    seed: int = 0
    time_s: float | None = None
    loss: float = 0.01
    workers: int | None = None
    calibrated: bool = True
    causes: bool = True


@dataclass(frozen=True)
class TrialRun:
    """One call of ``verify`` with effects.

    Attributes:
        content: of the build.
        target: its chip.
        probes: one per layer.
        model: the float model, and samples for it.
        options: settings.
    """

    content: Compiled | Stored
    target: Target
    probes: Sequence[LayerProbe]
    model: SampledModel
    options: TrialOptions

    def run(self, progress: Callable[[int], None]) -> Trials:
        """Run the models without errors, then every chip.

        Args:
            progress: called with the number of chips that are done.

        Raises:
            UserError: effects that the target does not describe, or that cannot be simulated together.
        """
        options, few = self.options, self._few()
        known = any(layer.remap is not None for layer in self.content.layers)
        effects = chosen(options.effects, self.target, known)
        time_s = start_s(self.target, effects) if options.time_s is None else options.time_s
        chip = Chip(self.target, options.seed, effects, time_s, options.calibrated)
        chip = replace(chip, activity=self._activities(chip))
        reference = self._outputs(open_model(self.content.reference, origin="reference model"), self.samples)
        wanted = self._outputs(self._float, self.samples)
        ideal = self._outputs(open_model(self._ideal, origin="mapped model", threads=1), self.samples)
        seeds = range(options.seed, options.seed + options.trials)
        results: list[ChipResult] = []
        with ThreadPoolExecutor(options.workers or os.cpu_count() or 1) as pool:
            # Causes first: they are as much work as a chip each, and run at the same time as the chips.
            causes = self._causes(chip, few, pool)
            everything = pool.submit(self._compared, self._mapped(chip), self.content.reference, chip, few)
            judge = partial(self._judge, chip, wanted=wanted, reference=reference)
            for result in pool.map(judge, seeds):
                results.append(result)
                progress(len(results))
            plain = replace(everything.result(), promised=frozenset())  # nothing is promised of real devices
            runs = {name: task.result() for name, task in causes.items()} | {"all": plain}
        labels = self.samples.labels
        scored = [result.top1 if labels is not None else result.agreement for result in results]
        shares = [share for share in scored if share is not None]
        base = _share(ideal, labels) if labels is not None else _agreement(ideal, reference)
        return Trials(
            samples=self.samples.count,
            plain=plain,
            effects=tuple(effect.name for effect in in_order(effects)),
            time_s=time_s,
            calibrated=options.calibrated,
            chips=tuple(results),
            accuracy=(
                accuracy_of("top1" if labels is not None else "agreement", shares, base, options.loss)
                if base is not None and len(shares) == len(results)
                else None
            ),
            layers=self._by_layer(chip, few, runs),
            cause_samples=few.count,
            top1_float=_share(wanted, labels),
            top1_quantised=_share(reference, labels),
            top1_ideal=_share(ideal, labels),
        )

    # --- chips -------------------------------------------------------------------------------------------------------

    @cached_property
    def _ideal(self) -> ir.Model:
        return self._mapped(None)

    @property
    def specs(self) -> tuple[InputSpec, ...]:
        """Inputs of the model."""
        return self.model.specs

    @property
    def samples(self) -> Samples:
        """Inputs and labels."""
        return self.model.samples

    @property
    def _float(self) -> Session:
        return self.model.baseline.session

    def _mapped(self, chip: Chip | None) -> ir.Model:
        return mapped_from_cells(self.content.skeleton, self.content.layers, self.target, chip=chip)

    def _unrounded(self, chip: Chip) -> ir.Model:
        """The mapped model of a chip whose converters neither round nor clip, for all that matters."""
        fine, steps = finer_converters(self.target)
        layers = [
            replace(layer, analog=replace(layer.analog, gain=layer.analog.gain * steps))
            for layer in self.content.layers
        ]
        return mapped_from_cells(self.content.skeleton, layers, fine, chip=replace(chip, target=fine))

    def _judge(self, chip: Chip, seed: int, *, wanted: Outputs, reference: Outputs) -> ChipResult:
        """One chip on all samples, on one thread, so that the number of workers changes nothing."""
        one = replace(chip, seed=seed)
        session = open_model(self._mapped(one), origin=f"mapped model of chip {seed}", threads=1)
        outputs = outputs_of(session, self.specs, self.samples, self._batch(one))
        distance = None
        if outputs.signal is not None and wanted.signal is not None:
            distance = sqnr_db(wanted.signal, outputs.signal)
        return ChipResult(seed, _share(outputs, self.samples.labels), _agreement(outputs, reference), distance)

    def _batch(self, chip: Chip) -> int:
        return noise_bank(self.content.layers, self.target, chip)[1]

    def _outputs(self, session: Session, samples: Samples) -> Outputs:
        return outputs_of(session, self.specs, samples, MAX_BATCH)

    # --- layers ------------------------------------------------------------------------------------------------------

    def _few(self) -> Samples:
        count = min(self.samples.count, CAUSE_SAMPLES)
        labels = None if self.samples.labels is None else self.samples.labels[:count]
        return Samples({name: array[:count] for name, array in self.samples.inputs.items()}, labels, count)

    def _compared(self, mapped: ir.Model, reference: ir.Model, chip: Chip, samples: Samples) -> Verification:
        """A mapped model on a chip against another model, layer by layer."""
        session = open_model(mapped, origin="mapped model", threads=1)
        models = Models(self._float, reference, mapped, session, self.specs)
        return verify(models, self.probes, samples, same_as_shipped=True, largest=self._batch(chip))

    def _alone(self, effect: Effect, chip: Chip, samples: Samples) -> Verification:
        """One effect, without the loss by the converters."""
        one = replace(chip, effects=frozenset({effect}))
        return self._compared(self._unrounded(one), self.content.reference, one, samples)

    def _loss_by_converters(self, chip: Chip, samples: Samples) -> Verification:
        """A chip as it is on average against the same chip with converters that lose nothing."""
        mean = replace(chip, averaged=True)
        return self._compared(self._mapped(mean), self._unrounded(mean), mean, samples)

    def _causes(self, chip: Chip, samples: Samples, pool: ThreadPoolExecutor) -> dict[str, Future[Verification]]:
        """Verifications by cause: the converters, then every effect."""
        if not self.options.causes:
            return {}
        each = {effect.name: pool.submit(self._alone, effect, chip, samples) for effect in in_order(chip.effects)}
        return {"adc": pool.submit(self._loss_by_converters, chip, samples)} | each

    def _by_layer(self, chip: Chip, samples: Samples, runs: Mapping[str, Verification]) -> tuple[LayerCauses, ...]:
        quantisation = self._quantisation(samples) if self.options.causes else {}
        layers = []
        for index, probe in enumerate(self.probes):
            causes: dict[str, float | None] = {"quantisation": quantisation.get(probe.name)}
            causes |= {cause: run.layers[index].sqnr_db for cause, run in runs.items()}
            layers.append(LayerCauses(probe.name, causes, self._linearisation(chip, index)))
        return tuple(layers)

    def _quantisation(self, samples: Samples) -> dict[str, float | None]:
        """Output of each layer in the quantised against the float model, where that has the same value."""
        source = self._source()
        present = {value.name for value in ir.convenience.create_value_mapping(source.graph).values()}
        outputs = {
            node.name or "": node.outputs[0].name or ""
            for node in self.content.skeleton.graph
            if node.name in {probe.name for probe in self.probes} and node.outputs[0].name in present
        }
        if not outputs:
            return {}
        names = list(dict.fromkeys(outputs.values()))
        sessions = [
            open_model(model, outputs=names, origin=origin)
            for model, origin in ((source, "float model"), (self.content.reference, "reference model"))
        ]
        feeds, _ = next(batches(self.specs, samples))
        wanted, given = (session.run(feeds, names) for session in sessions)
        return {layer: sqnr_db(wanted[name], given[name]) for layer, name in outputs.items()}

    def _source(self) -> ir.Model:
        content = self.content
        if isinstance(content, Stored):
            return load_model(content.root / "model.onnx").model
        return content.source if isinstance(content.source, ir.Model) else load_model(content.source).model

    # --- circuits that are not linear --------------------------------------------------------------------------------

    def _activities(self, chip: Chip) -> Mapping[int, float]:
        """Mean share of its largest phase code that an input of each layer has, on the first samples."""
        if not chip.linearised:
            return {}
        names = list(dict.fromkeys(probe.codes for probe in self.probes))
        session = open_model(self.content.reference, outputs=names, origin="reference model")
        feeds, _ = next(batches(self.specs, self._few()))
        codes = session.run(feeds, names)
        step = self.target.converters.dac.bits
        shares = {}
        for index, (probe, layer) in enumerate(zip(self.probes, self.content.layers, strict=True)):
            values = codes[probe.codes].astype(np.int64)
            phases = [values >> place & ((1 << step) - 1) for place in range(0, layer.op.site.input.bits, step)]
            shares[index] = float(np.mean(phases)) / ((1 << step) - 1)
        return shares

    def _linearisation(self, chip: Chip, index: int) -> float | None:
        layer = self.content.layers[index]
        if not chip.linearised or not len(layer.table):
            return None
        shape = array_shape(self.target)
        packed, lines = next(layer.cells())[0], layer.lines(shape)
        cells = conductances(unpack_levels(packed, shape.storage_bits, lines[1]), self.target)
        activity = np.full(lines[0], chip.activity.get(index, ACTIVITY))
        levels = 1 << self.target.converters.dac.bits
        rng = np.random.default_rng(chip.seed)
        error = linearisation_accuracy(cells, activity, chip.circuit, rng, vectors=LINEAR_VECTORS, levels=levels)
        return error.of_spread


FINE_BITS = 22
"""Bits of converters that stand for ones without rounding; sums of more are not exact in float32."""

MARGIN_BITS = 3
"""Binary steps by which their range is wider than that of the target's converters, so that they do not clip."""


def finer_converters(target: Target) -> tuple[Target, int]:
    """A target with converters so fine and wide that they lose nothing, and how many of their codes make one code."""
    adc = target.converters.adc
    # The curve of a converter belongs to its range, which then must not change.
    margin = 0 if adc.nonlinearity_codes else MARGIN_BITS
    steps = 1 << max(0, FINE_BITS - margin - adc.bits)
    fine = adc.model_copy(
        update={
            "bits": max(adc.bits, FINE_BITS),
            **{key: getattr(adc, key) * steps for key in ("offset_codes", "nonlinearity_codes", "noise_codes")},
        }
    )
    return target.model_copy(update={"converters": target.converters.model_copy(update={"adc": fine})}), steps


def _share(outputs: Outputs, labels: np.ndarray[tuple[int], np.dtype[np.int64]] | None) -> float | None:
    """Share of samples with the right label."""
    if outputs.classes is None or labels is None:
        return None
    return float((outputs.classes == labels).mean())


def _agreement(outputs: Outputs, reference: Outputs) -> float | None:
    """Share of samples with the class of the reference."""
    if outputs.classes is None or reference.classes is None:
        return None
    return float((outputs.classes == reference.classes).mean())


def check_options(options: TrialOptions) -> None:
    """Raise UserError for numbers out of their range."""
    if options.trials < 1:
        raise UserError(f"trials = {options.trials}: one chip at least")
    if options.seed < 0:
        raise UserError(f"seed = {options.seed}: give 0 or more")
    if options.time_s is not None and not options.time_s > 0:
        raise UserError(f"time = {options.time_s:g} s: give the seconds since programming, above 0")
    if not 0 <= options.loss <= 1:
        raise UserError(f"loss = {options.loss:g}: give a share between 0 and 1")
