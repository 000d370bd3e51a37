"""Weights and inputs that lie on a grid keep it; codes that do not fit are taken again, channel by channel."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import mcompiler
from mcompiler.driver import Build
from mcompiler.errors import CompileError
from mcompiler.passes.quantise.grids import data_grid, grid_of, weight_grid
from mcompiler.runtime import open_model
from tests.support.programs import target

Array = npt.NDArray[Any]
RNG = np.random.default_rng(11)


def graph(nodes: list[onnx.NodeProto], shape: list[int], constants: dict[str, Any]) -> ir.Model:
    """A model with one float input x and one output y."""
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return ir.from_proto(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def layer(build: Build, index: int = 0) -> Any:
    """A layer of a build."""
    return build.layer_data[index].op


@pytest.mark.parametrize(("peak", "scale"), [(7, 0.1), (64, 1.0), (100, 0.0371), (3, 2.5e-6)])
def test_weights_on_a_grid_keep_their_codes(peak: int, scale: float) -> None:
    codes = RNG.integers(-peak, peak + 1, (2, 40, 30))
    codes[:, 0] = peak
    codes[:, 1] = peak - 1  # else a grid of twice the step may hold a channel
    scales = (scale * RNG.uniform(0.5, 1, (2, 30))).astype(np.float32)
    found = weight_grid(codes.astype(np.float32) * scales[:, None], 8)
    assert found is not None
    np.testing.assert_array_equal(found[0], codes)
    np.testing.assert_allclose(found[1], scales, rtol=2e-7)


def test_weights_off_every_grid_have_none() -> None:
    codes = RNG.integers(-7, 8, (1, 40, 30)).astype(np.float32)
    codes[:, 0] = 7
    assert weight_grid(RNG.normal(size=(1, 40, 30)).astype(np.float32), 8) is None
    assert weight_grid(codes * 20, 5) is not None
    assert weight_grid(codes * 20, 4) is None  # the largest weight at the largest code is as exact
    assert grid_of(codes * 20, 4) is not None
    codes[0, 5, 29] += 0.01  # one weight of one channel
    assert weight_grid(codes * 0.1, 8) is None
    assert weight_grid(np.ones((1, 3, 2), np.float32), 8) is None  # too few values, and 127 holds them as exactly


def test_inputs_on_a_grid_keep_it_where_enough_values_say_so() -> None:
    codes = RNG.integers(0, 201, 5000)
    codes[:2] = 0, 200
    values = (codes * np.float32(0.05)).astype(np.float32)
    found = data_grid("x", values, float(values.min()), float(values.max()), 8)
    assert found is not None
    assert (found.zero_point, found.bits) == (0, 8)
    np.testing.assert_array_equal(np.rint(values / np.float32(found.scale)), codes)
    assert data_grid("x", values[:900], 0.0, 10.0, 8) is None
    assert data_grid("x", values + np.float32(0.013), 0.013, 10.013, 8) is None
    assert data_grid("x", RNG.normal(size=5000).astype(np.float32), -4.0, 4.0, 8) is None
    signed = data_grid("x", values - np.float32(5), -5.0, 5.0, 8)
    assert signed is not None
    assert signed.zero_point == 128


def test_an_integer_network_in_floats_is_exact_and_needs_data_for_its_input_only() -> None:
    w, v = RNG.integers(-60, 61, (12, 16)).astype(np.float32), RNG.integers(-60, 61, (16, 4)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        helper.make_node("Div", ["a", "d"], ["b"]),
        helper.make_node("Floor", ["b"], ["c"]),
        helper.make_node("Clip", ["c", "lo", "hi"], ["e"]),
        helper.make_node("MatMul", ["e", "v"], ["y"], name="second"),
    ]
    constants = {"w": w, "v": v, "d": np.float32(64), "lo": np.float32(-128), "hi": np.float32(127)}
    x = RNG.integers(0, 256, (200, 12)).astype(np.float32)
    build = mcompiler.compile(graph(nodes, [1, 12], constants), "generic_128", calibration=x)
    np.testing.assert_array_equal(layer(build, 1).matrix.codes[0], v)
    assert (layer(build, 1).site.input.scale, layer(build, 1).site.input.zero_point) == (1.0, 128)
    wanted = np.clip(np.floor(x.astype(np.int64) @ w.astype(np.int64) / 64), -128, 127) @ v
    session = open_model(build.mapped)
    given = np.concatenate([session.run({"x": part[None]})["y"] for part in x])
    np.testing.assert_array_equal(given, wanted)


QDQ = [
    helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
    helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
    helper.make_node("DequantizeLinear", ["w", "ws"], ["wd"], axis=1),
    helper.make_node("MatMul", ["xd", "wd"], ["y"], name="fc"),
]


def qdq(codes: Array, scales: Array) -> ir.Model:
    """One product of a quantised model."""
    constants = {"xs": np.float32(0.03), "xz": np.int8(0), "w": codes.astype(np.int8), "ws": scales}
    return graph(QDQ, [1, len(codes)], constants)


def test_codes_that_do_not_fit_are_taken_again_channel_by_channel() -> None:
    codes = RNG.integers(-120, 121, (32, 6))
    codes[:, 2] = RNG.integers(-15, 16, 32)
    codes[0] = 120, -120, 15, 120, 120, 120
    scales = RNG.uniform(0.01, 0.02, 6).astype(np.float32)
    chip = target("precision.weights=5")
    with pytest.raises(CompileError, match="--requantise"):
        mcompiler.compile(qdq(codes, scales), target("encoding.slices=2", "precision.weights=5"))
    build = mcompiler.compile(qdq(codes, scales), chip, requantise=True)
    found = layer(build)
    np.testing.assert_array_equal(found.matrix.codes[0, :, 2], codes[:, 2])
    assert found.matrix.scale[0, 2] == scales[2]
    assert (found.site.input.scale, found.site.input.bits) == (np.float32(0.03), 8)
    for column in (0, 1, 3, 4, 5):
        real = codes[:, column] * scales[column].astype(np.float64)
        step = np.abs(real).max() / 15
        assert np.abs(found.matrix.codes[0, :, column] - real / step).max() <= 0.5 + 1e-5
        assert found.matrix.scale[0, column] == pytest.approx(step, rel=1e-6)


def test_wide_input_codes_are_taken_again_from_their_own_range() -> None:
    codes = RNG.integers(-120, 121, (32, 6))
    scales = np.full(6, 0.01, np.float32)
    build = mcompiler.compile(qdq(codes, scales), target("precision.inputs=4"), requantise=True)
    found = layer(build).site.input
    assert found.bits == 4
    assert found.scale == pytest.approx(255 * 0.03 / 15, rel=1e-6)
    np.testing.assert_array_equal(layer(build).matrix.codes[0], codes)


def test_a_value_that_many_ways_lead_to_is_looked_at_once() -> None:
    """Forty sums of a value with itself have 2^40 ways to it."""
    sums = [helper.make_node("Add", [f"a{i}", f"a{i}"], [f"a{i + 1}"]) for i in range(40)]
    nodes = [helper.make_node("Round", ["x"], ["a0"]), *sums, helper.make_node("MatMul", ["a40", "w"], ["y"])]
    made = graph(nodes, [2, 4], {"w": np.ones((4, 3), np.float32)})
    build = mcompiler.compile(made, target(), calibration={"x": np.ones((2, 4), np.float32)})
    assert build.layers
