"""A crossbar in numpy, written from the arithmetic of the design alone: cells and input codes in, accumulators out.

It reads a build's cells and the facts of its layers (which rows and columns stand where, shift, flips, gain), and
shares no decoder with the compiler. Everything up to the converters' codes is integer arithmetic, so that roundings at
half a step are what they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.artefacts import LayerData
from mcompiler.driver import Build
from mcompiler.ir import ConvShape
from mcompiler.target import Target

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


# --- the target, in the words of the design --------------------------------------------------------------------------


@dataclass(frozen=True)
class Chip:
    """What the arithmetic needs of a target.

    Attributes:
        cell_bits, slices: bits of a cell, cells (or pairs) of a weight.
        adjacent: which slices and polarities share an array, as (slices, polarities) counts.
        pair: "" for weights without pairs, else where a pair is subtracted: "before" or "after" the converter.
        polarised: a code is multiplied by the sign of its read and column.
        steps: conductance of each stored level above that of the lowest one, in the unit of the weight codes.
        pedestal: conductance of the lowest stored level in that unit.
        single: products with the gain are rounded to float32 (they are exact otherwise).
        goes: where the pedestal goes, as the target names it.
        unit: whether a unit column sums the inputs (offset weights).
        reference: whether a column of G_min cells stands beside the others.
        phase_bits, converter_bits, half_up, rows_active, columns: as the target says.
    """

    cell_bits: int
    slices: int
    adjacent: tuple[int, int]
    pair: str
    polarised: bool
    steps: tuple[int, ...]
    pedestal: Fraction
    single: bool
    goes: str
    unit: bool
    reference: bool
    phase_bits: int
    converter_bits: int
    half_up: bool
    rows_active: int
    columns: int


def chip(target: Target) -> Chip:
    """Read a target."""
    encoding, device = target.encoding, target.device
    pair = encoding.subtract.removesuffix("_adc") if encoding.weights == "differential" else ""
    ratio = Fraction(repr(device.g_max_siemens)) / Fraction(repr(device.g_min_siemens))
    steps, pedestal = tuple(range(device.levels)), (device.levels - 1) / (ratio - 1)
    unformed = encoding.partner.value == "unformed"
    if device.level_means is not None or unformed:  # in units of 1 / 4096 of the range
        lowest = 4096 / (ratio - 1)
        nominal = [Fraction(4096 * level, device.levels - 1) for level in range(device.levels)]
        means = nominal if device.level_means is None else [Fraction(mean) for mean in device.level_means]
        if unformed:
            steps, pedestal = (0, *(round(lowest + mean) for mean in means)), Fraction(0)
        else:
            steps, pedestal = tuple(int(mean - means[0]) for mean in means), lowest + means[0]
    polarities = 2 if pair else 1
    return Chip(
        cell_bits=int(math.log2(device.levels)),
        slices=encoding.slices,
        adjacent=(
            encoding.slices if encoding.slices_in.value == "adjacent" else 1,
            polarities if encoding.pairs_in.value == "adjacent" else 1,
        ),
        pair=pair,
        polarised=encoding.weights == "polarised",
        steps=steps,
        pedestal=pedestal,
        single=device.level_means is not None or unformed,
        goes=encoding.pedestal.value,
        unit=encoding.weights == "offset" and encoding.input_sum == "unit_column",
        reference=encoding.pedestal.value in ("reference_column", "digitised_reference"),
        phase_bits=target.converters.dac.bits,
        converter_bits=target.converters.adc.bits,
        half_up=target.converters.adc.rounding.value == "half_up",
        rows_active=target.array.rows_active,
        columns=target.array.columns,
    )


# --- input vectors ---------------------------------------------------------------------------------------------------


def vectors(codes: npt.NDArray[Any], layer: LayerData) -> Ints:
    """Input codes as vectors [V, G, K]; a convolution's windows are padded with the zero point."""
    codes = codes.astype(np.int64)
    groups, rows, _ = layer.op.matrix.codes.shape
    conv = layer.op.site.shape
    if isinstance(conv, ConvShape):
        rank = len(conv.kernel)
        edges = [(0, 0), (0, 0), *zip(conv.pads[:rank], conv.pads[rank:], strict=True)]
        padded = np.pad(codes, edges, constant_values=layer.op.site.input.zero_point)
        return windows(padded, conv).reshape(-1, groups, rows)
    if not conv.batch:
        return codes.reshape(-1, 1, rows)
    whole = np.broadcast_to(codes, (*np.broadcast_shapes(codes.shape[:-2], conv.batch), *codes.shape[-2:]))
    extra = whole.ndim - 2 - len(conv.batch)
    apart = whole.reshape(-1, groups, *whole.shape[-2:]) if extra >= 0 else whole
    return apart.transpose(0, 2, 1, 3).reshape(-1, groups, rows)  # [outer, M, G, K]


