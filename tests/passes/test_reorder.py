"""Another order of the lines empties whole arrays, is never worse, and changes nothing that is computed."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st

import mcompiler
from mcompiler.artefacts import LayerData
from mcompiler.check import check
from mcompiler.cli.build import compile_command
from mcompiler.dataflow.events import LayerWork, layer_events
from mcompiler.dataflow.memory import input_shares
from mcompiler.driver import Build
from mcompiler.errors import CompileError
from mcompiler.geometry import array_shape, span, tile_positions, tile_table
from mcompiler.ir import AnalogLayer, ConvShape, Kept, PlacedProgram, TiledProgram
from mcompiler.network import located
from mcompiler.passes.compact import Compact
from mcompiler.passes.prune import Prune
from mcompiler.passes.reorder import Reorder, Search, fewest_tiles
from mcompiler.passes.reorder.search import block_sizes
from mcompiler.passes.tile import Tile
from mcompiler.target import Event, Target
from tests.support import programs
from tests.support.builds import Array, floats, model, node, target
from tests.support.programs import Case, cases, kept_of, matrix_op, matrix_program, spots, with_matrix
from tests.support.sealed import rewrite_npz

Bools = npt.NDArray[np.bool_]


def tiles_of(op: AnalogLayer, chip: Target) -> tuple[AnalogLayer, TiledProgram]:
    """The operation reordered, and cut into the arrays that hold weights."""
    program = Reorder().run(Compact().run(matrix_program([op]), chip), chip)
    check(program, chip)
    return program.layers[0], Prune().run(Tile().run(program, chip), chip)


def without(op: AnalogLayer, chip: Target) -> int:
    """Array positions that the operation takes in ascending order."""
    return len(programs.tiled(matrix_program([op]), chip).tables[0]) // array_shape(chip).arrays_per_tile


# --- what any operation keeps ----------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(cases())
def test_it_is_a_permutation_that_never_takes_more_tiles(case: Case) -> None:
    op, tiled = tiles_of(case.op, case.chip)
    compacted = Compact().run(matrix_program([case.op]), case.chip).layers[0]
    assert [(sorted(rows), sorted(cols)) for rows, cols in kept_of(op)] == kept_of(compacted)
    assert op.matrix.codes is compacted.matrix.codes
    note, copies = op.matrix.reorder, case.shape.arrays_per_tile
    assert note is not None
    assert note.tiles_before == without(case.op, case.chip)
    assert note.bound <= note.tiles_after <= note.tiles_before
    assert note.tiles_after * copies == len(tiled.tables[0])
    moved = kept_of(op) != kept_of(compacted)
    assert moved == (note.tiles_after < note.tiles_before)
    assert moved == (note.routing_bytes > 0)


@settings(max_examples=100, deadline=None)
@given(cases())
def test_tiles_reassemble_to_the_weights(case: Case) -> None:
    op, tiled = tiles_of(case.op, case.chip)
    whole = np.zeros_like(op.matrix.codes)
    lines: dict[tuple[int, int, int], tuple[int, int]] = {}
    for spot in spots(op, tiled.tables[0][:: case.shape.arrays_per_tile]):
        assert lines.setdefault((spot.array, spot.line, spot.column), (spot.row, spot.col)) == (spot.row, spot.col)
        whole[spot.group, spot.row, spot.col] += op.matrix.codes[spot.group, spot.row, spot.col]
    np.testing.assert_array_equal(whole, op.matrix.codes)  # a weight that stood twice would count twice


@settings(max_examples=60, deadline=None)
@given(cases().filter(lambda case: case.shape.encoding.signed_fragments))
def test_polarised_weights_keep_one_sign_in_a_fragment(case: Case) -> None:
    assigned = replace(case, op=programs.one_sign(case.op, case.chip))
    op, tiled = tiles_of(assigned.op, case.chip)
    shape, signs = case.shape, dict[tuple[int, int, int], int]()
    for spot in spots(op, tiled.tables[0]):
        code = int(op.matrix.codes[spot.group, spot.row, spot.col])
        if code:
            key = (spot.array, spot.line // shape.rows_active, spot.column)
            assert signs.setdefault(key, code > 0) == (code > 0)


def test_fragments_of_polarised_weights_stay_together_and_one_that_is_not_full_the_last() -> None:
    chip = programs.target(
        "array.rows=6", "array.columns=2", "array.rows_active=3", "encoding.weights=polarised", "encoding.slices=1",
        "encoding.pedestal=digital_count", "precision.weights=4", "device.levels=8",
    )  # fmt: skip
    moved = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        codes = np.repeat(rng.random((9, 8)) < 0.25, 3, axis=0)[:26].astype(np.int16)  # the last fragment has two rows
        codes[:, codes.any(axis=0).argmax()] = 1  # no row vanishes
        op, _ = tiles_of(matrix_op(codes, weight_bits=4), chip)
        ((rows, _),) = kept_of(op)
        assert rows[-2:] == [24, 25]
        fragments = {tuple(rows[first : first + 3]) for first in range(0, 24, 3)}
        assert fragments == {(first, first + 1, first + 2) for first in range(0, 24, 3)}
        moved += rows != list(range(26))
    assert moved >= 3  # so that this tests something


def test_the_same_seed_gives_the_same_order() -> None:
    codes = (np.random.default_rng(0).random((60, 12)) < 0.1).astype(np.int16)
    chip = programs.target("array.rows=8", "array.columns=16", "array.rows_active=8")
    one, other = (tiles_of(matrix_op(codes), chip)[0] for _ in range(2))
    assert kept_of(one) == kept_of(other)
    assert one.matrix.reorder is not None
    assert one.matrix.reorder.tiles_after < one.matrix.reorder.tiles_before


def test_a_dense_layer_stays_as_it_is() -> None:
    chip = programs.target()
    codes = np.random.default_rng(0).integers(1, 100, (1000, 100))
    op, _ = tiles_of(matrix_op(codes), chip)
    note = op.matrix.reorder
    assert note is not None
    assert note.tiles_before == note.tiles_after == note.bound == 56  # 8 row blocks, 7 column blocks of 16
    assert note.routing_bytes == 0
    assert kept_of(op) == [(list(range(1000)), list(range(100)))]


def test_an_effort_of_none_is_refused() -> None:
    with pytest.raises(CompileError, match=r"reorder: effort is 0; give a whole number of at least 1"):
        Reorder(effort=0)


def test_out_of_order_indices_are_no_span() -> None:
    assert span(np.array([3, 4, 5])) == slice(3, 6)
    assert span(np.array([7])) == slice(7, 8)
    assert span(np.array([0, 2, 1, 3])) is None  # as long as a span from 0 to 3
    assert span(np.array([0, 0, 2])) is None
    assert span(np.array([1, 3])) is None


def test_an_index_that_stands_twice_breaks_the_promise_of_the_level() -> None:
    chip, op = programs.target(), matrix_op(np.ones((2, 3, 2)))
    check(matrix_program([op]), chip)
    twice = with_matrix(op, rows=Kept(np.array([0, 1, 2, 0, 1, 1]), np.array([0, 3, 6])))
    with pytest.raises(AssertionError, match="an index occurs twice"):
        check(matrix_program([twice]), chip)


# --- how good it is --------------------------------------------------------------------------------------------------


def best_of_all(used: Bools, rows: int, cols: int) -> int:
    """Fewest positions that hold a weight, over every way to deal out rows and columns."""
    sizes = [block_sizes(length, size) for length, size in zip(used.shape, (rows, cols), strict=True)]
    dealt = [
        set(itertools.permutations(np.repeat(np.arange(len(size)), size).tolist())) for size in sizes
    ]  # blocks of one size are told apart, which does no harm
    by_rows = [
        np.array([used[np.array(one) == block].any(axis=0) for block in range(len(sizes[0]))]) for one in dealt[0]
    ]
    return min(
        sum(int(met[:, np.array(other) == block].any(axis=1).sum()) for block in range(len(sizes[1])))
        for met in by_rows
        for other in dealt[1]
    )


@st.composite
def small_masks(draw: st.DrawFn) -> tuple[Bools, int, int]:
    """A mask without empty lines, and the lines of a position."""
    shape = draw(st.sampled_from([(4, 4), (5, 4), (4, 5), (6, 3), (5, 5)]))
    seed, density = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from([0.2, 0.4, 0.6]))
    used = np.random.default_rng(seed).random(shape) < density
    used = used[used.any(axis=1)][:, used.any(axis=0)]
    return used, draw(st.integers(1, 3)), draw(st.integers(1, 3))


@settings(max_examples=80, deadline=None)
@given(small_masks())
def test_the_bound_holds_and_the_search_is_near_the_best_of_all(case: tuple[Bools, int, int]) -> None:
    used, rows, cols = case
    if not used.size:
        assert fewest_tiles(used, rows, cols) == 0
        return
    best = best_of_all(used, rows, cols)
    bound = fewest_tiles(used, rows, cols)
    assert bound <= best
    search = Search.of(used, rows, cols)
    tiles = len(search.heights) * len(search.widths)
    taken = tiles - search.empty(search.best(1, 0, tiles - bound))
    assert best <= taken <= best + 1


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.02, 0.1, 0.3, 0.7]), st.integers(2, 12), st.integers(2, 12))
@example(4_294_967_294, 0.1, 8, 12)
def test_no_order_that_is_drawn_beats_the_bound(seed: int, density: float, rows: int, cols: int) -> None:
    rng = np.random.default_rng(seed)
    p, q = int(rng.integers(1, 6)), int(rng.integers(1, 6))
    on = rng.random((p, q)) < 0.5  # blocks first, so that there is something to be had
    used = np.kron(on, np.ones((rows, cols))) * (rng.random((p * rows, q * cols)) < density) > 0
    used = used[used.any(axis=1)][:, used.any(axis=0)]  # lines without weights are gone before there is an order
    if not used.size:
        return
    search = Search.of(used, rows, cols)
    bound = fewest_tiles(used[rng.permutation(len(used))][:, rng.permutation(used.shape[1])], rows, cols)
    assert bound <= len(search.heights) * len(search.widths) - search.empty(search.given)


def planted(
    shape: tuple[int, int], tile: tuple[int, int], empty: float, density: float, seed: int
) -> tuple[Bools, int]:
    """A mask whose positions are empty or filled at random, its lines shuffled; and how many are empty.

    Every row and every column of blocks has a filled position, and every line a weight.
    """
    rng = np.random.default_rng(seed)
    p, q = -(-shape[0] // tile[0]), -(-shape[1] // tile[1])
    on = rng.random((p, q)) >= empty
    on[np.arange(p), rng.integers(q, size=p)] = True
    on[rng.integers(p, size=q), np.arange(q)] = True
    cells = np.kron(on, np.ones(tile))[: shape[0], : shape[1]] > 0
    used = cells & (rng.random(shape) < density)
    for axis in (0, 1):  # a line without a weight would be compacted away, and the blocks with it
        for line in np.flatnonzero(~used.any(axis=1 - axis)).tolist():
            places = np.flatnonzero(np.moveaxis(cells, axis, 0)[line])
            np.moveaxis(used, axis, 0)[line, rng.choice(places)] = True
    return used[rng.permutation(shape[0])][:, rng.permutation(shape[1])], int((~on).sum())


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("density", [1.0, 0.3])
@pytest.mark.parametrize("empty", [0.3, 0.6])
@pytest.mark.parametrize("shape", [(512, 128), (1152, 256), (1000, 200)])
def test_hidden_empty_tiles_are_found(shape: tuple[int, int], empty: float, density: float, seed: int) -> None:
    chip = programs.target()
    used, hidden = planted(shape, (128, 16), empty, density, seed)
    signs = np.random.default_rng(seed).choice([-1, 1], used.shape)
    op, _ = tiles_of(matrix_op(used * signs), chip)
    note = op.matrix.reorder
    assert note is not None
    assert note.tiles_before - note.tiles_after >= 0.95 * hidden
    assert note.tiles_before == -(-shape[0] // 128) * -(-shape[1] // 16)  # shuffled, none of them is empty
    if density == 1.0:
        assert note.bound == note.tiles_before - hidden  # the bound tells that there are no more


@pytest.mark.parametrize("density", [0.2, 0.1, 0.05])
def test_random_masks_on_square_arrays_allow_none(density: float) -> None:
    used = np.random.default_rng(1).random((512, 512)) < density
    search = Search.of(used, 128, 128)
    bound = fewest_tiles(used, 128, 128)
    assert search.empty(search.best(1, 0, 16 - bound)) == 0
    assert 8 <= bound <= 16


# --- nothing that is computed changes --------------------------------------------------------------------------------

OFFSET = ("encoding.weights=offset", "encoding.slices=4", "encoding.pedestal=digital_count")
CHIPS = {
    "pair": (),
    "reads": ("array.rows_active=3",),
    "separate": ("encoding.pairs_in=separate", "encoding.slices_in=separate", "array.columns=2"),
    "after": ("encoding.subtract=after_adc", "encoding.pedestal=digital_count"),
    "unit": (*OFFSET, "encoding.input_sum=unit_column", "encoding.flip=true", "array.columns=8"),
    "lossy": ("converters.adc.bits=3", "converters.adc.range=calibrated"),
}


def weights(shape: tuple[int, ...], seed: int, groups: int = 1) -> Array:
    """Convolution or product weights [O, C, ...] with hidden empty blocks of 8 rows x 2 columns, shuffled."""
    rng = np.random.default_rng(seed)
    cols, rows = shape[0] // groups, int(np.prod(shape[1:]))
    parts = []
    for group in range(groups):
        used, _ = planted((rows, cols), (8, 2), 0.6, 0.8, seed + group)
        parts.append((rng.integers(1, 128, (rows, cols)) * rng.choice([-1, 1], (rows, cols)) * used).T)
    codes = np.concatenate(parts)
    codes[:, 0] = np.where(codes[:, 0] != 0, 127, 0)
    return floats(codes.reshape(shape).astype(np.int64))


@cache
def network() -> tuple[ir.Model, dict[str, Array]]:
    """Two residual adds, a concatenation and a grouped convolution: every tensor has several producers or readers."""
    constants = {
        "w1": weights((8, 4, 3, 3), 1), "w2": weights((8, 8, 3, 3), 2), "w3": weights((8, 8, 3, 3), 3),
        "w4": weights((8, 8, 1, 1), 4), "w5": weights((8, 8, 3, 3), 5, groups=2), "w6": weights((6, 128), 6).T.copy(),
        "b1": np.linspace(-1, 1, 8, dtype=np.float32), "axes": np.array([0, -1], dtype=np.int64),
    }  # fmt: skip
    same = {"pads": [1, 1, 1, 1]}
    nodes = [
        node("Conv", "x w1 b1", "a", "conv1", **same), node("Relu", "a", "ar", "relu1"),
        node("Conv", "ar w2", "b", "conv2", **same), node("Add", "b ar", "c", "add1"), node("Relu", "c", "cr", "relu2"),
        node("Conv", "cr w3", "d", "conv3", **same), node("Add", "d cr", "e", "add2"),
        node("Conv", "cr w4", "f", "conv4"), node("Concat", "e f", "g", "concat", axis=1),
        node("Conv", "g w5", "h", "conv5", group=2, strides=[2, 2], **same),
        node("Relu", "h", "hr", "relu3"), node("Reshape", "hr axes", "i", "flat"), node("MatMul", "i w6", "y", "last"),
    ]  # fmt: skip
    feeds = {"x": np.random.default_rng(9).standard_normal((3, 4, 8, 8)).astype(np.float32)}
    return model(nodes, feeds, constants), feeds


@cache
def built(chip: str) -> tuple[Build, Build]:
    """Without and with the pass."""
    net, feeds = network()
    made = target(*CHIPS[chip])
    plain, moved = (mcompiler.compile(net, made, calibration=feeds, reorder=reorder) for reorder in (False, True))
    return plain, moved


def out_of_order(layer: LayerData) -> bool:
    """Whether any group's rows do not ascend."""
    return any(rows != sorted(rows) for rows, _ in kept_of(layer.op))


