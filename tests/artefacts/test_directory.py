"""The build directory: hashed, reproducible, written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

import mcompiler
from mcompiler.artefacts import clean_leftovers, file_stem, hash_file, read_manifest, verify_hashes
from mcompiler.artefacts.directory import partial_path
from mcompiler.driver.content import Compiled
from mcompiler.errors import BuildError, ModelError
from mcompiler.onnx_export import files as export_files
from tests.support.builds import activations, codes_of, conv_case, floats, matmul_case, model, node, target

ROOT = Path(__file__).resolve().parents[2]
CASE = conv_case([3, 3], channels=2, outputs=3, sizes=[5, 5], pads=[1, 1, 1, 1])


def write_model(path: Path) -> Path:
    onnx.save(onnx.shape_inference.infer_shapes(ir.to_proto(CASE.model)), path)
    return path


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build that tests only look at."""
    folder = tmp_path_factory.mktemp("kept")
    source = write_model(folder / "m.onnx")
    return mcompiler.compile(source, target(), calibration=CASE.feeds).save(folder / "m.build")


@pytest.fixture
def saved(tmp_path: Path, kept: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(kept, tmp_path / "m.build"))


def in_child(*arguments: object, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    paths = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env={**os.environ, **paths, **environment}, timeout=120
    )


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# --- what is in it ---------------------------------------------------------------------------------------------------


def test_every_file_is_in_the_manifest_with_its_hash(kept: Path) -> None:
    manifest = read_manifest(kept)
    assert set(manifest["files"]) == set(contents(kept)) - {"manifest.json"}
    assert set(manifest["files"]) == {
        "model.onnx", "target.toml", "layers.json", "layers/graph.onnx", "layers/0000_conv.npz", "cells/0000_conv.npy",
        "placement.json", "schedule.json", "cost.json", "reference.onnx", "mapped.onnx", "report.html",
    }  # fmt: skip
    for name, about in manifest["files"].items():
        assert about == {"bytes": (kept / name).stat().st_size, "sha256": hash_file(kept / name)}
    assert (kept / "model.onnx").read_bytes() == (kept.parent / "m.onnx").read_bytes()


def test_no_paths_and_no_times(kept: Path) -> None:
    text = b"".join(contents(kept).values())
    for word in (str(kept.parent), str(ROOT), "/tmp"):
        assert word.encode() not in text, word
    assert {"versions", "reads", "options", "records", "nodes", "parts", "files", "format"} == set(read_manifest(kept))


def test_models_run_in_plain_onnxruntime_with_the_models_interface(kept: Path) -> None:
    names = ("model.onnx", "reference.onnx", "mapped.onnx")
    sessions = [ort.InferenceSession(str(kept / name), providers=["CPUExecutionProvider"]) for name in names]
    ends = [[(v.name, v.type) for v in (*s.get_inputs(), *s.get_outputs())] for s in sessions]
    assert ends[0] == ends[1] == ends[2]
    outputs = [s.run(None, CASE.feeds)[0] for s in sessions]
    np.testing.assert_array_equal(outputs[1], outputs[2])
    for name in names:
        onnx.checker.check_model(str(kept / name))


