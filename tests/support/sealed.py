"""Changing files of a build and sealing their hashes again: what a wrong compiler would have written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.data import npz_bytes


def reseal(root: Path, *names: str) -> None:
    """Write size and hash of changed files into the manifest."""
    path = root / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    for name in names:
        data = (root / name).read_bytes()
        manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    path.write_text(json.dumps(manifest), encoding="utf-8")


def rewrite_array(root: Path, name: str, edit: Callable[[npt.NDArray[np.uint8]], None]) -> None:
    """Change a .npy in place."""
    array = np.load(root / name)
    before = array.copy()
    edit(array)
    assert (array != before).any(), "the edit changes nothing"
    np.save(root / name, array)
    reseal(root, name)


def rewrite_npz(root: Path, name: str, edit: Callable[[dict[str, npt.NDArray[Any]]], None]) -> None:
    """Change arrays of an .npz."""
    with np.load(root / name) as file:
        arrays = dict(file)
    edit(arrays)
    (root / name).write_bytes(npz_bytes(arrays))
    reseal(root, name)


def rewrite_json(root: Path, name: str, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Change a JSON file."""
    data = json.loads((root / name).read_text(encoding="utf-8"))
    before = json.dumps(data)
    edit(data)
    assert json.dumps(data) != before, "the edit changes nothing"
    (root / name).write_text(json.dumps(data), encoding="utf-8")
    reseal(root, name)
