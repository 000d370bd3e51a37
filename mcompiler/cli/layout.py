"""Results of placement, replication and reloading as lines of text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcompiler.artefacts import ScheduleRecord
    from mcompiler.target import Target


def turn_lines(schedule: ScheduleRecord, target: Target) -> str:
    """Time, energy and memory of layers that take turns on the same arrays.

    Args:
        schedule: of the build.
        target: the chip.
    """
    from mcompiler.text import quantity

    turns, batch = schedule.turns, schedule.batch
    written, energy, kept = (sum(getattr(turn, key) for turn in turns) for key in ("write_s", "write_j", "kept_bytes"))
    total = schedule.interval_s * batch
    lines = [
        f"reload: {len(turns)} turns for every {batch:,} inferences; writing takes {quantity(written, 's')} of "
        f"{quantity(total, 's')} and {quantity(energy, 'J')}; {quantity(kept * batch, 'B')} are kept outside in between"
    ]
    write = target.device.write
    if write is not None and write.endurance is not None:
        batches = write.endurance / write.pulses
        lines.append(f"  cells endure {batches:,.0f} of these batches: {batches * batch:,.0f} inferences")
    return "\n".join(lines)
