"""What an operation's own cells can sum to: signs of fragments, and the ADC bits that each array needs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcompiler.conductance import make_adc, needed_bits
from mcompiler.errors import CompileError
from mcompiler.ir import AnalogLayer, BitRange
from mcompiler.target import Target
from tests.support.programs import Case, analog, cases, matrix_op, matrix_program, one_sign, spots, target, with_matrix

PROPERTY = settings(max_examples=100, deadline=None)

POLARISED = ("encoding.weights=polarised", "encoding.pedestal=reference_column")


# --- ADC bits --------------------------------------------------------------------------------------------------------


@PROPERTY
@given(cases())
def test_bits_of_every_array_from_its_weights(case: Case) -> None:
    """Weight by weight from the definition: every slice of every weight, summed over what one read drives."""
    program = case.analog()
    op, table, made = program.tiled.matrix.layers[0], program.tiled.tables[0], program.analog[0]
    shape, chip = case.shape, case.chip
    sums: dict[tuple[int, int, int], int] = defaultdict(int)  # by array, read and bit line
    live: dict[tuple[int, int], set[int]] = defaultdict(set)
    crossed = {array: {spot.column for spot in spots(op, table) if spot.array == array} for array in range(len(table))}
    held = {(spot.array, spot.line, spot.column): spot for spot in spots(op, table)}
    for spot in spots(op, table):
        live[spot.array, spot.line // shape.rows_active].add(spot.line)
    for (array, read), lines in live.items():
        for line in lines:
            for column in crossed[array]:
                at = held.get((array, line, column))
                code = 0 if at is None else int(op.matrix.codes[at.group, at.row, at.col])
                for place, level in enumerate(levels_of(code, table[array], made.shift, case)):
                    bit_line = column * shape.columns_per_weight + place
                    flipped = bool(made.flips[array, bit_line])
                    sums[array, read, bit_line] += chip.cell_steps[-1] - level if flipped else level
    top, adc = (1 << chip.converters.dac.bits) - 1, make_adc(chip)
    wanted = np.ones(len(table), dtype=np.int64)
    for (array, read, line), total in sums.items():
        count = len(live[array, read])
        if chip.weight_encoding.signed:
            half = shape.adjacent_slices
            partner = {0: line + half, 1: line - half}[line // half % 2] if shape.adjacent_polarities == 2 else line
            first = shape.adjacent_polarities == 2 and line // half % 2 == 0
            positive = first or table[array]["polarity"] > 0
            other = array if shape.adjacent_polarities == 2 else array + (1 if positive else -1)
            opposite = sums[other, read, partner]
            low, high = (-opposite, total) if positive else (-total, opposite)
        else:
            low, high = 0, max(total, count if shape.unit else 0)
        (bits,) = needed_bits(adc, np.array([low * top]), np.array([high * top]), np.array([count * top]))
        if bits == 0 or wanted[array] == 0:
            wanted[array] = 0
        else:
            wanted[array] = max(wanted[array], bits)
    assert made.adc_bits.tolist() == wanted.tolist()


def levels_of(code: int, array: np.void, shift: int, case: Case) -> list[int]:
    """Steps of the adjacent cells of one weight in one array, from the definition."""
    shape, encoding = case.shape, case.chip.encoding.weights
    signs = [1, -1] if array["polarity"] == 0 else [int(array["polarity"])]
    if encoding == "differential":
        magnitudes = [max(0, sign * code) for sign in signs]
    else:
        magnitudes = [code + shift if encoding == "offset" else abs(code)]
    if case.chip.has_level_table:
        return magnitudes
    slices = range(shape.slices) if array["slice"] < 0 else [int(array["slice"])]
    return [m >> (shape.cell_bits * s) & ((1 << shape.cell_bits) - 1) for m in magnitudes for s in slices]


@PROPERTY
@given(cases())
def test_a_converter_of_so_many_bits_is_lossless(case: Case) -> None:
    """The layer's own range is what its arrays need, and one bit less is too few."""
    made = case.analog().analog[0]
    needed = made.adc_range.max
    if needed is None or not case.op.matrix.codes.any():  # what is zero is lost by no converter
        return
    for bits in (needed, needed - 1):
        if bits < (2 if case.chip.weight_encoding.signed else 1):  # a sign alone is no range
            continue
        again = replace(case, overrides=(*case.overrides, f"converters.adc.bits={bits}")).analog().analog[0]
        assert np.array_equal(again.adc_bits, made.adc_bits), "what is needed does not hang on what is there"
        if make_adc(target(*case.overrides, f"converters.adc.bits={bits}")).gain == 1:
            assert again.lossless is (bits == needed)


def assigned(op: AnalogLayer, chip: Target) -> BitRange:
    """Bits that a layer needs."""
    return analog(matrix_program([op]), chip).analog[0].adc_range


def test_bits_by_hand() -> None:
    keys = ("array.rows=4", "array.rows_active=4", "encoding.slices=1", "precision.weights=3")
    pairs = target(*keys)
    assert assigned(matrix_op([[3], [3], [3], [-3]]), pairs) == BitRange(5, 5)  # -3..9
    assert assigned(matrix_op([[1], [0], [0], [-2]]), pairs) == BitRange(2, 2)  # -2..1
    assert assigned(matrix_op([[1], [0], [0], [-3]]), pairs) == BitRange(3, 3)  # -3..1
    assert assigned(matrix_op([[3]] * 4 + [[1]]), pairs) == BitRange(2, 5)  # 12 and 1, in two arrays
    assert assigned(matrix_op([[0]]), pairs) == BitRange(None, None)
    signs = target(*keys, *POLARISED)
    assert assigned(matrix_op([[-3], [-3], [-3], [-3]]), signs) == BitRange(4, 4)  # 12
    assert assigned(matrix_op([[3], [3], [3], [-3]]), target(*keys, *POLARISED, "array.rows_active=3")) == BitRange(
        4, 4
    )


