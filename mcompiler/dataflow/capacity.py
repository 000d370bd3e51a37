"""What digital units and buffers of tiles do for one inference, and how short the interval can be for it.

The work of a layer, and of the digital nodes at its tiles, is spread over these tiles in proportion to the arrays that
they hold; work of no layer is done by one tile.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mcompiler.dataflow.durations import SLACK, clocks
from mcompiler.dataflow.events import buffer_bytes
from mcompiler.dataflow.stages import StageGraph, StageKind
from mcompiler.ir import TiledProgram
from mcompiler.target import Target

Floats = npt.NDArray[np.float64]
Addresses = Sequence[npt.NDArray[np.int32]]

NO_TILE = (-1, -1)
"""Stands for the tile that does the work of no layer."""


@dataclass(frozen=True)
class TileLoads:
    """Work per inference of the tiles in use.

    Attributes:
        tiles: int64 [tiles, 2], chip and tile, in ascending order; NO_TILE where there is work of no layer.
        operations: of their digital units, [tiles].
        bytes: that their buffers read and write, [tiles].
    """

    tiles: npt.NDArray[np.int64]
    operations: Floats
    bytes: Floats

    def with_bytes(self, more: Mapping[tuple[int, int], float]) -> TileLoads:
        """The same with more bytes in some buffers, by chip and tile."""
        found = {(chip, tile): size for (chip, tile), size in zip(self.tiles.tolist(), self.bytes, strict=True)}
        found |= {tile: size + found.get(tile, 0.0) for tile, size in more.items()}
        work = dict(zip(map(tuple, self.tiles.tolist()), self.operations.tolist(), strict=True))
        tiles = sorted(found)
        return TileLoads(
            np.array(tiles, dtype=np.int64).reshape(-1, 2),
            np.array([work.get(tile, 0.0) for tile in tiles]),
            np.array([found[tile] for tile in tiles]),
        )

    def seconds(self, target: Target) -> tuple[Floats, Floats]:
        """Seconds per inference that each digital unit and each buffer work, [tiles] each."""
        return self.operations / unit_rate(target), self.bytes / buffer_rate(target)

    def bounds(self, target: Target) -> dict[str, float]:
        """Seconds per inference of the busiest digital unit and of the busiest buffer."""
        units, buffers = self.seconds(target)
        return {"digital": float(units.max(initial=0.0)), "buffer": float(buffers.max(initial=0.0))}


@dataclass(frozen=True)
class TileWork:
    """Work per inference by the layer at whose tiles it is done, [layers + 1]; last, of no layer.

    Attributes:
        operations: of digital units.
        bytes: read from and written to buffers.
    """

    operations: Floats
    bytes: Floats

    def at(self, addresses: Addresses) -> TileLoads:
        """The work of each tile, with arrays at these addresses, copies included, layer by layer."""
        keys, parts = [np.zeros(0, np.int64)], [np.zeros((0, 2))]
        work = np.stack([self.operations, self.bytes], axis=1)
        alone = work[-1].copy()
        for own, where in zip(work, addresses, strict=False):
            if not len(where):
                alone += own
                continue
            found, counts = np.unique(where[:, 0].astype(np.int64) << 32 | where[:, 1], return_counts=True)
            keys.append(found)
            parts.append(np.outer(counts / len(where), own))
        every, which = np.unique(np.concatenate(keys), return_inverse=True)
        loads = np.zeros((len(every), 2))
        np.add.at(loads, which.reshape(-1), np.concatenate(parts))
        tiles = np.stack([every >> 32, every & 0xFFFFFFFF], axis=1)
        if alone.any():
            tiles, loads = np.concatenate([[NO_TILE], tiles]), np.concatenate([alone[None], loads])
        return TileLoads(tiles, loads[:, 0], loads[:, 1])

    def bounds(self, addresses: Addresses, target: Target) -> dict[str, float]:
        """Seconds per inference of the busiest digital unit and the busiest buffer."""
        return self.at(addresses).bounds(target)

    def unit_clocks(self, target: Target) -> Floats:
        """Clocks of a single digital unit or a single buffer, whichever takes longer, by layer: [layers + 1]."""
        seconds = np.maximum(self.operations / unit_rate(target), self.bytes / buffer_rate(target))
        return np.asarray(seconds * target.digital.clock_hz, dtype=np.float64)

    def least_clocks(self, units: int, target: Target) -> int:
        """Clocks below which no placement comes: all tiles work all the time, one of them for what has no layer.

        Args:
            units: tiles.
            target: the chip.
        """
        seconds = max(self.operations.sum() / unit_rate(target), self.bytes.sum() / buffer_rate(target)) / units
        return max(clocks(float(seconds), target), math.ceil(float(self.unit_clocks(target)[-1]) - SLACK))


def tile_work(program: TiledProgram, graph: StageGraph, target: Target) -> TileWork:
    """The work of the layers and digital nodes of a graph.

    Args:
        program: with the tables of the arrays.
        graph: its stages; layers that are inputs there work elsewhere.
        target: the chip.
    """
    layers = program.matrix.layers
    moved = np.zeros(len(layers) + 1)
    here = {stage.layer for stage in graph.stages if stage.kind is StageKind.ANALOG}
    for index, (layer, table) in enumerate(zip(layers, program.site_tables, strict=True)):
        if index in here:
            moved[index] = sum(buffer_bytes(layer, table, target))
    for stage in graph.stages:
        moved[stage.layer] += stage.read_bytes + stage.written_bytes  # -1, no layer, is the last entry
    return TileWork(graph.operations(len(layers)), moved)


def unit_rate(target: Target) -> float:
    """Operations per second of the digital unit of a tile."""
    return target.digital.operations_per_cycle * target.digital.clock_hz


def buffer_rate(target: Target) -> float:
    """Bytes per second of the buffer of a tile; infinite where the target states none."""
    rate = target.digital.buffer_bytes_per_s
    return float("inf") if rate is None else rate
