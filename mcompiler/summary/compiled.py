"""Summary of a compilation on one screen: nodes, mapping, totals, largest layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mcompiler.artefacts import LayerData
from mcompiler.cost import DIGITAL, Cost, Price
from mcompiler.fates import labels_of, reason_text
from mcompiler.ir import Fate, NodeFate
from mcompiler.summary.costs import cost_totals
from mcompiler.summary.screen import LARGEST, REASON, REASONS, SCREEN
from mcompiler.target import Target
from mcompiler.text import count, facts, percent, plural, quantity, shorten, table


def compile_summary(
    model: str, target: Target, *, fates: Sequence[NodeFate], layers: Sequence[LayerData], cost: Cost, chips: int
) -> str:
    """Model, target, mapping and cost of a build: at most 40 lines of 100 columns.

    Args:
        model: its name in the text.
        target: the chip.
        fates: of every node.
        layers: the analog layers.
        cost: of the build.
        chips: how many are used.
    """
    parts = [
        f"{shorten(f'{model} on {target.name}', SCREEN)}\n{shorten(target.description, SCREEN)}".rstrip(),
        facts(
            [
                *_node_facts(fates),
                *_mapping_facts(layers, cost, chips),
                *_operation_facts(layers, cost),
                *cost_totals(cost),
            ]
        ),
    ]
    if layers:
        parts.append(_largest(layers, cost))
    return "\n\n".join(parts)


def _node_facts(fates: Sequence[NodeFate]) -> list[tuple[str, str]]:
    """Number of nodes by fate, and the most frequent reasons of those that are not analog."""
    numbers = Counter(fate.fate for fate in fates)
    shown = [f"{numbers[fate]:,} {fate.value}" for fate in Fate if numbers[fate] or fate is not Fate.REFUSED]
    lines = [("nodes", f"{len(fates):,}: {', '.join(shown)}")]
    labels = labels_of(fates)
    reasons = Counter(reason_text(fate.reason, labels) for fate in fates if fate.fate is not Fate.ANALOG).most_common()
    shown_reasons = reasons if len(reasons) <= REASONS + 1 else reasons[:REASONS]
    lines += [("", f"{number:,} x {shorten(reason, REASON)}") for reason, number in shown_reasons]
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
    """Multiply-accumulates of a layer per inference, including those with weights that compaction removed."""
    return layer.op.site.vectors * int(layer.op.matrix.codes.size)


def matrix_text(layer: LayerData) -> str:
    """The size of a layer's matrix: ``144 x 32``; ``8 x 16 x 16`` where it has 8 groups."""
    groups, rows, cols = layer.op.matrix.codes.shape
    return f"{groups} x {rows} x {cols}" if groups > 1 else f"{rows} x {cols}"


def _largest(layers: Sequence[LayerData], cost: Cost) -> str:
    """The layers with the most crossbars, in the order of the model."""
    sizes = [(-len(layer.table), -layer.op.matrix.codes.size) for layer in layers]
    order = sorted(range(len(layers)), key=lambda index: (*sizes[index], index))[:LARGEST]
    rows = []
    for layer in (layers[index] for index in sorted(order)):
        op, price = layer.op, cost.layers.get(layer.op.site.name, Price())
        rows.append(
            [
                op.site.label,
                matrix_text(layer),
                f"{op.matrix.weight_bits}/{op.site.input.bits}",
                f"{op.site.vectors:,}",
                f"{len(layer.table):,}",
                f"{layer.dense:,}",
                percent(price.utilisation),
                quantity(price.energy_j, "J"),
                str(layer.analog.adc_range),
                "yes" if layer.analog.lossless else "no",
            ]
        )
    headers = ["layer", "matrix", "bits w/x", "vectors", "crossbars", "dense", "used", "energy", "ADC bits", "lossless"]
    text = table(headers, rows, "lrrrrrrrrr")
    more = len(layers) - len(rows)
    return text + (f"\n... {more:,} more; these are the largest" if more else "")
