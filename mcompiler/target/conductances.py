"""Conductances of a device against its range: what errors, faults and writing of its cells may be.

A number in microsiemens where siemens are asked for is a million times too large. So every key of [device] and of its
sections that is a conductance is compared with ``g_max_siemens``, whatever effect it belongs to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce
from typing import Any

from mcompiler.encodings.settings import Violations
from mcompiler.target.base import Section
from mcompiler.target.ranges import COEFFICIENTS
from mcompiler.target.sections import Device

SHORT_CIRCUIT = 1e3
"""Largest conductance of a cell that is stuck on, over that of the highest level."""

LARGEST = 4.0
"""Largest conductance in a table of states, over that of the highest level; as for measured means."""

_UNIT = "_siemens"
_STEPS = 64
_RANGE = ("g_min_siemens", "g_max_siemens")


def conductance_scale(device: Device) -> Violations:
    """Deviations, tolerances and stuck cells that no cell of this range can have."""
    for path, key, value in _conductances(device, ("device",)):
        size = _size(key, value)
        limit = device.g_max_siemens * _limit(key)
        if size > limit:
            what = "is, within g / g_max = 0 to 1," if key.startswith(COEFFICIENTS) else "is"
            yield (
                ".".join((*path, key)),
                f"{size:g} S {what} above {limit:g} S, {_meaning(key)} of cells up to g_max_siemens = "
                f"{device.g_max_siemens:g} S; check the unit",
            )


def stuck_order(device: Device) -> Violations:
    """Cells that are stuck off and conduct more than those that are stuck on."""
    faults = device.faults
    if faults is None:
        return
    on = device.g_max_siemens if faults.stuck_on_siemens is None else faults.stuck_on_siemens
    off = device.g_min_siemens if faults.stuck_off_siemens is None else faults.stuck_off_siemens
    if off > on:
        key = "stuck_on_siemens" if faults.stuck_off_siemens is None else "stuck_off_siemens"
        yield (
            f"device.faults.{key}",
            f"cells that are stuck off conduct {off:g} S, those that are stuck on {on:g} S; exchange them, or check "
            "the unit",
        )


def write_limits(device: Device) -> Violations:
    """Cells that are worn out before they are written once."""
    write = device.write
    if write is not None and write.endurance is not None and write.pulses > write.endurance:
        yield (
            "device.write.pulses",
            f"{write.pulses:g} pulses for one programming, but device.write.endurance is {write.endurance:g} writes; "
            "no cell could be written",
        )


def access_limit(device: Device) -> Violations:
    """A resistance in series that leaves no difference between the levels."""
    share = device.access_resistance_ohm * device.g_max_siemens
    if share > SHORT_CIRCUIT:
        yield (
            "device.access_resistance_ohm",
            f"{device.access_resistance_ohm:g} ohm is {share:.3g} times the resistance of a cell at g_max_siemens = "
            f"{device.g_max_siemens:g} S, which leaves no difference between levels; check the unit",
        )


def _conductances(section: Section, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    """(path of the section, key, value) of every conductance that a section gives."""
    for key in type(section).model_fields:
        value = getattr(section, key)
        if isinstance(value, Section):
            yield from _conductances(value, (*path, key))
        elif isinstance(value, Mapping):
            for name, each in value.items():
                if isinstance(each, Section):
                    yield from _conductances(each, (*path, key, name))
        elif key.endswith(_UNIT) and key not in _RANGE and value is not None:
            yield path, key, value


def _size(key: str, value: Any) -> float:
    """The largest conductance that a key describes."""
    if isinstance(value, int | float):
        return float(value)
    if key.startswith(COEFFICIENTS):
        shares = (step / _STEPS for step in range(_STEPS + 1))
        return max(reduce(lambda sum_, each: sum_ * share + each, value, 0.0) for share in shares)
    return max(value, default=0.0)


def _limit(key: str) -> float:
    if key == "stuck_on_siemens":
        return SHORT_CIRCUIT
    return LARGEST if key == "table_siemens" else 1.0


def _meaning(key: str) -> str:
    if key == "stuck_on_siemens":
        return "more than a short circuit"
    if key == "stuck_off_siemens":
        return "the highest level"
    return "more than any state" if key == "table_siemens" else "more than any deviation"


RULES = (conductance_scale, stuck_order, write_limits, access_limit)
