"""When every token is worked on: the earliest schedule, the periodic one, and the latest that delays nothing.

All constraints are differences of start times (a token starts after what it reads is there, and a server takes one
token at a time), so that earliest and latest schedules are longest paths, found stage by stage without iteration over
tokens. Times are whole clocks.

A stage with R copies deals its tokens out in turn: token j goes to copy j mod R, in order, and no token starts before
the one in front of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mcompiler.dataflow.grids import Indices, Needs

_ROUNDS = 64
"""Rounds in which the starts of a stage settle between its copies; two or three are usual."""


@dataclass(frozen=True)
class Edge:
    """A tensor that a stage reads.

    Attributes:
        producer: index of the stage that makes it.
        needs: which of its tokens are read when.
        delay: clocks from the end of a token to its being there.
        token_bytes: of one token in the buffer.
    """

    producer: int
    needs: Needs
    delay: int = 0
    token_bytes: float = 0.0


@dataclass(frozen=True)
class Stage:
    """What works on tokens, one after the other.

    Attributes:
        name: of the node, or of what belongs to it.
        tokens: per inference.
        service: clocks for which a copy is busy with a token.
        latency: clocks from the start of a token to its result; at least ``service``.
        copies: that work side by side.
        edges: what it reads; stages stand in topological order.
    """

    name: str
    tokens: int
    service: int
    latency: int
    copies: int = 1
    edges: tuple[Edge, ...] = ()

    @property
    def busy(self) -> int:
        """Clocks per inference for which the copy with most tokens works."""
        return -(-self.tokens // self.copies) * self.service


def earliest(stages: Sequence[Stage], interval: int | None = None) -> list[Indices]:
    """Start of every token when each is taken as soon as possible.

    Args:
        stages: in topological order.
        interval: clocks between two inferences, at least the busy time of every stage: then every stage is done with an
            inference before its copies are wanted by the next. None: one inference alone.

    Returns:
        Per stage int64 [tokens].
    """
    starts: list[Indices] = []
    for stage in stages:
        ready = np.zeros(stage.tokens, dtype=np.int64)
        for edge in stage.edges:
            producer = stages[edge.producer]
            there = np.concatenate([starts[edge.producer] + producer.latency + edge.delay, [0]])  # index -1: at once
            ready = np.maximum(ready, there[edge.needs.last])
        starts.append(_serve(stage, np.maximum.accumulate(ready), interval))
    return starts


def _serve(stage: Stage, ready: Indices, interval: int | None) -> Indices:
    """Starts of the tokens of one stage, given when each could start; not decreasing."""
    start = _in_turn(ready, stage.copies, stage.service)
    if interval is None or not len(start):
        return start
    for _ in range(_ROUNDS):
        pushed = _in_turn(np.maximum.accumulate(np.maximum(ready, _wrapped(start, stage, interval))), stage.copies,
                          stage.service)  # fmt: skip
        if np.array_equal(pushed, start):
            return start
        start = pushed
    raise AssertionError(f"{stage.name}: starts do not settle within an interval of {interval} clocks")


def _in_turn(ready: Indices, copies: int, service: int) -> Indices:
    """start[j] = max(ready[j], start[j - copies] + service)."""
    count = len(ready)
    rows = -(-count // copies)
    padded = np.full(rows * copies, np.iinfo(np.int64).min // 2, dtype=np.int64)
    padded[:count] = ready
    ahead = (np.arange(rows, dtype=np.int64) * service)[:, None]
    start: Indices = (np.maximum.accumulate(padded.reshape(rows, copies) - ahead, axis=0) + ahead).reshape(-1)[:count]
    return start


def _wrapped(start: Indices, stage: Stage, interval: int) -> Indices:
    """Before when no token may start because its copy still works on the inference before: int64 [tokens]."""
    count, copies = len(start), stage.copies
    index = np.arange(count)
    last = count - 1 - (count - 1 - index) % copies  # last token of the same copy
    return start[last] + stage.service - interval + index // copies * stage.service


def latest(stages: Sequence[Stage], starts: Sequence[Indices], interval: int) -> list[Indices]:
    """Start of every token when each is taken as late as the results allow.

    Args:
        stages: in topological order.
        starts: the earliest starts with this interval; those of stages that nothing reads stay.
        interval: clocks between two inferences.

    Returns:
        Per stage int64 [tokens]; never before ``starts``.
    """
    readers = _readers(stages)
    found: list[Indices] = list(starts)
    for index in reversed(range(len(stages))):
        if readers[index]:
            found[index] = _as_late_as(stages[index], starts[index], readers[index], found, interval)
    return found


def just_in_time(stages: Sequence[Stage], starts: Sequence[Indices], interval: int) -> list[Indices]:
    """Starts that delay no result and hold little: each stage as early or as late as possible, whichever holds less.

    A fast stage in front of a slow one had better be late, one behind a slow one early. Going from the results to the
    inputs, a stage is moved as a whole; what it reads is taken to come as late as its producer can make it.

    Args, returns: as ``latest``.
    """
    readers = _readers(stages)
    found: list[Indices] = list(starts)
    for index in reversed(range(len(stages))):
        if not readers[index]:
            continue
        late = _as_late_as(stages[index], starts[index], readers[index], found, interval)
        if np.array_equal(late, starts[index]):
            continue
        early_bytes, late_bytes = (
            _held_around(stages, starts, readers, found, index, choice, interval) for choice in (starts[index], late)
        )
        if late_bytes < early_bytes:
            found[index] = late
    return found


def _readers(stages: Sequence[Stage]) -> list[list[tuple[int, Edge]]]:
    """Who reads each stage, through which edge."""
    readers: list[list[tuple[int, Edge]]] = [[] for _ in stages]
    for index, stage in enumerate(stages):
        for edge in stage.edges:
            readers[edge.producer].append((index, edge))
    return readers


def _as_late_as(
    stage: Stage, early: Indices, readers: Sequence[tuple[int, Edge]], found: Sequence[Indices], interval: int
) -> Indices:
    """Latest starts of a stage whose readers start as found."""
    limit = np.full(stage.tokens, np.iinfo(np.int64).max // 2, dtype=np.int64)
    for reader, edge in readers:
        limit = np.minimum(limit, _wanted(found[reader], edge, stage))
    limit = np.where(limit > np.iinfo(np.int64).max // 4, early, limit)  # nobody reads the last ones
    return _serve_late(stage, limit, interval) if stage.tokens else early


def _held_around(
    stages: Sequence[Stage],
    starts: Sequence[Indices],
    readers: Sequence[Sequence[tuple[int, Edge]]],
    found: Sequence[Indices],
    index: int,
    choice: Indices,
    interval: int,
) -> float:
    """Bytes that wait in front of and behind a stage with these starts."""
    stage, total = stages[index], 0.0
    for reader, edge in readers[index]:
        total += waiting(choice, stage, found[reader], stages[reader], edge, interval) * edge.token_bytes
    for edge in stage.edges:
        producer = stages[edge.producer]
        made = _as_late_as(producer, starts[edge.producer], [(0, edge)], [choice], interval)
        total += waiting(made, producer, choice, stage, edge, interval) * edge.token_bytes
    return total


def waiting(made: Indices, producer: Stage, read: Indices, reader: Stage, edge: Edge, interval: int) -> int:
    """Most tokens of an edge that wait at once: from their arrival until their last reader has been served.

    Args:
        made, read: starts of the tokens of producer and reader.
        producer, reader, edge: what they are.
        interval: clocks between two inferences.
    """
    if not len(made):
        return 0
    birth = made + producer.latency + edge.delay
    leave = np.concatenate([read + max(1, reader.service), [0]])[edge.needs.last_use]  # what takes no time still reads
    return occupancy(birth, np.where(edge.needs.last_use < 0, birth, leave), interval)


def _wanted(reader: Indices, edge: Edge, stage: Stage) -> Indices:
    """Latest start of each token of a stage for one of its readers."""
    needed = np.maximum.accumulate(edge.needs.last)
    first = np.searchsorted(needed, np.arange(stage.tokens))  # first reader's token that waits for this one
    there = np.concatenate([reader, [np.iinfo(np.int64).max // 2]])
    return there[first] - edge.delay - stage.latency


def _serve_late(stage: Stage, limit: Indices, interval: int) -> Indices:
    """Starts of the tokens of one stage, given before when each must start; not decreasing."""
    limit = np.minimum.accumulate(limit[::-1])[::-1]
    start = _from_the_end(limit, stage)
    for _ in range(_ROUNDS):
        room = _from_the_end(
            np.minimum.accumulate(np.minimum(limit, _before_the_next(start, stage, interval))[::-1])[::-1], stage
        )
        if np.array_equal(room, start):
            return start
        start = room
    raise AssertionError(f"{stage.name}: late starts do not settle within an interval of {interval} clocks")


def _from_the_end(limit: Indices, stage: Stage) -> Indices:
    """start[j] = min(limit[j], start[j + copies] - service): ``_in_turn`` seen from the end."""
    return -_in_turn(-limit[::-1], stage.copies, stage.service)[::-1]


def _before_the_next(start: Indices, stage: Stage, interval: int) -> Indices:
    """After when no token may start because its copy is wanted by the next inference: int64 [tokens]."""
    count, copies = len(start), stage.copies
    index = np.arange(count)
    behind = (count - 1 - index) // copies  # tokens of the same copy that come after
    return start[index % copies] + interval - stage.service * (1 + behind)


def occupancy(birth: Indices, death: Indices, interval: int) -> int:
    """Most tokens that are held at once when inferences follow each other.

    Args:
        birth, death: clocks at which each token arrives and is let go; one that is let go on arrival takes no room.
        interval: clocks between two inferences.
    """
    birth_turn, birth_at = np.divmod(birth, interval)
    death_turn, death_at = np.divmod(np.maximum(birth, death), interval)
    times = np.concatenate([birth_at, death_at])
    steps = np.concatenate([np.ones(len(birth), np.int64), -np.ones(len(death), np.int64)])
    order = np.lexsort((steps, times))  # what leaves makes room for what comes at the same clock
    held = int((death_turn - birth_turn).sum()) + np.cumsum(steps[order])
    return int(held.max(initial=0))
