"""Structures: checked against the target, and projected onto feasibly for the cut that the compiler makes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mcompiler.errors import CompileError
from mcompiler.geometry import (
    ArrayShape,
    array_shape,
    count_tiles,
    group_fragments,
    tile_blocks,
    tile_positions,
    tile_table,
)
from mcompiler.geometry import kept_of as kept_mask
from mcompiler.target import Target
from tests.support.programs import OFFSET, matrix_op, matrix_program, target, tiled
from tests.support.shapes import array

torch = pytest.importorskip("torch")

from mcompiler.admm import projections as pr  # noqa: E402
from mcompiler.admm.constraints import check_structure, project_structure  # noqa: E402
from mcompiler.admm.lowering import CompressibleLayer  # noqa: E402
from mcompiler.admm.spec import Structure  # noqa: E402
from tests.support.projections import keep_blocks, round_to_levels  # noqa: E402

Array = npt.NDArray[np.float64]

PROPERTY = settings(max_examples=150, deadline=None)
SMALL = array(4, 2)
SHAPES = st.builds(
    lambda rows, columns, active: replace(SMALL, rows=rows, columns=columns, rows_active=min(active, rows)),
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(1, 6),
)
COUNT = st.none() | st.integers(1, 6)
STRUCTURES = st.builds(
    Structure,
    filters=COUNT,
    channels=COUNT,
    shapes=COUNT,
    blocks=COUNT,
    column_nonzeros=COUNT,
    one_sign=st.booleans(),
)


@st.composite
def matrices(draw: st.DrawFn, groups: int = 4, zeros: bool = True, most: int = 4) -> tuple[Any, int]:
    """A matrix [G, K, N] of whole numbers and small noise, and its kernel positions."""
    positions = draw(st.integers(1, 3))
    shape = (draw(st.integers(1, groups)), positions * draw(st.integers(1, most)), draw(st.integers(1, most + 2)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    w = rng.integers(-3, 4, shape).astype(np.float64)
    if draw(st.booleans()):
        w += rng.normal(size=shape)
    if not zeros:
        w[w == 0] = 0.5
    return torch.tensor(w), positions


# --- feasible for the compiler ---------------------------------------------------------------------------------------


def faults(w: Array, structure: Structure, shape: ArrayShape, positions: int) -> list[str]:
    """Which parts of a structure a matrix breaks, in the compiler's cut."""
    used = w != 0
    found = []
    if structure.filters is not None and used.any(axis=1).sum() > structure.filters:
        found.append("filters")
    if structure.shapes is not None and used.any(axis=2).sum() > structure.shapes:
        found.append("shapes")
    channels = used.any(axis=2).reshape(len(w), -1, positions).any(axis=2)
    if structure.channels is not None and channels.sum() > structure.channels:
        found.append("channels")
    if structure.blocks is not None and count_tiles(used, shape) > structure.blocks:
        found.append("blocks")
    rows, cols = kept_mask(used.any(axis=2)), kept_mask(used.any(axis=1))
    heads = tile_table(tile_positions(rows.counts(), cols.counts(), shape), shape)
    parts = [block for tile in heads for block in tile_blocks(tile, rows, cols)]
    if structure.column_nonzeros is not None:
        most = max((int(used[part.group][np.ix_(part.rows, part.cols)].sum(axis=0).max()) for part in parts), default=0)
        if most > structure.column_nonzeros:
            found.append("column_nonzeros")
    if structure.one_sign:
        for group, cuts in enumerate(group_fragments(rows.counts(), cols.counts(), shape)):
            for start, length in cuts:
                fragment = w[group][rows.of(group)[start : start + length]]
                if ((fragment > 0).any(axis=0) & (fragment < 0).any(axis=0)).any():
                    found.append("one_sign")
    return found


@PROPERTY
@given(matrices() | matrices(groups=6, most=1), STRUCTURES, SHAPES)
def test_combination_is_feasible_and_idempotent(case: tuple[Any, int], structure: Structure, shape: ArrayShape) -> None:
    w, positions = case
    before = w.clone()
    out = project_structure(w, structure, shape, positions)
    assert torch.equal(w, before)
    assert out.shape == w.shape
    assert out.data_ptr() != w.data_ptr()
    assert ((out == w) | (out == 0)).all()
    assert faults(out.numpy(), structure, shape, positions) == []
    assert torch.equal(project_structure(out, structure, shape, positions), out)
    if w.any():
        assert out.any(), "a layer must not vanish"


@PROPERTY
@given(matrices(), STRUCTURES, SHAPES, st.integers(0, 2**32 - 1))
def test_feasible_matrices_stay_as_they_are(
    case: tuple[Any, int], structure: Structure, shape: ArrayShape, seed: int
) -> None:
    w, positions = case
    w = w * torch.tensor(np.random.default_rng(seed).integers(0, 2, w.shape))
    assume(not faults(w.numpy(), structure, shape, positions))
    assert torch.equal(project_structure(w, structure, shape, positions), w)


