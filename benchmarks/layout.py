"""Layouts of six networks of ImageNet size on the architectures of PIMCOMP's paper, against bounds and against others.

    python benchmarks/layout.py FOLDER [--networks vgg16,...] [--architectures arch_a,...] [--multicast]

FOLDER takes the models of `imagenet.py` (VGG-16 is 553 MB). Every network is compiled (fully connected layers included,
8-bit weights, 2-bit cells) for the smallest number of chips that holds it, and laid out step by step; every step is
scheduled by the same model:

    layer_by_layer    one copy of each layer, which starts when the one before has ended; the next inference after that
    pipelined         one copy, as a pipeline, arrays in the order of the layers
    replicated        copies for throughput, arrays in the order of the layers
    placed            and tiles placed: the layout of `compile --replicate throughput`
    latency           copies for latency, placed
    puma_like         copies of `baselines.puma_like` (every array used), placed by us
    pimcomp_*         copies of PIMCOMP's own mappings (results/pimcomp.json), placed by us
    pimcomp_*_cores   its arrays in the cores that it puts them in (results/pimcomp_cores.npz), these cores placed by us
    pimcomp_*_mapped  its mapping as it stands: the cores too where they are counted

`bound_s` of a step is the shortest interval that arrays, converters, digital units, buffer ports, links and the links
of chips allow; `array_bound_s` and `latency_bound_s` (of arrays, digital units and buffers) are those that no copies
within the budget beat. With --multicast the networks on the chips have `network.multicast`. Byte-hops are given beside
those of arrays in the order of the layers along a snake through the mesh, and a lower bound.
Results: benchmarks/results/layout.json, with --multicast layout_multicast.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import exp, log
from pathlib import Path
from typing import Any

import imagenet
import numpy as np
from architectures import architectures
from baselines import puma_like
from common import known, write
from pimcomp import cores_of

import mcompiler
from mcompiler.ir import AnalogProgram, PlacedProgram, ScheduledProgram
from mcompiler.network import located, place_filled, topology_of
from mcompiler.passes.place import Place
from mcompiler.passes.replicate import Goal, Replicate
from mcompiler.passes.schedule import Schedule
from mcompiler.target import Target

COUNTED = ("array", "converter", "digital", "buffer", "link", "chip_link")
"""Resources of `bound_s`."""


def along_a_snake(program: AnalogProgram, target: Target) -> PlacedProgram:
    """Arrays in the order of the layers, tiles along a snake through the mesh."""
    plain = Place(effort=0).run(program, target)
    walk = topology_of(target).walk().astype(np.int32)
    return replace(plain, addresses=tuple(_moved(where, walk) for where in plain.addresses))


def _moved(where: Any, walk: Any) -> Any:
    found = where.copy()
    found[:, 1] = walk[where[:, 1]]
    return found


def figures(program: ScheduledProgram, seconds: float) -> dict[str, Any]:
    """Figures of a layout."""
    bounds = dict(program.bounds_s)
    bound = max(bounds[name] for name in COUNTED)
    return {
        "interval_s": program.interval_s,
        "latency_s": program.latency_s,
        "bound_s": bound,
        "of_bound": round(bound / program.interval_s, 4),
        "bounds_s": bounds,
        "arrays": sum(len(where) for where in program.placed.addresses),
        "spilled_bytes": sum(program.spilled_bytes.values()),
        "seconds": round(seconds, 2),
    }


def one_after_the_other(program: ScheduledProgram) -> float:
    """Seconds of an inference if every stage waited for the end of the one before."""
    return sum(stage.busy_s for stage in program.stages)


def laid_out(program: AnalogProgram, copies: Sequence[int], target: Target) -> tuple[ScheduledProgram, float]:
    """The schedule with these copies, placed by us, and the seconds that it took."""
    return scheduled(replace(program, replicas=tuple(copies)), target)


def scheduled(program: AnalogProgram, target: Target, latency: bool = False) -> tuple[ScheduledProgram, float]:
    """The schedule of a program placed by us, and the seconds that it took."""
    start = time.perf_counter()
    placed = Place(latency=latency).run(program, target)
    return Schedule().run(placed, target), time.perf_counter() - start


def measure(model: Path, network: str, architecture: str, target: Target, chips: int) -> dict[str, Any]:
    """All layouts of one network on one architecture."""
    start = time.perf_counter()
    build = mcompiler.compile(model, target, calibration="random", chips=chips)
    compiled = time.perf_counter() - start
    analog = replace(build._content.program.placed.analog, replicas=(), replication=None)
    sizes = [len(table) for table in analog.tiled.tables]
    budget = chips * target.hierarchy.arrays_per_chip
    snake = along_a_snake(analog, target)
    plain = Schedule().run(snake, target)
    result: dict[str, Any] = {
        "network": network, "architecture": architecture, "chips": chips, "budget": budget, "arrays": sum(sizes),
        "compile_seconds": round(compiled, 2),
        "layer_by_layer": {"interval_s": one_after_the_other(plain)},
        "pipelined": figures(plain, 0.0),
    }  # fmt: skip
    start = time.perf_counter()
    copied = Replicate(Goal.THROUGHPUT, arrays=budget).run(analog, target)
    searched = time.perf_counter() - start
    figures_of = copied.replication
    assert figures_of is not None
    result["replicated"] = figures(Schedule().run(along_a_snake(copied, target), target), searched)
    placed, seconds = scheduled(copied, target)
    result["placed"] = figures(placed, seconds) | {"copies": list(copied.copies)}
    result["array_bound_s"] = figures_of.interval_bound_s
    result["total_seconds"] = round(compiled + searched + seconds, 2)
    result["byte_hops"] = {
        "snake": located(along_a_snake(copied, target), target).traffic().byte_hops,
        "placed": located(placed.placed, target).traffic().byte_hops,
        "lower_bound": located(placed.placed, target).traffic().lower_bound_byte_hops,
        "one_copy_snake": located(snake, target).traffic().byte_hops,
        "one_copy_placed": located(Place().run(analog, target), target).traffic().byte_hops,
    }
    quick = Replicate(Goal.LATENCY, arrays=budget).run(analog, target)
    assert quick.replication is not None
    found, seconds = scheduled(quick, target, latency=True)
    result["latency"] = figures(found, seconds) | {"copies": list(quick.copies)}
    result["latency_bound_s"] = quick.replication.latency_bound_s
    vectors = [op.site.vectors for op in analog.tiled.matrix.layers]
    found, seconds = laid_out(analog, puma_like(vectors, sizes, budget), target)
    result["puma_like"] = figures(found, seconds)
    for label, run in theirs(network, architecture, chips, len(sizes)).items():
        if sum(n * a for n, a in zip(run["replicas"], sizes, strict=True)) <= budget:
            found, seconds = laid_out(analog, run["replicas"], target)
            result[label] = figures(found, seconds)
            result |= {f"{label}_{kind}": figures(Schedule().run(placed, target), 0.0)
                       for kind, placed in as_mapped(analog, run, target)}  # fmt: skip
    return result


def theirs(network: str, architecture: str, chips: int, layers: int) -> dict[str, dict[str, Any]]:
    """PIMCOMP's mappings, by method and pipeline."""
    found = {}
    for run in known("pimcomp").get("runs", []):
        same = (run["network"], run["architecture"], run["chips"]) == (network, architecture, chips)
        if same and run["mapped"] and run["replicas"] is not None and len(run["replicas"]) == layers:
            found[f"pimcomp_{run['method'].lower()}_{run['pipeline']}"] = run
    return found


