"""Damaged and hostile inputs: models, targets, data and build directories, changed at random from good ones.

Every input follows from a seed and a number. ``python -m tests.support.fuzz`` runs many of them.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import math
import shutil
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

INTEGERS = (
    *(0, 1, -1, 2, 3, 7, 255, -128, 1 << 15, 1 << 31),
    *((1 << 31) - 1, -(1 << 31), 1 << 40, (1 << 63) - 1, -(1 << 63)),
)
NUMBERS = (
    *(
        "0",
        "-1",
        "1",
        "0.5",
        "1e308",
        "1e-320",
        "inf",
        "nan",
        "-inf",
        "9223372036854775808",
        "1000000000000",
        "3",
        "16",
    ),
    *("true", '""', '"a\\u0000b"', "[]", "{}", "1979-05-27", "65536", "-0.0", "[1, [2, [3]]]"),
    "1" + 300 * "0",
)
TEXTS = (
    *("", "x", "w", "y", "\x1b[31m", "a" * 5000, "../outside", "\u202e"),
    *("Conv", "If", "Range", "Loop", "Constant"),
)


def _weights(rng: np.random.Generator, *shape: int) -> np.ndarray[Any, Any]:
    return rng.standard_normal(shape).astype(np.float32)


def base_models() -> list[onnx.ModelProto]:
    """Small good models: a convolution, products, QDQ, a function, an If, shape arithmetic, sparse weights."""
    rng = np.random.default_rng(0)
    value = helper.make_tensor_value_info

    def made(
        nodes: list[onnx.NodeProto], shape: list[int | str], weights: dict[str, np.ndarray[Any, Any]], **more: Any
    ) -> onnx.ModelProto:
        graph = helper.make_graph(
            nodes,
            "g",
            [value("x", TensorProto.FLOAT, shape)],
            [value("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(array, name) for name, array in weights.items()],
        )
        graph.sparse_initializer.extend(more.pop("sparse", []))
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9, **more)

    node, whole = helper.make_node, np.int64
    conv = [
        node("Conv", ["x", "k", "b"], ["c"], name="conv", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", ["c"], ["r"], name="relu"),
        node("MaxPool", ["r"], ["p"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["p"], ["f"], name="flat"),
        node("Gemm", ["f", "w", "v"], ["y"], name="fc", transB=1),
    ]
    images = {"k": _weights(rng, 3, 2, 3, 3), "b": _weights(rng, 3), "w": _weights(rng, 4, 12), "v": _weights(rng, 4)}
    shapes = [
        node("Shape", ["x"], ["s"], name="shape"),
        node("Gather", ["s", "zero"], ["n"], name="batch", axis=0),
        node("Concat", ["n", "rest"], ["to"], name="sizes", axis=0),
        node("Reshape", ["x", "to"], ["m"], name="reshape"),
        node("MatMul", ["m", "w"], ["h"], name="fc1"),
        node("Range", ["start", "stop", "step"], ["ramp"], name="ramp"),
        node("Add", ["h", "ramp"], ["y"], name="add"),
    ]
    numbers: dict[str, np.ndarray[Any, Any]] = {
        "zero": np.array([0], whole),
        "rest": np.array([-1], whole),
        "w": _weights(rng, 12, 5),
        **{name: np.array(size, np.float32) for name, size in (("start", 0), ("stop", 5), ("step", 1))},
    }
    codes: dict[str, np.ndarray[Any, Any]] = {
        "xs": np.array(0.02, np.float32),
        "xz": np.array(128, np.uint8),
        "wq": rng.integers(-127, 128, (6, 4)).astype(np.int8),
        "ws": np.array([0.01, 0.02, 0.03, 0.04], np.float32),
        "wz": np.zeros(4, np.int8),
    }
    qdq = [
        node("QuantizeLinear", ["x", "xs", "xz"], ["q"], name="q"),
        node("DequantizeLinear", ["q", "xs", "xz"], ["d"], name="d"),
        node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], name="dw", axis=1),
        node("MatMul", ["d", "wd"], ["y"], name="fc"),
    ]
    function = helper.make_function(
        "own", "Block", ["a", "c"], ["e"], [node("MatMul", ["a", "c"], ["h"]), node("Relu", ["h"], ["e"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    calls = [node("Block", ["x", "w"], ["z"], name="one", domain="own"), node("Block", ["z", "v"], ["y"], domain="own")]
    branch = helper.make_graph([node("MatMul", ["x", "w"], ["t"], name="then")], "t", [], [value("t", 1, None)])
    other = helper.make_graph([node("Mul", ["x", "x"], ["e"], name="else")], "e", [], [value("e", 1, None)])
    choice = [
        node("ReduceSum", ["x"], ["sum"], name="sum", keepdims=0),
        node("Greater", ["sum", "limit"], ["flag"], name="greater"),
        node("If", ["flag"], ["y"], name="if", then_branch=branch, else_branch=other),
    ]
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.array([1, 2], np.float32), "w"),
        numpy_helper.from_array(np.array([0, 7]), "at"),
        [4, 3],
    )
    left = [node("MatMul", ["w", "x"], ["y"], name="left")]
    norm = [
        node("BatchNormalization", ["x", "a", "b", "m", "v"], ["n"], name="norm"),
        node("Conv", ["n", "k"], ["y"], name="conv", group=2),
    ]
    four = {name: np.abs(_weights(rng, 4)) + 0.1 for name in "abmv"}
    return [
        made(conv, ["N", 2, 8, 8], images),
        made(shapes, ["N", 3, 4], numbers),
        made(qdq, ["N", 6], codes),
        made(calls, ["N", 6], {"w": _weights(rng, 6, 5), "v": _weights(rng, 5, 3)}, functions=[function]),
        made(choice, ["N", 4], {"w": _weights(rng, 4, 4), "limit": np.array(0, np.float32)}),
        made([node("MatMul", ["x", "w"], ["y"], name="fc")], ["N", 4], {}, sparse=[sparse]),
        made(left, ["N", 6, 6], {"w": _weights(rng, 3, 6)}),
        made(norm, ["N", 4, 5, 5], {"k": _weights(rng, 4, 2, 3, 3), **four}),
    ]


# --- changes -----------------------------------------------------------------------------------------------------


def changed_bytes(data: bytes, random: Random) -> bytes:
    """Bytes flipped, cut, doubled or inserted."""
    out = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 5))):
        at = random.randrange(len(out) + 1) if out else 0
        kind = random.randrange(5)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << random.randrange(8)
        elif kind == 1:
            del out[at : at + random.choice((1, 4, 100, len(out)))]
        elif kind == 2:
            out[at:at] = out[at : at + random.choice((1, 8, 64))]
        elif kind == 3:
            out[at:at] = bytes(random.choice((0, 1, 127, 128, 255)) for _ in range(random.choice((1, 4, 9))))
        elif at < len(out):
            out[at] = random.choice((0, 0x7F, 0x80, 0xFF))
    return bytes(out)


def changed_message(message: Any, random: Random) -> None:
    """One field of a protobuf message, at any depth, gets another value, is doubled or removed; in place."""
    while True:
        fields = message.ListFields()
        if not fields:
            return
        field, value = random.choice(fields)
        repeated = field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED
        if field.message_type is not None:
            if repeated and random.random() < 0.25:
                _changed_list(value, random)
                return
            message = random.choice(value) if repeated else value
            continue
        if repeated:
            place = random.randrange(len(value))
            if random.random() < 0.3:
                _changed_list(value, random)
            else:
                value[place] = _other(field, value[place], random)
        else:
            setattr(message, field.name, _other(field, value, random))
        return


def _changed_list(values: Any, random: Random) -> None:
    place = random.randrange(len(values))
    kept = [copy.deepcopy(value) for value in values]
    if random.random() < 0.5:
        kept.pop(place)
    else:
        kept.insert(random.randrange(len(kept) + 1), copy.deepcopy(kept[place]))
    del values[:]
    values.extend(kept)


def _other(field: Any, value: Any, random: Random) -> Any:
    if field.cpp_type == field.CPPTYPE_STRING:
        if isinstance(value, bytes):
            return changed_bytes(value, random)
        return random.choice((*TEXTS, value[:-1], value + "_"))
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return random.choice((0.0, -1.0, math.inf, math.nan, 1e38, 1e-38, value * 2))
    if field.cpp_type == field.CPPTYPE_ENUM:
        return random.choice([each.number for each in field.enum_type.values])
    wide = field.cpp_type in (field.CPPTYPE_INT64, field.CPPTYPE_UINT64)
    signed = field.cpp_type in (field.CPPTYPE_INT64, field.CPPTYPE_INT32)
    bits = (64 if wide else 32) - signed
    number = random.choice((*INTEGERS, value + 1, value - 1, value * 2))
    return min(max(number, -(1 << bits) if signed else 0), (1 << bits) - 1)


def hostile_model(models: list[onnx.ModelProto], random: Random) -> bytes:
    """A model file."""
    proto: Any = onnx.ModelProto()
    proto.CopyFrom(random.choice(models))
    if random.random() < 0.2:
        return changed_bytes(bytes(proto.SerializeToString()), random)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        changed_message(random.choice((proto.graph, proto.graph, proto)), random)
    content: bytes = proto.SerializeToString()
    return content


def hostile_target(texts: list[str], random: Random) -> bytes:
    """A target file."""
    text = random.choice(texts)
    if random.random() < 0.2:
        return changed_bytes(text.encode(), random)
    lines = text.split("\n")
    for _ in range(random.choice((1, 1, 2, 6))):
        place = random.randrange(len(lines))
        key, equals, _value = lines[place].partition(" = ")
        kind = random.randrange(8)
        if kind == 0:
            lines.pop(place)
        elif kind == 1:
            lines.insert(random.randrange(len(lines)), lines[place])
        elif equals:
            lines[place] = f"{key} = {random.choice(NUMBERS)}"
        lines = lines or [""]
    return "\n".join(lines).encode()


def hostile_data(random: Random) -> bytes:
    """An .npz file for a model with one input x [N, 6], with labels of 4 classes."""
    rng = np.random.default_rng(random.randrange(1 << 30))
    x, y = _weights(rng, 8, 6), rng.integers(0, 4, 8)
    kind = random.randrange(10)
    if kind == 0:
        x[random.randrange(8), random.randrange(6)] = random.choice((np.nan, np.inf, -np.inf, 3e38))
    elif kind == 1:
        y = y.astype(random.choice((np.float32, np.int8, np.uint64, np.bool_, "S4")))
    elif kind == 2:
        y[random.randrange(8)] = random.choice((-1, 4, 1 << 40))
    elif kind == 3:
        x = x.astype(random.choice((np.float64, np.int8, np.complex64, np.float16, "U3", np.int64)))
    elif kind == 4:
        x = x.reshape(random.choice(((8, 3, 2), (48,), (4, 12), (1, 8, 6))))
    elif kind == 5:
        x = x[: random.randrange(8)] * random.choice((0, 1))
    file = io.BytesIO()
    name = random.choice(("X", "y", "x/../x")) if kind == 6 else "x"
    np.savez(file, **({"y": y} | {name: x}))
    return changed_bytes(file.getvalue(), random) if kind > 6 else file.getvalue()


def hostile_build(good: Path, place: Path, random: Random) -> str:
    """Copy a build with one damaged file to ``place``; returns the name of the file."""
    shutil.copytree(good, place)
    manifest = json.loads((place / "manifest.json").read_text())
    name: str = random.choice(sorted([*manifest["files"], "manifest.json"]))
    path = place / name
    data = path.read_bytes()
    if path.suffix == ".json" and random.random() < 0.8:
        content = json.loads(data)
        _change_json(content, random)
        data = json.dumps(content).encode()
    elif random.random() < 0.1:
        path.unlink()
        return name
    else:
        data = changed_bytes(data, random)
    path.write_bytes(data)
    if name != "manifest.json" and random.random() < 0.7:  # an intruder changes the hash as well
        manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        (place / "manifest.json").write_text(json.dumps(manifest))
    return name


def _change_json(content: Any, random: Random) -> None:
    """One value of JSON data, at any depth, is replaced or removed; in place."""
    while True:
        keys = list(content) if isinstance(content, dict) else list(range(len(content)))
        if not keys:
            return
        key = random.choice(keys)
        if isinstance(content[key], dict | list) and content[key] and random.random() < 0.85:
            content = content[key]
            continue
        if random.random() < 0.2:
            del content[key]
        else:
            others: tuple[Any, ...] = (None, 0, -1, 1e308, 1 << 70, "", "x", [], {}, [[]], True, 1.5, *TEXTS)
            content[key] = random.choice(others)
        return
