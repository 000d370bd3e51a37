"""The cache: only passes that a change concerns run again, artefacts are as without it, damage is noticed."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from click.testing import CliRunner

import mcompiler
from mcompiler.cli.build import compile_command
from mcompiler.driver import Build
from mcompiler.errors import UserError
from mcompiler.ir import MatrixProgram
from mcompiler.pipeline import Cache, default
from mcompiler.pipeline import cache as cache_module
from mcompiler.pipeline.cache import Files
from mcompiler.target import Target
from tests.support.digits import DEMO
from tests.support.models import SHARED_MODELS

MODEL, DATA = DEMO / "digits.onnx", DEMO / "digits_calibration.npz"
RESNET = SHARED_MODELS / "cifar10_resnet20.torch-ts.op13.dynb.onnx"


def compiled(folder: Path | None, *overrides: str, **options: Any) -> Build:
    return mcompiler.compile(MODEL, "isaac", calibration=DATA, overrides=overrides, cache=folder, **options)


def content(build: Build, place: Path) -> dict[str, str]:
    """Hash of every file of the saved build."""
    build.save(place, force=True)
    files = sorted(path for path in place.rglob("*") if path.is_file())
    return {str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache after one compilation."""
    folder = tmp_path_factory.mktemp("cache")
    first = compiled(folder)
    assert first.cached == ()
    assert first.seconds
    return folder


def test_nothing_runs_again_where_nothing_changed(filled: Path) -> None:
    again = compiled(filled)
    assert list(again.seconds) == []
    assert again.cached == (
        "inline", "decompose", "convert", "infer_shapes", "fold_constants", "clean", "fold_batchnorm", "explicit_pads",
        "widen", "equalise", "lower", "quantise", "compact", "tile", "prune", "assign", "place", "schedule",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("override", "ran"),
    [
        ("components.adc.energy_j=1e-12", ()),
        ("converters.adc.bits=6", ("assign", "place", "schedule")),
        ("converters.adc.rate_hz=6.4e8", ("place", "schedule")),
        ("digital.accumulator_bits=40", ("assign", "place", "schedule")),
    ],
)
def test_a_change_runs_what_reads_it_and_gives_a_fresh_build(
    filled: Path, tmp_path: Path, override: str, ran: tuple[str, ...]
) -> None:
    found = compiled(filled, override)
    assert set(found.seconds) <= set(ran)
    assert ran[:1] == tuple(found.seconds)[:1]
    fresh = compiled(None, override)
    assert content(found, tmp_path / "found") == content(fresh, tmp_path / "fresh")


def test_options_and_calibration_count(filled: Path) -> None:
    assert next(iter(compiled(filled, effort=0).seconds)) == "place"
    assert next(iter(compiled(filled, range="mse").seconds)) == "quantise"
    other = mcompiler.compile(MODEL, "isaac", calibration="random", cache=filled)
    assert next(iter(other.seconds)) == "equalise", "the first pass that looks at the data"


def test_a_result_that_did_not_change_ends_what_runs_again(filled: Path) -> None:
    """More accumulator bits: ``assign`` checks that sums fit and gives the same settings as before."""
    found = compiled(filled, "converters.adc.rounding=half_up")
    assert tuple(found.seconds) == ("assign",)


def test_records_come_from_the_cache_too(tmp_path: Path) -> None:
    first = compiled(tmp_path, reorder=True, replicate="throughput")
    second = compiled(tmp_path, reorder=True, replicate="throughput")
    assert second.seconds == {}
    assert second.records == first.records
    assert set(first.records) == {"reorder", "quantisation", "replication", "placement"}


def test_our_source_code_counts(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "code_digest", lambda: "another version")
    assert compiled(filled).cached == ()


@dataclass(frozen=True)
class Outside:
    """A pass from outside the package."""

    name: ClassVar[str] = "outside"
    reads: ClassVar[tuple[str, ...]] = ()

    def run(self, program: MatrixProgram, target: Target) -> MatrixProgram:
        """Return the program as it is."""
        return program


