"""The range of numbers by unit: values outside of it are errors of units or exponents, and their products overflow.

The unit of a key is the end of its name; a key without a unit is its own end. The bounds are generous: they hold every
device, converter and chip that was built or proposed, with orders of magnitude to spare. Conductances of a device are
also compared with its range (``mcompiler.target.conductances``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mcompiler.target.base import KeyPath


@dataclass(frozen=True)
class UnitRange:
    """Magnitudes of the numbers of one unit, both ends included; 0 is left to the key.

    Attributes:
        smallest, largest: of a number.
        unit: as messages show it; "" for counts and ratios.
    """

    smallest: float
    largest: float
    unit: str = ""

    def holds(self, value: float) -> bool:
        """Whether a number is 0, not finite (an error of its own), or has a magnitude of the range."""
        size = abs(value)
        return size == 0 or self.smallest <= size <= self.largest or not size < math.inf


RANGES: Mapping[str, UnitRange] = {
    "v": UnitRange(1e-6, 1e3, "V"),
    "ohm": UnitRange(1e-6, 1e15, "ohm"),
    "siemens": UnitRange(1e-18, 1.0, "S"),
    "f": UnitRange(1e-21, 1.0, "F"),
    "s": UnitRange(1e-15, 1e12, "s"),
    "pulse_s": UnitRange(1e-15, 1e3, "s"),
    "latency_s": UnitRange(1e-15, 1.0, "s"),
    "hz": UnitRange(1.0, 1e12, "Hz"),
    "j": UnitRange(1e-24, 1e3, "J"),
    "w": UnitRange(1e-18, 1e6, "W"),
    "m": UnitRange(1e-10, 1e2, "m"),
    "m2": UnitRange(1e-20, 1e2, "m2"),
    "nm": UnitRange(0.1, 1e6, "nm"),
    "bytes": UnitRange(1.0, 1e15, "B"),
    "bytes_per_s": UnitRange(1e3, 1e18, "B/s"),
    "kelvin": UnitRange(1e-3, 1e4, "K"),
    "ev": UnitRange(1e-3, 20.0, "eV"),
    "per_kelvin": UnitRange(1e-18, 1.0, "1/K"),
    "codes": UnitRange(1e-18, 2.0**24, "codes"),
    "gain_error": UnitRange(1e-18, 1.0),
    # Shares of a conductance, exponents of powers of time and conductance: a percentage is none.
    "proportional": UnitRange(1e-18, 1.0),
    "log_normal": UnitRange(1e-18, 5.0),
    "q": UnitRange(1e-18, 1.0),
    "q_largest": UnitRange(1e-18, 10.0),
    "q_exponent": UnitRange(1e-3, 5.0),
    "nu": UnitRange(1e-18, 2.0),
    "nu_per_log": UnitRange(1e-18, 2.0),
    "nu_min": UnitRange(1e-18, 2.0),
    "nu_max": UnitRange(1e-18, 2.0),
    "spread": UnitRange(1e-18, 2.0),
    "spread_per_log": UnitRange(1e-18, 2.0),
    "spread_min": UnitRange(1e-18, 2.0),
    "spread_max": UnitRange(1e-18, 2.0),
    "table_nu": UnitRange(1e-18, 2.0),
    "table_spread": UnitRange(1e-18, 2.0),
    "table_q": UnitRange(1e-18, 10.0),
    # Writing one cell: a pulse of a millijoule would melt it.
    "pulses": UnitRange(1e-3, 1e9),
    "endurance": UnitRange(1.0, 1e18),
    "pulse_energy_j": UnitRange(1e-24, 1e-3, "J"),
    "verify_energy_j": UnitRange(1e-24, 1e-3, "J"),
    "verify_s": UnitRange(1e-15, 1e3, "s"),
    "read_s": UnitRange(1e-15, 1e3, "s"),
}
"""Ranges of numbers, by the end of the key."""

COEFFICIENTS = "polynomial_"
"""Keys that begin so are coefficients of the unit at their end: as small as one likes."""

OTHERS = UnitRange(1e-30, 1e30)
"""Range of other floating-point numbers: ratios, rates, coefficients."""

COUNTS = UnitRange(1, 10**12)
"""Range of whole numbers without a unit."""


def range_of(key: str, whole: bool = False) -> UnitRange:
    """The range of a key: that of the longest end of its name that is a unit.

    Args:
        key: last part of its path.
        whole: a whole number.
    """
    parts = key.split("_")
    for start in range(len(parts)):
        found = RANGES.get("_".join(parts[start:]))
        if found is not None and "per" not in parts[:start]:
            return found
    return COUNTS if whole else OTHERS


def in_range(path: str, value: float) -> bool:
    """Whether the number at a key, given with its path, has the range of the key."""
    return range_of(path.rpartition(".")[2], isinstance(value, int)).holds(value)


def range_violations(data: Mapping[str, Any], path: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    """(path, message) of every number of a target file that lies outside of its range.

    Entries of lists have the range of their key; coefficients of polynomials are not too small for it.
    """
    for key, value in data.items():
        where = (*path, key)
        if isinstance(value, Mapping):
            yield from range_violations(value, where)
        elif isinstance(value, list | tuple):
            numbers = [each for each in value if _is_number(each)]
            wanted = range_of(key, all(isinstance(each, int) for each in numbers))
            if key.startswith(COEFFICIENTS):
                wanted = UnitRange(OTHERS.smallest, wanted.largest, wanted.unit)
            outside = [each for each in numbers if not wanted.holds(each)]
            if outside:
                yield where, _message(outside[0], wanted)
        elif _is_number(value):
            wanted = range_of(key, isinstance(value, int))
            if not wanted.holds(value):
                yield where, _message(value, wanted)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _message(value: float, wanted: UnitRange) -> str:
    unit = f" {wanted.unit}" if wanted.unit else ""
    try:
        shown = f"{value:g}"
    except OverflowError:  # a whole number beyond all floats
        shown = f"a number of {len(str(abs(value)))} digits"
    nearest = wanted.smallest if abs(value) < wanted.smallest else wanted.largest
    return (
        f"{shown}{unit} is outside of {wanted.smallest:g} to {wanted.largest:g}{unit}; the nearest legal value is "
        f"{nearest:g}"
    )
