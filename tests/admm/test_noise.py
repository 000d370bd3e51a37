"""Errors of cells in training: their statistics against the simulated chip, where they act, what they leave alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcompiler.effects import DRIFT, PROGRAMMING, Effect
from mcompiler.errors import CompileError, UserError
from mcompiler.geometry import array_shape
from mcompiler.physics.chip import Chip, LayerKey
from mcompiler.target import Target, load_target

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch")
from torch import nn

import mcompiler
from mcompiler import admm
from mcompiler.admm.digits import SPEC, compress_digits, load_data, train_dense
from mcompiler.admm.export import get_mapped_weight, get_original_weight
from mcompiler.admm.noise import CELL_EFFECTS, CellErrors, find_mapped_entries

Floats = npt.NDArray[np.float64]

QUIET = ("device.programming.proportional=0", "device.faults.stuck_on=0", "device.faults.stuck_off=0")
MEANS = [0, 260, 530, 790, 1100, 1350, 1640, 1900, 2200, 2450, 2730, 3000, 3290, 3560, 3830, 4096]
WIDE = ("converters.adc.range=full", "converters.adc.bits=24")
PCM = (
    "device.drift.t0_s=20.0",
    "device.drift.nu=0.03",
    "device.drift.nu_per_log=-0.0155",
    "device.drift.nu_min=0.049",
    "device.drift.nu_max=0.1",
    "device.drift.spread=0.02",
    "device.drift.spread_per_log=-0.0125",
    "device.drift.spread_min=0.008",
    "device.drift.spread_max=0.045",
    "device.drift.source=assumption: a test",
)
FLICKER = (
    "device.noise.correlation=static_at_t",
    "device.noise.proportional=0.05",
    "device.noise.absolute_siemens=1e-6",
    "device.noise.one_over_f.q=0.02",
    "device.noise.one_over_f.q_exponent=0.6",
    "device.noise.one_over_f.read_s=1e-6",
    "device.noise.source=assumption: a test",
)
STATES = (
    "device.telegraph.correlation=static_at_t",
    "device.telegraph.share=0.4",
    "device.telegraph.amplitude=0.3",
    "device.telegraph.low=0.3",
    "device.telegraph.source=assumption: a test",
)
HEAT = (
    "device.temperature.kelvin=360.0",
    "device.temperature.reference_kelvin=300.0",
    "device.temperature.per_kelvin=0.002",
    "device.temperature.source=assumption: a test",
)
SIGNED = ("encoding.weights=polarised", "encoding.pedestal=digital_count")
LEVELS = "device.programming.level_siemens=[1e-6, 3e-6, 5e-6, 2e-6]"

CASES: dict[str, tuple[tuple[str, ...], float]] = {
    "proportional": (("device.programming.proportional=0.1",), 1.0),
    "cut at zero": (("device.programming.proportional=0.8", "device.programming.absolute_siemens=2e-6"), 1.0),
    "log-normal": (("device.programming.log_normal=0.3", "device.programming.absolute_siemens=1e-6"), 1.0),
    "of each level": ((LEVELS, "device.programming.polynomial_siemens=[2e-6, -1e-6, 1e-6]"), 1.0),
    "stuck": (("device.faults.stuck_on=0.05", "device.faults.stuck_off=0.1"), 1.0),
    "drift": ((*PCM, "device.programming.proportional=0.05"), 1e5),
    "flicker": (FLICKER, 100.0),
    "telegraph": (STATES, 1.0),
    "temperature and access": ((*HEAT, "device.access_resistance_ohm=3000.0"), 1.0),
    "polarised": ((*SIGNED, "device.programming.proportional=0.2", "device.faults.stuck_on=0.05"), 1.0),
    "everything": (
        (
            *PCM,
            *FLICKER,
            *STATES,
            *HEAT,
            "device.programming.log_normal=0.1",
            "device.faults.stuck_on=0.02",
            "device.access_resistance_ohm=1000.0",
        ),
        1e4,
    ),
}


def of_a_chip(target: Target, effects: frozenset[Effect], time_s: float, code: int) -> Floats:
    """Many cells of one code on a chip, decoded without errors of converters: [samples]."""
    shape = array_shape(target)
    smallest = shape.encoding.code_range(shape).smallest
    cells = shape.encoding.level_table(shape, 0)[code - smallest].reshape(-1)  # polarity outermost
    arrays = np.zeros((8, shape.rows, shape.columns + shape.extra), np.uint8)
    used = shape.columns // len(cells) * len(cells)
    arrays[:, :, :used] = np.tile(cells, used // len(cells))
    state = Chip(target, 7, effects, time_s).realise(LayerKey(0, "layer"), 0, arrays)
    currents = (state.currents * state.scale[:, None, None])[:, :, :used].reshape(-1, shape.polarities, shape.slices)
    worth = (1 << shape.cell_bits) ** np.arange(shape.slices)
    by_slice = currents - target.pedestal
    signed = by_slice[:, 0] - (by_slice[:, 1] if shape.polarities == 2 else 0)
    sign = -1 if shape.polarities == 1 and code < 0 else 1
    return np.asarray(sign * signed @ worth)


def of_training(target: Target, options: admm.DeviceNoise, code: int, samples: int = 20000) -> Floats:
    errors = CellErrors(options, target, torch.ones(samples, 1, dtype=torch.bool), 1)
    torch.manual_seed(abs(code))
    found: Floats = errors(torch.full((samples, 1), float(code))).numpy()[:, 0].astype(np.float64)
    return found


def agree(one: Floats, other: Floats) -> None:
    """Mean and variance within 4.5 standard errors of their difference."""
    moments = []
    for values in (one, other):
        centred = values - values.mean()
        variance = centred.var()
        moments.append((values.mean(), variance, ((centred**4).mean() - variance**2) / len(values), len(values)))
    (mean, variance, fourth, count), (mean2, variance2, fourth2, count2) = moments
    assert abs(mean - mean2) <= 4.5 * np.sqrt(variance / count + variance2 / count2) + 1e-4 * max(1, abs(mean))
    assert abs(variance - variance2) <= 4.5 * np.sqrt(fourth + fourth2) + 1e-6


@pytest.mark.parametrize("name", list(CASES))
def test_cells_err_in_training_as_they_do_on_a_chip(name: str) -> None:
    overrides, time_s = CASES[name]
    target = load_target("generic_128", (*QUIET, *overrides))
    options = admm.DeviceNoise(time_s=time_s)
    for code in (-127, -64, -2, 0, 1, 27, 90):
        agree(of_a_chip(target, CELL_EFFECTS, time_s, code), of_training(target, options, code))


@pytest.mark.parametrize("time_s", [0.1, 30.0, 1e5])
def test_relaxation_goes_with_the_logarithm_of_time(time_s: float) -> None:
    relaxed = load_target("neurram")
    assert relaxed.device.relaxation
    effects = frozenset({PROGRAMMING, DRIFT})
    options = admm.DeviceNoise(("programming", "drift"), time_s)
    for code in (-7, 0, 3):
        agree(of_a_chip(relaxed, effects, time_s, code), of_training(relaxed, options, code))


@pytest.mark.parametrize("more", [("encoding.partner=unformed",), (f"device.level_means={MEANS}",)])
def test_tables_of_levels_err_too(more: tuple[str, ...]) -> None:
    slices = ("encoding.slices=1", 'device.source="a table"', *WIDE)
    target = load_target("yuan2019", (*slices, *more, "device.programming.proportional=0.1"))
    options = admm.DeviceNoise(("programming",))
    for code in (-target.cell_steps[-1], 0, target.cell_steps[2]):
        found = of_training(target, options, code)
        agree(of_a_chip(target, frozenset({PROGRAMMING}), 1.0, code), found)
        if code == 0 and target.encoding.partner == "unformed":
            assert not found.any(), "a cell that was never formed does not err"


def test_compensation_of_drift_is_the_chips() -> None:
    calibration = ("calibration.drift_interval_s=5e4", "calibration.source=assumption: a test")
    plain, compensated = (load_target("generic_128", (*QUIET, *PCM, *more)) for more in ((), calibration))
    options = admm.DeviceNoise(("drift",), 9e4)
    lost, kept = (of_training(target, options, 127).mean() for target in (plain, compensated))
    assert lost < 90
    assert kept == pytest.approx(of_a_chip(compensated, frozenset({DRIFT}), 9e4, 127).mean(), rel=0.003)


def test_scale_stretches_every_deviation() -> None:
    target = load_target("generic_128", (*QUIET, "device.programming.proportional=0.05"))
    one, two = (of_training(target, admm.DeviceNoise(scale=scale), 90) for scale in (1.0, 2.0))
    assert np.allclose(two - 90, 2 * (one - 90), atol=1e-3)


@given(seed=st.integers(0, 999), rows=st.integers(1, 11), columns=st.integers(1, 7), density=st.floats(0.02, 1))
@settings(max_examples=60, deadline=None)
def test_cells_stand_where_the_compiler_puts_them(seed: int, rows: int, columns: int, density: float) -> None:
    """By hand: drop empty rows and columns, cut, drop empty tiles."""
    target = load_target(
        "generic_128",
        ("array.rows=4", "array.rows_active=4", "array.columns=8", "encoding.slices=2", "precision.weights=5"),
    )
    mask = np.random.default_rng(seed).random((rows, columns)) < density
    kept_rows, kept_columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    expected = np.zeros_like(mask)
    for top in range(0, len(kept_rows), 4):
        for left in range(0, len(kept_columns), 2):
            place = np.ix_(kept_rows[top : top + 4], kept_columns[left : left + 2])
            expected[place] = mask[place].any()
    assert (find_mapped_entries(mask[None], target)[0] == expected).all()


# --- inside a model --------------------------------------------------------------------------------------------------

SMALL = ("array.rows=16", "array.columns=16", "array.rows_active=16", "encoding.slices=2", "precision.weights=5")
NOISY = load_target("generic_128", (*SMALL, "device.programming.proportional=0.2"))
NOISE = admm.DeviceNoise()


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(2, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12 * 4, 5),
    )


def spec_of(noise: admm.DeviceNoise | None) -> admm.Spec:
    return admm.Spec(
        layers={"3": admm.Structure(filters=8, blocks=4)},
        admm=admm.Admm(rho=(1e-1,), epochs=1),
        retrain=admm.Retrain(epochs=4, float_epochs=1, noise=noise),
        quantisation=admm.Quantisation(batches=2),
    )


def data() -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(2)
    x = torch.randn(48, 2, 6, 6)
    return [(x[i : i + 16], torch.arange(16) % 5) for i in range(0, 48, 16)]


def test_only_training_errs() -> None:
    model = network()
    layer = model.get_submodule("3")
    assert isinstance(layer, nn.Conv2d)
    compressor = admm.Compressor(model, NOISY, spec_of(NOISE))
    compressor.project(levels=False)
    assert (layer.weight == layer.weight).all(), "float weights are in no cells"
    compressor.project()
    mapped = get_mapped_weight(layer)
    assert mapped is not None
    ideal = mapped.values(get_original_weight(layer))
    model.eval()
    assert (layer.weight == ideal).all()
    model.train()
    first, second = layer.weight, layer.weight
    placed = torch.from_numpy(find_mapped_entries(mapped.mask.reshape(1, 12, -1).numpy().swapaxes(1, 2), NOISY))
    away = placed[0].T.reshape(ideal.shape)
    assert not (first == second)[away].any(), "every pass draws anew"
    assert (first == ideal)[~away].all(), "what stands in no cell does not err"
    first.sum().backward()  # type: ignore[no-untyped-call]
    gradient = get_original_weight(layer).grad
    assert gradient is not None
    assert (gradient == mapped.mask).all(), "straight through, and pruned weights stay pruned"
    assert not any("noise" in name for name in model.state_dict())


def test_what_is_trained_with_errors_is_mapped_to_the_last_integer(tmp_path: Path) -> None:
    batches = data()
    result = admm.compress(network(), batches, NOISY, spec_of(NOISE), device="cpu")
    x = torch.cat([x for x, _ in batches])
    build = mcompiler.compile(result.export(tmp_path / "model.onnx"), NOISY)
    found = build.verify(x.numpy(), result.deployed()(x).argmax(dim=1).numpy(), ideal=True)
    assert found.exact
    assert found.top1_mapped == 1.0
    result.model.train()
    again = mcompiler.compile(result.export(tmp_path / "again.onnx"), NOISY)
    for one, other in zip(build.layer_data, again.layer_data, strict=True):
        assert (one.op.matrix.codes == other.op.matrix.codes).all(), "an export never errs"


class _KilledError(Exception):
    pass


def test_stopped_and_resumed_reaches_the_same_weights(tmp_path: Path) -> None:
    def stop(message: str) -> None:
        if message.startswith("quantised 1"):  # behind its last step, before its checkpoint
            raise _KilledError

    run: Any = {"model": network(), "train": data(), "target": NOISY, "device": "cpu"}
    whole = admm.compress(**run, spec=spec_of(NOISE), out=tmp_path / "whole").model.state_dict()
    with pytest.raises(_KilledError):
        admm.compress(**run, spec=spec_of(NOISE), out=tmp_path / "cut", say=stop)
    resumed = admm.compress(**run, spec=spec_of(NOISE), out=tmp_path / "cut").model.state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    without = admm.compress(**run, spec=spec_of(None), out=tmp_path / "without").model.state_dict()
    assert not torch.equal(whole["3.parametrizations.weight.original"], without["3.parametrizations.weight.original"])


@pytest.mark.slow
def test_a_network_learns_to_live_with_errors() -> None:
    """Digits over many draws of errors, after the same short recipe with and without them in training."""
    more = (*QUIET[1:], "device.programming.proportional=0.4")
    target = load_target("generic_128", more)
    x, y, x_test, y_test = load_data()
    dense = train_dense(x, y, epochs=5)
    found = []
    for noise in (None, NOISE):
        spec = dataclasses.replace(SPEC, retrain=dataclasses.replace(SPEC.retrain, noise=noise))
        result = compress_digits(dense, spec, target, device="cpu", progress=False)
        for layer in result.layers.values():
            mapped = get_mapped_weight(layer.module)
            assert mapped is not None
            mapped.noise = CellErrors(NOISE, target, mapped.mask, layer.groups)
            mapped.train()
        torch.manual_seed(9)
        with torch.no_grad():
            draws = [result.model(torch.from_numpy(x_test)).argmax(dim=1).numpy() == y_test for _ in range(20)]
        found.append(np.mean(draws))
    assert found[1] > found[0] + 0.02


# --- what is said ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "effects", "message"),
    [
        (
            ("array.wire_resistance_ohm=1",),
            ("programming", "wires"),
            "retrain.noise.effects: 'wires' is no error of single cells, which is what training draws; choose from "
            "programming, drift, noise, telegraph, temperature, faults, access, or all",
        ),
        ((), ("drift",), "target 'generic_128' does not describe the effect 'drift'"),
        ((), ("rust",), "there is no effect 'rust'; choose from programming"),
    ],
)
def test_effects_that_cannot_be_drawn_are_named(
    overrides: tuple[str, ...], effects: tuple[str, ...], message: str
) -> None:
    target = load_target("generic_128", overrides)
    with pytest.raises(UserError) as caught:
        admm.Compressor(network(), target, spec_of(admm.DeviceNoise(effects)))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"effects": []}, "retrain.noise.effects: holds 0 values; give at least 1"),
        ({"time_s": 0.0}, "retrain.noise.time_s: must be above 0, not 0.0"),
        ({"scale": 0.0}, "retrain.noise.scale: must be above 0, not 0.0"),
        ({"sigma": 1.0}, "retrain.noise.sigma: unknown key; known here: effects, time_s, scale"),
        ("target", "retrain.noise: must be a table, not 'target'"),
    ],
)
def test_a_wrong_specification_is_named(table: Any, message: str) -> None:
    with pytest.raises(CompileError) as caught:
        admm.Spec.from_table({"retrain": {"noise": table}})
    assert message in str(caught.value)


def test_weights_that_stay_float_are_in_no_cells() -> None:
    with pytest.raises(CompileError, match=r"quantisation.levels: .* \[retrain.noise\], which needs weights on levels"):
        admm.Spec.from_table({"retrain": {"noise": {}}, "quantisation": {"levels": "none"}})
