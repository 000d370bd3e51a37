"""The float model on the calibration data: what each tensor holds, and its shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.bodies import nodes_with_branches, scheduled_nodes
from mcompiler.data import InputSpec, Samples, Tensor, batch_size, batches
from mcompiler.errors import CompileError
from mcompiler.graph import dequantizes
from mcompiler.ir import FloatMatrix, LoweredProgram
from mcompiler.runtime import RunError, Session, open_model

SUBSAMPLE = 1 << 18
"""Values of each tensor that percentile and least-squares ranges are taken from."""

VECTORS = 192
"""Input vectors of each layer that a calibrated converter range is fitted on."""

RAW_BYTES = 1 << 26
"""Largest size in bytes of one tensor from which such vectors are drawn."""

LARGE_MODEL = 64 << 20
"""Bytes of weights from which calibration runs without prepacked weights, which would be a second copy of them."""

_NO_NUMPY = frozenset(
    [ir.DataType.BFLOAT16, ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT2, ir.DataType.UINT2]
    + [kind for kind in ir.DataType if kind.name.startswith("FLOAT") and kind.bitwidth <= 8]
)
"""Element types of which onnxruntime returns no arrays."""


@dataclass(frozen=True)
class FloatModel:
    """The float model and the samples that it runs on.

    Attributes:
        samples: calibration data, or data that show the shapes only.
        specs: inputs of the model.
        calibrated: whether all samples run; else one batch, for the shapes.
        origin: what messages call the model.
        seed: of the sub-sampling.
    """

    samples: Samples
    specs: tuple[InputSpec, ...]
    calibrated: bool
    origin: str
    seed: int

    def observe(
        self, program: LoweredProgram, *, keep_values: bool, keep_raw: bool
    ) -> tuple[dict[str, TensorStatistics], dict[str, tuple[int, ...]]]:
        """Run the model: statistics of the input of every matrix, the shape in one run of every value.

        Args:
            program: with the float graph.
            keep_values: sample single values, for ranges other than minimum and maximum.
            keep_raw: keep pieces of the tensors, from which input vectors are drawn.

        Raises:
            CompileError: onnxruntime fails on the data.
        """
        model = program.graph.model
        tensors = list(dict.fromkeys(matrix.tensor for matrix in program.matrices))
        counted = {value.name for node in scheduled_nodes(program.skeleton.graph) for value in node.outputs}
        known = {
            value.name: value
            for node in nodes_with_branches(model.graph)
            for value in node.outputs
            if value.name and value.name in counted and value.type is not None and value.dtype not in _NO_NUMPY
        }
        large = sum(matrix.weights.nbytes for matrix in program.matrices) >= LARGE_MODEL
        session = open_model(model, outputs=[*known, *tensors], optimise=False, prepack=False, origin=self.origin)
        shapes = self._shapes(session, known)
        if not large and not any(dequantizes(node) for node in model.graph):
            # Faster where weights may be copied; with QDQ, onnxruntime's fusions change what the float model computes.
            session = open_model(model, outputs=tensors, origin=self.origin)
        # One generator for all tensors: what is drawn depends on the order of the layers and on nothing else.
        rng = np.random.default_rng(self.seed)
        readers: dict[str, list[FloatMatrix]] = {}
        for matrix in program.matrices:
            readers.setdefault(matrix.tensor, []).append(matrix)
        seen = {
            tensor: TensorStatistics(rng, tuple(matrices), keep_values, keep_raw)
            for tensor, matrices in readers.items()
        }
        shared = batch_size(self.specs)
        for feeds, count in batches(self.specs, self.samples) if tensors else ():
            values = self._run(session, feeds, tensors)
            for tensor in tensors:
                seen[tensor].add(values[tensor], shared or count, None if shared is None else count)
            if not self.calibrated:
                break
        return seen, shapes

    def _shapes(self, session: Session, known: Mapping[str, ir.Value]) -> dict[str, tuple[int, ...]]:
        """Shapes of the inputs of the model and of values of the graph, in a run on one sample or on a fixed batch.

        A branch that this sample does not take gives tensors without elements: there the inferred shapes count.
        """
        one = Samples({name: array[:1] for name, array in self.samples.inputs.items()}, None, 1)
        feeds, _ = next(batches(self.specs, one))
        values = self._run(session, feeds, list(known))
        given = {name: np.shape(array) for name, array in feeds.items()}
        return given | {
            name: _shape(value) if _size(value) else _inferred_shape(known[name]) for name, value in values.items()
        }

    def _run(self, session: Session, feeds: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Any]:
        try:
            return session.run(feeds, names)
        except RunError as error:
            raise CompileError(
                f"onnxruntime fails while running the model on the calibration data: {error}; check --dim and the data"
            ) from error


@dataclass
class TensorStatistics:
    """Running statistics of one tensor over the calibration samples (mutable, local to one run of the pass).

    Attributes:
        rng: for what is drawn.
        readers: the matrices that the tensor is multiplied with; they say which of its axes are vectors and samples.
        keep_values: sample single values.
        keep_raw: keep pieces of the tensor, from which input vectors are drawn.
    """

    rng: np.random.Generator
    readers: tuple[FloatMatrix, ...]
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
        if tensor.size == 0:
            return
        fixed = frozenset[int]().union(*(matrix.fixed_axes(tensor.ndim) for matrix in self.readers))
        if count is not None and tensor.ndim and tensor.shape[0] == per_run and 0 not in fixed:
            tensor = tensor[:count]
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
            axis = next((axis for axis in range(tensor.ndim) if axis not in fixed), None)
            length = 1 if axis is None else tensor.shape[axis]
            kept = max(1, min(8, RAW_BYTES * length // tensor.nbytes))
            self.raw.append(tensor.copy() if axis is None else tensor.take(range(min(kept, length)), axis))
            self.held += min(kept, length)


def _inferred_shape(value: ir.Value) -> tuple[int, ...]:
    """Inferred shape of a value, a first axis of unknown size counting 1; no elements where it is not known."""
    sizes = [1 if axis == 0 and not isinstance(size, int) else size for axis, size in enumerate(value.shape or (0,))]
    return tuple(size if isinstance(size, int) else 0 for size in sizes)


def _shape(value: Any) -> tuple[int, ...]:
    """Shape of a value of the graph; of a sequence of tensors, that of all their elements in a row."""
    return (_size(value),) if isinstance(value, list) else np.shape(value)


def _size(value: Any) -> int:
    """Elements of a value of the graph: a tensor, a sequence of them, or one that is absent."""
    if isinstance(value, list):
        return sum(_size(part) for part in value)
    return int(np.size(value)) if value is not None else 0
