"""Scale a component's figures from their reference to other bits, sizes or technology nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcompiler.pricing.adc import ADC_PJ, ADC_UM2
from mcompiler.pricing.nodes import NODE_AREA, NODE_ENERGY, node_factor
from mcompiler.pricing.tables import log_linear
from mcompiler.target.components import Component, ScalesWith
from mcompiler.target.layers import COMMAND_LINE

if TYPE_CHECKING:
    from mcompiler.target.schema import Target

__all__ = ["ADC_PJ", "ADC_UM2", "NODE_AREA", "NODE_ENERGY", "adc_factor", "node_factor", "scaled"]


def adc_factor(bits: float, reference: float, table: dict[int, float]) -> float:
    """Cost of an ADC at some number of bits over that at the reference: log-linear between the rows of a table."""
    return log_linear(bits, table) / log_linear(reference, table)


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
