"""Sections of a target: the memristive cell, the array, the encoding and the precision of weights.

Sections are frozen, and an unknown key is an error. SI units are in the field names.
Numbers are strict: ``bits = 8.0`` or ``rate_hz = "1e9"`` is an error, never converted silently.
"""

from __future__ import annotations

import math
from enum import StrEnum
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from mcompiler.effects.curve import Curve
from mcompiler.effects.drift import Drift, Relaxation
from mcompiler.effects.faults import Faults
from mcompiler.effects.noise import Noise
from mcompiler.effects.programming import ProgrammingVariation
from mcompiler.effects.retention import Retention
from mcompiler.effects.telegraph import Telegraph
from mcompiler.effects.temperature import Temperature
from mcompiler.encodings import Partner, Pedestal, encoding_names, is_known
from mcompiler.target.base import (
    Bool,
    Choices,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    registered_name,
)
from mcompiler.target.writing import Write

MEAN_STEPS = 4096
"""Units of ``device.level_means`` in the range from g_min to g_max."""


EncodingName = Annotated[str, BeforeValidator(registered_name(is_known, encoding_names)), Choices(encoding_names)]
"""Name of a weight encoding, shipped or of an installed package (mcompiler.encodings)."""


class Layout(StrEnum):
    """Where the cells of one weight are: in adjacent columns of one array, or in separate arrays."""

    ADJACENT = "adjacent"
    SEPARATE = "separate"


class Device(Section):
    """One memristive cell."""

    g_min_siemens: PositiveFloat = Field(description="conductance of the lowest level")
    g_max_siemens: PositiveFloat = Field(description="conductance of the highest level")
    levels: Annotated[int, Field(ge=2, le=256, strict=True)] = Field(
        description="levels of a cell, equidistant from g_min to g_max unless level_means gives their conductances"
    )
    level_means: tuple[Annotated[int, Field(ge=-MEAN_STEPS, le=4 * MEAN_STEPS, strict=True)], ...] | None = Field(
        default=None,
        description="measured: mean conductance of each level above g_min, in units of (g_max - g_min) / 4096",
    )
    read_voltage_v: PositiveFloat = Field(description="voltage of a driven word line")
    read_pulse_s: PositiveFloat = Field(description="duration of one read of the array, without the converters")
    access_resistance_ohm: NonNegativeFloat = Field(
        default=0.0, description="resistance in series with every cell: the transistor of 1T1R, contacts"
    )
    programming: ProgrammingVariation | None = None
    relaxation: dict[str, Relaxation] = Field(
        default_factory=dict,
        description="replaces programming: measured at several times, interpolated linearly in ln(time)",
    )
    faults: Faults | None = None
    noise: Noise | None = None
    telegraph: Telegraph | None = None
    drift: Drift | None = None
    curve: Curve | None = None
    temperature: Temperature | None = None
    retention: Retention | None = None
    write: Write | None = None

    @property
    def on_off(self) -> float:
        """Ratio of the largest to the smallest conductance."""
        return float(self._ratio)

    @property
    def _ratio(self) -> Fraction:
        # From the decimals as they were written: 75e-6 / 5e-6 in floats is not 15, and ties of converters depend on it.
        return Fraction(repr(self.g_max_siemens)) / Fraction(repr(self.g_min_siemens))

    @property
    def bits(self) -> int:
        """Whole bits that one cell holds."""
        return int(math.log2(self.levels))

    @property
    def pedestal(self) -> float:
        """G_min in units of one level step: (L - 1) / (on/off - 1), rounded once, so that a half is a half."""
        return float((self.levels - 1) / (self._ratio - 1))

    @property
    def step_siemens(self) -> float:
        """Conductance of one level step."""
        return (self.g_max_siemens - self.g_min_siemens) / (self.levels - 1)

    @property
    def mean_siemens(self) -> float:
        """Conductance of one unit of ``level_means``."""
        return (self.g_max_siemens - self.g_min_siemens) / MEAN_STEPS

    @property
    def mean_pedestal(self) -> Fraction:
        """G_min in units of ``level_means``."""
        return MEAN_STEPS / (self._ratio - 1)

    @property
    def formed_steps(self) -> tuple[int, ...]:
        """Conductance of each level, counted from zero conductance, rounded to units of ``level_means``."""
        spacing = Fraction(MEAN_STEPS, self.levels - 1)
        means = [level * spacing for level in range(self.levels)] if self.level_means is None else self.level_means
        return tuple(round(self.mean_pedestal + mean) for mean in means)


