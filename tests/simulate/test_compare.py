"""verify: what it measures, and that every mutation of the design's list is caught."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest

import mcompiler
from mcompiler.artefacts import layers as layers_module
from mcompiler.conductance import MappedMatrix
from mcompiler.driver import Build
from mcompiler.driver import content as content_module
from mcompiler.onnx_export import folded, lossy
from mcompiler.simulate import compare
from mcompiler.target import Rounding, Target
from tests.support import crossbar
from tests.support.builds import (
    Array,
    activations,
    codes_of,
    conv_case,
    floats,
    model,
    node,
    run_plain,
    target,
)
from tests.support.sealed import reseal, rewrite_array, rewrite_json, rewrite_npz

CASE = conv_case([3, 3], channels=4, outputs=6, pads=[1, 1, 1, 1])
"""Signed inputs (zero point about 128), 36 rows: several arrays of 8 rows."""


# --- mutations of a build on disk, hashes resealed -------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    out = CASE.compile(target()).save(tmp_path / "case.build")
    assert mcompiler.load(out).verify(CASE.feeds).failures == ()
    return out


def flip_a_cell(root: Path) -> None:
    def edit(cells: npt.NDArray[np.uint8]) -> None:
        cells[0, 0, 0] ^= 1

    rewrite_array(root, "cells/0000_conv.npy", edit)


def swap_two_tiles_cells(root: Path) -> None:
    def edit(cells: npt.NDArray[np.uint8]) -> None:
        cells[[0, 1]] = cells[[1, 0]]

    rewrite_array(root, "cells/0000_conv.npy", edit)


def swap_two_tiles_addresses(root: Path) -> None:
    def edit(arrays: dict[str, Array]) -> None:
        arrays["addresses"][[0, 1]] = arrays["addresses"][[1, 0]]

    rewrite_npz(root, "layers/0000_conv.npz", edit)


def swap_addresses_in_the_placement(root: Path) -> None:
    def edit(data: dict[str, Any]) -> None:
        one, other = [entry for entry in data["nodes"] if entry["kind"] == "array"][:2]
        one["address"], other["address"] = other["address"], one["address"]

    rewrite_json(root, "placement.json", edit)


def two_tiles_at_one_address(root: Path) -> None:
    def edit(arrays: dict[str, Array]) -> None:
        arrays["addresses"][1] = arrays["addresses"][0]

    def same(data: dict[str, Any]) -> None:
        one, other = [entry for entry in data["nodes"] if entry["kind"] == "array"][:2]
        other["address"] = one["address"]

    rewrite_npz(root, "layers/0000_conv.npz", edit)
    rewrite_json(root, "placement.json", same)


def an_address_outside(root: Path) -> None:
    def edit(arrays: dict[str, Array]) -> None:
        arrays["addresses"][0, 3] = 8

    def same(data: dict[str, Any]) -> None:
        next(entry for entry in data["nodes"] if entry["kind"] == "array")["address"][3] = 8

    rewrite_npz(root, "layers/0000_conv.npz", edit)
    rewrite_json(root, "placement.json", same)


def swap_what_two_tiles_hold(root: Path) -> None:
    def edit(arrays: dict[str, Array]) -> None:
        assert arrays["table"]["row"][3] == 8
        arrays["table"]["row"][[0, 3]] = arrays["table"]["row"][[3, 0]]

    rewrite_npz(root, "layers/0000_conv.npz", edit)


def drop_a_row_block(root: Path) -> None:
    def empty(cells: npt.NDArray[np.uint8]) -> None:
        cells[0] = 0

    rewrite_array(root, "cells/0000_conv.npy", empty)


def drop_an_edge(root: Path) -> None:
    rewrite_json(root, "placement.json", lambda data: data["edges"].pop())


def wrong_zero_point(root: Path) -> None:
    def edit(data: dict[str, Any]) -> None:
        data["layers"][0]["input"]["zero_point"] -= 1

    rewrite_json(root, "layers.json", edit)


def wrong_pads(root: Path) -> None:
    def edit(data: dict[str, Any]) -> None:
        data["layers"][0]["shape"]["pads"] = [0, 1, 2, 1]

    rewrite_json(root, "layers.json", edit)


def wrong_scale(root: Path) -> None:
    def edit(arrays: dict[str, Array]) -> None:
        arrays["scale"][0, 0] *= 2

    rewrite_npz(root, "layers/0000_conv.npz", edit)


def promise_taken_back(root: Path) -> None:
    def edit(data: dict[str, Any]) -> None:
        data["layers"][0]["lossless"] = False

    rewrite_json(root, "layers.json", edit)


def a_flip_too_many(root: Path) -> None:
    def edit(arrays: dict[str, Array]) -> None:
        arrays["flips"][0, 0] ^= 1

    rewrite_npz(root, "layers/0000_conv.npz", edit)


ON_DISK: list[tuple[Callable[[Path], None], str]] = [
    (flip_a_cell, "layer 'conv' is promised lossless and differs"),
    (swap_two_tiles_cells, "layer 'conv' is promised lossless and differs"),
    (swap_what_two_tiles_hold, "placement.json and layers/ disagree on 'array:conv:0'"),
    (drop_a_row_block, "layer 'conv' is promised lossless and differs"),
    (swap_two_tiles_addresses, "placement.json and layers/ disagree on 'array:conv:0' and 1 more"),
    (swap_addresses_in_the_placement, "placement.json and layers/ disagree on 'array:conv:0' and 1 more"),
    (two_tiles_at_one_address, "two arrays have one address"),
    (an_address_outside, "an array has an address that the target's hierarchy lacks"),
    (drop_an_edge, "placement.json and layers/ disagree"),
    (wrong_zero_point, "the shipped mapped.onnx is not the model"),
    (wrong_pads, "the shipped mapped.onnx is not the model"),
    (wrong_scale, "the shipped mapped.onnx is not the model"),
    (promise_taken_back, "the shipped mapped.onnx is not the model"),
    (a_flip_too_many, "layer 'conv' is promised lossless and differs"),
]


@pytest.mark.parametrize(("mutate", "reason"), ON_DISK, ids=lambda value: getattr(value, "__name__", ""))
def test_a_build_changed_on_disk_fails(saved: Path, mutate: Callable[[Path], None], reason: str) -> None:
    mutate(saved)
    failures = mcompiler.load(saved).verify(CASE.feeds).failures
    assert any(reason in failure for failure in failures), failures


@pytest.mark.parametrize("name", ["mapped.onnx", "reference.onnx"])
def test_another_model_in_its_place_fails(saved: Path, name: str) -> None:
    def edit(proto: onnx.ModelProto) -> None:
        tensor = max(proto.graph.initializer, key=lambda t: len(t.raw_data))
        data = bytearray(tensor.raw_data)
        data[0] ^= 1
        tensor.raw_data = bytes(data)

    proto = onnx.load(saved / name)
    edit(proto)
    onnx.save(proto, saved / name)
    reseal(saved, name)
    failures = mcompiler.load(saved).verify(CASE.feeds).failures
    assert failures
    assert ("the shipped mapped.onnx" in failures[0]) is (name == "mapped.onnx")


# --- mutations of the compiler: verify, or the numpy crossbar ------------------------------------------------------


def cells_changed(
    edit: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]],
) -> Callable[[pytest.MonkeyPatch], None]:
    """Encode wrongly: the shipped model agrees with the cells, and both are wrong."""
    encode: Any = vars(layers_module)["encode_cells"]

    def apply(monkeypatch: pytest.MonkeyPatch) -> None:
        def wrong(*args: Any) -> Any:
            for index, chunk in enumerate(encode(*args)):
                yield edit(chunk.copy()) if index == 0 else chunk

        monkeypatch.setattr(layers_module, "encode_cells", wrong)

    return apply


def bit_flipped(cells: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    cells[0, 0, 0] ^= 1
    return cells


def swapped(cells: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    cells[:2] = cells[1::-1]
    return cells


def without_first(cells: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    cells[0] = 0
    return cells


def polarity_swapped(cells: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Four 2-bit slices of one sign fill a byte."""
    pairs = cells.reshape(*cells.shape[:-1], -1, 2)
    return np.ascontiguousarray(pairs[..., ::-1]).reshape(cells.shape)


