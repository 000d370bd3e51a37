"""When every token is worked on: the earliest schedule, the periodic one, and the latest that delays nothing.

All constraints are differences of start times (a token starts after the tokens that it reads are there, and a server
takes one token at a time), so that earliest and latest schedules are longest paths, found stage by stage without
iteration over tokens. Times are whole clocks.

A stage with R copies distributes its tokens in turn: token j goes to copy j mod R, and no token starts before token
j - 1.

Arrays that several sites use, or whose site has steps that wait for one another, are held by one site at a time, from
its first read to its last (with steps: to the last result). Within that time a site works without a pause, so that it
is one block on a circle of ``interval`` clocks, and the blocks of a matrix do not overlap.
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
        delay: clocks from the end of a token to its arrival.
        token_bytes: of one token in the buffer.
    """

    producer: int
    needs: Needs
    delay: int = 0
    token_bytes: float = 0.0


@dataclass(frozen=True)
class TimedStage:
    """A stage with its durations.

    Attributes:
        tokens: per inference.
        service: clocks for which a copy is busy with a token.
        latency: clocks from the start of a token to its result; at least ``service``.
        copies: that work in parallel.
        edges: tensors that it reads, of stages before it.
        name: for messages.
        arrays: number of the matrix whose arrays it holds without a pause; None: no other stage uses its servers.
        steps: parts of its tokens, each of which waits for the result of the one before.
        step_clocks: from the first read of a step to its last result, where there are several.
    """

    tokens: int
    service: int
    latency: int
    copies: int = 1
    edges: tuple[Edge, ...] = ()
    name: str = ""
    arrays: int | None = None
    steps: int = 1
    step_clocks: int = 0

    @property
    def step_tokens(self) -> int:
        """Tokens of a step; the last step may have fewer."""
        return -(-self.tokens // self.steps)

    @property
    def busy(self) -> int:
        """Clocks per inference for which the copy with most tokens works."""
        return busy_tokens(self.tokens, self.steps, self.copies) * self.service

    @property
    def held(self) -> int:
        """Clocks per inference for which no other stage or inference can use its servers."""
        if self.steps == 1 or not self.tokens:
            return self.busy
        return -(-self.tokens // self.step_tokens) * self.step_clocks

    @property
    def movable(self) -> bool:
        """Whether its tokens may start later than necessary: not where steps or other sites wait for its arrays."""
        return self.arrays is None and self.steps == 1


def busy_tokens(tokens: int, steps: int, copies: int) -> int:
    """Tokens of the copy with most of them, where the copies share each step for itself; the last may be smaller."""
    if not tokens:
        return 0
    each = -(-tokens // steps)
    full, rest = divmod(tokens, each)
    return full * -(-each // copies) + -(-rest // copies)


@dataclass(frozen=True)
class StageRun:
    """A stage with the start of each of its tokens, int64 [tokens]."""

    stage: TimedStage
    starts: Indices


def step_clocks(arrays: TimedStage, unit: TimedStage) -> int:
    """Clocks from the first read of a step to its last result.

    Args:
        arrays: of a layer with steps.
        unit: the digital stage after them.
    """
    if not arrays.tokens:
        return 0
    ready = _in_turn(np.zeros(arrays.step_tokens, dtype=np.int64), arrays.copies, arrays.service) + arrays.latency
    return int(_in_turn(ready, unit.copies, unit.service)[-1]) + unit.latency


def least_interval(stages: Sequence[TimedStage]) -> int:
    """Clocks between two inferences below which a server would have more work than time.

    The sites of a matrix share its arrays, one after the other: their times add up.
    """
    arrays: dict[int, int] = {}
    for stage in stages:
        if stage.arrays is not None:
            arrays[stage.arrays] = arrays.get(stage.arrays, 0) + stage.held
    return max([0, *(stage.busy for stage in stages), *arrays.values()])


def earliest(stages: Sequence[TimedStage], interval: int | None = None) -> list[Indices]:
    """Start of every token when each is taken as soon as possible.

    Args:
        stages: in topological order.
        interval: clocks between two inferences, at least ``least_interval``: then every stage is done with an inference
            before its copies are wanted by the next. None: one inference alone.

    Returns:
        Per stage int64 [tokens].
    """
    starts: list[Indices] = []
    held = _HeldArrays(stages, interval)
    for stage in stages:
        ready = np.zeros(stage.tokens, dtype=np.int64)
        for edge in stage.edges:
            producer = stages[edge.producer]
            there = np.concatenate([starts[edge.producer] + producer.latency + edge.delay, [0]])  # index -1: at once
            ready = np.maximum(ready, there[edge.needs.last])
        ready = np.maximum.accumulate(ready)
        starts.append(_serve(stage, ready, interval) if stage.arrays is None else held.serve(stage, ready))
    return starts


class _HeldArrays:
    """When the arrays of each matrix are held, and for how many clocks the sites that are not placed yet need them."""

    def __init__(self, stages: Sequence[TimedStage], interval: int | None) -> None:
        self.interval = interval
        self.blocks: dict[int, list[tuple[int, int]]] = {}  # matrix -> start and length of each block
        self.wanted: dict[int, int] = {}
        for stage in stages:
            if stage.arrays is not None:
                self.wanted[stage.arrays] = self.wanted.get(stage.arrays, 0) + stage.held

    def serve(self, stage: TimedStage, ready: Indices) -> Indices:
        """Starts of the tokens of one stage, given when each could start: the earliest block without a pause.

        Pauses would not let the last token start earlier: it starts no earlier than any token j is ready plus the work
        from j on, and the block starts as early as these bounds allow.
        """
        if not stage.tokens:
            return ready
        step, inside = np.divmod(np.arange(stage.tokens, dtype=np.int64), stage.step_tokens)
        offsets = step * stage.step_clocks + inside // stage.copies * stage.service
        starts: Indices = offsets + self._place(stage, int((ready - offsets).max()))
        return starts

    def _place(self, stage: TimedStage, ready: int) -> int:
        """Start of the block of a stage, not before ``ready``."""
        assert stage.arrays is not None
        blocks, length = self.blocks.setdefault(stage.arrays, []), stage.held
        self.wanted[stage.arrays] -= length
        if not length:
            return ready
        # A block starts at once, or where it touches another one: between these starts nothing changes.
        touching = [start + size for start, size in blocks] + [start - length for start, _ in blocks]
        if self.interval is None:
            later = sorted({ready, *(at for at in touching if at >= ready)})
        else:
            later = sorted({ready, *(ready + (at - ready) % self.interval for at in touching)})
        for at in later:
            if self._free(blocks, at, length) and self._leaves_room([*blocks, (at, length)], self.wanted[stage.arrays]):
                blocks.append((at, length))
                return at
        raise AssertionError(f"{stage.name}: no room on its arrays within an interval of {self.interval} clocks")

    def _free(self, blocks: Sequence[tuple[int, int]], at: int, length: int) -> bool:
        """Whether a block overlaps none of the others, of this inference or another."""
        if self.interval is None:
            return all(at >= start + size or start >= at + length for start, size in blocks)
        return all(
            (at - start) % self.interval >= size and (start - at) % self.interval >= length for start, size in blocks
        )

    def _leaves_room(self, blocks: Sequence[tuple[int, int]], wanted: int) -> bool:
        """Whether the longest gap holds all blocks that are still to come.

        As long as it does, the next block can be placed at the start of that gap, and the condition holds again: both
        the gap and the clocks still needed get shorter by the same. So their sum is interval enough for all blocks.
        """
        if self.interval is None or not wanted:
            return True
        order = sorted((start % self.interval, size) for start, size in blocks)
        following = [start for start, _ in order[1:]] + [order[0][0] + self.interval]
        return max(after - start - size for (start, size), after in zip(order, following, strict=True)) >= wanted


def _serve(stage: TimedStage, ready: Indices, interval: int | None) -> Indices:
    """Starts of the tokens of one stage, given when each could start; neither decreases."""
    start = _in_turn(ready, stage.copies, stage.service)
    if interval is None or not len(start):
        return start
    # The start of the first tokens depends on the last ones of the inference before, and these on the first ones of
    # their own inference. Starts only grow from round to round, so that they settle at the least solution.
    for _ in range(_ROUNDS):
        free = _free_again(start, stage, interval)
        pushed = _in_turn(np.maximum.accumulate(np.maximum(ready, free)), stage.copies, stage.service)
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
    # start[j] - (work of its copy before j) is the maximum of the same difference of ``ready`` over the tokens up to j.
    ahead = (np.arange(rows, dtype=np.int64) * service)[:, None]
    start: Indices = (np.maximum.accumulate(padded.reshape(rows, copies) - ahead, axis=0) + ahead).reshape(-1)[:count]
    return start


def _free_again(start: Indices, stage: TimedStage, interval: int) -> Indices:
    """Clock before which no token may start as its copy still works on the inference before: int64 [tokens]."""
    count, copies = len(start), stage.copies
    index = np.arange(count)
    last = count - 1 - (count - 1 - index) % copies  # last token of the same copy
    # The clock at which the copy ends the inference before, and the tokens of this one that it serves before token j.
    return start[last] + stage.service - interval + index // copies * stage.service


def latest(stages: Sequence[TimedStage], starts: Sequence[Indices], interval: int) -> list[Indices]:
    """Start of every token when each is taken as late as the results allow.

    Args:
        stages: in topological order.
        starts: the earliest starts with this interval; those of stages that nothing reads, or that cannot move, stay.
        interval: clocks between two inferences.

    Returns:
        Per stage int64 [tokens]; never before ``starts``.
    """
    readers = _readers(stages)
    chosen: list[Indices] = list(starts)
    for index in reversed(range(len(stages))):
        if readers[index] and stages[index].movable:
            chosen[index] = _as_late_as(StageRun(stages[index], starts[index]), readers[index], chosen, interval)
    return chosen


def just_in_time(stages: Sequence[TimedStage], starts: Sequence[Indices], interval: int) -> list[Indices]:
    """Starts that delay no result and hold little: each stage as early or as late as possible, whichever holds less.

    A fast stage before a slow one holds less when it is late, one after a slow one when it is early. Stages are moved
    as a whole, from the results to the inputs; the producers of a stage have not been moved yet, so that they are taken
    to be as late as they can be.

    Args, returns: as ``latest``.
    """
    readers = _readers(stages)
    chosen: list[Indices] = list(starts)
    for index in reversed(range(len(stages))):
        if not readers[index] or not stages[index].movable:
            continue
        early = StageRun(stages[index], starts[index])
        late = StageRun(stages[index], _as_late_as(early, readers[index], chosen, interval))
        if np.array_equal(late.starts, early.starts):
            continue
        held = [0.0, 0.0]
        for number, run in enumerate((early, late)):
            for reader, edge in readers[index]:
                read = StageRun(stages[reader], chosen[reader])
                held[number] += waiting(run, read, edge, interval) * edge.token_bytes
            for edge in run.stage.edges:
                producer = StageRun(stages[edge.producer], starts[edge.producer])
                made = _as_late_as(producer, [(0, edge)], [run.starts], interval)
                held[number] += waiting(StageRun(producer.stage, made), run, edge, interval) * edge.token_bytes
        if held[1] < held[0]:
            chosen[index] = late.starts
    return chosen


def _readers(stages: Sequence[TimedStage]) -> list[list[tuple[int, Edge]]]:
    """Stages that read each stage, and through which edge."""
    readers: list[list[tuple[int, Edge]]] = [[] for _ in stages]
    for index, stage in enumerate(stages):
        for edge in stage.edges:
            readers[edge.producer].append((index, edge))
    return readers


def _as_late_as(
    early: StageRun, readers: Sequence[tuple[int, Edge]], chosen: Sequence[Indices], interval: int
) -> Indices:
    """Latest starts of a stage whose readers have the starts ``chosen``."""
    stage = early.stage
    limit = np.full(stage.tokens, np.iinfo(np.int64).max // 2, dtype=np.int64)
    for reader, edge in readers:
        limit = np.minimum(limit, _wanted(chosen[reader], edge, stage))
    # Tokens that nothing reads: their limit is still max // 2, less some delays.
    limit = np.where(limit > np.iinfo(np.int64).max // 4, early.starts, limit)
    return _serve_late(stage, limit, interval) if stage.tokens else early.starts


def waiting(producer: StageRun, reader: StageRun, edge: Edge, interval: int) -> int:
    """Most tokens of an edge that wait at once: from their arrival until their last reader has been served.

    Args:
        producer, reader: of the edge.
        edge: which tokens are read when.
        interval: clocks between two inferences.
    """
    if not len(producer.starts):
        return 0
    birth = producer.starts + producer.stage.latency + edge.delay
    served = reader.starts + max(1, reader.stage.service)  # a stage that takes no time still reads
    leave = np.concatenate([served, [0]])[edge.needs.last_use]
    return occupancy(birth, np.where(edge.needs.last_use < 0, birth, leave), interval)


def _wanted(reader: Indices, edge: Edge, stage: TimedStage) -> Indices:
    """Latest start of each token of a stage for one of its readers."""
    needed = np.maximum.accumulate(edge.needs.last)
    # The first token of the reader that waits for this token, or for a later one, is the first to need it.
    first = np.searchsorted(needed, np.arange(stage.tokens))
    there = np.concatenate([reader, [np.iinfo(np.int64).max // 2]])
    return there[first] - edge.delay - stage.latency


def _serve_late(stage: TimedStage, limit: Indices, interval: int) -> Indices:
    """Starts of the tokens of one stage, given the clock at which each must have started; not decreasing."""
    limit = np.minimum.accumulate(limit[::-1])[::-1]
    start = _from_the_end(limit, stage)
    for _ in range(_ROUNDS):
        wanted = np.minimum(limit, _wanted_by_the_next(start, stage, interval))
        room = _from_the_end(np.minimum.accumulate(wanted[::-1])[::-1], stage)
        if np.array_equal(room, start):
            return start
        start = room
    raise AssertionError(f"{stage.name}: late starts do not settle within an interval of {interval} clocks")


def _from_the_end(limit: Indices, stage: TimedStage) -> Indices:
    """start[j] = min(limit[j], start[j + copies] - service): ``_in_turn`` seen from the end."""
    return -_in_turn(-limit[::-1], stage.copies, stage.service)[::-1]


def _wanted_by_the_next(start: Indices, stage: TimedStage, interval: int) -> Indices:
    """Clock after which no token may start as its copy is needed by the next inference: int64 [tokens]."""
    count, copies = len(start), stage.copies
    index = np.arange(count)
    after = (count - 1 - index) // copies  # later tokens of the same copy, which it serves first
    return start[index % copies] + interval - stage.service * (1 + after)


def occupancy(birth: Indices, death: Indices, interval: int) -> int:
    """Most tokens that are held at once when inferences follow each other.

    Args:
        birth, death: clocks at which each token arrives and leaves; one that leaves on arrival takes no room.
        interval: clocks between two inferences.
    """
    birth_turn, birth_at = np.divmod(birth, interval)
    death_turn, death_at = np.divmod(np.maximum(birth, death), interval)
    times = np.concatenate([birth_at, death_at])
    steps = np.concatenate([np.ones(len(birth), np.int64), -np.ones(len(death), np.int64)])
    order = np.lexsort((steps, times))  # a token that leaves makes room for one that arrives at the same clock
    # Tokens that live across the end of an interval are there when it begins, once for each end that they cross.
    held = int((death_turn - birth_turn).sum()) + np.cumsum(steps[order])
    return int(held.max(initial=0))
