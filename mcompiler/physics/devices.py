"""What cells really conduct: pure draws of every effect that a target's [device] describes.

Each function does one effect and takes conductances in siemens, of any shape, to conductances of the same shape. What
is not described is ideal: the conductances come back as they are. A chip puts them together in the order of its life:
``programmed``, ``drifted``, ``warmed``, ``stuck``, ``accessed``, ``open_lines``; ``noise_deviation`` and ``telegraph``
act on the result. The same generator gives the same chip: a cell's draws hang on neither time nor size of an effect, so
that one chip can be followed in time and effects be compared on it.

A cell of conductance 0 is one that was never formed, or cut off: it stays at 0, without error, drift or noise. Only a
short (stuck on) can make it conduct. No conductance is ever below 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.target import ChipCalibration, Device

Siemens = npt.NDArray[np.float64]
Levels = npt.NDArray[np.integer[Any]]
Cells = npt.NDArray[np.bool_]


def programmed(wanted: Siemens, levels: Levels, device: Device, rng: np.random.Generator, time_s: float) -> Siemens:
    """Conductances after writing, with ``device.programming``, or with ``device.relaxation`` a time after it.

    programming: g = wanted exp(log_normal n1) + sigma n2 with n1, n2 standard normal and sigma^2 = absolute^2 +
    (proportional wanted)^2 + polynomial(wanted / g_max)^2 + level^2. The median of the log-normal part is what was
    wanted; a deviation of ln(g) of 0.1 is the variation of FORMS (Yuan et al., ISCA 2021).

    relaxation: g = wanted + sigma(t) n2, sigma(t) linear in ln(t) between the times that are described and constant
    outside (measured like that by Wan et al., Nature 608, 2022, Extended Data Fig. 3d).

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
    normal = rng.standard_normal(wanted.shape)
    factor = rng.standard_normal(wanted.shape)
    log_normal = 0.0 if programming is None else programming.log_normal
    deviation = written_deviation(wanted, levels, device, time_s)
    return _formed(wanted, wanted * np.exp(log_normal * factor) + deviation * normal)


def written_deviation(wanted: Siemens, levels: Levels, device: Device, time_s: float) -> Siemens:
    """Standard deviation of what ``programmed`` adds, its normal parts together; arguments as there, siemens."""
    programming = device.programming
    if programming is None:
        return _relaxed_deviation(wanted, device, time_s) if device.relaxation else np.zeros_like(wanted)
    variance = programming.absolute_siemens**2 + (programming.proportional * wanted) ** 2
    if programming.polynomial_siemens is not None:
        variance = variance + _deviation(programming.polynomial_siemens, wanted / device.g_max_siemens) ** 2
    if programming.level_siemens is not None:
        variance = variance + np.asarray(programming.level_siemens)[levels] ** 2
    return np.sqrt(variance)


def first_look_s(device: Device) -> float:
    """When a cell is first looked at after it was written, seconds: at the first time of relaxation, else after 1 s."""
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


def drifted(G: Siemens, device: Device, rng: np.random.Generator, time_s: float) -> Siemens:
    """Conductances at a time: G (t / t0)^-nu after t0, as they are before; every cell with its own nu.

    nu is normal; mean = nu + nu_per_log ln(g / g_max) and deviation = spread + spread_per_log ln(g / g_max), each
    within its bounds, g the conductance at t0. The law is that of phase-change memory, the dependence on ln(g) that of
    Joshi et al., Nature Communications 11, 2473 (2020), as IBM's AIHWKIT gives it.

    Args:
        G: float64 [...], siemens, at t0 and before.
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
    logarithm = np.log(np.where(G > 0, G, device.g_max_siemens) / device.g_max_siemens)
    mean = np.clip(drift.nu + drift.nu_per_log * logarithm, drift.nu_min, drift.nu_max)
    deviation = np.clip(drift.spread + drift.spread_per_log * logarithm, drift.spread_min, drift.spread_max)
    exponent: Siemens = mean + deviation * normal
    return G * (time_s / drift.t0_s) ** -exponent


def warmed(G: Siemens, device: Device) -> Siemens:
    """Conductances at the chip's temperature: G (1 + per_kelvin (kelvin - reference_kelvin)). Shape [...], siemens."""
    heat = device.temperature
    if heat is None:
        return G
    return G * (1 + heat.per_kelvin * (heat.kelvin - heat.reference_kelvin))


def stuck(G: Siemens, device: Device, rng: np.random.Generator) -> Siemens:
    """Conductances [...], siemens, with stuck cells: a share at stuck_on (g_max), another at stuck_off (g_min).

    A cell that is stuck at some share is so at every greater one. A cell that does not conduct is as good as stuck off.
    """
    faults = device.faults
    if faults is None:
        return G
    chance = rng.random(G.shape)
    return held(G, device, chance < faults.stuck_on, chance >= 1 - faults.stuck_off)


def held(G: Siemens, device: Device, on: npt.NDArray[np.bool_], off: npt.NDArray[np.bool_]) -> Siemens:
    """Conductances [...], siemens, with the cells [...] that are stuck on and off at theirs.

    A cell that does not conduct is as good as stuck off.
    """
    at_on, at_off = stuck_siemens(device)
    return np.where(on, at_on, np.where(off & (G > 0), at_off, G))


def stuck_siemens(device: Device) -> tuple[float, float]:
    """Conductance of cells that are stuck on and off, siemens."""
    faults = device.faults
    on = None if faults is None else faults.stuck_on_siemens
    off = None if faults is None else faults.stuck_off_siemens
    return device.g_max_siemens if on is None else on, device.g_min_siemens if off is None else off


