"""Numbers in a trace that are computed from the number of channels: they change when channels are removed."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping

from torch import fx

from mcompiler.admm.surgery.operators import HARMLESS, argument, operation
from mcompiler.admm.surgery.steps import TensorChannels
from mcompiler.admm.surgery.tracing import NodeShape


class ChannelCounts:
    """Follows shapes, sizes and numbers that are computed from them."""

    def __init__(self, shapes: Mapping[fx.Node, NodeShape], channels: Mapping[fx.Node, TensorChannels]) -> None:
        self._shapes = shapes
        self._channels = channels
        self._shape_of: dict[fx.Node, fx.Node] = {}  # a node that gives a whole shape -> its tensor
        self._counted: dict[fx.Node, frozenset[fx.Node]] = {}  # a number -> tensors whose channels it counts

    def add_number(self, node: fx.Node) -> bool:
        """Add a node that is not a tensor; False where it reads the values of a tensor."""
        tensors = [part for part in node.all_input_nodes if part in self._channels]
        if not tensors:
            self._counted[node] = (
                self._index_shape(node) if node.target is operator.getitem else self.find_counted(node.all_input_nodes)
            )
            return True
        name, tensor = operation(node), tensors[0]
        dim = argument(node, 1, "dim")
        if name in HARMLESS:
            return True
        if name == "shape" or (name == "size" and dim is None):
            self._shape_of[node] = tensor
            return True
        if name == "size" and isinstance(dim, int):
            rank = len(self._shapes[tensor].dims or ())
            counts = dim % rank == self._channels[tensor].axis
            self._counted[node] = frozenset({tensor} if counts else ())
            return True
        return False

    def find_counted(self, numbers: Iterable[fx.Node]) -> frozenset[fx.Node]:
        """The tensors whose channels these numbers count."""
        found: set[fx.Node] = set()
        for number in numbers:
            found |= self._counted.get(number, frozenset())
            if number in self._shape_of:
                found.add(self._shape_of[number])
        return frozenset(found)

    def _index_shape(self, node: fx.Node) -> frozenset[fx.Node]:
        """The tensors that one or several sizes of a shape count."""
        shape, index = node.args[0], node.args[1]
        tensor = self._shape_of.get(shape) if isinstance(shape, fx.Node) else None
        if tensor is None or not isinstance(index, (int, slice)):
            return self.find_counted(node.all_input_nodes)
        axes = list(range(len(self._shapes[tensor].dims or ())))
        picked = axes[index]
        counts = self._channels[tensor].axis in (picked if isinstance(picked, list) else [picked])
        return frozenset({tensor} if counts else ())
