"""Rules of components that follow no quantity: by right, and for want of a rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from mcompiler.pricing.base import Figure, PriceRule, Quantities, Quantity


class ConstantPrice(PriceRule):
    """A component whose size no key of a target decides: control logic, instruction memories, pads, references.

    Right where the component would be the same part at every value of every key. One that would grow with the array,
    the widths or the rates, and lacks only the rule, is ``fixed``.
    """

    name: ClassVar[str] = "constant"
    summary: ClassVar[str] = "follows nothing: no key of the target decides its size"
    source: ClassVar[str] = "the component's own source"
    follows: ClassVar[Mapping[Figure, tuple[Quantity, ...]]] = {}
    covers_all: ClassVar[bool] = True

    def value(self, figure: Figure, at: Quantities) -> float:
        """The same everywhere."""
        return 1.0


class FixedPrice(PriceRule):
    """A component that ought to follow its chip, and whose source gives one point alone.

    Its figures stay as given; results at another point of the chip are marked stale.
    """

    name: ClassVar[str] = "fixed"
    summary: ClassVar[str] = "follows nothing, although it should: no rule is known, results elsewhere are stale"
    source: ClassVar[str] = "the component's own source"
    follows: ClassVar[Mapping[Figure, tuple[Quantity, ...]]] = {}

    def value(self, figure: Figure, at: Quantities) -> float:
        """The same everywhere."""
        return 1.0
