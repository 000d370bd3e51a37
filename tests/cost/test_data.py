"""Energy at the inputs that were seen, against sums over vectors, phases and cells."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mcompiler
from mcompiler.artefacts import program_layers
from mcompiler.cli.main import run
from mcompiler.conductance import conductances, unpack_levels
from mcompiler.cost import count, data_energy
from mcompiler.errors import BuildError
from mcompiler.geometry import array_shape
from mcompiler.passes.quantise import input_statistics
from tests.support.builds import conv_case
from tests.support.builds import target as build_target
from tests.support.programs import Case, cases, matrix_program, one_sign, scheduled, spots


@settings(max_examples=40, deadline=None)
@given(cases(), st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_cells_and_drives_are_summed_one_by_one(case: Case, seed: int, vectors: int) -> None:
    chip, shape = case.chip, case.shape
    groups, rows, _ = case.op.codes.shape
    bits, dac = case.op.input.bits, chip.converters.dac.bits
    seen = np.random.default_rng(seed).integers(0, 1 << bits, (vectors, groups, rows)).astype(np.uint16)
    op = replace(case.op, vectors=vectors)
    if shape.signs:
        op = one_sign(op, chip)  # in the fragments of the compacted matrix, which `scheduled` makes
    program = matrix_program([op])
    program = replace(program, statistics={op.name: input_statistics(seen, bits, dac)})
    done = scheduled(program, chip)
    (layer,) = program_layers(done, chip)
    found, total = data_energy([layer], count(done, chip), chip)
    assert found == replace(total, name=found.name)

    kept, table = done.placed.analog.tiled.matrix.ops[0], done.placed.analog.tiled.tables[0]
    wires: dict[tuple[int, int], tuple[int, int]] = {}
    for spot in spots(kept, table):
        wires[spot.array, spot.line] = (spot.group, spot.row)
    chunks = [unpack_levels(c, shape.storage_bits, shape.columns + shape.extra) for c in layer.cells()]
    levels = np.concatenate(chunks) if chunks else np.zeros((0, 1, 1), np.uint8)
    joules = drives = 0.0
    for vector in seen:
        for (array, line), (group, row) in wires.items():
            for phase in range(-(-bits // dac)):
                digit = int(vector[group, row]) >> (phase * dac) & ((1 << dac) - 1)
                volts = chip.device.read_voltage_v * digit / ((1 << dac) - 1)
                row_siemens = float(conductances(levels[array, line], chip).sum())
                joules += volts**2 * row_siemens * chip.device.read_pulse_s
                drives += digit > 0
    # Word lines of groups without columns hold no weight, but stand between others: they are driven too.
    if sum(len(kept.rows.of(g)) > 0 and len(kept.cols.of(g)) == 0 for g in range(groups)) == 0:
        assert found.cells == pytest.approx(joules, rel=1e-5, abs=1e-25)
        each = sum(c.energy_j for c in chip.components.values() if c.event == "dac_drive")
        assert found.dac == pytest.approx(drives * each, rel=1e-5, abs=1e-25)
    assert found.dac <= found.dac_fixed * (1 + 1e-6)


def test_statistics_by_hand() -> None:
    vectors = np.array([[[0b01, 0b11]], [[0b00, 0b10]]], np.uint16)  # two vectors of two rows, 2 bits
    found = input_statistics(vectors, 2, 1)
    assert found.square.tolist() == [[[0.5, 0.5]], [[0.0, 1.0]]]
    assert found.nonzero.tolist() == found.square.tolist()
    assert found.idle.tolist() == [[0.5], [0.0]]
    wide = input_statistics(vectors, 2, 2)
    assert wide.square.tolist() == [[[pytest.approx(1 / 18), pytest.approx((1 + 4 / 9) / 2)]]]
    assert wide.nonzero.tolist() == [[[0.5, 1.0]]]


CASE = conv_case([3, 3], channels=4, outputs=6, pads=[1, 1, 1, 1])


def test_a_stored_build_knows_its_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build = CASE.compile(build_target("array.wire_capacitance_f=1e-15"))
    build.save(tmp_path / "m.build")
    loaded = mcompiler.load(tmp_path / "m.build")
    assert loaded.data_energy() == build.data_energy()
    total = build.data_energy()[-1]
    assert total.cells > 0
    assert 0 < total.dac < total.dac_fixed
    assert total.lines > 0
    assert run(["cost", str(tmp_path / "m.build"), "--data"]) == 0
    assert "word lines" in capsys.readouterr().out


def test_without_data_there_is_nothing_to_know() -> None:
    build = mcompiler.compile(CASE.model, build_target(), calibration="random")
    with pytest.raises(BuildError, match="no statistics of its inputs: the build was made without calibration data"):
        build.data_energy()
    assert array_shape(build.target).rows == 8
