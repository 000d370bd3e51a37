"""Write docs/results.md from the result files; rows.toml contains the remarks.

    python benchmarks/page.py [--results benchmarks/results] [--out docs/results.md] [--check]

rows.toml contains goals, figures of the paper and remarks. The page names results that do not exist yet. Run plots.py
first: the page shows the plots that exist. --check writes nothing, and fails if the page is out of date.
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

<!-- benchmarks/page.py writes this page from benchmarks/results and benchmarks/rows.toml: change those files. -->

The networks of Yuan et al. (ISLPED 2019, arXiv 1908.11691), compressed with `mcompiler.admm`, exported, compiled at 5
bit for `yuan2019` (or its 32x32 arrays), and verified on the whole test set. Each table compares the result with the
goal and with the figures of the paper.

**Terms.** A *tile* is one array position: two arrays at 5 bit, four at 9 bit. Four ratios are given separately:
remaining *weights* of the convolutions; *tiles* of the convolutions at equal bits; *arrays* of the convolutions against
the dense mapping at 9 bit; and *all analog layers*, which include fully connected layers. *Mapped* accuracy includes
the converters: inputs are quantised, and the ADC range of each layer is calibrated on training images and then fixed.
Accuracies are top-1 in percent; ± is the standard deviation over seeds. [robustness.md](robustness.md) shows how errors
of devices, wires and converters change the accuracy of these networks and of ResNet-20.

**Figures of the paper.** The ratios of the paper count weights of convolutions, not crossbars: in every row, "area
saved" is 1 − 1/ratio. The figures in its abstract do not belong to one operating point: compression, power and area are
those of the 5-bit networks, the accuracy loss is not. Accuracies are compared with a dense 9-bit baseline. As far as
the paper states, they include neither ADC and DAC nor quantised activations. Further remarks are in the sections on
each network.
"""

