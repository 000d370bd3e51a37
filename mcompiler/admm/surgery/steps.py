"""The channels of a traced model as data: tensors, operations, layers, and which channels are tied together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import fx, nn

from mcompiler.admm.surgery.operators import ConstantRule, OpKind
from mcompiler.admm.surgery.tracing import NodeShape


@dataclass(frozen=True, eq=False)
class TensorChannels:
    """The channels of one tensor of the graph.

    Attributes:
        axis: the axis that the channels are on.
        ids: [size of that axis] the channel at each position; after a Flatten several positions share one.
    """

    axis: int
    ids: torch.Tensor


@dataclass(frozen=True, eq=False)
class ChannelStep:
    """One operation on channels.

    Attributes:
        node: of the graph.
        kind: effect on the channels.
        inputs: the tensors whose channels it reads.
        constant_rule: effect on a channel that is constant.
        module: name of the module that it calls.
    """

    node: fx.Node
    kind: OpKind
    inputs: tuple[fx.Node, ...]
    constant_rule: ConstantRule = ConstantRule.UNKNOWN
    module: str | None = None


@dataclass(frozen=True, eq=False)
class TracedLayer:
    """A layer in the graph: nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear or a subclass.

    Attributes:
        name: as in ``named_modules``.
        calls: its uses, one for most layers.
        inputs: [G * C] ids of the channels (features for a Linear) that it reads.
        outputs: [G * N] ids of its filters.
        groups: G.
        positions: kernel positions, rows of the matrix per channel.
    """

    name: str
    calls: tuple[ChannelStep, ...]
    inputs: torch.Tensor
    outputs: torch.Tensor
    groups: int
    positions: int

    def with_call(self, call: ChannelStep) -> TracedLayer:
        """The layer with one more use."""
        return replace(self, calls=(*self.calls, call))

    @property
    def matrix(self) -> tuple[int, int, int]:
        """G, K, N."""
        groups = self.groups
        return groups, len(self.inputs) // groups * self.positions, len(self.outputs) // groups


@dataclass(frozen=True, eq=False)
class ChannelGraph:
    """The channels of a model.

    Attributes:
        model: the model itself (not a copy: its weights are read when they are needed).
        graph: its symbolic trace in evaluation mode.
        steps: one per tensor of the graph, in order of execution.
        channels: of each tensor.
        classes: [ids] the class of every id; channels of one class are kept or removed together.
        pins: class -> reason why it must be kept.
        layers: the layers by name, in order of execution.
        shapes: of the result of each node for the example inputs.
        dropouts: functional dropouts that follow the mode of the model.
        overwritten: nodes whose tensor is overwritten later, so that it is not constant.
    """

    model: nn.Module
    graph: fx.Graph
    steps: tuple[ChannelStep, ...]
    channels: Mapping[fx.Node, TensorChannels]
    classes: torch.Tensor
    pins: Mapping[int, str]
    layers: Mapping[str, TracedLayer]
    shapes: Mapping[fx.Node, NodeShape]
    dropouts: Mapping[fx.Node, type[nn.Module]]
    overwritten: frozenset[fx.Node]

    def classes_of(self, node: fx.Node) -> torch.Tensor:
        """[channels of the node's tensor] the class of each."""
        return self.classes[self.channels[node].ids]

    def dims(self, node: fx.Node) -> tuple[int, ...]:
        """The shape of the node's tensor for the example inputs."""
        dims = self.shapes[node].dims
        assert dims is not None
        return dims

    def follows_channels(self, call: ChannelStep) -> bool:
        """Whether a layer reads the channels of its input along the axis that they are on."""
        source = self.channels[call.inputs[0]]
        return source.axis == self.channels[call.node].axis and len(source.ids) == len(
            self.layers[str(call.module)].inputs
        )
