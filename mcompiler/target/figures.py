"""What a paper prints about its chip, for a target to be held against."""

from __future__ import annotations

from pydantic import Field, model_validator

from mcompiler.target.base import PositiveFloat, Section


class Published(Section):
    """Figures as printed. ``mcompiler targets check --published`` computes each from the target and compares.

    What is rolled up from components must be within 2%, what is derived within 10%, or ``explained`` says why not.
    """

    array_power_w: PositiveFloat | None = Field(default=None, description="one array, reading all the time")
    array_area_m2: PositiveFloat | None = Field(default=None, description="one array")
    core_power_w: PositiveFloat | None = Field(default=None, description="one core at full activity")
    core_area_m2: PositiveFloat | None = Field(default=None, description="one core")
    tile_power_w: PositiveFloat | None = Field(default=None, description="one tile at full activity")
    tile_area_m2: PositiveFloat | None = Field(default=None, description="one tile")
    chip_power_w: PositiveFloat | None = Field(default=None, description="the chip at full activity")
    chip_area_m2: PositiveFloat | None = Field(default=None, description="the chip")
    read_s: PositiveFloat | None = Field(default=None, description="one read of an array with its conversions")
    pipeline_reads: PositiveFloat | None = Field(
        default=None, description="read cycles from fetching a vector to its results being written"
    )
    product_s: PositiveFloat | None = Field(default=None, description="one product with the weights of an array")
    product_j: PositiveFloat | None = Field(default=None, description="energy of its arrays in that time")
    peak_ops_per_s: PositiveFloat | None = Field(
        default=None, description="of a chip; a multiplication and an addition are two"
    )
    peak_ops_per_j: PositiveFloat | None = Field(default=None, description="the same over the chip's power")
    peak_ops_per_s_m2: PositiveFloat | None = Field(default=None, description="the same over the chip's area")
    storage_bytes_per_m2: PositiveFloat | None = Field(
        default=None, description="weights that a chip holds, over its area"
    )
    explained: dict[str, str] = Field(
        default_factory=dict, description="by figure: why ours is another, or what contradicts it in its own source"
    )

    @model_validator(mode="after")
    def _explains_figures(self) -> Published:
        known = [name for name in type(self).model_fields if name not in ("source", "sources", "explained")]
        for name in self.explained:
            if name not in (*known, "cell_power_w"):
                raise ValueError(f"explained.{name} is none of the figures: {', '.join(known)}, cell_power_w")
        return self
