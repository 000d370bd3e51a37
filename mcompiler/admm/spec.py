"""The specification of a compression: every hyper-parameter, in one place, as dataclasses and as TOML.

    spec = Spec.load("compress.toml")

Sections of the file are the fields that are dataclasses here, `[layers."name"]` is one Structure.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from mcompiler.admm.constraints import Structure
from mcompiler.admm.quantise import LevelSet
from mcompiler.errors import CompileError


class Schedule(StrEnum):
    """Learning rate over the steps of a stage, after a linear warm-up: flat, or down to zero."""

    CONSTANT = "constant"
    COSINE = "cosine"
    LINEAR = "linear"


@dataclass(frozen=True)
class Optimiser:
    """What minimises the loss within a stage.

    Attributes:
        name: ``sgd`` (with Nesterov momentum), ``adam`` or ``adamw``.
        learning_rate: its peak.
        momentum: of SGD.
        weight_decay: on weights of two and more dimensions; biases and normalisations have none.
        schedule: learning rate over the stage.
        warmup: share of the steps over which the learning rate rises to its peak.
        clip: largest norm of the gradient; 0: not clipped.
    """

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Schedule = Schedule.COSINE
    warmup: float = 0.05
    clip: float = 0.0


@dataclass(frozen=True)
class Admm:
    """The alternating stage: loss + rho/2 |W - Y + U|^2 + rho/2 |W - Z + V|^2, from a trained dense model.

    Attributes:
        rho: one value a stage, rising (the scaled duals shrink with it; Boyd et al. 2011, section 3.4.1).
        epochs: epochs of each stage; 0 leaves the alternation out (plain magnitude pruning).
        updates_per_epoch: projections and dual updates per epoch.
        levels: whether the level constraint (Z) takes part, beside the structure (Y).
        optimiser: of this stage.
    """

    rho: tuple[float, ...] = (1e-3, 1e-2, 1e-1)
    epochs: int = 2
    updates_per_epoch: int = 1
    levels: bool = True
    optimiser: Optimiser = Optimiser(learning_rate=0.01, schedule=Schedule.CONSTANT)


@dataclass(frozen=True)
class DeviceNoise:
    """Errors of the target's devices, drawn anew for the weights of every training step on levels.

    Attributes:
        effects: those of single cells that the target describes, by name, or ``all`` of them.
        time_s: since programming; None: when the target's description starts (``t0_s`` of drift, the first relaxation).
        scale: of all deviations and shares of cells, against the target's.
    """

    effects: tuple[str, ...] = ("all",)
    time_s: float | None = None
    scale: float = 1.0


@dataclass(frozen=True)
class Retrain:
    """Masked retraining behind the hard projection: pruned weights stay zero, the others on their levels.

    Attributes:
        epochs: in all.
        float_epochs: of these, first ones with float weights and inputs (masks only).
        optimiser: of this stage.
        noise: errors of the devices, in the epochs on levels; None: none.
    """

    epochs: int = 10
    float_epochs: int = 0
    optimiser: Optimiser = Optimiser(learning_rate=0.02)
    noise: DeviceNoise | None = None


@dataclass(frozen=True)
class Quantisation:
    """Levels of weights and codes of inputs.

    Attributes:
        levels: grid (with zero), measured, without_zero (the origin paper's set) or none.
        inputs: whether inputs are quantised, to the target's bits.
        input_range: how their ranges are read off the observed values: ``mse`` or ``minmax``.
        batches: training batches that ranges are observed on.
    """

    levels: LevelSet = LevelSet.GRID
    inputs: bool = True
    input_range: Literal["mse", "minmax"] = "mse"
    batches: int = 16


@dataclass(frozen=True)
class Budget:
    """What the search for structures may spend, in one currency; and how it learns where pruning hurts.

    Attributes:
        crossbars: array positions of all searched layers together (a position is two arrays for a differential pair in
            separate arrays).
        energy_j: dynamic and static energy per inference of their arrays, by the cost model.
        area_m2: area of their arrays, by the cost model.
        layers: which layers are searched: ``conv`` or ``all``. The others keep what ``[layers]`` says.
        batches: training batches from which saliencies (squared weight times squared gradient) are taken.
    """

    crossbars: int | None = None
    energy_j: float | None = None
    area_m2: float | None = None
    layers: Literal["conv", "all"] = "conv"
    batches: int = 20

    @property
    def currency(self) -> str:
        """The name of the one limit that is given."""
        return next(name for name in ("crossbars", "energy_j", "area_m2") if getattr(self, name) is not None)

    @property
    def limit(self) -> float:
        """Its value."""
        return float(getattr(self, self.currency))

    def __post_init__(self) -> None:
        given = [name for name in ("crossbars", "energy_j", "area_m2") if getattr(self, name) is not None]
        if len(given) != 1:
            raise CompileError(
                f"[budget] gives {' and '.join(given) or 'no limit'}; give one of crossbars, energy_j, area_m2"
            )
        if not self.limit > 0:
            raise CompileError(f"[budget] {self.currency} = {self.limit:g} buys nothing; give more than zero")


@dataclass(frozen=True)
class Purify:
    """Network purification behind the hard projection (Ma et al., ASP-DAC 2020, arXiv 1908.10017).

    A channel or filter goes when at most ``columns`` of its rows or columns are left and they hold less than ``energy``
    of the mean energy of a channel or filter of that layer. Both 0: none goes.

    Attributes:
        columns: remaining rows of a channel, or remaining weights of a filter as a share of its rows, at most.
        energy: share of the layer's mean energy.
    """

    columns: int = 0
    energy: float = 0.0


@dataclass(frozen=True)
class Spec:
    """A whole compression.

    Attributes:
        seed: of everything that is drawn; each epoch starts from a seed of its own.
        layers: structures by layer name; a layer that is not named keeps its structure and is quantised.
        skip: layers that are left as they are, float.
        budget: search structures for the layers that ``layers`` does not name.
        remove_paths: remove channels that nothing reads or fills, physically (needs a model that torch.fx can trace).
        precision: ``float32``, or ``bfloat16`` by autocast.
        channels_last: memory layout of four-dimensional tensors.
    """

    seed: int = 0
    layers: Mapping[str, Structure] = field(default_factory=dict)
    skip: tuple[str, ...] = ()
    budget: Budget | None = None
    admm: Admm = Admm()
    retrain: Retrain = Retrain()
    quantisation: Quantisation = Quantisation()
    purify: Purify = Purify()
    remove_paths: bool = True
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = False

    def __post_init__(self) -> None:
        _check(self)

    @staticmethod
    def load(path: str | Path) -> Spec:
        """Read a specification file.

        Raises:
            CompileError: a file that is missing or no TOML; an unknown key; a value of the wrong type or out of range.
        """
        path = Path(path)
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CompileError(f"{path}: no such specification file") from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise CompileError(f"{path}: cannot be read as TOML: {error}") from None
        try:
            return Spec.from_table(table)
        except CompileError as error:
            raise CompileError(f"{path}: {error}") from None

    @staticmethod
    def from_table(table: Mapping[str, Any]) -> Spec:
        """A specification from nested tables, as TOML gives them."""
        rest = dict(table)
        layers = rest.pop("layers", {})
        if not isinstance(layers, Mapping):
            raise CompileError('layers: give one table per layer, [layers."name"]')
        spec: Spec = _build(Spec, rest, "")
        named = {name: Structure.from_table(name, entry) for name, entry in layers.items()}
        return dataclasses.replace(spec, layers=named)

    def as_table(self) -> dict[str, Any]:
        """Nested tables without what is None: JSON and TOML can hold them."""
        table: dict[str, Any] = _plain(dataclasses.asdict(self))
        return table

    def fingerprint(self) -> str:
        """The specification as one canonical line; checkpoints of another one are refused."""
        return json.dumps(self.as_table(), sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, StrEnum) else value


_KINDS = {int: "whole number", float: "number", bool: "true or false", str: "string"}


def _build(kind: Any, table: Mapping[str, Any], place: str) -> Any:
    """A dataclass from a table; unknown keys and wrong types are errors that name their place."""
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in table.items():
        where = f"{place}{key}"
        if key not in hints:
            close = difflib.get_close_matches(key, hints, 1)
            hint = f"did you mean '{place}{close[0]}'?" if close else f"there are {', '.join(hints)}"
            raise CompileError(f"{where}: unknown key; {hint}")
        values[key] = _value(hints[key], value, where)
    return kind(**values)


def _value(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        inner = [part for part in typing.get_args(hint) if part is not type(None)]
        return _value(inner[0], value, where)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise CompileError(f"{where}: {value!r} is no table; write [{where}]")
        return _build(hint, value, f"{where}.")
    if origin is Literal or (isinstance(hint, type) and issubclass(hint, StrEnum)):
        choices = list(typing.get_args(hint)) if origin is Literal else [str(entry) for entry in hint]
        if value not in choices:
            raise CompileError(f"{where}: {value!r} is none of {', '.join(map(repr, choices))}")
        return value if origin is Literal else hint(value)
    if origin is tuple:
        if not isinstance(value, list):
            raise CompileError(f"{where}: {value!r} is no list")
        part = typing.get_args(hint)[0]
        return tuple(_value(part, entry, where) for entry in value)
    if hint is float and type(value) is int:
        value = float(value) if abs(value) < 1 << 1000 else math.inf
    if type(value) is not hint:
        raise CompileError(f"{where}: {value!r} is no {_KINDS[hint]}")
    return value


def _check(spec: Spec) -> None:
    """Values that make no sense, named by their place in the file."""
    rules = [
        ("seed", spec.seed >= 0, "give 0 or more"),
        ("admm.rho", bool(spec.admm.rho) and all(0 < rho < math.inf for rho in spec.admm.rho), "give positive numbers"),
        ("admm.epochs", spec.admm.epochs >= 0, "give 0 or more"),
        ("admm.updates_per_epoch", spec.admm.updates_per_epoch >= 1, "give at least 1"),
        ("retrain.epochs", spec.retrain.epochs >= 0, "give 0 or more"),
        ("retrain.float_epochs", 0 <= spec.retrain.float_epochs <= spec.retrain.epochs, "give at most retrain.epochs"),
        ("quantisation.batches", spec.quantisation.batches >= 1, "give at least 1"),
        ("budget.batches", spec.budget is None or spec.budget.batches >= 1, "give at least 1"),
        ("purify.columns", spec.purify.columns >= 0, "give 0 or more"),
        ("purify.energy", 0 <= spec.purify.energy < math.inf, "give 0 or more"),
    ]
    for stage, optimiser in (("admm", spec.admm.optimiser), ("retrain", spec.retrain.optimiser)):
        rules += [
            (f"{stage}.optimiser.learning_rate", 0 < optimiser.learning_rate < math.inf, "give a positive number"),
            (f"{stage}.optimiser.momentum", 0 <= optimiser.momentum < 1, "give 0 up to, not including, 1"),
            (f"{stage}.optimiser.weight_decay", 0 <= optimiser.weight_decay < math.inf, "give 0 or more"),
            (f"{stage}.optimiser.warmup", 0 <= optimiser.warmup <= 1, "give a share from 0 to 1"),
            (f"{stage}.optimiser.clip", optimiser.clip >= 0, "give 0 (off) or more"),
        ]
    noise = spec.retrain.noise
    if noise is not None:
        time_s, coded = noise.time_s, spec.quantisation.levels is not LevelSet.NONE
        rules += [
            ("retrain.noise.effects", bool(noise.effects), "name some, or all"),
            ("retrain.noise.time_s", time_s is None or 0 < time_s < math.inf, "give seconds, more than 0"),
            ("retrain.noise.scale", 0 < noise.scale < math.inf, "give a positive number"),
            ("quantisation.levels", coded, "retrain.noise needs weights on levels"),
        ]
    for place, holds, remedy in rules:
        if not holds:
            node: Any = spec
            for part in place.split("."):
                node = getattr(node, part)
            raise CompileError(f"{place}: {node!r} is out of range; {remedy}")
    both = [name for name in spec.layers if name in spec.skip]
    if both:
        raise CompileError(f"layer '{both[0]}' is in both `layers` and `skip`; take it out of one")


def as_spec(spec: Spec | str | Path | None) -> Spec:
    """A specification: as it is, from a file, or the default.

    Raises:
        CompileError: something else, or a file that is wrong.
    """
    if spec is None:
        return Spec()
    if isinstance(spec, str | Path):
        return Spec.load(spec)
    if not isinstance(spec, Spec):
        raise CompileError(f"the specification is a {type(spec).__name__}; give an admm.Spec or a TOML file")
    entries: Mapping[str, Any] = spec.layers
    wrong = [name for name, entry in entries.items() if not isinstance(entry, Structure)]
    if wrong:
        raise CompileError(f"layers['{wrong[0]}'] is no admm.Structure; write admm.Structure(filters=...)")
    return spec
