"""ops: the fate of every ONNX operator."""

from __future__ import annotations

import click

from mcompiler.cli.common import json_option, print_json


@click.command()
@json_option
def ops(as_json: bool) -> None:
    """What becomes of every ONNX operator: analog, digital or refused, and why."""
    from mcompiler.passes.lower import operator_fates

    rows = operator_fates()
    if as_json:
        print_json([{"op": row.op, "fate": str(row.fate), "reason": row.reason} for row in rows])
        return
    width = max(len(row.op) for row in rows)
    for row in rows:
        click.echo(f"{row.op:{width}}  {row.fate:8}  {row.reason}")
