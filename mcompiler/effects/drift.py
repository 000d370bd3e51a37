"""Drift and relaxation: what time does to a written cell.

Drift: G(t) = G(t0) (t / t0)^-nu, every cell with its own nu; the law is that of phase-change memory, the dependence of
nu on ln(g), g being the conductance that was wanted, that of Joshi et al., Nature Communications 11, 2473 (2020), as
IBM's AIHWKIT gives it.

Relaxation: the deviation from the wanted conductance at several times after writing, all causes included, measured like
that by Wan et al., Nature 608, 504 (2022), Extended Data Fig. 3d. Programming draws it; drift lets the time pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from mcompiler.effects.base import (
    ArrayOnChip,
    Effect,
    Polynomial,
    Siemens,
    Values,
    polynomial_deviation,
)
from mcompiler.effects.lazy_numpy import np
from mcompiler.effects.retention import aged_s
from mcompiler.effects.states import at_state, table_violations
from mcompiler.encodings.settings import Violations
from mcompiler.target.base import Float, NonNegativeFloat, PositiveFloat, Section

if TYPE_CHECKING:
    from mcompiler.target.converters import ChipCalibration
    from mcompiler.target.schema import Target
    from mcompiler.target.sections import Device


class Relaxation(Section):
    """Deviation from the wanted conductance a time after programming, all causes until then included."""

    after_s: PositiveFloat = Field(description="time since programming")
    polynomial_siemens: Polynomial = Field(
        description="deviation as a polynomial of g / g_max, highest power first, siemens; at least 0"
    )


class Drift(Section):
    """G(t) = G0 (t / t0)^-nu for t > t0; every cell has its own nu, which may depend on the wanted conductance g.

    A table of mean and deviation over g replaces the law that follows.

    nu is a normal of mean nu + nu_per_log ln(g / g_max) within nu_min .. nu_max and deviation spread + spread_per_log
    ln(g / g_max) within spread_min .. spread_max; its absolute value where the mean is not below 0.
    """

    t0_s: PositiveFloat = Field(description="time since programming at which conductances are as programmed")
    nu: Float = Field(default=0.0, description="mean exponent of a cell at g_max; needed where there is no table")
    nu_per_log: Float = Field(default=0.0, description="change of the mean exponent with ln(g / g_max)")
    nu_min: Float | None = Field(default=None, description="lower bound of the mean exponent")
    nu_max: Float | None = Field(default=None, description="upper bound of the mean exponent")
    spread: Float = Field(default=0.0, description="deviation of the exponent of a cell at g_max; at least 0")
    spread_per_log: Float = Field(default=0.0, description="change of that deviation with ln(g / g_max)")
    spread_min: NonNegativeFloat = Field(default=0.0, description="lower bound of that deviation")
    spread_max: NonNegativeFloat | None = Field(default=None, description="upper bound of that deviation")
    table_siemens: tuple[NonNegativeFloat, ...] = Field(
        default=(), description="conductances of a table that replaces nu and spread and what they depend on"
    )
    table_nu: tuple[Float, ...] = Field(default=(), description="mean exponent of cells of these conductances")
    table_spread: tuple[NonNegativeFloat, ...] = Field(
        default=(), description="deviation of the exponents of these cells"
    )


def first_look_s(device: Device) -> float:
    """When a cell is first read after it was written, seconds: at the first time of relaxation, else after 1 s."""
    return min((entry.after_s for entry in device.relaxation.values()), default=1.0)


def start_s(device: Device) -> float:
    """When a device's description starts, seconds since programming: at t0 of its drift, else at the first look."""
    return first_look_s(device) if device.drift is None else device.drift.t0_s


def measured_s(device: Device, calibration: ChipCalibration | None, time_s: float) -> float | None:
    """When drift was last measured before a time, seconds since programming; None where it never is."""
    interval = None if calibration is None else calibration.drift_interval_s
    if interval is None or device.drift is None:
        return None
    return max(device.drift.t0_s, float(np.floor(time_s / interval)) * interval)


def exponents(wanted: Siemens, device: Device) -> tuple[Values, Values]:
    """Mean and standard deviation of the drift exponents of cells that were to be written to a conductance.

    mean = nu + nu_per_log ln(g / g_max) and deviation = spread + spread_per_log ln(g / g_max), each within its bounds,
    or the table in their place.

    Args:
        wanted: float64 [...], siemens.
        device: the device.

    Returns:
        Two of the same shape; 0 where the device has no drift.
    """
    drift = device.drift
    if drift is None:
        return np.zeros_like(wanted), np.zeros_like(wanted)
    if drift.table_siemens:
        mean = at_state(wanted, drift.table_siemens, drift.table_nu)
        return mean, at_state(wanted, drift.table_siemens, drift.table_spread)
    logarithm = np.log(np.where(wanted > 0, wanted, device.g_max_siemens) / device.g_max_siemens)
    mean = np.clip(drift.nu + drift.nu_per_log * logarithm, drift.nu_min, drift.nu_max)
    deviation = np.clip(drift.spread + drift.spread_per_log * logarithm, drift.spread_min, drift.spread_max)
    return mean, deviation


