"""The sections of a target description: frozen, strict, every unknown key an error. SI units are in the field names.

Numbers are strict: ``bits = 8.0`` or ``rate_hz = "1e9"`` is an error, never converted in silence.
"""

from __future__ import annotations

import math
from enum import StrEnum
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import Field, model_validator

from mcompiler.target.base import Bool, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Section
from mcompiler.target.imperfections import (
    Curve,
    Drift,
    Faults,
    Noise,
    ProgrammingError,
    Relaxation,
    Telegraph,
    Temperature,
    Write,
)

MEAN_STEPS = 4096
"""Units of ``device.level_means`` in the range from g_min to g_max."""


class WeightEncoding(StrEnum):
    """How a signed weight becomes conductances (docs/arithmetic.md)."""

    DIFFERENTIAL = "differential"
    OFFSET = "offset"
    POLARISED = "polarised"


class Partner(StrEnum):
    """The other cell of a pair: at its lowest level (``minimum``), or never formed, so that it does not conduct."""

    MINIMUM = "minimum"
    UNFORMED = "unformed"


class Layout(StrEnum):
    """Where the cells of one weight stand: in adjacent columns of one array, or in separate arrays."""

    ADJACENT = "adjacent"
    SEPARATE = "separate"


class Pedestal(StrEnum):
    """Where the current of the G_min of every active row goes.

    ``pair``: the other cell of a differential pair, analog, before the ADC. ``reference_column``: a column of G_min
    cells, subtracted before the ADC. ``digitised_reference``: that column has its own conversion, subtracted after it.
    ``digital_count``: the digital number of active rows times the pedestal is subtracted after the ADC.
    """

    PAIR = "pair"
    REFERENCE_COLUMN = "reference_column"
    DIGITISED_REFERENCE = "digitised_reference"
    DIGITAL_COUNT = "digital_count"


class Rounding(StrEnum):
    """How an ADC rounds at half a step."""

    HALF_EVEN = "half_even"
    HALF_UP = "half_up"


class AdcRange(StrEnum):
    """``full``: holds the extreme sum of any array. ``calibrated``: fitted to calibration data and frozen."""

    FULL = "full"
    CALIBRATED = "calibrated"


class RangePer(StrEnum):
    """What has a calibrated range of its own, in binary steps of the layer's."""

    LAYER = "layer"
    ARRAY = "array"
    COLUMN = "column"


class Device(Section):
    """One memristive cell."""

    g_min_siemens: PositiveFloat = Field(description="conductance of the lowest level")
    g_max_siemens: PositiveFloat = Field(description="conductance of the highest level")
    levels: Annotated[int, Field(ge=2, le=256, strict=True)] = Field(
        description="levels of a cell, equidistant from g_min to g_max unless level_means says where they are"
    )
    level_means: tuple[Annotated[int, Field(ge=-MEAN_STEPS, le=4 * MEAN_STEPS, strict=True)], ...] | None = Field(
        default=None,
        description="measured: mean conductance of each level above g_min, in units of (g_max - g_min) / 4096",
    )
    read_voltage_v: PositiveFloat = Field(description="on a driven word line")
    read_pulse_s: PositiveFloat = Field(description="how long one read of the array takes, converters not included")
    access_resistance_ohm: NonNegativeFloat = Field(
        default=0.0, description="in series with every cell: the transistor of 1T1R, contacts"
    )
    programming: ProgrammingError | None = None
    relaxation: dict[str, Relaxation] = Field(
        default_factory=dict,
        description="in place of programming: measured at several times; linear in ln(time) between them",
    )
    faults: Faults | None = None
    noise: Noise | None = None
    telegraph: Telegraph | None = None
    drift: Drift | None = None
    curve: Curve | None = None
    temperature: Temperature | None = None
    write: Write | None = None

    @property
    def on_off(self) -> float:
        """Ratio of the largest to the smallest conductance."""
        return float(self._ratio)

    @property
    def _ratio(self) -> Fraction:
        # Of the decimals as they were written: 75e-6 / 5e-6 in floats is not 15, and ties of converters hang on that.
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
        """Conductance of each level, zero conductance being 0, rounded to units of ``level_means``."""
        spacing = Fraction(MEAN_STEPS, self.levels - 1)
        means = [level * spacing for level in range(self.levels)] if self.level_means is None else self.level_means
        return tuple(round(self.mean_pedestal + mean) for mean in means)


