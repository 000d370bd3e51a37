"""A network of two layers, small enough to check by eye: its build as text, held to tests/golden/two_layers/.

After a change that is meant to change it: `REFRESH_GOLDEN=1 pytest tests/test_golden.py`, and read the diff.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

import mcompiler

GOLDEN = Path(__file__).parent / "golden" / "two_layers"
FILES = ("layers.json", "placement.json", "cost.json", "cells.txt")


def two_layers(path: Path) -> Path:
    """conv 2x2 (1 -> 2 channels) on 3x3 images, Relu, then 8 -> 3 with one input and one output that are all zero."""
    kernel = np.array([[[[1, -2], [3, 0]]], [[[0, 4], [-1, 2]]]], dtype=np.float32) / 4
    matrix = (np.arange(24, dtype=np.float32).reshape(8, 3) - 12) / 16
    matrix[5] = 0
    matrix[:, 1] = 0
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "kernel", "bias"], ["a"], name="conv"),
            helper.make_node("Relu", ["a"], ["b"], name="relu"),
            helper.make_node("Flatten", ["b"], ["c"], name="flatten"),
            helper.make_node("MatMul", ["c", "matrix"], ["y"], name="head"),
        ],
        "two_layers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 3, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [
            numpy_helper.from_array(kernel, "kernel"),
            numpy_helper.from_array(np.array([0.25, -0.5], np.float32), "bias"),
            numpy_helper.from_array(matrix, "matrix"),
        ],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def produced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    samples = (np.arange(36, dtype=np.float32).reshape(4, 1, 3, 3) - 18) / 16
    small = ("array.rows=4", "array.columns=16", "array.rows_active=4", "precision.weights=4", "encoding.slices=2")
    build = mcompiler.compile(
        two_layers(folder / "two_layers.onnx"), "generic_128", calibration={"x": samples}, overrides=small
    )
    out = build.save(folder / "two_layers.build")
    lines = []
    for layer in build.layers:
        for tile in range(build.arrays(layer)):
            lines.append(f"{layer}, array {tile}: level codes, a word line a row")
            lines += ["".join(map(str, row)) for row in build.cells(layer, tile).tolist()]
    (out / "cells.txt").write_text("\n".join(lines) + "\n")
    assert build.verify(samples).exact
    return out


@pytest.mark.parametrize("name", FILES)
def test_build_is_as_written_down(name: str, produced: Path) -> None:
    text = (produced / name).read_text(encoding="utf-8")
    if os.environ.get("REFRESH_GOLDEN"):
        GOLDEN.mkdir(parents=True, exist_ok=True)
        (GOLDEN / name).write_text(text, encoding="utf-8")
    assert text == (GOLDEN / name).read_text(encoding="utf-8")
