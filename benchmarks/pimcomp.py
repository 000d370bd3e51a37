"""PIMCOMP-NN's own mappings of the six networks on the three architectures of its paper.

    python benchmarks/pimcomp.py FOLDER [--methods balance,GA] [--pipelines batch,element] [--networks vgg16,...]
                                 [--architectures arch_a,...] [--more-chips 0] [--joined 1] [--limit 600]
                                 [--out pimcomp]

FOLDER is a checkout of PIMCOMP-NN (Sun et al., TCAD 2024) whose program is at FOLDER/build/PIMCOMP-NN. It is run on the
JSON models that it ships, in a scratch folder with a configuration of ours: as many cores as the smallest number of
chips that holds the network has, 8-bit weights, 2-bit cells. Its public version cuts a matrix by `xbar_size` alone,
whatever the bits of a weight, so an array of 128 columns is described as 32 columns wide: what it holds of 8-bit
weights. That is how this compiler counts too, so that both spend the same arrays on one copy of a layer.

Method `balance` is its heuristic: a copy more of the slowest convolution until half of the arrays are used (it leaves
the first copies of the convolutions out of that sum). `GA` is its genetic search, whose population and iterations are
constants of its source: 200 x 3 as published, 200 x 1000 in the paper. Pipeline `batch` is its high-throughput mode,
`element` its low-latency mode. The search keeps the arrays of one row block of a layer in one core; where a core has
fewer (the dense layers of VGG-16 on Arch-A and Arch-C) it never finds a first individual. `--joined N` gives it an Nth
of the cores, each N times as large: 4 are enough on Arch-A, 2 on Arch-C.

benchmarks/results/pimcomp.json holds what the program does as published. pimcomp_long.json holds searches with 100
and 1000 iterations in place of 3, the constant changed in its source before it was built; seconds in both were taken on
a busy machine, so read `cpu_seconds`. The file is written after every run; runs that it holds already are replaced,
others are kept:

    program          name, where it comes from, commit (pimcomp_cores.npz: the core of every row block of every
                     copy of every layer, in this order, by `NETWORK ARCHITECTURE METHOD PIPELINE CORES`)
    networks         by network, its layers in order: `layer` (ours, of imagenet.py), `pimcomp` (its name there),
                     `rows`, `columns`, `vectors`
    runs             one for each network, architecture, method, pipeline, number of iterations and of cores:
        chips, cores, arrays_per_core, budget      what it was given; budget = arrays of all chips
        population, iterations                     of the genetic search; null without
        attempts      how often it was run until it did not crash, at most 3; what follows is of the last
        complete      whether it ran to its end. Where it did not, `replicas` may still be what it decided on; they are
                      a mapping only where `mapped` is true
        mapped        whether it put all copies on arrays that there are
        stage         what it printed as the last stage that it began
        message       the last it said on standard error, or why it was stopped; null where it said nothing
        seconds, cpu_seconds, reported_seconds     wall clock; user + system time; processor time that it prints
        replicas      copies of each layer, in order; null where it did not come so far
        arrays        of one copy of each layer, as we count them
        arrays_used   sum of replicas x arrays; `arrays_reported` is its own count
        cores_used    number of cores that each layer uses; null where it wrote no mapping
        fullest_core  arrays on the core with most of them: beyond `arrays_per_core` it is no mapping that can be built
        latency_ns    its own figure. For the record only: its constants do not follow the configuration
"""

from __future__ import annotations

import argparse
import json
import math
import re
import resource
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from architectures import Architecture, architectures
from common import RESULTS, known, write
from imagenet import NETWORKS, Layer

SOURCE = "https://github.com/sunxt99/PIMCOMP-NN"
ANALOG = ("OP_CONV", "OP_FC")
CRASHED = -11
"""Segmentation fault: now and then it places cores, at random places, beyond its grid."""
ATTEMPTS = 3


@dataclass(frozen=True)
class Setting:
    """How the program is run; ``joined`` cores count as one, on so many chips more than are needed."""

    method: str
    pipeline: str
    limit_s: float = 600
    more_chips: int = 0
    joined: int = 1


@dataclass(frozen=True)
class Report:
    """Output and files of a run, complete or not."""

    stage: str
    replicas: dict[int, int]
    arrays: int | None
    latency_ns: float | None
    seconds: float | None


