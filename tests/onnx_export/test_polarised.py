"""Signs of fragments and tables of levels, end to end: the mapped path equals a crossbar in numpy, code by code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mcompiler
from mcompiler.artefacts import LayerData
from mcompiler.artefacts import layers as layers_module
from mcompiler.conductance import MappedMatrix, conductances
from mcompiler.driver import Build
from mcompiler.driver import content as content_module
from mcompiler.errors import BuildError, CompileError
from mcompiler.geometry import conv_matrix
from mcompiler.passes.lower.weights import trace
from mcompiler.passes.quantise import quantise_weights
from mcompiler.target import Target
from tests.support import crossbar
from tests.support.builds import Case, conv_case, floats, gemm_case, matmul_case, model, node, run_plain, target
from tests.support.programs import matrix_op, one_sign
from tests.support.sealed import rewrite_array, rewrite_npz

REFERENCE, DIGITISED, COUNT = (
    f"encoding.pedestal={where}" for where in ("reference_column", "digitised_reference", "digital_count")
)
POLARISED = ("encoding.weights=polarised", REFERENCE, "array.rows_active=4")
HALF = ("device.g_min_siemens=1e-6", "device.g_max_siemens=7e-6")
QUARTER = ("device.g_min_siemens=1e-6", "device.g_max_siemens=13e-6")
NINE = ("device.g_min_siemens=1e-6", "device.g_max_siemens=9e-6")  # G_min is 512 units of the range / 4096

MEANS = ("device.levels=6", "device.level_means=[8,700,1650,2400,3300,4090]", "encoding.slices=1", *NINE)
UNFORMED = ("encoding.partner=unformed", "encoding.slices=1", "device.levels=5", *NINE)

ENCODINGS: dict[str, tuple[str, ...]] = {
    "signs": POLARISED,
    "signs-count": (*POLARISED, COUNT, *QUARTER),
    "signs-count-half": (*POLARISED, COUNT, *HALF, "encoding.slices_in=separate"),
    "signs-digitised": (*POLARISED, DIGITISED, *HALF),
    "signs-of-one-row": (*POLARISED, "array.rows_active=1"),
    "signs-of-whole-tiles": (*POLARISED, "array.rows_active=8", "encoding.slices_in=separate"),
    "means": MEANS,
    "means-separate": (*MEANS, "encoding.pairs_in=separate"),
    "means-after": (*MEANS, "encoding.subtract=after_adc", COUNT),
    "means-signs": (*MEANS, *POLARISED),
    "means-signs-count": (*MEANS, *POLARISED, COUNT),
    "means-signs-digitised": (*MEANS, *POLARISED, DIGITISED),
    "unformed": UNFORMED,
    "unformed-means": (*MEANS, "encoding.partner=unformed", "encoding.pairs_in=separate"),
}


def fitted(case: Case, chip: Target) -> Case:
    """The case with codes that the target holds: entries of its level table, one sign in every fragment."""
    codes = case.codes.copy()
    if chip.has_level_table:
        steps = np.array(chip.cell_steps)
        codes = np.sign(codes) * steps[np.abs(codes) % len(steps)]
        codes[np.abs(case.codes) == np.abs(case.codes).max()] = steps[-1]  # every channel has its largest code
    if chip.encoding.weights == "polarised":
        codes = one_sign(matrix_op(codes), chip).matrix.codes.astype(np.int64)
    assert len(case.model.graph.initializers) >= 1
    clone = case.model.clone()
    weights = clone.graph.initializers["w"]
    assert weights.const_value is not None
    old = weights.const_value.numpy()
    if case.name == "conv":
        new = codes.swapaxes(1, 2).reshape(old.shape)
        assert np.array_equal(conv_matrix(new, len(codes)), codes)
    else:
        new = codes.reshape(old.shape) if old.ndim > 2 or old.shape == codes.shape[1:] else codes[0].T
    weights.const_value = ir.tensor(floats(new, old.dtype), name="w")
    return replace(case, model=clone, codes=codes)


CONVOLUTION = conv_case([3, 2], channels=2, outputs=5, sizes=[5, 4], pads=[1, 0, 2, 1], strides=[2, 1])
CASES = [
    CONVOLUTION,
    conv_case([3, 3], channels=4, outputs=8, group=2, pads=[1, 1, 1, 1]),
    conv_case([3, 3], channels=6, outputs=6, group=6, signed=False),
    conv_case([1, 1], channels=20, outputs=3),
    matmul_case([3, 4, 11], [11, 6]),
    gemm_case(transposed=True, rows=21),
]


def only(build: Build) -> LayerData:
    (layer,) = build.layer_data
    return layer


def hold(case: Case, chip: Target) -> Build:
    """The mapped accumulator is the numpy crossbar's, with optimisation on and off."""
    case = fitted(case, chip)
    build = case.compile(chip)
    layer = only(build)
    probes = [f"{case.name}/codes", f"{case.name}/accumulator"]
    seen = run_plain(build.mapped, case.feeds, probes)
    plain = run_plain(build.mapped, case.feeds, probes, optimise=False)
    for value in (*probes, "y"):
        np.testing.assert_array_equal(seen[value], plain[value], err_msg=value)
    codes, given = seen[probes[0]], seen[probes[1]]
    np.testing.assert_array_equal(crossbar.weights(build, layer), case.codes)
    wanted = crossbar.accumulators(build, layer, codes)
    if layer.analog.lossless:
        np.testing.assert_array_equal(wanted, crossbar.exact(codes, case.codes, layer))
        np.testing.assert_array_equal(given, wanted)
    else:
        size = float(codes.max()) * np.abs(case.codes).sum(axis=1).max()  # of what is added up in float32
        np.testing.assert_allclose(given, wanted, rtol=0, atol=1e-6 * max(1.0, size))
    ideal = build.verify(case.feeds, ideal=True)
    assert ideal.exact, ideal.failures
    assert build.verify(case.feeds).failures == ()
    return build


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_enough_bits(encoding: str) -> None:
    build = hold(CONVOLUTION, target(*ENCODINGS[encoding], "converters.adc.bits=20"))
    analog = only(build).analog
    ties = {"signs-count", "signs-count-half", "signs-digitised"}
    assert analog.lossless is (encoding not in ties)
    assert (analog.adc_range.max is None) is (encoding in ties)


