"""The specification of a compression: every hyper-parameter, in one place, as dataclasses and as TOML.

    spec = Spec.load("compress.toml")

A field that is a dataclass here is a section of the file; ``[layers."name"]`` is one Structure.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import tomllib
import typing
from collections.abc import Iterator, Mapping
from dataclasses import field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails

from mcompiler.admm.quantise import LevelSet
from mcompiler.errors import CompileError
from mcompiler.target.base import Bool, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Share
from mcompiler.target.locate import did_you_mean
from mcompiler.target.messages import describe_value_errors

_Section = TypeVar("_Section")
_CONFIG = ConfigDict(extra="forbid")
_LIMITS = ("crossbars", "energy_j", "area_m2")


def _raising_compile_errors(section: type[_Section]) -> type[_Section]:
    """The same dataclass, whose constructor raises CompileError in place of pydantic's error."""
    construct = section.__init__

    @functools.wraps(construct)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            construct(self, *args, **kwargs)
        except ValidationError as error:
            prefix = "" if section is Spec else f"admm.{section.__name__}: "
            raise CompileError("\n".join(prefix + fault for fault in _list_faults(error, section))) from None

    section.__init__ = checked  # type: ignore[method-assign]
    return section


class LearningRateSchedule(StrEnum):
    """Learning rate over the steps of a stage, after a linear warm-up: constant, or decreasing to zero."""

    CONSTANT = "constant"
    COSINE = "cosine"
    LINEAR = "linear"


@_raising_compile_errors
@dataclass(frozen=True, config=_CONFIG)
class Structure:
    """Limits on the weights of one layer that may be non-zero. None: no limit; so is a count above the layer's size.

    Attributes:
        filters: columns of the matrix (output channels) that may be non-zero, over all groups.
        channels: input channels that may be non-zero, over all groups.
        shapes: rows of the matrix (input and kernel position) that may be non-zero, over all groups.
        blocks: array positions (tiles of the target) that may be non-zero, after empty rows and columns are removed.
        column_nonzeros: weights that may be non-zero in each column of each array (TinyADC).
        one_sign: one sign in each fragment of a column (FORMS): the rows of an array that are read at once.

    Raises:
        CompileError: a count that is not a whole number above zero.
    """

    filters: PositiveInt | None = None
    channels: PositiveInt | None = None
    shapes: PositiveInt | None = None
    blocks: PositiveInt | None = None
    column_nonzeros: PositiveInt | None = None
    one_sign: Bool = False

    @property
    def is_unconstrained(self) -> bool:
        """Whether no limit is given."""
        return self == Structure()


@_raising_compile_errors
@dataclass(frozen=True, config=_CONFIG)
class Optimiser:
    """Optimiser of one stage.

    Attributes:
        name: ``sgd`` (with Nesterov momentum), ``adam`` or ``adamw``.
        learning_rate: peak learning rate.
        momentum: of SGD; the first moment (beta 1) of Adam.
        weight_decay: on the weights of convolutions, products, embeddings, attention and recurrent layers; biases,
            normalisations, layer scales and other parameters have none.
        schedule: learning rate over the stage.
        warmup: fraction of the steps over which the learning rate rises to its peak.
        clip: largest norm of the gradient; 0: not clipped.
    """

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: PositiveFloat = 0.02
    momentum: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False, strict=True)] = 0.9
    weight_decay: NonNegativeFloat = 5e-4
    schedule: LearningRateSchedule = LearningRateSchedule.COSINE
    warmup: Share = 0.05
    clip: Annotated[float, Field(ge=0, strict=True)] = 0.0


@_raising_compile_errors
@dataclass(frozen=True, config=_CONFIG)
class Admm:
    """The ADMM stages: minimise loss + rho/2 |W - Y + U|^2 + rho/2 |W - Z + V|^2 from a trained dense model.

    Attributes:
        rho: one value per stage, rising (the scaled duals shrink with it; Boyd et al. 2011, section 3.4.1).
        epochs: epochs of each stage; 0 skips ADMM (plain magnitude pruning).
        updates_per_epoch: projections and dual updates per epoch.
        stop: ADMM ends with the epoch after which the residuals of all layers are at most this; 0: after all epochs.
        adaptive: adapt the rho of each layer to its residuals (Boyd et al. 2011, section 3.4.1).
        levels: whether the constraint on levels (Z) is part of the penalty, besides the structure (Y).
        optimiser: of these stages.
    """

    rho: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (1e-3, 1e-2, 1e-1)
    epochs: NonNegativeInt = 2
    updates_per_epoch: PositiveInt = 1
    stop: NonNegativeFloat = 0.0
    adaptive: Bool = False
    levels: Bool = True
    optimiser: Optimiser = Optimiser(learning_rate=0.01, schedule=LearningRateSchedule.CONSTANT)


