"""The command line as a user meets it: exit codes, messages, JSON keys, damage and wrong mappings."""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import mcompiler
from mcompiler.cli.main import main, run
from tests.support.digits import DEMO, digits_build
from tests.support.sealed import reseal, rewrite_json

MODEL = str(DEMO / "digits.onnx")
CALIBRATION = ["--calibration", str(DEMO / "digits_calibration.npz")]
LAYER = "/conv1/Conv"

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build that tests only look at."""
    return digits_build().save(tmp_path_factory.mktemp("cli") / "digits.build")


@pytest.fixture
def own(built: Path, tmp_path: Path) -> Path:
    """A build that a test may change."""
    return Path(shutil.copytree(built, tmp_path / "own.build"))


def call(capsys: Capture, *arguments: object) -> tuple[int, str, str]:
    code = run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def call_json(capsys: Capture, *arguments: object) -> tuple[int, Any, str]:
    code, out, err = call(capsys, *arguments, "--json")
    return code, json.loads(out), err


def last_line(text: str) -> str:
    return text.rstrip("\n").rpartition("\n")[2]


def matmul_model(path: Path, weights: np.ndarray[Any, Any], name: str = "product") -> Path:
    rows, cols = weights.shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name=name)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", cols])],
        [numpy_helper.from_array(weights.astype(np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


# --- help, usage, version --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["compile"],
        ["verify"],
        ["cost"],
        ["report"],
        ["cells"],
        ["targets"],
        ["targets", "list"],
        ["ops"],
        ["demo"],
        ["compress"],
    ],
)
def test_every_command_has_help(command: list[str], capsys: Capture) -> None:
    code, out, err = call(capsys, *command, "--help")
    assert (code, err) == (0, "")
    assert out.startswith("Usage: mcompiler")


@pytest.mark.parametrize(
    "command", [["compile"], ["verify"], ["cost"], ["report"], ["cells"], ["ops"], ["demo"], ["compress"]]
)
def test_every_command_offers_json(command: list[str], capsys: Capture) -> None:
    assert "--json" in call(capsys, *command, "--help")[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["compile"], "Missing argument 'MODEL.onnx'"),
        (["verify", "x", "--limit", "0"], "--limit"),
        (["compile", "m.onnx", "--range", "median"], "'median' is not one of"),
        (["compile", "m.onnx", "--dim", "batch"], "--dim batch: give NAME=N"),
        (["nonsense"], "No such command 'nonsense'"),
        (["cost", "x", "--verbose"], "No such option"),
    ],
)
def test_usage_errors_exit_2(arguments: list[str], said: str, capsys: Capture) -> None:
    code, out, err = call(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert said in last_line(err)
    assert "--help" in last_line(err)


# --- mistakes --------------------------------------------------------------------------------------------------------


def test_mistakes_exit_1_with_one_line(tmp_path: Path, built: Path, capsys: Capture, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.onnx").write_text("no model")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    np.savez(tmp_path / "none.npz", x=np.zeros((0, 1, 8, 8), np.float32))
    mistakes: list[tuple[list[object], str]] = [
        (["compile", "gone.onnx"], "gone.onnx"),
        (["compile", "text.onnx"], "text.onnx"),
        (["compile", MODEL], "--calibration"),
        (["compile", MODEL, "--calibration", "gone.npz"], "gone.npz: no such file"),
        (["compile", MODEL, "--calibration", "none.npz"], "none.npz: no samples"),
        (["compile", MODEL, *CALIBRATION, "--target", "generic_12"], "did you mean 'generic_128'"),
        (["compile", MODEL, *CALIBRATION, "--set", "converters.adc.bit=6"], "did you mean 'bits'"),
        (["compile", MODEL, *CALIBRATION, "--dim", "depth=3"], "no such dimension"),
        (["compile", MODEL, *CALIBRATION, "--out", "other"], "no build of mcompiler"),
        (["verify", "gone.build"], "gone.build: no such build directory"),
        (["verify", "other"], "no manifest.json"),
        (["verify", built, "--data", "gone.npz"], "gone.npz"),
        (["cells", built, "--layer", "conv9"], "no layer 'conv9'"),
        (["cells", built, "--layer", LAYER, "--tile", "99"], "there is no number 99"),
    ]
    for arguments, said in mistakes:
        code, out, err = call(capsys, *arguments)
        assert (code, out) == (1, ""), arguments
        assert said in last_line(err), (arguments, err)
        assert "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["none.npz", "other", "text.onnx"], "something was left"


def test_json_errors_are_an_object_and_the_line(tmp_path: Path, capsys: Capture) -> None:
    code, data, err = call_json(capsys, "compile", tmp_path / "gone.onnx")
    assert code == 1
    assert list(data) == ["error"]
    assert "gone.onnx" in data["error"]
    assert last_line(err) == f"mcompiler: {data['error']}"


def test_our_own_faults_exit_70_in_one_line(built: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr("mcompiler.driver.load", broken)
    code, _, err = call(capsys, "cost", built)
    assert code == 70
    assert err == "mcompiler: a fault of mcompiler: ZeroDivisionError: a fault (--debug shows where)\n"
    code, _, err = call(capsys, "--debug", "cost", built)
    assert code == 70
    assert "Traceback" in err


def test_an_interrupt_exits_130(built: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mcompiler.driver.load", interrupted)
    assert call(capsys, "cost", built)[0] == 130


def test_weights_that_are_not_finite_are_refused_by_node(tmp_path: Path, capsys: Capture) -> None:
    weights = np.ones((4, 3))
    weights[1, 2] = np.nan
    model = matmul_model(tmp_path / "nan.onnx", weights, name="head")
    code, _, err = call(capsys, "compile", model, "--calibration", "random", "--out", tmp_path / "b")
    assert code == 1
    assert last_line(err).startswith("mcompiler: node 'head': ")
    assert "NaN" in last_line(err)
    assert not (tmp_path / "b").exists()


def test_a_model_that_does_not_fit_says_what_it_takes(tmp_path: Path, capsys: Capture) -> None:
    tiny = ["hierarchy.arrays_per_core=1", "hierarchy.cores_per_tile=2", "hierarchy.tiles_per_chip=2"]
    given = [part for item in tiny for part in ("--set", item)]
    code, _, err = call(capsys, "compile", MODEL, *CALIBRATION, *given, "--chips", 2, "--out", tmp_path / "b")
    assert code == 1
    assert "needs 19 arrays and 2 chip(s) of 4 hold 8: 11 too many" in err
    assert "'/conv3/Conv'" in err
    assert "it would take 5 chips (--chips 5)" in last_line(err)


# --- what is printed -------------------------------------------------------------------------------------------------


def test_compile_prints_the_contract_and_the_default_place(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, data, _ = call_json(capsys, "compile", MODEL, *CALIBRATION)
    assert code == 0
    assert list(data) == ["out", "crossbars", "crossbars_dense", "nodes", "seconds", "layers", "cached", "guesses",
                          "quantisation", "placement"]  # fmt: skip
    assert data["out"] == "digits.build"
    assert data["layers"][0] == {"name": "/conv1/Conv", "label": "/conv1/Conv", "adc_bits": {"min": 6, "max": 6}}
    assert len(data["layers"]) == 4
    assert {tuple(node) for node in data["nodes"]} == {("name", "op", "fate", "reason", "label", "reason_kind")}
    assert {node["fate"] for node in data["nodes"]} == {"analog", "digital"}
    assert [node["name"] for node in data["nodes"]] == [node.name for node in onnx.load(MODEL).graph.node]
    assert all(seconds >= 0 for seconds in data["seconds"].values())
    code, _, err = call(capsys, "compile", MODEL, *CALIBRATION)
    assert code == 1
    assert "--force" in last_line(err)
    assert call(capsys, "compile", MODEL, *CALIBRATION, "--force")[0] == 0


def test_verify_prints_the_contract(built: Path, capsys: Capture) -> None:
    code, data, err = call_json(capsys, "verify", built, "--data", DEMO / "digits.npz")
    assert (code, err) == (0, "")
    assert list(data) == [
        "samples", "exact", "max_code_error", "sqnr_db", "baseline", "agreement", "top1_float", "top1_quantised",
        "top1_mapped", "layers",
    ]  # fmt: skip
    assert set(data["layers"][0]) == {"name", "exact", "max_code_error", "sqnr_db", "adc_clipped"}
    assert set(data["agreement"]) == {"mapped_quantised", "quantised_float"}
    with np.load(DEMO / "digits.npz") as file:
        assert data["samples"] == len(file["y"])
    assert data["exact"] is True
    assert data["max_code_error"] == 0
    assert data["top1_mapped"] == data["top1_quantised"] > 0.97


def test_verify_draws_and_limits(built: Path, capsys: Capture) -> None:
    _, drawn, _ = call_json(capsys, "verify", built)
    assert drawn["samples"] == 16
    assert drawn["top1_float"] is None
    _, limited, _ = call_json(capsys, "verify", built, "--data", DEMO / "digits.npz", "--limit", 5)
    assert limited["samples"] == 5
    assert limited["top1_float"] is not None


def test_a_converter_that_loses_is_no_failure_and_ideal_proves_the_mapping(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "lossy.build"
    assert call(capsys, "compile", MODEL, *CALIBRATION, "--set", "converters.adc.bits=5", "--out", out)[0] == 0
    code, data, _ = call_json(capsys, "verify", out)
    assert code == 0
    assert data["exact"] is False
    assert data["max_code_error"] > 0
    code, data, _ = call_json(capsys, "verify", out, "--ideal")
    assert (code, data["exact"]) == (0, True)


def test_cost_adds_up(built: Path, capsys: Capture) -> None:
    _, data, _ = call_json(capsys, "cost", built)
    keys = {
        "latency_s", "throughput_per_s", "energy_j", "power_w", "peak_power_w", "area_m2", "crossbars",
        "crossbars_dense", "utilisation", "layers", "components", "events", "units", "energy_active_j",
        "energy_standby_used_j", "energy_standby_chip_j", "rate_per_s", "stale",
    }  # fmt: skip
    assert set(data) == keys
    energies = ("energy_j", "energy_active_j", "energy_standby_used_j", "energy_standby_chip_j")
    for total in (*energies, "area_m2"):
        for table in ("layers", "components"):
            assert sum(row[total] for row in data[table].values()) == pytest.approx(data[total], rel=1e-9)
    assert data["rate_per_s"] == data["throughput_per_s"]
    assert data["power_w"] == data["energy_j"] * data["rate_per_s"]
    assert data["energy_j"] == pytest.approx(data["energy_active_j"] + data["energy_standby_used_j"])
    assert {tuple(row) for row in data["events"]} == {("layer", "event", "count")}


def test_cost_at_a_rate(built: Path, capsys: Capture) -> None:
    _, fast, _ = call_json(capsys, "cost", built)
    half = fast["throughput_per_s"] / 2
    code, slow, _ = call_json(capsys, "cost", built, "--rate", repr(half))
    assert (code, slow["rate_per_s"], slow["throughput_per_s"]) == (0, half, fast["throughput_per_s"])
    assert slow["energy_active_j"] == fast["energy_active_j"]
    assert slow["energy_standby_chip_j"] == pytest.approx(2 * fast["energy_standby_chip_j"])
    assert slow["power_w"] == slow["energy_j"] * half
    assert call_json(capsys, "cost", built, "--rate", repr(fast["throughput_per_s"]))[1] == fast


def test_a_rate_that_no_build_has(built: Path, capsys: Capture) -> None:
    _, fast, _ = call_json(capsys, "cost", built)
    highest = fast["throughput_per_s"]
    code, _, error = call(capsys, "cost", built, "--rate", repr(2 * highest))
    assert (code, error.count("\n")) == (1, 1)
    assert f"above the highest of this build, {highest};" in error
    for rate in ("0", "-1", "fast"):
        code, _, error = call(capsys, "cost", built, "--rate", rate)
        assert code == 2
        assert "--rate" in error
    assert call(capsys, "cost", built, "--rate", "nan")[0] == 1


def test_cells_are_the_levels_of_the_file(built: Path, capsys: Capture) -> None:
    _, data, _ = call_json(capsys, "cells", built, "--layer", LAYER)
    levels = np.array(data["arrays"][0]["levels"])
    assert levels.shape == (128, 128)
    (stored,) = sorted((built / "cells").glob("*conv1*"))
    packed = np.load(stored)[0]
    by_hand = np.stack([(packed >> place) & 3 for place in (0, 2, 4, 6)], axis=-1).reshape(128, 128)
    assert np.array_equal(levels, by_hand)
    code, out, _ = call(capsys, "cells", built, "--layer", LAYER, "--tile", 0)
    lines = out.strip().split("\n")
    assert code == 0
    assert lines[0] == "array,chip,tile,core,position,row,column,level,conductance_s"
    assert len(lines) == 1 + 128 * 128
    number, *_, row, column, level, siemens = lines[1 + 128 * 2 + 5].split(",")
    assert (number, int(row), int(column), int(level)) == ("0", 2, 5, levels[2, 5])
    assert float(siemens) == pytest.approx(1e-6 + levels[2, 5] * 33e-6, rel=1e-5)


def test_ops_names_every_operator_with_a_fate(capsys: Capture) -> None:
    _, rows, _ = call_json(capsys, "ops")
    fates = {row["op"]: row["fate"] for row in rows}
    assert {op: fates[op] for op in ("Conv", "Gemm", "MatMul", "Softmax", "LSTM", "RandomNormal")} == {
        "Conv": "analog", "Gemm": "analog", "MatMul": "analog", "Softmax": "digital", "LSTM": "digital",
        "RandomNormal": "refused",
    }  # fmt: skip
    assert all(row["reason"] for row in rows)


def test_targets_commands(capsys: Capture, tmp_path: Path) -> None:
    _, listed, _ = call_json(capsys, "targets", "list")
    assert {"generic_128", "isaac", "yuan2019", "yuan2019_32x32"} <= {row["name"] for row in listed}
    code, shown, _ = call(capsys, "targets", "show", "isaac", "--set", "converters.adc.bits=7")
    assert code == 0
    (tmp_path / "copy.toml").write_text(shown)
    assert call(capsys, "targets", "check", tmp_path / "copy.toml")[0] == 0
    _, checked, _ = call_json(capsys, "targets", "check", tmp_path / "copy.toml")
    keys = {row["key"]: row for row in checked["keys"]}
    assert keys["network.link_bits"]["prices"]["area_m2"] == ["router"]
    assert "schedule" in keys["digital.clock_hz"]["stages"]
    assert keys["published.chip_power_w"]["reason"].startswith("figures of the paper")
    (tmp_path / "bad.toml").write_text(shown.replace("rows_active", "rows_activ", 1))
    code, _, err = call(capsys, "targets", "check", tmp_path / "bad.toml")
    assert code == 1
    assert "did you mean 'rows_active'" in err
    _, schema, _ = call_json_schema(capsys)
    assert schema["$schema"].startswith("https://json-schema.org/")


def call_json_schema(capsys: Capture) -> tuple[int, Any, str]:
    code, out, err = call(capsys, "targets", "schema")
    return code, json.loads(out), err


def test_report_names_the_page(built: Path, capsys: Capture) -> None:
    code, out, _ = call(capsys, "report", built)
    assert code == 0
    assert str(built / "report.html") in out
    _, data, _ = call_json(capsys, "report", built)
    assert data["report"] == str(built / "report.html")


# --- the demo --------------------------------------------------------------------------------------------------------


def test_the_demo_shows_dense_and_compressed(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, data, err = call_json(capsys, "demo")
    assert (code, err) == (0, "")
    assert list(data) == ["out", "verify", "cost", "compressed"]
    assert list(data["compressed"]) == ["out", "verify", "cost"]
    dense, small = data, data["compressed"]
    assert (dense["out"], small["out"]) == ("digits.build", "digits_compressed.build")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits.build", "digits_compressed.build"]
    for shown in (dense, small):
        assert shown["verify"]["exact"] is True
        assert mcompiler.load(shown["out"]).cost.as_json() == shown["cost"]
    assert (dense["cost"]["crossbars"], small["cost"]["crossbars"]) == (19, 5)
    assert small["cost"]["energy_j"] < dense["cost"]["energy_j"] / 2
    assert small["verify"]["top1_mapped"] >= dense["verify"]["top1_mapped"] - 0.015


def test_the_demo_prints_both_and_replaces_its_own_builds(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "here.build"
    for _ in range(2):
        code, printed, _ = call(capsys, "demo", "--out", out)
        assert code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here.build", "here_compressed.build"]
    lines = printed.split("\n")
    assert [line for line in lines if line.endswith(" on generic_128")] == [
        "digits.onnx on generic_128", "digits_compressed.onnx on generic_128",
    ]  # fmt: skip
    assert sum(line.startswith("EXACT on 450 samples") for line in lines) == 2
    assert [line.split()[:2] for line in lines if line.startswith(("dense ", "compressed "))] == [
        ["dense", "19"], ["compressed", "5"],
    ]  # fmt: skip


def test_the_demo_does_not_replace_what_is_no_build(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "digits_compressed.build").mkdir()
    (tmp_path / "digits_compressed.build" / "thesis.txt").write_text("mine")
    code, _, err = call(capsys, "demo", "--out", tmp_path / "digits.build")
    assert code == 1
    assert "digits_compressed.build" in last_line(err)
    assert (tmp_path / "digits_compressed.build" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("command", [["demo", "--train"], ["compress", "task:task"]])
def test_without_torch_training_says_what_to_install(
    command: list[str], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else find(name, *rest))
    code, out, err = call(capsys, *command)
    said = f"mcompiler {command[0]}" + (" --train" if command[0] == "demo" else "")
    assert (code, out) == (1, "")
    assert last_line(err) == (
        f"mcompiler: {said} trains with PyTorch, which is not installed; pip install 'mcompiler[admm]'"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_demo_trains_compresses_and_proves(tmp_path: Path) -> None:
    """From scratch on one thread: under a minute of processor time, 5 crossbars or fewer, 1.5 points lost at most."""
    pytest.importorskip("torch")
    command = [sys.executable, "-m", "mcompiler", "demo", "--train", "--json", "--out", str(tmp_path / "digits.build")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 60
    data = json.loads(done.stdout)
    assert list(data) == ["out", "verify", "cost", "compressed", "training"]
    dense, small, training = data, data["compressed"], data["training"]
    assert dense["verify"]["exact"] is small["verify"]["exact"] is True
    assert small["cost"]["crossbars"] == training["tiles"] <= 5
    assert dense["cost"]["crossbars"] == training["tiles_dense"] == 19
    assert small["verify"]["top1_mapped"] >= dense["verify"]["top1_mapped"] - 0.015
    assert small["verify"]["top1_mapped"] == pytest.approx(training["top1"]["quantised"], abs=1e-12)
    assert dense["verify"]["top1_float"] == pytest.approx(training["top1"]["dense"], abs=1e-12)
    for step in ("dense: ", "admm 0: ", "projected: ", "5 of 19 array positions", "quantised: "):
        assert step in done.stderr


# --- damage and wrong mappings ---------------------------------------------------------------------------------------


def flip_a_cell(build: Path) -> str:
    (path,) = sorted((build / "cells").glob("*conv2*"))
    cells = np.load(path)
    cells[0, 0, 0] ^= 1
    np.save(path, cells)
    return str(path.relative_to(build))


def test_a_changed_cell_is_damage_and_the_file_is_named(own: Path, capsys: Capture) -> None:
    name = flip_a_cell(own)
    code, out, err = call(capsys, "verify", own)
    assert (code, out) == (1, "")
    assert f"{own / name}: damaged" in last_line(err)


def test_a_changed_cell_with_its_hash_resealed_is_a_wrong_mapping(own: Path, capsys: Capture) -> None:
    reseal(own, flip_a_cell(own))
    code, data, err = call_json(capsys, "verify", own)
    assert code == 3
    assert data["exact"] is False
    assert [layer["name"] for layer in data["layers"] if not layer["exact"]] == ["/conv2/Conv"]
    assert last_line(err).startswith("mcompiler: verification failed: ")


@pytest.mark.parametrize(
    "name",
    [
        "model.onnx",
        "reference.onnx",
        "mapped.onnx",
        "layers.json",
        "layers/graph.onnx",
        "target.toml",
        "cost.json",
        "schedule.json",
        "report.html",
    ],
)
def test_verify_names_any_damaged_file_of_the_build(name: str, own: Path, capsys: Capture) -> None:
    data = bytearray((own / name).read_bytes())
    data[len(data) // 2] ^= 0xFF
    (own / name).write_bytes(data)
    code, _, err = call(capsys, "verify", own)
    assert code == 1
    assert str(own / name) in last_line(err)
    (own / name).unlink()
    code, _, err = call(capsys, "verify", own)
    assert code == 1
    assert str(own / name) in last_line(err)


# --- names -----------------------------------------------------------------------------------------------------------


def test_names_that_are_no_file_names(tmp_path: Path, capsys: Capture) -> None:
    for index, name in enumerate(["../../etc/passwd", "größe/🙂 1", "a" * 300, "CON", ".hidden", "x" + "/" * 40]):
        model = matmul_model(tmp_path / f"{index}.onnx", np.eye(3), name=name)
        out = tmp_path / f"{index}.build"
        assert call(capsys, "compile", model, "--calibration", "random", "--out", out)[0] == 0, name
        assert all(out in path.resolve().parents for path in out.rglob("*"))
        code, data, _ = call_json(capsys, "verify", out)
        assert (code, data["layers"][0]["name"]) == (0, name)
        assert call(capsys, "cells", out, "--layer", name, "--tile", 0)[0] == 0


def test_the_real_process(built: Path, tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-m", "mcompiler"]
    done = subprocess.run(
        [*command, "verify", str(built), "--limit", "4"], capture_output=True, text=True, cwd=root, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("EXACT on 4 samples")
    done = subprocess.run(
        [*command, "verify", str(tmp_path / "gone")], capture_output=True, text=True, cwd=root, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1


# --- options, and what else can go wrong -----------------------------------------------------------------------------


def test_version_and_exit_code(capsys: Capture) -> None:
    assert call(capsys, "--version")[1].strip() == f"mcompiler, version {mcompiler.__version__}"
    with pytest.raises(SystemExit) as stop:
        main(["verify", "/nowhere"])
    assert stop.value.code == 1


def test_dimensions_are_given_or_guessed_aloud(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    proto = onnx.load(matmul_model(tmp_path / "seq.onnx", np.eye(3)))
    for value in (*proto.graph.input, *proto.graph.output):
        shape = value.type.tensor_type.shape
        shape.dim.insert(1, onnx.TensorShapeProto.Dimension(dim_param="length"))
    onnx.save(proto, "seq.onnx")
    random = ("compile", "seq.onnx", "--calibration", "random", "--force")
    assert call(capsys, *random, "--dim", "length=7")[0] == 0
    assert mcompiler.load("seq.build").options.dims == {"length": 7}
    code, _, err = call(capsys, *random)
    assert code == 0
    assert "guessed length=1; give --dim length=N for another size" in err
    assert "warning" not in err
    assert call_json(capsys, *random)[1]["guesses"] == {"length": 1}
    assert call_json(capsys, *random, "--dim", "length=7")[1]["guesses"] == {}
    assert call(capsys, *random, "--dim", "length=0")[0] == 2


def test_seeds_draw_other_samples(built: Path, capsys: Capture) -> None:
    figures = [call_json(capsys, "verify", built, "--seed", seed)[1]["sqnr_db"] for seed in (1, 1, 2)]
    assert figures[0] == figures[1] != figures[2]


def test_data_that_do_not_fit(built: Path, tmp_path: Path, capsys: Capture) -> None:
    image = np.zeros((3, 1, 8, 8))
    for name, arrays, said in (
        ("shape", {"x": image[..., :7].astype(np.float32)}, "needs shape [n, 1, 8, 8]"),
        ("double", {"x": image}, "float32, the file has float64"),
        ("name", {"a": image.astype(np.float32), "b": image}, "no array for input(s)"),
        ("labels", {"x": image.astype(np.float32), "y": np.zeros(2, np.int64)}, "differ in their number of samples"),
        ("empty", {"x": image[:0].astype(np.float32)}, "no samples in it"),
    ):
        path = tmp_path / f"{name}.npz"
        np.savez(path, **arrays)
        code, _, err = call(capsys, "verify", built, "--data", path)
        assert code == 1
        assert said in last_line(err), name


def test_another_mapped_file_or_placement_is_a_wrong_mapping(own: Path, capsys: Capture) -> None:
    def swap(data: dict[str, Any]) -> None:
        one, other = [node for node in data["nodes"] if node["kind"] == "array"][:2]
        one["address"], other["address"] = other["address"], one["address"]

    whole = (own / "placement.json").read_bytes()
    rewrite_json(own, "placement.json", swap)
    code, _, err = call(capsys, "verify", own)
    assert code == 3
    assert f"placement.json and layers/ disagree on 'array:{LAYER}:0'" in last_line(err)
    (own / "placement.json").write_bytes(whole)
    proto = onnx.load(own / "mapped.onnx")
    proto.graph.node[0].name = "renamed"
    onnx.save(proto, own / "mapped.onnx")
    reseal(own, "mapped.onnx", "placement.json")
    code, _, err = call(capsys, "verify", own)
    assert code == 3
    assert "the shipped mapped.onnx is not the model" in last_line(err)


def test_a_fault_of_a_pass_names_it(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("gone")

    monkeypatch.setattr("mcompiler.passes.tile.Tile.run", broken)
    code, out, err = call(capsys, "compile", MODEL, *CALIBRATION, "--out", tmp_path / "b")
    assert (code, out) == (70, "")
    assert "PassError: pass 'tile' failed after inline," in last_line(err)
    assert not list(tmp_path.iterdir())


def test_a_closed_pipe_is_no_fault(built: Path, tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[1]
    command = f'"{sys.executable}" -m mcompiler cells "{built}" --layer {LAYER} | head -n 1'
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, cwd=root, check=False
    )
    assert done.stdout == "array,chip,tile,core,position,row,column,level,conductance_s\n"
    assert done.stderr == ""