@PROPERTY
@given(matrices(), STRUCTURES, SHAPES)
def test_rounding_to_levels_and_projecting_again_keeps_both(
    case: tuple[Any, int], structure: Structure, shape: ArrayShape
) -> None:
    w, positions = case
    levels, scale = torch.arange(-2.0, 3), torch.full((w.shape[0], w.shape[2]), 1.3, dtype=w.dtype)
    rounded = round_to_levels(project_structure(w, structure, shape, positions), levels, scale)
    out = project_structure(rounded, structure, shape, positions)
    assert faults(out.numpy(), structure, shape, positions) == []
    assert torch.equal(round_to_levels(out, levels, scale), out)


# --- counts that others can redo -------------------------------------------------------------------------------------


def tiles_by_hand(w: Array, rows: int, columns: int) -> int:
    """Tiles of one group, with nothing of the geometry."""
    kept = w[(w != 0).any(axis=1)][:, (w != 0).any(axis=0)]
    return sum(
        bool(kept[k : k + rows, n : n + columns].any())
        for k in range(0, kept.shape[0], rows)
        for n in range(0, kept.shape[1], columns)
    )


@PROPERTY
@given(matrices(groups=1), STRUCTURES, SHAPES)
def test_no_more_tiles_than_the_structure_allows(
    case: tuple[Any, int], structure: Structure, shape: ArrayShape
) -> None:
    w, positions = case
    out = project_structure(w, structure, shape, positions).numpy()
    many = 10**6
    rows = min(w.shape[1], structure.shapes or many, (structure.channels or many) * positions)
    cols = min(w.shape[2], structure.filters or many)
    allowed = min(-(-rows // shape.rows) * -(-cols // shape.tile_columns), structure.blocks or many)
    count = tiles_by_hand(out[0], shape.rows, shape.tile_columns)
    assert count <= allowed
    assert count == count_tiles(out != 0, shape)


@settings(max_examples=40, deadline=None)
@given(matrices(), STRUCTURES, st.integers(1, 6), st.integers(1, 4))
def test_the_compiler_counts_the_same(case: tuple[Any, int], structure: Structure, rows: int, columns: int) -> None:
    chip = target(f"array.rows={rows}", f"array.rows_active={rows}", f"array.columns={8 * columns}")
    shape = array_shape(chip)
    w, positions = case
    w = w.round()
    out = project_structure(w, structure, shape, positions).numpy()
    table = tiled(matrix_program([matrix_op(out.astype(np.int16))]), chip).tables[0]
    assert len(table) == count_tiles(out != 0, shape) * shape.arrays_per_tile
    if structure.blocks is not None:
        assert len(table) <= structure.blocks * shape.arrays_per_tile


# --- one constraint is one projection --------------------------------------------------------------------------------


@PROPERTY
@given(matrices(zeros=False), st.integers(1, 8), SHAPES)
def test_one_constraint_is_its_projection(case: tuple[Any, int], count: int, shape: ArrayShape) -> None:
    w, positions = case

    def project(structure: Structure) -> Any:
        return project_structure(w, structure, shape, positions)

    assert torch.equal(project(Structure()), w)
    assert torch.equal(project(Structure(filters=count)), pr.keep_filters(w, count))
    assert torch.equal(project(Structure(channels=count)), pr.keep_channels(w, count, positions))
    assert torch.equal(project(Structure(shapes=count)), pr.keep_shapes(w, count))


@PROPERTY
@given(matrices(groups=1, zeros=False), st.integers(1, 8), SHAPES)
def test_one_constraint_inside_arrays_is_its_projection(case: tuple[Any, int], count: int, shape: ArrayShape) -> None:
    w, _ = case
    height = w.shape[1]
    cuts = [
        (start, min(shape.rows_active, height - start, tile + shape.rows - start))
        for tile in range(0, height, shape.rows)
        for start in range(tile, min(tile + shape.rows, height), shape.rows_active)
    ]
    blocks = keep_blocks(w, count, shape.rows, shape.tile_columns)
    assert torch.equal(project_structure(w, Structure(blocks=count), shape, 1), blocks)
    expected = {
        Structure(column_nonzeros=count): pr.keep_column_nonzeros(w, count, shape.rows),
        Structure(one_sign=True): pr.keep_one_sign(w, cuts),
        Structure(column_nonzeros=count, one_sign=True): pr.keep_one_sign_nonzeros(
            w, count, shape.rows, shape.rows_active
        ),
    }
    for structure, single in expected.items():
        if (single != 0).any(dim=2).all():  # where no row is emptied, the cut stays
            assert torch.equal(project_structure(w, structure, shape, 1), single)


# --- cuts worth seeing -----------------------------------------------------------------------------------------------


def test_blocks_are_cut_after_compaction() -> None:
    w = torch.ones(1, 6, 4)
    w[0, :2] = 0  # two rows that the compiler drops: tiles hold rows 2..5
    w[0, 2:, 2:] = 2
    out = project_structure(w, Structure(blocks=1), SMALL, 1)
    assert out[0].tolist() == [[0] * 4] * 2 + [[0, 0, 2, 2]] * 4


def test_rows_that_a_block_leaves_empty_do_not_make_another_block() -> None:
    w = torch.zeros(1, 4, 4)
    w[0, 0, :2] = w[0, 1, 2:] = w[0, 2, 2:] = 1  # row 0 left, row 1 right, row 2 right, row 3 left
    w[0, 3, :2] = 3
    w[0, 1, :2] = 0.1
    shape = replace(SMALL, rows=2, rows_active=2)
    out = project_structure(w, Structure(blocks=2), shape, 1)
    assert count_tiles((out != 0).numpy(), shape) <= 2


def test_small_groups_that_share_an_array_are_one_block() -> None:
    w = torch.ones(6, 2, 1)  # two groups to an array of 4 x 2
    w[2:4] = 2
    out = project_structure(w, Structure(blocks=1), SMALL, 1)
    assert out.flatten(1).sum(dim=1).tolist() == [0, 0, 4, 4, 0, 0]


def test_fragments_of_groups_that_share_an_array_are_those_of_the_array() -> None:
    shape = replace(SMALL, rows=6, columns=2, rows_active=2)
    w = torch.tensor([[[1.0], [1.0], [1.0]], [[2.0], [-1.0], [-3.0]]])  # the second begins in line 3: cut after one row
    assert group_fragments(np.array([3, 3]), np.array([1, 1]), shape)[1] == [(0, 1), (1, 2)]
    assert torch.equal(project_structure(w, Structure(one_sign=True), shape, 1), w)


def test_few_nonzeros_in_a_narrow_layer_close_up() -> None:
    w = torch.arange(1.0, 9)[None, :, None]  # one column, two arrays of 4 rows
    out = project_structure(w, Structure(column_nonzeros=1), SMALL, 1)
    assert out.flatten().tolist() == [0] * 7 + [8]  # rows 4 and 8 meet in one array


def test_a_layer_of_zeros_stays_one() -> None:
    w = torch.zeros(2, 3, 4)
    assert torch.equal(
        project_structure(
            w, Structure(filters=1, channels=1, shapes=1, blocks=1, column_nonzeros=1, one_sign=True), SMALL, 1
        ),
        w,
    )


def test_a_layer_with_weights_that_are_not_finite() -> None:
    with pytest.raises(CompileError, match="weights hold NaN or infinite values"):
        project_structure(torch.full((1, 4, 4), torch.nan), Structure(one_sign=True), SMALL, 1)


# --- the target ------------------------------------------------------------------------------------------------------


def encoded(encoding: str) -> Target:
    chip = target()
    return chip.model_copy(update={"encoding": chip.encoding.model_copy(update={"weights": encoding})})


def check(structure: Structure, chip: Target) -> None:
    check_structure(CompressibleLayer("conv1", torch.nn.Conv2d(1, 4, 3)), structure, chip)


def test_structures_that_a_target_can_hold() -> None:
    check(Structure(filters=1000, channels=1000, shapes=1000, blocks=1000), target(*OFFSET))
    for encoding in ("differential", "polarised"):
        check(Structure(column_nonzeros=128), encoded(encoding))
    check(Structure(one_sign=True), encoded("polarised"))


def test_column_nonzeros_with_offset_encoding() -> None:
    with pytest.raises(
        CompileError,
        match=r"^node 'conv1': column_nonzeros needs the encoding 'differential' or 'polarised', and target "
        r"'generic_128' has 'offset': an offset zero is not a zero cell; remove column_nonzeros or change "
        r"encoding\.weights$",
    ):
        check(Structure(column_nonzeros=4), target(*OFFSET))


@pytest.mark.parametrize("encoding", ["differential", "offset"])
def test_one_sign_without_polarised_encoding(encoding: str) -> None:
    with pytest.raises(
        CompileError, match=f"^node 'conv1': one_sign needs the encoding 'polarised', .* has '{encoding}', .*; remove"
    ):
        check(Structure(one_sign=True), encoded(encoding))


def test_more_column_nonzeros_than_rows() -> None:
    with pytest.raises(CompileError, match=r"^node 'conv1': column_nonzeros = 129, .* has 128 cells; give at most 128"):
        check(Structure(column_nonzeros=129), target())
