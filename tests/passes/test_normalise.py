"""The graph passes: results stay, fates say what happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mcompiler.fates import reason_text
from mcompiler.ir import GraphProgram
from mcompiler.onnx_import import load_model
from mcompiler.passes.decompose import Decompose
from mcompiler.passes.fold_constants import FoldConstants
from tests.support.models import (
    GENERIC,
    SHARED_MODELS,
    fate_decided,
    imported,
    largest_error,
    normalised,
    parsed,
    proto,
    run,
    session,
)

HEAD = '<ir_version: 8, opset_import: ["" : 14]>'


def check(model: onnx.ModelProto, tolerance: float = 1e-6, **feeds: Any) -> GraphProgram:
    """Normalise; results and interface must stay."""
    program = normalised(imported(model))
    result = proto(program)
    before, after = session(model), session(result)
    assert [(v.name, v.type) for v in before.get_inputs()] == [(v.name, v.type) for v in after.get_inputs()]
    assert [(v.name, v.type) for v in before.get_outputs()] == [(v.name, v.type) for v in after.get_outputs()]
    assert largest_error(run(model, feeds), run(result, feeds)) <= tolerance
    return program


def ops(program: GraphProgram) -> list[str]:
    return [node.op_type for node in program.model.graph]


def reason(program: GraphProgram, name: str) -> str:
    return reason_text(fate_decided(program, name).reason)


def normal(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def test_constants_are_evaluated() -> None:
    model = parsed(
        f"{HEAD} g (float[2, 3] x) => (float[N, M] y)"
        "{ [s] s = Shape (x) \n [i] i = Constant <value_ints = [0]> () \n [g] n = Gather (s, i) \n"
        "[c] m = Constant <value_ints = [-1]> () \n [k] shape = Concat <axis = 0> (n, m) \n"
        "[r] y = Reshape (x, shape) }"
    )
    program = check(model, x=normal(2, 3))
    assert ops(program) == ["Reshape"]
    assert {reason(program, name) for name in "sigck"} == {"evaluated at compile time"}


def test_known_sizes_of_a_dynamic_shape_are_evaluated() -> None:
    model = parsed(
        f"{HEAD} g (float[N, 3, 4] x) => (float[A, B] y) <int64[1] i = {{-1}}, int64[1] m = {{-1}}>"
        "{ s = Shape (x) \n [g] n = Gather (s, i) \n shape = Concat <axis = 0> (m, n) \n y = Reshape (x, shape) }"
    )
    program = check(model, x=normal(2, 3, 4))
    assert ops(program) == ["Reshape"]
    assert reason(program, "g") == "evaluated at compile time"


def test_a_constant_output_stays() -> None:
    model = parsed(
        f"{HEAD} g (float[2] x) => (float[2] y, float[2] c, float[2] x2)"
        "<float[2] a = {1, 2}> { y = Relu (x) \n c = Neg (a) \n x2 = Identity (x) }"
    )
    check(model, x=normal(2))


def test_a_result_far_larger_than_its_inputs_is_not_kept() -> None:
    model = parsed(
        f"{HEAD} g (float[8, 8] x) => (float[8, 8] y) <float[1] a = {{1}}, int64[2] s = {{8, 8}}>"
        "{ e = Expand (a, s) \n y = Mul (x, e) }"
    )
    program = FoldConstants(limit=16).run(normalised_shapes(model), GENERIC)
    assert ops(program) == ["Expand", "Mul"]
    assert ops(check(model, x=normal(8, 8))) == ["Mul"]


def normalised_shapes(model: onnx.ModelProto) -> GraphProgram:
    return imported(onnx.shape_inference.infer_shapes(model))


def test_a_filled_constant_takes_no_memory() -> None:
    model = parsed(
        f"{HEAD} g (float[N, 1000] x) => (float[N, 1000] y) <int64[2] s = {{1000, 1000}}>"
        "{ w = ConstantOfShape (s) \n y = MatMul (x, w) }"
    )
    program = check(model, x=normal(2, 1000))
    tensor = program.model.graph.initializers["w"].const_value
    assert tensor is not None
    assert tensor.numpy().strides == (0, 0)


def test_quantised_weights_stay_behind_their_dequantiser() -> None:
    model = parsed(
        f"{HEAD} g (float[N, 2] x) => (float[N, 2] y) <float[2, 2] w = {{1, -2, 3, 4}}, float s = {{0.5}}>"
        "{ [q] q = QuantizeLinear (w, s) \n [d] d = DequantizeLinear (q, s) \n [m] y = MatMul (x, d) }"
    )
    program = check(model, x=normal(3, 2))
    assert ops(program) == ["DequantizeLinear", "MatMul"]
    assert reason(program, "q") == "evaluated at compile time"


def test_values_captured_by_a_branch_are_kept() -> None:
    model = parsed(
        f"{HEAD} g (bool c, float[2] x) => (float[2] y) <float[2] a = {{1, 2}}>"
        "{ [n] b = Neg (a) \n y = If (c) <then_branch = t () => (float[2] p) { p = Add (x, b) },"
        " else_branch = e () => (float[2] q) { q = Sub (x, b) }> }"
    )
    for condition in (True, False):
        program = check(model, c=np.array(condition), x=normal(2))
    assert ops(program) == ["If"]


def test_a_branch_with_constant_condition_is_inlined() -> None:
    model = parsed(
        f"{HEAD} g (float[2] x) => (float[2] y, float[2] z) <bool c = {{1}}, float[2] a = {{1, 2}}>"
        "{ [if] y, z = If (c) <then_branch = t () => (float[2] p, float[2] x1)"
        " { h = Neg (k) \n p = Add (x, h) \n x1 = Identity (x) },"
        " else_branch = e () => (float[2] q, float[2] r) { q = Sub (x, a) \n r = Neg (x) }> }"
    )
    branch = next(attr for attr in model.graph.node[0].attribute if attr.name == "then_branch")
    branch.g.initializer.append(numpy_helper.from_array(normal(2), "k"))
    program = check(model, x=normal(2))
    assert ops(program) == ["Add", "Identity"]
    assert next(node.name for node in program.model.graph) == "if/Add_1"
    assert reason(program, "if") == "inlined: its condition is constant"


def test_functions_are_inlined_under_the_name_of_the_call() -> None:
    model = parsed(
        '<ir_version: 10, opset_import: ["" : 14, "own" : 1]> g (float[N, 2] x) => (float[N, 2] y)'
        "<float[2, 2] w = {1, 2, 3, 4}, float[2, 2] v = {5, 6, 7, 8}>"
        "{ [first] h = own.layer <slope = 0.5> (x, w) \n [second] y = own.layer <slope = 0.25> (h, v) }"
        '<domain: "own", opset_import: ["" : 14, "own" : 1]> layer <slope> (x, w) => (y)'
        "{ p = MatMul (x, w) \n [act] y = own.act <slope: float = @slope> (p) }"
        '<domain: "own", opset_import: ["" : 14]> act <slope> (x) => (y)'
        "{ y = LeakyRelu <alpha: float = @slope> (x) }"
    )
    program = check(model, x=normal(3, 2))
    assert [node.name for node in program.model.graph] == [
        "first/MatMul_0",
        "first/act/LeakyRelu_0",
        "second/MatMul_0",
        "second/act/LeakyRelu_0",
    ]
    assert reason(program, "first") == "inlined: the nodes of function layer take its place"


NORM = (
    "s = {1, -2, 0.5, 3}, float[4] b = {0.1, 0.2, 0.3, 0.4}, float[4] m = {1, 2, 3, 4}, float[4] v = {1, 0.5, 0.25, 2}"
)


@pytest.mark.parametrize("bias", ["", ", c"])
@pytest.mark.parametrize("groups", [1, 2])
def test_batch_normalisation_goes_into_conv(bias: str, groups: int) -> None:
    values = ",".join(str(value) for value in normal(4 * 4 // groups * 9).round(3))
    model = parsed(
        f"{HEAD} g (float[N, 4, 6, 6] x) => (float[N, 4, 4, 4] y)"
        f"<float[4, {4 // groups}, 3, 3] w = {{{values}}}, float[4] {NORM}, float[4] c = {{1, 2, 3, 4}}>"
        f"{{ [conv] h = Conv <group = {groups}> (x, w{bias}) \n [bn] y = BatchNormalization (h, s, b, m, v) }}"
    )
    program = check(model, x=normal(2, 4, 6, 6))
    assert ops(program) == ["Conv"]
    assert fate_decided(program, "bn").fate == "analog"
    assert reason(program, "bn") == "folded into conv"


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("[p] h = Gemm <alpha = 2.0, beta = 3.0> (x, w, c)", ["Gemm"]),
        ("[p] h = Gemm <transB = 1> (x, w)", ["Gemm"]),
        ("[p] h = MatMul (x, w)", ["MatMul", "Add"]),
        ("[p] k = MatMul (x, w) \n h = Add (c, k)", ["MatMul", "Add"]),
        ("[p] k = MatMul (x, w) \n h = Relu (k)", ["MatMul", "Relu", "BatchNormalization"]),
    ],
)
def test_batch_normalisation_behind_products(body: str, left: list[str]) -> None:
    values = ",".join(str(value) for value in normal(16).round(3))
    model = parsed(
        f"{HEAD} g (float[N, 4] x) => (float[N, 4] y)"
        f"<float[4, 4] w = {{{values}}}, float[4] {NORM}, float[4] c = {{1, 2, 3, 4}}>"
        f"{{ {body} \n [bn] y = BatchNormalization (h, s, b, m, v) }}"
    )
    program = check(model, x=normal(3, 4))
    assert ops(program) == left
    assert ("bn" in {fate.name for fate in program.fates.values()}) == (left[-1] != "BatchNormalization")


def test_batch_normalisation_that_float16_cannot_hold_stays() -> None:
    model = parsed(
        f"{HEAD} g (float16[N, 1] x) => (float16[N, 1] y)"
        "{ h = MatMul (x, w) \n y = BatchNormalization (h, s, z, z, v) }"
    )
    for name, value in (("w", 60000.0), ("s", 4.0), ("z", 0.0), ("v", 1.0)):
        array = np.full((1, 1) if name == "w" else (1,), value, np.float16)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    assert ops(check(model, 1e-3, x=np.full((1, 1), 0.125, np.float16))) == ["MatMul", "BatchNormalization"]


def test_batch_normalisation_stays_behind_a_shared_result() -> None:
    model = parsed(
        f"{HEAD} g (float[N, 4] x) => (float[N, 4] y, float[N, 4] h) <float[4] {NORM}>"
        "{ h = MatMul (x, w) \n [bn] y = BatchNormalization (h, s, b, m, v) }"
    )
    model.graph.initializer.append(numpy_helper.from_array(normal(4, 4), "w"))
    assert ops(check(model, x=normal(2, 4))) == ["MatMul", "BatchNormalization"]


def test_a_weight_of_two_convolutions_is_folded_for_one() -> None:
    model = parsed(
        f"{HEAD} g (float[N, 1, 3] x) => (float[N, 4, 2] y, float[N, 4, 2] z)"
        f"<float[4, 1, 2] w = {{1, 2, 3, 4, 5, 6, 7, 8}}, float[4] {NORM}>"
        "{ h = Conv (x, w) \n y = BatchNormalization (h, s, b, m, v) \n z = Conv (x, w) }"
    )
    assert ops(check(model, x=normal(2, 1, 3))) == ["Conv", "Conv"]


def test_identity_dropout_and_dead_nodes_go() -> None:
    model = parsed(
        f"{HEAD} g (float[2] x, float[2] unused) => (float[2] y)"
        "{ [i] a = Identity (x) \n [d] b = Dropout (a) \n [r] c = Relu (b) \n [o] y = Identity (c) \n"
        "[dead] z = Neg (c) }"
    )
    program = check(model, x=normal(2), unused=normal(2))
    assert ops(program) == ["Relu"]
    assert reason(program, "i") == "removed: Identity changes nothing in inference"
    assert reason(program, "d") == "removed: Dropout changes nothing in inference"
    assert reason(program, "dead") == "removed: unused"


def test_outputs_that_are_inputs_or_share_a_value_keep_their_identity() -> None:
    model = parsed(
        f"{HEAD} g (float[2] x) => (float[2] a, float[2] b, float[2] c)"
        "{ a = Identity (x) \n b = Relu (x) \n c = Identity (b) }"
    )
    assert ops(check(model, x=normal(2))) == ["Identity", "Relu", "Identity"]


def test_fused_convolutions_are_taken_apart() -> None:
    model = parsed(
        '<ir_version: 8, opset_import: ["" : 13, "com.microsoft" : 1]> g (float[1, 2, 5, 5] x) => (float[1, 3, 3, 3] y)'
        "<float[3] b = {1, 2, 3}>"
        '{ [f] h = com.microsoft.FusedConv <activation = "Relu", kernel_shape = [3, 3]> (x, w, b)'
        '  [g] y = com.microsoft.FusedConv <activation = "Clip", activation_params = [0.0, 1.5], kernel_shape = [3, 3],'
        " pads = [1, 1, 1, 1]> (h, u, b) }"
    )
    model.graph.initializer.append(numpy_helper.from_array(normal(3, 2, 3, 3), "w"))
    model.graph.initializer.append(numpy_helper.from_array(normal(3, 3, 3, 3), "u"))
    program = check(model, x=normal(1, 2, 5, 5))
    assert [(node.name, node.op_type) for node in program.model.graph] == [
        ("f", "Conv"),
        ("f/Relu", "Relu"),
        ("g", "Conv"),
        ("g/Clip", "Clip"),
    ]


def test_retired_operators_become_standard_ones() -> None:
    nodes = [
        helper.make_node("ImageScaler", ["x"], ["a"], name="scaler", scale=2.0, bias=[1.0, 2.0]),
        helper.make_node("Crop", ["a"], ["b"], name="crop", border=[1, 2, 0, 1]),
        helper.make_node("Affine", ["b"], ["y"], name="affine", alpha=3.0, beta=0.5),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 6, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 7)], ir_version=3)
    program = check(model, x=normal(1, 2, 6, 5))
    assert ops(program) == ["Mul", "Add", "Slice", "Mul", "Add"]


def test_a_pass_leaves_its_input_alone() -> None:
    program = load_or_skip("openseeface__mnv3_detection_opt.onnx")
    before = proto(program).SerializeToString(deterministic=True)
    Decompose().run(program, GENERIC)
    normalised(program)
    assert proto(program).SerializeToString(deterministic=True) == before


def load_or_skip(name: str) -> GraphProgram:
    if not SHARED_MODELS.is_dir():
        pytest.skip("the collection of models is not beside this checkout")
    return load_model(SHARED_MODELS / name)


SMALL = [
    "digits_mlp64x32.skl2onnx.op12.onnx",
    "mlperf_tiny_ad01.tf2onnx-keras.op10.onnx",
    "mlperf_tiny_pretrainedResnet.tf2onnx-keras.op9.onnx",
    "mnist_lenet5.torch-ts.op7.onnx",
    "qonnx__mnist-conv_model.onnx",
    "cifar10_resnet20.torch-ts.op13.keepbn.dynb.onnx",
    "fashion_vit_d64l2.torch-ts.op17.onnx",
    "winml__SqueezeNet_fp16.onnx",
    "mnist_lstm64.torch-ts.op14.onnx",
]


@pytest.mark.parametrize("name", SMALL)
def test_models_of_the_wild_keep_their_results(name: str) -> None:
    program = normalised(load_or_skip(name))
    path: Path = SHARED_MODELS / name
    rng = np.random.default_rng(0)
    feeds = {}
    for value in session(path).get_inputs():
        sizes = [size if isinstance(size, int) else 2 for size in value.shape]
        dtype = np.float16 if "float16" in value.type else np.float32
        feeds[value.name] = rng.standard_normal(sizes).astype(dtype)
    assert largest_error(run(path, feeds), run(proto(program), feeds)) < (5e-3 if "fp16" in name else 1e-5)
