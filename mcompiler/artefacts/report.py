"""report.html: one page with the results of a build.

Equal builds give equal pages: no times, no paths, no scripts, no external resources.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2

from mcompiler.artefacts.floorplan import floor_plan
from mcompiler.artefacts.layers import LayerData
from mcompiler.artefacts.report_facts import option_text, summary_facts, target_facts
from mcompiler.artefacts.report_tables import assumption_table, component_table, event_table, fate_tables, layer_table
from mcompiler.artefacts.typeset import inference_interval, layer_colour, print_quantity
from mcompiler.cost import Cost
from mcompiler.declarations import Record
from mcompiler.ir import NodeFate
from mcompiler.target import Target
from mcompiler.text import clean


def report_html(
    target: Target,
    cost: Cost,
    fates: tuple[NodeFate, ...],
    layers: tuple[LayerData, ...],
    options: Mapping[str, Any],
    *,
    records: Sequence[Record] = (),
) -> str:
    """The report of a build as one HTML page.

    Args:
        target: the chip.
        cost: the cost tables.
        fates: of every node of the model.
        layers: the analog layers.
        options: what the model was compiled with.
        records: what the passes gained.
    """
    colours = [layer_colour(index) for index in range(len(layers))]
    return _template().render(
        target=target,
        tiles=summary_facts(cost, fates, layers),
        facts=target_facts(target),
        options=[(clean(name), option_text(value)) for name, value in options.items()],
        records=[clean(line) for each in records for line in each.text().splitlines()],
        layers=layer_table(cost, layers, colours),
        components=component_table(cost, target),
        interval=print_quantity(inference_interval(cost), "s"),
        events=event_table(cost, layers),
        plan=floor_plan(layers, target.hierarchy),
        colours=colours,
        names=[clean(layer.op.site.name) for layer in layers],
        fates=fate_tables(fates),
        assumptions=assumption_table(target),
        core=target.hierarchy.core_name,
        tile=target.hierarchy.tile_name,
    )


@cache
def _template() -> jinja2.Template:
    source = files("mcompiler.artefacts").joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.from_string(source)
