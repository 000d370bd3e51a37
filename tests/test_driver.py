"""From model to proof: what is easily forgotten, and the Python interface."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

import mcompiler
from mcompiler.driver import Build
from mcompiler.errors import CompileError, DataError, TargetError
from mcompiler.fates import reason_text
from mcompiler.target import Target
from tests.support.builds import Array, activations, codes_of, conv_case, floats, model, node, run_plain, target
from tests.support.models import run

PAIR = target()
LOSSY = target("converters.adc.bits=4")
CALIBRATED = target("converters.adc.bits=4", "converters.adc.range=calibrated")
ISAAC = target(base="isaac")
LOSSY_OFFSET = target("converters.adc.bits=4", base="isaac")
ALL = {"pair": PAIR, "lossy": LOSSY, "calibrated": CALIBRATED, "isaac": ISAAC, "lossy isaac": LOSSY_OFFSET}


def built(made: ir.Model, feeds: dict[str, Array], chip: Target = PAIR) -> Build:
    """Compiled; saved, loaded and proved (as far as anything is promised)."""
    build = mcompiler.compile(made, chip, calibration=feeds)
    result = build.verify(feeds)
    assert result.failures == ()
    assert result.exact or chip not in (PAIR, ISAAC)
    return build


def close(made: ir.Model, build: Build, feeds: dict[str, Array], tolerance: float = 0.03) -> None:
    """8-bit quantisation stays near the float model."""
    wanted, given = run_plain(made, feeds), run_plain(build.mapped, feeds)
    assert list(wanted) == list(given)
    for name, value in wanted.items():
        assert given[name].dtype == value.dtype
        assert given[name].shape == value.shape
        size = max(1e-6, float(np.abs(value.astype(np.float64)).max(initial=0)))
        assert float(np.abs(given[name].astype(np.float64) - value).max(initial=0)) <= tolerance * size, name


# --- zeros -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chip", ALL)
def test_layers_of_zeros_are_their_bias(chip: str, tmp_path: Path) -> None:
    x = activations((3, 2, 5, 5))
    bias = activations((4,), 9)
    nodes = [
        node("Conv", "x w b", "c", "zero", pads=[1, 1, 1, 1]),
        node("Flatten", "c", "f"),
        node("MatMul", "f v", name="none"),
    ]
    constants = {"w": np.zeros((4, 2, 3, 3), np.float32), "b": bias, "v": np.zeros((100, 2), np.float32)}
    build = built(model(nodes, {"x": x}, constants), {"x": x}, ALL[chip])
    assert [build.arrays(layer) for layer in build.layers] == [0, 0]
    assert all(layer.analog.lossless for layer in build.layer_data)
    assert build.cost.crossbars == 0
    assert build.cost.utilisation == 0
    seen = run_plain(build.mapped, {"x": x}, ["c"])
    np.testing.assert_array_equal(seen["c"], np.broadcast_to(bias[:, None, None], (3, 4, 5, 5)))
    assert not seen["y"].any()
    loaded = mcompiler.load(build.save(tmp_path / "b"))
    assert loaded.verify({"x": x}).exact
    assert loaded.chips == 0
    assert loaded.report()


@pytest.mark.parametrize("chip", ALL)
def test_rows_columns_and_groups_of_zeros(chip: str) -> None:
    x = activations((2, 6, 6))
    w = floats(codes_of((6, 2, 3), 8))
    w[0], w[2:4], w[5, 1] = 0, 0, 0  # a channel, a group, and rows
    made = model([node("Conv", "x w b", group=3)], {"x": x}, {"w": w, "b": activations((6,), 3)})
    build = built(made, {"x": x}, ALL[chip])
    (layer,) = build.layer_data
    assert layer.op.matrix.cols.counts().tolist() == [1, 0, 2]
    if chip in ("pair", "isaac"):
        close(made, build, {"x": x})


def test_a_single_weight() -> None:
    x = activations((2, 1))
    for chip in ALL.values():
        build = built(model([node("MatMul", "x w")], {"x": x}, {"w": np.ones((1, 1), np.float32)}), {"x": x}, chip)
        assert build.cost.crossbars >= 1


def test_inputs_that_are_all_zero() -> None:
    case = conv_case([3], channels=2)
    for chip in ALL.values():
        with pytest.raises(DataError, match="all values of the calibration data are zero"):
            mcompiler.compile(case.model, chip, calibration={"x": np.zeros((2, 2, 6), np.float32)})


def test_extreme_sizes_of_weights() -> None:
    x = activations((4, 6))
    w = floats(codes_of((6, 4), 8, channel_axis=1)).astype(np.float32)
    for factor in (1e-30, 1e30, 1e-44):
        made = model([node("MatMul", "x w")], {"x": x}, {"w": (w * np.float32(factor)).astype(np.float32)})
        build = built(made, {"x": x})
        assert np.isfinite(run_plain(build.mapped, {"x": x})["y"]).all()


# --- numbers that are none -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", ["w", "b"])
def test_weights_and_biases_that_are_no_numbers(bad: float, which: str) -> None:
    x = activations((2, 3, 5))
    constants = {"w": floats(codes_of((4, 3, 3), 8)), "b": activations((4,), 1)}
    constants[which].flat[1] = bad
    with pytest.raises(CompileError, match=r"node 'block/conv': .*(NaN|infinit|finite)") as caught:
        mcompiler.compile(
            model([node("Conv", "x w b", name="block/conv")], {"x": x}, constants), PAIR, calibration={"x": x}
        )
    assert caught.value.node == "block/conv"


def test_calibration_data_that_are_no_numbers() -> None:
    case = conv_case([3], channels=2)
    x = case.feeds["x"].copy()
    x[0, 0, 0] = np.nan
    with pytest.raises((CompileError, DataError), match=r"finite|NaN"):
        mcompiler.compile(case.model, PAIR, calibration={"x": x})


# --- models of every kind --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chip", ["pair", "isaac"])
def test_float16(chip: str) -> None:
    x = activations((2, 3, 6, 6), dtype=np.float16)
    nodes = [node("Conv", "x w b", "c", pads=[1, 1, 1, 1]), node("Relu", "c", "r"), node("GlobalAveragePool", "r", "p"),
             node("Flatten", "p", "f"), node("Gemm", "f v")]  # fmt: skip
    constants = {
        "w": floats(codes_of((4, 3, 3, 3), 6), np.float16), "b": activations((4,), 3, dtype=np.float16),
        "v": floats(codes_of((4, 3), 6, channel_axis=1), np.float16),
    }  # fmt: skip
    made = model(nodes, {"x": x}, constants)
    build = built(made, {"x": x}, ALL[chip])
    assert build.layers == ("conv", "gemm")
    close(made, build, {"x": x})


def test_double() -> None:
    x = activations((3, 5), dtype=np.float64)
    made = model([node("MatMul", "x w")], {"x": x}, {"w": floats(codes_of((5, 4), 8, channel_axis=1), np.float64)})
    close(made, built(made, {"x": x}), {"x": x})


def test_a_weight_used_by_three_nodes() -> None:
    """Once transposed; and as an operand of a digital one."""
    x = activations((5, 5))
    nodes = [
        node("MatMul", "x w", "a", "one"), node("MatMul", "a w", "b", "two"),
        node("Gemm", "b w", "c", "three", transB=1), node("Add", "c w"),
    ]  # fmt: skip
    made = model(nodes, {"x": x}, {"w": floats(codes_of((5, 5), 8, channel_axis=1))})
    build = built(made, {"x": x})
    assert build.layers == ("one", "two", "three")
    close(made, build, {"x": x}, 0.05)


def test_outputs_that_are_inputs_or_constants() -> None:
    x = activations((3, 5))
    nodes = [node("MatMul", "x w", "a"), node("Identity", "x", "same", "i"), node("Identity", "k", "kept", "j")]
    k = np.arange(4, dtype=np.float32)
    made = ir.to_proto(
        model(
            nodes, {"x": x}, {"w": floats(codes_of((5, 4), 8, channel_axis=1)), "k": k}, outputs=("a", "same", "kept")
        )
    )
    made.graph.output.append(made.graph.input[0])
    made.graph.output.append(helper.make_tensor_value_info("k", 1, [4]))
    names = [value.name for value in made.graph.output]
    build = mcompiler.compile(ir.from_proto(made), PAIR, calibration={"x": x})
    assert build.verify(x).exact
    for emitted in (build.mapped, build.reference):
        seen = run_plain(emitted, {"x": x})
        assert list(seen) == names
        np.testing.assert_array_equal(seen["x"], x)
        np.testing.assert_array_equal(seen["same"], x)
        np.testing.assert_array_equal(seen["k"], k)
        np.testing.assert_array_equal(seen["kept"], k)


def test_pooling_with_ceil_mode() -> None:
    x = activations((2, 3, 7, 8))
    nodes = [
        node("Conv", "x w", "c", pads=[1, 1, 1, 1]),
        node("MaxPool", "c", "m", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        node("AveragePool", "m", "a", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
        node("Conv", "a v", name="last"),
    ]  # fmt: skip
    made = model(nodes, {"x": x}, {"w": floats(codes_of((4, 3, 3, 3), 8)), "v": floats(codes_of((2, 4, 1, 1), 8))})
    build = built(made, {"x": x})
    assert build.layers == ("conv", "last")
    assert run_plain(build.mapped, {"x": x})["y"].shape == (2, 2, 2, 2)
    close(made, build, {"x": x})


def test_names_that_are_missing() -> None:
    x = activations((2, 4))
    nodes = [node("MatMul", "x w", "a", ""), node("MatMul", "a w", "b", "MatMul_2"), node("MatMul", "b w", "c", ""),
             node("Relu", "c", name="")]  # fmt: skip
    build = built(model(nodes, {"x": x}, {"w": floats(codes_of((4, 4), 8, channel_axis=1))}), {"x": x})
    assert build.layers[:2] == ("MatMul_0", "MatMul_2")
    assert len(set(build.layers)) == 3
    assert build.fates[3].name == "Relu_3"


def test_a_fixed_batch_is_fed_in_chunks() -> None:
    x = activations((7, 5))
    made = model([node("MatMul", "x w")], {"x": x[:3]}, {"w": floats(codes_of((5, 4), 8, channel_axis=1))}, batch=None)
    build = mcompiler.compile(made, PAIR, calibration={"x": x})
    labels = (x @ floats(codes_of((5, 4), 8, channel_axis=1))).argmax(axis=1)
    result = build.verify(x, labels)
    assert (result.samples, result.exact, result.top1_float) == (7, True, 1.0)


def test_a_model_without_nodes_or_with_none_analog() -> None:
    x = activations((2, 4))
    for nodes in ([node("Identity", "x")], [node("Relu", "x"), node("Neg", "x", "unused")]):
        build = built(model(nodes, {"x": x}), {"x": x})
        assert build.layers == ()
        assert build.cost.crossbars == 0
        assert len(build.fates) == len(nodes)


def test_zero_samples_and_no_data() -> None:
    case = conv_case([3], channels=2)
    with pytest.raises(DataError, match="calibration: no samples in it"):
        mcompiler.compile(case.model, PAIR, calibration={"x": case.feeds["x"][:0]})
    with pytest.raises(CompileError, match=r"node 'conv': its input is float .*--calibration random for costs only"):
        mcompiler.compile(case.model, PAIR)
    with pytest.raises(DataError, match="samples: no samples in it"):
        case.compile(PAIR).verify(case.feeds["x"][:0])
    with pytest.raises(DataError, match="labels without inputs"):
        case.compile(PAIR).verify(y=np.zeros(3, np.int64))


def test_weights_that_the_cells_cannot_hold() -> None:
    """A target's own bits are checked with the target; a model's own codes with the model."""
    with pytest.raises(
        TargetError, match=r"precision.weights: 9 bits, but 2 x 2 bits of a cell .*set encoding.slices = 4"
    ):
        mcompiler.load_target("generic_128", ["precision.weights=9", "encoding.slices=2"])
    x = activations((2, 4))
    codes = codes_of((4, 4), 8, channel_axis=1).astype(np.int8)
    scale, zero = np.float32(0.02), np.uint8(128)
    nodes = [
        node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "d"),
        node("DequantizeLinear", "w s", "v", "weights"), node("MatMul", "d v"),
    ]  # fmt: skip
    made = model(nodes, {"x": x}, {"w": codes, "s": np.array(scale), "z": np.array(zero)})
    small = target("precision.weights=5", "encoding.slices=2")
    with pytest.raises(CompileError, match=r"node 'matmul': weight codes from -\d+ to 127 do not fit into -15..15"):
        mcompiler.compile(made, small)
    build = mcompiler.compile(made, PAIR)
    assert build.verify(x).exact, "without calibration: the model brings its scales"


def test_the_models_own_scales_are_taken_exactly() -> None:
    """The reference of a QDQ model quantises as the model does: its codes are the model's."""
    x = activations((5, 4))
    codes = codes_of((4, 3), 8, channel_axis=1).astype(np.int8)
    nodes = [
        node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "d"),
        node("DequantizeLinear", "w t", "v", "weights"), node("MatMul", "d v"),
    ]  # fmt: skip
    constants: dict[str, Array] = {
        "w": codes,
        "s": np.array(np.float32(0.03)),
        "z": np.array(np.uint8(77)),
        "t": np.array(np.float32(0.5)),
    }
    made = model(nodes, {"x": x}, constants)
    build = mcompiler.compile(made, PAIR)
    (layer,) = build.layer_data
    assert (layer.op.site.input.scale, layer.op.site.input.zero_point) == (float(np.float32(0.03)), 77)
    q = np.clip(np.rint(x / np.float32(0.03)) + 77, 0, 255)
    wanted = (q - 77) @ codes.astype(np.float64) * float(np.float32(0.03)) * 0.5
    np.testing.assert_allclose(run_plain(build.mapped, {"x": x})["y"], wanted, rtol=1e-5)
    np.testing.assert_allclose(run(ir.to_proto(made), {"x": x})[0], wanted, rtol=1e-5, atol=1e-5)


