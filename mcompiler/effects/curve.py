"""Curve: the current of a cell against the voltage over it, where it is not Ohm's law."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from pydantic import Field

from mcompiler.effects.base import Effect, Values
from mcompiler.effects.lazy_numpy import np
from mcompiler.encodings.settings import Violations
from mcompiler.target.base import PositiveFloat, Section

if TYPE_CHECKING:
    import numpy.typing as npt

    from mcompiler.effects.circuit import Circuit
    from mcompiler.target.schema import Target
    from mcompiler.target.sections import Device

# Exponents are cut here: Newton's method comes back from such a voltage, not from an infinite current.
_LARGEST_EXPONENT = 600.0


class Curve(Section):
    """Current against voltage, the same shape for every cell, odd in the voltage; its chord at read_voltage_v is G.

    Either I = G v_read sinh(v / sinh_v) / sinh(v_read / sinh_v), or a table of points between which current is linear;
    (0, 0) is a point, and the last piece is extended beyond the last one.
    """

    sinh_v: PositiveFloat | None = Field(default=None, description="voltage by which the sinh bends")
    voltages_v: tuple[PositiveFloat, ...] | None = Field(
        default=None, description="ascending, above 0, read_voltage_v among them"
    )
    ratios: tuple[PositiveFloat, ...] | None = Field(
        default=None, description="I / (G v_read) at each of these voltages, ascending; 1 at read_voltage_v"
    )


@dataclass(frozen=True)
class CellCurve:
    """I = G f(v), f odd and ascending, f(read_v) = read_v: a cell's conductance is its chord at the read voltage.

    Either f = read_v sinh(v / sinh_v) / sinh(read_v / sinh_v), or f = read_v r with r linear between the points of a
    table, (0, 0) included; the last piece is extended beyond the last point.

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
    def of(cls, target: Target) -> CellCurve | None:
        """The curve of a target's cells; None where they are ohmic."""
        curve, read_v = target.device.curve, target.device.read_voltage_v
        if curve is None:
            return None
        return cls(read_v, curve.sinh_v, tuple(curve.voltages_v or ()), tuple(curve.ratios or ()))

    @property
    def _points(self) -> tuple[Values, Values]:
        return np.array([0.0, *self.voltages_v]), np.array([0.0, *self.ratios])

    def current(self, voltage: Values) -> Values:
        """f, in volts: the current of a cell divided by its conductance."""
        size = np.abs(voltage)
        if self.sinh_v is not None:
            # sinh(a) / sinh(b), without overflow where both are large
            a, b = size / self.sinh_v, self.read_v / self.sinh_v
            shares = np.exp(np.minimum(a - b, _LARGEST_EXPONENT)) * np.expm1(-2 * a) / np.expm1(-2 * b)
        else:
            points, ratios = self._points
            piece = self._piece(size)
            shares = ratios[piece] + (size - points[piece]) * self._slopes()[piece]
        currents: Values = np.copysign(self.read_v * shares, voltage)
        return currents

    def slope(self, voltage: Values) -> Values:
        """df/dv, no unit; above 0."""
        size = np.abs(voltage)
        if self.sinh_v is not None:
            a, b = size / self.sinh_v, self.read_v / self.sinh_v
            slopes: Values = -b * np.exp(np.minimum(a - b, _LARGEST_EXPONENT)) * (1 + np.exp(-2 * a)) / np.expm1(-2 * b)
            return slopes
        return self.read_v * self._slopes()[self._piece(size)]

    def _slopes(self) -> Values:
        points, ratios = self._points
        slopes: Values = np.diff(ratios) / np.diff(points)
        return slopes

    def _piece(self, size: Values) -> npt.NDArray[np.intp]:
        points, _ = self._points
        return np.clip(np.searchsorted(points, size, side="right") - 1, 0, len(points) - 2)


def _points(device: Device) -> Violations:
    curve = device.curve
    if curve is None:
        return
    voltages, ratios = curve.voltages_v, curve.ratios
    table = voltages is not None or ratios is not None
    if table == (curve.sinh_v is not None):
        yield "device.curve", "give sinh_v, or voltages_v and ratios" + (", not both" if table else "")
    if not table:
        return
    if voltages is None or ratios is None or len(voltages) != len(ratios):
        counts = f"{len(voltages or ())} voltages and {len(ratios or ())} ratios"
        yield "device.curve.ratios", f"{counts}; give one ratio for each of voltages_v"
        return
    for key, values in (("voltages_v", voltages), ("ratios", ratios)):
        if any(after <= before for before, after in pairwise(values)):
            yield f"device.curve.{key}", "not in ascending order; give the lowest first, no two of them equal"
    ratio = dict(zip(voltages, ratios, strict=True)).get(device.read_voltage_v)
    if ratio is None:
        yield (
            "device.curve.voltages_v",
            f"device.read_voltage_v = {device.read_voltage_v:g} V is not among them; conductances are chords at that "
            "voltage: give it, with the ratio 1",
        )
    elif abs(ratio - 1) > 1e-9:
        yield (
            "device.curve.ratios",
            f"{ratio:g} at device.read_voltage_v = {device.read_voltage_v:g} V must be 1; divide all by it",
        )


@dataclass(frozen=True)
class CurveEffect(Effect):
    """Cells are not ohmic; nothing is drawn."""

    name = "curve"
    order = 90
    stream = 8
    described_elsewhere = "[device.curve]"
    rules = (_points,)

    def is_described(self, target: Target) -> bool:
        """Whether cells have a curve."""
        return target.device.curve is not None

    def change_circuit(self, circuit: Circuit, target: Target) -> Circuit:
        """With the curve of the target's cells."""
        return replace(circuit, curve=CellCurve.of(target))


CURVE = CurveEffect()
