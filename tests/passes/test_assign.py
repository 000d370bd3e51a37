"""Assignment: what the cells hold is checked, columns flip at half of full scale, converters are set and judged."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcompiler.conductance import (
    MappedMatrix,
    convert,
    decode_cells,
    encode_cells,
    is_lossless,
    make_adc,
    unpack_levels,
)
from mcompiler.errors import CompileError, TargetError
from mcompiler.geometry import array_shape
from mcompiler.ir import AnalogLayer, AnalogProgram, CodeSample, EncodedMatrix
from mcompiler.passes.assign import Assign
from mcompiler.target import Target
from tests.support.programs import OFFSET, Case, cases, matrix_op, matrix_program, spots, target, tiled

PROPERTY = settings(max_examples=80, deadline=None)

CALIBRATED = "converters.adc.range=calibrated"


def assigned(op: AnalogLayer, chip: Target, vectors: npt.NDArray[Any] | None = None) -> EncodedMatrix:
    """Settings of one operation; ``vectors`` [V, G, K] are the calibration's."""
    return analog(op, chip, vectors).analog[0]


def analog(op: AnalogLayer, chip: Target, vectors: npt.NDArray[Any] | None = None) -> AnalogProgram:
    program = matrix_program([op])
    if vectors is not None:
        program = replace(program, samples=(CodeSample(vectors.astype(np.uint16), op.site.input.bits),))
    return Assign().run(tiled(program, chip), chip)


def stored(program: AnalogProgram, chip: Target) -> npt.NDArray[np.int64]:
    """Levels of the weight columns of all arrays as they are stored: [arrays, rows, columns]."""
    op, table, made = program.tiled.matrix.layers[0], program.tiled.tables[0], program.analog[0]
    shape = array_shape(chip)
    cells = encode_cells(MappedMatrix(op.matrix, table, made, shape, chip))
    packed = np.concatenate([np.zeros((0, shape.rows, shape.row_bytes), np.uint8), *cells])
    return unpack_levels(packed, shape.storage_bits, shape.columns).astype(np.int64)


# --- codes and shifts ------------------------------------------------------------------------------------------------


def test_codes_that_a_pair_does_not_hold() -> None:
    with pytest.raises(CompileError) as caught:
        assigned(matrix_op([[-4, 2]], name="conv1"), target("encoding.slices=1", "precision.weights=3"))
    assert caught.value.node == "conv1"
    assert str(caught.value) == (
        "node 'conv1': weight codes from -4 to 2 do not fit into -3..3, which is what a pair holds in 1 slice(s) of 2 "
        "bits; raise encoding.slices (--set encoding.slices=N) or have them quantised again (--requantise)"
    )


def test_codes_that_offset_cells_do_not_hold() -> None:
    chip = target(*OFFSET, "encoding.slices=2", "precision.weights=4")
    with pytest.raises(CompileError) as caught:
        assigned(matrix_op([[-9, 7]], name="conv1"), chip)
    assert str(caught.value) == (
        "node 'conv1': weight codes from -9 to 7 do not fit into 2 slice(s) of 2 bits; raise encoding.slices "
        "(--set encoding.slices=N) or have them quantised again (--requantise)"
    )


@pytest.mark.parametrize(
    ("low", "high", "shift"),
    [
        (-128, 127, 128),
        (-3, 3, 128),
        (0, 255, 0),  # a model's own unsigned codes
        (-1, 254, 1),
        (-200, 55, 200),
        (100, 200, 0),  # code 0 must stay among them: cells off the diagonal of packed groups hold it
    ],
)
def test_shift(low: int, high: int, shift: int) -> None:
    codes = [[[low, high]], [[high, low]]]
    chip = target(*OFFSET)
    made = assigned(matrix_op(codes), chip)
    assert made.shift == shift
    program = tiled(matrix_program([matrix_op(codes)]), chip)
    op, table, shape = program.matrix.layers[0], program.tables[0], array_shape(chip)
    assert len(table) == 1, "two groups on one diagonal"
    mapped = MappedMatrix(op.matrix, table, made, shape, chip)
    cells = list(encode_cells(mapped))
    decoded = decode_cells(iter(cells), mapped)
    assert np.array_equal(decoded, codes)
    # off the diagonal: row 0 crosses the columns of group 1
    crossing = unpack_levels(cells[0], 2, shape.columns)[0, 0, columns(codes)].tolist()
    assert sum(level << (2 * place) for place, level in enumerate(crossing)) == shift


def columns(codes: list[list[list[int]]]) -> slice:
    """Bit lines of the first column of group 1, beside the columns of group 0 that are not all zero."""
    before = sum(any(row[n] for row in codes[0]) for n in range(2))
    return slice(4 * before, 4 * before + 4)


