"""Damaged and hostile inputs end in a sentence, in seconds and bounded memory; process-level accidents lose no file."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import mcompiler
from mcompiler.cli.main import run
from mcompiler.data import InputSpec, load_samples
from mcompiler.errors import BuildError, DataError, TargetError, UserError
from mcompiler.onnx_import.evaluate import output_bytes
from mcompiler.text import table
from tests.support.fuzz import WRONG, numbered, run_all
from tests.support.hostile_inputs import base_models

ROWS = 6
WHOLE = InputSpec("x", np.dtype(np.float32), ("N", ROWS))


def saved(proto: onnx.ModelProto, folder: Path, name: str = "m.onnx") -> Path:
    path = folder / name
    path.write_bytes(proto.SerializeToString())
    return path


def product(*nodes: onnx.NodeProto, **weights: np.ndarray[Any, Any]) -> onnx.ModelProto:
    """A model y of x [N, 6] with a product ``fc`` behind other nodes, or alone."""
    weights.setdefault("w", np.random.default_rng(0).standard_normal((ROWS, 4)).astype(np.float32))
    graph = helper.make_graph(
        [*nodes, helper.make_node("MatMul", ["x", "w"], ["y"], name="fc")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", ROWS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("count", [60, pytest.param(600, marks=pytest.mark.slow)])
def test_random_damage_ends_in_a_sentence(count: int) -> None:
    wrong: list[str] = []
    counts = run_all(7, numbered(count), wrong.append)
    assert not wrong, "\n".join(wrong)
    assert sum(counts.values()) == count
    assert sum(number for (_, outcome), number in counts.items() if outcome == WRONG) == 0


# --- models ----------------------------------------------------------------------------------------------------------


def refused(proto: onnx.ModelProto, folder: Path, match: str) -> None:
    """Compilation is refused in seconds with a message."""
    start = time.monotonic()
    with pytest.raises(UserError, match=match):
        mcompiler.compile(saved(proto, folder), "generic_128", calibration="random")
    assert time.monotonic() - start < 60  # loose: against allocations of terabytes and against hangs only


def test_tensors_that_do_not_hold_what_they_declare(tmp_path: Path) -> None:
    wrong_field = product()
    tensor = wrong_field.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.uint64_data.extend([1] * 24)
    refused(wrong_field, tmp_path, "tensor 'w' of type FLOAT is damaged: it has its data in uint64_data")
    short = product()
    tensor = short.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.float_data.extend([1.0] * 23)
    refused(short, tmp_path, "tensor 'w' of shape .* is damaged: it holds 23 elements, not 24")
    negative = product()
    negative.graph.initializer[0].dims[:] = [-6, -4]
    refused(negative, tmp_path, r"tensor 'w' is damaged \(dimensions \[-6, -4\]\)")


def test_sparse_tensors_of_terabytes(tmp_path: Path) -> None:
    proto = product()
    del proto.graph.initializer[:]
    values = numpy_helper.from_array(np.ones(1, np.float32), "w")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "at")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [10**6, 10**7]))
    refused(proto, tmp_path, "sparse tensor 'w' has 10000000000000 elements once it is dense")


def nested_functions(depth: int, calls: int) -> onnx.ModelProto:
    """Functions that call each other; inlined they are calls^depth nodes and those between."""
    proto = product(helper.make_node("f0", ["x"], ["t"], name="call", domain="own"))
    for level in range(depth):
        op, domain = (f"f{level + 1}", "own") if level + 1 < depth else ("Relu", "")
        names = ["a", *(f"t{index}" for index in range(calls))]
        nodes = [helper.make_node(op, [names[i]], [names[i + 1]], domain=domain) for i in range(calls)]
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
        proto.functions.append(helper.make_function("own", f"f{level}", ["a"], [names[-1]], nodes, opsets))
    proto.opset_import.append(helper.make_opsetid("own", 1))
    return proto


def test_functions_that_become_millions_of_nodes(tmp_path: Path) -> None:
    inlined = sum(2**level for level in range(1, 21))
    refused(nested_functions(20, 2), tmp_path, f"its functions become {inlined} nodes once they are inlined")
    refused(nested_functions(80, 1), tmp_path, "functions call each other|nested deeper than 64")
    circular = nested_functions(2, 1)
    circular.functions[1].node[0].op_type, circular.functions[1].node[0].domain = "f0", "own"
    refused(circular, tmp_path, "calls itself")
    assert mcompiler.compile(saved(nested_functions(5, 2), tmp_path), "generic_128", calibration="random").layers


@pytest.mark.parametrize(
    ("op", "inputs", "expected"),
    [
        ("Range", [np.int64(0), np.int64(10**12), np.int64(1)], 8 * 10**12),
        ("HannWindow", [np.int64(10**12)], 4 * 10**12),
        ("Add", [np.ones((10**5, 1), np.float32), np.ones((1, 10**5), np.float32)], 4 * 10**10),
        ("MatMul", [np.ones((10**5, 1), np.float32), np.ones((1, 10**5), np.float32)], 4 * 10**10),
        ("Expand", [np.ones(1, np.float16), np.array([10**6, 10**6])], 2 * 10**12),
        ("Tile", [np.ones((1, 1), np.float32), np.array([10**6, 10**6])], 4 * 10**12),
        ("OneHot", [np.arange(2), np.int64(10**12), np.array([0, 1], np.float32)], 8 * 10**12),
        ("Mul", [np.ones((3, 1), np.float32), np.ones((1, 4), np.float32)], 48),
        ("Reshape", [np.ones((3, 4), np.float32), np.array([-1, 2])], 48),
    ],
)
def test_sizes_of_results_before_they_are_computed(op: str, inputs: list[Any], expected: int) -> None:
    node = ir.Node("", op, [ir.Value(name=str(index)) for index in range(len(inputs))], num_outputs=1)
    assert output_bytes(node, [np.asarray(array) for array in inputs], {"": 20}) == expected


def test_values_that_no_memory_holds(tmp_path: Path) -> None:
    limits = {"a": np.int64(0), "b": np.int64(10**12), "c": np.int64(1)}
    ramp = helper.make_node("Range", ["a", "b", "c"], ["r"], name="ramp")
    proto = product(ramp, **{name: np.array(size) for name, size in limits.items()})
    refused(proto, tmp_path, r"node 'ramp' \(Range\)")
    proto.graph.value_info.append(helper.make_tensor_value_info("r", TensorProto.INT64, [2]))
    refused(proto, tmp_path, r"node 'ramp' \(Range\)")
    conv = base_models()[0]
    next(attr for attr in conv.graph.node[0].attribute if attr.name == "pads").ints[:] = [10**6] * 4
    refused(conv, tmp_path, r"node 'conv' \(Conv\) makes a value")


# --- targets and data ------------------------------------------------------------------------------------------------


def test_targets_that_are_nested_or_chained_without_end(tmp_path: Path) -> None:
    deep = tmp_path / "deep.toml"
    for depth in (40, 100_000):
        deep.write_text(f'extends = "generic_128"\nx = {"[" * depth}{"]" * depth}\n')
        with pytest.raises(TargetError, match="nested"):
            mcompiler.load_target(deep)
    for number in range(40):
        (tmp_path / f"t{number}.toml").write_text(f'extends = "t{number + 1}.toml"\n')
    (tmp_path / "t40.toml").write_text('extends = "generic_128"\n')
    with pytest.raises(TargetError, match="a chain of over 32 files"):
        mcompiler.load_target(tmp_path / "t0.toml")
    assert mcompiler.load_target(tmp_path / "t20.toml").array.rows == 128


def archive(folder: Path, shape: tuple[int, ...], content: bytes) -> Path:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    path = folder / "data.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x.npy", header.getvalue() + content)
    return path


def test_archives_that_declare_more_than_they_hold(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"array 'x' declares 24000000000000 bytes .* and has 4"):
        load_samples(archive(tmp_path, (10**12, ROWS), b"1234"), (WHOLE,))
    with pytest.raises(DataError, match=r"declares 48 bytes .* and has 44"):
        load_samples(archive(tmp_path, (2, ROWS), bytes(44)), (WHOLE,))
    assert load_samples(archive(tmp_path, (2, ROWS), bytes(48)), (WHOLE,)).count == 2


def test_data_that_allow_no_accuracy(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, ROWS)).astype(np.float32)
    model = saved(product(), tmp_path)
    build = mcompiler.compile(model, "generic_128", calibration=x)
    for value in (np.nan, np.inf):
        broken = x.copy()
        broken[3, 2] = value
        with pytest.raises(DataError, match="input 'x' has values that are NaN or infinite, first in sample 3"):
            build.verify(broken)
        with pytest.raises(DataError, match="first in sample 3"):
            mcompiler.compile(model, "generic_128", calibration=broken)
    with pytest.raises(DataError, match="all values of the calibration data are zero"):
        mcompiler.compile(model, "generic_128", calibration=np.zeros_like(x))
    for label in (-1, 4, 1 << 40):
        labels = np.arange(8) % 4
        labels[5] = label
        with pytest.raises(DataError, match=f"label {label} of sample 5 is none of the 4 classes"):
            build.verify(x, labels)
    assert build.verify(x, (x @ numpy_helper.to_array(product().graph.initializer[0])).argmax(1)).top1_float == 1.0


# --- the process -----------------------------------------------------------------------------------------------------


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "mcompiler", *map(str, arguments)]


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command line of bash, in which $M is the program."""
    root = str(Path(mcompiler.__file__).parents[1])
    variables = {**os.environ, "M": " ".join(command()), "PYTHONPATH": root, **environment}
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, env=variables, capture_output=True, check=False, timeout=300
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("$M ops 2>&-", 0),
        ("$M ops <&- >/dev/null", 0),
        ("$M ops >&-", 0),
        ("$M ops >/dev/full", 1),
        ("$M ops --json >/dev/full", 1),
        ("$M compile missing.onnx 2>/dev/full", 1),
        ("$M compile missing.onnx 2>&-", 1),
        ("$M compile missing.onnx --json >/dev/full 2>/dev/full", 1),
        ("$M ops | head -1; exit ${PIPESTATUS[0]}", 0),
        ("$M compile $'caf\\xe9.onnx'", 1),
    ],
)
def test_streams_that_are_closed_or_full(line: str, code: int, tmp_path: Path) -> None:
    done = shell(line, tmp_path)
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


