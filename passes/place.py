"""Every array gets an address on the target's hierarchy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mcompiler.errors import CompileError
from mcompiler.ir import AnalogProgram, PlacedProgram
from mcompiler.target import Target


@dataclass(frozen=True)
class Place:
    """Fill the chip in the order of the layers, an array after the other; deterministic.

    Attributes:
        chips: chips to use at most; None: what the target says.
    """

    name: ClassVar[str] = "place"
    chips: int | None = None

    def run(self, program: AnalogProgram, target: Target) -> PlacedProgram:
        """Return chip, tile, core and array position of every array.

        Raises:
            CompileError: the model does not fit; says by how many arrays, for which layers, how many chips it takes.
        """
        counts = [len(table) * copies for table, copies in zip(program.tiled.tables, program.copies, strict=True)]
        total, per_chip = sum(counts), target.hierarchy.arrays_per_chip
        chips = -(-total // per_chip)
        limit = self.chips if self.chips is not None else target.hierarchy.chips
        if limit != "as needed" and chips > limit:
            raise CompileError(_too_large(program, counts, limit, per_chip))
        sizes = (target.hierarchy.tiles_per_chip, target.hierarchy.cores_per_tile, target.hierarchy.arrays_per_core)
        addresses, first = [], 0
        for count in counts:
            index = np.arange(first, first + count)
            index, position = np.divmod(index, sizes[2])
            index, core = np.divmod(index, sizes[1])
            chip, tile = np.divmod(index, sizes[0])
            addresses.append(np.stack([chip, tile, core, position], axis=1).astype(np.int32))
            first += count
        return PlacedProgram(program, tuple(addresses), max(chips, 1))


def _too_large(program: AnalogProgram, counts: list[int], limit: int, per_chip: int) -> str:
    total = sum(counts)
    room = limit * per_chip
    names = [op.name for op in program.tiled.matrix.ops]
    used, outside = 0, []
    for name, count in zip(names, counts, strict=True):
        used += count
        if used > room:
            outside.append(name)
    shown = ", ".join(f"'{name}'" for name in outside[:5]) + (
        f" and {len(outside) - 5} more" if len(outside) > 5 else ""
    )
    return (
        f"the model needs {total} arrays and {limit} chip(s) of {per_chip} hold {room}: {total - room} too "
        f"many; no room for "
        f"{shown}; it would take {-(-total // per_chip)} chips (--chips {-(-total // per_chip)})"
    )
