"""A model larger than the chips: its layers take turns on the same arrays, which are written anew for each turn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from mcompiler.dataflow import program_stages
from mcompiler.declarations import TIMING_KEYS, Chips, Option
from mcompiler.errors import CompileError
from mcompiler.ir import AnalogProgram
from mcompiler.target import Target


@dataclass(frozen=True)
class Reload:
    """Cut the layers into turns that the chips hold, as few as there can be, where the fewest activations are kept.

    Attributes:
        batch: inferences that go through one turn before the arrays are written for the next.
        chips: that there are; None: what the target says.
    """

    name: ClassVar[str] = "reload"
    reads: ClassVar[tuple[str, ...]] = (*TIMING_KEYS, "device.write")
    excludes: ClassVar[dict[str, str]] = dict.fromkeys(
        ("replicate", "remap"),
        "layers that take turns have neither copies nor known stuck cells; drop reload, or replicate and faults",
    )
    batch: Annotated[
        int,
        Option(
            key="reload",
            off=None,
            minimum=1,
            metavar="BATCH",
            help="Let layers take turns of BATCH inferences where --chips do not hold all of them; arrays are "
            "rewritten.",
        ),
    ]
    chips: Chips = None

    def run(self, program: AnalogProgram, target: Target) -> AnalogProgram:
        """Return the program with the turn of every layer; as it is, where the chips hold all of it.

        Raises:
            CompileError: no number of chips, no [device.write], or a layer that the chips do not hold alone.
        """
        given = target.hierarchy.chips if self.chips is None else self.chips
        if given == "as needed":
            raise CompileError("layers take turns on a number of chips: give --chips N")
        room = given * target.hierarchy.arrays_per_chip
        sizes = [len(table) * copies for table, copies in zip(program.tiled.tables, program.copies, strict=True)]
        if sum(sizes) <= room:
            return program
        if target.device.write is None:
            raise CompileError(
                f"target '{target.name}' does not say what writing a cell takes; add [device.write] (docs/targets.md)"
            )
        matrix = program.tiled.matrix
        if len(matrix.sites) > len(matrix.matrices):
            shared = [site for site in matrix.sites if len(matrix.sites_of(site.matrix)) > 1]
            raise CompileError(
                f"and '{shared[1].label}' use the same weights, and layers that take turns have arrays of their own; "
                "use more chips, or drop --reload",
                shared[0].name,
            )
        names = [each.label for each in matrix.matrices]
        for name, size in zip(names, sizes, strict=True):
            if size > room:
                raise CompileError(
                    f"takes {size:,} arrays and {given} chip(s) hold {room:,}; a layer is written as a whole: it takes "
                    f"{-(-size // target.hierarchy.arrays_per_chip)} chips",
                    name,
                )
        turns = _turns(sizes, room, _kept(program, target))
        return replace(program, turns=tuple(turns), batch=self.batch)


def _kept(program: AnalogProgram, target: Target) -> list[float]:
    """Bytes per inference that are kept where layers are cut before each of them: results that later layers read.

    A tensor is kept once, up to the last layer that reads it.
    """
    stages = program_stages(program.tiled, target).stages
    until: dict[tuple[int, int], int] = {}  # tensor -> last layer whose arrays or digital nodes read it
    size: dict[tuple[int, int], float] = {}
    for stage in stages:
        for transfer in stage.inputs:
            until[transfer.tensor] = max(until.get(transfer.tensor, 0), stage.layer)
            size[transfer.tensor] = transfer.tokens * transfer.width * target.precision.inputs / 8
    kept = [0.0] * (len(program.tiled.matrix.layers) + 1)
    for tensor, last in until.items():
        for cut in range(max(0, stages[tensor[0]].layer) + 1, last + 1):
            kept[cut] += size[tensor]
    return kept


def _turns(sizes: list[int], room: int, kept: list[float]) -> list[int]:
    """Turn of each layer: the fewest turns, and of these the ones that keep the fewest bytes in between."""
    best: list[tuple[int, float, int]] = [(0, 0.0, 0)]  # up to each layer: turns, bytes, where the last turn starts
    for end in range(1, len(sizes) + 1):
        choices, held = [], 0
        for start in range(end - 1, -1, -1):
            held += sizes[start]
            if held > room:
                break
            turns, size, _ = best[start]
            choices.append((turns + 1, size + (kept[start] if start else 0.0), start))
        best.append(min(choices))
    found, end = [0] * len(sizes), len(sizes)
    while end:
        turns, _, start = best[end]
        found[start:end] = [turns - 1] * (end - start)
        end = start
    return found