def test_passes_from_outside_are_kept_with_their_source_code(filled: Path) -> None:
    pipeline = default(MODEL, "isaac", calibration=DATA, cache=Cache(filled)).insert_after("compact", Outside())
    assert list(pipeline.execute().seconds) == ["outside"], "what follows finds the program that it had"
    assert list(pipeline.execute().seconds) == []


def damaged_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*/*/*") if path.is_file())


@pytest.mark.parametrize("part", ["entries", "blobs"])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "remove"])
def test_damage_is_noticed_and_computed_again(tmp_path: Path, part: str, damage: str) -> None:
    folder = tmp_path / "cache"
    said: list[str] = []
    fresh = compiled(folder)
    for path in damaged_files(folder):
        if path.parts[-3] != part:
            continue
        data = path.read_bytes()
        middle = len(data) // 2
        changed = {
            "flip": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
            "cut": data[:-1],
            "empty": b"",
        }
        if damage == "remove":
            path.unlink()
        else:
            path.write_bytes(changed[damage])
    found = compiled(folder, say=said.append)
    assert content(found, tmp_path / "found") == content(fresh, tmp_path / "fresh")
    assert bool(said) == (damage != "remove")
    assert all(note.startswith("cache: ") and "damaged" in note for note in said)
    assert compiled(folder).seconds == {}, "the cache is whole again"


def test_the_folder_keeps_its_size(tmp_path: Path) -> None:
    compiled(tmp_path)
    total = sum(path.stat().st_size for path in damaged_files(tmp_path))
    limit = total // 2
    compiled(tmp_path, "converters.adc.bits=6", cache_bytes=limit)
    assert sum(path.stat().st_size for path in damaged_files(tmp_path)) <= limit
    assert compiled(tmp_path).verify().exact, "what is gone is computed again"


def test_what_was_used_least_recently_is_removed(tmp_path: Path) -> None:
    files = Files(tmp_path, 250)
    names = [files.put_blob(bytes([number]) * 100) for number in range(3)]
    for age, name in enumerate(names):
        os.utime(tmp_path / "blobs" / name[:2] / name, (1000 + age, 1000 + age))
    files.blob(names[0])
    files.trim()
    assert [files.has_blob(name) for name in names] == [True, False, True]


def test_a_folder_that_cannot_be_written_gets_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cache folder .*file: .*; give another folder with --cache"):
        compiled(tmp_path / "file")


def _compile_in_process(folder: Path) -> str:
    return hashlib.sha256(json.dumps(compiled(folder).cost.as_json()).encode()).hexdigest()


def test_several_processes_share_a_folder(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        found = set(pool.map(_compile_in_process, [tmp_path / "cache"] * 4))
    assert len(found) == 1
    assert not list((tmp_path / "cache").rglob(".*")), "no temporary files are left"
    assert compiled(tmp_path / "cache").seconds == {}


def test_the_command_line_says_which_passes_ran(tmp_path: Path) -> None:
    call = [str(MODEL), "--calibration", str(DATA), "--cache", str(tmp_path / "cache"), "--json", "--force"]
    call += ["--cache-size", "0.5", "--out", str(tmp_path / "b")]
    first, second = (json.loads(CliRunner().invoke(compile_command, call).stdout) for _ in range(2))
    assert first["cached"] == []
    assert list(first["seconds"]) == second["cached"]
    assert second["seconds"] == {}


@pytest.mark.slow
@pytest.mark.skipif(not RESNET.exists(), reason="the shared models are not there")
@pytest.mark.parametrize(
    ("override", "ran"),
    [("components.adc.energy_j=1e-12", ()), ("converters.adc.bits=7", ("assign", "place", "schedule"))],
)
def test_a_sweep_over_resnet(tmp_path: Path, override: str, ran: tuple[str, ...]) -> None:
    data = {"x": np.random.default_rng(0).random((4, 3, 32, 32), np.float32)}

    def build(folder: Path | None, *overrides: str) -> Build:
        return mcompiler.compile(RESNET, "isaac", calibration=data["x"], cache=folder, overrides=overrides)

    build(tmp_path / "cache")
    found = build(tmp_path / "cache", override)
    assert tuple(found.seconds) == ran
    assert content(found, tmp_path / "found") == content(build(None, override), tmp_path / "fresh")
