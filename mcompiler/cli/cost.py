"""cost: the cost of an inference, also with other component values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcompiler.cli.build import DIRECTORY
from mcompiler.cli.common import json_option, print_json
from mcompiler.cli.streams import echo

if TYPE_CHECKING:
    from mcompiler.cost import ChipCalibrationCost, DataEnergy


@click.command()
@DIRECTORY
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a value of the target that changes prices only; others name the stage to run again. Repeatable.",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    metavar="R",
    help="Inferences per second, over whose time parts stand by; by default the highest.",
)
@click.option(
    "--data",
    "with_data",
    is_flag=True,
    help="Add the energy of cells, word lines, DACs and ADCs at the inputs of the calibration data.",
)
@click.option(
    "--exact",
    type=click.Path(path_type=Path),
    metavar="DATA.npz",
    help="Add the same energies at these inputs: estimated from densities, and exact for every vector.",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Use the first N samples of --exact.")
@click.option(
    "--second-opinion",
    type=click.Choice(["hwcomponents"]),
    help="Price the same events with the models behind CiMLoop too; needs the extra [second-opinion].",
)
@json_option
def cost(
    directory: Path,
    overrides: tuple[str, ...],
    rate: float | None,
    with_data: bool,
    exact: Path | None,
    limit: int | None,
    second_opinion: str | None,
    as_json: bool,
) -> None:
    """Print the cost of one inference: latency, energy, area, by layer and by component."""
    from mcompiler.cost import chip_calibration_cost, data_energy
    from mcompiler.cost.opinion import price_again
    from mcompiler.driver import load
    from mcompiler.summary import cost_summary
    from mcompiler.target import assumptions, load_target

    build = load(directory)
    target = load_target(directory / "target.toml", overrides) if overrides else build.target
    found = build.cost if rate is None and not overrides else build.cost_with(target, rate=rate)
    if limit is not None and exact is None:
        raise click.UsageError("--limit needs --exact DATA.npz")
    energies = data_energy(build.layer_data, found.counts, target) if with_data and exact is None else ()
    vectors: tuple[DataEnergy, ...] = ()
    if exact is not None:
        energies, vectors = build.exact_energy(build.samples(exact, limit=limit), target=target)
    calibration = chip_calibration_cost(build.layer_data, target)
    other = None if second_opinion is None else price_again(found, target)
    if as_json:
        parts = {"data_energy": energies, "data_energy_exact": vectors}
        more: dict[str, Any] = {key: [each.as_json() for each in part] for key, part in parts.items() if part}
        if calibration:
            more["calibration"] = [each.as_json() for each in calibration]
        if other is not None:
            more["second_opinion"] = other.as_json()
        print_json({**found.as_json(), **more})
        return
    echo(cost_summary(found, len(assumptions(target))))
    if calibration:
        echo(f"\n{_calibration_table(calibration)}")
    if other is not None:
        from mcompiler.cli.opinion import opinion_text

        echo(f"\n{opinion_text(other)}")
    if energies:
        echo(f"\n{_exact_table(energies, vectors, build.labels) if vectors else _data_table(energies, build.labels)}")


def _calibration_table(calibration: Sequence[ChipCalibrationCost]) -> str:
    from mcompiler.text import quantity, table

    rows = [
        [
            each.kind,
            "once" if each.interval_s is None else quantity(each.interval_s, "s"),
            f"{each.reads:,.0f}",
            quantity(each.time_s, "s"),
            quantity(each.energy_j, "J"),
            "-" if each.interval_s is None else quantity(each.power_w, "W"),
            f"{each.words:,}",
            f"{each.operations:,.0f}",
        ]
        for each in calibration
    ]
    headers = ["chip calibration", "every", "reads", "time", "energy", "power", "words", "operations an inference"]
    return table(headers, rows, "lrrrrrrr")


def _data_table(energies: Sequence[DataEnergy], labels: Mapping[str, str]) -> str:
    from mcompiler.naming import shown_name
    from mcompiler.text import quantity, table

    rows = [
        [
            shown_name(each.name, labels),
            quantity(each.cells_fixed, "J"),
            quantity(each.cells, "J"),
            quantity(each.lines, "J"),
            quantity(each.dac_fixed, "J"),
            quantity(each.dac, "J"),
            quantity(each.adc_fixed, "J"),
            quantity(each.adc, "J"),
        ]
        for each in energies
    ]
    headers = [
        "at the inputs seen",
        "cells, typical",
        "cells",
        "word lines",
        "DACs, all rows",
        "DACs",
        "ADCs, full scale",
        "ADCs",
    ]
    return table(headers, rows, "lrrrrrrr")


def _exact_table(means: Sequence[DataEnergy], exact: Sequence[DataEnergy], labels: Mapping[str, str]) -> str:
    from mcompiler.naming import shown_name
    from mcompiler.text import quantity, table

    rows = [
        [
            shown_name(each.name, labels),
            quantity(mean.cells, "J"),
            quantity(each.cells, "J"),
            quantity(each.lines, "J"),
            quantity(each.dac, "J"),
            quantity(each.adc_fixed, "J"),
            quantity(mean.adc, "J"),
            quantity(each.adc, "J"),
        ]
        for mean, each in zip(means, exact, strict=True)
    ]
    headers = [
        "at these inputs",
        "cells, mean field",
        "cells, exact",
        "word lines",
        "DACs",
        "ADCs, full scale",
        "ADCs, mean field",
        "ADCs, exact",
    ]
    return table(headers, rows, "lrrrrrrr")
