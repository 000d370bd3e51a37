"""Weight codes to cells and back, and what a converter does to a column's current.

Units: a *level* is a step of the target's equidistant conductance grid; a column's value is the sum over rows of input
code times level (plus the pedestal of G_min), so that a lossless conversion is an integer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.errors import TargetError
from mcompiler.geometry import ArrayShape, TileTable, tile_blocks
from mcompiler.ir import CodeArray, IntArray, MatrixOp
from mcompiler.target import Pedestal, Rounding, Target, WeightEncoding

Levels = npt.NDArray[np.uint8]
Cells = npt.NDArray[np.uint8]

MAX_BYTES_PER_RUN = 64 << 20
"""Bound on the working set of one step of encoding."""


# --- codes and levels ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CodeRange:
    """Weight codes that the cells of a target can hold, both ends included."""

    smallest: int
    largest: int


def code_range(shape: ArrayShape, encoding: WeightEncoding, shift: int = 0) -> CodeRange:
    """Codes that ``shape.slices`` cells can hold: +-(2^bits - 1) for pairs, [-shift, 2^bits - 1 - shift] for offset."""
    full = (1 << (shape.cell_bits * shape.slices)) - 1
    if encoding is WeightEncoding.OFFSET:
        return CodeRange(-shift, full - shift)
    return CodeRange(-full, full)


def level_table(shape: ArrayShape, encoding: WeightEncoding, shift: int) -> Levels:
    """Levels of every code: uint8 [codes + 1, polarities, slices], lowest slice first.

    Row i belongs to code ``code_range().smallest + i``; the last row is a cell that holds no weight (all zero).
    """
    span = code_range(shape, encoding, shift)
    codes = np.arange(span.smallest, span.largest + 1, dtype=np.int64)
    if encoding is WeightEncoding.OFFSET:
        magnitudes = (codes + shift)[:, None]  # [codes, 1]
    else:
        magnitudes = np.stack([np.maximum(codes, 0), np.maximum(-codes, 0)], axis=1)  # [codes, 2]
    weights = shape.cell_bits * np.arange(shape.slices)
    levels = (magnitudes[:, :, None] >> weights) & ((1 << shape.cell_bits) - 1)
    empty = np.zeros((1, *levels.shape[1:]), dtype=np.int64)
    return np.concatenate([levels, empty]).astype(np.uint8)


def largest_sum(codes: npt.NDArray[np.signedinteger[Any]]) -> int:
    """Largest sum of magnitudes over the rows of any column of codes [G, K, N]; bounds every partial sum."""
    largest = 0
    for matrix in codes:
        total = np.zeros(matrix.shape[1], dtype=np.int64)
        step = max(1, (1 << 18) // max(1, matrix.shape[1]))
        for row in range(0, len(matrix), step):  # in pieces that stay in cache
            total += np.abs(matrix[row : row + step], dtype=np.int32).sum(axis=0)
        largest = max(largest, int(total.max(initial=0)))
    return largest


@dataclass(frozen=True)
class TileRun:
    """Successive tiles that share a row block: their weights as one padded matrix of indices into a level table.

    Attributes:
        arrays: which rows of the tile table these are.
        index: int32 [tiles, rows, tile_columns], entries of the level table; -1 where no weight stands.
    """

    arrays: slice
    index: npt.NDArray[np.int32]


def tile_runs(op: MatrixOp, table: TileTable, shape: ArrayShape, smallest: int) -> Iterator[TileRun]:
    """Walk the array positions of an operation, a row block at a time.

    Args:
        op: the operation.
        table: its tile table.
        shape: array geometry.
        smallest: the code of entry 0 of the level table.
    """
    copies = shape.arrays_per_tile
    heads = table[::copies]
    limit = max(1, MAX_BYTES_PER_RUN // (shape.rows * shape.columns * 4))
    for start, stop in _row_runs(heads, limit):
        first = heads[start]
        index = np.full((shape.rows, (stop - start) * shape.tile_columns), -1, dtype=np.int32)
        if int(first["groups"]) == 1:
            group, row, col = int(first["group"]), int(first["row"]), int(first["col"])
            rows = op.rows.of(group)[row : row + int(first["rows"])]
            width = int(heads[start:stop]["cols"].sum())
            cols = op.cols.of(group)[col : col + width]
            index[: len(rows), :width] = _submatrix(op.codes[group], rows, cols) - np.int32(smallest)
        else:
            height, width = int(first["rows"]), int(first["cols"])
            index[:height, :width] = -smallest  # code 0 off the diagonal: live rows cross it
            for block in tile_blocks(first, op.rows, op.cols):
                index[block.row : block.row + len(block.rows), block.col : block.col + len(block.cols)] = _submatrix(
                    op.codes[block.group], block.rows, block.cols
                ) - np.int32(smallest)
        tiles = index.reshape(shape.rows, stop - start, shape.tile_columns).transpose(1, 0, 2)
        yield TileRun(slice(start * copies, stop * copies), tiles)


def _row_runs(heads: TileTable, limit: int) -> Iterator[tuple[int, int]]:
    """(first, end) of runs of at most ``limit`` tiles that hold successive columns of one row block of one group."""
    if not len(heads):
        return
    before, after = heads[:-1], heads[1:]
    joins = (
        (before["groups"] == 1) & (after["groups"] == 1) & (before["group"] == after["group"])
        & (before["row"] == after["row"]) & (before["col"] + before["cols"] == after["col"])
    )  # fmt: skip
    edges = [0, *(np.flatnonzero(~joins) + 1).tolist(), len(heads)]
    for start, stop in pairwise(edges):
        for first in range(start, stop, limit):
            yield first, min(first + limit, stop)


def _submatrix(codes: CodeArray, rows: IntArray, cols: IntArray) -> npt.NDArray[np.int32]:
    """codes[rows, cols], by slices where the indices are contiguous (the common case, and many times faster)."""
    part = codes[rows[0] : rows[-1] + 1] if rows[-1] - rows[0] + 1 == len(rows) else codes[rows]
    part = part[:, cols[0] : cols[-1] + 1] if cols[-1] - cols[0] + 1 == len(cols) else part[:, cols]
    return part.astype(np.int32)


def _held(lut: Levels, shape: ArrayShape, copy: int) -> Levels:
    """Columns of the level table that array ``copy`` of a tile holds: uint8 [codes + 1, columns_per_weight]."""
    polarity_copies = shape.polarities // shape.adjacent_polarities
    which_slice, which_polarity = divmod(copy, polarity_copies)
    part = lut if shape.adjacent_polarities == shape.polarities else lut[:, which_polarity : which_polarity + 1]
    part = part if shape.adjacent_slices == shape.slices else part[:, :, which_slice : which_slice + 1]
    return np.ascontiguousarray(part.reshape(len(part), -1))


def run_levels(run: TileRun, lut: Levels, shape: ArrayShape) -> Levels:
    """Levels of the weight columns of a run: uint8 [arrays, rows, columns], not yet flipped."""
    tiles = len(run.index)
    copies = shape.arrays_per_tile
    out = np.zeros((tiles, copies, shape.rows, shape.columns), dtype=np.uint8)
    used = shape.tile_columns * shape.columns_per_weight
    for copy in range(copies):
        held = _held(lut, shape, copy)
        out[:, copy, :, :used] = held[run.index].reshape(tiles, shape.rows, used)
    return out.reshape(tiles * copies, shape.rows, shape.columns)


def pack_levels(levels: Levels, bits: int) -> Cells:
    """Pack level codes of ``bits`` bits along the last axis, first column in the lowest bits: uint8 [..., bytes]."""
    per_byte = 8 // bits
    if per_byte == 1:
        return levels
    padding = -levels.shape[-1] % per_byte
    if padding:
        levels = np.concatenate([levels, np.zeros((*levels.shape[:-1], padding), np.uint8)], axis=-1)
    parts = levels.reshape(*levels.shape[:-1], -1, per_byte)
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
    return parts.reshape(*cells.shape[:-1], -1)[..., :columns]


def encode_cells(
    op: MatrixOp,
    table: TileTable,
    shape: ArrayShape,
    encoding: WeightEncoding,
    shift: int,
    flips: npt.NDArray[np.bool_],
) -> Iterator[Cells]:
    """Level codes of the arrays of an operation, in table order, packed: uint8 [n, rows, row_bytes] a step.

    Args:
        op: the operation.
        table: its tile table.
        shape: array geometry.
        encoding: how codes become levels.
        shift: offset encoding: added to every code.
        flips: bool [arrays, columns], columns stored complemented.
    """
    lut = level_table(shape, encoding, shift)
    smallest = code_range(shape, encoding, shift).smallest
    bits = shape.storage_bits
    weight_bits = shape.columns_per_weight * bits
    words = {8: np.uint8, 16: np.uint16, 32: np.uint32}
    if weight_bits in words and shape.columns % shape.columns_per_weight == 0:
        packed = [
            pack_levels(_held(lut, shape, c), bits).view(words[weight_bits])[:, 0] for c in range(shape.arrays_per_tile)
        ]
    else:
        packed = []
    full = np.uint8((1 << shape.cell_bits) - 1)
    for run in tile_runs(op, table, shape, smallest):
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


def decode_cells(
    cells: Iterator[Cells],
    op: MatrixOp,
    table: TileTable,
    shape: ArrayShape,
    encoding: WeightEncoding,
    shift: int,
    flips: npt.NDArray[np.bool_],
) -> npt.NDArray[np.signedinteger[Any]]:
    """Weight codes that the cells really hold, int16 or int32 [G, K, N]; what the mapped model computes with.

    Shares nothing with the quantised reference, which has the codes from quantisation.

    Args:
        cells: packed level codes, in table order (any number of arrays a step, whole tiles).
        op: operation whose shape and kept indices say where the cells belong; its codes are not read.
        table, shape, encoding, shift, flips: as in encode_cells.
    """
    largest = 1 << (shape.cell_bits * shape.slices)
    out = np.zeros(op.codes.shape, dtype=np.int16 if largest <= 1 << 15 else np.int32)
    copies = shape.arrays_per_tile
    full = np.uint8((1 << shape.cell_bits) - 1)
    bits = shape.storage_bits
    tables = [_word_table((int(a["slice"]), int(a["polarity"])), shape).astype(out.dtype) for a in table[:copies]]
    first = 0
    for chunk in cells:
        flipped = flips[first : first + len(chunk)]
        if flipped.any():
            mask = pack_levels(np.where(flipped, full, np.uint8(0)), bits)
            chunk = chunk.copy()
            chunk[:, :, : mask.shape[-1]] ^= mask[:, None, :]
        words = _words(chunk, shape).reshape(-1, copies, shape.rows, shape.tile_columns)
        heads = table[first : first + len(chunk) : copies]
        for start, stop in _row_runs(heads, len(heads)):
            height, width = int(heads[start]["rows"]), int(heads[start:stop]["cols"].sum())
            worth = tables[0][words[start:stop, 0, :height]]
            for copy in range(1, copies):
                worth += tables[copy][words[start:stop, copy, :height]]
            merged = worth.transpose(1, 0, 2).reshape(height, -1)[:, :width]
            if shift:
                merged = merged - out.dtype.type(shift)
            _place_run(out, op, heads[start], width, merged)
        first += len(chunk)
    return out


def _place_run(
    out: npt.NDArray[np.signedinteger[Any]],
    op: MatrixOp,
    head: np.void,
    width: int,
    codes: npt.NDArray[np.signedinteger[Any]],
) -> None:
    """Put the codes of a run of tiles [rows, width] where they belong in [G, K, N]."""
    if int(head["groups"]) == 1:
        group, row, col = int(head["group"]), int(head["row"]), int(head["col"])
        rows = op.rows.of(group)[row : row + len(codes)]
        _assign(out[group], rows, op.cols.of(group)[col : col + width], codes)
        return
    for block in tile_blocks(head, op.rows, op.cols):
        part = codes[block.row : block.row + len(block.rows), block.col : block.col + len(block.cols)]
        _assign(out[block.group], block.rows, block.cols, part)


def _assign(
    target: npt.NDArray[np.signedinteger[Any]],
    rows: IntArray,
    cols: IntArray,
    values: npt.NDArray[np.signedinteger[Any]],
) -> None:
    """target[rows, cols] = values, by slices where the indices are contiguous."""
    if rows[-1] - rows[0] + 1 == len(rows) and cols[-1] - cols[0] + 1 == len(cols):
        target[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1] = values
    else:
        target[np.ix_(rows, cols)] = values


def _words(cells: Cells, shape: ArrayShape) -> npt.NDArray[np.unsignedinteger[Any]]:
    """The adjacent cells of each weight as one integer, the first column lowest: [arrays, rows, tile_columns]."""
    bits = shape.storage_bits * shape.columns_per_weight
    kinds: dict[int, type[np.unsignedinteger[Any]]] = {8: np.uint8, 16: np.uint16}
    if bits in kinds:
        width = shape.tile_columns * bits // 8
        return np.ascontiguousarray(cells[:, :, :width]).view(kinds[bits])
    levels = unpack_levels(cells, shape.storage_bits, shape.columns)
    levels = levels[:, :, : shape.tile_columns * shape.columns_per_weight]
    parts = levels.reshape(*levels.shape[:2], shape.tile_columns, shape.columns_per_weight)
    places = shape.storage_bits * np.arange(shape.columns_per_weight)
    words: npt.NDArray[np.unsignedinteger[Any]] = (parts.astype(np.uint32) << places.astype(np.uint32)).sum(
        axis=-1, dtype=np.uint32
    )
    return words


def _word_table(key: tuple[int, int], shape: ArrayShape) -> npt.NDArray[np.int32]:
    """What a word of adjacent cells is worth: int32 [2 ** (storage bits * columns per weight)].

    Raises:
        TargetError: so many adjacent cells that the table would not fit (over 24 bits).
    """
    bits = shape.storage_bits * shape.columns_per_weight
    if bits > 24:
        raise TargetError(
            f"one weight takes {shape.columns_per_weight} adjacent cells of {shape.storage_bits} bits; more "
            f"than 24 bits "
            "in adjacent columns are not supported: put slices or pairs into separate arrays"
        )
    words = np.arange(1 << bits, dtype=np.int64)
    which_slice, polarity = key
    slices = range(shape.slices) if which_slice < 0 else (which_slice,)
    signs = (1, -1)[: shape.polarities] if polarity == 0 else (polarity,)
    worth = np.zeros(len(words), dtype=np.int64)
    place = 0
    for sign in signs:
        for weight in slices:
            worth += sign * (((words >> place) & ((1 << shape.storage_bits) - 1)) << (shape.cell_bits * weight))
            place += shape.storage_bits
    return worth.astype(np.int32)


def conductances(levels: Levels, target: Target) -> npt.NDArray[np.float64]:
    """Conductance of every level code in siemens: G_min + level times one step."""
    device = target.device
    return device.g_min_siemens + levels.astype(np.float64) * device.step_siemens


# --- converters ------------------------------------------------------------------------------------------------------


class Decoding(Enum):
    """What stands between a column's current and the integer sum.

    CLEAN: the pedestal is gone before the one conversion (analog difference). COUNT: one conversion of sum + pedestal,
    the digital count of active rows undoes it. TWO: two conversions, subtracted (a digitised pair or reference column).
    """

    CLEAN = "clean"
    COUNT = "count"
    TWO = "two"


@dataclass(frozen=True)
class Adc:
    """The converter of a column.

    Attributes:
        smallest, largest: its codes; signed when an analog difference may be negative.
        rounding: at half a step.
        decoding: how its codes become sums.
        pedestal: G_min in level steps, per unit of input code.
        gain: codes per level step; at most 8 significant bits.
    """

    smallest: int
    largest: int
    rounding: Rounding
    decoding: Decoding
    pedestal: float
    gain: float


def decoding_of(target: Target) -> Decoding:
    """How a target's conversions are undone."""
    encoding = target.encoding
    if encoding.weights is not WeightEncoding.OFFSET:  # the pair cancels the pedestal, whatever else is there
        return Decoding.TWO if encoding.subtract == "after_adc" else Decoding.CLEAN
    if encoding.pedestal is Pedestal.DIGITAL_COUNT:
        return Decoding.COUNT
    return Decoding.TWO if encoding.pedestal is Pedestal.DIGITISED_REFERENCE else Decoding.CLEAN


