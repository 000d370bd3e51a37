"""What the passes that lay out a chip gained, as lines of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def replication_lines(found: Mapping[str, Any]) -> str:
    """What copies gained, and the bounds that none within the budget goes below."""
    from mcompiler.text import quantity

    def line(name: str) -> str:
        before, now, bound = (found[f"{name}{part}_s"] for part in ("_before", "", "_bound"))
        return (
            f"{name} {quantity(before, 's')} with one copy of each layer, {quantity(now, 's')} with these "
            f"({before / now:,.1f}x); no less than {quantity(bound, 's')} within the budget"
        )

    return (
        f"copies: {found['arrays']:,} of {found['budget']:,} arrays, transfers not counted:\n"
        f"  {line('interval')}\n  {line('latency')}"
    )
