"""The current of a cell against the voltage over it, where it is not Ohm's law."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mcompiler.target import Target

FloatArray = npt.NDArray[np.float64]

_LARGEST = 600.0  # exponents beyond: Newton's method comes back from such a voltage, not from an infinite current


@dataclass(frozen=True)
class Curve:
    """I = G f(v), f odd and ascending, f(read_v) = read_v: a cell's conductance is its chord at the read voltage.

    Either f = read_v sinh(v / sinh_v) / sinh(read_v / sinh_v), or f = read_v r with r linear between the points of a
    table, (0, 0) included; beyond the last point the last piece goes on.

    Attributes:
        read_v: the read voltage.
        sinh_v: voltage by which the sinh bends; None for a table.
        voltages_v: ascending and above 0.
        ratios: r at these voltages, ascending.
    """

    read_v: float
    sinh_v: float | None = None
    voltages_v: tuple[float, ...] = ()
    ratios: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if (self.sinh_v is None) == (not self.voltages_v):
            raise ValueError("a curve is either a sinh or a table")
        if len(self.voltages_v) != len(self.ratios):
            raise ValueError(f"{len(self.voltages_v)} voltages and {len(self.ratios)} ratios are no table")
        if (np.diff(self._points[0]) <= 0).any() or (np.diff(self._points[1]) <= 0).any():
            raise ValueError("the points of a table ascend from (0, 0) in voltage and in current")

    @classmethod
    def of(cls, target: Target) -> Curve | None:
        """The curve of a target's cells; None where they are ohmic."""
        curve, read_v = target.device.curve, target.device.read_voltage_v
        if curve is None:
            return None
        return cls(read_v, curve.sinh_v, tuple(curve.voltages_v or ()), tuple(curve.ratios or ()))

    @property
    def _points(self) -> tuple[FloatArray, FloatArray]:
        return np.array([0.0, *self.voltages_v]), np.array([0.0, *self.ratios])

    def current(self, voltage: FloatArray) -> FloatArray:
        """f, in volts: the current of a cell divided by its conductance."""
        size = np.abs(voltage)
        if self.sinh_v is not None:
            # sinh(a) / sinh(b), without overflow where both are large
            a, b = size / self.sinh_v, self.read_v / self.sinh_v
            shares = np.exp(np.minimum(a - b, _LARGEST)) * np.expm1(-2 * a) / np.expm1(-2 * b)
        else:
            points, ratios = self._points
            piece = self._piece(size)
            shares = ratios[piece] + (size - points[piece]) * self._slopes()[piece]
        currents: FloatArray = np.copysign(self.read_v * shares, voltage)
        return currents

    def slope(self, voltage: FloatArray) -> FloatArray:
        """df/dv, no unit; above 0."""
        size = np.abs(voltage)
        if self.sinh_v is not None:
            a, b = size / self.sinh_v, self.read_v / self.sinh_v
            slopes: FloatArray = -b * np.exp(np.minimum(a - b, _LARGEST)) * (1 + np.exp(-2 * a)) / np.expm1(-2 * b)
            return slopes
        return self.read_v * self._slopes()[self._piece(size)]

    def _slopes(self) -> FloatArray:
        points, ratios = self._points
        slopes: FloatArray = np.diff(ratios) / np.diff(points)
        return slopes

    def _piece(self, size: FloatArray) -> npt.NDArray[np.intp]:
        points, _ = self._points
        return np.clip(np.searchsorted(points, size, side="right") - 1, 0, len(points) - 2)