class Array(Section):
    """One crossbar array. Unit and reference columns stand beside ``columns``."""

    rows: PositiveInt = Field(description="word lines")
    columns: PositiveInt = Field(description="bit lines that hold weights")
    rows_active: PositiveInt = Field(
        description="word lines driven at once; a full read takes rows / rows_active steps"
    )
    wire_resistance_ohm: NonNegativeFloat = Field(default=0.0, description="per cell-to-cell segment")
    bit_wire_resistance_ohm: NonNegativeFloat | None = Field(
        default=None, description="per segment of a bit line, where it differs from a word line's"
    )
    driver_resistance_ohm: NonNegativeFloat = Field(default=0.0, description="between a word line and its driver")
    sense_resistance_ohm: NonNegativeFloat = Field(default=0.0, description="between a bit line and virtual ground")
    drive: Literal["row_voltage", "gate"] = "row_voltage"
    idle_rows: Literal["grounded", "floating"] = "grounded"
    wire_capacitance_f: NonNegativeFloat = Field(
        default=0.0, description="of one cell-to-cell segment of a word line, its cell included"
    )
    spare_rows: NonNegativeInt = Field(default=0, description="word lines beside `rows` that can stand in for others")
    spare_columns: NonNegativeInt = Field(
        default=0, description="bit lines beside `columns` that can stand in for others"
    )

    @property
    def bit_wire_ohm(self) -> float:
        """Resistance of one segment of a bit line."""
        return self.wire_resistance_ohm if self.bit_wire_resistance_ohm is None else self.bit_wire_resistance_ohm


class Encoding(Section):
    """How integer weight codes become cells."""

    weights: WeightEncoding
    slices: PositiveInt = Field(description="cells (or pairs of cells) that hold one weight")
    slices_in: Layout = Layout.ADJACENT
    pairs_in: Layout = Layout.ADJACENT
    partner: Partner = Field(
        default=Partner.MINIMUM,
        description="differential only: the other cell of a pair is at its lowest level, or unformed: no conductance",
    )
    subtract: Literal["before_adc", "after_adc"] = Field(default="before_adc", description="where a pair is subtracted")
    pedestal: Pedestal
    flip: Bool = Field(default=False, description="offset only: store columns past half of full scale complemented")
    input_sum: Literal["unit_column", "digital"] = Field(
        default="digital", description="offset only: who sums the inputs, to undo shift and flips"
    )


class LayerPrecision(Section):
    """Bits of one layer, where they differ."""

    weights: Annotated[int, Field(ge=2, le=16, strict=True)] | None = None
    inputs: Annotated[int, Field(ge=1, le=16, strict=True)] | None = None


class Precision(Section):
    """Bits of weights (sign included) and of inputs, for models that do not bring their own."""

    weights: Annotated[int, Field(ge=2, le=16, strict=True)]
    inputs: Annotated[int, Field(ge=1, le=16, strict=True)]
    layers: dict[str, LayerPrecision] = Field(default_factory=dict)


class Dac(Section):
    """Input converter: one per word line."""

    bits: Annotated[int, Field(ge=1, le=8, strict=True)] = Field(description="bits of an input applied at once")
    gain_error: NonNegativeFloat = Field(default=0.0, description="deviation of the gain over word lines, about 1")


