"""Nodal analysis of one array, for every way of driving it: exact per input vector, linearised for simulation.

Where a tile is a linear map whatever its inputs (row voltages, idle rows grounded, ohmic cells), ``wires.transfer`` is
the answer. Elsewhere the currents of an input vector take a solve (``solve``), and a simulation takes the affine map
that touches the mean currents at the mean activity (``linearise``), whose error is measured (``linearisation_error``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from numpy.polynomial import polynomial

from mcompiler.physics.curve import Curve
from mcompiler.physics.network import Copy, Network, network
from mcompiler.physics.wires import Lines, checked, transfer
from mcompiler.target import Target

FloatArray = npt.NDArray[np.float64]

_SOLVES_AT_ONCE = 32
_STATES = 5  # that stand for more levels of an input
_CONCENTRATION = 2.0  # of the beta distribution of inputs: at a mean of 1/2 it is the uniform one


@dataclass(frozen=True)
class Circuit:
    """How an array is driven and read.

    Attributes:
        lines: resistances of the lines.
        read_voltage_v: on a word line whose input is 1.
        drive: ``row_voltage``: word line i is driven with its input times the read voltage. ``gate``: all word lines
            are at the read voltage, and the cells of rows with input 0 do not conduct.
        idle_rows: with ``row_voltage``, whether word lines with input 0 are ``grounded`` through their drivers or
            ``floating``.
        curve: of the cells; None where they are ohmic.
        access_ohm: in series with every cell. Conductances given beside a circuit are those of the cells alone.
    """

    lines: Lines
    read_voltage_v: float
    drive: Literal["row_voltage", "gate"] = "row_voltage"
    idle_rows: Literal["grounded", "floating"] = "grounded"
    curve: Curve | None = None
    access_ohm: float = 0.0

    @classmethod
    def of(cls, target: Target) -> Circuit:
        """The circuit of a target's arrays."""
        return cls(
            Lines.of(target),
            target.device.read_voltage_v,
            target.array.drive,
            target.array.idle_rows,
            Curve.of(target),
            target.device.access_resistance_ohm,
        )

    @property
    def linear(self) -> bool:
        """Whether currents are linear in the inputs, so that ``wires.transfer`` says all."""
        return self.curve is None and self.drive == "row_voltage" and self.idle_rows == "grounded"


@dataclass(frozen=True)
class Linear:
    """An affine map: current_j = read voltage x (offset_j + sum_i matrix[i, j] x_i), x in shares of the read voltage.

    Attributes:
        matrix: [R, C], siemens.
        offset: [C], siemens.
    """

    matrix: FloatArray
    offset: FloatArray


@dataclass(frozen=True)
class LinearisationError:
    """How far a linearisation is from exact solves, over vectors and bit lines.

    Attributes:
        rms: root mean square of the error as a share of that of the exact currents.
        worst: largest error as a share of the largest exact current.
        of_spread: root mean square of the error as a share of the deviation of a bit line's current between vectors.
        ignored_rms: as ``rms``, of the product with the conductances: what ignoring the circuit would cost.
    """

    rms: float
    worst: float
    of_spread: float
    ignored_rms: float


def solve(conductances: FloatArray, inputs: FloatArray, circuit: Circuit) -> FloatArray:
    """Currents of the bit lines for one input vector, exact: sparse LU, with Newton's method where cells are curved.

    Args:
        conductances: [R, C] of the cells alone, siemens.
        inputs: [R] shares of the read voltage, 0..1; only 0 and 1 with ``drive = gate``.
        circuit: how the array is driven.

    Returns:
        [C], ampere.

    Raises:
        ValueError: inputs that do not fit.
        TargetError: a curve that Newton's method does not get along.
    """
    g = checked(conductances, axes=2)
    x = _shares(inputs, g, "inputs")
    on = x > 0
    everywhere = np.ones_like(on)
    if circuit.drive == "gate":
        if not np.isin(x, (0, 1)).all():
            raise ValueError("inputs between 0 and 1 cannot switch gates")
        copy = Copy(np.full(len(x), circuit.read_voltage_v), everywhere, on, np.ones_like(x), np.zeros_like(x))
    else:
        driven = on if circuit.idle_rows == "floating" else everywhere
        copy = Copy(x * circuit.read_voltage_v, driven, everywhere, np.ones_like(x), np.zeros_like(x))
    net = network(g, (copy,), circuit.lines, circuit.curve is not None, circuit.access_ohm)
    return _sensed(net, circuit)[1]