@pytest.mark.parametrize("span", [(-129, 127), (-1, 255), (0, 256)])
def test_one_code_too_many(span: tuple[int, int]) -> None:
    with pytest.raises(CompileError, match=rf"weight codes from {span[0]} to {span[1]} do not fit into 4 slice"):
        assigned(matrix_op([list(span)]), target(*OFFSET))


def test_an_accumulator_that_overflows() -> None:
    # 16 bits hold up to 32767; a column of 129 x 1 under inputs of up to 255 sums to 32895
    op = matrix_op(np.ones((129, 1)), name="fc")
    with pytest.raises(CompileError) as caught:
        assigned(op, target("digital.accumulator_bits=16"))
    assert str(caught.value) == (
        "node 'fc': a column can sum to 32895, which overflows the target's accumulators of 16 bits; raise "
        "digital.accumulator_bits to 17, or lower precision.weights or precision.inputs (with --requantise for the "
        "codes that a model brings)"
    )
    assert assigned(op, target("digital.accumulator_bits=17")).lossless
    assert assigned(matrix_op(np.ones((128, 1))), target("digital.accumulator_bits=16")).lossless
    byte = target("digital.accumulator_bits=8", "precision.inputs=1")  # -128..127
    assert assigned(matrix_op(np.ones((127, 1)), input_bits=1), byte).lossless
    with pytest.raises(CompileError, match="a column can sum to 128, which overflows"):
        assigned(matrix_op(np.ones((128, 1)), input_bits=1), byte)


# --- flips -----------------------------------------------------------------------------------------------------------


@PROPERTY
@given(cases())
def test_columns_flip_exactly_where_they_sum_to_more_than_half(case: Case) -> None:
    program = case.analog()
    op, table, made = program.tiled.matrix.layers[0], program.tiled.tables[0], program.analog[0]
    assert made.flips.shape == (len(table), case.shape.columns)
    if not case.chip.encoding.flip:
        assert not made.flips.any()
        return
    plain = replace(made, flips=np.zeros_like(made.flips))
    levels = stored(replace(program, analog=(plain,)), case.chip)
    rows = Counter(array for array, _ in {(spot.array, spot.line) for spot in spots(op, table)})
    half = np.array([rows[array] * ((1 << case.shape.cell_bits) - 1) for array in range(len(table))])[:, None]
    assert np.array_equal(made.flips, 2 * levels.sum(axis=1) > half)
    assert (2 * stored(program, case.chip).sum(axis=1) <= half).all()


def test_exactly_half_is_not_flipped() -> None:
    # levels 3 and 0 in one slice, 3 and 1 in the other, of 3 each: 3 is half of 6, 4 is more
    chip = target("encoding.slices=2", "precision.weights=4", name="isaac")
    made = assigned(matrix_op([[0b1111 - 8], [0b0100 - 8]]), chip)
    assert made.shift == 8
    assert made.flips[0, :2].tolist() == [False, True]
    assert not made.flips[0, 2:].any()


# --- converters ------------------------------------------------------------------------------------------------------


@PROPERTY
@given(cases(), st.integers(2, 9))
def test_a_layer_is_called_lossless_only_where_its_own_columns_are(case: Case, bits: int) -> None:
    chip = target(*case.overrides, f"converters.adc.bits={bits}")
    program = replace(case, overrides=(*case.overrides, f"converters.adc.bits={bits}")).analog()
    made, table = program.analog[0], program.tiled.tables[0]
    if not made.lossless or not len(table):
        return
    levels = stored(program, chip)
    top = (1 << chip.converters.dac.bits) - 1
    largest = 0
    for first in range(0, case.shape.rows, case.shape.rows_active):
        largest = max(largest, int(levels[:, first : first + case.shape.rows_active].sum(axis=1).max()))
    rows = min(case.shape.rows_active, int(table["rows"].max()))
    largest = max(largest, rows if case.shape.unit else 0)
    adc = replace(make_adc(chip), gain=made.gain)
    pairs = table["polarity"].min() < 1 and chip.weight_encoding.signed
    assert is_lossless(adc, -largest * top if pairs else 0, largest * top, rows * top)


def test_sparse_layers_are_lossless_where_the_worst_sum_is_not() -> None:
    chip = target("converters.adc.bits=8", "converters.adc.range=full", *OFFSET, "encoding.flip=true")
    assert make_adc(chip).gain == 1.0
    signed = target("converters.adc.bits=9")  # -256..255, and 128 rows of 3 are 384
    assert make_adc(signed).gain < 1
    made = assigned(matrix_op(np.ones((4, 4))), signed)
    assert made.gain < 1
    assert not made.lossless, "a full range is as wide as the worst array's"
    assert assigned(matrix_op(np.zeros((4, 4))), signed).lossless, "no conversion, no loss"


