"""Lossless converters: mapped equals reference to the last integer, however onnxruntime optimises the graph."""

from __future__ import annotations

import platform
from collections import Counter

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mcompiler
from mcompiler.driver import Build
from mcompiler.onnx_export import folded
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

WIDE = ("digital.accumulator_bits=64", "encoding.slices=8", "converters.adc.bits=12")


def hold(case: Case, build: Build) -> None:
    """Every layer lossless; accumulators and outputs equal: with probes and without, optimised and not."""
    (layer,) = build.layer_data
    assert layer.analog.lossless
    np.testing.assert_array_equal(crossbar.weights(build, layer), case.codes)
    probes = [f"{case.name}/codes", f"{case.name}/accumulator"]
    wanted = run_plain(build.reference, case.feeds, probes, optimise=False)
    exact = crossbar.exact(wanted[probes[0]], case.codes, layer)
    np.testing.assert_array_equal(wanted[probes[1]], exact)
    for optimise in (True, False):
        seen = run_plain(build.mapped, case.feeds, probes, optimise=optimise)
        np.testing.assert_array_equal(seen[probes[0]], wanted[probes[0]])
        np.testing.assert_array_equal(seen[probes[1]].astype(np.float64), exact)
        np.testing.assert_array_equal(seen["y"], wanted["y"])
    for emitted in (build.mapped, build.reference):
        np.testing.assert_array_equal(run_plain(emitted, case.feeds)["y"], wanted["y"], err_msg="without probes")
    assert saturating(build.mapped, (1 << layer.op.site.input.bits) - 1) == []


def operators(build: Build) -> Counter[str]:
    """Operators of the only function."""
    (function,) = build.mapped.functions.values()
    return Counter(n.op_type for n in function)


CASES = [
    conv_case([3], channels=4, outputs=3, pads=[2, 1], dilations=[2]),
    conv_case([1], channels=30, outputs=3, sizes=[4]),
    conv_case([3, 3], pads=[1, 0, 2, 1], strides=[2, 1]),
    conv_case([3, 3], pads=[1, 1, 1, 1], signed=False),
    conv_case([3, 3], channels=4, outputs=8, group=2, pads=[1, 1, 1, 1]),
    conv_case([3, 3], channels=6, outputs=6, group=6, pads=[1, 1, 1, 1]),
    conv_case([3, 3], channels=6, outputs=12, group=6, pads=[0, 2, 1, 0]),
    conv_case([2, 2, 2], channels=2, sizes=[4, 3, 4], pads=[1, 0, 1, 0, 1, 0]),
    gemm_case(transposed=True),
    gemm_case(transposed=False, signed=False),
    matmul_case([3, 9], [9, 4]),
    matmul_case([2, 3, 4, 5], [5, 3]),
    matmul_case([2, 4, 3, 7], [4, 7, 5]),
    matmul_case([2, 1, 3, 7], [4, 7, 5]),
    matmul_case([1, 21], [21, 1], signed=False),
]

