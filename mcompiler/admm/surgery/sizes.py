"""Numbers in a trace that say how many channels there are: they change when channels go."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping

from torch import fx

from mcompiler.admm.surgery.operators import HARMLESS, argument, operation
from mcompiler.admm.surgery.steps import TensorChannels
from mcompiler.admm.surgery.tracing import NodeShape


class ChannelCounts:
    """Follows shapes, sizes and what is computed from them."""

    def __init__(self, shapes: Mapping[fx.Node, NodeShape], values: Mapping[fx.Node, TensorChannels]) -> None:
        self._shapes = shapes
        self._values = values
        self._whole: dict[fx.Node, fx.Node] = {}  # a whole shape -> its tensor
        self._sources: dict[fx.Node, frozenset[fx.Node]] = {}  # a number -> tensors whose channels it counts

    def visit(self, node: fx.Node) -> bool:
        """Take in a node that is no tensor; False where it reads the values of a tensor."""
        tensors = [part for part in node.all_input_nodes if part in self._values]
        if not tensors:
            self._sources[node] = (
                self._indexed(node) if node.target is operator.getitem else self.sources(node.all_input_nodes)
            )
            return True
        name, tensor = operation(node), tensors[0]
        dim = argument(node, 1, "dim")
        if name in HARMLESS:
            return True
        if name == "shape" or (name == "size" and dim is None):
            self._whole[node] = tensor
            return True
        if name == "size" and isinstance(dim, int):
            rank = len(self._shapes[tensor].dims or ())
            counts = dim % rank == self._values[tensor].axis
            self._sources[node] = frozenset({tensor} if counts else ())
            return True
        return False

    def sources(self, numbers: Iterable[fx.Node]) -> frozenset[fx.Node]:
        """The tensors whose channels these numbers count."""
        found: set[fx.Node] = set()
        for number in numbers:
            found |= self._sources.get(number, frozenset())
            if number in self._whole:
                found.add(self._whole[number])
        return frozenset(found)

    def _indexed(self, node: fx.Node) -> frozenset[fx.Node]:
        """One or some sizes of a shape."""
        shape, index = node.args[0], node.args[1]
        tensor = self._whole.get(shape) if isinstance(shape, fx.Node) else None
        if tensor is None or not isinstance(index, (int, slice)):
            return self.sources(node.all_input_nodes)
        axes = list(range(len(self._shapes[tensor].dims or ())))
        picked = axes[index]
        counts = self._values[tensor].axis in (picked if isinstance(picked, list) else [picked])
        return frozenset({tensor} if counts else ())
