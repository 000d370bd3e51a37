"""Parts that benchmarks share: interleaved timing, and results with versions, seeds and machine."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
SHARED = Path(__file__).resolve().parents[2] / "shared"


def machine() -> dict[str, Any]:
    """Processor, cores, memory and the versions that matter."""
    model = platform.processor() or "unknown"
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        flags = next((line for line in info.read_text().splitlines() if line.startswith("flags")), "")
        kinds = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx_vnni") if f" {flag}" in flags]
        model = f"{lines[0] if lines else model} ({', '.join(kinds) or 'no vector extensions found'})"
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("numpy", "onnx", "onnx-ir", "onnxruntime")},
    }


def interleaved(works: Mapping[str, Callable[[], Any]], rounds: int, least_s: float = 0.3) -> dict[str, list[float]]:
    """Seconds per call of each work, measured in turn, round by round, after one warm-up call."""
    repeats = {}
    for name, work in works.items():
        work()
        start = time.perf_counter()
        work()
        repeats[name] = max(1, round(least_s / max(1e-6, time.perf_counter() - start)))
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                work()
            seconds[name].append((time.perf_counter() - start) / repeats[name])
    return seconds


def ratio(one: list[float], other: list[float]) -> dict[str, float]:
    """Median, least and greatest of one/other, round by round."""
    ratios = [a / b for a, b in zip(one, other, strict=True)]
    return {"median": round(statistics.median(ratios), 4), "min": round(min(ratios), 4), "max": round(max(ratios), 4)}


def known(name: str) -> dict[str, Any]:
    """The content of benchmarks/results/NAME.json without the machine; empty where there is no such file."""
    path = RESULTS / f"{name}.json"
    result: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    result.pop("machine", None)
    return result


def write(name: str, result: Mapping[str, Any]) -> Path:
    """Write benchmarks/results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **result}, indent=1) + "\n")
    return path
