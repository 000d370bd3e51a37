"""What a real device does that an ideal one does not: sections inside [device], each of which may be missing.

Every default is an ideal device. The formulas are those of ``mcompiler.physics.devices``; g is a conductance, g_max the
target's ``device.g_max_siemens``, "deviation" a standard deviation.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from mcompiler.target.base import Float, NonNegativeFloat, PositiveFloat, PositiveInt, Section, Share

Polynomial = Annotated[tuple[Float, ...], Field(min_length=1)]
"""Coefficients in siemens of powers of g / g_max, highest power first; where the value is below 0 it is 0."""


class Correlation(StrEnum):
    """For how long one draw of a noise lasts.

    ``static_at_t``: until the chip is evaluated at another time (accumulated 1/f noise). ``per_inference``: for all
    reads of one inference. ``per_read``: every read draws anew.
    """

    STATIC_AT_T = "static_at_t"
    PER_INFERENCE = "per_inference"
    PER_READ = "per_read"


class ProgrammingError(Section):
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


class Relaxation(Section):
    """Deviation from the wanted conductance a time after programming, all causes until then included."""

    after_s: PositiveFloat = Field(description="time since programming")
    polynomial_siemens: Polynomial = Field(
        description="deviation as a polynomial of g / g_max, highest power first, siemens; at least 0"
    )


class Faults(Section):
    """Cells and lines that do not work."""

    stuck_on: Share = Field(default=0.0, description="share of cells that stay at stuck_on_siemens")
    stuck_off: Share = Field(default=0.0, description="share of cells that stay at stuck_off_siemens")
    stuck_on_siemens: NonNegativeFloat | None = Field(default=None, description="g_max where it is not given")
    stuck_off_siemens: NonNegativeFloat | None = Field(default=None, description="g_min where it is not given")
    open_word_lines: Share = Field(default=0.0, description="share of word lines that drive no cell")
    open_bit_lines: Share = Field(default=0.0, description="share of bit lines that collect no current")


class OneOverF(Section):
    """Accumulated 1/f noise.

    deviation = g x min(q / (g / g_max)^q_exponent, q_largest) x sqrt(ln((t + read_s) / (2 read_s))), t the time since
    programming.
    """

    q: NonNegativeFloat = Field(
        default=0.0, description="share of g that it deviates at g_max, before the factor of time"
    )
    q_exponent: NonNegativeFloat = Field(default=0.0, description="by which the share grows at lower conductances")
    q_largest: NonNegativeFloat | None = Field(default=None, description="bound of the share; none where not given")
    read_s: PositiveFloat | None = Field(default=None, description="duration of a read, t_r of the formula")


class Noise(Section):
    """Read noise of a cell: normal, its parts add in variance."""

    correlation: Correlation = Field(description="for how long one draw lasts")
    absolute_siemens: NonNegativeFloat = Field(default=0.0, description="deviation, the same for every conductance")
    proportional: NonNegativeFloat = Field(default=0.0, description="deviation as a share of the conductance")
    polynomial_siemens: Polynomial | None = Field(
        default=None, description="deviation as a polynomial of g / g_max, highest power first, siemens; at least 0"
    )
    one_over_f: OneOverF | None = None


class Telegraph(Section):
    """Random telegraph noise: some cells sit in one of two states, the lower of which conducts less."""

    correlation: Correlation = Field(description="for how long one draw of the states lasts")
    share: Share = Field(description="share of the cells that have the two states")
    amplitude: Share = Field(description="share of the conductance that the lower state loses")
    low: Share = Field(default=0.5, description="probability of the lower state")


class Drift(Section):
    """G(t) = G0 (t / t0)^-nu for t > t0; every cell has its own nu, a normal around a mean that may hang on G0.

    mean = nu + nu_per_log ln(g / g_max) within nu_min .. nu_max, deviation = spread + spread_per_log ln(g / g_max)
    within spread_min .. spread_max, g the conductance at t0.
    """

    t0_s: PositiveFloat = Field(description="time since programming at which conductances are as programmed")
    nu: Float = Field(description="mean exponent of a cell at g_max")
    nu_per_log: Float = Field(default=0.0, description="change of the mean exponent with ln(g / g_max)")
    nu_min: Float | None = Field(default=None, description="lower bound of the mean exponent")
    nu_max: Float | None = Field(default=None, description="upper bound of the mean exponent")
    spread: Float = Field(default=0.0, description="deviation of the exponent of a cell at g_max; at least 0")
    spread_per_log: Float = Field(default=0.0, description="change of that deviation with ln(g / g_max)")
    spread_min: NonNegativeFloat = Field(default=0.0, description="lower bound of that deviation")
    spread_max: NonNegativeFloat | None = Field(default=None, description="upper bound of that deviation")


class Curve(Section):
    """Current against voltage, the same shape for every cell, odd in the voltage; its chord at read_voltage_v is G.

    Either I = G v_read sinh(v / sinh_v) / sinh(v_read / sinh_v), or a table of points between which current is linear;
    (0, 0) is a point, and beyond the last one the last piece goes on.
    """

    sinh_v: PositiveFloat | None = Field(default=None, description="voltage by which the sinh bends")
    voltages_v: tuple[PositiveFloat, ...] | None = Field(
        default=None, description="ascending, above 0, read_voltage_v among them"
    )
    ratios: tuple[PositiveFloat, ...] | None = Field(
        default=None, description="I / (G v_read) at each of these voltages, ascending; 1 at read_voltage_v"
    )


class Temperature(Section):
    """G(T) = G x (1 + per_kelvin x (kelvin - reference_kelvin))."""

    kelvin: PositiveFloat = Field(description="temperature of the chip")
    reference_kelvin: PositiveFloat = Field(description="temperature at which the conductances hold")
    per_kelvin: Float = Field(description="share of the conductance per kelvin")


class Write(Section):
    """Write and verify: what it takes to bring a cell to its conductance."""

    tolerance_siemens: NonNegativeFloat | None = Field(
        default=None, description="writing stops within this distance of the wanted conductance"
    )
    pulses: PositiveFloat = Field(description="expected write pulses of one cell, each with a read that verifies it")
    pulse_s: NonNegativeFloat = Field(description="duration of one write pulse")
    pulse_energy_j: NonNegativeFloat = Field(description="energy of one write pulse")
    verify_s: NonNegativeFloat = Field(default=0.0, description="duration of one verifying read")
    verify_energy_j: NonNegativeFloat = Field(default=0.0, description="energy of one verifying read")
    parallel_cells: PositiveInt = Field(default=1, description="cells of one array that are written at once")
    endurance: PositiveFloat | None = Field(default=None, description="writes that a cell stands")
