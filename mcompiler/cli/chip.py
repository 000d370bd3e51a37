"""Options of commands that write the cells of one simulated chip: --effects, --seed, --time, --uncalibrated."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mcompiler.driver.trials import TrialOptions

Command = Callable[..., Any]


def chip_options(command: Command) -> Command:
    """Add the options to a command; ``chosen_chip`` takes their values."""
    options = (
        click.option(
            "--effects",
            metavar="all|NAME,...",
            help="Write the conductances of a chip with these errors: that of verify with the same options.",
        ),
        click.option(
            "--seed", type=click.IntRange(min=0), metavar="N", help="Number of the chip, with --effects  [default: 0]"
        ),
        click.option("--time", "time_s", type=float, metavar="SECONDS", help="Time since programming, with --effects."),
        click.option(
            "--uncalibrated", is_flag=True, help="Leave out the corrections of the target's section [calibration]."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def effect_names(effects: str) -> tuple[str, ...]:
    """The value of --effects as names."""
    names = tuple(name.strip() for name in effects.split(","))
    if not all(names):
        raise click.UsageError(f"--effects '{effects}': name effects, with commas between them, or all")
    return names


def chosen_chip(effects: str | None, seed: int | None, time_s: float | None, uncalibrated: bool) -> TrialOptions | None:
    """The chip that the options name; None without --effects."""
    if effects is None:
        if seed is not None or time_s is not None or uncalibrated:
            raise click.UsageError("--seed, --time and --uncalibrated need a chip with errors: give --effects too")
        return None
    from mcompiler.driver.trials import TrialOptions

    return TrialOptions(effect_names(effects), seed=seed or 0, time_s=time_s, calibrated=not uncalibrated)
