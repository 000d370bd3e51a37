"""layers.json, layers/ and cells/: what is written is what is read back."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import mcompiler
from mcompiler.artefacts import read_layers
from mcompiler.errors import BuildError
from mcompiler.geometry import array_shape
from mcompiler.ir import ConvShape, MatMulShape
from tests.support import crossbar
from tests.support.builds import Array, Case, conv_case, gemm_case, matmul_case, target
from tests.support.sealed import rewrite_array, rewrite_json, rewrite_npz

CASES = [
    conv_case([3, 3], channels=4, outputs=6, group=2, pads=[1, 0, 2, 1], strides=[2, 1], dilations=[1, 2]),
    conv_case([3], channels=6, outputs=6, group=6, signed=False, bias=False),
    matmul_case([2, 4, 3, 7], [4, 7, 5]),
    gemm_case(transposed=True),
]

CHIPS = {
    "pair": target(),
    "separate": target("encoding.slices_in=separate", "encoding.pairs_in=separate"),
    "isaac": target(base="isaac"),
    "odd columns": target("array.columns=19", "encoding.slices=3", "device.levels=8", "converters.adc.bits=12"),
}


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_layers_come_back_as_they_were(case: Case, chip: str, tmp_path: Path) -> None:
    build = case.compile(CHIPS[chip])
    (before,) = build.layer_data
    out = build.save(tmp_path / "b")
    (after,) = read_layers(out, array_shape(build.target))
    assert replace(after.op.site, bias=None) == replace(before.op.site, bias=None)
    assert after.op.matrix.weight_bits == before.op.matrix.weight_bits
    np.testing.assert_array_equal(after.op.matrix.scale, before.op.matrix.scale)
    assert (after.op.site.bias is None) == (before.op.site.bias is None)
    if before.op.site.bias is not None and after.op.site.bias is not None:
        np.testing.assert_array_equal(after.op.site.bias, before.op.site.bias)
    for one, other in ((after.op.matrix.rows, before.op.matrix.rows), (after.op.matrix.cols, before.op.matrix.cols)):
        np.testing.assert_array_equal(one.indices, other.indices)
        np.testing.assert_array_equal(one.offsets, other.offsets)
    for name in ("table", "addresses", "start"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    np.testing.assert_array_equal(after.analog.flips, before.analog.flips)
    np.testing.assert_array_equal(after.analog.live, before.analog.live)
    assert (after.analog.shift, after.analog.gain, after.analog.lossless, after.analog.clipped) == (
        before.analog.shift, before.analog.gain, before.analog.lossless, before.analog.clipped,
    )  # fmt: skip
    assert after.dense == before.dense
    for one, other in zip(np.concatenate(list(after.cells())), np.concatenate(list(before.cells())), strict=True):
        np.testing.assert_array_equal(one, other)
    loaded = mcompiler.load(out)
    np.testing.assert_array_equal(crossbar.weights(loaded, loaded.layer_data[0]), case.codes)


def test_layers_of_a_stored_build_take_no_memory_for_their_codes(tmp_path: Path) -> None:
    out = CASES[0].compile(target()).save(tmp_path / "b")
    (layer,) = read_layers(out, array_shape(target()))
    assert layer.op.matrix.codes.strides == (0, 0, 0)


def test_layers_json_can_be_read_by_a_person(tmp_path: Path) -> None:
    out = CASES[0].compile(target()).save(tmp_path / "b")
    text = (out / "layers.json").read_text()
    (record,) = json.loads(text)["layers"]
    assert record["name"] == "conv"
    assert record["matrix"] == [2, 18, 3]
    assert record["shape"] == {
        "kind": "conv", "kernel": [3, 3], "strides": [2, 1], "dilations": [1, 2], "pads": [1, 0, 2, 1], "groups": 2,
    }  # fmt: skip
    assert record["crossbars"] == len(list(np.load(out / "cells" / f"{record['files']}.npy")))
    assert len(text.splitlines()) == 5, "one line a layer"


def test_both_kinds_of_shape() -> None:
    assert isinstance(CASES[0].compile(target()).layer_data[0].op.site.shape, ConvShape)
    assert CASES[2].compile(target()).layer_data[0].op.site.shape == MatMulShape((4,))


def set_first(field: str, value: int, arrays: dict[str, Array]) -> None:
    arrays["table"][field][0] = value


def test_what_does_not_fit_together_is_named(tmp_path: Path) -> None:
    """Files with the right hash and the wrong content: a clear error, no fault of ours."""
    shape = array_shape(target())
    build = CASES[3].compile(target())

    def fresh(name: str) -> Path:
        return build.save(tmp_path / name)

    out = fresh("a")
    rewrite_npz(out, "layers/0000_gemm.npz", lambda arrays: arrays.__delitem__("table"))
    with pytest.raises(BuildError, match=r"layer 'gemm' cannot be read .*'table'"):
        read_layers(out, shape)

    out = fresh("b")
    rewrite_npz(out, "layers/0000_gemm.npz", lambda arrays: arrays.update(addresses=arrays["addresses"][1:]))
    with pytest.raises(BuildError, match=r"layer 'gemm' cannot be read .*different numbers of arrays"):
        read_layers(out, shape)

    for field, value in (("row", 100), ("rows", 9), ("col", -1), ("cols", 3), ("group", 1), ("groups", 0)):
        out = fresh(f"c-{field}")
        rewrite_npz(out, "layers/0000_gemm.npz", partial(set_first, field, value))
        with pytest.raises(BuildError, match=r"layer 'gemm' cannot be read .*rows or columns that the matrix lacks"):
            read_layers(out, shape)

    out = fresh("d")
    np.save(out / "cells" / "0000_gemm.npy", np.zeros((1, 2, 3), np.uint8))
    with pytest.raises(
        BuildError, match=r"layer 'gemm' cannot be read \(0000_gemm.npy holds uint8 \(1, 2, 3\), not uint8"
    ):
        read_layers(out, shape)

    out = fresh("e")
    rewrite_json(out, "layers.json", lambda data: data["layers"][0].pop("shift"))
    with pytest.raises(BuildError, match=r"layer 'gemm' cannot be read .*'shift'"):
        read_layers(out, shape)
    (out / "layers.json").write_text("{}")
    with pytest.raises(BuildError, match=r"layers.json: cannot be read"):
        read_layers(out, shape)


def test_cells_are_packed_as_the_file_says(tmp_path: Path) -> None:
    """Four 2-bit cells a byte, the first column in the lowest bits."""
    build = CASES[3].compile(target())
    out = build.save(tmp_path / "b")
    stored = np.load(out / "cells" / "0000_gemm.npy")
    assert stored.dtype == np.uint8
    assert stored.shape[1:] == (8, 4)
    for index, packed in enumerate(stored):
        levels = build.cells("gemm", index)
        np.testing.assert_array_equal(packed, (levels.reshape(8, 4, 4) << [0, 2, 4, 6]).sum(axis=-1))


def test_one_bit_in_the_cells_is_one_bit_in_a_weight(tmp_path: Path) -> None:
    build = CASES[3].compile(target())
    out = build.save(tmp_path / "b")
    rewrite_array(out, "cells/0000_gemm.npy", lambda cells: cells[0, 2].__setitem__(0, cells[0, 2, 0] ^ 0b100))
    loaded = mcompiler.load(out)
    difference = crossbar.weights(loaded, loaded.layer_data[0]) - CASES[3].codes
    assert np.argwhere(difference).tolist() == [[0, 2, 0]], "word line 2, first channel"
    assert abs(difference[0, 2, 0]) == 4, "second cell of the weight, lowest bit"
