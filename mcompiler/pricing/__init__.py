"""Price rules: how a component's energy, standby power and area follow its chip, one rule a file, chosen by name.

``components.NAME.rule`` of a target names the rule; where it does not, the component's event decides. An installed
package adds a rule by an entry point of the group ``mcompiler.price_rules``: the entry point's name is the rule's, its
value ``module:Class`` names a class that derives from ``PriceRule``. The names of rules that ship with the compiler
cannot be registered anew: they mean the same on every machine.
"""

from __future__ import annotations

import difflib
import importlib.metadata
from functools import lru_cache

from mcompiler.errors import TargetError
from mcompiler.pricing.adc import AdcSaberi, AdcSurvey
from mcompiler.pricing.base import Figure, PriceRule, Quantities, Quantity
from mcompiler.pricing.crossbar import CellHeat, WordLineCharge
from mcompiler.pricing.dac import DacDriver
from mcompiler.pricing.digital import DigitalOperation, ShiftAdder
from mcompiler.pricing.memories import BusyEdramBuffer, EdramBuffer, InputRegister, OutputRegister, SramBuffer
from mcompiler.pricing.sample_hold import SampleHold
from mcompiler.pricing.unmoved import ConstantPrice, FixedPrice
from mcompiler.pricing.wires import BufferBus, ChipLink, MeshRouter, TileLink

__all__ = ["ENTRY_POINT_GROUP", "Figure", "PriceRule", "Quantities", "Quantity", "find_rule", "is_known", "rule_names"]

ENTRY_POINT_GROUP = "mcompiler.price_rules"

_RULES: tuple[type[PriceRule], ...] = (
    AdcSurvey,
    AdcSaberi,
    DacDriver,
    CellHeat,
    WordLineCharge,
    SampleHold,
    ShiftAdder,
    DigitalOperation,
    InputRegister,
    OutputRegister,
    SramBuffer,
    EdramBuffer,
    BusyEdramBuffer,
    BufferBus,
    MeshRouter,
    TileLink,
    ChipLink,
    ConstantPrice,
    FixedPrice,
)
_SHIPPED = {rule.name: rule for rule in _RULES}


def rule_names() -> tuple[str, ...]:
    """Names of all rules: the shipped ones in their order, then the registered ones; imports no package."""
    return (*_SHIPPED, *sorted(set(_entry_points()) - set(_SHIPPED)))


def is_known(name: str) -> bool:
    """Whether there is a rule of this name; its module is not imported."""
    return name in _SHIPPED or name in _entry_points()


@lru_cache
def find_rule(name: str) -> PriceRule:
    """The rule of a name.

    Raises:
        TargetError: no shipped and no installed rule has the name, or its package cannot be imported; names the
            closest one.
    """
    if name in _SHIPPED:
        return _SHIPPED[name]()
    points = _entry_points()
    if name not in points:
        close = difflib.get_close_matches(name, rule_names(), n=1)
        hint = f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(rule_names())}"
        raise TargetError(f"price rule '{name}' is unknown{hint}")
    try:
        rule = points[name].load()()
    except Exception as error:
        raise TargetError(f"price rule '{name}' ({points[name].value}) cannot be loaded: {error}") from error
    if not isinstance(rule, PriceRule):
        value = points[name].value
        raise TargetError(f"price rule '{name}' ({value}) does not derive from mcompiler.pricing.PriceRule")
    return rule


def _entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)}
