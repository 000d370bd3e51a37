"""For device physicists: from measured cells to the accuracy of chips made of such cells.

    python examples/device_physicist.py

writes a target with measured conductance levels, read noise and yield, compiles the digits network of the demo for this
target, verifies the mapping with ideal devices, and simulates chips with the measured errors: accuracy, and which error
costs how much. It takes a few seconds. Replace LEVELS_CSV and TARGET by your own measurements.
"""

from importlib.resources import as_file, files
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import mcompiler

LEVELS_CSV = """\
mean_siemens,deviation_siemens
5.1e-6,0.4e-6
14.8e-6,0.7e-6
25.2e-6,0.9e-6
35.1e-6,1.0e-6
44.7e-6,1.1e-6
55.3e-6,1.1e-6
65.0e-6,1.0e-6
74.6e-6,0.8e-6
"""
"""Mean and standard deviation of the conductance of each level, over many cells."""

TARGET = """\
extends = "generic_128"
description = "generic_128 with cells of wafer 7"

[device]
g_min_siemens = 5e-6
g_max_siemens = 75e-6
levels = 8
levels_csv = "levels.csv"
measured_deviations = "alone"
source = "example: wafer 7, 4,096 cells, program and verify"

[device.noise]
correlation = "per_read"
proportional = 0.01
source = "example: 1,000 reads of 64 cells"

[device.faults]
stuck_on = 0.0005
stuck_off = 0.003
source = "example: cells that 50 pulses do not move"

[encoding]
slices = 1
source = "measured levels need one cell for each weight"

[converters.adc]
bits = 8
range = "calibrated"
source = "example: our choice"
"""


def compile_for_wafer(demo: Path, folder: Path) -> mcompiler.Build:
    """The digits network for a chip with the measured cells."""
    (folder / "levels.csv").write_text(LEVELS_CSV, encoding="utf-8")
    (folder / "wafer7.toml").write_text(TARGET, encoding="utf-8")
    target = mcompiler.load_target(folder / "wafer7.toml")
    return mcompiler.compile(demo / "digits.onnx", target, calibration=demo / "digits_calibration.npz")


def simulate_chips(build: mcompiler.Build, x: np.ndarray, y: np.ndarray) -> None:
    """Verify the mapping with ideal devices, then draw chips with the errors of the target."""
    ideal = build.verify(x, y, ideal=True)
    print(f"ideal devices and lossless converters: exact {ideal.exact}, top-1 {ideal.top1_mapped:.1%}")

    result = build.trials(x, y, options=mcompiler.TrialOptions(trials=4))
    accuracy = result.accuracy
    assert accuracy is not None
    print(f"{len(result.chips)} chips, effects {', '.join(result.effects)}:")
    print(f"top-1 {accuracy.mean:.1%} on average, {min(chip.top1 or 0 for chip in result.chips):.1%} on the worst chip")

    causes = list(result.layers[0].causes)
    print("\nsignal to error in dB  " + "".join(f"{cause:>14}" for cause in causes))
    for layer in result.layers:
        values = [f"{value:14.1f}" if value is not None else f"{'-':>14}" for value in layer.causes.values()]
        print(f"{layer.name:23}" + "".join(values))


if __name__ == "__main__":
    with as_file(files("mcompiler") / "demo") as demo_folder, TemporaryDirectory() as work:
        held_out = np.load(demo_folder / "digits.npz")
        simulate_chips(compile_for_wafer(demo_folder, Path(work)), held_out["x"], held_out["y"])