def test_fates_tell_what_became_of_every_node() -> None:
    x = activations((2, 3, 5, 5))
    nodes = [
        node("Conv", "x w", "c"), node("BatchNormalization", "c s b m v", "n", "bn"), node("Relu", "n", "r"),
        node("Mul", "k k", "kk"), node("Add", "r kk"), node("Neg", "x", "unused"),
    ]  # fmt: skip
    one = np.ones(4, np.float32)
    constants = {
        "w": floats(codes_of((4, 3, 3, 3), 8)),
        "s": one,
        "b": one,
        "m": one,
        "v": one,
        "k": np.float32(3) * one[:1],
    }
    build = built(model(nodes, {"x": x}, constants), {"x": x})
    fates = {fate.name: (str(fate.fate), reason_text(fate.reason)) for fate in build.fates}
    assert list(fates) == ["conv", "bn", "relu", "mul", "add", "neg"]
    assert fates["conv"][0] == fates["bn"][0] == "analog"
    assert "folded into" in fates["bn"][1]
    assert fates["relu"][0] == fates["add"][0] == "digital"
    assert "evaluated at compile time" in fates["mul"][1]
    assert "unused" in fates["neg"][1]


# --- the Python interface --------------------------------------------------------------------------------------------


def test_the_docstrings_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    case = conv_case([3, 3])
    onnx.save(ir.to_proto(case.model), "model.onnx")
    np.savez("calibration.npz", x=case.feeds["x"])
    text = (mcompiler.__doc__ or "").split("\n")
    code = textwrap.dedent("\n".join(line for line in text if line.startswith("    ")))
    assert "mcompiler.compile(" in code
    names: dict[str, Any] = {"x": case.feeds["x"], "y": np.zeros(2, np.int64)}
    exec(code, names)
    assert (tmp_path / "model.build" / "manifest.json").is_file()
    assert mcompiler.load("model.build").verify(case.feeds["x"]).exact


