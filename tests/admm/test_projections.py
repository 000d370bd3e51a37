"""Projections: feasible, idempotent, and nearest by brute force in numpy over every feasible support or assignment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcompiler.errors import CompileError

torch = pytest.importorskip("torch")

from mcompiler.admm import projections as pr  # noqa: E402
from tests.support.projections import keep_blocks, round_to_levels  # noqa: E402

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Project = Callable[[Any], Any]

PROPERTY = settings(max_examples=60, deadline=None)

# Whole numbers make ties; tiny and huge ones would lose a square to rounding.
VALUES = st.one_of(
    st.integers(-3, 3).map(float),
    st.floats(-4, 4, allow_subnormal=False, width=32),
    st.sampled_from([2.0**-100, -(2.0**-100), 2.0**-40, 2.0**100]),
)


@dataclass(frozen=True)
class Case:
    """A small matrix and the numbers of a constraint."""

    w: Array
    count: int
    rows: int
    columns: int


@st.composite
def cases(draw: st.DrawFn, groups: int = 2, height: int = 4, width: int = 3) -> Case:
    shape = (draw(st.integers(1, groups)), draw(st.integers(1, height)), draw(st.integers(1, width)))
    size = int(np.prod(shape))
    w = np.array(draw(st.lists(VALUES, min_size=size, max_size=size))).reshape(shape)
    small = st.integers(1, 3)
    return Case(w, draw(st.integers(1, 4)), draw(small), draw(small))


def masks(parts: list[Mask], count: int) -> Iterator[Mask]:
    """Unions of at most ``count`` parts."""
    for chosen in combinations(parts, min(count, len(parts))):
        yield np.logical_or.reduce(chosen)


def nearest(w: Array, supports: Iterable[Mask]) -> float:
    """Smallest squared distance to what a support allows."""
    return min(float(np.square(np.where(mask, 0, w)).sum()) for mask in supports)


def structures(w: Array, rows: int, columns: int) -> list[Mask]:
    """Masks of all blocks of rows x columns of each group, cut at the edges."""
    found = []
    groups, height, width = w.shape
    for g, k, n in product(range(groups), range(0, height, rows), range(0, width, columns)):
        mask = np.zeros(w.shape, dtype=bool)
        mask[g, k : k + rows, n : n + columns] = True
        found.append(mask)
    return found


def check(w: Array, project: Project, distance: float, feasible: Callable[[Array], bool], *, odd: bool = True) -> None:
    """Feasible, idempotent, nearest, a new tensor, scaling and signs carried through, in both precisions."""
    peak = float(np.square(w).max())
    result = project(torch.tensor(w))
    out = result.numpy()
    assert feasible(out)
    assert np.square(out - w).sum() == pytest.approx(distance, rel=1e-9, abs=1e-12 * peak)
    assert torch.equal(project(result), result)
    assert torch.equal(project(torch.tensor(w) * 4), result * 4)
    if odd:
        assert torch.equal(project(-torch.tensor(w)), -result)
    before = torch.tensor(w, dtype=torch.float32)
    single = project(before)
    assert single.dtype == torch.float32
    assert single is not before
    assert feasible(single.numpy())
    assert np.square(single.numpy().astype(np.float64) - w).sum() == pytest.approx(distance, rel=1e-4, abs=1e-6 * peak)
    assert torch.equal(project(single), single)


@PROPERTY
@given(cases())
def test_filters(case: Case) -> None:
    w, count = case.w, case.count
    parts = structures(w, w.shape[1], 1)
    check(
        w,
        lambda x: pr.keep_filters(x, count),
        nearest(w, masks(parts, count)),
        lambda out: (out != 0).any(axis=1).sum() <= count,
    )


@PROPERTY
@given(cases())
def test_shapes(case: Case) -> None:
    w, count = case.w, case.count
    parts = structures(w, 1, w.shape[2])
    check(
        w,
        lambda x: pr.keep_shapes(x, count),
        nearest(w, masks(parts, count)),
        lambda out: (out != 0).any(axis=2).sum() <= count,
    )


@PROPERTY
@given(cases(), st.integers(1, 3))
def test_channels(case: Case, positions: int) -> None:
    w, count = np.repeat(case.w, positions, axis=1), case.count
    w = w * (1 + np.arange(w.shape[1]) % positions)[:, None]
    parts = structures(w, positions, w.shape[2])

    def channels(out: Array) -> int:
        return int((out != 0).any(axis=2).reshape(len(out), -1, positions).any(axis=2).sum())

    check(
        w,
        lambda x: pr.keep_channels(x, count, positions),
        nearest(w, masks(parts, count)),
        lambda out: channels(out) <= count,
    )


@PROPERTY
@given(cases())
def test_blocks(case: Case) -> None:
    w, count = case.w, case.count
    parts = structures(w, case.rows, case.columns)
    check(
        w,
        lambda x: keep_blocks(x, count, case.rows, case.columns),
        nearest(w, masks(parts, count)),
        lambda out: sum(bool(out[part].any()) for part in parts) <= count,
    )


def by_column(w: Array, rows: int, best: Callable[[Array], float]) -> float:
    """Sum of ``best`` over the columns of each row block."""
    groups, height, width = w.shape
    return sum(best(w[g, k : k + rows, n]) for g, k, n in product(range(groups), range(0, height, rows), range(width)))


def most_nonzeros(out: Array, rows: int) -> int:
    return max(int((out[:, k : k + rows] != 0).sum(axis=1).max()) for k in range(0, out.shape[1], rows))


def least_loss(column: Array, feasible: Callable[[Array], bool]) -> float:
    """By trying every support of a short column."""
    tried = (np.where(np.array(kept), column, 0) for kept in product([False, True], repeat=len(column)))
    return min(float(np.square(column - part).sum()) for part in tried if feasible(part))


@PROPERTY
@given(cases(height=6))
def test_column_nonzeros(case: Case) -> None:
    w, count, rows = case.w, case.count, case.rows + 1
    check(
        w,
        lambda x: pr.keep_column_nonzeros(x, count, rows),
        by_column(w, rows, lambda column: least_loss(column, lambda part: (part != 0).sum() <= count)),
        lambda out: most_nonzeros(out, rows) <= count,
    )


def cut(height: int, rows: int, fragment: int) -> list[tuple[int, int]]:
    """Fragments of blocks of ``rows``."""
    return [
        (start, min(fragment, block + rows - start, height - start))
        for block in range(0, height, rows)
        for start in range(block, min(block + rows, height), fragment)
    ]


def single_signed(out: Array, fragments: list[tuple[int, int]]) -> bool:
    return not any(
        ((out[:, start : start + length] > 0).any(axis=1) & (out[:, start : start + length] < 0).any(axis=1)).any()
        for start, length in fragments
    )


@PROPERTY
@given(cases(height=7))
def test_one_sign(case: Case) -> None:
    w, fragments = case.w, cut(case.w.shape[1], case.rows + case.columns, case.rows)

    def best(column: Array) -> float:
        return min(float(np.square(np.clip(column, 0, None)).sum()), float(np.square(np.clip(column, None, 0)).sum()))

    distance = sum(
        best(w[g, start : start + length, n])
        for (start, length), g, n in product(fragments, range(len(w)), range(w.shape[2]))
    )
    check(
        w,
        lambda x: pr.keep_one_sign(x, fragments),
        distance,
        lambda out: single_signed(out, fragments),
        odd=False,  # a tie keeps the positive
    )


def test_one_sign_leaves_rows_outside_of_the_fragments() -> None:
    w = torch.tensor([[[1.0], [-2.0], [3.0], [-4.0]]])
    assert pr.keep_one_sign(w, [(1, 2)]).flatten().tolist() == [1.0, 0.0, 3.0, -4.0]
    assert torch.equal(pr.keep_one_sign(w, []), w)


@settings(max_examples=120, deadline=None)
@given(cases(groups=1, height=8, width=2), st.integers(1, 3))
def test_one_sign_and_column_nonzeros_together(case: Case, fragment: int) -> None:
    w, count, rows = case.w, case.count, min(case.rows + case.columns, 6)
    fragments = cut(w.shape[1], rows, fragment)

    def feasible(part: Array) -> bool:
        inside = [(start, length) for start, length in cut(len(part), rows, fragment)]
        return int((part != 0).sum()) <= count and single_signed(part[None, :, None], inside)

    check(
        w,
        lambda x: pr.keep_one_sign_nonzeros(x, count, rows, fragment),
        by_column(w, rows, lambda column: least_loss(column, feasible)),
        lambda out: most_nonzeros(out, rows) <= count and single_signed(out, fragments),
        odd=False,
    )


def test_a_tie_of_signs_keeps_the_positive() -> None:
    w = torch.tensor([-2.0, 2.0])[None, :, None]
    assert pr.keep_one_sign(w, [(0, 2)]).flatten().tolist() == [0, 2]
    assert pr.keep_one_sign_nonzeros(w, 2, 2, 2).flatten().tolist() == [0, 2]


def test_weights_too_small_to_add_up_stay_where_they_may() -> None:
    w = torch.tensor([1.0, 1e-12, 0.0, -1e-12])[None, :, None]
    assert torch.equal(pr.keep_one_sign_nonzeros(w, 3, 4, 1), w)
    assert torch.equal(pr.keep_one_sign(w, [(0, 3), (3, 1)]), w)
    assert torch.equal(pr.keep_shapes(w, 3), w)


def test_together_is_nearer_than_one_after_the_other() -> None:
    w = torch.tensor([3.0, -2.0, -2.0, -2.0])[None, :, None]
    after = pr.keep_column_nonzeros(pr.keep_one_sign(w, [(0, 4)]), 1, 4)
    assert after.flatten().tolist() == [0, -2, 0, 0]
    assert pr.keep_one_sign_nonzeros(w, 1, 4, 4).flatten().tolist() == [3, 0, 0, 0]


# --- levels ----------------------------------------------------------------------------------------------------------

LEVELS = st.lists(st.integers(-6, 6), min_size=1, max_size=6, unique=True).map(sorted)


@PROPERTY
@given(cases(), LEVELS, st.sampled_from([0.0, 0.25, 0.3, 2.0]))
def test_levels(case: Case, values: list[int], step: float) -> None:
    w = np.clip(case.w, -100, 100)
    scale = step * (1 + np.arange(w.shape[0] * w.shape[2]).reshape(w.shape[0], w.shape[2]))
    grid = torch.tensor([float(value) for value in values])

    def project(x: Any) -> Any:
        return round_to_levels(x, grid, torch.tensor(scale))

    allowed = scale[:, None, :, None] * np.array(values)  # [G, 1, N, L]
    result = project(torch.tensor(w))
    out = result.numpy()
    assert np.isclose(out[..., None], allowed, atol=0).any(axis=-1).all()
    distance = np.abs(w[..., None] - allowed).min(axis=-1)
    assert np.abs(out - w) == pytest.approx(distance, rel=1e-9, abs=1e-12)
    assert torch.equal(project(result), result)
    assert torch.equal(project(result.float()), project(torch.tensor(w, dtype=torch.float32))) or step == 0.3
    twice = round_to_levels(torch.tensor(w) * 4, grid, torch.tensor(scale) * 4)
    assert torch.equal(twice, result * 4)


def test_half_way_between_levels() -> None:
    w = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])[None, :, None]
    one = torch.ones(1, 1)
    whole = torch.arange(-3.0, 4)
    assert round_to_levels(w, whole, one).flatten().tolist() == [-2, -1, 0, 0, 1, 2]
    without_zero = torch.tensor([-2.0, -1.0, 1.0, 2.0])
    assert round_to_levels(torch.zeros(1, 1, 1), without_zero, one).item() == -1
    assert pr.find_nearest_levels(w, whole, one).flatten().tolist() == [1, 2, 3, 3, 4, 5]


def test_bit_line_of_scale_zero_becomes_zero() -> None:
    w = torch.ones(1, 2, 2)
    out = round_to_levels(w, torch.tensor([-1.0, 1.0]), torch.tensor([[0.0, 1.0]]))
    assert out.tolist() == [[[0, 1], [0, 1]]]


@pytest.mark.parametrize("levels", [[1.0, 1.0], [1.0, 0.0], []])
def test_levels_that_are_not_increasing(levels: list[float]) -> None:
    with pytest.raises(CompileError, match="levels must be a list of strictly increasing numbers"):
        round_to_levels(torch.ones(1, 1, 1), torch.tensor(levels), torch.ones(1, 1))


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf")])
def test_scale_that_is_no_scale(scale: float) -> None:
    with pytest.raises(CompileError, match="scale of a bit line is negative or not finite"):
        round_to_levels(torch.ones(1, 1, 1), torch.ones(1), torch.tensor([[scale]]))


# --- all of them -----------------------------------------------------------------------------------------------------

ALL: dict[str, Project] = {
    "filters": lambda w: pr.keep_filters(w, 1),
    "channels": lambda w: pr.keep_channels(w, 1, 2),
    "shapes": lambda w: pr.keep_shapes(w, 1),
    "blocks": lambda w: keep_blocks(w, 1, 2, 1),
    "column_nonzeros": lambda w: pr.keep_column_nonzeros(w, 1, 2),
    "one_sign": lambda w: pr.keep_one_sign(w, [(0, 2), (2, 2)]),
    "keep_one_sign_nonzeros": lambda w: pr.keep_one_sign_nonzeros(w, 1, 4, 2),
    "round_to_levels": lambda w: round_to_levels(w, torch.arange(-1.0, 2), torch.ones(w.shape[0], w.shape[2])),
}
KEPT_OF_EQUALS: dict[str, list[list[float]]] = {
    "filters": [[1, 0], [1, 0], [1, 0], [1, 0]],
    "channels": [[1, 1], [1, 1], [0, 0], [0, 0]],
    "shapes": [[1, 1], [0, 0], [0, 0], [0, 0]],
    "blocks": [[1, 0], [1, 0], [0, 0], [0, 0]],
    "column_nonzeros": [[1, 1], [0, 0], [1, 1], [0, 0]],
    "one_sign": [[1, 1], [1, 1], [1, 1], [1, 1]],
    "keep_one_sign_nonzeros": [[1, 1], [0, 0], [0, 0], [0, 0]],
    "round_to_levels": [[1, 1], [1, 1], [1, 1], [1, 1]],
}


@pytest.mark.parametrize("name", ALL)
def test_of_equals_the_lower_index_is_kept(name: str) -> None:
    assert ALL[name](torch.ones(1, 4, 2))[0].tolist() == KEPT_OF_EQUALS[name]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(name: str, bad: float) -> None:
    w = torch.ones(1, 4, 2)
    w[0, 1, 1] = bad
    with pytest.raises(CompileError, match="weights hold NaN or infinite values"):
        ALL[name](w)


@pytest.mark.parametrize("name", ALL)
def test_zeros_stay_and_no_zero_is_negative(name: str) -> None:
    assert torch.equal(ALL[name](torch.zeros(2, 4, 2)), torch.zeros(2, 4, 2))
    if name != "round_to_levels":
        out = ALL[name](-torch.ones(1, 4, 2))
        assert not torch.signbit(out[out == 0]).any()


@pytest.mark.parametrize("name", ALL)
def test_strided_and_half_precision_weights(name: str) -> None:
    w = torch.randn(1, 2, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ALL[name](w.transpose(1, 2)), ALL[name](w.transpose(1, 2).contiguous()))
    half = w.transpose(1, 2).bfloat16()
    assert torch.equal(ALL[name](half), ALL[name](half.float()).bfloat16())


@pytest.mark.parametrize(
    ("project", "key"),
    [
        (lambda w: pr.keep_filters(w, 0), "filters"),
        (lambda w: pr.keep_channels(w, 0, 1), "channels"),
        (lambda w: pr.keep_shapes(w, -1), "shapes"),
        (lambda w: pr.keep_column_nonzeros(w, 0, 2), "column_nonzeros"),
        (lambda w: pr.keep_one_sign_nonzeros(w, 0, 2, 2), "column_nonzeros"),
    ],
)
def test_count_that_leaves_nothing(project: Project, key: str) -> None:
    with pytest.raises(CompileError, match=rf"^{key} = .* would leave an empty layer; give at least 1$"):
        project(torch.ones(1, 2, 2))


def test_channels_that_do_not_divide_the_rows() -> None:
    with pytest.raises(ValueError, match="5 rows are no whole number of channels of 2 rows"):
        pr.keep_channels(torch.ones(1, 5, 1), 1, 2)