@pytest.mark.parametrize("chip", CHIPS)
def test_residuals_and_concatenations_compute_what_they_did(chip: str, tmp_path: Path) -> None:
    (_, feeds), (plain, moved) = network(), built(chip)
    assert sum(out_of_order(layer) for layer in moved.layer_data) >= 3  # so that this tests something
    found = moved.verify(feeds, ideal=True)
    assert found.exact
    assert found.sqnr_db == plain.verify(feeds, ideal=True).sqnr_db
    assert moved.cost.crossbars < plain.cost.crossbars
    loaded = mcompiler.load(moved.save(tmp_path / "b"))
    again = loaded.verify(feeds)
    assert not again.failures
    assert again.exact == plain.verify(feeds).exact == (chip != "lossy")
    assert loaded.reorder == moved.reorder
    for before, after in zip(moved.layer_data, loaded.layer_data, strict=True):
        assert kept_of(before.op) == kept_of(after.op)
        assert before.op.matrix.reorder == after.op.matrix.reorder


def test_two_inputs_that_change_places_are_found_out(tmp_path: Path) -> None:
    root = built("pair")[1].save(tmp_path / "b")
    index, layer = next((i, one) for i, one in enumerate(built("pair")[1].layer_data) if out_of_order(one))

    def swapped(arrays: dict[str, npt.NDArray[np.int64]]) -> None:
        arrays["row_indices"][[0, -1]] = arrays["row_indices"][[-1, 0]]

    rewrite_npz(root, f"layers/{index:04d}_{layer.op.site.name}.npz", swapped)
    assert mcompiler.load(root).verify(network()[1]).failures


