"""Sections of a target: components and the events that they are priced by."""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from mcompiler.pricing import Figure, PriceRule, Quantity, find_rule, is_known, rule_names
from mcompiler.target.base import Bool, Choices, NonNegativeFloat, PositiveFloat, Section, registered_name


class Event(StrEnum):
    """An event that the schedule counts and that a component gives a price."""

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


class HierarchyUnit(StrEnum):
    """The unit of the hierarchy that a component belongs to."""

    ARRAY = "array"
    CORE = "core"
    TILE = "tile"
    CHIP = "chip"


class Each(StrEnum):
    """Of what a component has one instance each; how many there are follows from the target (``target.counts``)."""

    UNIT = "unit"  # of the unit of the hierarchy that `per` names
    ARRAY = "array"
    CELL = "cell"
    WORD_LINE = "word_line"
    BIT_LINE = "bit_line"
    ADC = "adc"
    LANE = "lane"  # one operation per cycle of a tile's digital unit


DEFAULT_EACH = {
    Event.ARRAY_READ: Each.ARRAY,
    Event.CELL_READ: Each.CELL,
    Event.DAC_DRIVE: Each.WORD_LINE,
    Event.SAMPLE_HOLD: Each.BIT_LINE,
    Event.ADC_CONVERSION: Each.ADC,
    Event.DIGITAL_OP: Each.LANE,
}
"""``each`` of a component that does not state it, by its event; ``unit`` for other events."""

DEFAULT_RULES = {
    Event.ARRAY_READ: "fixed",
    Event.CELL_READ: "cell",
    Event.DAC_DRIVE: "dac",
    Event.ADC_CONVERSION: "adc_survey",
    Event.SAMPLE_HOLD: "sample_hold",
    Event.SHIFT_ADD: "adder",
    Event.BUFFER_READ_BYTE: "sram",
    Event.BUFFER_WRITE_BYTE: "sram",
    Event.LINK_BYTE: "router",
    Event.CHIP_LINK_BYTE: "chip_link",
    Event.DIGITAL_OP: "digital_operation",
}
"""Rule of a component that does not name one, by its event; ``constant`` without an event."""

_READ = (Quantity.READ_VOLTAGE_V, Quantity.CELL_SIEMENS, Quantity.READ_PULSE_S, Quantity.INPUT_POWER)

DEPENDS: dict[Event, tuple[Quantity, ...]] = {
    Event.ARRAY_READ: (*_READ, Quantity.READ_ROWS, Quantity.COLUMNS, Quantity.DAC_BITS, Quantity.ADC_BITS),
    Event.CELL_READ: _READ,
    Event.DAC_DRIVE: (Quantity.DAC_BITS,),
    Event.ADC_CONVERSION: (Quantity.ADC_BITS, Quantity.ADC_RATE_HZ),
    Event.SAMPLE_HOLD: (Quantity.ADC_BITS,),
    Event.SHIFT_ADD: (Quantity.ACCUMULATOR_BITS,),
    Event.BUFFER_READ_BYTE: (Quantity.BUFFER_BYTES, Quantity.BUFFER_WIDTH_BITS),
    Event.BUFFER_WRITE_BYTE: (Quantity.BUFFER_BYTES, Quantity.BUFFER_WIDTH_BITS),
    Event.LINK_BYTE: (Quantity.LINK_BITS,),
    Event.CHIP_LINK_BYTE: (Quantity.CHIP_LINK_BYTES_PER_S,),
    Event.DIGITAL_OP: (Quantity.OPERATION_BITS,),
}
"""Quantities that the price of an event depends on, whether the component's rule follows them or not."""


RuleName = Annotated[str, BeforeValidator(registered_name(is_known, rule_names)), Choices(rule_names)]
"""Name of a price rule, shipped or of an installed package (mcompiler.pricing)."""


@lru_cache
def _dependence(rule: PriceRule, event: Event | None) -> tuple[Quantity, ...]:
    physical = () if event is None or rule.covers_all else DEPENDS[event]
    used = {*rule.quantities(), *physical}
    return tuple(quantity for quantity in Quantity if quantity in used)


class Component(Section):
    """A line of the target's cost table: price of one instance, number of instances, event that it serves.

    A figure that is not known is left out: dynamic energy per event, static power and area per instance.
    """

    per: HierarchyUnit
    each: Each | None = Field(
        default=None,
        description="one instance for each of these in a unit of `per`; not given: as the event says (docs/targets.md)",
    )
    shared_by: PositiveFloat = Field(default=1, description="number of these that share one instance")
    count: PositiveFloat | None = Field(
        default=None,
        description="instances in each unit of `per`; where they can be derived, leave it out: a number given is at "
        "least the derived one",
    )
    event: Event | None = None
    energy_j: NonNegativeFloat = Field(default=0.0, description="dynamic energy of one event")
    code_share: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0,
        description="share of the energy of a conversion that is proportional to its code",
    )
    static_power_w: NonNegativeFloat = Field(default=0.0, description="static power of one instance")
    area_m2: NonNegativeFloat = Field(default=0.0, description="area of one instance")
    latency_s: NonNegativeFloat = Field(default=0.0, description="duration of one event")
    gated: Bool = Field(
        default=False, description="switched off while the arrays of its layer are idle: no static power then"
    )
    node_nm: PositiveFloat | None = Field(default=None, description="technology node of the figures")
    scales_node: Bool = Field(
        default=False, description="digital logic or memory: its figures scale from `node_nm` to `digital.node_nm`"
    )
    scaling: str = Field(
        default="none", description="rule by which the figures of the source were scaled, where they were"
    )
    rule: RuleName | None = Field(
        default=None, description="how the figures follow the target; not given: as the event says (docs/targets.md)"
    )
    reference: dict[Quantity, PositiveFloat] = Field(
        default_factory=dict,
        description="point at which the figures hold; a quantity that is not named: as the file describes the chip "
        "that gives the figure",
    )
    references: dict[Figure, dict[Quantity, PositiveFloat]] = Field(
        default_factory=dict, description="points of single figures, where they differ from `reference`"
    )

    @property
    def price_rule(self) -> PriceRule:
        """The rule by which the figures follow the target."""
        default = "constant" if self.event is None else DEFAULT_RULES[self.event]
        return find_rule(self.rule or default)

    @property
    def counted(self) -> Each:
        """Of what it has one instance each."""
        if self.each is not None:
            return self.each
        return Each.UNIT if self.event is None else DEFAULT_EACH.get(self.event, Each.UNIT)

    @property
    def depends_on(self) -> tuple[Quantity, ...]:
        """Quantities that its price depends on, those that its rule does not follow included."""
        return _dependence(self.price_rule, self.event)

    def reference_of(self, figure: Figure) -> dict[Quantity, float]:
        """The point at which a figure holds."""
        return {**self.reference, **self.references.get(figure, {})}

    @model_validator(mode="after")
    def _event_has_energy(self) -> Component:
        if self.energy_j > 0 and self.event is None:
            raise ValueError("energy_j is the energy of an event, and no event is named; give event")
        if self.code_share > 0 and self.event is not Event.ADC_CONVERSION:
            raise ValueError("code_share is of the code of a conversion; it needs event = 'adc_conversion'")
        if self.scales_node and self.node_nm is None:
            raise ValueError("scales_node follows the technology node from node_nm on; give that too")
        if self.scales_node and not 7 <= (self.node_nm or 0) <= 180:
            raise ValueError("scales_node supports nodes from 7 to 180 nm; give such a node_nm, or set it false")
        return self
