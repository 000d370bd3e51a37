"""Costs move as they must when the chip or the precision changes, and every model at hand has one that adds up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mcompiler
from mcompiler.cost import Cost, estimate
from mcompiler.errors import UserError
from mcompiler.target import Event, Target, load_target, prices
from tests.cost.test_tables import check_sums
from tests.support.models import SHARED_MODELS
from tests.support.programs import matrix_op, matrix_program, scheduled

SHARED = (Event.LINK_BYTE, Event.CHIP_LINK_BYTE, Event.BUFFER_READ_BYTE, Event.BUFFER_WRITE_BYTE)
"""Events of parts whose standby in use is a share, and none where no byte moves."""


def cost_on(chip: Target, rows: int, columns: int, vectors: int, seed: int, bits: int = 8) -> Cost:
    """One layer of random weights."""
    codes = np.random.default_rng(seed).integers(-100, 101, (rows, columns))
    program = matrix_program([matrix_op(codes, vectors=vectors, input_bits=bits)])
    return estimate(scheduled(program, chip), chip)


LAYER = {
    "rows": st.integers(1, 300),
    "columns": st.integers(1, 80),
    "vectors": st.integers(1, 9),
    "seed": st.integers(0, 99),
}


@settings(max_examples=25, deadline=None)
@given(**LAYER, low=st.integers(8, 11), more=st.integers(1, 4))
def test_more_adc_bits_cost_more(rows: int, columns: int, vectors: int, seed: int, low: int, more: int) -> None:
    small, large = (
        cost_on(load_target("isaac", [f"converters.adc.bits={bits}"]), rows, columns, vectors, seed)
        for bits in (low, low + more)
    )
    assert small.components["adc"].energy_j < large.components["adc"].energy_j
    assert small.energy_j < large.energy_j
    assert small.area_m2 < large.area_m2
    assert small.latency_s == large.latency_s


@settings(max_examples=25, deadline=None)
@given(**LAYER, factor=st.integers(2, 8))
def test_faster_converters_take_less_time(rows: int, columns: int, vectors: int, seed: int, factor: int) -> None:
    slow, fast = (
        cost_on(load_target("isaac", [f"converters.adc.rate_hz={rate}", "device.read_pulse_s=1e-9"]), rows, columns,
                vectors, seed)
        for rate in (1e8, 1e8 * factor)
    )  # fmt: skip
    assert fast.latency_s < slow.latency_s
    assert fast.throughput_per_s > slow.throughput_per_s
    assert fast.area_m2 > slow.area_m2


@settings(max_examples=25, deadline=None)
@given(**LAYER, bits=st.integers(1, 7))
def test_more_input_bits_take_more_of_everything(rows: int, columns: int, vectors: int, seed: int, bits: int) -> None:
    chip = load_target("generic_128")
    few, many = (cost_on(chip, rows, columns, vectors, seed, each) for each in (bits, bits + 1))
    assert few.energy_j < many.energy_j
    assert few.latency_s < many.latency_s
    assert few.area_m2 == many.area_m2


@settings(max_examples=25, deadline=None)
@given(**LAYER)
def test_smaller_arrays_are_more_arrays(rows: int, columns: int, vectors: int, seed: int) -> None:
    found = []
    for size in (128, 64):
        keys = [f"array.{key}={size}" for key in ("rows", "rows_active", "columns")]
        found.append(cost_on(load_target("generic_128", keys), rows, columns, vectors, seed))
    large, small = found
    assert small.crossbars >= large.crossbars
    assert small.utilisation >= large.utilisation - 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("model", sorted(SHARED_MODELS.glob("*.onnx")), ids=lambda path: path.stem[:40])
@pytest.mark.parametrize("name", ["generic_128", "isaac"])
def test_every_model_has_a_cost_that_adds_up(model: Path, name: str) -> None:
    """No part is negative, and none is zero without a reason: an event that does not happen, or no price."""
    target = load_target(name)
    try:
        build = mcompiler.compile(model, target, calibration="random")
    except UserError as error:
        pytest.skip(f"refused: {error}")
    cost, priced_as = build.cost, prices(target)
    check_sums(cost)
    counted: dict[str, float] = {}
    for _, event, number in cost.events:
        assert number >= 0
        counted[event] = counted.get(event, 0.0) + number
    for key, price in cost.components.items():
        component = priced_as[key]
        assert min(price.energy_j, price.dynamic_j, price.static_j, price.area_m2) >= 0
        assert price.energy_j == pytest.approx(price.dynamic_j + price.static_j)
        priced = component.event is not None and component.energy_j > 0
        assert (price.dynamic_j > 0) == (priced and counted.get(component.event or "", 0.0) > 0)
        if cost.crossbars:
            assert (price.energy_standby_chip_j > 0) == (component.static_power_w > 0)
            assert price.static_j <= price.energy_standby_chip_j * (1 + 1e-9)
            if component.event not in SHARED:
                assert (price.static_j > 0) == (component.static_power_w > 0)
            assert (price.area_m2 > 0) == (component.area_m2 > 0)
    bounds = build.schedule.bounds_s
    assert 1 / cost.throughput_per_s >= max(bounds.values()) * (1 - 1e-6)