@pytest.mark.parametrize(("name", "lossless"), [("generic_128", True), ("isaac", True), ("yuan2019", False)])
def test_shipped_targets(name: str, lossless: bool) -> None:
    chip = target(name=name)
    rng = np.random.default_rng(0)
    op = matrix_op(rng.integers(-15, 16, (200, 40)))
    made = assigned(op, chip, rng.integers(0, 256, (64, 1, 200)))
    assert made.lossless is lossless
    assert made.gain == 1.0 if lossless else made.gain < 1


def test_a_calibrated_range_needs_data() -> None:
    with pytest.raises(CompileError) as caught:
        assigned(matrix_op([[1]], name="conv1"), target(CALIBRATED))
    assert str(caught.value) == (
        "node 'conv1': the target calibrates its ADC range and there is no calibration data; give "
        "--calibration DATA.npz, or --set converters.adc.range=full"
    )


CLIPPING = (CALIBRATED, "converters.adc.bits=5", "array.rows=24", "array.rows_active=16", "precision.inputs=4")


@pytest.mark.parametrize("rounding", ["half_even", "half_up"])
@pytest.mark.parametrize("separate", [False, True])
def test_clipped_share_of_a_calibrated_range(rounding: str, separate: bool) -> None:
    """Two tiles of generic_128 by hand: 24 and 6 rows, 5 columns, pairs subtracted before a converter of -16..15."""
    keys = ("encoding.slices_in=separate", "encoding.pairs_in=separate") if separate else ()
    chip = target(*CLIPPING, f"converters.adc.rounding={rounding}", *keys)
    rng = np.random.default_rng(1)
    codes = rng.integers(-255, 256, (30, 5))
    codes[:, 3] = np.abs(codes[:, 3])  # columns of one sign are what clips
    codes[:, 4] = 255
    x = rng.integers(0, 16, (100, 30))
    made = assigned(matrix_op(codes, input_bits=4), chip, x[:, None, :])
    values = []
    for rows in (slice(0, 16), slice(16, 24), slice(24, 30)):  # one read each
        for place in range(4):
            plane = x[:, rows] >> place & 1
            for which in range(4):
                held = np.sign(codes[rows]) * (np.abs(codes[rows]) >> (2 * which) & 3)
                values.append((plane @ held).ravel())
    every = np.concatenate(values).astype(np.float32)
    adc = replace(make_adc(chip), gain=made.gain)
    scaled = every * np.float32(made.gain)
    rounded = np.rint(scaled) if rounding == "half_even" else np.floor(scaled + np.float32(0.5))
    wanted = ((rounded > 15) | (rounded < -16)).mean()
    assert made.clipped == pytest.approx(wanted)
    assert 0 < wanted < 0.2
    assert not made.lossless
    # no range errs less, neither the full one nor one that just holds what was seen
    error = np.square(convert(adc, every) / made.gain - every).mean()
    for limit in (None, float(np.abs(every).max()), float(np.abs(every).max()) / 2):
        other = make_adc(chip, limit)
        assert error <= np.square(convert(other, every) / other.gain - every).mean() * (1 + 1e-6)


@pytest.mark.parametrize("per", ["array", "column"])
@pytest.mark.parametrize("separate", [False, True])
def test_ranges_of_arrays_and_columns(per: str, separate: bool) -> None:
    """The same two tiles: no other binary step errs less, column by column or array by array."""
    keys = ("encoding.slices_in=separate", "encoding.pairs_in=separate") if separate else ()
    chip = target(*CLIPPING, f"converters.adc.range_per={per}", *keys)
    rng = np.random.default_rng(1)
    codes = rng.integers(-255, 256, (30, 5))
    codes[:, 3], codes[2:, 2] = 255, 0  # a column of one sign, one of two cells
    x = rng.integers(0, 16, (100, 30))
    program = analog(matrix_op(codes, input_bits=4), chip, x[:, None, :])
    made, table = program.analog[0], program.tiled.tables[0]
    assert made.zoom is not None
    adc, seen, clips = make_adc(chip), 0, 0
    groups: dict[Any, list[Any]] = {}
    for tile, reads in enumerate([(slice(0, 16), slice(16, 24)), (slice(24, 30),)]):
        for which in range(4):
            held = np.sign(codes) * (np.abs(codes) >> (2 * which) & 3)
            values = np.concatenate([(x[:, rows] >> place & 1) @ held[rows] for rows in reads for place in range(4)])
            at = np.flatnonzero((table["tile"] == tile) & ((table["slice"] == which) | (table["slice"] < 0)))
            for column in range(5):
                places = [column] if separate else [column * 8 + which, column * 8 + 4 + which]
                (zoom,) = set(made.zoom[at][:, places].ravel().tolist())
                scaled = np.rint(values[:, column] * made.gain * 2**zoom)
                seen, clips = seen + len(scaled), clips + int(((scaled > 15) | (scaled < -16)).sum())
                if per == "column" and not values[:, column].any():
                    assert zoom == 0
                    continue
                key = (tile, which if separate else 0) if per == "array" else (tile, which, column)
                groups.setdefault(key, []).append((zoom, values[:, column].astype(np.float32)))
    assert made.clipped == pytest.approx(clips / seen)
    for held_by in groups.values():
        (zoom,) = {zoom for zoom, _ in held_by}
        errors = {}
        for other in range(5):
            one = replace(adc, gain=made.gain * 2**other)
            errors[other] = sum(np.square(convert(one, v) / one.gain - v, dtype=np.float64).sum() for _, v in held_by)
        assert errors[zoom] <= min(error for other, error in errors.items() if made.gain * 2**other <= 1)
    assert len({zoom for held_by in groups.values() for zoom, _ in held_by}) > 1


