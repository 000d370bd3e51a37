"""Lowering: a skeleton whose placeholders are filled with the float matrices computes what the model computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from mcompiler.errors import CompileError
from mcompiler.ir import ANALOG_DOMAIN, ConvShape, FloatMatrix, LoweredProgram, MatMulShape
from mcompiler.onnx_import import load_model
from mcompiler.passes.lower import Lower, final_fates
from tests.support.models import (
    GENERIC,
    SHARED_MODELS,
    fate_of,
    imported,
    largest_error,
    lowered,
    normalised,
    parsed,
    rebuilt,
    run,
    session,
)

Arrays = dict[str, np.ndarray[Any, Any]]
FAST = settings(max_examples=40, deadline=None)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Arrays,
    constants: Arrays,
    *,
    opset: int = 13,
    shapes: dict[str, Sequence[int | str]] | None = None,
) -> onnx.ModelProto:
    """A model that returns the last node's first output; input shapes are those of the arrays unless given."""
    infos = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), (shapes or {}).get(name, array.shape)
        )
        for name, array in inputs.items()
    ]
    element = helper.np_dtype_to_tensor_dtype(next(iter(inputs.values())).dtype)
    result = helper.make_tensor_value_info(nodes[-1].output[0], element, None)
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(list(nodes), "g", infos, [result], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def node(op: str, inputs: str, output: str = "y", name: str = "", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], name=name or op.lower(), **attributes)


def check(model: onnx.ModelProto, inputs: Arrays, tolerance: float = 1e-5) -> LoweredProgram:
    """Lower, rebuild, compare; every node has its fate."""
    program = lowered(model)
    assert largest_error(run(model, inputs), run(rebuilt(program), inputs)) <= tolerance
    assert [fate.name for fate in final_fates(program)] == [node.name for node in program.graph.nodes]
    for matrix in program.matrices:
        groups, _, columns = matrix.weights.shape
        assert matrix.bias is None or matrix.bias.shape == (groups, columns)
        assert matrix.weight_scale is None or matrix.weight_scale.shape == (groups, columns)
    return program


def only(program: LoweredProgram) -> FloatMatrix:
    (matrix,) = program.matrices
    return matrix


def normal(*shape: int, dtype: type = np.float32) -> np.ndarray[Any, Any]:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


