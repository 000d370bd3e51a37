"""The fault map of a real chip: its stuck cells, from a CSV file."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mcompiler.errors import DataError
from mcompiler.geometry import array_shape
from mcompiler.ir import IntArray
from mcompiler.target import Target

ADDRESS = ("chip", "tile", "core", "position")
CELL = ("row", "column", "stuck")
STATES = {"on": 1, "off": 0}


@dataclass(frozen=True)
class FaultMap:
    """Stuck cells of the arrays of one or more chips.

    Attributes:
        name: of the file, for messages.
        cells: int64 [stuck, 7], sorted, no cell twice: chip, tile, core, position, word line, bit line, 1 where it is
            stuck on and 0 where it is stuck off. Spare lines follow the others: word lines after ``array.rows``, bit
            lines after the unit and reference column.
    """

    name: str
    cells: IntArray

    @property
    def digest(self) -> str:
        """SHA-256 of the cells, for the manifest."""
        return hashlib.sha256(np.ascontiguousarray(self.cells, dtype="<i8").tobytes()).hexdigest()

    def of(self, address: Sequence[int]) -> IntArray:
        """Stuck cells of one array: [stuck, 3], word line, bit line, on."""
        first, end = 0, len(self.cells)
        for place, value in enumerate(address):  # sorted by the columns before this one
            inside = self.cells[first:end, place]
            first, end = (
                first + int(np.searchsorted(inside, value)),
                first + int(np.searchsorted(inside, value, "right")),
            )
        return self.cells[first:end, 4:]


def physical_lines(target: Target) -> tuple[int, int]:
    """Word lines and bit lines of an array: those of weights, unit and reference column, then spares."""
    shape = array_shape(target)
    return shape.rows + target.array.spare_rows, shape.columns + shape.extra + target.array.spare_columns


def read_faults(path: Path, target: Target) -> FaultMap:
    """Read a fault map.

    The header names the columns, in any order: ``row,column,stuck`` (``on`` or ``off``) and the address of the array,
    as ``chip,tile,core,position`` or as ``array``, its number counted position by position through cores, tiles and
    chips (spare arrays of a core after its others). Other columns are not read.

    Raises:
        DataError: a file that cannot be read, columns that are missing, cells that the target lacks or that are stuck
            in two ways; names the line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return parse_faults(file, target, str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: is no CSV text ({error})") from error


def parse_faults(lines: Iterable[str], target: Target, name: str) -> FaultMap:
    """A fault map from the lines of a CSV file; see ``read_faults``."""
    reader = csv.reader(lines)
    header = [title.strip().lower() for title in next(reader, [])]
    place = ADDRESS if set(ADDRESS) <= set(header) else ("array",)
    missing = [title for title in (*place, *CELL) if title not in header]
    if missing:
        raise DataError(
            f"{name}: the header lacks {', '.join(missing)}; give row,column,stuck and chip,tile,core,position (or "
            "array, the number of the array counted through the chips)"
        )
    columns = [header.index(title) for title in (*place, *CELL[:2])]
    state = header.index("stuck")
    found: list[list[int]] = []
    for row in reader:
        if not any(part.strip() for part in row):
            continue
        try:
            numbers = [int(row[column]) for column in columns]
            stuck = STATES[row[state].strip().lower()]
        except (ValueError, IndexError, KeyError):
            raise DataError(
                f"{name}: line {reader.line_num}: '{','.join(row)}': give whole numbers, and on or off for stuck"
            ) from None
        found.append([*numbers, stuck, reader.line_num])
    table = np.array(found, dtype=np.int64).reshape(-1, len(columns) + 2)
    cells, number = _addressed(table[:, :-1], target), table[:, -1]
    _check(cells, number, target, name)
    return FaultMap(name, _unique(cells, number, name))


def _sizes(target: Target) -> tuple[int, int, int]:
    """Tiles of a chip, cores of a tile, arrays of a core with its spares."""
    levels = target.hierarchy
    return levels.tiles_per_chip, levels.cores_per_tile, levels.positions_per_core


def _addressed(table: IntArray, target: Target) -> IntArray:
    """[stuck, 7] from rows that have an address or, one column, the number of the array."""
    if table.shape[1] == len(ADDRESS) + len(CELL):
        return table
    index, address = table[:, 0], []
    for size in reversed(_sizes(target)):
        index, within = np.divmod(index, size)
        address.append(within)
    return np.stack([index, *reversed(address), *table[:, 1:].T], axis=1)


def _check(cells: IntArray, number: IntArray, target: Target, name: str) -> None:
    chips = target.hierarchy.chips
    limits = (chips if isinstance(chips, int) else 1 << 31, *_sizes(target), *physical_lines(target))
    outside = (cells[:, :6] < 0) | (cells[:, :6] >= limits)
    wrong = np.argwhere(outside)
    if len(wrong):
        row, column = wrong[0].tolist()
        title = (*ADDRESS, *CELL)[column]
        spares = ", spares included" if title in ("position", "row", "column") else ""
        raise DataError(
            f"{name}: line {int(number[row])}: {title} {int(cells[row, column])}: target '{target.name}' has 0 to "
            f"{limits[column] - 1}{spares}"
        )


def _unique(cells: IntArray, number: IntArray, name: str) -> IntArray:
    order = np.lexsort(cells.T[::-1])
    cells, number = cells[order], number[order]
    same = (cells[1:, :6] == cells[:-1, :6]).all(axis=1)
    torn = np.flatnonzero(same & (cells[1:, 6] != cells[:-1, 6]))
    if len(torn):
        one, other = sorted((int(number[torn[0]]), int(number[torn[0] + 1])))
        raise DataError(f"{name}: lines {one} and {other} say that one cell is stuck on and stuck off; leave one out")
    kept: IntArray = cells[np.concatenate([np.ones(min(1, len(cells)), dtype=bool), ~same])]
    return kept