@pytest.mark.parametrize("rounding", ["half_even", "half_up"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_too_few_bits(encoding: str, rounding: str) -> None:
    chip = target(*ENCODINGS[encoding], "converters.adc.bits=3", f"converters.adc.rounding={rounding}")
    analog = only(hold(CONVOLUTION, chip)).analog
    assert analog.gain < 1 or encoding == "signs-of-one-row"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_calibrated_range(encoding: str) -> None:
    hold(CONVOLUTION, target(*ENCODINGS[encoding], "converters.adc.bits=4", "converters.adc.range=calibrated"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
@pytest.mark.parametrize("encoding", ["signs", "signs-count", "means-signs-digitised", "means", "unformed"])
@pytest.mark.parametrize("bits", [4, 20])
def test_geometry(case: Case, encoding: str, bits: int) -> None:
    hold(case, target(*ENCODINGS[encoding], f"converters.adc.bits={bits}", "converters.dac.bits=2"))


@given(
    st.sampled_from(sorted(ENCODINGS)), st.integers(1, 8), st.integers(0, 12), st.integers(2, 12), st.integers(0, 99),
    st.integers(1, 3), st.booleans(),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_any_array(encoding: str, active: int, more: int, bits: int, seed: int, groups: int, calibrated: bool) -> None:
    chip = target(
        *ENCODINGS[encoding], f"array.rows={active + more}", f"array.rows_active={active}",
        f"converters.adc.bits={bits}", f"converters.adc.range={'calibrated' if calibrated else 'full'}",
        "array.columns=12",
    )  # fmt: skip
    hold(conv_case([3], channels=groups * 3, outputs=groups * 2, group=groups, seed=seed, pads=[1, 0]), chip)


def test_fragments_with_both_signs_are_refused_by_layer() -> None:
    with pytest.raises(CompileError, match=r"node 'conv': has weights of both signs in one fragment.*one_sign"):
        CONVOLUTION.compile(target(*POLARISED))


# --- builds on disk --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["signs", "signs-of-whole-tiles", "means-signs", "unformed"])
def test_a_build_comes_back(encoding: str, tmp_path: Path) -> None:
    chip = target(*ENCODINGS[encoding], "converters.adc.bits=20")
    case = fitted(CONVOLUTION, chip)
    build = case.compile(chip)
    again = mcompiler.load(build.save(tmp_path / "out.build"))
    assert again.verify(case.feeds).exact
    before, after = only(build).analog, only(again).analog
    assert np.array_equal(before.adc_bits, after.adc_bits)
    assert (before.signs is None) is (after.signs is None)
    if before.signs is not None and after.signs is not None:
        assert np.array_equal(before.signs, after.signs)
    assert again.target == chip
    nodes = [data for _, data in again.placement.nodes(data=True) if data.get("kind") == "array"]
    assert [data["adc_bits"] for data in nodes] == before.adc_bits.tolist()
    assert again.cost.layers["conv"].adc_bits == before.adc_range


def a_sign_too_many(arrays: dict[str, npt.NDArray[Any]]) -> None:
    arrays["signs"][0, 0, 0] ^= 1 << 7


def signs_of_the_next_fragment(arrays: dict[str, npt.NDArray[Any]]) -> None:
    arrays["signs"] = np.roll(arrays["signs"], 1, axis=1)


def signs_of_the_next_array(arrays: dict[str, npt.NDArray[Any]]) -> None:
    arrays["signs"] = np.roll(arrays["signs"], 1, axis=0)


@pytest.mark.parametrize("mutate", [a_sign_too_many, signs_of_the_next_fragment, signs_of_the_next_array])
def test_wrong_signs_fail(mutate: Callable[[dict[str, npt.NDArray[Any]]], None], tmp_path: Path) -> None:
    chip = target(*POLARISED, "converters.adc.bits=6")
    case = fitted(conv_case([3, 3], channels=4, outputs=6), chip)
    out = case.compile(chip).save(tmp_path / "out.build")
    rewrite_npz(out, "layers/0000_conv.npz", mutate)
    failures = mcompiler.load(out).verify(case.feeds).failures
    assert any("layer 'conv' is promised lossless and differs" in failure for failure in failures), failures


def test_a_changed_cell_of_a_level_table_fails(tmp_path: Path) -> None:
    chip = target(*MEANS, "converters.adc.bits=20")
    case = fitted(CONVOLUTION, chip)
    out = case.compile(chip).save(tmp_path / "out.build")

    def edit(cells: npt.NDArray[np.uint8]) -> None:
        cells[0, 0, 0] ^= 1

    rewrite_array(out, "cells/0000_conv.npy", edit)
    failures = mcompiler.load(out).verify(case.feeds).failures
    assert any("layer 'conv' is promised lossless and differs" in failure for failure in failures), failures


def test_signs_of_another_target_are_damage(tmp_path: Path) -> None:
    chip = target(*POLARISED, "converters.adc.bits=6")
    case = fitted(CONVOLUTION, chip)
    out = case.compile(chip).save(tmp_path / "out.build")

    def edit(arrays: dict[str, npt.NDArray[Any]]) -> None:
        arrays["signs"] = arrays["signs"][:, :1]

    rewrite_npz(out, "layers/0000_conv.npz", edit)
    with pytest.raises(BuildError, match="has signs of 1 reads, not 2"):
        _ = mcompiler.load(out).layer_data


def unsigned(mapped: MappedMatrix) -> MappedMatrix:
    """The same without the signs of its fragments."""
    return replace(mapped, encoded=replace(mapped.encoded, signs=None))


def test_a_decoder_that_ignores_signs_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    decode: Any = vars(content_module)["decode_cells"]
    monkeypatch.setattr(content_module, "decode_cells", lambda cells, mapped: decode(cells, unsigned(mapped)))
    chip = target(*POLARISED, "converters.adc.bits=6")
    case = fitted(CONVOLUTION, chip)
    assert any("promised lossless" in failure for failure in case.compile(chip).verify(case.feeds).failures)


def test_reads_that_ignore_signs_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    read: Any = vars(layers_module)["read_blocks"]
    chip = target(*POLARISED, "converters.adc.bits=3")
    case = fitted(CONVOLUTION, chip)
    build = case.compile(chip)
    monkeypatch.setattr(layers_module, "read_blocks", lambda cells, mapped, *more: read(cells, unsigned(mapped), *more))
    seen = run_plain(build.mapped, case.feeds, ["conv/codes", "conv/accumulator"])
    wanted = crossbar.accumulators(build, only(build), seen["conv/codes"])
    assert not np.allclose(seen["conv/accumulator"], wanted, rtol=1e-3, atol=1)


# --- tables of levels ------------------------------------------------------------------------------------------------


def test_conductances_of_a_level_table() -> None:
    codes = np.arange(6, dtype=np.uint8)
    unit = 8e-6 / 4096
    measured = [1e-6 + mean * unit for mean in (8, 700, 1650, 2400, 3300, 4090)]
    assert conductances(codes, target(*MEANS)) == pytest.approx(measured)
    nominal = [0, 1e-6, 3e-6, 5e-6, 7e-6, 9e-6]
    assert conductances(codes, target(*UNFORMED)) == pytest.approx(nominal)
    assert target(*UNFORMED).cell_steps == (0, 512, 1536, 2560, 3584, 4608)
    assert target(*UNFORMED).pedestal == 0
    assert target(*MEANS).cell_steps == (0, 692, 1642, 2392, 3292, 4082)
    assert target(*MEANS).pedestal == 520
    paper = target("encoding.partner=unformed", base="yuan2019", small=False)
    assert paper.cell_steps[:3] == (0, 455, 728)
    assert paper.cell_steps[-1] == 4551


def test_a_code_between_the_levels_is_refused() -> None:
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    codes = np.array([[692, 0], [-4082, 1642], [5, -6]], np.int16)
    made = model(
        [node("DequantizeLinear", "q s", "w", axis=1), node("MatMul", "x w", name="fc")], {"x": x},
        {"q": codes, "s": np.array([0.5, 0.25], np.float32)}, opset=21,
    )  # fmt: skip
    with pytest.raises(CompileError) as caught:
        mcompiler.compile(made, target(*MEANS), calibration={"x": x})
    assert str(caught.value) == (
        "node 'fc': weight code 5 (group 0, row 2, output channel 0) (and 1 more) is none of the target's levels: 0 "
        "and +-(692, 1642, 2392 ... 4082), in units of (g_max - g_min) / 4096; train or quantise it to these levels "
        "(--requantise, or mcompiler.admm for this target), or compile it for a target without "
        "device.level_means and encoding.partner"
    )


@pytest.mark.parametrize("kind", [np.int16, np.int32])
def test_codes_behind_a_gather_stay_exact(kind: type[np.signedinteger[Any]]) -> None:
    """Weights as ``Gather(table, cast indices)`` in front of DequantizeLinear: small in the file, exact when mapped."""
    chip = target(*MEANS, "converters.adc.bits=20")
    rng = np.random.default_rng(1)
    steps = np.array(chip.cell_steps)
    table = np.concatenate([-steps[:0:-1], steps]).astype(kind)
    index = rng.integers(0, len(table), (5, 3, 3, 2), dtype=np.uint8)
    scale = rng.uniform(1e-4, 1e-3, 5).astype(np.float32)
    x = rng.standard_normal((2, 3, 6, 6)).astype(np.float32)
    made = model(
        [
            node("Cast", "i", "j", to=ir.DataType.INT32),
            node("Gather", "t j", "q"),
            node("DequantizeLinear", "q s", "w", axis=0),
            node("Conv", "x w", name="conv"),
        ],
        {"x": x}, {"i": index, "t": table, "s": scale}, opset=21,
    )  # fmt: skip
    wanted = conv_matrix(table[index].astype(np.int64), 1)
    traced = trace(next(n for n in made.graph if n.op_type == "Conv").inputs[1])  # too large to be folded before
    assert traced is not None
    assert traced.codes is not None
    assert np.array_equal(conv_matrix(traced.codes, 1), wanted)
    assert tuple(n.name for n in traced.nodes) == ("cast", "gather", "dequantizelinear")
    build = mcompiler.compile(made, chip, calibration={"x": x})
    layer = only(build)
    assert np.array_equal(crossbar.weights(build, layer), wanted)
    np.testing.assert_array_equal(layer.op.matrix.scale[0], scale)
    assert layer.op.matrix.weight_bits == 13
    assert build.verify({"x": x}).exact


@pytest.mark.parametrize("wrong", ["index", "kind"])
def test_a_gather_that_is_no_table_of_codes(wrong: str) -> None:
    index = np.array([[0, 3]], np.int32) if wrong == "index" else np.array([[0, 1]], np.int32)
    table = np.array([1, 2], np.float32 if wrong == "kind" else np.int16)
    made = model(
        [node("Gather", "t i", "q"), node("DequantizeLinear", "q s", "w"), node("MatMul", "x w", name="fc")],
        {"x": np.zeros((1, 1), np.float32)},
        {"i": index, "t": table, "s": np.ones((), np.float32)},
        opset=21,
    )
    assert trace(next(n for n in made.graph if n.op_type == "MatMul").inputs[1]) is None


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 5000), min_size=1, max_size=8, unique=True))
@settings(max_examples=60, deadline=None)
def test_float_weights_take_the_nearest_level(seed: int, entries: list[int]) -> None:
    steps = (0, *sorted(entries))
    weights = np.random.default_rng(seed).standard_normal((2, 7, 3))
    weights[1, :, 1] = 0
    codes, scale = quantise_weights(weights, 8, steps)
    every = np.array([*(-step for step in steps), *steps])
    for (group, row, column), weight in np.ndenumerate(weights):
        each = float(scale[group, column])
        error = abs(int(codes[group, row, column]) * each - weight)
        assert error <= np.abs(every * each - weight).min() * (1 + 1e-9)
        assert abs(int(codes[group, row, column])) in steps
    assert (np.abs(codes).max(axis=1)[scale != 1] == steps[-1]).all()
