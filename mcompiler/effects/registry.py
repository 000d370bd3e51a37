"""Which effects there are: the shipped ones, and those that installed packages register.

A package registers an effect by an entry point of the group ``mcompiler.effects``: its name is the effect's, its value
a subclass of ``Effect`` (or an instance), for example ``ageing = "my_package:AgeingEffect"``. The package is imported
when its effect is used for the first time: its table in a target is read, it is named, or all effects are asked for.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from mcompiler.effects.access import ACCESS
from mcompiler.effects.base import Effect
from mcompiler.effects.circuit import Circuit
from mcompiler.effects.converters import CONVERTERS
from mcompiler.effects.curve import CURVE
from mcompiler.effects.drift import DRIFT
from mcompiler.effects.faults import FAULTS
from mcompiler.effects.noise import NOISE
from mcompiler.effects.programming import PROGRAMMING
from mcompiler.effects.telegraph import TELEGRAPH
from mcompiler.effects.temperature import TEMPERATURE
from mcompiler.effects.wires import WIRES
from mcompiler.encodings.settings import Violations
from mcompiler.errors import TargetError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcompiler.target.base import Section
    from mcompiler.target.schema import Target

ENTRY_POINT_GROUP = "mcompiler.effects"

EVERY = "all"
"""``--effects`` takes it for all effects that a target describes."""

SHIPPED: tuple[Effect, ...] = (
    PROGRAMMING,
    DRIFT,
    NOISE,
    TELEGRAPH,
    TEMPERATURE,
    FAULTS,
    ACCESS,
    WIRES,
    CURVE,
    CONVERTERS,
)
"""The effects of this package, in their order."""

# Names that trials print next to those of effects (mcompiler.simulate.LayerCauses).
_RESERVED = (EVERY, "quantisation", "adc")


def in_order(effects: Iterable[Effect]) -> tuple[Effect, ...]:
    """Effects in the order of a cell's life."""
    return tuple(sorted(effects, key=lambda effect: (effect.order, effect.name)))


def names() -> tuple[str, ...]:
    """Names of all effects: the shipped ones in their order, then the registered ones; imports no package."""
    return (*(effect.name for effect in SHIPPED), *sorted(_entry_points()))


def registered() -> tuple[Effect, ...]:
    """All effects in order.

    Raises:
        TargetError: a package that cannot be imported, or that registers something else; names it.
    """
    return in_order([*SHIPPED, *(_loaded(points) for points in _entry_points().values())])


def find(name: str) -> Effect | None:
    """The effect of a name; None where there is none.

    Raises:
        TargetError: as ``registered``, for this effect only.
    """
    shipped = next((effect for effect in SHIPPED if effect.name == name), None)
    points = _entry_points().get(name) if shipped is None else None
    return shipped if points is None else _loaded(points)


def named(*asked: str) -> frozenset[Effect]:
    """The effects of these names, whether or not a target describes them.

    Raises:
        UserError: a name that is none.
        TargetError: as ``find``.
    """
    return frozenset(_named(name) for name in asked)


def _named(name: str) -> Effect:
    effect = find(name)
    if effect is None:
        raise UserError(f"there is no effect '{name}'; choose from {', '.join(names())}, or all")
    return effect


def section_of(name: str) -> type[Section] | None:
    """Model of the table ``[effects.NAME]`` of a target; None where no effect has one.

    Raises:
        TargetError: as ``find``.
    """
    effect = find(name)
    return None if effect is None else effect.section


def described(target: Target) -> frozenset[Effect]:
    """The effects that a target describes.

    Raises:
        TargetError: as ``registered``.
    """
    return frozenset(effect for effect in registered() if effect.is_described(target))


def chosen(asked: Sequence[str], target: Target, fault_map: bool = False) -> frozenset[Effect]:
    """The effects of these names, ``all`` being every one that the target describes.

    With ``fault_map`` the faults of the chip are known, whether or not the target describes any.

    Raises:
        UserError: a name that is none, or an effect that the target does not describe; says what to add to it.
        TargetError: as ``find``.
    """
    found: set[Effect] = set()
    for name in asked:
        if name == EVERY:
            found |= described(target)
            found |= {effect for effect in SHIPPED if fault_map and effect.in_fault_map}
            continue
        effect = _named(name)
        if not effect.is_described(target) and not (fault_map and effect.in_fault_map):
            raise UserError(
                f"target '{target.name}' does not describe the effect '{name}': give it {effect.described_by}, with a "
                "source, or leave the effect out (mcompiler targets show prints what it has)"
            )
        found.add(effect)
    if EVERY in asked and not found:
        raise UserError(f"target '{target.name}' describes no effects; docs/targets.md says how to add some")
    return frozenset(found)


def circuit_of(target: Target, effects: Iterable[Effect]) -> Circuit:
    """The circuit of a target's arrays with these effects."""
    circuit = Circuit.without_effects(target)
    for effect in in_order(effects):
        circuit = effect.change_circuit(circuit, target)
    return circuit


def start_s(target: Target, effects: Iterable[Effect] = ()) -> float:
    """When the descriptions of the shipped and of these effects hold, seconds since programming: the latest start."""
    starts = [effect.start_s(target) for effect in {*SHIPPED, *effects}]
    return max((start for start in starts if start is not None), default=1.0)


def rules_of(tables: Iterable[str] = ()) -> tuple[Callable[..., Violations], ...]:
    """Checks between sections: of the shipped effects, and of those that have a table ``[effects.NAME]``."""
    others = [effect for effect in map(find, tables) if effect is not None and effect not in SHIPPED]
    return tuple(rule for effect in (*SHIPPED, *others) for rule in effect.rules)


def _entry_points() -> dict[str, list[importlib.metadata.EntryPoint]]:
    found: dict[str, list[importlib.metadata.EntryPoint]] = {}
    for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        if point not in found.setdefault(point.name, []):
            found[point.name].append(point)
    return found


def _loaded(points: Sequence[importlib.metadata.EntryPoint]) -> Effect:
    """The effect of an entry point; imports its package."""
    name, values = points[0].name, ", ".join(point.value for point in points)
    taken = [effect.name for effect in SHIPPED]
    if len(points) > 1:
        raise TargetError(f"effect '{name}' is registered by more than one package: {values}; uninstall one of them")
    if name in taken or name in _RESERVED:
        raise TargetError(f"effect '{name}' of package '{values}': this name is taken; give the effect another one")
    try:
        loaded = points[0].load()
        effect = loaded() if isinstance(loaded, type) else loaded
    except Exception as error:  # a foreign package may fail in any way while it is imported
        raise TargetError(
            f"effect '{name}': its package '{values}' cannot be imported: {error}; repair or uninstall it"
        ) from error
    if not isinstance(effect, Effect) or getattr(effect, "name", None) != name:
        raise TargetError(
            f"effect '{name}': '{values}' is not that effect; the entry point must name a subclass of "
            f"mcompiler.effects.Effect with name = '{name}'"
        )
    if not isinstance(getattr(effect, "order", None), int):
        raise TargetError(f"effect '{name}': '{values}' has no order; give it its place among the shipped effects")
    return effect
