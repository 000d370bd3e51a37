"""onnxruntime: the only module that imports it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from mcompiler.bodies import add_branch_output
from mcompiler.data import InputSpec, Tensor
from mcompiler.errors import ModelError
from mcompiler.graph import index_bounds

EXTERNAL_BYTES = 1 << 12
"""Initializers of this size and more are passed to onnxruntime as arrays, not in the serialised model."""

_TYPES: dict[str, type[Any]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(int16)": np.int16,
    "tensor(uint16)": np.uint16,
    "tensor(int32)": np.int32,
    "tensor(uint32)": np.uint32,
    "tensor(int64)": np.int64,
    "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
    "tensor(string)": object,
}


class RunError(Exception):
    """onnxruntime failed while running a model that it had accepted."""


@dataclass(frozen=True)
class Session:
    """An open model.

    Attributes:
        inputs: its inputs.
        outputs: names of its outputs, in order.
    """

    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    _session: Any
    _keep: tuple[Any, ...] = ()

    def run(self, feeds: Mapping[str, Tensor], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        """Run once; ``outputs`` selects some of the outputs.

        Raises:
            RunError: onnxruntime's message, one line.
        """
        names = list(self.outputs if outputs is None else outputs)
        if not names:
            return {}  # for onnxruntime an empty list means all outputs
        try:
            values = self._session.run(names, {name: np.asarray(value) for name, value in feeds.items()})
        except Exception as error:  # onnxruntime raises its own classes, which have no common base
            raise RunError(_one_line(error)) from error
        return dict(zip(names, values, strict=True))


def open_file(path: Path, *, optimise: bool = True, prepack: bool = True) -> Session:
    """Open a model file in onnxruntime.

    Raises:
        ModelError: onnxruntime does not accept it; its message in one line.
    """
    try:
        session = ort.InferenceSession(str(path), _options(optimise, prepack), providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        renamed = _with_distinct_names(path)
        if renamed is not None:
            return open_model(renamed, optimise=optimise, prepack=prepack, origin=str(path))
        raise ModelError(f"{path}: onnxruntime does not run this model: {_one_line(error)}") from error
    return _wrap(session, ())


def open_model(
    model: ir.Model,
    *,
    outputs: Sequence[str] = (),
    optimise: bool = True,
    prepack: bool = True,
    origin: str = "model",
    threads: int | None = None,
) -> Session:
    """Open a model in memory, large initializers shared rather than copied.

    Args:
        model: left as it is.
        outputs: further values to return, of the main graph or of branches of If nodes; a branch that is not taken
            gives a tensor without elements.
        optimise: run onnxruntime's graph optimisations, unless they refuse the model.
        prepack: let onnxruntime copy weights into the layout of its kernels.
        origin: name for error messages.
        threads: number of threads, None: all cores. With one, sums have a fixed order.

    Raises:
        ModelError: onnxruntime does not accept it.
    """
    options = _options(optimise, prepack)
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        stub = model.clone()
    except (RuntimeError, ValueError) as error:  # of onnx_ir: an output that nothing produces, nodes in a cycle
        raise ModelError(f"{origin}: its graph is damaged: an output or an input of a node has no source") from error
    _drop_repeated_names(stub)
    present = {value.name for value in stub.graph.outputs}
    if outputs:
        values = ir.convenience.create_value_mapping(stub.graph, include_subgraphs=False)
        for name in dict.fromkeys(outputs):
            if name not in present:
                stub.graph.outputs.append(values[name] if name in values else add_branch_output(stub, name))
    names: list[str] = []
    held: list[Any] = []
    for name, value in stub.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.nbytes < EXTERNAL_BYTES or tensor.dtype not in _SHARED:
            # onnxruntime reads no external files of a model given as bytes; onnx_ir's conversion would close the file,
            # of which the caller may have views.
            if isinstance(tensor, ir.ExternalTensor):
                value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)
            continue
        array = np.ascontiguousarray(tensor.numpy())
        names.append(name)
        held.append(ort.OrtValue.ortvalue_from_numpy(array))
        value.const_value = ir.ExternalTensor(
            location="shared", offset=0, length=array.nbytes, dtype=tensor.dtype, shape=ir.Shape(array.shape), name=name
        )
    if names:
        options.add_external_initializers(names, held)
    try:
        data = ir.to_proto(stub).SerializeToString()
        session = _session(data, options)
    except Exception as error:  # as above
        raise ModelError(f"{origin}: onnxruntime does not run this model: {_one_line(error)}") from error
    return _wrap(session, tuple(held))


def _session(model: bytes, options: Any) -> Any:
    """A session with these options; without optimisations where they refuse the model (constant weights behind Pad)."""
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception:  # as above
        if options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_DISABLE_ALL:
            raise
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _with_distinct_names(path: Path) -> ir.Model | None:
    """The model of a file in which nodes of one graph have the same name, without those names; None for other files."""
    try:
        model = ir.load(path)
    except Exception:  # onnx_ir raises many kinds; onnxruntime's message says more about the file
        return None
    return model if _drop_repeated_names(model) else None


def _drop_repeated_names(model: ir.Model) -> bool:
    """Take the names of nodes away that repeat in a graph, in place; whether there were any.

    Names of nodes have no meaning in ONNX and may repeat; onnxruntime refuses such a model.
    """
    found = False
    for graph in model.graphs():
        uses = Counter(node.name for node in graph if node.name)
        for node in graph:
            if node.name and uses[node.name] > 1:
                node.name = None
                found = True
    return found


def inferred(model: ir.Model, names: Sequence[str]) -> dict[str, tuple[np.dtype[Any], tuple[int | str | None, ...]]]:
    """Element type and shape of values of the main graph as onnxruntime infers them; unknown ones are left out.

    Args:
        model: left as it is.
        names: values that have no shape in the model.
    """
    try:
        session = open_model(model, outputs=names, optimise=False, prepack=False)
    except ModelError:
        return {}
    wanted = set(names)
    return {
        value.name: (np.dtype(_TYPES[value.type]), tuple(size or None for size in value.shape))
        for value in session._session.get_outputs()
        if value.name in wanted and value.shape and value.type in _TYPES
    }


_SHARED = {
    ir.DataType.FLOAT,
    ir.DataType.FLOAT16,
    ir.DataType.DOUBLE,
    ir.DataType.INT8,
    ir.DataType.UINT8,
    ir.DataType.INT16,
    ir.DataType.UINT16,
    ir.DataType.INT32,
    ir.DataType.INT64,
}
"""Element types with the same layout in numpy and onnxruntime."""


def _options(optimise: bool, prepack: bool) -> Any:
    options = ort.SessionOptions()
    if not prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    options.log_severity_level = 4
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _wrap(session: Any, keep: tuple[Any, ...]) -> Session:
    specs = []
    for value in session.get_inputs():
        if value.type not in _TYPES:
            raise ModelError(f"input '{value.name}' is a {value.type}; only tensor inputs are supported")
        shape = tuple(
            size if isinstance(size, int) and size >= 0 else (_symbol(size) or f"{value.name}.{axis}")
            for axis, size in enumerate(value.shape)
        )
        specs.append(InputSpec(value.name, np.dtype(_TYPES[value.type]), shape))
    return Session(tuple(specs), tuple(value.name for value in session.get_outputs()), session, keep)


def _symbol(size: int | str | None) -> str | None:
    """The name of a dimension; a negative size is none."""
    return size if isinstance(size, str) else None


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "..."


def input_specs(session: Session, graph: ir.Model) -> tuple[InputSpec, ...]:
    """Inputs of a session, integers bounded by what they index in the graph."""
    bounds = index_bounds(graph)
    takes_nan = any(node.op_type in _NOT_FINITE for each in graph.graphs() for node in each)
    return tuple(replace(spec, bound=bounds.get(spec.name, spec.bound), takes_nan=takes_nan) for spec in session.inputs)


_NOT_FINITE = frozenset(["Imputer", "IsNaN", "IsInf", "TreeEnsembleClassifier", "TreeEnsembleRegressor"])
"""Operators that models use to handle missing values."""
