"""Float matrices become integer codes; input ranges come from calibration data run through onnxruntime."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.bodies import nodes_with_branches
from mcompiler.data import InputSpec, Samples, Tensor, batch_size, batches
from mcompiler.dataflow import digital_operations
from mcompiler.declarations import Option, Seed
from mcompiler.errors import CompileError
from mcompiler.geometry import all_kept
from mcompiler.ir import (
    CodeArray,
    CodeSample,
    ConstantKey,
    ConvShape,
    FloatArray,
    FloatMatrix,
    InputStatistics,
    LoweredProgram,
    MatrixProgram,
    Quantiser,
    Site,
    WeightMatrix,
)
from mcompiler.naming import LayerName, with_node_names
from mcompiler.runtime import RunError, Session, open_model
from mcompiler.target import AdcRange, Skip, Target

SUBSAMPLE = 1 << 18
"""Values of each tensor that percentile and least-squares ranges are taken from."""

VECTORS = 192
"""Input vectors of each layer that a calibrated converter range is fitted on."""

RAW_BYTES = 1 << 26
"""Most bytes of one tensor that such vectors are drawn from."""

_LARGEST = float(np.finfo(np.float32).max)

LARGE_MODEL = 64 << 20
"""Bytes of weights from which calibration runs without prepacked weights, to stay small."""


_NO_NUMPY = frozenset(
    [ir.DataType.BFLOAT16, ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT2, ir.DataType.UINT2]
    + [kind for kind in ir.DataType if kind.name.startswith("FLOAT") and kind.bitwidth <= 8]
)
"""Element types of which onnxruntime hands out no arrays."""


class RangeMethod(StrEnum):
    """How an input range is read off the calibration data."""

    MINMAX = "minmax"
    PERCENTILE = "percentile"
    MSE = "mse"


@dataclass(frozen=True)
class Quantise:
    """Quantise weights (symmetric, one scale per output channel) and inputs (affine, from calibration data).

    A model's own codes, scales and zero points are taken exactly.

    Attributes:
        samples: calibration data, or data to learn the shapes from where ``calibrated`` is False.
        specs: inputs of the model.
        calibrated: whether input ranges may be taken from the samples.
        drawn: the samples are random: what they make NaN or infinite is left out of the ranges, not refused.
        method: how ranges are read off.
        seed: of the sub-sampling.
    """

    name: ClassVar[str] = "quantise"
    reads: ClassVar[tuple[str, ...]] = (
        "converters.adc.range",
        "converters.dac.bits",
        "device.level_means",
        "device.levels",
        "digital.skip",
        "encoding.partner",
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
        missing = [matrix.name for matrix in matrices if matrix.input_scale is None]
        if missing and not self.calibrated:
            raise CompileError(
                f"its input is float and has no scale{_others(missing)}; give calibration data (--calibration "
                f"DATA.npz, "
                "one array per model input) or --calibration random for costs only",
                missing[0],
            )
        real = self.calibrated and not self.drawn
        skips = target.digital.skip is not Skip.NONE
        if skips and not real:
            raise CompileError(
                f"digital.skip = '{target.digital.skip.value}' leaves out reads of zeros, and without data nobody "
                "knows how many there are; give calibration data (--calibration DATA.npz)"
            )
        want_vectors = (target.converters.adc.range is AdcRange.CALIBRATED and self.calibrated) or skips
        seen, elements = self._observe(program, want_vectors or real)
        quantisers: dict[tuple[str, int], Quantiser] = {}
        sites: list[Site] = []
        samples: list[CodeSample | None] = []
        statistics: list[InputStatistics | None] = []
        held, uses = _held_once(matrices, target)
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy leaves the interpreter to others meanwhile
            coded = tuple(pool.map(partial(_weight_matrix, target=target), held))
        for use, matrix in zip(uses, matrices, strict=True):
            quantiser = self._input(matrix, seen[matrix.tensor], quantisers, target)
            sites.append(_site(use, matrix, quantiser, _vectors(matrix, seen[matrix.tensor])))
            sample = None
            if want_vectors or real:
                sample = _code_sample(matrix, quantiser, seen[matrix.tensor], self.seed)
            samples.append(sample if want_vectors else None)
            known = real and sample is not None and len(sample.vectors)
            statistics.append(input_statistics(sample, target.converters.dac.bits) if sample and known else None)
        return MatrixProgram(
            lowered=program,
            matrices=coded,
            sites=tuple(sites),
            digital_ops=digital_operations(program.skeleton, elements),
            samples=tuple(samples) if want_vectors else (),
            statistics=tuple(statistics),
        )

    def _observe(self, program: LoweredProgram, keep: bool) -> tuple[dict[str, _Seen], dict[str, int]]:
        """Run the float model on the samples: statistics of every matrix's input, elements of every value."""
        model = program.graph.model
        tensors = list(dict.fromkeys(matrix.tensor for matrix in program.matrices))
        names = [
            value.name for node in nodes_with_branches(model.graph) for value in node.outputs
            if value.name and value.type is not None and value.dtype not in _NO_NUMPY
        ]  # fmt: skip
        large = sum(matrix.weights.nbytes for matrix in program.matrices) >= LARGE_MODEL
        session = open_model(model, outputs=[*names, *tensors], optimise=False, prepack=False, origin=self.origin)
        elements = self._elements(session, names)
        if not large and not any(node.op_type == "DequantizeLinear" for node in model.graph):
            # Faster where weights may be copied; with QDQ, onnxruntime's fusions change what the float model computes.
            session = open_model(model, outputs=tensors, origin=self.origin)
        rng = np.random.default_rng(self.seed)
        seen = {tensor: _Seen(rng, self.method is not RangeMethod.MINMAX, keep) for tensor in tensors}
        shared = batch_size(self.specs)
        for feeds, count in batches(self.specs, self.samples) if tensors else ():
            values = self._run(session, feeds, tensors)
            for tensor in tensors:
                seen[tensor].add(values[tensor], shared or count, None if shared is None else count)
            if not self.calibrated:
                break
        return seen, elements

    def _elements(self, session: Session, names: Sequence[str]) -> dict[str, int]:
        """Elements per inference of every value of the graph, from one run on one sample."""
        one = Samples({name: array[:1] for name, array in self.samples.inputs.items()}, None, 1)
        feeds, _ = next(batches(self.specs, one))
        per_run = batch_size(self.specs) or 1
        values = self._run(session, feeds, names)
        return {name: -(-_size(value) // per_run) for name, value in values.items()}

    def _run(self, session: Session, feeds: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Any]:
        try:
            return session.run(feeds, names)
        except RunError as error:
            raise CompileError(
                f"onnxruntime fails while running the model on the calibration data: {error}; check --dim and the data"
            ) from error

    def _input(
        self, matrix: FloatMatrix, seen: _Seen, quantisers: dict[tuple[str, int], Quantiser], target: Target
    ) -> Quantiser:
        """Quantiser of the input of a site: the model's own, or one that all consumers of the tensor share."""
        if matrix.input_scale is not None and matrix.input_zero_point is not None and matrix.input_bits is not None:
            return Quantiser(matrix.tensor, matrix.input_scale, matrix.input_zero_point, matrix.input_bits)
        input_bits = target.layer_bits(matrix.name)[1]
        key = (matrix.tensor, input_bits)
        if key not in quantisers:
            quantisers[key] = _input_quantiser(matrix, seen, input_bits, self.method, self.drawn)
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


def _weight_matrix(matrix: FloatMatrix, target: Target) -> WeightMatrix:
    codes, scale, bits = _weight_codes(matrix, target)
    groups, rows, cols = codes.shape
    return WeightMatrix(matrix.name, codes, scale, bits, all_kept(groups, rows), all_kept(groups, cols))


def _weight_codes(matrix: FloatMatrix, target: Target) -> tuple[CodeArray, FloatArray, int]:
    """Codes, scales and bits of weights: the model's own, or found here."""
    if matrix.weight_codes is not None and matrix.weight_scale is not None:
        codes, scale = matrix.weight_codes, matrix.weight_scale
        return codes, scale, max(2, int(np.abs(codes.astype(np.int32)).max(initial=1)).bit_length() + 1)
    bits, steps = target.layer_bits(matrix.name)[0], target.cell_steps if target.has_level_table else ()
    codes, scale = quantise_weights(matrix.weights, bits, steps)
    return codes, scale, steps[-1].bit_length() + 1 if steps else bits


def input_statistics(sample: CodeSample, dac_bits: int) -> InputStatistics:
    """Digits of input codes as a DAC of ``dac_bits`` bits applies them: means over the vectors of a sample."""
    mean, square, nonzero, idle = [], [], [], []
    for phase in range(-(-sample.bits // dac_bits)):
        digit = (sample.vectors >> (phase * dac_bits)) & ((1 << dac_bits) - 1)
        share, driven = digit / ((1 << dac_bits) - 1), digit != 0
        mean.append(share.mean(axis=0))
        square.append(np.square(share).mean(axis=0))
        nonzero.append(driven.mean(axis=0))
        idle.append((~driven.any(axis=2)).mean(axis=0))
    return InputStatistics(*(np.stack(part).astype(np.float32) for part in (mean, square, nonzero, idle)))


def _size(value: Any) -> int:
    """Elements of a value of the graph: a tensor, a sequence of them, or one that is absent."""
    if isinstance(value, list):
        return sum(_size(part) for part in value)
    return int(np.size(value)) if value is not None else 0


def _others(names: Iterable[str]) -> str:
    more = len(list(names)) - 1
    return f" (and so for {more} more)" if more else ""


def quantise_weights(
    weights: npt.NDArray[np.floating[Any]], bits: int, steps: Sequence[int] = ()
) -> tuple[CodeArray, FloatArray]:
    """Symmetric codes, one scale per output channel.

    Args:
        weights: [G, K, N].
        bits: sign included; codes reach +-(2^(bits-1) - 1).
        steps: the only magnitudes that codes may have, ascending from 0, in place of all that ``bits`` allow; the
            nearest is taken, the smaller of two.

    Returns:
        codes int16 [G, K, N] and scale float32 [G, N] (1 for an all-zero channel).
    """
    top = steps[-1] if steps else (1 << (bits - 1)) - 1
    groups, _, cols = weights.shape
    codes = np.empty(weights.shape, dtype=np.int16)
    scales = np.ones((groups, cols), dtype=np.float32)
    middles = (np.array(steps[1:]) + np.array(steps[:-1])) / 2
    for group, matrix in enumerate(weights):
        peak = np.maximum(matrix.max(axis=0, initial=0), -matrix.min(axis=0, initial=0)).astype(np.float64)
        scale = (peak / top).astype(np.float32)
        scales[group] = np.where(scale > 0, scale, np.float32(1))
        by_column = matrix.flags.f_contiguous and not matrix.flags.c_contiguous
        step = max(1, (1 << 20) // max(1, matrix.shape[0] if by_column else cols))
        for start in range(0, cols if by_column else len(matrix), step):  # in pieces that stay in cache
            piece = np.s_[:, start : start + step] if by_column else np.s_[start : start + step]
            part = matrix[piece] / (scales[group, start : start + step] if by_column else scales[group])
            if steps:
                nearest = np.searchsorted(middles, np.abs(part))
                codes[group][piece] = np.copysign(np.take(steps, nearest), part)
                continue
            np.rint(part, out=part)
            codes[group][piece] = np.clip(part, -top, top, out=part)
    return codes, scales


@dataclass
class _Seen:
    """Running statistics of one tensor over the calibration samples (mutable, local to one run of the pass)."""

    rng: np.random.Generator
    keep_values: bool
    keep_raw: bool
    low: float = 0.0
    high: float = 0.0
    finite: bool = True
    shape: tuple[int, ...] = ()
    per_run: int = 1
    values: list[npt.NDArray[np.float32]] = field(default_factory=list)
    raw: list[Tensor] = field(default_factory=list)
    held: int = 0

    def add(self, tensor: Tensor, per_run: int, count: int | None) -> None:
        """Add one run's tensor of ``per_run`` samples, the first ``count`` of them real (None: no sample axis)."""
        if not tensor.size and tensor.ndim < 2:  # it lies in a branch that was not taken
            return
        self.shape, self.per_run = tensor.shape, per_run
        if count is not None and tensor.ndim and tensor.shape[0] == per_run:
            tensor = tensor[:count]
        if tensor.size == 0:
            return
        if not (np.isfinite(tensor.min()) and np.isfinite(tensor.max())):
            self.finite = False
            tensor = np.where(np.isfinite(tensor), tensor, tensor.dtype.type(0))
        self.low, self.high = min(self.low, float(tensor.min())), max(self.high, float(tensor.max()))
        if self.keep_values:
            flat = tensor.reshape(-1)
            if flat.size > SUBSAMPLE // 16:
                flat = flat[self.rng.integers(0, flat.size, SUBSAMPLE // 16)]
            self.values.append(flat.astype(np.float32))
            if sum(part.size for part in self.values) > SUBSAMPLE:
                joined = np.concatenate(self.values)
                self.values = [joined[self.rng.integers(0, joined.size, SUBSAMPLE // 2)]]
        if self.keep_raw and self.held < VECTORS and sum(part.nbytes for part in self.raw) < RAW_BYTES:
            piece = tensor[: max(1, min(8, RAW_BYTES * len(tensor) // tensor.nbytes))].copy()
            self.raw.append(piece)
            self.held += len(piece) if tensor.ndim > 2 else piece.size // max(1, tensor.shape[-1])


def _input_quantiser(matrix: FloatMatrix, seen: _Seen, bits: int, method: RangeMethod, drawn: bool) -> Quantiser:
    low, high = seen.low, seen.high
    if not (seen.finite or drawn):
        raise CompileError(
            f"its input '{matrix.tensor}' is not finite on the calibration data (NaN or infinite values among those "
            f"from {low:g} to {high:g}); check the data's preprocessing",
            matrix.name,
        )
    if max(-low, high) > _LARGEST:
        raise CompileError(
            f"its input '{matrix.tensor}' reaches from {low:g} to {high:g} on the calibration data, beyond the range "
            "of float32, in which scales are kept; scale the model's inputs or weights down",
            matrix.name,
        )
    if method is not RangeMethod.MINMAX and seen.values:
        values = np.concatenate(seen.values)
        if method is RangeMethod.PERCENTILE:
            low, high = (float(q) for q in np.quantile(values, [0.0001, 0.9999]))
        else:
            low, high = _least_squares(values, low, high, bits)
    return affine(matrix.tensor, low, high, bits)


def affine(tensor: str, low: float, high: float, bits: int) -> Quantiser:
    """Quantiser whose range holds 0 and [low, high]; scale a float32."""
    low, high = min(low, 0.0), max(high, 0.0)
    top = (1 << bits) - 1
    scale = float(np.float32((high - low) / top))
    if scale * _LARGEST < 1:  # its reciprocal is infinite
        return Quantiser(tensor, 1.0, 0, bits)
    return Quantiser(tensor, scale, int(np.clip(np.rint(-low / scale), 0, top)), bits)


def _least_squares(values: npt.NDArray[np.float32], low: float, high: float, bits: int) -> tuple[float, float]:
    """The shrunken range with the least squared error on the values."""
    best = (np.inf, low, high)
    for shrink in np.linspace(1.0, 0.3, 36):
        trial = affine("", low * shrink, high * shrink, bits)
        codes = np.clip(np.rint(values / trial.scale) + trial.zero_point, 0, trial.largest)
        error = float(np.square((codes - trial.zero_point) * trial.scale - values, dtype=np.float64).mean())
        if error < best[0]:
            best = (error, low * shrink, high * shrink)
    return best[1], best[2]


def _vectors(matrix: FloatMatrix, seen: _Seen) -> int:
    """Matrix-vector products per inference and group, from the shape that the input tensor really had."""
    shape = seen.shape
    if isinstance(matrix.shape, ConvShape):
        conv, rank = matrix.shape, len(matrix.shape.kernel)
        total = int(np.prod(shape[:-rank][:-1], dtype=np.int64))
        for axis, size in enumerate(shape[-rank:]):
            span = conv.dilations[axis] * (conv.kernel[axis] - 1) + 1
            padded = size + conv.pads[axis] + conv.pads[axis + rank]
            total *= max(0, (padded - span) // conv.strides[axis] + 1)
    else:
        rows = matrix.weights.shape[1]
        total = int(np.prod(shape, dtype=np.int64)) // rows
        batch = matrix.shape.batch
        if batch and len(shape) > 2:
            inner = shape[-2] * shape[-1] // rows
            total = int(np.prod(np.broadcast_shapes(shape[:-2], batch), dtype=np.int64)) * inner
            total //= int(np.prod(batch, dtype=np.int64))
    return -(-total // seen.per_run)


def _code_sample(matrix: FloatMatrix, quantiser: Quantiser, seen: _Seen, seed: int) -> CodeSample:
    """Input codes of random vectors: uint16 [V, G, K]."""
    rng = np.random.default_rng(seed)
    groups, rows, _ = matrix.weights.shape
    found: list[npt.NDArray[np.uint16]] = []
    share = -(-VECTORS // max(1, len(seen.raw)))
    for tensor in seen.raw:
        codes = np.clip(np.rint(tensor / np.float32(quantiser.scale)) + quantiser.zero_point, 0, quantiser.largest)
        codes = codes.astype(np.uint16)
        if isinstance(matrix.shape, ConvShape):
            found.append(_windows(codes, matrix, quantiser.zero_point, share, rng))
        else:
            vectors = (
                codes.reshape(-1, rows) if codes.shape[-1] == rows else np.swapaxes(codes, -1, -2).reshape(-1, rows)
            )
            chosen = vectors[rng.integers(0, len(vectors), share)]
            found.append(np.repeat(chosen[:, None, :], groups, axis=1))
    vectors = np.concatenate(found)[:VECTORS] if found else np.zeros((0, groups, rows), np.uint16)
    return CodeSample(vectors, quantiser.bits)


def _windows(
    codes: npt.NDArray[np.uint16], matrix: FloatMatrix, zero: int, count: int, rng: np.random.Generator
) -> npt.NDArray[np.uint16]:
    """``count`` random windows of a convolution's input, as vectors [count, G, K]."""
    shape, (groups, rows, _) = matrix.shape, matrix.weights.shape
    assert isinstance(shape, ConvShape)
    rank = len(shape.kernel)
    pads = [(0, 0), (0, 0)] + [(shape.pads[i], shape.pads[i + rank]) for i in range(rank)]
    padded = np.pad(codes, pads, constant_values=zero)
    out = np.empty((count, groups, rows), dtype=np.uint16)
    for index in range(count):
        place: list[Any] = [rng.integers(0, len(padded)), slice(None)]
        for axis in range(rank):
            span = shape.dilations[axis] * (shape.kernel[axis] - 1) + 1
            steps = (padded.shape[2 + axis] - span) // shape.strides[axis] + 1
            start = int(rng.integers(0, max(1, steps))) * shape.strides[axis]
            place.append(slice(start, start + span, shape.dilations[axis]))
        out[index] = padded[tuple(place)].reshape(groups, rows)
    return out
