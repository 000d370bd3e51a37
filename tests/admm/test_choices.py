"""What a layer can keep: rectangles of rows and columns, tiles of groups, and the structures that stand for them."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.shapes import array

torch = pytest.importorskip("torch")

from mcompiler.admm.choices import LayerCost, TileChoice, find_kept_weights, list_choices, make_structure  # noqa: E402
from mcompiler.admm.spec import Structure  # noqa: E402

SHAPE = array(2, 2)


def cost(groups: int, rows: int, columns: int, **more: Any) -> LayerCost:
    return LayerCost("conv1", groups, rows, columns, **{"positions": 1, "shape": SHAPE, "price": 1.0, **more})


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 7), st.integers(1, 7))
def test_options_keep_what_they_say(seed: int, groups: int, rows: int, columns: int) -> None:
    weight = torch.rand(groups, rows, columns, generator=torch.Generator().manual_seed(seed))
    layer = cost(groups, rows, columns)
    options = list_choices(layer, weight, layer.tiles)
    assert (np.diff(options.tiles) > 0).all()
    assert (np.diff(options.value) > 0).all()
    assert options.tiles[-1] == layer.tiles
    for choice, value in zip(options.choices, options.value, strict=True):
        kept = find_kept_weights(layer, weight, choice)
        assert float(weight[kept].sum()) == pytest.approx(value, rel=1e-5)
        if groups == 1:
            assert int(kept.any(dim=2).sum()) <= choice.row_blocks * 2
            assert int(kept.any(dim=1).sum()) <= choice.col_blocks * 2
    few = list_choices(layer, weight, 2)
    assert groups > 1 or few.tiles.max() <= 2


def test_rectangle_of_a_product_is_the_best_one() -> None:
    weight = torch.outer(torch.tensor([3.0, 1, 4, 1, 5]), torch.tensor([2.0, 7, 1, 8]))
    options = list_choices(cost(1, 5, 4), weight[None], 6)
    best = {
        r * c: max(
            float(weight[list(rows)][:, list(cols)].sum())
            for rows in combinations(range(5), min(2 * r, 5))
            for cols in combinations(range(4), 2 * c)
        )
        for r, c in ((1, 1), (2, 1), (3, 2))
    }
    found = dict(zip(options.tiles.tolist(), options.value.tolist(), strict=True))
    assert {tiles: found[tiles] for tiles in best} == pytest.approx(best)


def test_structures() -> None:
    layer = cost(1, 5, 4)
    assert make_structure(layer, TileChoice(2, 2, 1)) == Structure(filters=2, shapes=4)
    assert make_structure(layer, TileChoice(3, 3, 1)) == Structure(filters=2)
    assert make_structure(layer, TileChoice(4, 2, 2)) == Structure(shapes=4)
    assert make_structure(layer, TileChoice(6, 3, 2)) == Structure()
    assert make_structure(cost(4, 2, 2), TileChoice(3)) == Structure(blocks=3)


def test_a_layer_without_a_price_keeps_all() -> None:
    layer = cost(1, 5, 4, price=0.0)
    options = list_choices(layer, torch.ones(1, 5, 4), 1)
    assert options.choices == (TileChoice(6),)
    assert options.value.tolist() == [20]
    assert find_kept_weights(layer, torch.ones(1, 5, 4), options.choices[0]).all()
    assert layer.floor == 0


def test_what_is_worth_nothing_costs_nothing() -> None:
    weight = torch.zeros(1, 4, 4)
    weight[0, :2, :2] = 1
    assert list_choices(cost(1, 4, 4), weight, 4).choices == (TileChoice(1, 1, 1),)