def _sensed(net: Network, circuit: Circuit) -> tuple[FloatArray, FloatArray]:
    """Voltages of all nodes and [C] the currents that reach ground."""
    volts = net.settled(circuit.curve)
    return volts, -net.leaving(net.currents(volts, circuit.curve))[: net.columns]


def linearise(conductances: FloatArray, activity: FloatArray, circuit: Circuit, levels: int = 2) -> Linear:
    """The affine map from inputs to currents at a mean activity.

    Every word line is there in the states that its input can give it, all beside the same bit lines, which collect from
    each state the share of its current with which it occurs: x and 1 - x for two levels (nothing from a row with input
    0 where gates drive). That network equals the circuit wherever every x is 0 or 1, and is smooth between: its
    currents at x = activity and their derivatives, by one factorisation and an adjoint solve per bit line, are the map.
    Exact where the circuit is linear. With more levels inputs spread as ``_draw`` says, and five states stand for them.

    Args:
        conductances: [R, C] of the cells alone, siemens.
        activity: [R] mean input; with two levels the probability that it is 1.
        circuit: how the array is driven.
        levels: values of an input, equidistant from 0 to 1.

    Raises:
        ValueError: an activity that does not fit, or more than two levels at gates.
        TargetError: a curve that Newton's method does not get along.
    """
    g = checked(conductances, axes=2)
    x = _shares(activity, g, "activity")
    if circuit.linear:
        matrix = transfer((g / (1 + g * circuit.access_ohm))[None], circuit.lines)[0]
        return Linear(matrix, np.zeros(g.shape[1]))
    net = network(g, _states(x, circuit, levels), circuit.lines, circuit.curve is not None, circuit.access_ohm)
    volts, currents = _sensed(net, circuit)
    matrix = _sensitivity(net, volts, circuit.curve, len(x)) / circuit.read_voltage_v
    return Linear(matrix, currents / circuit.read_voltage_v - x @ matrix)


def _states(x: FloatArray, circuit: Circuit, levels: int) -> tuple[Copy, ...]:
    """The states of the word lines, how often they occur, and how that changes with the activity."""
    always = np.ones(len(x), dtype=np.bool_)
    read = np.full(len(x), circuit.read_voltage_v)
    if circuit.drive == "gate":
        if levels != 2:
            raise ValueError("inputs between 0 and 1 cannot switch gates")
        return (Copy(read, always, always, x, np.ones_like(x)),)
    count = min(levels, _STATES)
    # As broad as the inputs of ``_draw``: their variance over x (1 - x) is (trials + C) / (trials (1 + C)).
    trials, broad = count - 1, (levels - 1 + _CONCENTRATION) / ((levels - 1) * (1 + _CONCENTRATION))
    concentration = trials * (1 - broad) / (trials * broad - 1) if levels > count else _CONCENTRATION
    states = []
    for state in range(count):
        share, rate = _beta_binomial(state, trials, x, concentration)
        driven = always if state or circuit.idle_rows == "grounded" else ~always
        states.append(Copy(read * (state / trials), driven, always, share, rate))
    return tuple(states)


def _beta_binomial(successes: int, trials: int, x: FloatArray, concentration: float) -> tuple[FloatArray, FloatArray]:
    """[R] probability of so many successes where their probability is beta distributed around x; its derivative."""
    rising = np.array([float(math.comb(trials, successes))])  # coefficients in x
    for step in range(successes):
        rising = polynomial.polymul(rising, [step, concentration])
    for step in range(trials - successes):
        rising = polynomial.polymul(rising, [concentration + step, -concentration])
    rising /= math.prod(concentration + step for step in range(trials))
    probability: FloatArray = polynomial.polyval(x, rising)
    rate = np.asarray(polynomial.polyval(x, polynomial.polyder(rising)), dtype=np.float64)
    return probability, rate


