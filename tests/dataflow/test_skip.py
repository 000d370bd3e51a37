"""Reads and drives that zeros leave, counted vector by vector."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mcompiler
from mcompiler.dataflow import remaining
from mcompiler.errors import CompileError
from mcompiler.ir import CodeSample
from mcompiler.target import Event
from tests.support.builds import conv_case
from tests.support.builds import target as build_target
from tests.support.programs import Case, cases, matrix_program, spots, target, tiled


@settings(max_examples=40, deadline=None)
@given(cases(), st.sampled_from(["none", "phases", "fragments", "rows"]), st.integers(0, 2**32 - 1))
def test_shares_are_counted_one_by_one(case: Case, skip: str, seed: int) -> None:
    chip, shape = target(*case.overrides, f"digital.skip={skip}"), case.shape
    rng = np.random.default_rng(seed)
    groups, rows, _ = case.op.matrix.codes.shape
    sample = rng.integers(0, 1 << case.op.site.input.bits, (3, groups, rows)) * (rng.random((3, groups, rows)) < 0.2)
    program = tiled(matrix_program([case.op]), chip, compact=case.compact, prune=case.prune)
    op, table = program.matrix.layers[0], program.tables[0]
    found = remaining(op, table, CodeSample(sample.astype(np.uint16), op.site.input.bits), chip)
    lines: dict[int, dict[int, tuple[int, int]]] = {}
    for spot in spots(op, table):
        lines.setdefault(spot.array, {})[spot.line] = (spot.group, spot.row)
    dac = chip.converters.dac.bits
    phases = -(-op.site.input.bits // dac)
    for array, own in lines.items():
        if len(own) != int(table[array]["rows"]):
            continue  # a group that vanished stands between others
        reads = drives = total_reads = 0
        for vector in sample:
            for phase in range(phases):
                on = {line: bool(int(vector[g, r]) >> (phase * dac) & ((1 << dac) - 1)) for line, (g, r) in own.items()}
                for start in range(0, len(own), shape.rows_active):
                    fragment = [on[line] for line in range(start, min(start + shape.rows_active, len(own)))]
                    total_reads += 1
                    done = {
                        "none": True, "phases": any(on.values()), "fragments": any(fragment), "rows": any(fragment)
                    }[skip]  # fmt: skip
                    reads += done
                    drives += sum(fragment) if skip == "rows" else len(fragment) * done
        assert found.reads[array] == pytest.approx(reads / total_reads)
        assert found.drives[array] == pytest.approx(drives / (len(own) * phases * len(sample)))


CASE = conv_case([3, 3], channels=4, outputs=6, pads=[1, 1, 1, 1])


def test_each_kind_leaves_no_more_than_the_one_before() -> None:
    counts = []
    for skip in ("none", "phases", "fragments", "rows"):
        build = CASE.compile(build_target(f"digital.skip={skip}", "array.rows_active=2"))
        assert build.verify().exact
        counts.append({event: n for _, event, n in build.cost.events})
    for before, after in itertools.pairwise(counts):
        for event in (Event.ARRAY_READ, Event.ADC_CONVERSION, Event.DAC_DRIVE, Event.CELL_READ):
            assert after[event] <= before[event]
    assert counts[3][Event.DAC_DRIVE] < counts[0][Event.DAC_DRIVE]
    assert counts[2][Event.ARRAY_READ] <= counts[0][Event.ARRAY_READ]


def test_nobody_knows_how_many_zeros_there_are() -> None:
    with pytest.raises(CompileError, match=r"digital.skip = 'rows' leaves out reads of zeros.*--calibration DATA.npz"):
        mcompiler.compile(CASE.model, build_target("digital.skip=rows"), calibration="random")


def test_without_zeros_everything_is_done() -> None:
    chip = target("array.rows=4", "array.rows_active=2", "array.columns=16", "digital.skip=rows")
    from tests.support.programs import matrix_op

    program = tiled(matrix_program([matrix_op(np.ones((4, 2), int), input_bits=1)]), chip)
    op = replace(program.matrix.layers[0])
    ones = CodeSample(np.ones((2, 1, 4), np.uint16), 8)
    found = remaining(op, program.tables[0], ones, chip)
    assert found.reads.tolist() == found.drives.tolist() == [1.0] * len(program.tables[0])
