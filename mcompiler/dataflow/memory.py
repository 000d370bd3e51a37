"""Activation memory: how much every stream between stages must hold, in which tiles it lies, and whether it fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mcompiler.dataflow.grids import Indices
from mcompiler.dataflow.stages import StageGraph, StageKind
from mcompiler.dataflow.timing import Edge, StageRun, TimedStage, waiting
from mcompiler.errors import CompileError
from mcompiler.geometry import TileTable
from mcompiler.ir import AnalogLayer, ConvShape, Stream
from mcompiler.target import Target


def streams(graph: StageGraph, runs: Sequence[StageRun], interval: int) -> tuple[Stream, ...]:
    """Tokens that wait between stages in a periodic schedule.

    A token waits from its arrival until the last token that reads it has been served.

    Args:
        graph: the stages of the network.
        runs: the same with their durations, and the starts of their tokens.
        interval: clocks between two inferences.
    """
    stages = [run.stage for run in runs]
    between = []
    for stage, run in zip(graph.stages, runs, strict=True):
        for edge in run.stage.edges:
            held = waiting(runs[edge.producer], run, edge, interval)
            # Sums wait in the output registers of their arrays: no buffer is written or read for them.
            sums = stage.kind is StageKind.REQUANTISE
            layer = stage.layer if stage.layer >= 0 else graph.stages[edge.producer].layer
            between.append(
                Stream(
                    producer=edge.producer,
                    consumer=stage.id,
                    layer=-1 if sums else layer,
                    tokens=held,
                    bytes=held * edge.token_bytes,
                    least_tokens=_least(stages, stage.id, edge),
                    window_bytes=edge.needs.window * edge.token_bytes,
                )
            )
    return tuple(between)


def _least(stages: Sequence[TimedStage], index: int, edge: Edge) -> int:
    """Fewest tokens that an edge must hold, however slow its producer is: with less room the reader waits forever.

    Before the reader can start token j, the producer has made all tokens that j waits for, through any path. Of these
    the edge still holds the tokens whose last reader is j or later.
    """
    needed = np.maximum.accumulate(_needed(stages, index, edge.producer))
    use = edge.needs.last_use
    if not len(needed) or not len(use):
        return 0
    kept = np.cumsum(use >= 0)  # tokens that are ever read, up to each
    made = np.where(needed >= 0, kept[np.maximum(needed, 0)], 0)
    released = np.searchsorted(np.sort(use[use >= 0]), np.arange(len(needed)))  # last read by a token before j
    return int((made - released).max(initial=0))


def _needed(stages: Sequence[TimedStage], index: int, source: int) -> Indices:
    """The last token of ``source`` that each token of a stage waits for, through any path between them.

    A shortcut waits for the parallel branch: the branch decides how many tokens the producer has made when both meet.
    """
    reach: dict[int, Indices] = {source: np.arange(stages[source].tokens, dtype=np.int64)}
    if len(stages[index].edges) == 1:  # one path only
        return stages[index].edges[0].needs.last
    for at in range(source + 1, index + 1):
        for edge in stages[at].edges:
            if edge.producer in reach:
                # Tokens are made in order, hence the running maximum; the last entry is found by -1 (reads nothing).
                through = np.concatenate([np.maximum.accumulate(reach[edge.producer]), [-1]])[edge.needs.last]
                reach[at] = np.maximum(reach.get(at, through), through)
    return reach[index]


@dataclass(frozen=True)
class Move:
    """Activations that wait in another tile than that of their layer.

    Attributes:
        chip, tile, other: where they would be, and where they are.
        bytes: of them, by layer.
    """

    chip: int
    tile: int
    other: int
    bytes: Mapping[int, float]


@dataclass(frozen=True)
class TileMemory:
    """Activation memory of the tiles.

    Attributes:
        tiles: int32 [tiles in use, 2], chip and tile.
        bytes: [tiles in use], of the activations there.
        moves: activations that had to move to other tiles.
    """

    tiles: npt.NDArray[np.int32]
    bytes: npt.NDArray[np.float64]
    moves: tuple[Move, ...]

    @property
    def spilled_bytes(self) -> dict[int, float]:
        """Activations that had to move, by layer."""
        found: dict[int, float] = {}
        for move in self.moves:
            for layer, size in move.bytes.items():
                found[layer] = found.get(layer, 0.0) + size
        return dict(sorted(found.items()))


@dataclass(frozen=True)
class LayerBuffers:
    """Tiles that hold the tokens that wait for the arrays of a layer, and those that wait for its digital nodes.

    Attributes:
        readers, needs: numbers of tiles (chip * tiles per chip + tile) whose arrays read its input, and the part that
            each takes in.
        makers, parts: tiles that make its results, and the part that each makes; parts add up to 1.
    """

    readers: npt.NDArray[np.int64]
    needs: npt.NDArray[np.float64]
    makers: npt.NDArray[np.int64]
    parts: npt.NDArray[np.float64]


def tile_memory(
    between: Sequence[Stream],
    graph: StageGraph,
    buffers: Sequence[LayerBuffers],
    target: Target,
) -> TileMemory:
    """Put the streams into the tiles of the layers that read them; what does not fit into a tile goes to others.

    A tile holds the part of a layer's input that its arrays read, and the part of the results that is made there.

    Args:
        between: the streams between stages.
        graph: the stages.
        buffers: of each layer.
        target: the chip.

    Raises:
        CompileError: the chips' memory does not hold everything; names the layers and the missing bytes.
    """
    loads, tiles = _Loads(), target.hierarchy.tiles_per_chip
    for stream in between:
        if stream.layer < 0:
            continue
        where = buffers[stream.layer]
        arrays_read = graph.stages[stream.consumer].kind is StageKind.ANALOG
        nodes, shares = (where.readers, where.needs) if arrays_read else (where.makers, where.parts)
        for node, share in zip(nodes.tolist(), shares.tolist(), strict=True):
            loads.add(divmod(node, tiles), stream.bytes * share, stream.layer)
    moves: list[Move] = []
    if target.digital.buffer_bytes is not None:
        names = {stage.layer: stage.name for stage in graph.stages if stage.kind is StageKind.ANALOG}
        for tile, other, moved in _spill(loads, names, target.digital.buffer_bytes, target):
            moves.append(Move(*tile, other, {layer: moved * part for layer, part in loads.shares(tile).items()}))
    used = sorted(loads.held)
    held = np.array([loads.held[key] for key in used])
    return TileMemory(np.array(used, dtype=np.int32).reshape(-1, 2), held, tuple(moves))


@dataclass
class _Loads:
    """Bytes in each tile, by chip and tile, and the bytes of each layer that were put there first.

    Moves to other tiles change ``held`` only, so that ``shares`` are the same before and after them.
    """

    held: dict[tuple[int, int], float] = field(default_factory=dict)
    layers: dict[tuple[int, int], dict[int, float]] = field(default_factory=dict)

    def add(self, tile: tuple[int, int], size: float, layer: int) -> None:
        self.held[tile] = self.held.get(tile, 0.0) + size
        own = self.layers.setdefault(tile, {})
        own[layer] = own.get(layer, 0.0) + size

    def shares(self, tile: tuple[int, int]) -> dict[int, float]:
        """Part that each layer has of a tile; bytes that move are charged in these proportions."""
        total = sum(self.layers[tile].values())
        return {layer: size / total for layer, size in self.layers[tile].items()}


def input_shares(layer: AnalogLayer, table: TileTable) -> npt.NDArray[np.float64]:
    """Part of a layer's input that each array takes in: its rows, or whole channels where rows are reordered.

    Rows in ascending order belong to neighbouring channels; reordered ones may belong to any. A channel is read as a
    whole, however many of its rows (one a kernel position) an array holds.
    """
    shares: npt.NDArray[np.float64] = table["rows"] / max(1, len(layer.matrix.rows.indices))
    if layer.matrix.reorder is None or not layer.matrix.reorder.row_bits or not isinstance(layer.site.shape, ConvShape):
        return shares
    positions = int(np.prod(layer.site.shape.kernel))
    groups, depth, _ = layer.matrix.codes.shape
    for index in np.flatnonzero(table["groups"] == 1).tolist():
        first = int(table[index]["row"])
        rows = layer.matrix.rows.of(int(table[index]["group"]))[first : first + int(table[index]["rows"])]
        shares[index] = len(np.unique(rows // positions)) * positions / (groups * depth)
    return shares


def _spill(loads: _Loads, names: dict[int, str], size: int, target: Target) -> list[tuple[tuple[int, int], int, float]]:
    """Move what does not fit into a tile to tiles of the same chip with room, the nearest number first.

    Numbers follow the rows of the mesh: near in number is mostly near in links, and the order needs no search.

    Returns:
        (chip and tile, other tile, bytes) of every move; ``loads.held`` is changed.
    """
    moves: list[tuple[tuple[int, int], int, float]] = []
    held = loads.held
    for chip in sorted({chip for chip, _ in held}):
        room = {tile: size - held.get((chip, tile), 0.0) for tile in range(target.hierarchy.tiles_per_chip)}
        for tile in sorted(tile for tile, free in room.items() if free < 0):
            for other in sorted((t for t, free in room.items() if free > 0), key=lambda t: (abs(t - tile), t)):
                moved = min(-room[tile], room[other])
                room[tile] += moved
                room[other] -= moved
                held[chip, tile] -= moved
                held[chip, other] = held.get((chip, other), 0.0) + moved
                moves.append(((chip, tile), other, moved))
                if room[tile] >= 0:
                    break
            if room[tile] < 0:
                raise CompileError(_too_little(loads, (chip, tile), names, size, target))
    return moves


def _too_little(loads: _Loads, full: tuple[int, int], names: dict[int, str], size: int, target: Target) -> str:
    parts, chip = loads.layers[full], full[0]
    most = sorted(parts, key=lambda layer: -parts[layer])[:3]
    largest = ", ".join(f"'{names.get(layer, layer)}' ({parts[layer]:,.0f} B)" for layer in most)
    need = sum(part for (where, _), part in loads.held.items() if where == chip)
    return (
        f"activations need {need:,.0f} B on chip {chip} and its {target.hierarchy.tiles_per_chip} "
        f"{target.hierarchy.tile_name}s hold {size * target.hierarchy.tiles_per_chip:,} B; most of a full one belongs "
        f"to {largest}. Raise digital.buffer_bytes, use more chips, or smaller inputs"
    )


def check_depths(between: Sequence[Stream], graph: StageGraph, target: Target) -> None:
    """Refuse streams that would stop the network for good, or hold it back.

    Args:
        between: the streams between stages.
        graph: the stages.
        target: its FIFOs.

    Raises:
        CompileError: names the two stages, the tokens that must wait between them, and the key to change.
    """
    limit = target.digital.fifo_bytes
    if limit is None:
        return
    for stream in between:
        if graph.stages[stream.consumer].kind is StageKind.REQUANTISE:
            continue  # registers of the arrays, no FIFO
        token = stream.bytes / stream.tokens if stream.tokens else 0.0
        producer, consumer = (graph.stages[each].name for each in (stream.producer, stream.consumer))
        wait = f"of '{producer}' must wait for '{consumer}'"
        if stream.least_tokens * token > limit:
            raise CompileError(
                f"{stream.least_tokens:,} tokens {wait} ({stream.least_tokens * token:,.0f} B) or the network stops "
                f"for good, and a FIFO holds {limit:,} B; raise digital.fifo_bytes"
            )
        if stream.bytes > limit:
            raise CompileError(
                f"{stream.tokens:,} tokens {wait} ({stream.bytes:,.0f} B) at full rate, and a FIFO holds {limit:,} B; "
                f"raise digital.fifo_bytes"
            )
