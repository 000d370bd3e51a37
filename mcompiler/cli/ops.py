"""ops: the fate of every ONNX operator."""

from __future__ import annotations

import click

from mcompiler.cli.common import json_option, print_json
from mcompiler.cli.streams import echo


@click.command()
@json_option
def ops(as_json: bool) -> None:
    """Print the fate of every ONNX operator: analog, digital or refused, and the reason."""
    from mcompiler.fates import reason_text
    from mcompiler.passes.lower import operator_fates

    rows = [(op, fate, reason, reason_text(reason)) for op, fate, reason in operator_fates()]
    if as_json:
        print_json(
            [
                {"op": op, "fate": fate.value, "reason": text, "reason_kind": reason.kind.value}
                for op, fate, reason, text in rows
            ]
        )
        return
    width = max(len(op) for op, _, _, _ in rows)
    for op, fate, _, text in rows:
        echo(f"{op:{width}}  {fate:8}  {text}")
