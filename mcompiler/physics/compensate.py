"""Conductances chosen so that the transfer matrix, and not the cells, has the wanted values (predistortion)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize

from mcompiler.effects import LineResistances
from mcompiler.physics.wires import checked, transfer

FloatArray = npt.NDArray[np.float64]

_SCALE_STEP = 0.01  # to which the common factor is searched
_SEARCH_ITERATIONS = 3
_SMALLEST_SCALE = 0.02


@dataclass(frozen=True)
class Predistorted:
    """Conductances for lines that are not perfect, and the error that they leave.

    Residuals are root mean squares of the deviation from the wanted transfer conductances as a share of that of
    scale x (wanted - pedestal), the signal after scaling.

    Attributes:
        conductances: [B, R, C] of the cells, siemens, within the range.
        scale: the transfer matrix holds pedestal + scale x (wanted - pedestal); the digital side divides by it.
        residual: of these conductances.
        residual_scaled: of the wanted conductances in the cells, with the factor that suits them best.
        residual_plain: of the wanted conductances in the cells, without any factor.
    """

    conductances: FloatArray
    scale: float
    residual: float
    residual_scaled: float
    residual_plain: float


@dataclass(frozen=True)
class _Task:
    wanted: FloatArray  # [B, R, C]
    lines: LineResistances
    g_min: float
    g_max: float
    pedestal: float

    def target(self, scale: float) -> FloatArray:
        scaled = self.pedestal + scale * (self.wanted - self.pedestal)
        return np.where(self.wanted > 0, scaled, 0.0)

    def clipped(self, g: FloatArray) -> FloatArray:
        return np.where(self.wanted > 0, np.clip(g, self.g_min, self.g_max), 0.0)

    def residual(self, found: FloatArray, scale: float) -> float:
        signal = np.where(self.wanted > 0, scale * (self.wanted - self.pedestal), 0.0)
        return _share(float(np.linalg.norm(found - self.target(scale))), float(np.linalg.norm(signal)))

    def best(self, scale: float, iterations: int) -> tuple[FloatArray, float]:
        """The best of the fixed-point iteration g <- g x target / T(g) from the wanted conductances; its residual."""
        # A cell's transfer conductance is nearly proportional to its own conductance, and depends weakly on the others:
        # multiplying by target / T(g) is a fixed-point iteration that converges where drops are moderate. Where the
        # range cuts cells off it need not be monotone, so the best iterate is kept.
        target = self.target(scale)
        best, least = self.wanted, np.inf
        g = self.wanted
        for _ in range(iterations + 1):
            found = transfer(g, self.lines)
            residual = self.residual(found, scale)
            if residual < least:
                best, least = g, residual
            g = self.clipped(g * target / np.maximum(found, np.finfo(np.float64).tiny))
        return best, least


def predistort(
    wanted: FloatArray,
    lines: LineResistances,
    g_min: float,
    g_max: float,
    *,
    iterations: int = 6,
    scale: float | None = None,
    pedestal: float = 0.0,
    other_error: float = 0.01,
) -> Predistorted:
    """Conductances whose transfer matrices match pedestal + scale x (wanted - pedestal) as well as their range allows.

    Far cells conduct less than they should, and those already at g_max cannot be raised: a common factor below 1 makes
    room. Cells at g_min cannot be lowered with it, so where the pedestal cancels (a pair, a reference column) or is
    counted digitally, give g_min as ``pedestal``, and only what is above it is scaled.

    Args:
        wanted: [B, R, C] of tiles that share one factor, siemens, within g_min..g_max; 0 is a cell that was never
            formed, and stays so.
        lines: resistances.
        g_min: smallest conductance of a formed cell, siemens.
        g_max: largest conductance, siemens.
        iterations: of g <- g x target / T(g), cut to the range.
        scale: the common factor; searched for the least error where it is not given.
        pedestal: conductance that is not scaled, siemens.
        other_error: errors of converters and noise at scale 1, as a share of the signal; that share grows as the signal
            shrinks, which bounds the scale from below.

    Raises:
        ValueError: wanted conductances out of the range, or a scale that is not in 0..1.
    """
    g = checked(wanted, axes=3)
    formed = g[g > 0]
    if formed.size and (formed.min() < g_min * (1 - 1e-9) or formed.max() > g_max * (1 + 1e-9)):
        raise ValueError(f"wanted conductances are {formed.min():.3g} to {formed.max():.3g} S, beyond the range")
    if scale is not None and not 0 < scale <= 1:
        raise ValueError(f"a scale of {scale} is not above 0 and at most 1")
    task = _Task(g, lines, g_min, g_max, pedestal)
    plain = transfer(g, lines)
    alone = _fit(plain, g, pedestal)
    chosen = _search(task, alone, other_error) if scale is None else scale
    conductances, residual = task.best(chosen, iterations)
    return Predistorted(conductances, chosen, residual, task.residual(plain, alone), task.residual(plain, 1.0))


def _fit(found: FloatArray, wanted: FloatArray, pedestal: float) -> float:
    """The factor, within what is allowed, that makes pedestal + factor x (wanted - pedestal) most like ``found``."""
    signal = np.where(wanted > 0, wanted - pedestal, 0.0)
    size = float(np.vdot(signal, signal))
    return float(np.clip(np.vdot(signal, found - pedestal * (wanted > 0)) / size, _SMALLEST_SCALE, 1)) if size else 1.0


def _search(task: _Task, alone: float, other_error: float) -> float:
    """The factor of least error; 1 and that of the cells as they are are among those tried."""
    if task.lines.perfect:
        return 1.0

    # Cut cells make the error fall with the scale, noise and rounding (a fixed amount) make it rise as the signal
    # shrinks; the two are independent, so their squares add. One minimum in between: a bounded search finds it.
    def error(scale: float) -> float:
        return math.hypot(task.best(scale, _SEARCH_ITERATIONS)[1], other_error / scale)

    found = optimize.minimize_scalar(
        lambda scale: error(float(scale)),
        bounds=(_SMALLEST_SCALE, 1.0),
        method="bounded",
        options={"xatol": _SCALE_STEP},
    )
    tried = {1.0: error(1.0), alone: error(alone), float(found.x): float(found.fun)}
    return min(tried, key=lambda scale: tried[scale])


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
