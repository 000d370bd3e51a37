"""Cross-layer equalisation: the same function, and less error where the ranges of channels differ."""

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
from mcompiler.pipeline import default
from mcompiler.runtime import open_model
from tests.support.models import run

Array = npt.NDArray[Any]
RNG = np.random.default_rng(3)


def graph(nodes: list[onnx.NodeProto], shape: list[int], constants: dict[str, Array]) -> onnx.ModelProto:
    """A model with one float input x and one output y."""
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def depthwise() -> tuple[onnx.ModelProto, Array]:
    """Conv, Relu, depthwise Conv, MaxPool, grouped Conv: channels over three decades."""
    sizes = 10.0 ** RNG.uniform(-1.5, 1.5, 8)
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"]),
        helper.make_node("Relu", ["a"], ["c"]),
        helper.make_node("Conv", ["c", "d"], ["e"], group=8),
        helper.make_node("MaxPool", ["e"], ["f"], kernel_shape=[2, 2]),
        helper.make_node("Conv", ["f", "v"], ["y"], group=2),
    ]
    constants = {
        "w": RNG.normal(size=(8, 3, 1, 1)) * sizes[:, None, None, None], "b": RNG.normal(size=8) * sizes,
        "d": RNG.normal(size=(8, 1, 3, 3)) / sizes[:, None, None, None], "v": RNG.normal(size=(6, 4, 1, 1)),
    }  # fmt: skip
    return graph(nodes, [1, 3, 8, 8], constants), RNG.normal(size=(16, 3, 8, 8)).astype(np.float32)


def normalisation() -> tuple[onnx.ModelProto, Array]:
    """LayerNormalization that two products read, one of them a Gemm."""
    sizes = np.ones(32)
    sizes[[3, 17]] = 60
    nodes = [
        helper.make_node("LayerNormalization", ["x", "g", "b"], ["n"], axis=-1),
        helper.make_node("MatMul", ["n", "w"], ["p"]),
        helper.make_node("Gemm", ["n", "v", "c"], ["q"], transB=1),
        helper.make_node("Add", ["p", "q"], ["y"]),
    ]
    constants = {
        "g": sizes, "b": RNG.normal(size=32), "w": RNG.normal(size=(32, 8)) / sizes[:, None],
        "v": RNG.normal(size=(8, 32)) / sizes, "c": RNG.normal(size=8),
    }  # fmt: skip
    return graph(nodes, [1, 32], constants), RNG.normal(size=(64, 32)).astype(np.float32)


def products() -> tuple[onnx.ModelProto, Array]:
    """MatMul, Add, LeakyRelu, Gemm."""
    sizes = 10.0 ** RNG.uniform(-1.5, 1.5, 16)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Add", ["b", "a"], ["c"]),
        helper.make_node("LeakyRelu", ["c"], ["e"]),
        helper.make_node("Gemm", ["e", "v"], ["y"]),
    ]
    constants = {
        "w": RNG.normal(size=(12, 16)) * sizes, "b": RNG.normal(size=16) * sizes,
        "v": RNG.normal(size=(16, 5)) / sizes[:, None],
    }  # fmt: skip
    return graph(nodes, [1, 12], constants), RNG.normal(size=(64, 12)).astype(np.float32)


MODELS = {"depthwise": depthwise, "normalisation": normalisation, "products": products}


@pytest.mark.parametrize("name", MODELS)
def test_less_error_and_the_same_function(name: str) -> None:
    model, x = MODELS[name]()
    pipeline = default(ir.from_proto(model), "generic_128", calibration=x)
    equal = pipeline.run(until="equalise").model
    one = {"x": x[:1]}
    (wanted,), (given,) = run(model, one), run(ir.to_proto(equal), one)
    assert float(np.abs(wanted - given).max()) <= 1e-5 * float(np.abs(wanted).max())
    sqnr = {}
    for mode in ("off", "auto"):
        build = mcompiler.compile(ir.from_proto(model), "generic_128", calibration=x, equalise=mode)
        found = build.verify(x)
        assert found.failures == ()
        assert found.sqnr_db is not None
        sqnr[mode] = found.sqnr_db
    assert sqnr["auto"] > sqnr["off"] + 3
    assert sqnr["auto"] > 30


def _codes(build: Build) -> Array:
    return build.layer_data[1].op.matrix.codes


def test_auto_needs_real_data_and_leaves_other_models_alone() -> None:
    model, x = products()
    plain = mcompiler.compile(ir.from_proto(model), "generic_128", calibration=x, equalise="off")
    drawn = mcompiler.compile(ir.from_proto(model), "generic_128", calibration="random")
    np.testing.assert_array_equal(_codes(drawn), _codes(plain))
    even = RNG.normal(size=(12, 16)), RNG.normal(size=(16, 5))
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("MatMul", ["a", "v"], ["y"])]
    small = graph(nodes, [1, 12], {"w": even[0], "v": even[1]})
    one = mcompiler.compile(ir.from_proto(small), "generic_128", calibration=x)
    two = mcompiler.compile(ir.from_proto(small), "generic_128", calibration=x, equalise="off")
    np.testing.assert_array_equal(_codes(one), _codes(two))


def test_the_mean_error_of_coarse_weights_goes_into_the_bias() -> None:
    w = RNG.normal(size=(64, 12)).astype(np.float32)
    model = graph([helper.make_node("MatMul", ["x", "w"], ["y"])], [1, 64], {"w": w})
    x, test = (RNG.uniform(0.5, 1, (256, 64)).astype(np.float32) for _ in range(2))
    errors = {}
    for mode in ("off", "auto"):
        build = mcompiler.compile(
            ir.from_proto(model), "generic_128", calibration=x, equalise=mode, overrides=["precision.weights=3"]
        )
        session = open_model(build.mapped)
        given = np.concatenate([session.run({"x": part[None]})["y"] for part in test])
        errors[mode] = np.abs((given - test.astype(np.float64) @ w).mean(axis=0)).mean()
        layer = build.layer_data[0].op
        assert (layer.site.bias is not None) is (mode == "auto")
    assert errors["auto"] < errors["off"] / 5
