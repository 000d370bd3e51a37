"""Prices of a build and the latency of a single layer, computed anew from its target.toml and cost.json.

    python benchmarks/sweep_check.py BUILD

A second implementation of counts, prices and totals (formulas of the rules: sweep_rules.py). It imports nothing of
mcompiler, and takes from cost.json only counted quantities (``events`` and ``units``). What the results should be:
docs/cost.md, docs/targets.md, docs/schedule.md. Targets with another node (``digital.node_nm``), measured levels
(``device.level_means``) or unformed partners are refused.
"""

from __future__ import annotations

import json
import math
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweep_rules import AREA, COMPUTED, DEFAULTS, ENERGY, POWER, RULES

Table = Mapping[str, Any]

UNITS = ("array", "core", "tile", "chip")
BUFFER = ("buffer_read_byte", "buffer_write_byte")


class Chip:
    """What prices need of a resolved target."""

    def __init__(self, target: Table) -> None:
        for section, key in (("digital", "node_nm"), ("device", "level_means")):
            if key in target[section]:
                raise SystemExit(f"{section}.{key}: this script has no rule for it; leave it out")
        if target["encoding"]["partner"] != "minimum":
            raise SystemExit("encoding.partner: this script has no rule for partners that are not at their minimum")
        self.target = target
        array, encoding, hierarchy = target["array"], target["encoding"], target["hierarchy"]
        self.polarities = 2 if encoding["weights"] == "differential" else 1
        self.extra = int(encoding["weights"] == "offset" and encoding["input_sum"] == "unit_column")
        self.extra += encoding["pedestal"] in ("reference_column", "digitised_reference")
        sharing = self.polarities if encoding["pairs_in"] == "separate" else 1  # arrays that share converters
        pairs = self.polarities == 2 and encoding["subtract"] == "before_adc"  # one conversion for two bit lines
        shared = max(target["converters"]["adc"]["columns"], 2 if pairs else 1)
        self.adcs = math.ceil(sharing * array["columns"] / shared) / sharing
        self.rows = array["rows"] + array["spare_rows"]
        self.columns = array["columns"] + self.extra + array["spare_columns"]
        inside = {
            "array": hierarchy["arrays_per_core"] + hierarchy["spare_arrays_per_core"],
            "core": hierarchy["cores_per_tile"],
            "tile": hierarchy["tiles_per_chip"],
            "chip": 1,
        }
        # Units of each kind in a chip.
        self.in_chip = {unit: math.prod([inside[each] for each in UNITS[i:]]) for i, unit in enumerate(UNITS)}
        self.at = self._point()
        self.at["link_m"] = math.sqrt(self._tile_area())

    def _point(self) -> dict[str, float]:
        target, device, array, digital = (self.target, *(self.target[key] for key in ("device", "array", "digital")))
        encoding, precision, network = (self.target[key] for key in ("encoding", "precision", "network"))
        digits = 2 ** target["converters"]["dac"]["bits"]
        cells = encoding["slices"] if encoding["slices_in"] == "adjacent" else 1
        cells *= self.polarities if encoding["pairs_in"] == "adjacent" else 1
        arrays = encoding["slices"] * self.polarities / cells  # that hold the same weights together
        in_core = self.in_chip["array"] / self.in_chip["core"]
        found = {
            "columns": self.columns,
            "adc_bits": target["converters"]["adc"]["bits"],
            "adc_rate_hz": target["converters"]["adc"]["rate_hz"],
            "dac_bits": target["converters"]["dac"]["bits"],
            "input_power": sum((digit / (digits - 1)) ** 2 for digit in range(digits)) / digits,
            "read_voltage_v": device["read_voltage_v"],
            "read_pulse_s": device["read_pulse_s"],
            "word_segment_f": array.get("wire_capacitance_f", array.get("cell_pitch_m", 0) * 2e-10),
            "accumulator_bits": digital["accumulator_bits"],
            "operation_bits": digital["accumulator_bits"],
            "input_register_bytes": self.rows * in_core * precision["inputs"] / 8,
            "output_register_bytes": array["columns"] // cells * in_core / arrays * precision["inputs"] / 8,
            "link_bits": network["link_bits"],
            "link_clock_hz": network["clock_hz"],
            "chip_link_bytes_per_s": network["chip_link_bytes_per_s"],
            "clock_hz": digital["clock_hz"],
        }
        if "buffer_bytes" in digital:
            found["buffer_bytes"] = digital["buffer_bytes"]
        if "buffer_bytes_per_s" in digital:
            found["buffer_width_bits"] = 8 * digital["buffer_bytes_per_s"] / digital["clock_hz"]
        return found

    def rule(self, part: Table) -> str:
        return str(part.get("rule", DEFAULTS[part.get("event")][0]))

    def in_unit(self, part: Table) -> float:
        """Instances in each unit of its ``per``."""
        if "count" in part:
            return float(part["count"])
        each = part.get("each", DEFAULTS[part.get("event")][1])
        arrays = self.in_chip["array"] / self.in_chip[part["per"]]
        tiles = self.in_chip["tile"] / self.in_chip[part["per"]]
        parts = {
            "unit": 1,
            "array": arrays,
            "cell": self.rows * self.columns * arrays,
            "word_line": self.rows * arrays,
            "bit_line": self.columns * arrays,
            "adc": self.adcs * arrays,
            "lane": self.target["digital"]["operations_per_cycle"] * tiles,
        }
        return float(parts[each] / part["shared_by"])

    def figure(self, part: Table, name: str, siemens: float = 0.0) -> float:
        """A figure of one instance, or of one event."""
        rule = self.rule(part)
        if name == ENERGY and rule in COMPUTED:
            return COMPUTED[rule]({**self.at, "cell_siemens": siemens})
        given = float(part[name])
        if not given or name not in RULES[rule]:
            return given
        there = {**part["reference"], **part["references"].get(name, {})}
        # What the target does not limit, and what the reference does not say, is the same at both points.
        free = dict.fromkeys(("buffer_bytes", "buffer_width_bits"), 1.0)
        now, then = {**free, **there, **self.at}, {**free, **self.at, **there}
        return given * RULES[rule][name](now) / RULES[rule][name](then)

    def _tile_area(self) -> float:
        """Area of a tile but for parts that grow with the links."""
        return sum(
            self.in_unit(part) * self.in_chip[part["per"]] / self.in_chip["tile"] * self.figure(part, AREA)
            for part in self.target["components"].values()
            if part["per"] != "chip" and self.rule(part) != "link"
        )

    def joules_per_byte(self, part: Table) -> float | None:
        """Standby of a shared part for a byte: power of a chip over its capacity; None where the part is not shared."""
        event, digital, network = part.get("event"), self.target["digital"], self.target["network"]
        tiles = self.in_chip["tile"]
        if event == "chip_link_byte":
            capacity = network["chip_link_bytes_per_s"]
        elif event == "link_byte":
            side = math.ceil(math.sqrt(tiles))
            levels = range((tiles - 1).bit_length())
            links = {
                "mesh": 4 * side * (side - 1),
                "htree": 2 * sum(((tiles - 1) >> level) + 1 for level in levels),
                "bus": int(tiles > 1),
            }[network["topology"]]
            capacity = links * network["link_bits"] / 8 * network["clock_hz"]
        elif event in BUFFER and "buffer_bytes_per_s" in digital:
            capacity = digital["buffer_bytes_per_s"] * tiles
        else:
            return None
        power = self.in_unit(part) * self.in_chip[part["per"]] * self.figure(part, POWER)
        return power / capacity if capacity else 0.0