def slices_swapped(cells: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A wrong slice weight: the lowest and the highest slice change places."""
    low, high = cells & 0b11, cells >> 6
    changed: npt.NDArray[np.uint8] = ((cells & 0b00111100) | (low << 6) | high).astype(np.uint8)
    return changed


def decoder_shift(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing shift: offset weights are decoded as if nothing had been added to them."""
    decode: Any = vars(content_module)["decode_cells"]

    def wrong(cells: Any, mapped: MappedMatrix) -> Any:
        return decode(cells, replace(mapped, encoded=replace(mapped.encoded, shift=0)))

    monkeypatch.setattr(content_module, "decode_cells", wrong)


def pad_with_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes are padded with 0 instead of z_x: the zero point comes off after the padding."""
    centred = folded.centred

    def wrong(emitter: Any, codes: ir.Value, op: Any) -> ir.Value:
        edge = [0, 0, *op.site.shape.pads[:2], 0, 0, *op.site.shape.pads[2:]]
        values = centred(emitter, emitter("Pad", codes, emitter.ints(*edge), emitter.constant(0, np.uint8)), op)
        return values

    def no_padding(shape: Any, *, padded: bool, groups: int | None = None) -> dict[str, Any]:
        found: dict[str, Any] = attributes(shape, padded=True, groups=groups)
        return found

    attributes: Any = vars(folded)["conv_attributes"]
    monkeypatch.setattr(folded, "centred", wrong)
    monkeypatch.setattr(folded, "conv_attributes", no_padding)


def zero_point_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folded, "centred", lambda emitter, codes, op: emitter.cast(codes, ir.DataType.FLOAT))


OFFSET = target(base="isaac")

VERIFIED: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], Target]] = {
    "flip a cell": (cells_changed(bit_flipped), target()),
    "swap two tiles": (cells_changed(swapped), target()),
    "drop a row block": (cells_changed(without_first), target()),
    "swapped polarity": (cells_changed(polarity_swapped), target()),
    "wrong slice weight": (cells_changed(slices_swapped), target()),
    "missing shift": (decoder_shift, OFFSET),
    "padding with 0": (pad_with_zero, target()),
    "zero point left": (zero_point_left, target()),
}


@pytest.mark.parametrize("mutation", VERIFIED)
def test_verify_catches(mutation: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    apply, chip = VERIFIED[mutation]
    build = CASE.compile(chip)
    assert build.verify(CASE.feeds).failures == ()
    apply(monkeypatch)
    out = CASE.compile(chip).save(tmp_path / "mutant.build")  # the shipped model is made by the same wrong code
    result = mcompiler.load(out).verify(CASE.feeds)
    assert result.same_as_shipped
    assert not result.exact
    assert any("promised lossless" in reason for reason in result.failures)


def accumulators(build: Build) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """From onnxruntime, and from the numpy crossbar."""
    (layer,) = build.layer_data
    seen = run_plain(build.mapped, CASE.feeds, ["conv/codes", "conv/accumulator"])
    return seen["conv/accumulator"], crossbar.accumulators(build, layer, seen["conv/codes"])


def agree(chip: Target) -> bool:
    given, wanted = accumulators(CASE.compile(chip))
    return bool(np.abs(given - wanted).max() <= 1e-5 * np.abs(wanted).max())


def clip_off_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The converter clips at the code before its last."""
    make = mapped_module().make_adc

    def wrong(*args: Any) -> Any:
        adc = make(*args)
        return replace(adc, largest=adc.largest - 1)

    monkeypatch.setattr(mapped_module(), "make_adc", wrong)


def half_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds half up where the target says half to even."""
    make = mapped_module().make_adc

    def wrong(*args: Any) -> Any:
        return replace(make(*args), rounding=Rounding.HALF_UP)

    monkeypatch.setattr(mapped_module(), "make_adc", wrong)


def mapped_module() -> Any:
    return sys.modules["mcompiler.onnx_export.mapped"]


def lossy_pad_with_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lossy.LossyLayer, "pads_itself", property(lambda layer: False))


def reads_changed(**changes: Callable[[Any], Any]) -> Callable[[pytest.MonkeyPatch], None]:
    """What the converters see is decoded wrongly."""

    def apply(monkeypatch: pytest.MonkeyPatch) -> None:
        read: Any = vars(layers_module)["read_blocks"]

        def wrong(*args: Any, **named: Any) -> Any:
            blocks = [
                replace(b, **{k: edit(getattr(b, k)) for k, edit in changes.items()}) for b in read(*args, **named)
            ]
            return blocks[1:] if not changes else blocks

        monkeypatch.setattr(layers_module, "read_blocks", wrong)

    return apply


def one_level_more(levels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    changed = levels.copy()
    changed.flat[0] += 1
    return changed


HALF = ("device.g_max_siemens=7e-6", "encoding.weights=offset", "encoding.pedestal=digital_count")
LOSSY = ("converters.adc.bits=4",)

SIMULATED: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], Target]] = {
    "clip off by one": (
        clip_off_by_one, target("converters.adc.bits=4", "converters.adc.range=calibrated"),
    ),
    "half-up for half-even": (half_up, target(*HALF, "converters.adc.bits=12")),
    "padding with 0": (lossy_pad_with_zero, target(*LOSSY)),
    "swapped polarity": (reads_changed(levels=lambda levels: -levels), target(*LOSSY)),
    "wrong slice weight": (reads_changed(place_value=lambda place_value: place_value[::-1].copy()), target(*LOSSY)),
    "missing shift": (reads_changed(inputs=np.zeros_like), target(*HALF, *LOSSY)),
    "drop a row block": (reads_changed(), target(*LOSSY)),
    "flip a cell": (reads_changed(levels=one_level_more), target(*LOSSY)),
}  # fmt: skip


@pytest.mark.parametrize("mutation", SIMULATED)
def test_the_numpy_crossbar_catches(mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lossy converters make of a mutation, verify cannot promise anything about: this comparison does."""
    apply, chip = SIMULATED[mutation]
    assert agree(chip)
    apply(monkeypatch)
    assert not agree(chip)


# --- what verify measures --------------------------------------------------------------------------------------------


def dense(chip: Target | None = None, rows: int = 6, classes: int = 4) -> tuple[Build, Array]:
    x = activations((12, rows))
    made = model([node("MatMul", "x w")], {"x": x}, {"w": floats(codes_of((rows, classes), 8, channel_axis=1))})
    return mcompiler.compile(made, chip or target(), calibration={"x": x}), x


def test_figures_of_a_lossless_build() -> None:
    build, x = dense()
    labels = run_plain(build.reference, {"x": x})["y"].argmax(axis=1)
    labels[:3] = (labels[:3] + 1) % 4
    result = build.verify(x, labels)
    assert (result.samples, result.exact, result.max_code_error) == (12, True, 0.0)
    assert result.top1_quantised == result.top1_mapped == pytest.approx(9 / 12)
    assert result.agreement_mapped_quantised == 1.0
    assert result.sqnr_db is not None
    assert 30 < result.sqnr_db < 70, "8-bit inputs"
    assert result.layers[0].sqnr_db is None
    assert result.layers[0].adc_clipped == 0.0
    assert result.failures == ()
    assert json.loads(json.dumps(result.as_json()))["agreement"]["mapped_quantised"] == 1.0


def test_figures_of_a_lossy_build() -> None:
    """Computed here from the emitted models."""
    build, x = dense(target("converters.adc.bits=4"))
    result = build.verify(x)
    seen = [run_plain(m, {"x": x}, ["matmul/accumulator"]) for m in (build.mapped, build.reference)]
    mapped, reference = (s["matmul/accumulator"].astype(np.float64) for s in seen)
    assert result.max_code_error == pytest.approx(np.abs(mapped - reference).max())
    noise, signal = np.square(mapped - reference).sum(), np.square(reference).sum()
    assert result.layers[0].sqnr_db == pytest.approx(10 * np.log10(signal / noise))
    assert result.agreement_mapped_quantised == pytest.approx(
        (seen[0]["y"].argmax(axis=1) == seen[1]["y"].argmax(axis=1)).mean()
    )
    w = codes_of((6, 4), 8, channel_axis=1) * 2.0**-6
    wanted = x.astype(np.float64) @ w
    error = seen[0]["y"] - wanted
    assert result.sqnr_db == pytest.approx(10 * np.log10(np.square(wanted).sum() / np.square(error).sum()), abs=0.01)
    assert not result.exact
    assert result.failures == (), "nothing was promised"
    assert (result.top1_float, result.top1_quantised, result.top1_mapped) == (None, None, None)


def test_ideal_proves_the_mapping_of_a_lossy_target() -> None:
    build, x = dense(target("converters.adc.bits=4"))
    result = build.verify(x, ideal=True)
    assert result.exact
    assert result.promised == {"matmul"}
    assert result.failures == ()


def test_random_samples_are_drawn_and_counted() -> None:
    build, _ = dense()
    assert build.verify().samples == 16
    assert build.verify(limit=5).samples == 5
    done: list[int] = []
    build.verify(limit=3, progress=done.append)
    assert done[-1] == 3


def test_a_model_without_analog_layers() -> None:
    x = activations((5, 3))
    build = mcompiler.compile(model([node("Relu", "x")], {"x": x}), target(), calibration={"x": x})
    result = build.verify(x)
    assert build.layers == ()
    assert (result.exact, result.layers, result.max_code_error, result.sqnr_db) == (True, (), 0.0, None)
    assert result.agreement_quantised_float == 1.0


def test_integer_output_is_the_class_itself() -> None:
    x = activations((9, 6))
    nodes = [node("MatMul", "x w", "s"), node("ArgMax", "s", "y", axis=1, keepdims=0)]
    made = model(nodes, {"x": x}, {"w": floats(codes_of((6, 4), 8, channel_axis=1))}, kinds={"y": 7})
    build = mcompiler.compile(made, target(), calibration={"x": x})
    labels = run_plain(made, {"x": x})["y"]
    result = build.verify(x, labels)
    assert result.top1_float == 1.0
    assert result.sqnr_db is None, "no float output"
    assert result.exact


def test_several_outputs_use_the_first_float_one() -> None:
    x = activations((9, 6))
    nodes = [node("MatMul", "x w", "s"), node("Shape", "s", "n"), node("Neg", "s", "m")]
    made = model(nodes, {"x": x}, {"w": floats(codes_of((6, 4), 8, channel_axis=1))}, outputs=("n", "s", "m"),
                 kinds={"n": 7})  # fmt: skip
    build = mcompiler.compile(made, target(), calibration={"x": x})
    result = build.verify(x, run_plain(made, {"x": x})["s"].argmax(axis=1))
    assert result.exact
    assert result.top1_float == 1.0


def test_sequence_and_map_outputs(tmp_path: Path) -> None:
    """scikit-learn's classifiers give a list of {class: probability}."""
    x = activations((6, 5))
    nodes = [
        node("MatMul", "x w", "s"), node("Softmax", "s", "p", axis=1),
        node("ArgMax", "p", "label", axis=1, keepdims=0),
        onnx.helper.make_node("ZipMap", ["p"], ["y"], name="zip", domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2]),
    ]  # fmt: skip
    made = ir.to_proto(model(nodes[:3], {"x": x}, {"w": floats(codes_of((5, 3), 8, channel_axis=1))},
                             outputs=("label",), kinds={"label": 7}))  # fmt: skip
    made.graph.node.append(nodes[3])
    made.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 1))
    entry = onnx.helper.make_map_type_proto(onnx.TensorProto.INT64, onnx.helper.make_tensor_type_proto(1, []))
    made.graph.output.append(onnx.helper.make_value_info("y", onnx.helper.make_sequence_type_proto(entry)))
    onnx.save(made, tmp_path / "classifier.onnx")
    build = mcompiler.compile(tmp_path / "classifier.onnx", target(), calibration={"x": x})
    scores = run_plain(build.mapped, {"x": x})["y"]
    assert isinstance(scores[0], dict)
    result = build.verify(x, run_plain(made, {"x": x})["label"])
    assert result.exact
    assert result.failures == ()
    assert result.top1_float == 1.0


