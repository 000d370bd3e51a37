"""Price rules and what a component has one instance for, written down a second time for sweep_check.py.

Formulas and their sources: the docstrings of ``mcompiler.pricing``. Nothing of mcompiler is imported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

Point = Mapping[str, float]
Rule = Mapping[str, Callable[[Point], float]]

ENERGY, POWER, AREA = "energy_j", "static_power_w", "area_m2"


def survey_energy(at: Point) -> float:
    """Energy of a conversion (arXiv 2404.06553): SNDR of so many bits, over the smaller of two figures of merit."""
    bits = max(4, at["adc_bits"])
    sndr_db = 10 * math.log10(1.5 * 4**bits)
    merit_db = min(128.3068287398817 + 3.2205115109776 * bits, merit_of_rate(at["adc_rate_hz"]))
    return 10 ** ((sndr_db - merit_db) / 10) * bits**-2.8291256050594527


def merit_of_rate(rate_hz: float) -> float:
    return 213.7806687348118 - 2.8719030399529957 * math.log(rate_hz)


def excess(bits: float, rate_hz: float) -> float:
    return 10 ** (max(0, 128.3068287398817 + 3.2205115109776 * bits - merit_of_rate(rate_hz)) / 10)


def saberi_excess(at: Point) -> float:
    bits = at["adc_bits"]
    return excess(bits, max(at["adc_rate_hz"], 1.28e9)) / excess(bits, 1.28e9)


def in_table(bits: float, values: tuple[float, ...]) -> float:
    """A table from 4 bits on: geometric between two rows, and outside as between the two nearest."""
    low = min(max(math.ceil(bits) - 5, 0), len(values) - 2)
    return values[low] * (values[low + 1] / values[low]) ** (bits - 4 - low)


SABERI_PJ = (0.79, 0.99, 1.20, 1.42, 1.67, 1.97, 2.38)
SABERI_UM2 = (361.0, 477.0, 627.0, 845.0, 1200.0, 1828.0, 3002.0)
MULTIPLY_J, MULTIPLY_M2 = math.log(3.1 / 0.2, 4), math.log(3495 / 282, 4)


def operation_j(at: Point) -> float:
    bits = at["operation_bits"]
    return 0.1 * bits / 32 + 0.2 * (bits / 8) ** MULTIPLY_J


def hold(farad: float) -> Callable[[Point], float]:
    """Capacitor with the noise of rounding at 300 K, beside a part that does not grow."""
    return lambda at: farad + 12 * 1.380649e-23 * 300 * 4 ** at["adc_bits"]


def memory(access: tuple[float, float, float], leakage: tuple[float, float], area: float) -> Rule:
    """Power laws of CACTI: energy of a byte, leakage, area."""

    def whole_access(at: Point) -> float:
        return access[0] * at["buffer_bytes"] ** access[1] * (1 + at["buffer_width_bits"] / access[2])

    def leak(at: Point) -> float:
        return leakage[0] * at["buffer_bytes"] ** leakage[1]

    return {
        ENERGY: lambda at: whole_access(at) * 8 / at["buffer_width_bits"],
        POWER: leak,
        AREA: lambda at: at["buffer_bytes"] ** area,
        "busy": lambda at: whole_access(at) * at["clock_hz"] + leak(at),
    }


def register(size: str) -> Rule:
    return {
        ENERGY: lambda at: at[size] ** 0.5367,
        POWER: lambda at: at[size] ** 0.814 * at["clock_hz"],
        AREA: lambda at: at[size] ** 0.539,
    }


def router(at: Point) -> float:
    width = at["link_bits"] / 32
    return (33 + 22) * width + 15 * width**2 + 7


SRAM = memory((1.029e-14, 0.5367, 70.3), (4.266e-7, 0.9708), 0.9788)
EDRAM = memory((1.004e-14, 0.4778, 36.4), (2.461e-7, 0.8418), 0.9397)

RULES: Mapping[str, Rule] = {
    "adc_survey": {
        ENERGY: survey_energy,
        POWER: lambda at: survey_energy(at) * at["adc_rate_hz"],
        AREA: lambda at: at["adc_rate_hz"] ** 0.18071538424508238 * survey_energy(at) ** 0.29912426192653485,
    },
    "adc_saberi": {
        ENERGY: lambda at: in_table(at["adc_bits"], SABERI_PJ) * saberi_excess(at),
        POWER: lambda at: in_table(at["adc_bits"], SABERI_PJ) * saberi_excess(at) * at["adc_rate_hz"],
        AREA: lambda at: (
            in_table(at["adc_bits"], SABERI_UM2)
            * (at["adc_rate_hz"] / 1.28e9) ** 0.18071538424508238
            * saberi_excess(at) ** 0.29912426192653485
        ),
    },
    "dac": dict.fromkeys((ENERGY, POWER, AREA), lambda at: 2 ** at["dac_bits"]),
    "sample_hold": {ENERGY: hold(0.45e-15), POWER: hold(0.45e-15), AREA: hold(4.38e-15)},
    "adder": {
        ENERGY: lambda at: at["accumulator_bits"],
        POWER: lambda at: at["accumulator_bits"] * at["clock_hz"],
        AREA: lambda at: at["accumulator_bits"],
    },
    "digital_operation": {
        ENERGY: operation_j,
        POWER: lambda at: operation_j(at) * at["clock_hz"],
        AREA: lambda at: 137 * at["operation_bits"] / 32 + 282 * (at["operation_bits"] / 8) ** MULTIPLY_M2,
    },
    "sram": SRAM,
    "edram": EDRAM,
    "edram_full_rate": {**EDRAM, POWER: EDRAM["busy"]},
    "input_register": register("input_register_bytes"),
    "output_register": register("output_register_bytes"),
    "bus": {
        POWER: lambda at: at["buffer_width_bits"] * at["clock_hz"],
        AREA: lambda at: at["buffer_width_bits"],
    },
    "router": {
        ENERGY: lambda at: router(at) / at["link_bits"],
        POWER: lambda at: router(at) * at["link_clock_hz"],
        AREA: lambda at: router(at) - 33 * at["link_bits"] / 32,
    },
    "link": {
        ENERGY: lambda at: at["link_m"],
        POWER: lambda at: at["link_bits"] * at["link_m"] * at["link_clock_hz"],
        AREA: lambda at: at["link_bits"] * at["link_m"],
    },
    "chip_link": dict.fromkeys((POWER, AREA), lambda at: at["chip_link_bytes_per_s"]),
    "cell": {},
    "word_line": {},
    "constant": {},
    "fixed": {},
}
"""Size of a figure up to a constant factor; figures that are missing follow nothing."""

COMPUTED: Mapping[str, Callable[[Point], float]] = {
    "cell": lambda at: at["read_voltage_v"] ** 2 * at["cell_siemens"] * at["input_power"] * at["read_pulse_s"],
    "word_line": lambda at: at["columns"] * at["word_segment_f"] * at["read_voltage_v"] ** 2 * at["input_power"],
}
"""Energy of an event in joules, without a figure of the target."""

DEFAULTS = {
    "array_read": ("fixed", "array"),
    "cell_read": ("cell", "cell"),
    "dac_drive": ("dac", "word_line"),
    "adc_conversion": ("adc_survey", "adc"),
    "sample_hold": ("sample_hold", "bit_line"),
    "shift_add": ("adder", "unit"),
    "buffer_read_byte": ("sram", "unit"),
    "buffer_write_byte": ("sram", "unit"),
    "link_byte": ("router", "unit"),
    "chip_link_byte": ("chip_link", "unit"),
    "digital_op": ("digital_operation", "lane"),
    None: ("constant", "unit"),
}
"""Rule of a component and what it has one instance for, by its event."""
