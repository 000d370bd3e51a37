"""Samples for a model: read from .npz, drawn at random, fed in batches; and .npz files with reproducible bytes.

The first axis of every array is the sample axis. A model whose inputs share a leading batch dimension gets many
samples a run; any other model (a recurrent state with the batch second, a scalar input) gets one sample a run, without
that axis.
"""

from __future__ import annotations

import io
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mcompiler.errors import DataError

Tensor = npt.NDArray[Any]

MAX_BATCH = 64
MAX_BATCH_ELEMENTS = 1 << 18

WORDS = 4
"""Random strings are the numbers "0", "1", ... below this, so that tokenisers, encoders and casts accept them."""


@dataclass(frozen=True)
class InputSpec:
    """One input of a model.

    Attributes:
        name: its name.
        dtype: numpy type.
        shape: sizes; a string for a dynamic dimension (``<input>.<axis>`` where the model does not name it).
        bound: for integers: values are drawn from [0, bound).
        takes_nan: the model replaces or tests values that are not finite, so that data may have them.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]
    bound: int = 2
    takes_nan: bool = False


@dataclass(frozen=True)
class Samples:
    """Samples under the names of the model's inputs, and labels where there are any.

    Attributes:
        inputs: one array [n, ...] per input.
        labels: int64 [n] or None.
        count: n.
    """

    inputs: Mapping[str, Tensor]
    labels: npt.NDArray[np.int64] | None
    count: int


def batch_size(specs: tuple[InputSpec, ...]) -> int | None:
    """Size of the batch dimension that all inputs share; 0 if it is dynamic, None if they share none."""
    if not specs or any(not spec.shape for spec in specs):
        return None
    heads = [spec.shape[0] for spec in specs]
    fixed = {head for head in heads if isinstance(head, int)}
    if not fixed:
        return 0
    if len(fixed) == 1 and all(isinstance(head, int) for head in heads):
        return fixed.pop() or None
    return None


def sample_shape(spec: InputSpec, batched: bool, dims: Mapping[str, int]) -> tuple[int, ...]:
    """Shape of one sample of an input; symbolic dimensions from ``dims``, else 1."""
    sizes = spec.shape[1:] if batched else spec.shape
    return tuple(size if isinstance(size, int) else dims.get(size or "", 1) for size in sizes)


def random_samples(
    specs: tuple[InputSpec, ...], count: int, rng: np.random.Generator, dims: Mapping[str, int]
) -> Samples:
    """Draw samples: floats standard normal, 8-bit integers full range, bools fair, others below ``bound``."""
    batched = batch_size(specs) is not None
    return Samples(
        {spec.name: _draw(spec, (count, *sample_shape(spec, batched, dims)), rng) for spec in specs}, None, count
    )


def _draw(spec: InputSpec, shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    kind = spec.dtype
    if kind == np.dtype(object):
        return rng.integers(0, WORDS, shape).astype(str).astype(object)
    if kind.kind == "f":
        return rng.standard_normal(shape, dtype=np.float32).astype(kind)
    if kind.kind == "b":
        return rng.integers(0, 2, shape).astype(kind)
    if kind.itemsize == 1:
        limits = np.iinfo(kind)
        return rng.integers(limits.min, limits.max + 1, shape).astype(kind)
    return rng.integers(0, max(1, spec.bound), shape).astype(kind)


def load_samples(path: Path, specs: tuple[InputSpec, ...], limit: int | None = None) -> Samples:
    """Read an .npz: one array per input under its name, or ``x`` where there is one; labels ``y``.

    Raises:
        DataError: names the file, the array and the remedy.
    """
    return from_arrays(_read(path), specs, str(path), limit)


def from_arrays(
    given: Mapping[str, Tensor], specs: tuple[InputSpec, ...], path: str, limit: int | None = None
) -> Samples:
    """Samples from arrays: one per input under its name, or ``x`` where there is one; labels ``y``.

    Args:
        given: the arrays.
        specs: inputs of the model.
        path: origin of the arrays, for messages.
        limit: take at most this number of samples.

    Raises:
        DataError: names the array and the remedy.
    """
    arrays = {name: np.asarray(array) for name, array in given.items()}
    names = {spec.name for spec in specs}
    label_key = "__labels__" if "y" in names else "y"
    labels = arrays.pop(label_key, None)
    if len(specs) == 1 and specs[0].name not in arrays and "x" in arrays:
        arrays[specs[0].name] = arrays.pop("x")
    missing = [spec.name for spec in specs if spec.name not in arrays]
    if missing:
        raise DataError(
            f"{path}: no array for input(s) {', '.join(map(repr, missing))}; it holds "
            f"{', '.join(map(repr, sorted(arrays))) or 'nothing'}: save one array per model input under its name"
        )
    unknown = sorted(set(arrays) - names)
    if unknown:
        raise DataError(
            f"{path}: {', '.join(map(repr, unknown))} is no input of the model ({', '.join(map(repr, sorted(names)))})"
        )
    batched = batch_size(specs) is not None
    inputs = {spec.name: _fit(path, spec, arrays[spec.name], batched) for spec in specs}
    counts = {name: len(array) for name, array in inputs.items()}
    if labels is not None:
        counts[label_key] = len(labels) if labels.ndim else 0
    if len(set(counts.values())) > 1:
        raise DataError(f"{path}: arrays differ in their number of samples: {counts}")
    count = next(iter(counts.values()), 0)
    if count == 0:
        raise DataError(f"{path}: no samples in it")
    count = min(count, limit) if limit is not None else count
    return Samples(
        {name: array[:count] for name, array in inputs.items()},
        None if labels is None else _labels(path, labels)[:count],
        count,
    )


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    remedy = "save it with numpy.savez(path, x=..., y=...)"
    try:
        with path.open("rb") as source:  # numpy leaves a damaged archive open
            archive = np.load(source, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: not an .npz archive; {remedy}")
            with archive:
                check_declared(zipfile.ZipFile(source), path)
                source.seek(0)
                return {key: archive[key] for key in archive.files}
    except MemoryError as error:
        raise DataError(f"{path}: its arrays need more memory than there is; save fewer samples") from error
    except NO_ARCHIVE as error:
        raise DataError(f"{path}: cannot be read as .npz ({error}); {remedy}") from error


NO_ARCHIVE = (
    *(OSError, ValueError, EOFError, RuntimeError, KeyError, TypeError, AttributeError, SyntaxError, OverflowError),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)
"""What numpy and zipfile raise for files that are damaged; NotImplementedError (a compression that zipfile lacks) is a
RuntimeError."""


def check_declared(archive: zipfile.ZipFile, path: Path) -> None:
    """Compare what the headers of arrays declare with the bytes that are there, before numpy allocates by them.

    Raises:
        DataError: an array that is shorter than declared, or arrays that fill more than half of the memory.
    """
    total = 0
    for entry in archive.infolist():
        if not entry.filename.endswith(".npy"):
            continue
        with archive.open(entry) as file:
            version = np.lib.format.read_magic(file)
            reader = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
            shape, _, dtype = reader(file)
            needed = math.prod(shape) * dtype.itemsize
            held = entry.file_size - file.tell()
        if not dtype.hasobject and needed != held:
            raise DataError(
                f"{path}: array '{entry.filename.removesuffix('.npy')}' declares {needed} bytes (shape {list(shape)}) "
                f"and has {held}; the file is damaged, save it again"
            )
        total += needed
    if total > _memory_bytes() // 2:
        raise DataError(
            f"{path}: its arrays take {total} bytes, more than half of this machine's memory; save fewer samples"
        )


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not every system says
        return 1 << 40


def npz_bytes(arrays: Mapping[str, Tensor], *, compression: int | None = None) -> bytes:
    """The content of an .npz file without modification times, so that equal arrays give equal bytes.

    Args:
        arrays: by name, in the order of the file.
        compression: level of zlib, 1 (fast) to 9 (small); None: its default.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            # ascontiguousarray alone gives a scalar one dimension.
            np.lib.format.write_array(member, np.ascontiguousarray(array).reshape(array.shape), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, member.getvalue(), compresslevel=compression)
    return content.getvalue()


