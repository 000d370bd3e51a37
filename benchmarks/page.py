"""docs/results.md from the result files; only the remarks in rows.toml are written by hand.

    python benchmarks/page.py [--results benchmarks/results] [--out docs/results.md] [--check]

What was asked for, the paper's figures and remarks stand in rows.toml. A result that does not exist yet is named as
such. Run plots.py first: plots that exist are shown. --check writes nothing and fails if the page is out of date.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import RESULTS
from networks import NETWORKS
from paper import DATASETS, TARGETS
from tables import (
    budget,
    counts,
    epoch_cost,
    machine,
    over_runs,
    percent,
    power_and_area,
    quantity,
    ratio,
    structure,
    sweep,
    table,
    tiles_at,
)
from torch import nn

from mcompiler.admm.lowering import find_layers
from mcompiler.geometry import array_shape, count_dense
from mcompiler.target import load_target

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "results.md"
TEST_IMAGES = 10_000
"""Of MNIST and CIFAR-10."""

INTRODUCTION = """\
# Results

<!-- Written by benchmarks/page.py from benchmarks/results and benchmarks/rows.toml; change those, not this. -->

The networks of Yuan et al. (ISLPED 2019, arXiv 1908.11691), compressed with `mcompiler.admm`, exported, compiled for
`yuan2019` (or its 32x32 arrays) at 5 bit and verified on the whole test set, beside what was to be reached and what the
paper says.

**How to read it.** A *tile* is one array position: two arrays at 5 bit, four at 9. Ratios are counted four ways,
never mixed: *weights* of the convolutions that are left; *tiles* of the convolutions, at equal bits; *arrays* of the
convolutions against the dense mapping at 9 bit; and *all analog layers*, fully connected ones included. *Mapped*
accuracy has the converters inside: inputs quantised, ADC ranges calibrated by layer on training images and frozen.
Accuracies are top-1 in percent; ± is the standard deviation over seeds. How these networks, and ResNet-20, bear errors
of devices, wires and converters is in [robustness.md](robustness.md), with plots.

**What the paper's figures are.** Its ratios count weights of convolutions, not crossbars: "area saved" is 1 − 1/ratio
on every row. The figures of its abstract are not one operating point: compression, power and area are those of the
5-bit networks, the accuracy loss is not. Accuracies are against a 9-bit dense baseline; ADC, DAC and the bits of
activations are not in them, as far as it says. Each network below has more remarks.
"""

AGAIN = """\
## How to make these figures again

From a checkout with `../shared` (data and start weights) and `pip install -c constraints.txt -e '.[benchmarks,dev]'`:

<!-- not run: hours of training -->
```console
$ python benchmarks/paper.py lenet5 --seeds 0 1 2
$ python benchmarks/paper.py convnet --seeds 0 1 2
$ python benchmarks/paper.py vgg16
$ python benchmarks/paper.py resnet18
$ python benchmarks/paper.py vgg16 --spec benchmarks/specs/vgg16_40.toml --name vgg16_cifar10_5bit_40
$ python benchmarks/paper.py resnet18 --seeds 1 --spec benchmarks/specs/resnet18_40.toml --name resnet18_cifar10_5bit_40
$ python benchmarks/costs.py # power and area alone, again
$ python benchmarks/sweep.py --restart
$ python benchmarks/budget.py
$ python benchmarks/admm.py
$ python benchmarks/plots.py
$ python benchmarks/page.py
```
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=PAGE)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    text = page(args.results, args.out.parent / "plots")
    if args.check:
        sys.exit(f"{args.out} is out of date: run benchmarks/page.py" if args.out.read_text() != text else 0)
    args.out.write_text(text)
    print(args.out)


def page(results: Path, plots: Path) -> str:
    """The whole page."""
    rows = tomllib.loads((HERE / "rows.toml").read_text())["networks"]
    found = {goal["name"]: read(results / f"{goal['name']}.json") for facts in rows.values() for goal in facts["goals"]}
    lines = [INTRODUCTION, *overview(rows, found), *picture(plots, "accuracy_crossbars", "accuracy against crossbars")]
    for network, facts in rows.items():
        lines += section(network, facts, found, plots)
    for title, name, show in (
        ("Where a budget goes", "budget_vgg16", budget),
        ("Accuracy against crossbars", "digits_sweep", sweep),
        ("What an ADMM epoch costs", "admm_vgg16", epoch_cost),
    ):
        result = read(results / f"{name}.json")
        lines += [f"## {title}", "", *(show(result) if result else [f"Not measured yet (`{name}.json`).", ""])]
    return "\n".join([*lines, AGAIN])


