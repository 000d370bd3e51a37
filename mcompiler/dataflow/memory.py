"""Activation memory: how much every stream between stages must hold, in which tiles it lies, and whether it fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mcompiler.dataflow.grids import Indices
from mcompiler.dataflow.stages import Step
from mcompiler.dataflow.timing import Edge, Stage, waiting
from mcompiler.errors import CompileError
from mcompiler.geometry import TileTable
from mcompiler.ir import AnalogLayer, ConvShape, Stream
from mcompiler.target import Target


def streams(
    steps: Sequence[Step], stages: Sequence[Stage], starts: Sequence[Indices], interval: int
) -> tuple[Stream, ...]:
    """What waits between stages in a periodic schedule.

    A token waits from its arrival until the last token that reads it has been served.

    Args:
        steps, stages: of the network.
        starts: of every token of every stage.
        interval: clocks between two inferences.
    """
    found = []
    for index, (step, stage) in enumerate(zip(steps, stages, strict=True)):
        for edge in stage.edges:
            producer = stages[edge.producer]
            held = waiting(starts[edge.producer], producer, starts[index], stage, edge, interval)
            layer = step.layer if step.layer >= 0 else steps[edge.producer].layer
            found.append(
                Stream(
                    producer.name, step.name, layer, held, held * edge.token_bytes, _least(stages, index, edge),
                    edge.needs.window * edge.token_bytes,
                )
            )  # fmt: skip
    return tuple(found)


def _least(stages: Sequence[Stage], index: int, edge: Edge) -> int:
    """Fewest tokens that an edge must hold for its reader ever to go on.

    When the reader comes to a token, everything that this token waits for has been made, through whatever path; of the
    edge's tokens among it, those that are not read for the last time by an earlier one are still there.
    """
    needed = np.maximum.accumulate(_needed(stages, index, edge.producer))
    use = edge.needs.last_use
    if not len(needed) or not len(use):
        return 0
    kept = np.cumsum(use >= 0)  # tokens that are ever read, up to each
    made = np.where(needed >= 0, kept[np.maximum(needed, 0)], 0)
    gone = np.searchsorted(np.sort(use[use >= 0]), np.arange(len(needed)))
    return int((made - gone).max(initial=0))


def _needed(stages: Sequence[Stage], index: int, source: int) -> Indices:
    """The last token of ``source`` that each token of a stage waits for, through any path between them."""
    reach: dict[int, Indices] = {source: np.arange(stages[source].tokens, dtype=np.int64)}
    if len(stages[index].edges) == 1:
        return stages[index].edges[0].needs.last
    for at in range(source + 1, index + 1):
        for edge in stages[at].edges:
            if edge.producer in reach:
                through = np.concatenate([np.maximum.accumulate(reach[edge.producer]), [-1]])[edge.needs.last]
                reach[at] = np.maximum(reach.get(at, through), through)
    return reach[index]


@dataclass(frozen=True)
class TileMemory:
    """Activation memory of the tiles.

    Attributes:
        tiles: int32 [tiles in use, 2], chip and tile.
        bytes: [tiles in use], what lies there.
        spilled_bytes: what had to move to other tiles, by layer.
        spilled_far: the same times the links to where it moved.
    """

    tiles: npt.NDArray[np.int32]
    bytes: npt.NDArray[np.float64]
    spilled_bytes: dict[int, float]
    spilled_far: dict[int, float]


@dataclass(frozen=True)
class Holders:
    """Tiles that hold what waits for a layer.

    Attributes:
        readers, needs: numbers of tiles (chip * tiles per chip + tile) whose arrays read its input, and its part.
        makers, parts: tiles that make its results, and which part of them; parts add up to 1.
    """

    readers: npt.NDArray[np.int64]
    needs: npt.NDArray[np.float64]
    makers: npt.NDArray[np.int64]
    parts: npt.NDArray[np.float64]


def tile_memory(
    between: Sequence[Stream],
    names: Sequence[str],
    holders: Sequence[Holders],
    hops: Callable[[int, int], int],
    target: Target,
) -> TileMemory:
    """Lay the streams into the tiles of the layers that read them; what is too much for a tile goes to others.

    A tile holds of a layer's input what its arrays read; of what waits behind the arrays, what is made there.

    Args:
        between: what waits between stages.
        names: of the layers.
        holders: of each layer.
        hops: links between two tiles of a chip.
        target: the chip.

    Raises:
        CompileError: the chips' memory does not hold everything; names the layers and what is missing.
    """
    tiles = target.hierarchy.tiles_per_chip
    held: dict[tuple[int, int], float] = {}
    owners: dict[tuple[int, int], list[tuple[float, int]]] = {}
    for stream in between:
        if stream.layer < 0:
            continue
        where = holders[stream.layer]
        reads = stream.consumer == names[stream.layer]
        nodes, shares = (where.readers, where.needs) if reads else (where.makers, where.parts)
        for node, share in zip(nodes.tolist(), shares.tolist(), strict=True):
            key = divmod(node, tiles)
            held[key] = held.get(key, 0.0) + stream.bytes * share
            owners.setdefault(key, []).append((stream.bytes * share, stream.layer))
    spilled: dict[int, float] = {}
    far: dict[int, float] = {}
    if target.digital.buffer_bytes is not None:
        for (chip, tile), other, moved in _spill(held, owners, names, target):
            _charge(spilled, owners[chip, tile], moved)
            _charge(far, owners[chip, tile], moved * hops(tile, other))
    found = sorted(held)
    return TileMemory(
        np.array(found, dtype=np.int32).reshape(-1, 2), np.array([held[key] for key in found]), spilled, far
    )


def input_shares(op: AnalogLayer, table: TileTable) -> npt.NDArray[np.float64]:
    """Part of a layer's input that each array takes: its rows, or whole channels where its rows are out of order.

    Rows in ascending order are those of neighbouring channels; reordered ones may be of all of them.
    """
    shares: npt.NDArray[np.float64] = table["rows"] / max(1, len(op.matrix.rows.indices))
    if op.matrix.reorder is None or not op.matrix.reorder.row_bits or not isinstance(op.site.shape, ConvShape):
        return shares
    positions = int(np.prod(op.site.shape.kernel))
    groups, depth, _ = op.matrix.codes.shape
    for index in np.flatnonzero(table["groups"] == 1).tolist():
        first = int(table[index]["row"])
        rows = op.matrix.rows.of(int(table[index]["group"]))[first : first + int(table[index]["rows"])]
        shares[index] = len(np.unique(rows // positions)) * positions / (groups * depth)
    return shares


def _spill(
    held: dict[tuple[int, int], float],
    owners: dict[tuple[int, int], list[tuple[float, int]]],
    names: Sequence[str],
    target: Target,
) -> list[tuple[tuple[int, int], int, float]]:
    """Move what is too much for a tile to tiles of the same chip with room, the nearest number first.

    Returns:
        (chip and tile, other tile, bytes) of every move; ``held`` is changed.
    """
    size = target.digital.buffer_bytes
    assert size is not None
    moves: list[tuple[tuple[int, int], int, float]] = []
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
                raise CompileError(_too_little(chip, owners[chip, tile], held, names, size, target))
    return moves


def _charge(spilled: dict[int, float], owners: Sequence[tuple[float, int]], moved: float) -> None:
    """Book what moved on the layers whose tile it was, in proportion."""
    total = sum(part for part, _ in owners)
    for part, index in owners:
        spilled[index] = spilled.get(index, 0.0) + moved * part / total


def _too_little(
    chip: int,
    owners: Sequence[tuple[float, int]],
    held: dict[tuple[int, int], float],
    names: Sequence[str],
    size: int,
    target: Target,
) -> str:
    parts: dict[int, float] = {}
    for part, index in owners:
        parts[index] = parts.get(index, 0.0) + part
    most = sorted(parts, key=lambda index: -parts[index])[:3]
    largest = ", ".join(f"'{names[index]}' ({parts[index]:,.0f} B)" for index in most)
    need = sum(part for (where, _), part in held.items() if where == chip)
    return (
        f"activations need {need:,.0f} B on chip {chip} and its {target.hierarchy.tiles_per_chip} "
        f"{target.hierarchy.tile_name}s hold {size * target.hierarchy.tiles_per_chip:,} B; most of a full one belongs "
        f"to {largest}. Raise digital.buffer_bytes, use more chips, or smaller inputs"
    )


def check_depths(between: Sequence[Stream], target: Target) -> None:
    """Refuse streams that would stop the network for good, or hold it back.

    Raises:
        CompileError: names the two stages, what must wait between them, and the key to change.
    """
    limit = target.digital.fifo_bytes
    if limit is None:
        return
    for stream in between:
        token = stream.bytes / stream.tokens if stream.tokens else 0.0
        wait = f"of '{stream.producer}' must wait for '{stream.consumer}'"
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
