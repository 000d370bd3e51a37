"""Sections of a target: components and the events that they are priced by."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, model_validator

from mcompiler.target.base import Bool, NonNegativeFloat, PositiveFloat, Section


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


class ScalesWith(StrEnum):
    """The quantity by which a component's figures scale (rules and sources: mcompiler/target/scaling.py)."""

    ADC_BITS = "adc_bits"
    DAC_BITS = "dac_bits"
    CELLS = "cells"
    ROWS = "rows"
    COLUMNS = "columns"
    BUFFER_BYTES = "buffer_bytes"


class Component(Section):
    """A line of the target's cost table: price of one instance, number of instances, event that it serves.

    A figure that is not known is left out: dynamic energy per event, static power and area per instance.
    """

    per: HierarchyUnit
    count: PositiveFloat = Field(
        default=1, description="instances in each unit of `per` (0.25: one is shared by four units)"
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
    scales_with: ScalesWith | None = Field(
        default=None, description="quantity by which the figures scale; they hold at `reference`"
    )
    reference: PositiveFloat | None = Field(
        default=None, description="bits, cells, lines or bytes at which the figures hold"
    )

    @model_validator(mode="after")
    def _event_has_energy(self) -> Component:
        if self.energy_j > 0 and self.event is None:
            raise ValueError("energy_j is the energy of an event, and no event is named; give event")
        if self.code_share > 0 and self.event is not Event.ADC_CONVERSION:
            raise ValueError("code_share is of the code of a conversion; it needs event = 'adc_conversion'")
        if (self.scales_with is None) != (self.reference is None):
            raise ValueError(
                "scales_with names the quantity by which the figures scale, reference its value for them; give both"
            )
        if self.scales_node and self.node_nm is None:
            raise ValueError("scales_node follows the technology node from node_nm on; give that too")
        if self.scales_node and not 7 <= (self.node_nm or 0) <= 180:
            raise ValueError("scales_node supports nodes from 7 to 180 nm; give such a node_nm, or set it false")
        return self
