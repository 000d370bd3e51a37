"""Programming a chip: the table of all its cells as columns, and what writing and verifying them takes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.artefacts.layers import LayerData
from mcompiler.conductance import conductances, unpack_levels
from mcompiler.geometry import array_shape
from mcompiler.target import Partner, Target

CELL = np.dtype(
    [
        ("array", "<u4"), ("chip", "<u4"), ("tile", "<u4"), ("core", "<u4"), ("position", "<u4"), ("row", "<u4"),
        ("column", "<u4"), ("level", "u1"), ("conductance_s", "<f4"),
    ]
)  # fmt: skip
"""One cell: number of the array within the layer, its address, place in it, level code, siemens."""


@dataclass(frozen=True)
class Programming:
    """What it takes to write the arrays of a layer once, or of all layers.

    Attributes:
        name: of the layer; "total".
        cells: that are written; a partner that is never formed is not.
        pulses: expected, all cells together; each comes with a verifying read.
        seconds: arrays of a core one after the other, ``parallel_cells`` of an array at once, cores side by side.
        energy_j: of pulses and verifying reads.
        endurance_share: of a cell's endurance that one programming spends; None where it is not known.
    """

    name: str
    cells: int
    pulses: float
    seconds: float
    energy_j: float
    endurance_share: float | None

    def as_json(self) -> dict[str, Any]:
        """The object that JSON outputs hold."""
        return asdict(self)


def programming_table(layer: LayerData, target: Target) -> Iterator[npt.NDArray[np.void]]:
    """The cells of a layer, array after array: structured arrays (dtype CELL), rows outermost."""
    shape = array_shape(target)
    number = 0
    for chunk in layer.cells():
        for packed in chunk:
            levels = unpack_levels(packed, shape.storage_bits, layer.lines(shape)[1])
            table = np.zeros(levels.size, dtype=CELL)
            table["array"] = number
            for name, value in zip(("chip", "tile", "core", "position"), layer.addresses[number].tolist(), strict=True):
                table[name] = value
            rows, columns = np.indices(levels.shape)
            table["row"], table["column"], table["level"] = rows.ravel(), columns.ravel(), levels.ravel()
            table["conductance_s"] = conductances(levels, target).ravel()
            yield table
            number += 1


def write_programming_table(path: Path, layer: LayerData, target: Target) -> int:
    """Write the table as .npy, an array at a time; whole or not at all.

    Returns:
        How many cells it has.
    """
    count = len(layer.table) * math.prod(layer.lines(array_shape(target)))
    beside = path.with_name(f".{path.name}.part")
    try:
        with beside.open("wb") as file:
            header = {"descr": np.lib.format.dtype_to_descr(CELL), "fortran_order": False, "shape": (count,)}
            np.lib.format.write_array_header_1_0(file, header)
            for table in programming_table(layer, target):
                file.write(table.tobytes())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return count


def programming_cost(layers: tuple[LayerData, ...], target: Target) -> tuple[Programming, ...] | None:
    """Write-verify of every layer, and of all of them as the last; None where the target has no [device.write]."""
    write = target.device.write
    if write is None:
        return None
    shape, unformed = array_shape(target), target.encoding.partner is Partner.UNFORMED
    pulse_s, pulse_j = write.pulse_s + write.verify_s, write.pulse_energy_j + write.verify_energy_j
    share = None if write.endurance is None else write.pulses / write.endurance
    found: list[Programming] = []
    everywhere: dict[tuple[int, ...], float] = {}
    for layer in layers:
        cells, cores, number = 0, dict[tuple[int, ...], float](), 0
        for chunk in layer.cells():
            for packed in chunk:
                levels = unpack_levels(packed, shape.storage_bits, layer.lines(shape)[1])
                written = int(np.count_nonzero(levels)) if unformed else levels.size
                core = tuple(layer.addresses[number, :3].tolist())
                cores[core] = cores.get(core, 0.0) + math.ceil(written / write.parallel_cells) * write.pulses * pulse_s
                cells, number = cells + written, number + 1
        for core, seconds in cores.items():
            everywhere[core] = everywhere.get(core, 0.0) + seconds
        pulses, longest = cells * write.pulses, max(cores.values(), default=0.0)
        found.append(Programming(layer.op.name, cells, pulses, longest, pulses * pulse_j, share))
    total = sum(each.cells for each in found)
    pulses, longest = total * write.pulses, max(everywhere.values(), default=0.0)
    return (*found, Programming("total", total, pulses, longest, pulses * pulse_j, share))