def test_not_a_number_equals_itself() -> None:
    x = activations((4, 6))
    nodes = [node("MatMul", "x w", "s"), node("Sqrt", "s")]
    made = model(nodes, {"x": x}, {"w": floats(codes_of((6, 4), 8, channel_axis=1))})
    build = mcompiler.compile(made, target(), calibration={"x": x})
    assert np.isnan(run_plain(build.mapped, {"x": x})["y"]).any()
    result = build.verify(x)
    assert result.exact
    assert result.sqnr_db is None or np.isfinite(result.sqnr_db)


def test_a_difference_in_an_output_alone_fails(saved: Path) -> None:
    """Every layer exact, another bias in the reference."""
    proto = onnx.load(saved / "reference.onnx")
    name = next(n.input[1] for n in proto.graph.node if n.op_type == "Add")
    tensor = next(t for t in proto.graph.initializer if t.name == name)
    tensor.raw_data = (np.frombuffer(tensor.raw_data, np.float32) + 1).tobytes()
    onnx.save(proto, saved / "reference.onnx")
    reseal(saved, "reference.onnx")
    result = mcompiler.load(saved).verify(CASE.feeds)
    assert result.layers[0].exact
    assert result.failures == ("every layer is exact, and an output of mapped.onnx differs from reference.onnx",)


