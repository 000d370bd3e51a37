"""What the inputs of every layer come to, vector by vector, on given samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.cost import ExactInputs
from mcompiler.data import InputSpec, Samples, batch_size, batches
from mcompiler.driver.content import Compiled, Stored
from mcompiler.errors import DataError
from mcompiler.ir import ConvShape, MatrixOp
from mcompiler.onnx_export import code_names
from mcompiler.runtime import RunError, open_model
from mcompiler.target import Target

TOGETHER = 8
"""Samples of a run."""


def exact_inputs(
    content: Compiled | Stored, specs: tuple[InputSpec, ...], samples: Samples, target: Target
) -> Mapping[str, ExactInputs]:
    """Run the quantised model and add up what every layer of it reads, by name.

    Raises:
        DataError: onnxruntime fails on the data.
    """
    layers = {layer.op.name: layer for layer in content.layers}
    names = code_names(content.skeleton, {name: layer.op for name, layer in layers.items()})
    found = {name: ExactInputs(layer, target) for name, layer in layers.items()}
    wanted = list(dict.fromkeys(names.values()))
    session = open_model(content.reference, outputs=wanted, origin="reference model")
    shared = batch_size(specs) is not None
    for feeds, count in batches(specs, samples, TOGETHER):
        try:
            values = session.run(feeds, wanted)
        except RunError as error:
            raise DataError(f"onnxruntime fails on the data: {error}; check --dim and the data's values") from error
        for name, layer in layers.items():
            codes = values[names[name]]
            found[name].add(read_vectors(layer.op, codes[:count] if shared else codes))
    return found


def read_vectors(op: MatrixOp, codes: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
    """Every vector that a layer reads of a tensor of input codes: [V, G, K]."""
    groups, rows, _ = op.codes.shape
    codes = np.asarray(codes, dtype=np.uint16)
    if not isinstance(op.shape, ConvShape):
        if not op.shape.batch:
            return codes.reshape(-1, 1, rows)
        outer = np.broadcast_shapes(codes.shape[:-2], op.shape.batch)
        whole = np.broadcast_to(codes, (*outer, *codes.shape[-2:])).reshape(-1, groups, *codes.shape[-2:])
        return np.swapaxes(whole, 1, 2).reshape(-1, groups, rows)
    conv, rank = op.shape, len(op.shape.kernel)
    pads = [(0, 0), (0, 0), *((conv.pads[axis], conv.pads[axis + rank]) for axis in range(rank))]
    padded = np.pad(codes, pads, constant_values=op.input.zero_point)
    spans = [step * (size - 1) + 1 for size, step in zip(conv.kernel, conv.dilations, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=tuple(range(2, 2 + rank)))
    places = tuple(slice(None, None, step) for step in conv.strides)
    inside = tuple(slice(None, None, step) for step in conv.dilations)
    windows = windows[(slice(None), slice(None), *places, *inside)]  # [N, C, *out, *kernel]
    moved = np.moveaxis(windows, 1, 1 + rank)  # [N, *out, C, *kernel]
    vectors: npt.NDArray[np.uint16] = moved.reshape(-1, groups, rows)
    return vectors
