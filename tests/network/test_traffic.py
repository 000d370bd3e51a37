"""Bytes between tiles by hand, and a bound that no placement goes below."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, permutations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcompiler.ir import ANALOG_DOMAIN, AnalogProgram, ConvShape, PlacedProgram
from mcompiler.network import OUTSIDE, array_counts, located, program_flows
from mcompiler.network.flows import Flows
from mcompiler.network.locations import input_share
from mcompiler.network.placing import _placements
from mcompiler.network.positions import _between, _State
from mcompiler.network.topology import PORT, Topology, topology_of
from mcompiler.network.work import Aim, Work, addresses_of
from mcompiler.passes.place import Place
from mcompiler.target import Target
from tests.support.programs import analog, matrix_op, matrix_program, node, placeholder, target

# Arrays of 4 rows and 2 weights; sums have 32 bits.
KEYS = ("array.rows=4", "array.rows_active=4", "array.columns=16")


def sequence(widths: list[int], tokens: int, *, add: bool = False) -> AnalogProgram:
    """Products one after another on a sequence of vectors; ``add``: the input of the last is added to its result."""
    x = ir.Value(name="x", shape=ir.Shape(["N", tokens, widths[0]]), type=ir.TensorType(ir.DataType.FLOAT))
    nodes: list[ir.Node] = []
    ops = []
    for index, (rows, columns) in enumerate(pairwise(widths)):
        nodes.append(placeholder(f"p{index}", nodes[-1].outputs[0] if nodes else x, index))
        nodes[-1].outputs[0].shape = ir.Shape(["N", tokens, columns])
        ops.append(matrix_op(np.ones((rows, columns), int), name=f"p{index}", vectors=tokens))
    if add:
        last, before = nodes[-1].outputs[0], nodes[-2].outputs[0]
        nodes.append(node("Add", [last, before], "add"))
        nodes[-1].outputs[0].shape = last.shape
    graph = ir.Graph([x], [nodes[-1].outputs[0]], nodes=nodes, opset_imports={"": 20, ANALOG_DOMAIN: 1})
    return analog(matrix_program(ops, model=ir.Model(graph, ir_version=10)), target(*KEYS))


def flows_between(program: AnalogProgram, nodes: list[list[int]]) -> dict[tuple[int, int], float]:
    """Bytes from tile to tile, where arrays stand in these tiles."""
    flows = program_flows(program, [np.array(each, dtype=np.int64) for each in nodes], target(*KEYS))
    found: dict[tuple[int, int], float] = {}
    for source, sink, size in zip(flows.source.tolist(), flows.sink.tolist(), flows.bytes.tolist(), strict=True):
        found[source, sink] = found.get((source, sink), 0.0) + size
    return {key: round(size, 9) for key, size in found.items() if size > 1e-12}


def test_one_tile_talks_to_the_outside_only() -> None:
    # 3 vectors: 4 bytes in, 2 bytes out each
    assert flows_between(sequence([4, 2], 3), [[0]]) == {(OUTSIDE, 0): 12.0, (0, OUTSIDE): 6.0}


def test_rows_and_sums_by_hand() -> None:
    # 8 x 2 weights are two arrays of 4 x 2. Each reads its half of the input; the second sends its two sums of 4 bytes.
    assert flows_between(sequence([8, 2], 3), [[0, 1]]) == {
        (OUTSIDE, 0): 12.0, (OUTSIDE, 1): 12.0, (1, 0): 3 * 2 * 4.0, (0, OUTSIDE): 6.0
    }  # fmt: skip


def test_columns_are_made_where_they_are() -> None:
    # 4 x 4 weights are two arrays side by side: each tile makes half of the results, and the next layer's gets both.
    assert flows_between(sequence([4, 4, 2], 3), [[0, 1], [2]]) == {
        (OUTSIDE, 0): 12.0, (OUTSIDE, 1): 12.0, (0, 2): 6.0, (1, 2): 6.0, (2, OUTSIDE): 6.0
    }  # fmt: skip


def test_copies_take_turns_and_talk_to_the_same_copy() -> None:
    program = replace(sequence([4, 2, 2], 6), replicas=(2, 2))
    assert flows_between(program, [[0, 1], [0, 1]]) == {
        (OUTSIDE, 0): 12.0, (OUTSIDE, 1): 12.0, (0, OUTSIDE): 6.0, (1, OUTSIDE): 6.0
    }  # fmt: skip
    crossed = flows_between(program, [[0, 1], [1, 0]])
    assert (crossed[0, 1], crossed[1, 0]) == (6.0, 6.0)
    # two copies talk to one, and to three
    assert flows_between(replace(program, replicas=(2, 1)), [[0, 1], [2]])[0, 2] == 6.0
    many = flows_between(replace(program, replicas=(2, 3)), [[0, 1], [2, 3, 4]])
    assert all(many[one, other] == 2.0 for one in (0, 1) for other in (2, 3, 4))


def test_a_shortcut_travels_to_where_it_is_added() -> None:
    found = flows_between(sequence([4, 2, 2], 3, add=True), [[0], [1]])
    # once, for the arrays of the last layer and for the sum behind it
    assert found == {(OUTSIDE, 0): 12.0, (0, 1): 6.0, (1, OUTSIDE): 6.0}


@pytest.mark.parametrize(
    ("kernel", "stride", "copies", "together", "runs", "columns", "share"),
    [
        (1, 1, 4, 1, 1, 8, 1 / 4),
        (3, 1, 8, 1, 1, 8, 3 / 8),  # one column in eight, with its neighbours, the same in every row
        (3, 1, 8, 2, 1, 8, 4 / 8),
        (3, 1, 8, 2, 2, 8, 6 / 8),
        (3, 1, 16, 1, 1, 9, 3 * 3 / 16),  # other columns in every row
        (3, 1, 2, 1, 1, 8, 1.0),
        (3, 2, 8, 1, 1, 8, 3 / 16),
        (1, 2, 1, 1, 1, 8, 1 / 4),
        (3, 1, 1, 1, 1, 8, 1.0),
    ],
)
def test_parts_of_the_input(
    kernel: int, stride: int, copies: int, together: int, runs: int, columns: int, share: float
) -> None:
    conv = ConvShape((kernel, kernel), (stride, stride), (1, 1), (0, 0, 0, 0), 1)
    op = matrix_op(np.ones((kernel * kernel, 1), int), shape=conv)
    (found,) = input_share(op, copies, np.array([together]), np.array([runs]), columns)
    assert found == pytest.approx(share)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.sampled_from([1, 3]), st.integers(1, 2), st.integers(1, 9), st.integers(3, 10), st.data())
def test_no_set_of_copies_reads_more_than_is_said(
    down: int, kernel: int, stride: int, copies: int, width: int, data: st.DataObject
) -> None:
    """Columns that some copies read, enumerated vector by vector on a raster with room for every window."""
    rows = 8 * down
    chosen = sorted(data.draw(st.sets(st.integers(0, copies - 1), min_size=1)))
    runs = 1 + sum(b - a > 1 for a, b in pairwise(chosen))
    read = {
        (y * stride + dy, x * stride + dx)
        for y in range(rows)
        for x in range(width)
        if (y * width + x) % copies in chosen
        for dy in range(kernel)
        for dx in range(kernel)
    }
    height, across = (rows - 1) * stride + kernel, (width - 1) * stride + kernel
    conv = ConvShape((kernel, kernel), (stride, stride), (1, 1), (0, 0, 0, 0), 1)
    op = matrix_op(np.ones((kernel * kernel, 1), int), shape=conv)
    (said,) = input_share(op, copies, np.array([len(chosen)]), np.array([runs]), width)
    border = (kernel - 1) * (height + across) + copies  # windows at the ends of rows are counted as whole ones
    assert len(read) <= said * height * across + border + kernel * kernel * rows


def moved(where: npt.NDArray[np.int32], order: tuple[int, ...]) -> npt.NDArray[np.int32]:
    """Addresses with the tiles exchanged."""
    found = where.copy()
    found[:, 1] = np.array(order)[where[:, 1]]
    return found


@pytest.mark.parametrize("topology", ["mesh", "htree", "bus"])
def test_the_bound_holds_for_every_arrangement(topology: str) -> None:
    chip = target(*KEYS, "hierarchy.arrays_per_core=1", "hierarchy.cores_per_tile=2", "hierarchy.tiles_per_chip=4",
                  f"network.topology={topology}")  # fmt: skip
    program = sequence([8, 4, 4], 3)
    counts = [len(table) for table in program.tiled.tables]
    slots = np.arange(sum(counts))
    where = np.stack([slots * 0, slots // 2, slots % 2, slots * 0], axis=1).astype(np.int32)
    least = []
    for order in permutations(range(4)):
        addresses = np.split(moved(where, order), np.cumsum(counts)[:-1])
        found = located(PlacedProgram(program, tuple(addresses), 1), chip).traffic()
        assert found.byte_hops == pytest.approx(sum(layer.link_byte_hops for layer in found.layers))
        least.append(found.byte_hops)
        assert found.lower_bound_byte_hops > 0
    assert found.lower_bound_byte_hops <= min(least)


def byte_hops_of(
    position: npt.NDArray[np.int64], traffic: npt.NDArray[np.float64], ports: npt.NDArray[np.float64], net: Topology
) -> float:
    """Bytes times links with the tiles of slots at these positions."""
    far = net.hops(position[:, None], position[None, :])
    return float((traffic * far).sum() / 2 + (ports * net.hops(position, np.full_like(position, PORT))).sum())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["mesh", "htree"]))
def test_gains_are_what_an_exchange_saves(seed: int, topology: str) -> None:
    rng = np.random.default_rng(seed)
    chip: Target = target(*KEYS, "hierarchy.tiles_per_chip=9", f"network.topology={topology}")
    net = topology_of(chip)
    bytes_of = np.triu(rng.integers(0, 5, (9, 9)), 1).astype(float)
    both, ports = bytes_of + bytes_of.T, rng.integers(0, 5, 9).astype(float)
    position, one = rng.permutation(9), int(rng.integers(9))
    state = _State(position, both, ports, net)
    gains = state.gains(one)
    for other in range(9):
        exchanged = position.copy()
        exchanged[one], exchanged[other] = position[other], position[one]
        saved = byte_hops_of(position, both, ports, net) - byte_hops_of(exchanged, both, ports, net)
        assert gains[other] == pytest.approx(saved)
    other = int(rng.integers(9))
    state.exchange(one, other)
    again = _State(state.position, both, ports, net)
    assert state.gains(other) == pytest.approx(again.gains(other))


def test_what_leaves_a_chip_goes_through_its_port() -> None:
    chip = target(*KEYS, "hierarchy.tiles_per_chip=4")
    program = sequence([4, 2, 2], 3)
    flows = program_flows(program, [np.array([1]), np.array([6])], chip)
    inside, ports = _between(flows, 0, 4)
    assert not inside.any()
    assert ports.tolist() == [0, 12.0 + 6.0, 0, 0]
    _, ports = _between(flows, 1, 4)
    assert ports.tolist() == [0, 0, 6.0 + 6.0, 0]
    addresses = (np.array([[0, 1, 0, 0]], np.int32), np.array([[1, 2, 0, 0]], np.int32))
    found = located(PlacedProgram(program, addresses, 2), chip).traffic()
    assert found.chip_bytes == 12 + 6 + 6
    assert found.busiest_chip_bytes == 12 + 6
    # A side of the 2 x 2 mesh on either chip, to the port and from it.
    assert (found.layers[1].hops, found.layers[1].chip_hops) == (2, 1)


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.integers(2, 14), min_size=2, max_size=5), st.integers(1, 4), st.sampled_from(["mesh", "htree", "bus"])
)
def test_more_effort_is_never_worse(widths: list[int], tokens: int, topology: str) -> None:
    chip = target(*KEYS, "hierarchy.arrays_per_core=1", "hierarchy.cores_per_tile=2", "hierarchy.tiles_per_chip=16",
                  f"network.topology={topology}", "network.link_bits=1")  # fmt: skip
    program = sequence(widths, tokens)
    found = [located(Place(effort=effort).run(program, chip), chip).traffic() for effort in range(4)]
    work = Work(program, chip)
    objectives = [from_scratch(work, Place(effort=effort).run(program, chip)) for effort in range(4)]
    assert objectives == sorted(objectives, reverse=True)
    assert all(each.lower_bound_byte_hops <= each.byte_hops + 1e-9 for each in found)


def from_scratch(work: Work, placed: PlacedProgram) -> tuple[float, float]:
    """The objective of a placement, by its addresses alone."""
    hierarchy = work.target.hierarchy
    chip, tile, core, position = np.concatenate(placed.addresses).astype(np.int64).T
    index = (chip * hierarchy.tiles_per_chip + tile) * hierarchy.cores_per_tile + core
    filling = work.filling(index * hierarchy.arrays_per_core + position, placed.chips)
    return work.objective(filling, np.tile(np.arange(hierarchy.tiles_per_chip), placed.chips))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(2, 14), min_size=2, max_size=5), st.integers(1, 4), st.integers(1, 3), st.booleans())
def test_tiles_that_move_take_their_flows_along(widths: list[int], tokens: int, copies: int, latency: bool) -> None:
    """Flows are listed once for each way to fill the tiles; where these stand only changes their numbers."""
    chip = target(*KEYS, "hierarchy.arrays_per_core=1", "hierarchy.cores_per_tile=2", "hierarchy.tiles_per_chip=16",
                  "network.link_bits=1")  # fmt: skip
    program = sequence(widths, tokens)
    program = replace(program, replicas=(min(copies, tokens),) * (len(widths) - 1))
    counts = array_counts(program)
    chips = -(-sum(counts) // chip.hierarchy.arrays_per_chip)
    work = Work(program, chip, Aim(latency))
    found, filling, position = _placements(work, chips, 1)[-1]
    placed = PlacedProgram(program, addresses_of(counts, filling.slots, position, chip), chips)
    assert found == pytest.approx(from_scratch(work, placed))


def test_one_flow_for_each_pair() -> None:
    rng = np.random.default_rng(3)
    source, sink = rng.integers(OUTSIDE, 3, 40), rng.integers(OUTSIDE, 3, 40)
    flows = Flows(source, sink, rng.random(40), rng.integers(0, 4, 40), rng.random(40) < 0.5, rng.random(40))
    added = flows.added_up()
    pairs = list(zip(added.source.tolist(), added.sink.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    for (one, other), size in zip(pairs, added.bytes.tolist(), strict=True):
        assert size == pytest.approx(flows.bytes[(source == one) & (sink == other)].sum())
    moved = flows.between(np.array([7, 5, 6]))
    assert {-1: -1, 0: 7, 1: 5, 2: 6}[int(source[0])] == moved.source[0]


def test_a_copy_fills_tiles_column_by_column_where_sums_are_more_than_inputs() -> None:
    """Two row blocks, twelve column blocks, two arrays a tile: by rows every tile holds half of the sums of two."""
    chip = target(*KEYS, "hierarchy.arrays_per_core=1", "hierarchy.cores_per_tile=2", "hierarchy.tiles_per_chip=36")
    program = sequence([8, 24], 3)
    assert len(program.tiled.tables[0]) == 2 * 12
    by_rows = program_flows(program, [np.arange(24) // 2], chip)
    placed = Place().run(program, chip).addresses
    by_columns = program_flows(program, [where[:, 1].astype(np.int64) for where in placed], chip)
    assert by_rows.bytes[by_rows.sums].sum() == 3 * 24 * 4  # one of two sums of each column travels
    assert not by_columns.sums.any()
