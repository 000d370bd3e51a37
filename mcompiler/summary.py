"""What a user sees on the terminal: the compilation on one screen, the cost tables, the verdict of ``verify``.

Plain text without colours or box characters, so that a pipe gets what a terminal gets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mcompiler.artefacts import LayerData
from mcompiler.cost import DIGITAL, Cost, Price
from mcompiler.fates import reason_text
from mcompiler.ir import Fate, NodeFate
from mcompiler.simulate import LayerResult, Trials, Verification
from mcompiler.target import Target
from mcompiler.text import area, clean, count, facts, percent, plural, quantity, shorten, table

SCREEN = 100
"""Columns that a summary may take."""

LARGEST = 8
"""Layers shown on one screen."""

REASONS = 3
"""Reasons shown for nodes that stay digital."""

_NAME, _REASON = 30, 64


# --- compile ---------------------------------------------------------------------------------------------------------


def compile_summary(
    model: str, target: Target, fates: Sequence[NodeFate], layers: Sequence[LayerData], cost: Cost, chips: int
) -> str:
    """What was compiled for what, how it fits and what it costs: at most 40 lines of 100 columns.

    Args:
        model: what to call the model.
        target: the chip.
        fates: of every node.
        layers: the analog layers.
        cost: of the build.
        chips: how many are used.
    """
    parts = [
        f"{shorten(f'{model} on {target.name}', SCREEN)}\n{shorten(target.description, SCREEN)}".rstrip(),
        facts(
            [*_node_facts(fates), *_mapping_facts(layers, cost, chips), *_operation_facts(layers, cost), *_totals(cost)]
        ),
    ]
    if layers:
        parts.append(_largest(layers, cost))
    return "\n\n".join(parts)


def reorder_line(found: Mapping[str, Any]) -> str:
    """What another order of word and bit lines gained, from ``Build.reorder``."""
    before, after, bound, routing = (found[key] for key in ("tiles_before", "tiles_after", "bound", "routing_bytes"))
    gained = f", {percent(1 - after / before)} fewer" if after < before else ""
    return (
        f"reordered lines: {before:,} array positions before, {after:,} after{gained}; no order needs fewer than "
        f"{bound:,}; their tables of addresses take {routing:,} B"
    )


def remap_line(moved: Mapping[str, Any]) -> str:
    """What moving lines around stuck cells gained, from ``Build.remap``."""
    before, after = moved["harm_before"], moved["harm_after"]
    gained = f", {percent(1 - after / before)} less" if before > 0 else ""
    return f"{plural(moved['stuck'], 'stuck cell')} in the arrays; harm {before:.4g} before, {after:.4g} after{gained}"


def _node_facts(fates: Sequence[NodeFate]) -> list[tuple[str, str]]:
    """How many nodes became what, and the most frequent reasons of those that are not in the arrays."""
    numbers = Counter(fate.fate for fate in fates)
    shown = [f"{numbers[fate]:,} {fate.value}" for fate in Fate if numbers[fate] or fate is not Fate.REFUSED]
    lines = [("nodes", f"{len(fates):,}: {', '.join(shown)}")]
    reasons = Counter(reason_text(fate.reason) for fate in fates if fate.fate is not Fate.ANALOG).most_common()
    shown_reasons = reasons if len(reasons) <= REASONS + 1 else reasons[:REASONS]
    lines += [("", f"{number:,} x {shorten(reason, _REASON)}") for reason, number in shown_reasons]
    if rest := reasons[len(shown_reasons) :]:
        lines.append(("", f"{sum(number for _, number in rest):,} x {len(rest):,} other reasons"))
    return lines


def _mapping_facts(layers: Sequence[LayerData], cost: Cost, chips: int) -> list[tuple[str, str]]:
    dense = f"the dense mapping takes {cost.crossbars_dense:,}"
    if cost.crossbars < cost.crossbars_dense:
        dense += f", {percent(1 - cost.crossbars / cost.crossbars_dense)} saved"
    lossless = sum(layer.analog.lossless for layer in layers)
    return [
        ("crossbars", f"{cost.crossbars:,} on {plural(chips, 'chip')}; {dense}"),
        ("utilisation", f"{percent(cost.utilisation)} of their cells hold weights"),
        ("converters", f"lossless in {lossless:,} of {plural(len(layers), 'layer')}"),
    ]


def _operation_facts(layers: Sequence[LayerData], cost: Cost) -> list[tuple[str, str]]:
    digital = sum(number for layer, event, number in cost.events if layer == DIGITAL and event == "digital_op")
    products = sum(multiplications(layer) for layer in layers)
    return [("operations", f"{count(products)} multiply-accumulates in crossbars, {count(digital)} digital operations")]


def multiplications(layer: LayerData) -> int:
    """Multiply-accumulates of a layer per inference, those with weights that compaction dropped included."""
    return layer.op.site.vectors * int(layer.op.matrix.codes.size)


def _totals(cost: Cost) -> list[tuple[str, str]]:
    return [
        ("latency", f"{quantity(cost.latency_s, 's')} per inference"),
        ("throughput", f"{quantity(cost.throughput_per_s, '/s')}, one inference after the other in a pipeline"),
        ("energy", f"{quantity(cost.energy_j, 'J')} per inference"),
        ("power", f"{quantity(cost.power_w, 'W')} at that throughput, {quantity(cost.peak_power_w, 'W')} peak"),
        ("area", area(cost.area_m2)),
    ]


def matrix_text(layer: LayerData) -> str:
    """The size of a layer's matrix: ``144 x 32``, with its groups in front where it has several."""
    groups, rows, cols = layer.op.matrix.codes.shape
    return f"{groups} x {rows} x {cols}" if groups > 1 else f"{rows} x {cols}"


