"""Quantisation: weights within half a step, ranges as the data have them, a model's own codes untouched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from mcompiler.data import from_arrays
from mcompiler.errors import CompileError, DataError
from mcompiler.ir import AnalogLayer, CodeSample, MatrixProgram, Quantiser
from mcompiler.passes.quantise import VECTORS, Quantise, RangeMethod, affine, quantise_weights
from mcompiler.runtime import input_specs, open_model
from mcompiler.target import Target
from tests.support.models import lowered, run
from tests.support.programs import target

Array = npt.NDArray[Any]

CALIBRATED = "converters.adc.range=calibrated"


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    weights: Mapping[str, Array],
    outputs: Sequence[str] = ("y",),
) -> onnx.ModelProto:
    """A float model."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def product(*shape: int | str, weights: Array | None = None, name: str = "fc") -> onnx.ModelProto:
    """One product x [shape] @ w."""
    matrix = np.ones((int(shape[-1]), 2), np.float32) if weights is None else weights.astype(np.float32)
    return model([helper.make_node("MatMul", ["x", "w"], ["y"], name=name)], {"x": shape}, {"w": matrix})


def sample_of(program: MatrixProgram) -> CodeSample:
    """The input codes of the only site."""
    (sample,) = program.samples
    assert sample is not None
    return sample


def quantised(
    proto: onnx.ModelProto, data: Mapping[str, Array], chip: Target | None = None, **options: Any
) -> MatrixProgram:
    """The program after the pass, with these calibration data."""
    specs = input_specs(open_model(ir.from_proto(proto)), ir.from_proto(proto))
    samples = from_arrays(data, specs, "data")
    step = Quantise(samples, specs, options.pop("calibrated", True), **options)
    return step.run(lowered(proto), target() if chip is None else chip)


def rng(seed: int = 0) -> np.random.Generator:
    """A generator."""
    return np.random.default_rng(seed)


# --- weights ---------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(1, 6)),
    st.integers(2, 16),
    st.sampled_from([np.float16, np.float32, np.float64]),
    st.booleans(),
)
def test_weights_are_within_half_a_step(
    seed: int, shape: tuple[int, int, int], bits: int, dtype: Any, by_column: bool
) -> None:
    weights = (rng(seed).standard_normal(shape) * 10.0 ** rng(seed).integers(-2, 3, (shape[0], 1, shape[2]))).astype(
        dtype
    )
    weights[..., 0] = 0  # a channel without weights
    if by_column:  # as a transposed tensor stands in memory
        weights = np.ascontiguousarray(weights.transpose(0, 2, 1)).transpose(0, 2, 1)
    codes, scale = quantise_weights(weights, bits)
    top = 2 ** (bits - 1) - 1
    assert codes.dtype == np.int16
    assert scale.dtype == np.float32
    assert codes.shape == shape
    assert scale.shape == (shape[0], shape[2])
    assert (scale[:, 0] == 1).all()
    assert not codes[..., 0].any()
    assert np.abs(codes).max() <= top
    step = scale.astype(np.float64)[:, None, :]
    # float32 quotients and the rounding of the scale move a code by less than a hundredth
    assert (np.abs(codes * step - weights.astype(np.float64)) <= 0.51 * step).all()
    if shape[2] > 1:
        assert (np.abs(codes[..., 1:]).max(axis=1) == top).all(), "the largest weight has the largest code"


def test_large_matrices_are_quantised_in_pieces() -> None:
    weights = rng().standard_normal((1, 5000, 300)).astype(np.float32)
    codes, scale = quantise_weights(weights, 8)
    assert np.array_equal(scale, np.abs(weights).max(axis=1) / np.float32(127))
    assert np.array_equal(codes, np.rint(weights / scale[:, None, :]))
    transposed = np.asfortranarray(weights[0])[None]
    again, same = quantise_weights(transposed, 8)
    assert np.array_equal(again, codes)
    assert np.array_equal(same, scale)


def test_weights_by_hand() -> None:
    codes, scale = quantise_weights(np.array([[[7.0, -3.5], [-3.4, 1.75], [0.6, 0.0]]]), 4)
    assert scale.tolist() == [[1.0, 0.5]]
    assert codes.tolist() == [[[7, -7], [-3, 4], [1, 0]]]  # -3.4 to the nearest, 3.5 to the even one