def windows(padded: Ints, conv: ConvShape) -> Ints:
    """Windows of a padded input [B, C, *sizes] as [B, *positions, C, *kernel]."""
    rank = len(conv.kernel)
    outs = output_sizes(padded.shape[2:], conv)
    found = np.empty((len(padded), *outs, padded.shape[1], *conv.kernel), dtype=np.int64)
    for place in np.ndindex(*outs):
        cut = tuple(
            slice(
                place[a] * conv.strides[a],
                place[a] * conv.strides[a] + conv.dilations[a] * (conv.kernel[a] - 1) + 1,
                conv.dilations[a],
            )
            for a in range(rank)
        )
        found[(slice(None), *place)] = padded[(slice(None), slice(None), *cut)]
    return found


def output_sizes(padded: tuple[int, ...], conv: ConvShape) -> tuple[int, ...]:
    """Positions of a kernel on a padded input."""
    return tuple(
        (size - conv.dilations[a] * (conv.kernel[a] - 1) - 1) // conv.strides[a] + 1 for a, size in enumerate(padded)
    )


def in_place(sums: npt.NDArray[Any], codes: npt.NDArray[Any], layer: LayerData) -> npt.NDArray[Any]:
    """Sums [V, G, N] where the operation puts them."""
    groups, _, cols = layer.op.matrix.codes.shape
    conv = layer.op.site.shape
    if isinstance(conv, ConvShape):
        rank = len(conv.kernel)
        sizes = output_sizes(tuple(n + conv.pads[a] + conv.pads[a + rank] for a, n in enumerate(codes.shape[2:])), conv)
        return np.moveaxis(sums.reshape(len(codes), *sizes, groups * cols), -1, 1)
    if not conv.batch:
        return sums.reshape(*codes.shape[:-1], cols)
    lead = np.broadcast_shapes(codes.shape[:-2], conv.batch)
    apart = sums.reshape(-1, codes.shape[-2], groups, cols).transpose(0, 2, 1, 3)
    return apart.reshape(*lead, codes.shape[-2], cols)


def exact(codes: npt.NDArray[Any], weights: npt.NDArray[Any], layer: LayerData) -> Ints:
    """Sum over k of (q_x - z_x) q_w in int64, with weights [G, K, N]."""
    centred = vectors(codes, layer) - layer.op.site.input.zero_point
    return in_place(np.einsum("vgk,gkn->vgn", centred, weights.astype(np.int64)), codes, layer)


# --- the array -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tile:
    """One array position: its live word lines and output channels as (group, index) pairs, and its arrays.

    Attributes:
        rows, columns: [n, 2] in the order of the word lines and of the weights' columns.
        lines: for each slice and polarity (array of levels [live, channels], flipped bool [channels]).
        signs: for each slice and polarity [reads, channels], -1 where the code of a read counts negative.
        zooms: for each slice and polarity [channels], binary steps by which the converter's range is finer.
        unit: levels of the unit column, or None.
    """

    rows: Ints
    columns: Ints
    lines: dict[tuple[int, int], tuple[Ints, npt.NDArray[np.bool_]]]
    signs: dict[tuple[int, int], Ints]
    zooms: dict[tuple[int, int], Ints]
    unit: Ints | None


