"""Programming a chip: the table of all its cells, and time and energy of writing and verifying them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from mcompiler.artefacts.directory import atomic_write, sync_folder
from mcompiler.artefacts.layers import LayerData, file_stem
from mcompiler.conductance import conductances, unpack_levels
from mcompiler.errors import BuildError
from mcompiler.geometry import array_shape
from mcompiler.target import Partner, Target

_INTEGERS = ("array", "chip", "tile", "core", "position", "row", "column")
CELL = np.dtype([*((name, "<u4") for name in _INTEGERS), ("level", "u1"), ("conductance_s", "<f4")])
"""One cell: number of the array within the layer, its address, row and column in it, level code, siemens."""

CSV_HEADER = ",".join(CELL.names or ())
ADDRESS = ("chip", "tile", "core", "position")

Levels = npt.NDArray[np.uint8]
Siemens = npt.NDArray[np.float64]

DrawnCells = Callable[[int, Levels], Siemens]
"""Conductances [arrays, word lines, bit lines] on one chip of the arrays from a number on, by their level codes."""


@dataclass(frozen=True)
class Programming:
    """Time and energy of writing the arrays of a layer once, or of all layers.

    Attributes:
        name: name of the layer, or "total".
        cells: number of cells that are written; unformed partners are not.
        pulses: expected number of pulses for all cells; each is followed by a verifying read.
        seconds: duration: arrays of a core one after the other, ``parallel_cells`` of an array at once, cores in
            parallel.
        energy_j: energy of pulses and verifying reads.
        endurance_share: share of a cell's endurance that one programming uses; None where it is not known.
        chip_seconds: duration on each chip: (number, seconds) in ascending order; the longest is ``seconds``.
    """

    name: str
    cells: int
    pulses: float
    seconds: float
    energy_j: float
    endurance_share: float | None
    chip_seconds: tuple[tuple[int, float], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The object that JSON outputs hold."""
        return {
            "name": self.name,
            "cells": self.cells,
            "pulses": self.pulses,
            "seconds": self.seconds,
            "energy_j": self.energy_j,
            "endurance_share": self.endurance_share,
            "chips": [{"chip": chip, "seconds": seconds} for chip, seconds in self.chip_seconds],
        }


# --- the table -------------------------------------------------------------------------------------------------------


def layer_levels(layer: LayerData, target: Target, tile: int | None = None) -> Iterator[tuple[int, Levels]]:
    """Number and level codes, [word lines, bit lines], of each array of a layer, or of array ``tile`` only."""
    shape, number = array_shape(target), 0
    columns = layer.lines(shape)[1]
    for chunk in layer.cells():
        for place in range(len(chunk)):
            if tile is None or tile == number + place:
                yield number + place, unpack_levels(chunk[place], shape.storage_bits, columns)
        number += len(chunk)


def layer_conductances(
    layer: LayerData, target: Target, tile: int | None = None, drawn: DrawnCells | None = None
) -> Iterator[tuple[int, Levels, Siemens]]:
    """Number, level codes and conductances of each array of a layer, or of array ``tile`` only.

    Args:
        layer, target, tile: as for ``layer_levels``. Arrays of further copies follow their first one, with numbers that
            continue those of the first copy, where all arrays are asked for.
        drawn: the conductances on one chip, which draws every copy; None: those that are asked for.
    """
    shape, first = array_shape(target), 0
    columns = layer.lines(shape)[1]
    for chunk in layer.cells():
        inside = [place for place in range(len(chunk)) if tile is None or tile == first + place]
        if inside:
            levels = unpack_levels(chunk, shape.storage_bits, columns)
            # The arrays of a chunk are drawn together, as trials draw them: predistortion has one scale for them.
            copies = _numbers(layer, 0, tile)
            made = [conductances(levels, target) if drawn is None else drawn(first + copy, levels) for copy in copies]
            for place in inside:
                for copy, siemens in zip(copies, made, strict=True):
                    yield first + place + copy, levels[place], siemens[place]
        first += len(chunk)


def programming_table(
    layer: LayerData, target: Target, tile: int | None = None, drawn: DrawnCells | None = None
) -> Iterator[npt.NDArray[np.void]]:
    """The cells of a layer, array after array: structured arrays (dtype CELL), row by row.

    Arguments and order as for ``layer_conductances``.
    """
    for number, levels, siemens in layer_conductances(layer, target, tile, drawn):
        own = np.zeros(levels.size, dtype=CELL)
        rows, columns = np.indices(levels.shape)
        own["row"], own["column"], own["level"] = rows.ravel(), columns.ravel(), levels.ravel()
        own["conductance_s"] = siemens.ravel()
        own["array"] = number
        for name, value in zip(ADDRESS, layer.addresses[number].tolist(), strict=True):
            own[name] = value
        yield own


def _numbers(layer: LayerData, number: int, tile: int | None) -> range:
    """Numbers of an array and of its copies; only its own where one array was asked for."""
    return range(number, number + 1 if tile is not None else len(layer.addresses), max(1, len(layer.table)))


def programming_csv(
    layer: LayerData, target: Target, tile: int | None = None, drawn: DrawnCells | None = None
) -> Iterator[str]:
    """The same as CSV: the line of headers, then the lines of an array at a time; conductances with 6 digits."""
    yield CSV_HEADER + "\n"
    for number, levels, siemens in layer_conductances(layer, target, tile, drawn):
        start = ",".join(map(str, [number, *layer.addresses[number].tolist()]))
        cells = zip(levels.tolist(), siemens.tolist(), strict=True)
        yield "".join(
            f"{start},{row},{column},{level},{value:.6g}\n"
            for row, (line, values) in enumerate(cells)
            for column, (level, value) in enumerate(zip(line, values, strict=True))
        )


