"""Scale a component's figures from their reference to other bits, sizes or technology nodes."""

from __future__ import annotations

from itertools import pairwise
from math import exp, log
from typing import TYPE_CHECKING

from mcompiler.target.components import Component, ScalesWith
from mcompiler.target.layers import COMMAND_LINE

if TYPE_CHECKING:
    from mcompiler.target.schema import Target

ADC_PJ = {4: 0.79, 5: 0.99, 6: 1.20, 7: 1.42, 8: 1.67, 9: 1.97, 10: 2.38}
ADC_UM2 = {4: 361.0, 5: 477.0, 6: 627.0, 7: 845.0, 8: 1200.0, 9: 1828.0, 10: 3002.0}
"""ISAAC's ADC at other bits: Accelergy's table, after Saberi et al., TCAS-I 2011; extrapolated beyond it."""


def adc_factor(bits: float, reference: float, table: dict[int, float]) -> float:
    """Cost of an ADC at some number of bits over that at the reference: log-linear between the rows of a table."""
    return exp(_log_of(bits, table) - _log_of(reference, table))


def _log_of(bits: float, table: dict[int, float]) -> float:
    rows = sorted(table)
    pairs = list(pairwise(rows))
    low, high = next(((a, b) for a, b in pairs if bits <= b), pairs[-1])
    slope = (log(table[high]) - log(table[low])) / (high - low)
    return log(table[low]) + slope * (bits - low)


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
"""Area of digital logic over that at 180 nm: Stillmaker and Baas, Integration 58, 74 (2017)."""

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
"""Energy of an operation, a V^2 + b V + c, in the same units at all nodes: the same paper, high performance."""

NODE_ENERGY = {node: a * VOLTS[node] ** 2 + b * VOLTS[node] + c for node, (a, b, c) in _ENERGY.items()}


def node_factor(node: float, reference: float, table: dict[int, float]) -> float:
    """Cost of digital logic at one node over that at the reference node: log-log between the rows of a table."""

    def log_of(value: float) -> float:
        rows = sorted(table)
        low, high = next((a, b) for a, b in pairwise(rows) if value <= b)
        share = (log(value) - log(low)) / (log(high) - log(low))
        return log(table[low]) + share * (log(table[high]) - log(table[low]))

    return exp(log_of(node) - log_of(reference))


def scaled(target: Target) -> Target:
    """Scale the components that name a rule to the bits and sizes of the target, which become their reference."""
    components = {name: _at_node(_scaled(component, target), target) for name, component in target.components.items()}
    return target if components == target.components else target.model_copy(update={"components": components})


def _scaled(component: Component, target: Target) -> Component:
    rule, reference = component.scales_with, component.reference
    if rule is None or reference is None:
        return component
    now = _value(rule, target)
    if now is None or now == reference:
        return component
    share = now / reference
    factors: dict[str, float] = {}
    match rule:
        case ScalesWith.ADC_BITS:
            energy = adc_factor(now, reference, ADC_PJ)
            factors = {
                "energy_j": energy,
                "static_power_w": energy,
                "area_m2": adc_factor(now, reference, ADC_UM2),
            }
        case ScalesWith.DAC_BITS:
            factors = dict.fromkeys(("energy_j", "static_power_w", "area_m2"), 2.0 ** (now - reference))
        case ScalesWith.CELLS:
            factors = dict.fromkeys(("energy_j", "static_power_w", "area_m2"), share)
        case ScalesWith.ROWS | ScalesWith.COLUMNS:
            factors = {"count": share}
        case ScalesWith.BUFFER_BYTES:
            factors = {"static_power_w": share, "area_m2": share}
    given = {key for key, source in component.sources.items() if source == COMMAND_LINE}  # they hold as given
    update = {key: getattr(component, key) * factor for key, factor in factors.items() if key not in given}
    return component.model_copy(update={**update, "reference": now})


def _at_node(component: Component, target: Target) -> Component:
    """Scale to the target's technology node; the clock stays, so that powers scale with energies."""
    node, own = target.digital.node_nm, component.node_nm
    if not component.scales_node or node is None or own is None or node == own:
        return component
    energy, area = node_factor(node, own, NODE_ENERGY), node_factor(node, own, NODE_AREA)
    factors = {"energy_j": energy, "static_power_w": energy, "area_m2": area}
    given = {key for key, source in component.sources.items() if source == COMMAND_LINE}  # they hold as given
    update = {key: getattr(component, key) * factor for key, factor in factors.items() if key not in given}
    return component.model_copy(update={**update, "node_nm": node})


def _value(rule: ScalesWith, target: Target) -> float | None:
    """The quantity of a target by which a rule scales."""
    size = target.digital.buffer_bytes
    return {
        ScalesWith.ADC_BITS: float(target.converters.adc.bits),
        ScalesWith.DAC_BITS: float(target.converters.dac.bits),
        ScalesWith.CELLS: float(target.array.rows * target.array.columns),
        ScalesWith.ROWS: float(target.array.rows),
        ScalesWith.COLUMNS: float(target.array.columns),
        ScalesWith.BUFFER_BYTES: None if size is None else float(size),
    }[rule]