def tiles(build: Build, layer: LayerData) -> Iterator[Tile]:
    """The array positions of a layer, from its cells (``Build.all_cells`` gives what ``Build.cells`` gives)."""
    about = chip(build.target)
    table = layer.table
    steps = np.array(about.steps)
    cells = [steps[levels] for levels in build.all_cells(layer.op.site.name)]
    for position in np.unique(table["tile"]):
        arrays = np.flatnonzero(table["tile"] == position)
        first = table[arrays[0]]
        rows, columns = _held(first, layer)
        lines, signs, zooms = {}, {}, {}
        unit = None
        for array in arrays:
            levels = cells[array][: len(rows)]
            flips = layer.analog.flips[array]
            polarities = (1, -1) if about.pair else (1,)
            own = polarities if table[array]["polarity"] == 0 else (int(table[array]["polarity"]),)
            slices = range(about.slices) if table[array]["slice"] < 0 else (int(table[array]["slice"]),)
            lines_of = [(piece, sign) for sign in own for piece in slices]  # polarity outermost, lowest slice first
            for place, key in enumerate(lines_of):
                at = len(lines_of) * np.arange(len(columns)) + place
                lines[key] = (levels[:, at], flips[at])
                zoom = layer.analog.zoom
                zooms[key] = np.zeros(len(columns), np.int64) if zoom is None else zoom[array][at].astype(np.int64)
                signs[key] = np.ones((-(-len(rows) // about.rows_active), len(columns)), dtype=np.int64)
                if about.polarised:
                    assert layer.analog.signs is not None
                    signs[key] = 1 - 2 * layer.analog.signs[array][: len(signs[key]), : len(columns)].astype(np.int64)
            if about.unit:
                unit = levels[:, about.columns]
        yield Tile(rows, columns, lines, signs, zooms, unit)


def _held(tile: np.void, layer: LayerData) -> tuple[Ints, Ints]:
    """Which rows and columns of the matrices stand in a tile: a block of one group, or whole groups on its diagonal."""
    group, groups = int(tile["group"]), int(tile["groups"])
    if groups == 1:
        rows = layer.op.matrix.rows.of(group)[int(tile["row"]) :][: int(tile["rows"])]
        columns = layer.op.matrix.cols.of(group)[int(tile["col"]) :][: int(tile["cols"])]
        return _pairs([(group, rows)]), _pairs([(group, columns)])
    members = range(group, group + groups)
    return _pairs([(g, layer.op.matrix.rows.of(g)) for g in members]), _pairs(
        [(g, layer.op.matrix.cols.of(g)) for g in members]
    )


def _pairs(parts: list[tuple[int, Ints]]) -> Ints:
    return np.concatenate([np.stack([np.full(len(indices), group), indices], axis=1) for group, indices in parts])


def weights(build: Build, layer: LayerData) -> Ints:
    """The codes [G, K, N] that the cells hold; zero where no cell stands."""
    about = chip(build.target)
    found = np.zeros(layer.op.matrix.codes.shape, dtype=np.int64)
    full = (1 << about.cell_bits) - 1
    for tile in tiles(build, layer):
        total = np.zeros((len(tile.rows), len(tile.columns)), dtype=np.int64)
        for (piece, sign), (levels, flipped) in tile.lines.items():
            own_sign = np.repeat(tile.signs[piece, sign], about.rows_active, axis=0)[: len(tile.rows)]
            total += sign * own_sign * (np.where(flipped, full - levels, levels) << (about.cell_bits * piece))
        total -= layer.analog.shift
        own = tile.rows[:, None, 0] == tile.columns[None, :, 0]  # off the diagonal of a packed array stands code 0
        assert not total[~own].any()
        for (group, row), values, mine in zip(tile.rows, total, own, strict=True):
            found[group, row, tile.columns[mine, 1]] = values[mine]
    return found


def accumulators(build: Build, layer: LayerData, codes: npt.NDArray[Any], about: Chip | None = None) -> Floats:
    """What the arrays and converters of a layer make of its input codes: accumulators in their place in the graph."""
    about = chip(build.target) if about is None else about
    q = vectors(codes, layer)
    groups, _, cols = layer.op.matrix.codes.shape
    sums = np.zeros((len(q), groups, cols))
    phases = -(-layer.op.site.input.bits // about.phase_bits)
    for tile in tiles(build, layer):
        driven = q[:, tile.rows[:, 0], tile.rows[:, 1]]  # [V, word lines]
        part = np.zeros((len(q), len(tile.columns)))
        for which, start in enumerate(range(0, len(tile.rows), about.rows_active)):
            lines = slice(start, start + about.rows_active)
            for phase in range(phases):
                plane = (driven[:, lines] >> (phase * about.phase_bits)) & ((1 << about.phase_bits) - 1)
                part += _read(plane, tile, lines, which, about, layer) * (1 << (phase * about.phase_bits))
        for column, (group, index) in enumerate(tile.columns):
            sums[:, group, index] += part[:, column]
    sums -= layer.op.site.input.zero_point * weights(build, layer).sum(axis=1)
    return in_place(sums, codes, layer)


def full_scale(build: Build, layer: LayerData, codes: npt.NDArray[Any]) -> float:
    """Sum of |code| over full scale of one vector's conversions, unit and reference columns left out: the mean."""
    about = chip(build.target)
    q, total = vectors(codes, layer), 0.0
    top = (1 << (about.converter_bits - 1)) if about.pair == "before" else (1 << about.converter_bits) - 1
    for tile in tiles(build, layer):
        driven = q[:, tile.rows[:, 0], tile.rows[:, 1]]
        for start in range(0, len(tile.rows), about.rows_active):
            lines = slice(start, start + about.rows_active)
            for phase in range(-(-layer.op.site.input.bits // about.phase_bits)):
                plane = (driven[:, lines] >> (phase * about.phase_bits)) & ((1 << about.phase_bits) - 1)
                count = plane.sum(axis=1, keepdims=True) * (about.goes != "reference_column")
                for (piece, sign), (levels, _) in tile.lines.items():
                    sums, zoom = plane @ levels[lines], tile.zooms[piece, sign]
                    if about.pair == "before":
                        if sign < 0:
                            continue
                        sums, count = sums - plane @ tile.lines[piece, -1][0][lines], 0 * count
                    found = _converted(sums, count, about, layer, zoom) * layer.analog.gain * 2.0**zoom
                    total += float(np.abs(found).sum()) / top
    return total / len(q)


def _read(plane: Ints, tile: Tile, lines: slice, which: int, about: Chip, layer: LayerData) -> Floats:
    """One phase of read ``which``: [V, channels]."""
    count = plane.sum(axis=1, keepdims=True)
    total = np.zeros((len(plane), len(tile.columns)))
    if about.pair:
        for piece in range(about.slices):
            plus, minus = (plane @ tile.lines[piece, sign][0][lines] for sign in (1, -1))
            zoom = [tile.zooms[piece, sign] for sign in (1, -1)]
            if about.pair == "before":
                assert (zoom[0] == zoom[1]).all(), "one conversion has one range"
                value = _converted(plus - minus, 0 * count, about, layer, zoom[0])
            else:  # the pedestal of both ends goes with the subtraction, unless it never reaches the converters
                clean = 0 if about.goes == "reference_column" else 1
                value = _converted(plus, clean * count, about, layer, zoom[0])
                value -= _converted(minus, clean * count, about, layer, zoom[1])
            total += value * (1 << (about.cell_bits * piece))
        return total
    if about.unit:
        assert tile.unit is not None
        inputs = _single(plane @ tile.unit[lines, None], count, about, layer)
    else:
        inputs = count.astype(np.float64)
    full = (1 << about.cell_bits) - 1
    for piece in range(about.slices):
        levels, flipped = tile.lines[piece, 1]
        value = _single(plane @ levels[lines], count, about, layer, tile.zooms[piece, 1])
        value = np.where(flipped, full * inputs - value, value) * tile.signs[piece, 1][which]
        total += value * (1 << (about.cell_bits * piece))
    return total - layer.analog.shift * inputs


def _single(sums: Ints, count: Ints, about: Chip, layer: LayerData, zoom: Ints | None = None) -> Floats:
    """A single bit line's sum as the digital side knows it: the pedestal is where the target puts it."""
    if about.goes == "reference_column":
        return _converted(sums, 0 * count, about, layer, zoom)
    if about.goes == "digitised_reference":
        return _converted(sums, count, about, layer, zoom) - _converted(0 * sums, count, about, layer)
    codes = _converted(sums, count, about, layer, zoom)
    if not layer.analog.lossless:
        return codes - float(about.pedestal) * count
    over, under = about.pedestal.numerator, about.pedestal.denominator  # decoded to the integer sum, exactly
    finer = max(1, int(layer.analog.gain))  # codes of a gain above 1 are parts of a sum
    twice = 2 * ((codes * finer).astype(np.int64) * under - finer * over * count) - finer * under
    decoded: Floats = -np.floor_divide(-twice, 2 * finer * under).astype(np.float64)
    return decoded


def _converted(sums: Ints, count: Ints, about: Chip, layer: LayerData, zoom: Ints | None = None) -> Floats:
    """Codes of sum + pedestal x count, rounded, clipped, and divided by the gain; the rounding is exact."""
    if zoom is not None and zoom.any():
        each = zoom.astype(np.int64)
        parts = [replace(layer, analog=replace(layer.analog, gain=layer.analog.gain * 2.0**step)) for step in each]
        columns = [_converted(sums[:, [at]], count, about, part) for at, part in enumerate(parts)]
        return np.concatenate(columns, axis=1)
    bits = about.converter_bits
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if about.pair == "before" else (0, (1 << bits) - 1)
    gain, pedestal = Fraction(layer.analog.gain), about.pedestal
    if about.single and gain != 1:
        scaled = (sums + float(pedestal) * count).astype(np.float32) * np.float32(layer.analog.gain)
        rounded = np.floor(scaled.astype(np.float64) + 0.5) if about.half_up else np.rint(scaled).astype(np.float64)
        return np.clip(rounded, low, high) / float(gain)
    over = gain.numerator * (sums * pedestal.denominator + pedestal.numerator * count)
    under = gain.denominator * pedestal.denominator
    codes = np.floor_divide(2 * over + under, 2 * under)
    if not about.half_up:
        tie = np.remainder(2 * over + under, 2 * under) == 0
        codes -= tie & (codes % 2 == 1)
    clipped: Floats = np.clip(codes, low, high) / float(gain)
    return clipped