def read_report(text: str) -> Report:
    """Read its standard output; replicas by number of its node, the last that it settled on."""
    stages = re.findall(r"^=+ ([A-Za-z ]+?) =+$", text, re.MULTILINE)
    chosen = text.rpartition("= REPLICATING =")[2].partition("= PARTITIONING =")[0] if "= REPLICATING =" in text else ""
    replicas = {
        int(node): int(count)
        for node, count in re.findall(r"^node:(\d+)\s+(?:replication_num:|OP_\w+\s+)(\d+)\s*$", chosen, re.MULTILINE)
    }
    arrays = re.search(r"^#RRAMs needed: (\d+)$", text, re.MULTILINE)
    latency = re.search(r"^practical \(ns\)\n([\d.]+)$", text, re.MULTILINE)
    seconds = re.search(r"= OVERALL TIME =+\n([\d.]+)s$", text, re.MULTILINE)
    return Report(
        stages[-1] if stages else "",
        replicas,
        int(arrays[1]) if arrays else None,
        float(latency[1]) if latency else None,
        float(seconds[1]) if seconds else None,
    )


def read_mapping(text: str) -> dict[int, dict[tuple[int, int], tuple[int, int]]]:
    """(core, arrays) of every (copy, row block) of every node of its MappingResult.txt."""
    cores: dict[int, dict[tuple[int, int], tuple[int, int]]] = {}
    core = -1
    for line in text.splitlines():
        if match := re.fullmatch(r"core_(\d+)", line):
            core = int(match[1])
        elif match := re.fullmatch(r"\s+(\d+)\s+(\d+)\s+(\d+)\s+\|\s+\d+\s+(\d+)\s+\d+\s*", line):
            node, copy, block, arrays = map(int, match.groups())
            cores.setdefault(node, {})[copy, block] = core, arrays
    return cores


def matched(model: Mapping[str, Any], layers: Sequence[Layer]) -> list[tuple[int, str]]:
    """(index, name) of its node for each of our layers, by order; every shape must agree.

    Raises:
        ValueError: its model has other layers than ours.
    """
    nodes = [(index, node) for index, node in enumerate(model["node_list"]) if node["operation"] in ANALOG]
    if len(nodes) != len(layers):
        raise ValueError(f"{len(nodes)} layers where ours has {len(layers)}")
    for (_, node), layer in zip(nodes, layers, strict=True):
        p = node["param"]
        if node["operation"] == "OP_CONV":
            theirs = (p["kernel_h"] * p["kernel_w"] * p["input_channel"], p["output_channel"])
        else:
            theirs = (p["num_input"], p["num_output"])
        vectors = math.prod(node["output_dim"][2:])
        if (*theirs, vectors) != (layer.rows, layer.columns, layer.vectors):
            raise ValueError(f"{node['name']} is {theirs} for {vectors} vectors; ours is {layer}")
    return [(index, node["name"]) for index, node in nodes]


def grid(cores: int) -> tuple[int, int]:
    """(height, width) of a grid of cores, nearest to a square and not higher than wide.

    Its code takes height x height for the number of cores in places, which overruns where the grid is higher than wide.
    """
    height = next(h for h in range(math.isqrt(cores), 0, -1) if cores % h == 0)
    return height, cores // height


def configuration(
    base: Mapping[str, Any], architecture: Architecture, cores: int, arrays_per_core: int
) -> dict[str, Any]:
    """Its configuration: arrays by what they hold of 8-bit weights. It reads the precision from `adc_count`."""
    config: dict[str, Any] = json.loads(json.dumps(base))
    chip = config["chip_config"]
    matrix = chip["core_config"]["matrix_config"]
    matrix["xbar_array_count"] = arrays_per_core
    matrix["xbar_size"] = [architecture.shape.rows, architecture.shape.tile_columns]
    matrix["cell_precision"] = architecture.target.device.bits
    matrix["adc_count"] = architecture.target.precision.weights
    chip["network_config"]["layout"] = list(grid(cores))
    chip["core_cnt"] = cores
    return config


def search_constants(folder: Path) -> tuple[int | None, int | None]:
    """Population and iterations of the genetic search in the checkout's source."""
    path = folder / "backend" / "GeneticAlgorithm.h"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    found = [re.search(rf"int {name} = (\d+);", text) for name in ("population_num", "max_iteration")]
    population, iterations = (int(match[1]) if match else None for match in found)
    return population, iterations