class Adc(Section):
    """Output converter. Codes 0 .. 2^bits - 1, or two's complement where a pair is subtracted before it."""

    bits: Annotated[int, Field(ge=1, le=24, strict=True)]
    rate_hz: PositiveFloat = Field(description="conversions per second of one ADC")
    columns: PositiveInt = Field(
        description="bit lines that share one ADC; both lines of a pair count, also where one conversion serves them"
    )
    range: AdcRange = AdcRange.FULL
    range_per: RangePer = Field(
        default=RangePer.LAYER,
        description="what has a calibrated range of its own; arrays and columns in binary steps of their layer's",
    )
    rounding: Rounding = Rounding.HALF_EVEN
    offset_codes: NonNegativeFloat = Field(default=0.0, description="deviation of the offset over ADCs")
    gain_error: NonNegativeFloat = Field(default=0.0, description="deviation of the gain over ADCs, about 1")
    nonlinearity_codes: NonNegativeFloat = Field(
        default=0.0, description="deviation over ADCs of the largest departure from a line, a cubic bow"
    )
    noise_codes: NonNegativeFloat = Field(default=0.0, description="deviation of every conversion")


class Converters(Section):
    """Both converters of an array."""

    dac: Dac
    adc: Adc


class Calibration(Section):
    """What a chip does about its own errors, again and again while it runs."""

    drift_interval_s: PositiveFloat | None = Field(
        default=None, description="time between two measurements of every array's total current; None: never"
    )
    correction: Literal["none", "adc", "column"] = Field(
        default="none", description="digital gain and offset on the codes of each ADC, or of each converted column"
    )
    vectors: Annotated[int, Field(ge=2, le=4096, strict=True)] = Field(
        default=64, description="known input vectors that a correction is fitted on"
    )
    predistort: Bool = Field(
        default=False,
        description="cells are written so that arrays hold the weights with their wires, not without; codes are scaled",
    )


class Skip(StrEnum):
    """Which reads are left out because they would add nothing; each kind includes those before it."""

    NONE = "none"
    PHASES = "phases"
    FRAGMENTS = "fragments"
    ROWS = "rows"


class Digital(Section):
    """Digital units beside the arrays."""

    clock_hz: PositiveFloat
    accumulator_bits: Annotated[int, Field(ge=8, le=64, strict=True)] = Field(description="sign included")
    operations_per_cycle: PositiveInt = Field(description="element-wise operations of a tile's digital unit per clock")
    buffer_bytes: PositiveInt | None = Field(
        default=None, description="activation memory of one tile; None: as much as is needed"
    )
    buffer_bytes_per_s: PositiveFloat | None = Field(
        default=None, description="what a tile's activation memory reads and writes together; None: never the limit"
    )
    node_nm: Annotated[float, Field(ge=7, le=180)] | None = Field(
        default=None, description="technology node that components with `scales_node` are scaled to; None: their own"
    )
    skip: Skip = Field(
        default=Skip.NONE,
        description="reads of an array that are left out: phases in which no row is driven, fragments of rows, and "
        "drives of rows at zero",
    )
    fifo_bytes: PositiveInt | None = Field(
        default=None, description="the most that may wait between two stages; None: what the tiles' memory allows"
    )
    fill_reads: NonNegativeInt = Field(
        default=0,
        description="stages of a read's pipeline beside the reads themselves (fetching inputs, converting, shifting "
        "and adding, writing back), each as long as a read",
    )


class Hierarchy(Section):
    """Arrays in cores, cores in tiles, tiles on a chip; what the target calls them."""

    arrays_per_core: PositiveInt
    cores_per_tile: PositiveInt
    tiles_per_chip: PositiveInt
    spare_arrays_per_core: NonNegativeInt = Field(
        default=0, description="arrays beside `arrays_per_core` that can stand in for others"
    )
    chips: PositiveInt | Literal["as needed"] = Field(description="chips that there are, or 'as needed'")
    core_name: str = "core"
    tile_name: str = "tile"

    @property
    def positions_per_core(self) -> int:
        """Array positions of a core, spares included; they are counted last."""
        return self.arrays_per_core + self.spare_arrays_per_core

    @property
    def arrays_per_chip(self) -> int:
        """Array positions on one chip."""
        return self.arrays_per_core * self.cores_per_tile * self.tiles_per_chip


