"""What waits between stages: enough and no more, ISAAC's row buffers, and errors that name who needs what."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcompiler.dataflow import (
    LayerBuffers,
    NetworkStage,
    StageGraph,
    StageKind,
    StageRun,
    check_depths,
    earliest,
    just_in_time,
    streams,
    tile_memory,
)
from mcompiler.dataflow.grids import Channels, Grid, Window, single_token, windows
from mcompiler.errors import CompileError
from mcompiler.ir import Stream
from tests.dataflow.test_timing import networks, stages_of
from tests.support import machine
from tests.support.machine import Link, Unit
from tests.support.programs import target


def graph_of(units: list[Unit]) -> StageGraph:
    stages = tuple(
        NetworkStage(
            id=i,
            kind=StageKind.DIGITAL if unit.links else StageKind.INPUT,
            name=f"n{i}",
            layer=-1,
            grid=Grid(unit.sizes, Channels.FIRST, 1),
        )
        for i, unit in enumerate(units)
    )
    return StageGraph(stages, ())


def two_stages(first: StageKind, second: StageKind, names: tuple[str, str] = ("a", "b"), layer: int = 0) -> StageGraph:
    """A stage that makes tokens and one that reads them."""
    one, other = single_token(1), single_token(1)
    return StageGraph(
        (NetworkStage(0, first, names[0], layer, one), NetworkStage(1, second, names[1], layer, other)), ()
    )


def waiting_in(units: list[Unit]) -> tuple[Stream, ...]:
    stages = stages_of(units)
    interval = max([1, *(stage.busy for stage in stages)])
    starts = just_in_time(stages, earliest(stages, interval), interval)
    runs = [StageRun(stage, start) for stage, start in zip(stages, starts, strict=True)]
    return streams(graph_of(units), runs, interval)


@settings(max_examples=80, deadline=None)
@given(networks(), st.data())
def test_least_room_is_what_a_machine_needs_to_end(units: list[Unit], data: st.DataObject) -> None:
    """One link of the machine is bounded: with the least room it ends, with a place less it never does."""
    links = [(index, number) for index, unit in enumerate(units) for number in range(len(unit.links))]
    chosen = data.draw(st.sampled_from(links))
    found = waiting_in(units)[links.index(chosen)]
    assert found.tokens >= found.least_tokens
    machine.run(units, [0], {chosen: found.least_tokens})
    if found.least_tokens > 0:
        with pytest.raises(machine.StuckError):
            machine.run(units, [0], {chosen: found.least_tokens - 1}, limit=1_500)


@pytest.mark.parametrize(("kernel", "width"), [(3, 8), (5, 9)])
def test_a_convolution_holds_the_rows_that_isaac_says(kernel: int, width: int) -> None:
    """Section V of Shafiee et al. 2016: (kernel - 1) rows and kernel values, where layers keep pace."""
    source = Unit((width, width), 0, 0)
    first = Unit((width, width), 4, 4, 1, (Link(0),))
    size = width - kernel + 1
    units = [source, first, Unit((size, size), 4, 4, 1, (Link(1, kernel),))]
    between = waiting_in(units)[1]
    assert between.window_bytes == (kernel - 1) * width + kernel
    assert between.least_tokens == (kernel - 1) * width + kernel
    assert between.tokens <= between.least_tokens + kernel


def test_a_shortcut_holds_what_the_branch_beside_it_is_behind() -> None:
    # Two 3x3 windows with padding are one row and a place behind each: 2 x (6 + 1) tokens, and the one that joins.
    units = [
        Unit((6, 6), 3, 3),
        Unit((6, 6), 3, 3, 1, (Link(0, 3, 1, 1),)),
        Unit((6, 6), 3, 3, 1, (Link(1, 3, 1, 1),)),
        Unit((6, 6), 1, 1, 1, (Link(2), Link(0))),
    ]
    shortcut = waiting_in(units)[-1]
    assert (shortcut.producer, shortcut.consumer) == (0, 3)
    assert shortcut.least_tokens == 2 * 7 + 1


def stream_of(tokens: int, size: float, least: int) -> Stream:
    return Stream(producer=0, consumer=1, layer=0, tokens=tokens, bytes=size, least_tokens=least, window_bytes=0.0)


def test_a_fifo_too_shallow_is_reported() -> None:
    stream, graph = stream_of(20, 40.0, 15), two_stages(StageKind.DIGITAL, StageKind.DIGITAL, ("early", "join"))
    check_depths([stream], graph, target("digital.fifo_bytes=40"))
    with pytest.raises(CompileError, match=r"15 tokens of 'early' must wait for 'join' \(30 B\) or the network stops"):
        check_depths([stream], graph, target("digital.fifo_bytes=29"))
    with pytest.raises(CompileError, match=r"20 tokens of 'early' must wait for 'join' \(40 B\) at full rate, .* 39 B"):
        check_depths([stream], graph, target("digital.fifo_bytes=39"))
    check_depths([stream], graph, target())


KEYS = ("hierarchy.arrays_per_core=1", "hierarchy.cores_per_tile=1", "hierarchy.tiles_per_chip=4")


def graph_of_a_layer() -> StageGraph:
    """An input, a layer that reads it, and a digital node behind the layer."""
    kinds = ((StageKind.INPUT, "x", -1), (StageKind.ANALOG, "layer", 0), (StageKind.DIGITAL, "b", 0))
    return StageGraph(
        tuple(NetworkStage(i, kind, name, at, single_token(1)) for i, (kind, name, at) in enumerate(kinds)), ()
    )


BUFFERS = LayerBuffers(np.array([0, 1]), np.array([0.5, 0.5]), np.array([1]), np.ones(1))
"""A layer in two tiles that read a half of its input each; the second makes the results."""


def memory_of(need: float, *keys: str, behind: float = 0.0) -> tuple[list[float], dict[int, float]]:
    """Bytes of the tiles of a layer, with bytes waiting in front of it and behind it."""
    before, after = stream_of(1, need, 1), replace(stream_of(1, behind, 1), producer=1, consumer=2)
    found = tile_memory([before, after], graph_of_a_layer(), [BUFFERS], target(*KEYS, *keys))
    return found.bytes.tolist(), found.spilled_bytes


def test_what_is_made_waits_where_it_is_made() -> None:
    assert memory_of(100.0, behind=7.0) == ([50.0, 57.0], {})


def test_tiles_hold_the_rows_that_they_work_on() -> None:
    assert memory_of(100.0) == ([50.0, 50.0], {})
    assert memory_of(100.0, "digital.buffer_bytes=50") == ([50.0, 50.0], {})


def test_what_is_too_much_goes_to_tiles_with_room() -> None:
    held, spilled = memory_of(100.0, "digital.buffer_bytes=30")
    assert sorted(held, reverse=True) == [30.0, 30.0, 30.0, 10.0]
    assert spilled == {0: pytest.approx(40.0)}


def test_what_moved_is_known_by_tile() -> None:
    """Two tiles of 50 bytes with room for 30: 20 of each go to tiles 2 and 3."""
    chip = target(*KEYS, "digital.buffer_bytes=30")
    found = tile_memory([stream_of(1, 100.0, 1)], graph_of_a_layer(), [BUFFERS], chip)
    # the first tile fills tile 2 by 20, the second has 10 more there and 10 in tile 3
    moves = {(move.tile, move.other): dict(move.bytes) for move in found.moves}
    assert moves == {(0, 2): {0: pytest.approx(20)}, (1, 2): {0: pytest.approx(10)}, (1, 3): {0: pytest.approx(10)}}


def test_too_little_memory_is_refused_by_name() -> None:
    with pytest.raises(CompileError, match=r"activations need 130 B on chip 0 .* hold 120 B; .* 'layer' \(65 B\)"):
        memory_of(130.0, "digital.buffer_bytes=30")


@pytest.mark.parametrize(
    ("channels", "kernel", "width", "kilobytes"),
    [(3, 3, 224, 1.96), (96, 7, 112, 74), (64, 3, 112, 21), (128, 3, 56, 21), (256, 3, 28, 21), (512, 3, 14, 21)],
)
def test_row_buffers_of_isaac(channels: int, kernel: int, width: int, kilobytes: float) -> None:
    """Table III of Shafiee et al. 2016: whole rows, at one byte a value; a window needs less than its last row."""
    needs = windows((width, width), (width, width), [Window(kernel, 1, 1, kernel // 2)] * 2)
    rows = kernel * width * channels
    assert rows / 1024 == pytest.approx(kilobytes, rel=0.03)
    assert needs.window * channels == rows - (width - kernel) * channels
