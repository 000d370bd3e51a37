"""ResNet-20 on CIFAR-10 with devices, wires and converters that err: accuracy over chips, with intervals.

    python benchmarks/robustness.py [--parts sweeps compressed wires_time cost neurram] [--limit 1000] [--trials 5]

4-bit cells in differential pairs, subtracted before an 8-bit ADC of calibrated range, 1-bit phases, 128x128 arrays,
unless a sweep says otherwise. Points that are in benchmarks/results/robustness.json with the same limit and trials are
kept. Needs ../shared.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import MODEL, normalised
from common import SHARED, interleaved, known, ratio, write
from images import load_images
from paper import TARGETS as MAPPED
from robustness_page import page, plot

import mcompiler
from mcompiler.driver import Build
from mcompiler.driver.content import mapped_from_cells, noise_bank
from mcompiler.driver.trials import TrialOptions
from mcompiler.effects import FAULTS, NOISE, PROGRAMMING, WIRES, Effect
from mcompiler.physics.chip import Chip
from mcompiler.runtime import open_model
from mcompiler.target import Target, load_target

SOURCE = "assumption: sweep"
BASE = (
    "device.levels=16", "encoding.slices=2", "device.g_min_siemens=1e-6", "device.g_max_siemens=50e-6",
    "converters.adc.bits=8", "converters.adc.range=calibrated",
)  # fmt: skip
PCM = (  # the law of phase-change memory, Joshi et al. (2020) as in targets/pcm_joshi.toml, on these cells
    "device.drift.t0_s=20.0", "device.drift.nu=0.0244", "device.drift.nu_per_log=-0.0155", "device.drift.nu_min=0.049",
    "device.drift.nu_max=0.1", "device.drift.spread=-0.0059", "device.drift.spread_per_log=-0.0125",
    "device.drift.spread_min=0.008", "device.drift.spread_max=0.045",
    "device.drift.source=Joshi et al., Nature Communications 11, 2473 (2020)",
)  # fmt: skip
OHMS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
TIMES = {"20 s": 20.0, "1 hour": 3600.0, "1 day": 86400.0, "1 month": 2.6e6}


def points() -> dict[str, dict[str, Any]]:
    """Sweep, value, overrides, effects and time of every point."""
    found: dict[str, dict[str, Any]] = {}

    def add(sweep: str, value: Any, overrides: tuple[str, ...], effects: tuple[str, ...], **more: Any) -> None:
        found[f"{sweep} {value}"] = {
            "sweep": sweep, "value": value, "overrides": overrides, "effects": effects, **more,
        }  # fmt: skip

    for share in (0.02, 0.05, 0.1, 0.2):
        add("programming, share of g", share, (f"device.programming.proportional={share}",), ("programming",))
    for sigma in (0.05, 0.1, 0.2):
        text = (f"device.programming.log_normal={sigma}", "device.programming.proportional=0.0")
        add("programming, log-normal", sigma, text, ("programming",))
    for share in (0.001, 0.005, 0.01, 0.02):
        half = (f"device.faults.stuck_on={share / 2}", f"device.faults.stuck_off={share / 2}")
        add("stuck cells", share, half, ("faults",))
    for name, seconds in TIMES.items():
        add("drift", name, PCM, ("drift",), time_s=seconds)
        add(
            "drift, compensated", name, (*PCM, "calibration.drift_interval_s=20.0", f"calibration.source={SOURCE}"),
            ("drift",), time_s=seconds,
        )  # fmt: skip
    for bits in (4, 5, 6, 7, 9):
        add("ADC bits, full range", bits, (f"converters.adc.bits={bits}", "converters.adc.range=full"), ())
        for per in ("layer", "array", "column"):
            add(
                f"ADC bits, range per {per}",
                bits,
                (f"converters.adc.bits={bits}", f"converters.adc.range_per={per}"),
                (),
            )
    for codes in (1, 2, 4):
        errors = (f"converters.adc.offset_codes={codes}", f"converters.adc.gain_error={codes / 100}")
        for per, name in (("none", "as they are"), ("adc", "corrected per ADC"), ("column", "corrected per column")):
            keys = (*errors, f"calibration.correction={per}", f"calibration.source={SOURCE}")
            add(f"ADC errors, {name}", codes, keys, ("converters",))
    for ohm in OHMS:
        text = (f"array.wire_resistance_ohm={ohm}", f"array.driver_resistance_ohm={ohm}")
        stiffness = round(ohm * 50e-6 * 128**2, 4)
        add("wires, ohm x g_max x rows^2", stiffness, text, ("wires",))
        if ohm >= 1:
            more = (*text, "calibration.predistort=true", f"calibration.source={SOURCE}")
            add("wires, predistorted", stiffness, more, ("wires",))
    return found


def build_of(target: str, overrides: tuple[str, ...], calibration: dict[str, Any]) -> Build:
    return mcompiler.compile(MODEL, target, calibration=calibration, overrides=overrides)


def trial(build: Build, x: Any, y: Any, effects: tuple[str, ...], trials: int, time_s: float | None) -> dict[str, Any]:
    """Accuracy over chips; without effects one chip says all."""
    options = TrialOptions(effects, trials if effects else 1, time_s=time_s, causes=False)
    found = build.trials(x, y, options=options)
    assert found.accuracy is not None
    return {
        "top1_float": found.top1_float, "top1_quantised": found.top1_quantised, "top1_ideal": found.top1_ideal,
        **found.accuracy.as_json(), "chips": [chip.top1 for chip in found.chips],
    }  # fmt: skip


def wires_time(cells: int, x: Any, y: Any, calibration: dict[str, Any]) -> dict[str, Any]:
    """All images with wires on one thread: seconds, transfer matrices included."""
    slices = {2: 4, 4: 2}[cells]
    overrides = (
        *BASE[2:], f"device.levels={1 << cells}", f"encoding.slices={slices}", "array.wire_resistance_ohm=1.0",
        "array.driver_resistance_ohm=1.0",
    )  # fmt: skip
    build = build_of("generic_128", overrides, calibration)
    started = time.perf_counter()
    chip = Chip(build.target, 0, frozenset({WIRES}), 1.0)
    mapped = mapped_from_cells(build.skeleton, build.layer_data, build.target, chip=chip)
    solved = time.perf_counter() - started
    session, batch = open_model(mapped, threads=1), noise_bank(build.layer_data, build.target, chip)[1]
    right = 0
    for first in range(0, len(x), batch):
        scores = session.run({session.inputs[0].name: x[first : first + batch]})[session.outputs[0]]
        right += int((scores.argmax(axis=1) == y[first : first + batch]).sum())
    return {
        "cell_bits": cells, "images": len(x), "seconds": round(time.perf_counter() - started, 1),
        "seconds_solver_and_model": round(solved, 1), "top1": right / len(x),
        "crossbars": sum(len(layer.table) for layer in build.layer_data),
    }  # fmt: skip


def cost(x: Any, calibration: dict[str, Any]) -> dict[str, Any]:
    """Time of a run of 32 images, as ratios to the same unfolded simulation without effects, one thread."""
    noisy = ("device.noise.correlation=per_read", "device.noise.proportional=0.01", f"device.noise.source={SOURCE}")
    build = build_of("generic_128", (*BASE, *noisy, "array.wire_resistance_ohm=1.0"), calibration)
    works: dict[str, Any] = {}
    kinds = {
        "none": frozenset[Effect](), "static": frozenset({PROGRAMMING, FAULTS, WIRES}),
        "per_read": frozenset({NOISE}),
    }  # fmt: skip
    for name, effects in kinds.items():
        chip = Chip(build.target, 0, effects, 1.0)
        session = open_model(mapped_from_cells(build.skeleton, build.layer_data, build.target, chip=chip), threads=1)
        batch = noise_bank(build.layer_data, build.target, chip)[1]

        def work(session: Any = session, batch: int = batch) -> None:
            for first in range(0, 32, batch):
                session.run({session.inputs[0].name: x[first : first + batch]})

        works[name] = work
    seconds = interleaved(works, 7)
    return {
        "milliseconds_per_image": {name: round(statistics.median(s) / 32 * 1e3, 2) for name, s in seconds.items()},
        "static_over_none": ratio(seconds["static"], seconds["none"]),
        "per_read_over_none": ratio(seconds["per_read"], seconds["none"]),
    }


def neurram(x: Any, y: Any, trials: int, calibration: dict[str, Any]) -> dict[str, Any]:
    """The float ResNet-20, quantised after training to what the chip holds."""
    overrides = ("precision.inputs=3", "converters.dac.bits=1")
    target: Target = load_target("neurram", overrides)
    build = mcompiler.compile(MODEL, target, calibration=calibration, range="mse")
    return trial(build, x, y, ("all",), trials, 1800.0)


COMPRESSED = {"lenet5": "mnist", "convnet": "cifar10", "vgg16": "cifar10", "resnet18": "cifar10"}
COMPRESSED_POINTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "as mapped": ((), ()),
    **{
        f"programming, {share:.0%} of g": ((f"device.programming.proportional={share}",), ("programming",))
        for share in (0.05, 0.1, 0.2)
    },
    **{
        f"stuck cells, {share:.1%}": (
            (f"device.faults.stuck_on={share / 2}", f"device.faults.stuck_off={share / 2}"), ("faults",),
        )
        for share in (0.001, 0.01)
    },
    "drift, 1 day": (PCM, ("drift",)),
    "drift, 1 day, compensated": (
        (*PCM, "calibration.drift_interval_s=20.0", f"calibration.source={SOURCE}"), ("drift",),
    ),
    "1 ohm wires": (("array.wire_resistance_ohm=1.0", "array.driver_resistance_ohm=1.0"), ("wires",)),
}  # fmt: skip


def compressed(network: str, limit: int, trials: int) -> dict[str, Any]:
    """A compressed network of `paper.py` on its arrays, with devices that err."""
    images = load_images(COMPRESSED[network], SHARED / "data")
    x, y = images.normalised(images.test[:limit]).numpy(), images.test_labels[:limit].numpy()
    model = Path(__file__).resolve().parent / "models" / f"{network}_{COMPRESSED[network]}_5bit.onnx"
    calibration = {"x": images.normalised(images.train[:256]).numpy()}
    found = {}
    for name, (overrides, effects) in COMPRESSED_POINTS.items():
        keys = ("converters.adc.range=calibrated", *sourced(overrides))
        build = mcompiler.compile(model, MAPPED[network], calibration=calibration, overrides=keys)
        found[name] = {"overrides": keys, **trial(build, x, y, effects, trials, 86400.0 if "drift" in name else None)}
        print(network, name, found[name]["top1_ideal"], found[name]["mean"], found[name]["interval"], flush=True)
    return {"images": limit, "trials": trials, "target": MAPPED[network], "points": found}


def sourced(overrides: tuple[str, ...]) -> tuple[str, ...]:
    """With a source for each section that the overrides add to."""
    sections = {key.split("=")[0].rsplit(".", 1)[0] for key in overrides}
    missing = [name for name in sorted(sections) if not any(key.startswith(f"{name}.source") for key in overrides)]
    return (*overrides, *(f"{name}.source={SOURCE}" for name in missing if name != "array"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--parts", nargs="+", default=["sweeps", "compressed", "wires_time", "cost", "neurram", "page"])
    parser.add_argument("--networks", nargs="+", default=list(COMPRESSED), help="of the part compressed")
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--trials", type=int, default=5)
    args = parser.parse_args()
    sys.path.insert(0, str(SHARED / "data"))
    from load import cifar10

    (train, _), (test, labels) = cifar10(parts=("train_a", "test"))
    calibration = {"input": normalised(train[:256])}
    x, y = normalised(test), np.asarray(labels)
    result = {"points": {}} | known("robustness")
    setting = {"images": args.limit, "trials": args.trials}
    for name, point in points().items() if "sweeps" in args.parts else ():
        before = result["points"].get(name)
        if before is not None and {key: before[key] for key in setting} == setting:
            continue
        build = build_of("generic_128", (*BASE, *point["overrides"]), calibration)
        few = x[: args.limit], y[: args.limit]
        found = trial(build, *few, point["effects"], args.trials, point.get("time_s"))
        result["points"][name] = {**point, "overrides": [*BASE, *point["overrides"]], **setting, **found}
        write("robustness", result)
        print(name, found["top1_ideal"], found["mean"], found["interval"], flush=True)
    for network in args.networks if "compressed" in args.parts else ():
        result.setdefault("compressed", {})[network] = compressed(network, args.limit, args.trials)
        write("robustness", result)
    if "wires_time" in args.parts:
        result["wires_time"] = [wires_time(cells, x, y, calibration) for cells in (4, 2)]
    if "cost" in args.parts:
        result["cost"] = cost(x, calibration)
    if "neurram" in args.parts:
        found = neurram(x[: args.limit], y[: args.limit], args.trials, calibration)
        result["neurram"] = {**setting, **found, "measured_top1": 0.857, "source": "Wan et al., Nature 608, 504 (2022)"}
    if args.parts != ["page"]:
        write("robustness", result)
    docs = Path(__file__).resolve().parents[1] / "docs"
    plot(result, docs / "plots" / "robustness.svg")
    (docs / "robustness.md").write_text(page(result))


if __name__ == "__main__":
    main()
