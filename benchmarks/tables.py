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
    """Mean of percentages over runs, with the standard deviation where there are several."""
    values = [100 * run[key] for run in runs]
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def counts(values: Iterable[int]) -> str:
    """One count, or from to."""
    found = sorted(set(values))
    return f"{found[0]:,}" if len(found) == 1 else f"{found[0]:,} to {found[-1]:,}"


def structure(entry: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in entry.items()) or "all"


def machine(result: Any) -> str:
    facts = result["machine"]
    versions = ", ".join(f"{name} {facts[name]}" for name in ("numpy", "onnx", "onnxruntime"))
    return f"Measured on {facts['processor']}, {facts['cores']} cores; Python {facts['python']}, {versions}."


# --- power and area --------------------------------------------------------------------------------------------------

FIGURES = (
    ("peak_array_power_w", "peak power of arrays and converters, all active", "W"),
    ("array_area_m2", "area of arrays and converters", "m²"),
    ("array_energy_j", "energy an inference of arrays and converters", "J"),
    ("floor", "its floor: one tile in each layer", "J"),
    ("chip_power_w", "chip power, at equal throughput", "W"),
    ("chip_area_m2", "chip area", "m²"),
)


def power_and_area(result: Any, goal: dict[str, Any], paper: dict[str, Any]) -> list[str]:
    """Compressed at 5 bit against dense at 9 bit, three ways."""
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
    head = ["", "dense, 9 bit", "compressed, 5 bit", "less, %", "asked", f"paper at {paper['power_at']}x, %"]
    return [
        *table(head, rows),
        f"Equal throughput: {facts['throughput_per_s']:,.0f} inferences a second, what the slower of the two reaches. "
        "The first two lines are the paper's kind of figure, and array counts in disguise. Early layers see the most "
        "vectors and keep at least one tile each: that is the floor of the energy. Chip totals go as far as the cost "
        "model does; prices of parts are the target's, most of them assumptions that every cost report lists.",
        "",
    ]


def measured(value: float, unit: str) -> str:
    return area(value) if unit == "m²" else quantity(value, unit)


# --- where a budget goes ---------------------------------------------------------------------------------------------


def budget(result: Any) -> list[str]:
    """Tiles by layer when crossbars are spent, and when the energy is that those take."""
    plans, free = result["plans"], result["plans_unlinked"]
    spent = plans["crossbars"]["takes"]
    misses = plans["energy_j"]["importance_kept"] < plans["crossbars"]["importance_kept"]
    same = all(found["area_m2"]["tiles"] == found["crossbars"]["tiles"] for found in (plans, free))
    return [
        f"The search of `[budget]` on VGG-16's convolutions (saliencies from {result['batches']} batches of "
        f"{result['batch']} training images), once for {spent['crossbars']:.0f} crossbars, once for the "
        f"{quantity(spent['energy_j'], 'J')} an inference that those take. Nothing is trained here.",
        "",
        *budget_table(result["layers"], [found[key] for found in (plans, free) for key in ("crossbars", "energy_j")]),
        *moved("With links", result, plans),
        *moved("Without links", result, free),
        ("A budget of area buys what one of crossbars buys: every array position has the same area. " if same else "")
        + "Links are channels that one layer writes and others read: what one plan cuts off counts nothing in the "
        "others. `compress` searches with them, as a heuristic"
        + (", which here misses that the plan for crossbars is affordable and keeps more; " if misses else "; ")
        + "without them the search is exact, and at equal prices the plan that spends energy cannot keep less. Prices "
        "are means over a layer's tiles, and those that stay are fuller: `compress` compiles a plan, and searches with "
        "less until it keeps its energy as it is mapped.",
        "",
        machine(result),
        "",
    ]


