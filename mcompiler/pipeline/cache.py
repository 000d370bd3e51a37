"""Results of passes in a folder, found again by what determines them.

The result of a pass is kept under the digest of its input program, the pass with its options, the keys of the target
that the pass declares, our source code and the versions of the libraries that compute. The input program is known by
the digest of its content, not by the keys of the passes before: where a changed target leaves the result of a pass as
it was, the results of the passes after it are found too.

    entries/ab/abcd....json    what a pass returned: digest of its program, record; with a digest of the entry itself
    blobs/ab/abcd....          programs as JSON, arrays as .npy, named by their SHA-256

Several processes may use one folder: files appear whole, by renaming, and a file that one process removes for want of
room is a result that another one computes again.
"""

from __future__ import annotations

import inspect
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from mcompiler.declarations import Recording
from mcompiler.encodings import find_encoding
from mcompiler.errors import UserError
from mcompiler.pipeline.codec import DecodeError, Decoder, Encoder, blob_name, digest_of
from mcompiler.pipeline.inputs import Say
from mcompiler.pipeline.options import AnyPass
from mcompiler.pipeline.runner import Outcome, Runner
from mcompiler.target import Target
from mcompiler.target.view import target_view, view_content

DEFAULT_BYTES = 10 << 30
"""Size of a cache folder, where none is given."""

_LIBRARIES = ("numpy", "onnx", "onnx-ir", "onnxruntime", "scipy")


@dataclass(frozen=True)
class Cache:
    """A folder in which results of passes are kept.

    Attributes:
        folder: made where it does not exist.
        max_bytes: of all its files; those that were used least recently are removed.
    """

    folder: Path
    max_bytes: int = DEFAULT_BYTES


class CacheMissError(Exception):
    """A program that an entry names is gone or damaged."""


@cache
def code_digest() -> str:
    """SHA-256 of the source code of this package (passes included) and of the versions of what it computes with."""
    root = Path(__file__).parents[1]
    parts = [platform.python_version(), platform.machine(), *(metadata.version(name) for name in _LIBRARIES)]
    files = sorted({*root.rglob("*.py"), *(root / "passes").rglob("*.py")})  # rglob may not follow the link
    parts += [f"{file.relative_to(root)} {blob_name(file.read_bytes())}" for file in files]
    return blob_name("\n".join(parts).encode())


class StageCache:
    """The cache during one compilation.

    Args:
        kept: the folder.
        say: called with notes.
        renew: write everything again and read nothing: something in the folder is damaged.
    """

    def __init__(self, kept: Cache, say: Say, *, renew: bool = False) -> None:
        self._renew = renew
        self._files = Files(kept.folder, kept.max_bytes, overwrite=renew)
        self._say = say
        self._encoder = Encoder(self._files.put_blob)

    def execute(self, steps: tuple[AnyPass, ...], program: Any, runner: Callable[[], Runner]) -> Outcome:
        """Run the passes whose results are not there; read only the last one of those that are.

        Args:
            steps: passes, in order.
            program: input of the first.
            runner: makes what runs them.

        Raises:
            CacheMissError: a program that was found is gone or damaged.
        """
        run, cached = runner(), []
        loaded: Any = program  # None: its content is known, and it is read when a pass needs it
        content = self._keep(program)
        for step in steps:
            key = stage_key(content, step, run.target)
            entry = self._entry(key) if not self._renew and key is not None else None
            if entry is not None:
                content, record = entry
                loaded = None
                cached.append(step.name)
                if record is not None:
                    run.records[record.key] = record
                continue
            if loaded is None:
                loaded = self._read(content)
            loaded = run(step, loaded)
            content = self._keep(loaded)
            if key is not None:
                self._files.put_entry(key, {"content": content, "record": self._record(step, loaded)})
        if loaded is None:
            loaded = self._read(content)
        found = tuple(dict.fromkeys(name for name in cached if name not in run.seconds))
        return Outcome(loaded, dict(run.seconds), found, dict(run.records))

    def trim(self) -> None:
        """Remove what was used least recently until the folder has its size."""
        self._files.trim()

    def _keep(self, program: Any) -> str:
        return self._files.put_blob(json.dumps(self._encoder.encode(program)).encode())

    def _record(self, step: AnyPass, program: Any) -> Any:
        found = step.record(program) if isinstance(step, Recording) else None
        return None if found is None else self._encoder.encode(found)

    def _entry(self, key: str) -> tuple[str, Any] | None:
        """Content of the program and record under a key; None where there is no such entry, or a damaged one."""
        try:
            found = self._files.entry(key)
            if found is None or not self._files.has_blob(found["content"]):
                return None
            return found["content"], Decoder(self._files.blob).decode(found["record"])
        except (DecodeError, DamagedError, CacheMissError, KeyError, TypeError):
            self._say(f"cache: entry {key[:12]} is damaged; its pass runs again")
            self._files.drop_entry(key)
            return None

    def _read(self, content: str) -> Any:
        try:
            return Decoder(self._files.blob).decode(json.loads(self._files.blob(content)))
        except DamagedError as error:
            self._say(f"cache: {error}; all passes run again")
            raise CacheMissError(content) from error
        except (DecodeError, TypeError, ValueError) as error:
            raise CacheMissError(content) from error


