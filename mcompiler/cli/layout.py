"""Results of placement, replication and reloading as lines of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcompiler.target import Target


def placement_line(found: Mapping[str, float]) -> str:
    """Traffic of the placement, compared with the order of the layers and with the lower bound."""
    from mcompiler.text import percent, quantity

    moved, plain, bound = (found[key] for key in ("byte_hops", "byte_hops_in_order", "byte_hops_bound"))
    gained = f", {percent(1 - moved / plain)} less than in the order of the layers" if moved < plain else ""
    return (
        f"links: {quantity(moved, 'B')} x links per inference{gained}; no placement needs less than "
        f"{quantity(bound, 'B')} x links; {quantity(found['chip_bytes'], 'B')} in and out of chips"
    )


def replication_lines(found: Mapping[str, Any]) -> str:
    """Interval and latency with and without copies, and their lower bounds within the budget."""
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


def turn_lines(schedule: Mapping[str, Any], target: Target) -> str:
    """Time, energy and memory of layers that take turns on the same arrays.

    Args:
        schedule: content of schedule.json.
        target: the chip.
    """
    from mcompiler.text import quantity

    turns, batch = schedule["turns"], schedule["batch"]
    written, energy, kept = (sum(turn[key] for turn in turns) for key in ("write_s", "write_j", "kept_bytes"))
    total = schedule["interval_s"] * batch
    lines = [
        f"reload: {len(turns)} turns for every {batch:,} inferences; writing takes {quantity(written, 's')} of "
        f"{quantity(total, 's')} and {quantity(energy, 'J')}; {quantity(kept * batch, 'B')} are kept outside in between"
    ]
    write = target.device.write
    if write is not None and write.endurance is not None:
        batches = write.endurance / write.pulses
        lines.append(f"  cells endure {batches:,.0f} of these batches: {batches * batch:,.0f} inferences")
    return "\n".join(lines)
