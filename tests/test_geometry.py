"""Geometry: every kept weight in exactly one tile position, and array counts that a hand can redo."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcompiler.encodings import Differential, Pedestal
from mcompiler.errors import TargetError
from mcompiler.geometry import (
    ArrayShape,
    all_kept,
    array_shape,
    conv_matrix,
    count_dense,
    count_tiles,
    fragments,
    group_fragments,
    tile_blocks,
    tile_positions,
    tile_table,
)
from mcompiler.ir import AnalogLayer, Kept
from mcompiler.passes.compact import Compact
from mcompiler.target import Target
from tests.support.programs import (
    OFFSET,
    Case,
    cases,
    kept_of,
    matrix_op,
    matrix_program,
    overrides,
    spots,
    target,
    tiled,
)

PROPERTY = settings(max_examples=60, deadline=None)

SIZES = st.integers(1, 30)


def counts(*numbers: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Kept rows or columns of each group."""
    return np.array(numbers, dtype=np.int64)


# --- array_shape -----------------------------------------------------------------------------------------------------


def test_shape_of_generic_128() -> None:
    shape = array_shape(target())
    assert shape == ArrayShape(
        rows=128,
        columns=128,
        encoding=Differential(pedestal=Pedestal.PAIR, analog=True),
        slices=4,
        adjacent_slices=4,
        adjacent_polarities=2,
        cell_bits=2,
        rows_active=128,
    )
    assert shape.columns_per_weight == 8
    assert shape.tile_columns == 16
    assert shape.arrays_per_tile == 1
    assert shape.extra == 0
    assert shape.row_bytes == 32  # 128 cells of 2 bits
    assert shape.cells == 128 * 128


def test_shape_of_isaac() -> None:
    shape = array_shape(target(name="isaac"))
    assert (shape.polarities, shape.slices, shape.columns_per_weight, shape.arrays_per_tile) == (1, 4, 4, 1)
    assert (shape.unit, shape.reference, shape.extra) == (True, False, 1)
    assert shape.tile_columns == 32
    assert shape.row_bytes == 33  # 129 cells of 2 bits are 258 bits
    assert shape.cells == 128 * 129


def test_shape_of_yuan2019() -> None:
    shape = array_shape(target("encoding.slices=2", "precision.weights=9", name="yuan2019"))
    assert (shape.columns_per_weight, shape.arrays_per_tile, shape.tile_columns) == (1, 4, 64)
    assert shape.storage_bits == 4
    assert shape.row_bytes == 32


@pytest.mark.parametrize(
    ("pedestal", "reference"), [("reference_column", True), ("digitised_reference", True), ("digital_count", False)]
)
def test_reference_column(pedestal: str, reference: bool) -> None:
    keys = (*OFFSET, f"encoding.pedestal={pedestal}", "encoding.input_sum=unit_column")
    shape = array_shape(target(*keys))
    assert (shape.unit, shape.reference) == (True, reference)
    assert shape.extra == 1 + reference


@pytest.mark.parametrize(
    ("levels", "bits", "stored"), [(2, 1, 1), (3, 1, 1), (4, 2, 2), (5, 2, 2), (8, 3, 4), (16, 4, 4), (64, 6, 8)]
)
def test_cell_and_storage_bits(levels: int, bits: int, stored: int) -> None:
    shape = array_shape(target(f"device.levels={levels}", "precision.weights=2"))
    assert (shape.cell_bits, shape.storage_bits) == (bits, stored)


def test_storage_fills_whole_bytes() -> None:
    keys = ("device.levels=8", "array.columns=9", "encoding.pairs_in=separate", "encoding.slices_in=separate")
    assert array_shape(target(*keys)).row_bytes == 5  # 9 cells of 3 bits, stored in 4


def test_a_weight_that_fits_no_array_is_an_error() -> None:
    narrow = target().array.model_copy(update={"columns": 7})
    chip: Target = target().model_copy(update={"array": narrow})
    with pytest.raises(TargetError) as caught:
        array_shape(chip)
    assert str(caught.value) == (
        "target 'generic_128': one weight takes 8 adjacent columns and an array has 7; put slices or pairs into "
        "separate arrays (encoding.slices_in, encoding.pairs_in)"
    )


# --- the tile table --------------------------------------------------------------------------------------------------