# --- input ranges ----------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.floats(-1e6, 1e6, width=32), st.floats(-1e6, 1e6, width=32), st.integers(1, 16))
@example(827832.1875, -382325.65625, 16)
def test_ranges_hold_zero_and_both_ends(one: float, other: float, bits: int) -> None:
    low, high = sorted((one, other))
    found = affine("t", low, high, bits)
    assert (found.tensor, found.bits) == ("t", bits)
    assert 0 <= found.zero_point <= found.largest == 2**bits - 1
    assert found.scale == float(np.float32(found.scale)) > 0
    if found.scale == 1.0 and max(-low, high) < 1e-30:
        return
    # the zero point is rounded: half a step is lost at one end, and comes on top at the other; the scale is a float32
    slack = found.scale * (0.5 * (1 + 1e-5) + found.largest * 2.0**-24) + 1e-38
    assert -found.zero_point * found.scale <= min(low, 0) + slack
    assert (found.largest - found.zero_point) * found.scale >= max(high, 0) - slack
    assert found.scale * found.largest == pytest.approx(max(high, 0) - min(low, 0), rel=1e-6, abs=1e-38)


def test_ranges_by_hand() -> None:
    assert affine("t", 0.0, 255.0, 8) == Quantiser("t", 1.0, 0, 8)
    assert affine("t", -128.0, 127.0, 8) == Quantiser("t", 1.0, 128, 8)
    assert affine("t", 3.0, 15.0, 4) == Quantiser("t", 1.0, 0, 4), "zero is in the range"
    assert affine("t", -15.0, -3.0, 4) == Quantiser("t", 1.0, 15, 4)
    assert affine("t", 0.0, 0.0, 8) == Quantiser("t", 1.0, 0, 8)
    assert affine("t", 0.0, 1e-44, 8) == Quantiser("t", 1.0, 0, 8), "a scale without a reciprocal"


def input_of(data: Array, method: RangeMethod, **options: Any) -> Quantiser:
    """The input quantiser of a product on these data."""
    return quantised(product("N", data.shape[1]), {"x": data}, method=method, **options).sites[0].input


def test_minmax_on_known_data() -> None:
    x = rng().uniform(-0.5, 1.0, (300, 4)).astype(np.float32)
    x[7, 2], x[299, 0] = -1.0, 3.0  # in the first batch, and in the last
    assert input_of(x, RangeMethod.MINMAX) == Quantiser("x", float(np.float32(4 / 255)), 64, 8)


def test_percentile_leaves_out_the_tails() -> None:
    x = np.linspace(-1, 3, 40_000, dtype=np.float32)
    x[[5, 20_000]] = [-1000, 2000]  # 2 of 40,000 are less than a ten-thousandth
    found = input_of(rng().permutation(x).reshape(-1, 4), RangeMethod.PERCENTILE)
    assert found.scale == pytest.approx(4 / 255, rel=2e-3)
    assert found.zero_point == 64


def test_least_squares_has_the_smallest_error() -> None:
    x = np.concatenate([rng().standard_normal(39_990), np.full(10, 25.0)]).astype(np.float32)
    low, high = float(x.min()), float(x.max())
    found = input_of(rng().permutation(x).reshape(-1, 4), RangeMethod.MSE)

    def error(quantiser: Quantiser) -> float:
        codes = np.clip(np.rint(x / quantiser.scale) + quantiser.zero_point, 0, 255)
        return float(np.square((codes - quantiser.zero_point) * quantiser.scale - x.astype(np.float64)).mean())

    shrunken = [affine("x", low * k, high * k, 8) for k in np.linspace(0.3, 1, 36)]
    assert error(found) == pytest.approx(min(error(other) for other in shrunken), rel=1e-3)
    assert error(found) <= error(affine("x", low, high, 8)), "never worse than minmax"
    uniform = rng().uniform(0, 1, (1000, 4)).astype(np.float32)
    whole = input_of(uniform, RangeMethod.MSE)
    assert whole.scale == pytest.approx(float(uniform.max()) / 255, rel=1e-5), "nothing to win on even data"


