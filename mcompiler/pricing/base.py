"""What a price follows: quantities of a chip, figures of a component, and rules from the ones to the others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import StrEnum
from typing import ClassVar


class Quantity(StrEnum):
    """A quantity of a chip that prices follow; the targets' keys that decide it: ``mcompiler.target.quantities``."""

    ROWS = "rows"
    """Word lines of an array, spare ones included."""
    COLUMNS = "columns"
    """Bit lines of an array: of weights, unit and reference columns, spare ones."""
    READ_ROWS = "read_rows"
    """Word lines driven in one read."""
    ADC_BITS = "adc_bits"
    ADC_RATE_HZ = "adc_rate_hz"
    """Conversions per second of one ADC."""
    DAC_BITS = "dac_bits"
    INPUT_POWER = "input_power"
    """Mean square of an input digit relative to full drive, digits equally likely: (2 x 2^d - 1) / (6 (2^d - 1))."""
    READ_VOLTAGE_V = "read_voltage_v"
    READ_PULSE_S = "read_pulse_s"
    CELL_SIEMENS = "cell_siemens"
    """Mean conductance of a cell: of the mapped levels of a layer; without a network, of levels equally likely."""
    WORD_SEGMENT_F = "word_segment_f"
    """Capacitance of a word line from one cell to the next."""
    INPUT_BITS = "input_bits"
    """Bits of an activation."""
    ACCUMULATOR_BITS = "accumulator_bits"
    BUFFER_BYTES = "buffer_bytes"
    """Activation memory of a tile."""
    BUFFER_WIDTH_BITS = "buffer_width_bits"
    """Bits that the activation memory of a tile transfers per clock."""
    INPUT_REGISTER_BYTES = "input_register_bytes"
    """Inputs of all word lines of a core."""
    OUTPUT_REGISTER_BYTES = "output_register_bytes"
    """Results of all columns of weights of a core."""
    LINK_BITS = "link_bits"
    """Width of a link between tiles."""
    LINK_M = "link_m"
    """Length of a link between tiles: the side of a square of a tile's area."""
    LINK_CLOCK_HZ = "link_clock_hz"
    CHIP_LINK_BYTES_PER_S = "chip_link_bytes_per_s"
    CLOCK_HZ = "clock_hz"
    """Clock of the digital units."""
    OPERATION_BITS = "operation_bits"
    """Width of the operands of a digital operation."""


class Figure(StrEnum):
    """A figure of a component that has a price."""

    ENERGY_J = "energy_j"
    STATIC_POWER_W = "static_power_w"
    AREA_M2 = "area_m2"


Quantities = Mapping[Quantity, float]
"""Values of quantities in SI units; one that a chip does not have (no limit to its buffers) is absent."""


class PriceRule(ABC):
    """How the figures of a component follow the quantities of its chip: one rule a file, chosen by name.

    A figure of a target holds at its reference point; elsewhere it is ``figure x value(now) / value(reference)``. A
    figure in ``computes`` needs no number in the target: it is ``value(now)`` in SI units, and a number given there is
    a check only. A rule has no state; its numbers are facts with a source.
    """

    name: ClassVar[str]
    """As targets name it (``components.NAME.rule``)."""

    summary: ClassVar[str]
    """One sentence: how the figures follow the quantities."""

    source: ClassVar[str]
    """Citation of the formula and its numbers."""

    follows: ClassVar[Mapping[Figure, tuple[Quantity, ...]]]
    """The quantities that each figure follows; a figure that is missing follows none."""

    computes: ClassVar[frozenset[Figure]] = frozenset()
    """Figures that ``value`` gives in SI units, without a number of the target."""

    covers_all: ClassVar[bool] = False
    """Whether naming the rule states that the figures depend on nothing that it does not follow."""

    _quantities: ClassVar[tuple[Quantity, ...]] = ()

    def __init_subclass__(cls) -> None:
        """List the quantities once: prices ask for them again and again."""
        super().__init_subclass__()
        used = {quantity for each in getattr(cls, "follows", {}).values() for quantity in each}
        cls._quantities = tuple(quantity for quantity in Quantity if quantity in used)

    @abstractmethod
    def value(self, figure: Figure, at: Quantities) -> float:
        """The size of a figure at a point: in SI units where the rule computes it, else up to a constant factor.

        Args:
            figure: one of ``follows``.
            at: has every quantity of ``follows[figure]``.
        """

    def outside(self, at: Quantities) -> str:
        """Why the point is outside the range for which the rule's source gives numbers; empty if it is inside."""
        return ""

    def quantities(self) -> tuple[Quantity, ...]:
        """All quantities that its figures follow, in the order of the enumeration."""
        return self._quantities
