"""Technology nodes, for digital parts alone: Stillmaker and Baas, Integration 58, 74 (2017).

Analog parts follow voltages, currents and matching, not the node: no figure of a converter, a driver or a cell scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log

from mcompiler.pricing.tables import log_linear

VOLTS = {180: 1.8, 130: 1.3, 90: 1.2, 65: 1.1, 45: 1.0, 32: 0.9, 20: 0.9, 16: 0.85, 14: 0.8, 10: 0.75, 7: 0.7}
"""Nominal supplies of the predictive technology models (PTM bulk and, below 32 nm, multi-gate; high performance)."""

NODE_AREA = {
    180: 1.0,
    130: 0.34,
    90: 0.15,
    65: 0.08,
    45: 0.053,
    32: 0.025,
    20: 0.011,
    16: 0.01,
    14: 0.0093,
    10: 0.0055,
    7: 0.0032,
}
"""Area of digital logic over that at 180 nm."""

_ENERGY = {
    180: (0.0, 24.64, -17.98),
    130: (7.171, -6.709, 2.904),
    90: (4.762, -4.781, 2.092),
    65: (3.755, -4.398, 1.975),
    45: (1.018, -0.3107, 0.1539),
    32: (0.8367, -0.4341, 0.1701),
    20: (0.373, -0.1582, 0.04104),
    16: (0.2958, -0.1241, 0.03024),
    14: (0.2363, -0.09675, 0.02239),
    10: (0.2068, -0.09311, 0.02375),
    7: (0.1776, -0.09097, 0.02447),
}
"""Energy of an operation, a V^2 + b V + c, in the same units at all nodes, high performance."""

NODE_ENERGY = {node: a * VOLTS[node] ** 2 + b * VOLTS[node] + c for node, (a, b, c) in _ENERGY.items()}


def node_factor(node: float, reference: float, table: Mapping[int, float]) -> float:
    """Cost of digital logic at one node (nm) over that at the reference node: log-log between the rows of a table."""
    logarithmic = {log(row): value for row, value in table.items()}
    return log_linear(log(node), logarithmic) / log_linear(log(reference), logarithmic)
