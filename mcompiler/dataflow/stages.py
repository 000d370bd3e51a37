"""The stages of a network: what its nodes do to tokens, before anything is said about time.

Every analog layer is two stages, its arrays and the digital unit that scales their sums, adds the bias and quantises
the result for whoever reads it; every digital node is one. The model's inputs are stages that take no time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import onnx_ir as ir

from mcompiler.dataflow.grids import Channels, Grid, Needs, Window, everything, same_place, whole, windows
from mcompiler.dataflow.operators import digital_grid, grid_of, sample_shape
from mcompiler.graph import constant_tensor, site_of
from mcompiler.ir import AnalogLayer, ConvShape

REQUANTISE = "requantise"
"""Stage of an analog layer: its name and this after a slash."""


class Kind(StrEnum):
    """What works on the tokens of a stage."""

    INPUT = "input"
    ANALOG = "analog"
    REQUANTISE = REQUANTISE
    DIGITAL = "digital"


@dataclass(frozen=True)
class Read:
    """A tensor that a stage reads: index of the stage that makes it, which tokens when, elements of one."""

    producer: int
    needs: Needs
    width: int


@dataclass(frozen=True)
class Step:
    """A stage.

    Attributes:
        name: of the node.
        kind: what works on it.
        layer: index of the analog layer that it belongs to: its own, or, for digital nodes, that which feeds it (the
            first one of all, where nothing analog does); -1 where the network has none.
        grid: the tokens that it makes.
        operations: of a digital unit, per token.
        reads: what it reads.
    """

    name: str
    kind: Kind
    layer: int
    grid: Grid
    operations: float = 0.0
    reads: tuple[Read, ...] = ()


def network_steps(
    skeleton: ir.Model, ops: Sequence[AnalogLayer], digital_ops: Mapping[str, int]
) -> tuple[tuple[Step, ...], tuple[int, ...]]:
    """The stages of a network in topological order.

    Args:
        skeleton: graph with a placeholder for each analog layer.
        ops: the analog layers.
        digital_ops: element operations per inference of every other node, by name.

    Returns:
        The stages, and the indices of those whose results leave the network.
    """
    builder = _Builder(ops, digital_ops)
    for value in skeleton.graph.inputs:
        builder.add_input(value)
    for node in skeleton.graph:
        builder.add(node)
    if ops:
        builder.adopt()
    ends = [builder.made[name] for name in (v.name or "" for v in skeleton.graph.outputs) if name in builder.made]
    return tuple(builder.steps), tuple(dict.fromkeys(ends))


class _Builder:
    """Goes through the nodes in order and keeps who makes each value."""

    def __init__(self, ops: Sequence[AnalogLayer], digital_ops: Mapping[str, int]) -> None:
        self.steps: list[Step] = []
        self.made: dict[str, int] = {}  # value name -> stage
        self.ops = ops
        self.digital_ops = digital_ops

    def add_input(self, value: ir.Value) -> None:
        channels = _channels_of_readers(value, self.ops)
        self.made[value.name or ""] = len(self.steps)
        self.steps.append(Step(value.name or "", Kind.INPUT, -1, grid_of(sample_shape(value), channels)))

    def adopt(self) -> None:
        """Give the first layer what stands in front of all layers."""
        self.steps = [
            replace(step, layer=0) if step.kind is Kind.DIGITAL and step.layer < 0 else step for step in self.steps
        ]

    def add(self, node: ir.Node) -> None:
        site = site_of(node)
        if site is not None:
            self._add_layer(node, site)
        else:
            self._add_digital(node)

    def _add_layer(self, node: ir.Node, index: int) -> None:
        op = self.ops[index]
        source = node.inputs[0]
        producer = self.made.get(source.name or "") if source is not None else None
        grid = _layer_grid(op, node)
        reads: tuple[Read, ...] = ()
        if producer is not None and source is not None:
            given = self.steps[producer].grid
            reads = (Read(producer, _layer_needs(op, given, grid), given.width),)
        self.steps.append(Step(op.site.name, Kind.ANALOG, index, grid, reads=reads))
        groups, _, cols = op.matrix.codes.shape
        results = float(op.site.vectors * groups * cols)  # one pass through a lane scales, adds and quantises
        behind = Read(len(self.steps) - 1, same_place(grid.tokens), grid.width)
        name = f"{op.site.name}/{REQUANTISE}"
        self.steps.append(Step(name, Kind.REQUANTISE, index, grid, results / max(1, grid.tokens), (behind,)))
        self.made[node.outputs[0].name or ""] = len(self.steps) - 1

    def _add_digital(self, node: ir.Node) -> None:
        inputs = [
            (value, self.made[value.name or ""])
            for value in node.inputs
            if value is not None and constant_tensor(value) is None and (value.name or "") in self.made
        ]
        grid, needs = digital_grid(node, [(value, self.steps[stage].grid) for value, stage in inputs])
        reads = [
            Read(stage, need, self.steps[stage].grid.width) for (_, stage), need in zip(inputs, needs, strict=True)
        ]
        known = {stage for _, stage in inputs}
        for name in _captured(node):
            stage = self.made.get(name)
            if stage is not None and stage not in known:
                known.add(stage)
                given = self.steps[stage].grid
                reads.append(Read(stage, everything(given.tokens, grid.tokens), given.width))
        layer = next((self.steps[read.producer].layer for read in reads if self.steps[read.producer].layer >= 0), -1)
        operations = self.digital_ops.get(node.name or "", 0) / max(1, grid.tokens)
        index = len(self.steps)
        self.steps.append(Step(node.name or "", Kind.DIGITAL, layer, grid, operations, tuple(reads)))
        self.made.update((value.name or "", index) for value in node.outputs)


def _channels_of_readers(value: ir.Value, ops: Sequence[AnalogLayer]) -> Channels:
    """How a model's input comes in: a feature map where a convolution, or what works alike, reads it, else rows."""
    todo, seen = [value], set[ir.Node]()
    while todo:
        for user, _ in todo.pop(0).uses():
            if user in seen:
                continue
            seen.add(user)
            site = site_of(user)
            if site is not None:
                return Channels.FIRST if isinstance(ops[site].site.shape, ConvShape) else Channels.LAST
            if user.op_type in ("Conv", "MaxPool", "AveragePool", "GlobalAveragePool"):
                return Channels.FIRST
            todo += user.outputs
    return Channels.LAST