def positions_of(case: Case) -> tuple[AnalogLayer, np.ndarray[tuple[int], np.dtype[np.void]]]:
    """The operation with its kept indices, and its tile table."""
    program = tiled(matrix_program([case.op]), case.chip, compact=case.compact, prune=case.prune)
    return program.matrix.layers[0], program.tables[0]


@PROPERTY
@given(cases())
def test_every_kept_weight_stands_in_exactly_one_tile_position(case: Case) -> None:
    case = replace(case, prune=False)
    op, table = positions_of(case)
    kept = Counter((g, row, col) for g, (rows, cols) in enumerate(kept_of(op)) for row in rows for col in cols)
    stands = Counter((spot.group, spot.row, spot.col) for spot in spots(op, table))
    assert stands == Counter({place: number * case.shape.arrays_per_tile for place, number in kept.items()})
    # each of those arrays holds another part of the weight
    parts = defaultdict(set)
    for spot in spots(op, table):
        entry = table[spot.array]
        parts[spot.group, spot.row, spot.col].add((int(entry["tile"]), int(entry["slice"]), int(entry["polarity"])))
    for found in parts.values():
        assert len({tile for tile, _, _ in found}) == 1
        assert len(found) == case.shape.arrays_per_tile


@PROPERTY
@given(cases())
def test_tiles_fit_into_their_arrays_and_nothing_overlaps(case: Case) -> None:
    op, table = positions_of(case)
    used = set()
    owner: dict[tuple[int, str, int], int] = {}
    for spot in spots(op, table):
        assert spot.line < case.shape.rows
        assert (spot.column + 1) * case.shape.columns_per_weight <= case.shape.columns
        assert (spot.array, spot.line, spot.column) not in used
        used.add((spot.array, spot.line, spot.column))
        # groups that are packed share no word line and no bit line
        assert owner.setdefault((spot.array, "line", spot.line), spot.group) == spot.group
        assert owner.setdefault((spot.array, "column", spot.column), spot.group) == spot.group
    assert {array for array, _, _ in used} == set(range(len(table))), "an array without weights"