def stage_key(content: str, step: AnyPass, target: Target) -> str | None:
    """Key of the result of a pass; None where the source of the pass or of the encoding cannot be found.

    Args:
        content: digest of its input program.
        step: the pass.
        target: of which the keys that it declares count.
    """
    kind = type(step)
    code = code_digest()
    for used in (kind, find_encoding(target.encoding.weights)):  # either may be of another package
        if not used.__module__.startswith("mcompiler."):
            try:
                code += blob_name(Path(inspect.getfile(used)).read_bytes())
            except (TypeError, OSError):
                return None
    view = view_content(target_view(target, step.reads))
    return blob_name(
        json.dumps([content, f"{kind.__module__}:{kind.__qualname__}", digest_of(step), view, code]).encode()
    )


class DamagedError(Exception):
    """A file whose content is not what its name says."""


class Files:
    """Entries and blobs of a cache folder.

    Raises:
        UserError: a folder that cannot be written.
    """

    def __init__(self, folder: Path, max_bytes: int, *, overwrite: bool = False) -> None:
        self._folder, self._max_bytes, self._overwrite = folder, max_bytes, overwrite
        try:
            for part in ("entries", "blobs"):
                (folder / part).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cache folder {folder}: {error.strerror}; give another folder with --cache") from error

    def put_blob(self, data: bytes) -> str:
        """Keep a blob; return its name."""
        name = blob_name(data)
        path = self._path("blobs", name)
        if self._overwrite or not _touched(path):
            self._write(path, data)
        return name

    def has_blob(self, name: str) -> bool:
        """Whether a blob is there."""
        return self._path("blobs", name).exists()

    def blob(self, name: str) -> bytes:
        """A blob.

        Raises:
            CacheMissError: it is not there.
            DamagedError: it is not what its name says; it is removed.
        """
        path = self._path("blobs", name)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CacheMissError(name) from error
        if blob_name(data) != name:
            path.unlink(missing_ok=True)
            raise DamagedError(f"file {path} is damaged")
        _touched(path)
        return data

    def put_entry(self, key: str, entry: Any) -> None:
        """Keep an entry."""
        body = json.dumps(entry)
        self._write(self._path("entries", key), f"{blob_name(body.encode())}\n{body}".encode())

    def entry(self, key: str) -> Any:
        """An entry, or None where there is none.

        Raises:
            DamagedError: it is not what was written.
        """
        path = self._path("entries", key)
        try:
            digest, _, body = path.read_text(encoding="utf-8", errors="replace").partition("\n")
        except OSError:
            return None
        if blob_name(body.encode()) != digest:
            raise DamagedError(f"file {path} is damaged")
        _touched(path)
        return json.loads(body)

    def drop_entry(self, key: str) -> None:
        """Remove an entry."""
        self._path("entries", key).unlink(missing_ok=True)

    def trim(self) -> None:
        """Remove the files that were used least recently until the folder has its size."""
        found = sorted(self._all(), key=lambda item: item[0])
        total = sum(size for _, size, _ in found)
        for _, size, path in found:
            if total <= self._max_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size

    def _all(self) -> Iterator[tuple[int, int, Path]]:
        """Time of last use, size and path of every file; leftovers of processes that were killed too."""
        for path in self._folder.glob("*/*/*"):
            try:
                status = path.stat()
            except OSError:  # another process has removed it
                continue
            yield status.st_mtime_ns, status.st_size, path

    def _path(self, part: str, name: str) -> Path:
        return self._folder / part / name[:2] / name

    def _write(self, path: Path, data: bytes) -> None:
        """A file that appears whole or not at all, under its name at once."""
        try:
            path.parent.mkdir(exist_ok=True)
            number, temporary = tempfile.mkstemp(prefix=".", dir=path.parent)
            try:
                with os.fdopen(number, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                Path(temporary).replace(path)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise UserError(
                f"cache folder {self._folder}: {error.strerror}; make room, or leave --cache out"
            ) from error


def _touched(path: Path) -> bool:
    """Note that a file is in use; False where it is not there."""
    try:
        os.utime(path)
    except OSError:
        return False
    return True
