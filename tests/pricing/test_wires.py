"""Buses, routers and links."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcompiler.pricing import Figure, find_rule
from tests.pricing.points import ratio

BUS, ROUTER, LINK, CHIP_LINK = (find_rule(name) for name in ("bus", "router", "link", "chip_link"))


@given(st.integers(8, 1024), st.floats(1e8, 4e9))
def test_a_bus_is_its_wires(bits: int, clock: float) -> None:
    assert ratio(BUS, Figure.AREA_M2, buffer_width_bits=bits) == pytest.approx(bits / 256)
    power = ratio(BUS, Figure.STATIC_POWER_W, buffer_width_bits=bits, clock_hz=clock)
    assert power == pytest.approx(bits / 256 * clock / 1.2e9)
    assert Figure.ENERGY_J not in BUS.follows, "a byte toggles as many wires on every bus"


def test_a_router_of_twice_the_width() -> None:
    """Of 77 shares: 55 of clock and queues double, 15 of the crossbar grow four times, 7 of control stay."""
    assert ratio(ROUTER, Figure.STATIC_POWER_W, link_bits=64) == pytest.approx((2 * 55 + 4 * 15 + 7) / 77)
    assert ratio(ROUTER, Figure.AREA_M2, link_bits=64) == pytest.approx((2 * 22 + 4 * 15 + 7) / 44)


@given(st.integers(8, 512), st.floats(1e8, 4e9))
def test_power_of_a_router_is_energy_of_its_bytes(bits: int, clock: float) -> None:
    """A flit of so many bits in every clock."""
    bytes_per_s = bits / 32 * clock / 1.2e9
    energy = ratio(ROUTER, Figure.ENERGY_J, link_bits=bits)
    assert ratio(ROUTER, Figure.STATIC_POWER_W, link_bits=bits, link_clock_hz=clock) == pytest.approx(
        energy * bytes_per_s
    )


def test_bytes_through_a_router_are_cheapest_at_some_width() -> None:
    """A narrow flit pays the control, a wide one the crossbar: sqrt(7 / 15) of 32 bits is the cheapest."""
    costs = {bits: ratio(ROUTER, Figure.ENERGY_J, link_bits=bits) for bits in range(8, 129)}
    assert min(costs, key=costs.__getitem__) == 22
    assert costs[128] > costs[32]


@given(st.integers(8, 512), st.floats(1e-5, 1e-2), st.floats(1e8, 4e9))
def test_a_link_is_its_wires(bits: int, metre: float, clock: float) -> None:
    assert ratio(LINK, Figure.ENERGY_J, link_m=metre, link_bits=bits) == pytest.approx(metre / 6e-4)
    assert ratio(LINK, Figure.AREA_M2, link_m=metre, link_bits=bits) == pytest.approx(metre / 6e-4 * bits / 32)
    power = ratio(LINK, Figure.STATIC_POWER_W, link_m=metre, link_bits=bits, link_clock_hz=clock)
    assert power == pytest.approx(metre / 6e-4 * bits / 32 * clock / 1.2e9)


@given(st.floats(1e6, 1e12))
def test_a_chip_s_links_follow_their_bandwidth(bytes_per_s: float) -> None:
    for figure in (Figure.STATIC_POWER_W, Figure.AREA_M2):
        value = ratio(CHIP_LINK, figure, chip_link_bytes_per_s=bytes_per_s)
        assert value == pytest.approx(bytes_per_s / 25.6e9)
    assert Figure.ENERGY_J not in CHIP_LINK.follows
