"""Buffers and registers against the results of CACTI that they are fitted to, and against published memories."""

from __future__ import annotations

from math import exp, log
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcompiler.pricing import Figure, PriceRule, Quantity, find_rule
from mcompiler.pricing.base import Quantities
from tests.pricing.cacti import EDRAM_RUNS, SRAM_RUNS

SRAM, EDRAM, BUSY = find_rule("sram"), find_rule("edram"), find_rule("edram_full_rate")
FITS = [
    (SRAM, SRAM_RUNS, (1.47, 1.17, 1.45), (1.21, 1.07, 1.09)),
    (EDRAM, EDRAM_RUNS, (1.66, 2.14, 1.80), (1.18, 1.30, 1.12)),
]


def at(size: float, width: float = 64, clock: float = 1e9) -> Quantities:
    return {Quantity.BUFFER_BYTES: size, Quantity.BUFFER_WIDTH_BITS: width, Quantity.CLOCK_HZ: clock}


@pytest.mark.parametrize(("rule", "runs", "worst", "middle"), FITS)
def test_every_run_of_cacti_within_the_stated_factor(
    rule: PriceRule, runs: list[tuple[int, int, float, float, float]], worst: list[float], middle: list[float]
) -> None:
    factors: dict[Figure, list[float]] = {figure: [] for figure in Figure}
    for size, width, access_pj, leakage_mw, area_um2 in runs:
        published = (access_pj * 1e-12 / (width / 8), leakage_mw * 1e-3, area_um2 * 1e-12)
        for figure, value in zip(Figure, published, strict=True):
            factors[figure].append(exp(abs(log(rule.value(figure, at(size, width)) / value))))
    for figure, most, usual in zip(Figure, worst, middle, strict=True):
        assert max(factors[figure]) <= most
        assert median(factors[figure]) <= usual


def test_published_memories_of_embedded_dram() -> None:
    """ISAAC: 64 KB, 256 bits, 1.2 GHz, 20.7 mW; PUMA at 1 GHz 17.66 mW; PIMCOMP: 64 KB 18 mW, 4 MB 257.7 mW."""
    power = {size: BUSY.value(Figure.STATIC_POWER_W, at(size, 256, 1e9)) for size in (2**16, 2**22)}
    assert BUSY.value(Figure.STATIC_POWER_W, at(2**16, 256, 1.2e9)) == pytest.approx(20.7e-3, rel=0.1)
    assert power[2**16] == pytest.approx(17.66e-3, rel=0.1)
    assert power[2**22] / power[2**16] == pytest.approx(257.7 / 18, rel=0.3)


def test_full_rate_adds_what_every_clock_takes() -> None:
    idle = EDRAM.value(Figure.STATIC_POWER_W, at(2**16))
    busy = EDRAM.value(Figure.ENERGY_J, at(2**16)) * 8 * 1e9  # 64 bits in every ns
    assert BUSY.value(Figure.STATIC_POWER_W, at(2**16)) == pytest.approx(idle + busy)
    for figure in (Figure.ENERGY_J, Figure.AREA_M2):
        assert BUSY.value(figure, at(2**16)) == EDRAM.value(figure, at(2**16))


@given(st.floats(64, 2**24), st.floats(64, 2**24), st.floats(8, 1024))
def test_larger_memories_cost_more(one: float, other: float, width: float) -> None:
    small, large = sorted((one, other))
    for rule in (SRAM, EDRAM, BUSY):
        for figure in Figure:
            if large > small * 1.0001:
                assert rule.value(figure, at(large, width)) > rule.value(figure, at(small, width))


@pytest.mark.parametrize(
    ("name", "quantity"),
    [("input_register", Quantity.INPUT_REGISTER_BYTES), ("output_register", Quantity.OUTPUT_REGISTER_BYTES)],
)
def test_registers_of_the_tables(name: str, quantity: Quantity) -> None:
    rule = find_rule(name)
    published = {256: (0.23, 770), 1024: (0.477, 1920), 2048: (1.24, 2100), 3072: (1.68, 3200)}
    for index, figure in enumerate((Figure.STATIC_POWER_W, Figure.AREA_M2)):
        unit = [
            rule.value(figure, {quantity: size, Quantity.CLOCK_HZ: 1e9}) / row[index] for size, row in published.items()
        ]
        centre = exp(sum(log(value) for value in unit) / len(unit))
        assert max(exp(abs(log(value / centre))) for value in unit) < 1.35
    assert rule.outside({quantity: 3072}) == ""
    assert "256 bytes to 3 KB" in rule.outside({quantity: 128})


def test_where_the_runs_end() -> None:
    assert EDRAM.outside(at(2**22, 1024)) == ""
    assert "256 bytes to 4 MB" in EDRAM.outside(at(128))
    assert "8 to 1,024 bits" in SRAM.outside(at(4096, 2048))
