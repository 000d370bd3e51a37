"""Programming: how far a cell is from the conductance that it was written to.

g = wanted exp(log_normal n1) + sigma n2 with n1, n2 standard normal and sigma^2 = absolute^2 + (proportional wanted)^2
+ polynomial(wanted / g_max)^2 + level^2. The median of the log-normal part is the wanted conductance; a deviation of
ln(g) of 0.1 is the variation of FORMS (Yuan et al., ISCA 2021).

Where a target describes relaxation instead: g = wanted + sigma(t) n2 (``mcompiler.effects.drift.relaxed_deviation``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from mcompiler.effects.base import (
    ArrayOnChip,
    DeviceLevels,
    Effect,
    Polynomial,
    Siemens,
    formed,
    polynomial_deviation,
)
from mcompiler.effects.drift import first_look_s, relaxed_deviation
from mcompiler.effects.lazy_numpy import np
from mcompiler.effects.retention import aged_s
from mcompiler.encodings.settings import Violations
from mcompiler.target.base import NonNegativeFloat, Section

if TYPE_CHECKING:
    from mcompiler.target.schema import Target
    from mcompiler.target.sections import Device


class ProgrammingVariation(Section):
    """How far a cell is from the conductance that it was written to; the normal parts add in variance.

    g = wanted x exp(log_normal x n1) + deviation x n2, n1 and n2 standard normal, cut at 0.
    """

    absolute_siemens: NonNegativeFloat = Field(default=0.0, description="deviation, the same for every conductance")
    proportional: NonNegativeFloat = Field(default=0.0, description="deviation as a share of the wanted conductance")
    log_normal: NonNegativeFloat = Field(default=0.0, description="deviation of ln(actual / wanted)")
    polynomial_siemens: Polynomial | None = Field(
        default=None, description="deviation as a polynomial of g / g_max, highest power first, siemens; at least 0"
    )
    level_siemens: tuple[NonNegativeFloat, ...] | None = Field(
        default=None, description="measured: deviation of each level, lowest level first"
    )


def programmed(
    wanted: Siemens, levels: DeviceLevels, device: Device, rng: np.random.Generator, time_s: float
) -> Siemens:
    """Conductances after writing, with ``device.programming``, or with ``device.relaxation`` a time after it.

    Args:
        wanted: float64 [...], siemens; 0 for a cell that is never formed.
        levels: integers, same shape: which level of the device a cell is at; not read where nothing is wanted.
        device: the device.
        rng: one chip's.
        time_s: since programming; it matters for relaxation only.

    Returns:
        float64 [...], siemens.
    """
    programming = device.programming
    if programming is None and not device.relaxation:
        return wanted
    # Both are drawn with every description, so that a changed description leaves the draws as they are.
    normal = rng.standard_normal(wanted.shape)
    factor = rng.standard_normal(wanted.shape)
    log_normal = 0.0 if programming is None else programming.log_normal
    deviation = written_deviation(wanted, levels, device, time_s)
    return formed(wanted, wanted * np.exp(log_normal * factor) + deviation * normal)


def written_deviation(wanted: Siemens, levels: DeviceLevels, device: Device, time_s: float) -> Siemens:
    """Standard deviation of the normal parts of ``programmed`` together; arguments as there, siemens."""
    programming = device.programming
    if programming is None:
        return relaxed_deviation(wanted, device, time_s) if device.relaxation else np.zeros_like(wanted)
    variance = programming.absolute_siemens**2 + (programming.proportional * wanted) ** 2
    if programming.polynomial_siemens is not None:
        variance = variance + polynomial_deviation(programming.polynomial_siemens, wanted / device.g_max_siemens) ** 2
    if programming.level_siemens is not None:
        variance = variance + np.asarray(programming.level_siemens)[levels] ** 2
    return np.sqrt(variance)


def _level_deviations(device: Device) -> Violations:
    programming = device.programming
    if programming is None:
        return
    if device.relaxation:
        yield (
            "device.relaxation",
            "it holds all causes since programming, device.programming among them; remove one of the two",
        )
    given = programming.level_siemens
    if given is not None and len(given) != device.levels:
        yield (
            "device.programming.level_siemens",
            f"{len(given)} deviations, but device.levels is {device.levels}; give one for each",
        )


@dataclass(frozen=True)
class ProgrammingEffect(Effect):
    """Cells miss the conductance that they were written to; drawn once per chip."""

    name = "programming"
    order = 10
    stream = 0
    described_elsewhere = "[device.programming] or [device.relaxation]"
    rules = (_level_deviations,)

    def is_described(self, target: Target) -> bool:
        """Whether cells have an error right after writing, or one measured some time later."""
        return target.device.programming is not None or bool(target.device.relaxation)

    def write_cells(self, G: Siemens, array: ArrayOnChip) -> Siemens:
        """Cells after writing, or as they have relaxed since."""
        device = array.target.device
        age_s = first_look_s(device) if array.age_s is None else aged_s(device, array.age_s)
        return programmed(G, array.levels, device, array.rng(self), age_s)


PROGRAMMING = ProgrammingEffect()
