"""The build directory: written atomically, with a hash of every file.

A build is written to a temporary folder next to its place, synced, and renamed. A run that is killed leaves that
folder; the next run for the same place removes it, or restores the old build if the run was killed between the renames.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from mcompiler.errors import BuildError, UserError

MANIFEST = "manifest.json"
FORMAT = 2
_CHUNK = 1 << 22


def partial_path(out: Path, kind: str) -> Path:
    """Path of an unfinished or replaced build next to ``out``; its name has the number of the process that owns it."""
    return out.parent / f".{out.name}.mcompiler-{kind}-{os.getpid()}"


def linked_place(out: Path) -> Path:
    """The place that a symbolic link names: a build is written there, and the link stays.

    Raises:
        BuildError: the link leads nowhere.
    """
    if not out.is_symlink():
        return out
    if not out.exists():
        raise BuildError(
            f"{out}: exists and is no build of mcompiler, but a symbolic link to {out.readlink()}, which does not "
            "exist; remove the link, or choose another --out"
        )
    return out.resolve()


def clean_leftovers(out: Path, say: Callable[[str], None]) -> None:
    """Remove temporary folders of killed runs next to ``out``; restore an old build that was set aside."""
    out = linked_place(out)
    pattern = re.compile(rf"\.{re.escape(out.name)}\.mcompiler-(partial|old)-(\d+)")
    if not out.parent.is_dir():
        return
    for path in sorted(out.parent.iterdir()):
        match = pattern.fullmatch(path.name)
        if match is None or _alive(int(match[2])):
            continue
        if match[1] == "old" and not out.exists():
            path.rename(out)
            say(f"put back {out}, which a killed run had set aside")
        else:
            shutil.rmtree(path, ignore_errors=True)
            say(f"removed {path.name}, left over from a killed run")


def _alive(process: int) -> bool:
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def check_place(out: Path, force: bool) -> None:
    """Refuse to write over anything but a build, and over a build without ``force``.

    Raises:
        BuildError: the place is taken; names it and the remedy.
    """
    out = linked_place(out)
    if not out.exists():
        return
    if not out.is_dir() or not ((out / MANIFEST).is_file() or not any(out.iterdir())):
        raise BuildError(f"{out}: exists and is no build of mcompiler; choose another --out")
    if not force and any(out.iterdir()):
        raise BuildError(f"{out}: a build exists there; --force replaces it, or choose another --out")


@dataclass
class Writer:
    """Writes files of a new build and hashes them as they are written.

    Attributes:
        root: the unfinished folder.
        files: size and sha256 of every file so far, by relative path.
        parts: files that are read together, by the one that refers to the others (a model and its external data).
    """

    root: Path
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    parts: dict[str, list[str]] = field(default_factory=dict)

    def stream(self, name: str, chunks: Iterable[bytes | memoryview]) -> None:
        """Write a file from pieces."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        digest, size = hashlib.sha256(), 0
        with path.open("wb") as file:
            for chunk in chunks:
                digest.update(chunk)
                file.write(chunk)
                size += len(chunk)
            _sync(file)
        self.files[name] = {"bytes": size, "sha256": digest.hexdigest()}

    def text(self, name: str, text: str) -> None:
        """Write a text file."""
        self.stream(name, [text.encode()])

    def json(self, name: str, data: Mapping[str, Any]) -> None:
        """Write a JSON object; its lists have one entry per line, so that differences are easy to read."""
        self.stream(name, (piece.encode() for piece in _json_pieces(data)))

    def array(self, name: str, shape: tuple[int, ...], chunks: Iterable[npt.NDArray[np.uint8]]) -> None:
        """Write a uint8 .npy from pieces along its first axis."""

        def pieces() -> Iterable[bytes | memoryview]:
            yield _npy_header(shape)
            for chunk in chunks:
                yield np.ascontiguousarray(chunk).reshape(-1).data

        self.stream(name, pieces())

    def copy(self, name: str, source: Path) -> None:
        """Copy a file into the build."""
        with source.open("rb") as file:
            self.stream(name, iter(lambda: file.read(_CHUNK), b""))

    def adopt(self, names: Sequence[str]) -> None:
        """Hash and sync files that another library wrote into the folder: a model, and its external data."""
        for name in names:
            path = self.root / name
            with path.open("rb+") as file:
                _sync(file)
            self.files[name] = {"bytes": path.stat().st_size, "sha256": hash_file(path)}
        self.parts[names[0]] = list(names)


def _json_pieces(data: Mapping[str, Any]) -> Iterator[str]:
    """A JSON object as text, piece by piece."""
    dump = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
    separator = "{\n"
    for key, value in data.items():
        yield f"{separator}{dump(key)}: "
        if isinstance(value, list) and value:
            yield "[\n" + ",\n".join(map(dump, value)) + "\n]"
        else:
            yield dump(value)
        separator = ",\n"
    yield "\n}\n"