@_raising_compile_errors
@dataclass(frozen=True, config=_CONFIG)
class DeviceNoise:
    """Errors of the target's devices, drawn again for the weights of every training step on levels.

    Attributes:
        effects: names of effects on single cells that the target describes, or ``all`` of them.
        time_s: time since programming; None: the start of the target's description (``t0_s`` of drift, the first
            relaxation).
        scale: factor on all standard deviations and on the fractions of faulty cells of the target.
    """

    effects: Annotated[tuple[str, ...], Field(min_length=1)] = ("all",)
    time_s: PositiveFloat | None = None
    scale: PositiveFloat = 1.0


@_raising_compile_errors
@dataclass(frozen=True, config=_CONFIG)
class Retrain:
    """Masked retraining after the hard projection: pruned weights stay zero, the others take levels.

    Attributes:
        epochs: total number of epochs.
        float_epochs: the first epochs of these, with float weights and inputs (masks only).
        statistics: training batches from which the statistics of batch normalisations are estimated anew after the
            projection, the removal of paths and the rounding to levels; 0: they are left as they are.
        optimiser: of this stage.
        noise: device errors in the epochs on levels; None: none.
    """

    epochs: NonNegativeInt = 10
    float_epochs: NonNegativeInt = 0
    statistics: NonNegativeInt = 32
    optimiser: Optimiser = Optimiser(learning_rate=0.02)
    noise: DeviceNoise | None = None

    @field_validator("float_epochs")
    @classmethod
    def _check_float_epochs(cls, value: int, info: ValidationInfo) -> int:
        if value > info.data.get("epochs", value):
            raise ValueError(f"must be at most the epochs of this section, {info.data['epochs']}, not {value}")
        return value


@_raising_compile_errors
@dataclass(frozen=True, config=_CONFIG)
class Quantisation:
    """Levels of weights and codes of inputs.

    Attributes:
        levels: grid (with zero), measured, without_zero (the origin paper's set) or none.
        inputs: whether inputs are quantised, to the target's bits.
        input_range: how input ranges are determined from the observed values: ``mse`` or ``minmax``.
        batches: training batches on which input ranges are observed.
    """

    levels: LevelSet = LevelSet.GRID
    inputs: Bool = True
    input_range: Literal["mse", "minmax"] = "mse"
    batches: PositiveInt = 16


@_raising_compile_errors
@dataclass(frozen=True, config=_CONFIG)
class Budget:
    """Total cost that all searched layers may have, in one currency, and how saliencies are estimated.

    Attributes:
        crossbars: array positions of all searched layers together (a position is two arrays for a differential pair in
            separate arrays).
        energy_j: dynamic and static energy per inference of their arrays, by the cost model.
        area_m2: area of their arrays, by the cost model.
        layers: which layers are searched: ``conv`` or ``all``. The others keep the structure that ``[layers]`` gives.
        batches: training batches from which saliencies (squared weight times squared gradient) are computed.
    """

    crossbars: PositiveInt | None = None
    energy_j: PositiveFloat | None = None
    area_m2: PositiveFloat | None = None
    layers: Literal["conv", "all"] = "conv"
    batches: PositiveInt = 20

    @model_validator(mode="after")
    def _check_one_limit(self) -> Self:
        given = [name for name in _LIMITS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"gives {' and '.join(given) or 'no limit'}; give one of {', '.join(_LIMITS)}")
        return self

    @property
    def currency(self) -> str:
        """The name of the one limit that is given."""
        return next(name for name in _LIMITS if getattr(self, name) is not None)

    @property
    def limit(self) -> float:
        """The value of the one limit that is given."""
        return float(getattr(self, self.currency))


@_raising_compile_errors
@dataclass(frozen=True, config=_CONFIG)
class Purify:
    """Network purification after the hard projection (Ma et al., ASP-DAC 2020, arXiv 1908.10017).

    A channel or filter is removed when at most ``columns`` of its rows or weights are left and they hold less than
    ``energy`` of the mean energy of a channel or filter of that layer. With either at 0 none is removed.

    Attributes:
        columns: largest number of remaining rows (of a channel) or weights (of a filter).
        energy: fraction of the layer's mean energy.
    """

    columns: NonNegativeInt = 0
    energy: NonNegativeFloat = 0.0