def as_mapped(analog: AnalogProgram, run: dict[str, Any], target: Target) -> Iterator[tuple[str, PlacedProgram]]:
    """PIMCOMP's mapping, where it has one that can be built: cores where we put them, and where they are counted."""
    cores = cores_of(run)
    if cores is None:
        return
    program, of_arrays, begin = replace(analog, replicas=tuple(run["replicas"])), [], 0
    for table, copies in zip(analog.tiled.tables, run["replicas"], strict=True):
        blocks, which = np.unique(table["row"], return_inverse=True)  # it keeps the arrays of a row block together
        own = cores[begin : begin + copies * len(blocks)].reshape(copies, len(blocks))
        of_arrays.append(own[:, which].reshape(-1))
        begin += own.size
    core = np.concatenate(of_arrays)
    order = np.argsort(core, kind="stable")
    first = np.searchsorted(core[order], np.arange(run["cores"]))
    slots = np.empty(len(core), dtype=np.int64)
    slots[order] = core[order] * run["arrays_per_core"] + np.arange(len(core)) - first[core[order]]
    for kind, rounds in (("cores", 1), ("mapped", None)):
        yield kind, PlacedProgram(program, place_filled(program, slots, run["chips"], target, rounds), run["chips"])


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Geometric means over all networks and architectures."""

    def mean(values: list[float]) -> float | None:
        return round(exp(sum(map(log, values)) / len(values)), 3) if values else None

    def gain(before: str, after: str) -> float | None:
        return mean([row[before]["interval_s"] / row[after]["interval_s"] for row in rows if before in row])

    peers = sorted({key for row in rows for key in row if key.startswith("pimcomp_")})
    kinds = {
        "": [key for key in peers if not key.endswith(("_cores", "_mapped"))],
        "_cores": [key for key in peers if key.endswith("_cores")],
        "_mapped": [key for key in peers if key.endswith("_mapped")],
    }
    return {
        "pipelining": gain("layer_by_layer", "pipelined"),
        "replication": gain("pipelined", "replicated"),
        "placement": gain("replicated", "placed"),
        "all": gain("layer_by_layer", "placed"),
        "over_puma_like": gain("puma_like", "placed"),
        **{f"over_{peer}": gain(peer, "placed") for peer in peers},
        **{
            f"{which}_best_of_pimcomp{kind}": how([
                min(row[key]["interval_s"] for key in own if key in row) / row["placed"]["interval_s"]
                for row in rows
                if any(key in row for key in own)
            ])
            for kind, own in kinds.items() if any(key in row for key in own for row in rows)
            for which, how in (("over", mean), ("least_over", min))
        },
        "least_over_puma_like": min(row["puma_like"]["interval_s"] / row["placed"]["interval_s"] for row in rows),
        "of_bound_least": min(row["placed"]["of_bound"] for row in rows),
        "interval_over_array_bound": mean([row["placed"]["interval_s"] / row["array_bound_s"] for row in rows]),
        "latency_over_bound": mean([row["latency"]["latency_s"] / row["latency_bound_s"] for row in rows]),
        "latency_over_bound_worst": max(row["latency"]["latency_s"] / row["latency_bound_s"] for row in rows),
        "byte_hops_over_snake": mean(
            [row["byte_hops"]["placed"] / row["byte_hops"]["snake"] for row in rows if row["byte_hops"]["snake"]]
        ),
        "one_copy_byte_hops_over_snake": mean(
            [
                row["byte_hops"]["one_copy_placed"] / row["byte_hops"]["one_copy_snake"]
                for row in rows
                if row["byte_hops"]["one_copy_snake"]
            ]
        ),
        "seconds_most": max(row["total_seconds"] for row in rows),
    }  # fmt: skip


def main() -> None:
    """Measure what is asked for; what is known of other pairs is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--networks", default=",".join(imagenet.NETWORKS))
    parser.add_argument("--architectures", default="arch_a,arch_b,arch_c")
    parser.add_argument("--multicast", action="store_true", help="networks on the chips with multicast")
    arguments = parser.parse_args()
    results = "layout_multicast" if arguments.multicast else "layout"
    arguments.folder.mkdir(parents=True, exist_ok=True)
    targets = architectures()
    rows = known(results).get("rows", [])
    for network in arguments.networks.split(","):
        model = imagenet.model(network, arguments.folder)
        for name in arguments.architectures.split(","):
            target, chips = targets[name].target, targets[name].chips(imagenet.NETWORKS[network]().layers)
            if arguments.multicast:
                target = target.model_copy(update={"network": target.network.model_copy(update={"multicast": True})})
            row = measure(model, network, name, target, chips)
            rows = [r for r in rows if (r["network"], r["architecture"]) != (network, name)] + [row]
            write(results, {"summary": summary(rows), "rows": rows})
            best, peers = row["placed"], {k: row[k]["interval_s"] for k in row if k.startswith(("pimcomp", "puma"))}
            print(f"{network} {name}: {chips} chips, {best['interval_s']:.3e} s ({best['of_bound']:.2f} of the bound, "
                  f"{best['bounds_s']}), {row['total_seconds']} s; others {peers}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
