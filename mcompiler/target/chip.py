"""Sections of a target: digital units, hierarchy of arrays, cores, tiles and chips, network."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from mcompiler.target.base import Bool, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Section


class Skip(StrEnum):
    """Which reads are left out because all their inputs are zero; each value includes those before it."""

    NONE = "none"
    PHASES = "phases"
    FRAGMENTS = "fragments"
    ROWS = "rows"


class Digital(Section):
    """Digital units of a tile, and the pipeline that they form with the arrays."""

    clock_hz: PositiveFloat
    accumulator_bits: Annotated[int, Field(ge=8, le=64, strict=True)] = Field(description="sign included")
    operations_per_cycle: PositiveInt = Field(
        description="element-wise operations of a tile's digital unit per clock cycle"
    )
    buffer_bytes: PositiveInt | None = Field(
        default=None, description="activation memory of one tile; None: as much as is needed"
    )
    buffer_bytes_per_s: PositiveFloat | None = Field(
        default=None,
        description="read and write bandwidth, added, of a tile's activation memory; None: never the limit",
    )
    node_nm: Annotated[float, Field(ge=7, le=180)] | None = Field(
        default=None, description="technology node that components with `scales_node` are scaled to; None: their own"
    )
    skip: Skip = Field(
        default=Skip.NONE,
        description="reads of an array that are left out: phases in which no row is driven, fragments in which "
        "none is, and drives of rows at zero",
    )
    fifo_bytes: PositiveInt | None = Field(
        default=None, description="capacity of the queue between two stages; None: what the tiles' memory allows"
    )
    fill_reads: NonNegativeInt = Field(
        default=0,
        description="stages of the pipeline in addition to the reads (fetching inputs, converting, shifting and "
        "adding, writing back), each as long as a read",
    )


class Hierarchy(Section):
    """Arrays in cores, cores in tiles, tiles on a chip, and the names that reports use for cores and tiles."""

    arrays_per_core: PositiveInt
    cores_per_tile: PositiveInt
    tiles_per_chip: PositiveInt
    spare_arrays_per_core: NonNegativeInt = Field(
        default=0, description="arrays in addition to `arrays_per_core` that can replace others"
    )
    chips: PositiveInt | Literal["as needed"] = Field(description="number of chips available, or 'as needed'")
    core_name: str = "core"
    tile_name: str = "tile"

    @property
    def positions_per_core(self) -> int:
        """Array positions of a core, spare ones included, which are numbered last."""
        return self.arrays_per_core + self.spare_arrays_per_core

    @property
    def arrays_per_chip(self) -> int:
        """Array positions on one chip."""
        return self.arrays_per_core * self.cores_per_tile * self.tiles_per_chip


class NetworkSection(Section):
    """Links between the tiles of a chip, and between chips."""

    topology: Literal["mesh", "htree", "bus"]
    link_bits: PositiveInt = Field(description="width of one link between tiles")
    clock_hz: PositiveFloat = Field(description="clock of the links between tiles")
    chip_link_bytes_per_s: PositiveFloat = Field(
        description="bandwidth of all links of one chip to other chips together"
    )
    multicast: Bool = Field(
        default=False,
        description="a word that several tiles of a chip read crosses each link on the way to them once",
    )
    hop_cycles: NonNegativeInt = Field(default=0, description="clock cycles of delay in a router")
    chip_link_latency_s: NonNegativeFloat = Field(default=0.0, description="delay from one chip to another")
