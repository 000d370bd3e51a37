"""Checks: a program that breaks a promise of its level is caught; a sound one passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from mcompiler.check import check
from mcompiler.ir import (
    AnalogProgram,
    ConstantKey,
    ConstantRoot,
    FloatMatrix,
    GraphProgram,
    Kept,
    LoweredProgram,
    MatMulShape,
    MatrixProgram,
    PlacedProgram,
    Quantiser,
    ScheduledProgram,
    TiledProgram,
)
from mcompiler.target import Event
from tests.support.programs import chain, matrix_op, matrix_program, scheduled, target, with_matrix, with_site

CHIP = target("array.rows=4", "array.rows_active=4", "array.columns=16")
OP = matrix_op(np.arange(1, 25).reshape(6, 4))
PROGRAM = scheduled(matrix_program([OP]), CHIP)
PLACED: PlacedProgram = PROGRAM.placed
ANALOG: AnalogProgram = PLACED.analog
TILED: TiledProgram = ANALOG.tiled
MATRIX: MatrixProgram = TILED.matrix


def float_matrix(name: str, weights: Any) -> FloatMatrix:
    """A float matrix as ``lower`` gives it."""
    return FloatMatrix(
        name=name,
        shape=MatMulShape(),
        weights=np.asarray(weights, np.float32),
        bias=None,
        tensor="x",
        element=ir.DataType.FLOAT,
        label=name,
        origin=None,
        source=ConstantKey((ConstantRoot((), name),), ""),
    )


def lowered(
    *matrices: FloatMatrix, placeholders: tuple[str, ...], sites: tuple[int, ...] | None = None
) -> LoweredProgram:
    """A lowered program with these placeholders, numbered in order or by ``sites``."""
    model = chain(placeholders, sites)
    return LoweredProgram(GraphProgram(model, ()), model, matrices)


def broken_op(**changes: Any) -> MatrixProgram:
    """A matrix program whose operation has other fields."""
    site = {name: value for name, value in changes.items() if name in {"input"}}
    matrix = {name: value for name, value in changes.items() if name not in site}
    op = with_site(with_matrix(OP, **matrix), **site)
    return replace(MATRIX, matrices=(op.matrix,), sites=(op.site,))


def broken_table(column: str, value: int) -> TiledProgram:
    """A tile table with another number in its last row."""
    table = TILED.tables[0].copy()
    table[column][-1] = value
    return replace(TILED, tables=(table,))


def broken_analog(**changes: Any) -> AnalogProgram:
    """Analog settings with other fields."""
    return replace(ANALOG, analog=(replace(ANALOG.analog[0], **changes),))


def broken_address(column: int, value: int) -> PlacedProgram:
    """Addresses with another number in the last row."""
    addresses = PLACED.addresses[0].copy()
    addresses[-1, column] = value
    return replace(PLACED, addresses=(addresses,))


def broken_layer(**changes: Any) -> ScheduledProgram:
    """A schedule whose layer has other fields."""
    return replace(PROGRAM, layers=(replace(PROGRAM.layers[0], **changes),))


def test_the_example_is_sound() -> None:
    assert len(TILED.tables[0]) == 4  # 2 row blocks x 2 column blocks
    for program in (lowered(float_matrix("a", np.ones((1, 2, 3))), placeholders=("a",)), MATRIX, TILED, ANALOG, PLACED):
        check(program, CHIP)
    check(PROGRAM, CHIP)
    check("levels without promises pass", CHIP)


ONE = np.ones((1, 2, 3))

BROKEN: dict[str, Callable[[], object]] = {
    "lowered: no matrix": lambda: lowered(placeholders=("a",)),
    "lowered: no placeholder": lambda: lowered(float_matrix("a", ONE), float_matrix("b", ONE), placeholders=("a",)),
    "lowered: order": lambda: lowered(
        float_matrix("a", ONE), float_matrix("b", ONE), placeholders=("a", "b"), sites=(1, 0)
    ),
    "lowered: no groups axis": lambda: lowered(float_matrix("a", ONE[0]), placeholders=("a",)),
    "lowered: no weights": lambda: lowered(float_matrix("a", ONE[:, :0]), placeholders=("a",)),
    "matrix: type": lambda: broken_op(codes=OP.matrix.codes.astype(np.int32)),
    "matrix: scales": lambda: broken_op(scale=np.ones((1, 3), np.float32)),
    "matrix: zero point below": lambda: broken_op(input=Quantiser("x", 1.0, -1, 8)),
    "matrix: zero point above": lambda: broken_op(input=Quantiser("x", 1.0, 256, 8)),
    "matrix: groups of rows": lambda: broken_op(rows=Kept(np.arange(6), np.array([0, 3, 6]))),
    "matrix: groups of columns": lambda: broken_op(cols=Kept(np.arange(4), np.array([0]))),
    "matrix: rows": lambda: broken_op(rows=Kept(np.array([0, 6]), np.array([0, 2]))),
    "matrix: columns": lambda: broken_op(cols=Kept(np.array([4]), np.array([0, 1]))),
    "tiled: rows": lambda: broken_table("rows", 5),
    "tiled: columns": lambda: broken_table("cols", 3),
    "tiled: tables": lambda: replace(TILED, tables=()),
    "analog: live": lambda: broken_analog(live=np.zeros(3, np.int64)),
    "analog: flips": lambda: broken_analog(flips=np.zeros((5, 16), bool)),
    "analog: gain of nothing": lambda: broken_analog(gain=0.0),
    "analog: gain above one that is no power of two": lambda: broken_analog(gain=1.5),
    "analog: operations": lambda: replace(ANALOG, analog=()),
    "placed: one address twice": lambda: broken_address(3, 0),
    "placed: array": lambda: broken_address(3, 8),
    "placed: core": lambda: broken_address(2, 8),
    "placed: tile": lambda: broken_address(1, 256),
    "placed: chip": lambda: broken_address(0, 1),
    "placed: negative": lambda: broken_address(1, -1),
    "scheduled: interval": lambda: replace(PROGRAM, interval_s=0.0),
    "scheduled: ends before it starts": lambda: broken_layer(start_s=1.0, end_s=0.5),
    "scheduled: starts before the inference": lambda: broken_layer(start_s=-1e-9),
    "scheduled: busy": lambda: broken_layer(busy_s=-1e-9),
    "scheduled: events": lambda: broken_layer(events={Event.ARRAY_READ: -1.0}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_program_is_caught(name: str) -> None:
    with pytest.raises((AssertionError, ValueError)):
        check(BROKEN[name](), CHIP)


def test_an_array_position_without_all_its_arrays_is_caught() -> None:
    chip = target("encoding.pairs_in=separate")
    program = scheduled(matrix_program([OP]), chip).placed.analog.tiled
    check(program, chip)
    with pytest.raises(AssertionError):
        check(replace(program, tables=(program.tables[0][:-1],)), chip)
