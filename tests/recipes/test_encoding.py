"""How to add a weight encoding from another package: one file, and one line in that package's metadata."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import mcompiler
from mcompiler.artefacts import LayerData
from mcompiler.driver import Build, compile
from mcompiler.encodings import encoding_names, find_encoding
from mcompiler.errors import TargetError
from mcompiler.target import Target, check_target, json_schema, load_target

DEMO = Path(mcompiler.__file__).parent / "demo"
ROOT = Path(mcompiler.__file__).resolve().parent.parent

FILE = '''
"""Codes minus the smallest code of their matrix, in cells of one sign."""

from dataclasses import dataclass
from typing import ClassVar

from mcompiler.encodings import ArrayShape, CodeRange, CodesDoNotFitError, WeightEncoding, capacity


@dataclass(frozen=True)
class LeastShift(WeightEncoding):
    """Each matrix has the smallest shift that leaves no code negative."""

    zero_is_empty: ClassVar[bool] = False

    def code_range(self, shape: ArrayShape, shift: int = 0) -> CodeRange:
        return CodeRange(-shift, shape.largest_magnitude - shift)

    def magnitudes(self, codes, shift: int):
        return (codes + shift)[:, None]

    def fit_codes(self, low: int, high: int, shape: ArrayShape) -> int:
        shift = max(0, -low)
        if high + shift > shape.largest_magnitude:
            raise CodesDoNotFitError(f"codes from {low} to {high} do not fit into {capacity(shape)}")
        return shift

    @property
    def digital_sum(self) -> bool:
        return True
'''

OVERRIDES = ("encoding.weights=least_shift", "encoding.pedestal=digital_count")


def package(folder: Path, name: str, source: str, points: str) -> None:
    """An installed package: a module, and the metadata that its installer would have written."""
    (folder / f"{name}.py").write_text(source, encoding="utf-8")
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[mcompiler.encodings]\n{points}\n", encoding="utf-8")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of installed packages with the encoding of this recipe."""
    folder = tmp_path_factory.mktemp("site")
    package(folder, "acme_encodings", FILE, "least_shift = acme_encodings:LeastShift")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder
        sys.modules.pop("acme_encodings", None)


@pytest.fixture(scope="module")
def chip(site: Path) -> Target:
    """A target that asks for the encoding."""
    return load_target("generic_128", OVERRIDES)


@pytest.fixture(scope="module")
def build(chip: Target) -> Build:
    """The digits model for that target."""
    return compile(DEMO / "digits.onnx", chip, calibration=DEMO / "digits_calibration.npz")


