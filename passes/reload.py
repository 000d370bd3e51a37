"""A model larger than the chips: its layers take turns on the same arrays, which are written anew for each turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from mcompiler.dataflow import program_stages
from mcompiler.declarations import TIMING_KEYS, Chips, Option, Reads
from mcompiler.errors import CompileError
from mcompiler.ir import AnalogProgram
from mcompiler.target import Target


@dataclass(frozen=True)
class Reload:
    """Cut the layers into turns that the chips hold, as few as there can be, where the fewest activations are kept.

    Weights that layers of several turns use are written in each of these turns.

    Attributes:
        batch: inferences that go through one turn before the arrays are written for the next.
        chips: that there are; None: what the target says.
    """

    name: ClassVar[str] = "reload"
    reads: ClassVar[Reads] = (*TIMING_KEYS, "device.write")
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
        sites = program.tiled.matrix.sites
        sizes = [len(table) for table in program.tiled.site_tables]
        for site, size in zip(sites, sizes, strict=True):
            if size > room:
                raise CompileError(
                    f"takes {size:,} arrays and {given} chip(s) hold {room:,}; a layer is written as a whole: it takes "
                    f"{-(-size // target.hierarchy.arrays_per_chip)} chips",
                    site.name,
                )
        turns = _turns([site.matrix for site in sites], sizes, room, _kept(program, target))
        # Layers of one turn share the arrays of their weights; for another turn these weights are written anew.
        pairs = [(site.matrix, turn) for site, turn in zip(sites, turns, strict=True)]
        kept = list(dict.fromkeys(pairs))
        result = _regrouped(program, [kept.index(pair) for pair in pairs])
        return replace(result, turns=tuple(turn for _, turn in kept), batch=self.batch)


def _regrouped(program: AnalogProgram, groups: Sequence[int]) -> AnalogProgram:
    """The program with one matrix for each group of sites.

    Args:
        program: without copies.
        groups: of each site, numbered in order of first use; sites of one group use one matrix in ``program``.
    """
    matrix = program.tiled.matrix
    first = [groups.index(number) for number in range(len(set(groups)))]  # the first site of each group
    used = [matrix.sites[site].matrix for site in first]
    matrices = tuple(
        replace(matrix.matrices[index], label=matrix.sites[site].name) for site, index in zip(first, used, strict=True)
    )
    sites = tuple(replace(site, matrix=group) for site, group in zip(matrix.sites, groups, strict=True))
    tiled = replace(
        program.tiled,
        matrix=replace(matrix, matrices=matrices, sites=sites),
        tables=tuple(program.tiled.tables[index] for index in used),
        dense=tuple(program.tiled.dense[index] for index in used),
    )
    return replace(program, tiled=tiled, analog=tuple(program.analog[index] for index in used))


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


def _turns(weights: Sequence[int], sizes: Sequence[int], room: int, kept: Sequence[float]) -> list[int]:
    """Turn of each layer: the fewest turns, and of these the ones that keep the fewest bytes in between.

    Args:
        weights: which weights each layer uses, as numbers; within a turn their arrays are there once.
        sizes: arrays of the weights of each layer.
        room: arrays that the chips have.
        kept: bytes that are kept where layers are cut before each of them.
    """
    best: list[tuple[int, float, int]] = [(0, 0.0, 0)]  # up to each layer: turns, bytes, where the last turn starts
    for end in range(1, len(sizes) + 1):
        choices, held = [], 0
        written: set[int] = set()
        for start in range(end - 1, -1, -1):
            held += sizes[start] if weights[start] not in written else 0
            written.add(weights[start])
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