def read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def picture(plots: Path, name: str, title: str) -> list[str]:
    return [f"![{title}](plots/{name}.svg)", ""] if (plots / f"{name}.svg").exists() else []


# --- what was asked --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """One thing that was asked for, as text, and whether it is met; None where there is no result."""

    what: str
    asked: str
    found: str
    met: bool | None


ASKED = {
    "tiles_conv": ("tiles of the convolutions", "≤"),
    "tiles": ("tiles of the whole network", "≤"),
    "dense": ("dense, %", "≥"),
    "top1": ("mapped, %", "≥"),
    "loss": ("mapped, points below dense", "≤"),
    "power_saved": ("peak power of arrays and converters, % less", "≥"),
    "epochs": ("epochs of dense training less those of the compressed network in all", "≥"),
}
"""Keys of goals in rows.toml; ``epochs`` holds for all of them."""


def checks(network: str, goal: dict[str, Any], result: Any) -> list[Check]:
    """All that is asked in one goal."""
    ours = sizes(network)
    limits = {"epochs": 0, **goal}
    if "ratio_tiles" in goal:
        limits["tiles_conv"] = tiles_at(ours["tiles_conv"], goal["ratio_tiles"])
    found = measures(result) if result else {}
    lines = []
    for key, (what, sign) in ASKED.items():
        if key not in limits:
            continue
        limit = limits[key]
        text, value = found.get(key, ("–", None))
        of = f" of {ours[key]:,}" if key in ours else ""
        met = None if value is None else value <= limit if sign == "≤" else value >= limit
        lines.append(Check(what, f"{sign} {limit:g}{of}", text, met))
    return lines


def measures(result: Any) -> dict[str, tuple[str, float]]:
    """What was found, as text and as the number to compare: means of accuracies, the worst run of all else."""
    runs = result["runs"]
    lost = round(100 * (result["top1_dense"] - result["top1_mapped"]), 2)
    saved = result["power_and_area"]["saved_percent"]["peak_array_power_w"]
    epochs = [run["epochs_dense"] - run["epochs_compressed_in_all"] for run in runs]
    return {
        **{key: (counts(run[key] for run in runs), max(run[key] for run in runs)) for key in ("tiles_conv", "tiles")},
        "dense": (over_runs(runs, "top1_dense"), round(100 * result["top1_dense"], 2)),
        "top1": (over_runs(runs, "top1_mapped"), round(100 * result["top1_mapped"], 2)),
        "loss": (f"{lost:.2f}", lost),
        "power_saved": (f"{saved:.2f}", saved),
        "epochs": (counts(epochs), min(epochs)),
    }


def state(found: list[Check], result: Any) -> str:
    if not result:
        return "not reached yet"
    missed = [check.what for check in found if not check.met]
    return f"**not reached**: {'; '.join(missed)}" if missed else "**reached**"


