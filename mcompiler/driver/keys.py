"""What follows each numeric key of a target: prices, stages of the compilation, effects in trials; or nothing, and why.

Prices and effects are computed again with another value of the key. Stages are those that declare that they read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.conductance.cells import conductances
from mcompiler.cost.tables import COUNT_KEYS
from mcompiler.driver.repricing import COUNT, StageReads
from mcompiler.effects import ArrayOnChip, Circuit, Effect
from mcompiler.effects.registry import SHIPPED, find, in_order
from mcompiler.errors import TargetError
from mcompiler.pipeline import PASSES
from mcompiler.target import Target, prices
from mcompiler.target.base import KeyPath
from mcompiler.target.numbers import Number, numeric_keys, other_values, with_number
from mcompiler.target.view import covers, declared_keys

Figures = Mapping[tuple[str, str], float]
"""Figures of components, by figure and component."""

Draws = Mapping[str, tuple[npt.NDArray[np.float64], ...]]
"""What each effect does to an array, by name of the effect."""

ELSEWHERE: Mapping[str, str] = {
    "components.*.code_share": "energy of conversions at the data (cost --data)",
    "calibration": "cost of the chip's calibration, corrections in trials",
    "device.write": "time and energy of writing the cells (cells --summary, compile --reload)",
}
"""Keys that act outside of an inference, and where."""

WITHOUT_EFFECT: Mapping[str, str] = {
    "array.cell_pitch_m": "array.wire_capacitance_f is given in its place",
    "components.*.node_nm": "a label, unless scales_node is set and digital.node_nm is given",
    "device.write.tolerance_siemens": "printed with the cost of writing; the errors that remain are in "
    "[device.programming] or [device.relaxation]",
    "published": "figures of the paper, with which targets check --published compares computed ones",
}
"""Keys that move nothing, and why. A key that is none of these must move something."""

_ROWS, _COLUMNS = 160, 160
_TIMES_S = (30.0, 40_000.0, 140_000.0)
"""Array and times of the trial: enough cells for rare faults, times between and beyond the measured ones."""


@dataclass(frozen=True)
class KeyUse:
    """What follows a numeric key.

    Attributes:
        path: of the key.
        value: in the target.
        prices: components whose price changes with the key, by figure (``instances``, ``energy_j``,
            ``static_power_w``, ``area_m2``).
        stages: passes, and the count of events after them, that read the key.
        effects: of trials, that act differently.
        elsewhere: where it acts outside of an inference; may be empty.
        refused: why the target refuses a larger value; empty if it does not.
        reason: why nothing follows, although a stage may read it with others; empty if something does.
    """

    path: KeyPath
    value: Number
    prices: Mapping[str, tuple[str, ...]]
    stages: tuple[str, ...] = ()
    effects: tuple[str, ...] = ()
    elsewhere: str = ""
    refused: str = ""
    reason: str = ""

    @property
    def key(self) -> str:
        """The key as ``--set`` takes it."""
        return ".".join(self.path)

    @property
    def explained(self) -> bool:
        """Whether something follows, or it is known why not."""
        return any((self.prices, self.stages, self.effects, self.elsewhere, self.refused, self.reason))

    def as_json(self) -> dict[str, Any]:
        """The object that JSON outputs hold."""
        return {
            "key": self.key,
            "value": self.value,
            "prices": {figure: list(names) for figure, names in self.prices.items()},
            "stages": list(self.stages),
            "effects": list(self.effects),
            "elsewhere": self.elsewhere or None,
            "refused": self.refused or None,
            "reason": self.reason or None,
        }


def key_uses(target: Target) -> tuple[KeyUse, ...]:
    """What follows each number that a target gives, in the order of the schema."""
    stages = {step.name: declared_keys(target, step.reads) for step in PASSES}
    stages[COUNT] = declared_keys(target, COUNT_KEYS)
    trial = _Trial.of(target)
    figures, draws = _figures(target), trial.draws(target)
    return tuple(
        _key_use(target, path, value, stages, (trial, figures, draws)) for path, value in numeric_keys(target).items()
    )


def _key_use(
    target: Target, path: KeyPath, value: Number, stages: StageReads, now: tuple[_Trial, Figures, Draws]
) -> KeyUse:
    readers = tuple(name for name, keys in stages.items() if any(covers(key, path) for key in keys))
    use = KeyUse(path, value, {}, stages=readers, elsewhere=_listed(ELSEWHERE, path))
    trial, figures, draws = now
    acts_on_cells = path[0] not in ("components", "digital", "hierarchy", "network", "published")
    for number in other_values(path[-1], value):
        try:
            other = with_number(target, path, number)
        except TargetError as error:
            use = replace(use, refused=use.refused or str(error))
            continue
        changed = _changed(figures, _figures(other))
        differing = _differing(draws, trial.draws(other)) if acts_on_cells else ()
        use = replace(use, prices=changed, effects=differing)
        if changed or differing or readers:
            break
    return use if use.prices or use.effects else replace(use, reason=_listed(WITHOUT_EFFECT, path))


def _listed(reasons: Mapping[str, str], path: KeyPath) -> str:
    """The text of a table for a key; empty where no entry is the key or lies above it."""
    return next((reason for key, reason in reasons.items() if key.count(".") < len(path) and covers(key, path)), "")


def _figures(target: Target) -> Figures:
    found: dict[tuple[str, str], float] = {}
    for name, price in prices(target).items():
        found["instances", name] = price.per_chip
        found["energy_j", name] = price.energy_j
        found["static_power_w", name] = price.static_power_w
        found["area_m2", name] = price.area_m2
    return found


def _changed(before: Figures, after: Figures) -> dict[str, tuple[str, ...]]:
    """Components by figure, of the figures that differ."""
    found: dict[str, list[str]] = {}
    for (figure, name), value in before.items():
        if value != after[figure, name]:
            found.setdefault(figure, []).append(name)
    return {figure: tuple(names) for figure, names in found.items()}


def _differing(before: Draws, after: Draws) -> tuple[str, ...]:
    def equal(name: str) -> bool:
        pairs = zip(before.get(name, ()), after[name], strict=False)
        return name in before and all(np.array_equal(old, new) for old, new in pairs)

    return tuple(name for name in after if not equal(name))


@dataclass(frozen=True)
class _Trial:
    """An array with the same level codes and random numbers for all targets, on which effects act one at a time.

    Attributes:
        codes: level codes [rows, columns].
        circuit: without effects.
        effects: the shipped ones, and those of packages of which the target has tables.
    """

    codes: npt.NDArray[np.int64]
    circuit: Circuit
    effects: Sequence[Effect]

    @classmethod
    def of(cls, target: Target) -> _Trial:
        codes = np.random.default_rng(0).integers(len(target.cell_steps), size=(_ROWS, _COLUMNS))
        # A package whose effect the target does not describe is not imported: it may be broken.
        own = [effect for name in target.effects if (effect := find(name)) is not None]
        return cls(codes, Circuit.without_effects(target), in_order([*SHIPPED, *own]))

    def draws(self, target: Target) -> Draws:
        """What the effects that a target describes change, conductances in units of its codes."""
        codes = np.minimum(self.codes, len(target.cell_steps) - 1)
        G = conductances(codes.astype(np.uint8), target)
        arrays = [
            ArrayOnChip(target, codes, wanted=G, written=G, time_s=time_s, age_s=time_s, seed=(0, 0, 0))
            for time_s in _TIMES_S
        ]
        return {
            effect.name: tuple(part for array in arrays for part in self._acts(effect, G, array))
            for effect in self.effects
            if effect.is_described(target)
        }

    def _acts(self, effect: Effect, G: npt.NDArray[np.float64], array: ArrayOnChip) -> list[npt.NDArray[np.float64]]:
        target, unit = array.target, array.target.unit_siemens
        parts = [
            (stage(G, array) - G) / unit for stage in (effect.write_cells, effect.change_cells, effect.apply_faults)
        ]
        noise = effect.fluctuation(G, array)
        if noise is not None:
            parts += [(noise.mean - G) / unit, noise.variance / unit**2]
        states = effect.two_states(G, array)
        if states is not None:
            parts += [states.loss / unit, np.array([states.low])]
        errors = effect.converter_errors(array)
        if errors is not None:
            parts += [errors.input_gain, errors.gain, errors.offset_codes, errors.bow_codes]
        circuit = effect.change_circuit(self.circuit, target)
        lines, curve = circuit.lines, circuit.curve
        ohms = (circuit.access_ohm, lines.word_ohm, lines.bit_ohm, lines.driver_ohm, lines.sense_ohm)
        volts = np.linspace(0, 2 * self.circuit.read_voltage_v, 9)
        times = effect.measurement_times(target, array.time_s) or ()
        parts += [
            np.array([*ohms, *times, effect.conversion_noise_codes(target)]),
            volts if curve is None else curve.current(volts),
        ]
        return parts
