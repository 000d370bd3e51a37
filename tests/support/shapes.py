"""Small array geometries for tests."""

from __future__ import annotations

from typing import Any

from mcompiler.encodings import ArrayShape, Offset, Pedestal


def array(rows: int, columns: int, **more: Any) -> ArrayShape:
    """Arrays that hold one weight a cell, all word lines active at once; ``more`` says what differs."""
    plain = {
        "encoding": Offset(pedestal=Pedestal.DIGITAL_COUNT),
        "slices": 1,
        "adjacent_slices": 1,
        "adjacent_polarities": 1,
        "cell_bits": 4,
        "rows_active": rows,
    }
    return ArrayShape(rows=rows, columns=columns, **{**plain, **more})
