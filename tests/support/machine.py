"""A machine that runs a dataflow clock by clock: tokens, servers and buffers, nothing else.

Independent of ``mcompiler.dataflow``: what a token needs is enumerated window by window, and time is a loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

Place = tuple[int, ...]


@dataclass(frozen=True)
class Link:
    """What a unit reads: ``kernel`` windows of the producer's raster, or all of it."""

    producer: int
    kernel: int = 1
    stride: int = 1
    pad: int = 0
    everything: bool = False
    delay: int = 0


@dataclass(frozen=True)
class Unit:
    """A raster of tokens and the servers that make them."""

    sizes: tuple[int, int]
    service: int
    latency: int
    copies: int = 1
    links: tuple[Link, ...] = ()

    @property
    def places(self) -> list[Place]:
        return list(product(range(self.sizes[0]), range(self.sizes[1])))


def reads(units: list[Unit], unit: Unit, link: Link, place: Place) -> set[int]:
    """Tokens of the producer that one token reads."""
    rows, columns = units[link.producer].sizes
    if link.everything:
        return set(range(rows * columns))
    found = set()
    for dy, dx in product(range(link.kernel), repeat=2):
        y, x = place[0] * link.stride - link.pad + dy, place[1] * link.stride - link.pad + dx
        if 0 <= y < rows and 0 <= x < columns:
            found.add(y * columns + x)
    return found


@dataclass
class Run:
    """What happened: start of every token of every unit and inference."""

    starts: list[list[list[int]]]


class StuckError(Exception):
    """The machine does not come to an end."""


def run(
    units: list[Unit], arrivals: list[int], room: dict[tuple[int, int], int] | None = None, limit: int = 4_000
) -> Run:
    """Run inferences whose input units may begin at ``arrivals``; every unit takes the next token as soon as it can.

    With ``room`` a link (unit, number) holds so many tokens: its producer waits until there is place for one more.
    """
    users = {(index, number): _users(units, index, number) for index, number in (room or {})}
    inferences = len(arrivals)
    needs = [[[reads(units, u, link, p) for link in u.links] for p in u.places] for u in units]
    done: list[dict[tuple[int, int], int]] = [{} for _ in units]  # (inference, token) -> clock of its end
    free = [[0] * u.copies for u in units]  # clock at which each server is free
    starts: list[list[list[int]]] = [[[] for _ in range(inferences)] for _ in units]
    remaining = sum(len(u.places) for u in units) * inferences
    clock = 0
    while remaining:
        if clock >= limit:
            raise StuckError
        moved = True
        while moved:  # several may begin at one clock, also one after the other where they take no time
            moved = False
            for index, unit in enumerate(units):
                turn = next((i for i in range(inferences) if len(starts[index][i]) < len(unit.places)), None)
                if turn is None:
                    continue
                token = len(starts[index][turn])
                server = token % unit.copies
                if free[index][server] > clock or (not unit.links and arrivals[turn] > clock):
                    continue
                ready = all(
                    done[link.producer].get((turn, read), limit) + link.delay <= clock
                    for link, every in zip(unit.links, needs[index][token], strict=True)
                    for read in every
                )
                if not ready or any(
                    units[at].links[number].producer == index
                    and token in users[at, number]
                    and _waiting(starts, index, at, users[at, number]) >= places
                    for (at, number), places in (room or {}).items()
                ):
                    continue
                starts[index][turn].append(clock)
                done[index][turn, token] = clock + unit.latency
                free[index][server] = clock + unit.service
                remaining -= 1
                moved = True
        clock += 1
    return Run(starts)


def _users(units: list[Unit], index: int, number: int) -> dict[int, int]:
    """The last token of a unit that reads each token of a link; those that none reads are left out."""
    unit, link = units[index], units[index].links[number]
    found = {}
    for token, place in enumerate(unit.places):
        for read in reads(units, unit, link, place):
            found[read] = token
    return found


def _waiting(starts: list[list[list[int]]], producer: int, reader: int, users: dict[int, int]) -> int:
    """Tokens begun by the producer that their last reader has not taken; of one inference."""
    begun, taken = len(starts[producer][0]), len(starts[reader][0])
    return sum(read < begun and user >= taken for read, user in users.items())


def most_held(units: list[Unit], starts: list[list[int]], index: int, number: int, interval: int, turns: int) -> int:
    """Most tokens that wait on one link at any clock, when these starts repeat; counted clock by clock."""
    unit, link = units[index], units[index].links[number]
    producer = units[link.producer]
    users = _users(units, index, number)
    alive: dict[int, int] = {}
    for turn in range(turns):
        for read, user in users.items():
            born = starts[link.producer][read] + producer.latency + link.delay + turn * interval
            gone = starts[index][user] + max(1, unit.service) + turn * interval
            for clock in range(born, gone):
                alive[clock] = alive.get(clock, 0) + 1
    return max(alive.values(), default=0)
