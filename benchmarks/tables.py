"""Markdown of the results page: numbers as text, tables, and the sections that belong to no single network."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

PREFIXES = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"), (1e-12, "p"))


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], left: int = 1) -> list[str]:
    """Lines of a table; the first ``left`` columns are text, the others numbers."""
    rule = ["---"] * left + ["--:"] * (len(head) - left)
    lines = [head, rule, *([str(cell) for cell in row] for row in rows)]
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]


def percent(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f}"


def ratio(value: float) -> str:
    return f"{value:.2f}x"


def quantity(value: float, unit: str) -> str:
    """Three digits with an SI prefix."""
    factor, prefix = next(((f, p) for f, p in PREFIXES if abs(value) >= f), PREFIXES[-1])
    return f"{value / factor:.3g} {prefix}{unit}" if value < 1000 else f"{value:,.0f} {unit}"


def area(value: float) -> str:
    return f"{value * 1e6:.3g} mm²"


def over_runs(runs: Sequence[Any], key: str, digits: int = 2) -> str:
    """Mean of percentages over runs, with the standard deviation if there are several runs."""
    values = [100 * run[key] for run in runs]
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def counts(values: Iterable[int]) -> str:
    """One count, or a range of counts."""
    found = sorted(set(values))
    return f"{found[0]:,}" if len(found) == 1 else f"{found[0]:,} to {found[-1]:,}"


def structure(entry: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in entry.items()) or "none"


def machine(result: Any) -> str:
    facts = result["machine"]
    versions = ", ".join(f"{name} {facts[name]}" for name in ("numpy", "onnx", "onnxruntime"))
    return f"Measured on {facts['processor']}, {facts['cores']} cores; Python {facts['python']}, {versions}."


# --- power and area --------------------------------------------------------------------------------------------------

FIGURES = (
    ("peak_array_power_w", "peak power of arrays and converters, all active", "W"),
    ("array_area_m2", "area of arrays and converters", "m²"),
    ("array_energy_j", "energy per inference of arrays and converters", "J"),
    ("floor", "lower limit of this energy: one tile per layer", "J"),
    ("chip_power_w", "chip power, at equal throughput", "W"),
    ("chip_area_m2", "chip area", "m²"),
)


def power_and_area(result: Any, goal: dict[str, Any], paper: dict[str, Any]) -> list[str]:
    """Compressed at 5 bit against dense at 9 bit, in three ways."""
    facts = result["power_and_area"]
    floor = facts["floor_array_energy_j"]
    large = {**facts["dense_9bit"], "floor": facts["dense_9bit"]["array_energy_j"]}
    small = {**facts["compressed_5bit"], "floor": floor}
    asked = {"peak_array_power_w": goal.get("power_saved")}
    theirs = {"peak_array_power_w": paper["power_saved"], "array_area_m2": paper["area_saved"]}
    rows = [
        (
            label,
            measured(large[key], unit),
            measured(small[key], unit),
            percent(1 - small[key] / large[key]) if large[key] else "–",
            f"{asked[key]:.1f}" if asked.get(key) else "–",
            f"{theirs[key]:.2f}" if key in theirs else "–",
        )
        for key, label, unit in FIGURES
    ]
    head = ["", "dense, 9 bit", "compressed, 5 bit", "reduction, %", "goal", f"paper at {paper['power_at']}x, %"]
    return [
        *table(head, rows),
        f"Equal throughput: {facts['throughput_per_s']:,.0f} inferences per second, the maximum of the slower "
        "network. The first two lines correspond to the figures of the paper; they are proportional to the number of "
        "arrays. Early layers process the most vectors and keep at least one tile each; this limits the energy from "
        "below. Totals of the chip include everything in the cost model. The component values come from the target; "
        "most of them are assumptions, which every cost report lists.",
        "",
    ]


def measured(value: float, unit: str) -> str:
    return area(value) if unit == "m²" else quantity(value, unit)


# --- distribution of a budget ----------------------------------------------------------------------------------------


def budget(result: Any) -> list[str]:
    """Tiles of each layer under a budget of crossbars, and under a budget of the energy that these crossbars need."""
    plans, free = result["plans"], result["plans_unlinked"]
    spent = plans["crossbars"]["takes"]
    misses = plans["energy_j"]["importance_kept"] < plans["crossbars"]["importance_kept"]
    same = all(found["area_m2"]["tiles"] == found["crossbars"]["tiles"] for found in (plans, free))
    return [
        f"The search for `[budget]` on the convolutions of VGG-16 (saliencies from {result['batches']} batches of "
        f"{result['batch']} training images), once for {spent['crossbars']:.0f} crossbars, and once for the "
        f"{quantity(spent['energy_j'], 'J')} per inference that these crossbars need. No network is trained here.",
        "",
        *budget_table(result["layers"], [found[key] for found in (plans, free) for key in ("crossbars", "energy_j")]),
        *moved("With links", result, plans),
        *moved("Without links", result, free),
        (
            "A budget of area gives the same plan as a budget of crossbars, because every array position has the same "
            "area. "
            if same
            else ""
        )
        + "Links are channels that one layer writes and other layers read: if one plan removes a channel, the channel "
        "has no value in the others. `compress` searches with links, by a heuristic"
        + (", which here does not find that the plan for crossbars is affordable and keeps more. " if misses else ". ")
        + "Without links, the search is exact; at equal prices, the plan for energy then keeps at least as much. "
        "Prices are means over the tiles of a layer, and the remaining tiles are fuller. So `compress` compiles a "
        "plan, and searches with a smaller budget until the mapped energy is within the budget.",
        "",
        machine(result),
        "",
    ]


def budget_table(layers: list[Any], plans: Sequence[Any]) -> list[str]:
    """One line per layer, one column per plan; the last lines show what each plan needs and keeps."""
    rows: list[Sequence[Any]] = [
        (
            layer["name"],
            "{1} x {2}".format(*layer["matrix"]),
            f"{layer['vectors']:,}",
            quantity(layer["price"]["energy_j"], "J"),
            layer["tiles_dense"],
            *(plan["tiles"][layer["name"]] for plan in plans),
        )
        for layer in layers
    ]
    dense = f"{sum(layer['tiles_dense'] for layer in layers):,}"
    rows.append(("tiles", "", "", "", dense, *(sum(plan["tiles"].values()) for plan in plans)))
    rows.append(("energy, by prices", "", "", "", "", *(quantity(plan["takes"]["energy_j"], "J") for plan in plans)))
    rows.append(("energy, as mapped", "", "", "", "", *(quantity(plan["mapped_j"], "J") for plan in plans)))
    rows.append(("saliency kept, %", "", "", "", "", *(percent(plan["importance_kept"]) for plan in plans)))
    head = ["layer", "matrix", "vectors", "energy per tile", "dense"]
    return table(
        [*head, "crossbar budget", "energy budget", "crossbar budget, no links", "energy budget, no links"], rows
    )


def moved(title: str, result: Any, plans: Any) -> list[str]:
    """Layers that have fewer and more tiles under the energy budget than under the crossbar budget."""
    one, other = plans["crossbars"]["tiles"], plans["energy_j"]["tiles"]
    named = [
        (f"{layer['name']} ({layer['vectors']:,} vectors)", other[layer["name"]] - one[layer["name"]])
        for layer in result["layers"]
    ]
    less = ", ".join(name for name, change in named if change < 0) or "none"
    more = ", ".join(name for name, change in named if change > 0) or "none"
    return [f"{title}, the energy budget gives fewer tiles to layers {less}, and more tiles to {more}.", ""]


# --- the digits network, and the time of an epoch --------------------------------------------------------------------


def sweep(result: Any) -> list[str]:
    """The digits network under budgets of crossbars."""
    dense = 100 * result["top1_dense"]
    rows = []
    for row in result["rows"]:
        points = [point for point in result["points"] if point["budget"] == row["budget"]]
        rows.append(
            (
                row["budget"],
                counts(row["tiles"]),
                ratio(row["ratio_weights"]),
                percent(row["top1_projected"]),
                over_runs(points, "top1_mapped"),
                f"{100 * row['top1_mapped'] - dense:+.2f}",
            )
        )
    worst = min(100 * row["top1_mapped"] - dense for row in result["rows"])
    exact = all(point["exact"] for point in result["points"])
    seeds = sorted({point["seed"] for point in result["points"]})
    return [
        f"The network of the demo on scikit-learn's digits, `{result['target']}`, all layers searched: "
        f"{result['tiles_dense']} crossbars dense, with {dense:.2f}% of {result['images']} held-out images (one image "
        f"is {100 / result['images']:.2f} points). Each point has {result['epochs_admm']} epochs of ADMM and "
        f"{result['epochs_retrain']} of retraining, from one dense network with {result['dense_epochs']} epochs (seed "
        f"{result['dense_seed']}), with seeds {', '.join(map(str, seeds))} of the compression.",
        "",
        *table(["budget", "crossbars", "weights", "hard projection, %", "mapped, %", "against dense"], rows, left=0),
        f"The largest loss of the mean of a budget is {max(0.0, -worst):.2f} points. The digits are an easy task; "
        "they test the method more than the network. "
        + (
            "The converters are lossless here, and every mapped model equals its quantised reference."
            if exact
            else "Not every mapped model equals its quantised reference: this is a fault."
        ),
        "",
        machine(result),
        "",
    ]


def epoch_cost(result: Any) -> list[str]:
    """The time of an ADMM epoch and of a plain epoch."""
    over = result["admm_over_plain"]
    verdict = "within" if over["median"] <= 1.15 else "above"
    return [
        f"{result['network']}, batch {result['batch']}, {result['precision']}, {result['threads']} thread(s). The "
        f"times of epochs follow from {result['rounds']} rounds of {result['steps_per_round']} step(s) of each kind, "
        f"in turn: a plain epoch takes {result['epoch_s']['plain']:,.1f} s, an ADMM epoch "
        f"{result['epoch_s']['admm']:,.1f} s, including {result['update_s']:.3g} s of projections. The median ratio "
        f"is {over['median']:.3f} (single rounds {over['min']:.3f} to {over['max']:.3f}), {verdict} the goal of 1.15.",
        "",
        machine(result),
        "",
    ]


def tiles_at(tiles_dense: int, wanted: float) -> int:
    """The largest number of remaining tiles at a ratio."""
    return math.floor(tiles_dense / wanted)