def test_large_tensors_are_sampled_the_same_way_for_the_same_seed() -> None:
    x = rng().standard_normal((64, 30_000)).astype(np.float32)
    first, same, other = (input_of(x, RangeMethod.PERCENTILE, seed=seed) for seed in (1, 1, 2))
    assert first == same
    assert first != other
    assert first.scale == pytest.approx(2 * 3.719 / 255, rel=0.05)  # where 1e-4 of a normal distribution are beyond


def test_inputs_that_are_all_zero() -> None:
    for method in RangeMethod:
        assert input_of(np.zeros((3, 4), np.float32), method) == Quantiser("x", 1.0, 0, 8)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_inputs_that_are_not_finite(value: float) -> None:
    x = np.ones((3, 4), np.float32)
    x[1, 1] = value
    with pytest.raises(DataError, match="input 'x' has values that are NaN or infinite, first in sample 1"):
        input_of(x, RangeMethod.MINMAX)


def test_a_float_model_without_calibration_data() -> None:
    with pytest.raises(CompileError) as caught:
        quantised(product("N", 4, name="head"), {"x": np.ones((1, 4), np.float32)}, calibrated=False)
    assert caught.value.node == "head"
    assert str(caught.value) == (
        "node 'head': its input is float and has no scale; give calibration data (--calibration DATA.npz, one array "
        "per model input) or --calibration random for costs only"
    )
    with pytest.raises(
        CompileError, match=r"^node 'a': its input is float and has no scale \(and so for 1 more\); give"
    ):
        quantised(two_consumers(), {"x": np.ones((1, 4), np.float32)}, calibrated=False)


def test_data_on_which_the_model_fails() -> None:
    add = [helper.make_node("Add", ["a", "b"], ["s"]), helper.make_node("MatMul", ["s", "w"], ["y"], name="fc")]
    proto = model(add, {"a": ["N", "T"], "b": ["N", "S"]}, {"w": np.ones((3, 2), np.float32)})
    data = {"a": np.ones((2, 3), np.float32), "b": np.ones((2, 2), np.float32)}
    with pytest.raises(CompileError, match=r"onnxruntime fails while running .* data: .*; check --dim and the data"):
        quantised(proto, data)


# --- tensors and their quantisers ------------------------------------------------------------------------------------


