"""Repeated reads of one chip: two states of cells and noise of shared lines, against closed forms."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from mcompiler.conductance import ArrayState
from mcompiler.driver import Build, compile
from mcompiler.driver.content import mapped_from_cells, noise_bank
from mcompiler.effects import CONVERTERS, NOISE, PROGRAMMING, TELEGRAPH, Effect
from mcompiler.ir import ConvShape
from mcompiler.physics.chip import Chip, LayerKey
from mcompiler.runtime import open_model
from tests.support.builds import target

ROWS, COLUMNS, READS = 16, 6, 1000
PLAIN = ("array.rows=16", "array.rows_active=16", "array.columns=32", "precision.inputs=1", "converters.adc.bits=20")
Floats = npt.NDArray[np.float64]


def built(*overrides: str, convolution: bool = False) -> Build:
    """A product 16 -> 6, or a convolution 16 -> 6 of single pixels, whose inputs are 0 or 1."""
    matrix = np.random.default_rng(0).uniform(-1, 1, (ROWS, COLUMNS)).astype(np.float32)
    tail = [1, 1] if convolution else []
    weights = matrix.T.reshape(COLUMNS, ROWS, *tail) if convolution else matrix
    graph = helper.make_graph(
        [helper.make_node("Conv" if convolution else "MatMul", ["x", "w"], ["y"], name="layer")],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", ROWS, *tail])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", COLUMNS, *tail])],
        [numpy_helper.from_array(np.ascontiguousarray(weights), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    calibration = np.random.default_rng(1).integers(0, 2, (8, ROWS, *tail)).astype(np.float32)
    return compile(ir.from_proto(model), target(*PLAIN, *overrides), calibration={"x": calibration})


def sums(build: Build, effects: set[Effect], x: Floats, count: int = READS) -> Floats:
    """Accumulators of repeated inferences of one input on one chip, [count, columns]; converters of 2^-10 steps."""
    chip = Chip(build.target, 5, frozenset(effects), 1.0)
    (layer,) = build.layer_data
    layer = replace(layer, analog=replace(layer.analog, gain=1024.0, zoom=None))
    name = f"{layer.op.site.name}/accumulator"
    session = open_model(mapped_from_cells(build.skeleton, [layer], build.target, chip=chip), outputs=[name])
    most = noise_bank([layer], build.target, chip)[1]
    tail = (1,) * (len(layer.op.site.shape.kernel) if isinstance(layer.op.site.shape, ConvShape) else 0)
    feed = {"x": np.broadcast_to(x.astype(np.float32).reshape(1, ROWS, *tail), (most, ROWS, *tail))}
    parts = [session.run(feed, [name])[name].reshape(most, COLUMNS) for _ in range(-(-count // most))]
    return np.concatenate(parts)[:count].astype(np.float64)


def states(correlation: str) -> tuple[str, ...]:
    section = {"correlation": correlation, "share": "1.0", "amplitude": "0.6", "low": "0.3", "source": "a: test"}
    return tuple(f"device.telegraph.{key}={value}" for key, value in section.items())


@pytest.mark.parametrize("convolution", [False, True], ids=["product", "convolution"])
@pytest.mark.parametrize("correlation", ["per_read", "per_inference"])
def test_every_cell_has_two_states(correlation: str, convolution: bool) -> None:
    """One word line is driven: each weight's pair of cells has four sums, with the probabilities of its two cells."""
    chip = (*states(correlation), "encoding.slices=1", "device.levels=16", "precision.weights=5")
    build = built(*chip, convolution=convolution)
    got = sums(build, {TELEGRAPH}, np.eye(ROWS)[3])
    unit = build.target.unit_siemens
    G = build.conductances(build.layers[0], 0)[3, : 2 * COLUMNS].reshape(COLUMNS, 2) / unit
    for column, (plus, minus) in enumerate(G):
        expected = {
            plus * (1 - 0.6 * one) - minus * (1 - 0.6 * two): (0.3 if one else 0.7) * (0.3 if two else 0.7)
            for one, two in product((0, 1), repeat=2)
        }
        values = np.array(list(expected))
        nearest = np.abs(got[:, column, None] - values).argmin(axis=1)
        np.testing.assert_allclose(got[:, column], values[nearest], rtol=0, atol=2e-3)
        found = np.bincount(nearest, minlength=len(values)) / READS
        probability = np.array(list(expected.values()))
        assert (np.abs(found - probability) < 5 * np.sqrt(probability * (1 - probability) / READS)).all()


@pytest.mark.parametrize("correlation", ["per_read", "per_inference"])
def test_states_of_several_cells_are_independent(correlation: str) -> None:
    """All word lines are driven: variances and covariances of columns are those of sums of independent cells."""
    build = built(*states(correlation), "encoding.slices=1", "device.levels=16", "precision.weights=5")
    got = sums(build, {TELEGRAPH}, np.ones(ROWS))
    G = build.conductances(build.layers[0], 0)[:, : 2 * COLUMNS] / build.target.unit_siemens
    wanted = (G**2).sum(axis=0).reshape(COLUMNS, 2).sum(axis=1) * 0.6**2 * 0.3 * 0.7
    np.testing.assert_allclose(got.var(axis=0), wanted, rtol=5 * (2 / READS) ** 0.5)
    correlations = np.asarray(np.corrcoef(got.T))[np.triu_indices(COLUMNS, 1)]
    assert np.abs(correlations).max() < 5 / READS**0.5


def noise(correlation: str) -> tuple[str, ...]:
    return (
        f"device.noise.correlation={correlation}",
        "device.noise.absolute_siemens=1e-6",
        "device.noise.source=a: test",
    )