def drifted(G: Siemens, wanted: Siemens, device: Device, rng: np.random.Generator, time_s: float) -> Siemens:
    """Conductances at a time: G (t / t0)^-nu after t0, as they are before; every cell with its own nu.

    nu is normal, with ``exponents`` of the wanted conductance; its absolute value, as cells of a mean that is not
    negative do not gain conductance.

    Args:
        G: float64 [...], siemens, at t0 and before.
        wanted: same shape, siemens: what the cells were to be written to.
        device: the device.
        rng: one chip's.
        time_s: since programming.

    Returns:
        float64 [...], siemens.
    """
    drift = device.drift
    if drift is None:
        return G
    normal = rng.standard_normal(G.shape)
    if time_s <= drift.t0_s:
        return G
    mean, deviation = exponents(wanted, device)
    exponent = mean + deviation * normal
    return G * (time_s / drift.t0_s) ** -np.where(mean >= 0, np.abs(exponent), exponent)


def relaxed_deviation(wanted: Siemens, device: Device, time_s: float) -> Siemens:
    """Deviation of ``device.relaxation`` at a time: linear in ln(time) between the times given, constant outside."""
    share = wanted / device.g_max_siemens
    entries = sorted(device.relaxation.values(), key=lambda each: each.after_s)
    later = next((index for index, each in enumerate(entries) if each.after_s >= time_s), len(entries) - 1)
    after = polynomial_deviation(entries[later].polynomial_siemens, share)
    if later == 0 or time_s >= entries[later].after_s:
        return after
    before = polynomial_deviation(entries[later - 1].polynomial_siemens, share)
    start, end = entries[later - 1].after_s, entries[later].after_s
    weight = float(np.log(time_s / start) / np.log(end / start))
    return before + weight * (after - before)


def _relaxation_times(device: Device) -> Violations:
    at: dict[float, str] = {}
    for name, each in device.relaxation.items():
        if each.after_s in at:
            yield (
                f"device.relaxation.{name}.after_s",
                f"{each.after_s:g} s, as device.relaxation.{at[each.after_s]}; give each time once",
            )
        at.setdefault(each.after_s, name)


def _bounds(device: Device) -> Violations:
    drift = device.drift
    if drift is None:
        return
    if not drift.table_siemens and "nu" not in drift.model_fields_set:
        yield "device.drift.nu", "missing"
    yield from table_violations(
        "device.drift", drift.table_siemens, {"table_nu": drift.table_nu, "table_spread": drift.table_spread}
    )
    if drift.nu_min is not None and drift.nu_max is not None and drift.nu_min > drift.nu_max:
        yield "device.drift.nu_min", f"{drift.nu_min:g} is above nu_max = {drift.nu_max:g}; exchange them"
    if drift.spread_max is not None and drift.spread_min > drift.spread_max:
        yield (
            "device.drift.spread_min",
            f"{drift.spread_min:g} is above spread_max = {drift.spread_max:g}; exchange them",
        )


@dataclass(frozen=True)
class DriftEffect(Effect):
    """Conductances change with the time since programming; the exponents are drawn once per chip."""

    name = "drift"
    order = 20
    stream = 1
    described_elsewhere = "[device.drift] or [device.relaxation]"
    rules = (_relaxation_times, _bounds)
    ages_cells = True

    def is_described(self, target: Target) -> bool:
        """Whether conductances or their deviation change with time."""
        return target.device.drift is not None or bool(target.device.relaxation)

    def start_s(self, target: Target) -> float:
        """At t0 of the drift, else at the first look."""
        return start_s(target.device)

    def measurement_times(self, target: Target, time_s: float) -> tuple[float, float] | None:
        """At t0, and at the last multiple of ``calibration.drift_interval_s``."""
        measured, drift = measured_s(target.device, target.calibration, time_s), target.device.drift
        return None if measured is None or drift is None else (drift.t0_s, measured)

    def change_cells(self, G: Siemens, array: ArrayOnChip) -> Siemens:
        """Cells at the time of evaluation."""
        return drifted(G, array.wanted, array.target.device, array.rng(self), aged_s(array.target.device, array.time_s))


DRIFT = DriftEffect()