def write_programming_table(
    path: Path, layer: LayerData, target: Target, tile: int | None = None, drawn: DrawnCells | None = None
) -> int:
    """Write the table of a layer, or of one of its arrays: .npy, or CSV where the name ends in .csv.

    One array is in memory at a time; the file is written atomically.

    Returns:
        Number of its cells.

    Raises:
        BuildError: another suffix, or the file cannot be written.
    """
    if path.suffix not in {".npy", ".csv"}:
        raise BuildError(f"{path}: cells are written as .npy or as .csv; name the file so")
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        if path.suffix == ".csv":
            file.writelines(piece.encode() for piece in programming_csv(layer, target, tile, drawn))
        else:
            _write_npy(file, layer, target, tile, drawn)
        _sync(file)
    return _count(layer, target, tile)


def write_programming_tables(
    folder: Path, layers: Sequence[LayerData], target: Target, drawn: Mapping[str, DrawnCells] | None = None
) -> dict[str, tuple[str, int]]:
    """Write a .npy for every layer into a new folder, atomically; file names are those of ``cells/``.

    Args:
        folder, layers, target: where, and what.
        drawn: conductances on one chip by layer; None: those that are asked for.

    Returns:
        By layer: name of its file, number of its cells.

    Raises:
        BuildError: the folder is there and not empty, or cannot be written.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise BuildError(f"{folder}: exists; cells of all layers go into a new folder, choose another --out")
    written: dict[str, tuple[str, int]] = {}
    with atomic_write(folder) as temporary:
        temporary.mkdir()
        for index, layer in enumerate(layers):
            name = f"{file_stem(index, layer.op.site.name)}.npy"
            with (temporary / name).open("wb") as file:
                _write_npy(file, layer, target, None, None if drawn is None else drawn[layer.op.site.name])
                _sync(file)
            written[layer.op.site.name] = (name, _count(layer, target, None))
        sync_folder(temporary)
    return written


def _write_npy(file: BinaryIO, layer: LayerData, target: Target, tile: int | None, drawn: DrawnCells | None) -> None:
    header = {
        "descr": np.lib.format.dtype_to_descr(CELL),
        "fortran_order": False,
        "shape": (_count(layer, target, tile),),
    }
    np.lib.format.write_array_header_1_0(file, header)
    for table in programming_table(layer, target, tile, drawn):
        file.write(table.view(np.uint8).data)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _count(layer: LayerData, target: Target, tile: int | None) -> int:
    return (len(layer.addresses) if tile is None else 1) * math.prod(layer.lines(array_shape(target)))


# --- write and verify ------------------------------------------------------------------------------------------------


def programming_cost(layers: Iterable[LayerData], target: Target) -> tuple[Programming, ...] | None:
    """Write-verify of every layer, and last of all of them; None where the target has no [device.write].

    Every cell of the arrays in use is written, those at the lowest conductance too; only unformed partners are not.
    ``parallel_cells`` of an array are written at once and take the expected pulses; the arrays of a core are written
    one after the other, cores and chips in parallel.
    """
    write = target.device.write
    if write is None:
        return None
    pulse_s, pulse_j = write.pulse_s + write.verify_s, write.pulse_energy_j + write.verify_energy_j
    share = None if write.endurance is None else write.pulses / write.endurance

    def priced(name: str, cells: int, steps: dict[tuple[int, ...], int]) -> Programming:
        chips: dict[int, int] = {}
        for core, own in steps.items():
            chips[core[0]] = max(chips.get(core[0], 0), own)
        seconds = {chip: own * write.pulses * pulse_s for chip, own in sorted(chips.items())}
        pulses, longest = cells * write.pulses, max(seconds.values(), default=0.0)
        return Programming(
            name=name,
            cells=cells,
            pulses=pulses,
            seconds=longest,
            energy_j=pulses * pulse_j,
            endurance_share=share,
            chip_seconds=tuple(seconds.items()),
        )

    found: list[Programming] = []
    everywhere: dict[tuple[int, ...], int] = {}
    for layer in layers:
        if layer.shares is not None:  # its cells are written once, with those of the layer that has them
            found.append(priced(layer.op.site.name, 0, {}))
            continue
        written = written_cells(layer, target)
        steps = _by_core(-(-written // write.parallel_cells), layer.addresses)
        for core, own in steps.items():
            everywhere[core] = everywhere.get(core, 0) + own
        found.append(priced(layer.op.site.name, int(written.sum()), steps))
    return (*found, priced("total", sum(each.cells for each in found), everywhere))


def written_cells(layer: LayerData, target: Target) -> npt.NDArray[np.int64]:
    """Number of cells of each array of each copy that are written: all, or only the formed ones."""
    if target.encoding.partner is not Partner.UNFORMED:
        return np.full(len(layer.addresses), math.prod(layer.lines(array_shape(target))), np.int64)
    formed = [int(np.count_nonzero(levels)) for _, levels in layer_levels(layer, target)]
    return np.tile(np.array(formed, np.int64), layer.copies)


def _by_core(steps: npt.NDArray[np.int64], addresses: npt.NDArray[np.int32]) -> dict[tuple[int, ...], int]:
    """Steps of the arrays of each core (chip, tile, core), one array after the other."""
    cores, which = np.unique(addresses[:, :3], axis=0, return_inverse=True)
    sums = np.zeros(len(cores), np.int64)
    np.add.at(sums, which.reshape(-1), steps)
    return dict(zip(map(tuple, cores.tolist()), sums.tolist(), strict=True))
