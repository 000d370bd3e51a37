"""How a component's figures follow from those of a reference: more bits, larger arrays, larger memories."""

from __future__ import annotations

from itertools import pairwise
from math import exp, log
from typing import TYPE_CHECKING

from mcompiler.target.layers import COMMAND_LINE
from mcompiler.target.sections import Component, ScalesWith

if TYPE_CHECKING:
    from mcompiler.target.schema import Target

ADC_PJ = {4: 0.79, 5: 0.99, 6: 1.20, 7: 1.42, 8: 1.67, 9: 1.97, 10: 2.38}
ADC_UM2 = {4: 361.0, 5: 477.0, 6: 627.0, 7: 845.0, 8: 1200.0, 9: 1828.0, 10: 3002.0}
"""ISAAC's ADC at other bits: Accelergy's table, after Saberi et al., TCAS-I 2011. Beyond it the last ratio goes on."""


def adc_factor(bits: float, reference: float, table: dict[int, float]) -> float:
    """What an ADC costs at some bits over what it costs at others: log-linear between the rows of a table."""
    return exp(_log_of(bits, table) - _log_of(reference, table))


def _log_of(bits: float, table: dict[int, float]) -> float:
    rows = sorted(table)
    pairs = list(pairwise(rows))
    low, high = next(((a, b) for a, b in pairs if bits <= b), pairs[-1])
    slope = (log(table[high]) - log(table[low])) / (high - low)
    return log(table[low]) + slope * (bits - low)


def scaled(target: Target) -> Target:
    """The target with the components that name a rule scaled to its own bits and sizes; the reference is then those."""
    components = {name: _scaled(component, target) for name, component in target.components.items()}
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
    given = {key for key, source in component.sources.items() if source == COMMAND_LINE}  # meant as they are
    update = {key: getattr(component, key) * factor for key, factor in factors.items() if key not in given}
    return component.model_copy(update={**update, "reference": now})


def _value(rule: ScalesWith, target: Target) -> float | None:
    """What a rule looks at, in a target."""
    size = target.digital.buffer_bytes
    return {
        ScalesWith.ADC_BITS: float(target.converters.adc.bits),
        ScalesWith.DAC_BITS: float(target.converters.dac.bits),
        ScalesWith.CELLS: float(target.array.rows * target.array.columns),
        ScalesWith.ROWS: float(target.array.rows),
        ScalesWith.COLUMNS: float(target.array.columns),
        ScalesWith.BUFFER_BYTES: None if size is None else float(size),
    }[rule]