def _draw(activity: FloatArray, rng: np.random.Generator, vectors: int, levels: int) -> FloatArray:
    """[V, R] inputs of mean ``activity``: level k of levels - 1 trials whose probability is beta distributed around it.

    With two levels that is 1 with the probability ``activity``; at a mean of 1/2 all levels are equally likely.
    """
    x = np.broadcast_to(activity, (vectors, len(activity)))
    certain = (x == 0) | (x == 1)
    inner = np.where(certain, 0.5, x)
    chance = np.where(certain, x, rng.beta(_CONCENTRATION * inner, _CONCENTRATION * (1 - inner)))
    return rng.binomial(levels - 1, chance) / (levels - 1)


def _sensitivity(net: Network, volts: FloatArray, curve: Curve | None, rows: int) -> FloatArray:
    """[R, C] derivatives of the sensed currents after the activity of each row.

    More activity of a row moves current into the nodes where its cells end; what of an ampere into a node reaches the
    ground of a bit line is the solution of the transposed system.
    """
    first, elements = len(net.fixed), net.elements
    moves = np.flatnonzero(elements.rate)
    moved = (elements.rate * net.currents(volts, curve))[moves]
    row, node = elements.row[moves], elements.end[moves]
    into = np.zeros((rows, net.columns))  # straight into the grounds
    grounded = node < first
    np.add.at(into, (row[grounded], node[grounded]), moved[grounded])
    if grounded.all():
        return into
    row, node, moved = row[~grounded], node[~grounded] - first, moved[~grounded]
    jacobian = net.jacobian(volts, curve)
    factor = net.factor(volts, curve)
    for start in range(0, net.columns, _SOLVES_AT_ONCE):
        part = slice(start, min(start + _SOLVES_AT_ONCE, net.columns))
        reach = factor.solve(-jacobian[part, first:].toarray().T, trans="T")  # [nodes, columns of the part]
        for column in range(part.start, part.stop):
            into[:, column] += np.bincount(row, moved * reach[node, column - part.start], rows)
    return into


def linearisation_error(
    conductances: FloatArray,
    activity: FloatArray,
    circuit: Circuit,
    rng: np.random.Generator,
    vectors: int,
    levels: int = 2,
) -> LinearisationError:
    """How far ``linearise`` is from ``solve`` for random inputs, spread around ``activity`` as ``_draw`` says.

    Args:
        conductances: [R, C] of the cells alone, siemens.
        activity: [R] mean input; with two levels the probability that it is 1.
        circuit: how the array is driven.
        rng: draws the inputs.
        vectors: how many.
        levels: values of an input, equidistant from 0 to 1.

    Raises:
        ValueError: as ``linearise``.
        TargetError: a curve that Newton's method does not get along.
    """
    g = checked(conductances, axes=2)
    linear = linearise(g, activity, circuit, levels)
    inputs = _draw(_shares(activity, g, "activity"), rng, vectors, levels)  # [V, R]
    exact = np.stack([solve(g, vector, circuit) for vector in inputs])  # [V, C]
    error = circuit.read_voltage_v * (inputs @ linear.matrix + linear.offset) - exact
    ignored = circuit.read_voltage_v * (inputs @ g) - exact
    size, spread = _rms(exact), _rms(exact - exact.mean(axis=0))
    return LinearisationError(
        rms=_share(_rms(error), size),
        worst=_share(float(np.abs(error).max(initial=0)), float(np.abs(exact).max(initial=0))),
        of_spread=_share(_rms(error), spread),
        ignored_rms=_share(_rms(ignored), size),
    )


def _rms(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _shares(values: FloatArray, g: FloatArray, name: str) -> FloatArray:
    """[R] as float64, within 0..1."""
    x = np.asarray(values, dtype=np.float64)
    if x.shape != (len(g),):
        raise ValueError(f"{name} have the shape {x.shape}, the array has {len(g)} rows")
    if not ((x >= 0) & (x <= 1)).all():
        raise ValueError(f"{name} are shares, from 0 to 1")
    return x
