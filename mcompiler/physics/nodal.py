"""Nodal analysis of one array, for every way of driving it: exact per input vector, linearised for simulation.

Where a tile is one linear map for all inputs (row voltages, idle rows grounded, ohmic cells), ``wires.transfer``
computes it. Elsewhere the currents of an input vector take a solve (``solve``), and a simulation uses the affine map
that has the mean currents and their derivatives at the mean activity (``linearise``), whose error is measured
(``linearisation_accuracy``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.polynomial import polynomial

from mcompiler.effects import CellCurve, Circuit
from mcompiler.physics.network import Copy, ResistorNetwork, network
from mcompiler.physics.wires import checked, transfer

FloatArray = npt.NDArray[np.float64]

_SOLVES_AT_ONCE = 32
_STATES = 5  # of a word line, that represent inputs of more levels
_CONCENTRATION = 2.0  # of the beta distribution of inputs: at a mean of 1/2 it is the uniform one


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
class LinearisationAccuracy:
    """How far a linearisation is from exact solves, over vectors and bit lines.

    Attributes:
        rms: root mean square of the error as a share of that of the exact currents.
        worst: largest error as a share of the largest exact current.
        of_spread: root mean square of the error as a share of the deviation of a bit line's current between vectors.
        ignored_rms: as ``rms``, of the product with the conductances: the error of ignoring the circuit.
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
        TargetError: a curve for which Newton's method does not converge.
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
        # A floating row keeps its cells: they connect its bit lines through the word line.
        driven = on if circuit.idle_rows == "floating" else everywhere
        copy = Copy(x * circuit.read_voltage_v, driven, everywhere, np.ones_like(x), np.zeros_like(x))
    net = network(g, (copy,), circuit.lines, circuit.curve is not None, circuit.access_ohm)
    return _sensed(net, circuit)[1]


def _sensed(net: ResistorNetwork, circuit: Circuit) -> tuple[FloatArray, FloatArray]:
    """Voltages of all nodes and [C] the currents that reach ground."""
    # Grounds are the first nodes, and ends of elements only: their current is minus the one that leaves them.
    volts = net.settled(circuit.curve)
    return volts, -net.leaving(net.currents(volts, circuit.curve))[: net.columns]


def linearise(conductances: FloatArray, activity: FloatArray, circuit: Circuit, levels: int = 2) -> Linear:
    """The affine map from inputs to currents at a mean activity.

    The network holds one copy of all word lines for each state that an input can have, on the same bit lines; a bit
    line takes from each copy the share of its current with which that state occurs: x and 1 - x for two levels (with
    gates nothing from a row with input 0). That network equals the circuit wherever every x is 0 or 1, and depends on x
    smoothly between: its currents at x = activity and their derivatives, by one factorisation and an adjoint solve per
    bit line, are the map. Exact where the circuit is linear. With more levels inputs are distributed as ``_draw`` says,
    and five states represent them.

    Args:
        conductances: [R, C] of the cells alone, siemens.
        activity: [R] mean input; with two levels the probability that it is 1.
        circuit: how the array is driven.
        levels: values of an input, equidistant from 0 to 1.

    Raises:
        ValueError: an activity that does not fit, or more than two levels at gates.
        TargetError: a curve for which Newton's method does not converge.
    """
    g = checked(conductances, axes=2)
    x = _shares(activity, g, "activity")
    if circuit.linear:
        # Ohmic cells with a resistance in series are ohmic cells: 1 / (1 / g + R) = g / (1 + g R).
        matrix = transfer((g / (1 + g * circuit.access_ohm))[None], circuit.lines)[0]
        return Linear(matrix, np.zeros(g.shape[1]))
    net = network(g, _states(x, circuit, levels), circuit.lines, circuit.curve is not None, circuit.access_ohm)
    volts, currents = _sensed(net, circuit)
    # The tangent at the activity: slope = derivatives, and the offset makes it pass through the mean currents.
    matrix = _sensitivity(net, volts, circuit.curve, len(x)) / circuit.read_voltage_v
    return Linear(matrix, currents / circuit.read_voltage_v - x @ matrix)


