"""The text of docs/robustness.md and its plot, from benchmarks/results/robustness.json; `robustness.py` writes both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PANELS = {  # title: label and sweep of each line
    "programming error, share of g": {"": "programming, share of g"},
    "programming error, log-normal sigma": {"": "programming, log-normal"},
    "stuck cells": {"": "stuck cells"},
    "drift": {"as it is": "drift", "compensated": "drift, compensated"},
    "ADC bits": {
        "full range": "ADC bits, full range",
        "range per layer": "ADC bits, range per layer",
        "per array": "ADC bits, range per array",
        "per column": "ADC bits, range per column",
    },
    "ADC errors, codes of offset and % of gain": {
        "as they are": "ADC errors, as they are",
        "corrected per ADC": "ADC errors, corrected per ADC",
        "per column": "ADC errors, corrected per column",
    },
    "wires, ohm x g_max x rows^2": {
        "as written": "wires, ohm x g_max x rows^2",
        "predistorted": "wires, predistorted",
    },
}

_ADC_ERRORS = (
    " ADC errors of n are an offset of n codes and a gain of n% (standard deviations over the ADCs, one ADC per "
    "array). The corrections are fitted with 64 known vectors."
)


def page(result: dict[str, Any]) -> str:
    """docs/robustness.md."""
    points = result["points"].values()
    first = next(iter(points))
    lines = [
        "# Robustness to device errors: ResNet-20",
        "",
        "`python benchmarks/robustness.py --parts page` writes this page from `benchmarks/results/robustness.json`.",
        "",
        f"The network is a ResNet-20 on CIFAR-10, measured on the first {first['images']} test images, with "
        f"{first['trials']} chips per point (one chip if nothing is random). The chip has 4-bit cells of 1 to 50 uS in "
        "differential pairs, 128x128 arrays, 1-bit phases, and an 8-bit ADC whose range is calibrated on 256 training "
        f"images. The accuracy is {100 * first['top1_float']:.1f}% in float, {100 * first['top1_quantised']:.1f}% "
        f"quantised, and {100 * first['top1_ideal']:.1f}% for this mapping with ideal devices. The intervals are 95% "
        "confidence intervals of the mean (Student's t over chips).",
        "",
        "![accuracy against each effect](plots/robustness.svg)",
        "",
        "| effect | value | top-1 % | interval % | 5th percentile % |",
        "|---|---|---|---|---|",
    ]
    for point in points:
        low, high = point["interval"] or (point["mean"], point["mean"])
        mean = point["mean"] if point["effects"] else point["top1_ideal"]
        lines.append(
            f"| {point['sweep']} | {point['value']} | {100 * mean:.1f} | "
            + (f"{100 * low:.1f} to {100 * high:.1f}" if point["interval"] else "-")
            + (" | - |" if point["percentile5"] is None else f" | {100 * point['percentile5']:.1f} |")
        )
    lines += [
        "",
        "Drift follows IBM's law for phase-change memory, applied to these cells; the compensation measures every "
        "array each 20 s. Ranges of arrays and columns are the range of their layer divided by powers of two."
        + (_ADC_ERRORS if any(point["sweep"].startswith("ADC errors") for point in points) else ""),
    ]
    if "compressed" in result:
        lines += compressed_lines(result["compressed"])
    if "cost" in result:
        cost = result["cost"]
        lines += [
            "",
            "## Run time of a trial",
            "",
            "The run times are relative to the same simulation without effects and without folding: "
            f"{cost['static_over_none']['median']:.2f} times with static effects (goal: 1.1), and "
            f"{cost['per_read_over_none']['median']:.2f} times with noise per read (goal: 2.5). They are medians of 7 "
            "rounds on one thread.",
        ]
    for run in result.get("wires_time", []):
        lines += [
            "",
            f"All {run['images']:,} images with wires of 1 ohm per segment, {run['cell_bits']}-bit cells and "
            f"{run['crossbars']} crossbars take {run['seconds']:.0f} s on one thread, of which "
            f"{run['seconds_solver_and_model']:.1f} s are for transfer matrices and model; top-1 is "
            f"{100 * run['top1']:.2f}%.",
        ]
    if "neurram" in result:
        found = result["neurram"]
        lines += [
            "",
            "## NeuRRAM",
            "",
            f"Wan et al. (Nature 608, 504, 2022) measured {100 * found['measured_top1']:.1f}% on the chip, with a "
            "ResNet-20 with 4-bit weights that was trained with noise and fine-tuned on the chip.",
            "",
            "Here, the float ResNet-20 of our tests is quantised after training to 4-bit weights and 3-bit inputs, "
            f"for the target `neurram`, without fitted parameters. The accuracy is {100 * found['top1_float']:.1f}% "
            f"in float, {100 * found['top1_quantised']:.1f}% quantised, {100 * found['top1_ideal']:.1f}% with "
            f"converters, and {100 * found['mean']:.1f}% on {len(found['chips'])} chips half an hour after "
            "programming. The networks are not comparable, because ours is neither trained with noise nor fine-tuned. "
            "The figure shows the effect of the chip on a network that is not trained for it. The sources in the "
            "target list the assumptions.",
        ]
    return "\n".join(lines) + "\n"


def compressed_lines(networks: dict[str, dict[str, Any]]) -> list[str]:
    """The table of the compressed networks."""
    first = next(iter(networks.values()))
    lines = [
        "",
        "## Compressed networks",
        "",
        "These are the 5-bit networks of [results.md](results.md) on `yuan2019` and its 32x32 arrays, with cells of "
        f"0.1 to 1 uS and 8-bit ADCs with calibrated ranges: top-1 in % on the first {first['images']} test images, "
        f"mean and 95% confidence interval over {first['trials']} chips. None of them was trained for such devices; "
        "[admm.md](admm.md#device-errors-in-training) describes such training.",
        "",
        "| | " + " | ".join(networks) + " |",
        "| --- |" + " --: |" * len(networks),
    ]
    for name in first["points"]:
        cells = []
        for network in networks.values():
            point = network["points"][name]
            low, high = point["interval"] or (None, None)
            mean = point["mean"] if low is not None else point["top1_ideal"]
            cells.append(f"{100 * mean:.1f}" + ("" if low is None else f" ({100 * low:.1f} to {100 * high:.1f})"))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def plot(result: dict[str, Any], path: Path) -> None:
    """One panel per effect, with and without correction on the chip."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "mcompiler"
    from matplotlib import pyplot as plt

    sweeps: dict[str, list[dict[str, Any]]] = {}
    for point in result["points"].values():
        sweeps.setdefault(point["sweep"], []).append(point)
    fig, axes = plt.subplots(2, 4, figsize=(13, 5.5), sharey=True)
    panels = {title: lines for title, lines in PANELS.items() if any(name in sweeps for name in lines.values())}
    for axis, (title, lines) in zip(axes.flat, panels.items(), strict=False):
        ticks = list(dict.fromkeys(row["value"] for name in lines.values() for row in sweeps.get(name, [])))
        ticks = ticks if isinstance(ticks[0], str) else sorted(ticks)
        for label, name in lines.items():
            rows = sweeps.get(name, [])
            rows = sorted(rows, key=lambda row: ticks.index(row["value"]))
            means = [100 * (row["mean"] if row["effects"] else row["top1_ideal"]) for row in rows]
            spread = [100 * (row["deviation"] or 0) for row in rows]
            at = [ticks.index(row["value"]) for row in rows]
            axis.errorbar(at, means, yerr=spread, marker="o", capsize=3, label=label)
        axis.axhline(100 * next(iter(result["points"].values()))["top1_quantised"], color="grey", lw=0.8, ls="--")
        axis.set_xticks(range(len(ticks)), [str(value) for value in ticks], fontsize=7)
        axis.set_title(title, fontsize=9)
        axis.set_ylim(0, 100)
        if len(lines) > 1:
            axis.legend(fontsize=7, loc="lower left")
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_axis_off()
    axes[0][0].set_ylabel("top-1 %")
    axes[1][0].set_ylabel("top-1 %")
    fig.tight_layout()
    fig.savefig(path, metadata={"Date": None})