def is_signed(target: Target) -> bool:
    """Whether one conversion sees an analog difference of a pair."""
    encoding = target.encoding
    return encoding.weights is not WeightEncoding.OFFSET and encoding.subtract == "before_adc"


def eight_bit_floor(value: float) -> float:
    """The largest number of at most 8 significant bits that is not above ``value`` (> 0).

    A gain of 8 bits times a sum below 2^16 is exact in float32, so that every form of the converter rounds alike.
    """
    mantissa, exponent = np.frexp(value)
    return float(np.ldexp(np.floor(mantissa * 256) / 256, exponent))


def worst_sum(target: Target) -> int:
    """The largest sum that one read of any array can give, in level steps times input codes, without the pedestal."""
    full = (1 << target.device.bits) - 1
    total = target.array.rows_active * full
    if target.encoding.flip:
        total = min(total, target.array.rows * full // 2)
    return total * ((1 << target.converters.dac.bits) - 1)


def exact_pedestal(pedestal: float, sums: int, inputs: int) -> float:
    """The pedestal on the finest binary grid on which every analog value is exact in float32.

    So the order of additions cannot change a code. The grid is 2^-12 level steps for 128 rows of 2-bit cells.
    """
    whole = int(sums + pedestal * inputs + 1).bit_length()
    grid = float(1 << max(0, 24 - whole - 1))
    return float(np.rint(pedestal * grid) / grid)


def make_adc(target: Target, limit: float | None = None) -> Adc:
    """The converter of a target.

    Args:
        target: target.
        limit: largest magnitude to hold (level steps times input codes, pedestal included); None: the worst sum.

    Returns:
        Converter with gain 1 where that holds ``limit``, else the largest 8-bit gain that does.
    """
    adc = target.converters.adc
    signed = is_signed(target)
    smallest, largest = (-(1 << (adc.bits - 1)), (1 << (adc.bits - 1)) - 1) if signed else (0, (1 << adc.bits) - 1)
    inputs = target.array.rows_active * ((1 << target.converters.dac.bits) - 1)
    decoding = decoding_of(target)
    pedestal = 0.0 if decoding is Decoding.CLEAN else exact_pedestal(target.device.pedestal, worst_sum(target), inputs)
    if limit is None:
        limit = worst_sum(target) + pedestal * inputs
    gain = 1.0 if limit <= largest else eight_bit_floor(largest / limit)
    return Adc(smallest, largest, adc.rounding, decoding, pedestal, gain)


def is_lossless(adc: Adc, lowest: int, highest: int, inputs: int) -> bool:
    """Whether every conversion of a column gives back its integer sum.

    Args:
        adc: the converter.
        lowest, highest: extreme sums of the column's own cells in one read, without pedestal (lowest <= 0 <= highest).
        inputs: largest sum of input codes over the active rows of one read.

    Returns:
        True when, for every sum in [lowest, highest] and every input sum in [0, inputs], the code does not clip and is
        decoded to the sum before shift-and-add. With a gain below 1 it is False unless the column is empty.
    """
    if lowest == highest == 0 and (adc.pedestal == 0 or inputs == 0):
        return True
    top = highest + adc.pedestal * inputs
    if round_codes(adc, adc.gain * top) > adc.largest or round_codes(adc, adc.gain * lowest) < adc.smallest:
        return False
    if adc.gain < 1:
        return False
    if adc.decoding is Decoding.CLEAN:
        return True
    ties = adc.rounding is Rounding.HALF_EVEN and _has_ties(adc.gain * adc.pedestal, inputs)
    if adc.decoding is Decoding.COUNT:
        return adc.gain > 1 or not ties
    if adc.gain > 2:
        return True
    return float(adc.gain).is_integer() and (adc.gain != 1 or not ties)


def _has_ties(pedestal: float, inputs: int) -> bool:
    """Whether some count of active rows puts the pedestal on half a code."""
    halves = 2 * pedestal * np.arange(inputs + 1)
    near = np.rint(halves)
    return bool(np.any((np.abs(halves - near) < 1e-6) & (near % 2 == 1)))


def round_codes(adc: Adc, values: npt.ArrayLike) -> Any:
    """Round to a code as the converter does (no clipping)."""
    array = np.asarray(values)
    return np.rint(array) if adc.rounding is Rounding.HALF_EVEN else np.floor(array + array.dtype.type(0.5))


def convert(adc: Adc, values: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
    """Codes of analog values (level steps times input codes), clipped to the converter's range."""
    codes: npt.NDArray[np.floating[Any]] = np.clip(
        round_codes(adc, values * values.dtype.type(adc.gain)), adc.smallest, adc.largest
    )
    return codes


# --- what the converters see -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReadBlock:
    """Word lines that are driven at once, and every column that they cross: one read of one phase.

    Attributes:
        group, groups: input groups that the word lines belong to; their output channels are the columns.
        rows: int64 [rows], index of each word line in groups x K, counted from ``group``.
        levels: int16 [rows, conversions, channels]: level (or level difference of a pair) on each converted bit line,
        for
            the ``groups * N`` output channels of those groups; float32 where conductances are off their levels.
        worth: int32 [conversions, channels]: what one decoded code adds to its channel's sum; 0 where no cell stands.
        inputs: int64 [channels]: what the sum of the inputs over the word lines adds (flips undone, shift subtracted).
    """

    group: int
    groups: int
    rows: IntArray
    levels: npt.NDArray[Any]
    worth: npt.NDArray[np.int32]
    inputs: IntArray


def read_blocks(
    cells: Iterator[Cells],
    op: MatrixOp,
    table: TileTable,
    target: Target,
    shape: ArrayShape,
    shift: int,
    flips: npt.NDArray[np.bool_],
) -> list[ReadBlock]:
    """Every read of an operation, from the cells.

    Args:
        cells: packed level codes, in table order.
        op: operation whose shape and kept indices say where the cells belong; its codes are not read.
        table, shape, shift, flips: as in encode_cells.
        target: where pairs are subtracted, how many word lines are active.
    """
    encoding = target.encoding.weights
    copies = shape.arrays_per_tile
    merged: dict[tuple[int, int, int], list[ReadBlock]] = {}
    first = 0
    for chunk in cells:
        levels = unpack_levels(chunk, shape.storage_bits, shape.columns)
        for position in range(0, len(chunk), copies):
            arrays = slice(first + position, first + position + copies)
            block = _tile_block(levels[position : position + copies], op, table[arrays], shape, encoding, flips[arrays])
            block = _apply_shift(block, shift, shape, encoding)
            tile = table[first + position]
            key = (int(tile["group"]), int(tile["groups"]), int(tile["row"]))
            merged.setdefault(key, []).append(block)
        first += len(chunk)
    joined = [_join(blocks) for blocks in merged.values()]
    combined = [_subtract_pairs(block) if is_signed(target) else block for block in joined]
    return [part for block in combined for part in _split_rows(block, shape.rows_active)]


def _tile_block(
    levels: Levels,
    op: MatrixOp,
    arrays: TileTable,
    shape: ArrayShape,
    encoding: WeightEncoding,
    flips: npt.NDArray[np.bool_],
) -> ReadBlock:
    """One tile: its columns spread over the output channels of its groups. Conversions: slices x polarities."""
    tile = arrays[0]
    group, groups, cols = int(tile["group"]), int(tile["groups"]), op.codes.shape[2]
    depth = op.codes.shape[1]
    blocks = tile_blocks(tile, op.rows, op.cols)
    rows = (
        np.concatenate([(block.group - group) * depth + block.rows for block in blocks])
        if int(tile["groups"]) > 1
        else blocks[0].rows
    )
    channels = np.concatenate([(block.group - group) * cols + block.cols for block in blocks])
    width = len(channels)
    conversions = shape.slices * shape.polarities
    spread = np.zeros((len(rows), conversions, groups * cols), dtype=np.int16)
    worth = np.zeros((conversions, groups * cols), dtype=np.int32)
    inputs = np.zeros(groups * cols, dtype=np.int64)
    full = (1 << shape.cell_bits) - 1
    for array, held, flip in zip(arrays, levels, flips, strict=True):
        used = shape.tile_columns * shape.columns_per_weight
        parts = held[: len(rows), :used].reshape(len(rows), shape.tile_columns, -1)[:, :width]  # [rows, width, cells]
        flipped = flip[:used].reshape(shape.tile_columns, -1)[:width]  # [width, cells]
        for place, (which_slice, sign, index) in enumerate(_places(array, shape)):
            spread[:, index, channels] = parts[:, :, place]
            unit = sign << (shape.cell_bits * which_slice) if sign > 0 else -(1 << (shape.cell_bits * which_slice))
            worth[index, channels] = np.where(flipped[:, place], -unit, unit)
            inputs[channels] += np.where(flipped[:, place], full * unit, 0)
    return ReadBlock(group, groups, rows, spread, worth, inputs)


def _places(array: np.void, shape: ArrayShape) -> list[tuple[int, int, int]]:
    """(slice, sign, conversion index) of the adjacent cells of one weight; conversions are polarity-major."""
    slices = range(shape.slices) if int(array["slice"]) < 0 else (int(array["slice"]),)
    if shape.polarities == 1:
        return [(s, 1, s) for s in slices]
    signs = (1, -1) if int(array["polarity"]) == 0 else (int(array["polarity"]),)
    return [(s, sign, (0 if sign > 0 else shape.slices) + s) for sign in signs for s in slices]


def _apply_shift(block: ReadBlock, shift: int, shape: ArrayShape, encoding: WeightEncoding) -> ReadBlock:
    """Offset encoding: the shift times the sum of the inputs comes off every channel that has cells."""
    if encoding is not WeightEncoding.OFFSET:
        return block
    present = (block.worth != 0).any(axis=0)
    return replace(block, inputs=block.inputs - shift * present)


def _join(blocks: list[ReadBlock]) -> ReadBlock:
    """Column blocks over the same word lines are one read: their channels are disjoint."""
    first = blocks[0]
    if len(blocks) == 1:
        return first
    return replace(
        first,
        levels=np.asarray(np.sum([block.levels for block in blocks], axis=0, dtype=np.int16)),
        worth=np.sum([block.worth for block in blocks], axis=0, dtype=np.int32),
        inputs=np.sum([block.inputs for block in blocks], axis=0, dtype=np.int64),
    )


def _subtract_pairs(block: ReadBlock) -> ReadBlock:
    """The pair's difference is what one conversion sees."""
    slices = len(block.worth) // 2
    return replace(
        block, levels=np.subtract(block.levels[:, :slices], block.levels[:, slices:]), worth=block.worth[:slices]
    )


def _split_rows(block: ReadBlock, active: int) -> list[ReadBlock]:
    return [
        replace(block, rows=block.rows[start : start + active], levels=block.levels[start : start + active])
        for start in range(0, len(block.rows), active)
    ]