def _labels(path: str, labels: Tensor) -> npt.NDArray[np.int64]:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"{path}: labels must be integers of shape [n], not {labels.dtype} {list(labels.shape)}")
    if labels.size and int(labels.max()) > np.iinfo(np.int64).max:
        raise DataError(f"{path}: label {labels.max()} is no class of any model")
    return labels.astype(np.int64)


def _fit(path: str, spec: InputSpec, array: Tensor, batched: bool) -> Tensor:
    expected = spec.shape[1:] if batched else spec.shape
    wanted = f"[n, {', '.join(str(size) for size in expected)}]" if expected else "[n]"
    fits = array.ndim == len(expected) + 1 and all(
        not isinstance(size, int) or size == given for size, given in zip(expected, array.shape[1:], strict=False)
    )
    if not fits:
        raise DataError(f"{path}: input '{spec.name}' needs shape {wanted}, the file has {list(array.shape)}")
    if array.dtype != spec.dtype:
        if not np.can_cast(array.dtype, spec.dtype, casting="safe"):
            raise DataError(
                f"{path}: input '{spec.name}' is {spec.dtype}, the file has {array.dtype}, which it cannot "
                f"hold safely; "
                f"cast it yourself: array.astype('{spec.dtype}')"
            )
        array = array.astype(spec.dtype)
    if array.dtype.kind == "f" and not spec.takes_nan and not np.isfinite(array).all():
        sample = int(np.argwhere(~np.isfinite(array))[0][0])
        raise DataError(
            f"{path}: input '{spec.name}' has values that are NaN or infinite, first in sample {sample}; check "
            "the preprocessing of the data"
        )
    return array


def batches(
    specs: tuple[InputSpec, ...], samples: Samples, largest: int = MAX_BATCH
) -> Iterator[tuple[dict[str, Tensor], int]]:
    """Inputs of one run after the other, and the number of samples in each (a fixed batch is padded at the end).

    Args:
        specs: inputs of the model.
        samples: all samples.
        largest: largest number of samples of a run, where the batch is dynamic.
    """
    shared = batch_size(specs)
    if shared is None:
        for index in range(samples.count):
            yield {name: array[index] for name, array in samples.inputs.items()}, 1
        return
    elements = max(1, max(int(np.prod(array.shape[1:])) for array in samples.inputs.values()))
    step = shared or max(1, min(largest, MAX_BATCH_ELEMENTS // elements))
    for start in range(0, samples.count, step):
        feeds = {name: array[start : start + step] for name, array in samples.inputs.items()}
        count = min(step, samples.count - start)
        if shared and count < shared:
            feeds = {
                name: np.concatenate([part, np.repeat(part[-1:], shared - count, axis=0)])
                for name, part in feeds.items()
            }
        yield feeds, count