def test_loading_gives_the_build_back(kept: Path) -> None:
    fresh, loaded = CASE.compile(target()), mcompiler.load(kept)
    assert loaded.target == fresh.target
    assert loaded.fates == fresh.fates
    assert loaded.cost == fresh.cost
    assert loaded.layers == fresh.layers == ("conv",)
    assert loaded.placement.nodes == fresh.placement.nodes
    assert {k: v for k, v in loaded.options.as_json().items() if k != "calibration"} == {
        k: v for k, v in fresh.options.as_json().items() if k != "calibration"
    }
    for tile in range(loaded.arrays("conv")):
        np.testing.assert_array_equal(loaded.cells("conv", tile), fresh.cells("conv", tile))
        assert loaded.address("conv", tile) == fresh.address("conv", tile)
    with pytest.raises(BuildError, match="was loaded; copy its directory instead"):
        loaded.save("elsewhere.build")
    with pytest.raises(BuildError, match=r"no layer 'cnov'; did you mean 'conv'\?"):
        loaded.cells("cnov")
    with pytest.raises(BuildError, match=r"layer 'conv' has \d+ arrays; there is no number 99"):
        loaded.cells("conv", 99)


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted([
    "model.onnx", "target.toml", "layers.json", "layers/graph.onnx", "layers/0000_conv.npz", "cells/0000_conv.npy",
    "placement.json", "reference.onnx", "mapped.onnx", "schedule.json", "cost.json", "report.html",
]))  # fmt: skip
def test_verify_notices_damage_to_any_file(saved: Path, name: str) -> None:
    data = bytearray((saved / name).read_bytes())
    data[len(data) // 2] ^= 0x10
    (saved / name).write_bytes(data)
    for method in ("verify", "trials"):
        with pytest.raises(BuildError, match=rf"{name}: damaged .*compile the model again"):
            getattr(mcompiler.load(saved), method)(CASE.feeds)


def test_a_command_hashes_the_files_that_it_reads_and_no_others(saved: Path) -> None:
    for name in ("mapped.onnx", "report.html"):
        (saved / name).write_bytes(b"")
    build = mcompiler.load(saved)
    assert build.cost.crossbars == 6
    assert build.cells("conv").any()
    for name in ("report.html", "mapped.onnx"):
        with pytest.raises(BuildError, match=rf"{name}: damaged"):
            build.check_files(name)
    with pytest.raises(BuildError, match=r"mapped.onnx: damaged"):
        build.check_files()


def test_a_missing_file_is_named(saved: Path) -> None:
    (saved / "cells" / "0000_conv.npy").unlink()
    with pytest.raises(BuildError, match=r"cells/0000_conv.npy: missing from the build"):
        mcompiler.load(saved).verify(CASE.feeds)
    (saved / "cost.json").unlink()
    with pytest.raises(BuildError, match=r"cost.json: missing"):
        _ = mcompiler.load(saved).cost


def test_damaged_manifests(saved: Path) -> None:
    path = saved / "manifest.json"
    whole = json.loads(path.read_text())
    for text in ("", "{", "[]", "{}", '{"format": 2}', '{"format": 2, "files": {}, "nodes": 3, "options": {}}'):
        path.write_text(text)
        with pytest.raises(BuildError, match=r"manifest.json: damaged|target.toml: not in the manifest"):
            mcompiler.load(saved)
    path.write_text(json.dumps({**whole, "format": 1}))
    with pytest.raises(BuildError, match="a build of format 1, this version reads 2; compile the model again"):
        mcompiler.load(saved)
    path.unlink()
    with pytest.raises(BuildError, match=r"no manifest.json in it, so it is no build of mcompiler"):
        mcompiler.load(saved)
    with pytest.raises(BuildError, match=r"no such build directory; make one with: mcompiler compile"):
        mcompiler.load(saved / "nowhere")


def external_model(folder: Path, location: str) -> tuple[Path, npt.NDArray[np.float32]]:
    """A model with its weights in an external file, and inputs for it."""
    x = activations((2, 40))
    made = ir.to_proto(model([node("MatMul", "x w")], {"x": x}, {"w": floats(codes_of((40, 40), 8, channel_axis=1))}))
    (folder / location).parent.mkdir(exist_ok=True)
    onnx.save(made, folder / "m.onnx", save_as_external_data=True, location=location, size_threshold=0)
    return folder / "m.onnx", x


EXTERNAL_NAMES = [
    "weights.bin", "layers_weights.bin", "layers/w", "cells/x", "cost.json.data2", "reference.onnx.data2", "targets",
]  # fmt: skip


@pytest.mark.parametrize("name", EXTERNAL_NAMES)
def test_external_data_is_copied_hashed_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)  # onnx refuses names that the working directory has
    source, x = external_model(tmp_path, name)
    out = mcompiler.compile(source, target(), calibration={"x": x}).save(tmp_path / "b")
    assert (out / name).read_bytes() == (tmp_path / name).read_bytes()
    assert read_manifest(out)["parts"]["model.onnx"] == ["model.onnx", name]
    assert mcompiler.load(out).verify(x).exact
    data = bytearray((out / name).read_bytes())
    data[1] ^= 1
    (out / name).write_bytes(data)
    with pytest.raises(BuildError, match=rf"{name}: damaged"):
        mcompiler.load(out).verify(x)
    with pytest.raises(BuildError, match=rf"{name}: damaged"):
        mcompiler.load(out).samples(None)  # opens the source model


@pytest.mark.parametrize("name", [
    "manifest.json", "target.toml", "report.html", "cost.json", "Cost.json", "./schedule.json", "layers",
    "cells", "layers.json", "layers/graph.onnx", "layers/0000_matmul.npz", "cells/0000_matmul.npy", "mapped.onnx",
    "mapped.onnx.data", "reference.onnx.data", "placement.json", "model.onnx", "model.onnx.data/part", "report.html/x",
])  # fmt: skip
def test_external_data_under_a_name_of_the_build_is_refused(tmp_path: Path, name: str) -> None:
    source, x = external_model(tmp_path, name)
    build = mcompiler.compile(source, target(), calibration={"x": x})
    with pytest.raises(ModelError, match=f"external data file is called '{name}', as a file of the build; rename it"):
        build.save(tmp_path / "out" / "b")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("limit", [1000, 1 << 30])
