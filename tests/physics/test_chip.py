"""One seed is one chip: what it computes, against formulas that know nothing of how it is simulated."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mcompiler.driver import Build
from mcompiler.driver.content import CHIP_BATCH, layer_key, mapped_from_cells, noise_bank
from mcompiler.effects import (
    ACCESS,
    CONVERTERS,
    CURVE,
    DRIFT,
    FAULTS,
    NOISE,
    PROGRAMMING,
    SHIPPED,
    TELEGRAPH,
    TEMPERATURE,
    WIRES,
    Effect,
    chosen,
    circuit_of,
    described,
)
from mcompiler.errors import UserError
from mcompiler.geometry import array_shape
from mcompiler.physics.chip import Chip, LayerKey
from mcompiler.physics.nodal import solve
from mcompiler.runtime import open_model
from mcompiler.target import Target
from tests.support.builds import Case, conv_case, gemm_case, run_plain, target

MATRIX = gemm_case(transposed=False, signed=False)
CONVOLUTION = conv_case([3, 3], channels=4, outputs=6, pads=[1, 1, 1, 1])
SOURCE = 'sources.{0}="assumption: test"'

OFFSET = ("encoding.weights=offset", "encoding.slices=4", "encoding.pedestal=digital_count")
ENCODINGS = {
    "differential": (),
    "after": ("encoding.subtract=after_adc", "encoding.pedestal=digital_count"),
    "separate": ("encoding.pairs_in=separate", "encoding.slices_in=separate"),
    "offset": OFFSET,
    "unit": (*OFFSET, "encoding.input_sum=unit_column", "encoding.flip=true"),
    "reference": (*OFFSET[:2], "encoding.pedestal=reference_column"),
    "digitised": (*OFFSET[:2], "encoding.pedestal=digitised_reference", "encoding.input_sum=unit_column"),
}


FINE = 512.0
"""Codes per level step of the converters here, so that their rounding is the smallest error."""


def made(*overrides: str, bits: int = 20) -> Target:
    """A small target with wide converters."""
    return target(*overrides, f"converters.adc.bits={bits}", "device.g_min_siemens=20e-6")


def exact(build: Build, case: Case) -> Any:
    """Accumulators of the only layer in the quantised reference, which knows no crossbars."""
    name = f"{build.layers[0]}/accumulator"
    return run_plain(build.reference, case.feeds, [name])[name].astype(np.float64)


def accumulators(build: Build, case: Case, chip: Chip, copies: int = 1) -> Any:
    """Accumulators of the only layer on a chip, samples repeated; ranges differ from column to column."""
    (layer,) = build.layer_data
    shape = array_shape(build.target)
    steps = np.random.default_rng(0).integers(0, 3, (int(layer.table["tile"].max()) + 1, shape.columns), dtype=np.int8)
    zoom = steps[layer.table["tile"][:, None], np.arange(shape.columns)[None] // shape.columns_per_weight]
    layer = replace(layer, analog=replace(layer.analog, gain=FINE, zoom=zoom))
    mapped = mapped_from_cells(build.skeleton, [layer], build.target, chip=chip)
    name = f"{layer.op.site.name}/accumulator"
    session = open_model(mapped, outputs=[name])
    feeds = {name: np.concatenate([array] * copies) for name, array in case.feeds.items()}
    count = len(next(iter(feeds.values())))
    most = noise_bank(build.layer_data, build.target, chip)[1]
    parts = [
        session.run({key: array[first : first + most] for key, array in feeds.items()}, [name])[name]
        for first in range(0, count, most)
    ]
    return np.concatenate(parts)


def codes(build: Build, case: Case) -> Any:
    name = f"{build.layer_data[0].op.site.name}/codes"
    return run_plain(build.mapped, case.feeds, [name])[name].astype(np.int64)


@pytest.mark.parametrize("case", [MATRIX, CONVOLUTION], ids=["product", "convolution"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_chip_without_effects_is_the_mapping(encoding: str, case: Case) -> None:
    chip = made(*ENCODINGS[encoding])
    build = case.compile(chip)
    plain = exact(build, case)
    size = 1e-5 * np.abs(plain).max()
    np.testing.assert_allclose(accumulators(build, case, Chip(chip, 3, frozenset(), 1.0)), plain, rtol=0, atol=size)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_gains_of_all_cells_scale_what_is_left(encoding: str) -> None:
    """Temperature scales every current, unit and reference columns too: what they undo scales with them."""
    heat = (
        "device.temperature.kelvin=310.0",
        "device.temperature.reference_kelvin=300.0",
        "device.temperature.per_kelvin=0.01",
        "device.temperature.source=assumption: test",
    )
    chip = made(*ENCODINGS[encoding], *heat)
    build = MATRIX.compile(chip)
    plain = exact(build, MATRIX)
    warm = accumulators(build, MATRIX, Chip(chip, 0, frozenset({TEMPERATURE}), 1.0))
    size = 0.01 * np.abs(plain).max()
    if encoding in (
        "offset",
        "unit",
        "reference",
    ):  # a shift that comes off digitally does not scale, nor a counted pedestal
        assert np.abs(warm - 1.1 * plain).max() > size
        assert np.abs(warm - plain).max() > size
    else:
        np.testing.assert_allclose(warm, 1.1 * plain, rtol=0, atol=size)


def test_wires_against_a_solve_of_every_read() -> None:
    wires = (
        "array.wire_resistance_ohm=20.0",
        "array.driver_resistance_ohm=300.0",
        "array.sense_resistance_ohm=100.0",
        "array.source=assumption: test",
    )
    chip = made(*wires)
    build = MATRIX.compile(chip)
    got = accumulators(build, MATRIX, Chip(chip, 0, frozenset({WIRES}), 1.0))
    (layer,) = build.layer_data
    wanted, step = np.zeros(got.shape), chip.device.step_siemens * chip.device.read_voltage_v
    slices, cell_bits = chip.encoding.slices, chip.device.bits
    inputs = codes(build, MATRIX).reshape(-1, layer.op.matrix.codes.shape[1])
    for index, array in enumerate(layer.table):
        G = build.conductances(layer.op.site.name, index)
        rows = slice(int(array["row"]), int(array["row"] + array["rows"]))
        for sample, vector in enumerate(inputs):
            for phase in range(layer.op.site.input.bits):
                x = np.zeros(chip.array.rows)
                x[: int(array["rows"])] = vector[rows] >> phase & 1
                currents = solve(G, x, circuit_of(chip, described(chip)))
                for column in range(int(array["cols"])):
                    at = column * 2 * slices
                    pair = currents[at : at + slices] - currents[at + slices : at + 2 * slices]
                    worth = float((pair / step) @ (1 << cell_bits * np.arange(slices))) * 2.0**phase
                    wanted.reshape(len(inputs), -1)[sample, int(array["col"]) + column] += worth
    wanted -= layer.op.site.input.zero_point * MATRIX_CODES(build)
    rounding = 0.5 / FINE * 255 * sum(1 << cell_bits * s for s in range(slices)) * 2  # of two reads
    assert np.abs(got - wanted).max() < rounding
    assert np.abs(got - exact(build, MATRIX)).max() > 20 * rounding


def MATRIX_CODES(build: Build) -> Any:  # noqa: N802
    """Sum of the weight codes of each channel."""
    layer = build.layer_data[0]
    program = build._content.program  # type: ignore[union-attr]
    op = next(op for op in program.placed.analog.tiled.matrix.layers if op.site.name == layer.op.site.name)
    return op.matrix.codes.sum(axis=1, dtype=np.int64).reshape(-1)


def test_read_noise_has_the_variance_of_its_cells() -> None:
    noise = (
        "device.noise.correlation=per_read",
        "device.noise.absolute_siemens=2e-6",
        "device.noise.source=assumption: test",
    )
    chip = made(*noise)
    build = MATRIX.compile(chip)
    one, copies = Chip(chip, 5, frozenset({NOISE}), 1.0), 200
    got = accumulators(build, MATRIX, one, copies).reshape(copies, -1)
    inputs = codes(build, MATRIX).reshape(len(got[0]) // 5, 13)
    deviation = 2e-6 / chip.device.step_siemens
    slices, cell_bits = chip.encoding.slices, chip.device.bits
    phases = sum(4.0**p * (inputs >> p & 1).sum(axis=1) for p in range(8))  # cells that conduct, by what a phase counts
    worths = sum(4.0 ** (cell_bits * s) for s in range(slices))
    wanted = np.repeat(2 * deviation**2 * worths * phases, 5)
    reads = -(-13 // chip.array.rows)
    rounding = sum(4.0**p for p in range(8)) * worths / 12 / FINE**2 * reads
    ratio = got.var(axis=0, ddof=1) / (wanted + rounding)
    assert abs(ratio.mean() - 1) < 0.05
    assert noise_bank(build.layer_data, chip, one)[0] > 0


def test_noise_per_inference_is_one_draw_a_run() -> None:
    noise = (
        "device.noise.correlation=per_inference",
        "device.noise.absolute_siemens=2e-6",
        "device.noise.source=assumption: test",
    )
    chip = made(*noise)
    build = MATRIX.compile(chip)
    one = Chip(chip, 5, frozenset({NOISE}), 1.0)
    assert noise_bank(build.layer_data, chip, one)[1] == 1  # one sample a run
    name = f"{build.layer_data[0].op.site.name}/accumulator"
    session = open_model(mapped_from_cells(build.skeleton, build.layer_data, chip, chip=one), outputs=[name])
    twice = {key: np.concatenate([array, array]) for key, array in MATRIX.feeds.items()}
    first, second = (session.run(twice, [name])[name] for _ in range(2))
    half = len(first) // 2
    np.testing.assert_array_equal(first[:half], first[half:])
    assert not np.allclose(first, second, atol=1)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_drift_of_one_exponent_is_compensated_whole(encoding: str) -> None:
    drift = (
        "device.drift.t0_s=1.0",
        "device.drift.nu=0.1",
        "device.drift.source=assumption: test",
        "calibration.drift_interval_s=10.0",
        "calibration.source=assumption: test",
    )
    chip = made(*ENCODINGS[encoding], *drift)
    build = MATRIX.compile(chip)
    drifted = Chip(chip, 0, frozenset({DRIFT}), 1000.0, calibrated=False)
    plain = exact(build, MATRIX)
    size = np.abs(plain).max()
    assert np.abs(accumulators(build, MATRIX, drifted) - plain).max() > 0.2 * size
    mended = accumulators(build, MATRIX, replace(drifted, calibrated=True))
    np.testing.assert_allclose(mended, plain, atol=2.5e-3 * size)  # a unit column's rounding counts by the shift


@pytest.mark.parametrize(("per", "columns"), [("column", 1), ("adc", 1), ("column", 8), ("adc", 8)])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_digital_correction_takes_gain_and_offset_of_converters_back(encoding: str, per: str, columns: int) -> None:
    errors = (
        "converters.adc.gain_error=0.1",
        "converters.adc.offset_codes=5.0",
        f"converters.adc.columns={columns}",
        f"calibration.correction={per}",
        "calibration.source=assumption: test",
    )
    chip = made(*ENCODINGS[encoding], *errors)
    build = MATRIX.compile(chip)
    plain = exact(build, MATRIX)
    off = Chip(chip, 1, frozenset({CONVERTERS}), 1.0, calibrated=False)
    wrong = np.abs(accumulators(build, MATRIX, off) - plain).mean()
    right = np.abs(accumulators(build, MATRIX, replace(off, calibrated=True)) - plain).mean()
    assert right < wrong / 50


def test_one_correction_for_columns_that_err_alike_mends_less_where_they_do_not() -> None:
    """Wires make every column err by itself: a factor for each mends more than one for the eight of an ADC."""
    errors = (
        "array.wire_resistance_ohm=20.0",
        "array.driver_resistance_ohm=300.0",
        "array.source=assumption: test",
        "converters.adc.columns=8",
        "calibration.source=assumption: test",
    )
    left = {}
    for per in ("none", "adc", "column"):
        chip = made(*errors, f"calibration.correction={per}")
        build = MATRIX.compile(chip)
        got = accumulators(build, MATRIX, Chip(chip, 1, frozenset({WIRES}), 1.0))
        left[per] = np.abs(got - exact(build, MATRIX)).mean()
    assert left["column"] < left["adc"] < left["none"]


@pytest.mark.parametrize("encoding", ["differential", "after", "separate", "reference", "digitised"])
def test_predistorted_cells_hold_the_weights_with_their_wires(encoding: str) -> None:
    wires = (
        "array.wire_resistance_ohm=60.0",
        "array.driver_resistance_ohm=200.0",
        "array.source=assumption: test",
        "calibration.predistort=true",
        "calibration.source=assumption: test",
    )
    chip = made(*ENCODINGS[encoding], *wires)
    build = MATRIX.compile(chip)
    bare = Chip(chip, 0, frozenset({WIRES}), 1.0, calibrated=False)
    wanted = exact(build, MATRIX)
    wrong = np.abs(accumulators(build, MATRIX, bare) - wanted).mean()
    right = np.abs(accumulators(build, MATRIX, replace(bare, calibrated=True)) - wanted).mean()
    assert right < wrong / 10


JOSHI = (
    "device.drift.t0_s=20.0",
    "device.drift.nu=0.1",
    "device.drift.source=assumption: test",
    "device.noise.correlation=static_at_t",
    "device.noise.one_over_f.q=0.0088",
    "device.noise.one_over_f.q_exponent=0.65",
    "device.noise.one_over_f.q_largest=0.2",
    "device.noise.one_over_f.read_s=250e-9",
    "device.noise.source=assumption: test",
)


def _static(chip: Target, effects: set[Effect], time_s: float) -> Any:
    levels = np.full((1, 16, 16), len(chip.cell_steps) - 1, dtype=np.uint8)
    state = Chip(chip, 4, frozenset(effects), time_s).realise(LayerKey(0, "x"), 0, levels)
    return state.currents[0] * chip.unit_siemens / chip.device.g_max_siemens - 1


def test_static_noise_is_drawn_anew_at_another_time() -> None:
    """Every cell at g_max: relative deviations of 256 cells, correlated with those of another time by nothing."""
    chip = made(*JOSHI)
    first, again, later = (_static(chip, {NOISE}, time_s).ravel() for time_s in (100.0, 100.0, 1e5))
    np.testing.assert_array_equal(first, again)
    assert abs(np.corrcoef(first, later)[0, 1]) < 5 / 256**0.5
    for found, time_s in ((first, 100.0), (later, 1e5)):
        assert found.std() == pytest.approx(0.0088 * np.log(time_s / 500e-9) ** 0.5, rel=5 / 512**0.5)


def test_noise_of_drifted_cells_has_the_size_of_cells_as_written() -> None:
    """Cells that all lost the same share are as noisy, for what they still conduct, as cells that lost nothing."""
    chip = made(*JOSHI)
    alone = _static(chip, {NOISE}, 2e7)
    both = _static(chip, {NOISE, DRIFT}, 2e7)
    np.testing.assert_allclose(both, (1 + alone) * 1e6**-0.1 - 1, rtol=0, atol=1e-12)


def test_stuck_cells_do_not_fluctuate() -> None:
    noise = (
        "device.noise.correlation=per_read",
        "device.noise.proportional=0.1",
        "device.noise.source=assumption: t",
        "device.faults.stuck_on=1.0",
        "device.faults.stuck_off=0.0",
    )
    chip = made(*noise)
    build = MATRIX.compile(chip)
    levels = np.stack([build.cells(build.layers[0], 0)])
    moving = Chip(chip, 1, frozenset({NOISE}), 1.0).realise(LayerKey(0, "x"), 0, levels)
    stuck = Chip(chip, 1, frozenset({NOISE, FAULTS}), 1.0).realise(LayerKey(0, "x"), 0, levels)
    G = build.conductances(build.layers[0], 0)
    assert moving.fluctuations.variance.per_read is not None
    assert stuck.fluctuations.variance.per_read is not None
    np.testing.assert_allclose(moving.fluctuations.variance.per_read[0], (0.1 * G / chip.device.step_siemens) ** 2)
    at_top = chip.device.g_max_siemens == G
    assert not stuck.fluctuations.variance.per_read[0][~at_top].any()


GATES = ("array.drive=gate",)
BENT = ("device.curve.sinh_v=0.1", "device.curve.source=assumption: test")


@pytest.mark.parametrize("kind", [(), GATES, BENT, (*GATES, *BENT)], ids=["ohmic", "gates", "bent", "bent, gates"])
def test_access_resistance_without_wires(kind: tuple[str, ...]) -> None:
    """One row that is driven alone: each cell is in series with its resistance, whatever drives it."""
    chip = made("device.access_resistance_ohm=20000.0", "device.sources.access_resistance_ohm=assumption: t", *kind)
    build = MATRIX.compile(chip)
    effects = {ACCESS} | ({CURVE} if BENT[0] in kind else set())
    levels = np.stack([build.cells(build.layers[0], 0)])
    one = Chip(chip, 0, frozenset(effects), 1.0)
    G, x = build.conductances(build.layers[0], 0), np.zeros(chip.array.rows)
    x[2] = 1
    state = one.realise(LayerKey(0, "x"), 0, levels)
    unit = chip.device.step_siemens * chip.device.read_voltage_v
    got = state.currents[0][2] + state.offset[0]
    np.testing.assert_allclose(got, solve(G, x, one.circuit) / unit, rtol=1e-6)


def test_open_word_lines_leave_nothing() -> None:
    faults = ("device.faults.open_word_lines=1.0",)
    chip = made(*faults)
    build = MATRIX.compile(chip)
    got = accumulators(build, MATRIX, Chip(chip, 0, frozenset({FAULTS}), 1.0))
    want = -build.layer_data[0].op.site.input.zero_point * MATRIX_CODES(build)
    np.testing.assert_allclose(got.reshape(-1, 5), np.broadcast_to(want, got.reshape(-1, 5).shape), atol=1e-2)


def test_effects_do_not_touch_each_others_draws() -> None:
    more = ("device.programming.proportional=0.05", "device.faults.stuck_on=0.02")
    chip = made(*more)
    build = MATRIX.compile(chip)
    levels = np.stack([build.cells(build.layers[0], 0)])
    both = Chip(chip, 9, frozenset({PROGRAMMING, FAULTS}), 1.0).realise(LayerKey(0, "x"), 0, levels).currents
    alone = Chip(chip, 9, frozenset({PROGRAMMING}), 1.0).realise(LayerKey(0, "x"), 0, levels).currents
    other = Chip(chip, 10, frozenset({PROGRAMMING}), 1.0).realise(LayerKey(0, "x"), 0, levels).currents
    assert (both == alone).mean() > 0.9
    assert (alone == other).mean() < 0.01


def test_a_chip_survives_pickling() -> None:
    """Work travels to other processes: the same draws, and an empty cache of the same bound."""
    chip = made("array.wire_resistance_ohm=5.0", "array.source=assumption: t", "device.programming.proportional=0.05")
    build = MATRIX.compile(chip)
    levels = np.stack([build.cells(build.layers[0], 0)])
    one = Chip(chip, 4, frozenset(SHIPPED), 1.0, stuck={0: np.array([[0, 1, 2, 1]], np.int32)}, activity={0: 0.25})
    state = one.realise(LayerKey(0, "x"), 0, levels)
    other = pickle.loads(pickle.dumps(one))
    assert other.effects == one.effects
    assert other.cache.held_bytes == 0
    again = other.realise(LayerKey(0, "x"), 0, levels)
    np.testing.assert_array_equal(again.currents, state.currents)
    assert pickle.loads(pickle.dumps(state)).fluctuations.steady


def test_layers_that_share_arrays_share_their_errors() -> None:
    chip = made("device.programming.proportional=0.05")
    build = MATRIX.compile(chip)
    levels = np.stack([build.cells(build.layers[0], 0)])
    (layer,) = build.layer_data
    layers = [layer, replace(layer, shares=0), layer]
    assert [layer_key(layers, index).seed_key for index in range(3)] == [layer.op.site.name] * 3
    one = Chip(chip, 4, frozenset({PROGRAMMING}), 1.0)
    first, second, other = (
        one.realise(key, 0, levels).currents
        for key in (layer_key(layers, 0), layer_key(layers, 1), LayerKey(2, "another"))
    )
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


def test_names_of_effects() -> None:
    chip = made()
    assert described(chip) == {PROGRAMMING, FAULTS}
    assert chosen(["all"], chip) == {PROGRAMMING, FAULTS}
    with pytest.raises(UserError, match="there is no effect 'rain'; choose from programming, drift"):
        chosen(["rain"], chip)
    with pytest.raises(UserError, match=r"does not describe the effect 'drift': give it \[device.drift\]"):
        chosen(["drift"], chip)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_noises_of_two_kinds_add_up(encoding: str) -> None:
    """Read noise anew in every read, telegraph states for all reads of an inference: variances of sums add."""
    both = (
        "device.noise.correlation=per_read",
        "device.noise.absolute_siemens=2e-6",
        "device.noise.source=assumption: t",
        "device.telegraph.correlation=per_inference",
        "device.telegraph.share=0.5",
        "device.telegraph.amplitude=0.05",
        "device.telegraph.source=assumption: t",
    )
    chip = made(*ENCODINGS[encoding], *both)
    build, copies = MATRIX.compile(chip), 300

    def variance(*effects: Effect) -> float:
        one = Chip(chip, 5, frozenset(effects), 1.0)
        assert noise_bank(build.layer_data, chip, one)[1] == (1 if TELEGRAPH in effects else CHIP_BATCH)
        return float(accumulators(build, MATRIX, one, copies).reshape(copies, -1).var(axis=0, ddof=1).sum())

    reads, states, mixed = (variance(*kinds) for kinds in ((NOISE,), (TELEGRAPH,), (NOISE, TELEGRAPH)))
    assert min(reads, states) > 0.05 * mixed, "both matter"
    assert mixed == pytest.approx(reads + states, rel=0.1)