def test_models_by_path_and_in_memory_are_one(tmp_path: Path) -> None:
    case = conv_case([3, 3])
    onnx.save(ir.to_proto(case.model), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=case.feeds["x"])
    builds = [
        mcompiler.compile(tmp_path / "m.onnx", PAIR, calibration=tmp_path / "d.npz"),
        mcompiler.compile(str(tmp_path / "m.onnx"), PAIR, calibration=str(tmp_path / "d.npz")),
        mcompiler.compile(case.model, PAIR, calibration=case.feeds),
    ]
    texts = {ir.to_proto(build.mapped).SerializeToString(deterministic=True) for build in builds}
    assert len(texts) == 1
    assert builds[0].cost == builds[1].cost == builds[2].cost


def test_the_model_given_is_left_as_it_was() -> None:
    case = conv_case([3, 3])
    before = ir.to_proto(case.model).SerializeToString(deterministic=True)
    case.compile(PAIR).verify(case.feeds)
    assert ir.to_proto(case.model).SerializeToString(deterministic=True) == before


def test_observers_see_every_pass() -> None:
    seen: list[str] = []
    case = conv_case([3])
    build = mcompiler.compile(
        case.model, PAIR, calibration=case.feeds, observers=(lambda name, program, seconds: seen.append(name),)
    )
    assert seen[0] == "inline"
    assert seen[-1] == "schedule"
    assert set(seen) == set(build.seconds)


