"""targets list, show, check, schema."""

from __future__ import annotations

import click

from mcompiler.cli.common import json_option, print_json
from mcompiler.errors import TargetError


@click.group()
def targets() -> None:
    """The chips that models can be compiled for."""


@targets.command("list")
@json_option
def list_command(as_json: bool) -> None:
    """Names and descriptions of the targets at hand."""
    from mcompiler.target import list_targets

    found = list_targets()
    if as_json:
        print_json([{"name": name, "description": description} for name, description in found])
        return
    width = max(len(name) for name, _ in found)
    for name, description in found:
        click.echo(f"{name:{width}}  {description}")


@targets.command()
@click.argument("target", metavar="NAME|FILE.toml")
@click.option("--set", "overrides", multiple=True, metavar="section.key=VALUE", help="Change the target; repeatable.")
@json_option
def show(target: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """A target as it is used: everything inherited, overridden and defaulted filled in."""
    from mcompiler.target import load_target, resolved_toml

    loaded = load_target(target, overrides)
    if as_json:
        print_json(loaded.model_dump(mode="json"))
    else:
        click.echo(resolved_toml(loaded), nl=False)


@targets.command()
@click.argument("target", metavar="NAME|FILE.toml")
@click.option("--set", "overrides", multiple=True, metavar="section.key=VALUE", help="Change the target; repeatable.")
@json_option
def check(target: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Read a target, report all of its faults, and list what it assumes."""
    from mcompiler.target import assumptions, check_target, load_target

    faults = check_target(target, overrides)
    if faults:
        raise TargetError("\n".join(faults))
    assumed = assumptions(load_target(target, overrides))
    if as_json:
        print_json({
            "target": target, "faults": [],
            "assumptions": [{"key": key, "value": value, "source": source} for key, value, source in assumed],
        })  # fmt: skip
        return
    click.echo(f"{target}: fine")
    if assumed:
        click.echo(f"{len(assumed)} of its numbers are assumptions:")
        for key, value, source in assumed:
            click.echo(f"  {key} = {value}  ({source})")


@targets.command()
def schema() -> None:
    """The JSON Schema of target files, for editors."""
    from mcompiler.target import json_schema

    print_json(json_schema())
