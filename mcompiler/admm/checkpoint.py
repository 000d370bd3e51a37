"""Checkpoints, written so that a killed run leaves a valid file; and the log, cut to its length at a checkpoint."""

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
    """Write a checkpoint atomically: to a temporary file, synced, then renamed."""
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as file:
        torch.save(dict(content), file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint: tensors and plain values only.

    Raises:
        BuildError: a file that is not a checkpoint, or that has changed since it was written.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # PyTorch itself does not check the checksums
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(damaged)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise BuildError(
            f"{path}: damaged, or not a checkpoint ({type(error).__name__}); remove it to start again"
        ) from error
    if not isinstance(content, dict) or "fingerprint" not in content:
        raise BuildError(f"{path}: not a checkpoint of a compression; remove it to start again")
    return content


def hash_state(state: Mapping[str, Any]) -> str:
    """SHA-256 of a state dictionary: names, types, shapes and values of its tensors; other values as text."""
    found = hashlib.sha256()
    for name, value in state.items():
        if isinstance(value, torch.Tensor) and not is_lazy(value):
            found.update(f"{name} {value.dtype} {list(value.shape)}".encode())
            found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        else:
            found.update(f"{name} {value!r}".encode())
    return found.hexdigest()


def seed_epoch(seed: int, stage: int, epoch: int) -> None:
    """Seed Python, numpy and PyTorch for one epoch: data order, augmentation and dropout become reproducible."""
    value = int(np.random.SeedSequence([seed, stage, epoch]).generate_state(1)[0])
    random.seed(value)
    np.random.seed(value)  # noqa: NPY002 - for augmentations that draw from numpy's global state
    torch.manual_seed(value)


class TrainingLog:
    """JSON lines, in a file where one is given, and in TensorBoard where that is installed.

    Args:
        path: the file; None: lines are kept in memory only.
        length: bytes to keep of the file of an earlier run.
    """

    def __init__(self, path: Path | None, length: int = 0) -> None:
        self.lines: list[dict[str, Any]] = []
        self._path = path
        self._tensorboard_writer: Any = None
        if path is None:
            return
        if path.exists():
            with path.open("r+b") as file:
                file.truncate(min(length, path.stat().st_size))
            self.lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        else:
            path.touch()
        self._tensorboard_writer = _open_tensorboard(path.parent / "tensorboard")

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
        if self._tensorboard_writer is not None:
            step = len(self.lines)
            for key, value in _list_scalars(line):
                self._tensorboard_writer.add_scalar(key, value, step)
            self._tensorboard_writer.flush()


def _list_scalars(line: Mapping[str, Any], group: str = "") -> Iterator[tuple[str, float]]:
    """Numbers of a line; those of nested tables (residuals by layer) are named group/name."""
    for key, value in line.items():
        if isinstance(value, Mapping):
            yield from _list_scalars(value, f"{group}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{group}{key}", value


def _open_tensorboard(folder: Path) -> Any:
    """A summary writer, or None where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))
