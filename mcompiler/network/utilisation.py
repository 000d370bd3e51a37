"""How busy every unit of the chips is in steady state: no schedule may ask for more than all of its time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from mcompiler.dataflow import conversion_time, program_stages, tile_work
from mcompiler.geometry import array_shape
from mcompiler.ir import PlacedProgram, ScheduledProgram
from mcompiler.network.traffic import Traffic, located
from mcompiler.target import Target


class Unit(StrEnum):
    """Kinds of units that can be full; as the bounds of a schedule name them."""

    ARRAY = "array"
    CONVERTER = "converter"
    DIGITAL = "digital"
    BUFFER = "buffer"
    LINK = "link"
    CHIP_LINK = "chip_link"


@dataclass(frozen=True)
class Utilisation:
    """How much of its time a unit works.

    Attributes:
        unit: its kind.
        where: for people: the layer whose arrays, or the tile, or the busiest one of its kind.
        share: of the time between two inferences.
    """

    unit: Unit
    where: str
    share: float


def utilisations(program: ScheduledProgram, target: Target) -> list[Utilisation]:
    """Every unit that works, the busiest first. Of links the busiest one is listed, without spilled activations.

    Args:
        program: a schedule.
        target: the chip.
    """
    found = [*_arrays(program, target), *_tiles(program, target), *_links(program, target)]
    return sorted(found, key=lambda each: -each.share)


def _arrays(program: ScheduledProgram, target: Target) -> Iterator[Utilisation]:
    """Arrays of each matrix, which its sites use one after the other, and their converters."""
    matrix = program.placed.analog.tiled.matrix
    converting = conversion_time(array_shape(target), target) / program.cycle_s
    for number in range(len(matrix.matrices)):
        busy = sum(program.layers[site].busy_s for site in matrix.sites_of(number))
        where = f"layer '{matrix.first_site(number).name}'"
        yield Utilisation(Unit.ARRAY, where, busy / program.interval_s)
        yield Utilisation(Unit.CONVERTER, where, busy * converting / program.interval_s)


def _tiles(program: ScheduledProgram, target: Target) -> Iterator[Utilisation]:
    """Digital units and buffers of all tiles."""
    placed = program.placed
    graph = program_stages(placed.analog.tiled, target)
    loads = tile_work(placed.analog.tiled, graph, target).at(placed.site_addresses)
    for (chip, tile), *seconds in zip(loads.tiles.tolist(), *loads.seconds(target), strict=True):
        where = "the tile of what no layer feeds" if tile < 0 else f"chip {chip}, tile {tile}"
        for unit, each in zip((Unit.DIGITAL, Unit.BUFFER), seconds, strict=True):
            yield Utilisation(unit, where, each / program.interval_s)


def _links(program: ScheduledProgram, target: Target) -> Iterator[Utilisation]:
    """The busiest link between tiles and the busiest port of a chip; of turns, those of each."""
    network = target.network
    found = list(_traffic(program.placed, target))
    link = sum(each.busiest_link_bytes for each in found) * 8 / (network.link_bits * network.clock_hz)
    chip = sum(each.busiest_chip_bytes for each in found) / network.chip_link_bytes_per_s
    yield Utilisation(Unit.LINK, "the busiest", link / program.interval_s)
    yield Utilisation(Unit.CHIP_LINK, "the busiest", chip / program.interval_s)


def _traffic(program: PlacedProgram, target: Target) -> Iterator[Traffic]:
    """What links carry in an inference, turn by turn."""
    analog = program.analog
    graph = program_stages(analog.tiled, target)
    if not analog.turns:
        yield located(program, target, graph).traffic()
        return
    none, sites = np.zeros((0, 4), np.int32), analog.tiled.matrix.sites
    for number in range(max(analog.turns) + 1):
        where = tuple(
            each if turn == number else none for each, turn in zip(program.addresses, analog.turns, strict=True)
        )
        away = frozenset(index for index, site in enumerate(sites) if analog.turns[site.matrix] != number)
        yield located(PlacedProgram(analog.turn(number), where, program.chips), target, graph).traffic(away)
