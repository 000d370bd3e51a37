"""Tables by conductance: from CSV files, between their points, and faults."""

from pathlib import Path

import numpy as np
import pytest

from mcompiler.effects.drift import exponents
from mcompiler.effects.noise import noise_deviation
from mcompiler.target import check_target, load_target, resolved_toml, source_of

TOML = """extends = "generic_128"
[device.drift]
t0_s = 20.0
table_csv = "drift.csv"
source = "wafer 7"
[device.noise]
correlation = "per_read"
table_csv = "noise.csv"
source = "wafer 7"
[device.noise.one_over_f]
read_s = 1e-6
table_csv = "slow.csv"
source = "wafer 7"
"""
FILES = {
    "drift.csv": "conductance_siemens,nu,spread\n1e-6,0.1,0.03\n51e-6,0.05,0.02\n100e-6,0.02,0.01\n",
    "noise.csv": "deviation_siemens, conductance_siemens\n\n1e-7,1e-6\n3e-7,1e-4\n",
    "slow.csv": "conductance_siemens,q\n1e-6,0.05\n1e-4,0.01\n",
}


def written(folder: Path, **changed: str) -> Path:
    for name, text in FILES.items():
        (folder / name).write_text(changed.get(name.removesuffix(".csv"), text), encoding="utf-8")
    path = folder / "my.toml"
    path.write_text(TOML, encoding="utf-8")
    return path


def test_quantities_between_the_points(tmp_path: Path) -> None:
    device = load_target(written(tmp_path)).device
    assert device.drift is not None
    G = np.array([0.5e-6, 26e-6, 51e-6, 75.5e-6, 2e-4])
    mean, spread = exponents(G, device)
    assert mean == pytest.approx([0.1, 0.075, 0.05, 0.035, 0.02])
    assert spread == pytest.approx([0.03, 0.025, 0.02, 0.015, 0.01])
    t, middle = 1e4, 50.5e-6
    slow = middle * 0.03 * np.sqrt(np.log((t + 1e-6) / 2e-6))
    assert noise_deviation(np.array([middle]), np.array([middle]), device, t) == pytest.approx([np.hypot(2e-7, slow)])


def test_the_resolved_target_needs_no_file_and_keeps_sources(tmp_path: Path) -> None:
    target = load_target(written(tmp_path))
    again = tmp_path / "other" / "again.toml"
    again.parent.mkdir()
    again.write_text(resolved_toml(target), encoding="utf-8")
    assert load_target(again) == target
    assert target.device.drift is not None
    assert source_of(target.device.drift, "table_nu") == "wafer 7"


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"drift": "conductance_siemens,nu\n1e-6,0.1\n"}, "drift.table_csv: drift.csv, line 1: the columns are"),
        ({"drift": FILES["drift.csv"].replace("0.05,", "x,")}, "drift.csv, line 3: nu: must be a number, not 'x'"),
        ({"noise": "conductance_siemens,deviation_siemens\n"}, "noise.csv: holds no state; give one row"),
        ({"slow": FILES["slow.csv"] + "1e-4\n"}, "slow.csv, line 4: not 2 values, as line 1 names columns"),
        ({"slow": FILES["slow.csv"] + "2e-5,0.1\n"}, "one_over_f.table_siemens: not in ascending order"),
        (
            {"noise": FILES["noise.csv"].replace("3e-7", "0.3")},
            "table_deviation_siemens: 0.3 S is above 0.0001 S",
        ),
        ({"slow": FILES["slow.csv"].replace("1e-4", "100")}, "one_over_f.table_siemens: 100 S is outside of"),
    ],
)
def test_faults(changed: dict[str, str], fault: str, tmp_path: Path) -> None:
    found = check_target(written(tmp_path, **changed))
    assert any(fault in each for each in found), found


def test_lists_of_different_lengths() -> None:
    (found,) = check_target(
        "generic_128",
        [
            "device.drift.t0_s=20.0",
            "device.drift.table_siemens=[1e-6,1e-5]",
            "device.drift.table_nu=[0.1]",
            "device.drift.table_spread=[0.0,0.1]",
        ],
    )
    assert "device.drift.table_nu: 1 values, but table_siemens has 2 conductances; give one for each" in found


def test_a_law_without_exponent_is_refused() -> None:
    (found,) = check_target("generic_128", ["device.drift.t0_s=20.0"])
    assert found.endswith("device.drift.nu: missing")