def test_it_runs_only_where_it_is_asked_for(tmp_path: Path) -> None:
    plain, moved = built("pair")
    assert plain.reorder is None
    assert "reorder" not in plain.options.passes
    assert moved.options.passes["reorder"] is True
    note = moved.reorder
    assert note is not None
    copies = array_shape(moved.target).arrays_per_tile
    assert note.tiles_after * copies == moved.cost.crossbars
    assert note.tiles_before * copies == plain.cost.crossbars
    for key in ("tiles_before", "tiles_after", "bound", "routing_bytes"):
        assert getattr(note, key) == sum(getattr(layer, key) for layer in note.layers)


def test_the_command_line_says_what_was_gained(tmp_path: Path) -> None:
    net, feeds = network()
    ir.save(net, tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=feeds["x"])
    keys = [f"--set={key}" for key in ("array.rows=8", "array.columns=16", "array.rows_active=8")]
    given = [str(tmp_path / "net.onnx"), "--calibration", str(tmp_path / "data.npz"), *keys, "--out"]
    asked = CliRunner().invoke(compile_command, [*given, str(tmp_path / "a"), "--reorder", "--json"])
    assert asked.exit_code == 0, asked.output
    found = json.loads(asked.stdout)["reorder"]
    recorded = built("pair")[1].reorder
    assert recorded is not None
    assert found == recorded.as_json()
    plain = CliRunner().invoke(compile_command, [*given, str(tmp_path / "b"), "--json"])
    assert "reorder" not in json.loads(plain.stdout)
    shown = CliRunner().invoke(compile_command, [*given, str(tmp_path / "c"), "--reorder"])
    share = 100 * (1 - found["tiles_after"] / found["tiles_before"])
    assert (
        f"reordered lines: {found['tiles_before']} array positions before, {found['tiles_after']} after, {share:.1f}% "
        f"fewer; no order needs fewer than {found['bound']}; their tables of addresses take "
        f"{found['routing_bytes']:,} B"
    ) in shown.output


