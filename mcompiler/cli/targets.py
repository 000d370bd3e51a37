"""targets list, show, check and schema."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from mcompiler.cli.common import json_option, print_json
from mcompiler.cli.streams import echo
from mcompiler.errors import TargetError

if TYPE_CHECKING:
    from mcompiler.cost.published import Comparison
    from mcompiler.driver.keys import KeyUse
    from mcompiler.target.numbers import Number


@click.group()
def targets() -> None:
    """List, show and check the chips that models can be compiled for."""


@targets.command("list")
@json_option
def list_command(as_json: bool) -> None:
    """List the names and descriptions of the available targets."""
    from mcompiler.target import list_targets
    from mcompiler.text import facts

    found = list_targets()
    if as_json:
        print_json([{"name": name, "description": description} for name, description in found])
        return
    echo(facts(found))


@targets.command()
@click.argument("target", metavar="NAME|FILE.toml")
@click.option(
    "--set", "overrides", multiple=True, metavar="section.key=VALUE", help="Override a key of the target; repeatable."
)
@json_option
def show(target: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print a complete target, with inherited keys, overrides and defaults."""
    from mcompiler.target import load_target, resolved_toml

    loaded = load_target(target, overrides)
    if as_json:
        print_json(loaded.model_dump(mode="json"))
    else:
        echo(resolved_toml(loaded), nl=False)


@targets.command()
@click.argument("target", metavar="NAME|FILE.toml", required=False)
@click.option(
    "--set", "overrides", multiple=True, metavar="section.key=VALUE", help="Override a key of the target; repeatable."
)
@click.option(
    "--published",
    is_flag=True,
    help="Compile a product and compare its cost with the figures of the target's source; without a target for all.",
)
@json_option
def check(target: str | None, overrides: tuple[str, ...], published: bool, as_json: bool) -> int:
    """Report all problems of a target, or list its assumptions and what follows each of its numbers.

    With --published, compare it with its publication.
    """
    from mcompiler.driver.keys import key_uses
    from mcompiler.target import assumptions, check_target, load_target

    if published:
        return _check_published(target, overrides, as_json)
    if target is None:
        raise click.UsageError("name a target, or give --published for all")
    problems = check_target(target, overrides)
    if problems:
        raise TargetError("\n".join(problems))
    loaded = load_target(target, overrides)
    assumed, uses = assumptions(loaded), key_uses(loaded)
    if as_json:
        print_json(
            {
                "target": target,
                "faults": [],
                "assumptions": [{"key": key, "value": value, "source": source} for key, value, source in assumed],
                "keys": [use.as_json() for use in uses],
            }
        )
        return 0
    echo(f"{target}: fine")
    if assumed:
        echo(f"{len(assumed)} of its numbers are assumptions:")
        for key, value, source in assumed:
            echo(f"  {key} = {value}  ({source})")
    echo("")
    echo(_key_table(uses))
    return 0


_NAMED = 3
"""Most names that a cell of the table lists; of more, it says how many."""


def _key_table(uses: Sequence[KeyUse]) -> str:
    """The numbers of a target, and what follows each of them."""
    from mcompiler.text import table

    rows = [[use.key, _value(use.value), "; ".join(_follows(use))] for use in uses]
    return table(["key", "value", "what follows"], rows, "lrl")


def _value(value: Number) -> str:
    return " ".join(f"{each:g}" for each in value) if isinstance(value, tuple) else f"{value:.12g}"


def _follows(use: KeyUse) -> Iterator[str]:
    """What follows a number, in a few words each."""
    if use.reason:
        yield f"nothing: {use.reason}"
        return
    figures: dict[tuple[str, ...], list[str]] = {}
    for figure, names in use.prices.items():
        figures.setdefault(names, []).append(figure)
    for names, changed in figures.items():
        yield f"{', '.join(changed)} of {_some(names, 'components')}"
    if use.stages:
        yield f"stages {', '.join(use.stages)}" if len(use.stages) <= _NAMED else f"stages from {use.stages[0]} on"
    if use.effects:
        yield f"{'effect' if len(use.effects) == 1 else 'effects'} {', '.join(use.effects)}"
    if use.elsewhere:
        yield use.elsewhere
    if use.refused and not (use.prices or use.stages or use.effects):
        yield f"refused: {use.refused}"


def _some(names: Sequence[str], many: str) -> str:
    return ", ".join(names) if len(names) <= _NAMED else f"{len(names)} {many}"


def _check_published(target: str | None, overrides: tuple[str, ...], as_json: bool) -> int:
    """Compare and print; exit code 1 if a figure is off without an explanation in the file."""
    from mcompiler.driver.published import check_published
    from mcompiler.target import list_targets, load_target

    names = [name for name, _ in list_targets()] if target is None else [target]
    loaded = {name: load_target(name, overrides) for name in names}
    if target is not None and loaded[target].published is None:
        raise TargetError(f"{target}: no [published] section: nothing to compare with (docs/targets.md)")
    found = {name: check_published(each) for name, each in loaded.items() if each.published is not None}
    failed = [(name, row) for name, rows in found.items() for row in rows if not row.holds]
    if as_json:
        print_json(
            {
                name: [
                    {
                        "figure": row.figure,
                        "ours": row.ours,
                        "published": row.theirs,
                        "difference": row.difference,
                        "allowed": row.allowed,
                        "within": row.within,
                        "explained": row.explained or None,
                        "network": row.network,
                    }
                    for row in rows
                ]
                for name, rows in found.items()
            }
        )
    else:
        echo("\n\n".join(_published_table(name, rows) for name, rows in found.items()))
    for name, row in failed[:1]:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        echo(
            f"mcompiler: {name}: {row.figure} is {row.ours:.4g}, its source says {row.theirs:.4g} "
            f"({row.difference:+.1%}); correct the numbers, or give the reason in "
            f"published.explained.{row.figure}{more}",
            err=True,
        )
    return 1 if failed else 0


def _published_table(name: str, rows: Sequence[Comparison]) -> str:
    """The figures of one target, and below them the network that was compiled and the explanations."""
    from mcompiler.text import table

    cells = [
        [row.figure, f"{row.ours:.4g}", f"{row.theirs:.4g}", f"{row.difference:+.1%}", _verdict(row)] for row in rows
    ]
    notes = [f"  compiled: {network}" for network in dict.fromkeys(row.network for row in rows)]
    notes += [f"  {row.figure}: {row.explained}" for row in rows if row.explained]
    return "\n".join([table([name, "ours", "published", "difference", ""], cells, "lrrrl"), *notes])


def _verdict(row: Comparison) -> str:
    if row.within:
        return "within"
    return "explained" if row.explained else "FAILS"


@targets.command()
def schema() -> None:
    """Print the JSON Schema of target files, for editors."""
    from mcompiler.target import json_schema

    print_json(json_schema())