def test_every_name_of_the_build_is_known_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """Otherwise external data could be overwritten by a file of the same name."""
    monkeypatch.setattr(export_files, "EXTERNAL_FROM", limit)
    build = matmul_case([2, 40], [40, 40]).compile(target())
    files = read_manifest(build.save(tmp_path / "b"))["files"]
    assert isinstance(build._content, Compiled)
    for name in files:
        content = replace(build._content, external=(name,))
        with pytest.raises(ModelError, match=f"external data file is called '{name}'"):
            replace(build, _content=content).save(tmp_path / "c")


def test_parts_of_the_build(kept: Path) -> None:
    parts = read_manifest(kept)["parts"]
    assert parts == {
        "layers.json": ["layers.json", "layers/0000_conv.npz", "cells/0000_conv.npy"],
        **{name: [name] for name in ("layers/graph.onnx", "mapped.onnx", "model.onnx", "reference.onnx")},
    }


def test_a_build_from_before_parts_were_recorded_loads_and_every_file_is_hashed(saved: Path) -> None:
    path = saved / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["parts"]
    path.write_text(json.dumps(manifest))
    assert mcompiler.load(saved).verify(CASE.feeds).exact
    (saved / "report.html").write_text("")
    with pytest.raises(BuildError, match=r"report.html: damaged"):
        mcompiler.load(saved).samples(None)


@pytest.mark.parametrize("parts", [3, {"model.onnx": ["weights.bin"]}, {"weights.bin": []}, {"model.onnx": 3}])
def test_parts_that_are_no_files_of_the_build(saved: Path, parts: object) -> None:
    path = saved / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "parts": parts}))
    with pytest.raises(BuildError, match=r"manifest.json: damaged; compile the model again"):
        mcompiler.load(saved)