def test_a_pedestal_on_half_a_code_is_never_lossless() -> None:
    keys = ("device.g_min_siemens=1e-6", "device.g_max_siemens=7e-6", "converters.adc.bits=20")  # half a level step
    count = ("encoding.weights=polarised", "encoding.pedestal=digital_count")
    op = matrix_op([[5], [3]])
    assert assigned(op, target(*keys, *count)) == BitRange(None, None)
    assert assigned(op, target(*keys, *count, "converters.adc.rounding=half_up")) == BitRange(3, 3)  # 1 + 3 + 1 = 5
    assert str(BitRange(None, None)) == "-"
    assert str(BitRange(4, 4)) == "4"
    assert str(BitRange(4, 6)) == "4 to 6"
    assert str(BitRange(4, None)) == "4 to any"


def test_fewer_weights_in_a_column_need_fewer_bits() -> None:
    """What a fixed number of non-zeros per column is good for."""
    rng = np.random.default_rng(0)
    codes = np.where(rng.random((128, 16)) < 2, rng.choice([-255, 255], (128, 16)), 0)
    chip, sparse = target(), codes.copy()
    for column in range(16):
        sparse[rng.permutation(128)[:112], column] = 0  # 16 of 128 are left
    dense_bits, sparse_bits = assigned(matrix_op(codes), chip).max, assigned(matrix_op(sparse), chip).max
    assert dense_bits is not None
    assert sparse_bits is not None
    assert sparse_bits <= 1 + (16 * 3).bit_length() < dense_bits


# --- signs -----------------------------------------------------------------------------------------------------------


def test_signs_by_hand() -> None:
    chip = target("array.rows=4", "array.rows_active=2", "array.columns=8", *POLARISED)  # 2 weights of 4 slices
    made = analog(matrix_program([matrix_op([[-1, 2], [-3, 0], [4, -5], [0, -6], [-7, 8]])]), chip).analog[0]
    assert made.signs is not None
    assert made.signs.tolist() == [[[True, False], [False, True]], [[True, False], [False, False]]]


def test_both_signs_in_one_fragment_are_refused() -> None:
    keys = ("array.rows=4", "array.rows_active=2", "array.columns=8", *POLARISED)
    codes = np.ones((8, 3), dtype=np.int64)
    codes[0], codes[:, 0] = 0, 0  # compaction drops them: rows 1 2 | 3 4 are the first tile's fragments
    codes[4, 2] = -1
    with pytest.raises(CompileError) as caught:
        assigned(matrix_op(codes, name="conv3"), target(*keys))
    assert caught.value.node == "conv3"
    assert str(caught.value) == (
        "node 'conv3': has weights of both signs in one fragment: group 0, output channel 2, row block 0, word lines 2 "
        "to 3; polarised weights have one sign per column in 2 rows that are active at once: train with the one_sign "
        "constraint of mcompiler.admm for this target, or take a differential encoding (--set "
        "encoding.weights=differential --set encoding.pedestal=pair)"
    )
    codes[3, 2] = -1
    assert assigned(matrix_op(codes), target(*keys)).max is not None


def test_groups_on_a_diagonal_have_signs_of_their_own() -> None:
    chip = target("array.rows=8", "array.rows_active=4", "array.columns=8", *POLARISED)
    codes = np.array([[[1], [2]], [[-3], [-4]]])  # one fragment of 4 word lines, 2 of each group
    made = analog(matrix_program([matrix_op(codes)]), chip).analog[0]
    assert made.signs is not None
    assert made.signs[0].tolist() == [[False, True], [False, False]]


@PROPERTY
@given(cases(), st.integers(0, 2**32 - 1))
def test_exactly_what_has_one_sign_is_taken(case: Case, seed: int) -> None:
    """Signs drawn weight by weight: refused where a fragment of a column has both, and only there."""
    if not case.shape.encoding.signed_fragments:
        return
    rng = np.random.default_rng(seed)
    codes = np.where(rng.random(case.op.matrix.codes.shape) < 0.05, -case.op.matrix.codes, case.op.matrix.codes)
    changed = replace(case, op=with_matrix(case.op, codes=codes))
    kept = analog(matrix_program([case.op]), case.chip, compact=case.compact, prune=False).tiled
    seen: dict[tuple[int, int, int], set[int]] = defaultdict(set)
    for spot in spots(kept.matrix.layers[0], kept.tables[0]):
        sign = int(np.sign(codes[spot.group, spot.row, spot.col]))
        seen[spot.array, spot.line // case.shape.rows_active, spot.column] |= {sign} - {0}
    if any(len(found) > 1 for found in seen.values()):
        with pytest.raises(CompileError, match="both signs in one fragment"):
            changed.analog()
    else:
        signs = changed.analog().analog[0].signs
        assert signs is not None


def test_codes_that_a_cell_and_a_sign_do_not_hold() -> None:
    with pytest.raises(CompileError) as caught:
        assigned(matrix_op([[-4, 2]], name="fc"), target("encoding.slices=1", "precision.weights=3", *POLARISED))
    assert str(caught.value).startswith(
        "node 'fc': weight codes from -4 to 2 do not fit into -3..3, which is what a cell and the sign of its fragment "
        "hold in 1 slice(s) of 2 bits"
    )


def test_one_sign_makes_any_operation_fit() -> None:
    chip = target("array.rows=8", "array.rows_active=3", "array.columns=16", *POLARISED)
    op = matrix_op(np.random.default_rng(3).integers(-255, 256, (20, 5)))
    with pytest.raises(CompileError):
        assigned(op, chip)
    assert assigned(one_sign(op, chip), chip).max is not None
