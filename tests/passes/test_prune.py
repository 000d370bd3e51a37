"""Pruning: array positions that hold only zeros vanish, all others stay as they are."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import given, settings

from mcompiler.passes.prune import Prune
from tests.support.programs import Case, cases, matrix_op, matrix_program, spots, target, tiled

KEYS = ("array.rows=2", "array.rows_active=2", "array.columns=16")  # 2 x 2 weights an array


@settings(max_examples=100, deadline=None)
@given(cases())
def test_exactly_the_positions_without_a_weight_vanish(case: Case) -> None:
    before = tiled(matrix_program([case.op]), case.chip, compact=case.compact, prune=False)
    after = Prune().run(before, case.chip)
    op, copies = before.matrix.layers[0], case.shape.arrays_per_tile
    weights = defaultdict(set)
    for spot in spots(op, before.tables[0]):
        weights[spot.array // copies].add(int(op.matrix.codes[spot.group, spot.row, spot.col]))
    kept = [tile for tile in range(len(before.tables[0]) // copies) if weights[tile] != {0}]
    wanted = before.tables[0].reshape(-1, copies)[kept].reshape(-1)
    columns = [name for name in wanted.dtype.names or () if name != "tile"]
    for name in columns:
        assert np.array_equal(after.tables[0][name], wanted[name])
    assert after.tables[0]["tile"].tolist() == [index // copies for index in range(len(wanted))]
    assert after.dense == before.dense


def test_by_hand() -> None:
    # 4 x 4 weights without an empty row or column, in 2 x 2 positions: the two off the diagonal are empty
    codes = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, -1]]
    program = tiled(matrix_program([matrix_op(codes)]), target(*KEYS))
    table = program.tables[0]
    assert list(zip(table["row"].tolist(), table["col"].tolist(), strict=True)) == [(0, 0), (2, 2)]
    assert table["tile"].tolist() == [0, 1]
    assert program.dense == (4,)


def test_a_single_weight_in_the_last_corner_is_found() -> None:
    codes = np.zeros((4, 4))
    codes[3, 3] = -1
    program = tiled(matrix_program([matrix_op(codes)]), target(*KEYS), compact=False)
    assert [(int(tile["row"]), int(tile["col"])) for tile in program.tables[0]] == [(2, 2)]


def test_all_arrays_of_a_position_vanish_together() -> None:
    # only positive weights: the negative arrays are empty and stay, for they are the partners of the positive ones
    keys = ("array.rows=2", "array.rows_active=2", "array.columns=2")
    separate = ("encoding.pairs_in=separate", "encoding.slices_in=separate")
    chip = target(*keys, *separate)
    codes = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 2], [0, 0, 2, 0]]
    table = tiled(matrix_program([matrix_op(codes)]), chip).tables[0]
    assert len(table) == 2 * 8
    assert table["tile"].tolist() == [0] * 8 + [1] * 8


def test_a_program_without_empty_positions_is_kept() -> None:
    program = tiled(matrix_program([matrix_op(np.ones((9, 9)))]), target(*KEYS), prune=False)
    assert Prune().run(program, target(*KEYS)).tables[0] is program.tables[0]
