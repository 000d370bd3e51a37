"""Models to files and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

EXTERNAL_FROM = 1 << 30
"""Models of this many bytes and more go out with their weights in a second file."""


def save_model(model: ir.Model, folder: Path, name: str) -> list[str]:
    """Write a model into a folder; return the names of the files written, the model first.

    Args:
        model: left as it is.
        folder: root of the build.
        name: path of the model within it; external data go into its folder.
    """
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    if size < EXTERNAL_FROM:
        ir.save(_in_memory(model), folder / name)
        return [name]
    ir.save(model, folder / name, external_data=f"{Path(name).name}.data")
    return [name, f"{name}.data"]


def _in_memory(model: ir.Model) -> ir.Model:
    """The model with its external tensors copied: their files are not in the folder that it is written to."""
    clone = model.clone()
    for graph in clone.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            # Not ir.external_data.load_to_model: it closes files that the caller's tensors are views of.
            if isinstance(tensor, ir.ExternalTensor):
                value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)
    return clone


def load_model_file(path: Path) -> ir.Model:
    """Read a model of a build.

    Raises:
        ValueError: a node reads a value that nothing produces.
    """
    model = ir.load(path)
    nodes = (model.graph.all_nodes(), *(function.all_nodes() for function in model.functions.values()))
    for node in (node for each in nodes for node in each):
        for value in node.inputs:
            if value is not None and value.producer() is None and value.graph is None:
                raise ValueError(f"node '{node.name}' reads '{value.name}', which nothing produces")
    return model


def same_models(one: ir.Model, other: ir.Model) -> bool:
    """Whether two models are the same: nodes, functions, interface and every byte of every constant."""
    ours, theirs = one.graph.initializers, other.graph.initializers
    if list(ours) != list(theirs):
        return False
    for name, value in ours.items():
        left, right = value.const_value, theirs[name].const_value
        if left is None or right is None or left.dtype != right.dtype or list(left.shape) != list(right.shape):
            return False
        if not np.array_equal(_bytes(left), _bytes(right)):
            return False
    return _structure(one) == _structure(other)


def _bytes(tensor: ir.TensorProtocol) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    if tensor.dtype == ir.DataType.STRING:
        return np.frombuffer(repr(tensor.numpy().tolist()).encode(), np.uint8)
    return np.frombuffer(tensor.tobytes(), np.uint8)


def _structure(model: ir.Model) -> bytes:
    """The serialised model without the content of its initializers."""
    clone = model.clone()
    for value in clone.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.dtype != ir.DataType.STRING:
            value.const_value = ir.tensor(np.zeros(0, np.uint8), name=value.name)
    data: bytes = ir.to_proto(clone).SerializeToString(deterministic=True)
    return data
