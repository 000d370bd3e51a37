"""Converters that lose something: the mapped path equals a crossbar in numpy, code by code."""

from __future__ import annotations

import importlib
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcompiler.artefacts import LayerData
from mcompiler.conductance import ConverterRanges, MappedMatrix, make_adc
from mcompiler.driver import Build
from mcompiler.errors import CompileError
from mcompiler.target import RangePer, Target
from tests.support import crossbar
from tests.support.builds import Case, conv_case, gemm_case, matmul_case, model, node, run_plain, target
from tests.support.kernels import saturating

HALF = ("device.g_min_siemens=1e-6", "device.g_max_siemens=7e-6")  # on/off 7, 4 levels: the pedestal is a half
QUARTER = ("device.g_min_siemens=1e-6", "device.g_max_siemens=13e-6")
LARGE = ("device.g_min_siemens=1e-6", "device.g_max_siemens=2e-6")  # three level steps

AFTER = "encoding.subtract=after_adc"
OFFSET = "encoding.weights=offset"
FLIP, UNIT = "encoding.flip=true", "encoding.input_sum=unit_column"
REFERENCE, DIGITISED, COUNT = (
    f"encoding.pedestal={where}" for where in ("reference_column", "digitised_reference", "digital_count")
)

ENCODINGS: dict[str, tuple[str, ...]] = {
    "pair": (),
    "pair-separate-slices": ("encoding.slices_in=separate",),
    "pair-separate-polarities": ("encoding.pairs_in=separate",),
    "pair-all-separate": ("encoding.slices_in=separate", "encoding.pairs_in=separate"),
    "pair-with-reference-column": (REFERENCE,),
    "after-reference": (AFTER, REFERENCE, *HALF),
    "after-digitised": (AFTER, DIGITISED, *QUARTER),
    "after-count": (AFTER, COUNT, *HALF, "encoding.pairs_in=separate"),
    "offset-reference": (OFFSET, REFERENCE, *LARGE),
    "offset-digitised": (OFFSET, DIGITISED, *HALF),
    "offset-count": (OFFSET, COUNT, *QUARTER),
    "offset-count-half": (OFFSET, COUNT, *HALF, "encoding.slices_in=separate"),
    "offset-large-pedestal": (OFFSET, COUNT, *LARGE, FLIP),
    "offset-flip": (OFFSET, COUNT, *HALF, FLIP),
    "offset-unit": (OFFSET, COUNT, *HALF, UNIT),
    "offset-unit-flip": (OFFSET, COUNT, *QUARTER, UNIT, FLIP),
    "offset-unit-flip-digitised": (OFFSET, DIGITISED, *HALF, UNIT, FLIP),
    "offset-unit-flip-reference": (OFFSET, REFERENCE, UNIT, FLIP, "encoding.slices_in=separate"),
}

CONVOLUTION = conv_case([3, 2], channels=2, outputs=5, sizes=[5, 4], pads=[1, 0, 2, 1], strides=[2, 1])
DENSE = gemm_case(transposed=True)

CALIBRATED = "converters.adc.range=calibrated"


def only(build: Build) -> LayerData:
    (layer,) = build.layer_data
    return layer


def measure(case: Case, chip: Target) -> tuple[Build, npt.NDArray[Any], npt.NDArray[Any]]:
    """The build, its input codes, and its accumulator from onnxruntime, alike with optimisation on and off."""
    build = case.compile(chip)
    name = only(build).op.site.name
    probes = [f"{name}/codes", f"{name}/accumulator"]
    seen = run_plain(build.mapped, case.feeds, probes)
    plain = run_plain(build.mapped, case.feeds, probes, optimise=False)
    for value in (*probes, "y"):
        np.testing.assert_array_equal(seen[value], plain[value], err_msg=value)
    return build, seen[probes[0]], seen[probes[1]]


def hold(case: Case, chip: Target) -> Build:
    """The mapped accumulator is the numpy crossbar's."""
    build, codes, given = measure(case, chip)
    layer = only(build)
    np.testing.assert_array_equal(crossbar.weights(build, layer), case.codes)
    wanted = crossbar.accumulators(build, layer, codes)
    exact = crossbar.exact(codes, case.codes, layer)
    phase = (
        layer.op.site.input.bits if layer.analog.lossless else min(chip.converters.dac.bits, layer.op.site.input.bits)
    )
    assert saturating(build.mapped, (1 << phase) - 1) == []
    if layer.analog.lossless:
        np.testing.assert_array_equal(wanted, exact)
        np.testing.assert_array_equal(given, exact)
    elif np.log2(layer.analog.gain).is_integer() and np.abs(wanted).max() < 1 << 20:  # float32 holds it, sixteenths too
        np.testing.assert_array_equal(given, wanted)
    else:
        size = float(codes.max()) * np.abs(case.codes).sum(axis=1).max()  # of what is added up in float32
        np.testing.assert_allclose(given, wanted, rtol=0, atol=1e-6 * max(1.0, size))
    return build


