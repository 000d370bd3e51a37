"""Float matrices become integer codes; input ranges come from the float model on calibration data."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, ClassVar

from mcompiler.data import InputSpec, Samples, batch_size
from mcompiler.dataflow import digital_operations
from mcompiler.declarations import LEVEL_KEYS, Option, Reads, Seed
from mcompiler.errors import CompileError
from mcompiler.ir import (
    CodeSample,
    ConstantKey,
    FloatMatrix,
    InputStatistics,
    LoweredProgram,
    MatrixProgram,
    Quantiser,
    Site,
)
from mcompiler.naming import LayerName, with_node_names
from mcompiler.passes.quantise.observe import VECTORS, FloatModel, TensorStatistics
from mcompiler.passes.quantise.ranges import RangeMethod, affine, input_quantiser
from mcompiler.passes.quantise.sampling import code_sample, input_statistics, vectors_per_inference
from mcompiler.passes.quantise.weights import quantise_weights, weight_matrix
from mcompiler.target import AdcRange, Skip, Target

__all__ = ["VECTORS", "Quantise", "RangeMethod", "affine", "input_statistics", "quantise_weights"]


@dataclass(frozen=True)
class Quantise:
    """Quantise weights (symmetric, one scale per output channel) and inputs (affine, from calibration data).

    A model's own codes, scales and zero points are taken exactly.

    Attributes:
        samples: calibration data, or data to learn the shapes from where ``calibrated`` is False.
        specs: inputs of the model.
        calibrated: whether input ranges may be taken from the samples.
        drawn: the samples are random: values that become NaN or infinite are left out of the ranges, not refused.
        method: how ranges are taken from the values.
        seed: of the sub-sampling.
    """

    name: ClassVar[str] = "quantise"
    reads: ClassVar[Reads] = (
        *LEVEL_KEYS,
        "converters.adc.range",
        "converters.dac.bits",
        "digital.skip",
        "precision",
    )
    samples: Samples
    specs: tuple[InputSpec, ...]
    calibrated: bool
    method: Annotated[
        RangeMethod,
        Option(
            key="range",
            choices=RangeMethod,
            recorded=True,
            help="Method that takes input ranges from the calibration data.",
        ),
    ] = RangeMethod.MINMAX
    seed: Seed = 0
    origin: str = field(default="model", compare=False)
    drawn: bool = False

    def run(self, program: LoweredProgram, target: Target) -> MatrixProgram:
        """Return the integer matrices.

        Raises:
            CompileError: a float edge without calibration data; ranges that are not finite.
        """
        matrices = program.matrices
        target = with_node_names(target, [LayerName(matrix.name, matrix.label) for matrix in matrices])
        self._check_data(matrices, target)
        real = self.calibrated and not self.drawn
        skips = target.digital.skip is not Skip.NONE
        want_vectors = (target.converters.adc.range is AdcRange.CALIBRATED and self.calibrated) or skips
        model = FloatModel(self.samples, self.specs, self.calibrated, origin=self.origin, seed=self.seed)
        sampled = self.method is not RangeMethod.MINMAX
        seen, shapes = model.observe(program, keep_values=sampled, keep_raw=want_vectors or real)
        quantisers: dict[tuple[str, int], Quantiser] = {}
        sites: list[Site] = []
        samples: list[CodeSample | None] = []
        statistics: list[InputStatistics | None] = []
        held, uses = _held_once(matrices, target)
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy leaves the interpreter to others meanwhile
            coded = tuple(pool.map(partial(weight_matrix, target=target), held))
        # Calibrated converter ranges and skipped zeros need input vectors (``samples``). Energies that depend on data
        # need their means (``statistics``), which random data would falsify.
        for use, matrix in zip(uses, matrices, strict=True):
            quantiser = self._input(matrix, seen[matrix.tensor], quantisers, target)
            sites.append(_site(use, matrix, quantiser, vectors_per_inference(matrix, seen[matrix.tensor])))
            sample = None
            if want_vectors or real:
                sample = code_sample(matrix, quantiser, seen[matrix.tensor], self.seed)
            samples.append(sample if want_vectors else None)
            known = real and sample is not None and len(sample.vectors)
            statistics.append(input_statistics(sample, target.converters.dac.bits) if sample and known else None)
        return MatrixProgram(
            lowered=program,
            matrices=coded,
            sites=tuple(sites),
            digital_ops=digital_operations(program.skeleton, shapes, batch_size(self.specs) or 1),
            samples=tuple(samples) if want_vectors else (),
            statistics=tuple(statistics),
        )

    def _check_data(self, matrices: Sequence[FloatMatrix], target: Target) -> None:
        """Refuse a model or a target that needs data which the user did not give."""
        missing = [matrix.name for matrix in matrices if matrix.input_scale is None]
        if missing and not self.calibrated:
            raise CompileError(
                f"its input is float and has no scale{_others(missing)}; give calibration data (--calibration "
                "DATA.npz, one array per model input) or --calibration random for costs only",
                missing[0],
            )
        if target.digital.skip is not Skip.NONE and (self.drawn or not self.calibrated):
            raise CompileError(
                f"digital.skip = '{target.digital.skip.value}' leaves out reads of zeros, and without data nobody "
                "knows how many there are; give calibration data (--calibration DATA.npz)"
            )

    def _input(
        self, matrix: FloatMatrix, seen: TensorStatistics, quantisers: dict[tuple[str, int], Quantiser], target: Target
    ) -> Quantiser:
        """Quantiser of the input of a site: the model's own, or one that all consumers of the tensor share."""
        if matrix.input_scale is not None and matrix.input_zero_point is not None and matrix.input_bits is not None:
            return Quantiser(matrix.tensor, matrix.input_scale, matrix.input_zero_point, matrix.input_bits)
        input_bits = target.layer_bits(matrix.name)[1]
        key = (matrix.tensor, input_bits)
        if key not in quantisers:
            quantisers[key] = input_quantiser(matrix, seen, input_bits, method=self.method, drawn=self.drawn)
        return quantisers[key]


def _held_once(matrices: Sequence[FloatMatrix], target: Target) -> tuple[list[FloatMatrix], list[int]]:
    """The distinct weight matrices, and which of them each layer uses.

    Layers share a matrix where their weights come from the same constants and get the same number of bits.
    """
    held: list[FloatMatrix] = []
    uses: list[int] = []
    known: dict[tuple[ConstantKey, int], int] = {}
    for matrix in matrices:
        key = (matrix.source, target.layer_bits(matrix.name)[0])
        if matrix.source.digest and key in known:
            uses.append(known[key])
            continue
        known[key] = len(held)
        uses.append(len(held))
        held.append(matrix)
    return held, uses


def _site(number: int, matrix: FloatMatrix, quantiser: Quantiser, vectors: int) -> Site:
    return Site(
        matrix=number,
        name=matrix.name,
        label=matrix.label,
        origin=matrix.origin,
        shape=matrix.shape,
        input=quantiser,
        bias=matrix.bias,
        vectors=vectors,
        element=matrix.element,
    )


def _others(names: Iterable[str]) -> str:
    more = len(list(names)) - 1
    return f" (and so for {more} more)" if more else ""
