"""Budget search: within the budget, monotone, no worse than uniform, and against brute force on tiny layers."""

from __future__ import annotations

import time
from itertools import combinations, pairwise, product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcompiler.errors import CompileError
from mcompiler.geometry import ArrayShape, count_tiles
from tests.support.shapes import array

torch = pytest.importorskip("torch")

from mcompiler.admm.budget import ChannelReader, LayerCost, SharedChannels, search  # noqa: E402
from mcompiler.admm.constraints import project_structure  # noqa: E402
from mcompiler.admm.spec import Structure  # noqa: E402

Array = npt.NDArray[np.float64]

PROPERTY = settings(max_examples=60, deadline=None)
FACTOR = 0.8
"""Share of the best importance that the choice of rows and columns in turns is held to, on any matrix."""


def layer(name: str, weight: Array, shape: ArrayShape, price: float = 1.0, **more: Any) -> LayerCost:
    groups, rows, columns = weight.shape
    return LayerCost(name, groups, rows, columns, **{"positions": 1, "shape": shape, "price": price, **more})


Case = tuple[list[LayerCost], dict[str, Array], ArrayShape]


@st.composite
def cases(draw: st.DrawFn, most: int = 9, groups: int = 3, layers: int = 4, prices: bool = True) -> Case:
    """Layers and their importance: random, sparse, or rows times columns."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = array(draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    weights, costs = {}, []
    for index in range(draw(st.integers(1, layers))):
        size = (draw(st.integers(1, groups)), draw(st.integers(1, most)), draw(st.integers(1, most)))
        weight = rng.random(size) ** draw(st.integers(1, 6))
        if draw(st.booleans()):
            weight *= rng.integers(0, 2, size)
        if draw(st.booleans()):
            weight = rng.random((size[0], size[1], 1)) * rng.random((size[0], 1, size[2]))
        price = draw(st.sampled_from([1.0, 0.37, 2.5, 0.0])) if prices else 1.0
        name = f"layer{index}"
        weights[name] = weight * 1e-12
        costs.append(layer(name, weight, shape, price))
    return costs, weights, shape


def tensors(weights: dict[str, Array]) -> dict[str, Any]:
    return {name: torch.tensor(weight) for name, weight in weights.items()}


def budgets(layers: list[LayerCost]) -> list[float]:
    floor, dense = sum(each.floor for each in layers), sum(each.price * each.tiles for each in layers)
    return [floor + share * (dense - floor) for share in (0, 0.1, 0.3, 0.5, 0.9, 1, 1.5)]


@PROPERTY
@given(cases())
def test_within_the_budget_and_never_an_empty_layer(case: Case) -> None:
    layers, weights, shape = case
    for budget in budgets(layers):
        plan = search(layers, tensors(weights), budget)
        assert plan.floor * (1 - 1e-9) <= plan.spent <= budget * (1 + 1e-9) + 1e-12
        assert plan.spent == pytest.approx(sum(each.price * plan.tiles[each.name] for each in layers))
        assert list(plan.structures) == list(plan.tiles) == [each.name for each in layers]
        for each in layers:
            assert 1 <= plan.tiles[each.name] <= each.tiles
            w = torch.tensor(np.random.default_rng(0).normal(size=weights[each.name].shape))
            out = project_structure(w, plan.structures[each.name], shape, 1)
            assert count_tiles((out != 0).numpy(), shape) <= plan.tiles[each.name]
            if each.price == 0:
                assert plan.structures[each.name] == Structure()


@PROPERTY
@given(cases())
def test_a_larger_budget_never_keeps_less(case: Case) -> None:
    layers, weights, _ = case
    kept = [search(layers, tensors(weights), budget).kept for budget in budgets(layers)]
    assert kept == sorted(kept)
    assert kept[-1] == 1.0


def largest(scores: Array, count: int) -> npt.NDArray[np.int64]:
    return np.argsort(-scores, kind="stable")[:count]


@settings(max_examples=30, deadline=None)
@given(cases(groups=1))
def test_no_worse_than_uniform(case: Case) -> None:
    layers, weights, shape = case
    total = sum(weight.sum() for weight in weights.values())
    for share, thin in product(np.linspace(0.05, 1, 6), ("rows", "columns", "both")):
        cost = kept = 0.0
        for each in layers:
            weight = weights[each.name][0]
            blocks = [-(-each.rows // shape.rows), -(-each.columns // shape.tile_columns)]
            if each.price:
                left = [max(1, int(share * blocks[0])), max(1, int(share * blocks[1]))]
                blocks = [left[0] if thin != "columns" else blocks[0], left[1] if thin != "rows" else blocks[1]]
            rows = largest(weight.sum(axis=1), blocks[0] * shape.rows)
            cols = largest(weight.sum(axis=0), blocks[1] * shape.tile_columns)
            kept += weight[np.ix_(rows, cols)].sum() / (total or 1)
            cost += each.price * blocks[0] * blocks[1]
        assert search(layers, tensors(weights), cost).kept >= kept * (1 - 1e-5)


def best_rectangle(weight: Array, rows: int, cols: int) -> float:
    """By trying all sets of rows; the best columns then are those of largest sum."""
    rows, cols = min(rows, weight.shape[0]), min(cols, weight.shape[1])
    tried = (weight[list(chosen)].sum(axis=0) for chosen in combinations(range(weight.shape[0]), rows))
    return max(float(np.sort(sums)[::-1][:cols].sum()) for sums in tried)


def brute_force(layers: list[LayerCost], weights: dict[str, Array], shape: ArrayShape, budget: float) -> float:
    """Largest share of the importance that any choice within the budget keeps."""
    options = []
    for each in layers:
        height, width = -(-each.rows // shape.rows), -(-each.columns // shape.tile_columns)
        options.append(
            [
                (
                    each.price * r * c,
                    best_rectangle(weights[each.name][0], r * shape.rows, c * shape.tile_columns),
                )
                for r, c in product(range(1, height + 1), range(1, width + 1))
            ]
        )
    fits = [plan for plan in product(*options) if sum(cost for cost, _ in plan) <= budget * (1 + 1e-9)]
    return max(sum(value for _, value in plan) for plan in fits)


@settings(max_examples=40, deadline=None)
@given(cases(most=5, groups=1, layers=3))
def test_against_brute_force(case: Case) -> None:
    layers, weights, shape = case
    total = sum(weight.sum() for weight in weights.values())
    product_of_both = all(np.linalg.matrix_rank(weight[0] * 1e12) <= 1 for weight in weights.values())
    for budget in budgets(layers)[:5]:
        best = brute_force(layers, weights, shape, budget)
        kept = search(layers, tensors(weights), budget).kept * total
        assert kept <= best * (1 + 1e-5)
        assert kept >= best * (1 - 1e-5 if product_of_both else FACTOR)


def test_random_layers_are_close_to_brute_force() -> None:
    rng = np.random.default_rng(5)
    shape = array(2, 2)
    ratios = []
    for _ in range(30):
        weights = {name: rng.random((1, 8, 6)) ** 3 for name in "ab"}
        layers = [layer(name, weight, shape) for name, weight in weights.items()]
        total = sum(weight.sum() for weight in weights.values())
        for budget in (3, 6, 10):
            best = brute_force(layers, weights, shape, budget)
            ratios.append(search(layers, tensors(weights), budget).kept * total / best)
    assert min(ratios) > 0.93
    assert np.mean(ratios) > 0.99


# --- examples --------------------------------------------------------------------------------------------------------


def test_structures_are_whole_blocks() -> None:
    weight = np.outer([9, 1, 8, 1, 7, 1, 1.0], [5, 1, 1, 6, 1.0])[None]  # 7 x 5: 4 x 3 tiles
    layers = [layer("a", weight, array(2, 2))]
    structures = {
        budget: search(layers, tensors({"a": weight}), budget).structures["a"] for budget in (1, 2, 4, 11, 12)
    }
    assert structures == {
        1: Structure(filters=2, shapes=2),
        2: Structure(filters=2, shapes=4),
        4: Structure(filters=4, shapes=4),  # 25 x 13; all rows of two filters keep 28 x 11
        11: Structure(shapes=6),  # 9 tiles
        12: Structure(),
    }


def test_energy_prunes_other_layers_than_crossbars() -> None:
    """The early layer is read 64 times as often: a crossbar of it costs 64 times the energy."""
    rng = np.random.default_rng(0)
    weights = {"early": 3 * rng.random((1, 8, 8)), "late": rng.random((1, 8, 8))}
    shape = array(2, 2)
    by_count = search([layer(name, weight, shape) for name, weight in weights.items()], tensors(weights), 18)
    assert by_count.tiles["early"] > by_count.tiles["late"]
    prices = {"early": 64e-9, "late": 1e-9}
    layers = [layer(name, weight, shape, prices[name]) for name, weight in weights.items()]
    energy = sum(prices[name] * tiles for name, tiles in by_count.tiles.items())
    by_energy = search(layers, tensors(weights), energy)
    assert by_energy.tiles["early"] <= by_count.tiles["early"]
    assert by_energy.tiles["late"] == 16  # it is all but free
    tight = search(layers, tensors(weights), energy / 2)
    assert tight.tiles["early"] < by_count.tiles["early"]
    assert tight.tiles["late"] > by_count.tiles["late"]


def test_free_layers() -> None:
    weights = {name: np.ones((1, 4, 4)) for name in ("free", "paid")}
    shape = array(2, 2)
    layers = [
        layer("free", weights["free"], shape, 0.0),
        layer("paid", weights["paid"], shape),
    ]
    plan = search(layers, tensors(weights), 1)
    assert plan.tiles == {"free": 4, "paid": 1}
    assert (plan.spent, plan.floor, plan.dense) == (1, 1, 4)
    assert plan.structures["free"] == Structure()


def test_groups_keep_whole_tiles() -> None:
    weight = np.ones((6, 2, 1))  # two groups to an array of 4 x 2
    weight[2:4] = 5
    plan = search([layer("depthwise", weight, array(4, 2))], tensors({"depthwise": weight}), 1)
    assert plan.structures == {"depthwise": Structure(blocks=1)}
    assert plan.kept == pytest.approx(20 / 28)


def test_vgg_takes_seconds() -> None:
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    shape = array(128, 64)
    rng = torch.Generator().manual_seed(0)
    layers = [
        LayerCost(f"conv{index}", 1, 9 * before, after, positions=9, shape=shape, price=1.0)
        for index, (before, after) in enumerate(pairwise(widths))
    ]
    weights = {each.name: torch.rand(1, each.rows, each.columns, generator=rng) for each in layers}
    start = time.process_time()
    plan = search(layers, weights, 60)
    assert time.process_time() - start < 20  # takes 2
    assert (plan.spent, plan.floor, plan.dense) == (60, 13, 1798)


# --- links -----------------------------------------------------------------------------------------------------------


def test_links_drop_what_nobody_writes_or_reads() -> None:
    """The reader's best rows belong to channels that the writer would drop; linked, both keep the same channels."""
    shape = array(2, 2)
    writer = np.ones((1, 2, 4)) * np.array([4, 4, 1, 1.0])
    reader = np.ones((1, 8, 2)) * np.repeat([1, 1, 2, 2.0], 2)[:, None]
    weights = {"writer": writer, "reader": reader}
    layers = [layer("writer", writer, shape), layer("reader", reader, shape, positions=2)]
    alone = search(layers, tensors(weights), 3)
    assert alone.tiles == {"writer": 1, "reader": 2}
    assert alone.kept == pytest.approx((16 + 16) / 44)  # filters 0 and 1, channels 2 and 3: nothing works
    linked = search(layers, tensors(weights), 3, shared=[SharedChannels(("writer",), (ChannelReader("reader"),))])
    assert linked.tiles == {"writer": 1, "reader": 2}
    assert linked.kept == pytest.approx((16 + 8) / 44)
    wide = search(layers, tensors(weights), 6, shared=[SharedChannels(("writer",), (ChannelReader("reader", 0, 2),))])
    assert wide.kept == 1.0


