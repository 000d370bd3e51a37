"""What holds for every shipped rule: it needs what it says, is positive, and moves with each quantity it follows."""

from __future__ import annotations

import pytest

from mcompiler.pricing import Figure, Quantity, find_rule, rule_names
from tests.pricing.points import POINT

FALLS = {
    ("sram", Figure.ENERGY_J, Quantity.BUFFER_WIDTH_BITS),
    ("edram", Figure.ENERGY_J, Quantity.BUFFER_WIDTH_BITS),
    ("edram_full_rate", Figure.ENERGY_J, Quantity.BUFFER_WIDTH_BITS),
}
"""Figures that fall where the quantity rises: a byte of a wider access."""


@pytest.mark.parametrize("name", rule_names())
def test_a_rule_moves_with_each_quantity_that_it_follows(name: str) -> None:
    rule = find_rule(name)
    for figure, quantities in rule.follows.items():
        at = {quantity: POINT[quantity] for quantity in quantities}
        before = rule.value(figure, at)
        assert before > 0
        for quantity in quantities:
            after = rule.value(figure, at | {quantity: at[quantity] * 1.5})
            if (name, figure, quantity) in FALLS:
                assert after < before, (name, figure, quantity)
            else:
                assert after > before, (name, figure, quantity)


@pytest.mark.parametrize("name", rule_names())
def test_a_rule_has_its_facts_and_is_valid_at_a_usual_point(name: str) -> None:
    rule = find_rule(name)
    assert rule.name == name
    assert rule.source
    assert rule.summary
    assert rule.outside(POINT) == ""
    assert rule.computes <= rule.follows.keys()
    assert set(rule.quantities()) == {quantity for each in rule.follows.values() for quantity in each}


@pytest.mark.parametrize("name", ["constant", "fixed"])
def test_two_rules_follow_nothing(name: str) -> None:
    rule = find_rule(name)
    assert rule.quantities() == ()
    assert rule.value(Figure.AREA_M2, {}) == rule.value(Figure.AREA_M2, POINT)
