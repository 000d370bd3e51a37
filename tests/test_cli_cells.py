"""The command ``cells``: what it prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mcompiler
from mcompiler.cli.main import run
from tests.support.builds import conv_case, target

WRITE = ("device.write.pulses=4.0", "device.write.pulse_s=1e-6", "device.write.pulse_energy_j=2e-12",
         "device.write.verify_s=3e-6", "device.write.verify_energy_j=1e-12", "device.write.parallel_cells=5",
         "device.write.tolerance_siemens=1e-6", "device.write.endurance=1e6",
         "device.write.source=assumption: test")  # fmt: skip
CASE = conv_case([3, 3], channels=4, outputs=6, pads=[1, 1, 1, 1])

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build for a target that says what writing takes, with an array on each of several chips."""
    chips = ("hierarchy.tiles_per_chip=1", "hierarchy.cores_per_tile=1", "hierarchy.arrays_per_core=4")
    return CASE.compile(target(*WRITE, *chips)).save(tmp_path_factory.mktemp("cells") / "known.build")


@pytest.fixture(scope="module")
def unknown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build for a target that does not."""
    return CASE.compile(target()).save(tmp_path_factory.mktemp("cells") / "unknown.build")


def call(capsys: Capture, *arguments: object) -> tuple[int, str, str]:
    code = run(["cells", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def call_json(capsys: Capture, *arguments: object) -> Any:
    code, out, _ = call(capsys, *arguments, "--json")
    assert code == 0
    return json.loads(out)


# --- the table -------------------------------------------------------------------------------------------------------


def test_csv_in_a_file_is_what_is_printed(known: Path, tmp_path: Path, capsys: Capture) -> None:
    for number, tile in enumerate([[], ["--tile", 2]]):
        out = tmp_path / f"{number}.csv"
        _, printed, _ = call(capsys, known, "--layer", "conv", *tile)
        code, said, _ = call(capsys, known, "--layer", "conv", *tile, "--out", out)
        assert code == 0
        assert out.read_text() == printed
        lines = printed.splitlines()
        assert lines[0] == "array,chip,tile,core,position,row,column,level,conductance_s"
        assert f"{len(lines) - 1:,} cells of layer 'conv'" in said
        assert {line.partition(",")[0] for line in lines[1:]} >= ({"2"} if tile else {"0", "1", "2"})


def test_columns_csv_and_json_agree(known: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "conv.npy"
    body = call_json(capsys, known, "--layer", "conv", "--out", out)
    table = np.load(out, mmap_mode="r")
    assert body == {"layer": "conv", "out": str(out), "cells": len(table)}
    _, printed, _ = call(capsys, known, "--layer", "conv")
    header, *lines = printed.splitlines()
    assert header == ",".join(table.dtype.names or ())
    assert [line.split(",")[:-1] for line in lines] == [[str(value) for value in row[:-1]] for row in table.tolist()]
    arrays = call_json(capsys, known, "--layer", "conv")["arrays"]
    assert [each["tile"] for each in arrays] == list(range(len(arrays)))
    assert np.ravel([each["levels"] for each in arrays]).tolist() == table["level"].tolist()
    (one,) = call_json(capsys, known, "--layer", "conv", "--tile", 2)["arrays"]
    assert one == arrays[2]


def test_all_layers_go_to_a_folder(known: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "cells"
    body = call_json(capsys, known, "--out", out)
    (row,) = body["layers"]
    build = mcompiler.load(known)
    levels = np.stack([*build.all_cells("conv")])
    assert row == {"layer": "conv", "file": "0000_conv.npy", "cells": levels.size}
    assert (body["out"], body["cells"]) == (str(out), levels.size)
    np.testing.assert_array_equal(np.load(out / row["file"])["level"], levels.ravel())
    code, _, err = call(capsys, known, "--out", out)
    assert code == 1
    assert err.endswith("cells: exists; cells of all layers go into a new folder, choose another --out\n")
    code, said, _ = call(capsys, known, "--out", tmp_path / "again")
    assert code == 0
    assert f"{levels.size:,} cells in all" in said


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "give --layer, or --out FOLDER for all layers, or --summary"),
        (["--tile", "0"], 2, "--tile is an array of a layer: give --layer too"),
        (["--out", "a.npy"], 2, "--out a.npy: a file holds one layer: give --layer, or name a folder"),
        (["--layer", "conv", "--out", "a.txt"], 2, "--out a.txt: cells of a layer go to a file F.npy or F.csv"),
        (["--layer", "conv", "--summary"], 2, "--summary covers all layers: leave out --layer, --tile and --out"),
        (["--out", "a", "--summary"], 2, "--summary covers all layers: leave out --layer, --tile and --out"),
        (["--layer", "dense", "--out", "a.npy"], 1, "no layer 'dense'"),
        (["--layer", "conv", "--tile", "99", "--out", "a.csv"], 1, "there is no number 99"),
        (["--layer", "conv", "--out", "missing/a.npy"], 1, "cannot be written: No such file or directory"),
    ],
)
def test_what_is_refused_leaves_nothing(
    arguments: list[str], code: int, said: str, known: Path, tmp_path: Path, capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    found, out, err = call(capsys, known, *arguments)
    assert (found, out) == (code, "")
    assert said in err
    assert not list(tmp_path.iterdir())


# --- write and verify ------------------------------------------------------------------------------------------------


def test_summary_is_what_the_build_says(known: Path, capsys: Capture) -> None:
    body = call_json(capsys, known, "--summary")
    found = mcompiler.load(known).programming()
    assert found is not None
    assert body == {"programming": [each.as_json() for each in found], "tolerance_siemens": 1e-6}
    total = body["programming"][-1]
    assert set(total) == {"name", "cells", "pulses", "seconds", "energy_j", "endurance_share", "chips"}
    assert len(total["chips"]) > 1
    assert [each["chip"] for each in total["chips"]] == list(range(len(total["chips"])))
    assert max(each["seconds"] for each in total["chips"]) == total["seconds"]


def test_summary_as_text(known: Path, capsys: Capture) -> None:
    code, out, _ = call(capsys, known, "--summary")
    header, *rest = out.splitlines()
    assert code == 0
    assert header.split() == ["layer", "cells", "pulses", "time", "energy", "endurance", "spent"]
    assert [line.split()[0] for line in rest[:2]] == ["conv", "total"]
    assert rest[1].endswith("4e-06")
    assert ["chip", "time"] in [line.split() for line in rest]
    assert rest[-1] == (
        "written and verified to within 1.00 uS: 5 cells of an array at once, arrays of a core one after the other, "
        "cores (and chips) in parallel"
    )


def test_summary_without_a_description_of_writing_has_no_number(unknown: Path, capsys: Capture) -> None:
    code, out, _ = call(capsys, unknown, "--summary")
    assert code == 0
    assert out == "target 'generic_128' has no [device.write]: time and energy of programming are not known\n"
    assert call_json(capsys, unknown, "--summary") == {"programming": None, "tolerance_siemens": None}
