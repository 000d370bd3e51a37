"""Corrections of converters, fitted on reads by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mcompiler.conductance import make_adc
from mcompiler.conductance.correction import MeasuredColumns, Measurement
from tests.support.builds import target


def test_codes_that_the_mapping_clips_tell_nothing() -> None:
    """A range of less than half of what is drawn: offset and gain come back as from a range that holds everything."""
    levels, zeros, one = np.full((64, 1), 2.0), np.zeros(1), np.ones(1, np.int64)
    for bits in (6, 12):  # sums up to 76, codes up to 31 and 2047
        adc = replace(make_adc(target(f"converters.adc.bits={bits}")), gain=1.0)
        measured = Measurement.drawn(adc, 64, 256, 1, np.random.default_rng(0))
        columns = MeasuredColumns(0.8 * levels, added=zeros - 6.0, bow=zeros, zoom=one, shared=one - 1)
        slope, shift = measured.fit(columns, levels)
        assert slope[0] == pytest.approx(1 / 0.8, rel=0.02)
        assert shift[0] == pytest.approx(6 / 0.8, abs=0.5)
