"""Levels from CSV files: the numbers that a target gets, and faults with file and line."""

import tomllib
from pathlib import Path

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcompiler.errors import TargetError
from mcompiler.target import check_target, json_schema, load_target, resolved_toml, source_of

TOML = """extends = "generic_128"
[device]
levels_csv = "levels.csv"
measured_deviations = "alone"
source = "wafer 7"
[encoding]
slices = 1
source = "one cell"
[converters.adc]
bits = 20
source = "lossless"
"""
CSV = """mean_siemens,deviation_siemens
1.0e-6,1e-7
34.5e-6,2.5e-7
67.1e-6,3e-7
100e-6,0
"""


def target_file(folder: Path, csv: str = CSV, toml: str = TOML) -> Path:
    (folder / "levels.csv").write_text(csv, encoding="utf-8")
    path = folder / "my.toml"
    path.write_text(toml, encoding="utf-8")
    return path


def test_levels_become_means_and_deviations(tmp_path: Path) -> None:
    device = load_target(target_file(tmp_path)).device
    unit = 99e-6 / 4096
    assert device.level_means == (0, round(33.5e-6 / unit), round(66.1e-6 / unit), 4096)
    assert device.programming is not None
    assert device.programming.level_siemens == (1e-7, 2.5e-7, 3e-7, 0.0)
    assert source_of(device, "level_means") == "wafer 7"
    assert source_of(device.programming, "level_siemens") == "wafer 7"
    assert device.programming.proportional == 0, "measured deviations hold what generic_128 says, 1%"


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(means=st.lists(st.integers(1, 4000), min_size=4, max_size=4, unique=True))
def test_every_mean_is_within_half_a_unit(means: list[int], tmp_path: Path) -> None:
    siemens = [1e-6 + mean * 99e-6 / 4000 for mean in sorted(means)]
    csv = "mean_siemens\n" + "".join(f"{each!r}\n" for each in siemens)
    device = load_target(target_file(tmp_path, csv)).device
    assert device.level_means is not None
    held = [device.g_min_siemens + mean * device.mean_siemens for mean in device.level_means]
    assert held == pytest.approx(siemens, abs=0.5001 * device.mean_siemens)


def test_a_resolved_target_needs_no_csv(tmp_path: Path) -> None:
    target = load_target(target_file(tmp_path))
    again = tmp_path / "elsewhere" / "target.toml"
    again.parent.mkdir()
    again.write_text(resolved_toml(target), encoding="utf-8")
    assert "levels_csv" not in again.read_text(encoding="utf-8")
    assert load_target(again) == target


def test_units_are_those_of_the_whole_target(tmp_path: Path) -> None:
    """The range may stand in another file than the CSV, or be overridden."""
    device = load_target(target_file(tmp_path), ["device.g_max_siemens=200e-6"]).device
    assert device.level_means is not None
    assert device.level_means[-1] == round(99e-6 / (199e-6 / 4096))


def test_csv_without_deviations_with_spaces_and_a_mark(tmp_path: Path) -> None:
    csv = "\ufeffmean_siemens \n 1e-6\n30e-6 \n\n60e-6\n90e-6\n"
    device = load_target(target_file(tmp_path, csv)).device
    assert device.level_means is not None
    assert device.programming is not None
    assert device.programming.level_siemens is None


def test_csv_is_beside_the_file_that_names_it(tmp_path: Path) -> None:
    target_file(tmp_path)
    child = tmp_path / "deep" / "child.toml"
    child.parent.mkdir()
    child.write_text('extends = "../my.toml"', encoding="utf-8")
    assert load_target(child).device == load_target(tmp_path / "my.toml").device


def test_csv_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target_file(tmp_path)
    monkeypatch.chdir(tmp_path)
    device = load_target(
        "generic_128", ["device.levels_csv=levels.csv", "device.measured_deviations=alone", "encoding.slices=1"]
    ).device
    assert device.level_means == load_target("my.toml").device.level_means
    assert source_of(device, "level_means") == "given on the command line"


def test_later_means_win(tmp_path: Path) -> None:
    device = load_target(target_file(tmp_path), ["device.level_means=[0,1,2,3]"]).device
    assert device.level_means == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("csv", "fault"),
    [
        ("", "levels.csv, line 1: no column mean_siemens; the first line names the columns mean_siemens, "),
        ("mean_siemens\n", "levels.csv: holds no level; give one row for each"),
        ("mean_siemen\n1e-6\n", "levels.csv, line 1: unknown column 'mean_siemen'; did you mean 'mean_siemens'?"),
        ("mean_siemens,x\n", "levels.csv, line 1: unknown column 'x'; its columns are mean_siemens, deviation_siemens"),
        ("mean_siemens,mean_siemens\n", "levels.csv, line 1: two columns 'mean_siemens'"),
        ("mean_siemens\n1e-6\n2,e-6\n", "levels.csv, line 3: not 1 values, as line 1 names columns"),
        ("mean_siemens,deviation_siemens\n1e-6\n", "levels.csv, line 2: not 2 values, as line 1 names columns"),
        (
            "mean_siemens\n1e-6\nfour\n",
            "levels.csv, line 3: mean_siemens: must be a number above 0, in siemens, not 'four'",
        ),
        ("mean_siemens\n0\n", "levels.csv, line 2: mean_siemens: must be a number above 0, in siemens, not '0'"),
        ("mean_siemens\ninf\n", "levels.csv, line 2: mean_siemens: must be a number above 0, in siemens, not 'inf'"),
        (
            "mean_siemens,deviation_siemens\n1e-6,-1\n",
            "levels.csv, line 2: deviation_siemens: must be a number of at least 0, in siemens, not '-1'",
        ),
        (
            "mean_siemens\n1e-6\n30\n",
            "levels.csv, line 3: 30 S is far outside of g_min_siemens = 1e-06 to g_max_siemens = 0.0001; check the "
            "unit, or the range in [device]",
        ),
        (
            "mean_siemens\n\n30e-6\n\n20e-6\n",
            "levels.csv, line 5: 2e-05 S is not above the 3e-05 S of the level before by 2.4e-08 S, (g_max - g_min) / "
            "4096; give the lowest level first",
        ),
    ],
)
def test_fault_names_file_and_line(csv: str, fault: str, tmp_path: Path) -> None:
    (found,) = check_target(target_file(tmp_path, csv))
    assert found.startswith(f"{tmp_path}/my.toml: device.levels_csv: {fault}"), found


