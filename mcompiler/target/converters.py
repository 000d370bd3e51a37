"""Sections of a target: input and output converters, and how the chip corrects their errors."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from mcompiler.target.base import Bool, NonNegativeFloat, PositiveFloat, PositiveInt, Section


class Rounding(StrEnum):
    """How an ADC rounds a value halfway between two codes."""

    HALF_EVEN = "half_even"
    HALF_UP = "half_up"


class AdcRange(StrEnum):
    """``full``: holds the extreme sum of any array. ``calibrated``: fitted to the calibration data, then fixed."""

    FULL = "full"
    CALIBRATED = "calibrated"


class RangePer(StrEnum):
    """Whether a layer, each array or each column has one calibrated range."""

    LAYER = "layer"
    ARRAY = "array"
    COLUMN = "column"


class Dac(Section):
    """Input converter: one per word line."""

    bits: Annotated[int, Field(ge=1, le=8, strict=True)] = Field(description="bits of an input applied at once")
    gain_error: NonNegativeFloat = Field(
        default=0.0, description="standard deviation of the gain over word lines, about 1"
    )


class AdcSection(Section):
    """Output converter. Codes are 0 .. 2^bits - 1, or two's complement where a pair is subtracted before it."""

    bits: Annotated[int, Field(ge=1, le=24, strict=True)]
    rate_hz: PositiveFloat = Field(description="conversions per second of one ADC")
    columns: PositiveInt = Field(
        description="bit lines that share one ADC; both lines of a pair count, also where one conversion serves them"
    )
    range: AdcRange = AdcRange.FULL
    range_per: RangePer = Field(
        default=RangePer.LAYER,
        description="unit that has one calibrated range; ranges of arrays and columns are that of the layer over 2^n",
    )
    rounding: Rounding = Rounding.HALF_EVEN
    offset_codes: NonNegativeFloat = Field(default=0.0, description="standard deviation of the offset over ADCs")
    gain_error: NonNegativeFloat = Field(default=0.0, description="standard deviation of the gain over ADCs, about 1")
    nonlinearity_codes: NonNegativeFloat = Field(
        default=0.0, description="standard deviation over ADCs of the integral nonlinearity, a cubic curve"
    )
    noise_codes: NonNegativeFloat = Field(default=0.0, description="standard deviation of the noise of one conversion")


class Converters(Section):
    """Both converters of an array."""

    dac: Dac
    adc: AdcSection


class ChipCalibration(Section):
    """How a chip measures and corrects its own errors; unrelated to the calibration data of input ranges."""

    drift_interval_s: PositiveFloat | None = Field(
        default=None, description="time between two drift corrections (total current of every array); None: never"
    )
    correction: Literal["none", "adc", "column"] = Field(
        default="none", description="digital gain and offset for the codes of each ADC, or of each converted column"
    )
    vectors: Annotated[int, Field(ge=2, le=4096, strict=True)] = Field(
        default=64, description="known input vectors to which a correction is fitted"
    )
    predistort: Bool = Field(
        default=False,
        description="cells are written so that wire resistance is compensated; codes are scaled down to make room",
    )