def test_wrong_options() -> None:
    case = conv_case([3])
    with pytest.raises(CompileError, match="range 'widest' is unknown; choose minmax, percentile or mse"):
        mcompiler.compile(case.model, PAIR, calibration=case.feeds, range="widest")
    with pytest.raises(CompileError, match="--dim depth: the model has no such dimension; it has none that is open"):
        mcompiler.compile(case.model, PAIR, calibration=case.feeds, dims={"depth": 3})
    units = ("arrays_per_core", "cores_per_tile", "tiles_per_chip")
    with pytest.raises(CompileError, match=r"needs \d+ arrays and 1 chip\(s\) of 1 hold 1: \d+ too many"):
        mcompiler.compile(
            case.model, target(*(f"hierarchy.{unit}=1" for unit in units)), calibration=case.feeds, chips=1,
        )  # fmt: skip


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
def test_every_range_is_exact(method: str) -> None:
    case = conv_case([3, 3])
    build = mcompiler.compile(case.model, PAIR, calibration=case.feeds, range=method)
    assert build.verify(case.feeds).exact
    assert build.options.passes["range"] == method


def test_calibration_may_be_the_array_of_the_only_input() -> None:
    case = conv_case([3, 3])
    named, bare = (mcompiler.compile(case.model, PAIR, calibration=data) for data in (case.feeds, case.feeds["x"]))
    assert bare.layer_data[0].op.site.input == named.layer_data[0].op.site.input
    assert bare.options == named.options
