"""Checkpoints that survive a kill, and the log that is cut back to them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcompiler.errors import BuildError

torch = pytest.importorskip("torch")

from mcompiler.admm import checkpoint  # noqa: E402
from mcompiler.admm.checkpoint import TrainingLog, hash_state, load_checkpoint, save_checkpoint, seed_epoch  # noqa: E402

CONTENT = {"fingerprint": "f", "epoch": 3, "model": {"w": torch.arange(5.0)}, "none": None, "names": ["a", "b"]}


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"older")
    save_checkpoint(path, CONTENT)
    found = load_checkpoint(path)
    assert torch.equal(found.pop("model")["w"], torch.arange(5.0))
    assert found == {key: value for key, value in CONTENT.items() if key != "model"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("moment", ["save", "fsync", "replace"])
def test_a_failure_while_writing_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, CONTENT)
    before = path.read_bytes()

    def fail(*args: Any, **more: Any) -> None:
        if moment == "save":
            args[1].write(b"half")
        raise OSError("disk full")

    place: Any = {"save": torch, "fsync": os, "replace": Path}[moment]
    monkeypatch.setattr(place, moment, fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, {"fingerprint": "new"})
    monkeypatch.undo()
    assert path.read_bytes() == before
    save_checkpoint(path, {"fingerprint": "new"})  # what the failure left behind is in nobody's way
    assert load_checkpoint(path) == {"fingerprint": "new"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.pt"]


WRITER = """
import sys
from pathlib import Path
import torch
from mcompiler.admm.checkpoint import save_checkpoint
for epoch in range(1_000_000):
    save_checkpoint(Path(sys.argv[1]), {"fingerprint": "f", "epoch": epoch, "w": torch.full((200_000,), float(epoch))})
    print(epoch, flush=True)
"""


def test_kill_9_while_writing_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    command = [sys.executable, "-W", "ignore", "-c", WRITER, str(path)]
    root = str(Path(__file__).resolve().parents[2])
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as writer:
        assert writer.stdout is not None
        for _ in range(3):
            writer.stdout.readline()
        for _ in range(5):  # stopped anywhere, what is there is whole
            time.sleep(0.013)
            writer.send_signal(signal.SIGSTOP)
            found = load_checkpoint(path)
            assert bool((found["w"] == found["epoch"]).all())
            writer.send_signal(signal.SIGCONT)
        writer.send_signal(signal.SIGKILL)
    found = load_checkpoint(path)
    assert found["epoch"] >= 2
    assert bool((found["w"] == found["epoch"]).all())


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 no archive", b"\x80\x04N.", b"\x00" * 64])
def test_what_is_no_checkpoint_is_damage(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(
        BuildError, match=r"checkpoint\.pt: damaged, or not a checkpoint \(\w+\); remove it to start again"
    ):
        load_checkpoint(path)


def test_other_contents_are_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    for content in ({"w": torch.ones(2)}, [1, 2], torch.ones(2)):
        torch.save(content, path)
        with pytest.raises(
            BuildError, match=r"weights\.pt: not a checkpoint of a compression; remove it to start again"
        ):
            load_checkpoint(path)


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("true",)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"fingerprint": Evil()}, path)
    with pytest.raises(BuildError, match="damaged"):
        load_checkpoint(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_is_named_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, CONTENT)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        found = load_checkpoint(path)
    except BuildError as error:
        assert str(error).startswith(f"{path}: damaged, or not a checkpoint (")  # noqa: PT017 - padding may change unseen
    else:
        assert torch.equal(found.pop("model")["w"], torch.arange(5.0))
        assert found == {key: value for key, value in CONTENT.items() if key != "model"}


def test_a_changed_weight_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, CONTENT)
    content = bytearray(path.read_bytes())
    place = content.index(torch.arange(5.0).numpy().tobytes())
    content[place + 9] ^= 1
    path.write_bytes(content)
    with pytest.raises(BuildError, match=r"checkpoint\.pt: damaged, or not a checkpoint \(BadZipFile\); remove it"):
        load_checkpoint(path)


def test_epochs_are_drawn_alike_again_and_differ_from_each_other() -> None:
    def draws(seed: int, stage: int, epoch: int) -> tuple[Any, ...]:
        seed_epoch(seed, stage, epoch)
        return random.random(), float(np.random.random()), float(torch.rand(()))  # noqa: NPY002

    places = [(s, t, e) for s in (0, 1, 2**40) for t in (0, 1) for e in (0, 1, 2)]
    first = [draws(*place) for place in places]
    assert [draws(*place) for place in reversed(places)] == first[::-1]
    for column in zip(*first, strict=True):
        assert len(set(column)) == len(places)


# --- the log ---------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _no_board(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_open_tensorboard", lambda folder: None)


def test_the_log_is_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = TrainingLog(path)
    log.write({"epoch": 0, "loss": 0.5})
    length = log.length
    log.write({"epoch": 1, "loss": 0.25})
    with path.open("a") as file:
        file.write('{"epoch": 2, "lo')  # killed while writing
    again = TrainingLog(path, length)
    assert again.lines == [{"epoch": 0, "loss": 0.5}]
    again.write({"epoch": 1, "loss": 0.125})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == again.lines == [{"epoch": 0, "loss": 0.5}, {"epoch": 1, "loss": 0.125}]


def test_a_fresh_run_empties_the_log_and_a_lost_one_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    TrainingLog(path).write({"epoch": 0})
    assert TrainingLog(path).lines == []
    assert path.read_text() == ""
    path.unlink()
    assert TrainingLog(path, 400).lines == []
    assert path.read_text() == ""


def test_a_log_without_a_file_keeps_its_lines() -> None:
    log = TrainingLog(None)
    log.write({"a": 1})
    assert (log.lines, log.length) == ([{"a": 1}], 0)


class Board:
    """A summary writer that remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, float, int]] = []
        self.flushed = 0

    def add_scalar(self, key: str, value: float, step: int) -> None:
        self.seen.append((key, value, step))

    def flush(self) -> None:
        self.flushed += 1


