"""Figures that a paper publishes about its chip, to compare the target with."""

from __future__ import annotations

from pydantic import Field, model_validator

from mcompiler.target.base import PositiveFloat, Section


class Published(Section):
    """Figures as published. ``mcompiler targets check --published`` compiles a product and compares its cost with each.

    Figures must be within 2%, or ``explained`` gives the reason.
    """

    array_power_w: PositiveFloat | None = Field(
        default=None, description="power of one array and its drivers, converters aside, that reads continuously"
    )
    array_area_m2: PositiveFloat | None = Field(default=None, description="area of one array")
    core_power_w: PositiveFloat | None = Field(default=None, description="power of one core at full activity")
    core_area_m2: PositiveFloat | None = Field(default=None, description="area of one core")
    tile_power_w: PositiveFloat | None = Field(default=None, description="power of one tile at full activity")
    tile_area_m2: PositiveFloat | None = Field(default=None, description="area of one tile")
    chip_power_w: PositiveFloat | None = Field(default=None, description="power of the chip at full activity")
    chip_area_m2: PositiveFloat | None = Field(default=None, description="area of the chip")
    read_s: PositiveFloat | None = Field(
        default=None, description="duration of one read of an array with its conversions"
    )
    pipeline_reads: PositiveFloat | None = Field(
        default=None, description="read cycles from fetching a vector to writing its results"
    )
    product_s: PositiveFloat | None = Field(
        default=None, description="duration of one product with the weights of an array"
    )
    product_j: PositiveFloat | None = Field(default=None, description="energy of the arrays for one such product")
    peak_ops_per_s: PositiveFloat | None = Field(
        default=None, description="operations per second of a chip; a multiplication and an addition are two"
    )
    peak_ops_per_j: PositiveFloat | None = Field(
        default=None, description="operations per second over the power of the chip"
    )
    peak_ops_per_s_m2: PositiveFloat | None = Field(
        default=None, description="operations per second over the area of the chip"
    )
    storage_bytes_per_m2: PositiveFloat | None = Field(
        default=None, description="bytes of weights that a chip holds, over its area"
    )
    explained: dict[str, str] = Field(
        default_factory=dict,
        description="by figure: why the computed figure differs, or a contradiction within the source",
    )

    @model_validator(mode="after")
    def _explains_figures(self) -> Published:
        known = [name for name in type(self).model_fields if name not in ("source", "sources", "explained")]
        for name in self.explained:
            if name not in known:
                raise ValueError(f"explained.{name} is none of the figures: {', '.join(known)}")
        return self
