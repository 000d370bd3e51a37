"""Plots of what the other benchmarks have measured: docs/plots/*.svg, the same bytes for the same results.

    python benchmarks/plots.py [--results benchmarks/results] [--out docs/plots]

Accuracy against crossbars (digits_sweep.json and every network of rows.toml that has a result); residuals and training
curves over epochs, from <name>.log.jsonl. Figures without results are left out. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
from common import RESULTS
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

HERE = Path(__file__).resolve().parent
PLOTS = HERE.parent / "docs" / "plots"

# Okabe and Ito's colours, which the colour-blind tell apart.
BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#8c8c8c"
STAGES = {"admm": (BLUE, "ADMM"), "float": (ORANGE, "masked, float"), "quantised": (GREEN, "masked, on levels")}
STYLE = {
    "svg.hashsalt": "mcompiler", "svg.fonttype": "none", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3,
    "axes.spines.top": False, "axes.spines.right": False, "figure.facecolor": "white", "savefig.facecolor": "white",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=PLOTS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        for name, figure in figures(args.results):
            path = args.out / f"{name}.svg"
            figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
            path.write_text("".join(f"{line.rstrip()}\n" for line in path.read_text().splitlines()))
            print(path)


def figures(results: Path) -> Iterator[tuple[str, Figure]]:
    """Every plot that there are results for."""
    rows = tomllib.loads((HERE / "rows.toml").read_text())["networks"]
    goals = [(network, goal) for network, facts in rows.items() for goal in facts["goals"]]
    found = {goal["name"]: read(results / f"{goal['name']}.json") for _, goal in goals}
    sweep = read(results / "digits_sweep.json")
    reached: dict[str, list[Any]] = {}
    for network, goal in goals:
        if found[goal["name"]]:
            reached.setdefault(network, []).append(found[goal["name"]])
    if sweep or reached:
        yield "accuracy_crossbars", accuracy_crossbars(sweep, rows, reached)
    for network, goal in goals:
        log = results / f"{goal['name']}.log.jsonl"
        if log.exists():
            lines = [json.loads(line) for line in log.read_text().splitlines()]
            title = f"{rows[network]['title']}, {goal['title']}"
            if any(line["stage"] == "admm" for line in lines):
                yield f"residuals_{goal['name']}", residuals(lines, title)
            yield f"training_{goal['name']}", training(lines, found[goal["name"]], title)


def read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


# --- accuracy against crossbars --------------------------------------------------------------------------------------


def accuracy_crossbars(sweep: Any, rows: dict[str, Any], reached: dict[str, list[Any]]) -> Figure:
    """The digits under many budgets; each network dense and compressed."""
    count = bool(sweep) + len(reached)
    columns = min(2, count)
    lines = math.ceil(count / columns)
    figure = Figure(figsize=(4.6 * columns, 3.3 * lines), layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.set_visible(False)
    if sweep:
        plot_sweep(axes.pop(0), sweep)
    for axis, (network, results) in zip(axes, reached.items(), strict=False):
        plot_network(axis, rows[network], results)
    return figure


def plot_sweep(axis: Axes, sweep: Any) -> None:
    """Mean and spread over seeds of each budget, every point, and the dense network."""
    points = sweep["points"]
    axis.plot(
        [point["tiles"] for point in points], [100 * point["top1_mapped"] for point in points], ".", color=GREY, ms=4,
        label="one seed",
    )  # fmt: skip
    tiles = [statistics.fmean(row["tiles"]) for row in sweep["rows"]]
    means = [100 * row["top1_mapped"] for row in sweep["rows"]]
    spread = [100 * (row["spread"] or 0.0) for row in sweep["rows"]]
    axis.errorbar(tiles, means, spread, fmt="o-", color=BLUE, ms=4, capsize=3, label="mapped, mean and deviation")
    dense = 100 * sweep["top1_dense"]
    axis.axhline(dense, color=GREY, ls="--", lw=1)
    axis.plot([sweep["tiles_dense"]], [dense], "s", color=GREY, label=f"dense, {sweep['tiles_dense']} crossbars")
    axis.set(title=f"digits, {sweep['target']}, all layers", xlabel="crossbars", ylabel="top-1, %")
    low = min(100 * point["top1_mapped"] for point in points)
    axis.set_ylim(min(low, dense) - 1.0, 100.2)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(loc="lower right", frameon=False)


def plot_network(axis: Axes, row: dict[str, Any], results: list[Any]) -> None:
    """Dense and compressed convolutions; the paper where it maps the same network."""
    first = results[0]
    dense = (first["tiles_conv_dense"], 100 * first["top1_dense"])
    best = [(result["tiles_conv"], 100 * result["top1_mapped"]) for result in results]
    axis.plot(*zip(dense, *sorted(best, reverse=True), strict=True), "-", color=BLUE, lw=1, alpha=0.5)
    axis.plot(*dense, "s", color=GREY, label=f"dense, float, {dense[0]:,}")
    for result, (tiles, top1) in zip(results, best, strict=True):
        error = 100 * (result["spread"]["top1_mapped"] or 0.0)
        axis.errorbar([tiles], [top1], [error], fmt="o", color=BLUE, capsize=3, label=f"mapped at 5 bit, {tiles}")
    if row.get("same_network"):
        ours = first["tiles_conv_dense"]
        points = [(math.ceil(ours / ratio), five) for _, ratio, _, _, _, five in row["rows"]]
        axis.plot(
            *zip(*points, strict=True), "x", color=RED, ls="none",
            label="paper at 5 bit, if its ratios\nof weights were of crossbars",
        )  # fmt: skip
    axis.axvline(first["tiles_conv_floor"], color=GREY, ls=":", lw=1, label=f"floor, {first['tiles_conv_floor']}")
    axis.set_xscale("log")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set(title=row["title"], xlabel="array positions of the convolutions", ylabel="top-1, %")
    low, high = axis.get_ylim()
    axis.set_ylim(low - 0.9 * (high - low), high)
    axis.legend(loc="lower right", frameon=False, fontsize=7.5)


# --- over epochs -----------------------------------------------------------------------------------------------------


def residuals(lines: list[Any], title: str) -> Figure:
    """Primal and dual residuals of every layer, the worst drawn thick; rho where it rises."""
    lines = [line for line in lines if line["stage"] == "admm"]
    epochs = [line["epoch"] + 1 for line in lines]
    figure = Figure(figsize=(9.2, 3.0), layout="constrained")
    kinds = {
        "primal_structure": "weights − structure, |W − Y| / |W|",
        "primal_levels": "weights − levels, |W − Z| / |W|",
        "dual": "dual, ρ |ΔY, ΔZ| / |W|",
    }
    for axis, (kind, label) in zip(figure.subplots(1, 3), kinds.items(), strict=True):
        layers = list(lines[0]["residuals"])
        values = {name: [line["residuals"][name][kind] for line in lines] for name in layers}
        for name in layers:
            axis.plot(epochs, values[name], "-", marker=".", ms=3, color=GREY, lw=0.7, alpha=0.6)
        worst = [max(values[name][index] for name in layers) for index in range(len(lines))]
        axis.plot(epochs, worst, "o-", color=BLUE, ms=4, label="worst layer")
        axis.plot([], [], "-", color=GREY, lw=0.7, label="each layer")
        mark_rho(axis, lines)
        axis.set_ylim(bottom=0.0)
        axis.margins(x=0.08)
        axis.set(title=label, xlabel="ADMM epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(frameon=False)
    figure.suptitle(title)
    return figure


def mark_rho(axis: Axes, lines: list[Any]) -> None:
    """A line where rho rises, with its value."""
    before = None
    for line in lines:
        rho = next(iter(line["residuals"].values()))["rho"]
        if rho != before:
            place = line["epoch"] + 0.5
            axis.axvline(place, color=ORANGE, lw=0.8, ls=":")
            axis.annotate(
                f"ρ {rho:g}", (place, 1.0), xycoords=("data", "axes fraction"), xytext=(2, -9),
                textcoords="offset points", color=RED, fontsize=7.5,
            )  # fmt: skip
        before = rho


def training(lines: list[Any], result: Any, title: str) -> Figure:
    """Loss and test accuracy, epoch by epoch, stage by stage; the hard projection between them."""
    figure = Figure(figsize=(9.2, 3.0), layout="constrained")
    loss, top1 = figure.subplots(1, 2)
    number, last = 0, (0, math.nan)
    curves: dict[str, list[tuple[int, float, float]]] = {}
    for line in lines:
        accuracy = math.nan if line.get("accuracy") is None else 100 * line["accuracy"]
        if line["stage"] == "projection":
            top1.plot([number], [accuracy], "v", color=RED, label="hard projection")
            top1.plot([last[0], number], [last[1], accuracy], ":", color=RED, lw=1)
        elif line["stage"] in STAGES:
            number += 1
            last = (number, accuracy)
            curves.setdefault(line["stage"], []).append((number, line["loss"], accuracy))
    for stage, points in curves.items():
        colour, label = STAGES[stage]
        epochs, losses, accuracies = zip(*points, strict=True)
        loss.plot(epochs, losses, "o-", ms=3, color=colour, label=label)
        top1.plot(epochs, accuracies, "o-", ms=3, color=colour, label=label)
    if result:
        run = result["runs"][0]
        top1.axhline(100 * run["top1_dense"], color=GREY, ls="--", lw=1, label="dense")
        top1.plot([number], [100 * run["top1_mapped"]], "*", color=BLUE, ms=9, label="mapped")
    loss.set(title="training loss, without penalty", xlabel="epoch", ylabel="loss")
    top1.set(title="test accuracy", xlabel="epoch", ylabel="top-1, %")
    for axis in (loss, top1):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    top1.legend(frameon=False, loc="lower right", fontsize=7.5)
    figure.suptitle(title)
    return figure


if __name__ == "__main__":
    main()
