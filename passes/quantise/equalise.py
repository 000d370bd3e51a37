"""Cross-layer equalisation: channels of one tensor get similar ranges, which one quantiser then serves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.data import InputSpec, Samples, batches
from mcompiler.declarations import Option
from mcompiler.errors import CompileError
from mcompiler.graph import (
    Names,
    add_initializer,
    constant,
    dequantizes,
    input_at,
    int_attr,
    only_consumer,
    rank,
    remove_unused_initializers,
    standard,
)
from mcompiler.ir import GraphProgram
from mcompiler.passes.quantise.grids import grid_of
from mcompiler.provenance import roots, set_roots
from mcompiler.runtime import RunError, open_model
from mcompiler.target import Target

Vector = npt.NDArray[np.float64]

HOMOGENEOUS = ("Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity")
"""Operators f with f(s x) = s f(x) for each channel and s > 0."""

STRENGTHS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Shares of the logarithm of the activation's range that move into the weights; the best of them is taken."""

CLEAR_GAIN = 4.0
"""Ratio of the error before to that after from which ``auto`` changes a model (6 dB)."""


class Equalisation(StrEnum):
    """Whether scales move between layers."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


EqualisationOption = Annotated[
    Equalisation,
    Option(
        key="equalise",
        choices=Equalisation,
        help="Move scales of channels between layers, so that one range serves all channels of a tensor, and mean "
        "errors into biases; auto: where real calibration data show a clear gain.",
    ),
]
"""Field of a pass that changes constants of the float model for less quantisation error."""


@dataclass(frozen=True)
class Equalise:
    """Move a scale of each channel from a layer or a normalisation into the products that read it.

    y = W2 f(W1 x) does not change where rows of W1 are divided by s > 0 and columns of W2 multiplied by it, and f is
    Relu, a pooling or nothing (Nagel et al. 2019, arXiv:1906.04721; Xiao et al. 2023, arXiv:2211.10438). Errors are
    estimated from ranges and powers of the channels on the calibration data. A model that brings scales stays as it
    is, and so do weights that lie on a grid.

    Attributes:
        samples: calibration data.
        specs: inputs of the model.
        calibrated: the data are real, not drawn.
        mode: ``auto`` moves scales where the estimated error falls by 6 dB on real calibration data; ``on`` where it
            falls at all, on any data.
    """

    name: ClassVar[str] = "equalise"
    reads: ClassVar[tuple[str, ...]] = ("precision",)
    samples: Samples | None = None
    specs: tuple[InputSpec, ...] = ()
    calibrated: bool = False
    mode: EqualisationOption = Equalisation.AUTO

    def run(self, program: GraphProgram, target: Target) -> GraphProgram:
        """Return the program with other constants; it computes the same.

        Raises:
            CompileError: onnxruntime fails on the data.
        """
        wanted = self.mode is Equalisation.ON or (self.mode is Equalisation.AUTO and self.calibrated)
        if not wanted or self.samples is None or any(_quantised(node) for node in program.model.graph):
            return program
        model = program.model.clone()
        bits = target.precision.weights, target.precision.inputs
        tensors = list(_tensors(model.graph, bits[0]))
        if not tensors:
            return program
        seen = self._observe(model, tensors)
        least = CLEAR_GAIN if self.mode is Equalisation.AUTO else 1.0
        names = Names(model)
        changed = False
        for tensor in tensors:
            scale = _best_scale(tensor, seen[tensor.value.name or ""], bits, least)
            if scale is not None:
                _apply(model.graph, names, tensor, scale)
                changed = True
        remove_unused_initializers(model.graph)
        return replace(program, model=model) if changed else program

    def _observe(self, model: ir.Model, tensors: list[_Tensor]) -> dict[str, _Channels]:
        names = [tensor.value.name or "" for tensor in tensors]
        seen = {name: _Channels() for name in names}
        assert self.samples is not None
        session = open_model(model, outputs=names, optimise=False, prepack=False)
        for feeds, _ in batches(self.specs, self.samples):
            try:
                values = session.run(feeds, names)
            except RunError as error:
                raise CompileError(
                    f"onnxruntime fails while running the model on the calibration data: {error}; check --dim and the "
                    "data"
                ) from error
            for tensor, name in zip(tensors, names, strict=True):
                seen[name].add(np.moveaxis(values[name], tensor.axis, -1))
        return seen


def _quantised(node: ir.Node) -> bool:
    return dequantizes(node) or node.op_type == "QuantizeLinear" or node.op_type.startswith("QLinear")


@dataclass
class _Channels:
    """Ranges and powers of the channels of a tensor (mutable, local to one run of the pass)."""

    low: Vector = field(default_factory=lambda: np.zeros(0))
    high: Vector = field(default_factory=lambda: np.zeros(0))
    squares: Vector = field(default_factory=lambda: np.zeros(0))
    count: int = 0

    def add(self, values: npt.NDArray[Any]) -> None:
        flat = values.reshape(-1, values.shape[-1]).astype(np.float64)
        if not self.count:
            self.low, self.high, self.squares = (np.zeros(flat.shape[1]) for _ in range(3))
        self.low, self.high = np.minimum(self.low, flat.min(axis=0)), np.maximum(self.high, flat.max(axis=0))
        self.squares = self.squares + np.square(flat).sum(axis=0)
        self.count += len(flat)

    @property
    def power(self) -> Vector:
        return self.squares / max(1, self.count)


@dataclass(frozen=True)
class _Tensor:
    """A tensor whose channels can be scaled: the nodes that make it, and the products that read it.

    Attributes:
        value: the tensor.
        axis: of its channels.
        parts: constants that are divided by the scale: node, input, axis of the channels in it.
        readers: products with constant weights.
    """

    value: ir.Value
    axis: int
    parts: tuple[tuple[ir.Node, int, int], ...]
    readers: tuple[ir.Node, ...]


def _tensors(graph: ir.Graph, weight_bits: int) -> Iterator[_Tensor]:
    done: set[ir.Value] = set()
    for node in graph:
        value = node.inputs[0] if node.inputs else None
        if value is None or value in done or _weights(node, weight_bits) is None:
            continue
        done.add(value)
        uses = [(use.node, use.idx) for use in value.uses()]
        dims = rank(value)
        if dims is None or value.is_graph_output() or any(index for _, index in uses):
            continue
        readers = tuple(reader for reader, _ in uses)
        if any(_weights(reader, weight_bits) is None or reader.graph is not graph for reader in readers):
            continue
        axis = 1 if standard(node, "Conv") else dims - 1
        if any((1 if standard(reader, "Conv") else dims - 1) != axis for reader in readers):
            continue
        parts = _parts(value, axis, dims, weight_bits)
        if parts is not None:
            yield _Tensor(value, axis, parts, readers)


def _weights(node: ir.Node, bits: int) -> npt.NDArray[Any] | None:
    """The constant weights of a product as [groups, inputs of a group, outputs of a group, kernel]; None for others.

    None as well for weights that lie on a grid, which a scale would take them off.
    """
    array = constant(input_at(node, 1))
    if array is None or array.dtype.kind != "f" or not array.size:
        return None
    if standard(node, "Conv") and array.ndim > 2:
        groups = int_attr(node, "group", 1)
        found = array.reshape(groups, array.shape[0] // groups, array.shape[1], -1).swapaxes(1, 2)
    elif standard(node, "MatMul") and array.ndim == 2:
        found = array[None, :, :, None]
    elif standard(node, "Gemm") and array.ndim == 2 and not int_attr(node, "transA", 0):
        found = (array.T if int_attr(node, "transB", 0) else array)[None, :, :, None]
    else:
        return None
    groups, outputs = found.shape[0], found.shape[2]
    matrix = found.transpose(0, 1, 3, 2).reshape(groups, -1, outputs)
    return None if not np.isfinite(matrix).all() or grid_of(matrix, bits) is not None else found


def _parts(value: ir.Value, axis: int, dims: int, bits: int) -> tuple[tuple[ir.Node, int, int], ...] | None:
    """Constants that scale the channels of a tensor: of a product, its bias, or a normalisation; None where none do."""
    node = value.producer()
    while node is not None and standard(node, *HOMOGENEOUS) and value is node.outputs[0]:
        before = node.inputs[0]
        if before is None or only_consumer(before) is not node:
            return None
        value, node = before, before.producer()
    if node is None or value is not node.outputs[0]:
        return None
    last = dims - 1
    if standard(node, "LayerNormalization") and axis == last and int_attr(node, "axis", -1) in (-1, last):
        return _constants(node, (1, 2), 0)
    if standard(node, "BatchNormalization") and axis == 1:
        return _constants(node, (1, 2), 0)
    if standard(node, "Add") and axis == last:
        return _parts_of_sum(node, bits)
    if _weights(node, bits) is None:
        return None
    if standard(node, "Conv"):
        return None if axis != 1 else _constants(node, (1, 2), 0)
    if axis != last:
        return None
    first = _constants(node, (1,), 0 if int_attr(node, "transB", 0) else 1)
    if standard(node, "MatMul") or first is None or input_at(node, 2) is None:
        return first
    bias = constant(input_at(node, 2))
    if bias is None or bias.ndim == 0 or bias.shape[-1] != _columns(node):
        return None
    return (*first, (node, 2, bias.ndim - 1))


def _columns(node: ir.Node) -> int:
    """Outputs of a Gemm or MatMul with constant weights."""
    array = constant(input_at(node, 1))
    assert array is not None
    return int(array.shape[0 if int_attr(node, "transB", 0) else 1])


def _parts_of_sum(node: ir.Node, bits: int) -> tuple[tuple[ir.Node, int, int], ...] | None:
    """A MatMul and the constant vector that is added to it."""
    for index in (0, 1):
        product, other = node.inputs[1 - index], constant(input_at(node, index))
        made = None if product is None else product.producer()
        if product is None or made is None or other is None or other.ndim == 0:
            continue
        if not standard(made, "MatMul") or only_consumer(product) is not node or _weights(made, bits) is None:
            continue
        if other.shape[-1] == _columns(made):
            return ((made, 1, 1), (node, index, other.ndim - 1))
    return None


def _constants(node: ir.Node, indices: tuple[int, ...], axis: int) -> tuple[tuple[ir.Node, int, int], ...] | None:
    """Inputs of a node that must be constant where they are there."""
    found = []
    for index in indices:
        if input_at(node, index) is None:
            continue
        if constant(input_at(node, index)) is None:
            return None
        found.append((node, index, axis))
    return tuple(found)


# --- scales ----------------------------------------------------------------------------------------------------------


def _best_scale(tensor: _Tensor, seen: _Channels, bits: tuple[int, int], least: float) -> Vector | None:
    """The scale of every channel with the smallest estimated error; None where it gains less than ``least``."""
    ranges = np.maximum(seen.high, -seen.low)
    weights = [array for reader in tensor.readers if (array := _weights(reader, bits[0])) is not None]
    sizes = np.max([np.abs(array).max(axis=(2, 3)).reshape(-1) for array in weights], axis=0).astype(np.float64)
    used = (ranges > 0) & (sizes > 0) & np.isfinite(ranges)
    if used.sum() < 2 or not np.isfinite(seen.squares).all() or len(ranges) != len(sizes):
        return None
    before = _error(np.ones_like(ranges), seen, weights, bits)
    best: tuple[float, Vector | None] = (before / least, None)
    for strength in STRENGTHS:
        scale = np.ones_like(ranges)
        scale[used] = ranges[used] ** strength / sizes[used] ** (1 - strength)
        scale[used] /= np.exp(np.log(scale[used]).mean())
        error = _error(scale, seen, weights, bits)
        if error < best[0]:
            best = (error, scale)
    return best[1]


def _error(scale: Vector, seen: _Channels, weights: list[npt.NDArray[Any]], bits: tuple[int, int]) -> float:
    """Estimated error of the products, as a share of the power of each output, in the mean.

    A rounding error has the variance step^2 / 12, and no more than the power of what is rounded.
    """
    power = seen.power / np.square(scale)
    step = (max((seen.high / scale).max(), 0.0) - min((seen.low / scale).min(), 0.0)) / ((1 << bits[1]) - 1)
    of_inputs = np.minimum(step**2 / 12, power)
    shares = []
    for array in weights:
        groups, rows = array.shape[:2]
        by_row = (groups, rows, 1, 1)
        squares = np.square(array * scale.reshape(by_row))
        steps = squares.max(axis=(1, 3), keepdims=True) / ((1 << (bits[0] - 1)) - 1) ** 2
        noise = squares * of_inputs.reshape(by_row) + np.minimum(steps / 12, squares) * power.reshape(by_row)
        signal = (squares * power.reshape(by_row)).sum(axis=(1, 3))
        shares.append((noise.sum(axis=(1, 3))[signal > 0] / signal[signal > 0]).reshape(-1))
    joined = np.concatenate(shares)
    return float(joined.mean()) if len(joined) else 0.0


def _apply(graph: ir.Graph, names: Names, tensor: _Tensor, scale: Vector) -> None:
    """Divide the constants that make a tensor by a scale, and multiply the weights that read it."""
    for node, index, axis in tensor.parts:
        array = constant(input_at(node, index))
        assert array is not None
        shape = [1] * array.ndim
        shape[axis] = -1
        _put(graph, names, node, index, array / scale.reshape(shape))
    for reader in tensor.readers:
        array = constant(input_at(reader, 1))
        assert array is not None
        _put(graph, names, reader, 1, _read_scaled(reader, array, scale))


def _read_scaled(node: ir.Node, array: npt.NDArray[Any], scale: Vector) -> npt.NDArray[Any]:
    """Weights of a product times the scale of its input channels."""
    if standard(node, "Conv"):
        groups = int_attr(node, "group", 1)
        by_output = np.repeat(scale.reshape(groups, -1), array.shape[0] // groups, axis=0)
        return np.asarray(array * by_output.reshape(*array.shape[:2], *[1] * (array.ndim - 2)))
    return np.asarray(array * (scale[None] if int_attr(node, "transB", 0) else scale[:, None]))


def _put(graph: ir.Graph, names: Names, node: ir.Node, index: int, array: npt.NDArray[Any]) -> None:
    old = input_at(node, index)
    before = constant(old)
    assert before is not None
    assert old is not None
    value = add_initializer(graph, names.fresh(f"{old.name}/equalised"), array.astype(before.dtype))
    set_roots(value, roots(old))
    node.replace_input_with(index, value)
