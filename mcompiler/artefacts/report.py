"""report.html: one page that holds everything a reader of a build wants to see, and nothing from outside.

Equal builds give equal pages: no times, no paths, no scripts, no external resources.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2

from mcompiler.artefacts.floorplan import floor_plan
from mcompiler.artefacts.layers import LayerData
from mcompiler.cost import DIGITAL, Cost, Price
from mcompiler.fates import reason_text
from mcompiler.ir import ConvShape, Fate, NodeFate, Site
from mcompiler.target import Event, Partner, Target, WeightEncoding, assumptions
from mcompiler.text import area, clean, count, percent, plural, quantity

OPEN_ROWS = 12
"""Tables of at most so many rows stand open; longer ones are folded away under their title."""

_UNITS = {
    "_bytes_per_s": "B/s", "_siemens": "S", "_ohm": "\u03a9", "_hz": "Hz", "_nm": "nm", "_w": "W", "_v": "V", "_j": "J",
    "_s": "s",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One cell of a table: text, and optionally a bar (share of 1), a swatch of colour, a hint."""

    text: str
    bar: float | None = None
    colour: str | None = None
    hint: str = ""


@dataclass(frozen=True)
class Table:
    """A table: ``align`` has ``l`` or ``r`` per column; ``foot`` is its line of sums."""

    headers: tuple[str, ...]
    align: str
    rows: tuple[tuple[Cell, ...], ...]
    foot: tuple[Cell, ...] = ()

    @property
    def short(self) -> bool:
        """Few enough rows to be shown at once."""
        return len(self.rows) <= OPEN_ROWS


def report_html(
    target: Target,
    cost: Cost,
    fates: tuple[NodeFate, ...],
    layers: tuple[LayerData, ...],
    options: Mapping[str, Any],
) -> str:
    """The report of a build as one HTML page.

    Args:
        target: the chip.
        cost: the cost tables.
        fates: of every node of the model.
        layers: the analog layers.
        options: what the model was compiled with.
    """
    colours = [_colour(index) for index in range(len(layers))]
    return _template().render(
        target=target,
        tiles=_summary(cost, fates, layers),
        facts=_target_facts(target),
        options=[(clean(name), _option(value)) for name, value in options.items()],
        layers=_layer_table(cost, layers, colours),
        components=_component_table(cost, target),
        interval=_quantity(_interval(cost), "s"),
        events=_event_table(cost, layers),
        plan=floor_plan(layers, target.hierarchy),
        colours=colours,
        names=[clean(layer.op.site.name) for layer in layers],
        fates=_fates(fates),
        assumptions=_assumptions(target),
        core=target.hierarchy.core_name,
        tile=target.hierarchy.tile_name,
    )


@cache
def _template() -> jinja2.Template:
    source = files("mcompiler.artefacts").joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.from_string(source)


# --- numbers as they are typeset -------------------------------------------------------------------------------------


def _typeset(text: str) -> str:
    """A number with its unit as text, for print: micro sign, square, a blank that does not break."""
    number, _, unit = text.partition(" ")
    unit = ("\u00b5" + unit[1:] if unit.startswith("u") else unit).replace("m2", "m\u00b2")
    return f"{number}\u00a0{unit}" if unit else number


def _quantity(value: float, unit: str) -> str:
    return _typeset(quantity(value, unit))


def _given(value: float, unit: str) -> str:
    """A value that somebody chose."""
    return _typeset(quantity(value, unit, trim=True))


def _area(value_m2: float) -> str:
    return _typeset(area(value_m2))


def _share(part: float, whole: float) -> Cell:
    """A share as a bar."""
    share = part / whole if whole else 0.0
    return Cell(percent(share), bar=min(1.0, max(0.0, share)))


def _colour(index: int) -> str:
    """Colours that differ from their neighbours' on light and on dark ground: steps of the golden angle."""
    return f"hsl({index * 137.508 % 360:.0f} 60% {(52, 40, 64)[index // 7 % 3]}%)"


def _cells(*values: str | Cell) -> tuple[Cell, ...]:
    return tuple(value if isinstance(value, Cell) else Cell(value) for value in values)


def _interval(cost: Cost) -> float:
    return 1 / cost.throughput_per_s if cost.throughput_per_s else math.inf


# --- summary ---------------------------------------------------------------------------------------------------------


