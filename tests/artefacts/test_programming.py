"""The programming table against the cells, and write-verify against sums by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from mcompiler.cli.main import run
from tests.support.builds import conv_case, target

WRITE = ("device.write.pulses=4.0", "device.write.pulse_s=1e-6", "device.write.pulse_energy_j=2e-12",
         "device.write.verify_s=3e-6", "device.write.verify_energy_j=1e-12", "device.write.parallel_cells=5",
         "device.write.endurance=1e6", "device.write.source=assumption: test")  # fmt: skip
CASE = conv_case([3, 3], channels=4, outputs=6, pads=[1, 1, 1, 1])


def test_the_table_holds_every_cell(tmp_path: Path) -> None:
    build = CASE.compile(target())
    out = tmp_path / "cells.npy"
    count = build.write_cells(out, "conv")
    table = np.load(out, mmap_mode="r")
    assert len(table) == count == sum(cells.size for cells in build.all_cells("conv"))
    for index, levels in enumerate(build.all_cells("conv")):
        part = table[table["array"] == index]
        np.testing.assert_array_equal(levels[part["row"], part["column"]], part["level"])
        np.testing.assert_allclose(
            build.conductances("conv", index)[part["row"], part["column"]], part["conductance_s"], rtol=1e-6
        )
        assert build.address("conv", index) == [int(part[0][key]) for key in ("chip", "tile", "core", "position")]
        assert len({(row, column) for row, column in zip(part["row"], part["column"], strict=True)}) == levels.size
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("unformed", [False, True])
def test_write_verify_by_hand(unformed: bool) -> None:
    partner = ("encoding.partner=unformed", "encoding.slices=1", "converters.adc.bits=20") if unformed else ()
    build = CASE.compile(target(*WRITE, *partner))
    found = build.programming()
    assert found is not None
    layer, total = found
    busy: dict[tuple[int, ...], float] = {}
    cells = 0
    for index, levels in enumerate(build.all_cells("conv")):
        written = int((levels > 0).sum()) if unformed else levels.size
        cells += written
        core = tuple(build.address("conv", index)[:3])
        busy[core] = busy.get(core, 0.0) + math.ceil(written / 5) * 4 * 4e-6
    assert layer.cells == total.cells == cells
    assert layer.pulses == 4 * cells
    assert layer.seconds == pytest.approx(max(busy.values()))
    assert layer.energy_j == pytest.approx(4 * cells * 3e-12)
    assert layer.endurance_share == pytest.approx(4e-6)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = str(CASE.compile(target(*WRITE)).save(tmp_path / "known.build"))
    unknown = str(CASE.compile(target()).save(tmp_path / "unknown.build"))
    assert run(["cells", known, "--summary", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in body["programming"]] == ["conv", "total"]
    assert run(["cells", known, "--summary"]) == 0
    assert "endurance spent" in capsys.readouterr().out
    assert run(["cells", unknown, "--summary"]) == 0
    assert "has no [device.write]" in capsys.readouterr().out
    assert run(["cells", unknown, "--summary", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"programming": None, "tolerance_s": None}
    assert run(["cells", known, "--layer", "conv", "--out", str(tmp_path / "a.npy")]) == 0
    assert (tmp_path / "a.npy").exists()
    assert run(["cells", known]) == 2
    assert run(["cells", known, "--layer", "conv", "--out", str(tmp_path / "a.csv")]) == 2
