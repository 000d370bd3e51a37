"""The channel graph of a traced model, built node by node: channels, layers, ties, pins, and steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import fx, nn

from mcompiler.admm.surgery.aliases import find_overwritten
from mcompiler.admm.surgery.channel_counts import ChannelCounts
from mcompiler.admm.surgery.identities import ChannelIds
from mcompiler.admm.surgery.operators import OpKind, argument, operation
from mcompiler.admm.surgery.steps import ChannelGraph, ChannelStep, TensorChannels, TracedLayer
from mcompiler.admm.surgery.tracing import Trace, get_attribute


class ChannelGraphBuilder:
    """Collects the parts of a ChannelGraph; ``rules`` decides what each node adds.

    Attributes:
        model: the model that was traced.
        channels: of every tensor so far; a tensor without an entry has no channels that are followed.
        ids: identities of channels.
        layers: so far, by name.
        module_channels: channels of the normalisations and constants so far, by name.
        weight_owners: layer of each weight, by the weight's id().
        counts: numbers in the graph that count channels.
    """

    def __init__(self, model: nn.Module, traced: Trace) -> None:
        self.model = model
        self._traced = traced
        self.channels: dict[fx.Node, TensorChannels] = {}
        self._steps: list[ChannelStep] = []
        self.ids = ChannelIds()
        self.layers: dict[str, TracedLayer] = {}
        self.module_channels: dict[str, TensorChannels] = {}
        self.weight_owners: dict[int, str] = {}
        self.counts = ChannelCounts(traced.shapes, self.channels)

    def finish(self) -> ChannelGraph:
        """The graph of all nodes."""
        classes, pins = self.ids.find_classes()
        return ChannelGraph(
            model=self.model,
            graph=self._traced.graph,
            steps=tuple(self._steps),
            channels=self.channels,
            classes=classes,
            pins=pins,
            layers=self.layers,
            shapes=self._traced.shapes,
            dropouts=self._traced.dropouts,
            overwritten=frozenset(find_overwritten(self._traced.graph, self.model)),
        )

    # --- nodes of the trace

    def tracked_inputs(self, node: fx.Node) -> tuple[fx.Node, ...]:
        """The inputs of a node that have channels."""
        return tuple(part for part in node.all_input_nodes if part in self.channels)

    def dims(self, node: fx.Node) -> tuple[int, ...]:
        """The shape of a node's tensor."""
        dims = self._traced.shapes[node].dims
        assert dims is not None
        return dims

    def is_tensor(self, node: fx.Node) -> bool:
        """Whether a node gives a single tensor."""
        shape = self._traced.shapes.get(node)
        return shape is not None and shape.dims is not None

    def holds_tensors(self, node: fx.Node) -> bool:
        """Whether a node gives a tuple or list with tensors inside."""
        shape = self._traced.shapes.get(node)
        return shape is not None and shape.holds_tensors

    def get_module(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls."""
        if node.op != "call_module":
            return None
        found: nn.Module = get_attribute(self.model, str(node.target))
        return found

    def get_source(self, node: fx.Node) -> fx.Node | None:
        """The first argument of a node, where it is a tensor with channels."""
        first = argument(node, 0, "input")
        return first if isinstance(first, fx.Node) and first in self.channels else None

    # --- pins

    def pin_inputs(self, node: fx.Node, reason: str) -> None:
        """All channels that a node reads must stay."""
        for part in self.tracked_inputs(node):
            self.ids.pin(self.channels[part].ids, reason)
        self.pin_counts(node, node.all_input_nodes)

    def pin_counts(self, node: fx.Node, numbers: Iterable[fx.Node]) -> None:
        """The channels that these numbers count must stay, since the node uses the numbers."""
        for source in self.counts.find_counted(numbers):
            self.ids.pin(self.channels[source].ids, f"'{node.name}' uses how many there are")

    # --- steps

    def add_step(self, step: ChannelStep, channels: TensorChannels | None = None) -> bool:
        """Add a step, with the channels of its tensor; True, for rules to return."""
        self._steps.append(step)
        if channels is not None:
            self.channels[step.node] = channels
        return True

    def add_opaque(self, node: fx.Node) -> None:
        """A node without a rule that gives tensors: it reads all channels, and its output has new, pinned ones."""
        reason = self._describe_unknown(node)
        self.pin_inputs(node, reason)
        channels = None
        if self.is_tensor(node) and len(self.dims(node)) >= 2:
            channels = TensorChannels(1, self.ids.create(self.dims(node)[1]))
            self.ids.pin(channels.ids, reason)
        self.add_step(ChannelStep(node, OpKind.OPAQUE, self.tracked_inputs(node)), channels)

    def add_scalar_consumer(self, node: fx.Node) -> None:
        """A node that computes numbers, or a vector, from tensors: it reads all its inputs and has no channels."""
        self.pin_inputs(node, self._describe_unknown(node))
        self.add_step(ChannelStep(node, OpKind.OPAQUE, self.tracked_inputs(node)))

    def _describe_unknown(self, node: fx.Node) -> str:
        module: Any = self.get_module(node)
        title = type(module).__name__ if module is not None else operation(node) or str(node.target)
        return f"'{node.name}' ({title}) is not known to keep channels apart"