@pytest.mark.slow
def test_file_names_that_are_no_text(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9\x1b[31m.onnx")
    saved(product(), tmp_path, name)
    done = shell("$M compile $'caf\\xe9\\x1b[31m.onnx' --calibration random --json", tmp_path)
    assert done.returncode == 0, done.stderr
    assert b"\x1b" not in done.stdout + done.stderr
    assert json.loads(done.stdout)["out"] == name.replace(".onnx", ".build")
    verified = shell("$M verify $'caf\\xe9\\x1b[31m.build'", tmp_path)
    assert verified.returncode == 0, verified.stderr


@pytest.mark.slow
def test_sigterm_leaves_no_partial_folder(tmp_path: Path) -> None:
    """The signal arrives while files are written: a file that never ends stands in for a large build."""
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from mcompiler.cli import streams, main\n"
        "import mcompiler.driver.build as build\n"
        "def slow(writer, *rest):\n"
        "    writer.text('half', 'half')\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(120)\n"
        "build.write_files = slow\n"
        "main(['compile', 'm.onnx', '--calibration', 'random'])\n"
    )
    saved(product(), tmp_path)
    root = str(Path(mcompiler.__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        assert any(path.name.startswith(".m.build.mcompiler-partial") for path in tmp_path.iterdir())
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert errors.splitlines()[-1] == b"mcompiler: terminated"
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_a_linked_place_gets_the_build_and_stays_a_link(tmp_path: Path) -> None:
    build = mcompiler.compile(saved(product(), tmp_path), "generic_128", calibration="random")
    (tmp_path / "disk").mkdir()
    link = tmp_path / "out"
    link.symlink_to("disk")
    for force in (False, True):
        build.save(link, force=force)
        assert link.is_symlink()
        assert (tmp_path / "disk" / "manifest.json").is_file()
    nowhere = tmp_path / "nowhere"
    nowhere.symlink_to("missing")
    with pytest.raises(UserError, match="a symbolic link to missing, which does not exist"):
        build.save(nowhere)


def test_control_characters_reach_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a\x1b[31m\u009b2J\x7f.onnx"
    path.write_bytes(b"no model")
    for options in ([], ["--json"]):
        assert run(["compile", str(path), *options]) == 1
        shown = capsys.readouterr()
        assert not [c for c in shown.out + shown.err if not c.isprintable() and c != "\n"]
        if options:
            assert "a\x1b[31m\u009b2J\x7f.onnx" in json.loads(shown.out)["error"]


# --- output ----------------------------------------------------------------------------------------------------------


def wide_rows() -> tuple[list[str], list[list[str]]]:
    headers = ["layer", *(f"number {index}" for index in range(9))]
    return headers, [
        [f"encoder/block{'x' * 50}/{row}", *(f"{row}{column}.5 uJ" for column in range(9))] for row in (1, 2)
    ]


def test_tables_fit_a_terminal_and_keep_names_elsewhere() -> None:
    headers, rows = wide_rows()
    whole = table(headers, rows, "l" + "r" * 9)
    assert rows[0][0] in whole
    assert len(whole.splitlines()) == 3
    for width in (30, 60, 100):
        narrow = table(headers, rows, "l" + "r" * 9, width)
        assert max(map(len, narrow.splitlines())) <= width
        for cell in (*headers, *rows[0][1:], *rows[1][1:]):
            assert cell in narrow


def test_a_build_is_shown_in_a_line_and_in_a_small_table(tmp_path: Path) -> None:
    build = mcompiler.compile(saved(product(), tmp_path), "generic_128", calibration="random")
    assert "\n" not in repr(build)
    assert len(repr(build)) < 200
    assert "crossbars=1" in repr(build)
    page = build._repr_html_()
    assert page.count("<tr>") < 12
    assert "<td style='text-align:left'>generic_128</td>" in page


def test_placements_are_written_as_graphml(tmp_path: Path) -> None:
    proto = product()
    proto.graph.node[0].name = "fc\x1b<&\x00"
    place = tmp_path / "p.graphml"
    graph = mcompiler.compile(saved(proto, tmp_path), "generic_128", calibration="random").placement
    nx.write_graphml(graph, place)
    back = nx.read_graphml(place)
    assert set(back.nodes) == {str(name) for name in graph.nodes}

    def plain(data: Mapping[str, Any]) -> dict[str, str]:
        return {key: str(value) for key, value in data.items()}

    for name, data in graph.nodes(data=True):
        assert plain(back.nodes[name]) == plain(data)


# --- builds ----------------------------------------------------------------------------------------------------------


def with_content(build: Path, name: str, change: Callable[[Any], None]) -> None:
    """Change a JSON file of a build, and its hash."""
    path, manifest = build / name, json.loads((build / "manifest.json").read_text())
    content = manifest if name == "manifest.json" else json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    if name != "manifest.json":
        data = path.read_bytes()
        manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        (build / "manifest.json").write_text(json.dumps(manifest))


def use(place: Path) -> None:
    """Read all of a build."""
    build = mcompiler.load(place)
    assert build.verify(limit=2).exact
    assert build.cost.energy_j > 0
    assert build.schedule.latency_s > 0
    assert len(build.placement)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("manifest.json", lambda content: content["files"].update({"../m.onnx": {"bytes": 1, "sha256": ""}})),
        ("manifest.json", lambda content: content["files"].update({"layers.json": 3})),
        ("manifest.json", lambda content: content.update(nodes=[[]])),
        ("schedule.json", lambda content: content["stages"][0].update(service_s="long")),
        ("cost.json", lambda content: content.update(energy_active_j=None)),
        ("cost.json", lambda content: content.update(layers=[])),
        ("layers.json", lambda content: content["layers"].append("fc")),
        ("layers.json", lambda content: content["layers"][0].update(name="other")),
        ("layers.json", lambda content: content["layers"][0].update(vectors="many")),
        ("placement.json", lambda content: content.update(nodes=["fc"])),
    ],
)
def test_files_of_a_build_in_another_form(name: str, change: Callable[[Any], None], tmp_path: Path) -> None:
    place = mcompiler.compile(saved(product(), tmp_path), "generic_128", calibration="random").save(tmp_path / "b")
    use(place)
    with_content(place, name, change)
    with pytest.raises(BuildError, match=rf"{name}: damaged|cannot be read"):
        use(place)