AGAIN = """\
## How to reproduce these figures

In a checkout with `../shared` (data and start weights), after `pip install -c constraints.txt -e '.[benchmarks,dev]'`:

<!-- not run: hours of training -->
```console
$ python benchmarks/paper.py lenet5 --seeds 0 1 2
$ python benchmarks/paper.py convnet --seeds 0 1 2
$ python benchmarks/paper.py vgg16
$ python benchmarks/paper.py resnet18
$ python benchmarks/paper.py vgg16 --spec benchmarks/specs/vgg16_40.toml --name vgg16_cifar10_5bit_40
$ python benchmarks/paper.py resnet18 --seeds 1 --spec benchmarks/specs/resnet18_40.toml --name resnet18_cifar10_5bit_40
$ python benchmarks/costs.py # power and area only
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
        ("Distribution of a budget", "budget_vgg16", budget),
        ("Accuracy against crossbars", "digits_sweep", sweep),
        ("Time of an ADMM epoch", "admm_vgg16", epoch_cost),
    ):
        result = read(results / f"{name}.json")
        lines += [f"## {title}", "", *(show(result) if result else [f"Not measured yet (`{name}.json`).", ""])]
    return "\n".join([*lines, AGAIN])


def read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def picture(plots: Path, name: str, title: str) -> list[str]:
    return [f"![{title}](plots/{name}.svg)", ""] if (plots / f"{name}.svg").exists() else []


@dataclass(frozen=True)
class Check:
    """One part of a goal as text, and whether the result reaches it; None if there is no result."""

    what: str
    asked: str
    found: str
    met: bool | None


ASKED = {
    "tiles_conv": ("tiles of the convolutions", "≤"),
    "tiles": ("tiles of the whole network", "≤"),
    "dense": ("accuracy dense, %", "≥"),
    "top1": ("accuracy mapped, %", "≥"),
    "loss": ("accuracy mapped, points below dense", "≤"),
    "power_saved": ("reduction of the peak power of arrays and converters, %", "≥"),
    "epochs": ("epochs of dense training minus all epochs of the compressed network", "≥"),
}
"""Keys of goals in rows.toml; ``epochs`` applies to all goals."""


def checks(network: str, goal: dict[str, Any], result: Any) -> list[Check]:
    """All parts of one goal."""
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
    """Results as text and as the number to compare: means of accuracies, and the worst run of all other figures."""
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
        return "no result yet"
    missed = [check.what for check in found if not check.met]
    return f"**not reached**: {'; '.join(missed)}" if missed else "**reached**"


def overview(rows: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """One line for each goal."""
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
    head = ["network", "goal", "state", "tiles, convolutions", "ratio of tiles", "dense", "mapped, 5 bit"]
    return ["## Overview", "", *table(head, lines, left=3)]


def section(network: str, facts: dict[str, Any], found: dict[str, Any], plots: Path) -> list[str]:
    """A network: its layers, the figures of the paper, and each goal."""
    ours = sizes(network)
    lines = [
        f"## {facts['title']}",
        "",
        facts["layers"].strip(),
        "",
        f"{ours['weights_conv']:,} weights in convolutions ({ours['weights']:,} in all), {ours['tiles_conv']:,} tiles "
        f"({ours['tiles']:,}) of `{TARGETS[network]}`, at least {ours['floor_conv']} ({ours['floor']}): one per layer.",
        "",
        *published(network, facts),
    ]
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
    """The rows of the paper, and remarks."""
    rows = [
        (
            f"{pruned:.2f}",
            ratio(weights),
            f"{area:.2f}",
            *(f"{value:.2f}" for value in bits),
            f"{facts['original'] - bits[-1]:.2f}",
        )
        for pruned, weights, area, *bits in facts["rows"]
    ]
    head = ["pruned, %", "ratio of weights", "area saved, %", "7 bit", "6 bit", "5 bit", "loss at 5 bit"]
    lines = [f"The paper (Table I; original {facts['original']:.2f}%):", "", *table(head, rows, left=0)]
    power = f"Power −{facts['power_saved']:.2f}%, area −{facts['area_saved']:.2f}% at {facts['power_at']}x."
    lines += [f"{power} {facts['caveat'].strip()}", ""]
    if network == "convnet":
        dense = sizes(network)["tiles_conv"]
        lines += [f"For our network, a ratio of 5.88x in tiles leaves {tiles_at(dense, 5.88)} of {dense}.", ""]
    return lines


def asked(network: str, goal: dict[str, Any], result: Any) -> list[str]:
    """The goal and the result."""
    found = checks(network, goal, result)
    word = {True: "yes", False: "no", None: "–"}
    lines = table(
        ["", "goal", "result", "reached"], [(line.what, line.asked, line.found, word[line.met]) for line in found]
    )
    if result:
        return lines
    reason = "" if goal.get("note") else " No reason is recorded."
    return [*lines, f"**No result yet:** there is no `{goal['name']}.json`.{reason}", ""]


RATIOS = (
    ("weights, convolutions", "weights_conv_dense", "weights_conv", "ratio_weights"),
    ("tiles at equal bits, convolutions", "tiles_conv_dense", "tiles_conv", "ratio_tiles"),
    ("arrays against dense 9 bit, convolutions", "arrays_conv_dense_9bit", "arrays_conv", "ratio_arrays"),
    ("all analog layers: tiles at equal bits", "tiles_dense", "tiles", "ratio_tiles_all"),
    ("all analog layers: arrays against dense 9 bit", "arrays_dense_9bit", "arrays", "ratio_arrays_all"),
)


def figures(result: Any) -> list[str]:
    """The four ratios, the accuracies after each step, epochs."""
    runs = result["runs"]
    ratios = [
        (label, f"{result[dense]:,}", f"{result[left]:,}", ratio(result[name])) for label, dense, left, name in RATIOS
    ]
    bits = load_target(result["target"]).converters.adc.bits
    accuracies = [
        ("dense, float", "top1_dense"),
        ("after the hard projection", "top1_projected"),
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
        f"The counts are those of seed {result['seeds'][0]}; its model is in `benchmarks/models`.",
        "",
        *table(["", "dense", "compressed", "ratio"], ratios),
        *table(head, [(label, *mean(key), *(percent(run[key]) for run in runs)) for label, key in accuracies]),
        *clipping(runs),
        *epochs(runs, result["recipe"]),
    ]


def clipping(runs: list[Any]) -> list[str]:
    """Share of conversions outside the range, and whether lossless converters change no result."""
    clipped = [run["adc_clipped"] for run in runs if run["adc_clipped"]]
    exact = "equals" if all(run["lossless_exact"] for run in runs) else "**does not equal**"
    share = (
        f"Share of conversions that clip: {statistics.fmean(entry['mean'] for entry in clipped):.2e} in the mean over "
        f"layers, {max(entry['largest'] for entry in clipped):.2e} in the worst layer. The ranges come from "
        f"{runs[0]['calibration_images']} training images."
        if clipped
        else "No converter clips."
    )
    probed = max(run.get("images_probed") or 0 for run in runs)
    on = (
        f". This comparison, and the share of conversions that clip, are measured on the first {probed:,} test "
        "images; the accuracy with lossless converters is that of the quantised network"
        if probed and probed < TEST_IMAGES
        else ""
    )
    return [
        f"{share} With lossless converters the mapped network {exact} the quantised network in every layer{on}.",
        "",
    ]


def epochs(runs: list[Any], recipe: dict[str, Any]) -> list[str]:
    """Epochs of training."""
    first = runs[0]
    retrain = recipe["compress"]["retrain"]
    before = f"{first['epochs_before_compression']} of dense training"
    if "started_from" in first:
        before = f"{first['epochs_before_compression']} of `{first['started_from']}`, which is the start"
    admm = "0 of ADMM"
    if first["epochs_admm"]:
        rho = ", ".join(f"{rho:g}" for rho in recipe["compress"]["admm"]["rho"])
        admm = f"{first['epochs_admm']} of ADMM (ρ {rho})"
    seconds = statistics.fmean(run["seconds_compress"] for run in runs)
    return [
        f"Epochs: {first['epochs_dense']} dense; {first['epochs_compressed_in_all']} for the compressed network: "
        f"{before}, {admm} and {first['epochs_retrain']} of masked retraining ({retrain.get('float_epochs', 0)} of "
        f"these in float). Compression took {seconds / 60:,.0f} minutes per seed. The result file contains every "
        "hyper-parameter under `recipe`.",
        "",
    ]


def layers(result: Any) -> list[str]:
    """Remaining rows, columns and weights of each layer, in the first run."""
    run = result["runs"][0]
    energy = result["power_and_area"]["energy_per_inference_by_layer_j"]
    rows = []
    for layer in run["layers"]:
        name = layer["name"]
        clipped = run["adc_clipped_layers"].get(name)
        rows.append(
            (
                f"`{name}`",
                structure(layer["structure"]),
                "{1} x {2}".format(*layer["matrix"]),
                f"{layer['weights']:,} of {layer['weights_dense']:,}",
                f"{layer['tiles']} of {layer['tiles_dense']}",
                quantity(energy[name], "J") if name in energy else "–",
                "–" if clipped is None else f"{clipped:.1e}",
            )
        )
    head = ["layer", "constraint", "matrix", "weights", "tiles", "energy, parts in use", "share clipped"]
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