def test_finer_ranges_need_calibrated_ones() -> None:
    with pytest.raises(TargetError, match=r"converters\.adc\.range_per.*calibrated, or range_per to layer"):
        target("converters.adc.range=full", "converters.adc.range_per=column")


def test_clipped_share_counts_the_unit_column_and_the_pedestal() -> None:
    # 3 rows of level 0 (code -128), so that only the pedestal (3/14 a row) and the unit column are seen
    chip = target(CALIBRATED, "converters.adc.bits=1", "encoding.flip=false", "precision.inputs=1", name="isaac")
    op = matrix_op(np.full((3, 1), -128), input_bits=1)
    made = assigned(op, chip, np.array([[[1, 1, 1]], [[0, 0, 0]]]))
    # values: 4 columns of 9/14 and a unit column of 51/14, then all 0; the codes are 0 and 1
    values = np.array([*[9 / 14] * 4, 51 / 14, *[0.0] * 5])
    assert made.clipped == pytest.approx((np.rint(values * made.gain) > 1).mean())
    largest = make_adc(chip, 51 / 14).gain
    assert made.gain >= largest


def test_a_calibrated_range_without_signal_is_the_full_one() -> None:
    chip = target(CALIBRATED, "converters.adc.bits=5")
    for op, vectors in [
        (matrix_op([[0]]), np.ones((4, 1, 1))),
        (matrix_op(np.full((32, 1), 5)), np.zeros((4, 1, 32))),
        (matrix_op(np.full((32, 1), 5)), np.zeros((0, 1, 32))),
    ]:
        made = assigned(op, chip, vectors)
        assert made.clipped == 0.0
        assert made.gain == make_adc(chip).gain


def test_a_calibrated_range_can_be_lossless() -> None:
    """Sums from -2 to 1 take two of five bits: a level step gets the eight codes that the others allow."""
    chip = target(CALIBRATED, "converters.adc.bits=5")
    made = assigned(matrix_op([[1], [-2]]), chip, np.ones((4, 1, 2)))
    assert made.gain == 8.0
    assert made.lossless
    assert made.clipped == 0.0
    assert assigned(matrix_op([[1]]), target()).clipped == 0.0
    bare = assigned(matrix_op([[1], [-2]]), target(CALIBRATED, "converters.adc.bits=2"), np.ones((4, 1, 2)))
    assert bare.gain == 1.0
    assert bare.lossless


def test_a_unit_column_that_can_clip_is_not_lossless() -> None:
    # the weights' cells are all at level 0 and one row was active at once: nothing was seen to clip
    op, seen = matrix_op(np.full((5, 1), -128)), np.array([[[1, 0, 0, 0, 0]]])
    keys = (CALIBRATED, "encoding.flip=false")
    two = assigned(op, target(*keys, "converters.adc.bits=2", name="isaac"), seen)
    assert two.gain == 1.0
    assert not two.lossless, "5 active rows are 5 in the unit column, and 3 is the largest code"
    three = assigned(op, target(*keys, "converters.adc.bits=3", name="isaac"), seen)
    assert three.lossless


# --- live cells ------------------------------------------------------------------------------------------------------


@PROPERTY
@given(cases())
def test_live_cells(case: Case) -> None:
    program = case.analog()
    op, table = program.tiled.matrix.layers[0], program.tiled.tables[0]
    weights = Counter(spot.array for spot in spots(op, table))
    wanted = [weights[array] * case.shape.columns_per_weight for array in range(len(table))]
    assert program.analog[0].live.tolist() == wanted
