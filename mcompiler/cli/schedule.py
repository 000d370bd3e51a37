"""schedule: times of the stages of a build, and the bounds of its rate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from mcompiler.cli.build import DIRECTORY
from mcompiler.cli.common import json_option, print_json
from mcompiler.cli.streams import echo

SHOWN = 12
"""Rows printed of each table."""


@click.command()
@DIRECTORY
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="Write a timeline of every stage over three inferences for chrome://tracing or ui.perfetto.dev.",
)
@json_option
def schedule(directory: Path, trace: Path | None, as_json: bool) -> None:
    """Print the times of every stage of the pipeline, the queues between stages, and the bounds of the rate."""
    from mcompiler.artefacts import atomic_write
    from mcompiler.driver import load

    build = load(directory)
    data = build.schedule.as_json()
    if trace is not None:
        with atomic_write(trace) as temporary:
            temporary.write_text(json.dumps(build.timeline().as_json()), encoding="utf-8")
    if as_json:
        print_json({**data, **({} if trace is None else {"trace": str(trace)})})
        return
    echo(schedule_summary(data))
    if trace is not None:
        echo(f"\ntimeline: {trace} (open it in chrome://tracing or ui.perfetto.dev)")


def schedule_summary(data: Mapping[str, Any]) -> str:
    """Totals, bounds of the interval, the busiest stages, and the largest queues between stages.

    Args:
        data: content of schedule.json.
    """
    from mcompiler.ir import Replication
    from mcompiler.records import ReplicationRecord
    from mcompiler.text import facts, quantity

    totals = [
        ("latency", quantity(data["latency_s"], "s")),
        ("interval", f"{quantity(data['interval_s'], 's')} between two inferences"),
        ("a read", quantity(data["cycle_s"], "s")),
        *((f"bound of {name.replace('_', ' ')}", quantity(value, "s")) for name, value in data["bounds_s"].items()),
    ]
    parts = [facts(totals)]
    if data["replication"] is not None:
        parts.append(ReplicationRecord(Replication(**data["replication"])).text())
    if data["turns"]:
        each = (f"{quantity(t['write_s'], 's')} and {quantity(t['latency_s'], 's')}" for t in data["turns"])
        parts.append(f"turns, writing and latency: {', '.join(each)}")
    parts += [_stages(data["stages"]), _streams(data["streams"])]
    spilled = data["spilled_bytes"]
    if spilled:
        named = ", ".join(f"'{name}' {quantity(value, 'B')}" for name, value in list(spilled.items())[:5])
        parts.append(f"activations in tiles of other layers, because those of their own layer are full: {named}")
    return "\n\n".join(part for part in parts if part)


def _stages(stages: Sequence[Mapping[str, Any]]) -> str:
    from mcompiler.text import quantity, table

    working = [stage for stage in stages if stage["service_s"] > 0]
    chosen = {id(stage) for stage in sorted(working, key=lambda s: -s["busy_s"])[:SHOWN]}
    rows = [
        [
            stage["name"],
            stage["kind"],
            f"{stage['tokens']:,}",
            f"{stage['copies']:,}",
            quantity(stage["service_s"], "s"),
            quantity(stage["busy_s"], "s"),
            quantity(stage["start_s"], "s"),
            quantity(stage["end_s"], "s"),
        ]
        for stage in working
        if id(stage) in chosen
    ]
    text = table(["stage", "kind", "tokens", "copies", "each", "busy", "starts", "ends"], rows, "llrrrrrr")
    more = len(working) - len(rows)
    return text + (f"\n... {more:,} more; these are the busiest" if more else "")


def _streams(streams: Sequence[Mapping[str, Any]]) -> str:
    from mcompiler.text import quantity, table

    kept = sorted((s for s in streams if s["bytes"] > 0), key=lambda s: -s["bytes"])
    rows = [
        [
            stream["producer"],
            stream["consumer"],
            f"{stream['tokens']:,}",
            f"{stream['least_tokens']:,}",
            quantity(stream["bytes"], "B"),
            quantity(stream["window_bytes"], "B") if stream["window_bytes"] else "-",
        ]
        for stream in kept[:SHOWN]
    ]
    text = table(["waits of", "for", "tokens", "at least", "room", "row buffer"], rows, "llrrrr")
    more = len(kept) - len(rows)
    return text + (f"\n... {more:,} more; these take most room" if more > 0 else "")
