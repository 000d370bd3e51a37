"""What each level promises, checked after every pass."""

from __future__ import annotations

from functools import singledispatch

import numpy as np

from mcompiler.geometry import array_shape
from mcompiler.ir import (
    ANALOG_DOMAIN,
    AnalogProgram,
    LoweredProgram,
    MatrixProgram,
    PlacedProgram,
    ScheduledProgram,
    TiledProgram,
)
from mcompiler.target import Target


@singledispatch
def check(program: object, target: Target) -> None:
    """Raise AssertionError where a program breaks a promise of its level; levels without promises pass."""


@check.register
def _(program: LoweredProgram, target: Target) -> None:
    placeholders = [node.name for node in program.skeleton.graph if node.domain == ANALOG_DOMAIN]
    names = [matrix.name for matrix in program.matrices]
    assert placeholders == names, f"placeholders {placeholders} and matrices {names} differ"
    for matrix in program.matrices:
        assert matrix.weights.ndim == 3, f"{matrix.name}: {matrix.weights.shape}"
        assert 0 not in matrix.weights.shape, f"{matrix.name}: {matrix.weights.shape}"


@check.register
def _(program: MatrixProgram, target: Target) -> None:
    for op in program.ops:
        groups, rows, cols = op.codes.shape
        assert op.codes.dtype == np.int16, op.name
        assert op.scale.shape == (groups, cols), op.name
        assert 0 <= op.input.zero_point <= op.input.largest, f"{op.name}: zero point {op.input.zero_point}"
        assert len(op.rows.offsets) == len(op.cols.offsets) == groups + 1, op.name
        for kept, size in ((op.rows, rows), (op.cols, cols)):
            assert kept.indices.min(initial=0) >= 0, op.name
            assert kept.indices.max(initial=-1) < size, op.name
            owner = np.repeat(np.arange(groups), kept.counts())
            assert len(np.unique(owner * size + kept.indices)) == len(kept.indices), f"{op.name}: an index stands twice"


@check.register
def _(program: TiledProgram, target: Target) -> None:
    shape = array_shape(target)
    for op, table in zip(program.matrix.ops, program.tables, strict=True):
        if len(table):
            assert int(table["rows"].max()) <= shape.rows, op.name
            assert int(table["cols"].max()) <= shape.tile_columns, op.name
        assert len(table) % shape.arrays_per_tile == 0, op.name


@check.register
def _(program: AnalogProgram, target: Target) -> None:
    for table, analog in zip(program.tiled.tables, program.analog, strict=True):
        assert len(analog.live) == len(analog.flips) == len(analog.adc_bits) == len(table)
        assert analog.signs is None or len(analog.signs) == len(table)
        assert 0 < analog.gain <= 1
        if analog.zoom is not None:
            assert len(analog.zoom) == len(table)
            assert analog.zoom.min(initial=0) >= 0
            assert np.ldexp(analog.gain, int(analog.zoom.max(initial=0))) <= 1


@check.register
def _(program: PlacedProgram, target: Target) -> None:
    used = np.concatenate([np.zeros((0, 4), np.int32), *program.addresses])
    turns = program.analog.turns or (0,) * len(program.addresses)
    turn = np.repeat(turns, [len(addresses) for addresses in program.addresses])
    at = np.concatenate([used, np.array(turn, np.int32).reshape(-1, 1)], axis=1)
    assert len(np.unique(at, axis=0)) == len(used), "two arrays at one address"
    if len(used):
        hierarchy = target.hierarchy
        sizes = (program.chips, hierarchy.tiles_per_chip, hierarchy.cores_per_tile, hierarchy.positions_per_core)
        assert used.min() >= 0, "an address outside of the hierarchy"
        assert (used.max(axis=0) < sizes).all(), "an address outside of the hierarchy"


@check.register
def _(program: ScheduledProgram, target: Target) -> None:
    assert program.interval_s > 0
    for layer in program.layers:
        assert layer.end_s >= layer.start_s >= 0
        assert layer.busy_s >= 0
        assert all(count >= 0 for count in layer.events.values())
