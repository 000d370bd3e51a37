"""The stages of a network and the tensors that flow between them, before anything is said about time or place.

Every analog layer is two stages: its arrays, and the digital unit that scales their sums, adds the bias and quantises
the results. Every digital node is one stage. The inputs of the model are stages that take no time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import ceil, prod

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.bodies import branches, holds_layers, scheduled_nodes
from mcompiler.dataflow.grids import Channels, Grid, Needs, Window, everything, same_place, single_token, windows
from mcompiler.dataflow.node_operations import renames
from mcompiler.dataflow.operations import layer_operations
from mcompiler.dataflow.operators import digital_grid, grid_of, sample_shape
from mcompiler.geometry import array_shape
from mcompiler.graph import constant_tensor, site_of
from mcompiler.ir import AnalogLayer, ConvShape, TiledProgram
from mcompiler.target import Target

OUTPUT = -1
"""Id that stands for the outputs of the model where a stage reads."""


class StageKind(StrEnum):
    """What works on the tokens of a stage."""

    INPUT = "input"
    ANALOG = "analog"
    REQUANTISE = "requantise"
    DIGITAL = "digital"


@dataclass(frozen=True)
class Transfer:
    """A tensor that a stage reads: the one statement of how many bytes flow from stage to stage.

    Attributes:
        producer: id of the stage that makes it.
        needs: which of its tokens are read when.
        tokens: per inference.
        width: elements of a token.
        bits: of an element, as the reader takes it.
        output: which output of the producer it is.
    """

    producer: int
    needs: Needs
    tokens: int
    width: float
    bits: int
    output: int = 0

    @property
    def tensor(self) -> tuple[int, int]:
        """Which tensor it is: its producer and output."""
        return self.producer, self.output

    @property
    def bytes(self) -> float:
        """Of the whole tensor, per inference."""
        return self.tokens * self.width * self.bits / 8

    @property
    def token_bytes(self) -> int:
        """Of one token in a memory."""
        return ceil(self.width * self.bits / 8)


@dataclass(frozen=True)
class NetworkStage:
    """What works on the tokens of one tensor.

    Attributes:
        id: position in its graph.
        kind: what works on them.
        name: of the node, for people; names may repeat.
        layer: number of the site whose tiles work on them: its own; of a digital node the last one that feeds it (the
            first of all for nodes that no layer feeds); -1 in a network without layers, and for inputs.
        grid: the tokens.
        operations: digital operations per inference.
        inputs: the tensors that it reads.
        read_bytes, written_bytes: of buffers, per inference, where it is a digital node: every tensor once. Layers read
            and write as their events say.
        node: position of its node among the ``scheduled_nodes`` of the skeleton; -1 for an input.
    """

    id: int
    kind: StageKind
    name: str
    layer: int
    grid: Grid
    operations: float = 0.0
    inputs: tuple[Transfer, ...] = ()
    read_bytes: float = 0.0
    written_bytes: float = 0.0
    node: int = -1


@dataclass(frozen=True)
class StageGraph:
    """The stages of a network.

    Attributes:
        stages: in topological order; the id of a stage is its position.
        outputs: tensors that leave the model.
    """

    stages: tuple[NetworkStage, ...]
    outputs: tuple[Transfer, ...]

    @property
    def transfers(self) -> Iterator[tuple[int, Transfer]]:
        """Every tensor that is read, with the id of its reader or OUTPUT."""
        for stage in self.stages:
            yield from ((stage.id, transfer) for transfer in stage.inputs)
        yield from ((OUTPUT, transfer) for transfer in self.outputs)

    def without(self, layers: frozenset[int]) -> StageGraph:
        """The same where stages of some layers have done their work before: their results are inputs."""
        stages = tuple(
            replace(stage, kind=StageKind.INPUT, layer=-1, operations=0.0, inputs=(), read_bytes=0.0, written_bytes=0.0)
            if stage.layer in layers
            else stage
            for stage in self.stages
        )
        return replace(self, stages=stages)

    def operations(self, layers: int) -> npt.NDArray[np.float64]:
        """Digital operations per inference of each layer and of the digital nodes at its tiles; last, of no layer."""
        work = np.zeros(layers + 1)
        for stage in self.stages:
            work[stage.layer] += stage.operations  # -1, no layer, is the last entry
        return work

    def columns(self) -> dict[int, int]:
        """Vectors in a row of the raster of each layer, where its vectors form one."""
        analog = (stage for stage in self.stages if stage.kind is StageKind.ANALOG and stage.grid.sizes)
        return {stage.layer: stage.grid.sizes[-1] for stage in analog}


@dataclass(frozen=True)
class DigitalWork:
    """Digital operations per inference.

    Attributes:
        nodes: of the nodes of the skeleton, by position.
        layers: after the arrays of each site.
    """

    nodes: Mapping[int, int]
    layers: Sequence[float]


def program_stages(program: TiledProgram, target: Target) -> StageGraph:
    """The stages of a program."""
    matrix, shape = program.matrix, array_shape(target)
    layer_work = [
        layer_operations(layer, table, shape, target)
        for layer, table in zip(matrix.layers, program.site_tables, strict=True)
    ]
    return stage_graph(matrix.lowered.skeleton, matrix.layers, DigitalWork(matrix.digital_ops, layer_work), target)


def stage_graph(
    skeleton: ir.Model, layers: Sequence[AnalogLayer], operations: DigitalWork, target: Target
) -> StageGraph:
    """The stages of a network in topological order.

    Args:
        skeleton: graph with a placeholder for each analog layer.
        layers: by number of site.
        operations: per inference.
        target: says how many bits digital units read and arrays add up.
    """
    builder = _Builder(layers, operations, target)
    for value in skeleton.graph.inputs:
        builder.add_input(value)
    for position, node in enumerate(scheduled_nodes(skeleton.graph)):
        builder.add(node, position)
    return builder.graph(skeleton.graph.outputs)


class _Builder:
    """Goes through the nodes in order; knows the stage that makes each value."""

    def __init__(self, layers: Sequence[AnalogLayer], operations: DigitalWork, target: Target) -> None:
        self.stages: list[NetworkStage] = []
        self.made: dict[str, int] = {}  # name of a value (unique in a graph) -> id of the stage that makes it
        self.layers, self.operations = layers, operations
        self.bits, self.sum_bits = target.precision.inputs, target.digital.accumulator_bits

    def add_input(self, value: ir.Value) -> None:
        channels = _channels_of_readers(value, self.layers)
        grid = grid_of(sample_shape(value), channels)
        self.made[value.name or ""] = self._append(StageKind.INPUT, value.name or "", grid)

    def add(self, node: ir.Node, position: int) -> None:
        site = site_of(node)
        if site is not None:
            self._add_layer(node, position, site)
        else:
            self._add_digital(node, position)

    def graph(self, outputs: Sequence[ir.Value]) -> StageGraph:
        """Everything that was added; digital nodes that no layer feeds work at the tiles of the first layer."""
        first = 0 if self.layers else -1
        stages = tuple(
            replace(stage, layer=first) if stage.kind is StageKind.DIGITAL and stage.layer < 0 else stage
            for stage in self.stages
        )
        leaving = {value.name or "": value for value in outputs if (value.name or "") in self.made}
        return StageGraph(
            stages, tuple(self._transfer(value, same_place(self._grid_of(value).tokens)) for value in leaving.values())
        )

    def _append(
        self,
        kind: StageKind,
        name: str,
        grid: Grid,
        *,
        layer: int = -1,
        operations: float = 0.0,
        inputs: Sequence[Transfer] = (),
        node: int = -1,
    ) -> int:
        stage = NetworkStage(
            id=len(self.stages),
            kind=kind,
            name=name,
            layer=layer,
            grid=grid,
            operations=operations,
            inputs=tuple(inputs),
            node=node,
        )
        self.stages.append(stage)
        return stage.id

    def _grid_of(self, value: ir.Value) -> Grid:
        return self.stages[self.made[value.name or ""]].grid

    def _transfer(self, value: ir.Value, needs: Needs, bits: int | None = None) -> Transfer:
        """What a reader takes of a value; further outputs of a node have their own number of elements."""
        grid, node = self._grid_of(value), value.producer()
        output = next((i for i, other in enumerate(node.outputs) if other is value), 0) if node is not None else 0
        return Transfer(
            producer=self.made[value.name or ""],
            needs=needs,
            tokens=grid.tokens,
            width=_token_width(value, grid, output),
            bits=self.bits if bits is None else bits,
            output=output,
        )

    def _written_bytes(self, node: ir.Node, grid: Grid) -> float:
        """Bytes per inference of the outputs of a node that anyone reads."""
        used = [(i, each) for i, each in enumerate(node.outputs) if each.uses() or each.is_graph_output()]
        return sum(grid.tokens * _token_width(value, grid, output) for output, value in used) * self.bits / 8

    def _add_layer(self, node: ir.Node, position: int, site: int) -> None:
        layer, source = self.layers[site], node.inputs[0]
        grid, name = _layer_grid(layer, node), layer.site.name
        inputs = []
        if source is not None and (source.name or "") in self.made:
            needs = _layer_needs(layer, self._grid_of(source), grid)
            inputs.append(self._transfer(source, needs, layer.site.input.bits))
        arrays = self._append(StageKind.ANALOG, name, grid, layer=site, inputs=inputs, node=position)
        sums = Transfer(
            producer=arrays,
            needs=same_place(grid.tokens),
            tokens=grid.tokens,
            width=grid.width,
            bits=self.sum_bits,
        )
        self.made[node.outputs[0].name or ""] = self._append(
            StageKind.REQUANTISE,
            f"{name}/requantise",
            grid,
            layer=site,
            operations=self.operations.layers[site],
            inputs=[sums],
            node=position,
        )

    def _add_digital(self, node: ir.Node, position: int) -> None:
        # Both branches of an If that holds layers are scheduled, as it is not known beforehand which one is taken.
        merged = [value for branch in branches(node) for value in branch.outputs] if holds_layers(node) else []
        read = [
            value
            for value in [*node.inputs, *merged]
            if value is not None and constant_tensor(value) is None and (value.name or "") in self.made
        ]
        grid, needs = digital_grid(node, [(value, self._grid_of(value)) for value in read])
        # A node that reads a value twice (x + x) takes it in once.
        found = {value.name or "": self._transfer(value, need) for value, need in zip(read, needs, strict=True)}
        for value in _captured(node) if not merged else ():
            if (value.name or "") in self.made and (value.name or "") not in found:
                given = self._grid_of(value)
                found[value.name or ""] = self._transfer(value, everything(given.tokens, grid.tokens))
        # A result is formed where the last of its inputs is: the earlier ones travel forward to it once, and no result
        # travels back. Were it formed at an earlier one, a chain of residual sums would be formed at its first layer.
        layer = max((self.stages[transfer.producer].layer for transfer in found.values()), default=-1)
        stage = self._append(
            StageKind.DIGITAL,
            node.name or "",
            grid,
            layer=layer,
            operations=float(self.operations.nodes.get(position, 0)),
            inputs=list(found.values()),
            node=position,
        )
        if not merged and not renames(node):
            self.stages[stage] = replace(
                self.stages[stage],
                read_bytes=sum(transfer.bytes for transfer in found.values()),
                written_bytes=self._written_bytes(node, grid),
            )
        self.made.update((value.name or "", stage) for value in node.outputs)


def _token_width(value: ir.Value, grid: Grid, output: int) -> float:
    """Elements of a token of an output of a node: outputs after the first have their own number of elements."""
    shape = sample_shape(value)
    return prod(shape) / max(1, grid.tokens) if output and shape is not None else grid.width


def _channels_of_readers(value: ir.Value, layers: Sequence[AnalogLayer]) -> Channels:
    """How an input of the model arrives: as a feature map where a convolution or a pool reads it, else as rows."""
    todo, seen = [value], set[ir.Node]()
    while todo:
        for user, _ in todo.pop(0).uses():
            if user in seen:
                continue
            seen.add(user)
            site = site_of(user)
            if site is not None:
                return Channels.FIRST if isinstance(layers[site].site.shape, ConvShape) else Channels.LAST
            if user.op_type in ("Conv", "MaxPool", "AveragePool", "GlobalAveragePool"):
                return Channels.FIRST
            todo += user.outputs
    return Channels.LAST


def _layer_grid(layer: AnalogLayer, node: ir.Node) -> Grid:
    """The tokens of a layer: one a vector."""
    channels = Channels.FIRST if isinstance(layer.site.shape, ConvShape) else Channels.LAST
    groups, _, cols = layer.matrix.codes.shape
    shape = sample_shape(node.outputs[0])
    grid = grid_of(shape, channels) if shape is not None else single_token(groups * cols)
    if grid.tokens == layer.site.vectors:
        return Grid(grid.sizes, channels, groups * cols)
    return Grid((layer.site.vectors,), Channels.ALL, groups * cols)


def _layer_needs(layer: AnalogLayer, given: Grid, grid: Grid) -> Needs:
    """The tokens of its input that the vectors of a layer read."""
    if isinstance(layer.site.shape, ConvShape):
        conv, rank = layer.site.shape, len(layer.site.shape.kernel)
        if given.channels is Channels.FIRST and len(given.sizes) == len(grid.sizes) == rank:
            axes = [Window(conv.kernel[i], conv.strides[i], conv.dilations[i], conv.pads[i]) for i in range(rank)]
            return windows(given.sizes, grid.sizes, axes)
    elif given.like(grid) and not layer.site.shape.batch:
        return same_place(grid.tokens)
    return everything(given.tokens, grid.tokens)


def _captured(node: ir.Node) -> Iterator[ir.Value]:
    """Values that the subgraphs of a node read or return."""
    for attribute in node.attributes.values():
        if attribute.type is ir.AttributeType.GRAPH:
            graph = attribute.as_graph()
            yield from graph.outputs
            for inside in graph:
                yield from (value for value in inside.inputs if value is not None)
                yield from _captured(inside)