def _npy_header(shape: tuple[int, ...]) -> bytes:
    import io

    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def _sync(file: BinaryIO | Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def hash_file(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_build(
    out: Path, force: bool, fill: Callable[[Writer], Mapping[str, Any]], say: Callable[[str], None]
) -> None:
    """Write a build directory.

    Args:
        out: its place.
        force: replace a build that is there.
        fill: writes the files; returns the other entries of the manifest (versions, options).
        say: called with a message for every leftover that was removed.

    Raises:
        BuildError: the place is taken or cannot be written.
    """
    out = linked_place(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        clean_leftovers(out, say)
        check_place(out, force)
        fresh = partial_path(out, "partial")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
    except OSError as error:
        raise BuildError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error
    try:
        writer = Writer(fresh)
        about = fill(writer)
        parts, files = (dict(sorted(found.items())) for found in (writer.parts, writer.files))
        manifest = {"format": FORMAT, **about, "parts": parts, "files": files}
        writer.text(MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
        for folder in [path for path in fresh.rglob("*") if path.is_dir()]:
            sync_folder(folder)
        sync_folder(fresh)
        _swap(fresh, out)
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise BuildError(f"{out}: cannot be written ({error.strerror}: {error.filename})") from error
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def _swap(fresh: Path, out: Path) -> None:
    """Move the new build to its place; the old one is set aside until that is done."""
    old = partial_path(out, "old")
    if out.exists():
        shutil.rmtree(old, ignore_errors=True)
        out.rename(old)
    try:
        fresh.rename(out)
    except BaseException:
        if old.exists() and not out.exists():
            old.rename(out)
        raise
    sync_folder(out.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path`` that is renamed to it at the end, or removed after an error.

    Raises:
        BuildError: the file or folder cannot be written.
    """
    path = linked_place(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise BuildError(f"{path}: no regular file; choose another place")
    temporary = partial_path(path, "partial")
    try:
        yield temporary
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise BuildError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        elif temporary.exists():
            temporary.unlink()


def sync_folder(path: Path) -> None:
    """Make renames in a folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_manifest(root: Path) -> dict[str, Any]:
    """The manifest of a build.

    Raises:
        BuildError: no build there, or one of another format.
    """
    if not root.is_dir():
        raise BuildError(f"{root}: no such build directory; make one with: mcompiler compile MODEL.onnx --out {root}")
    path = root / MANIFEST
    if not path.is_file():
        raise BuildError(f"{root}: no {MANIFEST} in it, so it is no build of mcompiler")
    with reading(path):
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known = manifest["format"] == FORMAT
        if not _all_known(manifest.get("parts", {}), manifest["files"].keys()):
            raise ValueError("parts that are no files")
        for name, about in manifest["files"].items():
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or not name:
                raise ValueError(f"a file outside of the build: {name}")
            if not isinstance(about["bytes"], int) or not isinstance(about["sha256"], str):
                raise TypeError(f"no size or hash of {name}")
    if not known:
        raise BuildError(
            f"{root}: a build of format {manifest['format']}, this version reads {FORMAT}; compile the model again"
        )
    return manifest


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Read a file of a build inside: what its readers raise for content that no build has becomes a BuildError.

    Hashes find damage; content of another form with a right hash was written by no version of this program, and its
    readers, which trust the form, can raise anything.
    """
    try:
        yield
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:
        raise BuildError(f"{path}: damaged; compile the model again") from error


def _all_known(parts: Mapping[str, Sequence[str]], files: Set[str]) -> bool:
    return all(name in names and files >= set(names) for name, names in parts.items())


def parts_of(manifest: Mapping[str, Any], name: str) -> Sequence[str]:
    """The file and all files that it refers to. A build from before they were recorded: every file of it."""
    parts: Mapping[str, Sequence[str]] | None = manifest.get("parts")
    return list(manifest["files"]) if parts is None else parts.get(name, [name])


def verify_hashes(root: Path, manifest: Mapping[str, Any], names: Iterable[str] | None = None) -> None:
    """Check files of a build against the manifest (all of them, or ``names``).

    Raises:
        BuildError: names the file that is missing or damaged.
    """
    files: Mapping[str, Mapping[str, Any]] = manifest["files"]
    for name in files if names is None else names:
        path = root / name
        if name not in files:
            raise BuildError(f"{path}: not in the manifest; compile the model again")
        if not path.is_file():
            raise BuildError(f"{path}: missing from the build; compile the model again")
        if path.stat().st_size != files[name]["bytes"] or hash_file(path) != files[name]["sha256"]:
            raise BuildError(f"{path}: damaged (its content is not what was compiled); compile the model again")