def _states(x: FloatArray, circuit: Circuit, levels: int) -> tuple[Copy, ...]:
    """The states of the word lines, how often they occur, and how that changes with the activity."""
    always = np.ones(len(x), dtype=np.bool_)
    read = np.full(len(x), circuit.read_voltage_v)
    if circuit.drive == "gate":
        if levels != 2:
            raise ValueError("inputs between 0 and 1 cannot switch gates")
        # Cells of a row with input 0 are disconnected: the state of input 1 alone, whose share of the time is x.
        return (Copy(read, always, always, x, np.ones_like(x)),)
    count = min(levels, _STATES)
    # A beta-binomial of n trials and concentration C has a variance of x (1 - x) (n + C) / (n (1 + C)) around its mean,
    # as a share of the largest value (N. L. Johnson et al., Univariate Discrete Distributions, chapter 6). Fewer states
    # get the concentration with which they vary as much as the inputs of ``_draw``, which have one trial per level step
    # (variance ``broad``): (n + C) / (n (1 + C)) = broad, solved for C.
    trials, broad = count - 1, (levels - 1 + _CONCENTRATION) / ((levels - 1) * (1 + _CONCENTRATION))
    concentration = trials * (1 - broad) / (trials * broad - 1) if levels > count else _CONCENTRATION
    states = []
    for state in range(count):
        share, rate = _beta_binomial(state, trials, x, concentration)
        driven = always if state or circuit.idle_rows == "grounded" else ~always  # state 0 is an idle row
        states.append(Copy(read * (state / trials), driven, always, share, rate))
    return tuple(states)


def _beta_binomial(successes: int, trials: int, x: FloatArray, concentration: float) -> tuple[FloatArray, FloatArray]:
    """[R] probability of this number of successes, whose chance is beta distributed around x, and its derivative."""
    # The probability is a ratio of rising factorials, a polynomial in x; its derivative is exact.
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
    certain = (x == 0) | (x == 1)  # a beta distribution has no such mean; these inputs are constant
    inner = np.where(certain, 0.5, x)
    chance = np.where(certain, x, rng.beta(_CONCENTRATION * inner, _CONCENTRATION * (1 - inner)))
    return rng.binomial(levels - 1, chance) / (levels - 1)


def _sensitivity(net: ResistorNetwork, volts: FloatArray, curve: CellCurve | None, rows: int) -> FloatArray:
    """[R, C] derivatives of the sensed currents after the activity of each row.

    More activity of a row moves current into the nodes where its cells end. The part of an ampere into a node that
    reaches the ground of a bit line is a row of (currents to ground) x (inverse Jacobian), which one solve with the
    transposed Jacobian gives for all nodes: the adjoint method. It takes C solves instead of one per row and bit line.
    """
    first, elements = len(net.fixed), net.elements
    moves = np.flatnonzero(elements.rate)
    moved = (elements.rate * net.currents(volts, curve))[moves]
    row, node = elements.row[moves], elements.end[moves]
    into = np.zeros((rows, net.columns))  # straight into the grounds
    grounded = node < first  # bit lines without resistance: the cell ends at the ground itself
    np.add.at(into, (row[grounded], node[grounded]), moved[grounded])
    if grounded.all():
        return into
    row, node, moved = row[~grounded], node[~grounded] - first, moved[~grounded]
    jacobian = net.jacobian(volts, curve)
    factor = net.factor(volts, curve)
    # Kirchhoff's law keeps ``leaving`` of the free nodes at 0: J dV = injected current, and the currents into grounds
    # change by -J[grounds, free] dV. In groups: the solutions of all bit lines would take nodes x C numbers.
    for start in range(0, net.columns, _SOLVES_AT_ONCE):
        part = slice(start, min(start + _SOLVES_AT_ONCE, net.columns))
        reach = factor.solve(-jacobian[part, first:].toarray().T, trans="T")  # [nodes, columns of the part]
        for column in range(part.start, part.stop):
            into[:, column] += np.bincount(row, moved * reach[node, column - part.start], rows)
    return into


def linearisation_accuracy(
    conductances: FloatArray,
    activity: FloatArray,
    circuit: Circuit,
    rng: np.random.Generator,
    *,
    vectors: int,
    levels: int = 2,
) -> LinearisationAccuracy:
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
        TargetError: a curve for which Newton's method does not converge.
    """
    g = checked(conductances, axes=2)
    linear = linearise(g, activity, circuit, levels)
    inputs = _draw(_shares(activity, g, "activity"), rng, vectors, levels)  # [V, R]
    exact = np.stack([solve(g, vector, circuit) for vector in inputs])  # [V, C]
    error = circuit.read_voltage_v * (inputs @ linear.matrix + linear.offset) - exact
    ignored = circuit.read_voltage_v * (inputs @ g) - exact
    size, spread = _rms(exact), _rms(exact - exact.mean(axis=0))
    return LinearisationAccuracy(
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
