"""The page on costs quotes the second opinion as the benchmark wrote it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.benchmarks import benchmark

ROOT = Path(__file__).parents[2]
second_opinion = benchmark("second_opinion")


@pytest.mark.parametrize("table", ["share_table", "ratio_table"])
def test_the_page_quotes_the_results(table: str) -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / "second_opinion.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "cost.md").read_text(encoding="utf-8")
    assert getattr(second_opinion, table)(found["chips"]) in page