def test_layers_are_compared_on_the_codes_that_the_mapped_layer_saw() -> None:
    """A lossy first layer changes the second layer's input; the second is exact all the same."""
    x = activations((6, 40), signed=False)
    constants = {
        "w": floats(codes_of((40, 3), 8, channel_axis=1)),
        "v": floats(np.array([[127, 64], [127, 127], [1, 0]])),
    }
    made = model([node("MatMul", "x w", "s", "one"), node("MatMul", "s v", "y", "two")], {"x": x}, constants)
    chip = target("array.rows=64", "array.rows_active=64", "converters.adc.bits=4", "converters.adc.range=calibrated")
    build = mcompiler.compile(made, chip, calibration={"x": x})
    first, second = build.verify(x).layers
    assert not first.exact
    probes = ["two/codes", "two/accumulator"]
    mapped, reference = (run_plain(m, {"x": x}, probes) for m in (build.mapped, build.reference))
    assert not np.array_equal(mapped["two/codes"], reference["two/codes"])
    layer = build.layer_data[1]
    exact = crossbar.exact(mapped["two/codes"], crossbar.weights(build, layer), layer)
    assert second.max_code_error == pytest.approx(np.abs(mapped["two/accumulator"] - exact).max())


def test_same_tells_types_shapes_and_contents_apart() -> None:
    one = np.array([1.0, np.nan], np.float32)
    assert compare._bit_equal(one, one.copy())
    assert not compare._bit_equal(one, one.astype(np.float64))
    assert not compare._bit_equal(one, one[None])
    assert not compare._bit_equal(one, np.array([1.0, 2.0], np.float32))
    assert compare._bit_equal([{0: 0.5}], [{0: 0.5}])
    assert not compare._bit_equal([{0: 0.5}], [{0: 0.25}])
    assert not compare._bit_equal([{0: 0.5}], [])


def test_samples_from_an_archive(tmp_path: Path) -> None:
    build, x = dense()
    buffer = io.BytesIO()
    np.savez(buffer, x=x, y=np.zeros(12, np.int64))
    (tmp_path / "data.npz").write_bytes(buffer.getvalue())
    result = build.verify(build.samples(tmp_path / "data.npz", limit=7))
    assert result.samples == 7
    assert result.top1_float is not None
