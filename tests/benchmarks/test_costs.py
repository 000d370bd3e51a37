"""Power and area that results record are those of the cost model as it is."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the extra 'admm'")

from tests.support.benchmarks import benchmark

costs = benchmark("costs")
NAMES = sorted(path.stem for path in costs.MODELS.glob("*.onnx"))


def same(found: Any, wanted: Any) -> None:
    """Numbers within rounding, nested tables key by key."""
    if isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for key, value in wanted.items():
            same(found[key], value)
    else:
        assert found == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name.startswith("lenet5") else [pytest.mark.slow]) for name in NAMES]
)
def test_recorded_costs_are_those_of_the_cost_model(name: str) -> None:
    result = json.loads((costs.RESULTS / f"{name}.json").read_text())
    now = costs.power_and_area(costs.MODELS / f"{name}.onnx", result["network"], result["target"])
    same(json.loads(json.dumps(now)), result["power_and_area"])  # otherwise run benchmarks/costs.py and page.py


def test_a_name_without_a_model_ends_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["costs.py", "lenet6"])
    with pytest.raises(SystemExit, match=r"lenet6\.onnx: not there; names are those"):
        costs.main()
