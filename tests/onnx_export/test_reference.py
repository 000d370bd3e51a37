"""reference.onnx: integer operators, exact against int64, and nothing of the crossbar."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mcompiler
from mcompiler.artefacts import layers
from mcompiler.driver import Build, content
from tests.support import crossbar
from tests.support.builds import (
    Case,
    activations,
    codes_of,
    conv_case,
    floats,
    gemm_case,
    matmul_case,
    model,
    node,
    run_plain,
    target,
)
from tests.support.kernels import saturating

ALLOWED = {
    "QuantizeLinear", "Clip", "Cast", "ConvInteger", "MatMulInteger", "Mul", "Add", "Identity",  # 8 bits
    "Div", "Round", "Mod",  # wider codes
}  # fmt: skip

CASES = [
    conv_case([3], channels=4, outputs=3, pads=[2, 1], dilations=[2]),
    conv_case([3, 3], pads=[1, 0, 2, 1], strides=[2, 1]),
    conv_case([3, 3], channels=4, outputs=8, group=2, pads=[1, 1, 1, 1]),
    conv_case([3, 3], channels=6, outputs=6, group=6, pads=[1, 1, 1, 1], signed=False),
    conv_case([2, 2, 2], channels=2, sizes=[4, 3, 4], pads=[1, 0, 1, 0, 1, 0]),
    gemm_case(transposed=True),
    gemm_case(transposed=False, signed=False),
    matmul_case([3, 9], [9, 4]),
    matmul_case([2, 3, 4, 5], [5, 3]),
    matmul_case([2, 4, 3, 7], [4, 7, 5]),
    matmul_case([2, 1, 3, 7], [4, 7, 5]),
]


def hold(case: Case, build: Build) -> dict[str, Any]:
    """Codes and accumulators of the reference are what the formulas say."""
    (layer,) = build.layer_data
    codes, accumulator = f"{case.name}/codes", f"{case.name}/accumulator"
    seen = run_plain(build.reference, case.feeds, [codes, accumulator])
    quantiser = layer.op.site.input
    x = case.feeds["x"].astype(np.float32)
    wanted = np.clip(np.rint(x / np.float32(quantiser.scale)) + quantiser.zero_point, 0, (1 << quantiser.bits) - 1)
    np.testing.assert_array_equal(seen[codes], wanted)
    sums = crossbar.exact(seen[codes], case.codes, layer)
    assert seen[accumulator].dtype in (np.int32, np.int64)
    np.testing.assert_array_equal(seen[accumulator], sums)
    plain = run_plain(build.reference, case.feeds, [codes, accumulator], optimise=False)
    for name, value in plain.items():
        np.testing.assert_array_equal(seen[name], value, err_msg=name)
    np.testing.assert_array_equal(run_plain(build.reference, case.feeds)["y"], plain["y"])
    return seen


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_every_operator(case: Case) -> None:
    build = case.compile(target())
    seen = hold(case, build)
    (layer,) = build.layer_data
    wide = run_plain(case.model, case.feeds)["y"]
    assert seen["y"].dtype == wide.dtype
    step = float(layer.op.site.input.scale) * np.abs(case.codes * 2.0**-6).sum(axis=1).max()
    assert np.abs(seen["y"] - wide).max() <= step, "half a step of each input code, and twice that to spare"


@pytest.mark.parametrize("weights", [2, 8, 9, 12, 16])
@pytest.mark.parametrize("inputs", [1, 4, 8, 9, 12, 16])
def test_every_width(weights: int, inputs: int) -> None:
    chip = target(
        f"precision.inputs={inputs}", f"precision.weights={weights}", f"encoding.slices={max(1, weights // 2)}",
        "digital.accumulator_bits=64",
    )  # fmt: skip
    for case in (
        conv_case([3], channels=4, outputs=3, pads=[2, 1], bits=weights),
        matmul_case([3, 9], [9, 4], bits=weights, signed=inputs % 2 == 0),
    ):
        build = case.compile(chip)
        hold(case, build)
        kernels = {n.op_type for n in build.reference.graph} & {"ConvInteger", "MatMulInteger"}
        assert kernels, "the products are integer operators"


@given(st.integers(9, 16), st.integers(9, 16), st.integers(0, 1000), st.booleans())
@settings(max_examples=15, deadline=None)
def test_wide_codes_are_exact(weights: int, inputs: int, seed: int, signed: bool) -> None:
    chip = target(
        f"precision.inputs={inputs}", f"precision.weights={weights}", "encoding.slices=8", "digital.accumulator_bits=64"
    )
    case = matmul_case([2, 30], [30, 3], bits=weights, signed=signed, seed=seed)
    hold(case, case.compile(chip))


def test_sums_beyond_32_bits() -> None:
    q = np.full((300, 2), 32767)
    x = np.full((1, 300), 3.0, np.float32)
    made = model([node("MatMul", "x w")], {"x": x}, {"w": floats(q)})
    case = Case(made, {"x": x}, q[None], "matmul-wide")
    chip = target("precision.inputs=16", "precision.weights=16", "encoding.slices=8", "digital.accumulator_bits=64")
    seen = hold(case, case.compile(chip))
    assert seen["matmul/accumulator"].max() == 300 * 32767 * 65535 > 1 << 32


def test_only_integer_operators_and_no_functions() -> None:
    for case in CASES:
        reference = case.compile(target("converters.adc.bits=4")).reference
        assert {n.op_type for n in reference.graph} <= ALLOWED
        assert not reference.functions
        assert set(reference.opset_imports) == {""}


def test_no_kernel_can_saturate() -> None:
    for weights, inputs in ((8, 8), (16, 16), (5, 4)):
        chip = target(f"precision.inputs={inputs}", f"precision.weights={weights}", "encoding.slices=8",
                      "digital.accumulator_bits=64")  # fmt: skip
        for case in (CASES[1], CASES[5]):
            made = Case(case.model, case.feeds, case.codes, case.label).compile(chip)
            assert saturating(made.reference, 255) == []


def test_it_shares_nothing_with_the_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the cells hold, and whatever they are decoded to, the reference is the same."""
    case = CASES[1]
    before = ir.to_proto(case.compile(target()).reference).SerializeToString(deterministic=True)
    for module, name in ((layers, "encode_cells"), (content, "decode_cells"), (layers, "read_blocks")):
        monkeypatch.setattr(module, name, lambda *args: pytest.fail("the reference looked at cells"))
    after = ir.to_proto(case.compile(target()).reference).SerializeToString(deterministic=True)
    assert before == after


def test_consumers_of_one_tensor_share_its_codes() -> None:
    q, x = codes_of((5, 4), 8, channel_axis=1), activations((3, 5))
    nodes = [node("MatMul", "x w", "a", "one"), node("MatMul", "x v", "b", "two"), node("Add", "a b")]
    made = model(nodes, {"x": x}, {"w": floats(q), "v": floats(q[::-1])})
    build = mcompiler.compile(made, target(), calibration={"x": x})
    for emitted in (build.reference, build.mapped):
        assert [n.op_type for n in emitted.graph].count("QuantizeLinear") == 1
