"""Active energy, standby of the parts in use, and standby of whole chips, against arithmetic by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcompiler.cost import DIGITAL, IDLE, LayerCounts, PricedQuantities, estimate, price
from mcompiler.errors import UserError
from mcompiler.target import Component, Event, HierarchyUnit, Target
from tests.cost.test_tables import check_sums, network
from tests.support.programs import scheduled, target

CHIP, TILE, CORE, ARRAY = HierarchyUnit.CHIP, HierarchyUnit.TILE, HierarchyUnit.CORE, HierarchyUnit.ARRAY
KEYS = (
    "hierarchy.arrays_per_core=2", "hierarchy.cores_per_tile=2", "hierarchy.tiles_per_chip=2", "network.topology=mesh",
    "network.chip_link_bytes_per_s=1e9", "network.link_bits=16", "network.clock_hz=1e8",
)  # fmt: skip
BUFFER = "digital.buffer_bytes_per_s=1e9"
COMPONENTS = {
    "port": Component(per=CHIP, count=2, event=Event.CHIP_LINK_BYTE, energy_j=1e-12, static_power_w=3.0),
    "router": Component(per=TILE, event=Event.LINK_BYTE, static_power_w=0.5),
    "buffer": Component(per=TILE, event=Event.BUFFER_READ_BYTE, energy_j=2e-12, static_power_w=0.25),
    "bus": Component(per=TILE, event=Event.BUFFER_WRITE_BYTE, static_power_w=0.125),
    "register": Component(per=CORE, static_power_w=0.01),
    "driver": Component(per=ARRAY, static_power_w=0.02, gated=True),
}


def moved(read: float, write: float, link: float, chip: float) -> dict[Event, float]:
    """Events of a layer that moves these bytes."""
    return {
        Event.BUFFER_READ_BYTE: read,
        Event.BUFFER_WRITE_BYTE: write,
        Event.LINK_BYTE: link,
        Event.CHIP_LINK_BYTE: chip,
    }


COUNTS = PricedQuantities(
    layers={
        "a": LayerCounts(moved(100, 20, 6, 10), {ARRAY: 2, CORE: 1, TILE: 2 / 3, CHIP: 2 / 3}, busy_s=4e-7),
        "b": LayerCounts(moved(50, 30, 2, 0), {ARRAY: 1, CORE: 1, TILE: 1 / 3, CHIP: 1 / 3}, busy_s=1e-6),
        DIGITAL: LayerCounts({Event.DIGITAL_OP: 0.0}, dict.fromkeys(HierarchyUnit, 0.0)),
    },
    tiles=1.0,
    interval_s=1e-6,
    latency_s=3e-6,
)
"""Two layers in one of the two tiles of a chip: two arrays of one core, and one array of the other."""


def chip(*keys: str) -> Target:
    """Two tiles of two cores of two arrays."""
    found: Target = target(*KEYS, *keys).model_copy(update={"components": COMPONENTS})
    return found


@pytest.mark.parametrize("times", [1, 4])
def test_standby_by_hand(times: int) -> None:
    """At one and at four microseconds for each inference."""
    seconds = times * 1e-6
    cost = price(COUNTS, chip(BUFFER), 1e6 / times)
    check_sums(cost)
    assert cost.energy_active_j == pytest.approx(10 * 1e-12 + 150 * 2e-12)
    used = {name: row.energy_standby_used_j for name, row in cost.components.items()}
    # at 1 us: 10 of 1,000 bytes over the port, 8 of the 800 that the links of one of two tiles carry (a square of four
    # places has eight links of 200 MB/s), 200 of 1,000 in the buffer; a quarter of that over four times the time
    assert used["port"] == pytest.approx(0.01 * 6 * 1e-6)
    assert used["router"] == pytest.approx(0.01 * 0.5 * 1e-6)
    assert used["buffer"] == pytest.approx(0.2 * 0.25 * 1e-6)
    assert used["bus"] == pytest.approx(0.2 * 0.125 * 1e-6)
    assert used["register"] == pytest.approx(2 * 0.01 * seconds)
    assert used["driver"] == pytest.approx(2 * 0.02 * 4e-7 + 0.02 * 1e-6)
    whole = {name: row.energy_standby_chip_j for name, row in cost.components.items()}
    gated = whole.pop("driver")
    assert gated == used["driver"]
    assert whole == pytest.approx(
        {"port": 6 * seconds, "router": 2 * 0.5 * seconds, "buffer": 2 * 0.25 * seconds, "bus": 2 * 0.125 * seconds,
         "register": 4 * 0.01 * seconds}
    )  # fmt: skip
    # bytes divide what is shared between layers, arrays the rest
    shared_by_a = used["port"] + used["router"] * 6 / 8 + (used["buffer"] + used["bus"]) * 120 / 200
    assert cost.layers["a"].energy_standby_used_j == pytest.approx(shared_by_a + 0.01 * seconds + 0.04 * 4e-7)
    assert cost.layers[IDLE].energy_standby_chip_j == pytest.approx((0.5 + 0.25 + 0.125 + 2 * 0.01) * seconds)
    assert cost.layers[IDLE].energy_j == 0
    assert cost.power_w == pytest.approx(cost.energy_j / seconds)


def test_a_part_without_a_stated_capacity_stands_by_in_full() -> None:
    cost = price(COUNTS, chip())
    assert cost.components["buffer"].energy_standby_used_j == pytest.approx(0.25e-6)
    # a third of the tile, two of eight bytes over links at 1% of their capacity, a core, an array
    by_hand = (0.25 + 0.125) / 3 * 1e-6 + 0.01 * 0.5e-6 * 2 / 8 + 0.01 * 1e-6 + 0.02 * 1e-6
    assert cost.layers["b"].energy_standby_used_j == pytest.approx(by_hand)


def test_a_share_is_at_most_one() -> None:
    cost = price(COUNTS, chip("digital.buffer_bytes_per_s=1e8"))
    assert cost.components["buffer"].energy_standby_used_j == pytest.approx(0.25e-6)
    assert cost.layers["a"].energy_standby_used_j > cost.layers["b"].energy_standby_used_j
    check_sums(cost)


def test_what_moves_nothing_uses_no_shared_part() -> None:
    still = {name: replace(each, events={Event.DIGITAL_OP: 0.0}) for name, each in COUNTS.layers.items()}
    cost = price(replace(COUNTS, layers=still), chip(BUFFER))
    for name in ("port", "router", "buffer", "bus"):
        assert cost.components[name].energy_standby_used_j == 0
        assert cost.components[name].energy_standby_chip_j > 0
    check_sums(cost)


def test_every_chip_in_use_stands_by_in_full() -> None:
    """Twice the arrays of a chip: the links between chips of isaac cost their share in use, and all on each chip."""
    isaac = target("hierarchy.tiles_per_chip=1", name="isaac")
    rows = 128 * 97  # 96 arrays of 128 rows fill a tile
    program = scheduled(network(np.ones((rows, 32), np.int16)), isaac)
    cost = estimate(program, isaac)
    row = cost.components["hypertransport"]
    crossing = sum(number for _, event, number in cost.events if event == "chip_link_byte")
    assert crossing > 0
    assert row.energy_standby_used_j == pytest.approx(crossing * 4 * 2.6 / 25.6e9)
    chips = len({int(where[0]) for addresses in program.placed.addresses for where in addresses})
    assert chips == cost.counts.chips == 2
    assert row.energy_standby_chip_j == pytest.approx(chips * 4 * 2.6 * cost.counts.interval_s)
    standing = {"input_register": 12 * 1.24e-3, "edram": 20.7e-3, "tile_output_register": 1.68e-3}
    for name, watts in standing.items():
        assert cost.components[name].energy_standby_chip_j == pytest.approx(chips * watts * cost.counts.interval_s)
    check_sums(cost)


@settings(max_examples=50, deadline=None)
@given(st.floats(1, 1e6), st.floats(0.01, 1), st.sampled_from([(), (BUFFER,), ("digital.buffer_bytes_per_s=1e8",)]))
def test_a_lower_rate_is_more_standby_and_less_power(rate: float, share: float, keys: tuple[str, ...]) -> None:
    fast, slow = (price(COUNTS, chip(*keys), each) for each in (rate, rate * share))
    assert slow.energy_active_j == fast.energy_active_j
    # registers are not shared: two in use pay for all of the longer time
    longer = 1 / slow.rate_per_s - 1 / fast.rate_per_s
    more = slow.energy_standby_used_j - fast.energy_standby_used_j
    assert more >= 2 * 0.01 * longer * (1 - 1e-6) - 1e-15 * slow.energy_standby_used_j
    assert slow.energy_standby_chip_j >= fast.energy_standby_chip_j
    assert slow.power_w <= fast.power_w * (1 + 1e-9)
    assert (slow.throughput_per_s, slow.latency_s, slow.area_m2, slow.peak_power_w) == (
        fast.throughput_per_s, fast.latency_s, fast.area_m2, fast.peak_power_w,
    )  # fmt: skip
    check_sums(slow)


def test_a_rate_is_above_zero_and_at_most_the_highest() -> None:
    with pytest.raises(UserError, match=r"above the highest of this build, 1000000\.0; give at most that"):
        price(COUNTS, chip(), 1.1e6)
    for rate in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match="give one above 0"):
            price(COUNTS, chip(), rate)