REFERENCE = ("encoding.weights=offset", "encoding.slices=1", "device.levels=16", "precision.weights=4")
ANALOG = (*REFERENCE, "encoding.pedestal=reference_column", "encoding.input_sum=digital")
DIGITISED = (*REFERENCE, "encoding.pedestal=digitised_reference", "encoding.input_sum=digital")
UNITS = (*REFERENCE, "encoding.pedestal=reference_column", "encoding.input_sum=unit_column")


@pytest.mark.parametrize("convolution", [False, True], ids=["product", "convolution"])
@pytest.mark.parametrize("correlation", ["per_read", "per_inference"])
@pytest.mark.parametrize("encoding", [ANALOG, DIGITISED, UNITS], ids=["analog", "digitised", "units"])
def test_noise_of_a_shared_column_is_common(encoding: tuple[str, ...], correlation: str, convolution: bool) -> None:
    """Every column is its own sum less that of a reference, plus the shift times a unit column less the reference.

    With s^2 the variance of a column's sum: cov = s^2 (r^2 + u^2), var = s^2 (1 + r^2 + u^2), where u is the factor of
    the unit column and r that of the reference, 1 - u.
    """
    build = built(*noise(correlation), *encoding, convolution=convolution)
    x = np.ones(ROWS)
    x[4:7] = 0
    got = sums(build, {NOISE}, x)
    shift = build.layer_data[0].analog.shift if encoding is UNITS else 0
    one = x.sum() * (1e-6 / build.target.unit_siemens) ** 2
    common = one * ((1 - shift) ** 2 + shift**2)
    wanted = np.full((COLUMNS, COLUMNS), common) + one * np.eye(COLUMNS)
    error = np.sqrt((wanted**2 + np.outer(wanted.diagonal(), wanted.diagonal())) / READS)  # of a sample covariance
    assert (np.abs(np.cov(got.T) - wanted) < 5 * error).all()


@pytest.mark.parametrize("correlation", ["per_read", "per_inference"])
def test_states_of_a_reference_column_are_common(correlation: str) -> None:
    build = built(*states(correlation), *ANALOG)
    got = sums(build, {TELEGRAPH}, np.ones(ROWS))
    G = build.conductances(build.layers[0], 0) / build.target.unit_siemens
    each = (G**2).sum(axis=0) * 0.6**2 * 0.3 * 0.7
    wanted = np.full((COLUMNS, COLUMNS), each[-1]) + np.diag(each[:COLUMNS])
    error = np.sqrt((wanted**2 + np.outer(wanted.diagonal(), wanted.diagonal())) / READS)
    assert (np.abs(np.cov(got.T) - wanted) < 5 * error).all()


def test_lasting_errors_of_a_reference_column_are_common() -> None:
    """Each row of the reference errs once for all columns: a correlation of a half over the rows."""
    build = built(*ANALOG, "device.programming.absolute_siemens=1e-7", "device.programming.source=a: test")
    levels = np.ones((40, ROWS, 33), dtype=np.uint8)
    state: ArrayState = Chip(build.target, 1, frozenset({PROGRAMMING}), 1.0).realise(LayerKey(0, "x"), 0, levels)
    columns = state.less_reference().currents[:, :, :-1].reshape(-1, 32)
    found = np.asarray(np.corrcoef(columns.T))[np.triu_indices(32, 1)].mean()
    assert found == pytest.approx(0.5, abs=5 * 0.75 / len(columns) ** 0.5)


def test_layers_that_share_arrays_share_what_lasts_for_an_inference() -> None:
    """One matrix is used twice on one input: noise per inference is the same in both, noise per read is not."""
    matrix = np.random.default_rng(0).uniform(-1, 1, (ROWS, COLUMNS)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], [name], name=name) for name in ("one", "two")]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", COLUMNS]) for name in ("one", "two")]
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", ROWS])
    graph = helper.make_graph(nodes, "twice", [entry], info, [numpy_helper.from_array(matrix, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    feed = np.ones((1, ROWS), np.float32)
    same = {}
    for correlation in ("per_inference", "per_read"):
        chip = target(*PLAIN, *noise(correlation))
        build = compile(ir.from_proto(model), chip, calibration={"x": feed})
        assert build.layer_data[1].shares == 0
        layers = [replace(layer, analog=replace(layer.analog, gain=1024.0)) for layer in build.layer_data]
        mapped = mapped_from_cells(build.skeleton, layers, chip, chip=Chip(chip, 5, frozenset({NOISE}), 1.0))
        session = open_model(mapped)
        runs = [session.run({"x": feed}) for _ in range(3)]
        same[correlation] = all(np.array_equal(run["one"], run["two"]) for run in runs)
        assert not np.array_equal(runs[0]["one"], runs[1]["one"])
    assert same == {"per_inference": True, "per_read": False}


@pytest.mark.parametrize("columns", [4, 8])
def test_columns_of_one_converter_and_rows_of_one_driver_err_together(columns: int) -> None:
    errors = (f"converters.adc.columns={columns}", "converters.adc.gain_error=0.1", "converters.adc.offset_codes=2.0")
    build = built(*errors, "converters.dac.gain_error=0.1")
    levels = np.ones((1, ROWS, 32), dtype=np.uint8)
    state = Chip(build.target, 1, frozenset({CONVERTERS}), 1.0).realise(LayerKey(0, "x"), 0, levels)
    for values in (state.gain[0], state.trim[0]):
        by_converter = values.reshape(-1, columns)
        assert (by_converter == by_converter[:, :1]).all()
        assert len(np.unique(by_converter)) == 32 // columns
    assert (state.currents[0] == state.currents[0][:, :1]).all()
    assert len(np.unique(state.currents[0][:, 0])) == ROWS
