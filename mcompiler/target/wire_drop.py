"""The current that the wires of an array cost, estimated in closed form, where it makes results of little use.

A line of N cells of conductance g, joined by segments of resistance r, is a uniform ladder. In its continuum limit the
voltages along it follow V'' = r g V per cell squared, and the current that all cells draw together is tanh(k) / k of
the one without resistance, k = N sqrt(r g). Word lines (driven at one end) and bit lines (sensed at one end) are taken
one after the other. Of rows that are read in fragments, a fragment sees half of the others' segments on average.

The whole answer, with the levels that are mapped, is that of trials with the effect of wires; this estimate needs a
target only.
"""

from __future__ import annotations

from math import sqrt, tanh

from mcompiler.target.schema import Target

TYPICAL_SEGMENT_OHM = 2.82
"""Resistance of one segment where a target gives none: MNSIM, Xia et al., IEEE TCAD 37, 1009 (2018), its default."""

LARGEST_LOSS = 0.25
"""Share of the current above which the user is told. The shipped targets lose less, even with typical wires."""


def wire_loss(target: Target, conductance: float) -> float:
    """Share of the current of a column that is lost in the wires, with all cells at one conductance.

    Args:
        target: its array; wires without resistance have ``TYPICAL_SEGMENT_OHM``.
        conductance: of a cell, in siemens, without its access device.
    """
    return _loss(target, conductance, target.array.rows, target.array.columns)


def wire_note(target: Target) -> str | None:
    """A warning where even cells at their lowest level lose too much current in the wires; None where they do not."""
    array, device = target.array, target.device
    least = wire_loss(target, device.g_min_siemens)
    if least <= LARGEST_LOSS:
        return None
    mean = (device.g_min_siemens + device.g_max_siemens) / 2
    known = array.wire_resistance_ohm > 0 or array.bit_wire_ohm > 0
    wires = (
        f"array.wire_resistance_ohm = {array.wire_resistance_ohm:g}"
        if known
        else f"segments of {TYPICAL_SEGMENT_OHM:g} ohm, typical, as array.wire_resistance_ohm is 0"
    )
    remedy = "" if known else "state array.wire_resistance_ohm and "
    return (
        f"array.rows = {array.rows}, array.columns = {array.columns}: wires ({wires}) take at least {least:.0%} of the "
        f"current of a column, and {wire_loss(target, mean):.0%} with cells at the mean conductance, which neither the "
        f"codes nor the cost contain; {remedy}run verify --effects wires, or make arrays of at most "
        f"{_largest_square(target)} x {_largest_square(target)}"
    )


def _loss(target: Target, conductance: float, rows: int, columns: int) -> float:
    array = target.array
    known = array.wire_resistance_ohm > 0 or array.bit_wire_ohm > 0
    word, bit = (array.wire_resistance_ohm, array.bit_wire_ohm) if known else (TYPICAL_SEGMENT_OHM,) * 2
    cell = conductance / (1 + conductance * target.device.access_resistance_ohm)
    active = min(rows, array.rows_active)
    on_bit_line = _delivered(active, bit, cell)
    on_bit_line /= 1 + active * cell * on_bit_line * bit * (rows - active) / 2
    on_word_line = _delivered(columns, word, cell) if array.drive == "row_voltage" else 1.0  # gates draw no current
    return 1 - on_bit_line * on_word_line


def _delivered(cells: int, segment_ohm: float, conductance: float) -> float:
    """Share of the current of a line that is left."""
    k = cells * sqrt(segment_ohm * conductance)
    return tanh(k) / k if k > 0 else 1.0


def _largest_square(target: Target) -> int:
    """The largest power of two of rows and of columns for which there is no note; 1 if there is none."""
    size = 1
    while _loss(target, target.device.g_min_siemens, 2 * size, 2 * size) <= LARGEST_LOSS:
        size *= 2
    return size
