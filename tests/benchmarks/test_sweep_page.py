"""docs/sweeps.md agrees with the result file."""

import json

from tests.support.benchmarks import FOLDER, benchmark
from tests.support.pages import ROOT

page = benchmark("sweep_page")


def test_the_page_agrees_with_the_results() -> None:
    result = json.loads((FOLDER / "results" / "sweep_sense.json").read_text(encoding="utf-8"))
    written = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
    assert written == page.page(result), "run benchmarks/sweep_page.py"
