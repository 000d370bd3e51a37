"""Checkpoints that survive a kill: written beside, synced, renamed; and the log, cut back to where they were taken."""

from __future__ import annotations

import hashlib
import json
import os
import random
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.parameter import is_lazy

from mcompiler.artefacts import sync_folder
from mcompiler.errors import BuildError


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint, whole or not at all."""
    beside = path.with_name(f".{path.name}.new")
    with beside.open("wb") as file:
        torch.save(dict(content), file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync_folder(path.parent)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint: tensors and plain values only.

    Raises:
        BuildError: a file that is no checkpoint, or of which a byte has changed.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # PyTorch itself does not look at the checksums
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(damaged)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise BuildError(f"{path}: damaged, no checkpoint ({type(error).__name__}); remove it to start anew") from error
    if not isinstance(content, dict) or "fingerprint" not in content:
        raise BuildError(f"{path}: no checkpoint of a compression; remove it to start anew")
    return content


def digest(state: Mapping[str, Any]) -> str:
    """SHA-256 of a state dictionary: names, types, shapes and values of its tensors; what else there is as text."""
    found = hashlib.sha256()
    for name, value in state.items():
        if isinstance(value, torch.Tensor) and not is_lazy(value):
            found.update(f"{name} {value.dtype} {list(value.shape)}".encode())
            found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        else:
            found.update(f"{name} {value!r}".encode())
    return found.hexdigest()


def seed_epoch(seed: int, stage: int, epoch: int) -> None:
    """Seed Python, numpy and PyTorch for one epoch: data order, augmentation and dropout can be had again."""
    value = int(np.random.SeedSequence([seed, stage, epoch]).generate_state(1)[0])
    random.seed(value)
    np.random.seed(value)  # noqa: NPY002 - for augmentations that draw from numpy's global state
    torch.manual_seed(value)


class TrainingLog:
    """JSON lines, on a file where there is one, and to TensorBoard where that is installed.

    Args:
        path: the file; None: lines are kept in memory only.
        length: bytes of an earlier run that stay.
    """

    def __init__(self, path: Path | None, length: int = 0) -> None:
        self.lines: list[dict[str, Any]] = []
        self._path = path
        self._board: Any = None
        if path is None:
            return
        if path.exists():
            with path.open("r+b") as file:
                file.truncate(min(length, path.stat().st_size))
            self.lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        else:
            path.touch()
        self._board = _tensorboard(path.parent / "tensorboard")

    @property
    def length(self) -> int:
        """Bytes written so far."""
        return self._path.stat().st_size if self._path is not None else 0

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line."""
        self.lines.append(dict(line))
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        if self._board is not None:
            step = len(self.lines)
            for key, value in _scalars(line):
                self._board.add_scalar(key, value, step)
            self._board.flush()


def _scalars(line: Mapping[str, Any], group: str = "") -> Iterator[tuple[str, float]]:
    """Numbers of a line, those of nested tables (residuals by layer) under group/name."""
    for key, value in line.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{group}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{group}{key}", value


def _tensorboard(folder: Path) -> Any:
    """A summary writer, or None where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))
