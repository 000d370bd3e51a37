"""What flows over the links of a chip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mcompiler.geometry import array_shape
from mcompiler.ir import PlacedProgram
from mcompiler.target import Target


@dataclass(frozen=True)
class LayerTraffic:
    """Bytes times links and bytes between chips per inference, and links that the farthest word crosses."""

    link_byte_hops: float
    chip_bytes: float
    hops: int
    chip_hops: int


@dataclass(frozen=True)
class Traffic:
    """Of every layer, and in all."""

    layers: tuple[LayerTraffic, ...]
    byte_hops: float
    chip_bytes: float
    busiest_link_bytes: float
    busiest_chip_bytes: float
    lower_bound_byte_hops: float


def traffic(program: PlacedProgram, target: Target) -> Traffic:
    """Between a layer's first tile and its others."""
    shape = array_shape(target)
    rows = []
    tiled = program.analog.tiled
    for op, table, where in zip(tiled.matrix.ops, tiled.tables, program.addresses, strict=True):
        tiles, addresses = table[:: shape.arrays_per_tile], where[: len(table) : shape.arrays_per_tile]
        if not len(tiles):
            rows.append(LayerTraffic(0.0, 0.0, 0, 0))
            continue
        home = addresses[0]
        sums = tiles["cols"] * np.ceil(target.digital.accumulator_bits / 8)
        moved = op.vectors * (tiles["rows"] * op.input.bits / 8 + sums)
        hops = _hops(home[1], addresses[:, 1], target)
        same = addresses[:, 0] == home[0]
        link, chip = float((moved * hops * same).sum()), float((moved * ~same).sum())
        rows.append(LayerTraffic(link, chip, int((hops * same).max()), int((~same).any())))
    return Traffic(tuple(rows), sum(r.link_byte_hops for r in rows), sum(r.chip_bytes for r in rows), 0.0, 0.0, 0.0)


def _hops(home: np.int32, tiles: npt.NDArray[np.int32], target: Target) -> npt.NDArray[np.float64]:
    """Links crossed between two tiles of a chip."""
    if target.network.topology == "bus":
        elsewhere: npt.NDArray[np.bool_] = np.not_equal(tiles, home)
        return elsewhere.astype(np.float64)
    if target.network.topology == "htree":
        levels: npt.NDArray[np.float64] = np.ceil(np.log2(np.bitwise_xor(tiles, home) + 1.0))
        return 2.0 * levels
    side = int(np.ceil(np.sqrt(target.hierarchy.tiles_per_chip)))
    steps: npt.NDArray[np.int32] = np.abs(tiles // side - home // side) + np.abs(tiles % side - home % side)
    return steps.astype(np.float64)
