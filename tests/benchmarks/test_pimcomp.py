"""What is read from PIMCOMP's output, and what it is told; the program itself is not needed."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.benchmarks import FOLDER, benchmark

imagenet = benchmark("imagenet")
pimcomp = benchmark("pimcomp")
architectures = benchmark("architectures").architectures()

OUTPUT = """=========================== LOADING ===========================
=========================== REPLICATING ===========================
node:1  replication_num:3
node:4  replication_num:1
=========================== PARTITIONING ===========================
#RRAMs needed: 7
============================= MAPPING =============================
node:1  replication_num:99
============================= EVALUATING =============================
practical (ns)
470023.00
============================= OVERALL TIME =============================
9.17s
"""
MAPPING = """****************** Mapping Result ********************
168
core_0
   node  r_index  index_r  | AG_index  xbar_num  input_cycle
      1      0       0     |     0         1         33
      1      0       1     |     1         1         33
core_12
   node  r_index  index_r  | AG_index  xbar_num  input_cycle
      1      1       0     |     2         1         33
      4      0       0     |     3         1         33
"""


def test_a_report_is_read_from_what_it_prints() -> None:
    assert pimcomp.read_report(OUTPUT) == pimcomp.Report("OVERALL TIME", {1: 3, 4: 1}, 7, 470023.0, 9.17)
    searched = OUTPUT.replace("node:1  replication_num:3", "node:1  OP_CONV  5").replace(
        "node:4  replication_num:1", "node:4  OP_FC  1"
    )
    assert pimcomp.read_report(searched).replicas == {1: 5, 4: 1}
    broken = OUTPUT[: OUTPUT.index("=========================== PARTITIONING")]
    assert pimcomp.read_report(broken) == pimcomp.Report("REPLICATING", {1: 3, 4: 1}, None, None, None)
    assert pimcomp.read_report("") == pimcomp.Report("", {}, None, None, None)


def test_cores_are_read_from_its_mapping() -> None:
    placed = pimcomp.read_mapping(MAPPING)
    assert placed == {1: {(0, 0): (0, 1), (0, 1): (0, 1), (1, 0): (12, 1)}, 4: {(0, 0): (12, 1)}}
    assert pimcomp.in_a_row(placed, [4, 1]).tolist() == [12, 0, 0, 12]


def test_cores_are_kept_by_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pimcomp, "RESULTS", tmp_path)
    one = {"network": "resnet18", "architecture": "arch_a", "method": "GA", "pipeline": "batch", "cores": 168}
    other = one | {"pipeline": "element"}
    assert pimcomp.cores_of(one) is None
    for entry, cores in ((one, [1, 2]), (other, [3]), (one, [4, 5, 6])):
        pimcomp.keep_cores(entry, np.array(cores, dtype=np.int16))
    assert pimcomp.cores_of(one).tolist() == [4, 5, 6]
    assert pimcomp.cores_of(other).tolist() == [3]
    pimcomp.keep_cores(one, None)
    assert pimcomp.cores_of(one) is None
    assert pimcomp.cores_of(other).tolist() == [3]


@pytest.mark.parametrize(
    ("cores", "expected"), [(168, (12, 14)), (504, (21, 24)), (138, (6, 23)), (64, (8, 8)), (7, (1, 7))]
)
def test_grids_are_no_higher_than_wide(cores: int, expected: tuple[int, int]) -> None:
    assert pimcomp.grid(cores) == expected


def test_its_arrays_hold_what_ours_hold() -> None:
    """It divides rows and output channels by what `xbar_size` says; that must give the arrays that we count."""
    base: dict[str, Any] = {"chip_config": {"core_config": {"matrix_config": {}}, "network_config": {}}}
    layers = imagenet.NETWORKS["vgg16"]().layers
    for where in architectures.values():
        config = pimcomp.configuration(base, where, 2 * where.cores, where.arrays_per_core)["chip_config"]
        matrix = config["core_config"]["matrix_config"]
        height, width = matrix["xbar_size"]
        theirs = [-(-layer.rows // height) * -(-layer.columns // width) for layer in layers]
        assert theirs == where.arrays(layers)
        rows, columns = config["network_config"]["layout"]
        assert rows * columns * matrix["xbar_array_count"] == 2 * where.arrays_per_chip
        assert (matrix["cell_precision"], matrix["adc_count"]) == (2, 8)
    assert base == {"chip_config": {"core_config": {"matrix_config": {}}, "network_config": {}}}


def nodes(name: str) -> list[dict[str, Any]]:
    """The model of a network as PIMCOMP describes it, another node between each two layers."""
    found: list[dict[str, Any]] = [{"operation": "OP_INPUT", "name": "data"}]
    for layer in imagenet.NETWORKS[name]().layers:
        node: dict[str, Any] = {"name": f"their {layer.name}"}
        if layer.name.startswith("fc"):
            node |= {"operation": "OP_FC", "param": {"num_input": layer.rows, "num_output": layer.columns}}
            node["output_dim"] = [1, layer.columns]
        else:
            param = {"kernel_h": 1, "kernel_w": 1, "input_channel": layer.rows, "output_channel": layer.columns}
            node |= {"operation": "OP_CONV", "param": param, "output_dim": [1, layer.columns, 1, layer.vectors]}
        found += [node, {"operation": "OP_RELU", "name": "relu"}]
    return found


def test_layers_are_matched_by_order_and_every_shape_is_checked() -> None:
    layers = imagenet.NETWORKS["resnet18"]().layers
    model = {"node_list": nodes("resnet18")}
    expected = [(1 + 2 * index, f"their {layer.name}") for index, layer in enumerate(layers)]
    assert pimcomp.matched(model, layers) == expected
    with pytest.raises(ValueError, match="20 layers where ours has 21"):
        pimcomp.matched({"node_list": model["node_list"][2:]}, layers)
    model["node_list"][3]["param"]["output_channel"] += 1
    with pytest.raises(ValueError, match=r"their stage1.0.conv1 is \(576, 65\) for 3136 vectors; ours is Layer"):
        pimcomp.matched(model, layers)


SCRIPT = """#!{python}
import json, os, sys
kill = lambda signal: os.kill(os.getpid(), signal)
assert sys.argv[1:] == ["-m=resnet18", "-r=balance", "-p=batch"]
matrix = json.load(open("../config.json"))["chip_config"]["core_config"]["matrix_config"]
assert matrix["xbar_size"] == [512, 256]
model = json.load(open("../models/JSON/resnet18.json"))
print("========== REPLICATING ==========")
for index, node in enumerate(model["node_list"]):
    if node["operation"] in ("OP_CONV", "OP_FC"):
        print(f"node:{{index}}  replication_num:2")
