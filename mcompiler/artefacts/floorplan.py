"""Floor plan: units of the chip coloured by layer, at the finest level that keeps the drawing small."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mcompiler.artefacts.layers import LayerData
from mcompiler.target import Hierarchy

UNITS_LIMIT = 4096
"""Largest number of units drawn, unused ones included; more arrays are drawn as cores, tiles or chips."""

_SIZE, _GAP = 7, 1  # of a unit, and between units; between the groups of a box the gap is four times as wide

Keys = npt.NDArray[np.int64]


@dataclass(frozen=True)
class UnitsPath:
    """Units of one layer in one box: an SVG path. ``layer`` is None for unused units."""

    layer: int | None
    path: str


@dataclass(frozen=True)
class Box:
    """One drawing: a tile, a chip, or all chips."""

    title: str
    width: int
    height: int
    shapes: tuple[UnitsPath, ...]


@dataclass(frozen=True)
class Group:
    """Drawings under one caption."""

    caption: str
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class FloorPlan:
    """The drawing.

    Attributes:
        unit: what one square stands for: "array", "chip", or the target's name of its cores or tiles.
        scale: magnification, larger for few units.
        groups: one per chip; a single one where a box is a chip or more.
        left_out: number of chips that are not drawn.
    """

    unit: str
    scale: int
    groups: tuple[Group, ...]
    left_out: int


def floor_plan(layers: Sequence[LayerData], hierarchy: Hierarchy) -> FloorPlan:
    """Draw the addresses of all layers; a shared unit has the colour of the layer with the most arrays in it."""
    sizes = (hierarchy.positions_per_core, hierarchy.cores_per_tile, hierarchy.tiles_per_chip)
    keys, owner = _keys(layers, hierarchy)
    chips = int(keys.max(initial=-1)) // math.prod(sizes) + 1
    tiles = len(np.unique(keys // (sizes[0] * sizes[1])))
    if tiles * sizes[0] * sizes[1] <= UNITS_LIMIT:
        unit, size, inner, per_box = "array", 1, sizes[0], sizes[0] * sizes[1]
    elif tiles * sizes[1] <= UNITS_LIMIT:
        unit, size, inner, per_box = hierarchy.core_name, sizes[0], 1, sizes[1]
    elif chips * sizes[2] <= UNITS_LIMIT:
        unit, size, inner, per_box = hierarchy.tile_name, sizes[0] * sizes[1], 1, sizes[2]
    else:
        unit, size, inner, per_box = "chip", math.prod(sizes), 1, max(1, min(chips, UNITS_LIMIT))
    units, colour = _dominant(keys // size, owner, len(layers))
    left_out = max(0, chips - UNITS_LIMIT) if unit == "chip" else 0
    if left_out:
        shown = np.searchsorted(units, per_box)
        units, colour = units[:shown], colour[:shown]
    boxes: dict[int, Box] = {}
    for box in np.unique(units // per_box).tolist():
        first, end = np.searchsorted(units, [box * per_box, (box + 1) * per_box])
        title = f"{hierarchy.tile_name} {box % sizes[2]}" if unit in ("array", hierarchy.core_name) else f"chip {box}"
        title = "all chips" if unit == "chip" else title
        boxes[box] = _box(title, units[first:end] % per_box, colour[first:end], per_box, inner)
    scale = 2 if len(boxes) * per_box <= UNITS_LIMIT // 8 else 1
    return FloorPlan(unit, scale, _groups(boxes, unit, keys, hierarchy), left_out)


def _keys(layers: Sequence[LayerData], hierarchy: Hierarchy) -> tuple[Keys, Keys]:
    """Address of every array as one number in mixed radix, and the index of its layer."""
    none = np.zeros((0, 4), np.int32)
    own = [layer.addresses if layer.shares is None else none for layer in layers]
    every = np.concatenate([none, *own]).astype(np.int64)
    chip, tile, core, position = every.T
    keys = ((chip * hierarchy.tiles_per_chip + tile) * hierarchy.cores_per_tile + core) * hierarchy.positions_per_core
    return keys + position, np.repeat(np.arange(len(layers)), [len(each) for each in own])


def _dominant(units: Keys, owner: Keys, layers: int) -> tuple[Keys, Keys]:
    """The units in use, ascending, and for each the layer with the most arrays in it (the first of several)."""
    pairs, number = np.unique(units * max(1, layers) + owner, return_counts=True)
    unit, layer = np.divmod(pairs, max(1, layers))
    order = np.lexsort((layer, -number, unit))
    used, first = np.unique(unit[order], return_index=True)
    return used, layer[order][first]


def _box(title: str, used: Keys, colour: Keys, count: int, inner: int) -> Box:
    """Draw ``count`` units in groups of ``inner``, both in nearly square grids."""
    outer = -(-count // inner)
    across, inside = math.ceil(math.sqrt(outer)), math.ceil(math.sqrt(inner))
    step = _SIZE + _GAP
    gap = 3 * _GAP if inner > 1 else 0
    wide, high = inside * step + gap, -(-inner // inside) * step + gap
    free = np.setdiff1d(np.arange(count), used)
    parts = [(None, free), *((layer, used[colour == layer]) for layer in np.unique(colour).tolist())]
    shapes = []
    for layer, units in parts:
        group, place = np.divmod(units, inner)
        x = (group % across) * wide + (place % inside) * step + _GAP
        y = (group // across) * high + (place // inside) * step + _GAP
        squares = zip(x.tolist(), y.tolist(), strict=True)
        if len(units):
            shapes.append(
                UnitsPath(layer, "".join(f"M{left} {top}h{_SIZE}v{_SIZE}h-{_SIZE}z" for left, top in squares))
            )
    return Box(title, across * wide - gap + _GAP, -(-outer // across) * high - gap + _GAP, tuple(shapes))


def _groups(boxes: dict[int, Box], unit: str, keys: Keys, hierarchy: Hierarchy) -> tuple[Group, ...]:
    """Boxes by chip with a caption of the arrays in use; one group where a box is a chip or more."""
    per_tile = hierarchy.positions_per_core * hierarchy.cores_per_tile
    if unit not in ("array", hierarchy.core_name):
        return (Group("", tuple(boxes.values())),) if boxes else ()
    groups = []
    for chip in sorted({box // hierarchy.tiles_per_chip for box in boxes}):
        mine = keys[keys // hierarchy.arrays_per_chip == chip]
        tiles = len(np.unique(mine // per_tile))
        caption = (
            f"chip {chip}: {len(mine):,} of {hierarchy.arrays_per_chip:,} arrays, in {tiles:,} of "
            f"{hierarchy.tiles_per_chip:,} {hierarchy.tile_name}s"
        )
        inside = tuple(box for key, box in boxes.items() if key // hierarchy.tiles_per_chip == chip)
        groups.append(Group(caption, inside))
    return tuple(groups)