def test_numbers_go_to_tensorboard_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board()
    folders: list[Path] = []

    def made(folder: Path) -> Board:
        folders.append(folder)
        return board

    monkeypatch.setattr(checkpoint, "_open_tensorboard", made)
    log = TrainingLog(tmp_path / "log.jsonl")
    log.write({"stage": "admm", "loss": 0.5, "epoch": 1, "done": True, "nested": {"a": 1, "b": {"c": 0.25}}})
    assert folders == [tmp_path / "tensorboard"]
    assert board.seen == [("loss", 0.5, 1), ("epoch", 1, 1), ("nested/a", 1, 1), ("nested/b/c", 0.25, 1)]
    assert board.flushed == 1


def test_a_digest_is_of_names_types_shapes_and_values() -> None:
    state = {"a": torch.arange(6.0), "b": torch.tensor(True), "empty": torch.zeros(0)}
    changed = [
        {**state, "a": torch.arange(6.0).nextafter(torch.tensor(torch.inf))},
        {**state, "a": torch.arange(6.0).reshape(2, 3)},
        {**state, "a": torch.arange(6.0).view(torch.int32)},
        {**state, "b": torch.tensor(False)},
        {"c" if name == "a" else name: value for name, value in state.items()},
        {**state, "extra": 3},
        {**state, "extra": 4},
    ]
    digests = [hash_state(one) for one in (state, *changed)]
    assert len(set(digests)) == len(digests)
    assert hash_state({name: value.clone() for name, value in state.items()}) == digests[0]
    assert hash_state({"a": torch.arange(12.0).reshape(2, 6).T[:3]}) == hash_state(
        {"a": torch.arange(12.0).reshape(2, 6).T[:3].contiguous()}
    )
    assert hash_state(torch.nn.LazyLinear(3).state_dict())
