"""Integers in place of float weights, codes in place of float inputs: without PyTorch."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mcompiler
from mcompiler.errors import ModelError
from mcompiler.onnx_export import QuantisedLayer, insert_quantisers
from tests.support.builds import Array, activations, codes_of, model, node, run_plain, target

X = activations([3, 6])


def layer(codes: Array | None, *, scale: Any = 0.25, step: float | None = 0.5, zero: int = 7, table: Any = None) -> Any:
    outputs = 4 if codes is None else len(codes)
    scales = np.broadcast_to(np.asarray(scale, np.float32), outputs)
    held = None if codes is None else codes.astype(np.int32)
    return QuantisedLayer(held, scales, None if table is None else np.asarray(table, np.int32), step, zero)


def gemm(name: str = "a", **constants: Array) -> ir.Model:
    weights = {f"{name}.weight": np.ones((4, 6), np.float32), **constants}
    return model([node("Gemm", f"x {name}.weight", name="n", transB=1)], {"x": X}, weights)


def matmul() -> ir.Model:
    nodes = [node("Transpose", "a.weight", "w", name="t", perm=[1, 0]), node("MatMul", "x w", name="n")]
    return model(nodes, {"x": X}, {"a.weight": np.ones((4, 6), np.float32)})


def operators(emitted: ir.Model) -> Counter[str]:
    return Counter(n.op_type for n in emitted.graph)


def expected(x: Array, codes: Array, scale: Array, step: float, zero: int) -> Array:
    q = np.clip(np.rint(x / np.float32(step)) + zero, 0, 255) - zero
    return (q @ codes.T.astype(np.float64)) * step * scale  # type: ignore[no-any-return]


@pytest.mark.parametrize("source", [gemm, matmul])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), bits=st.sampled_from([2, 5, 8, 9]), tabled=st.booleans(), zero=st.integers(0, 255))
def test_values_are_codes_times_scales(source: Any, seed: int, bits: int, tabled: bool, zero: int) -> None:
    codes = codes_of([4, 6], bits, seed)
    scale = 2.0 ** np.random.default_rng(seed).integers(-8, 3, 4)
    table = np.unique(codes) if tabled else None
    emitted = insert_quantisers(source(), {"a": layer(codes, scale=scale, step=0.25, zero=zero, table=table)})
    found = run_plain(emitted, {"x": X}, optimise=False)["y"]
    np.testing.assert_allclose(found, expected(X, codes, scale, 0.25, zero), rtol=1e-6, atol=1e-6)
    assert ("Gather" in operators(emitted)) == tabled
    assert "a.weight" not in emitted.graph.initializers


@pytest.mark.parametrize(("bits", "kind"), [(8, ir.DataType.INT8), (9, ir.DataType.INT32)])
def test_codes_stand_in_the_smallest_type_that_holds_them(bits: int, kind: ir.DataType) -> None:
    emitted = insert_quantisers(gemm(), {"a": layer(codes_of([4, 6], bits))})
    (weights,) = (v for v in emitted.graph.initializers.values() if v.shape is not None and list(v.shape)[:2] == [4, 6])
    assert weights.dtype == kind


@pytest.mark.parametrize("source", [gemm, matmul])
@pytest.mark.parametrize("tabled", [True, False])
def test_compilation_needs_no_calibration_and_keeps_codes_and_name(source: Any, tabled: bool) -> None:
    codes = codes_of([4, 6], 8)
    table = np.unique(codes) if tabled else None
    build = mcompiler.compile(insert_quantisers(source(), {"a": layer(codes, table=table)}), target())
    (data,) = build.layer_data
    assert data.op.site.name == "a"
    np.testing.assert_array_equal(data.op.matrix.codes[0], codes.T)
    assert (data.op.site.input.scale, data.op.site.input.zero_point) == (0.5, 7)
    assert build.verify(X).exact


def test_the_source_model_is_left_alone() -> None:
    source = gemm()
    insert_quantisers(source, {"a": layer(codes_of([4, 6], 4))})
    assert operators(source) == {"Gemm": 1}
    assert list(source.graph.initializers) == ["a.weight"]
    assert [n.name for n in source.graph] == ["n"]


def test_float_inputs_and_float_weights() -> None:
    codes = codes_of([4, 6], 4)
    weights_only = insert_quantisers(gemm(), {"a": layer(codes, step=None)})
    assert operators(weights_only) == {"DequantizeLinear": 1, "Gemm": 1}
    np.testing.assert_allclose(run_plain(weights_only, {"x": X})["y"], X @ codes.T * 0.25, rtol=1e-5, atol=1e-5)
    inputs_only = insert_quantisers(gemm(), {"a": layer(None)})
    assert operators(inputs_only) == {"QuantizeLinear": 1, "DequantizeLinear": 1, "Gemm": 1}
    assert "a.weight" in inputs_only.graph.initializers


def two(first: str, second: str) -> ir.Model:
    nodes = [node("Gemm", f"x {n}.weight", n, name=f"node {n}", transB=1) for n in (first, second)]
    weights = {f"{n}.weight": np.ones((4, 6), np.float32) for n in ("a", "b")}
    return model([*nodes, node("Add", "a b")], {"x": X}, weights)


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_one_tensor_has_one_set_of_codes_whatever_the_order(order: tuple[str, str]) -> None:
    """The layers' order is that of the modules, not that of the graph."""
    codes = codes_of([4, 6], 4)
    emitted = insert_quantisers(two(*order), {"a": layer(codes), "b": layer(codes)})
    assert operators(emitted)["QuantizeLinear"] == 1
    found = run_plain(emitted, {"x": X}, optimise=False)["y"]
    np.testing.assert_allclose(found, 2 * expected(X, codes, np.full(4, 0.25), 0.5, 7), rtol=1e-6)


