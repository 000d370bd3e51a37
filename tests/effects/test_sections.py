"""Imperfections in target files: what is taken, what is refused and in which words, and that all of it comes back."""

import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcompiler.target import (
    Correlation,
    Target,
    assumptions,
    check_target,
    json_schema,
    load_target,
    resolved_toml,
    source_of,
)

EVERYTHING = """
[device]
access_resistance_ohm = 2000
measured_deviations = "added"
source = "wafer 7"
programming = {absolute_siemens = 1e-7, proportional = 0.01, log_normal = 0.02, polynomial_siemens = [-1e-6, 2e-6], \
level_siemens = [1e-7, 2e-7, 3e-7, 0]}
faults = {stuck_on = 0.01, stuck_off = 0.02, stuck_on_siemens = 2e-4, stuck_off_siemens = 0, open_word_lines = 0.001, \
open_bit_lines = 0.002}
telegraph = {correlation = "per_inference", share = 0.1, amplitude = 0.2}
drift = {t0_s = 20, nu = 0.05, nu_per_log = -0.01, nu_min = 0.0, nu_max = 0.1, spread = 0.01, spread_per_log = -0.01, \
spread_min = 0.001, spread_max = 0.05}
curve = {voltages_v = [0.1, 0.2, 0.3], ratios = [0.4, 1, 1.8]}
temperature = {kelvin = 350, reference_kelvin = 300, per_kelvin = -0.001}
write = {tolerance_siemens = 1e-6, pulses = 8.5, pulse_s = 1e-6, pulse_energy_j = 1e-11, verify_s = 1e-6, \
verify_energy_j = 1e-12, parallel_cells = 4, endurance = 1e6}

[device.noise]
correlation = "static_at_t"
absolute_siemens = 1e-7
proportional = 0.01
polynomial_siemens = [1e-7]
one_over_f = {q = 0.01, q_exponent = 0.65, q_largest = 0.2, read_s = 2.5e-7}

[array]
wire_resistance_ohm = 1.0
bit_wire_resistance_ohm = 2.0
driver_resistance_ohm = 100
sense_resistance_ohm = 50
spare_rows = 2
spare_columns = 4
source = "layout"

[hierarchy]
spare_arrays_per_core = 1
source = "layout"

[converters]
source = "test chip"
dac = {gain_error = 0.01}
adc = {offset_codes = 0.5, gain_error = 0.02, nonlinearity_codes = 0.3, noise_codes = 0.25}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "my.toml"
    path.write_text(f'extends = "generic_128"\n{text}', encoding="utf-8")
    return path


def faults(folder: Path, text: str) -> list[str]:
    return [fault.replace(f"{folder}/", "") for fault in check_target(write(folder, text))]


def test_everything_is_read_and_comes_back(tmp_path: Path) -> None:
    assert faults(tmp_path, EVERYTHING) == []
    target = load_target(tmp_path / "my.toml")
    device, array = target.device, target.array
    assert device.programming is not None
    assert device.programming.polynomial_siemens == (-1e-6, 2e-6)
    assert device.noise is not None
    assert device.noise.correlation is Correlation.STATIC_AT_T
    assert device.noise.one_over_f is not None
    assert device.noise.one_over_f.read_s == 2.5e-7
    assert device.telegraph is not None
    assert device.telegraph.low == 0.5
    assert (array.wire_resistance_ohm, array.bit_wire_ohm) == (1.0, 2.0)
    assert target.converters.adc.noise_codes == 0.25
    again = tmp_path / "again.toml"
    again.write_text(resolved_toml(target), encoding="utf-8")
    assert load_target(again) == target
    jsonschema.Draft202012Validator(json_schema()).validate(tomllib.loads(resolved_toml(target)))


def test_what_is_left_out_is_ideal() -> None:
    target = load_target("isaac")
    device = target.device
    effects = ("programming", "faults", "noise", "telegraph", "drift", "curve", "temperature", "write")
    assert [getattr(device, effect) for effect in effects] == [None] * len(effects)
    assert device.relaxation == {}
    assert device.access_resistance_ohm == 0
    adc, array = target.converters.adc, target.array
    assert (adc.offset_codes, adc.gain_error, adc.nonlinearity_codes, adc.noise_codes) == (0, 0, 0, 0)
    assert (array.bit_wire_ohm, array.driver_resistance_ohm, array.sense_resistance_ohm) == (0, 0, 0)
    assert (array.spare_rows, array.spare_columns, target.hierarchy.spare_arrays_per_core) == (0, 0, 0)


def test_bit_lines_are_as_word_lines_where_they_do_not_differ(tmp_path: Path) -> None:
    array = load_target(write(tmp_path, '[array]\nwire_resistance_ohm = 2.5\nsource = "layout"')).array
    assert array.bit_wire_ohm == 2.5


def test_source_of_the_device_covers_the_sections_inside(tmp_path: Path) -> None:
    text = '[device]\nsource = "assumption: wafer 7"\n[device.drift]\nt0_s = 1\nnu = 0.05\nsources.nu = "fit"'
    target = load_target(write(tmp_path, text))
    assert target.device.drift is not None
    assert source_of(target.device.drift, "t0_s") == "assumption: wafer 7"
    assert source_of(target.device.drift, "nu") == "fit"
    assert ("device.drift.t0_s", 1.0, "assumption: wafer 7") in assumptions(target)


def test_an_effect_is_switched_on_from_the_command_line() -> None:
    target = load_target("isaac", ["device.programming.log_normal=0.1", "converters.adc.noise_codes=0.3"])
    assert target.device.programming is not None
    assert target.device.programming.log_normal == 0.1
    assert source_of(target.device.programming, "log_normal") == "given on the command line"
    assert target.converters.adc.noise_codes == 0.3


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "[device.relaxation.day]\nafter_s = 86400\npolynomial_siemens = [1e-6]",
            "device.relaxation: it holds all causes since programming, device.programming among them; remove one of "
            "the two",
        ),
        (
            "device.measured_deviations = 'added'\n[device.programming]\nlevel_siemens = [1e-6, 2e-6]",
            "device.programming.level_siemens: 2 deviations, but device.levels is 4; give one for each",
        ),
        (
            "[device.programming]\npolynomial_siemens = []",
            "device.programming.polynomial_siemens: holds 0 values; give at least 1",
        ),
        ("[device.programming]\nproportional = -0.1", "device.programming.proportional: must be at least 0, not -0.1"),
        ("[device.programming]\nsigma = 0.1", "device.programming.sigma: unknown key; known here: "),
        (
            "[device.faults]\nstuck_on = 0.6\nstuck_off = 0.5",
            "device.faults.stuck_on: 0.6 of the cells stuck on and 0.5 stuck off are more than all; both are shares "
            "of 1",
        ),
        ("[device.faults]\nstuck_on = 2", "device.faults.stuck_on: must be at most 1, not 2"),
        (
            '[device.noise]\ncorrelation = "per_phase"',
            "device.noise.correlation: must be 'static_at_t', 'per_inference' or 'per_read', not 'per_phase'",
        ),
        ("[device.noise]\nproportional = 0.1", "device.noise.correlation: missing"),
        (
            '[device.noise]\ncorrelation = "per_read"\none_over_f.q = 0.1',
            "device.noise.one_over_f.read_s: missing: 1/f noise grows with ln(time / read_s) where q is above 0",
        ),
        (
            '[array]\ndrive = "gate"\n[converters.dac]\nbits = 2',
            "array.drive: gates are on or off, and converters.dac.bits applies 2 bits at once; set converters.dac.bits "
            "= 1, or array.drive = 'row_voltage'",
        ),
        (
            '[array]\nidle_rows = "floating"\n[calibration]\npredistort = true',
            "calibration.predistort: wires of driven gates, floating rows or curved cells are no linear map that cells "
            "could be chosen for; set it false",
        ),
        (
            '[encoding]\nweights = "offset"\npedestal = "digital_count"\n[calibration]\npredistort = true',
            "calibration.predistort: it scales the part above the pedestal, but a pedestal that is counted digitally "
            "is subtracted unscaled; choose another encoding.pedestal",
        ),
        ("[device.drift]\nt0_s = 0\nnu = 0.1", "device.drift.t0_s: must be above 0, not 0"),
        (
            "[device.drift]\nt0_s = 1\nnu = 0.1\nnu_min = 0.2\nnu_max = 0.1",
            "device.drift.nu_min: 0.2 is above nu_max = 0.1; exchange them",
        ),
        (
            "[device.drift]\nt0_s = 1\nnu = 0.1\nspread_min = 0.2\nspread_max = 0.1",
            "device.drift.spread_min: 0.2 is above spread_max = 0.1; exchange them",
        ),
        ("[device.curve]", "device.curve: give sinh_v, or voltages_v and ratios"),
        (
            "[device.curve]\nsinh_v = 0.3\nvoltages_v = [0.2]\nratios = [1]",
            "device.curve: give sinh_v, or voltages_v and ratios, not both",
        ),
        (
            "[device.curve]\nvoltages_v = [0.1, 0.2]\nratios = [1]",
            "device.curve.ratios: 2 voltages and 1 ratios; give one ratio for each of voltages_v",
        ),
        (
            "[device.curve]\nvoltages_v = [0.2, 0.1]\nratios = [1, 2]",
            "device.curve.voltages_v: not in ascending order; give the lowest first, no two of them equal",
        ),
        (
            "[device.curve]\nvoltages_v = [0.1, 0.3]\nratios = [0.5, 1.5]",
            "device.curve.voltages_v: device.read_voltage_v = 0.2 V is not among them; conductances are chords at that "
            "voltage: give it, with the ratio 1",
        ),
        (
            "[device.curve]\nvoltages_v = [0.1, 0.2]\nratios = [0.4, 0.9]",
            "device.curve.ratios: 0.9 at device.read_voltage_v = 0.2 V must be 1; divide all by it",
        ),
        (
            "[device.temperature]\nkelvin = 400\nreference_kelvin = 300\nper_kelvin = -0.01",
            "device.temperature.per_kelvin: -0.01 per kelvin leaves no conductance at 400 K; the linear law ends "
            "before that: check kelvin and reference_kelvin",
        ),
        ("[device.write]\npulses = 0\npulse_s = 1\npulse_energy_j = 0", "device.write.pulses: must be above 0, not 0"),
        ("[array]\nspare_rows = 1.5", "array.spare_rows: must be a whole number, not 1.5"),
        ("[converters.adc]\nnoise_codes = -1", "converters.adc.noise_codes: must be at least 0, not -1"),
    ],
)
def test_fault(text: str, fault: str, tmp_path: Path) -> None:
    found = faults(tmp_path, f'{text}\nsource = "x"')
    assert any(fault in each for each in found), found


def test_one_time_of_relaxation_is_given_once(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text(
        'extends = "neurram"\n[device.relaxation.daily]\nafter_s = 86400\npolynomial_siemens = [1e-6]\nsource = "x"',
        encoding="utf-8",
    )
    (fault,) = check_target(path)
    assert fault.endswith("daily.after_s: 86400 s, as device.relaxation.day; give each time once")


def numbers(low: float, high: float) -> st.SearchStrategy[float]:
    """Numbers within the ranges of targets, which start at magnitudes of 1e-18 (``mcompiler.target.ranges``)."""
    return st.floats(low, high).map(lambda value: value if abs(value) >= 1e-18 else 0.0)


SECTIONS: dict[str, dict[str, Any]] = {
    "programming": {"log_normal": numbers(0, 2), "absolute_siemens": numbers(0, 1e-6)},
    "faults": {"stuck_on": numbers(0, 0.5), "stuck_off": numbers(0, 0.5), "open_bit_lines": numbers(0, 1)},
    "drift": {"t0_s": numbers(1e-9, 1e9), "nu": numbers(-1, 1), "spread": numbers(-1, 1)},
    "temperature": {
        "kelvin": numbers(200, 400),
        "reference_kelvin": numbers(200, 400),
        "per_kelvin": numbers(-4e-3, 4e-3),
    },
}


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(name=st.sampled_from(sorted(SECTIONS)), data=st.data())
def test_any_effect_comes_back(name: str, data: st.DataObject, tmp_path: Path) -> None:
    values = {key: data.draw(strategy) for key, strategy in SECTIONS[name].items()}
    target = load_target("isaac", [f"device.{name}.{key}={value!r}" for key, value in values.items()])
    again = tmp_path / "again.toml"
    again.write_text(resolved_toml(target), encoding="utf-8")
    assert load_target(again) == target


def test_effects_made_in_python_are_checked_too() -> None:
    data = load_target("isaac").model_dump()
    data["device"]["curve"] = {"sinh_v": 0.3, "ratios": [1.0]}
    with pytest.raises(ValueError, match=r"device\.curve: give sinh_v, or voltages_v and ratios, not both"):
        Target.model_validate(data)