CHIPS = {
    "pair": target(),
    "reads of three rows": target("array.rows_active=3", "converters.adc.bits=6"),
    "separate": target("encoding.slices_in=separate", "encoding.pairs_in=separate"),
    "after, pedestal converted": target(
        "encoding.subtract=after_adc", "encoding.pedestal=digital_count", "converters.adc.bits=12"
    ),
    "offset, flips, unit column": target(base="isaac"),
    "offset, digital sum": target(
        "encoding.flip=false", "encoding.input_sum=digital", "converters.adc.bits=10", base="isaac"
    ),
    "phases of three bits": target("converters.dac.bits=3", "converters.adc.bits=12"),
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_every_operator(case: Case) -> None:
    for name in ("pair", "offset, flips, unit column"):
        hold(case, case.compile(CHIPS[name]))


@pytest.mark.parametrize("chip", CHIPS)
def test_every_encoding(chip: str) -> None:
    for case in (CASES[2], CASES[4], CASES[8]):
        hold(case, case.compile(CHIPS[chip]))


@pytest.mark.parametrize("weights", [2, 4, 8, 9, 12, 16])
@pytest.mark.parametrize("inputs", [1, 4, 8, 9, 16])
def test_every_width(weights: int, inputs: int) -> None:
    chip = target(*WIDE, f"precision.inputs={inputs}", f"precision.weights={weights}")
    for case in (
        conv_case([3], channels=4, outputs=3, pads=[2, 1], bits=weights),
        matmul_case([3, 9], [9, 4], bits=weights, signed=inputs % 2 == 0),
    ):
        hold(case, case.compile(chip))


@given(st.integers(2, 16), st.integers(1, 16), st.integers(0, 1000), st.booleans(), st.booleans())
@settings(max_examples=20, deadline=None)
def test_any_width(weights: int, inputs: int, seed: int, signed: bool, convolution: bool) -> None:
    chip = target(*WIDE, f"precision.inputs={inputs}", f"precision.weights={weights}")
    if convolution:
        case = conv_case([3], channels=10, outputs=3, pads=[2, 1], bits=weights, seed=seed, signed=signed, samples=1)
    else:
        case = matmul_case([2, 30], [30, 3], bits=weights, signed=signed, seed=seed)
    hold(case, case.compile(chip))


# --- each way to an exact product, at its extreme --------------------------------------------------------------------


def extreme(
    codes: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
    x: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    op: str,
) -> Case:
    """A model whose weights are all at the end of their range, and so are its inputs."""
    made = model([node(op, "x w")], {"x": x}, {"w": floats(codes)})
    groups = codes.reshape(len(codes), -1).T[None] if op == "Conv" else codes.reshape(-1, *codes.shape[-2:])
    return Case(made, {"x": x}, groups, f"{op.lower()}-extreme")


def chip_of(weights: int, inputs: int) -> mcompiler.Target:
    return target(
        "digital.accumulator_bits=64", f"encoding.slices={-(-weights // 2)}", f"precision.inputs={inputs}",
        f"precision.weights={weights}", small=False,
    )  # fmt: skip


def test_just_below_2_to_the_24_one_float_product() -> None:
    rows = (1 << 24) // (127 * 255)  # 518
    case = extreme(np.full((2, rows, 1), 127), np.full((1, rows, 3), 2, np.float32), "Conv")
    build = case.compile(chip_of(8, 8))
    hold(case, build)
    assert operators(build)["Conv"] == 1
    assert operators(build)["Slice"] == 0


def test_above_it_a_convolution_is_cut_by_channels() -> None:
    for rows in (519, 1300):
        case = extreme(np.full((2, rows, 1), 127), np.full((1, rows, 3), 2, np.float32), "Conv")
        build = case.compile(chip_of(8, 8))
        hold(case, build)
        assert operators(build)["Conv"] == -(-rows // 518)


def test_above_it_a_product_is_done_in_bytes() -> None:
    q = np.full((700, 2), 127)
    q[:, 1] *= -1
    case = extreme(q, np.full((2, 700), 2, np.float32), "MatMul")
    build = case.compile(chip_of(8, 8))
    hold(case, build)
    assert operators(build)["MatMulInteger"] == 1


def test_wide_products_are_done_in_double() -> None:
    case = extreme(np.full((300, 2), 32767), np.full((2, 300), 2, np.float32), "MatMul")
    build = case.compile(chip_of(16, 16))
    hold(case, build)
    assert operators(build)["MatMul"] == 1


def test_wide_convolutions_are_done_in_pieces() -> None:
    for weights, inputs in ((16, 16), (9, 16), (16, 8)):
        top = (1 << (weights - 1)) - 1
        x = np.full((1, 70, 4), 2, np.float32)
        x[0, ::3] = -1.5  # a zero point
        case = extreme(np.full((2, 70, 3), top), x, "Conv")
        build = case.compile(chip_of(weights, inputs))
        hold(case, build)
        assert operators(build)["Conv"] >= 1


def test_groups_above_2_to_the_24() -> None:
    q = np.full((4, 600, 1), 127)
    x = np.full((1, 1200, 2), 2, np.float32)
    made = model([node("Conv", "x w", group=2)], {"x": x}, {"w": floats(q)})
    case = Case(made, {"x": x}, q.reshape(2, 2, 600).transpose(0, 2, 1), "conv-groups")
    hold(case, case.compile(chip_of(8, 8)))


def test_zero_point_of_a_padded_convolution() -> None:
    """All inputs far from zero: padding with code 0 instead of z_x would be seen in every corner."""
    x = -np.abs(activations((1, 2, 5, 5))) - 1
    q = codes_of((3, 2, 3, 3), 8)
    made = model([node("Conv", "x w", pads=[1, 1, 1, 1])], {"x": x}, {"w": floats(q)})
    case = Case(made, {"x": x}, q.reshape(3, -1).T[None], "conv-padded")
    build = case.compile(target())
    assert build.layer_data[0].op.site.input.zero_point == 255
    hold(case, build)


# --- the barrier -----------------------------------------------------------------------------------------------------


def test_without_the_barrier_onnxruntime_breaks_exactness(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason for the Clip: fused into the convolution, scales round the integer weights."""
    case = conv_case([3, 3], channels=8, outputs=8, pads=[1, 1, 1, 1])
    build = case.compile(target())
    wanted = run_plain(build.reference, case.feeds)["y"]
    np.testing.assert_array_equal(run_plain(build.mapped, case.feeds)["y"], wanted)
    monkeypatch.setattr(folded, "barrier", lambda emitter, value: value)
    bare = case.compile(target()).mapped
    assert operators(build)["Clip"] == 1
    assert not any(n.op_type == "Clip" for f in bare.functions.values() for n in f)
    assert not np.array_equal(run_plain(bare, case.feeds)["y"], wanted), "onnxruntime no longer needs the barrier"


def test_a_residual_network_keeps_its_bits() -> None:
    """Convolution, Relu, residual Add: what onnxruntime likes to fuse, on the shipped graphs."""
    x = activations((2, 4, 6, 6))
    q = codes_of((4, 4, 3, 3), 8)
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        node("Conv", "x w b", "a", "one", **pads), node("Relu", "a", "r"), node("Conv", "r v b", "c", "two", **pads),
        node("Add", "c x", "s"), node("Relu", "s", "t"), node("GlobalAveragePool", "t", "p"),
        node("Flatten", "p", "f"), node("Gemm", "f u", "y", "head"),
    ]  # fmt: skip
    constants = {"w": floats(q), "v": floats(q[::-1]), "b": activations((4,), 9), "u": activations((4, 3), 3)}
    made = model(nodes, {"x": x}, constants)
    for chip in (target(), target(base="isaac")):
        build = mcompiler.compile(made, chip, calibration={"x": x})
        outputs = [
            run_plain(m, {"x": x}, optimise=o)["y"] for m in (build.mapped, build.reference) for o in (True, False)
        ]
        for other in outputs[1:]:
            np.testing.assert_array_equal(outputs[0], other)


BEHIND = {
    "normalisation": [node("BatchNormalization", "a g h m v", "n"), node("Add", "n a")],
    "average": [node("GlobalAveragePool", "a")],
    "rectified average": [node("Relu", "a", "r"), node("GlobalAveragePool", "r")],
}


@pytest.mark.parametrize("name", BEHIND)
def test_what_reads_a_convolution_without_bias_keeps_its_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind its own convolutions onnxruntime normalises and averages in a blocked layout, with other roundings."""
    x, q = activations((20, 3, 17, 17)), codes_of((32, 3, 3, 3), 8)
    constants = {"w": floats(q), "g": activations((32,), 3), "h": activations((32,), 4), "m": activations((32,), 5)}
    constants["v"] = np.abs(activations((32,), 6)) + np.float32(0.5)
    used = {key: constants[key] for key in (constants if name == "normalisation" else "w")}
    made = model([node("Conv", "x w", "a", pads=[1, 1, 1, 1]), *BEHIND[name]], {"x": x}, used)

    def outputs() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        build = mcompiler.compile(made, target(), calibration={"x": x})
        return run_plain(build.mapped, {"x": x})["y"], run_plain(build.reference, {"x": x})["y"]

    np.testing.assert_array_equal(*outputs())
    monkeypatch.setattr(folded, "_plain_layout", folded.barrier)
    if platform.machine() in ("x86_64", "AMD64"):  # elsewhere there may be no such layout
        assert not np.array_equal(*outputs()), "onnxruntime no longer needs the conversion"


def test_functions_have_names_that_every_parser_takes() -> None:
    x, q = activations((2, 3)), codes_of((3, 3), 8, channel_axis=1)
    nodes = [
        node("MatMul", "x w", "a", "/a/b.1"),
        node("MatMul", "a w", "b", "a b 1"),
        node("MatMul", "b w", "y", "ä/ö"),
    ]
    build = mcompiler.compile(model(nodes, {"x": x}, {"w": floats(q)}), target(), calibration={"x": x})
    names = [function.name for function in build.mapped.functions.values()]
    assert len(set(names)) == 3
    assert all(name.isascii() and name.replace("_", "a").isalnum() for name in names)
    assert build.layers == ("/a/b.1", "a b 1", "ä/ö")
    np.testing.assert_array_equal(run_plain(build.mapped, {"x": x})["y"], run_plain(build.reference, {"x": x})["y"])


def test_inputs_and_outputs_are_the_models() -> None:
    x, z = activations((2, 3)), activations((2, 3), 5)
    nodes = [node("MatMul", "x w", "b"), node("Add", "b z", "a"), node("Shape", "x", "s")]
    made = model(nodes, {"x": x, "z": z}, {"w": floats(codes_of((3, 3), 8, channel_axis=1))}, outputs=("b", "a", "s"),
                 kinds={"s": 7})  # fmt: skip
    build = mcompiler.compile(made, target(), calibration={"x": x, "z": z})
    for emitted in (build.mapped, build.reference):
        graph = ir.to_proto(emitted).graph
        assert [(v.name, v.type.tensor_type.elem_type) for v in graph.input] == [("x", 1), ("z", 1)]
        assert [(v.name, v.type.tensor_type.elem_type) for v in graph.output] == [("b", 1), ("a", 1), ("s", 7)]
        assert run_plain(emitted, {"x": x, "z": z})["s"].tolist() == [2, 3]
