"""The interface of an effect: one difference between a real chip and an ideal one, which can be switched on alone.

A chip takes its arrays through these stages, and in each stage through its effects by ascending ``Effect.order``:

1. ``write_cells``: conductances right after programming, drawn once per chip.
2. ``change_cells``: conductances at the time of evaluation, drawn once per chip (or per chip and time).
3. ``fluctuation`` and ``two_states``: conductances that change between reads or between inferences.
4. ``apply_faults``: cells and lines that do not work; a cell that a fault changes does not fluctuate.
5. ``change_circuit``: resistances in series with cells, along lines, and the current-voltage curve of a cell.
6. ``converter_errors`` and ``conversion_noise_codes``: errors of input and output converters.

Conductances are siemens. A cell of conductance 0 was never formed, or is cut off: it stays at 0, without error, drift
or noise; only a short circuit (stuck on) makes it conduct. No conductance is ever below 0.

Every effect of every array has its own random generator (``ArrayOnChip.rng``), and the number of values drawn depends
on neither time nor size of the effect: one chip can be followed in time, and effects can be compared on it. Noise that
is drawn anew at another time has a generator for every time (``ArrayOnChip.rng_at_time``).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias

from pydantic import Field

from mcompiler.effects.lazy_numpy import np
from mcompiler.encodings.settings import Violations as Violations
from mcompiler.target.base import Float

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from mcompiler.effects.circuit import Circuit
    from mcompiler.target.base import Section
    from mcompiler.target.schema import Target

Siemens: TypeAlias = "npt.NDArray[np.float64]"
Values: TypeAlias = "npt.NDArray[np.float64]"
DeviceLevels: TypeAlias = "npt.NDArray[np.integer[Any]]"
CellMask: TypeAlias = "npt.NDArray[np.bool_]"

Polynomial = Annotated[tuple[Float, ...], Field(min_length=1)]
"""Coefficients in siemens of powers of g / g_max, highest power first; where the value is below 0 it is 0."""


class Correlation(StrEnum):
    """For how long one draw of a noise lasts.

    ``static_at_t``: until the chip is evaluated at another time (accumulated 1/f noise); draws of two times are
    independent. ``per_inference``: for all reads of one inference. ``per_read``: every read draws anew.
    """

    STATIC_AT_T = "static_at_t"
    PER_INFERENCE = "per_inference"
    PER_READ = "per_read"


@dataclass(frozen=True)
class ArrayOnChip:
    """One array of one chip, as an effect sees it.

    Attributes:
        target: description of the chip.
        levels: integers [rows, columns]: the device level of each cell, unit and reference columns included; 0 also
            where a cell is not formed.
        wanted: [rows, columns], siemens: what cells are to be written to.
        written: [rows, columns], siemens: after the first stage, ``write_cells``; before it, as ``wanted``.
        time_s: seconds since programming.
        age_s: seconds for which cells have changed since programming, ``time_s``; None where no effect that ages cells
            is on, so that they are as they were first read.
        seed: numbers of chip, layer and array, from which generators are seeded.
        stuck: int [stuck, 3], where the stuck cells of the chip are known: word line, bit line, 1 on or 0 off; None
            where they are to be drawn.
    """

    target: Target
    levels: DeviceLevels
    wanted: Siemens
    written: Siemens
    time_s: float
    age_s: float | None
    seed: tuple[int, int, int]
    stuck: npt.NDArray[np.integer[Any]] | None = None

    def rng(self, effect: Effect, part: int = 0) -> np.random.Generator:
        """The generator of an effect on this array; ``part`` tells independent draws of one effect apart."""
        return np.random.Generator(np.random.SFC64([*self.seed, effect.stream_number, part]))

    def rng_at_time(self, effect: Effect, part: int = 0) -> np.random.Generator:
        """As ``rng``, for what is drawn anew where the chip is evaluated at another time."""
        time = int(np.float64(self.time_s).view(np.uint64))
        return np.random.Generator(np.random.SFC64([*self.seed, effect.stream_number, part, time]))


@dataclass(frozen=True)
class Fluctuation:
    """Conductances that change while a chip runs, as normals.

    Attributes:
        mean: [rows, columns], siemens.
        variance: [rows, columns], siemens^2.
        correlation: between reads or between inferences.
    """

    mean: Siemens
    variance: Values
    correlation: Correlation


@dataclass(frozen=True)
class TwoStates:
    """Conductances that change between two values while a chip runs.

    Attributes:
        loss: [rows, columns], siemens: what a cell conducts less in its lower state; 0 where it has one state only.
        low: probability of the lower state.
        correlation: between reads or between inferences.
    """

    loss: Siemens
    low: float
    correlation: Correlation


@dataclass(frozen=True)
class ConverterErrors:
    """Errors of the converters of one array.

    Attributes:
        input_gain: [rows] gain of the input converter of each word line over the nominal one.
        gain: [columns] gain of each bit line's converter over the nominal one.
        offset_codes: [columns] codes that it adds before it rounds.
        bow_codes: [columns] largest deviation of its characteristic from a line, codes.
    """

    input_gain: Values
    gain: Values
    offset_codes: Values
    bow_codes: Values


class Effect:
    """One effect. A subclass is a frozen dataclass without fields, and overrides the stages that it acts in.

    Attributes:
        name: as ``--effects`` takes it and reports print it.
        order: place among the effects, in the order of a cell's life; the shipped ones stand at 10, 20, ... 100
            (``mcompiler.effects.SHIPPED``).
        stream: number of its random streams; None: derived from the name. It must never change: all draws change with
            it.
        section: model of the table ``[effects.NAME]`` of a target; None where the effect is described elsewhere.
        described_elsewhere: text of where a target describes an effect without such a table.
        rules: checks between sections. Each takes sections by the names of its parameters (``device``, ``array``, ...;
            ``[effects.NAME]`` by its name) and yields (key path, message).
        ages_cells: whether cells change with time while it is on.
        in_fault_map: whether a fault map of a chip describes the effect too.
    """

    name: ClassVar[str]
    order: ClassVar[int]
    stream: ClassVar[int | None] = None
    section: ClassVar[type[Section] | None] = None
    described_elsewhere: ClassVar[str] = ""
    rules: ClassVar[tuple[Callable[..., Violations], ...]] = ()
    ages_cells: ClassVar[bool] = False
    in_fault_map: ClassVar[bool] = False

    @property
    def stream_number(self) -> int:
        """Number that tells its random generators from those of other effects."""
        # Numbers of shipped effects are small; 2^32 and more keeps derived ones apart from them.
        return (1 << 32) + zlib.crc32(self.name.encode()) if self.stream is None else self.stream

    @property
    def described_by(self) -> str:
        """Where a target describes it, for messages."""
        return self.described_elsewhere or f"[effects.{self.name}]"

    def is_described(self, target: Target) -> bool:
        """Whether a target describes it."""
        return self.name in target.effects

    def correlation(self, target: Target) -> Correlation | None:
        """For how long one draw lasts; None where it is not described or lasts as long as the chip.

        ``per_read`` makes conversions of one cell and input differ; with ``per_inference`` a batch holds one sample.
        """
        return None

    def start_s(self, target: Target) -> float | None:
        """When its description starts to hold, seconds since programming; None: from the beginning."""
        return None

    def measurement_times(self, target: Target, time_s: float) -> tuple[float, float] | None:
        """Times of the first and the last measurement of an array's total current before ``time_s``.

        The chip scales its codes by the ratio of the two currents. None where it does not measure.
        """
        return None

    def write_cells(self, G: Siemens, array: ArrayOnChip) -> Siemens:
        """Conductances [rows, columns] right after programming, from those without the effect."""
        return G

    def change_cells(self, G: Siemens, array: ArrayOnChip) -> Siemens:
        """Conductances [rows, columns] after the effect, from those before."""
        return G

    def fluctuation(self, G: Siemens, array: ArrayOnChip) -> Fluctuation | None:
        """Mean and variance of cells of conductance G [rows, columns]; None where they do not fluctuate."""
        return None

    def two_states(self, G: Siemens, array: ArrayOnChip) -> TwoStates | None:
        """The lower states of cells that conduct G [rows, columns] in the higher one; None: there are none."""
        return None

    def apply_faults(self, G: Siemens, array: ArrayOnChip) -> Siemens:
        """Conductances [rows, columns] with the cells and lines that do not work."""
        return G

    def change_circuit(self, circuit: Circuit, target: Target) -> Circuit:
        """The circuit of an array with the effect, from that without."""
        return circuit

    def converter_errors(self, array: ArrayOnChip) -> ConverterErrors | None:
        """Errors of the converters; None where there are none."""
        return None

    def conversion_noise_codes(self, target: Target) -> float:
        """Standard deviation of every conversion, codes."""
        return 0.0


def formed(reference: Siemens, values: Siemens) -> Siemens:
    """Values at least 0, and 0 where the reference does not conduct."""
    return np.where(reference > 0, np.maximum(values, 0.0), 0.0)


def polynomial_deviation(polynomial_siemens: Sequence[float], share: Values) -> Siemens:
    """A polynomial of g / g_max, highest power first, at least 0; siemens."""
    return np.maximum(np.polyval(np.asarray(polynomial_siemens), share), 0.0)
