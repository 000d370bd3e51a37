"""Read noise of cells: normal, in several parts that add in variance.

sigma^2 = absolute^2 + (proportional g)^2 + polynomial(g / g_max)^2 + (1/f)^2 with 1/f = g min(q / (g_p / g_max)^e,
q_largest) sqrt(ln((t + t_r) / (2 t_r))). The last part is the accumulated 1/f noise of a read of duration t_r at time
t: Joshi et al., Nature Communications 11, 2473 (2020). Its share of g depends on g_p, the conductance right after
programming: a cell that has drifted has the share that it had before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from mcompiler.effects.base import (
    ArrayOnChip,
    Correlation,
    Effect,
    Fluctuation,
    Polynomial,
    Siemens,
    Values,
    formed,
    polynomial_deviation,
)
from mcompiler.effects.lazy_numpy import np
from mcompiler.effects.states import at_state, table_violations
from mcompiler.encodings.settings import Violations
from mcompiler.target.base import NonNegativeFloat, PositiveFloat, Section

if TYPE_CHECKING:
    from mcompiler.target.schema import Target
    from mcompiler.target.sections import Device


class OneOverF(Section):
    """Accumulated 1/f noise.

    deviation = g x min(q / (g_p / g_max)^q_exponent, q_largest) x sqrt(ln((t + read_s) / (2 read_s))), t the time since
    programming, g_p the conductance right after it.
    """

    q: NonNegativeFloat = Field(
        default=0.0, description="share of g that it deviates at g_max, before the factor of time"
    )
    q_exponent: NonNegativeFloat = Field(default=0.0, description="by which the share grows at lower conductances")
    q_largest: NonNegativeFloat | None = Field(default=None, description="bound of the share; none where not given")
    table_siemens: tuple[NonNegativeFloat, ...] = Field(
        default=(), description="conductances of a table that replaces q, q_exponent and q_largest"
    )
    table_q: tuple[NonNegativeFloat, ...] = Field(
        default=(), description="share of g that cells of these conductances deviate, before the factor of time"
    )
    read_s: PositiveFloat | None = Field(default=None, description="duration of a read, t_r of the formula")


class Noise(Section):
    """Read noise of a cell: normal, its parts add in variance."""

    correlation: Correlation = Field(description="for how long one draw lasts")
    absolute_siemens: NonNegativeFloat = Field(default=0.0, description="deviation, the same for every conductance")
    proportional: NonNegativeFloat = Field(default=0.0, description="deviation as a share of the conductance")
    polynomial_siemens: Polynomial | None = Field(
        default=None, description="deviation as a polynomial of g / g_max, highest power first, siemens; at least 0"
    )
    table_siemens: tuple[NonNegativeFloat, ...] = Field(
        default=(), description="conductances of a table of deviations, one more part"
    )
    table_deviation_siemens: tuple[NonNegativeFloat, ...] = Field(
        default=(), description="deviation of cells of these conductances"
    )
    one_over_f: OneOverF | None = None


def slow_share(written: Siemens, device: Device, time_s: float) -> Values:
    """Standard deviation of accumulated 1/f noise at a time, as a share of the conductance.

    Args:
        written: float64 [...], siemens, right after programming.
        device: the device.
        time_s: since programming; before t_r there is no 1/f noise.

    Returns:
        float64 [...].
    """
    slow = None if device.noise is None else device.noise.one_over_f
    if slow is None or slow.read_s is None or time_s <= slow.read_s:
        return np.zeros_like(written)
    if slow.table_siemens:
        size = at_state(written, slow.table_siemens, slow.table_q)
    else:
        share = np.where(written > 0, written, device.g_max_siemens) / device.g_max_siemens
        size = np.clip(slow.q / share**slow.q_exponent, None, slow.q_largest)
    return np.asarray(size * np.sqrt(np.log((time_s + slow.read_s) / (2 * slow.read_s))))


def noise_deviation(G: Siemens, written: Siemens, device: Device, time_s: float) -> Siemens:
    """Standard deviation of ``device.noise``, all parts together, at a time since programming.

    Args:
        G: float64 [...], siemens.
        written: same shape, siemens, right after programming.
        device: the device.
        time_s: since programming.

    Returns:
        float64 [...], siemens; 0 for cells that do not conduct.
    """
    noise = device.noise
    if noise is None:
        return np.zeros_like(G)
    share = G / device.g_max_siemens
    variance = noise.absolute_siemens**2 + (noise.proportional * G) ** 2
    if noise.polynomial_siemens is not None:
        variance = variance + polynomial_deviation(noise.polynomial_siemens, share) ** 2
    if noise.table_siemens:
        variance = variance + at_state(G, noise.table_siemens, noise.table_deviation_siemens) ** 2
    variance = variance + (G * slow_share(written, device, time_s)) ** 2
    return formed(G, np.sqrt(variance))


def noisy(G: Siemens, written: Siemens, device: Device, rng: np.random.Generator, time_s: float) -> Siemens:
    """Conductances [...], siemens, with one draw of ``device.noise``; arguments as for ``noise_deviation``."""
    if device.noise is None:
        return G
    return formed(G, G + noise_deviation(G, written, device, time_s) * rng.standard_normal(G.shape))


def _read_duration(device: Device) -> Violations:
    slow = device.noise.one_over_f if device.noise is not None else None
    if slow is not None and (slow.q > 0 or any(slow.table_q)) and slow.read_s is None:
        yield "device.noise.one_over_f.read_s", "missing: 1/f noise grows with ln(time / read_s) where q is above 0"


def _tables(device: Device) -> Violations:
    noise = device.noise
    if noise is None:
        return
    deviations = {"table_deviation_siemens": noise.table_deviation_siemens}
    yield from table_violations("device.noise", noise.table_siemens, deviations)
    slow = noise.one_over_f
    if slow is not None:
        yield from table_violations("device.noise.one_over_f", slow.table_siemens, {"table_q": slow.table_q})


@dataclass(frozen=True)
class NoiseEffect(Effect):
    """Conductances of cells are noisy; the target says for how long one draw lasts."""

    name = "noise"
    order = 30
    stream = 2
    described_elsewhere = "[device.noise]"
    rules = (_read_duration, _tables)

    def is_described(self, target: Target) -> bool:
        """Whether cells have read noise."""
        return target.device.noise is not None

    def correlation(self, target: Target) -> Correlation | None:
        """As [device.noise] says."""
        return None if target.device.noise is None else target.device.noise.correlation

    def change_cells(self, G: Siemens, array: ArrayOnChip) -> Siemens:
        """With one draw, where that lasts until the chip is evaluated at another time."""
        if self.correlation(array.target) is not Correlation.STATIC_AT_T:
            return G
        return noisy(G, array.written, array.target.device, array.rng_at_time(self), array.time_s)

    def fluctuation(self, G: Siemens, array: ArrayOnChip) -> Fluctuation | None:
        """Variance between reads or inferences; the mean is that of the cells."""
        correlation = self.correlation(array.target)
        if correlation is None or correlation is Correlation.STATIC_AT_T:
            return None
        deviation = noise_deviation(G, array.written, array.target.device, array.time_s)
        return Fluctuation(G, deviation**2, correlation)


NOISE = NoiseEffect()
