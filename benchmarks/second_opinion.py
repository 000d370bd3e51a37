"""Energies by kind of component beside those of the models behind CiMLoop, for one network on several chips.

    python benchmarks/second_opinion.py [MODEL.onnx]

Needs the extra [second-opinion], so Python 3.12 or newer: pip install -c constraints.txt -e '.[second-opinion]'.
MODEL is ResNet-20 for CIFAR-10 unless given. Results: benchmarks/results/second_opinion.json.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import SHARED, write

import mcompiler
from mcompiler.cost.opinion import price_again
from mcompiler.target import load_target

UNPOLARISED = ("encoding.weights=differential", "encoding.pedestal=pair")
"""FORMS takes weights of one sign in each fragment, which training provides; for others it needs pairs of columns."""

TARGETS: dict[str, tuple[str, ...]] = {"isaac": (), "puma": (), "forms": UNPOLARISED, "neurosim_22nm": ()}


KINDS = ("converter", "array", "buffer", "network", "digital")


def share_table(chips: Mapping[str, Any]) -> str:
    """Shares of the energy of events by kind, ours and theirs, and our energy that they have no model for."""
    lines = ["| chip | " + " | ".join(KINDS) + " | ours without a model |", "| --- |" + " --: |" * (len(KINDS) + 1)]
    for name, chip in chips.items():
        totals = {total["kind"]: total for total in chip["totals"]}
        shares = [f"{totals[kind]['ours_share']:.0%}, {totals[kind]['theirs_share']:.0%}" for kind in KINDS]
        missing = sum(total["ours_without_model_j"] for total in chip["totals"])
        active = missing + sum(total["ours_j"] for total in chip["totals"])
        lines.append(f"| `{name}` | " + " | ".join(shares) + f" | {missing / active:.0%} |")
    return "\n".join(lines)


def ratio_table(chips: Mapping[str, Any]) -> str:
    """Their prices over ours by component: energy of events, and area."""
    lines = ["| chip | component | model | energy | area |", "| --- | --- | --- | --: | --: |"]
    for name, chip in chips.items():
        for row in chip["components"]:
            if row["model"] is not None:
                both = (row["ratio"], row["ratio_area"])
                ratios = " | ".join("-" if each is None else f"{each:.2f}" for each in both)
                lines.append(f"| `{name}` | {row['component']} | {row['model']} | {ratios} |")
    return "\n".join(lines)


def main() -> None:
    """Compile the network for every chip and compare the prices."""
    model = Path(sys.argv[1]) if len(sys.argv) > 1 else SHARED / "models" / "cifar10_resnet20.torch-ts.op13.dynb.onnx"
    chips = {}
    for name, overrides in TARGETS.items():
        build = mcompiler.compile(model, load_target(name, overrides), calibration="random")
        found = price_again(build.cost, build.target).as_json()
        versions = found.pop("versions")
        chips[name] = {"overrides": overrides, "energy_j": build.cost.energy_j, "area_m2": build.cost.area_m2, **found}
        for total in found["totals"]:
            print(
                f"{name:14} {total['kind']:10} events {total['ours_share']:6.1%} {total['theirs_share']:6.1%} "
                f"with standby {total['ours_share_energy']:6.1%} {total['theirs_share_energy']:6.1%}"
            )
    print(write("second_opinion", {"model": model.name, "versions": versions, "chips": chips}))


if __name__ == "__main__":
    main()
