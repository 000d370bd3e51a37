"""Choices for a budget, such that more budget is never worse.

A search finds a choice for each budget that it is asked for, and a larger budget may find a worse one. Therefore a few
budgets (levels) are fixed beforehand, whatever the budget is; a budget gets the best of what the levels up to it find.
Between two levels the budgets are halved again and again, and the choice of a middle counts only where it lies between
those of its two ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Value = tuple[float, float]
"""Objective of a choice, then what decides between equal ones; smaller is better."""


@dataclass(frozen=True, order=True)
class Choice:
    """Numbers of copies that a search found.

    Attributes:
        value: of their placement.
        arrays: that they take.
        copies: of each matrix.
    """

    value: Value
    arrays: int
    copies: tuple[int, ...] = field(compare=False)


def budget_levels(one: int, chips: int, most: int) -> list[int]:
    """Budgets at which a search starts anew, ascending.

    Args:
        one: arrays of one copy of everything.
        chips: arrays of the chips that one copy takes.
        most: arrays beyond which more are of no use.
    """
    found, level = {one, max(one, most)}, chips
    while level > one:
        found.add(level)
        level //= 2
    level = chips
    while level < most:
        found.add(level)
        level *= 2
    return sorted(level for level in found if level <= max(one, most))


def best_within(
    budget: int, levels: Sequence[int], find: Callable[[int], Choice], bound: Callable[[int], float]
) -> Choice:
    """The choice for a budget; its value never rises with the budget.

    Args:
        budget: at least the first level.
        levels: ascending; those of ``budget_levels``, or any others that do not depend on the budget.
        find: the choice that a search for one budget finds; always the same for the same budget.
        bound: no choice within a budget has an objective below; never rises with the budget.
    """
    budget = min(budget, levels[-1])
    below = [level for level in levels if level <= budget]
    best = find(below[-1])
    for level in reversed(below[:-1]):
        if bound(level) > best.value[0]:  # and all levels below it
            break
        best = min(best, find(level))
    if below[-1] == budget:
        return best
    low, high = below[-1], levels[len(below)]
    other = min(best, find(high))
    while other.arrays > budget and other.value[0] < best.value[0] and high - low > max(1, low // _PARTS):
        middle = (low + high) // 2
        found = best
        if bound(middle) <= best.value[0]:
            found = min(best, find(middle))
        if found.value[0] < other.value[0]:  # less for more: does not count
            found = best
        low, high, best, other = (middle, high, found, other) if middle <= budget else (low, middle, best, found)
    return min(best, other) if other.arrays <= budget else best


_PARTS = 32
"""Budgets between two that are closer than this part of them are taken as the smaller one."""
