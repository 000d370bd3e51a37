"""How fast and how exact the transfer matrix of a tile with wires is, as ratios within one run on one core.

    OMP_NUM_THREADS=1 python benchmarks/wires.py [--rounds 5] [--parts memory,sizes,badcrossbar,ngspice]
                                                 [--badcrossbar PYTHON] [--out wires]

memory: a 512x512 tile in a separate process. sizes: the transfer matrix of square tiles, growth with their size,
against sparse LU for one input vector. badcrossbar: the currents of 128 input vectors at 128x128, in the interpreter
that --badcrossbar names (it needs libcairo2). ngspice: one input vector at 64x64; ngspice_128 the same at 128x128,
which takes it minutes and is left out unless asked for.

Cells are log-uniform between 1 and 100 uS, segments 1 ohm, no drivers: what every peer can do.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import interleaved, known, ratio, write

from mcompiler.effects import Circuit, LineResistances
from mcompiler.netlist import DeckArray, find_ngspice, run_deck, write_deck
from mcompiler.physics.nodal import solve
from mcompiler.physics.wires import transfer

SEED = 0
OHM, VOLTS = 1.0, 0.2
LINES = LineResistances(OHM, OHM)
SIZES = (32, 64, 128, 256, 512)
VECTORS = 128


def tile(size: int) -> np.ndarray[Any, Any]:
    return 10 ** np.random.default_rng(SEED).uniform(-6, -4, (size, size))


def inputs(size: int, vectors: int) -> np.ndarray[Any, Any]:
    """[vectors, size], 0 or 1."""
    return np.random.default_rng(SEED + 1).integers(0, 2, (vectors, size)).astype(np.float64)


def worst(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    """Largest relative difference."""
    return float(f"{np.abs(found / expected - 1).max():.2g}")


def sizes(rounds: int) -> dict[str, Any]:
    result: dict[str, Any] = {"asked": {"seconds_128": 0.3, "agreement_with_lu": 1e-9}}
    medians = {}
    for size in SIZES:
        g, x = tile(size), inputs(size, 1)[0]
        works = {"transfer": partial(transfer, g[None], LINES), "lu": partial(solve, g, x, Circuit(LINES, VOLTS))}
        seconds = interleaved(works, rounds if size < 512 else 2)
        medians[size] = statistics.median(seconds["transfer"])
        result[str(size)] = {
            "seconds": {name: round(statistics.median(found), 5) for name, found in seconds.items()},
            "fastest_s": round(min(seconds["transfer"]), 5),
            "all_vectors_over_lu_of_one": ratio(seconds["transfer"], seconds["lu"]),
            "agreement": worst(VOLTS * x @ works["transfer"]()[0], works["lu"]()),
        }
    log_size, log_seconds = np.log(SIZES[1:]), np.log([medians[size] for size in SIZES[1:]])
    result["growth_exponent_of_rows"] = round(float(np.polyfit(log_size, log_seconds, 1)[0]), 2)
    return result


PEER = """
import sys, time, numpy as np, badcrossbar
data = np.load(sys.argv[1])
start = time.perf_counter()
found = badcrossbar.compute(data["volts"].T, 1 / data["g"], float(data["ohm"]), node_voltages=False, all_currents=False)
seconds = time.perf_counter() - start
np.savez(sys.argv[2], currents=found.currents.output, seconds=seconds)
"""


def badcrossbar(rounds: int, python: str) -> dict[str, Any] | str:
    """The full transfer matrix and its product with 128 vectors, against badcrossbar's currents of these."""
    if subprocess.run([python, "-c", "import badcrossbar"], capture_output=True, check=False).returncode:
        return f"not measured: {Path(python).name} has no badcrossbar"
    size = 128
    g, x = tile(size), inputs(size, VECTORS)
    ours, theirs, apart = [], [], []
    with tempfile.TemporaryDirectory() as work:
        given, found = f"{work}/given.npz", f"{work}/found.npz"
        np.savez(given, g=g, volts=VOLTS * x, ohm=OHM)
        transfer(g[None], LINES)
        for _ in range(rounds):
            start = time.perf_counter()
            currents = VOLTS * x @ transfer(g[None], LINES)[0]
            ours.append(time.perf_counter() - start)
            # its progress on stderr is of no interest
            subprocess.run([python, "-c", PEER, given, found], check=True, capture_output=True)
            with np.load(found) as peer:
                theirs.append(float(peer["seconds"]))
                apart.append(worst(currents, peer["currents"]))
    return {
        "asked_times_faster": 3,
        "vectors": VECTORS,
        "seconds": {"transfer": round(statistics.median(ours), 4), "badcrossbar": round(statistics.median(theirs), 3)},
        "times_faster": ratio(theirs, ours),
        "agreement": max(apart),
    }


def ngspice(size: int, rounds: int) -> dict[str, Any] | str:
    """The full transfer matrix against ngspice's currents of one vector, start and reading of the deck included."""
    if find_ngspice() is None:
        return "not measured: ngspice is not installed"
    g, x = tile(size), inputs(size, 1)[0]
    ours, theirs, apart = [], [], []
    with tempfile.TemporaryDirectory() as work:
        path = Path(work, "tile.sp")
        with path.open("w") as deck:
            write_deck(deck.write, f"{size}x{size} crossbar", [DeckArray("a", g)], [x], Circuit(LINES, VOLTS))
        transfer(g[None], LINES)
        for _ in range(rounds):
            start = time.perf_counter()
            matrix = transfer(g[None], LINES)[0]
            ours.append(time.perf_counter() - start)
            start = time.perf_counter()
            currents = run_deck(path)["a"]
            theirs.append(time.perf_counter() - start)
            apart.append(worst(currents, VOLTS * x @ matrix))
    return {
        **({"asked_times_faster": 300} if size == 128 else {}),
        "seconds": {"transfer": round(statistics.median(ours), 5), "ngspice": round(statistics.median(theirs), 2)},
        "times_faster": ratio(theirs, ours),
        "agreement": max(apart),
    }


MEMORY = """
import resource, numpy as np
from mcompiler.effects import LineResistances
from mcompiler.physics.wires import transfer
g = 10 ** np.random.default_rng(0).uniform(-6, -4, (1, 512, 512))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
transfer(g, LineResistances(1.0, 1.0))
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def memory() -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", MEMORY], check=True, capture_output=True, text=True)
    before, peak = (int(kib) / 2**20 for kib in done.stdout.split())
    return {"asked_gib": 8, "size": 512, "peak_gib": round(peak, 2), "before_gib": round(before, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", default="wires")
    parser.add_argument("--badcrossbar", default=sys.executable, help="interpreter that has badcrossbar")
    parser.add_argument("--parts", default="memory,sizes,badcrossbar,ngspice", help="what to measure; the rest is kept")
    args = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        parser.error("one core is meant: set OMP_NUM_THREADS=1")
    result = known(args.out) | {"seed": SEED, "segment_ohm": OHM, "cells": "log-uniform 1 to 100 uS", "threads": 1}
    parts = {
        "memory": memory,
        "sizes": partial(sizes, args.rounds),
        "badcrossbar": partial(badcrossbar, args.rounds, args.badcrossbar),
        "ngspice": partial(ngspice, 64, min(2, args.rounds)),
        "ngspice_128": partial(ngspice, 128, 1),
    }
    for name in args.parts.split(","):
        result[name] = parts[name]()
        write(args.out, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
