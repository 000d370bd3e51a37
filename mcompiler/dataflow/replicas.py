"""How many copies each layer gets: the best bottleneck exactly, and a bound on latency that no copies beat."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt

from mcompiler.dataflow.durations import SLACK
from mcompiler.dataflow.grids import Indices
from mcompiler.dataflow.timing import Stage

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Candidate:
    """A layer that may be copied.

    Attributes:
        tokens: vectors per inference.
        service: clocks for one of them.
        arrays: of one copy.
    """

    tokens: int
    service: int
    arrays: int

    def copies_for(self, interval: int) -> int:
        """Fewest copies with which it is done within an interval of at least ``service`` clocks."""
        if not self.service or not self.tokens:
            return 1
        return -(-self.tokens // (interval // self.service))

    def busy(self, copies: int) -> int:
        """Clocks that the fullest copy works."""
        return -(-self.tokens // copies) * self.service


def best_interval(layers: Sequence[Candidate], budget: int) -> int:
    """The shortest time in which every layer can be done with an inference, with as many copies as arrays allow.

    Exact: the arrays that are needed fall as the interval grows, so that a bisection over whole clocks finds it.

    Args:
        layers: with one copy each they need at most ``budget`` arrays.
        budget: arrays there are.
    """
    low = max((layer.service for layer in layers), default=0)  # a vector is not divided
    high = max((layer.busy(1) for layer in layers), default=0)
    while low < high:
        middle = (low + high) // 2
        if arrays_for(layers, middle) <= budget:
            high = middle
        else:
            low = middle + 1
    return low


def arrays_for(layers: Sequence[Candidate], interval: int) -> int:
    """Arrays that all layers need to be done within an interval."""
    return sum(layer.arrays * layer.copies_for(interval) for layer in layers)


def copies_for_throughput(layers: Sequence[Candidate], budget: int) -> list[int]:
    """Fewest copies with which the bottleneck is the shortest that the budget allows."""
    interval = best_interval(layers, budget)
    return [layer.copies_for(max(interval, layer.service)) for layer in layers]


def copies_by_turns(layers: Sequence[Candidate], budget: int) -> list[int]:
    """A copy more of the slowest layer, again and again, until its next copy no longer fits.

    As short an interval as ``copies_for_throughput``, and more copies; the balancing of PUMA-like mappings.
    """
    copies = [1] * len(layers)
    left = budget - sum(layer.arrays for layer in layers)
    queue = [(-layer.busy(1), index) for index, layer in enumerate(layers)]
    heapq.heapify(queue)
    while queue:
        _, index = queue[0]
        layer = layers[index]
        if not layer.service or copies[index] >= layer.tokens or layer.arrays > left:
            break
        copies[index] += 1
        left -= layer.arrays
        heapq.heapreplace(queue, (-layer.busy(copies[index]), index))
    return copies


@dataclass(frozen=True)
class Path:
    """A chain of tokens, each waiting for the one before it: it takes at least sum(work / copies) + fixed clocks.

    Attributes:
        work: [layers], clocks of service along the path, were there one copy: tokens that it passes x service.
        fixed: clocks that copies do not shorten.
    """

    work: Floats
    fixed: float

    def clocks(self, copies: Floats) -> float:
        """Length with so many copies, fractions of one included."""
        return float((self.work / copies).sum() + self.fixed)


@dataclass(frozen=True)
class Server:
    """Who serves the tokens of a stage, and how far copies can shorten that.

    Attributes:
        layer: whose copies it has, or -1: one server, whatever is copied.
        unit_clocks: of a token on one digital unit; None: the arrays of the layer serve it.
        arrays: of one copy of the layer; a copy has at most as many digital units.
        units: digital units that there are in all.
    """

    layer: int = -1
    unit_clocks: float | None = None
    arrays: int = 1
    units: int = 1

    def least(self, stage: Stage, passed: int) -> tuple[float, float]:
        """Clocks from the start of the first to the end of the last of some tokens, whatever the copies are.

        Of several bounds that hold, the highest at the copies that the stage has.

        Args:
            stage: what is served.
            passed: tokens in a row.

        Returns:
            What copies divide, what they do not.
        """
        if self.layer < 0 or not stage.service:
            return 0.0, float(max(0, passed - 1) * stage.service + stage.latency)
        if self.unit_clocks is None:  # the fullest copy has at least one token, and passed / copies
            fill = stage.latency - stage.service
            return (float(passed * stage.service), fill) if passed > stage.copies else (0.0, fill + stage.service)
        most, clocks = max(1, min(self.arrays, self.units)), self.unit_clocks * (1 - SLACK)
        alone = max(1.0, ceil(self.unit_clocks / most - SLACK), passed * clocks / max(1, self.units))
        shared = passed * max(1.0, clocks / max(1, self.arrays))
        return (shared, 0.0) if shared > alone * stage.copies else (0.0, alone)


def critical_path(stages: Sequence[Stage], starts: Sequence[Indices], servers: Sequence[Server], layers: int) -> Path:
    """What the end of an inference waited for, token by token, in the earliest schedule of one inference.

    Args:
        stages, starts: of ``earliest`` without an interval.
        servers: of each stage.
        layers: how many there are.
    """
    work, fixed = np.zeros(layers), 0.0
    ends = [start[-1] + stage.latency if len(start) else -1 for stage, start in zip(stages, starts, strict=True)]
    if not ends:
        return Path(work, fixed)
    index = int(np.argmax(ends))
    token = stages[index].tokens - 1
    while True:
        stage = stages[index]
        ready, edge, read = _ready(stages, starts, index)
        first = _first_in_row(stage, starts[index], ready, token)
        divided, whole = servers[index].least(stage, token - first + 1)
        fixed += whole
        if divided:
            work[servers[index].layer] += divided
        if edge[first] < 0:
            return Path(work, fixed)
        reads = stage.edges[int(edge[first])]
        fixed += reads.delay
        index, token = reads.producer, int(read[first])


def _ready(stages: Sequence[Stage], starts: Sequence[Indices], index: int) -> tuple[Indices, Indices, Indices]:
    """When each token of a stage has what it reads, through which edge (-1: none), and which token came last."""
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


def _first_in_row(stage: Stage, start: Indices, ready: Indices, token: int) -> int:
    """The token from which on a stage worked without waiting for anything but itself, up to ``token``."""
    place, copies = token, stage.copies
    while True:
        # Back to the token that this one waited for in the queue of its copy, ...
        chain = np.arange(place % copies, place + 1, copies)
        waits = start[chain] - ready[chain]
        free = np.flatnonzero(waits == 0)
        if len(free):
            return int(chain[free[-1]])
        # ... or in front of it: tokens are dealt out in order.
        place = int(chain[0])
        earlier = np.flatnonzero(start[:place] == start[place])
        if not len(earlier):
            return place
        place = int(earlier[-1])


def latency_bound(
    paths: Sequence[Path], arrays: Floats, budget: float, least: Floats, rounds: int = 200
) -> tuple[float, Floats]:
    """A latency that no copies within the budget can beat, and the copies (fractions allowed) that come near to it.

    Every path bounds the latency from below for any copies. So does any mix of paths, and for a mix the best copies are
    known in closed form: each layer gets max(least, sqrt(work / arrays / price)), at the price that uses up the budget.
    The best mix is sought by multiplicative weights; any mix is a valid bound, so that stopping early is no risk.

    Args:
        paths: at least one.
        arrays: of one copy of each layer, [layers]; 0 for a layer without any.
        budget: arrays there are.
        least: copies that each layer has at least, [layers].
        rounds: of the search.
    """
    works: Floats = np.stack([path.work for path in paths])
    fixed = np.array([path.fixed for path in paths])
    weights = np.full(len(paths), 1 / len(paths))
    best, copies = -np.inf, least
    for turn in range(rounds):
        mixed = weights @ works
        found = _fill(mixed, arrays, budget, least)
        lengths = (works / found).sum(axis=1) + fixed
        bound = float(weights @ lengths)
        if bound > best:
            best, copies = bound, found
        if len(paths) == 1 or lengths.max() - bound <= 1e-6 * max(1.0, bound):
            break
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
        found = np.sqrt(work[free] / arrays[free]) * left / shares.sum()
        low = found < least[free]
        if not low.any():
            copies[free] = found
            break
        free[np.flatnonzero(free)[low]] = False
    return copies
