"""Start and compile times of this checkout against another one, in pairs of whole processes.

    python benchmarks/before_after.py OTHER [--pairs 5] [--models MODEL.onnx ...] [--target NAME]

OTHER is a checkout of an earlier version. Each command runs in turn in both checkouts; a figure is the median over the
pairs of the ratio of CPU seconds (user and system), this checkout over the other. Writes results/before_after.json.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import write

HERE = Path(__file__).resolve().parent.parent


def cpu_seconds(checkout: Path, command: list[str], folder: str) -> float:
    """CPU seconds of one run of ``python COMMAND`` with the package of a checkout."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    subprocess.run([sys.executable, *command], cwd=folder, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("other", type=Path)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--models", type=Path, nargs="*", default=[])
    parser.add_argument("--target", default="generic_128")
    args = parser.parse_args()
    commands = {"import mcompiler": ["-c", "import mcompiler"], "--help": ["-m", "mcompiler", "--help"]}
    for model in args.models:
        options = ["--target", args.target, "--calibration", "random", "--out", "build", "--force"]
        commands[f"compile {model.name}"] = ["-m", "mcompiler", "compile", str(model.resolve()), *options]
    ratios: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, command in commands.items():
            found = []
            for _ in range(args.pairs):
                ours, theirs = (cpu_seconds(where, command, folder) for where in (HERE, args.other.resolve()))
                found.append(ours / theirs)
            ratios[name] = {"median": statistics.median(found), "min": min(found), "max": max(found)}
            print(name, ratios[name], flush=True)
    write("before_after", {"target": args.target, "pairs": args.pairs, "cpu_ratio": ratios})


if __name__ == "__main__":
    main()