def test_other_codes_of_one_tensor_stay_two() -> None:
    codes = codes_of([4, 6], 4)
    for other in (layer(codes, step=0.25), layer(codes, zero=8)):
        assert operators(insert_quantisers(two("a", "b"), {"a": layer(codes), "b": other}))["QuantizeLinear"] == 2


def test_wrong_graphs_are_named() -> None:
    codes = codes_of([4, 6], 4)
    with pytest.raises(ModelError, match=r"layer 'b': the exported graph has no initializer 'b\.weight'; is"):
        insert_quantisers(gemm(), {"b": layer(codes)})
    nodes = [node("Gemm", "x a.weight", f"h{i}", name=f"n{i}", transB=1) for i in range(2)]
    twice = model([*nodes, node("Add", "h0 h1")], {"x": X}, {"a.weight": np.ones((4, 6), np.float32)})
    with pytest.raises(ModelError, match="layer 'a': its weight is read 2 times in the exported graph"):
        insert_quantisers(twice, {"a": layer(codes)})
    unused = model([node("Relu", "x")], {"x": X}, {"a.weight": np.ones((4, 6), np.float32)})
    with pytest.raises(ModelError, match="layer 'a': its weight is read 0 times"):
        insert_quantisers(unused, {"a": layer(codes)})
    added = model([node("Add", "x a.weight")], {"x": X}, {"a.weight": np.ones((3, 6), np.float32)})
    with pytest.raises(ModelError, match="layer 'a': its weight goes into the operator Add, which is not mapped"):
        insert_quantisers(added, {"a": layer(codes)})


@pytest.mark.parametrize("tabled", [True, False])
def test_wide_codes_between_quantised_inputs_and_outputs_run_in_onnxruntime(tabled: bool) -> None:
    """onnxruntime would fuse codes, product and what quantises the next input into an operator of 8 bits."""
    codes = codes_of([4, 6], 9)
    source = gemm()
    emitted = insert_quantisers(source, {"a": layer(codes, table=np.unique(codes) if tabled else None)})
    output = emitted.graph.outputs[0]
    scale = ir.node("Constant", [], {"value": ir.tensor(np.float32(0.5))})
    zero = ir.node("Constant", [], {"value": ir.tensor(np.uint8(128))})
    quantised = ir.node("QuantizeLinear", [output, scale.outputs[0], zero.outputs[0]])
    back = ir.node("DequantizeLinear", [quantised.outputs[0], scale.outputs[0], zero.outputs[0]])
    emitted.graph.extend([scale, zero, quantised, back])
    back.outputs[0].name, back.outputs[0].type, back.outputs[0].shape = "z", output.type, output.shape
    emitted.graph.outputs[0] = back.outputs[0]
    assert run_plain(emitted, {"x": X}, optimise=True)["z"].shape == (len(X), 4)
