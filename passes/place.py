"""Every array gets an address on the target's hierarchy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mcompiler.declarations import TIMING_KEYS, Chips, Effort, Reads, Seed
from mcompiler.errors import CompileError
from mcompiler.ir import AnalogProgram, PlacedProgram
from mcompiler.network import Aim, array_counts, in_order, scheduled_placement
from mcompiler.target import Target


@dataclass(frozen=True)
class Place:
    """Fill tiles, cut chips where few bytes cross, and put the tiles where few bytes travel far.

    Tiles are filled layer by layer, or copy by copy through all layers with equally many copies (without sliding
    windows, copy n of a layer reads the results of copy n of the layer before it); and in a second way each, in which
    arrays with much digital work are spread over all tiles and the rest of the tiles is filled with others. Of all
    placements the one with the shortest interval is taken, and of these the one with the fewest bytes times links. For
    latency the copies of every layer are also spread over all tiles, and the placement in which an inference alone
    ends first is taken. The same seed gives the same placement.

    Attributes:
        chips: chips to use at most; None: what the target says.
        effort: 0 keeps the order of the layers; each step above doubles the rounds in which tiles of a chip may change
            places, and none makes it worse.
        latency: whether one inference alone is to be quick, else the interval between two short.
        seed: of the exchanges that are tried to relieve links.
    """

    name: ClassVar[str] = "place"
    reads: ClassVar[Reads] = TIMING_KEYS
    chips: Chips = None
    effort: Effort = 1
    latency: bool = False
    seed: Seed = 0

    def run(self, program: AnalogProgram, target: Target) -> PlacedProgram:
        """Return chip, tile, core and array position of every array.

        Raises:
            CompileError: the model does not fit; says by how many arrays, for which layers, how many chips it takes.
        """
        if program.turns:
            return self._in_turns(program, target)
        counts = array_counts(program)
        total, per_chip = sum(counts), target.hierarchy.arrays_per_chip
        chips = max(1, -(-total // per_chip))
        limit = self.chips if self.chips is not None else target.hierarchy.chips
        if limit != "as needed" and chips > limit:
            raise CompileError(_too_large(program, counts, limit, per_chip))
        if not total:
            return PlacedProgram(program, in_order(program, target), chips)
        effort = self.effort
        if program.replication is not None and program.replication.placement_effort is not None:
            effort = min(effort, program.replication.placement_effort)  # the copies were chosen for that placement
        return PlacedProgram(
            program, scheduled_placement(program, effort, target, Aim(self.latency, self.seed)).addresses, chips
        )

    def _in_turns(self, program: AnalogProgram, target: Target) -> PlacedProgram:
        """Every turn for itself, on the same chips."""
        placed = [self.run(program.turn(number), target) for number in range(max(program.turns) + 1)]
        addresses = tuple(placed[turn].addresses[index] for index, turn in enumerate(program.turns))
        return PlacedProgram(program, addresses, max(each.chips for each in placed))


def _too_large(program: AnalogProgram, counts: list[int], limit: int, per_chip: int) -> str:
    total = sum(counts)
    room = limit * per_chip
    names = [matrix.label for matrix in program.tiled.matrix.matrices]
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
