"""Cells and converters: weights come back from their cells, and a conversion is called lossless only where it is."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from fractions import Fraction
from math import floor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mcompiler.conductance import (
    AdcTransfer,
    MappedMatrix,
    conductances,
    convert,
    decode_cells,
    eight_bit_floor,
    encode_cells,
    exact_pedestal,
    is_lossless,
    largest_sum,
    make_adc,
    needed_bits,
    pack_levels,
    read_blocks,
    round_codes,
    unpack_levels,
    worst_sum,
)
from mcompiler.encodings import CodeRange, Decoding
from mcompiler.geometry import array_shape
from mcompiler.ir import AnalogLayer, EncodedMatrix
from mcompiler.target import Rounding, Target
from tests.support.programs import (
    OFFSET,
    Case,
    cases,
    matrix_op,
    matrix_program,
    overrides,
    spots,
    target,
    tiled,
    with_matrix,
)

PROPERTY = settings(max_examples=80, deadline=None)

Table = npt.NDArray[np.void]


def analog_of(case: Case) -> tuple[AnalogLayer, Table, EncodedMatrix]:
    """The operation with its kept indices, its tile table, its encoding."""
    program = case.analog()
    return program.tiled.matrix.layers[0], program.tiled.tables[0], program.analog[0]


def mapped(case: Case, op: AnalogLayer, table: Table, settings: EncodedMatrix) -> MappedMatrix:
    """The matrix of the operation on the arrays of the target."""
    return MappedMatrix(op.matrix, table, settings, case.shape, case.chip)


def cells_of(case: Case, op: AnalogLayer, table: Table, settings: EncodedMatrix) -> list[npt.NDArray[np.uint8]]:
    """All cells, a step at a time as they are encoded."""
    return list(encode_cells(mapped(case, op, table, settings)))


def levels_of(case: Case, cells: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.int64]:
    """Levels of all arrays with their extra columns, unpacked bit by bit: [arrays, rows, columns + extra]."""
    shape = case.shape
    packed = np.concatenate([np.zeros((0, shape.rows, shape.row_bytes), np.uint8), *cells])
    bits = np.unpackbits(packed, axis=-1, bitorder="little")
    places = bits[..., : (shape.columns + shape.extra) * shape.storage_bits]
    each = places.reshape(*places.shape[:-1], shape.columns + shape.extra, shape.storage_bits)
    found: npt.NDArray[np.int64] = each.astype(np.int64) @ (1 << np.arange(shape.storage_bits))
    return found


# --- codes and levels ------------------------------------------------------------------------------------------------


def test_levels_by_hand() -> None:
    shape = array_shape(target("encoding.slices=2", "precision.weights=5"))  # two cells of 2 bits and their partners
    assert shape.encoding.code_range(shape) == CodeRange(-15, 15)
    table = shape.encoding.level_table(shape, 0)
    assert table.shape == (32, 2, 2)
    assert table[6 + 15].tolist() == [[2, 1], [0, 0]]  # 6 = 2 + 1 x 4
    assert table[-6 + 15].tolist() == [[0, 0], [2, 1]]
    assert table[15].tolist() == [[0, 0], [0, 0]]
    assert table[-1].tolist() == [[0, 0], [0, 0]], "the last row is the cell without a weight"
    offset = array_shape(target(*OFFSET, "encoding.slices=2", "precision.weights=4"))
    assert offset.encoding.code_range(offset, 8) == CodeRange(-8, 7)
    shifted = offset.encoding.level_table(offset, 8)
    assert shifted.shape == (17, 1, 2)
    assert shifted[-8 + 8].tolist() == [[0, 0]]
    assert shifted[0 + 8].tolist() == [[0, 2]]  # 8 = 0 + 2 x 4
    assert shifted[7 + 8].tolist() == [[3, 3]]


def test_cells_by_hand() -> None:
    # 2 rows, 1 weight of 2 slices and a pair: G+ slice 0, G+ slice 1, G- slice 0, G- slice 1
    keys = ("array.rows=3", "array.rows_active=3", "array.columns=5", "encoding.slices=2", "precision.weights=5")
    case = Case(keys, matrix_op([[6], [-9]]), compact=True, prune=True)
    op, table, settings = analog_of(case)
    cells = cells_of(case, op, table, settings)
    assert levels_of(case, cells).tolist() == [[[2, 1, 0, 0, 0], [0, 0, 1, 2, 0], [0, 0, 0, 0, 0]]]
    (chunk,) = cells
    assert chunk.tolist() == [[[0b00_00_01_10, 0], [0b10_01_00_00, 0], [0, 0]]]


def test_flipped_cells_by_hand() -> None:
    # 8-bit codes shifted by 128, as 4 levels of 2 bits; a column past half of full scale is stored complemented
    keys = ("array.rows=3", "array.rows_active=3", "array.columns=4")
    isaac = ("encoding.flip=true", "encoding.input_sum=unit_column")
    case = Case((*keys, *OFFSET, *isaac), matrix_op([[127], [100]]), compact=True, prune=True)
    op, table, settings = analog_of(case)
    # 127 + 128 = 0b11_11_11_11 and 100 + 128 = 0b11_10_01_00: levels 3 3 3 3 and 0 1 2 3, of at most 6 a column
    assert settings.flips.tolist() == [[False, True, True, True]]
    levels = levels_of(case, cells_of(case, op, table, settings))
    assert levels.tolist() == [[[3, 0, 0, 0, 1], [0, 2, 1, 0, 1], [0, 0, 0, 0, 0]]]


@given(st.data(), st.sampled_from([1, 2, 4, 8]), st.integers(1, 19))
def test_pack_and_unpack(data: st.DataObject, bits: int, columns: int) -> None:
    level = st.integers(0, (1 << bits) - 1)
    drawn = data.draw(st.lists(st.lists(level, min_size=columns, max_size=columns)))
    levels = np.array(drawn, np.uint8).reshape(len(drawn), columns)  # none at all, too
    packed = pack_levels(levels, bits)
    assert packed.shape == (len(levels), -(-columns * bits // 8))
    assert np.array_equal(unpack_levels(packed, bits, columns), levels)


def test_packing_starts_at_the_lowest_bits() -> None:
    assert pack_levels(np.array([[1, 2, 3, 0, 3]], np.uint8), 2).tolist() == [[0b00_11_10_01, 0b11]]
    assert pack_levels(np.array([[1, 15, 9]], np.uint8), 4).tolist() == [[0xF1, 0x09]]
    assert pack_levels(np.array([[1, 0, 1, 1]], np.uint8), 1).tolist() == [[0b1101]]


@PROPERTY
@given(cases())
def test_tiles_reassemble_to_the_weights(case: Case) -> None:
    op, table, settings = analog_of(case)
    cells = cells_of(case, op, table, settings)
    codes = decode_cells(iter(cells), mapped(case, op, table, settings))
    assert codes.dtype in (np.int16, np.int32)
    assert np.array_equal(codes, case.op.matrix.codes)


@PROPERTY
@given(cases(), st.integers(0, 2**32 - 1))
def test_any_column_may_be_flipped(case: Case, seed: int) -> None:
    assume(not case.shape.steps)  # the complement of a level is one on the equidistant grid only
    op, table, settings = analog_of(case)
    flips = np.random.default_rng(seed).random(settings.flips.shape) < 0.5
    flipped = replace(settings, flips=flips)
    cells = cells_of(case, op, table, flipped)
    codes = decode_cells(iter(cells), mapped(case, op, table, flipped))
    assert np.array_equal(codes, case.op.matrix.codes)


@PROPERTY
@given(cases())
def test_levels_hold_the_slices_of_the_weights(case: Case) -> None:
    """Cell by cell from the definition, without the level table: bits of the magnitude, one slice each."""
    op, table, settings = analog_of(case)
    shape, encoding = case.shape, case.chip.encoding.weights
    levels = levels_of(case, cells_of(case, op, table, settings))
    full = (1 << shape.cell_bits) - 1
    for spot in spots(op, table):
        code = int(op.matrix.codes[spot.group, spot.row, spot.col])
        entry = table[spot.array]
        slices = range(shape.slices) if entry["slice"] < 0 else [int(entry["slice"])]
        pair = [1, -1] if entry["polarity"] == 0 else [int(entry["polarity"])]
        wanted = []
        for sign in pair if encoding == "differential" else [1]:
            magnitude = max(0, sign * code)
            if encoding != "differential":
                magnitude = code + settings.shift if encoding == "offset" else abs(code)
            if case.chip.has_level_table:
                wanted.append(case.chip.cell_steps.index(magnitude))
            else:
                wanted += [magnitude // 2 ** (shape.cell_bits * place) % 2**shape.cell_bits for place in slices]
        first = spot.column * shape.columns_per_weight
        columns = slice(first, first + shape.columns_per_weight)
        flips = settings.flips[spot.array, columns]
        held = [full - level if flip else level for level, flip in zip(wanted, flips, strict=True)]
        assert levels[spot.array, spot.line, columns].tolist() == held


@PROPERTY
@given(cases())
def test_unit_column_holds_1_in_exactly_the_live_rows(case: Case) -> None:
    op, table, settings = analog_of(case)
    levels = levels_of(case, cells_of(case, op, table, settings))
    live = np.zeros((len(table), case.shape.rows), dtype=np.int64)
    for spot in spots(op, table):
        live[spot.array, spot.line] = 1
    if case.shape.unit:
        assert np.array_equal(levels[:, :, case.shape.columns], live)
    if case.shape.reference:
        assert not levels[:, :, -1].any(), "the reference column is G_min"
    dead = np.broadcast_to(live[:, :, None] == 0, levels.shape)
    assert not levels[dead].any(), "cells of idle rows are G_min"


def test_cells_that_are_changed_change_the_weights() -> None:
    case = Case(("array.columns=16",), matrix_op([[5, -3], [0, 1]]), compact=True, prune=True)
    op, table, settings = analog_of(case)
    (cells,) = cells_of(case, op, table, settings)
    cells[0, 1, 2] ^= 1  # row 1, weight 1, slice 0 of G+
    codes = decode_cells(iter([cells]), mapped(case, op, table, settings))
    assert codes.tolist() == [[[5, -3], [0, 0]]]


@pytest.mark.parametrize("name", ["generic_128", "isaac", "yuan2019", "yuan2019_32x32"])
def test_shipped_targets_hold_their_extreme_codes(name: str) -> None:
    chip = target(name=name)
    bits = chip.precision.weights
    top = (1 << (bits - 1)) - 1
    codes = np.array([[-top, top, 0], [1, -1, top]])
    case = Case((), matrix_op(codes), compact=True, prune=True)
    program = tiled(matrix_program([case.op]), chip)
    op, table, shape = program.matrix.layers[0], program.tables[0], array_shape(chip)
    shift = 1 << (bits - 1) if chip.encoding.weights == "offset" else 0
    flips = np.zeros((len(table), shape.columns), dtype=bool)
    none = np.zeros(len(table), dtype=np.int64)
    settings = EncodedMatrix(shift, flips, gain=1.0, lossless=True, live=none, clipped=None, adc_bits=none, steps=none)
    held = MappedMatrix(op.matrix, table, settings, shape, chip)
    decoded = decode_cells(encode_cells(held), held)
    assert np.array_equal(decoded[0], codes)


@pytest.mark.parametrize(
    ("levels", "slices"), [(256, 2), (16, 4), (16, 3), (4, 8), (256, 1)], ids=["8x2", "4x4", "4x3", "2x8", "8x1"]
)
@pytest.mark.parametrize("encoding", ["differential", "offset"])
def test_wide_weights_in_adjacent_columns(levels: int, slices: int, encoding: str) -> None:
    """Up to 16 bits a weight and 16 cells beside each other: words of 8 to 64 bits."""
    keys = [f"device.levels={levels}", f"encoding.slices={slices}", "array.rows=3", "array.rows_active=3"]
    keys += ["array.columns=33", "digital.accumulator_bits=48", *(OFFSET if encoding == "offset" else ())]
    top = min(32767, (1 << (slices * (levels.bit_length() - 1) - (encoding == "offset"))) - 1)
    codes = np.array([[top, -top, 1], [0, 77, -100], [-1, top // 2, -top // 3]])
    case = Case(tuple(keys), matrix_op(codes), compact=True, prune=True)
    op, table, settings = analog_of(case)
    cells = cells_of(case, op, table, settings)
    decoded = decode_cells(iter(cells), mapped(case, op, table, settings))
    assert np.array_equal(decoded[0], codes)


@given(st.data())
def test_conductance_round_trip_is_within_half_a_level(data: st.DataObject) -> None:
    levels = data.draw(st.integers(2, 256))
    low = data.draw(st.floats(1e-9, 1e-4))
    high = low * data.draw(st.floats(1.01, 1e4))
    device = target().device.model_copy(update={"g_min_siemens": low, "g_max_siemens": high, "levels": levels})
    chip: Target = target().model_copy(update={"device": device})
    codes = np.arange(levels, dtype=np.uint8)
    siemens = conductances(codes, chip)
    assert siemens[0] == low
    assert siemens[-1] == pytest.approx(high, rel=1e-12)
    assert (siemens >= low).all()
    assert (siemens <= high * (1 + 1e-12)).all()
    step = Fraction(high) - Fraction(low)
    for code, value in zip(codes.tolist(), siemens.tolist(), strict=True):
        back = (Fraction(value) - Fraction(low)) / step * (levels - 1)
        assert abs(back - code) < Fraction(1, 2)
        assert back == pytest.approx(code, abs=1e-6)


def test_conductances_by_hand() -> None:
    assert conductances(np.array([0, 1, 2, 3], np.uint8), target()) == pytest.approx([1e-6, 34e-6, 67e-6, 100e-6])


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 9), st.integers(1, 6))
def test_largest_sum(seed: int, groups: int, rows: int, cols: int) -> None:
    codes = np.random.default_rng(seed).integers(-32768, 32768, (groups, rows, cols)).astype(np.int16)
    wanted = max(sum(abs(int(codes[g, k, n])) for k in range(rows)) for g in range(groups) for n in range(cols))
    assert largest_sum(codes) == wanted


# --- reads -----------------------------------------------------------------------------------------------------------


@PROPERTY
@given(cases(), st.integers(0, 2**32 - 1))
def test_reads_add_up_to_the_product(case: Case, seed: int) -> None:
    op, table, settings = analog_of(case)
    chip = case.chip
    cells = cells_of(case, op, table, settings)
    blocks = read_blocks(iter(cells), mapped(case, op, table, settings))
    groups, rows, cols = op.matrix.codes.shape
    x = np.random.default_rng(seed).integers(0, 1 << op.site.input.bits, (groups, rows))
    step = chip.converters.dac.bits
    total = np.zeros(groups * cols, dtype=np.int64)
    for block in blocks:
        inputs = x[block.group : block.group + block.groups].reshape(-1)[block.rows]
        channels = slice(block.group * cols, (block.group + block.groups) * cols)
        for place in range(0, op.site.input.bits, step):
            plane = inputs >> place & (1 << step) - 1
            sums = np.einsum("r,rcn->cn", plane, block.levels.astype(np.int64))
            value = (sums * block.place_value).sum(axis=0) + block.inputs * plane.sum()
            total[channels] += value << place
    wanted = np.einsum("gk,gkn->gn", x, op.matrix.codes.astype(np.int64)).reshape(-1)
    assert np.array_equal(total, wanted)


@PROPERTY
@given(cases())
def test_reads_see_the_cells_and_no_more_rows_than_are_active(case: Case) -> None:
    op, table, settings = analog_of(case)
    shape, chip = case.shape, case.chip
    cells = cells_of(case, op, table, settings)
    blocks = read_blocks(iter(cells), mapped(case, op, table, settings))
    full = chip.cell_steps[-1]
    signed = chip.encoding.weights == "differential" and chip.encoding.subtract == "before_adc"
    lowest = -full if signed else 0
    conversions = shape.slices * (1 if signed else shape.polarities)
    for block in blocks:
        assert 1 <= len(block.rows) <= shape.rows_active
        assert len(set(block.rows.tolist())) == len(block.rows)
        assert block.levels.shape == (len(block.rows), conversions, block.groups * op.matrix.codes.shape[2])
        assert block.levels.min() >= lowest
        assert block.levels.max() <= full
        present = block.place_value != 0
        weights = 1 << (shape.cell_bits * (np.arange(conversions) % shape.slices))
        assert np.array_equal(np.abs(block.place_value), weights[:, None] * present)
        if not case.chip.encoding.flip and chip.encoding.weights != "polarised" and conversions == shape.slices:
            assert (block.place_value >= 0).all()
    # a word line of a group is read once for every weight on it
    reads: dict[tuple[int, int, int], int] = defaultdict(int)
    depth, cols = op.matrix.codes.shape[1:]
    for block in blocks:
        for line in block.rows.tolist():
            for channel in np.flatnonzero(block.place_value.any(axis=0)).tolist():
                if line // depth == channel // cols:
                    reads[block.group + line // depth, line % depth, channel % cols] += 1
    assert reads == {(spot.group, spot.row, spot.col): 1 for spot in spots(op, table)}


# --- converters ------------------------------------------------------------------------------------------------------


def half_even(value: Fraction) -> int:
    """To the nearest integer, ties to the even one."""
    return round(value)


def half_up(value: Fraction) -> int:
    """To the nearest integer, ties upwards."""
    return floor(value + Fraction(1, 2))


def nearest(value: Fraction) -> int | None:
    """The nearest integer, None where two are."""
    low = floor(value)
    if value - low == Fraction(1, 2):
        return None
    return low if value - low < Fraction(1, 2) else low + 1


def decoded(adc: AdcTransfer, total: int, inputs: int) -> int | None:
    """The integer that a column's sum is decoded to, in exact arithmetic; None where the code clips or is between two.

    The only tie that says which: a count of half a unit under a converter that rounds halves upwards.
    """
    gain, pedestal = Fraction(adc.gain), Fraction(adc.pedestal)
    rounding = half_even if adc.rounding is Rounding.HALF_EVEN else half_up
    code = rounding(gain * (total + pedestal * inputs))
    if not adc.smallest <= code <= adc.largest:
        return None
    if adc.decoding is Decoding.CLEAN:
        return nearest(code / gain)
    if adc.decoding is Decoding.COUNT:
        value = code / gain - pedestal * inputs
        found = nearest(value)
        return floor(value) if found is None and adc.rounding is Rounding.HALF_UP else found
    return nearest((code - rounding(gain * pedestal * inputs)) / gain)


def brute_force(adc: AdcTransfer, lowest: int, highest: int, inputs: int) -> bool:
    """Whether every sum under every count of inputs comes back."""
    return all(
        decoded(adc, total, count) == total for total in range(lowest, highest + 1) for count in range(inputs + 1)
    )


GAINS = [0.5, 0.75, 255 / 256, 1.0, 1.0, 1.0, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 129 / 64]


@st.composite
def converters(draw: st.DrawFn, gains: list[float] = GAINS) -> AdcTransfer:
    """Converters of up to 6 bits; pedestals in sixteenths of a level step."""
    decoding = draw(st.sampled_from(Decoding))
    signed = draw(st.booleans()) if decoding is Decoding.CLEAN else False
    bits = draw(st.integers(1, 6))
    sixteenths = 0 if decoding is Decoding.CLEAN else draw(st.one_of(st.just(8), st.integers(0, 48)))
    return AdcTransfer(
        smallest=-(1 << (bits - 1)) if signed else 0,
        largest=(1 << (bits - 1)) - 1 if signed else (1 << bits) - 1,
        rounding=draw(st.sampled_from(Rounding)),
        decoding=decoding,
        pedestal=sixteenths / 16,
        gain=draw(st.sampled_from(gains)),
    )


@st.composite
def questions(draw: st.DrawFn) -> tuple[AdcTransfer, int, int, int]:
    """A converter and the sums of a column, often at the very end of its range."""
    adc = draw(converters())
    lowest = draw(st.integers(max(-12, adc.smallest - 2), 0)) if adc.smallest < 0 else 0
    highest = draw(st.one_of(st.integers(0, 12), st.integers(max(0, adc.largest - 2), adc.largest + 1)))
    return adc, lowest, highest, draw(st.integers(0, 9))


@settings(max_examples=300, deadline=None)
@given(questions())
def test_lossless_is_lossless(question: tuple[AdcTransfer, int, int, int]) -> None:
    if is_lossless(*question):
        assert brute_force(*question)


@settings(max_examples=300, deadline=None)
@given(questions())
def test_lossless_is_told_wherever_it_is(question: tuple[AdcTransfer, int, int, int]) -> None:
    adc, lowest, highest, _ = question
    assume(adc.gain >= 1)
    assume(adc.decoding is not Decoding.TWO)
    assume(lowest < highest)
    assert is_lossless(*question) == brute_force(*question)


@settings(max_examples=300, deadline=None)
@given(questions())
def test_fewest_bits_by_trying(question: tuple[AdcTransfer, int, int, int]) -> None:
    adc, lowest, highest, inputs = question
    assume(lowest < highest)

    def of(bits: int) -> AdcTransfer:
        half = 1 << (bits - 1)
        low, high = (-half, half - 1) if adc.smallest < 0 else (0, 2 * half - 1)
        return replace(adc, smallest=low, largest=high, gain=1.0)

    enough = [bits for bits in range(1, 9) if is_lossless(of(bits), lowest, highest, inputs)]
    found = needed_bits(adc, np.array([[lowest]]), np.array([[highest]]), np.array([[inputs]])).item()
    assert found == (enough[0] if enough else 0)
    if adc.decoding is not Decoding.TWO:
        assert enough == [bits for bits in range(1, 9) if brute_force(of(bits), lowest, highest, inputs)]


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 16), st.integers(2, 64), st.sampled_from(Rounding), st.sampled_from(Decoding), st.integers(1, 16))
def test_lossless_with_the_pedestals_of_devices(
    levels: int, ratio: int, rounding: Rounding, decoding: Decoding, rows: int
) -> None:
    full = levels - 1
    pedestal = 0.0 if decoding is Decoding.CLEAN else exact_pedestal(full / (ratio - 1), full * rows, rows)
    adc = AdcTransfer(0, 1023, rounding, decoding, pedestal, 1.0)
    lossless = is_lossless(adc, 0, full * rows, rows)
    if lossless:
        assert brute_force(adc, 0, full * rows, rows)
    if decoding is Decoding.CLEAN:
        assert lossless


@pytest.mark.parametrize(("levels", "ratio"), [(4, 7), (16, 31)])
def test_a_pedestal_of_a_half_ties(levels: int, ratio: int) -> None:
    keys = (
        f"device.levels={levels}",
        "device.g_min_siemens=1e-6",
        f"device.g_max_siemens={ratio}e-6",
        "precision.weights=2",
    )
    chip = target(*OFFSET, *keys, "converters.adc.bits=14")
    adc = make_adc(chip)
    assert adc.pedestal == 0.5
    assert adc.gain == 1.0
    # half to even: 0 + 1/2 gives 0 and 1 + 1/2 gives 2, which are 1/2 below and 1/2 above their sums
    assert not is_lossless(adc, 0, 3, 1)
    assert not is_lossless(adc, 0, 3, 128)
    assert is_lossless(replace(adc, rounding=Rounding.HALF_UP), 0, 3, 128)
    two = replace(adc, decoding=Decoding.TWO)
    assert not is_lossless(two, 0, 3, 1)
    assert is_lossless(replace(two, rounding=Rounding.HALF_UP), 0, 3, 1)
    assert is_lossless(replace(two, gain=2.0), 0, 3, 1), "in steps of half a unit there are no ties"


def test_halves_round_as_the_converter_does() -> None:
    even = AdcTransfer(-2, 3, Rounding.HALF_EVEN, Decoding.CLEAN, 0.0, 1.0)
    values = np.array([-3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5, 0.49, 0.51])
    assert round_codes(even, values).tolist() == [-4, -2, -2, 0, 0, 2, 2, 4, 0, 1]
    up = replace(even, rounding=Rounding.HALF_UP)
    assert round_codes(up, values).tolist() == [-3, -2, -1, 0, 1, 2, 3, 4, 0, 1]
    assert convert(even, values).tolist() == [-2, -2, -2, 0, 0, 2, 2, 3, 0, 1]
    assert convert(replace(even, gain=0.5), np.array([3.0, 5.0, 7.0])).tolist() == [2, 2, 3]


def test_clip_off_by_one() -> None:
    unsigned = AdcTransfer(0, 255, Rounding.HALF_EVEN, Decoding.CLEAN, 0.0, 1.0)
    assert is_lossless(unsigned, 0, 255, 128)
    assert not is_lossless(unsigned, 0, 256, 128)
    signed = AdcTransfer(-128, 127, Rounding.HALF_EVEN, Decoding.CLEAN, 0.0, 1.0)
    assert is_lossless(signed, -128, 127, 128)
    assert not is_lossless(signed, -129, 127, 128)
    assert not is_lossless(signed, -128, 128, 128)
    count = AdcTransfer(0, 255, Rounding.HALF_UP, Decoding.COUNT, 0.25, 1.0)
    assert is_lossless(count, 0, 255, 1), "255.25 is still 255"
    assert not is_lossless(count, 0, 255, 2), "255.5 is 256"


def test_a_step_above_one_unit_is_never_lossless() -> None:
    adc = AdcTransfer(0, 255, Rounding.HALF_EVEN, Decoding.CLEAN, 0.0, 0.5)
    assert not is_lossless(adc, 0, 1, 1)
    assert is_lossless(adc, 0, 0, 1), "an empty column is"


def test_isaac_is_lossless_in_8_bits_and_not_in_7() -> None:
    eight = make_adc(target(name="isaac"))
    assert (eight.smallest, eight.largest, eight.gain, eight.decoding) == (0, 255, 1.0, Decoding.COUNT)
    assert eight.pedestal == pytest.approx(3 / 14, abs=2**-12)
    assert worst_sum(target(name="isaac")) == 192  # half of 128 rows x 3
    assert is_lossless(eight, 0, 192, 128)
    seven = make_adc(target("converters.adc.bits=7", name="isaac"))
    assert seven.gain < 1
    assert not is_lossless(seven, 0, 192, 128)
    assert not is_lossless(replace(seven, gain=1.0), 0, 192, 128)
    unflipped = make_adc(target("encoding.flip=false", name="isaac"))
    assert unflipped.gain < 1, "without flips a column sums to 384"


@pytest.mark.parametrize(
    ("keys", "decoding", "signed"),
    [
        ((), Decoding.CLEAN, True),
        (("encoding.subtract=after_adc", "encoding.pedestal=digital_count"), Decoding.TWO, False),
        (("encoding.subtract=after_adc", "encoding.pedestal=reference_column"), Decoding.CLEAN, False),
        (("encoding.pedestal=digital_count",), Decoding.CLEAN, True),
        (OFFSET, Decoding.COUNT, False),
        ((*OFFSET, "encoding.pedestal=reference_column"), Decoding.CLEAN, False),
        ((*OFFSET, "encoding.pedestal=digitised_reference"), Decoding.TWO, False),
    ],
)
def test_decoding(keys: tuple[str, ...], decoding: Decoding, signed: bool) -> None:
    chip = target(*keys)
    assert chip.weight_encoding.decoding is decoding
    assert chip.weight_encoding.signed is signed
    adc = make_adc(chip)
    assert adc.decoding is decoding
    assert (adc.smallest, adc.largest) == ((-512, 511) if signed else (0, 1023))
    assert (adc.pedestal == 0) == (decoding is Decoding.CLEAN)


def significant_bits(value: Fraction) -> int:
    """Binary digits between the first and the last 1."""
    top = value.numerator  # the denominator is a power of two
    while top % 2 == 0:
        top //= 2
    return top.bit_length()


@given(st.floats(1e-12, 1e12))
def test_eight_bit_floor(value: float) -> None:
    found = eight_bit_floor(value)
    assert found <= value
    assert Fraction(value) - Fraction(found) <= Fraction(value) / 128
    assert significant_bits(Fraction(found)) <= 8


@PROPERTY
@given(overrides(), st.integers(1, 12), st.sampled_from(Rounding))
def test_full_range_holds_the_worst_sum(keys: tuple[str, ...], bits: int, rounding: Rounding) -> None:
    chip = target(
        *keys,
        f"converters.adc.bits={bits + target(*keys).weight_encoding.signed}",
        f"converters.adc.rounding={rounding}",
    )
    adc = make_adc(chip)
    assert 0 < adc.gain <= 1
    assert significant_bits(Fraction(adc.gain)) <= 8
    inputs = chip.array.rows_active * ((1 << chip.converters.dac.bits) - 1)
    worst = worst_sum(chip) + Fraction(adc.pedestal) * inputs
    rounded = half_even if rounding is Rounding.HALF_EVEN else half_up
    assert rounded(Fraction(adc.gain) * worst) <= adc.largest
    if chip.weight_encoding.signed:
        assert rounded(-Fraction(adc.gain) * worst) >= adc.smallest
    if adc.gain < 1:
        assert worst > adc.largest
        assert Fraction(adc.gain) * worst >= adc.largest * Fraction(127, 128), "the range is used"


@PROPERTY
@given(cases(), st.booleans())
def test_no_read_sums_to_more_than_the_worst_sum(case: Case, largest: bool) -> None:
    if largest:  # every weight at the end of its range
        ends = np.where(case.op.matrix.codes < 0, case.op.matrix.codes.min(), case.op.matrix.codes.max())
        if case.shape.encoding.signed_fragments:  # zeros have no sign to keep
            ends = np.where(case.op.matrix.codes == 0, 0, ends)
        case = replace(case, op=with_matrix(case.op, codes=ends.astype(np.int16)))
    op, table, settings = analog_of(case)
    levels = np.array([*case.chip.cell_steps, *[0] * 256])[levels_of(case, cells_of(case, op, table, settings))]
    top = (1 << case.chip.converters.dac.bits) - 1
    for first in range(0, case.shape.rows, case.shape.rows_active):
        read = levels[:, first : first + case.shape.rows_active]
        assert read.sum(axis=1).max(initial=0) * top <= worst_sum(case.chip)


def test_worst_sum_by_hand() -> None:
    assert worst_sum(target()) == 128 * 3
    assert worst_sum(target("array.rows_active=16", "converters.dac.bits=2")) == 16 * 3 * 3
    assert worst_sum(target("array.rows_active=100", name="isaac")) == 192
    assert worst_sum(target("array.rows_active=32", name="isaac")) == 96
    binary = target("device.levels=2", "encoding.slices=8", name="isaac")
    assert worst_sum(binary) == 128, "the unit column is not flipped: 1 in each of 128 rows"


def test_adc_with_a_given_limit() -> None:
    chip = target("converters.adc.bits=8")  # -128..127
    assert make_adc(chip, 127.0).gain == 1.0
    assert make_adc(chip, 10.0).gain == 1.0, "a step is never finer than a unit"
    assert make_adc(chip, 254.0).gain == 0.5
    assert make_adc(chip).gain == 169 / 512  # 127 / 384 = 0.33073, floor to 8 bits


@given(
    st.floats(0, 2000),
    st.integers(0, 4000),
    st.integers(1, 500),
    st.integers(0, 2**32 - 1),
)
def test_exact_pedestal_keeps_sums_exact_in_float32(value: float, sums: int, inputs: int, seed: int) -> None:
    pedestal = exact_pedestal(value, sums, inputs)
    assume(sums + value * inputs < 1 << 22)
    assert float(np.float32(pedestal)) == pedestal
    rng = np.random.default_rng(seed)
    for total, count in [
        (sums, inputs),
        *zip(rng.integers(0, sums + 1, 8), rng.integers(0, inputs + 1, 8), strict=True),
    ]:
        exact = int(total) + Fraction(pedestal) * int(count)
        given: Any = np.float32(total) + np.float32(pedestal) * np.float32(count)
        assert Fraction(float(given)) == exact
    assert abs(pedestal - value) <= (sums + value * inputs + 2) / (1 << 23), "no coarser than needed"


def test_exact_pedestal_of_a_half_is_a_half() -> None:
    assert exact_pedestal(0.5, 384, 128) == 0.5
    assert exact_pedestal(3 / 14, 192, 128) == pytest.approx(3 / 14, abs=2**-16)
    assert exact_pedestal(3 / 14, 192, 128) * 2**15 % 1 == 0