def held(layer: LayerData, build: Build) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Kept codes of a matrix of one array from its cells, by the definition: sum of slices minus the shift."""
    slices, bits = build.target.encoding.slices, build.target.device.bits
    (levels,) = build.all_cells(layer.op.site.name)
    rows, cols = (int(layer.table[0][key]) for key in ("rows", "cols"))
    each = levels.reshape(-1, levels.shape[-1])[:rows, : cols * slices].reshape(rows, cols, slices).astype(np.int64)
    return np.asarray((each << (bits * np.arange(slices))).sum(axis=2) - layer.analog.shift)


def test_the_mapped_model_is_exact(build: Build) -> None:
    data = np.load(DEMO / "digits.npz")
    found = build.verify(data["x"], data["y"], limit=32)
    assert found.exact
    assert all(layer.exact for layer in found.layers)


def test_cells_hold_codes_with_the_shift_of_the_matrix(build: Build) -> None:
    shifts = [layer.analog.shift for layer in build.layer_data]
    assert shifts == [max(0, -int(layer.op.matrix.codes.min())) for layer in build.layer_data]
    assert 0 < max(shifts) < 128, "half of the range is 'offset'"
    alone = [layer for layer in build.layer_data if len(layer.table) == 1 and len(layer.op.matrix.codes) == 1]
    assert alone
    for layer in alone:
        kept = np.ix_(layer.op.matrix.rows.of(0), layer.op.matrix.cols.of(0))
        assert np.array_equal(held(layer, build), layer.op.matrix.codes[0][kept])


def test_netlist_cost_and_report(build: Build) -> None:
    layer = build.layers[0]
    assert "polarity none" in build.netlist(layer, 0)
    assert build.cost.energy_j > 0
    assert build.cost.crossbars > 0
    assert "least_shift" in build.report()


def test_it_comes_back_from_disk_and_from_a_pickle(build: Build, chip: Target, tmp_path: Path) -> None:
    again = mcompiler.load(build.save(tmp_path / "digits.build"))
    assert again.target == chip
    layer = build.layers[0]
    assert np.array_equal(again.cells(layer), build.cells(layer))
    assert pickle.loads(pickle.dumps(chip)) == chip
    assert pickle.loads(pickle.dumps(chip)).weight_encoding == chip.weight_encoding


def test_the_command_line_knows_it(site: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.build"
    keys = [word for key in OVERRIDES for word in ("--set", key)]
    words = ["compile", str(DEMO / "digits.onnx"), "--calibration", str(DEMO / "digits_calibration.npz"), *keys]
    for line in ([*words, "--out", str(out)], ["verify", str(out), "--limit", "4", "--json"]):
        path = os.pathsep.join([str(site), str(ROOT)])
        done = subprocess.run(
            [sys.executable, "-m", "mcompiler", *line],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["exact"] is True


def test_codes_that_it_cannot_hold(site: Path) -> None:
    small = load_target("generic_128", (*OVERRIDES, "encoding.slices=1", "precision.weights=2", "array.columns=16"))
    # 2-bit quantisation gives codes -1..1: they fit. The message is tested where the cells are too few.
    shape = mcompiler.geometry.array_shape(small)
    with pytest.raises(ValueError, match=r"codes from -2 to 2 do not fit into 1 slice\(s\) of 2 bits"):
        small.weight_encoding.fit_codes(-2, 2, shape)


# --- what can be wrong -----------------------------------------------------------------------------------------------


def test_schema_and_messages_list_it(site: Path) -> None:
    assert encoding_names() == ("differential", "offset", "polarised", "least_shift")
    assert json_schema()["$defs"]["Encoding"]["properties"]["weights"]["enum"] == list(encoding_names())
    (fault,) = check_target("generic_128", ["encoding.weights=least_shft"])
    assert fault == (
        "--set encoding.weights=least_shft: encoding.weights: must be 'differential', 'offset', 'polarised' or "
        "'least_shift', not 'least_shft'; did you mean 'least_shift'?"
    )
    with pytest.raises(TargetError, match=r"^unknown weight encoding 'ofset'; did you mean 'offset'\?"):
        find_encoding("ofset")


def test_settings_that_it_does_not_know(site: Path) -> None:
    faults = check_target("generic_128", ["encoding.weights=least_shift", "encoding.flip=true"])
    assert any("columns are flipped only where weights = 'offset', not 'least_shift'" in fault for fault in faults)
    assert any("'pair' needs weights = 'differential'; with 'least_shift' use one of" in fault for fault in faults)


@pytest.mark.parametrize(
    ("source", "fact"),
    [
        ("import nowhere_to_be_found", "cannot be imported: No module named 'nowhere_to_be_found'"),
        ("Broken = 3", "is no class that derives from mcompiler.encodings.WeightEncoding"),
        (
            "from mcompiler.encodings import WeightEncoding\nclass Broken(WeightEncoding): pass",
            "does not define code_range, magnitudes",
        ),
        (
            FILE.replace("LeastShift", "Broken") + "\n    @classmethod\n    def of(cls, settings): 1 / 0",
            "cannot be set up",
        ),
    ],
    ids=["import", "no_class", "abstract", "settings"],
)
def test_an_error_in_a_plug_in_names_it(
    source: str, fact: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    name = f"broken_{request.node.callspec.id}"  # each its own: classes that were found are remembered by name
    package(tmp_path, name, source, f"{name} = {name}:Broken")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TargetError) as caught:
        _ = load_target("generic_128", [f"encoding.weights={name}", "encoding.pedestal=digital_count"]).weight_encoding
    assert f"encoding '{name}': its class '{name}:Broken' of the package '{name}' {fact}" in str(caught.value)
