"""The float model that builds are compared with: values of numpy, whichever form of the model onnxruntime runs."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import mcompiler
from mcompiler.driver.proof import SampleRequest, sampled_model

Array = npt.NDArray[Any]
RNG = np.random.default_rng(5)


def graph(nodes: list[onnx.NodeProto], shape: list[int], constants: dict[str, Array]) -> onnx.ModelProto:
    """A model with one float input x and one output y."""
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def same_convolution(x: Array, w: Array, strides: tuple[int, ...], dilations: tuple[int, ...], upper: bool) -> Array:
    """A convolution with automatic padding by its definition: output sizes are ceil(input size / stride)."""
    sizes = [-(-size // stride) for size, stride in zip(x.shape[2:], strides, strict=True)]
    out = np.zeros((len(x), len(w), *sizes))
    begins = []
    for size, count, k, stride, dilation in zip(x.shape[2:], sizes, w.shape[2:], strides, dilations, strict=True):
        total = max((count - 1) * stride + (k - 1) * dilation + 1 - size, 0)
        begins.append(total // 2 if upper else -(-total // 2))
    for place in np.ndindex(*sizes):
        for tap in np.ndindex(*w.shape[2:]):
            at = tuple(p * s + t * d - b for p, s, t, d, b in zip(place, strides, tap, dilations, begins, strict=True))
            if all(0 <= a < size for a, size in zip(at, x.shape[2:], strict=True)):
                where = (slice(None), slice(None), *at)
                out[(slice(None), slice(None), *place)] += x[where] @ w[(slice(None), slice(None), *tap)].T
    return out


@pytest.mark.parametrize(
    ("strides", "dilations", "kernel", "mode"),
    [
        ((1, 1), (2, 2), (3, 3), "SAME_UPPER"),
        ((1, 1), (3, 1), (2, 3), "SAME_LOWER"),
        ((2, 3), (3, 2), (2, 2), "SAME_UPPER"),
        ((2, 1), (3, 3), (2, 2), "SAME_LOWER"),
    ],
)
def test_dilated_convolutions_with_automatic_padding_are_compared_with_their_normalised_graph(
    tmp_path: Path, strides: tuple[int, ...], dilations: tuple[int, ...], kernel: tuple[int, ...], mode: str
) -> None:
    w = RNG.normal(size=(4, 3, *kernel)).astype(np.float32)
    x = RNG.normal(size=(5, 3, 9, 10)).astype(np.float32)
    attributes: dict[str, Any] = {"auto_pad": mode, "strides": strides, "dilations": dilations, "kernel_shape": kernel}
    made = graph([helper.make_node("Conv", ["x", "w"], ["y"], **attributes)], [1, 3, 9, 10], {"w": w})
    build = mcompiler.compile(ir.from_proto(made), "generic_128", calibration=x)
    build.save(tmp_path / "build")
    stored = mcompiler.load(tmp_path / "build")
    wanted = same_convolution(x, w, strides, dilations, mode == "SAME_UPPER")
    for each in (build, stored):
        found = each.verify(x)
        assert found.failures == ()
        assert found.baseline == "normalised"
        assert found.sqnr_db is not None
        assert found.sqnr_db > 35
        model = sampled_model(each._content, each.target, SampleRequest(x), {})
        given = np.concatenate([model.baseline.session.run({"x": part[None]})["y"] for part in x])
        np.testing.assert_allclose(given, wanted, rtol=0, atol=1e-4)


def test_a_bias_with_a_scale_of_its_own_is_not_dropped() -> None:
    """onnxruntime's optimisations fuse this Gemm and take the bias at the scale of the product."""
    codes, weights = RNG.integers(-127, 128, (32, 16)), RNG.integers(-900, 900, 16)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"]),
        helper.make_node("DequantizeLinear", ["b", "bs"], ["bd"]),
        helper.make_node("Gemm", ["xd", "wd", "bd"], ["y"]),
    ]
    scalars: dict[str, Any] = {
        "xs": np.float32(0.03), "xz": np.uint8(128), "w": codes.astype(np.int8), "ws": np.float32(0.01),
        "wz": np.int8(0), "b": weights.astype(np.int32), "bs": np.float32(0.01),
    }  # fmt: skip
    constants = {name: np.asarray(value) for name, value in scalars.items()}
    build = mcompiler.compile(ir.from_proto(graph(nodes, [1, 32], constants)), "generic_128")
    x = (0.03 * RNG.integers(-100, 100, (8, 32))).astype(np.float32)
    found = build.verify(x)
    assert found.baseline == "source"
    assert found.exact
    assert found.sqnr_db is None or found.sqnr_db > 100
    model = sampled_model(build._content, build.target, SampleRequest(x), {})
    given = np.concatenate([model.baseline.session.run({"x": part[None]})["y"] for part in x])
    np.testing.assert_allclose(given, x.astype(np.float64) @ (codes * 0.01) + weights * 0.01, rtol=0, atol=1e-4)


def test_weights_behind_pad_that_only_the_optimisations_refuse() -> None:
    w = RNG.normal(size=(2, 3, 2, 2)).astype(np.float32)
    pads = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    nodes = [helper.make_node("Pad", ["w", "pads"], ["wp"]), helper.make_node("Conv", ["x", "wp"], ["y"])]
    made = graph(nodes, [1, 3, 5, 5], {"w": w, "pads": pads})
    x = RNG.normal(size=(4, 3, 5, 5)).astype(np.float32)
    build = mcompiler.compile(ir.from_proto(made), "generic_128", calibration=x)
    found = build.verify(x)
    assert (found.baseline, found.failures) == ("source", ())
    wanted = np.zeros((4, 2, 3, 3))
    for i, j in itertools.product(range(2), range(2)):
        wanted += np.einsum("ncij,oc->noij", x[:, :, i : i + 3, j : j + 3], w[:, :, i, j])
    model = sampled_model(build._content, build.target, SampleRequest(x), {})
    given = np.concatenate([model.baseline.session.run({"x": part[None]})["y"] for part in x])
    np.testing.assert_allclose(given, wanted, rtol=0, atol=1e-5)


def test_a_guessed_image_of_one_pixel_is_a_warning() -> None:
    made = graph([helper.make_node("Conv", ["x", "w"], ["y"])], [1, 3, 5, 5], {"w": np.ones((2, 3, 1, 1), np.float32)})
    for axis, name in ((2, "h"), (3, "v")):
        made.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    said: list[str] = []
    build = mcompiler.compile(ir.from_proto(made), "generic_128", calibration="random", say=said.append)
    assert build.options.calibration == {"kind": "random", "samples": 64}
    assert said[1].startswith("warning: the image 'x' is taken as 3 x 1 x 1, ")
    assert said[1].endswith("give --dim h=N --dim v=N")
    said.clear()
    mcompiler.compile(ir.from_proto(made), "generic_128", calibration="random", dims={"h": 1, "v": 1}, say=said.append)
    assert said == []
