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
        ("device.g_max_siemens=1e300", "1e+300 S is outside of 1e-18 to 1 S; the nearest legal value is 1"),
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


@pytest.mark.parametrize(
    "key", ["peak_ops_per_s", "peak_ops_per_s_m2", "peak_ops_per_j", "storage_bytes_per_m2", "count"]
)
def test_rates_have_other_units(key: str) -> None:
    assert range_of(key) is OTHERS


def test_numbers_of_lists_have_the_unit_of_their_key() -> None:
    noise = {"polynomial_siemens": [1e-25, 1e-3, 1e200]}  # coefficients may be small
    data = {"device": {"noise": noise, "programming": {"level_siemens": [1e-25, 1e-7]}, "level_means": [-3, 0, 9]}}
    polynomial, levels = range_violations(data)
    assert polynomial[0] == ("device", "noise", "polynomial_siemens")
    assert polynomial[1].startswith("1e+200 S is outside of")
    assert levels[0] == ("device", "programming", "level_siemens")
    assert levels[1].startswith("1e-25 S is outside of")


WRITE = ("device.write.pulses=5.0", "device.write.pulse_s=1e-7", "device.write.pulse_energy_j=1e-12")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["device.programming.absolute_siemens=0.4"],
            "0.4 S is above 0.0001 S, more than any deviation of cells up to",
        ),
        (["device.programming.proportional=5.0"], "5 is outside of 1e-18 to 1; the nearest legal value is 1"),
        (["device.programming.log_normal=20.0"], "20 is outside of 1e-18 to 5; the nearest legal value is 5"),
        (["device.programming.polynomial_siemens=[-0.9,0.8,0.2]"], "S is, within g / g_max = 0 to 1, above"),
        (["device.noise.correlation=per_read", "device.noise.absolute_siemens=0.1"], "0.1 S is above 0.0001 S"),
        (["device.noise.correlation=per_read", "device.noise.proportional=3.0"], "3 is outside of 1e-18 to 1;"),
        (["device.noise.correlation=per_read", "device.noise.one_over_f.q=8.8"], "8.8 is outside of 1e-18 to 1;"),
        (
            [
                "device.noise.correlation=per_read",
                "device.noise.one_over_f.q=0.01",
                "device.noise.one_over_f.read_s=2e5",
            ],
            "200000 s is outside of 1e-15 to 1000 s; the nearest legal value is 1000",
        ),
        (
            ["device.relaxation.day.after_s=86400.0", "device.relaxation.day.polynomial_siemens=[0.3]"],
            "0.3 S is, within g / g_max = 0 to 1, above 0.0001 S, more than any deviation of cells up to",
        ),
        (["device.faults.stuck_on_siemens=0.5"], "0.5 S is above 0.1 S, more than a short circuit of cells up to"),
        (["device.faults.stuck_off_siemens=0.01"], "0.01 S is above 0.0001 S, the highest level of cells up to"),
        (["device.faults.stuck_on_siemens=1e-7"], "cells that are stuck off conduct 1e-06 S, those that are stuck on"),
        ([*WRITE, "device.write.tolerance_siemens=0.5"], "0.5 S is above 0.0001 S"),
        ([*WRITE, "device.write.pulse_energy_j=0.5"], "0.5 J is outside of 1e-24 to 0.001 J; the nearest"),
        ([*WRITE, "device.write.verify_energy_j=12.0"], "12 J is outside of 1e-24 to 0.001 J; the nearest"),
        ([*WRITE, "device.write.verify_s=1e6"], "1e+06 s is outside of 1e-15 to 1000 s; the nearest"),
        ([*WRITE, "device.write.pulses=1e12"], "1e+12 is outside of 0.001 to 1e+09; the nearest"),
        (
            [*WRITE, "device.write.endurance=2.0"],
            "5 pulses for one programming, but device.write.endurance is 2 writes",
        ),
        (["device.drift.t0_s=20.0", "device.drift.nu=4.0"], "4 is outside of 1e-18 to 2; the nearest"),
        (["device.drift.t0_s=20.0", "device.drift.nu=0.1", "device.drift.spread=3.0"], "3 is outside of 1e-18 to 2;"),
        (["device.access_resistance_ohm=1e9"], "1e+09 ohm is 1e+05 times the resistance of a cell at g_max_siemens"),
        (
            [
                "device.temperature.kelvin=330.0",
                "device.temperature.reference_kelvin=300000.0",
                "device.temperature.per_kelvin=0.0",
            ],
            "300000 K is outside of 0.001 to 10000 K",
        ),
        (["converters.adc.gain_error=5.0"], "5 is outside of 1e-18 to 1; the nearest"),
        (["converters.dac.gain_error=5.0"], "5 is outside of 1e-18 to 1; the nearest"),
        (["converters.adc.offset_codes=1e9"], "1e+09 codes is outside of 1e-18 to 1.67772e+07 codes"),
    ],
)
def test_units_of_devices_and_converters(overrides: list[str], message: str) -> None:
    found = check_target("generic_128", overrides)
    assert any(message in each for each in found), found


def test_what_cells_have_is_accepted() -> None:
    device = load_target(
        "generic_128",
        [
            "device.programming.absolute_siemens=2e-5",
            "device.programming.log_normal=1.5",
            "device.faults.stuck_on_siemens=5e-3",  # a cell that is formed for good
            "device.faults.stuck_off_siemens=0.0",
            "device.access_resistance_ohm=1e4",
        ],
    ).device
    assert device.programming is not None
    assert device.faults is not None


def test_ranges_are_ranges() -> None:
    for each in (*RANGES.values(), OTHERS, COUNTS):
        assert 0 < each.smallest < each.largest
        assert each.holds(each.smallest)
        assert each.holds(-each.largest)
        assert not each.holds(each.largest * 1.01)
        assert not each.holds(each.smallest / 1.01)
