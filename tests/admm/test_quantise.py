"""Levels and codes of weights, against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcompiler.errors import CompileError
from mcompiler.geometry import array_shape
from mcompiler.target import Target, load_target

torch = pytest.importorskip("torch")

from mcompiler.admm.quantise import (  # noqa: E402
    Levels,
    LevelSet,
    MappedWeight,
    fit_scales,
    get_weight_levels,
)

PROPERTY = settings(max_examples=60, deadline=None)

MEANS = ("device.level_means=[0, 1300, 2800, 4096]", "encoding.slices=1")
UNFORMED = ("encoding.partner=unformed", "encoding.slices=1")


def chip(base: str, *overrides: str) -> Target:
    return load_target(base, overrides)


# --- level sets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "overrides", "top"),
    [
        ("generic_128", (), 127),  # 8 bits, a pair holds up to 255
        ("generic_128", ("precision.weights=5",), 15),
        ("generic_128", ("precision.weights=9",), 255),
        ("generic_128", ("precision.weights=5", "encoding.slices=2"), 15),
        ("yuan2019", (), 15),
        ("isaac", ("precision.weights=8",), 127),  # offset: -128..127, and the grid is symmetric
        ("isaac", ("precision.weights=6",), 31),
    ],
)
def test_the_grid_is_symmetric_and_within_bits_and_cells(base: str, overrides: tuple[str, ...], top: int) -> None:
    levels = get_weight_levels(chip(base, *overrides), LevelSet.GRID)
    assert levels == Levels(tuple(range(-top, top + 1)), True)
    assert levels is not None
    assert levels.top == top


def test_a_layer_has_its_own_precision() -> None:
    target = chip("generic_128", "precision.layers.conv1.weights=4", "precision.layers.conv1.inputs=6")
    tops = [levels.top for name in ("conv1", "conv2", "") if (levels := get_weight_levels(target, LevelSet.GRID, name))]
    assert tops == [7, 127, 127]
    assert [target.layer_bits(name)[1] for name in ("conv1", "conv2", "")] == [6, 8, 8]


def test_levels_from_a_table() -> None:
    measured = get_weight_levels(chip("generic_128", *MEANS), LevelSet.MEASURED)
    assert measured == Levels((-4096, -2800, -1300, 0, 1300, 2800, 4096), False)
    target = chip("generic_128", *UNFORMED)
    pedestal, step = 4096 / 99, 4096 / 3  # g_max is 100 times g_min, four levels
    formed = [round(pedestal + level * step) for level in range(4)]
    without = get_weight_levels(target, LevelSet.WITHOUT_ZERO)
    assert without == Levels((*(-code for code in reversed(formed)), *formed), False)


def test_float_weights_have_no_levels() -> None:
    assert get_weight_levels(chip("generic_128"), LevelSet.NONE) is None


@pytest.mark.parametrize(
    ("overrides", "kind", "message"),
    [
        (MEANS, LevelSet.GRID, r"has no equidistant grid with zero; set quantisation\.levels = 'measured'"),
        (UNFORMED, LevelSet.GRID, r"has no equidistant grid with zero; set quantisation\.levels = 'without_zero'"),
        (
            (),
            LevelSet.MEASURED,
            r"target 'generic_128' has no device\.level_means, which .* needs",
        ),
        (
            (),
            LevelSet.WITHOUT_ZERO,
            r"has no encoding\.partner = 'unformed', which .* needs; give it, or choose 'grid'",
        ),
        (MEANS, LevelSet.WITHOUT_ZERO, r"has no encoding\.partner = 'unformed', .* choose 'measured'"),
    ],
)
def test_a_target_without_the_level_set(overrides: tuple[str, ...], kind: LevelSet, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        get_weight_levels(chip("generic_128", *overrides), kind)


# --- scales ----------------------------------------------------------------------------------------------------------

LEVELS = st.sampled_from(
    [
        Levels(tuple(range(-1, 2)), True),
        Levels(tuple(range(-15, 16)), True),
        Levels((-4096, -2800, -1300, 0, 1300, 2800, 4096), False),
        Levels((-4, -3, -1, 1, 3, 4), False),
    ]
)
MATRICES = st.builds(
    lambda seed, g, k, n, size: torch.randn(g, k, n, generator=torch.Generator().manual_seed(seed)) * size,
    st.integers(0, 1 << 20),
    st.integers(1, 2),
    st.integers(1, 9),
    st.integers(1, 4),
    st.sampled_from([1e-20, 1.0, 1e9]),
)


def error(matrix: Any, levels: Levels, scale: Any) -> npt.NDArray[np.float64]:
    """Squared error of each bit line with the nearest codes, in float64."""
    w, s = matrix.double().numpy(), scale.double().numpy()
    values = np.array(levels.codes)[:, None, None, None] * s[None, :, None]
    return np.square(values - w).min(axis=0).sum(axis=1)  # type: ignore[no-any-return]


def find_least_error(line: npt.NDArray[np.float64], codes: npt.NDArray[np.float64]) -> float:
    """Least squared error over all scales: every interval between two changes of a code is tried."""
    weights = np.abs(line[line != 0])
    middles = np.abs((codes[1:] + codes[:-1]) / 2)
    if not len(weights):
        return 0.0
    points = np.unique(weights[:, None] / middles[None, middles > 0])
    between = np.concatenate([points[:1] / 2, (points[1:] + points[:-1]) / 2, points[-1:] * 2])
    chosen = codes[np.abs(weights / between[:, None] - codes[:, None, None]).argmin(axis=0)]  # [scales, K]
    squares = np.square(chosen).sum(axis=1)
    gain = np.square(chosen @ weights) / np.where(squares > 0, squares, np.inf)
    return float(np.square(weights).sum() - gain.max())


@PROPERTY
@given(MATRICES, LEVELS)
def test_the_fitted_scale_has_the_least_error_of_all_scales(matrix: Any, levels: Levels) -> None:
    scale = fit_scales(matrix, levels)
    assert bool((scale > 0).all())
    energy = np.square(matrix.double().numpy()).sum(axis=1)
    codes = np.array(levels.codes, dtype=np.float64)
    least = np.apply_along_axis(find_least_error, 1, matrix.double().numpy(), codes)
    found = error(matrix, levels, scale)
    assert (found <= least + 1e-6 * energy).all()
    assert (found >= least - 1e-9 * energy).all(), "the exhaustive search must not be worse"


@PROPERTY
@given(MATRICES, LEVELS, st.randoms(use_true_random=False))
def test_the_fitted_scale_goes_with_its_bit_line(matrix: Any, levels: Levels, random: Any) -> None:
    order = list(range(matrix.shape[2]))
    random.shuffle(order)
    assert torch.equal(fit_scales(matrix[:, :, order].contiguous(), levels), fit_scales(matrix, levels)[:, order])


@PROPERTY
@given(st.integers(0, 1 << 20), LEVELS, st.sampled_from([2.0**-20, 0.25, 1.0, 2.0**9]))
def test_weights_on_levels_keep_codes_and_scale(seed: int, levels: Levels, scale: float) -> None:
    codes = np.random.default_rng(seed).choice(levels.codes, (1, 6, 3))
    codes[:, 0] = levels.top
    matrix = torch.tensor(codes * scale, dtype=torch.float32)
    found = fit_scales(matrix, levels)
    assert torch.allclose(found, torch.full_like(found, scale), rtol=1e-6)
    np.testing.assert_array_equal(levels.nearest(matrix, found).numpy(), codes)


def test_dead_and_vanishing_bit_lines_have_a_scale_that_divides() -> None:
    matrix = torch.tensor([[[0.0, 1e-44, 1.0], [0.0, 0.0, -3.0]]])
    levels = Levels(tuple(range(-127, 128)), True)
    scale = fit_scales(matrix, levels)
    assert float(scale[0, 0]) == 1
    codes = levels.nearest(matrix, scale)
    assert bool(torch.isfinite(codes).all())
    assert codes[0, :, 0].tolist() == [0, 0]


@PROPERTY
@given(MATRICES, LEVELS)
def test_nearest_codes_are_the_nearest_of_the_set(matrix: Any, levels: Levels) -> None:
    scale = fit_scales(matrix, levels)
    codes = levels.nearest(matrix, scale).double().numpy()
    assert set(codes.ravel().tolist()) <= {*levels.codes}
    real = matrix.double().numpy() / scale.double().numpy()[:, None]
    distance = np.abs(np.array(levels.codes)[:, None, None, None] - real).min(axis=0)
    np.testing.assert_allclose(np.abs(codes - real), distance, atol=1e-4 * levels.top)


def test_a_pruned_weight_has_code_zero_even_where_that_is_no_level() -> None:
    levels = Levels((-4, -3, -1, 1, 3, 4), False)
    matrix = torch.tensor([[[0.0], [0.1], [-0.1], [4.0]]])
    assert levels.nearest(matrix, torch.ones(1, 1))[0, :, 0].tolist() == [0, 1, -1, 4]
    lone = torch.tensor([[[0.0], [0.0], [0.0], [2.0]]])
    assert float(fit_scales(lone, levels)[0, 0]) in (0.5, pytest.approx(2 / 3), 2.0)  # pruned weights do not count


# --- the parametrisation ---------------------------------------------------------------------------------------------


def mapped(
    shape: tuple[int, ...], levels: Levels | None, *, groups: int = 1, seed: int = 0
) -> tuple[Any, MappedWeight]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator)
    mask = torch.rand(shape, generator=generator) < 0.6
    mask.reshape(-1)[0] = True
    entry = MappedWeight(mask, torch.ones(groups, shape[0] // groups), groups, levels)
    entry.refit(weight)
    return weight, entry


@PROPERTY
@given(st.integers(0, 1 << 20), LEVELS, st.sampled_from([((4, 6), 1), ((4, 3, 2, 2), 1), ((6, 2, 3), 2)]))
def test_mapped_weights_are_codes_times_scales_within_the_mask(seed: int, levels: Levels, shape: Any) -> None:
    weight, entry = mapped(shape[0], levels, groups=shape[1], seed=seed)
    values, codes = entry(weight), entry.codes(weight)
    assert not bool(values[~entry.mask].any())
    assert set(codes.flatten().tolist()) <= {0, *levels.codes}
    expected = codes.numpy() * entry.scale.numpy().reshape(-1, *[1] * (weight.ndim - 1))
    np.testing.assert_array_equal(values.numpy(), expected.astype(np.float32))
    largest = np.abs(weight.numpy() - values.numpy())[entry.mask.numpy()].max()
    assert largest <= np.abs(weight.numpy()).max()


@pytest.mark.parametrize("levels", [None, Levels((-1, 0, 1), True)])
def test_gradients_pass_straight_through_to_what_is_kept(levels: Levels | None) -> None:
    weight, entry = mapped((4, 6), levels)
    weight.requires_grad_()
    pull = torch.randn(4, 6)
    (entry(weight) * pull).sum().backward()
    assert torch.equal(weight.grad, pull * entry.mask)


def test_float_stage_masks_only() -> None:
    weight, entry = mapped((4, 6), None)
    assert torch.equal(entry(weight), weight * entry.mask)
    before = entry.scale.clone()
    entry.refit(weight)
    assert torch.equal(entry.scale, before)


def test_a_weight_of_the_wrong_sign_is_zero() -> None:
    sign = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    entry = MappedWeight(torch.ones(2, 2, dtype=torch.bool), torch.ones(1, 2), 1, None, sign)
    weight = torch.tensor([[2.0, -2.0], [3.0, -3.0]])
    assert entry(weight).tolist() == [[2, 0], [0, -3]]


@PROPERTY
@given(st.integers(0, 1 << 20), st.booleans(), st.sampled_from([((5, 4), 1), ((4, 2, 3), 2)]))
def test_held_lines_keep_one_weight_and_change_no_others(seed: int, signed: bool, shape: Any) -> None:
    levels = Levels((-3, -2, 0, 2, 3), False)
    weight, entry = mapped(shape[0], levels, groups=shape[1], seed=seed)
    weight = weight * torch.rand(weight.shape, generator=torch.Generator().manual_seed(seed)) ** 6  # many round to 0
    if signed:
        entry.sign = torch.where(
            torch.rand(weight.shape, generator=torch.Generator().manual_seed(seed)) < 0.5, -1.0, 1.0
        )
    plain = entry.codes(weight)
    entry.preserve_lines = True
    held = entry.codes(weight)
    assert not bool(held[~entry.mask].any())
    assert torch.equal(held[plain != 0], plain[plain != 0])
    assert set(held[(held != 0) & (plain == 0)].abs().tolist()) <= {2.0}
    if signed:
        assert entry.sign is not None
        assert bool((held * entry.sign >= 0).all())
    groups = shape[1]

    def lines(x: Any) -> list[list[bool]]:
        m = x.reshape(groups, x.shape[0] // groups, -1) != 0
        return [m.any(dim=1).flatten().tolist(), m.any(dim=2).flatten().tolist()]

    assert lines(held) == lines(entry.mask)
    if lines(plain) == lines(entry.mask):
        assert torch.equal(held, plain)


def test_bits_of_a_pair_and_its_arrays_agree_with_the_geometry() -> None:
    """The grid's largest code fits the slices of the target's arrays."""
    target = chip("generic_128")
    shape = array_shape(target)
    levels = get_weight_levels(target, LevelSet.GRID)
    assert levels is not None
    assert levels.top <= (1 << (shape.cell_bits * shape.slices)) - 1
