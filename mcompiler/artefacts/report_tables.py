"""Tables of the report: layers, components, events, nodes, assumptions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from mcompiler.artefacts.layers import LayerData
from mcompiler.artefacts.typeset import (
    Cell,
    Row,
    Table,
    print_area,
    print_quantity,
    print_setting,
    print_value,
    share_cell,
    table,
)
from mcompiler.cost import DIGITAL, IDLE, Cost, Price
from mcompiler.fates import labels_of, reason_text
from mcompiler.ir import ConvShape, Fate, NodeFate
from mcompiler.target import Event, Target, assumptions
from mcompiler.text import clean, count, percent

_ADC_BITS = "smallest number of bits with which an array converts without loss, from its own cells"

_LAYER_COLUMNS = {
    "Layer": "l",
    "Operation": "l",
    "Matrix G × K × N": "l",
    "Bits w / x": "r",
    "Vectors": "r",
    "Arrays": "r",
    "Dense": "r",
    "Utilisation": "r",
    "Latency": "r",
    "Energy": "r",
    "Share of energy": "l",
    "Chip standby": "r",
    "Area": "r",
    "ADC bits": "r",
    "Converters": "l",
}
_COMPONENT_COLUMNS = {
    "Component": "l",
    "Event": "l",
    "Events": "r",
    "Energy of one": "r",
    "Static power": "r",
    "Active": "r",
    "Standby": "r",
    "Energy": "r",
    "Share of energy": "l",
    "Chip standby": "r",
    "Area": "r",
    "Share of area": "l",
}

_OTHERS = {DIGITAL: "operations that stay digital", IDLE: "parts of the chips that no layer uses"}


def _operation(layer: LayerData) -> str:
    """Kind of a layer: a convolution with its kernel, or a matrix product."""
    shape = layer.op.site.shape
    if not isinstance(shape, ConvShape):
        return "product"
    stride = f", stride {'×'.join(map(str, dict.fromkeys(shape.strides)))}" if set(shape.strides) != {1} else ""
    return f"conv {'×'.join(map(str, shape.kernel))}{stride}"


def _matrix(layer: LayerData) -> Cell:
    """G × K × N, and the share of it that compaction kept."""
    groups, rows, cols = layer.op.matrix.codes.shape
    kept = int((layer.op.matrix.rows.counts() * layer.op.matrix.cols.counts()).sum())
    text = f"{groups} × {rows} × {cols}"
    if kept == groups * rows * cols:
        return Cell(text)
    return Cell(f"{text}, {percent(kept / (groups * rows * cols))} kept", hint="rows and columns of zeros are removed")


def _converters(layer: LayerData) -> Cell:
    """Whether conversions are lossless; else the gain of the converter and the share of clipped conversions."""
    analog = layer.analog
    if analog.lossless:
        return Cell("lossless")
    clipped = "unknown" if analog.clipped is None else percent(analog.clipped)
    finest = 1 if analog.zoom is None else 1 << int(analog.zoom.max())
    gain = f"{analog.gain:.4g}" + (f" to {analog.gain * finest:.4g}" if finest > 1 else "")
    return Cell(f"gain {gain}, {clipped} clipped", hint="codes per unit; share of conversions that clip")


def _named_cell(name: str, label: str, colour: str | None = None) -> Cell:
    """The label of a layer or node, with the name of the node as a tooltip where the two differ."""
    return Cell(clean(label or name), colour=colour, hint=clean(name) if label not in ("", name) else "")


def layer_table(cost: Cost, layers: Sequence[LayerData], colours: Sequence[str]) -> Table:
    """One row per layer in the order of the model, then digital operations; the sums below."""
    rows: list[Row] = []
    for layer, colour in zip(layers, colours, strict=True):
        matrix, site = layer.op.matrix, layer.op.site
        price = cost.layers.get(site.name, Price())
        rows.append(
            {
                "Layer": _named_cell(site.name, site.label, colour),
                "Operation": _operation(layer),
                "Matrix G × K × N": _matrix(layer),
                "Bits w / x": f"{matrix.weight_bits} / {site.input.bits}",
                "Vectors": f"{site.vectors:,}",
                "Arrays": f"{len(layer.table):,}",
                "Dense": f"{layer.dense:,}",
                "Utilisation": percent(price.utilisation),
                **_prices(price, cost),
                "ADC bits": Cell(str(price.adc_bits), hint=_ADC_BITS),
                "Converters": _converters(layer),
            }
        )
    known = {layer.op.site.name for layer in layers}
    for name, price in cost.layers.items():
        if name not in known:
            operation = _OTHERS.get(name, "")
            rows.append({"Layer": clean(name), "Operation": operation, **_prices(price, cost)})
    foot = {
        "Layer": "Sum",
        "Arrays": f"{cost.crossbars:,}",
        "Dense": f"{cost.crossbars_dense:,}",
        "Utilisation": percent(cost.utilisation),
        "Energy": print_quantity(cost.energy_j, "J"),
        "Chip standby": print_quantity(cost.energy_standby_chip_j, "J"),
        "Area": print_area(cost.area_m2),
    }
    return table(_LAYER_COLUMNS, rows, foot)


def _prices(price: Price, cost: Cost) -> Row:
    return {
        "Latency": print_quantity(price.latency_s, "s"),
        "Energy": print_quantity(price.energy_j, "J"),
        "Share of energy": share_cell(price.energy_j, cost.energy_j),
        "Chip standby": print_quantity(price.energy_standby_chip_j, "J"),
        "Area": print_area(price.area_m2),
    }


def component_table(cost: Cost, target: Target) -> Table:
    """Components in descending order of energy."""
    events: dict[str, float] = {}
    for _, name, number in cost.events:
        events[name] = events.get(name, 0.0) + number
    rows: list[Row] = []
    for name, price in sorted(cost.components.items(), key=lambda item: (-item[1].energy_j, -item[1].area_m2, item[0])):
        component = target.components.get(name)
        row: dict[str, str | Cell] = {
            "Component": Cell(clean(name), hint=component.source if component is not None else ""),
            "Static power": print_quantity(price.static_power_w, "W"),
            "Active": print_quantity(price.energy_active_j, "J"),
            "Standby": print_quantity(price.energy_standby_used_j, "J"),
            **_prices(price, cost),
            "Share of area": share_cell(price.area_m2, cost.area_m2),
        }
        if component is not None and component.event is not None:
            row["Event"] = _words(component.event)
            row["Events"] = count(events.get(component.event, 0.0))
            row["Energy of one"] = print_setting(price.dynamic_j / max(1.0, events.get(component.event, 0.0)), "J")
        rows.append(row)
    static = sum(price.static_power_w for price in cost.components.values())
    foot = {
        "Component": "Sum",
        "Static power": print_quantity(static, "W"),
        "Active": print_quantity(cost.energy_active_j, "J"),
        "Standby": print_quantity(cost.energy_standby_used_j, "J"),
        "Energy": print_quantity(cost.energy_j, "J"),
        "Chip standby": print_quantity(cost.energy_standby_chip_j, "J"),
        "Area": print_area(cost.area_m2),
    }
    return table(_COMPONENT_COLUMNS, rows, foot)


def _words(event: str) -> str:
    return str(event).replace("_", " ")


def event_table(cost: Cost, layers: Sequence[LayerData]) -> Table:
    """Events per inference: one row per layer, one column per event."""
    sites = {layer.op.site.name: layer.op.site for layer in layers}
    numbers: dict[str, dict[str, float]] = {layer.op.site.name: {} for layer in layers}
    for name, event, number in cost.events:
        row = numbers.setdefault(name, {})
        row[event] = row.get(event, 0.0) + number
    seen = {event for _, event, _ in cost.events}
    events = [event.value for event in Event if event.value in seen] + sorted(seen - {event.value for event in Event})
    rows: list[Row] = [
        {"Layer": _named_cell(name, sites[name].label) if name in sites else clean(name)}
        | {_words(event): count(row[event]) for event in events if event in row}
        for name, row in numbers.items()
    ]
    sums = {_words(event): count(sum(row.get(event, 0.0) for row in numbers.values())) for event in events}
    return table({"Layer": "l", **dict.fromkeys(sums, "r")}, rows, {"Layer": "Sum", **sums})


def fate_tables(fates: Iterable[NodeFate]) -> list[tuple[str, str, Table]]:
    """(fate, most frequent operators, table of nodes) for each fate that occurs."""
    groups: dict[Fate, list[NodeFate]] = {fate: [] for fate in Fate}
    fates = tuple(fates)
    labels = labels_of(fates)
    for node in fates:
        groups[node.fate].append(node)
    found = []
    for fate, nodes in groups.items():
        if not nodes:
            continue
        operators = Counter(node.op for node in nodes).most_common(6)
        short = ", ".join(f"{number:,} {clean(name)}" for name, number in operators)
        rows: list[dict[str, str | Cell]] = [
            {
                "Node": _named_cell(node.name, node.label),
                "Operator": clean(node.op),
                "Reason": clean(reason_text(node.reason, labels)),
            }
            for node in nodes
        ]
        found.append((fate.value, short, table({"Node": "l", "Operator": "l", "Reason": "l"}, rows)))
    return found


def assumption_table(target: Target) -> Table:
    """The values of the target that are assumptions."""
    rows = [
        {"Key": key, "Value": print_value(key, value), "Source": clean(source)}
        for key, value, source in assumptions(target)
    ]
    return table({"Key": "l", "Value": "r", "Source": "l"}, rows)