class Array(Section):
    """One crossbar array. Unit and reference columns come in addition to ``columns``."""

    rows: PositiveInt = Field(description="word lines")
    columns: PositiveInt = Field(description="bit lines that hold weights")
    rows_active: PositiveInt = Field(
        description="word lines driven at once; a full read takes rows / rows_active steps"
    )
    wire_resistance_ohm: NonNegativeFloat = Field(default=0.0, description="resistance of one cell-to-cell segment")
    bit_wire_resistance_ohm: NonNegativeFloat | None = Field(
        default=None, description="resistance of one segment of a bit line; None: that of a word line"
    )
    driver_resistance_ohm: NonNegativeFloat = Field(
        default=0.0, description="resistance between a word line and its driver"
    )
    sense_resistance_ohm: NonNegativeFloat = Field(
        default=0.0, description="resistance between a bit line and virtual ground"
    )
    drive: Literal["row_voltage", "gate"] = "row_voltage"
    idle_rows: Literal["grounded", "floating"] = "grounded"
    cell_pitch_m: PositiveFloat | None = Field(
        default=None, description="distance from one cell to the next; wires are charged as long as their cells"
    )
    wire_capacitance_f: NonNegativeFloat | None = Field(
        default=None,
        description="capacitance of one cell-to-cell segment of a word line, its cell included; None: that of a wire "
        "of length cell_pitch_m",
    )
    spare_rows: NonNegativeInt = Field(
        default=0, description="word lines in addition to `rows` that can replace others"
    )
    spare_columns: NonNegativeInt = Field(
        default=0, description="bit lines in addition to `columns` that can replace others"
    )

    @property
    def bit_wire_ohm(self) -> float:
        """Resistance of one segment of a bit line."""
        return self.wire_resistance_ohm if self.bit_wire_resistance_ohm is None else self.bit_wire_resistance_ohm


class Encoding(Section):
    """How integer weight codes become cells."""

    weights: EncodingName = Field(description="name of the encoding, which says how a code becomes cells")
    slices: PositiveInt = Field(description="cells (or pairs of cells) that hold one weight")
    slices_in: Layout = Layout.ADJACENT
    pairs_in: Layout = Layout.ADJACENT
    partner: Partner = Field(
        default=Partner.MINIMUM,
        description="differential only: the second cell of a pair is at its lowest level, or unformed (no conductance)",
    )
    subtract: Literal["before_adc", "after_adc"] = Field(
        default="before_adc", description="whether a pair is subtracted before or after conversion"
    )
    pedestal: Pedestal
    flip: Bool = Field(
        default=False,
        description="offset only: columns whose codes sum to more than half of full scale are stored complemented",
    )
    input_sum: Literal["unit_column", "digital"] = Field(
        default="digital",
        description="offset only: whether a unit column or digital logic sums the inputs, to undo shift and flips",
    )


class LayerPrecision(Section):
    """Bits of one layer; a key that is not given has the value of [precision]."""

    weights: Annotated[int, Field(ge=2, le=16, strict=True)] | None = None
    inputs: Annotated[int, Field(ge=1, le=16, strict=True)] | None = None


class Precision(Section):
    """Bits of weights (sign included) and of inputs, for models that are not quantised yet."""

    weights: Annotated[int, Field(ge=2, le=16, strict=True)]
    inputs: Annotated[int, Field(ge=1, le=16, strict=True)]
    layers: dict[str, LayerPrecision] = Field(default_factory=dict)
