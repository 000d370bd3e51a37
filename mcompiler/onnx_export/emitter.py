"""Building nodes: into a graph with initializers, or into a model-local function with parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Array = npt.NDArray[Any]

PARAMETER_BYTES = 256
"""Constants of this size and more enter a function as parameters (initializers of the model), smaller ones as nodes."""


class Emitter:
    """Collects nodes under a prefix; values are named ``prefix/n`` unless a name is given.

    Attributes:
        nodes: in topological order.
        constants: values and arrays that the surrounding graph must provide.
    """

    def __init__(self, prefix: str, *, inside_function: bool = False) -> None:
        self.prefix = prefix
        self.nodes: list[ir.Node] = []
        self.constants: list[tuple[ir.Value, Array]] = []
        self._inside = inside_function
        self._known: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._count = 0

    def __call__(self, operator: str, *inputs: ir.Value | None, name: str | None = None, **attributes: Any) -> ir.Value:
        """Append a node with one output and return that output."""
        return self.several(operator, 1, *inputs, name=name, **attributes)[0]

    def several(
        self, operator: str, outputs: int, *inputs: ir.Value | None, name: str | None = None, **attributes: Any
    ) -> Sequence[ir.Value]:
        """Append a node with several outputs and return them."""
        node = ir.node(operator, inputs, attributes, num_outputs=outputs, name=self._fresh(operator))
        for index, value in enumerate(node.outputs):
            value.name = name if name is not None and index == 0 else self._fresh("v")
        self.nodes.append(node)
        return node.outputs

    def constant(self, array: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> ir.Value:
        """A constant; equal small ones are shared."""
        data = np.ascontiguousarray(np.asarray(array, dtype=dtype)).reshape(np.shape(array))
        key = (data.dtype.str, data.shape, data.tobytes()) if data.nbytes < PARAMETER_BYTES else None
        if key is not None and key in self._known:
            return self._known[key]
        if self._inside and data.nbytes < PARAMETER_BYTES:
            value = self("Constant", value=ir.tensor(data))
        else:
            value = ir.Value(
                name=self._fresh("c"),
                type=ir.TensorType(ir.DataType.from_numpy(data.dtype)),
                shape=ir.Shape(data.shape),
            )
            self.constants.append((value, data))
        if key is not None:
            self._known[key] = value
        return value

    def ints(self, *numbers: int) -> ir.Value:
        """A one-dimensional int64 constant: shapes, axes, indices."""
        return self.constant(np.array(numbers, dtype=np.int64))

    def cast(self, value: ir.Value, to: ir.DataType, name: str | None = None) -> ir.Value:
        """Cast to an element type."""
        return self("Cast", value, name=name, to=int(to))

    def _fresh(self, kind: str) -> str:
        self._count += 1
        return f"{self.prefix}/{kind}{self._count}"


def insert_before(graph: ir.Graph, place: ir.Node, emitter: Emitter) -> None:
    """Put the emitted nodes before a node of the graph, their constants among its initializers."""
    graph.insert_before(place, emitter.nodes)
    for value, array in emitter.constants:
        value.const_value = ir.tensor(array, name=value.name)
        graph.register_initializer(value)


def sizes_of(emitter: Emitter, value: ir.Value, start: int, end: int) -> ir.Value:
    """Sizes ``start`` to ``end`` of a value's shape."""
    return emitter("Slice", emitter("Shape", value), emitter.ints(start), emitter.ints(end))
