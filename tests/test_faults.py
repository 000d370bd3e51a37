"""Fault maps: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mcompiler.conductance import parse_faults, physical_lines, read_faults
from mcompiler.errors import DataError
from tests.support.builds import target

CHIP = target(
    "hierarchy.arrays_per_core=3",
    "hierarchy.cores_per_tile=2",
    "hierarchy.tiles_per_chip=2",
    "array.spare_rows=2",
    "array.spare_columns=4",
    "hierarchy.spare_arrays_per_core=1",
)
HEAD = "chip,tile,core,position,row,column,stuck"


def test_a_map_is_sorted_by_address_and_found_by_it() -> None:
    lines = [HEAD, "0,1,0,3,9,19,off", "0,0,0,1,2,3,on", "", "0,1,0,3,0,5, ON "]
    found = parse_faults(lines, CHIP, "map")
    assert found.cells.tolist() == [[0, 0, 0, 1, 2, 3, 1], [0, 1, 0, 3, 0, 5, 1], [0, 1, 0, 3, 9, 19, 0]]
    assert found.of((0, 1, 0, 3)).tolist() == [[0, 5, 1], [9, 19, 0]]
    assert found.of((0, 1, 1, 0)).tolist() == []


def test_columns_are_found_by_their_titles_and_arrays_by_their_number() -> None:
    named = parse_faults([HEAD, "1,0,1,2,4,5,on"], CHIP, "map")
    number = ((1 * 2 + 0) * 2 + 1) * 4 + 2  # four positions a core, the spare one last
    counted = parse_faults(["note,Stuck,column,row,array", f"why,on,5,4,{number}"], CHIP, "map")
    assert counted.cells.tolist() == named.cells.tolist()
    assert counted.digest == named.digest


def test_a_cell_named_twice_is_one_cell() -> None:
    assert len(parse_faults([HEAD, "0,0,0,0,1,1,on", "0,0,0,0,1,1,on"], CHIP, "map").cells) == 1


def test_a_map_without_cells_is_one() -> None:
    assert parse_faults([HEAD], CHIP, "map").cells.shape == (0, 7)


def test_spare_lines_stand_after_unit_and_reference_column() -> None:
    assert physical_lines(CHIP) == (10, 20)
    extra = target(
        "encoding.weights=offset", "encoding.slices=4", "encoding.pedestal=reference_column", "array.spare_columns=3"
    )
    assert physical_lines(extra) == (8, 16 + 1 + 3)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["row,column,stuck"], "the header lacks array; give row,column,stuck and chip,tile,core,position"),
        ([], "the header lacks array, row, column, stuck"),
        ([HEAD, "0,0,0,0,1,1,broken"], "line 2: '0,0,0,0,1,1,broken': give whole numbers, and on or off for stuck"),
        ([HEAD, "0,0,0,0,1"], "line 2: '0,0,0,0,1': give whole numbers"),
        ([HEAD, "0,0,0,0,0,0,on", "0,0,0,0,10,1,on"], "line 3: row 10: target 'generic_128' has 0 to 9, spares incl"),
        ([HEAD, "0,0,0,0,-1,1,on"], "line 2: row -1: target"),
        ([HEAD, "0,0,0,4,0,1,on"], "line 2: position 4: target 'generic_128' has 0 to 3, spares included"),
        ([HEAD, "0,2,0,0,0,1,on"], "line 2: tile 2: target 'generic_128' has 0 to 1"),
        ([HEAD, "0,0,0,0,1,1,on", "0,0,0,0,1,1,off"], "lines 2 and 3 say that one cell is stuck on and stuck off"),
    ],
)
def test_what_is_wrong_is_named(lines: list[str], message: str) -> None:
    with pytest.raises(DataError) as error:
        parse_faults(lines, CHIP, "map.csv")
    assert str(error.value).startswith("map.csv: ")
    assert message in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.csv: cannot be read: No such file"):
        read_faults(tmp_path / "none.csv", CHIP)
    binary = tmp_path / "b.csv"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is no CSV text"):
        read_faults(binary, CHIP)
    good = tmp_path / "g.csv"
    good.write_text(f"\ufeff{HEAD}\r\n0,0,0,0,1,1,off\r\n", encoding="utf-8")
    np.testing.assert_array_equal(read_faults(good, CHIP).cells, [[0, 0, 0, 0, 1, 1, 0]])
