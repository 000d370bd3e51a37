"""Activations that wait in other tiles than those of their layer: what they cost on links and in buffers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mcompiler.dataflow import Dataflow, LayerBuffers, TileLoads, tile_memory
from mcompiler.ir import Stream
from mcompiler.network.topology import topology_of
from mcompiler.target import Target


@dataclass(frozen=True)
class Spills:
    """Activations in the tiles of others, by layer, and what they do in one inference.

    Attributes:
        bytes: that wait there.
        byte_hops: bytes times links, there and back, per inference.
        busiest_link_bytes: of the link between tiles that carries most of them, in one direction.
        tile_bytes: that the buffers of other tiles write and read for them, by chip and tile.
    """

    bytes: Mapping[int, float]
    byte_hops: Mapping[int, float]
    busiest_link_bytes: float
    tile_bytes: Mapping[tuple[int, int], float]

    def bounds(
        self, limits: Mapping[str, float], loads: TileLoads, link_bytes: float, target: Target
    ) -> dict[str, float]:
        """Shortest intervals in seconds with these activations under way; a little long where several links are full.

        Args:
            limits: without them.
            loads: of the tiles, without them.
            link_bytes: of the busiest link, without them.
            target: the chip.
        """
        network = target.network
        link = (link_bytes + self.busiest_link_bytes) * 8 / (network.link_bits * network.clock_hz)
        more = loads.with_bytes(self.tile_bytes).bounds(target)["buffer"]
        return dict(limits) | {"link": max(limits["link"], link), "buffer": max(limits["buffer"], more)}


def spills(waiting: Sequence[Stream], flow: Dataflow, buffers: Sequence[LayerBuffers], target: Target) -> Spills:
    """What does not fit into the tiles of its layer.

    Args:
        waiting: the streams between stages.
        flow: the schedule.
        buffers: of each layer.
        target: the chip.
    """
    memory, net = tile_memory(waiting, flow.graph, buffers, target), topology_of(target)
    through: dict[int, float] = {}
    for layer in memory.spilled_bytes:
        own = [stream for stream in waiting if stream.layer == layer and stream.tokens]
        # All tokens of an inference go the way that those which wait at once are spread over.
        passed = sum(stream.bytes / stream.tokens * flow.runs[stream.producer].stage.tokens for stream in own)
        through[layer] = passed / sum(stream.bytes for stream in own)
    far: dict[int, float] = {}
    tiles: dict[tuple[int, int], float] = {}
    sizes = np.zeros(len(memory.moves))
    for number, move in enumerate(memory.moves):
        links = int(net.hops(np.array([move.tile]), np.array([move.other]))[0])
        for layer, size in move.bytes.items():
            far[layer] = far.get(layer, 0.0) + 2 * size * links * through[layer]
            sizes[number] += size * through[layer]
        tiles[move.chip, move.other] = tiles.get((move.chip, move.other), 0.0) + 2 * float(sizes[number])
    busiest, chips = 0.0, np.array([move.chip for move in memory.moves])
    for chip in np.unique(chips).tolist():
        own_moves = [(move.tile, move.other) for move in memory.moves if move.chip == chip]
        there, back = np.array(own_moves).T
        both = np.concatenate([there, back]), np.concatenate([back, there])
        busiest = max(busiest, float(net.loads(*both, np.tile(sizes[chips == chip], 2)).max(initial=0.0)))
    return Spills(memory.spilled_bytes, far, busiest, tiles)