def budget_table(layers: list[Any], plans: Sequence[Any]) -> list[str]:
    """A line a layer, a column a plan; what each plan takes and keeps below."""
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
    rows.append(("energy, by price", "", "", "", "", *(quantity(plan["takes"]["energy_j"], "J") for plan in plans)))
    rows.append(("energy, as mapped", "", "", "", "", *(quantity(plan["mapped_j"], "J") for plan in plans)))
    rows.append(("saliency kept, %", "", "", "", "", *(percent(plan["importance_kept"]) for plan in plans)))
    head = ["layer", "matrix", "vectors", "energy a tile", "dense"]
    return table([*head, "crossbars", "energy", "crossbars, no links", "energy, no links"], rows)


def moved(title: str, result: Any, plans: Any) -> list[str]:
    """Which layers lose and gain tiles when energy is spent instead of crossbars."""
    one, other = plans["crossbars"]["tiles"], plans["energy_j"]["tiles"]
    named = [
        (f"{layer['name']} ({layer['vectors']:,} vectors)", other[layer["name"]] - one[layer["name"]])
        for layer in result["layers"]
    ]
    less = ", ".join(name for name, change in named if change < 0) or "none"
    more = ", ".join(name for name, change in named if change > 0) or "none"
    return [f"{title}, spending energy takes tiles from layers {less}, and gives tiles to {more}.", ""]


# --- the digits, and what an epoch costs -----------------------------------------------------------------------------


def sweep(result: Any) -> list[str]:
    """The digits network under budgets of crossbars."""
    dense = 100 * result["top1_dense"]
    rows = []
    for row in result["rows"]:
        points = [point for point in result["points"] if point["budget"] == row["budget"]]
        rows.append(
            (row["budget"], counts(row["tiles"]), ratio(row["ratio_weights"]), percent(row["top1_projected"]),
             over_runs(points, "top1_mapped"), f"{100 * row['top1_mapped'] - dense:+.2f}")
        )  # fmt: skip
    worst = min(100 * row["top1_mapped"] - dense for row in result["rows"])
    exact = all(point["exact"] for point in result["points"])
    seeds = sorted({point["seed"] for point in result["points"]})
    return [
        f"The demo's network on scikit-learn's digits, `{result['target']}`, all layers searched: "
        f"{result['tiles_dense']} crossbars dense, at {dense:.2f}% of {result['images']} held-out images (one image is "
        f"{100 / result['images']:.2f} points). {result['epochs_admm']} epochs of ADMM and "
        f"{result['epochs_retrain']} of retraining a point, one dense network of {result['dense_epochs']} epochs (seed "
        f"{result['dense_seed']}), seeds {', '.join(map(str, seeds))} of the compression.",
        "",
        *table(["budget", "crossbars", "weights", "hard projection, %", "mapped, %", "against dense"], rows, left=0),
        f"The largest loss of a budget's mean is {max(0.0, -worst):.2f} points: digits are easy, and test the "
        "way more than the network. "
        + ("Converters are lossless here, and every mapped model equals its quantised reference." if exact else
           "Not every mapped model equals its quantised reference: that is a fault."),
        "",
        machine(result),
        "",
    ]  # fmt: skip


def epoch_cost(result: Any) -> list[str]:
    """An ADMM epoch against a plain one."""
    over = result["admm_over_plain"]
    verdict = "within" if over["median"] <= 1.15 else "above"
    return [
        f"{result['network']}, batch {result['batch']}, {result['precision']}, {result['threads']} thread(s), "
        f"{result['rounds']} rounds of {result['steps_per_round']} step(s) of each kind in turn, from which epochs are "
        f"reckoned: a plain one takes {result['epoch_s']['plain']:,.1f} s, one of ADMM "
        f"{result['epoch_s']['admm']:,.1f} s with its {result['update_s']:.3g} s of projections. Median ratio "
        f"{over['median']:.3f} (single rounds {over['min']:.3f} to {over['max']:.3f}), {verdict} the 1.15 that was "
        "asked for.",
        "",
        machine(result),
        "",
    ]


def tiles_at(tiles_dense: int, wanted: float) -> int:
    """Tiles that are left at most at a ratio."""
    return math.floor(tiles_dense / wanted)
