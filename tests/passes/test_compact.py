"""Compaction: exactly the rows and columns with a weight are kept, and nothing else changes."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mcompiler.ir import AnalogLayer, Kept
from mcompiler.passes.compact import Compact
from tests.support.programs import kept_of, matrix_op, matrix_program, operations, target

CHIP = target()


def compacted(op: AnalogLayer) -> AnalogLayer:
    """The operation after the pass."""
    return Compact().run(matrix_program([op]), CHIP).layers[0]


@settings(max_examples=100, deadline=None)
@given(operations(CHIP))
def test_exactly_the_rows_and_columns_with_a_weight_are_kept(op: AnalogLayer) -> None:
    found = compacted(op)
    groups, rows, cols = op.matrix.codes.shape
    for group, kept in enumerate(kept_of(found)):
        matrix = op.matrix.codes[group].tolist()
        assert kept[0] == [k for k in range(rows) if any(matrix[k][n] != 0 for n in range(cols))]
        assert kept[1] == [n for n in range(cols) if any(matrix[k][n] != 0 for k in range(rows))]
    for side in (found.matrix.rows, found.matrix.cols):
        assert side.indices.dtype == side.offsets.dtype == np.int64
        assert len(side.offsets) == groups + 1
        assert side.offsets[0] == 0
        assert side.offsets[-1] == len(side.indices)


@settings(max_examples=50, deadline=None)
@given(operations(CHIP), st.integers(0, 2**32 - 1))
def test_the_kept_part_computes_the_product(op: AnalogLayer, seed: int) -> None:
    found = compacted(op)
    x = np.random.default_rng(seed).integers(0, 256, op.matrix.codes.shape[:2])
    for group, (rows, cols) in enumerate(kept_of(found)):
        codes = op.matrix.codes[group].astype(np.int64)
        wanted = x[group] @ codes
        part = x[group][rows] @ codes[np.ix_(rows, cols)]
        whole = np.zeros_like(wanted)
        whole[cols] = part
        assert np.array_equal(whole, wanted)


def test_by_hand() -> None:
    codes = [[[0, 0, 0], [5, 0, -1], [0, 0, 0]], [[0, 0, 0], [0, 0, 0], [0, 0, 0]], [[1, 0, 0], [0, 2, 0], [0, 0, 3]]]
    op = compacted(matrix_op(codes))
    assert kept_of(op) == [([1], [0, 2]), ([], []), ([0, 1, 2], [0, 1, 2])]
    assert np.array_equal(op.matrix.codes, codes), "codes stay as they were"


def test_it_runs_again_and_drops_nothing_more() -> None:
    program = matrix_program([matrix_op([[0, 1], [0, 2]]), matrix_op([[3]], name="b")])
    once = Compact().run(program, CHIP)
    twice = Compact().run(once, CHIP)
    for before, after in zip(once.layers, twice.layers, strict=True):
        assert same(before.matrix.rows, after.matrix.rows)
        assert same(before.matrix.cols, after.matrix.cols)
    assert program.layers[0].matrix.cols.counts().tolist() == [2], "the program that was given is left alone"


def same(one: Kept, other: Kept) -> bool:
    """Whether both keep the same indices."""
    return np.array_equal(one.indices, other.indices) and np.array_equal(one.offsets, other.offsets)