def execute(folder: Path, config: Mapping[str, Any], arguments: Sequence[str], limit_s: float) -> dict[str, Any]:
    """Run the program in a scratch folder laid out as it expects: standard output, error, mapping, seconds."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        (place / "models").symlink_to(folder / "models")
        (place / "config.json").write_text(json.dumps(config))
        for name in ("build", "output"):
            (place / name).mkdir()
        outputs = [place / "stdout", place / "stderr"]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        with outputs[0].open("w") as out, outputs[1].open("w") as err:
            try:
                command = [str(folder / "build" / "PIMCOMP-NN"), *arguments]
                code = subprocess.run(command, cwd=place / "build", stdout=out, stderr=err, timeout=limit_s).returncode
            except subprocess.TimeoutExpired:
                code = None
        seconds = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        written = place / "output" / "MappingResult.txt"
        return {
            "code": code,
            "stdout": outputs[0].read_text(errors="replace"),
            "stderr": outputs[1].read_text(errors="replace"),
            "mapping": written.read_text() if written.exists() else None,
            "seconds": seconds,
            "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        }


def said(result: Mapping[str, Any], limit_s: float) -> str | None:
    """Why it did not end, or what it said on standard error."""
    lines = [line for line in result["stderr"].splitlines() if line.strip()]
    if result["code"] is None:
        needed = re.search(r"Minimum Crossbar Num in One Core:\s*(\d+)", result["stdout"])
        return f"stopped after {limit_s:g} s" + (f"; it asks for cores of {needed[1]} arrays or more" if needed else "")
    if result["code"] < 0:
        return f"ended by signal {-result['code']}" + (f": {lines[-1]}" if lines else "")
    return lines[-1] if lines else None


def attempt(folder: Path, network: str, config: Mapping[str, Any], how: Setting) -> tuple[int, dict[str, Any]]:
    """Run until it does not crash: how often, and the last result."""
    command = [f"-m={network}", f"-r={how.method}", f"-p={how.pipeline}"]
    count, result = 1, execute(folder, config, command, how.limit_s)
    while result["code"] == CRASHED and count < ATTEMPTS:
        count, result = count + 1, execute(folder, config, command, how.limit_s)
    return count, result


def run(
    folder: Path, network: str, where: Architecture, how: Setting
) -> tuple[dict[str, Any], npt.NDArray[np.int16] | None]:
    """One run, as the results hold it, and the cores of its row blocks."""
    layers = NETWORKS[network]().layers
    nodes = [index for index, _ in matched(shipped(folder, network), layers)]
    chips = where.chips(layers) + how.more_chips
    cores, arrays_per_core = chips * where.cores // how.joined, where.arrays_per_core * how.joined
    base = json.loads((folder / "config.json").read_text())
    attempts, result = attempt(folder, network, configuration(base, where, cores, arrays_per_core), how)
    report, placed = read_report(result["stdout"]), read_mapping(result["mapping"] or "")
    population, iterations = search_constants(folder) if how.method == "GA" else (None, None)
    entry = {
        "network": network,
        "architecture": where.name,
        "method": how.method,
        "pipeline": how.pipeline,
        "population": population,
        "iterations": iterations,
        "chips": chips,
        "cores": cores,
        "arrays_per_core": arrays_per_core,
        "budget": chips * where.arrays_per_chip,
        "attempts": attempts,
        "complete": result["code"] == 0 and report.seconds is not None,
        "stage": report.stage,
        "message": said(result, how.limit_s),
        "seconds": round(result["seconds"], 2),
        "cpu_seconds": round(result["cpu_seconds"], 2),
        "reported_seconds": report.seconds,
        **mapping(report, placed, nodes, layers, where.arrays(layers)),
        "latency_ns": report.latency_ns,
    }
    built = entry["mapped"] and entry["fullest_core"] <= arrays_per_core
    return entry, in_a_row(placed, nodes) if built else None


def mapping(
    report: Report,
    placed: Mapping[int, Mapping[tuple[int, int], tuple[int, int]]],
    nodes: Sequence[int],
    layers: Sequence[Layer],
    arrays: Sequence[int],
) -> dict[str, Any]:
    """Copies, arrays and cores by layer, as far as it came."""
    replicas = None
    if all(node in report.replicas for node in nodes):
        # It drops copies beyond the number of vectors when it cuts the layers, after it printed them.
        replicas = [min(report.replicas[node], layer.vectors) for node, layer in zip(nodes, layers, strict=True)]
    mapped = all(node in placed for node in nodes)
    held = Counter[int]()
    for node in nodes if mapped else ():
        for core, count in placed[node].values():
            held[core] += count
    return {
        "mapped": mapped,
        "replicas": replicas,
        "arrays": list(arrays),
        "arrays_used": sum(r * a for r, a in zip(replicas, arrays, strict=True)) if replicas else None,
        "arrays_reported": report.arrays,
        "cores_used": [len({core for core, _ in placed[node].values()}) for node in nodes] if mapped else None,
        "fullest_core": max(held.values()) if mapped else None,
    }


def in_a_row(
    placed: Mapping[int, Mapping[tuple[int, int], tuple[int, int]]], nodes: Sequence[int]
) -> npt.NDArray[np.int16]:
    """Cores of all row blocks: layer by layer, copy by copy."""
    return np.array([placed[node][each][0] for node in nodes for each in sorted(placed[node])], dtype=np.int16)


def cores_of(entry: Mapping[str, Any]) -> npt.NDArray[np.int64] | None:
    """Cores of all row blocks of a run: layer by layer, copy by copy; None where it has no mapping."""
    path = RESULTS / CORES
    if not path.exists():
        return None
    with np.load(path) as known_cores:
        name = named(entry)
        return known_cores[name].astype(np.int64) if name in known_cores else None


def keep_cores(entry: Mapping[str, Any], found: npt.NDArray[np.int16] | None) -> None:
    """Write them in place of those that are there for the same kind of run."""
    path, cores = RESULTS / CORES, {}
    if path.exists():
        with np.load(path) as kept:
            cores = {name: kept[name] for name in kept.files if name != named(entry)}
    if found is not None:
        cores[named(entry)] = found
    np.savez_compressed(path, **{name: cores[name] for name in sorted(cores)})


CORES = "pimcomp_cores.npz"


def named(entry: Mapping[str, Any]) -> str:
    return " ".join(str(entry[part]) for part in ("network", "architecture", "method", "pipeline", "cores"))


def shipped(folder: Path, network: str) -> dict[str, Any]:
    """The model of a network that comes with it."""
    found: dict[str, Any] = json.loads((folder / "models" / "JSON" / f"{network}.json").read_text())
    return found


def commit(folder: Path) -> str:
    """Commit of the checkout, `unknown` where it is none."""
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True)
    return found.stdout.strip() if found.returncode == 0 else "unknown"


def networks(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Our layers and its names of them, by network."""
    found = {}
    for name, build in NETWORKS.items():
        layers = build().layers
        nodes = matched(shipped(folder, name), layers)
        found[name] = [
            {
                "layer": layer.name,
                "pimcomp": theirs,
                "rows": layer.rows,
                "columns": layer.columns,
                "vectors": layer.vectors,
            }
            for layer, (_, theirs) in zip(layers, nodes, strict=True)
        ]
    return found


