"""Running a build next to the model that it came from: samples, sessions, probes of the layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.artefacts import placement_data, placement_faults, stored_stages
from mcompiler.data import InputSpec, Samples, batches, from_arrays, random_samples
from mcompiler.driver.content import Compiled, Stored
from mcompiler.errors import DataError
from mcompiler.onnx_export import code_names, same_models
from mcompiler.pipeline.baseline import Baseline, baselines, first_that_runs
from mcompiler.runtime import Session, input_specs, open_model
from mcompiler.simulate import LayerProbe, Models, Verification, verify
from mcompiler.target import Target

VERIFY_SAMPLES = 16
"""Samples drawn by ``verify`` without data."""

Inputs = npt.NDArray[Any] | Mapping[str, npt.NDArray[Any]] | Samples | None


@dataclass(frozen=True)
class SampleRequest:
    """Which samples to run.

    Attributes:
        x: inputs [n, ...], arrays by input name, samples, or None for random ones.
        y: labels [n] or None.
        limit: the first so many samples, or the number drawn without ``x``; None: all, or ``VERIFY_SAMPLES``.
        seed: of random samples.
    """

    x: Inputs = None
    y: npt.NDArray[Any] | None = None
    limit: int | None = None
    seed: int = 0

    def samples(self, specs: tuple[InputSpec, ...], dims: Mapping[str, int]) -> Samples:
        """The samples for a model with these inputs.

        Raises:
            DataError: labels without inputs, or arrays that do not fit the model.
        """
        if isinstance(self.x, Samples):
            return self.x
        if self.x is None:
            if self.y is not None:
                raise DataError("labels without inputs; give both")
            return random_samples(specs, self.limit or VERIFY_SAMPLES, np.random.default_rng(self.seed), dims)
        arrays = dict(self.x) if isinstance(self.x, Mapping) else {"x": self.x}
        if self.y is not None:
            arrays["__labels__" if any(spec.name == "y" for spec in specs) else "y"] = self.y
        return from_arrays(arrays, specs, "samples", self.limit)


@dataclass(frozen=True)
class SampledModel:
    """The float model of a build, and samples for it."""

    baseline: Baseline
    specs: tuple[InputSpec, ...]
    samples: Samples


def sampled_model(
    content: Compiled | Stored, target: Target, request: SampleRequest, dims: Mapping[str, int]
) -> SampledModel:
    """The first form of the float model that runs on the samples, with the samples.

    Raises:
        UserError: onnxruntime opens no form of the model; samples that do not fit it.
    """
    candidates = baselines(content.model, target, dims)
    first = next(candidates)
    specs = input_specs(first.session, content.skeleton)
    samples = request.samples(specs, dims)
    feeds, _ = next(batches(specs, samples, 1))
    return SampledModel(first_that_runs(chain([first], candidates), feeds), specs, samples)


def model_inputs(content: Compiled | Stored, target: Target, dims: Mapping[str, int]) -> tuple[InputSpec, ...]:
    """Inputs of the model of a build."""
    return input_specs(next(baselines(content.model, target, dims)).session, content.skeleton)


def verified(
    content: Compiled | Stored,
    target: Target,
    mapped: ir.Model,
    model: SampledModel,
    *,
    ideal: bool,
    progress: Callable[[int], None],
) -> Verification:
    """Compare float, quantised and mapped model on the same samples; arguments as for ``Build.verify``."""
    same, session = shipped_session(content, mapped, ideal)
    models = Models(model.baseline.session, content.reference, mapped, session, model.specs)
    found = verify(
        models,
        layer_probes(content, ideal),
        model.samples,
        same_as_shipped=same,
        misplaced=misplaced(content, target),
        progress=progress,
    )
    return replace(found, baseline=model.baseline.kind.value)


def shipped_session(content: Compiled | Stored, mapped: ir.Model, ideal: bool) -> tuple[bool, Session]:
    """Whether the shipped mapped model is the one that the cells give, and a session of the model that runs."""
    shipped = mapped if ideal else content.shipped()
    same = shipped is None or shipped is mapped or same_models(shipped, mapped)
    return same, open_model(shipped if shipped is not None else mapped, origin="mapped model")


def misplaced(content: Compiled | Stored, target: Target) -> tuple[str, ...]:
    """Differences between placement.json and the layers."""
    graph = stored_stages(content.schedule, content.skeleton, content.layers, target)
    wanted = placement_data(graph, content.skeleton, content.layers, target)
    return placement_faults(content.placement, wanted, content.layers, target)


def layer_probes(content: Compiled | Stored, ideal: bool) -> list[LayerProbe]:
    """Where the codes and accumulators of each layer are found in the models."""
    content.check_layers()
    layers = content.layers
    names = code_names(content.skeleton, [layer.op.site for layer in layers])
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