def _layer_grid(op: AnalogLayer, node: ir.Node) -> Grid:
    """The tokens of a layer: one a vector."""
    channels = Channels.FIRST if isinstance(op.site.shape, ConvShape) else Channels.LAST
    groups, _, cols = op.matrix.codes.shape
    shape = sample_shape(node.outputs[0])
    grid = grid_of(shape, channels) if shape is not None else whole(groups * cols)
    if grid.tokens == op.site.vectors:
        return Grid(grid.sizes, channels, groups * cols)
    return Grid((op.site.vectors,), Channels.ALL, groups * cols)


def _layer_needs(op: AnalogLayer, given: Grid, grid: Grid) -> Needs:
    """What the vectors of a layer read of its input."""
    if isinstance(op.site.shape, ConvShape):
        conv, rank = op.site.shape, len(op.site.shape.kernel)
        if given.channels is Channels.FIRST and len(given.sizes) == len(grid.sizes) == rank:
            axes = [Window(conv.kernel[i], conv.strides[i], conv.dilations[i], conv.pads[i]) for i in range(rank)]
            return windows(given.sizes, grid.sizes, axes)
    elif given.like(grid) and not op.site.shape.batch:
        return same_place(grid.tokens)
    return everything(given.tokens, grid.tokens)


def _captured(node: ir.Node) -> Iterator[str]:
    """Names of the values that the subgraphs of a node read or give back."""
    for attribute in node.attributes.values():
        if attribute.type is ir.AttributeType.GRAPH:
            graph = attribute.as_graph()
            yield from (value.name or "" for value in graph.outputs)
            for inside in graph:
                yield from (value.name or "" for value in inside.inputs if value is not None)
                yield from _captured(inside)