@PROPERTY
@given(cases())
def test_tiles_are_numbered_and_their_arrays_consecutive(case: Case) -> None:
    _, table = positions_of(case)
    copies = case.shape.arrays_per_tile
    assert table["tile"].tolist() == [index // copies for index in range(len(table))]
    separate_slices = case.shape.adjacent_slices < case.shape.slices
    separate_pairs = case.shape.adjacent_polarities < case.shape.polarities
    held = [
        (which, sign)
        for which in (range(case.shape.slices) if separate_slices else [-1])
        for sign in ([1, -1] if separate_pairs else [0])
    ]
    for start in range(0, len(table), copies):
        arrays = table[start : start + copies]
        assert list(zip(arrays["slice"].tolist(), arrays["polarity"].tolist(), strict=True)) == held


@PROPERTY
@given(cases())
def test_blocks_are_the_weights_of_a_tile(case: Case) -> None:
    op, table = positions_of(case)
    expected = defaultdict(set)
    for spot in spots(op, table):
        expected[spot.array].add((spot.group, spot.row, spot.col, spot.line, spot.column))
    for index, entry in enumerate(table):
        found = set()
        for block in tile_blocks(entry, op.matrix.rows, op.matrix.cols):
            assert len(block.rows), "an empty block"
            assert len(block.cols), "an empty block"
            for i, row in enumerate(block.rows.tolist()):
                for j, col in enumerate(block.cols.tolist()):
                    found.add((block.group, row, col, block.row + i, block.col + j))
        assert found == expected[index]


@PROPERTY
@given(overrides(), st.integers(1, 12), SIZES, SIZES)
def test_dense_count_is_that_of_an_uncompacted_table(keys: tuple[str, ...], groups: int, rows: int, cols: int) -> None:
    shape = array_shape(target(*keys))
    positions = tile_positions(np.full(groups, rows), np.full(groups, cols), shape)
    assert count_dense(groups, rows, cols, shape) == len(tile_table(positions, shape))


@PROPERTY
@given(cases())
def test_compaction_and_pruning_never_take_more_arrays_than_the_dense_mapping(case: Case) -> None:
    program = tiled(matrix_program([case.op]), case.chip, compact=True, prune=case.prune)
    assert len(program.tables[0]) <= program.dense[0]


def test_cut_by_hand() -> None:
    # 5 x 7 weights in arrays of 2 x 3 weights: 3 row blocks x 3 column blocks, columns fastest
    keys = ("array.rows=2", "array.columns=24", "array.rows_active=2")
    shape = array_shape(target(*keys))
    assert shape.tile_columns == 3
    assert tile_positions(counts(5), counts(7), shape) == [
        (0, 1, 0, 2, 0, 3),
        (0, 1, 0, 2, 3, 3),
        (0, 1, 0, 2, 6, 1),
        (0, 1, 2, 2, 0, 3),
        (0, 1, 2, 2, 3, 3),
        (0, 1, 2, 2, 6, 1),
        (0, 1, 4, 1, 0, 3),
        (0, 1, 4, 1, 3, 3),
        (0, 1, 4, 1, 6, 1),
    ]
    assert count_dense(1, 5, 7, shape) == 9
    assert count_dense(4, 5, 7, shape) == 36


def test_groups_are_packed_on_the_diagonal() -> None:
    # a depthwise 3 x 3 convolution of 32 channels: 9 rows and 1 column each; 14 groups take 126 of 128 rows
    shape = array_shape(target())
    assert tile_positions(np.full(32, 9), np.full(32, 1), shape) == [
        (0, 14, 0, 126, 0, 14),
        (14, 14, 0, 126, 0, 14),
        (28, 4, 0, 36, 0, 4),
    ]
    assert count_dense(32, 9, 1, shape) == 3
    # columns can be what is short: 16 weights across, 5 each
    assert [position[1] for position in tile_positions(np.full(7, 9), np.full(7, 5), shape)] == [3, 3, 1]
    assert count_dense(7, 9, 5, shape) == 3


def test_ragged_and_large_groups() -> None:
    shape = array_shape(target())  # 128 rows x 16 weights
    rows, cols = counts(100, 0, 28, 1, 200, 5), counts(4, 0, 4, 1, 3, 5)
    assert tile_positions(rows, cols, shape) == [
        (0, 3, 0, 128, 0, 8),  # full; the empty group between them takes no room
        (3, 1, 0, 1, 0, 1),
        (4, 1, 0, 128, 0, 3),  # group 4 is too tall for one array
        (4, 1, 128, 72, 0, 3),
        (5, 1, 0, 5, 0, 5),
    ]


def test_vanished_groups_take_no_array() -> None:
    shape = array_shape(target())
    assert tile_positions(counts(0, 0, 0), counts(0, 0, 0), shape) == []
    assert len(tile_table([], shape)) == 0
    codes = np.zeros((3, 4, 2), dtype=np.int16)
    codes[1, 2, 1] = 5
    program = tiled(matrix_program([matrix_op(codes)]), target())
    assert [(spot.group, spot.row, spot.col) for spot in spots(program.matrix.layers[0], program.tables[0])] == [
        (1, 2, 1)
    ]


def test_separate_slices_and_pairs_multiply_the_arrays() -> None:
    shape = array_shape(target("encoding.slices_in=separate", "encoding.pairs_in=separate"))
    assert shape.arrays_per_tile == 8
    table = tile_table(tile_positions(counts(128), counts(129), shape), shape)
    assert len(table) == 16 == count_dense(1, 128, 129, shape)
    assert list(zip(table["slice"][:8].tolist(), table["polarity"][:8].tolist(), strict=True)) == [
        (0, 1), (0, -1), (1, 1), (1, -1), (2, 1), (2, -1), (3, 1), (3, -1),
    ]  # fmt: skip


# --- kept indices ----------------------------------------------------------------------------------------------------


@given(st.integers(1, 6), st.integers(0, 9))
def test_all_kept(groups: int, count: int) -> None:
    kept = all_kept(groups, count)
    assert kept.counts().tolist() == [count] * groups
    assert all(kept.of(group).tolist() == list(range(count)) for group in range(groups))


def test_kept_of_a_group() -> None:
    kept = Kept(np.array([1, 4, 0, 2, 3]), np.array([0, 2, 2, 5]))
    assert [kept.of(group).tolist() for group in range(3)] == [[1, 4], [], [0, 2, 3]]
    assert kept.counts().tolist() == [2, 0, 3]


def test_compacted_positions_use_kept_indices() -> None:
    # 130 rows would take two arrays; two of them are zero, so 128 are left
    codes = np.ones((1, 130, 1), dtype=np.int16)
    codes[0, [0, 77]] = 0
    program = tiled(matrix_program([matrix_op(codes)]), target())
    op = Compact().run(matrix_program([matrix_op(codes)]), target()).layers[0]
    assert len(program.tables[0]) == 1
    assert program.dense == (2,)
    assert [spot.row for spot in spots(op, program.tables[0])] == [r for r in range(130) if r not in (0, 77)]


# --- what the trainer shares -----------------------------------------------------------------------------------------


def test_the_matrix_of_a_convolution() -> None:
    weights = np.arange(6 * 2 * 3).reshape(6, 2, 3)  # [O, C / G, kernel]
    matrix = conv_matrix(weights, 3)
    assert matrix.shape == (3, 6, 2)
    for out, channel, place in np.ndindex(6, 2, 3):
        assert matrix[out // 2, channel * 3 + place, out % 2] == weights[out, channel, place]
    assert np.shares_memory(matrix, weights)


def test_the_matrix_of_a_convolution_asks_for_what_every_tensor_has() -> None:
    """Shape, reshape and swapaxes: torch tensors have them too, and their transpose is another one."""
    weights = np.arange(24).reshape(4, 2, 3)
    other = SimpleNamespace(
        shape=weights.shape, reshape=lambda *sizes: SimpleNamespace(swapaxes=weights.reshape(*sizes).swapaxes)
    )
    assert np.array_equal(conv_matrix(other, 2), conv_matrix(weights, 2))


@PROPERTY
@given(cases())
def test_tiles_are_counted_as_the_passes_leave_them(case: Case) -> None:
    table = tiled(matrix_program([case.op]), case.chip).tables[0]
    assert count_tiles(case.op.matrix.codes != 0, case.shape) * case.shape.arrays_per_tile == len(table)


@PROPERTY
@given(st.integers(0, 60), st.integers(1, 20), st.integers(1, 20))
def test_fragments_are_what_one_read_drives(rows: int, height: int, active: int) -> None:
    shape = replace(array_shape(target()), rows=height, rows_active=min(active, height))
    found = fragments(rows, shape)
    lines = [line for start, length in found for line in range(start, start + length)]
    assert lines == list(range(rows))
    for start, length in found:
        assert 1 <= length <= shape.rows_active
        assert start % height % shape.rows_active == 0
        assert start // height == (start + length - 1) // height, "no read reaches over two arrays"
    assert len(found) == sum(-(-min(height, rows - tile) // shape.rows_active) for tile in range(0, rows, height))


@PROPERTY
@given(cases())
def test_fragments_of_groups_that_share_an_array(case: Case) -> None:
    """Two rows of a group are in one fragment exactly where one read drives their word lines."""
    program = tiled(matrix_program([case.op]), case.chip)
    op, table = program.matrix.layers[0], program.tables[0]
    active = case.shape.rows_active
    lengths = group_fragments(op.matrix.rows.counts(), op.matrix.cols.counts(), case.shape)
    fragment = {}
    for group, found in enumerate(lengths):
        assert sum(length for _, length in found) == len(op.matrix.rows.of(group))
        for index, (start, length) in enumerate(found):
            fragment.update({(group, int(row)): index for row in op.matrix.rows.of(group)[start : start + length]})
    read = {}
    for spot in spots(op, table):
        read[spot.group, spot.row] = (int(table["row"][spot.array]), spot.line // active)
    for group, row in read:
        for other in [row for other, row in read if other == group]:
            same = fragment[group, row] == fragment[group, other]
            assert same == (read[group, row] == read[group, other])


def test_fragments_by_hand() -> None:
    shape = replace(array_shape(target()), rows=8, rows_active=3, columns=128)
    assert fragments(10, shape) == [(0, 3), (3, 3), (6, 2), (8, 2)]
    # three groups of 2, 3 and 2 rows on the word lines 0 to 6 of one array
    assert group_fragments(counts(2, 3, 2), counts(1, 1, 1), shape) == [
        [(0, 2)],
        [(0, 1), (1, 2)],
        [(0, 1), (1, 1)],
    ]
    assert group_fragments(counts(9, 0), counts(1, 0), shape) == [[(0, 3), (3, 3), (6, 2), (8, 1)], []]
