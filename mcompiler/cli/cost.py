"""cost: what an inference costs, with other component values too."""

from __future__ import annotations

from pathlib import Path

import click

from mcompiler.cli.build import DIRECTORY
from mcompiler.cli.common import json_option, print_json


@click.command()
@DIRECTORY
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="components.NAME.key=VALUE",
    help="Another value of a component; the build is not compiled again. Repeatable.",
)
@json_option
def cost(directory: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """What one inference costs: latency, energy, area, per layer and component."""
    from mcompiler.driver import load
    from mcompiler.summary import cost_summary
    from mcompiler.target import assumptions, load_target

    build = load(directory)
    target = load_target(directory / "target.toml", overrides) if overrides else build.target
    found = build.cost_with(target) if overrides else build.cost
    if as_json:
        print_json(found.as_json())
    else:
        click.echo(cost_summary(found, len(assumptions(target))))
