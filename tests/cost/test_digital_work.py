"""What digital nodes cost: their operations, and the bytes that they read from buffers and write there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import mcompiler
from mcompiler.target import Event

FEATURES, PLACES = 32, 16 * 16


def after_a_convolution(path: Path, *nodes: onnx.NodeProto, out: Sequence[int]) -> Path:
    """1x1 convolution of 8 to 32 channels on 16 x 16 places, and digital nodes on its result ``a``."""
    weights = np.random.default_rng(0).normal(size=(FEATURES, 8, 1, 1)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["a"], name="conv"), *nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def node(op: str, source: str, made: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, [source], [made], name=made, **attributes)


@pytest.mark.parametrize(
    ("nodes", "out", "operations", "read", "written"),
    [
        ([node("GlobalAveragePool", "a", "y")], (1, 32, 1, 1), FEATURES * PLACES, FEATURES * PLACES, FEATURES),
        ([node("MaxPool", "a", "y", kernel_shape=[5, 5], pads=[2, 2, 2, 2])], (1, 32, 16, 16),
         24 * FEATURES * PLACES, FEATURES * PLACES, FEATURES * PLACES),
        ([node("Transpose", "a", "y", perm=[0, 2, 3, 1])], (1, 16, 16, 32), 0, FEATURES * PLACES, FEATURES * PLACES),
        ([node("Flatten", "a", "y")], (1, 8192), 0, 0, 0),
        ([node("Relu", "a", "b"), node("Relu", "b", "y")], (1, 32, 16, 16), *[2 * FEATURES * PLACES] * 3),
    ],
    ids=["gap", "mp", "transpose", "flatten", "two"],
)  # fmt: skip
def test_digital_nodes_are_counted(
    nodes: list[onnx.NodeProto], out: tuple[int, ...], operations: int, read: int, written: int, tmp_path: Path
) -> None:
    path = after_a_convolution(tmp_path / "m.onnx", *nodes, out=out)
    counts = mcompiler.compile(path, "isaac", calibration="random").cost.counts.layers["(digital)"].events
    assert counts[Event.DIGITAL_OP] == operations
    assert counts[Event.BUFFER_READ_BYTE] == read, "8 bits an element, each once"
    assert counts[Event.BUFFER_WRITE_BYTE] == written


def test_bytes_follow_the_width_of_the_inputs(tmp_path: Path) -> None:
    path = after_a_convolution(tmp_path / "m.onnx", node("Relu", "a", "y"), out=(1, 32, 16, 16))
    narrow = mcompiler.compile(path, "isaac", calibration="random", overrides=("precision.inputs=4",))
    events = narrow.cost.counts.layers["(digital)"].events
    assert events[Event.BUFFER_READ_BYTE] == FEATURES * PLACES / 2
    assert events[Event.BUFFER_WRITE_BYTE] == FEATURES * PLACES / 2