def key(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(entry[name] or "" for name in ("network", "architecture", "method", "pipeline", "iterations", "cores"))


def told(entry: Mapping[str, Any]) -> str:
    """A run in a line."""
    name = " ".join(entry[part] for part in ("network", "architecture", "method", "pipeline"))
    outcome = "done" if entry["complete"] else f"{entry['stage']}: {entry['message']}"
    return f"{name}: {entry['seconds']} s, {entry['arrays_used']} of {entry['budget']} arrays, {outcome}"


def main() -> None:
    """Run what is asked for and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--architectures", default="arch_a,arch_b,arch_c")
    parser.add_argument("--methods", default="balance,GA")
    parser.add_argument("--pipelines", default="batch,element")
    parser.add_argument("--more-chips", type=int, default=0, help="than the smallest number that holds the network")
    parser.add_argument("--joined", type=int, default=1, help="cores that count as one")
    parser.add_argument("--limit", type=float, default=600, help="seconds of one run")
    parser.add_argument("--out", default="pimcomp")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    where = architectures()
    program = {"name": "PIMCOMP-NN", "source": SOURCE, "commit": commit(folder)}
    for method, pipeline in product(arguments.methods.split(","), arguments.pipelines.split(",")):
        how = Setting(method, pipeline, arguments.limit, arguments.more_chips, arguments.joined)
        for architecture, network in product(arguments.architectures.split(","), arguments.networks.split(",")):
            entry, cores = run(folder, network, where[architecture], how)
            if arguments.out == "pimcomp":
                keep_cores(entry, cores)
            kept = [old for old in known(arguments.out).get("runs", []) if key(old) != key(entry)]
            runs = sorted([*kept, entry], key=lambda e: tuple(map(str, key(e))))
            write(arguments.out, {"program": program, "networks": networks(folder), "runs": runs})
            print(told(entry), flush=True)


if __name__ == "__main__":
    main()
