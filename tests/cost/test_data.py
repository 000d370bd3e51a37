"""Energy at the inputs that were seen, against sums over vectors, phases and cells."""

from __future__ import annotations

import json
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
from mcompiler.cost import ExactInputs, count, data_energy
from mcompiler.dataflow import conversions_per_read
from mcompiler.driver.exact import read_vectors
from mcompiler.errors import BuildError
from mcompiler.geometry import array_shape
from mcompiler.ir import CodeSample
from mcompiler.passes.quantise import input_statistics
from mcompiler.target import Event, prices
from tests.onnx_export.test_converted import ENCODINGS
from tests.support import crossbar
from tests.support.builds import conv_case, matmul_case, run_plain
from tests.support.builds import target as build_target
from tests.support.programs import Case, cases, matrix_program, one_sign, scheduled, spots, with_site


@settings(max_examples=40, deadline=None)
@given(cases(), st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_cells_and_drives_are_summed_one_by_one(case: Case, seed: int, vectors: int) -> None:
    chip, shape = case.chip, case.shape
    groups, rows, _ = case.op.matrix.codes.shape
    bits, dac = case.op.site.input.bits, chip.converters.dac.bits
    seen = np.random.default_rng(seed).integers(0, 1 << bits, (vectors, groups, rows)).astype(np.uint16)
    op = with_site(case.op, vectors=vectors)
    if shape.encoding.signed_fragments:
        op = one_sign(op, chip)  # in the fragments of the compacted matrix, which `scheduled` makes
    program = matrix_program([op])
    program = replace(program, statistics=(input_statistics(CodeSample(seen, bits), dac),))
    done = scheduled(program, chip)
    (layer,) = program_layers(done, chip)
    found, total = data_energy([layer], count(done, chip), chip)
    assert found == replace(total, name=found.name)

    kept, table = done.placed.analog.tiled.matrix.layers[0], done.placed.analog.tiled.tables[0]
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
    if sum(len(kept.matrix.rows.of(g)) > 0 and len(kept.matrix.cols.of(g)) == 0 for g in range(groups)) == 0:
        assert found.cells == pytest.approx(joules, rel=1e-5, abs=1e-25)
        each = prices(chip)["dac"].energy_j
        assert found.dac == pytest.approx(drives * each, rel=1e-5, abs=1e-25)
    assert found.dac <= found.dac_fixed * (1 + 1e-6)
    exact = ExactInputs(layer, chip)
    exact.add(seen)
    one, _ = data_energy([layer], count(done, chip), chip, [exact.inputs()])
    for part in ("cells", "lines", "dac", "adc"):
        assert getattr(one, part) == pytest.approx(getattr(found, part), rel=1e-5, abs=1e-25)


def test_statistics_by_hand() -> None:
    vectors = np.array([[[0b01, 0b11]], [[0b00, 0b10]]], np.uint16)  # two vectors of two rows, 2 bits
    found = input_statistics(CodeSample(vectors, 2), 1)
    assert found.square.tolist() == [[[0.5, 0.5]], [[0.0, 1.0]]]
    assert found.nonzero.tolist() == found.square.tolist()
    assert found.idle.tolist() == [[0.5], [0.0]]
    assert found.mean.tolist() == found.square.tolist()
    wide = input_statistics(CodeSample(vectors, 2), 2)
    assert wide.mean.tolist() == [[[pytest.approx(1 / 6), pytest.approx(5 / 6)]]]
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


FOLLOWS = "components.adc.code_share=0.75"
RANGES = ("converters.adc.range=calibrated", "converters.adc.bits=5")


@pytest.mark.parametrize(
    "more", [(), RANGES, (*RANGES, "converters.adc.range_per=column")], ids=["full", "fitted", "column"]
)
@pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=ENCODINGS)
def test_conversions_take_what_their_codes_say(encoding: tuple[str, ...], more: tuple[str, ...]) -> None:
    """Code by code as the numpy crossbar converts; what is beside them counts at full scale."""
    chip = build_target(*encoding, *more, FOLLOWS)
    build = CASE.compile(chip)
    (layer,) = build.layer_data
    mean, exact = build.exact_energy(CASE.feeds["x"])
    codes = run_plain(build.mapped, CASE.feeds, [f"{layer.op.site.name}/codes"])[f"{layer.op.site.name}/codes"]
    joule = prices(chip)["adc"].energy_j
    events = build.cost.counts.layers[layer.op.site.name].events[Event.ADC_CONVERSION]
    reads = np.ceil(layer.table["rows"] / 8) * 8  # phases
    own = layer.op.site.vectors * float(
        (reads * conversions_per_read(layer.table, array_shape(chip), chip, extra=False)).sum()
    )
    wanted = 0.25 * events + 0.75 * (events - own + layer.op.site.vectors * crossbar.full_scale(build, layer, codes))
    assert exact[0].adc == pytest.approx(joule * wanted, rel=1e-5)
    assert exact[0].adc_fixed == pytest.approx(joule * events)
    for each in (mean[0], exact[0]):
        assert 0.25 * each.adc_fixed <= each.adc <= each.adc_fixed
    for part in ("cells", "lines", "dac", "cells_fixed", "dac_fixed"):  # ohmic: the densities say it all
        assert getattr(mean[0], part) == pytest.approx(getattr(exact[0], part), rel=1e-5)


