"""A point of a chip at which every rule has a value, and how a figure moves from it."""

from __future__ import annotations

from mcompiler.pricing import Figure, PriceRule, Quantity

POINT: dict[Quantity, float] = {
    Quantity.ROWS: 128,
    Quantity.COLUMNS: 128,
    Quantity.READ_ROWS: 128,
    Quantity.ADC_BITS: 8,
    Quantity.ADC_RATE_HZ: 2e9,
    Quantity.DAC_BITS: 1,
    Quantity.INPUT_POWER: 0.5,
    Quantity.READ_VOLTAGE_V: 0.2,
    Quantity.READ_PULSE_S: 1e-8,
    Quantity.CELL_SIEMENS: 5e-5,
    Quantity.WORD_SEGMENT_F: 1e-16,
    Quantity.INPUT_BITS: 8,
    Quantity.ACCUMULATOR_BITS: 32,
    Quantity.BUFFER_BYTES: 65536,
    Quantity.BUFFER_WIDTH_BITS: 256,
    Quantity.INPUT_REGISTER_BYTES: 2048,
    Quantity.OUTPUT_REGISTER_BYTES: 256,
    Quantity.LINK_BITS: 32,
    Quantity.LINK_M: 6e-4,
    Quantity.LINK_CLOCK_HZ: 1.2e9,
    Quantity.CHIP_LINK_BYTES_PER_S: 25.6e9,
    Quantity.CLOCK_HZ: 1.2e9,
    Quantity.OPERATION_BITS: 16,
}


def ratio(rule: PriceRule, figure: Figure, **change: float) -> float:
    """A figure at the point with some quantities changed, over the figure at the point."""
    changed = {Quantity(name): value for name, value in change.items()}
    return rule.value(figure, POINT | changed) / rule.value(figure, POINT)
