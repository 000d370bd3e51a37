"""Numbers outside of the range of their unit are refused by key, with the nearest legal value."""

from __future__ import annotations

import pytest

from mcompiler.errors import TargetError
from mcompiler.target import check_target, load_target
from mcompiler.target.ranges import COUNTS, OTHERS, RANGES, range_of, range_violations


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("device.read_voltage_v=1e200", "1e+200 V is outside of 1e-06 to 1000 V; the nearest legal value is 1000"),
        ("device.g_max_siemens=1e300", "1e+300 S is outside of 1e-18 to 100 S; the nearest legal value is 100"),
        ("digital.clock_hz=1e308", "1e+308 Hz is outside of 1 to 1e+12 Hz; the nearest legal value is 1e+12"),
        ("network.clock_hz=1e-300", "1e-300 Hz is outside of 1 to 1e+12 Hz; the nearest legal value is 1"),
        ("components.adc.energy_j=1e308", "1e+308 J is outside of 1e-24 to 1000 J; the nearest legal value is 1000"),
        ("components.adc.energy_j=1e-300", "1e-300 J is outside of 1e-24 to 1000 J; the nearest legal value is 1e-24"),
        ("components.adc.count=1e308", "1e+308 is outside of 1e-30 to 1e+30; the nearest legal value is 1e+30"),
        ("network.hop_cycles=10000000000000", "1e+13 is outside of 1 to 1e+12; the nearest legal value is 1e+12"),
    ],
)
def test_the_message_has_value_range_and_nearest(override: str, message: str) -> None:
    assert check_target("generic_128", [override])[-1] == f"--set {override}: {override.partition('=')[0]}: {message}"


def test_whole_numbers_beyond_all_floats() -> None:
    found = check_target("generic_128", [f"digital.buffer_bytes={10**400}"])
    assert "a number of 401 digits B is outside of 1 to 1e+15 B" in found[0]


def test_a_target_outside_is_not_loaded() -> None:
    with pytest.raises(TargetError, match="read_voltage_v"):
        load_target("generic_128", ["device.read_voltage_v=1e200"])


@pytest.mark.parametrize("value", ["0.0", "nan", "inf", "-1.0"])
def test_zero_signs_and_what_is_not_finite_are_the_keys_own(value: str) -> None:
    found = check_target("generic_128", [f"device.read_voltage_v={value}"])
    assert len(found) == 1
    assert "outside of" not in found[0]


def test_the_longest_end_of_a_key_is_its_unit() -> None:
    assert range_of("read_voltage_v") is RANGES["v"]
    assert range_of("latency_s") is RANGES["latency_s"]
    assert range_of("chip_link_latency_s") is RANGES["latency_s"]
    assert range_of("drift_interval_s") is RANGES["s"]
    assert range_of("buffer_bytes_per_s") is RANGES["bytes_per_s"]
    assert range_of("buffer_bytes", whole=True) is RANGES["bytes"]
    assert range_of("rows", whole=True) is COUNTS


@pytest.mark.parametrize("key", ["peak_ops_per_s", "peak_ops_per_s_m2", "peak_ops_per_j", "storage_bytes_per_m2", "nu"])
def test_rates_have_other_units(key: str) -> None:
    assert range_of(key) is OTHERS


def test_numbers_of_lists_are_coefficients() -> None:
    data = {"device": {"noise": {"polynomial_siemens": [1e-25, 1e6, 1e200]}}}
    (found,) = range_violations(data)
    assert found[0] == ("device", "noise", "polynomial_siemens")
    assert found[1].startswith("1e+200 is outside of")


def test_ranges_are_ranges() -> None:
    for each in (*RANGES.values(), OTHERS, COUNTS):
        assert 0 < each.smallest < each.largest
        assert each.holds(each.smallest)
        assert each.holds(-each.largest)
        assert not each.holds(each.largest * 1.01)
        assert not each.holds(each.smallest / 1.01)
