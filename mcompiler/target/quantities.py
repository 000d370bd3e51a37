"""The quantities of a target that prices follow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mcompiler.encodings import Partner, encoding_of
from mcompiler.pricing import Quantity
from mcompiler.target.counts import unit_counts
from mcompiler.target.sections import Array, Layout

if TYPE_CHECKING:
    from mcompiler.target.schema import Target

WIRE_F_PER_M = 2e-10
"""Capacitance of a wire: 0.2 fF/um, nearly the same at all nodes (Ho, Mai and Horowitz, Proc. IEEE 89, 490, 2001)."""


def segment_farads(array: Array) -> float:
    """Capacitance of a line from one cell to the next: as given, else that of a wire as long as a cell; else 0."""
    if array.wire_capacitance_f is not None:
        return array.wire_capacitance_f
    return 0.0 if array.cell_pitch_m is None else array.cell_pitch_m * WIRE_F_PER_M


def level_siemens(target: Target) -> tuple[float, ...]:
    """Conductance of a cell at each level code that it stores."""
    pedestal, unit = target.pedestal, target.unit_siemens
    return tuple((step + pedestal) * unit for step in target.cell_steps)


def input_power(bits: int) -> float:
    """Mean square of an input digit relative to full drive, where all digits are equally likely."""
    digits = float(1 << bits)
    return (2 * digits - 1) / (6 * (digits - 1))


def quantities(target: Target) -> dict[Quantity, float]:
    """All quantities but the length of a link, which follows from areas (``target.prices``)."""
    counts, device, digital, network = unit_counts(target), target.device, target.digital, target.network
    inputs = target.precision.inputs
    found = {
        Quantity.ROWS: float(counts.word_lines),
        Quantity.COLUMNS: float(counts.bit_lines),
        Quantity.READ_ROWS: float(target.array.rows_active),
        Quantity.ADC_BITS: float(target.converters.adc.bits),
        Quantity.ADC_RATE_HZ: target.converters.adc.rate_hz,
        Quantity.DAC_BITS: float(target.converters.dac.bits),
        Quantity.INPUT_POWER: input_power(target.converters.dac.bits),
        Quantity.READ_VOLTAGE_V: device.read_voltage_v,
        Quantity.READ_PULSE_S: device.read_pulse_s,
        Quantity.CELL_SIEMENS: _mean_siemens(target),
        Quantity.WORD_SEGMENT_F: segment_farads(target.array),
        Quantity.INPUT_BITS: float(inputs),
        Quantity.ACCUMULATOR_BITS: float(digital.accumulator_bits),
        Quantity.INPUT_REGISTER_BYTES: counts.word_lines * counts.arrays_per_core * inputs / 8,
        Quantity.OUTPUT_REGISTER_BYTES: _results_of_core(target) * inputs / 8,
        Quantity.LINK_BITS: float(network.link_bits),
        Quantity.LINK_CLOCK_HZ: network.clock_hz,
        Quantity.CHIP_LINK_BYTES_PER_S: network.chip_link_bytes_per_s,
        Quantity.CLOCK_HZ: digital.clock_hz,
        Quantity.OPERATION_BITS: float(digital.accumulator_bits),
    }
    if digital.buffer_bytes is not None:
        found[Quantity.BUFFER_BYTES] = float(digital.buffer_bytes)
    if digital.buffer_bytes_per_s is not None:
        found[Quantity.BUFFER_WIDTH_BITS] = 8 * digital.buffer_bytes_per_s / digital.clock_hz
    return found


def _mean_siemens(target: Target) -> float:
    """Mean conductance of a cell, where all levels of the one cell that holds a weight are equally likely."""
    levels = level_siemens(target)
    held = float(np.mean(levels[1:] if target.encoding.partner is Partner.UNFORMED else levels))
    others = encoding_of(target.encoding).polarities - 1  # of a pair, the cell that holds no part of it
    return (held + others * levels[0]) / (1 + others)


def _results_of_core(target: Target) -> float:
    """Results of one product with the weights of all arrays of a core."""
    encoding, hierarchy = target.encoding, target.hierarchy
    polarities = encoding_of(encoding).polarities
    slices = encoding.slices if encoding.slices_in is Layout.ADJACENT else 1
    pairs = polarities if encoding.pairs_in is Layout.ADJACENT else 1
    arrays = (encoding.slices // slices) * (polarities // pairs)  # that hold the same weights together
    return target.array.columns // (slices * pairs) * hierarchy.arrays_per_core / arrays
