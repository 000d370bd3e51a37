"""What a compiler pass declares: its options, the keys of the target that it reads, and the record that it leaves.

A pass is a frozen dataclass. A field annotated with an ``Option`` (``effort: Annotated[int, Option(help=...)] = 1``) is
an option of the compiler: the command line, the keyword arguments of ``mcompiler.compile`` and the entries of
manifest.json follow from it. Other fields are inputs that the pipeline gives it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, dataclass, fields, replace
from enum import Enum, StrEnum
from typing import Annotated, Any, ClassVar, Protocol, TypeVar, get_type_hints, runtime_checkable

from mcompiler.encodings import Decoding
from mcompiler.errors import CompileError
from mcompiler.target import Target
from mcompiler.target.view import KeysWhere

In = TypeVar("In", contravariant=True)
Out = TypeVar("Out", covariant=True)

Reads = tuple[str | KeysWhere, ...]
"""Keys of the target that a pass reads, some of them under a condition."""

_CONDUCTANCES = ("device.g_max_siemens", "device.g_min_siemens")


def _has_level_table(target: Target) -> bool:
    return target.has_level_table


def _converts_pedestal(target: Target) -> bool:
    return target.weight_encoding.decoding is not Decoding.CLEAN


LEVEL_KEYS: Reads = (
    "device.level_means",
    "device.levels",
    "encoding.partner",
    KeysWhere(_CONDUCTANCES, _has_level_table),
)
"""Keys of the target that ``Target.cell_steps`` reads: equidistant levels are whole numbers at any conductance."""

ARRAY_SHAPE_KEYS: Reads = (
    "array.columns",
    "array.rows",
    "array.rows_active",
    *LEVEL_KEYS,
    "encoding",
)
"""Keys of the target that ``geometry.array_shape`` reads."""

CONVERTER_KEYS: Reads = (
    "array.rows",
    "array.rows_active",
    *LEVEL_KEYS,
    "converters.adc.bits",
    "converters.adc.range",
    "converters.adc.range_per",
    "converters.adc.rounding",
    "converters.dac.bits",
    "encoding",
    KeysWhere(_CONDUCTANCES, _converts_pedestal),
)
"""Keys of the target that determine the codes of its ADCs: g_min counts where it adds to what they convert."""

TIMING_KEYS: Reads = (
    *ARRAY_SHAPE_KEYS,
    "calibration",
    "components.*.event",
    "components.*.latency_s",
    "converters.adc.columns",
    "converters.adc.rate_hz",
    "converters.dac.bits",
    "device.drift",
    "device.read_pulse_s",
    "digital.accumulator_bits",
    "digital.buffer_bytes",
    "digital.buffer_bytes_per_s",
    "digital.clock_hz",
    "digital.fill_reads",
    "digital.operations_per_cycle",
    "hierarchy",
    "network",
    "precision.inputs",
)
"""Keys of the target that ``dataflow`` and ``network`` read to time layers and transfers."""


class NoValue(Enum):
    """The type of ``NO_VALUE``."""

    NO_VALUE = "no value"


NO_VALUE = NoValue.NO_VALUE
"""In place of a value where None is one."""


class Pass(Protocol[In, Out]):
    """A compiler pass: a frozen dataclass whose fields are its options and whose docstring is its help text.

    Attributes:
        name: unique among passes.
        reads: keys of the target that it reads, as ``target_view`` takes them; it is given no others.
    """

    name: ClassVar[str]

    @property
    def reads(self) -> Reads:
        """A class variable of the pass."""

    def run(self, program: In, target: Target) -> Out:
        """Return the program at the next level; pure."""


class Record(Protocol):
    """What a pass gained and the bounds of it: a frozen dataclass that reports print without knowing the pass."""

    @property
    def key(self) -> str:
        """Under which JSON outputs hold it."""

    def as_json(self) -> dict[str, Any]:
        """The object that JSON outputs hold."""

    def text(self) -> str:
        """The same for people: one line or a few."""


@runtime_checkable
class Recording(Protocol):
    """A pass that leaves a record."""

    def record(self, program: Any) -> Record | None:
        """What the pass gained, from the program that it returned; None where there is nothing to tell."""


@dataclass(frozen=True)
class Option:
    """One option of the compiler, as the field of a pass declares it.

    Attributes:
        key: keyword argument of ``compile``; the field's name where not given. Fields of several passes with one key
            are one option.
        help: one sentence, for the command line.
        default: value where the user gives none: that of the field, or ``off``; filled in by ``field_options``.
        off: value with which the pass is left out of the pipeline; ``NO_VALUE`` for passes that always run.
        choices: enumeration that the value belongs to.
        minimum, maximum: of a number.
        flag: name on the command line; ``--key`` where not given.
        metavar: name of the value on the command line.
        path: whether the value is a file on the command line.
        shown_default: text in place of the default, where None stands for something that is found out.
        recorded: whether manifest.json has an entry for the default value too.
        entry: name of the entry in manifest.json, with a dot for one within another; the key where not given.
        needs: fact and remedy, for a value given while the pass is left out.
        to_json: what manifest.json holds of a value, where that is not JSON itself.
    """

    key: str = ""
    help: str = ""
    default: Any = None
    off: Any = NO_VALUE
    choices: type[StrEnum] | None = None
    minimum: int | None = None
    maximum: int | None = None
    flag: str = ""
    metavar: str = ""
    path: bool = False
    shown_default: str = ""
    recorded: bool = False
    entry: str = ""
    needs: str = ""
    to_json: Callable[[Any], Any] | None = None

    @property
    def has_off(self) -> bool:
        """Whether a value of it leaves the pass out."""
        return not isinstance(self.off, NoValue)

    def checked(self, value: Any) -> Any:
        """The value, as member of its enumeration where it has one.

        Raises:
            CompileError: a value that the option does not take; says which it takes.
        """
        if self.choices is not None:
            try:
                return self.choices(value)
            except ValueError:
                *others, last = self.choices
                listed = f"{', '.join(others)} or {last}"
                raise CompileError(f"{self.key} '{value}' is unknown; choose {listed}") from None
        low, high = self.minimum, self.maximum
        if value is None or low is None:
            return value
        if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
            span = f"of at least {low}" if high is None else f"from {low} to {high}"
            raise CompileError(f"{self.key} is {value}; give a whole number {span}")
        return value

    def as_json(self) -> dict[str, Any]:
        """What the command line needs to know of it."""
        found: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("key", "help", "default", "minimum", "maximum", "flag", "metavar", "path", "needs")
        }
        found["shown_default"] = self.shown_default
        found["flag_only"] = self.default is False
        found["choices"] = None if self.choices is None else [choice.value for choice in self.choices]
        return found


Seed = Annotated[int, Option(key="seed", help="Seed of all random numbers.", recorded=True)]
"""Field of a pass that draws random numbers."""

Effort = Annotated[
    int,
    Option(
        key="effort",
        help="Effort of the placement: 0 keeps the order of the layers, each step doubles the search.",
        minimum=0,
        maximum=10,
    ),
]
"""Field of a pass that places arrays."""

Chips = Annotated[int | None, Option(key="chips", help="Largest number of chips.", minimum=1, recorded=True)]
"""Field of a pass that needs the number of chips; None: what the target says."""


def field_options(step: type[Any]) -> dict[str, Option]:
    """The options of a class of passes by field name, with their keys, flags and defaults filled in."""
    hints = get_type_hints(step, include_extras=True)
    found = {}
    for each in fields(step):
        for declared in getattr(hints[each.name], "__metadata__", ()):
            if isinstance(declared, Option):
                found[each.name] = _completed(declared, each)
    return found


def _completed(declared: Option, each: Field[Any]) -> Option:
    key = declared.key or each.name
    return replace(
        declared,
        key=key,
        flag=declared.flag or f"--{key.replace('_', '-')}",
        entry=declared.entry or key,
        default=declared.off if declared.has_off else each.default,
    )
