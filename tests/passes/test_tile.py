"""Tiling: one table per operation, the dense count beside it (where weights stand: test_geometry, test_conductance)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcompiler.passes.tile import Tile
from tests.support.programs import matrix_op, matrix_program, target, tiled


@settings(max_examples=60, deadline=None)
@given(st.integers(17, 400), st.integers(17, 400))
def test_dense_matrices_take_rows_times_columns_of_arrays(rows: int, cols: int) -> None:
    """128 x 16 weights an array of generic_128; larger than that in both directions, so nothing is packed."""
    program = Tile().run(matrix_program([matrix_op(np.ones((rows, cols)))]), target())
    wanted = math.ceil(rows / 128) * math.ceil(cols / 16)
    assert program.dense == (wanted,)
    assert len(program.tables[0]) == wanted
    assert int((program.tables[0]["rows"].astype(int) * program.tables[0]["cols"]).sum()) == rows * cols


@pytest.mark.parametrize(
    ("name", "shape", "arrays"),
    [
        ("generic_128", (1, 128, 16), 1),
        ("generic_128", (1, 129, 17), 4),
        ("generic_128", (64, 9, 1), 5),  # depthwise: 14 to an array
        ("isaac", (1, 128, 32), 1),
        ("isaac", (1, 576, 64), 10),  # 5 row blocks x 2
        ("yuan2019", (1, 128, 64), 2),  # positive and negative arrays
        ("yuan2019_32x32", (1, 64, 64), 8),
    ],
)
def test_arrays_of_the_shipped_targets(name: str, shape: tuple[int, int, int], arrays: int) -> None:
    chip = target(name=name)
    program = tiled(matrix_program([matrix_op(np.ones(shape))]), chip)
    assert program.dense == (arrays,)
    assert len(program.tables[0]) == arrays


def test_every_operation_has_its_table() -> None:
    ops = [matrix_op(np.ones((200, 3)), name="a"), matrix_op(np.zeros((5, 5)), name="b"), matrix_op([[1]], name="c")]
    program = tiled(matrix_program(ops), target())
    assert [len(table) for table in program.tables] == [2, 0, 1]
    assert program.dense == (2, 1, 1), "the dense mapping stores zeros too"
    assert [op.site.name for op in program.matrix.layers] == ["a", "b", "c"]