def priced(target: Table, cost: Table) -> dict[str, Any]:
    """Energies per inference at the rate of ``cost``, and area, in all and by component.

    Args:
        target: of target.toml.
        cost: of cost.json; only ``rate_per_s``, ``events`` and ``units`` are read.
    """
    chip, interval, layers = Chip(target), 1 / cost["rate_per_s"], cost["units"]["layers"]
    chips = round(sum(layer["chip"] for layer in layers.values()))
    step = (target["device"]["g_max_siemens"] - target["device"]["g_min_siemens"]) / (target["device"]["levels"] - 1)
    components = {}
    for name, part in target["components"].items():
        events = [row for row in cost["events"] if row["event"] == part.get("event")]
        active = sum(
            row["count"]
            * chip.figure(part, ENERGY, target["device"]["g_min_siemens"] + layers[row["layer"]]["mean_step"] * step)
            for row in events
        )
        in_use = {key: chip.in_unit(part) * layer[part["per"]] for key, layer in layers.items()}
        power, in_all = chip.figure(part, POWER), chip.in_unit(part) * chip.in_chip[part["per"]] * chips
        times = {key: min(layer["busy_s"], interval) if part["gated"] else interval for key, layer in layers.items()}
        full = sum(count * power * times[key] for key, count in in_use.items())
        idle = 0.0 if part["gated"] else max(0.0, in_all - sum(in_use.values())) * power * interval
        each = chip.joules_per_byte(part)
        used = full
        if each is not None:
            shared = BUFFER if part["event"] in BUFFER else (part["event"],)
            used = min(full, each * sum(row["count"] for row in cost["events"] if row["event"] in shared))
        components[name] = {
            "energy_active_j": active,
            "energy_standby_used_j": used,
            "energy_standby_chip_j": full + idle,
            "area_m2": sum(in_use.values()) * chip.figure(part, AREA),
        }
    totals = {key: sum(row[key] for row in components.values()) for key in next(iter(components.values()))}
    return {"energy_j": totals["energy_active_j"] + totals["energy_standby_used_j"], **totals, "components": components}