# --- Conv ------------------------------------------------------------------------------------------------------------


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[onnx.ModelProto, Arrays, bool]:
    dims = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 3))
    kernel = [draw(st.integers(1, 3)) for _ in range(dims)]
    attributes: dict[str, Any] = {"group": groups, "strides": [draw(st.integers(1, 3)) for _ in range(dims)]}
    mode = draw(st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    # onnxruntime refuses dilations together with SAME.
    if not mode.startswith("SAME"):
        attributes["dilations"] = [draw(st.integers(1, 2)) for _ in range(dims)]
    if mode != "NOTSET":
        attributes["auto_pad"] = mode
    elif draw(st.booleans()):
        attributes["pads"] = [draw(st.integers(0, 2)) for _ in range(2 * dims)]
    sizes = [draw(st.integers(5, 8)) for _ in range(dims)]
    channels, outputs = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 3))
    constants = {"w": normal(outputs, channels // groups, *kernel)}
    names = "x w"
    if draw(st.booleans()):
        constants["b"], names = normal(outputs), "x w b"
    x = normal(2, channels, *sizes)
    dynamic = draw(st.booleans())
    shape: list[int | str] = ["N", channels, *[f"s{i}" for i in range(dims)]] if dynamic else list(x.shape)
    model = model_of([node("Conv", names, **attributes)], {"x": x}, constants, shapes={"x": shape})
    analog = not (dynamic and mode.startswith("SAME") and max(attributes["strides"]) > 1)
    return model, {"x": x}, analog


@given(convolutions())
@FAST
def test_convolutions_of_every_geometry(case: tuple[onnx.ModelProto, Arrays, bool]) -> None:
    model, inputs, analog = case
    program = check(model, inputs)
    assert len(program.matrices) == int(analog)
    if not analog:
        assert "fix the input size" in fate_of(program, "conv")[1]


def test_rows_are_channel_then_kernel_position() -> None:
    w = np.arange(2 * 3 * 2 * 2, dtype=np.float32).reshape(2, 3, 2, 2)
    program = check(model_of([node("Conv", "x w")], {"x": normal(1, 3, 4, 4)}, {"w": w}), {"x": normal(1, 3, 4, 4)})
    matrix = only(program)
    np.testing.assert_array_equal(matrix.weights[0], w.reshape(2, 12).T)
    assert matrix.shape == ConvShape((2, 2), (1, 1), (1, 1), (0, 0, 0, 0), 1)
    assert matrix.tensor == "x"
    assert fate_of(program, "conv") == ("analog", "convolution with constant weights, 12 x 2")


def test_uneven_padding_of_same_lower_and_upper() -> None:
    for mode, pads in (("SAME_UPPER", (0, 1)), ("SAME_LOWER", (1, 0))):
        x = {"x": normal(1, 1, 6)}
        program = check(model_of([node("Conv", "x w", auto_pad=mode)], x, {"w": normal(1, 1, 2)}), x)
        shape = only(program).shape
        assert isinstance(shape, ConvShape)
        assert shape.pads == pads


def test_a_constant_added_behind_a_convolution_becomes_its_bias() -> None:
    x = {"x": normal(2, 4, 5, 5)}
    nodes = [node("Conv", "x w", "h", group=2), node("Add", "c h")]
    program = check(model_of(nodes, x, {"w": normal(6, 2, 3, 3), "c": normal(6, 1, 1)}), x)
    assert only(program).bias is not None
    assert [n.op_type for n in program.skeleton.graph] == ["Analog"]
    assert fate_of(program, "add") == ("analog", "folded into conv as its bias")


@pytest.mark.parametrize("shape", [(5,), (1, 6, 5, 5), (3, 1, 1, 1), (2, 1, 6, 1, 1)])
def test_other_constants_behind_a_convolution_stay(shape: tuple[int, ...]) -> None:
    x = {"x": normal(3, 4, 5, 5) if shape[0] == 3 else normal(2, 4, 5, 5)}
    nodes = [node("Conv", "x w", "h", pads=[1, 1, 1, 1]), node("Add", "h c")]
    program = check(model_of(nodes, x, {"w": normal(6, 4, 3, 3), "c": normal(*shape)}), x)
    assert only(program).bias is None
    assert fate_of(program, "add") == ("digital", "no matrix product")


# --- Gemm ------------------------------------------------------------------------------------------------------------

M, K, N = 3, 4, 5
ADDENDS = [None, (), (1,), (N,), (1, N), (M, 1), (M, N), (1, 1)]


@given(
    side=st.sampled_from("AB"),
    turn_a=st.booleans(),
    turn_b=st.booleans(),
    alpha=st.sampled_from([1.0, 0.5, -2.0]),
    beta=st.sampled_from([1.0, 0.5, 0.0]),
    addend=st.sampled_from(ADDENDS),
    constant=st.booleans(),
)
@FAST
def test_gemm(
    side: str, turn_a: bool, turn_b: bool, alpha: float, beta: float, addend: tuple[int, ...] | None, constant: bool
) -> None:
    a, b = normal(K, M) if turn_a else normal(M, K), normal(N, K) if turn_b else normal(K, N)
    inputs, constants = ({"b": b}, {"a": a}) if side == "A" else ({"a": a}, {"b": b})
    names = "a b"
    if addend is not None:
        (constants if constant else inputs)["c"] = normal(*addend)
        names = "a b c"
    gemm = node("Gemm", names, transA=int(turn_a), transB=int(turn_b), alpha=alpha, beta=beta)
    program = check(model_of([gemm], inputs, constants), inputs)
    matrix = only(program)
    assert matrix.weights.shape == ((1, K, M) if side == "A" else (1, K, N))
    assert matrix.shape == MatMulShape()
    if constant and beta and addend is not None:
        by_column = (
            addend in ((), (1,), (1, 1))
            or addend == ((M, 1) if side == "A" else (1, N))
            or (addend == (N,) and side == "B")
        )
        assert (matrix.bias is not None) == by_column


# --- MatMul ----------------------------------------------------------------------------------------------------------

RIGHT = [
    ((K,), (K,)),
    ((K,), (K, N)),
    ((M, K), (K,)),
    ((M, K), (K, N)),
    ((2, M, K), (K, N)),
    ((2, 1, M, K), (K, N)),
    ((2, M, K), (1, K, N)),
    ((M, K), (1, K, N)),
    ((M, K), (2, K, N)),
    ((2, M, K), (2, K, N)),
    ((1, M, K), (2, K, N)),
    ((2, 1, M, K), (3, K, N)),
    ((3, M, K), (2, 1, K, N)),
    ((K,), (2, K, N)),
    ((2, M, K), (K,)),
    ((K,), (1, K, N)),
]


@pytest.mark.parametrize(("left", "right"), RIGHT)
def test_matmul_with_the_constant_on_the_right(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    x = {"x": normal(*left)}
    program = check(model_of([node("MatMul", "x w")], x, {"w": normal(*right)}), x)
    assert only(program).weights.shape[1] == K


@pytest.mark.parametrize(("right", "left"), RIGHT)
def test_matmul_with_the_constant_on_the_left(right: tuple[int, ...], left: tuple[int, ...]) -> None:
    def turned(shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape if len(shape) == 1 else (*shape[:-2], shape[-1], shape[-2])

    x = {"x": normal(*turned(right))}
    program = check(model_of([node("MatMul", "w x")], x, {"w": normal(*turned(left))}), x)
    assert only(program).weights.shape[1] == K


@pytest.mark.parametrize("shape", [(N,), (1, N), (1, 1, N), (), (1,)])
def test_a_constant_added_behind_a_product_becomes_its_bias(shape: tuple[int, ...]) -> None:
    x = {"x": normal(2, M, K)}
    program = check(
        model_of([node("MatMul", "x w", "h"), node("Add", "h c")], x, {"w": normal(K, N), "c": normal(*shape)}), x
    )
    assert only(program).bias is not None


@pytest.mark.parametrize("shape", [(M, N), (M, 1), (2, 1, 1), (1, 1, 1, N)])
def test_other_constants_behind_a_product_stay(shape: tuple[int, ...]) -> None:
    x = {"x": normal(2, M, K)}
    program = check(
        model_of([node("MatMul", "x w", "h"), node("Add", "h c")], x, {"w": normal(K, N), "c": normal(*shape)}), x
    )
    assert only(program).bias is None


def test_placeholders_stand_in_the_order_of_the_matrices() -> None:
    x = {"x": normal(M, K)}
    nodes = [
        node("MatMul", "x w", "p", name="first"),
        node("MatMul", "x w", "q", name="second"),
        node("Add", "p c", "r"),
        node("Mul", "r q"),
    ]
    program = check(model_of(nodes, x, {"w": normal(K, N), "c": normal(N)}), x)
    assert [matrix.name for matrix in program.matrices] == ["first", "second"]


def test_batched_weights_take_a_bias() -> None:
    x = {"x": normal(2, M, K)}
    nodes = [node("MatMul", "x w", "h"), node("Add", "h c")]
    matrix = only(check(model_of(nodes, x, {"w": normal(2, K, N), "c": normal(N)}), x))
    assert matrix.shape == MatMulShape(batch=(2,))
    assert matrix.bias is not None
    assert matrix.bias.shape == (2, N)


def test_a_result_read_twice_keeps_its_addition() -> None:
    x = {"x": normal(M, K)}
    nodes = [node("MatMul", "x w", "h"), node("Add", "h c", "s"), node("Mul", "h s")]
    assert only(check(model_of(nodes, x, {"w": normal(K, N), "c": normal(N)}), x)).bias is None


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floating_types(dtype: type) -> None:
    x = {"x": normal(M, K, dtype=dtype)}
    program = check(model_of([node("MatMul", "x w")], x, {"w": normal(K, N, dtype=dtype)}), x, 1e-3)
    matrix = only(program)
    assert matrix.element == ir.DataType.from_numpy(np.dtype(dtype))
    assert matrix.weights.dtype == (np.float64 if dtype is np.float64 else np.float32)
    assert program.skeleton.graph.node(0).outputs[0].dtype == matrix.element


# --- weights behind other nodes --------------------------------------------------------------------------------------


def test_a_weight_of_two_nodes() -> None:
    x = {"x": normal(M, K)}
    nodes = [node("MatMul", "x w", "h"), node("Gemm", "h w", transB=1)]
    program = check(model_of(nodes, x, {"w": normal(K, N)}), x)
    assert [matrix.weights.shape for matrix in program.matrices] == [(1, K, N), (1, N, K)]


def test_products_without_constants_say_so() -> None:
    x = {"a": normal(M, K), "b": normal(K, N)}
    for op in ("MatMul", "Gemm"):
        program = check(model_of([node(op, "a b")], x, {}), x)
        assert fate_of(program, op.lower()) == ("digital", "product of two activations")


def test_an_output_that_is_a_layer_and_read_again() -> None:
    model = parsed(
        '<ir_version: 8, opset_import: ["" : 13]> g (float[N, 2] x) => (float[N, 2] h, float[N, 2] y)'
        "<float[2, 2] w = {1, 2, 3, 4}, float[2] c = {1, 2}> { h = MatMul (x, w) \n y = Add (h, c) }"
    )
    program = check(model, {"x": normal(3, 2)})
    assert [value.name for value in program.skeleton.graph.outputs] == ["h", "y"]


def test_all_zero_weights_are_fine_and_empty_ones_stay() -> None:
    x = {"x": normal(M, K)}
    check(model_of([node("MatMul", "x w")], x, {"w": np.zeros((K, N), np.float32)}), x)
    program = check(model_of([node("MatMul", "x w")], x, {"w": np.zeros((K, 0), np.float32)}), x)
    assert fate_of(program, "matmul") == ("digital", "matrix product without rows or columns")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused_by_name(bad: float) -> None:
    w, b = normal(K, N), normal(N)
    w[1, 2] = bad
    model = model_of([node("Gemm", "x w b", name="head")], {"x": normal(M, K)}, {"w": w, "b": b})
    with pytest.raises(
        CompileError, match="node 'head': 1 of its weights are NaN or infinite, which no device can hold"
    ):
        lowered(model)
    b[:] = bad
    model = model_of([node("Gemm", "x w b", name="head")], {"x": normal(M, K)}, {"w": normal(K, N), "b": b})
    with pytest.raises(CompileError, match="node 'head': 5 of its bias are NaN or infinite"):
        lowered(model)


def test_functions_are_analog_where_their_body_is() -> None:
    model = parsed(
        '<ir_version: 10, opset_import: ["" : 14, "own" : 1]> g (float[N, 2] x) => (float[N, 2] y)'
        "<float[2, 2] w = {1, 2, 3, 4}> { [first] h = own.layer (x, w) \n [second] y = own.act (h) }"
        '<domain: "own", opset_import: ["" : 14]> layer (x, w) => (y) { y = MatMul (x, w) }'
        '<domain: "own", opset_import: ["" : 14]> act (x) => (y) { y = Relu (x) }'
    )
    program = check(model, {"x": normal(3, 2)})
    assert only(program).name == "first/MatMul_0"
    assert fate_of(program, "first")[0] == "analog"
    assert fate_of(program, "second") == ("digital", "inlined: the nodes of function act take its place")


# --- QDQ -------------------------------------------------------------------------------------------------------------


def quantised(
    op: str, weights: np.ndarray[Any, Any], axis: int | None, between: Sequence[onnx.NodeProto] = (), **attributes: Any
) -> tuple[onnx.ModelProto, Arrays]:
    """x -> Q -> DQ -> op(., DQ(codes) -> between): int8 weights, per tensor or along an axis, uint8 input."""
    rng = np.random.default_rng(5)
    codes = rng.integers(-128, 128, weights.shape).astype(np.int8)
    count = 1 if axis is None else codes.shape[axis]
    scale = rng.uniform(0.01, 0.02, count).astype(np.float32)
    zero = rng.integers(-3, 4, count).astype(np.int8)
    if axis is None:
        scale, zero = scale.reshape(()), zero.reshape(())
    nodes = [
        node("QuantizeLinear", "x xs xz", "xq"),
        node("DequantizeLinear", "xq xs xz", "xd", name="dx"),
        node("DequantizeLinear", "codes ws wz", "wd", name="dw", **({} if axis is None else {"axis": axis})),
        *between,
        node(op, f"xd {between[-1].output[0] if between else 'wd'}", name="layer", **attributes),
    ]
    x = normal(2, 4, 5) if op == "Conv" else normal(M, K)
    constants = {
        "codes": codes,
        "ws": scale,
        "wz": zero,
        "xs": np.array(0.03, np.float32),
        "xz": np.array(120, np.uint8),
    }
    return model_of(nodes, {"x": x}, constants), {"x": x}


TURN = [node("Transpose", "wd", "wt", name="turn")]
QDQ = [
    ("MatMul", (K, N), None, [], {}, True),
    ("MatMul", (K, N), 1, [], {}, True),
    ("MatMul", (K, N), 0, [], {}, False),
    ("MatMul", (N, K), 0, TURN, {}, True),
    ("MatMul", (N, K), 1, TURN, {}, False),
    ("Gemm", (N, K), 0, [], {"transB": 1}, True),
    ("Gemm", (K, N), 1, [], {"alpha": 0.5}, True),
    ("Gemm", (K, N), 1, [], {"alpha": -2.0}, True),
    ("Conv", (6, 2, 3), 0, [], {"group": 2}, True),
    ("Conv", (6, 2, 3), None, [], {"group": 2}, True),
    ("Conv", (6, 2, 3), 1, [], {"group": 2}, False),
]


@pytest.mark.parametrize(("op", "shape", "axis", "between", "attributes", "codes"), QDQ)
def test_quantised_weights_and_inputs_are_taken_as_they_are(
    op: str,
    shape: tuple[int, ...],
    axis: int | None,
    between: Sequence[onnx.NodeProto],
    attributes: dict[str, Any],
    codes: bool,
) -> None:
    model, inputs = quantised(op, np.empty(shape), axis, between, **attributes)
    matrix = only(check(model, inputs))
    assert (matrix.input_scale, matrix.input_zero_point, matrix.input_bits) == (float(np.float32(0.03)), 120, 8)
    assert (matrix.weight_codes is not None) == codes
    if matrix.weight_codes is not None and matrix.weight_scale is not None:
        assert matrix.weight_codes.dtype == np.int16
        real = matrix.weight_codes * matrix.weight_scale[:, None]
        np.testing.assert_allclose(real, matrix.weights, rtol=1e-6)


def test_dequantised_weights_are_reported_as_weights() -> None:
    model, inputs = quantised("MatMul", np.empty((N, K)), 0, TURN)
    program = check(model, inputs)
    assert fate_of(program, "dw") == ("analog", "weights of layer")
    assert fate_of(program, "turn") == ("analog", "weights of layer")
    assert fate_of(program, "dx") == ("digital", "quantisation, no matrix product")


@pytest.mark.parametrize(
    ("dtype", "zero", "bits", "unsigned"),
    [(np.int8, -5, 8, 123), (np.uint8, 7, 8, 7), (np.int16, 100, 16, 32868), (np.uint16, 100, 16, 100)],
)
def test_input_zero_points_become_unsigned(dtype: type, zero: int, bits: int, unsigned: int) -> None:
    nodes = [
        node("QuantizeLinear", "x s z", "q"),
        node("DequantizeLinear", "q s z", "d"),
        node("Transpose", "d", "t"),
        node("Relu", "t", "r"),
        node("MatMul", "r w"),
    ]
    constants = {"s": np.array(0.1, np.float32), "z": np.array(zero, dtype), "w": normal(K, N)}
    x = {"x": normal(K, M)}
    matrix = only(check(model_of(nodes, x, constants, opset=21), x))
    assert (matrix.input_zero_point, matrix.input_bits) == (unsigned, bits)
    assert matrix.tensor == "r"


def test_an_input_that_left_its_grid_has_no_quantiser() -> None:
    nodes = [node("DequantizeLinear", "q s", "d"), node("Sigmoid", "d", "h"), node("MatMul", "h w")]
    graph = model_of(nodes, {"q": np.zeros((M, K), np.uint8)}, {"s": np.array(0.1, np.float32), "w": normal(K, N)})
    graph.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    assert only(check(graph, {"q": np.full((M, K), 7, np.uint8)})).input_scale is None


def test_blockwise_weights_fall_back_to_real_ones() -> None:
    codes = np.random.default_rng(0).integers(-8, 8, (K, N)).astype(np.int8)
    nodes = [node("DequantizeLinear", "c s", "w", axis=0, block_size=2), node("MatMul", "x w")]
    x = {"x": normal(M, K)}
    matrix = only(check(model_of(nodes, x, {"c": codes, "s": np.abs(normal(2, N)) + 0.1}, opset=21), x))
    assert matrix.weight_codes is None


def test_a_dequantised_bias_is_rounded_as_onnxruntime_does() -> None:
    codes = np.array([123456789, -7, 3, 16777217, 1], np.int32)
    nodes = [node("DequantizeLinear", "c s", "b"), node("Gemm", "x w b")]
    x = {"x": np.zeros((M, K), np.float32)}
    constants: Arrays = {"c": codes, "s": np.array(0.0123, np.float32), "w": normal(K, N)}
    program = check(model_of(nodes, x, constants), x, 0.0)
    assert fate_of(program, "dequantizelinear") == ("analog", "bias of gemm")


def test_a_channel_of_scale_zero() -> None:
    nodes = [node("DequantizeLinear", "c s", "w", axis=1), node("MatMul", "x w")]
    x = {"x": normal(M, K)}
    constants: Arrays = {"c": np.ones((K, N), np.int8), "s": np.array([0, 1, 2, 0, 1], np.float32)}
    matrix = only(check(model_of(nodes, x, constants), x))
    assert matrix.weight_codes is not None
    assert not matrix.weight_codes[0, :, 0].any()


# --- skeleton --------------------------------------------------------------------------------------------------------


def test_the_skeleton_holds_no_weights() -> None:
    x = {"x": normal(K, M)}
    program = check(model_of([node("Gemm", "x w b", transA=1)], x, {"w": normal(K, N), "b": normal(N)}), x)
    graph = program.skeleton.graph
    assert not graph.initializers
    assert [(n.name, n.domain) for n in graph] == [("gemm/Transpose", ""), ("gemm", ANALOG_DOMAIN)]
    assert "w" in program.graph.model.graph.initializers


@pytest.mark.parametrize(
    ("name", "matrices", "codes"),
    [
        ("cifar10_resnet20.torch-ts.op13.keepbn.dynb.onnx", 20, 0),
        ("cifar10_resnet20.ort-ptq-qdq.s8s8.perchannel.op13.onnx", 20, 20),
        ("cifar10_resnet20.ort-ptq-qop.u8s8.perchannel.op13.onnx", 0, 0),
        ("mlperf_tiny_kws_ref_model.tf2onnx-tflite.op13.qdq.onnx", 10, 10),
        ("digits_mlp64x32.skl2onnx.op12.onnx", 3, 0),
        ("fashion_vit_d64l2.torch-dynamo.op23.onnx", 10, 0),
        ("winml__SqueezeNet_fp16.onnx", 26, 0),
        ("openseeface__mnv3_detection_opt.onnx", 70, 0),
    ],
)
def test_models_of_the_wild(name: str, matrices: int, codes: int) -> None:
    if not SHARED_MODELS.is_dir():
        pytest.skip("the collection of models is not beside this checkout")
    path = SHARED_MODELS / name
    program = Lower().run(normalised(load_model(path)), GENERIC)
    assert len(program.matrices) == matrices
    assert sum(matrix.weight_codes is not None for matrix in program.matrices) == codes
    assert sum(matrix.input_scale is not None for matrix in program.matrices) == codes
    rng = np.random.default_rng(0)
    feeds: Arrays = {}
    for value in session(path).get_inputs():
        sizes = [size if isinstance(size, int) else 2 for size in value.shape]
        if "int8" in value.type:
            feeds[value.name] = rng.integers(-128, 128, sizes).astype(np.int8)
        else:
            feeds[value.name] = rng.standard_normal(sizes).astype(np.float16 if "16" in value.type else np.float32)
    assert largest_error(run(path, feeds), run(rebuilt(program), feeds)) < (5e-3 if "fp16" in name else 1e-5)


def test_programs_in_memory_are_not_edited() -> None:
    model = model_of([node("Gemm", "x w", transA=1)], {"x": normal(K, M)}, {"w": normal(K, N)})
    program = normalised(imported(model))
    before = ir.to_proto(program.model).SerializeToString(deterministic=True)
    Lower().run(program, GENERIC)
    assert ir.to_proto(program.model).SerializeToString(deterministic=True) == before
