"""Copies: the best bottleneck and the latency bound, against every choice there is."""

from __future__ import annotations

from itertools import product
from math import ceil

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mcompiler.dataflow import (
    Candidate,
    CriticalPath,
    Edge,
    Load,
    Server,
    TimedStage,
    best_interval,
    copies_for_throughput,
    critical_path,
    earliest,
)
from mcompiler.dataflow.grids import Window, everything, same_place, windows
from mcompiler.dataflow.replicas import latency_bound

LOADS = st.lists(
    st.builds(Load, st.integers(1, 9), st.integers(1, 5), st.sampled_from([1, 1, 1, 2])), min_size=1, max_size=2
)
CANDIDATES = st.lists(st.builds(Candidate, LOADS.map(tuple), st.integers(1, 4)), min_size=1, max_size=4)


def choices(layers: list[Candidate], budget: int) -> list[tuple[int, ...]]:
    """All copies within a budget."""
    every = product(*(range(1, max(load.tokens for load in layer.loads) + 1) for layer in layers))
    return [c for c in every if sum(n * layer.arrays for n, layer in zip(c, layers, strict=True)) <= budget]


def busy(load: Load, copies: int) -> int:
    """Clocks of the fullest copy, vector by vector: a step is shared by the copies, and one step follows the other."""
    per_step = -(-load.tokens // load.steps)
    parts = [min(per_step, load.tokens - first) for first in range(0, load.tokens, per_step)]
    return sum(-(-part // copies) * load.service for part in parts)


@settings(max_examples=150, deadline=None)
@given(CANDIDATES, st.integers(0, 25))
def test_no_copies_beat_the_best_interval(layers: list[Candidate], more: int) -> None:
    budget = sum(layer.arrays for layer in layers) + more

    def interval(copies: tuple[int, ...] | list[int]) -> int:
        return max(sum(busy(load, n) for load in layer.loads) for n, layer in zip(copies, layers, strict=True))

    best = min(interval(copies) for copies in choices(layers, budget))
    assert best_interval(layers, budget) == best
    found = copies_for_throughput(layers, budget)
    assert interval(found) == best
    assert sum(n * layer.arrays for n, layer in zip(found, layers, strict=True)) <= budget


@st.composite
def chains(draw: st.DrawFn) -> tuple[list[int], list[int], list[int], list[int]]:
    """Services, fills, kernels and arrays of a few convolutions after another."""
    count = draw(st.integers(1, 3))
    ints = st.integers
    return (
        draw(st.lists(ints(1, 5), min_size=count, max_size=count)),
        draw(st.lists(ints(0, 3), min_size=count, max_size=count)),
        draw(st.lists(ints(1, 3), min_size=count, max_size=count)),
        draw(st.lists(ints(1, 3), min_size=count, max_size=count)),
    )


def chain(
    parts: tuple[list[int], list[int], list[int], list[int]], copies: tuple[int, ...], work: float, tiles: list[int]
) -> list[TimedStage]:
    """Convolutions of a 7x7 input, digital units behind each, and a product of all of the last one's tokens."""
    size, stages = 7, [TimedStage(49, 0, 0)]
    for index, (service, fill, kernel, _) in enumerate(zip(*parts, strict=True)):
        made = size - kernel + 1
        needs = windows((size, size), (made, made), [Window(kernel)] * 2)
        before = len(stages) - 1
        stages.append(TimedStage(made * made, service, service + fill, copies[index], (Edge(before, needs),)))
        units = max(1, tiles[index] // copies[index])
        each = max(1, ceil(work / units))
        edge = Edge(before + 1, same_place(made * made))
        stages.append(TimedStage(made * made, each, each, min(copies[index], tiles[index]), (edge,)))
        size = made
    stages.append(TimedStage(1, 2, 2, copies[-1], (Edge(len(stages) - 1, everything(size * size, 1)),)))
    return stages


@settings(max_examples=40, deadline=None)
@given(chains(), st.integers(0, 8), st.sampled_from([0.3, 1.0, 2.5, 7.0]), st.integers(1, 6), st.data())
def test_no_copies_beat_the_latency_bound(
    parts: tuple[list[int], list[int], list[int], list[int]], more: int, work: float, units: int, data: st.DataObject
) -> None:
    arrays = [*parts[3], 1]
    budget = sum(arrays) + more
    count = len(arrays)
    servers = [Server()]
    for index in range(count - 1):
        servers += [Server(index), Server(index, work, arrays[index], units)]
    servers.append(Server(count - 1))

    def run(copies: tuple[int, ...]) -> tuple[int, CriticalPath]:
        # Arrays stand in at most as many tiles as there are of either.
        held = [min(units, n * a) for n, a in zip(copies, arrays, strict=True)]
        tiles = [data.draw(st.integers(1, most)) for most in held] if packed else held
        stages = chain(parts, copies, work, tiles)
        starts = earliest(stages)
        end = max(int(start[-1]) + stage.latency for start, stage in zip(starts, stages, strict=True))
        return end, critical_path(stages, starts, servers, count)

    packed = data.draw(st.booleans())

    tops = [49] * (count - 1) + [1]
    every = [
        c
        for c in product(*(range(1, min(top, 1 + more) + 1) for top in tops))
        if sum(n * a for n, a in zip(c, arrays, strict=True)) <= budget
    ]
    found = [run(copies) for copies in every]
    shortest = min(end for end, _ in found)
    paths = [path for _, path in found]
    bound, copies = latency_bound(paths, np.array(arrays, float), budget, np.ones(count))
    assert bound <= shortest + 1e-9
    assert (copies >= 1 - 1e-9).all()
    assert copies @ arrays <= budget * (1 + 1e-9)
    for path in paths:  # every path is a bound for any copies, by itself
        for chosen, (end, _) in zip(every, found, strict=True):
            assert path.clocks(np.array(chosen, float)) <= end + 1e-9


def test_one_layer_reaches_its_bound() -> None:
    path = CriticalPath(np.array([100.0]), 7.0)
    bound, copies = latency_bound([path], np.array([2.0]), 20, np.ones(1))
    assert copies.tolist() == [10.0]
    assert bound == 17.0


def test_a_square_root_law() -> None:
    """Two layers in a row, nine times as much work in one: three times as many copies."""
    _, copies = latency_bound([CriticalPath(np.array([900.0, 100.0]), 0.0)], np.ones(2), 40, np.ones(2))
    assert copies.tolist() == [30.0, 10.0]
