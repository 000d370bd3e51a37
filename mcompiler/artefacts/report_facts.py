"""Facts of the report: what a build costs, its options, and the settings of its target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mcompiler.artefacts.layers import LayerData
from mcompiler.artefacts.typeset import UNITS, print_area, print_quantity, print_setting
from mcompiler.cost import Cost
from mcompiler.ir import Fate, NodeFate
from mcompiler.target import Target
from mcompiler.text import clean, percent, plural


def summary_facts(cost: Cost, fates: Sequence[NodeFate], layers: Sequence[LayerData]) -> list[tuple[str, str, str]]:
    """Name, value and note of the main results."""
    numbers = Counter(fate.fate for fate in fates)
    lossless = sum(layer.analog.lossless for layer in layers)
    saved = 1 - cost.crossbars / cost.crossbars_dense if cost.crossbars_dense else 0.0
    dense = f"{cost.crossbars_dense:,} in the dense mapping" + (f", {percent(saved)} saved" if saved > 0 else "")
    chips = len({int(chip) for layer in layers for chip in set(layer.addresses[:, 0].tolist())})
    products = sum(layer.op.site.vectors * int(layer.op.matrix.codes.size) for layer in layers)
    return [
        ("Latency", print_quantity(cost.latency_s, "s"), "of one inference"),
        ("Throughput", print_quantity(cost.throughput_per_s, "/s"), "inferences, in a pipeline"),
        ("Energy", print_quantity(cost.energy_j, "J"), "per inference, of the parts in use"),
        ("Active", print_quantity(cost.energy_active_j, "J"), "of it, what events burn"),
        ("Standby", print_quantity(cost.energy_standby_used_j, "J"), "of it, static power of the parts in use"),
        ("Chip standby", print_quantity(cost.energy_standby_chip_j, "J"), "per inference, of all parts of the chips"),
        ("Power", print_quantity(cost.power_w, "W"), "at that throughput"),
        ("Peak power", print_quantity(cost.peak_power_w, "W"), "with all parts active"),
        ("Area", print_area(cost.area_m2), f"on {plural(max(1, chips), 'chip')}"),
        ("Crossbars", f"{cost.crossbars:,}", dense),
        ("Utilisation", percent(cost.utilisation), "of their cells hold weights"),
        ("Layers", f"{len(layers):,}", f"{lossless:,} with lossless converters"),
        ("In crossbars", print_quantity(products, "MAC"), "multiply-accumulates per inference"),
        ("Nodes", f"{len(fates):,}", f"{numbers[Fate.ANALOG]:,} analog, {numbers[Fate.DIGITAL]:,} digital"),
    ]


def option_text(value: Any) -> str:
    """An option as text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{clean(str(key))} {option_text(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(option_text(item) for item in value) or "none"
    return "not given" if value is None else clean(str(value))


def target_facts(target: Target) -> list[tuple[str, list[tuple[str, str]]]]:
    """The main settings of a target, by section."""
    device, array, encoding, hierarchy = target.device, target.array, target.encoding, target.hierarchy
    dac, adc, network = target.converters.dac, target.converters.adc, target.network
    cells = plural(encoding.slices, target.weight_encoding.holder_noun)
    layout = [f"slices in {encoding.slices_in} {_in_units(encoding.slices_in)}"] if encoding.slices > 1 else []
    layout += target.weight_encoding.layout_facts(encoding, array.rows_active)
    shared = "each bit line" if adc.columns == 1 else f"{adc.columns} bit lines"
    return [
        (
            "Device",
            [
                (
                    "Conductance",
                    f"{print_setting(device.g_min_siemens, 'S')} to {print_setting(device.g_max_siemens, 'S')}",
                ),
                ("Levels", f"{device.levels} ({_levels(target)}), on/off {device.on_off:.4g}"),
                ("Read", f"{print_setting(device.read_voltage_v, 'V')} for {print_setting(device.read_pulse_s, 's')}"),
            ],
        ),
        (
            "Array",
            [
                ("Size", f"{array.rows} rows × {array.columns} columns"),
                ("Active at once", plural(array.rows_active, "row")),
                ("Wires", f"{print_setting(array.wire_resistance_ohm, UNITS['_ohm'])} per segment"),
            ],
        ),
        (
            "Weights",
            [
                ("Precision", f"{target.precision.weights}-bit weights, {target.precision.inputs}-bit inputs"),
                ("Encoding", f"{encoding.weights}, {cells} per weight"),
                ("Layout", ", ".join(layout) or "one cell holds a weight"),
                ("Pedestal", str(encoding.pedestal).replace("_", " ")),
            ],
        ),
        (
            "Converters",
            [
                ("DAC", plural(dac.bits, "bit")),
                ("ADC", f"{plural(adc.bits, 'bit')}, {print_setting(adc.rate_hz, 'S/s')}, one for {shared}"),
                ("Range", f"{adc.range}, rounding {str(adc.rounding).replace('_', ' ')}"),
            ],
        ),
        (
            "Chip",
            [
                (hierarchy.core_name, plural(hierarchy.arrays_per_core, "array")),
                (hierarchy.tile_name, plural(hierarchy.cores_per_tile, hierarchy.core_name)),
                (
                    "chip",
                    f"{plural(hierarchy.tiles_per_chip, hierarchy.tile_name)}, {hierarchy.arrays_per_chip:,} arrays",
                ),
                ("chips", str(hierarchy.chips)),
            ],
        ),
        (
            "Digital",
            [
                ("Unit of a tile", f"{plural(target.digital.operations_per_cycle, 'operation')} per clock"),
                ("Clock", print_setting(target.digital.clock_hz, "Hz")),
                ("Accumulators", plural(target.digital.accumulator_bits, "bit")),
                (
                    "Network",
                    f"{network.topology}, {network.link_bits}-bit links, {print_setting(network.clock_hz, 'Hz')}",
                ),
                ("Between chips", print_setting(network.chip_link_bytes_per_s, "B/s")),
            ],
        ),
    ]


def _levels(target: Target) -> str:
    """Whether levels are measured, else the bits that they hold."""
    return "measured" if target.device.level_means is not None else plural(target.device.bits, "bit")


def _in_units(layout: str) -> str:
    return "columns" if layout == "adjacent" else "arrays"
