"""Baselines do what is said of them."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.benchmarks import FOLDER, benchmark

puma_like = benchmark("baselines").puma_like

LAYERS = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 4)), min_size=1, max_size=4)


def slowest(vectors: Sequence[int], copies: Sequence[int]) -> int:
    return max(math.ceil(count / copy) for count, copy in zip(vectors, copies, strict=True))


def cost(arrays: Sequence[int], copies: Sequence[int]) -> int:
    return sum(array * copy for array, copy in zip(arrays, copies, strict=True))


@given(LAYERS, st.integers(0, 30))
def test_the_pipeline_is_as_balanced_as_any_choice_makes_it(layers: list[tuple[int, int]], spare: int) -> None:
    vectors, arrays = [v for v, _ in layers], [a for _, a in layers]
    budget = sum(arrays) + spare
    copies = puma_like(vectors, arrays, budget)
    assert cost(arrays, copies) <= budget
    assert all(1 <= copy <= count for copy, count in zip(copies, vectors, strict=True))
    choices = itertools.product(*(range(1, count + 1) for count in vectors))
    best = min(slowest(vectors, choice) for choice in choices if cost(arrays, choice) <= budget)
    assert slowest(vectors, copies) == best


def test_a_layer_at_a_time() -> None:
    assert puma_like([100, 50, 1], [2, 3, 10], 15) == [1, 1, 1]
    assert puma_like([100, 50, 1], [2, 3, 10], 17) == [2, 1, 1]
    assert puma_like([100, 50, 1], [2, 3, 10], 20) == [3, 1, 1]  # both take 50: the first comes first; then 3 are left
    assert puma_like([100, 50, 1], [2, 3, 10], 22) == [3, 2, 1]
    assert puma_like([4, 2, 1], [1, 1, 1], 100) == [4, 2, 1]
    with pytest.raises(ValueError, match="one copy of each layer takes 15 arrays, and there are 14"):
        puma_like([100, 50, 1], [2, 3, 10], 14)


RESULTS: Path = FOLDER / "results" / "pimcomp.json"


@pytest.mark.skipif(not RESULTS.exists(), reason="benchmarks/pimcomp.py has not been run")
def test_pimcomps_own_balancing_balances_as_well_with_the_arrays_that_it_uses() -> None:
    """Its program stops at half of the arrays; given those, both leave the slowest layer equally long."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    runs = [run for run in results["runs"] if run["method"] == "balance" and run["replicas"]]
    assert runs
    for run in runs:
        vectors = [layer["vectors"] for layer in results["networks"][run["network"]]]
        ours = puma_like(vectors, run["arrays"], run["arrays_used"])
        assert slowest(vectors, ours) == slowest(vectors, run["replicas"]), (run["network"], run["architecture"])
