"""Tables over the state of a cell: a quantity at several conductances, linear between them, constant outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from mcompiler.effects.lazy_numpy import np
from mcompiler.encodings.settings import Violations

if TYPE_CHECKING:
    from mcompiler.effects.base import Siemens, Values


def at_state(G: Siemens, siemens: Sequence[float], values: Sequence[float]) -> Values:
    """The quantity of a table at conductances [...], siemens."""
    return np.asarray(np.interp(G, siemens, values))


def table_violations(at: str, siemens: Sequence[float], columns: Mapping[str, Sequence[float]]) -> Violations:
    """What is wrong with a table at a key path: columns by their keys, conductances in ``table_siemens``."""
    for key, values in columns.items():
        if len(values) != len(siemens):
            yield (
                f"{at}.{key}",
                f"{len(values)} values, but table_siemens has {len(siemens)} conductances; give one for each",
            )
    if any(after <= before for before, after in pairwise(siemens)):
        yield f"{at}.table_siemens", "not in ascending order; give the lowest conductance first, no two of them equal"