def _summary(cost: Cost, fates: Sequence[NodeFate], layers: Sequence[LayerData]) -> list[tuple[str, str, str]]:
    """(name, value, note) of what a reader looks for first."""
    numbers = Counter(fate.fate for fate in fates)
    lossless = sum(layer.analog.lossless for layer in layers)
    saved = 1 - cost.crossbars / cost.crossbars_dense if cost.crossbars_dense else 0.0
    dense = f"{cost.crossbars_dense:,} in the dense mapping" + (f", {percent(saved)} saved" if saved > 0 else "")
    chips = len({int(chip) for layer in layers for chip in set(layer.addresses[:, 0].tolist())})
    products = sum(layer.op.site.vectors * int(layer.op.matrix.codes.size) for layer in layers)
    return [
        ("Latency", _quantity(cost.latency_s, "s"), "of one inference"),
        ("Throughput", _quantity(cost.throughput_per_s, "/s"), "inferences, in a pipeline"),
        ("Energy", _quantity(cost.energy_j, "J"), "per inference"),
        ("Power", _quantity(cost.power_w, "W"), "at that throughput"),
        ("Peak power", _quantity(cost.peak_power_w, "W"), "everything active at once"),
        ("Area", _area(cost.area_m2), f"on {plural(max(1, chips), 'chip')}"),
        ("Crossbars", f"{cost.crossbars:,}", dense),
        ("Utilisation", percent(cost.utilisation), "of their cells hold weights"),
        ("Layers", f"{len(layers):,}", f"{lossless:,} with lossless converters"),
        ("In crossbars", _quantity(products, "MAC"), "multiply-accumulates per inference"),
        ("Nodes", f"{len(fates):,}", f"{numbers[Fate.ANALOG]:,} analog, {numbers[Fate.DIGITAL]:,} digital"),
    ]