class Network(Section):
    """What connects the tiles of a chip, and the chips."""

    topology: Literal["mesh", "htree", "bus"]
    link_bits: PositiveInt = Field(description="width of one link between tiles")
    clock_hz: PositiveFloat = Field(description="of the links between tiles")
    chip_link_bytes_per_s: PositiveFloat = Field(description="of all links of one chip to others together")
    hop_cycles: NonNegativeInt = Field(default=0, description="clocks that a router holds what passes through it")
    chip_link_latency_s: NonNegativeFloat = Field(default=0.0, description="from one chip to another")


class Event(StrEnum):
    """What the schedule counts and a component prices."""

    ARRAY_READ = "array_read"  # one array, one phase, one row group
    CELL_READ = "cell_read"  # one cell of an active row in one of those reads
    DAC_DRIVE = "dac_drive"  # one word line, one phase
    ADC_CONVERSION = "adc_conversion"
    SAMPLE_HOLD = "sample_hold"  # one bit line held for its ADC
    SHIFT_ADD = "shift_add"  # one code shifted and added, or one partial sum added
    BUFFER_READ_BYTE = "buffer_read_byte"
    BUFFER_WRITE_BYTE = "buffer_write_byte"
    LINK_BYTE = "link_byte"  # one byte, one hop between tiles
    CHIP_LINK_BYTE = "chip_link_byte"
    DIGITAL_OP = "digital_op"  # one element of one operation that stays digital


class Place(StrEnum):
    """Which unit of the hierarchy owns a component."""

    ARRAY = "array"
    CORE = "core"
    TILE = "tile"
    CHIP = "chip"


class ScalesWith(StrEnum):
    """What a component's figures follow, from a reference (mcompiler/target/scaling.py has rules and sources)."""

    ADC_BITS = "adc_bits"
    DAC_BITS = "dac_bits"
    CELLS = "cells"
    ROWS = "rows"
    COLUMNS = "columns"
    BUFFER_BYTES = "buffer_bytes"


class Component(Section):
    """A line of the target's cost table: what one instance costs, how many there are, which event it serves.

    Exactly as much as is known is given: dynamic energy per event, static power, area per instance.
    """

    per: Place
    count: PositiveFloat = Field(default=1, description="instances in each such unit (1/4 for one shared by four)")
    event: Event | None = None
    energy_j: NonNegativeFloat = Field(default=0.0, description="dynamic energy of one event")
    code_share: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0,
        description="part of the energy of a conversion that grows with its code, from none at 0 to all at full scale",
    )
    static_power_w: NonNegativeFloat = Field(default=0.0, description="of one instance")
    area_m2: NonNegativeFloat = Field(default=0.0, description="of one instance")
    latency_s: NonNegativeFloat = Field(default=0.0, description="of one event")
    gated: Bool = Field(
        default=False, description="switched off while the arrays of its layer are idle; its static power with it"
    )
    node_nm: PositiveFloat | None = Field(default=None, description="technology node of the figures")
    scales_node: Bool = Field(
        default=False, description="digital logic or memory: its figures follow `digital.node_nm` from `node_nm`"
    )
    scaling: str = Field(default="none", description="rule by which the figures were scaled, if they were")
    scales_with: ScalesWith | None = Field(
        default=None, description="what the figures follow when it is changed; they hold at `reference`"
    )
    reference: PositiveFloat | None = Field(default=None, description="bits, cells, lines or bytes of the figures")

    @model_validator(mode="after")
    def _event_has_energy(self) -> Component:
        if self.energy_j > 0 and self.event is None:
            raise ValueError("energy_j is per event, and no event is named")
        if self.code_share > 0 and self.event is not Event.ADC_CONVERSION:
            raise ValueError("code_share is of the code of a conversion; it needs event = 'adc_conversion'")
        if (self.scales_with is None) != (self.reference is None):
            raise ValueError("scales_with says what the figures follow, reference where they hold; give both")
        if self.scales_node and self.node_nm is None:
            raise ValueError("scales_node follows the technology node from node_nm on; give that too")
        if self.scales_node and not 7 <= (self.node_nm or 0) <= 180:
            raise ValueError("scales_node knows nodes from 7 to 180 nm; give such a node_nm, or set it false")
        return self
