"""Rules by name: shipped ones, installed ones, and none."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator

import pytest

from mcompiler.errors import TargetError
from mcompiler.pricing import ENTRY_POINT_GROUP, find_rule, rule_names


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    points = [
        importlib.metadata.EntryPoint(name, value, ENTRY_POINT_GROUP)
        for name, value in (
            ("mine", "mcompiler.pricing.dac:DacDriver"),
            ("broken", "mcompiler.no_such_module:Rule"),
            ("foreign", "fractions:Fraction"),
            ("dac", "fractions:Fraction"),
        )
    ]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)
    find_rule.cache_clear()
    yield
    find_rule.cache_clear()


def test_an_unknown_rule_is_refused_with_the_closest() -> None:
    with pytest.raises(TargetError, match="'adc_survy' is unknown; did you mean 'adc_survey'"):
        find_rule("adc_survy")
    with pytest.raises(TargetError, match="known: adc_survey, "):
        find_rule("xyz")


@pytest.mark.usefixtures("installed")
def test_rules_of_installed_packages() -> None:
    assert rule_names()[-3:] == ("broken", "foreign", "mine")
    assert type(find_rule("mine")) is type(find_rule("dac")), "shipped names keep their meaning"
    with pytest.raises(TargetError, match=r"'broken' \(mcompiler.no_such_module:Rule\) cannot be loaded"):
        find_rule("broken")
    with pytest.raises(TargetError, match=r"'foreign' \(fractions:Fraction\) does not derive"):
        find_rule("foreign")
