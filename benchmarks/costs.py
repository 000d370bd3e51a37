"""Power and area of the networks of `paper.py`, priced again: for when the cost model or a target's prices change.

    python benchmarks/costs.py [NAME ...]

Compiles benchmarks/models/NAME.onnx and the dense network (default: all that have a result) and renews
`power_and_area` in benchmarks/results/NAME.json. Accuracies, and the machine that trained, stay as they are.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from common import RESULTS, write
from mapping import dense_figures, power_and_area

MODELS = Path(__file__).resolve().parent / "models"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    names = parser.parse_args().names or sorted(path.stem for path in MODELS.glob("*.onnx"))
    for name in names:
        for needed in (MODELS / f"{name}.onnx", RESULTS / f"{name}.json"):
            if not needed.exists():
                raise SystemExit(f"{needed}: not there; names are those of the files in {MODELS}")
        result = json.loads((RESULTS / f"{name}.json").read_text())
        network, target = result["network"], result["target"]
        sizes = dense_figures(network, target)
        if any(result[key] != value for key, value in sizes.items()):
            raise SystemExit(f"{name}: the dense network is cut into other arrays than it was; run paper.py again")
        before, now = result["power_and_area"], power_and_area(MODELS / f"{name}.onnx", network, target)
        write(name, {**result, "power_and_area": now})
        for key, value in now["saved_percent"].items():
            print(f"{name}: {key} {before['saved_percent'].get(key)} -> {value}% less")


if __name__ == "__main__":
    main()