def overview(rows: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """One line a goal."""
    lines = []
    for network, facts in rows.items():
        for goal in facts["goals"]:
            result = found[goal["name"]]
            tiles, ratios, dense, mapped = ["–"] * 4
            if result:
                tiles = f"{counts(run['tiles_conv'] for run in result['runs'])} of {result['tiles_conv_dense']:,}"
                ratios = ratio(result["ratio_tiles"])
                dense, mapped = over_runs(result["runs"], "top1_dense"), over_runs(result["runs"], "top1_mapped")
            verdict = state(checks(network, goal, result), result)
            lines.append((facts["title"], goal["title"], verdict, tiles, ratios, dense, mapped))
    head = ["network", "asked", "state", "tiles, convolutions", "ratio of tiles", "dense", "mapped, 5 bit"]
    return ["## At a glance", "", *table(head, lines, left=3)]


# --- one network -----------------------------------------------------------------------------------------------------


def section(network: str, facts: dict[str, Any], found: dict[str, Any], plots: Path) -> list[str]:
    """A network: what it is, what the paper says, and each goal."""
    ours = sizes(network)
    lines = [
        f"## {facts['title']}", "", facts["layers"].strip(), "",
        f"{ours['weights_conv']:,} weights in convolutions ({ours['weights']:,} in all), {ours['tiles_conv']:,} tiles "
        f"({ours['tiles']:,}) of `{TARGETS[network]}`, at least {ours['floor_conv']} ({ours['floor']}): one a layer.",
        "",
        *published(network, facts),
    ]  # fmt: skip
    for goal in facts["goals"]:
        result = found[goal["name"]]
        lines += [f"### {goal['title']}", "", *asked(network, goal, result)]
        lines += [goal["note"].strip(), ""] if goal.get("note") else []
        if result:
            lines += [*figures(result), *layers(result), *power_and_area(result, goal, facts)]
            lines += picture(plots, f"residuals_{goal['name']}", "residuals over epochs")
            lines += picture(plots, f"training_{goal['name']}", "training over epochs")
            lines += [machine(result), ""]
    return lines


def published(network: str, facts: dict[str, Any]) -> list[str]:
    """The paper's rows, and what is to be said of them."""
    rows = [
        (
            f"{pruned:.2f}", ratio(weights), f"{area:.2f}", *(f"{value:.2f}" for value in bits),
            f"{facts['original'] - bits[-1]:.2f}",
        )
        for pruned, weights, area, *bits in facts["rows"]
    ]  # fmt: skip
    head = ["pruned, %", "ratio of weights", "area saved, %", "7 bit", "6 bit", "5 bit", "lost at 5 bit"]
    lines = [f"The paper (Table I; original {facts['original']:.2f}%):", "", *table(head, rows, left=0)]
    power = f"Power −{facts['power_saved']:.2f}%, area −{facts['area_saved']:.2f}% at {facts['power_at']}x."
    lines += [f"{power} {facts['caveat'].strip()}", ""]
    if network == "convnet":
        dense = sizes(network)["tiles_conv"]
        lines += [f"In tiles, 5.88x of ours leaves {tiles_at(dense, 5.88)} of {dense}.", ""]
    return lines


def asked(network: str, goal: dict[str, Any], result: Any) -> list[str]:
    """What was asked and what came of it."""
    found = checks(network, goal, result)
    word = {True: "yes", False: "no", None: "–"}
    lines = table(
        ["", "asked", "found", "met"], [(line.what, line.asked, line.found, word[line.met]) for line in found]
    )
    if result:
        return lines
    reason = "" if goal.get("note") else " No reason has been noted down."
    return [*lines, f"**Not reached yet:** there is no `{goal['name']}.json`.{reason}", ""]


RATIOS = (
    ("weights, convolutions", "weights_conv_dense", "weights_conv", "ratio_weights"),
    ("tiles at equal bits, convolutions", "tiles_conv_dense", "tiles_conv", "ratio_tiles"),
    ("arrays against dense 9 bit, convolutions", "arrays_conv_dense_9bit", "arrays_conv", "ratio_arrays"),
    ("all analog layers: tiles at equal bits", "tiles_dense", "tiles", "ratio_tiles_all"),
    ("all analog layers: arrays against dense 9 bit", "arrays_dense_9bit", "arrays", "ratio_arrays_all"),
)


def figures(result: Any) -> list[str]:
    """The four ratios, the accuracies on the way, epochs."""
    runs = result["runs"]
    ratios = [
        (label, f"{result[dense]:,}", f"{result[left]:,}", ratio(result[name])) for label, dense, left, name in RATIOS
    ]
    bits = load_target(result["target"]).converters.adc.bits
    accuracies = [
        ("dense, float", "top1_dense"),
        ("behind the hard projection", "top1_projected"),
        ("retrained, in PyTorch", "top1_pytorch"),
        ("quantised, before mapping", "top1_quantised"),
        ("mapped, lossless converters", "top1_mapped_lossless"),
        (f"mapped, {bits}-bit ADC, full range", "top1_mapped_full_range"),
        (f"**mapped, {bits}-bit ADC, calibrated range**", "top1_mapped"),
    ]
    several = len(runs) > 1
    head = ["top-1, %", *(["mean"] if several else []), *(f"seed {run['seed']}" for run in runs)]

    def mean(key: str) -> list[str]:
        return [over_runs(runs, key)] if several else []

    return [
        f"Counts of seed {result['seeds'][0]}, whose model is in `benchmarks/models`.", "",
        *table(["", "dense", "compressed", "ratio"], ratios),
        *table(head, [(label, *mean(key), *(percent(run[key]) for run in runs)) for label, key in accuracies]),
        *clipping(runs), *epochs(runs, result["recipe"]),
    ]  # fmt: skip


def clipping(runs: list[Any]) -> list[str]:
    """Share of conversions beyond the range, and whether lossless converters change nothing."""
    clipped = [run["adc_clipped"] for run in runs if run["adc_clipped"]]
    exact = "equals" if all(run["lossless_exact"] for run in runs) else "**does not equal**"
    share = (
        f"{statistics.fmean(entry['mean'] for entry in clipped):.2e} of the conversions are clipped in the mean of the "
        f"layers, {max(entry['largest'] for entry in clipped):.2e} in the worst; ranges come from "
        f"{runs[0]['calibration_images']} training images."
        if clipped
        else "No converter clips."
    )
    probed = max(run.get("images_probed") or 0 for run in runs)
    on = (
        f", compared on the first {probed:,} test images, on which clipping is counted too (their lossless accuracy "
        "is that of the quantised network)"
        if probed and probed < TEST_IMAGES
        else ""
    )
    return [f"{share} With lossless converters the mapped network {exact} the quantised one on every layer{on}.", ""]


def epochs(runs: list[Any], recipe: dict[str, Any]) -> list[str]:
    """How long each was trained."""
    first = runs[0]
    retrain = recipe["compress"]["retrain"]
    before = f"{first['epochs_before_compression']} dense before it"
    if "started_from" in first:
        before = f"{first['epochs_before_compression']} those of `{first['started_from']}`, from which it goes on"
    admm = "none of ADMM"
    if first["epochs_admm"]:
        rho = ", ".join(f"{rho:g}" for rho in recipe["compress"]["admm"]["rho"])
        admm = f"{first['epochs_admm']} of ADMM (ρ {rho})"
    seconds = statistics.fmean(run["seconds_compress"] for run in runs)
    return [
        f"Epochs: dense {first['epochs_dense']}; compressed {first['epochs_compressed_in_all']} in all, of which "
        f"{before}, {admm} and {first['epochs_retrain']} of masked retraining "
        f"({retrain.get('float_epochs', 0)} float). Compressing took {seconds / 60:,.0f} minutes a seed. Every "
        "hyper-parameter is in the result file, under `recipe`.",
        "",
    ]


def layers(result: Any) -> list[str]:
    """What is left of each layer, in the first run."""
    run = result["runs"][0]
    energy = result["power_and_area"]["energy_per_inference_by_layer_j"]
    rows = []
    for layer in run["layers"]:
        name = layer["name"]
        clipped = run["adc_clipped_layers"].get(name)
        rows.append(
            (f"`{name}`", structure(layer["structure"]), "{1} x {2}".format(*layer["matrix"]),
             f"{layer['weights']:,} of {layer['weights_dense']:,}", f"{layer['tiles']} of {layer['tiles_dense']}",
             quantity(energy[name], "J") if name in energy else "–", "–" if clipped is None else f"{clipped:.1e}")
        )  # fmt: skip
    head = ["layer", "may keep", "matrix now", "weights", "tiles", "energy, whole chip", "clipped"]
    return table(head, rows, left=2)


def sizes(network: str) -> dict[str, int]:
    """Weights and tiles of a dense network."""
    shape = array_shape(load_target(TARGETS[network]))
    every = list(find_layers(NETWORKS[network]()).values())
    conv = [layer for layer in every if not isinstance(layer.module, nn.Linear)]
    counted = {}
    for suffix, chosen in (("", every), ("_conv", conv)):
        counted[f"weights{suffix}"] = sum(layer.weight.numel() for layer in chosen)
        counted[f"tiles{suffix}"] = sum(count_dense(*layer.shape, shape) for layer in chosen) // shape.arrays_per_tile
        counted[f"floor{suffix}"] = len(chosen)
    return counted


assert set(DATASETS) == set(NETWORKS) == set(TARGETS)

if __name__ == "__main__":
    main()