@dataclass(frozen=True)
class Layer:
    """A layer that is a network of its own.

    Attributes:
        rows, results: of its matrix.
        vectors: products with it in an inference.
        token_bytes: input that arrives at once: all channels of a position, or the whole vector.
    """

    rows: int
    results: int
    vectors: int
    token_bytes: float


def latency(target: Table, layer: Layer) -> float:
    """Seconds of one inference of a layer alone in one tile: the way in, reads one after the other, the last result."""
    chip, array, digital = Chip(target), target["array"], target["digital"]
    encoding, converter, network = target["encoding"], target["converters"]["adc"], target["network"]

    def clocks(seconds: float) -> int:
        return math.ceil(seconds * digital["clock_hz"] - 1e-6)

    def delay(*events: str) -> float:
        return sum(float(part["latency_s"]) for part in target["components"].values() if part.get("event") in events)

    pairs = chip.polarities == 2 and encoding["subtract"] == "before_adc"  # one conversion for two bit lines
    sharing = chip.polarities if encoding["pairs_in"] == "separate" else 1
    lines = math.ceil(sharing * (array["columns"] + chip.extra) / round(chip.adcs * sharing))
    conversions = math.ceil(lines / (2 if pairs else 1))
    read = clocks(max(target["device"]["read_pulse_s"], conversions / converter["rate_hz"]))
    phases = math.ceil(target["precision"]["inputs"] / target["converters"]["dac"]["bits"])
    service = phases * math.ceil(min(layer.rows, array["rows"]) / array["rows_active"]) * read
    events = {part.get("event") for part in target["components"].values()} - {"link_byte", "chip_link_byte"}
    fill = digital["fill_reads"] * read + clocks(delay(*events))
    scale = max(1, clocks(layer.results / digital["operations_per_cycle"] / digital["clock_hz"]))
    way = network["chip_link_latency_s"] + delay("chip_link_byte")
    way += layer.token_bytes / network["chip_link_bytes_per_s"]
    every = clocks(way) + service + fill + (layer.vectors - 1) * max(service, scale) + scale
    return every / float(digital["clock_hz"])


def difference(ours: float, theirs: float) -> float:
    """Relative, of the larger one."""
    return abs(ours - theirs) / max(abs(ours), abs(theirs)) if ours != theirs else 0.0


def differences(target: Table, cost: Table) -> dict[str, float]:
    """Relative difference of every total, and of every component's figures, between cost.json and this script."""
    found = priced(target, cost)
    result = {key: difference(cost[key], value) for key, value in found.items() if key != "components"}
    for name, row in found["components"].items():
        for key, value in row.items():
            result[f"{name}.{key}"] = difference(cost["components"][name][key], value)
    return result


def main() -> None:
    """Print every difference of a build."""
    build = Path(sys.argv[1])
    target = tomllib.loads((build / "target.toml").read_text(encoding="utf-8"))
    for key, value in differences(target, json.loads((build / "cost.json").read_text())).items():
        print(f"{value:9.2e}  {key}")


if __name__ == "__main__":
    main()
