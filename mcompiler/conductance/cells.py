"""Cells: level codes packed, written from weight codes, and read back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.conductance.codes import (
    code_span,
    held_levels,
    row_runs,
    run_levels,
    step_table,
    tile_runs,
)
from mcompiler.conductance.mapped import MappedMatrix
from mcompiler.encodings import Levels
from mcompiler.geometry import ArrayShape, span, tile_blocks
from mcompiler.ir import IntArray, WeightMatrix
from mcompiler.target import MEAN_STEPS, Partner, Target

Cells = npt.NDArray[np.uint8]

MAX_WORD_BITS = 16
"""Adjacent cells of so many bits together are decoded by one table; of more, each cell for itself."""


def pack_levels(levels: Levels, bits: int) -> Cells:
    """Pack level codes of ``bits`` bits along the last axis, first column in the lowest bits: uint8 [..., bytes]."""
    per_byte = 8 // bits
    if per_byte == 1:
        return levels
    padding = -levels.shape[-1] % per_byte
    if padding:
        levels = np.concatenate([levels, np.zeros((*levels.shape[:-1], padding), np.uint8)], axis=-1)
    parts = levels.reshape(*levels.shape[:-1], levels.shape[-1] // per_byte, per_byte)
    packed = parts[..., 0].copy()
    for place in range(1, per_byte):
        packed |= parts[..., place] << (bits * place)
    return packed


def unpack_levels(cells: Cells, bits: int, columns: int) -> Levels:
    """Undo pack_levels: uint8 [..., columns]."""
    per_byte = 8 // bits
    if per_byte == 1:
        return cells[..., :columns]
    mask = np.uint8((1 << bits) - 1)
    parts = np.stack([(cells >> (bits * place)) & mask for place in range(per_byte)], axis=-1)
    return parts.reshape(*cells.shape[:-1], cells.shape[-1] * per_byte)[..., :columns]


def encode_cells(mapped: MappedMatrix) -> Iterator[Cells]:
    """Level codes of the arrays of a matrix, in table order, packed: uint8 [n, rows, row_bytes] a step."""
    matrix, table, shape = mapped.matrix, mapped.table, mapped.shape
    shift, flips = mapped.encoded.shift, mapped.encoded.flips
    codes = code_span(matrix)
    lut = shape.encoding.level_table(shape, shift, codes)
    bits = shape.storage_bits
    weight_bits = shape.columns_per_weight * bits
    words = {8: np.uint8, 16: np.uint16, 32: np.uint32}
    if weight_bits in words and shape.columns % shape.columns_per_weight == 0:
        packed = [
            pack_levels(held_levels(lut, shape, c), bits).view(words[weight_bits])[:, 0]
            for c in range(shape.arrays_per_tile)
        ]
    else:
        packed = []
    full = np.uint8((1 << shape.cell_bits) - 1)
    for run in tile_runs(matrix, table, shape, codes.smallest):
        count = len(run.index) * shape.arrays_per_tile
        cells = np.zeros((count, shape.rows, shape.row_bytes), dtype=np.uint8)
        if packed:
            width = shape.tile_columns * weight_bits // 8
            by_copy = cells.reshape(-1, shape.arrays_per_tile, shape.rows, shape.row_bytes)
            for copy, words_of in enumerate(packed):
                by_copy[:, copy, :, :width] = (
                    words_of[run.index].view(np.uint8).reshape(len(run.index), shape.rows, width)
                )
        else:
            body = pack_levels(run_levels(run, lut, shape), bits)
            cells[:, :, : body.shape[-1]] = body
        live = run.index[:, :, 0] >= 0  # [tiles, rows]
        live = np.repeat(live, shape.arrays_per_tile, axis=0)
        flipped = flips[run.arrays]
        if flipped.any():
            mask = pack_levels(np.where(flipped, full, np.uint8(0)), bits)  # [arrays, bytes]
            cells[:, :, : mask.shape[-1]] ^= mask[:, None, :] * live[:, :, None].astype(np.uint8)
        if shape.unit:
            byte, place = divmod(shape.columns * bits, 8)
            cells[:, :, byte] |= live.astype(np.uint8) << place
        yield cells


def decode_cells(cells: Iterator[Cells], mapped: MappedMatrix) -> npt.NDArray[np.signedinteger[Any]]:
    """Weight codes that the cells really hold, int16 or int32 [G, K, N]; what the mapped model computes with.

    Shares nothing with the quantised reference, which has the codes from quantisation.

    Args:
        cells: packed level codes, in table order (any number of arrays a step, whole tiles).
        mapped: where the cells belong and how they encode codes; the codes of its matrix are not read.
    """
    matrix, table, shape = mapped.matrix, mapped.table, mapped.shape
    shift, flips, signs = mapped.encoded.shift, mapped.encoded.flips, mapped.encoded.signs
    largest = 1 << (shape.cell_bits * shape.slices)
    out = np.zeros(matrix.codes.shape, dtype=np.int16 if largest <= 1 << 15 else np.int32)
    copies = shape.arrays_per_tile
    full = np.uint8((1 << shape.cell_bits) - 1)
    bits = shape.storage_bits
    place_values = [_place_values((int(array["slice"]), int(array["polarity"])), shape) for array in table[:copies]]
    wide = bits * shape.columns_per_weight > MAX_WORD_BITS
    steps = step_table(shape).astype(np.int64)
    tables = [
        (place_value if wide else _word_table(place_value, bits, steps)).astype(out.dtype)
        for place_value in place_values
    ]
    first = 0
    for chunk in cells:
        flipped = flips[first : first + len(chunk)]
        if flipped.any():
            mask = pack_levels(np.where(flipped, full, np.uint8(0)), bits)
            chunk = chunk.copy()
            chunk[:, :, : mask.shape[-1]] ^= mask[:, None, :]
        words: npt.NDArray[np.unsignedinteger[Any]] = _adjacent(chunk, shape) if wide else _words(chunk, shape)
        words = words.reshape(-1, copies, *words.shape[1:])
        heads = table[first : first + len(chunk) : copies]
        end = first + len(chunk)
        signed = [None if signs is None else signs[first + copy : end : copies] for copy in range(copies)]
        for start, stop in row_runs(heads, len(heads)):
            height, width = int(heads[start]["rows"]), int(heads[start:stop]["cols"].sum())
            parts = [words[start:stop, copy, :height] for copy in range(copies)]
            total = _codes_of(parts[0], tables[0], signed[0], slice(start, stop), shape)
            for part, place_value, sign in zip(parts[1:], tables[1:], signed[1:], strict=True):
                total += _codes_of(part, place_value, sign, slice(start, stop), shape)
            merged = total.transpose(1, 0, 2).reshape(height, -1)[:, :width]
            if shift:
                merged = merged - out.dtype.type(shift)
            _place_run(out, matrix, heads[start], width, merged)
        first += len(chunk)
    return out


def _codes_of(
    part: npt.NDArray[np.unsignedinteger[Any]],
    place_value: npt.NDArray[np.signedinteger[Any]],
    signs: npt.NDArray[np.bool_] | None,
    tiles: slice,
    shape: ArrayShape,
) -> npt.NDArray[np.signedinteger[Any]]:
    """What the cells of one array of each tile of a run add to their weights: [tiles, rows, tile_columns].

    ``part`` holds words [tiles, rows, tile_columns], or each cell for itself where one more axis says so.
    """
    total = place_value[part] if part.ndim == 3 else part @ place_value
    if signs is None:
        return total
    negative = np.repeat(signs[tiles], shape.rows_active, axis=1)[:, : total.shape[1]]
    return np.where(negative, -total, total)


def _place_run(
    out: npt.NDArray[np.signedinteger[Any]],
    matrix: WeightMatrix,
    head: np.void,
    width: int,
    codes: npt.NDArray[np.signedinteger[Any]],
) -> None:
    """Put the codes of a run of tiles [rows, width] where they belong in [G, K, N]."""
    if int(head["groups"]) == 1:
        group, row, col = int(head["group"]), int(head["row"]), int(head["col"])
        rows = matrix.rows.of(group)[row : row + len(codes)]
        _assign(out[group], rows, matrix.cols.of(group)[col : col + width], codes)
        return
    for block in tile_blocks(head, matrix.rows, matrix.cols):
        part = codes[block.row : block.row + len(block.rows), block.col : block.col + len(block.cols)]
        _assign(out[block.group], block.rows, block.cols, part)


def _assign(
    target: npt.NDArray[np.signedinteger[Any]],
    rows: IntArray,
    cols: IntArray,
    values: npt.NDArray[np.signedinteger[Any]],
) -> None:
    """target[rows, cols] = values, by slices where the indices are contiguous."""
    height, width = span(rows), span(cols)
    if height is not None and width is not None:
        target[height, width] = values
    else:
        target[np.ix_(rows, cols)] = values


def _words(cells: Cells, shape: ArrayShape) -> npt.NDArray[np.unsignedinteger[Any]]:
    """The adjacent cells of each weight as one integer, the first column lowest: [arrays, rows, tile_columns].

    They have MAX_WORD_BITS together at most.
    """
    bits = shape.storage_bits * shape.columns_per_weight
    kinds: dict[int, type[np.unsignedinteger[Any]]] = {8: np.uint8, 16: np.uint16}
    if bits in kinds:
        width = shape.tile_columns * bits // 8
        return np.ascontiguousarray(cells[:, :, :width]).view(kinds[bits])
    parts = _adjacent(cells, shape)
    places = shape.storage_bits * np.arange(shape.columns_per_weight)
    words: npt.NDArray[np.unsignedinteger[Any]] = (parts.astype(np.uint16) << places.astype(np.uint16)).sum(
        axis=-1, dtype=np.uint16
    )
    return words


def _adjacent(cells: Cells, shape: ArrayShape) -> Levels:
    """The adjacent cells of each weight: uint8 [arrays, rows, tile_columns, columns_per_weight]."""
    levels = unpack_levels(cells, shape.storage_bits, shape.columns)
    levels = levels[:, :, : shape.tile_columns * shape.columns_per_weight]
    return levels.reshape(*levels.shape[:2], shape.tile_columns, shape.columns_per_weight)


def _place_values(key: tuple[int, int], shape: ArrayShape) -> IntArray:
    """Place value of each adjacent cell of a weight in an array of this (slice, polarity): [columns_per_weight]."""
    which_slice, polarity = key
    slices = np.arange(shape.slices) if which_slice < 0 else np.array([which_slice])
    signs = np.array([shape.encoding.polarity_signs[each] for each in shape.encoding.polarities_of(polarity)])
    found: IntArray = (signs[:, None] << (shape.cell_bits * slices)).reshape(-1).astype(np.int64)
    return found


def _word_table(place_values: IntArray, bits: int, steps: IntArray) -> IntArray:
    """Code of each word of adjacent cells of ``bits`` bits each: [2 ** (bits * cells)]."""
    words = np.arange(1 << (bits * len(place_values)), dtype=np.int64)
    levels = words[:, None] >> (bits * np.arange(len(place_values))) & ((1 << bits) - 1)
    found: IntArray = steps[levels] @ place_values
    return found


def conductances(levels: Levels, target: Target) -> npt.NDArray[np.float64]:
    """Conductance of every level code in siemens: on the equidistant grid, or as the target's level table says."""
    device = target.device
    if not target.has_level_table:
        return device.g_min_siemens + levels.astype(np.float64) * device.step_siemens
    spacing = MEAN_STEPS / (device.levels - 1)
    means = np.arange(device.levels) * spacing if device.level_means is None else np.array(device.level_means)
    formed = device.g_min_siemens + means * device.mean_siemens
    unformed = target.encoding.partner is Partner.UNFORMED
    table: npt.NDArray[np.float64] = np.concatenate([np.zeros(int(unformed)), formed])
    return table[levels]