def _option(value: Any) -> str:
    """An option as words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{clean(str(key))} {_option(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(_option(item) for item in value) or "none"
    return "not given" if value is None else clean(str(value))


def _target_facts(target: Target) -> list[tuple[str, list[tuple[str, str]]]]:
    """The key facts of a target, by section."""
    device, array, encoding, hierarchy = target.device, target.array, target.encoding, target.hierarchy
    dac, adc, network = target.converters.dac, target.converters.adc, target.network
    pairs = encoding.weights is WeightEncoding.DIFFERENTIAL
    cells = plural(encoding.slices, "pair" if pairs else "cell")
    stand = [f"slices in {encoding.slices_in} {_places(encoding.slices_in)}"] if encoding.slices > 1 else []
    stand += (
        [f"one sign for {plural(array.rows_active, 'row')}"] if encoding.weights is WeightEncoding.POLARISED else []
    )
    stand += ["unformed partners"] if encoding.partner is Partner.UNFORMED else []
    stand += [f"pairs in {encoding.pairs_in} {_places(encoding.pairs_in)}"] if pairs else []
    shared = "each bit line" if adc.columns == 1 else f"{adc.columns} bit lines"
    return [
        ("Device", [
            ("Conductance", f"{_given(device.g_min_siemens, 'S')} to {_given(device.g_max_siemens, 'S')}"),
            ("Levels", f"{device.levels} ({_levels(target)}), on/off {device.on_off:.4g}"),
            ("Read", f"{_given(device.read_voltage_v, 'V')} for {_given(device.read_pulse_s, 's')}"),
        ]),
        ("Array", [
            ("Size", f"{array.rows} rows × {array.columns} columns"),
            ("Active at once", plural(array.rows_active, "row")),
            ("Wires", f"{_given(array.wire_resistance_ohm, _UNITS['_ohm'])} per segment"),
        ]),
        ("Weights", [
            ("Precision", f"{target.precision.weights}-bit weights, {target.precision.inputs}-bit inputs"),
            ("Encoding", f"{encoding.weights}, {cells} per weight"),
            ("Layout", ", ".join(stand) or "one cell holds a weight"),
            ("Pedestal", str(encoding.pedestal).replace("_", " ")),
        ]),
        ("Converters", [
            ("DAC", plural(dac.bits, "bit")),
            ("ADC", f"{plural(adc.bits, 'bit')}, {_given(adc.rate_hz, 'S/s')}, one for {shared}"),
            ("Range", f"{adc.range}, rounding {str(adc.rounding).replace('_', ' ')}"),
        ]),
        ("Chip", [
            (hierarchy.core_name, plural(hierarchy.arrays_per_core, "array")),
            (hierarchy.tile_name, plural(hierarchy.cores_per_tile, hierarchy.core_name)),
            ("chip", f"{plural(hierarchy.tiles_per_chip, hierarchy.tile_name)}, {hierarchy.arrays_per_chip:,} arrays"),
            ("chips", str(hierarchy.chips)),
        ]),
        ("Digital", [
            ("Unit of a tile", f"{plural(target.digital.operations_per_cycle, 'operation')} per clock"),
            ("Clock", _given(target.digital.clock_hz, "Hz")),
            ("Accumulators", plural(target.digital.accumulator_bits, "bit")),
            ("Network", f"{network.topology}, {network.link_bits}-bit links, {_given(network.clock_hz, 'Hz')}"),
            ("Between chips", _given(network.chip_link_bytes_per_s, "B/s")),
        ]),
    ]  # fmt: skip


def _levels(target: Target) -> str:
    """How the levels lie, or how many bits they hold."""
    return "measured" if target.device.level_means is not None else plural(target.device.bits, "bit")


def _places(layout: str) -> str:
    return "columns" if layout == "adjacent" else "arrays"


# --- tables ----------------------------------------------------------------------------------------------------------


def _operation(layer: LayerData) -> str:
    """What a layer does, in two words."""
    shape = layer.op.site.shape
    if not isinstance(shape, ConvShape):
        return "product"
    stride = f", stride {'×'.join(map(str, dict.fromkeys(shape.strides)))}" if set(shape.strides) != {1} else ""
    return f"conv {'×'.join(map(str, shape.kernel))}{stride}"


def _matrix(layer: LayerData) -> Cell:
    """G × K × N, and how much of it compaction kept."""
    groups, rows, cols = layer.op.matrix.codes.shape
    kept = int((layer.op.matrix.rows.counts() * layer.op.matrix.cols.counts()).sum())
    text = f"{groups} × {rows} × {cols}"
    if kept == groups * rows * cols:
        return Cell(text)
    return Cell(
        f"{text}, {percent(kept / (groups * rows * cols))} kept", hint="rows and columns of zeros take no cells"
    )


def _converters(layer: LayerData) -> Cell:
    """Whether the layer converts without loss, or how it loses."""
    analog = layer.analog
    if analog.lossless:
        return Cell("lossless")
    clipped = "unknown" if analog.clipped is None else percent(analog.clipped)
    finest = 1 if analog.zoom is None else 1 << int(analog.zoom.max())
    gain = f"{analog.gain:.4g}" + (f" to {analog.gain * finest:.4g}" if finest > 1 else "")
    return Cell(f"gain {gain}, {clipped} clipped", hint="codes per unit; share of conversions that clip")


def _layer_cell(site: Site, colour: str | None = None) -> Cell:
    """The label of a layer, and the name of its node as a hint where that is another."""
    return Cell(clean(site.label), colour=colour, hint=clean(site.name) if site.name != site.label else "")


_ADC_BITS = "fewest with which an array converts without loss, given its own cells"


def _layer_table(cost: Cost, layers: Sequence[LayerData], colours: Sequence[str]) -> Table:
    """One row per layer in the order of the model, then what stays digital; the sums below."""
    rows = []
    for layer, colour in zip(layers, colours, strict=True):
        op, price = layer.op, cost.layers.get(layer.op.site.name, Price(0.0, 0.0))
        rows.append(_cells(
            _layer_cell(op.site, colour), _operation(layer), _matrix(layer),
            f"{op.matrix.weight_bits} / {op.site.input.bits}", f"{op.site.vectors:,}", f"{len(layer.table):,}", f"{layer.dense:,}",
            percent(price.utilisation),
            _quantity(price.latency_s, "s"), _quantity(price.energy_j, "J"), _share(price.energy_j, cost.energy_j),
            _area(price.area_m2), Cell(str(price.adc_bits), hint=_ADC_BITS), _converters(layer),
        ))  # fmt: skip
    known = {layer.op.site.name for layer in layers}
    for name in (name for name in cost.layers if name not in known):
        price = cost.layers[name]
        what = "operations that stay digital" if name == DIGITAL else ""
        rows.append(_cells(
            clean(name), what, "", "", "", "", "", "", _quantity(price.latency_s, "s"), _quantity(price.energy_j, "J"),
            _share(price.energy_j, cost.energy_j), _area(price.area_m2), "", "",
        ))  # fmt: skip
    foot = _cells(
        "Sum", "", "", "", "", f"{cost.crossbars:,}", f"{cost.crossbars_dense:,}", percent(cost.utilisation), "",
        _quantity(cost.energy_j, "J"), "", _area(cost.area_m2), "", "",
    )  # fmt: skip
    headers = (
        "Layer", "Operation", "Matrix G × K × N", "Bits w / x", "Vectors", "Arrays", "Dense", "Utilisation", "Latency",
        "Energy", "Share of energy", "Area", "ADC bits", "Converters",
    )  # fmt: skip
    return Table(headers, "lllrrrrrrrlrrl", tuple(rows), foot)


def _component_table(cost: Cost, target: Target) -> Table:
    """Components, the one that takes most energy first."""
    events: dict[str, float] = {}
    for _, name, number in cost.events:
        events[name] = events.get(name, 0.0) + number
    rows = []
    for name, price in sorted(cost.components.items(), key=lambda item: (-item[1].energy_j, -item[1].area_m2, item[0])):
        about = target.components.get(name)
        event = about.event if about is not None else None
        each = _given(about.energy_j, "J") if about is not None and event is not None else ""
        rows.append(_cells(
            Cell(clean(name), hint=about.source if about is not None else ""), _words(event) if event else "",
            count(events.get(event, 0.0)) if event else "", each, _quantity(price.static_power_w, "W"),
            _quantity(price.energy_j, "J"), _share(price.energy_j, cost.energy_j), _area(price.area_m2),
            _share(price.area_m2, cost.area_m2),
        ))  # fmt: skip
    static = sum(price.static_power_w for price in cost.components.values())
    foot = _cells("Sum", "", "", "", _quantity(static, "W"), _quantity(cost.energy_j, "J"), "", _area(cost.area_m2), "")
    headers = (
        "Component", "Event", "Events", "Energy of one", "Static power", "Energy", "Share of energy", "Area",
        "Share of area",
    )  # fmt: skip
    return Table(headers, "llrrrrlrl", tuple(rows), foot)


def _words(event: str) -> str:
    return str(event).replace("_", " ")


def _event_table(cost: Cost, layers: Sequence[LayerData]) -> Table:
    """Events per inference: layers down, events across."""
    numbers: dict[str, dict[str, float]] = {layer.op.site.name: {} for layer in layers}
    for name, event, number in cost.events:
        row = numbers.setdefault(name, {})
        row[event] = row.get(event, 0.0) + number
    seen = {event for _, event, _ in cost.events}
    events = [event.value for event in Event if event.value in seen] + sorted(seen - {event.value for event in Event})
    rows = tuple(
        _cells(clean(name), *(count(row[event]) if event in row else "" for event in events))
        for name, row in numbers.items()
    )
    foot = _cells("Sum", *(count(sum(row.get(event, 0.0) for row in numbers.values())) for event in events))
    return Table(("Layer", *(_words(event) for event in events)), "l" + "r" * len(events), rows, foot)


def _fates(fates: Iterable[NodeFate]) -> list[tuple[str, str, Table]]:
    """(fate, its reasons in short, table) for each fate that occurs."""
    groups: dict[Fate, list[NodeFate]] = {fate: [] for fate in Fate}
    for node in fates:
        groups[node.fate].append(node)
    found = []
    for fate, nodes in groups.items():
        if not nodes:
            continue
        operators = Counter(node.op for node in nodes).most_common(6)
        short = ", ".join(f"{number:,} {clean(name)}" for name, number in operators)
        rows = tuple(_cells(clean(node.name), clean(node.op), clean(reason_text(node.reason))) for node in nodes)
        found.append((fate.value, short, Table(("Node", "Operator", "Reason"), "lll", rows)))
    return found


def _value(key: str, value: float | str | bool) -> str:
    """A value of a target, with the unit that its key names."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key.endswith("_m2"):
        return _area(value)
    unit = next((unit for suffix, unit in _UNITS.items() if key.endswith(suffix)), None)
    if unit == "nm":
        return f"{value:g}\u00a0nm"
    return _given(value, unit) if unit is not None else f"{value:,}"


def _assumptions(target: Target) -> Table:
    rows = tuple(_cells(key, _value(key, value), clean(source)) for key, value, source in assumptions(target))
    return Table(("Key", "Value", "Source"), "lrl", rows)
