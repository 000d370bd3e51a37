"""Statistics of the inputs of every layer, vector by vector, on given samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.cost import DataEnergy, ExactInputs, PricedQuantities, data_energy, mean_field
from mcompiler.data import InputSpec, Samples, batch_size, batches
from mcompiler.driver.content import Compiled, Stored
from mcompiler.errors import DataError
from mcompiler.geometry import vector_view
from mcompiler.ir import AnalogLayer, ConvShape
from mcompiler.onnx_export import code_names
from mcompiler.runtime import RunError, open_model
from mcompiler.target import Target

SAMPLES_PER_RUN = 8


def energies(
    content: Compiled | Stored,
    counts: PricedQuantities,
    specs: tuple[InputSpec, ...],
    samples: Samples,
    target: Target,
) -> tuple[tuple[DataEnergy, ...], tuple[DataEnergy, ...]]:
    """Energy of the cells, word lines and DACs at given inputs: by the mean densities, and vector by vector."""
    inputs_of_layers = exact_inputs(content, specs, samples, target)
    means = [
        mean_field(layer, each.statistics(), target)
        for layer, each in zip(content.layers, inputs_of_layers, strict=True)
    ]
    exact = [each.inputs() for each in inputs_of_layers]
    mean, each = (data_energy(content.layers, counts, target, inputs) for inputs in (means, exact))
    return mean, each


def exact_inputs(
    content: Compiled | Stored, specs: tuple[InputSpec, ...], samples: Samples, target: Target
) -> tuple[ExactInputs, ...]:
    """Run the quantised model and add up the statistics of the inputs of every site.

    Raises:
        DataError: onnxruntime fails on the data.
    """
    names = code_names(content.skeleton, [layer.op.site for layer in content.layers])
    totals = [ExactInputs(layer, target) for layer in content.layers]
    wanted = list(dict.fromkeys(names))
    session = open_model(content.reference, outputs=wanted, origin="reference model")
    shared = batch_size(specs) is not None
    for feeds, count in batches(specs, samples, SAMPLES_PER_RUN):
        try:
            values = session.run(feeds, wanted)
        except RunError as error:
            raise DataError(f"onnxruntime fails on the data: {error}; check --dim and the data's values") from error
        for layer, name, inputs in zip(content.layers, names, totals, strict=True):
            codes = values[name]
            inputs.add(read_vectors(layer.op, codes[:count] if shared else codes))
    return tuple(totals)


def read_vectors(layer: AnalogLayer, codes: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
    """Every vector that a layer reads of a tensor of input codes: [V, G, K]."""
    groups, rows, _ = layer.matrix.codes.shape
    codes = np.asarray(codes, dtype=np.uint16)
    if not isinstance(layer.site.shape, ConvShape):
        return vector_view(codes, layer.site.shape.batch).reshape(-1, groups, rows)
    conv, rank = layer.site.shape, len(layer.site.shape.kernel)
    pads = [(0, 0), (0, 0), *((conv.pads[axis], conv.pads[axis + rank]) for axis in range(rank))]
    padded = np.pad(codes, pads, constant_values=layer.site.input.zero_point)
    spans = [step * (size - 1) + 1 for size, step in zip(conv.kernel, conv.dilations, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=tuple(range(2, 2 + rank)))
    positions = tuple(slice(None, None, step) for step in conv.strides)
    taps = tuple(slice(None, None, step) for step in conv.dilations)
    windows = windows[(slice(None), slice(None), *positions, *taps)]  # [N, C, *out, *kernel]
    moved = np.moveaxis(windows, 1, 1 + rank)  # [N, *out, C, *kernel]
    vectors: npt.NDArray[np.uint16] = moved.reshape(-1, groups, rows)
    return vectors