def test_filters_that_nobody_reads_are_not_kept_for_their_own_importance() -> None:
    shape = array(2, 2)
    weights = {"writer": np.ones((1, 2, 4)) * np.array([9, 9, 1, 1.0]), "reader": np.ones((1, 4, 2))}
    weights["reader"][0, :2] = 0
    layers = [layer(name, weight, shape) for name, weight in weights.items()]
    plan = search(layers, tensors(weights), 2, shared=[SharedChannels(("writer",), (ChannelReader("reader"),))])
    assert plan.kept == pytest.approx((4 + 4) / 44)


def true_importance(plan_tiles: dict[str, int], writer: Array, reader: Array) -> float:
    """Most that a plan can keep with both layers on the same channels, by trying all sets; arrays of 1 x 1."""
    channels = writer.shape[2]
    best = 0.0
    for mask in product([False, True], repeat=channels):
        kept = list(np.flatnonzero(mask))
        if not kept:
            continue
        part, rows = writer[0][:, kept], reader[0][kept]
        writers = [r * c for r, c in product(range(1, part.shape[0] + 1), range(1, part.shape[1] + 1))]
        value = max(
            best_rectangle(part, r, c)
            for r, c in product(range(1, part.shape[0] + 1), range(1, part.shape[1] + 1))
            if r * c <= plan_tiles["writer"] or r * c == min(writers)
        )
        value += max(
            best_rectangle(rows, r, c)
            for r, c in product(range(1, rows.shape[0] + 1), range(1, rows.shape[1] + 1))
            if r * c <= plan_tiles["reader"] or r * c == 1
        )
        best = max(best, value)
    return best


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 16))
def test_linked_plans_do_not_count_what_they_cut_off(seed: int, budget: int) -> None:
    rng = np.random.default_rng(seed)
    weights = {"writer": rng.random((1, 3, 4)) ** 4, "reader": rng.random((1, 4, 3)) ** 4}
    layers = [layer(name, weight, array(1, 1)) for name, weight in weights.items()]
    plan = search(layers, tensors(weights), budget, shared=[SharedChannels(("writer",), (ChannelReader("reader"),))])
    total = sum(weight.sum() for weight in weights.values())
    assert plan.spent <= budget
    assert plan.kept * total <= true_importance(plan.tiles, weights["writer"], weights["reader"]) + 1e-5


