"""The effects that tell a real chip from the ideal one: each can be switched alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum

from mcompiler.errors import UserError
from mcompiler.target import Target


class Effect(StrEnum):
    """What can be switched; the name is what ``--effects`` takes."""

    PROGRAMMING = "programming"
    DRIFT = "drift"
    NOISE = "noise"
    TELEGRAPH = "telegraph"
    TEMPERATURE = "temperature"
    FAULTS = "faults"
    ACCESS = "access"
    WIRES = "wires"
    CURVE = "curve"
    CONVERTERS = "converters"


EVERY = "all"
"""What ``--effects`` takes for all that a target describes."""


def _has_converters(target: Target) -> bool:
    dac, adc = target.converters.dac, target.converters.adc
    return any((dac.gain_error, adc.offset_codes, adc.gain_error, adc.nonlinearity_codes, adc.noise_codes))


def _has_wires(target: Target) -> bool:
    array = target.array
    resistances = (
        array.wire_resistance_ohm,
        array.bit_wire_ohm,
        array.driver_resistance_ohm,
        array.sense_resistance_ohm,
    )
    return any(resistances)


_DESCRIBED: dict[Effect, tuple[str, Callable[[Target], bool]]] = {
    Effect.PROGRAMMING: (
        "[device.programming] or [device.relaxation]",
        lambda target: target.device.programming is not None or bool(target.device.relaxation),
    ),
    Effect.DRIFT: (
        "[device.drift] or [device.relaxation]",
        lambda target: target.device.drift is not None or bool(target.device.relaxation),
    ),
    Effect.NOISE: ("[device.noise]", lambda target: target.device.noise is not None),
    Effect.TELEGRAPH: ("[device.telegraph]", lambda target: target.device.telegraph is not None),
    Effect.TEMPERATURE: ("[device.temperature]", lambda target: target.device.temperature is not None),
    Effect.FAULTS: ("[device.faults]", lambda target: target.device.faults is not None),
    Effect.ACCESS: ("device.access_resistance_ohm", lambda target: target.device.access_resistance_ohm > 0),
    Effect.WIRES: (
        "resistances of lines in [array] (wire_resistance_ohm, driver_resistance_ohm, ...)", _has_wires,
    ),
    Effect.CURVE: ("[device.curve]", lambda target: target.device.curve is not None),
    Effect.CONVERTERS: ("errors in [converters.dac] or [converters.adc]", _has_converters),
}  # fmt: skip


def described(target: Target) -> frozenset[Effect]:
    """The effects that a target describes."""
    return frozenset(effect for effect, (_, known) in _DESCRIBED.items() if known(target))


def chosen(names: Sequence[str], target: Target, stuck: bool = False) -> frozenset[Effect]:
    """The effects of these names, ``all`` being every one that the target describes.

    With ``stuck`` the stuck cells of the chip are known, whatever the target describes.

    Raises:
        UserError: a name that is none, or an effect that the target does not describe; says what to add to it.
    """
    found: set[Effect] = set()
    for name in names:
        if name == EVERY:
            found |= described(target) | ({Effect.FAULTS} if stuck else set())
            continue
        if name not in list(Effect):
            raise UserError(f"there is no effect '{name}'; choose from {', '.join(Effect)}, or all")
        effect = Effect(name)
        where, known = _DESCRIBED[effect]
        if not known(target) and not (stuck and effect is Effect.FAULTS):
            raise UserError(
                f"target '{target.name}' does not describe the effect '{effect}': give it {where}, with a source, or "
                "leave the effect out (mcompiler targets show prints what it has)"
            )
        found.add(effect)
    if EVERY in names and not found:
        raise UserError(f"target '{target.name}' describes no effects; docs/targets.md says how to add some")
    return frozenset(found)