def open_lines(G: Siemens, device: Device, rng: np.random.Generator) -> Siemens:
    """Conductances [..., R, C], siemens, with open word lines (R) and bit lines (C): their cells carry no current."""
    faults = device.faults
    if faults is None:
        return G
    words = rng.random(G.shape[:-1]) < faults.open_word_lines  # [..., R]
    bits = rng.random((*G.shape[:-2], G.shape[-1])) < faults.open_bit_lines  # [..., C]
    return np.where(words[..., :, None] | bits[..., None, :], 0.0, G)


def accessed(G: Siemens, device: Device) -> Siemens:
    """Conductances [...], siemens, of cells in series with ``device.access_resistance_ohm``: G / (1 + G R)."""
    return G / (1 + G * device.access_resistance_ohm)


def noise_deviation(G: Siemens, device: Device, time_s: float) -> Siemens:
    """Standard deviation of ``device.noise``, all parts together, at a time since programming.

    sigma^2 = absolute^2 + (proportional g)^2 + polynomial(g / g_max)^2 + (1/f)^2 with 1/f = g min(q / (g / g_max)^e,
    q_largest) sqrt(ln((t + t_r) / (2 t_r))). The last is the accumulated 1/f noise of a read of duration t_r at time t:
    Joshi et al., Nature Communications 11, 2473 (2020).

    Args:
        G: float64 [...], siemens.
        device: the device.
        time_s: since programming; before t_r there is no 1/f noise.

    Returns:
        float64 [...], siemens; 0 for cells that do not conduct.
    """
    noise = device.noise
    if noise is None:
        return np.zeros_like(G)
    share = G / device.g_max_siemens
    variance = noise.absolute_siemens**2 + (noise.proportional * G) ** 2
    if noise.polynomial_siemens is not None:
        variance = variance + _deviation(noise.polynomial_siemens, share) ** 2
    slow = noise.one_over_f
    if slow is not None and slow.read_s is not None and time_s > slow.read_s:
        size = np.clip(slow.q / np.where(G > 0, share, 1.0) ** slow.q_exponent, None, slow.q_largest)
        variance = variance + (G * size) ** 2 * np.log((time_s + slow.read_s) / (2 * slow.read_s))
    return _formed(G, np.sqrt(variance))


def noisy(G: Siemens, device: Device, rng: np.random.Generator, time_s: float) -> Siemens:
    """Conductances [...], siemens, with one draw of ``device.noise`` at a time since programming."""
    if device.noise is None:
        return G
    return _formed(G, G + noise_deviation(G, device, time_s) * rng.standard_normal(G.shape))


def telegraph_cells(shape: tuple[int, ...], device: Device, rng: np.random.Generator) -> Cells:
    """Which cells of a chip have two states: bool of that shape, the same for all draws of their states."""
    if device.telegraph is None:
        return np.zeros(shape, dtype=np.bool_)
    return rng.random(shape) < device.telegraph.share


def telegraph(G: Siemens, device: Device, rng: np.random.Generator, cells: Cells | None = None) -> Siemens:
    """Conductances [...], siemens, with one draw of the states of random telegraph noise.

    Args:
        G: float64 [...], siemens, in the higher state.
        device: the device.
        rng: of this draw.
        cells: bool [...], which cells have two states (``telegraph_cells``); None: drawn here too.
    """
    states = device.telegraph
    if states is None:
        return G
    having = telegraph_cells(G.shape, device, rng) if cells is None else cells
    low = having & (rng.random(G.shape) < states.low)
    return np.where(low, G * (1 - states.amplitude), G)


def telegraph_moments(G: Siemens, device: Device, cells: Cells) -> tuple[Siemens, Siemens]:
    """Mean and standard deviation [...] over draws of ``telegraph``, siemens, for those cells: a normal in its place.

    mean = G (1 - amplitude low), deviation = G amplitude sqrt(low (1 - low)) where a cell has two states.
    """
    states = device.telegraph
    if states is None:
        return G, np.zeros_like(G)
    spread = states.amplitude * np.sqrt(states.low * (1 - states.low))
    return G * (1 - states.amplitude * states.low * cells), G * spread * cells


def _deviation(polynomial_siemens: Sequence[float], share: Siemens) -> Siemens:
    """A polynomial of g / g_max, highest power first, at least 0."""
    return np.maximum(np.polyval(np.asarray(polynomial_siemens), share), 0.0)


def _relaxed_deviation(wanted: Siemens, device: Device, time_s: float) -> Siemens:
    """Deviation of ``device.relaxation`` at a time, linear in its logarithm."""
    share = wanted / device.g_max_siemens
    entries = sorted(device.relaxation.values(), key=lambda each: each.after_s)
    later = next((index for index, each in enumerate(entries) if each.after_s >= time_s), len(entries) - 1)
    after = _deviation(entries[later].polynomial_siemens, share)
    if later == 0 or time_s >= entries[later].after_s:
        return after
    before = _deviation(entries[later - 1].polynomial_siemens, share)
    start, end = entries[later - 1].after_s, entries[later].after_s
    weight = float(np.log(time_s / start) / np.log(end / start))
    return before + weight * (after - before)


def _formed(reference: Siemens, values: Siemens) -> Siemens:
    """Values at least 0, and 0 where the reference does not conduct."""
    return np.where(reference > 0, np.maximum(values, 0.0), 0.0)