# --- what it costs ---------------------------------------------------------------------------------------------------


def test_tables_of_addresses_are_charged() -> None:
    chip = target()
    codes = planted((40, 10), (8, 2), 0.6, 1.0, 0)[0].astype(np.int16)
    op, tiled = tiles_of(matrix_op(codes, vectors=7), chip)
    note, table, nothing = op.matrix.reorder, tiled.tables[0], LayerWork(0.0, 0.0, 0.0)
    assert note is not None
    assert (note.row_bits, note.col_bits) == (6, 4)  # of 40 inputs and 10 outputs
    assert note.routing_bytes == 40 * 6 // 8 + 10 * 4 // 8
    charged = layer_events(op, table, nothing, chip)
    free = layer_events(with_matrix(op, reorder=None), table, nothing, chip)
    added = charged.pop(Event.BUFFER_READ_BYTE) - free.pop(Event.BUFFER_READ_BYTE)
    assert added == pytest.approx(7 * (8 * len(table) * 6 + 10 * 4) / 8)
    assert charged == free


def test_an_array_of_reordered_rows_takes_whole_channels() -> None:
    chip = target()
    shape = array_shape(chip)
    conv = ConvShape((2, 2), (1, 1), (1, 1), (0, 0, 0, 0), 1)
    op = matrix_op(np.ones((16, 2)), shape=conv)  # four channels of four positions
    table = tile_table(tile_positions(np.array([16]), np.array([2]), shape), shape)
    assert input_shares(op, table).tolist() == [0.5, 0.5]
    note = tiles_of(matrix_op(planted((40, 10), (8, 2), 0.6, 1.0, 0)[0]), chip)[0].matrix.reorder
    rows = Kept(np.array([0, 4, 8, 1, 5, 9, 2, 6, 12, 13, 14, 15, 3, 7, 10, 11]), np.array([0, 16]))
    assert input_shares(with_matrix(op, rows=rows, reorder=note), table).tolist() == [0.75, 1.0]


def test_whole_channels_travel_to_where_reordered_rows_are() -> None:
    (net, feeds), seen = network(), dict[str, Any]()
    chip = target("hierarchy.arrays_per_core=1", "hierarchy.cores_per_tile=1")

    def see(name: str, program: Any, seconds: float) -> None:
        seen[name] = program

    mcompiler.compile(net, chip, calibration=feeds, reorder=True, observers=(see,))
    placed: PlacedProgram = seen["place"]
    matrix = placed.analog.tiled.matrix
    free_of = tuple(replace(each, reorder=None) for each in matrix.matrices)
    tiled = replace(placed.analog.tiled, matrix=replace(matrix, matrices=free_of))
    free = located(replace(placed, analog=replace(placed.analog, tiled=tiled)), chip).traffic()
    charged = located(placed, chip).traffic()
    assert charged.byte_hops > free.byte_hops
    for op, one, other in zip(matrix.layers, charged.layers, free.layers, strict=True):
        assert op.matrix.reorder is not None
        assert one.link_byte_hops >= other.link_byte_hops
        if not op.matrix.reorder.row_bits or not isinstance(op.site.shape, ConvShape) or op.site.shape.kernel == (1, 1):
            assert one == other