@_raising_compile_errors
@dataclass(frozen=True, config=_CONFIG)
class Spec:
    """A whole compression.

    Attributes:
        seed: of all random numbers; each epoch starts from a seed derived from it.
        layers: structures by layer name; a layer that is not named is quantised only.
        skip: layers that are left unchanged, float.
        budget: search structures for the layers that ``layers`` does not name.
        remove_paths: remove unused channels and filters physically (needs a model that torch.fx can trace).
        precision: ``float32``, or ``bfloat16`` by autocast.
        channels_last: memory layout of four-dimensional tensors.

    Raises:
        CompileError: values of the wrong type or out of range, one a line, each with its key.
    """

    seed: NonNegativeInt = 0
    layers: Mapping[str, Structure] = field(default_factory=dict)
    skip: tuple[str, ...] = ()
    budget: Budget | None = None
    admm: Admm = Admm()
    retrain: Retrain = Retrain()
    quantisation: Quantisation = Quantisation()
    purify: Purify = Purify()
    remove_paths: Bool = True
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: Bool = False

    @model_validator(mode="after")
    def _check_sections_agree(self) -> Self:
        if self.retrain.noise is not None and self.quantisation.levels is LevelSet.NONE:
            raise ValueError(
                "quantisation.levels: must not be 'none' with [retrain.noise], which needs weights on levels; choose "
                "a level set, or leave [retrain.noise] out"
            )
        both = [name for name in self.layers if name in self.skip]
        if both:
            raise ValueError(f"layer '{both[0]}' is in both `layers` and `skip`; take it out of one")
        return self

    @staticmethod
    def load(path: str | Path) -> Spec:
        """Read a specification file.

        Raises:
            CompileError: a file that is missing or not TOML; all unknown keys and all values of the wrong type or out
                of range, one a line.
        """
        path = Path(path)
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CompileError(f"{path}: no such specification file") from None
        except (OSError, ValueError, RecursionError) as error:  # of tomllib, numbers and dates included
            raise CompileError(f"{path}: cannot be read as TOML: {error}") from None
        try:
            return Spec.from_table(table)
        except CompileError as error:
            raise CompileError("\n".join(f"{path}: {fault}" for fault in str(error).splitlines())) from None

    @staticmethod
    def from_table(table: Mapping[str, Any]) -> Spec:
        """A specification from nested tables, as TOML gives them; CompileError with all that is wrong, by line."""
        return Spec(**table)

    def as_table(self) -> dict[str, Any]:
        """Nested tables without entries that are None: JSON and TOML can hold them."""
        table: dict[str, Any] = _to_plain(dataclasses.asdict(self))
        return table

    def fingerprint(self) -> str:
        """The specification as one canonical line; a checkpoint of another specification is refused."""
        return json.dumps(self.as_table(), sort_keys=True)


def _to_plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _to_plain(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, tuple | list):
        return [_to_plain(entry) for entry in value]
    return str(value) if isinstance(value, StrEnum) else value


# --- messages --------------------------------------------------------------------------------------------------------


def _list_faults(error: ValidationError, section: type) -> Iterator[str]:
    """All faults that pydantic found in a section, as ``key: fact; remedy``; one fault for each key."""
    by_key: dict[tuple[str, ...], list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        by_key.setdefault(_find_key(detail), []).append(detail)
    for key, details in by_key.items():
        if details[0]["type"] == "unexpected_keyword_argument":
            known = _list_known_keys(section, key[:-1])
            message = f"unknown key{did_you_mean(key[-1], known) or '; known here: ' + ', '.join(known)}"
        else:
            message = describe_value_errors(details, _list_words(section, key))
        yield f"{'.'.join(key)}: {message}" if key else message


def _find_key(detail: ErrorDetails) -> tuple[str, ...]:
    """The key at fault: pydantic's location without the place in a list."""
    return tuple(part for part in detail["loc"] if isinstance(part, str))


def _list_words(section: Any, key: tuple[str, ...]) -> list[str]:
    """The words that a section allows at a key, where it allows certain words only."""
    if not key or key[-1] not in _list_known_keys(section, key[:-1]):
        return []
    hint = typing.get_type_hints(_section_at(section, key[:-1]))[key[-1]]
    kinds = (hint, *typing.get_args(hint))
    enumerated = [
        member.value for kind in kinds if isinstance(kind, type) and issubclass(kind, StrEnum) for member in kind
    ]
    return enumerated + [word for word in kinds if isinstance(word, str)]


def _list_known_keys(section: Any, path: tuple[str, ...]) -> list[str]:
    """The keys of the table at a path below a section."""
    return [entry.name for entry in dataclasses.fields(_section_at(section, path))]


def _section_at(section: Any, path: tuple[str, ...]) -> Any:
    """The section at a path below another one."""
    if section is Spec and path[:1] == ("layers",):  # below it are the users' names of layers
        section, path = Structure, ()
    for key in path:
        hint = typing.get_type_hints(section)[key]  # a section, or `section | None`
        section = next(kind for kind in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(kind))
    return section


def as_spec(spec: Spec | str | Path | None) -> Spec:
    """A specification: the one given, the one in a file, or the default; CompileError where it is wrong."""
    if spec is None:
        return Spec()
    if isinstance(spec, str | Path):
        return Spec.load(spec)
    if not isinstance(spec, Spec):
        raise CompileError(f"the specification is a {type(spec).__name__}; give an admm.Spec or a TOML file")
    return spec
