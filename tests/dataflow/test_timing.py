"""The schedule of a dataflow, held against a machine that runs it clock by clock."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcompiler.dataflow import Edge, StageRun, TimedStage, earliest, just_in_time, latest, least_interval
from mcompiler.dataflow.grids import Indices, Window, everything, same_place, windows
from mcompiler.dataflow.timing import occupancy, step_clocks, waiting
from tests.support import machine
from tests.support.machine import Link, Unit


def stages_of(units: list[Unit]) -> list[TimedStage]:
    """The same network for the code under test."""
    found = []
    for unit in units:
        edges = []
        for link in unit.links:
            given_sizes = units[link.producer].sizes
            total, own = int(np.prod(given_sizes)), int(np.prod(unit.sizes))
            if link.everything:
                needs = everything(total, own)
            elif link.kernel == 1 and link.stride == 1 and not link.pad:
                needs = same_place(own)
            else:
                needs = windows(given_sizes, unit.sizes, [Window(link.kernel, link.stride, 1, link.pad)] * 2)
            edges.append(Edge(link.producer, needs, link.delay, 1.0))
        count = int(np.prod(unit.sizes))
        found.append(TimedStage(count, unit.service, unit.latency, unit.copies, tuple(edges)))
    return found


@st.composite
def networks(draw: st.DrawFn) -> list[Unit]:
    """An input, then units that read one or two earlier ones: windows, the same place, or everything."""
    sizes = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    units = [Unit(sizes, 0, 0)]
    for _ in range(draw(st.integers(1, 5))):
        producer = draw(st.integers(0, len(units) - 1))
        height, width = units[producer].sizes
        kind = draw(st.sampled_from(["window", "place", "all"]))
        service = draw(st.integers(0, 4))
        latency = service + draw(st.integers(0, 3))
        copies, delay = draw(st.integers(1, 3)), draw(st.integers(0, 2))
        if kind == "window":
            kernel = draw(st.integers(1, min(3, height, width)))
            stride, pad = draw(st.integers(1, 2)), draw(st.integers(0, kernel - 1))
            own = tuple((size + 2 * pad - kernel) // stride + 1 for size in (height, width))
            units.append(
                Unit((own[0], own[1]), service, latency, copies, (Link(producer, kernel, stride, pad, delay=delay),))
            )
        elif kind == "place":
            links = [Link(producer, delay=delay)]
            alike = [i for i, unit in enumerate(units) if unit.sizes == (height, width) and i != producer]
            second = draw(st.sampled_from([None, *alike]))
            if second is not None:
                links.append(Link(second))
            units.append(Unit((height, width), service, latency, copies, tuple(links)))
        else:
            units.append(Unit((1, draw(st.integers(1, 3))), service, latency, copies,
                              (Link(producer, everything=True, delay=delay),)))  # fmt: skip
    return units


@settings(max_examples=150, deadline=None)
@given(networks())
def test_one_inference_to_the_clock(units: list[Unit]) -> None:
    found = earliest(stages_of(units))
    ran = machine.run(units, [0])
    assert [start.tolist() for start in found] == [start[0] for start in ran.starts]


@settings(max_examples=100, deadline=None)
@given(networks(), st.integers(0, 3))
def test_a_periodic_schedule_is_kept_by_the_machine(units: list[Unit], slack: int) -> None:
    stages = stages_of(units)
    interval = max([1, *(stage.busy for stage in stages)]) + slack
    early = earliest(stages, interval)
    for starts in (early, latest(stages, early, interval), just_in_time(stages, early, interval)):
        assert_lawful(units, [start.tolist() for start in starts], interval)
    # Nothing ends later than in the earliest schedule.
    read = {edge.producer for stage in stages for edge in stage.edges}
    for index, start in enumerate(just_in_time(stages, early, interval)):
        if index not in read:
            assert start.tolist() == early[index].tolist()


def assert_lawful(units: list[Unit], starts: list[list[int]], interval: int) -> None:
    """Every token starts when what it reads is there, in order, on a server that is free, in every inference."""
    for index, unit in enumerate(units):
        own = starts[index]
        assert all(one <= other for one, other in pairwise(own))
        for token, place in enumerate(unit.places):
            for link in unit.links:
                for read in machine.reads(units, unit, link, place):
                    end = starts[link.producer][read] + units[link.producer].latency + link.delay
                    assert own[token] >= end, f"n{index} token {token} reads n{link.producer} token {read}"
        turns = 2 + max(own) // interval
        for server in range(unit.copies):
            busy = sorted(s + turn * interval for s in own[server :: unit.copies] for turn in range(turns))
            assert all(one + unit.service <= other for one, other in pairwise(busy)), f"n{index} server {server}"


@settings(max_examples=60, deadline=None)
@given(networks())
def test_the_machine_settles_at_the_busiest_stage(units: list[Unit]) -> None:
    """Inputs that come as fast as they like, buffers without end: results come at the interval of the schedule."""
    stages = stages_of(units)
    interval = max([1, *(stage.busy for stage in stages)])
    turns = 12
    ran = machine.run(units, [turn * interval for turn in range(turns)])
    for starts in ran.starts:
        ends = [start[-1] for start in starts]
        assert ends[-1] - ends[-2] == interval


@settings(max_examples=100, deadline=None)
@given(networks())
def test_what_waits_is_what_the_machine_counts(units: list[Unit]) -> None:
    stages = stages_of(units)
    interval = max([1, *(stage.busy for stage in stages)])
    starts = just_in_time(stages, earliest(stages, interval), interval)
    plain = [start.tolist() for start in starts]
    turns = 3 + max(max(start, default=0) for start in plain) // interval

    def run(index: int) -> StageRun:
        return StageRun(stages[index], starts[index])

    for index, stage in enumerate(stages):
        for number, edge in enumerate(stage.edges):
            held = waiting(run(edge.producer), run(index), edge, interval)
            assert held == machine.most_held(units, plain, index, number, interval, turns)


def test_occupancy_by_hand() -> None:
    # Lives of 0..5, 3..4 and 3..10, every 6 clocks: at 3 there are all three of one inference, the last one until 10,
    # that is until 4 of the next.
    birth, death = np.array([0, 3, 3]), np.array([5, 4, 10])
    assert occupancy(birth, death, 100) == 3
    assert occupancy(birth, death, 6) == 4
    assert occupancy(np.array([2]), np.array([2]), 6) == 0


def test_what_is_fast_waits_for_what_is_slow() -> None:
    """A fast stage in front of a slow one makes tokens just in time, one behind it takes them at once."""
    through = same_place(50)
    stages = [
        TimedStage(50, 1, 1),
        TimedStage(50, 10, 10, 1, (Edge(0, through, 0, 1.0),)),
        TimedStage(50, 1, 1, 1, (Edge(1, through, 0, 1.0),)),
        TimedStage(1, 1, 1, 1, (Edge(2, everything(50, 1), 0, 1.0),)),
    ]
    early = earliest(stages, 500)
    starts = just_in_time(stages, early, 500)
    assert (np.diff(starts[0]) == 10).all()
    assert (np.diff(starts[2]) == 10).all()
    for each, held in ((early, 46), (starts, 1)):
        first, second = (StageRun(stages[index], each[index]) for index in (0, 1))
        assert waiting(first, second, stages[1].edges[0], 500) == held


@pytest.mark.parametrize("copies", [1, 2, 3, 7])
def test_copies_take_turns(copies: int) -> None:
    stage = TimedStage(7, 10, 12, copies)
    (starts,) = earliest([stage])
    assert starts.tolist() == [10 * (token // copies) for token in range(7)]
    assert stage.busy == 10 * -(-7 // copies)


@st.composite
def sharing(draw: st.DrawFn) -> list[TimedStage]:
    """A network in which some stages hold the same arrays, some of them in steps, with a digital unit behind each."""
    copies = draw(st.integers(1, 3))
    stages = [TimedStage(draw(st.integers(1, 6)), 0, 0)]
    for number in range(draw(st.integers(2, 5))):
        before = len(stages) - 1
        tokens, service = draw(st.integers(1, 7)), draw(st.integers(1, 4))
        steps = draw(st.sampled_from([1, 1, 2, 3]))
        source = draw(st.integers(0, before))
        arrays = TimedStage(
            tokens=tokens,
            service=service,
            latency=service + draw(st.integers(0, 2)),
            copies=copies,
            edges=(Edge(source, everything(stages[source].tokens, tokens), draw(st.integers(0, 2))),),
            name=f"arrays {number}",
            arrays=draw(st.integers(0, 1)),
            steps=steps,
        )
        each = draw(st.integers(1, 3))
        unit = TimedStage(
            tokens, each, each, draw(st.integers(1, 2)), (Edge(before + 1, same_place(tokens)),), steps=steps
        )
        if steps > 1:
            clocks = step_clocks(arrays, unit)
            arrays, unit = replace(arrays, step_clocks=clocks), replace(unit, step_clocks=clocks)
        stages += [arrays, unit]
    return stages


def reads_of(stages: list[TimedStage], starts: list[Indices], matrix: int) -> dict[int, list[tuple[int, int]]]:
    """Begin and end of every read of each copy of a matrix, of all its sites."""
    found: dict[int, list[tuple[int, int]]] = {}
    for stage, start in zip(stages, starts, strict=True):
        if stage.arrays == matrix:
            for token, begin in enumerate(start.tolist()):
                copy = token % stage.step_tokens % stage.copies
                found.setdefault(copy, []).append((begin, begin + stage.service))
    return found


@settings(max_examples=200, deadline=None)
@given(sharing(), st.integers(0, 9))
def test_no_array_works_on_two_vectors_at_once(stages: list[TimedStage], slack: int) -> None:
    """Sites of a matrix and inferences that follow each other: reads of a copy never overlap, clock by clock."""
    interval = max(1, least_interval(stages)) + slack
    early = earliest(stages, interval)
    for starts in (early, latest(stages, early, interval), just_in_time(stages, early, interval)):
        for matrix in (0, 1):
            for reads in reads_of(stages, starts, matrix).values():
                clocks = [clock % interval for begin, end in reads for clock in range(begin, end)]
                assert len(clocks) == len(set(clocks))
        assert_in_order(stages, starts)
    assert_in_order(stages, earliest(stages))
    for matrix in (0, 1):
        for reads in reads_of(stages, earliest(stages), matrix).values():
            assert all(one[1] <= other[0] for one, other in pairwise(sorted(reads)))


def assert_in_order(stages: list[TimedStage], starts: list[Indices]) -> None:
    """Every token has its inputs, and every step the results of the one before it."""
    for stage, start in zip(stages, starts, strict=True):
        for edge in stage.edges:
            ends = starts[edge.producer] + stages[edge.producer].latency + edge.delay
            assert all(start[token] >= ends[last] for token, last in enumerate(edge.needs.last.tolist()))
    for index, stage in enumerate(stages):
        if stage.arrays is not None and stage.steps > 1:
            unit, each = stages[index + 1], stage.step_tokens
            for first in range(each, stage.tokens, each):
                results = starts[index + 1][first - each : first] + unit.latency
                assert starts[index][first] >= results.max()


def test_sites_of_a_matrix_add_up() -> None:
    """Two sites of 4 and 2 tokens of 5 clocks on the same arrays: 30 clocks, not 20, also where the second is early."""
    one = TimedStage(4, 5, 6, arrays=0)
    other = TimedStage(2, 5, 6, arrays=0)
    assert least_interval([one, other]) == 30
    first, second = earliest([one, other], 30)
    assert first.tolist() == [0, 5, 10, 15]
    assert second.tolist() == [20, 25]
    assert least_interval([one, replace(other, arrays=1)]) == 20


def test_a_step_begins_when_the_one_before_has_its_result() -> None:
    """Two tokens a step, 10 clocks each in one array and 3 until the result; a digital unit takes 2: 25 clocks."""
    arrays, unit = (
        TimedStage(8, 10, 13, arrays=0, steps=4),
        TimedStage(8, 2, 2, edges=(Edge(0, same_place(8)),), steps=4),
    )
    each = step_clocks(arrays, unit)
    assert each == 10 + 13 + 2
    stages = [replace(arrays, step_clocks=each), replace(unit, step_clocks=each)]
    assert stages[0].busy == 80
    assert least_interval(stages) == 100
    first, second = earliest(stages, 100)
    assert first.tolist() == [0, 10, 25, 35, 50, 60, 75, 85]
    assert second[-1] + 2 == 100
