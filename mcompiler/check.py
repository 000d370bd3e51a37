"""Invariants of each level of the program, checked after every pass."""

from __future__ import annotations

from functools import singledispatch

import numpy as np

from mcompiler.bodies import nodes_with_branches
from mcompiler.geometry import array_shape
from mcompiler.graph import site_of
from mcompiler.ir import (
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
    """Raise AssertionError where a program breaks an invariant of its level; levels without invariants pass."""


@check.register
def _(program: LoweredProgram, target: Target) -> None:
    placeholders = [site for node in nodes_with_branches(program.skeleton.graph) if (site := site_of(node)) is not None]
    assert placeholders == list(range(len(program.matrices))), f"placeholders {placeholders}"
    for matrix in program.matrices:
        assert matrix.weights.ndim == 3, f"{matrix.name}: {matrix.weights.shape}"
        assert 0 not in matrix.weights.shape, f"{matrix.name}: {matrix.weights.shape}"


@check.register
def _(program: MatrixProgram, target: Target) -> None:
    for matrix in program.matrices:
        groups, rows, cols = matrix.codes.shape
        assert matrix.codes.dtype == np.int16, matrix.label
        assert matrix.scale.shape == (groups, cols), matrix.label
        assert len(matrix.rows.offsets) == len(matrix.cols.offsets) == groups + 1, matrix.label
        for kept, size in ((matrix.rows, rows), (matrix.cols, cols)):
            assert kept.indices.min(initial=0) >= 0, matrix.label
            assert kept.indices.max(initial=-1) < size, matrix.label
            owner = np.repeat(np.arange(groups), kept.counts())
            assert len(np.unique(owner * size + kept.indices)) == len(kept.indices), (
                f"{matrix.label}: an index occurs twice"
            )
    for site in program.sites:
        assert 0 <= site.input.zero_point <= site.input.largest, f"{site.label}: zero point {site.input.zero_point}"
        assert site.steps >= 1, site.label
    assert {site.matrix for site in program.sites} == set(range(len(program.matrices))), "a matrix without a site"
    assert len({site.label for site in program.sites}) == len(program.sites), "two layers with one label"


@check.register
def _(program: TiledProgram, target: Target) -> None:
    shape = array_shape(target)
    for matrix, table in zip(program.matrix.matrices, program.tables, strict=True):
        if len(table):
            assert int(table["rows"].max()) <= shape.rows, matrix.label
            assert int(table["cols"].max()) <= shape.tile_columns, matrix.label
        assert len(table) % shape.arrays_per_tile == 0, matrix.label


@check.register
def _(program: AnalogProgram, target: Target) -> None:
    for table, analog in zip(program.tiled.tables, program.analog, strict=True):
        assert len(analog.live) == len(analog.flips) == len(analog.adc_bits) == len(table)
        assert analog.signs is None or len(analog.signs) == len(table)
        # More than one code a level step: of a calibrated converter that has codes to spare, doubled.
        assert 0 < analog.gain <= 1 or np.frexp(analog.gain)[0] == 0.5
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
