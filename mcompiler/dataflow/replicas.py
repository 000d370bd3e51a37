"""Numbers of copies of matrices: the shortest interval exactly, and a lower bound of the latency."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt

from mcompiler.dataflow.durations import SLACK
from mcompiler.dataflow.grids import Indices
from mcompiler.dataflow.timing import TimedStage, busy_tokens

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Load:
    """Work of the arrays of a matrix for one site, per inference.

    Attributes:
        tokens: vectors.
        service: clocks for one of them.
        steps: parts of the vectors, each of which waits for the one before.
    """

    tokens: int
    service: int
    steps: int = 1

    def busy(self, copies: int) -> int:
        """Clocks that the copy with most vectors works; the copies share the vectors of each step."""
        return busy_tokens(self.tokens, self.steps, copies) * self.service


@dataclass(frozen=True)
class Candidate:
    """A matrix whose arrays may be copied.

    Attributes:
        loads: of its sites, which its copies serve one after the other.
        arrays: of one copy.
        unit_clocks: of one tile's digital unit or buffer per inference, where the work after its arrays is to count.
        units: tiles of all chips; its arrays can lie in no more of them, and each array in one.
    """

    loads: tuple[Load, ...]
    arrays: int
    unit_clocks: float = 0.0
    units: int = 1

    @property
    def most(self) -> int:
        """Copies beyond which more are of no use, at least 1."""
        return max([1, *(-(-load.tokens // load.steps) for load in self.loads if load.service)])

    @property
    def least(self) -> int:
        """Clocks that it is busy with any number of copies: a vector is not divided."""
        return self.busy(self.most)

    def busy(self, copies: int) -> int:
        """Clocks that the copy with most vectors works, or the units of all tiles of its arrays at best."""
        units = ceil(self.unit_clocks / max(1, min(self.units, self.arrays * copies)) - SLACK)
        return max(units, sum(load.busy(copies) for load in self.loads))

    def copies_for(self, interval: int) -> int:
        """Fewest copies with which it is done within an interval of at least ``least`` clocks."""
        low, high = 1, self.most
        while low < high:  # more copies never take longer
            middle = (low + high) // 2
            if self.busy(middle) <= interval:
                high = middle
            else:
                low = middle + 1
        return low


def best_interval(layers: Sequence[Candidate], budget: int) -> int:
    """The shortest time in which every matrix can be done with an inference, with as many copies as arrays allow.

    Exact: the arrays that are needed fall as the interval grows, so that a bisection over whole clocks finds it.

    Args:
        layers: with one copy each they need at most ``budget`` arrays.
        budget: arrays that may be used.
    """
    low = max((layer.least for layer in layers), default=0)
    high = max((layer.busy(1) for layer in layers), default=0)
    while low < high:
        middle = (low + high) // 2
        if arrays_for(layers, middle) <= budget:
            high = middle
        else:
            low = middle + 1
    return low


def arrays_for(layers: Sequence[Candidate], interval: int) -> int:
    """Arrays that all matrices need to be done within an interval."""
    return sum(layer.arrays * layer.copies_for(interval) for layer in layers)


def copies_for_throughput(layers: Sequence[Candidate], budget: int) -> list[int]:
    """Fewest copies with which the bottleneck is the shortest that the budget allows."""
    interval = best_interval(layers, budget)
    return [layer.copies_for(interval) for layer in layers]


def copies_by_turns(layers: Sequence[Candidate], budget: int) -> list[int]:
    """A copy more of the slowest matrix, again and again, until its next copy no longer fits.

    As short an interval as ``copies_for_throughput``, and more copies; the balancing of PUMA-like mappings.
    """
    # Optimal: each copy was given to the slowest matrix of that turn, and the slowest time never rises. So a shorter
    # interval than the last needs all copies that were given, and one more of the slowest matrix, which does not fit.
    copies = [1] * len(layers)
    left = budget - sum(layer.arrays for layer in layers)
    queue = [(-layer.busy(1), index) for index, layer in enumerate(layers)]
    heapq.heapify(queue)
    while queue:
        _, index = queue[0]
        layer = layers[index]
        if copies[index] >= layer.most or layer.arrays > left:
            break
        copies[index] += 1
        left -= layer.arrays
        heapq.heapreplace(queue, (-layer.busy(copies[index]), index))
    return copies


@dataclass(frozen=True)
class CriticalPath:
    """A chain of tokens, each waiting for the one before it: it takes at least sum(work / copies) + fixed clocks.

    Attributes:
        work: [matrices], clocks of service along the path with one copy of each: tokens that it passes x service.
        fixed: clocks that copies do not shorten.
    """

    work: Floats
    fixed: float

    def clocks(self, copies: Floats) -> float:
        """Length with these copies, fractions of one included."""
        return float((self.work / copies).sum() + self.fixed)


@dataclass(frozen=True)
class Server:
    """The arrays or units that serve the tokens of a stage, and how far copies can shorten that.

    Attributes:
        matrix: whose copies share the tokens, or -1: a single server.
        unit_clocks: of a token on one digital unit; None: the arrays of the matrix serve it.
        arrays: of one copy of the matrix; a copy has at most as many digital units.
        units: digital units of all chips.
    """

    matrix: int = -1
    unit_clocks: float | None = None
    arrays: int = 1
    units: int = 1

    def least(self, stage: TimedStage, passed: int) -> tuple[float, float]:
        """Clocks from the start of the first to the end of the last of some tokens, at least, for any copies.

        The tokens of a row are distributed over the copies, so that one copy has passed / copies of them or more. That
        bound falls with the copies and one without copies does not; both hold for any number of copies. Taken is the
        one that is higher at the copies that the stage has, as a path is to be tight there.

        Args:
            stage: with these tokens.
            passed: tokens in a row.

        Returns:
            Clocks that copies divide, clocks that they do not.
        """
        if self.matrix < 0 or not stage.service:
            return 0.0, float(max(0, passed - 1) * stage.service + stage.latency)
        if self.unit_clocks is None:
            fill = stage.latency - stage.service
            return (float(passed * stage.service), fill) if passed > stage.copies else (0.0, fill + stage.service)
        # Bounds of the service of a token: a copy has at most as many units as arrays (with fewer tokens than copies,
        # a token its part of all units), all copies together no more than there are, and no token takes less than a
        # clock. Durations are rounded with SLACK, hence the bounds too.
        most = max(1, min(max(self.arrays, self.units // max(1, stage.tokens)), self.units))
        clocks = self.unit_clocks * (1 - SLACK)
        alone = max(1.0, ceil(self.unit_clocks / most - SLACK), passed * clocks / max(1, self.units))
        shared = passed * max(1.0, clocks / max(1, self.arrays))
        return (shared, 0.0) if shared > alone * stage.copies else (0.0, alone)


def critical_path(
    stages: Sequence[TimedStage], starts: Sequence[Indices], servers: Sequence[Server], matrices: int
) -> CriticalPath:
    """The tokens that the end of an inference waited for, one after the other, in its earliest schedule.

    Every part of the path takes its time with any copies: tokens start in order, so that those of a row cannot be done
    before the first of them has its inputs, and these not before their producer has served them. Waiting for arrays
    that another site holds is left out, which keeps the path a lower bound.

    Args:
        stages, starts: of ``earliest`` without an interval.
        servers: of each stage.
        matrices: how many there are.
    """
    work, fixed = np.zeros(matrices), 0.0
    ends = [start[-1] + stage.latency if len(start) else -1 for stage, start in zip(stages, starts, strict=True)]
    if not ends:
        return CriticalPath(work, fixed)
    index = int(np.argmax(ends))
    token = stages[index].tokens - 1
    while True:
        stage = stages[index]
        ready, edge, read = _ready(stages, starts, index)
        first = _first_in_row(stage, starts[index], ready, token)
        divided, whole = servers[index].least(stage, token - first + 1)
        fixed += whole
        if divided:
            work[servers[index].matrix] += divided
        if edge[first] < 0:
            return CriticalPath(work, fixed)
        reads = stage.edges[int(edge[first])]
        fixed += reads.delay
        index, token = reads.producer, int(read[first])


def _ready(stages: Sequence[TimedStage], starts: Sequence[Indices], index: int) -> tuple[Indices, Indices, Indices]:
    """When each token of a stage has its inputs, the edge of the last of them (-1: none), and its token there."""
    stage = stages[index]
    ready = np.zeros(stage.tokens, dtype=np.int64)
    through = np.full(stage.tokens, -1, dtype=np.int64)
    read = np.full(stage.tokens, -1, dtype=np.int64)
    for number, edge in enumerate(stage.edges):
        producer = stages[edge.producer]
        there = np.concatenate([starts[edge.producer] + producer.latency + edge.delay, [0]])[edge.needs.last]
        later = (there >= ready) & (edge.needs.last >= 0)
        ready, through = np.where(later, there, ready), np.where(later, number, through)
        read = np.where(later, edge.needs.last, read)
    return ready, through, read


def _first_in_row(stage: TimedStage, start: Indices, ready: Indices, token: int) -> int:
    """The token from which on a stage waited for its own copies only, up to ``token``."""
    place, copies = token, stage.copies
    while True:
        # Back along the queue of its copy to the last token that started as soon as it was ready, ...
        chain = np.arange(place % copies, place + 1, copies)
        waits = start[chain] - ready[chain]
        free = np.flatnonzero(waits == 0)
        if len(free):
            return int(chain[free[-1]])
        # ... or, where the first of the queue waited too, to the token before it that it had to wait for: tokens start
        # in order, so that it started at the same clock.
        place = int(chain[0])
        earlier = np.flatnonzero(start[:place] == start[place])
        if not len(earlier):
            return place
        place = int(earlier[-1])


def latency_bound(
    paths: Sequence[CriticalPath], arrays: Floats, budget: float, least: Floats, rounds: int = 200
) -> tuple[float, Floats]:
    """A latency that no copies within the budget can beat, and the copies (fractions allowed) that come close to it.

    Every path bounds the latency from below for any copies. So does any weighted mean of paths, and for a mean the best
    copies are known in closed form: each layer gets max(least, sqrt(work / arrays / price)), at the price that uses up
    the budget. The best weights are sought by multiplicative updates (S. Arora, E. Hazan, S. Kale, Theory of Computing
    8, 2012); any weights give a valid bound, so that stopping early is no risk.

    Args:
        paths: at least one.
        arrays: of one copy of each matrix, [matrices]; 0 for one without any.
        budget: arrays that may be used.
        least: copies that each matrix has at least, [matrices].
        rounds: of the search.
    """
    works: Floats = np.stack([path.work for path in paths])
    fixed = np.array([path.fixed for path in paths])
    weights = np.full(len(paths), 1 / len(paths))
    best, copies = -np.inf, least
    for turn in range(rounds):
        mixed = weights @ works
        tried = _fill(mixed, arrays, budget, least)
        # These copies minimise the mean, and the mean is at most the longest path: it bounds the latency of any copies.
        lengths = (works / tried).sum(axis=1) + fixed
        bound = float(weights @ lengths)
        if bound > best:
            best, copies = bound, tried
        if len(paths) == 1 or lengths.max() - bound <= 1e-6 * max(1.0, bound):
            break
        # Weight moves to the longest paths: with the best weights all paths of weight above 0 are equally long.
        step = 4.0 / np.sqrt(turn + 1)
        weights = weights * np.exp(step * (lengths - lengths.max()) / max(1.0, lengths.max()))
        weights /= weights.sum()
    return best, copies


def _fill(work: Floats, arrays: Floats, budget: float, least: Floats) -> Floats:
    """Copies that minimise sum(work / copies) within the budget: a square root law with a floor."""
    copies: Floats = least.copy()
    free = (arrays > 0) & (work > 0)
    while free.any():
        left = budget - float((arrays * copies)[~free].sum())
        shares = np.sqrt(work[free] * arrays[free])
        ideal = np.sqrt(work[free] / arrays[free]) * left / shares.sum()
        # Matrices that the law gives fewer than their least keep that; the others share the rest. As less is left for
        # them, the law would give the fixed ones even fewer later: fixing them for good is right.
        low = ideal < least[free]
        if not low.any():
            copies[free] = ideal
            break
        free[np.flatnonzero(free)[low]] = False
    return copies
