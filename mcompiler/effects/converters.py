"""Converters: errors of input and output converters, drawn once per chip, and the noise of every conversion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcompiler.effects.base import ArrayOnChip, ConverterErrors, Effect
from mcompiler.effects.lazy_numpy import np

if TYPE_CHECKING:
    from mcompiler.target.schema import Target


@dataclass(frozen=True)
class ConvertersEffect(Effect):
    """Gain, offset and curvature of the converters of an array."""

    name = "converters"
    order = 100
    stream = 9
    described_elsewhere = "errors in [converters.dac] or [converters.adc]"

    def is_described(self, target: Target) -> bool:
        """Whether a converter has an error."""
        dac, adc = target.converters.dac, target.converters.adc
        return any((dac.gain_error, adc.offset_codes, adc.gain_error, adc.nonlinearity_codes, adc.noise_codes))

    def converter_errors(self, array: ArrayOnChip) -> ConverterErrors:
        """Normal errors; unit and reference columns, which follow the others, each have their own converter."""
        adc, dac = array.target.converters.adc, array.target.converters.dac
        rows, columns = array.levels.shape
        lines = np.arange(columns)
        # The converter of each bit line: every one draws, and those of one converter take the draw of its number.
        shared = np.where(lines < array.target.array.columns, lines // adc.columns, lines)
        sizes = np.array([adc.gain_error, adc.offset_codes, adc.nonlinearity_codes])
        rng = array.rng(self)
        gain, offset, bow = rng.standard_normal((3, columns))[:, shared] * sizes[:, None]
        inputs = rng.standard_normal((rows,))
        return ConverterErrors(
            input_gain=1 + dac.gain_error * inputs, gain=1 + gain, offset_codes=offset, bow_codes=bow
        )

    def conversion_noise_codes(self, target: Target) -> float:
        """As ``converters.adc.noise_codes`` says."""
        return target.converters.adc.noise_codes


CONVERTERS = ConvertersEffect()