def _largest(layers: Sequence[LayerData], cost: Cost) -> str:
    """The layers with the most crossbars, in the order of the model."""
    order = sorted(range(len(layers)), key=lambda i: (-len(layers[i].table), -layers[i].op.matrix.codes.size, i))[
        :LARGEST
    ]
    rows = []
    for layer in (layers[index] for index in sorted(order)):
        op, price = layer.op, cost.layers.get(layer.op.site.name, Price(0.0, 0.0))
        rows.append([
            op.site.label, matrix_text(layer), f"{op.matrix.weight_bits}/{op.site.input.bits}", f"{op.site.vectors:,}",
            f"{len(layer.table):,}", f"{layer.dense:,}", percent(price.utilisation), quantity(price.energy_j, "J"),
            str(layer.analog.adc_range), "yes" if layer.analog.lossless else "no",
        ])  # fmt: skip
    headers = ["layer", "matrix", "bits w/x", "vectors", "crossbars", "dense", "used", "energy", "ADC bits", "lossless"]
    numbers = table(headers[1:], [row[1:] for row in rows], "rrrrrrrrr")
    room = max(_NAME // 2, SCREEN - 2 - max(map(len, numbers.splitlines())))
    text = table(headers, [[shorten(row[0], room), *row[1:]] for row in rows], "lrrrrrrrrr")
    more = len(layers) - len(rows)
    return text + (f"\n... {more:,} more; these are the largest" if more else "")


# --- cost ------------------------------------------------------------------------------------------------------------


def cost_summary(cost: Cost, assumed: int) -> str:
    """Totals, and the two tables that each add up to them.

    Args:
        cost: the cost tables.
        assumed: how many values of the target are assumptions.
    """
    dense = f"{cost.crossbars:,} ({cost.crossbars_dense:,} in the dense mapping)"
    totals = [*_totals(cost), ("crossbars", dense), ("utilisation", percent(cost.utilisation))]
    notes = ["Layers and components each add up to energy and area; an inference pays static power times its interval."]
    if assumed:
        notes.append(
            f"{plural(assumed, 'value')} of the target {'is an assumption' if assumed == 1 else 'are assumptions'};"
            " the report lists them with their sources."
        )
    return "\n\n".join([facts(totals), _layer_costs(cost), _component_costs(cost), "\n".join(notes)])


def _share(part: float, whole: float) -> str:
    return percent(part / whole) if whole else "-"


def _title(cost: Cost, name: str) -> str:
    """Label of a layer."""
    counts = cost.counts.layers.get(name)
    return name if counts is None else counts.title(name)


def _layer_costs(cost: Cost) -> str:
    rows = [
        [
            shorten(_title(cost, name), _NAME), f"{price.crossbars:,}", f"{price.crossbars_dense:,}",
            percent(price.utilisation),
            quantity(price.latency_s, "s"), quantity(price.energy_j, "J"), _share(price.energy_j, cost.energy_j),
            area(price.area_m2), str(price.adc_bits),
        ]
        for name, price in cost.layers.items()
    ]  # fmt: skip
    headers = ["layer", "crossbars", "dense", "used", "latency", "energy", "share", "area", "ADC bits"]
    return table(headers, rows, "lrrrrrrrr")


def _component_costs(cost: Cost) -> str:
    """Components, the one that takes most energy first."""
    prices = sorted(cost.components.items(), key=lambda item: (-item[1].energy_j, -item[1].area_m2, item[0]))
    rows = [
        [
            shorten(name, _NAME), quantity(price.energy_j, "J"), _share(price.energy_j, cost.energy_j),
            quantity(price.dynamic_j, "J"), quantity(price.static_j, "J"), quantity(price.static_power_w, "W"),
            area(price.area_m2), _share(price.area_m2, cost.area_m2),
        ]
        for name, price in prices
    ]  # fmt: skip
    headers = ["component", "energy", "share", "of events", "standing by", "static power", "area", "share"]
    return table(headers, rows, "lrrrrrrr")


# --- verify ----------------------------------------------------------------------------------------------------------


def verify_summary(result: Verification) -> str:
    """The verdict in a sentence, then accuracies and agreement where they are known, then the worst layers."""
    parts = [_verdict(result)]
    if result.failures:
        parts.append("\n".join(f"- {clean(failure)}" for failure in result.failures))
    known = [(name, value) for name, value in _comparisons(result) if value is not None]
    if known:
        parts.append(facts(known))
    inexact = [layer for layer in result.layers if not layer.exact]
    if inexact:
        parts.append(_worst(inexact, result.promised))
    return "\n\n".join(parts)


def trials_summary(result: Trials) -> str:
    """Accuracy over the chips, then the layers that lose most, by cause."""
    plain, accuracy = result.plain, result.accuracy
    on = f"{plural(len(result.chips), 'chip')} on {plural(result.samples, 'sample')}"
    if accuracy is None:
        head = f"{on}: no output tells classes."
    else:
        name = "top-1 accuracy" if accuracy.metric == "top1" else "agreement with the quantised model"
        spread = "" if accuracy.deviation is None else f" +- {percent(accuracy.deviation)}"
        head = f"{on}: {name} {percent(accuracy.mean)}{spread}; ideal devices {percent(accuracy.baseline)}."
    lines = [
        ("effects", ", ".join(result.effects) or "none"),
        ("time", f"{result.time_s:,.6g} s since programming" + ("" if result.calibrated else ", uncalibrated")),
    ]
    if accuracy is not None and accuracy.interval is not None:
        low, high = accuracy.interval
        lines.append(("mean", f"{percent(low)} to {percent(high)} (95% confidence)"))
    if accuracy is not None:
        low, high = accuracy.yield_interval
        lines += [
            ("5th percentile", percent(accuracy.percentile5)),
            (
                "yield",
                f"{percent(accuracy.chip_yield)} of chips lose at most {percent(accuracy.loss)} "
                f"({percent(low)} to {percent(high)})",
            ),
        ]
    parts = [head, facts(lines)]
    if plain.failures:
        parts.append("\n".join(f"- {clean(failure)}" for failure in plain.failures))
    if result.layers:
        parts.append(_causes(result))
    return "\n\n".join(parts)


def _causes(result: Trials) -> str:
    """The layers that lose most on the first chip: decibels of signal over error, by cause."""
    worst = sorted(result.layers, key=lambda layer: _decibels(layer.causes["all"]))[:LARGEST]
    names = list(dict.fromkeys(name for layer in result.layers for name in layer.causes))

    def cell(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f}"

    rows = [
        [shorten(layer.name, _NAME), *(cell(layer.causes.get(name)) for name in names)]
        for layer in result.layers
        if layer in worst
    ]
    headers = ["signal over error, dB", *names]
    body = table(headers, rows, "l" + "r" * len(names))
    more = len(result.layers) - len(rows)
    tail = f"\n... {more:,} more; these lose most" if more else ""
    errors = [layer.linearisation for layer in result.layers if layer.linearisation is not None]
    if errors:
        tail += f"\nlinearised circuits: error of up to {percent(max(errors))} of the deviation of a current"
    return f"first chip, {plural(result.cause_samples, 'sample')}, each effect alone:\n\n{body}{tail}"


def _decibels(value: float | None) -> float:
    return float("inf") if value is None else value


def _verdict(result: Verification) -> str:
    """What was proven, on how much; or what was not."""
    on = f"on {plural(result.samples, 'sample')}"
    layers = plural(len(result.layers), "layer")
    if result.failures:
        return f"FAILED {on}: {plural(len(result.failures), 'promise')} of the build {_does(result.failures)} not hold."
    if result.exact and result.layers:
        return (
            f"EXACT {on}: what the cells compute equals the quantised reference to the last integer in "
            f"{'the one layer' if len(result.layers) == 1 else f'all {layers}'}, and all outputs to the last bit."
        )
    if result.exact:
        return f"EXACT {on}: no layer is mapped to crossbars, and all outputs equal the reference to the last bit."
    inexact = sum(not layer.exact for layer in result.layers)
    kept = len(result.promised)
    held = (
        f"; the {plural(kept, 'layer')} with lossless converters {'is' if kept == 1 else 'are'} exact" if kept else ""
    )
    return (
        f"NOT EXACT, as expected, {on}: the converters lose in {inexact:,} of {layers}, by up to "
        f"{result.max_code_error:,.6g} units of the accumulator{held}."
    )


def _does(items: Sequence[object]) -> str:
    return "does" if len(items) == 1 else "do"


def _comparisons(result: Verification) -> list[tuple[str, str | None]]:
    accuracies = [
        f"{percent(value)} {name}"
        for name, value in (
            ("float", result.top1_float), ("quantised", result.top1_quantised), ("mapped", result.top1_mapped),
        )
        if value is not None
    ]  # fmt: skip
    agreements = [
        f"{percent(value)} {name}"
        for name, value in (
            ("quantised = float", result.agreement_quantised_float),
            ("mapped = quantised", result.agreement_mapped_quantised),
        )
        if value is not None
    ]
    sqnr = result.sqnr_db
    return [
        ("top-1 accuracy", ", ".join(accuracies) or None),
        ("same answer", ", ".join(agreements) or None),
        ("mapped against float", f"{sqnr:.1f} dB signal to error" if sqnr is not None else None),
    ]


def _worst(layers: Sequence[LayerResult], promised: frozenset[str]) -> str:
    """Layers that are not exact: broken promises first, then by signal to error."""

    def badness(layer: LayerResult) -> tuple[bool, float, float]:
        sqnr = float("inf") if layer.sqnr_db is None else layer.sqnr_db
        return layer.name not in promised, sqnr, -layer.max_code_error

    shown = sorted(layers, key=badness)[:LARGEST]
    rows = [
        [
            shorten(layer.name, _NAME), "lossless" if layer.name in promised else "-", f"{layer.max_code_error:,.6g}",
            "-" if layer.sqnr_db is None else f"{layer.sqnr_db:.1f} dB", percent(layer.adc_clipped),
        ]
        for layer in shown
    ]  # fmt: skip
    text = table(["worst layers", "promised", "largest error", "signal to error", "clipped"], rows, "llrrr")
    more = len(layers) - len(shown)
    return text + (f"\n... {more:,} more that are not exact" if more else "")


# --- fates -----------------------------------------------------------------------------------------------------------


def fates_table(fates: Sequence[NodeFate]) -> str:
    """What became of every node, in the order of the model; with labels where one is no name."""
    labelled = any(fate.label != fate.name for fate in fates)
    rows = []
    for fate in fates:
        label = [shorten(fate.label, 40)] if labelled else []
        name = shorten(fate.name, 40)
        rows.append([name, *label, fate.op, fate.fate.value, reason_text(fate.reason)])
    label = ["label"] if labelled else []
    return table(["node", *label, "operator", "fate", "reason"], rows, "l" * (4 + len(label)))


# --- compress and demo -----------------------------------------------------------------------------------------------

_TOP1 = {"dense": "dense", "projected": "projected, not retrained", "quantised": "compressed, as it will be mapped"}


def compress_summary(report: Mapping[str, Any]) -> str:
    """What a compression came to: accuracies, and what is left of each layer.

    Args:
        report: as ``mcompiler compress --json`` prints it.
    """
    top1 = report["top1"]
    pairs = [(f"top-1 {label}", percent(top1[key])) for key, label in _TOP1.items() if key in top1]
    pairs += [
        (
            what,
            f"{report[key]:,} of {report[f'{key}_dense']:,}, {report[f'{key}_dense'] / max(1, report[key]):.2f}x fewer",
        )
        for what, key in (("weights", "weights"), ("array positions", "tiles"))
    ]
    rows = []
    for layer in report["layers"]:
        groups, rows_of, columns = layer["matrix"]
        matrix = f"{f'{groups} x ' if groups > 1 else ''}{rows_of} x {columns}"
        weights = (f"{layer['weights']:,}", f"{layer['weights_dense']:,}")
        rows.append([layer["name"], matrix, *weights, str(layer["tiles"]), str(layer["tiles_dense"])])
    columns_of = table(["layer", "matrix", "weights", "dense", "positions", "dense"], rows, "lrrrrr")
    return f"{facts(pairs)}\n\n{columns_of}"


def demo_comparison(rows: Sequence[tuple[str, Cost, Verification]]) -> str:
    """Networks of the demo side by side: crossbars, energy, accuracies."""
    cells = [
        [
            label,
            str(cost.crossbars),
            quantity(cost.energy_j, "J"),
            percent(found.top1_float),
            percent(found.top1_mapped),
        ]
        for label, cost, found in rows
    ]
    return table(["", "crossbars", "energy", "top-1 float", "mapped"], cells, "lrrrr")
