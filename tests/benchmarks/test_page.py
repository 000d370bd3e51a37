"""docs/results.md agrees with the result files, and goals are evaluated correctly."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the extra 'admm'")

from tests.support.benchmarks import benchmark

page = benchmark("page")


def test_the_page_agrees_with_the_results() -> None:
    assert page.PAGE.read_text() == page.page(page.RESULTS, page.PAGE.parent / "plots"), "run benchmarks/page.py"


def result(**changes: Any) -> dict[str, Any]:
    """Of two seeds."""
    run = {"tiles_conv": 60, "tiles": 61, "top1_dense": 0.935, "top1_mapped": 0.930, "epochs_dense": 40}
    run |= {"epochs_compressed_in_all": 40}
    runs = [run, {**run, **changes}]
    means = {key: sum(entry[key] for entry in runs) / 2 for key in ("top1_dense", "top1_mapped")}
    return {**means, "runs": runs, "power_and_area": {"saved_percent": {"peak_array_power_w": 98.0}}}


GOAL = {"tiles_conv": 60, "loss": 0.5, "dense": 93.5, "power_saved": 98.0}


def met(found: dict[str, Any] | None) -> dict[str, bool | None]:
    return {check.what: check.met for check in page.checks("vgg16", GOAL, found)}


def test_a_goal_is_reached_at_its_limit() -> None:
    assert set(met(result()).values()) == {True}
    assert page.state(page.checks("vgg16", GOAL, result()), result()) == "**reached**"


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({"tiles_conv": 61}, {"tiles of the convolutions"}),
        ({"top1_mapped": 0.929}, {"accuracy mapped, points below dense"}),
        ({"top1_dense": 0.933, "top1_mapped": 0.93}, {"accuracy dense, %"}),
        (
            {"epochs_compressed_in_all": 41},
            {"epochs of dense training minus all epochs of the compressed network"},
        ),
    ],
)
def test_a_goal_that_one_seed_misses_is_not_reached(changes: dict[str, Any], missed: set[str]) -> None:
    assert {what for what, fine in met(result(**changes)).items() if not fine} == missed
    assert page.state(page.checks("vgg16", GOAL, result(**changes)), result(**changes)).startswith("**not reached**")


def test_without_a_result_nothing_is_evaluated() -> None:
    assert set(met(None).values()) == {None}
    assert page.state(page.checks("vgg16", GOAL, None), None) == "no result yet"


@pytest.mark.parametrize("path", sorted(page.RESULTS.glob("*_5bit*.json")), ids=lambda path: path.stem)
def test_counts_of_a_row_agree_with_its_layers(path: Any) -> None:
    """Ratios, totals and savings follow from the layers and prices of the same file."""
    found = json.loads(path.read_text())
    run = found["runs"][0]
    layers = {layer["name"]: layer for layer in run["layers"]}
    assert sum(layer["tiles"] for layer in layers.values()) == run["tiles"] == found["tiles"]
    assert run["arrays"] == 2 * run["tiles"]
    assert sum(layer["tiles_dense"] for layer in layers.values()) == found["tiles_dense"]
    assert found["ratio_tiles"] == pytest.approx(found["tiles_conv_dense"] / found["tiles_conv"])
    assert found["ratio_arrays_all"] == pytest.approx(found["arrays_dense_9bit"] / found["arrays"])
    five, nine = (found["power_and_area"][key] for key in ("compressed_5bit", "dense_9bit"))
    for key, saved in found["power_and_area"]["saved_percent"].items():
        assert saved == pytest.approx(100 * (1 - five[key] / nine[key]), abs=0.01)
    assert five["peak_array_power_w"] / nine["peak_array_power_w"] == pytest.approx(1 / found["ratio_arrays_all"])
