"""Whether a change of the code changed what is compiled: record every model on several targets, compare later.

    python benchmarks/regression.py record MODELS --out before.json [--mcompiler "python -m mcompiler"]
    python benchmarks/regression.py compare before.json after.json [--out differences.json]

MODELS is a folder of ONNX files. For each model and target the build directory is read through its documented files
only, so that two versions of the compiler can be compared: hashes of cells, addresses, tile tables, mapped.onnx and
reference.onnx, hashes of the outputs of both models on inputs drawn here, and the figures of cost.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

TARGETS = ("generic_128", "isaac", "yuan2019", "forms", "neurram")
FIGURES = (
    "latency_s",
    "throughput_per_s",
    "energy_j",
    "energy_active_j",
    "energy_standby_used_j",
    "energy_standby_chip_j",
    "power_w",
    "peak_power_w",
    "area_m2",
    "crossbars",
    "crossbars_dense",
    "utilisation",
)
TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
}
Record = dict[str, Any]


def digest(parts: Iterable[bytes]) -> str:
    """First 16 digits of the SHA-256 of the parts."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()[:16]


def outputs(path: Path) -> str | None:
    """Hash of the outputs of a model on inputs drawn here; None where an input is not a plain tensor of known size."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(7)
    feeds = {}
    for value in session.get_inputs():
        if value.type not in TYPES or any(not isinstance(size, int) for size in value.shape[1:]):
            return None
        shape, kind = [size if isinstance(size, int) else 2 for size in value.shape], TYPES[value.type]
        drawn = rng.standard_normal(shape) if np.issubdtype(kind, np.floating) else rng.integers(0, 100, shape)
        feeds[value.name] = drawn.astype(kind)
    found = session.run(None, feeds)
    return digest(np.ascontiguousarray(each).tobytes() for each in found if isinstance(each, np.ndarray))


def build_record(root: Path, printed: Record) -> Record:
    """The content of a build directory, as hashes and figures."""
    cost = json.loads((root / "cost.json").read_text())
    layers = json.loads((root / "layers.json").read_text())["layers"]
    arrays = []
    for layer in layers:
        with np.load(root / "layers" / f"{layer['files']}.npz") as file:
            arrays.append({name: file[name].tobytes() for name in ("table", "addresses", "start")})
    cells = [root / "cells" / f"{layer['files']}.npy" for layer in layers]
    return {
        "layers": [layer["name"] for layer in layers],
        "fates": digest([json.dumps([[n["op"], n["fate"]] for n in printed["nodes"]]).encode()]),
        "cells": digest(path.read_bytes() for path in cells if path.exists()),
        "tables": digest(each["table"] for each in arrays),
        "addresses": digest(each["addresses"] for each in arrays),
        "start": digest(each["start"] for each in arrays),
        "mapped": digest([(root / "mapped.onnx").read_bytes()]),
        "reference": digest([(root / "reference.onnx").read_bytes()]),
        "mapped_outputs": outputs(root / "mapped.onnx"),
        "reference_outputs": outputs(root / "reference.onnx"),
        "cost": {name: cost.get(name) for name in FIGURES},
        "events": {
            event: sum(row["count"] for row in cost["events"] if row["event"] == event)
            for event in sorted({row["event"] for row in cost["events"]})
        },
        "placement_bytes": sum(e["bytes"] for e in json.loads((root / "placement.json").read_text())["edges"]),
    }


def compile_one(job: tuple[Path, str], command: list[str]) -> Record:
    """One model on one target."""
    model, target = job
    with tempfile.TemporaryDirectory() as work:
        out = Path(work) / "build"
        options = ["--target", target, "--calibration", "random", "--out", str(out), "--json"]
        done = subprocess.run([*command, "compile", str(model), *options], capture_output=True, text=True)
        if done.returncode:
            return {"error": done.stderr.strip().split("\n")[-1][:300], "exit": done.returncode}
        return build_record(out, json.loads(done.stdout))


def record(folder: Path, command: list[str], out: Path, workers: int) -> None:
    """Compile every model of a folder on every target."""
    jobs = [(model, target) for model in sorted(folder.glob("*.onnx")) for target in TARGETS]
    found: dict[str, Record] = {}
    with ThreadPoolExecutor(workers) as pool:
        for job, row in zip(jobs, pool.map(lambda job: compile_one(job, command), jobs), strict=True):
            found[f"{job[0].name} {job[1]}"] = row
            print(f"{len(found)} of {len(jobs)}: {job[0].name} {job[1]}", flush=True)
    out.write_text(json.dumps(found, indent=1) + "\n")


def differences(before: Record, after: Record) -> Record:
    """Differences of two records of one build: relative change for figures, both values for everything else."""
    found: Record = {}
    for key in before.keys() | after.keys():
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found |= {f"{key}.{name}": value for name, value in differences(old, new).items()}
        elif old != new:
            found[key] = [old, new]
    return dict(sorted(found.items()))


def compare(before: Path, after: Path, out: Path | None) -> int:
    """Print how many builds differ and in what; 1 where any does."""
    old, new = (json.loads(path.read_text()) for path in (before, after))
    found = {name: differences(old.get(name, {}), new.get(name, {})) for name in sorted(old.keys() | new.keys())}
    changed = {name: each for name, each in found.items() if each}
    keys = sorted({key for each in changed.values() for key in each})
    for key in keys:
        names = [name for name, each in changed.items() if key in each]
        print(f"{key}: {len(names)} builds, e.g. {names[0]}: {changed[names[0]][key]}")
    print(f"{len(found) - len(changed)} of {len(found)} builds are the same")
    if out is not None:
        out.write_text(json.dumps(changed, indent=1) + "\n")
    return int(bool(changed))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("models", type=Path)
    recording.add_argument("--out", type=Path, required=True)
    recording.add_argument("--mcompiler", default=f"{sys.executable} -m mcompiler")
    recording.add_argument("--workers", type=int, default=2)
    comparing = commands.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    comparing.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.command == "compare":
        return compare(args.before, args.after, args.out)
    record(args.models, shlex.split(args.mcompiler), args.out, args.workers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
