"""Float matrices become integer codes; input ranges come from the float model on calibration data."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, ClassVar

from mcompiler.data import InputSpec, Samples, Tensor, batch_size
from mcompiler.dataflow import digital_operations
from mcompiler.dataflow.node_operations import digital_products
from mcompiler.declarations import LEVEL_KEYS, Option, Reads, Seed
from mcompiler.errors import CompileError
from mcompiler.ir import (
    AnalogLayer,
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
from mcompiler.passes.quantise.correction import CLEAR_GAIN, layer_errors
from mcompiler.passes.quantise.equalise import Equalisation, EqualisationOption
from mcompiler.passes.quantise.grids import grid_of
from mcompiler.passes.quantise.observe import VECTORS, FloatModel, TensorStatistics
from mcompiler.passes.quantise.ranges import RangeMethod, affine, input_quantiser
from mcompiler.passes.quantise.sampling import (
    code_sample,
    input_statistics,
    sampled_vectors,
    vectors_per_inference,
)
from mcompiler.passes.quantise.weights import quantise_weights, weight_matrix
from mcompiler.records import QuantisationRecord
from mcompiler.target import AdcRange, Skip, Target

__all__ = ["VECTORS", "Quantise", "RangeMethod", "affine", "input_statistics", "quantise_weights"]


@dataclass(frozen=True)
class Quantise:
    """Quantise weights (symmetric, one scale per output channel) and inputs (affine, from calibration data).

    A model's own codes, scales and zero points are taken exactly, and so are weights and inputs that lie on a grid.

    Attributes:
        samples: calibration data, or data to learn the shapes from where ``calibrated`` is False.
        specs: inputs of the model.
        calibrated: whether input ranges may be taken from the samples.
        drawn: the samples are random: values that become NaN or infinite are left out of the ranges, not refused.
        method: how ranges are taken from the values.
        requantise: output channels and inputs of which the model's own codes have more bits than the target gives them
            are quantised again.
        equalise: whether the mean errors of output channels on real calibration data go into the bias.
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
    requantise: Annotated[
        bool,
        Option(
            help="Quantise again what the target cannot hold of a quantised model: output channels with wide weight "
            "codes, inputs with wide codes. No calibration data are needed for them.",
        ),
    ] = False
    equalise: EqualisationOption = Equalisation.AUTO
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
        sampled = self.method is not RangeMethod.MINMAX or real
        seen, shapes = model.observe(program, keep_values=sampled, keep_raw=want_vectors or real)
        quantisers: dict[tuple[str, int], Quantiser] = {}
        sites: list[Site] = []
        samples: list[CodeSample | None] = []
        statistics: list[InputStatistics | None] = []
        quality: list[float | None] = []
        held, uses = _held_once(matrices, target)
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy leaves the interpreter to others meanwhile
            coded = tuple(pool.map(partial(weight_matrix, target=target, requantise=self.requantise), held))
        # Calibrated converter ranges and skipped zeros need input vectors (``samples``). Energies that depend on data
        # need their means (``statistics``), which random data would falsify.
        for use, matrix in zip(uses, matrices, strict=True):
            quantiser = self._input(matrix, seen[matrix.tensor], quantisers, target)
            sites.append(_site(use, matrix, quantiser, vectors_per_inference(matrix, seen[matrix.tensor])))
            sample = None
            if want_vectors or real:
                vectors = sampled_vectors(matrix, seen[matrix.tensor], self.seed)
                sample = code_sample(vectors, quantiser)
                if real:
                    sites[-1], sqnr_db = self._corrected(matrix, AnalogLayer(sites[-1], coded[use]), vectors)
                    quality.append(sqnr_db)
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
            sqnr_db=tuple(quality) if real else (),
        )

    def record(self, program: MatrixProgram) -> QuantisationRecord:
        """Share of the products on crossbars, and how well each layer is quantised."""
        return QuantisationRecord.of(program, digital_products(program.lowered.skeleton, program.digital_ops))

    def _corrected(self, matrix: FloatMatrix, layer: AnalogLayer, vectors: Tensor) -> tuple[Site, float | None]:
        """A layer with the mean error in its bias, where that is wanted; its signal to error on the vectors."""
        errors, site = layer_errors(matrix.weights, layer, vectors), layer.site
        if errors is None:
            return site, None
        stated = matrix.weight_codes is not None or (matrix.input_scale is not None and matrix.input_stated)
        if self.equalise is Equalisation.OFF or stated or grid_of(matrix.weights, layer.matrix.weight_bits) is not None:
            return site, errors.sqnr_db
        correction = errors.bias_correction(CLEAR_GAIN if self.equalise is Equalisation.AUTO else 1.0)
        if correction is None:
            return site, errors.sqnr_db
        bias = correction if site.bias is None else site.bias + correction
        return replace(site, bias=bias), errors.corrected(correction).sqnr_db

    def _check_data(self, matrices: Sequence[FloatMatrix], target: Target) -> None:
        """Refuse a model or a target that needs data which the user did not give."""
        missing = [matrix.name for matrix in matrices if self._own_input(matrix, target) is None]
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

    def _own_input(self, matrix: FloatMatrix, target: Target) -> Quantiser | None:
        """The model's own quantiser of the input of a site; None where it has none that is used."""
        scale, zero_point, bits = matrix.input_scale, matrix.input_zero_point, matrix.input_bits
        if scale is None or zero_point is None or bits is None:
            return None
        wanted = target.layer_bits(matrix.name)[1]
        if not matrix.input_stated and bits > wanted:
            return None
        own = Quantiser(matrix.tensor, scale, zero_point, bits)
        return affine(matrix.tensor, *own.limits, wanted) if self.requantise and bits > wanted else own

    def _input(
        self, matrix: FloatMatrix, seen: TensorStatistics, quantisers: dict[tuple[str, int], Quantiser], target: Target
    ) -> Quantiser:
        """Quantiser of the input of a site: the model's own, or one that all consumers of the tensor share."""
        own = self._own_input(matrix, target)
        if own is not None:
            return own
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
