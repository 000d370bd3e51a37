"""docs/robustness.md agrees with the result file."""

import json

from tests.support.benchmarks import benchmark
from tests.support.pages import ROOT

page = benchmark("robustness_page")


def test_the_page_agrees_with_the_results() -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "robustness.json").read_text(encoding="utf-8"))
    written = (ROOT / "docs" / "robustness.md").read_text(encoding="utf-8")
    assert written == page.page(result), "run benchmarks/robustness.py --parts page"