def test_number_of_levels_is_checked(tmp_path: Path) -> None:
    (fault,) = check_target(target_file(tmp_path, "mean_siemens\n1e-6\n2e-5\n"))
    assert fault.endswith("my.toml: device.level_means: 2 levels, but device.levels is 4; give one for each")


@pytest.mark.parametrize(
    ("given", "wanted", "fault"),
    [
        ('"levels.csv"', '"no.csv"', "no.csv: cannot be read: No such file or directory; its place is given from"),
        ('"levels.csv"', "3", "must be the name of a CSV file, in quotes"),
        (
            "levels_csv",
            "level_means = [0, 1, 2, 3]\nlevels_csv",
            "device.level_means is given too, and both define the levels; remove one",
        ),
        (
            "levels_csv",
            "programming.level_siemens = [0, 0, 0, 0]\nlevels_csv",
            "levels.csv has a column deviation_siemens, and device.programming.level_siemens is given too; remove",
        ),
    ],
)
def test_other_faults(given: str, wanted: str, fault: str, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"my\.toml: device\.levels_csv: ") as caught:
        load_target(target_file(tmp_path, CSV, TOML.replace(given, wanted)))
    assert fault in str(caught.value)


def test_no_text(tmp_path: Path) -> None:
    path = target_file(tmp_path)
    (tmp_path / "levels.csv").write_bytes(b"mean_siemens\n\xff\n")
    (fault,) = check_target(path)
    assert "levels.csv: not UTF-8 text" in fault


def test_a_wrong_range_is_the_fault_that_is_told(tmp_path: Path) -> None:
    found = check_target(target_file(tmp_path), ["device.g_max_siemens=1e-7"])
    assert "device.g_max_siemens: 1e-07 S is not above" in found[0]
    assert not any("csv" in fault for fault in found)


def test_schema_knows_the_key(tmp_path: Path) -> None:
    jsonschema.Draft202012Validator(json_schema()).validate(tomllib.loads(TOML))


@pytest.mark.parametrize(
    ("base", "key"),
    [
        ("generic_128", "device.programming.proportional of generic_128.toml"),
        ("pcm_hermes", "device.programming.polynomial_siemens of pcm_hermes.toml"),
        ("neurram", "device.relaxation.two_days of neurram.toml"),
    ],
)
@pytest.mark.parametrize("levels", ["levels_csv = 'levels.csv'", "programming.level_siemens = [1e-7, 2e-7, 3e-7, 0]"])
def test_inherited_descriptions_beside_measured_ones_are_named(
    base: str, key: str, levels: str, tmp_path: Path
) -> None:
    toml = f'extends = "{base}"\n[device]\nlevels = 4\n{levels}\nsource = "wafer 7"\n'
    path = target_file(tmp_path, CSV.replace("100e-6", "25e-6").replace("67.1", "20").replace("34.5", "9"), toml)
    (found,) = check_target(path)
    assert f"device.programming.level_siemens: measured deviations of the levels, and {key} describes" in found
    assert 'write device.measured_deviations = "alone" for the measured ones only, or "added" for both' in found


def test_measured_deviations_alone_and_added(tmp_path: Path) -> None:
    path = target_file(tmp_path, toml=TOML.replace('measured_deviations = "alone"\n', ""))
    alone = load_target(path, ["device.measured_deviations=alone"]).device.programming
    added = load_target(path, ["device.measured_deviations=added"]).device.programming
    assert alone is not None
    assert added is not None
    assert alone.level_siemens == added.level_siemens == (1e-7, 2.5e-7, 3e-7, 0.0)
    assert (alone.proportional, added.proportional) == (0.0, 0.01)
    (found,) = check_target(path, ["device.measured_deviations=both"])
    assert found.endswith('device.measured_deviations: must be "alone" or "added", not \'both\'')


def test_measured_deviations_replace_measured_relaxation(tmp_path: Path) -> None:
    device = """extends = "neurram"
[device]
levels = 4
measured_deviations = "alone"
programming.level_siemens = [1e-7, 2e-7, 3e-7, 4e-7]
source = "wafer 7"
[precision]
weights = 3
source = "x"
"""
    loaded = load_target(target_file(tmp_path, toml=device)).device
    assert not loaded.relaxation
    assert loaded.programming is not None
    assert loaded.programming.level_siemens == (1e-7, 2e-7, 3e-7, 4e-7)


def test_zero_describes_nothing(tmp_path: Path) -> None:
    path = target_file(tmp_path, toml=TOML.replace('measured_deviations = "alone"', "programming.proportional = 0.0"))
    assert check_target(path) == ()


def test_deviations_in_the_wrong_unit(tmp_path: Path) -> None:
    (found,) = check_target(target_file(tmp_path, CSV.replace("2.5e-7", "0.25")))
    assert found.endswith(
        "levels.csv, line 3: 0.25 S is more than any deviation of cells up to g_max_siemens = 0.0001; check the unit, "
        "or the range in [device]"
    )
