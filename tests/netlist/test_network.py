"""The demo's network through ngspice, layer by layer, with everything digital in between done in numpy and onnxruntime.

What a line stands for is read from the comments of the emitted decks alone, so that names lead back or the classes are
wrong. Every vector of every phase is a solve of its own; equal ones are solved once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper

from mcompiler.artefacts import LayerData
from mcompiler.conductance import convert, make_adc
from mcompiler.driver import Build, compile
from mcompiler.driver.content import mapped_from_cells
from mcompiler.effects import WIRES
from mcompiler.netlist import find_ngspice, run_deck
from mcompiler.physics.chip import Chip
from tests.support.builds import proto_of, run_plain, target
from tests.support.crossbar import in_place, vectors
from tests.support.digits import DEMO

pytestmark = pytest.mark.skipif(find_ngspice() is None, reason="ngspice is not installed")

WORD_LINE = re.compile(r"^\* word line (\d+): input (\d+) of group (\d+)$", re.MULTILINE)
BIT_LINE = re.compile(
    r"^\* bit line (\d+): output channel (\d+) of group (\d+), slice (\d+), polarity ([+-])$", re.MULTILINE
)
WIRED = (
    "array.rows=16", "array.columns=16", "array.rows_active=16", "array.wire_resistance_ohm=2.0",
    "array.driver_resistance_ohm=20.0", "array.sense_resistance_ohm=20.0", "array.source=assumption: test",
)  # fmt: skip


@cache
def compiled(*overrides: str) -> Build:
    return compile(DEMO / "digits_compressed.onnx", target(*overrides, small=False))


def images(count: int) -> dict[str, Any]:
    with np.load(DEMO / "digits.npz") as data:
        return {"x": data["x"][:count]}


def simulated(build: Build, layer: LayerData, codes: npt.NDArray[Any], deck: Path) -> npt.NDArray[Any]:
    """Accumulators of a layer for its input codes, with ngspice in place of the arrays."""
    chip, name = build.target, layer.op.site.name
    assert (chip.converters.dac.bits, chip.encoding.subtract) == (1, "before_adc")  # what is decoded below
    q = vectors(codes, layer)  # [V, G, K]
    planes = (q[None] >> np.arange(layer.op.site.input.bits)[:, None, None, None]) & 1  # [phases, V, G, K]
    sums = np.zeros((*planes.shape[:2], q.shape[1], layer.op.matrix.codes.shape[2]))  # [phases, V, G, N]
    step = chip.device.read_voltage_v * (chip.device.g_max_siemens - chip.device.g_min_siemens)
    step /= chip.device.levels - 1  # ampere of one level
    adc = replace(make_adc(chip), gain=layer.analog.gain)
    for index in range(build.arrays(name)):
        held = [(int(group), int(row)) for _, row, group in WORD_LINE.findall(build.netlist(name, index))]
        groups, rows = np.array(held).T
        applied, which = np.unique(planes[..., groups, rows].reshape(-1, len(rows)), axis=0, return_inverse=True)
        whole = np.zeros((len(applied), *q.shape[1:]))
        whole[:, groups, rows] = applied
        text = build.netlist(name, index, vectors=whole.reshape(len(whole), -1))
        deck.write_text(text)
        (currents,) = run_deck(deck).values()  # [unique, bit lines]
        lines = {tuple(words): int(line) for line, *words in BIT_LINE.findall(text)}
        for (channel, group, piece, sign), line in lines.items():
            if sign == "+":
                pair = currents[:, line] - currents[:, lines[channel, group, piece, "-"]]
                value = convert(adc, pair / step) / adc.gain * chip.device.levels ** int(piece)
                sums[..., int(group), int(channel)] += value[which].reshape(planes.shape[:2])
    total = np.tensordot(2.0 ** np.arange(len(sums)), sums, 1)
    return in_place(
        total - layer.op.site.input.zero_point * layer.op.matrix.codes.astype(float).sum(axis=1), codes, layer
    )


def given(model: onnx.ModelProto, accumulators: Mapping[str, Any]) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The model with these layers' accumulators as inputs: scale and bias behind them stay as they are."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    functions = {function.name: function for function in changed.functions}
    feeds = {}
    for node in changed.graph.node:
        if node.op_type not in accumulators:
            continue
        function, name = functions[node.op_type], f"{node.op_type}/given"
        own = function.output[list(node.output).index(f"{node.op_type}/accumulator")]
        for inner in function.node:
            inner.input[:] = [name if source == own else source for source in inner.input]
        function.input.append(name)
        node.input.append(name)
        changed.graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        feeds[name] = accumulators[node.op_type].astype(np.float32)
    return changed, feeds


def through_ngspice(build: Build, feeds: Mapping[str, Any], deck: Path) -> tuple[Any, dict[str, Any]]:
    """First output of the network, and the accumulators of every layer on the way."""
    model, known = proto_of(build.mapped), dict[str, Any]()
    for layer in build.layer_data:
        codes = f"{layer.op.site.name}/codes"
        changed, inputs = given(model, known)
        seen = run_plain(changed, {**feeds, **inputs}, [codes])[codes]
        known[layer.op.site.name] = simulated(build, layer, seen, deck)
    changed, inputs = given(model, known)
    return run_plain(changed, {**feeds, **inputs})["y"], known


def probed(model: Any, feeds: Mapping[str, Any], layers: Sequence[str]) -> dict[str, Any]:
    return run_plain(model, feeds, [f"{layer}/accumulator" for layer in layers])


def test_the_demo_on_its_own_target_to_the_last_integer(tmp_path: Path) -> None:
    build, feeds = compiled(), images(1)
    scores, known = through_ngspice(build, feeds, tmp_path / "array.sp")
    mapped = probed(build.mapped, feeds, build.layers)
    for layer in build.layers:
        np.testing.assert_array_equal(known[layer], mapped[f"{layer}/accumulator"])
        assert np.abs(known[layer]).max() > 100
    np.testing.assert_array_equal(scores, mapped["y"])


@pytest.mark.slow
def test_the_demo_with_wires_gives_the_classes_of_the_mapped_model(tmp_path: Path) -> None:
    build, feeds = compiled(*WIRED), images(3)
    scores, known = through_ngspice(build, feeds, tmp_path / "array.sp")
    mapped = probed(build.mapped, feeds, build.layers)
    np.testing.assert_array_equal(scores.argmax(axis=1), mapped["y"].argmax(axis=1))
    wires = Chip(build.target, 0, frozenset({WIRES}), 1.0)
    chip = mapped_from_cells(build.skeleton, build.layer_data, build.target, chip=wires)
    expected = probed(chip, feeds, build.layers)
    for layer in build.layers:  # the solver of the simulation agrees in every code, but for ties
        assert np.mean(known[layer] == expected[f"{layer}/accumulator"]) > 0.999
    assert any((known[layer] != mapped[f"{layer}/accumulator"]).any() for layer in build.layers)  # wires are felt