def two_consumers() -> onnx.ModelProto:
    """Two products of one tensor, and one of another."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "v"], ["s"], name="a"),
        helper.make_node("MatMul", ["r", "w"], ["t"], name="b"),
    ]
    weights = {"v": np.eye(4, 3, dtype=np.float32), "w": np.eye(4, 2, dtype=np.float32)}
    return model(nodes, {"x": ["N", 4]}, weights, outputs=("s", "t"))


def test_consumers_of_a_tensor_share_its_quantiser() -> None:
    x = rng().uniform(-9, 5, (20, 4)).astype(np.float32)
    first, second = quantised(two_consumers(), {"x": x}).layers
    assert first.site.input == second.site.input
    assert first.site.input.tensor == "r"
    assert first.site.input.zero_point == 0, "after a Relu"
    assert first.site.input.scale == pytest.approx(float(x.max()) / 255)


def test_precision_of_single_layers() -> None:
    x = {"x": rng().uniform(0, 1, (20, 4)).astype(np.float32)}
    chip = target("precision.layers.b.weights=3", "precision.layers.b.inputs=5", "precision.layers.a.weights=6")
    first, second = quantised(two_consumers(), x, chip).layers
    assert (first.matrix.weight_bits, first.site.input.bits) == (6, 8)
    assert (second.matrix.weight_bits, second.site.input.bits) == (3, 5)
    assert int(first.matrix.codes.max()) == 31
    assert int(second.matrix.codes.max()) == 3
    assert second.site.input.scale == pytest.approx(first.site.input.scale * 255 / 31)


def test_precision_of_a_layer_that_the_model_lacks() -> None:
    x = {"x": np.ones((1, 4), np.float32)}
    with pytest.raises(CompileError) as caught:
        quantised(product("N", 4, name="head"), x, target("precision.layers.heat.weights=4"))
    assert str(caught.value) == ("target 'generic_128': precision.layers.heat: no layer 'heat'; did you mean 'head'?")


def qdq(zero_point: int, weight_zero: int) -> tuple[onnx.ModelProto, Array]:
    """A quantised input, a product with dequantised int8 weights of 3 channels; and their codes."""
    codes = rng(5).integers(-128, 128, (4, 3)).astype(np.int8)
    constants: dict[str, Array] = {
        "xs": np.array(0.05, np.float32),
        "xz": np.array(zero_point, np.uint8),
        "wq": codes,
        "ws": np.array([0.25, 0.5, 0.01], np.float32),
        "wz": np.full(3, weight_zero, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "xs", "xz"], ["d"], name="dq"),
        helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["w"], name="dw", axis=1),
        helper.make_node("MatMul", ["d", "w"], ["y"], name="fc"),
    ]
    return model(nodes, {"x": ["N", 4]}, constants), codes


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize(("zero_point", "weight_zero"), [(0, 0), (7, 0), (128, -5)])
def test_a_models_own_codes_are_untouched(zero_point: int, weight_zero: int, calibrated: bool) -> None:
    proto, codes = qdq(zero_point, weight_zero)
    x = {"x": rng().uniform(-100, 100, (5, 4)).astype(np.float32)}
    # bits and method of the target and of the command line do not matter
    chip = target("precision.weights=3", "precision.inputs=3")
    (op,) = quantised(proto, x, chip, calibrated=calibrated, method=RangeMethod.PERCENTILE).layers
    assert np.array_equal(op.matrix.codes[0], codes.astype(int) - weight_zero)
    assert op.matrix.codes.dtype == np.int16
    assert op.matrix.scale.tolist() == [[0.25, 0.5, np.float32(0.01)]]
    assert (op.site.input.scale, op.site.input.zero_point, op.site.input.bits) == (
        float(np.float32(0.05)),
        zero_point,
        8,
    )
    assert (
        -(2 ** (op.matrix.weight_bits - 1))
        <= op.matrix.codes.min()
        <= op.matrix.codes.max()
        < 2 ** (op.matrix.weight_bits - 1)
    )


# --- vectors ---------------------------------------------------------------------------------------------------------

CONVOLUTIONS: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((2, 3, 9), (4, 3, 3), {}),
    ((2, 4, 11, 8), (6, 2, 3, 2), {"group": 2, "strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [1, 2]}),
    ((3, 4, 5, 5), (4, 1, 3, 3), {"group": 4, "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ((2, 4, 6, 7), (8, 4, 1, 1), {}),
    ((1, 2, 5, 4, 6), (3, 2, 2, 2, 3), {"strides": [1, 2, 3], "pads": [0, 1, 0, 1, 0, 1]}),
]


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize(("x_shape", "w_shape", "attributes"), CONVOLUTIONS)
def test_vectors_of_convolutions(
    x_shape: tuple[int, ...], w_shape: tuple[int, ...], attributes: dict[str, Any], dynamic: bool
) -> None:
    weights = rng(1).standard_normal(w_shape).astype(np.float32)
    x = rng(2).standard_normal(x_shape).astype(np.float32)
    conv = helper.make_node("Conv", ["x", "w"], ["y"], name="conv", **attributes)
    proto = model([conv], {"x": ["N" if dynamic else x_shape[0], *x_shape[1:]]}, {"w": weights})
    (y,) = run(proto, {"x": x})
    (op,) = quantised(proto, {"x": x}).layers
    groups = attributes.get("group", 1)
    assert op.matrix.codes.shape == (groups, int(np.prod(w_shape[1:])), w_shape[0] // groups)
    assert op.site.vectors == int(np.prod(y.shape[2:]))
    # a matrix-vector product for each output pixel, whatever the batch
    assert op.site.vectors * groups * op.matrix.codes.shape[2] * x_shape[0] == y.size


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "groups"),
    [
        (("N", 5), (5, 3), 1),
        (("N", 7, 5), (5, 3), 1),
        ((4, 7, 5), (5, 3), 1),
        (("N", 2, 7, 5), (5, 3), 1),
        (("N", 2, 7, 5), (2, 5, 3), 2),
        (("N", 1, 7, 5), (2, 5, 3), 2),
        (("N", 4, 7, 5), (1, 5, 3), 1),
        (("N", 4, 7, 5), (4, 5, 3), 4),
    ],
)
def test_vectors_of_products(x_shape: tuple[int | str, ...], w_shape: tuple[int, ...], groups: int) -> None:
    count = 4
    sizes = tuple(size if isinstance(size, int) else count for size in x_shape)
    x = rng(2).standard_normal(sizes).astype(np.float32)
    proto = product(*x_shape, weights=rng(1).standard_normal(w_shape))
    (y,) = run(proto, {"x": x})
    (op,) = quantised(proto, {"x": x}).layers
    assert op.matrix.codes.shape[0] == groups
    assert op.site.vectors * groups * op.matrix.codes.shape[2] * count == y.size


def test_vectors_of_a_gemm_with_a_transposed_input() -> None:
    # the tensor is [5, N]: one product a sample, 4 samples in one run
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], name="turn", perm=[1, 0]),
        helper.make_node("Relu", ["t"], ["r"], name="relu"),
        helper.make_node("Gemm", ["r", "w"], ["y"], name="fc", transA=1),
    ]
    proto = model(nodes, {"x": ["N", 5]}, {"w": np.ones((5, 2), np.float32)})
    x = rng().uniform(0, 1, (4, 5)).astype(np.float32)
    program = quantised(proto, {"x": x}, target(CALIBRATED))
    (op,) = program.layers
    assert op.matrix.codes.shape == (1, 5, 2)
    assert op.site.vectors == 1
    rows = {tuple(row) for row in input_codes(op, x).tolist()}
    assert {tuple(row) for row in sample_of(program).vectors[:, 0].tolist()} == rows


def test_vectors_where_the_batch_is_not_in_front() -> None:
    # the tensor of the product is [T, N, 4]; 6 time steps a sample, 5 samples in one run
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], name="turn", perm=[1, 0, 2]),
        helper.make_node("MatMul", ["t", "w"], ["y"], name="fc"),
    ]
    proto = model(nodes, {"x": ["N", 6, 4]}, {"w": np.ones((4, 2), np.float32)})
    (op,) = quantised(proto, {"x": np.ones((5, 6, 4), np.float32)}).layers
    assert op.site.vectors == 6


# --- what a calibrated converter range is fitted on ------------------------------------------------------------------


def input_codes(op: AnalogLayer, x: Array) -> Array:
    """Codes of an input."""
    codes: Array = np.clip(np.rint(x / np.float32(op.site.input.scale)) + op.site.input.zero_point, 0, 255).astype(
        np.int64
    )
    return codes


def test_sampled_vectors_of_a_product_are_rows_of_its_input() -> None:
    x = rng().uniform(-1, 1, (50, 4)).astype(np.float32)
    program = quantised(product("N", 4), {"x": x}, target(CALIBRATED))
    vectors = sample_of(program).vectors
    assert vectors.shape == (VECTORS, 1, 4)
    assert vectors.dtype == np.uint16
    rows = {tuple(row) for row in input_codes(program.layers[0], x).tolist()}
    drawn = {tuple(row) for row in vectors[:, 0].tolist()}
    assert drawn <= rows
    assert len(drawn) > 5
    assert not quantised(product("N", 4), {"x": x}).samples, "only where they are needed"


def test_sampled_vectors_of_a_convolution_are_its_windows() -> None:
    attributes: dict[str, Any] = {"group": 2, "strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [1, 2]}
    conv = helper.make_node("Conv", ["x", "w"], ["y"], name="conv", **attributes)
    weights = np.ones((4, 2, 3, 2), np.float32)
    x = rng().uniform(-1, 3, (3, 4, 6, 5)).astype(np.float32)
    program = quantised(model([conv], {"x": ["N", 4, 6, 5]}, {"w": weights}), {"x": x}, target(CALIBRATED))
    (op,) = program.layers
    assert op.site.input.zero_point > 0
    codes = np.pad(input_codes(op, x), [(0, 0), (0, 0), (1, 2), (0, 1)], constant_values=op.site.input.zero_point)
    windows = set()
    for image in codes:
        for top in range(0, 9 - 3 + 1, 2):
            for left in range(6 - 3 + 1):
                window = image[:, top : top + 3, left : left + 3 : 2]  # channels x 3 x 2
                windows.add(tuple(window.ravel().tolist()))
    vectors = sample_of(program).vectors
    assert vectors.shape == (VECTORS, 2, 12)
    drawn = {tuple(vector.ravel().tolist()) for vector in vectors}
    assert drawn <= windows
    assert len(drawn) > len(windows) / 2


SIZES = 6
"""Rows of the matrices below, and as many columns of their inputs, so that the sizes do not tell the axes apart."""


def gemm(**attributes: Any) -> list[onnx.NodeProto]:
    return [helper.make_node("Gemm", attributes.pop("inputs"), ["y"], name="fc", **attributes)]


@pytest.mark.parametrize(
    ("nodes", "shape", "weights", "vectors"),
    [
        (gemm(inputs=["x", "w"]), (SIZES, SIZES), (SIZES, 3), lambda x: x[:, None]),
        (gemm(inputs=["x", "w"], transA=1), (SIZES, SIZES), (SIZES, 3), lambda x: x.T[:, None]),
        (gemm(inputs=["w", "x"]), (SIZES, SIZES), (3, SIZES), lambda x: x.T[:, None]),
        (gemm(inputs=["w", "x"], transB=1), (SIZES, SIZES), (3, SIZES), lambda x: x[:, None]),
        (gemm(inputs=["w", "x"]), (SIZES, 20), (3, SIZES), lambda x: x.T[:, None]),
        ("w x", (SIZES,), (3, SIZES), lambda x: x[None, None]),
        ("x w", (40,), (40, 3), lambda x: x[None, None]),
        ("w x", (2, SIZES, SIZES), (3, SIZES), lambda x: x.transpose(0, 2, 1).reshape(-1, 1, SIZES)),
        ("w x", (2, SIZES, SIZES), (SIZES,), lambda x: x.transpose(0, 2, 1).reshape(-1, 1, SIZES)),
        ("x w", (2, SIZES, SIZES), (2, SIZES, 3), lambda x: x.transpose(1, 0, 2)),
        ("w x", (2, SIZES, SIZES), (2, 3, SIZES), lambda x: x.transpose(2, 0, 1)),
        ("w x", (2, 5, SIZES, 4), (2, 1, 3, SIZES), lambda x: x.transpose(1, 3, 0, 2).reshape(-1, 2, SIZES)),
        ("x w", (SIZES, SIZES), (2, SIZES, 3), lambda x: np.repeat(x[:, None], 2, axis=1)),
    ],
)
def test_sampled_vectors_lie_along_the_axis_of_the_matrix(
    nodes: str | list[onnx.NodeProto],
    shape: tuple[int, ...],
    weights: tuple[int, ...],
    vectors: Callable[[Array], Array],
) -> None:
    if isinstance(nodes, str):
        nodes = [helper.make_node("MatMul", nodes.split(), ["y"], name="fc")]
    x = rng().uniform(-1, 1, shape).astype(np.float32)
    # An input of one dimension or with a first one of fixed size has no sample axis of its own unless it is the batch.
    fixed = model(nodes, {"x": shape, "one": ()}, {"w": rng(1).standard_normal(weights).astype(np.float32)})
    data = {"x": x[None], "one": np.zeros(1, np.float32)}
    fixed.graph.node.append(helper.make_node("Identity", ["one"], ["kept"]))
    fixed.graph.output.append(helper.make_tensor_value_info("kept", TensorProto.FLOAT, None))
    program = quantised(fixed, data, target(CALIBRATED))
    expected = vectors(input_codes(program.layers[0], x))
    found = sample_of(program).vectors
    assert found.shape == (VECTORS, *expected.shape[1:])
    assert program.layers[0].site.vectors == len(expected)
    allowed = {vector.tobytes() for vector in expected}
    drawn = {vector.astype(np.int64).tobytes() for vector in found}
    assert drawn <= allowed
    assert len(drawn) >= min(len(allowed), 2)


# --- digital operations ----------------------------------------------------------------------------------------------


def test_digital_operations_of_a_model() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="fc"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("Transpose", ["r"], ["t"], name="turn", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["r", "t"], ["s"], name="scores"),
        helper.make_node("Softmax", ["s"], ["y"], name="softmax"),
    ]
    for batch in ("N", 3):
        proto = model(nodes, {"x": [batch, 7, 4]}, {"w": np.ones((4, 5), np.float32)})
        program = quantised(proto, {"x": np.ones((6, 7, 4), np.float32)})
        assert program.digital_ops == {
            0: 0,  # analog
            1: 7 * 5,
            2: 0,  # moves data
            3: 7 * 7 * 5,  # multiply-accumulates
            4: 5 * 7 * 7,  # passes over the scores
        }
