"""Programs as JSON and arrays, without pickles: written the same way for equal values, read back equal.

JSON values are stored as they are. Everything else is an object with one key that begins with ``$``:

    {"$tuple": [...]}  {"$set": [...]}  {"$map": [[key, value], ...]}  {"$bytes": base64}
    {"$enum": [class, name]}  {"$data": [class, {field: value}]}  {"$dtype": ...}  {"$scalar": [dtype, value]}
    {"$path": text}  {"$array": [blob, order of axes, shape]}  {"$model": packed model}

Arrays are blobs in numpy's .npy format, named by the SHA-256 of their content. Classes are dataclasses and
enumerations, as ``module:name``; only modules that are imported already are looked at, so that reading runs no code
that was not there before.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import sys
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mcompiler.ir.packing import PackedModel, pack_model, unpack_model

Json = Any
Put = Callable[[bytes], str]
"""Keeps a blob and returns its name."""
Get = Callable[[str], bytes]


def blob_name(data: bytes) -> str:
    """SHA-256 of a blob."""
    return hashlib.sha256(data).hexdigest()


class DecodeError(Exception):
    """JSON that no encoder of this version wrote."""


class Encoder:
    """Values to JSON.

    Arrays and models that occur again, also in a later program of the same compilation, are written once: every level
    of a program holds the one below it, and without this each pass would cost as much as the whole model.

    Args:
        put: called with every blob.
        compared_only: leave out the fields of dataclasses that take no part in comparisons, as a key must.
    """

    def __init__(self, put: Put, *, compared_only: bool = False) -> None:
        self._put, self._compared_only = put, compared_only
        self._known: dict[int, tuple[object, Json]] = {}  # holds the values too, so that no id is used anew

    def encode(self, value: Any) -> Json:
        """The value as JSON.

        Raises:
            TypeError: a value of a kind that programs do not hold.
        """
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, list):
            return [self.encode(item) for item in value]
        if isinstance(value, ir.Model):
            return self._once(value, lambda: {"$model": self.encode(pack_model(value))})
        if isinstance(value, np.ndarray):
            return self._once(value, lambda: {"$array": self._array(value)})
        if isinstance(value, Enum):
            return {"$enum": [_class_name(type(value)), value.name]}
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {"$data": [_class_name(type(value)), self._fields(value)]}
        return self._container(value)

    def _container(self, value: Any) -> Json:
        if isinstance(value, tuple):
            return {"$tuple": [self.encode(item) for item in value]}
        if isinstance(value, frozenset | set):
            return {"$set": sorted((self.encode(item) for item in value), key=json.dumps)}
        if isinstance(value, Mapping):
            return {"$map": [[self.encode(key), self.encode(item)] for key, item in value.items()]}
        if isinstance(value, bytes):
            return {"$bytes": base64.b64encode(value).decode("ascii")}
        if isinstance(value, np.dtype):
            return {"$dtype": value.str}
        if isinstance(value, np.generic):
            return {"$scalar": [value.dtype.str, value.item()]}
        if isinstance(value, PurePath):
            return {"$path": str(value)}
        raise TypeError(f"a program holds a value of type {type(value).__name__}, which the cache cannot keep")

    def _once(self, value: object, encode: Callable[[], Json]) -> Json:
        known = self._known.get(id(value))
        if known is None:
            known = (value, encode())
            self._known[id(value)] = known
        return known[1]

    def _fields(self, value: Any) -> dict[str, Json]:
        return {
            field.name: self.encode(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if field.init and (field.compare or not self._compared_only)
        }

    def _array(self, array: npt.NDArray[Any]) -> Json:
        """Blob, order of axes in memory, shape. Sums depend on the order in memory, so it is kept."""
        axes = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
        # An axis without stride repeats one element: a constant of gigabytes may hold a single number.
        repeated = tuple(slice(0, 1) if step == 0 else slice(None) for step in array.strides)
        stored = np.asarray(array[repeated].transpose(axes), order="C")
        file = io.BytesIO()
        np.lib.format.write_array(file, stored, allow_pickle=False)
        return [self._put(file.getvalue()), axes, list(array.shape)]


class Decoder:
    """JSON to values.

    Args:
        get: returns the blob of a name.
    """

    def __init__(self, get: Get) -> None:
        self._get = get
        self._arrays: dict[str, npt.NDArray[Any]] = {}

    def decode(self, data: Json) -> Any:
        """The value that the JSON encodes; arrays are read-only.

        Raises:
            DecodeError: JSON that no encoder of this version wrote.
        """
        if isinstance(data, list):
            return [self.decode(item) for item in data]
        if not isinstance(data, dict):
            return data
        if len(data) != 1:
            raise DecodeError(f"an object with keys {sorted(data)}")
        ((kind, content),) = data.items()
        read = self._readers().get(kind)
        if read is None:
            raise DecodeError(f"an object of kind '{kind}'")
        return read(content)

    def _readers(self) -> dict[str, Callable[[Any], Any]]:
        return {
            "$tuple": lambda content: tuple(map(self.decode, content)),
            "$set": lambda content: frozenset(map(self.decode, content)),
            "$map": lambda content: {self.decode(key): self.decode(item) for key, item in content},
            "$bytes": base64.b64decode,
            "$dtype": np.dtype,
            "$path": PurePath,
            "$scalar": lambda content: np.dtype(content[0]).type(content[1]),
            "$enum": lambda content: _class_of(content[0])[content[1]],
            "$data": lambda content: _class_of(content[0])(**{k: self.decode(v) for k, v in content[1].items()}),
            "$array": lambda content: self._array(*content),
            "$model": lambda content: unpack_model(self._packed(content)),
        }

    def _packed(self, content: Json) -> PackedModel:
        packed = self.decode(content)
        if not isinstance(packed, PackedModel):
            raise DecodeError("a model that is none")
        return packed

    def _array(self, blob: str, axes: list[int], shape: list[int]) -> npt.NDArray[Any]:
        key = json.dumps([blob, axes, shape])
        if key not in self._arrays:
            stored = np.lib.format.read_array(io.BytesIO(self._get(blob)), allow_pickle=False)
            array = stored.transpose(np.argsort(axes)) if axes else stored
            array = array if list(array.shape) == shape else np.broadcast_to(array, shape)
            array.flags.writeable = False
            self._arrays[key] = array
        return self._arrays[key]


def digest_of(value: Any) -> str:
    """SHA-256 of a value, as far as it takes part in comparisons; nothing is kept."""
    return blob_name(json.dumps(Encoder(blob_name, compared_only=True).encode(value)).encode())


def _class_name(kind: type[Any]) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _class_of(name: str) -> Any:
    """A dataclass or enumeration of a module that is imported."""
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type) or not (dataclasses.is_dataclass(found) or issubclass(found, Enum)):
        raise DecodeError(f"a class '{name}' that is not there")
    return found
