"""Between the rows of a published table: exponential, and beyond its ends as between its last two rows."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import exp, log


def log_linear(at: float, table: Mapping[int, float] | Mapping[float, float]) -> float:
    """A positive value at a point of the table's argument, its logarithm linear between the rows."""
    rows = sorted(table.items())
    pairs = list(pairwise(rows))
    (low, first), (high, second) = next((pair for pair in pairs if at <= pair[1][0]), pairs[-1])
    return first * exp(log(second / first) * (at - low) / (high - low))
