"""Input vectors of layers: how many an inference brings, and the codes of a sample of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mcompiler.data import Tensor
from mcompiler.geometry import vector_view
from mcompiler.ir import CodeSample, ConvShape, FloatMatrix, InputStatistics, Quantiser
from mcompiler.passes.quantise.observe import VECTORS, TensorStatistics


def vectors_per_inference(matrix: FloatMatrix, seen: TensorStatistics) -> int:
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


def code_sample(vectors: Tensor, quantiser: Quantiser) -> CodeSample:
    """Input codes of sampled vectors: uint16 [V, G, K]."""
    # As QuantizeLinear of ONNX computes it: float32, half to even.
    codes = np.clip(np.rint(vectors / np.float32(quantiser.scale)) + quantiser.zero_point, 0, quantiser.largest)
    return CodeSample(codes.astype(np.uint16), quantiser.bits)


def sampled_vectors(matrix: FloatMatrix, seen: TensorStatistics, seed: int) -> Tensor:
    """Random input vectors of a layer: floats [V, G, K]."""
    rng = np.random.default_rng(seed)
    groups, rows, _ = matrix.weights.shape
    found: list[Tensor] = []
    share = -(-VECTORS // max(1, len(seen.raw)))
    for tensor in seen.raw:
        if isinstance(matrix.shape, ConvShape):
            found.append(_windows(tensor, matrix, share, rng))
        else:
            view = vector_view(tensor.transpose(matrix.order) if matrix.order else tensor, matrix.shape.batch)
            places = view.shape[: -1 - sum(size > 1 for size in matrix.shape.batch)]
            chosen = np.unravel_index(rng.integers(0, math.prod(places), share), places)
            found.append(view[chosen].reshape(-1, groups, rows))
    return np.concatenate(found)[:VECTORS] if found else np.zeros((0, groups, rows), np.float32)


def _windows(tensor: Tensor, matrix: FloatMatrix, count: int, rng: np.random.Generator) -> Tensor:
    """``count`` random windows of a convolution's input, as vectors [count, G, K]."""
    shape, (groups, rows, _) = matrix.shape, matrix.weights.shape
    assert isinstance(shape, ConvShape)
    rank = len(shape.kernel)
    pads = [(0, 0), (0, 0)] + [(shape.pads[i], shape.pads[i + rank]) for i in range(rank)]
    padded = np.pad(tensor, pads)
    out = np.empty((count, groups, rows), dtype=tensor.dtype)
    for index in range(count):
        place: list[Any] = [rng.integers(0, len(padded)), slice(None)]
        for axis in range(rank):
            span = shape.dilations[axis] * (shape.kernel[axis] - 1) + 1
            steps = (padded.shape[2 + axis] - span) // shape.strides[axis] + 1
            start = int(rng.integers(0, max(1, steps))) * shape.strides[axis]
            place.append(slice(start, start + span, shape.dilations[axis]))
        out[index] = padded[tuple(place)].reshape(groups, rows)
    return out


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