def test_codes_that_never_change_sign_or_clip_are_exact_in_the_mean() -> None:
    """Offset weights have sums above 0; rounding alone sets the mean field apart."""
    build = CASE.compile(build_target("encoding.weights=offset", "encoding.pedestal=digital_count", FOLLOWS))
    mean, exact = build.exact_energy(CASE.feeds["x"])
    assert mean[0].adc == pytest.approx(exact[0].adc, rel=0.02)
    differential, signed = CASE.compile(build_target(FOLLOWS)).exact_energy(CASE.feeds["x"])
    assert differential[0].adc < signed[0].adc  # |mean| is below the mean of |.|


def test_curved_cells_burn_what_their_curve_says() -> None:
    """Two-bit digits: a sinh draws less than Ohm's law below the read voltage; the mean field takes it to be ohmic."""
    keys = ("converters.dac.bits=2", "device.curve.sinh_v=0.1", "device.curve.source=assumption: for this test")
    build = CASE.compile(build_target(*keys))
    (layer,) = build.layer_data
    mean, exact = build.exact_energy(CASE.feeds["x"])
    assert exact[0].cells < mean[0].cells
    volts, codes = build.target.device.read_voltage_v, np.arange(4) / 3
    burnt = codes * np.sinh(codes * volts / 0.1) / np.sinh(volts / 0.1)
    q = run_plain(build.mapped, CASE.feeds, [f"{layer.op.site.name}/codes"])[f"{layer.op.site.name}/codes"]
    wanted = 0.0
    for tile in range(len(layer.table)):
        siemens = build.conductances(layer.op.site.name, tile)
        vectors = crossbar.vectors(q, layer)[:, 0, layer.op.matrix.rows.of(0)[int(layer.table[tile]["row"]) :]]
        driven = vectors[:, : int(layer.table[tile]["rows"])]
        for phase in range(4):
            wanted += float((burnt[(driven >> 2 * phase) & 3] @ siemens[: driven.shape[1]].sum(axis=1)).mean())
    joules = wanted * layer.op.site.vectors * volts**2 * build.target.device.read_pulse_s
    assert exact[0].cells == pytest.approx(joules, rel=1e-5)


def test_every_vector_that_a_layer_reads() -> None:
    cases = [
        CASE, conv_case([3, 2], channels=4, outputs=6, pads=[1, 0, 2, 1], strides=[2, 1], dilations=[1, 2], group=2),
        matmul_case((2, 3, 5), (5, 4)), matmul_case((2, 3, 4, 5), (3, 5, 6)), matmul_case((4, 5), (3, 5, 6)),
    ]  # fmt: skip
    for case in cases:
        build = case.compile(build_target())
        (layer,) = build.layer_data
        codes = run_plain(build.mapped, case.feeds, [f"{layer.op.site.name}/codes"])[f"{layer.op.site.name}/codes"]
        np.testing.assert_array_equal(read_vectors(layer.op, codes), crossbar.vectors(codes, layer))


def test_exact_energies_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    CASE.compile(build_target(FOLLOWS)).save(tmp_path / "m.build")
    np.savez(tmp_path / "x.npz", x=CASE.feeds["x"])
    directory, data = str(tmp_path / "m.build"), str(tmp_path / "x.npz")
    assert run(["cost", directory, "--exact", data, "--limit", "1"]) == 0
    assert "ADCs, exact" in capsys.readouterr().out
    assert run(["cost", directory, "--exact", data, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["data_energy_exact"][0]["adc_j"] < found["data_energy_exact"][0]["adc_fixed_j"]
    assert found["data_energy"][0]["cells_j"] == pytest.approx(found["data_energy_exact"][0]["cells_j"], rel=1e-5)
    assert run(["cost", directory, "--exact", data, "--set", "components.adc.code_share=0", "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)["data_energy_exact"][0]
    assert plain["adc_j"] == plain["adc_fixed_j"]
    assert run(["cost", directory, "--limit", "1"]) != 0


def test_without_data_there_is_nothing_to_know() -> None:
    build = mcompiler.compile(CASE.model, build_target(), calibration="random")
    with pytest.raises(BuildError, match="no statistics of its inputs: the build was made without calibration data"):
        build.data_energy()
    assert array_shape(build.target).rows == 8
