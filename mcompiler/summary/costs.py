"""The cost tables of a build as text."""

from __future__ import annotations

from mcompiler.cost import Cost
from mcompiler.naming import shown_name
from mcompiler.text import area, facts, percent, plural, quantity, table


def cost_summary(cost: Cost, assumed: int) -> str:
    """Totals, and the tables of layers and of components, each of which adds up to them.

    Args:
        cost: the cost tables.
        assumed: number of values of the target that are assumptions.
    """
    dense = f"{cost.crossbars:,} ({cost.crossbars_dense:,} in the dense mapping)"
    totals = [*cost_totals(cost), ("crossbars", dense), ("utilisation", percent(cost.utilisation))]
    notes = [
        "Layers and components each add up to the totals. Energy is of the parts in use: what events burn",
        "(active), and static power over the time of one inference at this rate (standby); of ports, links",
        "and buffers it is the share of their capacity that is used. Chip standby is that of whole chips.",
    ]
    if assumed:
        notes.append(
            f"{plural(assumed, 'value')} of the target {'is an assumption' if assumed == 1 else 'are assumptions'};"
            " the report lists them with their sources."
        )
    return "\n\n".join([facts(totals), _layer_costs(cost), _component_costs(cost), "\n".join(notes)])


def _share(part: float, whole: float) -> str:
    return percent(part / whole) if whole else "-"


def _layer_costs(cost: Cost) -> str:
    rows = [
        [
            shown_name(name, cost.labels),
            f"{price.crossbars:,}",
            f"{price.crossbars_dense:,}",
            percent(price.utilisation),
            quantity(price.latency_s, "s"),
            quantity(price.energy_j, "J"),
            _share(price.energy_j, cost.energy_j),
            quantity(price.energy_standby_chip_j, "J"),
            area(price.area_m2),
            str(price.adc_bits),
        ]
        for name, price in cost.layers.items()
    ]
    headers = ["layer", "crossbars", "dense", "used", "latency", "energy", "share", "chip standby", "area", "ADC bits"]
    return table(headers, rows, "lrrrrrrrrr")


def _component_costs(cost: Cost) -> str:
    """Components in descending order of energy."""
    prices = sorted(cost.components.items(), key=lambda item: (-item[1].energy_j, -item[1].area_m2, item[0]))
    rows = [
        [
            name,
            quantity(price.energy_j, "J"),
            _share(price.energy_j, cost.energy_j),
            quantity(price.energy_active_j, "J"),
            quantity(price.energy_standby_used_j, "J"),
            quantity(price.energy_standby_chip_j, "J"),
            quantity(price.static_power_w, "W"),
            area(price.area_m2),
            _share(price.area_m2, cost.area_m2),
        ]
        for name, price in prices
    ]
    headers = ["component", "energy", "share", "active", "standby", "chip standby", "static power", "area", "share"]
    return table(headers, rows, "lrrrrrrrr")


def cost_totals(cost: Cost) -> list[tuple[str, str]]:
    """Names and values of what an inference costs in all."""
    active, used = quantity(cost.energy_active_j, "J"), quantity(cost.energy_standby_used_j, "J")
    whole = "whole chip" if cost.counts.chips <= 1 else "whole chips"
    rate = "that throughput" if cost.rate_per_s == cost.throughput_per_s else quantity(cost.rate_per_s, "/s")
    totals = [
        ("latency", f"{quantity(cost.latency_s, 's')} per inference"),
        ("throughput", f"{quantity(cost.throughput_per_s, '/s')}, one inference after the other in a pipeline"),
        ("energy", f"{quantity(cost.energy_j, 'J')} per inference, parts in use: {active} active, {used} standby"),
        (whole, f"{quantity(cost.energy_standby_chip_j, 'J')} standby per inference, unused parts included"),
        ("power", f"{quantity(cost.power_w, 'W')} at {rate}, {quantity(cost.peak_power_w, 'W')} peak"),
        ("area", area(cost.area_m2)),
    ]
    if cost.stale:
        named = ", ".join(f"{each.component} ({each.quantity.value})" for each in cost.stale)
        totals.append(("stale", f"{named}: no rule covers the change, so rank nothing by these totals"))
    return totals