def test_large_models_go_out_with_external_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens above 1 GiB, with another limit."""
    monkeypatch.setattr(export_files, "EXTERNAL_FROM", 1000)
    x = activations((2, 40))
    nodes = [node("MatMul", "x w", "a"), node("Relu", "a", "r"), node("Max", "r digital", "y")]
    constants = {"w": floats(codes_of((40, 40), 8, channel_axis=1)), "digital": np.ones((50, 1, 40), np.float32)}
    out = mcompiler.compile(model(nodes, {"x": x}, constants), target(), calibration={"x": x}).save(tmp_path / "b")
    data = [f"{name}.data" for name in ("model.onnx", "layers/graph.onnx", "mapped.onnx", "reference.onnx")]
    assert set(data) <= set(read_manifest(out)["files"])
    assert (out / "mapped.onnx").stat().st_size < 1 << 14
    assert mcompiler.load(out).verify(x).exact
    for name in data:
        whole = (out / name).read_bytes()
        (out / name).write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        with pytest.raises(BuildError, match=f"{name}: damaged"):
            mcompiler.load(out).verify(x)
        (out / name).write_bytes(whole)
    assert mcompiler.load(out).verify(x).failures == ()


def test_a_model_in_memory_with_external_data_is_saved_whole(tmp_path: Path) -> None:
    source, x = external_model(tmp_path, "weights.bin")
    out = mcompiler.compile(ir.load(source), target(), calibration={"x": x}).save(tmp_path / "b")
    (tmp_path / "weights.bin").unlink()
    assert mcompiler.load(out).verify(x).exact


# --- reproducible ----------------------------------------------------------------------------------------------------


def test_builds_are_identical_to_the_byte(tmp_path: Path) -> None:
    """Two hash seeds, two working directories, two names."""
    x = activations((4, 3, 6, 6))
    nodes = [node("Conv", "x w", "a", "/eins/Conv", pads=[1, 1, 1, 1]), node("Relu", "a", "r"),
             node("Conv", "r v", "y", "zwei", group=2)]  # fmt: skip
    constants = {"w": floats(codes_of((4, 3, 3, 3), 8)), "v": floats(codes_of((4, 2, 3, 3), 8, 1))}
    onnx.save(ir.to_proto(model(nodes, {"x": x}, constants)), tmp_path / "m.onnx")
    np.savez(tmp_path / "data.npz", x=x)
    found = []
    for seed, folder, name in (("1", "one", "a.build"), ("2", "two/deeper", "b.build")):
        cwd = tmp_path / folder
        cwd.mkdir(parents=True)
        done = in_child(
            "-m", "mcompiler", "compile", tmp_path / "m.onnx", "--calibration", tmp_path / "data.npz",
            "--target", "isaac", "--set", "converters.adc.range=calibrated", "--range", "percentile", "--out", name,
            cwd=cwd, PYTHONHASHSEED=seed,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found.append(contents(cwd / name))
    assert found[0].keys() == found[1].keys()
    assert [name for name in found[0] if found[0][name] != found[1][name]] == []


# --- whole or not at all ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("force", [False, True], ids=["new", "force"])
def test_killed_at_any_moment(tmp_path: Path, force: bool) -> None:
    source, folder = write_model(tmp_path / "m.onnx"), tmp_path / "there"
    folder.mkdir()
    script = ROOT / "tests" / "support" / "killed.py"
    done = in_child(script, source, folder, "force" if force else "new")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["touches"] > 30
    assert result["end"] == "seed 2"
    states = [entry["after"] for entry in result["found"]]
    allowed = {"none", "seed 1", "seed 2"} if force else {"none", "seed 2"}
    assert set(states) <= allowed, states
    for entry in result["found"]:
        assert entry["left"] == [], "the next run cleans up"
        assert entry["then"] in ({"seed 1", "seed 2"} if force else allowed), "an old build is never lost"
        assert entry["then"] == entry["after"] or entry["after"] == "none"
    if force:
        swap = states.index("none")
        assert set(states[:swap]) == {"seed 1"}, "the old build stands until the new one is whole"
        assert any("put back" in line for line in result["found"][swap]["said"])
    cleaned = [entry for entry in result["found"] if entry["said"]]
    assert any("left over from a killed run" in line for entry in cleaned for line in entry["said"])


def test_leftovers_of_living_processes_stay(tmp_path: Path) -> None:
    out = tmp_path / "a.build"
    (tmp_path / f".a.build.mcompiler-partial-{os.getppid()}").mkdir()
    (tmp_path / ".b.build.mcompiler-partial-1").mkdir()
    (tmp_path / ".a.build.mcompiler-partial-x").mkdir()
    said: list[str] = []
    clean_leftovers(out, said.append)
    assert said == []
    assert len(list(tmp_path.iterdir())) == 3
    clean_leftovers(tmp_path / "missing" / "a.build", said.append)


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = CASE.compile(target())
    monkeypatch.setattr(type(build), "report", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build.save(tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_what_stands_there_is_not_overwritten(tmp_path: Path, kept: Path) -> None:
    build = CASE.compile(target())
    other = tmp_path / "notes"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    for force in (False, True):
        with pytest.raises(BuildError, match="exists and is no build of mcompiler; choose another --out"):
            build.save(other, force=force)
        with pytest.raises(BuildError, match="exists and is no build of mcompiler"):
            build.save(other / "thesis.tex", force=force)
    assert (other / "thesis.tex").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    build.save(tmp_path / "empty")
    with pytest.raises(BuildError, match="a build exists there; --force replaces it, or choose another --out"):
        build.save(tmp_path / "empty")
    before = contents(tmp_path / "empty")
    build.save(tmp_path / "empty", force=True)
    assert contents(tmp_path / "empty") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "notes"]


def test_a_link_to_nothing_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BuildError, match=r"a symbolic link to .*nowhere, which does not exist; remove the link"):
        CASE.compile(target()).save(tmp_path / "link")


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    build = CASE.compile(target())
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match=r"b: cannot be written \(.+\); choose another --out"):
        build.save(tmp_path / "file" / "b")
    for place in (Path("/proc/b"), Path("/dev/null/b")):
        with pytest.raises(BuildError, match="cannot be written"):
            build.save(place)


def test_a_full_disk_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    build = CASE.compile(target())
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BuildError, match=r"b: cannot be written \(No space left on device"):
        build.save(tmp_path / "b")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_the_name_says_what_a_leftover_is(tmp_path: Path) -> None:
    assert partial_path(tmp_path / "a.build", "partial").name == f".a.build.mcompiler-partial-{os.getpid()}"


@pytest.mark.parametrize(
    ("name", "stem"),
    [("/a/b", "0007_a_b"), ("../../etc/passwd", "0007_etc_passwd"), ("größe", "0007_gr__e"), ("", "0007_layer"),
     ("重み", "0007_layer"), ("x" * 300, "0007_" + "x" * 60), ("a\nb\0", "0007_a_b"), (".", "0007_layer")],
)  # fmt: skip
def test_layer_names_become_file_names(name: str, stem: str) -> None:
    assert file_stem(7, name) == stem


def test_unknown_names_are_not_read(kept: Path) -> None:
    with pytest.raises(BuildError, match="elsewhere: not in the manifest"):
        verify_hashes(kept, read_manifest(kept), ["elsewhere"])