@pytest.mark.parametrize("rounding", ["half_even", "half_up"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_too_few_bits(encoding: str, rounding: str) -> None:
    chip = target(*ENCODINGS[encoding], "converters.adc.bits=3", f"converters.adc.rounding={rounding}")
    build = hold(CONVOLUTION, chip)
    assert not only(build).analog.lossless
    assert only(build).analog.gain < 1


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_calibrated_range_and_split_reads(encoding: str) -> None:
    chip = target(
        *ENCODINGS[encoding], "converters.adc.bits=5", "converters.adc.range=calibrated", "array.rows_active=3"
    )
    hold(CONVOLUTION, chip)


@pytest.mark.parametrize("active", [3, 8])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_ranges_of_columns(encoding: str, active: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the binary steps of each weight's columns are."""
    module = importlib.import_module("mcompiler.passes.assign")
    fit: Any = vars(module)["fit_ranges"]

    def steps(mapped: MappedMatrix, samples: Any) -> ConverterRanges:
        table, shape = mapped.table, mapped.shape
        rng = np.random.default_rng(0)
        drawn = rng.integers(0, 3, (int(table["tile"].max()) + 1, shape.columns))
        weight = np.arange(shape.columns) // shape.columns_per_weight
        zoom = drawn[table["tile"][:, None], weight[None]].astype(np.int8)
        return ConverterRanges(fit(mapped, samples).gain / 4, zoom, 0.0)

    monkeypatch.setattr(module, "fit_ranges", steps)
    for case in (CONVOLUTION, DENSE):
        build = hold(
            case, target(*ENCODINGS[encoding], "converters.adc.bits=5", CALIBRATED, f"array.rows_active={active}")
        )
        zoom = only(build).analog.zoom
        assert zoom is not None
        assert set(zoom.ravel()) == {0, 1, 2}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_enough_bits(encoding: str) -> None:
    """A promise of losslessness is kept by the numpy crossbar too; where none is given, the codes agree."""
    build = hold(CONVOLUTION, target(*ENCODINGS[encoding], "converters.adc.bits=12"))
    ties = {"after-digitised", "after-count", "offset-count-half", "offset-flip", "offset-unit", "offset-count",
            "offset-digitised", "offset-unit-flip", "offset-unit-flip-digitised"}  # fmt: skip
    assert only(build).analog.lossless is (encoding not in ties)


@pytest.mark.parametrize("bits", [1, 2, 3])
@pytest.mark.parametrize("encoding", ["pair", "after-digitised", "offset-unit-flip", "offset-count"])
def test_bits_of_a_phase(encoding: str, bits: int) -> None:
    """3 does not divide 8: the last phase carries fewer bits."""
    chip = target(*ENCODINGS[encoding], f"converters.dac.bits={bits}", "converters.adc.bits=6")
    hold(CONVOLUTION, chip)


@pytest.mark.parametrize("inputs", [1, 4, 9, 16])
@pytest.mark.parametrize("encoding", ["pair", "after-reference", "offset-unit-flip", "offset-count"])
def test_bits_of_the_inputs(encoding: str, inputs: int) -> None:
    chip = target(*ENCODINGS[encoding], f"precision.inputs={inputs}", "converters.adc.bits=5")
    hold(CONVOLUTION, chip)


@pytest.mark.parametrize("bits", [2, 4, 9, 16])
@pytest.mark.parametrize("encoding", ["pair", "offset-unit-flip"])
def test_bits_of_the_weights(encoding: str, bits: int) -> None:
    case = conv_case([2], channels=5, outputs=3, bits=bits, seed=bits)
    slices = -(-bits // 2)
    chip = target(
        *ENCODINGS[encoding], f"encoding.slices={slices}", f"precision.weights={bits}", "converters.adc.bits=5",
        "digital.accumulator_bits=48",
    )  # fmt: skip
    hold(case, chip)


GEOMETRIES = [
    conv_case([3], channels=4, outputs=3, pads=[2, 1], dilations=[2]),
    conv_case([2, 3], channels=2, outputs=3, dilations=[2, 1], strides=[1, 2]),
    conv_case([2, 2, 2], channels=2, outputs=3, sizes=[4, 3, 4], pads=[1, 0, 1, 0, 1, 0]),
    conv_case([3, 3], channels=4, outputs=8, group=2, pads=[1, 1, 1, 1]),
    conv_case([3, 3], channels=6, outputs=6, group=6, pads=[1, 1, 1, 1], signed=False),
    conv_case([1, 1], channels=20, outputs=3),
    conv_case([5], channels=1, outputs=2, sizes=[9]),
    matmul_case([3, 4, 11], [11, 6]),
    matmul_case([3, 11], [11, 1]),
    matmul_case([2, 3, 2, 5], [5, 9]),
    gemm_case(transposed=False, signed=False),
]


@pytest.mark.parametrize("case", GEOMETRIES, ids=lambda case: case.label)
@pytest.mark.parametrize("encoding", ["pair", "offset-unit-flip", "offset-count"])
def test_geometry(case: Case, encoding: str) -> None:
    hold(case, target(*ENCODINGS[encoding], "converters.adc.bits=4"))


def test_without_probes_the_outputs_are_the_same() -> None:
    """A probe hinders fusions: the shipped graph has none."""
    for encoding in ("pair", "after-digitised", "offset-unit-flip", "offset-count"):
        for case in (CONVOLUTION, DENSE):
            mapped = case.compile(target(*ENCODINGS[encoding], "converters.adc.bits=4")).mapped
            wanted = run_plain(mapped, case.feeds, [f"{case.name}/accumulator"], optimise=False)["y"]
            for optimise in (True, False):
                np.testing.assert_array_equal(run_plain(mapped, case.feeds, optimise=optimise)["y"], wanted)


def test_one_read_is_one_convolution() -> None:
    """Undivided weights and inputs in one large array: the shortest form, on 8-bit and on longer converters."""
    whole = ("encoding.slices=1", "device.levels=128", "converters.dac.bits=8", "array.rows=64", "array.columns=64",
             "array.rows_active=64", "device.g_max_siemens=128e-6")  # fmt: skip
    for bits in (6, 8, 10):
        for case in (CONVOLUTION, conv_case([2], signed=False, channels=4, outputs=6)):
            build = hold(case, target(*whole, f"converters.adc.bits={bits}", "converters.adc.range=calibrated"))
            functions = list(build.mapped.functions.values())
            assert [node.op_type for node in functions[0]].count("Conv") == 1


@st.composite
def chips(draw: st.DrawFn) -> Target:
    encoding = ENCODINGS[draw(st.sampled_from(sorted(ENCODINGS)))]
    inputs = draw(st.integers(1, 10))
    active = draw(st.integers(1, 8))
    return target(
        *encoding,
        f"precision.inputs={inputs}",
        f"converters.dac.bits={draw(st.integers(1, min(inputs, 3)))}",
        f"converters.adc.bits={draw(st.integers(2, 10))}",
        f"converters.adc.rounding={draw(st.sampled_from(['half_even', 'half_up']))}",
        *draw(st.sampled_from([[], *([CALIBRATED, f"converters.adc.range_per={per}"] for per in RangePer)])),
        f"array.rows={draw(st.integers(active, 20))}",
        f"array.rows_active={active}",
        f"array.columns={draw(st.sampled_from([8, 12, 16, 24]))}",
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    seed, signed = draw(st.integers(0, 99)), draw(st.booleans())
    if draw(st.booleans()):
        lead = [draw(st.integers(1, 3)) for _ in range(draw(st.integers(1, 3)))]
        rows, cols = draw(st.integers(1, 20)), draw(st.integers(1, 7))
        return matmul_case([*lead, rows], [rows, cols], seed=seed, signed=signed)
    rank, groups = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    return conv_case(
        [draw(st.integers(1, 3)) for _ in range(rank)],
        channels=groups * draw(st.integers(1, 3)),
        outputs=groups * draw(st.integers(1, 3)),
        sizes=[draw(st.integers(5, 7)) for _ in range(rank)],
        signed=signed,
        seed=seed,
        group=groups,
        strides=[draw(st.integers(1, 2)) for _ in range(rank)],
        dilations=[draw(st.integers(1, 2)) for _ in range(rank)],
        pads=[draw(st.integers(0, 2)) for _ in range(2 * rank)],
    )


@given(chips(), cases())
@settings(max_examples=20, deadline=None)
def test_any_chip_and_geometry(chip: Target, case: Case) -> None:
    hold(case, chip)


def test_full_range_never_clips() -> None:
    """A converter with one bit more reads the same codes."""
    for encoding in ENCODINGS.values():
        build, codes, _ = measure(DENSE, target(*encoding, "converters.adc.bits=4"))
        wider = replace(crossbar.chip(build.target), converter_bits=5)
        layer = only(build)
        np.testing.assert_array_equal(
            crossbar.accumulators(build, layer, codes), crossbar.accumulators(build, layer, codes, wider)
        )


def test_a_pedestal_on_no_binary_grid() -> None:
    """3/14 of a level step is taken on a grid of 2^-11 steps or finer, so that no order of additions changes a code."""
    chip = target("converters.adc.bits=3", base="isaac")
    build, codes, given = measure(DENSE, chip)
    assert not only(build).analog.lossless
    pedestal = Fraction(make_adc(chip).pedestal)
    assert abs(pedestal - Fraction(3, 14)) < Fraction(1, 2048)
    wanted = crossbar.accumulators(build, only(build), codes, replace(crossbar.chip(chip), pedestal=pedestal))
    np.testing.assert_allclose(given, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())


def test_kernel_channels_that_vanish() -> None:
    """Zero rows and columns, a whole group among them: compaction moves everything, the sums stay."""
    case = conv_case([3], channels=8, outputs=8, group=4, sizes=[7], pads=[1, 1])
    weights = case.model.graph.initializers["w"]
    assert weights.const_value is not None
    values = weights.const_value.numpy().copy()
    codes = case.codes.copy()
    values[2:4], codes[1] = 0, 0  # the second group
    values[5], codes[2, :, 1] = 0, 0
    values[6:, 1], codes[3, 3:] = 0, 0
    values[0], codes[0, :, 0] = 0, 0
    weights.const_value = ir.tensor(values, name="w")
    for encoding in ("pair", "after-digitised", "offset-count", "offset-unit-flip"):
        for columns in (8, 16, 64):  # one, two or all groups to an array
            chip = target(*ENCODINGS[encoding], "converters.adc.bits=4", f"array.columns={columns}", "array.rows=24")
            hold(replace(case, codes=codes), chip)


def test_float16_and_double() -> None:
    for case in (conv_case([3], channels=4, dtype=np.float16), matmul_case([3, 9], [9, 4], dtype=np.float64)):
        build = hold(case, target("converters.adc.bits=5"))
        assert run_plain(build.mapped, case.feeds)["y"].dtype == case.feeds["x"].dtype


def test_a_batched_constant_needs_lossless_converters() -> None:
    case = matmul_case([2, 4, 3, 7], [4, 7, 5])
    with pytest.raises(
        CompileError, match=r"node 'matmul': .*one constant matrix per batch element.*converters.adc.bits"
    ):
        _ = case.compile(target("converters.adc.bits=4")).mapped


def test_levels_that_could_saturate_take_another_kernel() -> None:
    """8-bit phases times 7-bit levels pass 2^15: onnxruntime's uint8 x int8 products are out of bounds."""
    whole = ("encoding.slices=1", "device.levels=128", "converters.adc.bits=8", "device.g_max_siemens=128e-6")
    for phase, allowed in ((1, True), (7, True), (8, False)):
        chip = target(*whole, f"converters.dac.bits={phase}")
        mapped = hold(DENSE, chip).mapped
        (function,) = mapped.functions.values()
        assert ("QLinearMatMul" in {n.op_type for n in function}) is allowed


def test_the_check_of_kernels_can_fail() -> None:
    def product(size: int) -> ir.Model:
        x, w = np.zeros((2, 4), np.uint8), np.full((4, 3), -size, np.int8)
        return model([node("MatMulInteger", "x w", "y", "p")], {"x": x}, {"w": w}, kinds={"y": 6})

    assert saturating(product(64), 255) == []
    assert saturating(product(127), 129) == []
    assert saturating(product(127), 130) == ["MatMulInteger 'p': int8 weights up to 127 with inputs up to 130"]


# --- mutations -------------------------------------------------------------------------------------------------------


def test_a_wrong_crossbar_would_be_noticed() -> None:
    """The numpy crossbar itself, wrong in one thing at a time, disagrees: the comparison is no empty one."""
    cases: list[tuple[str, int, dict[str, Any]]] = [
        ("offset-count-half", 12, {"half_up": True}),
        ("after-digitised", 12, {"half_up": True}),
        ("pair", 4, {"converter_bits": 3}),
        ("pair", 4, {"phase_bits": 2}),
        ("pair", 4, {"rows_active": 4}),
        ("offset-count", 4, {"goes": "digitised_reference"}),
        ("offset-count", 4, {"goes": "reference_column"}),
    ]
    for encoding, bits, wrong in cases:
        build, codes, given = measure(CONVOLUTION, target(*ENCODINGS[encoding], f"converters.adc.bits={bits}"))
        layer = only(build)
        other = replace(crossbar.chip(build.target), **wrong)
        changed = crossbar.accumulators(build, layer, codes, other)
        assert not np.allclose(given, changed, rtol=1e-5, atol=1e-2), (encoding, wrong)