@pytest.mark.parametrize(
    ("link", "message"),
    [
        (
            SharedChannels(("a",), (ChannelReader("c"),)),
            "node 'c': shares channels and is not searched; leave out shared channels of layers",
        ),
        (SharedChannels(("a", "b"), ()), r"layers a, b share channels and write \[3, 4\] of them; they must agree"),
        (SharedChannels(("a",), (ChannelReader("b", 1),)), "node 'b': reads shared channels in 4 rows and has 3"),
    ],
)
def test_links_that_do_not_fit(link: SharedChannels, message: str) -> None:
    weights = {"a": np.ones((1, 2, 3)), "b": np.ones((1, 3, 4))}
    layers = [layer(name, weight, array(1, 1)) for name, weight in weights.items()]
    with pytest.raises(CompileError, match=f"^{message}"):
        search(layers, tensors(weights), 6, shared=[link])


# --- errors ----------------------------------------------------------------------------------------------------------


def test_budget_below_the_floor() -> None:
    weights = {name: np.ones((1, 4, 4)) for name in "ab"}
    layers = [layer("a", weights["a"], array(2, 2)), layer("b", weights["b"], array(2, 2), 0.5)]
    for budget in (1.4, 0, -1, float("nan")):
        with pytest.raises(
            CompileError,
            match=rf"^a budget of {budget:g} is below 1\.5, the cost of one array position in each layer that is "
            r"searched; give at least 1\.5, or search fewer layers$",
        ):
            search(layers, tensors(weights), budget)
    assert search(layers, tensors(weights), 1.5).spent == 1.5


def test_no_layer() -> None:
    with pytest.raises(CompileError, match="there is no layer to spend a budget on"):
        search([], {}, 1)


@pytest.mark.parametrize(
    ("weight", "price", "message"),
    [
        (torch.ones(1, 4, 4), -1.0, "its price -1 is negative or not finite; give 0 or more"),
        (torch.ones(1, 4, 4), float("inf"), "its price inf is negative or not finite; give 0 or more"),
        (None, 1.0, r"its importance must have shape \(1, 4, 4\) and has none; give one per weight"),
        (torch.ones(4, 4), 1.0, r"its importance must have shape \(1, 4, 4\) and has shape \(4, 4\)"),
        (-torch.ones(1, 4, 4), 1.0, "its importance is negative or not finite"),
        (torch.full((1, 4, 4), float("nan")), 1.0, "its importance is negative or not finite"),
    ],
)
def test_prices_and_importance_that_are_none(weight: Any, price: float, message: str) -> None:
    costs = [LayerCost("conv1", 1, 4, 4, positions=1, shape=array(2, 2), price=price)]
    with pytest.raises(CompileError, match=f"^node 'conv1': {message}"):
        search(costs, {} if weight is None else {"conv1": weight}, 2)
