"""Choices for budgets: never worse with more, whatever the search finds."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from mcompiler.dataflow import Choice, best_within, budget_levels


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 20), st.integers(1, 60), st.integers(1, 300), st.integers(0, 10**6), st.integers(1, 40),
    st.floats(0, 1),
)  # fmt: skip
def test_more_budget_is_never_worse(one: int, chips: int, most: int, seed: int, values: int, tight: float) -> None:
    levels = budget_levels(one, max(one, chips), most)
    assert levels == sorted(set(levels))
    assert levels[0] == one
    assert levels[-1] == max(one, most)

    def bound(budget: int) -> float:
        return -budget * tight / 8

    def find(budget: int) -> Choice:
        """Some value above the bound; the arrays are up to a tenth fewer than the budget."""
        number = hash((seed, budget))
        value = bound(budget) + number % values
        return Choice((value, float(number % 3)), max(one, budget - number % (1 + budget // 10)), (budget,))

    found = [best_within(budget, levels, find, bound) for budget in range(one, max(one, most) + 10)]
    for budget, choice in enumerate(found, one):
        assert choice.arrays <= budget
    for less, more in pairwise(found):
        assert more.value[0] <= less.value[0]


def test_small_budgets_and_levels_are_used_in_full() -> None:
    """Where each array more is worth it, nothing but budgets close to each other are taken as one."""
    levels = budget_levels(5, 64, 1000)
    found = [
        best_within(n, levels, lambda budget: Choice((1 / budget, 0.0), budget, (budget,)), lambda budget: 0.0)
        for n in range(5, 1000)
    ]
    for budget, choice in enumerate(found, 5):
        assert choice.arrays <= budget <= choice.arrays * (1 + 1 / 32) + 1
        if budget in levels or budget < 32:
            assert choice.arrays == budget