print("========== PARTITIONING ==========")
{end}
"""


def program(folder: Path, end: str) -> Path:
    """A checkout whose program gives every layer two copies and then does ``end``."""
    (folder / "build").mkdir(parents=True)
    (folder / "models" / "JSON").mkdir(parents=True)
    (folder / "models" / "JSON" / "resnet18.json").write_text(json.dumps({"node_list": nodes("resnet18")}))
    base: dict[str, Any] = {"chip_config": {"core_config": {"matrix_config": {}}, "network_config": {}}}
    (folder / "config.json").write_text(json.dumps(base))
    path = folder / "build" / "PIMCOMP-NN"
    path.write_text(SCRIPT.format(python=sys.executable, end=end))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return folder


def record(folder: Path, limit_s: float = 60) -> dict[str, Any]:
    """What is recorded of a run of ResNet-18 on Arch-C."""
    how = pimcomp.Setting("balance", "batch", limit_s)
    entry, cores = pimcomp.run(folder, "resnet18", architectures["arch_c"], how)
    assert cores is None
    found: dict[str, Any] = entry
    return found


def test_a_run_is_recorded_as_it_went(tmp_path: Path) -> None:
    end = 'print("========== OVERALL TIME ==========\\n0.5s")'
    entry = record(program(tmp_path / "good", end))
    assert entry["complete"]
    assert not entry["mapped"]  # it wrote no mapping
    assert entry["replicas"] == [2] * 20 + [1]  # the dense layer has one vector
    assert entry["arrays_used"] == 2 * 110 - 4
    assert (entry["chips"], entry["cores"], entry["budget"]) == (1, 64, 512)
    assert (entry["attempts"], entry["reported_seconds"], entry["message"]) == (1, 0.5, None)


def test_a_run_that_ends_badly_says_how(tmp_path: Path) -> None:
    end = 'print("Map Check Failed.", file=sys.stderr, flush=True); sys.stdout.flush(); kill({})'
    entry = record(program(tmp_path / "abort", end.format(6)))
    assert not entry["complete"]
    assert (entry["stage"], entry["attempts"]) == ("PARTITIONING", 1)
    assert entry["message"] == "ended by signal 6: Map Check Failed."
    assert entry["replicas"] is not None
    entry = record(program(tmp_path / "crash", end.format(11)))
    assert entry["attempts"] == 3
    slow = program(tmp_path / "slow", "sys.stdout.flush(); import time; time.sleep(60)")
    entry = record(slow, 1)
    assert (entry["complete"], entry["message"]) == (False, "stopped after 1 s")


@pytest.mark.parametrize("path", sorted((FOLDER / "results").glob("pimcomp*.json")), ids=lambda path: path.stem)
def test_results_agree_with_our_count(path: Path) -> None:
    """Its own count of arrays is ours, and a mapping that it made stands on arrays that there are."""
    results = json.loads(path.read_text(encoding="utf-8"))
    for run in results["runs"]:
        layers = imagenet.NETWORKS[run["network"]]().layers
        where = architectures[run["architecture"]]
        assert [layer["layer"] for layer in results["networks"][run["network"]]] == [layer.name for layer in layers]
        assert run["arrays"] == where.arrays(layers)
        assert run["budget"] == run["chips"] * where.arrays_per_chip
        assert run["mapped"] or run["message"]  # what did not come so far says why
        if run["mapped"]:
            assert run["arrays_used"] == run["arrays_reported"]
            assert run["arrays_used"] <= run["cores"] * run["arrays_per_core"] == run["budget"]
            assert all(1 <= n <= layer.vectors for n, layer in zip(run["replicas"], layers, strict=True))
            if path.stem == "pimcomp" and run["fullest_core"] <= run["arrays_per_core"]:
                blocks = [-(-layer.rows // where.shape.rows) for layer in layers]
                cores = pimcomp.cores_of(run)
                assert len(cores) == sum(n * b for n, b in zip(run["replicas"], blocks, strict=True))
                assert 0 <= cores.min() <= cores.max() < run["cores"]
